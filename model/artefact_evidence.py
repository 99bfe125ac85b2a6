"""What an artefact says of itself after training: robustness.json, and the model card that tells it.

    evidence.json        the model's digest, and the SHA-256 of the two files below; absent until recorded
    robustness.json      figures of `hashguard evaluate`
    README.md            the model card with these figures, in place of the one that training wrote

manifest.json is not touched, so a model stays the model it was: its digest, which pairs it with its codes
and indexes, does not depend on what is known about it.

Recording is one step for every reader: new files are first laid beside the old ones under names made of their
SHA-256, then evidence.json is replaced (this is the moment), then they are moved to their own names. A
reader that finds a file unlike its digest looks for it under the other name, and reads evidence.json again
when that has changed meanwhile. So a recording that is killed leaves the old state or the new one, and the
next recording tidies up. Recordings of the same model wait for each other.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from model.artefact_checks import MAX_JSON_BYTES, README, ROBUSTNESS, check_entry, check_names, read_object
from model.durable import read_file, sync_folder, write_file
from model.errors import ArtefactError

EVIDENCE = "evidence.json"
FORMAT = 1
MAX_BYTES = 10_000
FIELDS = frozenset({"format", "model", "files"})
RECORDED = frozenset({README, ROBUSTNESS})
PENDING = ".evidence-"
TRIES, AGAIN = 20, 2

Entry = Mapping[str, Any]


def read_entry(path: Path, entry: Entry) -> bytes:
    """A file of the size and SHA-256 that `entry` says; raises ArtefactError with what came."""
    data = read_file(path, entry["bytes"])
    digest = hashlib.sha256(data).hexdigest()
    if len(data) != entry["bytes"] or digest != entry["sha256"]:
        wanted = f"{entry['bytes']} bytes with SHA-256 {entry['sha256']}"
        raise ArtefactError(f"{path}: wanted {wanted}, got {len(data)} with {digest}")
    return data


def entry_of(data: bytes) -> dict[str, Any]:
    """SHA-256 and size, as a manifest lists a file."""
    return {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}


def read_evidence(folder: Path, digest: str, trained: Entry) -> dict[str, bytes]:
    """README.md, and robustness.json when figures were recorded, as one recording wrote them.

    digest: of the model. trained: the manifest's entry of the card, which holds while nothing is recorded.
    Raises ArtefactError for damaged files, and for what was recorded of another model.
    """
    lock = _lock_file(folder)
    for attempt in range(TRIES):
        try:
            listed = {README: trained} if lock is None else _listed(lock, digest, str(folder / EVIDENCE))
            return {name: _find(folder, name, entry) for name, entry in listed.items()}
        except ArtefactError:
            now = _lock_file(folder)
            if now == lock and attempt >= AGAIN:  # it may also have changed there and back
                raise
            lock = now
    raise ArtefactError(
        f"{folder / EVIDENCE}: wanted a file that stays for a moment, it changed {TRIES} times"
    )


def write_evidence(folder: Path, digest: str, files: Mapping[str, bytes]) -> None:
    """Put both files in the place of the recorded ones, in one step for readers.

    The caller has checked that the model there is `digest`. Raises OSError; then, and when the process dies,
    the old files or the new ones are read.
    """
    check_names(set(files), set(RECORDED), set(RECORDED), EVIDENCE)
    table = {
        "format": FORMAT,
        "model": digest,
        "files": {name: entry_of(data) for name, data in sorted(files.items())},
    }
    with _alone(folder):
        for data in files.values():
            _lay(folder, _pending(folder, entry_of(data)), data)
        sync_folder(folder)
        _lay(folder, folder / EVIDENCE, (json.dumps(table, indent=1) + "\n").encode())
        sync_folder(folder)
        for name, data in files.items():
            _pending(folder, entry_of(data)).replace(folder / name)
        for left in folder.glob(f"{PENDING}*"):
            left.unlink(missing_ok=True)
        sync_folder(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Until the block ends nobody else records here; the kernel frees the lock of a process that dies."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _lay(folder: Path, path: Path, data: bytes) -> None:
    """Put a whole file at `path`; a link that lies there is replaced, not followed."""
    draft = folder / f"{PENDING}draft"
    draft.unlink(missing_ok=True)
    write_file(draft, data)
    draft.replace(path)


def _lock_file(folder: Path) -> bytes | None:
    path = folder / EVIDENCE
    return read_file(path, MAX_BYTES) if os.path.lexists(path) else None


def _listed(lock: bytes, digest: str, where: str) -> Mapping[str, Entry]:
    """Entries by file name; raises ArtefactError."""
    if len(lock) > MAX_BYTES:
        raise ArtefactError(f"{where}: wanted at most {MAX_BYTES} bytes, got {len(lock)}")
    table = read_object(lock, where)
    check_names(set(table), set(FIELDS), set(FIELDS), where)
    if table["format"] != FORMAT:
        raise ArtefactError(f"{where}: wanted format {FORMAT}, got {table['format']!r}")
    if table["model"] != digest:
        raise ArtefactError(
            f"{where}: wanted what was recorded of the model {digest}, got {table['model']!r}"
        )
    files = table["files"]
    if not isinstance(files, dict):
        raise ArtefactError(f"{where}: files: wanted an object, got {type(files).__name__}")
    check_names(set(files), set(RECORDED), set(RECORDED), f"{where}: files")
    for name, entry in files.items():
        check_entry(name, entry, f"{where}: files")
        if entry["bytes"] > MAX_JSON_BYTES:
            raise ArtefactError(f"{where}: files: {name}: wanted at most {MAX_JSON_BYTES} bytes")
    return files


def _find(folder: Path, name: str, entry: Entry) -> bytes:
    """The file under its own name, else where a recording that goes on or was cut off has it."""
    for path in (folder / name, _pending(folder, entry)):
        with suppress(ArtefactError):
            return read_entry(path, entry)
    return read_entry(folder / name, entry)  # it was moved between the two looks, or it is damaged


def _pending(folder: Path, entry: Entry) -> Path:
    return folder / f"{PENDING}{entry['sha256']}"
