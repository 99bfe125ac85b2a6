"""Generations between backends: out of an engine into files, out of files into another engine.

What is exported is a generation in the embedded form (`codes.npy`, `id_bytes.npy`, `id_lengths.npy` and
`index.json` for each side, `META.json` with the digests of all), which every backend reads. It stands on its
own: it can be copied, kept as a backup, and read without the engine that it came from.
"""

from dataclasses import replace
from pathlib import Path

from index.core import BinaryIndex
from index.registry import backend, create
from index.store import Generation, Meta, load_generation, write_generation

EXPORTED = "faiss"
"""Backend of exported generations."""
_ROWS = 1 << 16


def export_generation(folder: Path, target: Path, url: str | None = None) -> Path:
    """Write a generation's codes to `target/<its id>/` in the embedded form; the new folder.

    folder: the generation, in whatever backend; url: where its engine listens. Raises what loading and
    writing a generation raise: CorruptIndex, EngineUnavailable, HashIndexError when the target is taken.
    """
    found = load_generation(folder, url=url)
    meta = replace(found.meta, backend=EXPORTED, options={})
    return write_generation(target, found.id, meta, *_copies(found, EXPORTED, None))


def import_generation(
    folder: Path, root: Path, generation_id: str, name: str, url: str | None = None
) -> Meta:
    """Put an exported generation below `root` under another id, in the backend `name`; what it is now.

    url: where that backend's engine listens. Every digest of the export is checked before anything is
    stored. Raises like `export_generation`.
    """
    found = load_generation(folder)
    meta = replace(found.meta, backend=name, options={})
    write_generation(root, generation_id, meta, *_copies(found, name, url))
    return meta


def _copies(found: Generation, name: str, url: str | None) -> tuple[BinaryIndex, BinaryIndex]:
    """Both sides of a generation in another backend."""
    options = {"url": url} if url is not None and backend(name).remote else {}
    image, text = (
        _copy(side, create(name, found.meta.bits, **options)) for side in (found.image, found.text)
    )
    return image, text


def _copy(source: BinaryIndex, target: BinaryIndex) -> BinaryIndex:
    """Put all items of one index into an empty one; the latter."""
    ids, codes = source.codes()
    for start in range(0, len(ids), _ROWS):
        target.add(ids[start : start + _ROWS], codes[start : start + _ROWS])
    return target
