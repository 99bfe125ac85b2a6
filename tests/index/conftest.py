"""Corpora and backend cases that the index tests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest
from index_cases import CASES, params

from index import registry
from index.core import BinaryIndex


@dataclass(frozen=True)
class Case:
    """One configuration of a registered backend."""

    name: str
    options: dict[str, object]

    def create(self, bits: int) -> BinaryIndex:
        return registry.create(self.name, bits, **self.options)

    def load(self, folder, bits: int) -> BinaryIndex:
        return registry.load(self.name, folder, bits, **self.options)


@pytest.fixture(scope="session")
def connect(request):
    """`connect(name)` gives the options that reach a backend's server, which is started when it is needed."""
    databases = {}

    def options(name: str) -> dict[str, object]:
        if name == "pgvector":
            if name not in databases:
                databases[name] = request.getfixturevalue("postgres").database()
            return {"url": databases[name], "timeout_s": 60}
        if name == "milvus":
            return {"url": request.getfixturevalue("milvus_url"), "timeout_s": 60}
        return {}

    return options


@pytest.fixture(params=params(CASES), scope="session")
def case(request, connect) -> Case:
    """Every registered backend, in small sizes that reach its branches."""
    name, options = CASES[request.param]
    return Case(name, options | connect(name))


@pytest.fixture(params=params(set(CASES) - {"memory"}), scope="session")
def rival(request, connect) -> Case:
    """Every registered backend but the oracle, which would be compared with itself."""
    name, options = CASES[request.param]
    return Case(name, options | connect(name))


def make_corpus(count: int, bits: int, seed: int) -> tuple[list[str], np.ndarray]:
    """Ids of many lengths and alphabets in random order, and codes with many ties."""
    rng = np.random.default_rng(seed)
    forms = ["item-{}", "{:08d}", "é{}", "日本{}", "a.b:{}-c", "🙂{}"]
    ids = [forms[i % len(forms)].format(i) for i in range(count)]
    rng.shuffle(ids)
    centres = rng.integers(0, 256, (40, bits // 8), dtype=np.uint8)
    noise = np.packbits(rng.random((count, bits)) < 0.06, axis=1)
    return ids, centres[rng.integers(0, 40, count)] ^ noise


@pytest.fixture(scope="session")
def corpus():
    """`corpus(count, bits, seed)` gives ids and codes."""
    return make_corpus
