"""Random sequences of calls leave each backend in the oracle's state."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule, run_state_machine_as_test
from index_cases import REMOTE, params

from index import registry
from index.backends.memory import MemoryIndex
from index.core import Hit, SearchOptions

BITS = 16
IDS = st.sampled_from(["a", "ab", "b", "B", "é", "é1", "日", "🙂", "z" * 40, "0", "00", "~"])
CODES = st.binary(min_size=BITS // 8, max_size=BITS // 8)
TINY = {
    "memory": {},
    "faiss": {"segment_rows": 4},
    "faiss-ivf": {"ivf_from": 4, "lists": 2, "nprobe": "all"},
    "auto": {"ivf_from": 6, "nprobe": "all", "segment_rows": 3},
}
_KEPT = {}


def rows(codes):
    return np.frombuffer(b"".join(codes), dtype=np.uint8).reshape(-1, BITS // 8)


def emptied(name, options):
    """A new index; in an engine elsewhere, where making one takes seconds, the one before, emptied."""
    if name not in REMOTE:
        return registry.create(name, BITS, **options)
    if name not in _KEPT:
        _KEPT[name] = registry.create(name, BITS, **options)
    _KEPT[name].remove(_KEPT[name].codes()[0])
    return _KEPT[name]


class Machine(RuleBasedStateMachine):
    """One backend beside the oracle."""

    name = "memory"
    options: ClassVar = {}

    @initialize()
    def begin(self):
        self.index = emptied(self.name, self.options)
        self.oracle = MemoryIndex(BITS)

    @rule(items=st.dictionaries(IDS, CODES, max_size=9))
    def add(self, items):
        for index in (self.index, self.oracle):
            index.add(list(items), rows(items.values()))

    @rule(ids=st.lists(IDS, max_size=6))
    def remove(self, ids):
        assert self.index.remove(ids) == self.oracle.remove(ids)

    @rule(
        query=CODES,
        k=st.integers(1, 14),
        limit=st.none() | st.integers(0, 16),
        after=st.none() | st.builds(Hit, IDS, st.integers(0, 16)),
        allow=st.none() | st.sets(IDS),
    )
    def search(self, query, k, limit, after, allow):
        options = SearchOptions(k, limit, after)
        wanted = self.oracle.search(rows([query]), options, allow=allow)
        assert self.index.search(rows([query]), options, allow=allow) == wanted

    @rule()
    def save_and_load(self):
        folder = Path(tempfile.mkdtemp())
        try:
            self.index.save(folder / "saved")
            self.index = registry.load(self.name, folder / "saved", BITS, **self.options)
        finally:
            shutil.rmtree(folder)

    @invariant()
    def same_items(self):
        if hasattr(self, "index"):
            ids, codes = self.index.codes()
            wanted, wanted_codes = self.oracle.codes()
            assert list(ids) == list(wanted)
            assert np.array_equal(codes, wanted_codes)
            assert len(self.index) == len(wanted)


@pytest.mark.parametrize("name", params(registry.BACKENDS))
def test_random_calls(name, connect):
    options = TINY.get(name, {}) | connect(name)
    machine = type("Machine", (Machine,), {"name": name, "options": options})
    examples, steps = (5, 15) if name in REMOTE else (12, 20)  # each step there is some round trips
    limits = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    run_state_machine_as_test(machine, settings=limits)
