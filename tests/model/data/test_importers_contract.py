"""What holds for every importer there is: being in the registry is enough to be tested here."""

import json
import shutil
from pathlib import Path

import pytest
from data_set_files import SOURCES, Built, picture_bytes
from PIL import Image

from model.data.importers.base import Entry, Found, Refused
from model.data.importers.registry import IMPORTERS
from model.data.importers.writer import ImportOptions, ImportReport, PaperSplit, write_import
from model.data.manifest import check_manifest, read_manifest
from model.errors import DataError


@pytest.fixture(params=sorted(IMPORTERS))
def name(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def built(name: str, tmp_path: Path) -> Built:
    return SOURCES[name](tmp_path / "source")


def run(name: str, built: Built, out: Path, options: ImportOptions | None = None) -> ImportReport:
    return write_import(IMPORTERS[name]().entries(built.source), out, options or ImportOptions())


def files(folder: Path) -> dict[str, bytes]:
    """Content by path of every file below a folder."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in found}


def test_every_importer_has_a_source_here() -> None:
    assert set(IMPORTERS) == set(SOURCES)


def test_the_result_is_a_good_manifest_of_unchanged_pictures(name: str, built: Built, tmp_path: Path) -> None:
    report = run(name, built, tmp_path / "out")
    assert (report.items, report.refused) == (built.items, ())
    assert check_manifest(tmp_path / "out") == []
    manifest = read_manifest(tmp_path / "out")
    assert len(manifest.records) == built.items
    assert sum(report.splits.values()) == built.items
    assert report.labels == len(manifest.label_names)
    assert report.texts == sum(len(record.texts) for record in manifest.records)
    images = {record.image.read_bytes() for record in manifest.records if record.image}
    assert built.victim.read_bytes() in images
    assert images <= set(files(built.source if built.source.is_dir() else built.source.parent).values())


def test_the_same_source_gives_the_same_bytes(name: str, built: Built, tmp_path: Path) -> None:
    run(name, built, tmp_path / "one")
    run(name, built, tmp_path / "two")
    assert files(tmp_path / "one") == files(tmp_path / "two")


def test_a_broken_picture_is_refused_by_name_and_the_rest_taken(
    name: str, built: Built, tmp_path: Path
) -> None:
    built.victim.write_bytes(built.victim.read_bytes()[:200])
    report = run(name, built, tmp_path / "out")
    assert report.items == built.items - 1
    (refused,) = report.refused
    assert "broken_image" in refused.reason
    assert refused.record
    kept = json.loads((tmp_path / "out" / "import.json").read_text())
    assert kept["refused"] == [{"record": refused.record, "reason": refused.reason}]
    assert check_manifest(tmp_path / "out") == []


def test_strict_ends_at_the_first_refusal(name: str, built: Built, tmp_path: Path) -> None:
    built.victim.write_bytes(b"GIF89a no picture")
    with pytest.raises(DataError, match=r"strict: .*unsupported_image"):
        run(name, built, tmp_path / "out", ImportOptions(strict=True))
    assert not any(path.name != "source" for path in tmp_path.iterdir())


def test_a_missing_picture_or_a_link_out_of_the_source_is_refused(
    name: str, built: Built, tmp_path: Path
) -> None:
    (tmp_path / "secret.jpg").write_bytes(picture_bytes(99))
    built.victim.unlink()
    built.victim.symlink_to(tmp_path / "secret.jpg")
    report = run(name, built, tmp_path / "out")
    assert [refused.reason for refused in report.refused if "leaves the folder" in refused.reason]
    assert (tmp_path / "secret.jpg").read_bytes() not in files(tmp_path / "out").values()


def test_pictures_can_be_linked(name: str, built: Built, tmp_path: Path) -> None:
    run(name, built, tmp_path / "out", ImportOptions(link=True))
    inodes = {path.stat().st_ino for path in (tmp_path / "out" / "images").iterdir()}
    assert built.victim.stat().st_ino in inodes
    assert check_manifest(tmp_path / "out") == []


def test_pictures_can_be_shrunk(name: str, built: Built, tmp_path: Path) -> None:
    run(name, built, tmp_path / "out", ImportOptions(size=16))
    for path in (tmp_path / "out" / "images").iterdir():
        with Image.open(path) as image:
            assert (image.format, image.size) == ("JPEG", (16, 16))


def test_the_papers_split_is_disjoint_counted_and_stable(name: str, built: Built, tmp_path: Path) -> None:
    splits = {}
    for out, seed in (("one", 5), ("two", 5), ("three", 6)):
        report = run(name, built, tmp_path / out, ImportOptions(protocol=PaperSplit(1, 2, seed)))
        assert report.splits == {"database": built.items - 3, "query": 1, "train": 2}
        manifest = read_manifest(tmp_path / out)
        splits[out] = {record.id: record.split for record in manifest.records}
        assert sorted(splits[out].values()).count("train") == 2
    assert splits["one"] == splits["two"]
    with pytest.raises(DataError, match="the protocol wants"):
        run(name, built, tmp_path / "four", ImportOptions(protocol=PaperSplit(1000, 1)))
    assert not (tmp_path / "four").exists()


def test_a_folder_with_files_is_left_alone(name: str, built: Built, tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine").write_text("keep")
    with pytest.raises(DataError, match="holds files"):
        run(name, built, tmp_path / "out")
    assert files(tmp_path / "out") == {"mine": b"keep"}


def test_a_source_that_is_nothing_of_the_kind(name: str, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("hello\n")
    for source in (tmp_path / "none", tmp_path / "empty", tmp_path / "file", Path("/dev/null")):
        with pytest.raises(DataError) as caught:
            write_import(IMPORTERS[name]().entries(source), tmp_path / "out", ImportOptions())
        assert str(caught.value)
        assert not (tmp_path / "out").exists()


def test_every_file_of_a_source_may_be_rubbish(name: str, built: Built, tmp_path: Path) -> None:
    """Whatever one file is replaced by, the import ends with a report or a DataError, and never half done."""
    root = built.source if built.source.is_dir() else built.source.parent
    rubbish = (
        b"",
        b"\xff\xfe\x00\x01",
        b"\0" * 50,
        b"[" * 5000,
        b'a,b\n"',
        b"..\\..\\x.jpg\n" * 4,
        b"9" * 5000,
    )
    texts = sorted(path for path in root.rglob("*") if path.suffix in (".txt", ".json", ".csv"))
    # One of each kind: tags1.txt stands for tags2.txt.
    for path in {(path.parent, path.stem.rstrip("0123456789")): path for path in texts}.values():
        content = path.read_bytes()
        for bytes_ in rubbish:
            path.write_bytes(bytes_)
            try:
                run(name, built, tmp_path / "out")
            except DataError:
                assert not (tmp_path / "out").exists()
            else:
                assert check_manifest(tmp_path / "out") == []
                shutil.rmtree(tmp_path / "out")
        path.write_bytes(content)


def entry(number: int, root: Path, **change: object) -> Found:
    fields = {"texts": ("t",), "labels": ("l",), **change}
    return Found(f"row {number}", str(fields.pop("id", number)), root, **fields)  # type: ignore[arg-type]


def test_the_writer_checks_what_an_importer_says(tmp_path: Path) -> None:
    entries: list[Entry] = [
        entry(1, tmp_path),
        entry(2, tmp_path, id="1"),
        entry(3, tmp_path, id="a/b"),
        entry(4, tmp_path, texts=()),
        entry(5, tmp_path, split="test"),
        entry(6, tmp_path, image="../x.jpg"),
        entry(7, tmp_path, image="/etc/hostname"),
        entry(8, tmp_path, metadata={"a": None}),
        Refused("row 9", "said so itself"),
    ]
    report = write_import(entries, tmp_path / "out", ImportOptions())
    assert report.items == 1
    reasons = {refused.record: refused.reason for refused in report.refused}
    assert list(reasons) == [f"row {number}" for number in range(2, 10)]
    assert reasons["row 2"] == "id 1 was taken already"
    assert "neither image nor texts" in reasons["row 4"]
    assert "absolute path" in reasons["row 7"]
    assert reasons["row 9"] == "said so itself"


def test_texts_and_labels_can_be_required(tmp_path: Path) -> None:
    (tmp_path / "a.jpg").write_bytes(picture_bytes())
    entries = [entry(1, tmp_path), entry(2, tmp_path, texts=(), image="a.jpg"), entry(3, tmp_path, labels=())]
    report = write_import(entries, tmp_path / "out", ImportOptions(need_text=True, need_labels=True))
    assert [refused.reason for refused in report.refused] == [
        "no text, and texts were asked for",
        "no label, and labels were asked for",
    ]


def test_an_import_of_nothing_says_why(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"nothing to import: 0 records, all refused$"):
        write_import([], tmp_path / "out", ImportOptions())
    with pytest.raises(DataError, match=r"nothing to import: 1 record.*the first, row 1: no"):
        write_import([Refused("row 1", "no")], tmp_path / "out", ImportOptions())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        (ImportOptions(size=0), "wanted a size of 16 to 1024"),
        (ImportOptions(size=5000), "wanted a size of 16 to 1024"),
        (ImportOptions(size=64, link=True), "not both"),
        (ImportOptions(protocol=PaperSplit(0, 1)), "at least one query"),
        (ImportOptions(protocol=PaperSplit(1, -1)), "at least one query"),
    ],
)
def test_options_out_of_range(tmp_path: Path, options: ImportOptions, words: str) -> None:
    with pytest.raises(DataError, match=words):
        write_import([entry(1, tmp_path)], tmp_path / "out", options)


def test_the_suffix_comes_from_the_bytes(tmp_path: Path) -> None:
    for kind in ("PNG", "WEBP"):
        (tmp_path / f"{kind}.jpg").write_bytes(picture_bytes(kind=kind))
    entries = [entry(1, tmp_path, image="PNG.jpg"), entry(2, tmp_path, image="WEBP.jpg")]
    write_import(entries, tmp_path / "out", ImportOptions())
    assert sorted(path.name for path in (tmp_path / "out" / "images").iterdir()) == ["1.png", "2.webp"]
