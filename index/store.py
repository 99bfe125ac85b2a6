"""Index generations on disk: one model's codes of one snapshot of the catalog, complete or not there.

A generation is a folder `<root>/<generation id>/` with the saved indexes `image/` and `text/` and
`META.json`. It is built in a hidden folder beside its place, every file and folder is fsynced, META.json is
written last, and one rename makes it visible; a process that dies anywhere before leaves a hidden folder
that the next build sweeps away. META.json holds the digests of both `index.json`, which hold the digests of
everything else.

Of an index in an engine elsewhere the folder holds a reference; its table or collection goes on changing
while it is served and is dropped with the generation. `url` is where the engine listens. It is saved nowhere.
"""

import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from pathlib import Path
from typing import Any, Protocol

from index.backends.clients import reference_backend
from index.codes import check_bits
from index.core import BinaryIndex
from index.errors import BadCodes, CorruptIndex, GenerationMismatch, HashIndexError
from index.files import check_digest, fsync_folder, read_json, sha256_of, write_json
from index.registry import backend, discard, load
from index.saved import HEADER

FORMAT = 1
META = "META.json"
SIDES = ("image", "text")
_BUILDING = ".building-"
_DELETING = ".deleting-"
HIDDEN = (_BUILDING, _DELETING)
"""How the folders begin that builds and deletions work in."""
_ID = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}")
_DIGEST = re.compile(r"[0-9a-f]{64}")
_OURS = frozenset({"self", "cls", "name", "folder", "bits", "url", "announce"})
"""What no saved option may be called: it is said by whoever loads, or is a parameter on the way there."""


@dataclass(frozen=True)
class Meta:
    """What a generation is.

    model_digest, preprocessing_digest: SHA-256 as 64 lower-case hexadecimal digits.
    counts: items per side ("image", "text"). snapshot_seq: last change of the catalog that is in it.
    backend, options: how to load it. created: ISO 8601 with an offset.
    files: SHA-256 by path below the generation; filled in by `write_generation`.
    """

    model_name: str
    model_version: str
    model_digest: str
    preprocessing_digest: str
    bits: int
    snapshot_seq: int
    created: str
    backend: str = "faiss"
    options: Mapping[str, Any] = field(default_factory=dict)
    counts: Mapping[str, int] = field(default_factory=dict)
    files: Mapping[str, str] = field(default_factory=dict)
    format: int = FORMAT


class Saveable(Protocol):
    """What can be one side of a generation: an index, or anything else that writes a saved index."""

    @property
    def bits(self) -> int:
        """Width of the codes."""
        ...

    def save(self, folder: Path) -> None:
        """Write the saved form into `folder`, see BinaryIndex.save."""
        ...


@dataclass(frozen=True)
class Generation:
    """A generation that was loaded and checked."""

    id: str
    meta: Meta
    image: BinaryIndex
    text: BinaryIndex


def check_id(generation_id: str) -> str:
    """Return a valid generation id; raise HashIndexError on another (a separator, a leading dot, ...)."""
    if not _ID.fullmatch(generation_id):
        raise HashIndexError(f"generation id: wanted {_ID.pattern}, got {generation_id!r:.120}")
    return generation_id


def write_generation(root: Path, generation_id: str, meta: Meta, image: Saveable, text: Saveable) -> Path:
    """Write a generation and return its folder, which appears all at once.

    `meta.counts` and `meta.files` are filled in here. Raises HashIndexError when the id is taken or the
    widths differ, OSError when the disk refuses; then nothing is visible.
    """
    target = root / check_id(generation_id)
    if target.exists():
        raise HashIndexError(f"generation {generation_id}: wanted a new id, got one that exists")
    for side, index in zip(SIDES, (image, text), strict=True):
        if index.bits != meta.bits:
            raise HashIndexError(f"{side} index: wanted {meta.bits} bits, got {index.bits}")
    root.mkdir(parents=True, exist_ok=True)
    with _building(root, generation_id) as folder:
        files, counts = {}, {}
        for side, index in zip(SIDES, (image, text), strict=True):
            index.save(folder / side)
            header = read_json(folder / side / HEADER)
            counts[side] = int(header["count"])
            files[f"{side}/{HEADER}"] = sha256_of(folder / side / HEADER)
        content = {**asdict(meta), "options": dict(meta.options), "counts": counts, "files": files}
        _checked_meta(content)
        write_json(folder / META, content)
        fsync_folder(folder)
        folder.rename(target)
        fsync_folder(root)
    return target


def read_meta(folder: Path) -> Meta:
    """Read META.json of a generation, each field checked. Raises CorruptIndex."""
    return _checked_meta(read_json(folder / META))


def load_generation(
    folder: Path, expected_model_digest: str | None = None, url: str | None = None
) -> Generation:
    """Load a generation with every digest checked; `url` is needed when it lies in an engine elsewhere.

    Raises GenerationMismatch when it belongs to another model than `expected_model_digest` (nothing else
    would notice: codes of two models have the same width), CorruptIndex when it is damaged,
    EngineUnavailable, and UnknownOption without the `url` it needs.
    """
    meta = read_meta(folder)
    if expected_model_digest is not None and meta.model_digest != expected_model_digest:
        raise GenerationMismatch(
            f"generation {folder.name}: wanted one of the model {expected_model_digest[:64]}, got one of "
            f"{meta.model_name}/{meta.model_version} ({meta.model_digest})"
        )
    loaded = {}
    remote = backend(meta.backend).remote
    options = {**meta.options, **connection(meta.backend, url)}
    for side in SIDES:
        name = f"{side}/{HEADER}"
        check_digest(name, meta.files[name], sha256_of(folder / side / HEADER))
        loaded[side] = load(meta.backend, folder / side, meta.bits, **options)
        if not remote and len(loaded[side]) != meta.counts[side]:
            raise CorruptIndex(f"{side}: wanted {meta.counts[side]} items, got {len(loaded[side])}")
    return Generation(folder.name, meta, loaded["image"], loaded["text"])


def list_generations(root: Path) -> list[str]:
    """Ids of the complete generations below `root`, sorted; hidden and foreign folders are left out."""
    if not root.is_dir():
        return []
    return sorted(
        each.name for each in root.iterdir() if _ID.fullmatch(each.name) and (each / META).is_file()
    )


def delete_generation(root: Path, generation_id: str, url: str | None = None) -> bool:
    """Delete a generation; it vanishes at once, its bytes after. False when there is none (any more).

    It is locked all the while, so that nobody takes it for one that the dead have left. While the engine
    that holds its codes cannot be reached, what is left waits for `sweep`.
    """
    place = root / check_id(generation_id)
    hidden = root / f"{_DELETING}{generation_id}-{uuid.uuid4().hex}"
    try:
        handle = lock(place)
    except (BlockingIOError, FileNotFoundError):  # locked: somebody deletes it, or has not finished it
        return False
    try:
        if not place.exists():  # it went between the two steps of locking
            return False
        place.rename(hidden)
        fsync_folder(root)
        _erase(hidden, url)
    finally:
        os.close(handle)
    return True


def sweep(root: Path, url: str | None = None) -> list[str]:
    """Remove what builds and deletions left behind when their process died; return the folders' names.

    A build holds a lock on its folder, which ends with its process, so one that is running is left alone.
    So is what lies in an engine elsewhere that cannot be reached, or not without an `url`.
    """
    return [folder.name for folder in abandoned(root, HIDDEN) if _erase(folder, url)]


def abandoned(root: Path, prefixes: tuple[str, ...]) -> Iterator[Path]:
    """Folders of these prefixes that no living process has locked; each is locked while it is looked at."""
    for folder in sorted(root.iterdir()) if root.is_dir() else []:
        if not folder.name.startswith(prefixes):
            continue
        try:
            handle = lock(folder)
        except (BlockingIOError, FileNotFoundError):  # somebody works there, or has just swept it
            continue
        try:
            if folder.exists():  # else it went between the two steps of locking
                yield folder
        finally:
            os.close(handle)


def lock(folder: Path) -> int:
    """Lock a folder until the handle is closed, or the process ends. Raises BlockingIOError when it is."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BaseException:
        os.close(handle)
        raise
    return handle


def _erase(folder: Path, url: str | None) -> bool:
    """Remove a hidden folder and drop what its references refer to; False when that must be tried again."""
    for side in SIDES:
        if not (folder / side / HEADER).is_file():
            continue
        try:
            name = reference_backend(folder / side)
            if name is not None:
                discard(name, folder / side, **connection(name, url))
        except CorruptIndex:
            continue  # it names nothing that could be dropped
        except HashIndexError:
            return False
    with suppress(FileNotFoundError):  # somebody else removes it too
        shutil.rmtree(folder)
    return not folder.exists()


def connection(name: str, url: str | None) -> dict[str, object]:
    """The option that a backend over an engine elsewhere needs, beside those that are saved."""
    return {"url": url} if url is not None and backend(name).remote else {}


@contextmanager
def _building(root: Path, generation_id: str) -> Iterator[Path]:
    """Sweep, then give a locked hidden folder to build in; it is removed when building fails."""
    sweep(root)
    folder = root / f"{_BUILDING}{generation_id}-{uuid.uuid4().hex}"
    folder.mkdir()
    handle = lock(folder)
    try:
        yield folder
    except BaseException:
        with suppress(FileNotFoundError):
            _erase(folder, None)  # references stay, hidden, until somebody sweeps who knows the engine
        raise
    finally:
        os.close(handle)


def _checked_meta(content: Mapping[str, Any]) -> Meta:
    """Make a Meta of unproven JSON: each field there, of its type and in its range. Raises CorruptIndex."""
    names = {each.name for each in fields(Meta)}
    if set(content) != names:
        raise CorruptIndex(f"{META}: wanted the fields {sorted(names)}, got {sorted(content)!r:.400}")
    if content["format"] != FORMAT:
        raise CorruptIndex(f"{META}: wanted format {FORMAT}, got {content['format']!r:.80}")
    for name in ("model_name", "model_version", "backend"):
        _want(name, content[name], "1 to 200 characters", _is_text(content[name]))
    for name in ("model_digest", "preprocessing_digest"):
        _want(name, content[name], "64 hexadecimal digits", _is_digest(content[name]))
    _want(
        "snapshot_seq", content["snapshot_seq"], "a whole number >= 0", _is_natural(content["snapshot_seq"])
    )
    _want("created", content["created"], "an ISO 8601 time with an offset", _is_time(content["created"]))
    wanted = f"an object with none of {', '.join(sorted(_OURS))}"
    _want("options", content["options"], wanted, _are_options(content["options"]))
    counts, files = content["counts"], content["files"]
    sides = isinstance(counts, dict) and set(counts) == set(SIDES) and all(map(_is_natural, counts.values()))
    _want("counts", counts, "a count >= 0 for image and text", sides)
    names = {f"{side}/{HEADER}" for side in SIDES}
    digests = isinstance(files, dict) and set(files) == names and all(map(_is_digest, files.values()))
    _want("files", files, f"the SHA-256 of {sorted(names)}", digests)
    try:
        check_bits(content["bits"])
    except BadCodes as error:
        raise CorruptIndex(f"{META}: {error}") from error
    return Meta(**content)


def _want(name: str, value: object, wanted: str, holds: bool) -> None:
    """Raise CorruptIndex unless the field holds what is wanted."""
    if not holds:
        raise CorruptIndex(f"{META}: wanted {name} to be {wanted}, got {value!r:.200}")


def _are_options(value: object) -> bool:
    return isinstance(value, dict) and not _OURS & set(value)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and 1 <= len(value) <= 200


def _is_digest(value: object) -> bool:
    return isinstance(value, str) and _DIGEST.fullmatch(value) is not None


def _is_natural(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 1 << 63


def _is_time(value: object) -> bool:
    if not isinstance(value, str):
        return False
    try:
        return datetime.fromisoformat(value).tzinfo is not None
    except ValueError:
        return False
