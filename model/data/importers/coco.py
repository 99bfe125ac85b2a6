"""MS-COCO (2014 and 2017): captions as texts, the names of the object categories as labels.

Read are `annotations/captions_<part>.json` and `annotations/instances_<part>.json` for every part there
is (train2014, val2014, train2017, val2017), and the images of `<part>/` or `images/<part>/`. Lin et al.,
"Microsoft COCO: Common Objects in Context", 2014. The hashing papers drop images without any object
(122,218 of 123,287 remain): that is `need_labels` of the writer.
"""

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from model.data.importers.base import Entry, Found, Refused, first_existing
from model.data.importers.json_stream import stream_arrays
from model.data.paths import existing_folder
from model.errors import DataError


@dataclass(frozen=True)
class Coco:
    """`labels=False` imports the captions alone, without the instance files."""

    labels: bool = True

    def entries(self, source: Path) -> Iterator[Entry]:
        """Every image that a captions file lists."""
        root = existing_folder(source)
        files = sorted((root / "annotations").glob("captions_*.json"))
        if not files:
            raise DataError(f"wanted annotations/captions_*.json in {source}, found none")
        for captions in files:
            part = captions.stem.removeprefix("captions_")
            yield from self._part(root, captions, part)

    def _part(self, root: Path, captions: Path, part: str) -> Iterator[Entry]:
        folder = first_existing(root, (part, f"images/{part}"), f"images of {part}").relative_to(root)
        images = _Images()
        for key, element in stream_arrays(captions, "images", "annotations"):
            yield from images.add_image(element) if key == "images" else images.add_caption(element)
        names = _labels(captions.with_name(f"instances_{part}.json")) if self.labels else {}
        yield from images.orphans(captions.name)
        for number, file_name in images.files.items():
            yield Found(
                record=f"{captions.name} image {number}",
                id=str(number),
                root=root,
                image=f"{folder.as_posix()}/{file_name}",
                texts=tuple(images.captions.get(number, ())),
                labels=tuple(sorted(names.get(number, ()))),
                metadata={"part": part},
            )


@dataclass
class _Images:
    """File names and captions by image number."""

    files: dict[int, str] = field(default_factory=dict)
    captions: dict[int, list[str]] = field(default_factory=lambda: defaultdict(list))

    def add_image(self, element: Any) -> Iterator[Refused]:  # noqa: ANN401 - any JSON value
        number, name = _get(element, "id"), _get(element, "file_name")
        if not _whole(number) or not isinstance(name, str):
            yield Refused(f"image {str(element)[:80]}", "wanted a whole number as id and a file_name")
        else:
            self.files[number] = name

    def add_caption(self, element: Any) -> Iterator[Refused]:  # noqa: ANN401 - any JSON value
        number, caption = _get(element, "image_id"), _get(element, "caption")
        if not _whole(number) or not isinstance(caption, str) or not caption.strip():
            yield Refused(
                f"annotation {str(element)[:80]}", "wanted an image_id and a caption that is no blank"
            )
        else:
            self.captions[number].append(" ".join(caption.split()))

    def orphans(self, file: str) -> Iterator[Refused]:
        """Captions of images that the file does not list."""
        for number in sorted(self.captions.keys() - self.files.keys()):
            yield Refused(f"{file} captions of image {number}", "no such image in the file")


def _labels(path: Path) -> dict[int, set[str]]:
    """Category names by image number; raises DataError for annotations without a known category."""
    categories: dict[int, str] = {}
    found: dict[int, set[int]] = defaultdict(set)
    for key, element in stream_arrays(path, "categories", "annotations"):
        if key == "categories":
            number, name = _get(element, "id"), _get(element, "name")
            if not _whole(number) or not isinstance(name, str):
                raise DataError(f"{path.name}: wanted a category's id and name, got {str(element)[:80]}")
            categories[number] = name
        else:
            image, number = _get(element, "image_id"), _get(element, "category_id")
            if not _whole(image) or not _whole(number):
                raise DataError(f"{path.name}: wanted image_id and category_id, got {str(element)[:80]}")
            found[image].add(number)
    unknown = {number for numbers in found.values() for number in numbers} - categories.keys()
    if unknown:
        raise DataError(
            f"{path.name}: annotations of categories that it does not name: {sorted(unknown)[:5]}"
        )
    return {image: {categories[number] for number in numbers} for image, numbers in found.items()}


def _get(element: Any, key: str) -> Any:  # noqa: ANN401 - any JSON value
    return element.get(key) if isinstance(element, dict) else None


def _whole(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)
