"""`hashguard data import coco | mirflickr | nuswide | flickr8k | csv | folder SRC OUT`."""

from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from model.data.console import errors_end_the_command, show_json, show_line, show_table
from model.data.importers.base import Importer
from model.data.importers.coco import Coco
from model.data.importers.flickr8k import Flickr8k
from model.data.importers.mirflickr import MirFlickr
from model.data.importers.nuswide import NusWide
from model.data.importers.sidecars import Sidecars
from model.data.importers.table import Table
from model.data.importers.writer import ImportOptions, ImportReport, PaperSplit, write_import
from model.data.progress import progress_bar
from model.errors import DataError

import_app = typer.Typer(help="Public data sets' own files to a manifest folder.", no_args_is_help=True)

SHOWN = 20

Source = Annotated[Path, typer.Argument(help="The data set's folder.", metavar="SRC")]
Out = Annotated[Path, typer.Argument(help="A new or empty folder.", metavar="OUT")]
Link = Annotated[bool, typer.Option("--link", help="Hard-link images instead of copying them.")]
Size = Annotated[int | None, typer.Option(help="Squash images to N x N pixels (JPEG).", metavar="N")]
Strict = Annotated[bool, typer.Option("--strict", help="End at the first record that cannot be taken.")]
NeedText = Annotated[bool, typer.Option("--require-text", help="Refuse records without a text.")]
NeedLabels = Annotated[bool, typer.Option("--require-labels", help="Refuse records without a label.")]
Queries = Annotated[int | None, typer.Option(help="Draw N items as queries (with --train).", metavar="N")]
Train = Annotated[int | None, typer.Option(help="Draw N items for training (with --queries).", metavar="N")]
Seed = Annotated[int, typer.Option(help="Seed of that draw.")]
Json = Annotated[bool, typer.Option("--json", help="Print the report as one JSON document.")]


class Tags(StrEnum):
    """Which of NUS-WIDE's tag files is the text."""

    ALL = "all"
    COMMON = "1k"


@dataclass(frozen=True)
class _Draw:
    queries: int | None
    train: int | None
    seed: int

    def protocol(self) -> PaperSplit | None:
        """The papers' split, when both numbers are given."""
        if self.queries is None and self.train is None:
            return None
        if self.queries is None or self.train is None:
            raise DataError("--queries and --train go together: one of them is missing")
        return PaperSplit(self.queries, self.train, self.seed)


@import_app.command()
def coco(
    source: Source, out: Out, labels: Annotated[bool, typer.Option(help="Read the instances, too.")] = True,
    link: Link = False, size: Size = None, strict: Strict = False, require_text: NeedText = False,
    require_labels: NeedLabels = False, queries: Queries = None, train: Train = None, seed: Seed = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """MS-COCO: annotations/captions_*.json, annotations/instances_*.json and the image folders."""
    options = ImportOptions(link, size, strict, require_text, require_labels)
    _import(Coco(labels), source, out, options, _Draw(queries, train, seed), as_json)


@import_app.command()
def mirflickr(
    source: Source, out: Out,
    relevant: Annotated[bool, typer.Option("--relevant", help="The 14 _r1 labels, not the 24.")] = False,
    raw_tags: Annotated[bool, typer.Option("--raw-tags", help="Tags as typed (meta/tags_raw).")] = False,
    common_tags: Annotated[bool, typer.Option("--common-tags", help="Only doc/common_tags.txt.")] = False,
    link: Link = False, size: Size = None, strict: Strict = False, require_text: NeedText = False,
    require_labels: NeedLabels = False, queries: Queries = None, train: Train = None, seed: Seed = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """MIRFlickr-25K: im*.jpg, meta/tags/ and annotations/."""
    options = ImportOptions(link, size, strict, require_text, require_labels)
    _import(
        MirFlickr(relevant, raw_tags, common_tags), source, out, options, _Draw(queries, train, seed), as_json
    )


@import_app.command()
def nuswide(
    source: Source, out: Out,
    top: Annotated[int | None, typer.Option(help="Keep the N most frequent concepts (papers: 21).")] = None,
    tags: Annotated[Tags, typer.Option(help="All tags, or the 1,000 of AllTags1k.txt.")] = Tags.ALL,
    images: Annotated[Path | None, typer.Option(help="The image folder, if it is not below SRC.")] = None,
    link: Link = False, size: Size = None, strict: Strict = False, require_text: NeedText = False,
    require_labels: NeedLabels = False, queries: Queries = None, train: Train = None, seed: Seed = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """NUS-WIDE: ImageList/, Groundtruth/AllLabels/, NUS_WID_Tags/ and the images."""
    options = ImportOptions(link, size, strict, require_text, require_labels)
    importer = NusWide(top, "1k" if tags is Tags.COMMON else "all", images)
    _import(importer, source, out, options, _Draw(queries, train, seed), as_json)


@import_app.command()
def flickr8k(
    source: Source, out: Out,
    link: Link = False, size: Size = None, strict: Strict = False, require_text: NeedText = False,
    require_labels: NeedLabels = False, queries: Queries = None, train: Train = None, seed: Seed = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Flickr8k: Flickr8k.token.txt or captions.txt, the split files and the image folder."""
    options = ImportOptions(link, size, strict, require_text, require_labels)
    _import(Flickr8k(), source, out, options, _Draw(queries, train, seed), as_json)


@import_app.command(name="csv")
def table(
    source: Annotated[Path, typer.Argument(help="The CSV file.", metavar="SRC")], out: Out,
    id_column: Annotated[str, typer.Option(help="Column of the ids.")] = "id",
    image_column: Annotated[str, typer.Option(help="Column of the image paths ('' for none).")] = "image",
    text_column: Annotated[list[str] | None, typer.Option(help="Column of a text; repeatable.")] = None,
    labels_column: Annotated[str, typer.Option(help="Column of the labels.")] = "",
    split_column: Annotated[str, typer.Option(help="Column of the split.")] = "",
    label_separator: Annotated[str, typer.Option(help="What separates labels in their cell.")] = ";",
    delimiter: Annotated[str, typer.Option(help="What separates cells.")] = ",",
    images: Annotated[Path | None, typer.Option(help="Folder that image paths are relative to.")] = None,
    link: Link = False, size: Size = None, strict: Strict = False, require_text: NeedText = False,
    require_labels: NeedLabels = False, queries: Queries = None, train: Train = None, seed: Seed = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """A CSV file with a header; columns that no option names become metadata."""
    options = ImportOptions(link, size, strict, require_text, require_labels)
    texts = ("text",) if text_column is None else tuple(column for column in text_column if column)
    importer = Table(
        id_column, image_column or None, texts, labels_column or None, split_column or None, label_separator,
        delimiter, images,
    )  # fmt: skip
    _import(importer, source, out, options, _Draw(queries, train, seed), as_json)


@import_app.command()
def folder(
    source: Source, out: Out,
    folder_labels: Annotated[
        bool, typer.Option("--folder-labels", help="The first folder's name is a label.")
    ] = False,
    link: Link = False, size: Size = None, strict: Strict = False, require_text: NeedText = False,
    require_labels: NeedLabels = False, queries: Queries = None, train: Train = None, seed: Seed = 0,
    as_json: Json = False,
) -> None:  # fmt: skip
    """A folder of images with a .txt or .json beside each."""
    options = ImportOptions(link, size, strict, require_text, require_labels)
    _import(Sidecars(folder_labels), source, out, options, _Draw(queries, train, seed), as_json)


def _import(
    importer: Importer, source: Path, out: Path, options: ImportOptions, draw: _Draw, as_json: bool
) -> None:
    with errors_end_the_command(), progress_bar("importing", quiet=as_json) as progress:
        settled = replace(options, protocol=draw.protocol())
        report = write_import(importer.entries(source), out, settled, progress)
    if as_json:
        show_json(report.as_json())
    else:
        _show(report, out)


def _show(report: ImportReport, out: Path) -> None:
    counts = ", ".join(f"{name} {count}" for name, count in report.splits.items())
    show_line(f"{report.items} items ({counts}), {report.labels} labels, {report.texts} texts: {out}")
    if report.refused:
        rows = [(refused.record, refused.reason) for refused in report.refused[:SHOWN]]
        show_table(f"{len(report.refused)} record(s) refused", ("record", "why"), rows)
        if len(report.refused) > SHOWN:
            show_line(f"... and {len(report.refused) - SHOWN} more, all of them in {out / 'import.json'}")
