"""The configurations of the registered backends that the index tests run through."""

from __future__ import annotations

import pytest
from real_servers import MILVUS, POSTGRES

from index import registry

# Options that make small corpora use every structure: many segments, an inverted file.
CASES: dict[str, tuple[str, dict[str, object]]] = {
    **{name: (name, {}) for name in registry.BACKENDS},
    "faiss-ivf": ("faiss-ivf", {"nprobe": "all", "ivf_from": 200, "lists": 16}),
    "auto": ("auto", {"nprobe": "all", "ivf_from": 5000}),
    "faiss-segments": ("faiss", {"segment_rows": 1500}),
}
GROUPS = {"pgvector": [POSTGRES], "milvus": [MILVUS]}
REMOTE = [name for name, backend in registry.BACKENDS.items() if backend.remote]


def params(names):
    """Names as parameters; those that need a server are kept in one process by their group."""
    return [pytest.param(name, marks=GROUPS.get(name, []), id=name) for name in sorted(names)]
