"""Corpora and backend cases that the index tests share."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pytest

from index import registry
from index.core import BinaryIndex

# Options that make small corpora use every structure: many segments, an inverted file.
CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in registry.BACKENDS},
    "faiss-ivf": ("faiss-ivf", {"nprobe": "all", "ivf_from": 200, "lists": 16}),
    "auto": ("auto", {"nprobe": "all", "ivf_from": 5000}),
    "faiss-segments": ("faiss", {"segment_rows": 1500}),
}


@dataclass(frozen=True)
class Case:
    """One configuration of a registered backend."""

    name: str
    options: dict[str, object]

    def create(self, bits: int) -> BinaryIndex:
        return registry.create(self.name, bits, **self.options)

    def load(self, folder, bits: int) -> BinaryIndex:
        return registry.load(self.name, folder, bits, **self.options)


@pytest.fixture(params=sorted(CASES), scope="session")
def case(request) -> Case:
    """Every registered backend, in small sizes that reach its branches."""
    return Case(*CASES[request.param])


@pytest.fixture(params=sorted(set(CASES) - {"memory"}), scope="session")
def rival(request) -> Case:
    """Every registered backend but the oracle, which would be compared with itself."""
    return Case(*CASES[request.param])


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
