"""Tables and collections that are being filled: their names are written down before they are made.

An index in an engine elsewhere is made, filled for as long as that takes, and only then referred to by a
generation. A process that dies in between would leave a table that nobody knows, and no engine can tell whose
it is. So the name is claimed first: a hidden folder beside the generations refers to it and is locked for as
long as the process lives. `sweep_claims` drops what the dead have left, never what a generation refers to.
"""

import os
import shutil
import uuid
import weakref
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from index.backends.clients import reference_of, write_reference
from index.errors import CorruptIndex, HashIndexError
from index.files import fsync_folder
from index.registry import backend, discard, names
from index.saved import HEADER
from index.store import HIDDEN, SIDES, abandoned, connection, lock

_CLAIM = ".claim-"
_TABLE = "table"


class Claim:
    """A claimed name; whoever made it keeps it until a generation refers to the table, then releases it."""

    def __init__(self, folder: Path, handle: int) -> None:
        self._folder = folder
        self._close = weakref.finalize(self, os.close, handle)  # then the claim counts as left behind

    def release(self) -> None:
        """Give the claim up: a generation refers to the table now."""
        shutil.rmtree(self._folder)
        self._close()


def claim(root: Path, name: str, bits: int, table: str) -> Claim:
    """Write down that `table` is about to be made in the engine of the backend `name`. Raises OSError."""
    root.mkdir(parents=True, exist_ok=True)
    folder = root / f"{_CLAIM}{uuid.uuid4().hex}"
    folder.mkdir()
    held = Claim(folder, lock(folder))
    write_reference(folder / _TABLE, name, bits, 0, table)
    fsync_folder(folder)
    fsync_folder(root)
    return held


def left_behind(root: Path) -> list[str]:
    """Names of the hidden folders of builds, deletions and claims whose process is dead."""
    return [folder.name for folder in abandoned(root, (*HIDDEN, _CLAIM))]


def sweep_claims(root: Path, url: str | None = None) -> list[str]:
    """Drop the tables that dead processes have claimed; the names of the claims.

    `url` is where the engine listens; what lies in one that cannot be reached is left alone.
    """
    swept = []
    for folder in abandoned(root, (_CLAIM,)):
        if not (folder / _TABLE / HEADER).is_file() or _dropped(root, folder / _TABLE, url):
            shutil.rmtree(folder)
            swept.append(folder.name)
    return swept


def unknown_tables(root: Path, name: str, url: str) -> list[str]:
    """Tables of the backend's engine that nothing below `root` refers to; they may be another home's.

    Raises EngineUnavailable, Unsupported.
    """
    known = {table for table, _ in _references(root)}
    return sorted(names(name, **connection(name, url)) - known)


def _dropped(root: Path, reference: Path, url: str | None) -> bool:
    """Drop the table of a claim, unless a generation refers to it; False when that must be tried again."""
    try:
        name, table = reference_of(reference)
        if not any(known == table and place != reference for known, place in _references(root)):
            discard(name, reference, **connection(name, url))
    except CorruptIndex:
        return True  # it names nothing that could be dropped
    except HashIndexError:
        return False
    return True


def _references(root: Path) -> Iterator[tuple[str, Path]]:
    """The tables that the folders below `root` refer to, hidden ones too, and where they do."""
    for folder in root.iterdir() if root.is_dir() else ():
        for part in (*SIDES, _TABLE):
            with suppress(CorruptIndex):  # the codes themselves, or nothing
                yield reference_of(folder / part)[1], folder / part


def is_remote(name: str) -> bool:
    """Whether the codes of a backend lie in an engine elsewhere. Raises UnknownOption."""
    return backend(name).remote
