"""New manifest folders: written beside their final place and renamed in one step, or not there at all."""

import json
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TextIO

from model.data.lines import Fields, write_line
from model.data.manifest import PAIRS
from model.errors import DataError


@contextmanager
def new_folder(out: Path) -> Iterator[Path]:
    """A fresh folder beside `out` that becomes `out` when the block ends well and vanishes otherwise.

    Raises DataError when `out` is anything but absent or an empty folder, or cannot be written.
    """
    _refuse_occupied(out)
    place = out.resolve()
    temporary = place.parent / f".{place.name[:100]}.{secrets.token_hex(8)}"
    try:
        temporary.mkdir(parents=True)
    except OSError as error:
        raise DataError(f"cannot write beside {out}: {error.strerror}") from error
    try:
        yield temporary
        _rename(temporary, place)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


class ManifestWriter:
    """Writes one manifest folder: `images/` as it comes, `pairs.jsonl` line by line.

    A context manager over a folder that exists and is empty.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.count = 0
        (folder / "images").mkdir()
        self._pairs: TextIO = (folder / PAIRS).open("w", encoding="utf-8", newline="\n")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._pairs.close()

    def image_path(self, item_id: str, suffix: str) -> str:
        """Where the image of an item goes, relative to the folder."""
        return f"images/{item_id}{suffix}"

    def write_image(self, item_id: str, suffix: str, data: bytes) -> str:
        """Write an image's bytes; gives its path relative to the folder."""
        relative = self.image_path(item_id, suffix)
        (self.folder / relative).write_bytes(data)
        return relative

    def link_image(self, item_id: str, suffix: str, source: Path) -> str:
        """Hard-link an image; raises DataError where the file system cannot (another volume)."""
        relative = self.image_path(item_id, suffix)
        try:
            os.link(source, self.folder / relative)
        except OSError as error:
            raise DataError(
                f"cannot hard-link {source.name} ({error.strerror}); import without --link"
            ) from error
        return relative

    def write(self, fields: Fields) -> None:
        """Append one item."""
        self._pairs.write(write_line(fields))
        self.count += 1


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """A small JSON file beside `pairs.jsonl`; readers of manifests ignore it."""
    path.write_text(json.dumps(value, indent=2, ensure_ascii=True, sort_keys=True) + "\n", encoding="utf-8")


def _refuse_occupied(out: Path) -> None:
    if out.is_symlink() or (out.exists() and not out.is_dir()):
        raise DataError(f"wanted a new folder, {out} is a file or a link")
    if out.is_dir() and any(out.iterdir()):
        raise DataError(f"wanted a new or empty folder, {out} holds files; nothing was written")


def _rename(temporary: Path, place: Path) -> None:
    try:
        temporary.replace(place)
    except OSError as error:
        raise DataError(f"cannot put the result at {place.name}: {error.strerror}") from error
