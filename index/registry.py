"""Backends by name. Adding one here is enough to have it run through the conformance suite."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType

from index.backends.faiss_index import FaissIndex
from index.backends.memory import MemoryIndex
from index.backends.milvus_index import MilvusIndex
from index.backends.pgvector_index import PgvectorIndex
from index.core import BinaryIndex
from index.errors import UnknownOption


@dataclass(frozen=True)
class Backend:
    """A class of indexes, and the options that make it what its name says."""

    kind: type[MemoryIndex] | type[FaissIndex] | type[PgvectorIndex] | type[MilvusIndex]
    options: Mapping[str, object] = field(default_factory=dict)

    @property
    def remote(self) -> bool:
        """True when the codes lie in an engine elsewhere: what is saved is a reference, `url` an option."""
        return issubclass(self.kind, PgvectorIndex | MilvusIndex)


BACKENDS: Mapping[str, Backend] = MappingProxyType(
    {
        "memory": Backend(MemoryIndex),
        "faiss": Backend(FaissIndex),
        "faiss-ivf": Backend(FaissIndex, {"ivf_from": 4096}),
        # Below a million codes exact search takes about a millisecond; above, clustered codes gain.
        "auto": Backend(FaissIndex, {"ivf_from": 1_000_000}),
        "pgvector": Backend(PgvectorIndex),
        "milvus": Backend(MilvusIndex),
    }
)


def backend(name: str) -> Backend:
    """Return the backend of that name. Raises UnknownOption."""
    if name not in BACKENDS:
        raise UnknownOption(f"backend: wanted one of {', '.join(BACKENDS)}, got {name!r:.80}")
    return BACKENDS[name]


def create(name: str, bits: int, **options: object) -> BinaryIndex:
    """Make an empty index. Raises UnknownOption, BadCodes, Unsupported, EngineUnavailable.

    Of a backend over an engine elsewhere the option `announce`, a callable, hears the name of the table or
    collection before it is made.
    """
    chosen = backend(name)
    return chosen.kind(bits, **{**chosen.options, **options})


def load(name: str, folder: Path, bits: int, **options: object) -> BinaryIndex:
    """Read a saved index. Raises what `create` does, CorruptIndex.

    What an embedded backend saved is read by all; a reference only by the backend that wrote it.
    """
    chosen = backend(name)
    return chosen.kind.load(folder, bits, **{**chosen.options, **options})


def discard(name: str, folder: Path, **options: object) -> None:
    """Drop what a saved reference refers to; of embedded backends the folder is all there is.

    Raises what `create` does, CorruptIndex.
    """
    kind = backend(name).kind
    if issubclass(kind, PgvectorIndex | MilvusIndex):
        kind.discard(folder, **options)


def names(name: str, **options: object) -> set[str]:
    """Names of all tables or collections of a backend's engine; none of an embedded one.

    Raises what `create` does.
    """
    kind = backend(name).kind
    return kind.names(**options) if issubclass(kind, PgvectorIndex | MilvusIndex) else set()
