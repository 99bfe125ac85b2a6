"""A folder of images with texts beside them: `a.jpg` with `a.txt` or `a.json`, at any depth.

`a.txt` holds one text a line. `a.json` holds an object with any of `text` or `texts`, `labels`, `split`,
`metadata` and `id`. An image without either is an item without text. The id is the path below the
folder without its suffix, `/` becoming `:` and any other character that an id may not have `_`.
"""

import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.importers.base import Entry, Found, Refused, numbered_lines
from model.data.lines import MAX_LINE_BYTES, load_object
from model.data.paths import existing_folder
from model.errors import DataError

_IMAGES = (".jpg", ".jpeg", ".png", ".webp")
_TEXTS = (".txt", ".json")
_KEYS = ("id", "text", "texts", "labels", "split", "metadata")


@dataclass(frozen=True)
class Sidecars:
    """`folder_labels` adds the name of the first folder below the source as a label."""

    folder_labels: bool = False

    def entries(self, source: Path) -> Iterator[Entry]:
        """Every file below `source`, folder by folder in the order of names."""
        root = existing_folder(source)
        for place, folders, files in os.walk(root):
            folders.sort()
            below = Path(place).relative_to(root)
            stems = {Path(name).stem for name in files if Path(name).suffix.lower() in _IMAGES}
            for name in sorted(files):
                relative = (below / name).as_posix()
                suffix = Path(name).suffix.lower()
                if suffix in _IMAGES:
                    yield self._entry(root, relative, set(files))
                elif suffix not in _TEXTS or Path(name).stem not in stems:
                    yield Refused(relative, "neither an image nor the text of one")

    def _entry(self, root: Path, relative: str, files: set[str]) -> Entry:
        path = Path(relative)
        beside = [path.stem + suffix for suffix in _TEXTS if path.stem + suffix in files]
        if len(beside) > 1:
            return Refused(relative, f"has both {' and '.join(beside)}")
        try:
            fields = _read(root, path.parent / beside[0]) if beside else {}
        except (ValueError, DataError) as error:
            return Refused(f"{path.parent / beside[0]}", str(error))
        labels = fields.get("labels", [])
        if self.folder_labels and len(path.parts) > 1:
            labels = [*labels, path.parts[0]] if isinstance(labels, list) else labels
        return _found(root, relative, {**fields, "labels": labels})


def _found(root: Path, relative: str, fields: dict[str, Any]) -> Entry:
    texts, labels = fields.get("texts", []), fields["labels"]
    if "text" in fields:
        texts = [fields["text"]]
    if not isinstance(texts, list) or not isinstance(labels, list):
        return Refused(relative, "wanted lists as texts and labels")
    split, metadata = fields.get("split"), fields.get("metadata", {})
    if not isinstance(metadata, dict) or not isinstance(split, str | None):
        return Refused(relative, "wanted an object as metadata and a name as split")
    item_id = fields.get("id", _id(relative))
    if not isinstance(item_id, str):
        return Refused(relative, "wanted a string as id")
    return Found(relative, item_id, root, relative, tuple(texts), tuple(labels), split, metadata)


def _read(root: Path, relative: Path) -> dict[str, Any]:
    """The sidecar's fields; raises ValueError or DataError when it is not as wanted."""
    path = (root / relative).resolve()
    if not path.is_relative_to(root) or not path.is_file():
        raise ValueError("is a link that leaves the folder, or no regular file")
    if path.stat().st_size > MAX_LINE_BYTES:
        raise ValueError(f"longer than {MAX_LINE_BYTES} bytes")
    if path.suffix.lower() == ".txt":
        return {"texts": [text.strip() for _, text in numbered_lines(path)]}
    fields = load_object(path.read_bytes())
    unknown = sorted(fields.keys() - set(_KEYS))
    if unknown or ("text" in fields and "texts" in fields):
        raise ValueError(
            f"wanted some of {', '.join(_KEYS)} (text or texts, not both), got {sorted(fields)[:10]}"
        )
    return fields


def _id(relative: str) -> str:
    stem = relative.rpartition(".")[0]
    return re.sub(r"[^A-Za-z0-9._:\-]", "_", stem.replace("/", ":"))
