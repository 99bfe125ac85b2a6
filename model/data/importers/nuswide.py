r"""NUS-WIDE: Flickr tags as text, the annotated concepts as labels.

Read are `ImageList/Imagelist.txt` (`folder\name.jpg` a line, Windows style), one file a concept in
`Groundtruth/AllLabels/Labels_<concept>.txt` (0 or 1 a line, in the order of the image list), the tags,
and `Concepts81.txt` where it is there. Chua et al., "NUS-WIDE: A Real-World Web Image Database", 2009.
The hashing papers keep the 21 most frequent concepts, the 1,000 tags of `TagList1k.txt` as set in
`AllTags1k.txt` (which differs from `All_Tags.txt` for some images), and drop images without one of
either: `top=21`, `tags="1k"`, and `need_text` and `need_labels` of the writer.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from model.data.importers.base import Entry, Found, Refused, first_existing, numbered_lines
from model.data.paths import existing_folder
from model.errors import DataError

_IMAGE_FOLDERS = ("Flickr", "images", "Flickr_images")
_ENDED = ""


@dataclass(frozen=True)
class NusWide:
    """`top` keeps that many of the most frequent concepts (None: all); `tags` names the tag file.

    `images` is the folder of the images where it lies outside the source.
    """

    top: int | None = None
    tags: Literal["all", "1k"] = "all"
    images: Path | None = None

    def entries(self, source: Path) -> Iterator[Entry]:
        """Every line of the image list."""
        root = existing_folder(source)
        listed = first_existing(root, ("ImageList/Imagelist.txt", "Imagelist.txt"), "image list")
        names = [text.strip().replace("\\", "/") for _, text in numbered_lines(listed)]
        concepts, matrix = self._labels(root, len(names))
        image_root = root if self.images is None else existing_folder(self.images)
        texts = self._texts(root, names)
        for row, (name, text) in enumerate(zip(names, texts, strict=True)):
            record = f"{listed.name} line {row + 1}"
            if isinstance(text, Refused):
                yield Refused(record, f"{text.record}: {text.reason}")
                continue
            yield Found(
                record=record,
                id=Path(name).stem,
                root=image_root,
                image=_image(image_root, name),
                texts=(text,) if text else (),
                labels=tuple(concepts[c] for c in np.flatnonzero(matrix[:, row])),
            )

    def _labels(self, root: Path, count: int) -> tuple[list[str], NDArray[np.bool_]]:
        """Concept names, and bool (concepts, images)."""
        folder = first_existing(root, ("Groundtruth/AllLabels", "AllLabels"), "label files")
        files = {path.stem.removeprefix("Labels_"): path for path in sorted(folder.glob("Labels_*.txt"))}
        if not files:
            raise DataError(f"wanted Labels_<concept>.txt in {folder}, found none")
        for listed in ("Concepts81.txt", "ConceptsList/Concepts81.txt", "NUS_WID_Tags/Concepts81.txt"):
            if (root / listed).is_file():
                missing = {text.strip() for _, text in numbered_lines(root / listed)} - files.keys()
                if missing:
                    raise DataError(f"{listed} names concepts without a label file: {sorted(missing)[:5]}")
        names = list(files)
        matrix = np.stack([_column(files[name], count) for name in names])
        if self.top is None:
            return names, matrix
        if not 1 <= self.top <= len(names):
            raise DataError(f"wanted the most frequent 1 to {len(names)} concepts, got {self.top}")
        kept = sorted(np.argsort(-matrix.sum(axis=1), kind="stable")[: self.top].tolist())
        return [names[c] for c in kept], matrix[kept]

    def _texts(self, root: Path, names: list[str]) -> Iterator[str | Refused]:
        """The text of each image in turn, read line by line beside the image list."""
        if self.tags == "1k":
            return _tags_1k(root, len(names))
        return _all_tags(first_existing(root, _tag_places("All_Tags.txt"), "tags"), names)


def _all_tags(path: Path, names: list[str]) -> Iterator[str | Refused]:
    """`All_Tags.txt`: the photograph's number, then its tags, in the order of the image list."""
    lines = numbered_lines(path)
    for name in names:
        number, line = next(lines, (0, _ENDED))
        if not number:
            raise DataError(f"{path.name} ends before the image list does ({len(names)} images)")
        photo, *tags = line.split()
        if photo != Path(name).stem.rpartition("_")[2]:
            yield Refused(
                f"{path.name} line {number}", f"is about photograph {photo[:20]!a}, not about {name[:80]!a}"
            )
        else:
            yield " ".join(tags)


def _tags_1k(root: Path, count: int) -> Iterator[str | Refused]:
    """`AllTags1k.txt`: 0 or 1 for each tag of `TagList1k.txt`, in the order of the image list."""
    listed = first_existing(root, _tag_places("TagList1k.txt"), "list of the 1,000 tags")
    tags = [text.strip() for _, text in numbered_lines(listed)]
    path = first_existing(root, _tag_places("AllTags1k.txt"), "tags")
    lines = numbered_lines(path)
    for _ in range(count):
        number, line = next(lines, (0, _ENDED))
        if not number:
            raise DataError(f"{path.name} ends before the image list does ({count} images)")
        marks = line.split()
        if len(marks) != len(tags) or not set(marks) <= {"0", "1"}:
            yield Refused(
                f"{path.name} line {number}", f"wanted {len(tags)} times 0 or 1, got {len(marks)} values"
            )
        else:
            yield " ".join(tag for tag, mark in zip(tags, marks, strict=True) if mark == "1")


def _column(path: Path, count: int) -> NDArray[np.bool_]:
    """One concept's labels as bool (images,); raises DataError for anything but `count` times 0 or 1.

    A file that is one line short would shift every label after it, so this is never forgiven.
    """
    try:
        marks = path.read_bytes().split()
    except OSError as error:
        raise DataError(f"unreadable {path.name} ({error.strerror})") from error
    if len(marks) != count or not set(marks) <= {b"0", b"1"}:
        raise DataError(f"{path.name}: wanted 0 or 1 on each of {count} lines, got {len(marks)} values")
    column: NDArray[np.bool_] = np.frombuffer(b"".join(marks), dtype=np.uint8) == ord("1")
    return column


def _tag_places(name: str) -> tuple[str, ...]:
    return (f"NUS_WID_Tags/{name}", name)


def _image(root: Path, name: str) -> str:
    """Where an image lies: copies of the set keep its folders or flatten them."""
    flat = name.rpartition("/")[2]
    places = [f"{folder}/{name}" for folder in _IMAGE_FOLDERS] + [name]
    places += [f"{folder}/{flat}" for folder in _IMAGE_FOLDERS] + [flat]
    return next((place for place in places if (root / place).is_file()), places[0])
