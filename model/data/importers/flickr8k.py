"""Flickr8k: five human captions a photograph, no labels.

Read are `Flickr8k.token.txt` (`name.jpg#0<TAB>caption`) or the Kaggle copy's `captions.txt` (CSV with
the header `image,caption`), the image folder (which the original spells `Flicker8k_Dataset`), and, where
they are there, the official splits `Flickr_8k.trainImages.txt`, `.devImages.txt` and `.testImages.txt`:
train, database and query here; photographs in none of the three go to the database. Hodosh, Young and
Hockenmaier, "Framing Image Description as a Ranking Task", 2013.
"""

import csv
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.data.importers.base import Entry, Found, Refused, first_existing, numbered_lines
from model.data.paths import existing_folder
from model.errors import DataError

_TOKENS = ("Flickr8k.token.txt", "Flickr8k_text/Flickr8k.token.txt")
_CSV = ("captions.txt",)
_IMAGES = ("Flicker8k_Dataset", "Flickr8k_Dataset", "Images", "images", "Flickr8k_Dataset/Flicker8k_Dataset")
_SPLITS = {
    "Flickr_8k.trainImages.txt": "train",
    "Flickr_8k.devImages.txt": "database",
    "Flickr_8k.testImages.txt": "query",
}


@dataclass(frozen=True)
class Flickr8k:
    """Has no options of its own."""

    def entries(self, source: Path) -> Iterator[Entry]:
        """Every photograph with captions, in the order in which the captions name them."""
        root = existing_folder(source)
        listed = first_existing(root, _TOKENS + _CSV, "captions")
        folder = first_existing(root, _IMAGES, "image folder")
        captions: dict[str, list[str]] = {}
        for line in _csv(listed) if listed.name in _CSV else _tokens(listed):
            if isinstance(line, Refused):
                yield line
            else:
                captions.setdefault(line[0], []).append(line[1])
        splits = _splits(listed.parent)
        for name, texts in captions.items():
            yield Found(
                record=f"{listed.name}, {name[:80]}",
                id=Path(name).stem,
                root=root,
                image=f"{folder.relative_to(root).as_posix()}/{name}",
                texts=tuple(texts),
                split=splits.get(name, "database") if splits else None,
            )
        for path in sorted(folder.iterdir()):
            if path.name not in captions:
                yield Refused(path.name, f"no caption in {listed.name}")


def _tokens(path: Path) -> Iterator[tuple[str, str] | Refused]:
    for number, line in numbered_lines(path):
        key, tab, caption = line.partition("\t")
        name, mark, turn = key.rpartition("#")
        if not (tab and mark and name and turn.isdecimal() and caption.strip()):
            yield Refused(f"{path.name} line {number}", "wanted name.jpg#<number><TAB>caption")
        else:
            yield name, caption.strip()


def _csv(path: Path) -> Iterator[tuple[str, str] | Refused]:
    reader = csv.reader(f"{text}\n" for _, text in numbered_lines(path))
    try:
        header = next(reader, [])
        if header != ["image", "caption"]:
            raise DataError(f"{path.name}: wanted the header image,caption, got {header[:5]}")
        for row in reader:
            if len(row) != 2 or not row[0].strip() or not row[1].strip():
                yield Refused(f"{path.name} row {reader.line_num}", "wanted an image and a caption")
            else:
                yield row[0].strip(), row[1].strip()
    except csv.Error as error:
        raise DataError(f"{path.name} row {reader.line_num}: {error}") from error


def _splits(folder: Path) -> dict[str, str]:
    """Split by file name; empty without the official files. Raises DataError when only some are there."""
    there = [name for name in _SPLITS if (folder / name).is_file()]
    if there and len(there) != len(_SPLITS):
        raise DataError(f"wanted all of {', '.join(_SPLITS)} or none, found {', '.join(there)}")
    return {line.strip(): _SPLITS[name] for name in there for _, line in numbered_lines(folder / name)}
