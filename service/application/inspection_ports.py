"""What an inspection needs from the outside beyond `ports.py` and `life_cycle_ports.py`."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Protocol

from service.application.types import Generation, Side


@dataclass(frozen=True)
class BlobEntry:
    """Something in the blob store: its name there, and the SHA-256 it is stored under (None: no blob)."""

    path: str
    digest: str | None


class BlobListing(Protocol):
    """The contents of the blob store."""

    def entries(self) -> Iterator[BlobEntry]:
        """All that lies there, in no promised order."""
        ...

    def modified(self, path: str) -> datetime | None:
        """When it was written; None when it has gone meanwhile."""
        ...

    def discard(self, path: str) -> None:
        """Remove something by its name there; nothing happens when it has gone."""
        ...


class AuditRepository(Protocol):
    """Questions about the catalog as a whole, and the few changes that put it right."""

    def damage(self, quick: bool = False) -> list[str]:
        """What the database says of its own soundness; empty when it is sound or cannot be asked.

        `quick` does not compare indexes with their tables.
        """
        ...

    def item_counts(self) -> tuple[int, int]:
        """The number of items that the counter says, and the number of rows."""
        ...

    def recount(self) -> int:
        """Set the counter to the number of rows; that number."""
        ...

    def strays(self) -> dict[str, tuple[int, list[str]]]:
        """Table -> number of ids and the first few whose rows there belong to items that have no row."""
        ...

    def empty_items(self, limit: int) -> tuple[int, list[str]]:
        """Items with neither image nor text nor a valid code: their number and the first ids."""
        ...

    def aliases(self) -> Mapping[str, str]:
        """Where each alias points, whether that is there or not."""
        ...

    def point(self, alias: str, generation_id: str | None, instead_of: str | None) -> bool:
        """Point an alias at a generation that is there, or drop it (None); False when it has moved meanwhile.

        `instead_of`: where it points until now, None when it is not there.
        """
        ...

    def adopt(self, generation: Generation) -> None:
        """Record a generation whose row was lost; nothing happens when it is there (again)."""
        ...

    def take_place(self, old_id: str, new_id: str) -> bool:
        """Point at a new generation what points at another now; whether anything did. Raises `NotFound`."""
        ...

    def forget(self, generation_id: str) -> bool:
        """Remove the row of a generation, unless an alias points there: False."""
        ...

    def digests(self, after: str, limit: int) -> list[str]:
        """Digests of images that items have, beyond `after`, in order."""
        ...

    def owners(self, digest: str, limit: int) -> tuple[int, list[str]]:
        """The items that have an image: their number and the first ids."""
        ...

    def unused(self, digests: Sequence[str]) -> list[str]:
        """Those that no item has."""
        ...

    def remove_unused(self, digests: Sequence[str], remove: Callable[[str], None]) -> int:
        """Call `remove` for those that no item has, under the catalog's write lock; their number."""
        ...


class GenerationFolders(Protocol):
    """What lies in the folder of generations, and in the engine that holds their codes."""

    def present(self) -> list[str]:
        """Ids of the complete generations."""
        ...

    def read(self, generation_id: str) -> Generation:
        """What a generation says of itself. Raises `Unavailable` when it is damaged."""
        ...

    def age(self, generation_id: str, now: datetime) -> timedelta:
        """How long ago it was written."""
        ...

    def left_behind(self) -> list[str]:
        """Hidden folders of builds, deletions and tables whose process is dead."""
        ...

    def sweep(self) -> list[str]:
        """Remove them, and drop the tables they refer to; those that are gone. Raises OSError."""
        ...

    def unknown_tables(self) -> list[str]:
        """Tables in the engine that this home knows nothing of. Raises `Unavailable`."""
        ...


class ModelChecks(Protocol):
    """The artefacts of the home, each looked at as a whole."""

    def troubles(self) -> Mapping[str, str]:
        """What is wrong with each damaged artefact, by its label or folder."""
        ...


@dataclass(frozen=True)
class Rebuilt:
    """A generation that was built in another's place, and whose codes were made anew for it, by side."""

    id: str
    encoded: Mapping[Side, Set[str]]


class Rebuild(Protocol):
    """Builds a generation anew."""

    def __call__(self, generation: Generation, doubt: Mapping[Side, Sequence[str]]) -> Rebuilt | None:
        """Build a generation in another's place, from stored codes and by encoding what lacks one.

        First the codes in `doubt`, ids by side, are made anew. An alias that points at the other one in the
        end moves to it. None when the other one is not kept any more. Raises `Conflict` while a job runs and
        `BuildFailed`, also when a code in doubt cannot be made anew; then nothing was replaced but codes.
        """
        ...
