"""What the use cases need from the outside, as Protocols; `service/wiring.py` supplies the real things.

Codes travel packed: uint8 arrays of shape (n, bits / 8), bit order owned by `index/codes.py`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Protocol, TypeAlias

import numpy as np
from numpy.typing import NDArray

from service.application.types import Examined, Filter, Generation, Item, Side

CodeArray: TypeAlias = NDArray[np.uint8]
RgbImage: TypeAlias = NDArray[np.uint8]
Clock: TypeAlias = Callable[[], datetime]


class Encoder(Protocol):
    """A loaded model: decoded images and texts in, packed codes out; safe to call from any thread."""

    @property
    def bits(self) -> int:
        """Width of the codes."""
        ...

    @property
    def model_name(self) -> str:
        """Name of the artefact."""
        ...

    @property
    def model_version(self) -> str:
        """Version of the artefact, an integer as text."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 (hex) that identifies the artefact."""
        ...

    @property
    def preprocessing_digest(self) -> str:
        """SHA-256 (hex) of the preprocessing that the artefact was trained with."""
        ...

    @property
    def modalities(self) -> frozenset[str]:
        """Sides that the model can encode: "image", "text" or both."""
        ...

    @property
    def calibration(self) -> Mapping[str, Sequence[float]] | None:
        """Task ("image-to-text", ...) -> probability of relevance at distance 0..bits; None without."""
        ...

    @property
    def score_thresholds(self) -> Mapping[Side, Mapping[float, float]] | None:
        """Of the sides with an attack score, as in `Suspicion.thresholds`; None when scores are off."""
        ...

    def decode(self, data: bytes) -> RgbImage:
        """Image bytes to uint8 RGB (S, S, 3); `InvalidInput` when they are no usable image."""
        ...

    def encode_images(self, images: Sequence[RgbImage]) -> CodeArray:
        """Decoded images to packed codes (n, bits / 8)."""
        ...

    def encode_texts(self, texts: Sequence[str]) -> CodeArray:
        """Texts to packed codes (n, bits / 8)."""
        ...

    def examine_images(self, images: Sequence[RgbImage]) -> list[Examined]:
        """The same codes, each with its attack score where there is one."""
        ...

    def examine_texts(self, texts: Sequence[str]) -> list[Examined]:
        """The same codes, each with its attack score where there is one."""
        ...


@dataclass(frozen=True)
class Neighbour:
    """An id that an index found and its Hamming distance in bits."""

    id: str
    distance: int


class SearchIndex(Protocol):
    """Codes of one side by id; searches may run beside each other and beside changes."""

    shared: bool  # True when the codes lie in an engine elsewhere, where they go on changing while served

    @property
    def exact(self) -> bool:
        """True when a search cannot miss a hit."""
        ...

    def __len__(self) -> int:
        """Number of ids."""
        ...

    def add(self, ids: Sequence[str], codes: CodeArray) -> None:
        """Insert distinct ids, or replace the codes of those that are there."""
        ...

    def remove(self, ids: Sequence[str]) -> int:
        """Remove ids; the number that was there."""
        ...

    def codes(self) -> tuple[Sequence[str], CodeArray]:
        """All ids in the order of their UTF-8 bytes, and their packed codes (n, bits / 8)."""
        ...

    def search(self, code: bytes, reach: Reach) -> list[Neighbour]:
        """Nearest ids of one packed code: by distance, then by the id's UTF-8 bytes."""
        ...


@dataclass(frozen=True)
class Reach:
    """How far a search goes: `k` hits within `max_distance`, strictly after `after`, only ids in `allow`."""

    k: int
    max_distance: int | None = None
    after: Neighbour | None = None
    allow: frozenset[str] | None = None


@dataclass(frozen=True)
class ModelRef:
    """A model artefact in the models folder; `created` is ISO 8601 in UTC, as its manifest records it."""

    name: str
    version: str
    digest: str
    created: str
    bits: int
    preprocessing_digest: str

    @property
    def label(self) -> str:
        """`name/version`, as answers and requests spell it."""
        return f"{self.name}/{self.version}"


class ModelShelf(Protocol):
    """The model artefacts of this home folder."""

    def refs(self) -> list[ModelRef]:
        """All readable artefacts, by name, older versions first."""
        ...

    def card(self, name: str, version: str) -> dict[str, Any]:
        """Public description of one artefact; `NotFound` when it is not there."""
        ...

    def load(self, name: str, version: str) -> Encoder:
        """Load and verify one artefact; `NotFound`, or `Unavailable` when it is damaged."""
        ...


class Thumbnailer(Protocol):
    """Makes small copies of images."""

    def __call__(self, data: bytes, size: int) -> tuple[bytes, str]:
        """Image bytes to (thumbnail bytes, media type) with both sides at most `size` pixels."""
        ...


class GenerationStore(Protocol):
    """Index generations on disk."""

    def new_index(self, bits: int) -> SearchIndex:
        """An empty index of the configured backend."""
        ...

    def write(self, generation: Generation, indexes: Mapping[Side, SearchIndex]) -> None:
        """Persist both indexes; visible all at once or not at all."""
        ...

    def load(self, generation: Generation) -> dict[Side, SearchIndex]:
        """Load both indexes; `Unavailable` when missing, damaged or of another model."""
        ...

    def check(self, generation: Generation) -> None:
        """`Unavailable` when the generation is not there or of another model; reads no codes."""
        ...

    def delete(self, generation_id: str) -> None:
        """Remove the folder of a generation; nothing happens when it is not there."""
        ...


class BlobStore(Protocol):
    """Image bytes by their SHA-256."""

    def ensure(self, digest: str, data: bytes, checked: bool = False) -> None:
        """Make sure that the bytes are stored and whole; nothing is written when they are.

        `checked`: they were a moment ago, so it is enough that they have not gone.
        """
        ...

    def read(self, digest: str) -> bytes:
        """The bytes, digest checked; `Damaged` when they are missing or do not match."""
        ...

    def remove(self, digest: str) -> None:
        """Remove the bytes; nothing happens when they are not there."""
        ...


@dataclass(frozen=True)
class ItemRecord:
    """An item as it goes into the catalog, with its codes (one packed row per side that was encoded).

    `others` holds its codes by other models, by their digests.
    """

    item: Item
    codes: Mapping[Side, bytes]
    model_digest: str
    others: Mapping[str, Mapping[Side, bytes]] = field(default_factory=dict)


@dataclass(frozen=True)
class ItemVersion:
    """What an encoder needs of an item; `seq` names this version, `codes` are those of one model."""

    id: str
    seq: int
    image_digest: str | None
    text: str | None
    codes: Mapping[Side, bytes]


@dataclass(frozen=True)
class NewCode:
    """A code for version `seq` of an item."""

    id: str
    seq: int
    side: Side
    code: bytes


@dataclass(frozen=True)
class Written:
    """What a write did: the items as stored, whether each was new, and the numbers taken (inclusive)."""

    items: tuple[Item, ...]
    created: tuple[bool, ...]
    first_seq: int
    last_seq: int


class ItemRepository(Protocol):
    """Items; every method is one transaction."""

    def put(self, records: Sequence[ItemRecord], before_commit: Callable[[], None]) -> Written:
        """Insert or replace items of distinct ids; `before_commit` runs inside, under the write lock."""
        ...

    def delete(self, item_id: str) -> int | None:
        """Delete an item and its codes of every model; its sequence number, None when it is not there."""
        ...

    def collect_blobs(self, remove: Callable[[str], None]) -> int:
        """Call `remove` for each blob that lost its last item; nobody can take it up meanwhile."""
        ...

    def get(self, ids: Iterable[str]) -> dict[str, Item]:
        """The items among `ids` that exist."""
        ...

    def page(self, after: str | None, limit: int) -> list[Item]:
        """Items with an id beyond `after`, in the order of their ids."""
        ...

    def count(self) -> int:
        """Number of items."""
        ...

    def matching(self, condition: Filter) -> frozenset[str]:
        """Ids of the items whose metadata satisfy the filter."""
        ...


class CodeRepository(Protocol):
    """Codes per model and the log of changes; every method is one transaction."""

    def last_seq(self) -> int:
        """The highest sequence number given out; 0 before the first."""
        ...

    def changes(self, after: int, limit: int) -> list[tuple[int, str]]:
        """(seq, item id) of the changes beyond `after`, in order."""
        ...

    def versions(self, ids: Sequence[str], model_digest: str) -> dict[str, ItemVersion]:
        """Present versions of the items among `ids` that exist, with their valid codes of one model."""
        ...

    def lacking(
        self, model_digest: str, sides: frozenset[str], after: str | None, limit: int
    ) -> list[ItemVersion]:
        """Items beyond id `after` that lack a valid code of the model for one of `sides`, in id order."""
        ...

    def count_lacking(self, model_digest: str, sides: frozenset[str]) -> int:
        """Number of items that lack a valid code of the model for one of `sides`."""
        ...

    def stranded(self, model_digest: str, limit: int) -> tuple[int, list[str]]:
        """Items with another model's code of a side that they lack the content of, and none of this model.

        No encoder can give them one. Their number, and the first `limit` ids in order.
        """
        ...

    def add(self, model_digest: str, codes: Sequence[NewCode]) -> int:
        """Store codes whose item version is still the present one; the number stored."""
        ...

    def all(self, model_digest: str, side: Side, bits: int) -> tuple[list[str], CodeArray]:
        """All valid codes of a model on one side, in id order."""
        ...

    def trim(self, keep_digests: Iterable[str], keep_changes_after: int) -> None:
        """Drop the codes of all other models and the changes up to `keep_changes_after`.

        A code that nothing could make again stays: the only one of a side whose content is not there.
        """
        ...


class Closable(Protocol):
    """Something that holds connections."""

    def close(self) -> None:
        """Let them go."""
        ...
