"""MIRFlickr-25K: the photographers' tags as text, the annotated topics as labels.

Read are `im<N>.jpg`, `meta/tags/tags<N>.txt` (one tag a line; `tags_raw` by option), and the annotation
files, each named after a topic and holding one image number a line: 24 "potential" labels, and 14
"relevant" ones in files that end in `_r1`. Huiskes and Lew, "The MIR Flickr Retrieval Evaluation", 2008.
The hashing papers keep the 1,386 tags of `doc/common_tags.txt` (those given at least 20 times) and drop
images left without a tag or a label: `common_tags` here, `need_text` and `need_labels` of the writer.
"""

import re
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from model.data.importers.base import Entry, Found, Refused, first_existing, numbered_lines
from model.data.paths import existing_folder
from model.errors import DataError

_ANNOTATIONS = (
    "annotations",
    "mirflickr25k_annotations_v080",
    "annotations_v080",
    "mirflickr/annotations",
    "mirflickr/mirflickr25k_annotations_v080",
)
_IMAGE = re.compile(r"im([0-9]{1,7})\.jpg")


@dataclass(frozen=True)
class MirFlickr:
    """`relevant` takes the 14 `_r1` labels instead of the 24 potential ones; `raw_tags` the tags as typed."""

    relevant: bool = False
    raw_tags: bool = False
    common_tags: bool = False

    def entries(self, source: Path) -> Iterator[Entry]:
        """Every `im<N>.jpg`, in the order of the numbers."""
        root = existing_folder(source)
        base = root / "mirflickr" if (root / "mirflickr").is_dir() else root
        matches = (_IMAGE.fullmatch(path.name) for path in base.iterdir())
        numbers = sorted(int(match[1]) for match in matches if match)
        if not numbers:
            raise DataError(f"wanted im<N>.jpg in {base}, found none")
        tags = first_existing(base, ("meta/tags_raw" if self.raw_tags else "meta/tags",), "tags")
        kept = _common(base / "doc" / "common_tags.txt") if self.common_tags else None
        labels: dict[int, list[str]] = defaultdict(list)
        yield from self._annotations(first_existing(root, _ANNOTATIONS, "annotations"), set(numbers), labels)
        for number in numbers:
            yield _image(root, base, number, tags / f"tags{number}.txt", labels.get(number, []), kept)

    def _annotations(
        self, folder: Path, numbers: set[int], labels: dict[int, list[str]]
    ) -> Iterator[Refused]:
        """Fill `labels` from the topic files; yields the lines that name no image of the source."""
        files = [path for path in sorted(folder.glob("*.txt")) if path.stem.lower() != "readme"]
        files = [path for path in files if path.stem.endswith("_r1") == self.relevant]
        if not files:
            raise DataError(
                f"wanted files of {'relevant' if self.relevant else 'potential'} labels in {folder}"
            )
        for path in files:
            for line, text in numbered_lines(path):
                number = int(text) if re.fullmatch(r"\s*[0-9]{1,7}\s*", text, re.ASCII) else None
                if number not in numbers:
                    yield Refused(f"{path.name} line {line}", f"no image of the number {text[:20]!a}")
                else:
                    labels[number].append(path.stem.removesuffix("_r1"))


def _image(
    root: Path, base: Path, number: int, tags: Path, labels: list[str], kept: frozenset[str] | None
) -> Entry:
    if not tags.is_file():
        return Refused(f"im{number}.jpg", f"no {tags.name}")
    words = [text.strip() for _, text in numbered_lines(tags)]
    text = " ".join(word for word in words if kept is None or word in kept)
    return Found(
        record=f"im{number}.jpg",
        id=f"im{number}",
        root=root,
        image=(base / f"im{number}.jpg").relative_to(root).as_posix(),
        texts=(text,) if text else (),
        labels=tuple(labels),
    )


def _common(path: Path) -> frozenset[str]:
    """The tags of `doc/common_tags.txt`, whose lines are a tag and its count."""
    return frozenset(text.split()[0] for _, text in numbered_lines(path))
