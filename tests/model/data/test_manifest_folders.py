"""Manifest folders: reading, naming every bad line, splits from hashes, fingerprints."""

import os
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from model.data.lines import MAX_LINE_BYTES
from model.data.manifest import (
    Problem,
    check_manifest,
    inspect_manifest,
    read_manifest,
    split_of,
)
from model.data.paths import MAX_IMAGE_BYTES, existing_folder, locate, read_image_bytes
from model.errors import DataError, ManifestError

MakeFolder = Callable[..., Path]

A = {"id": "a", "image": "images/a.jpg", "texts": ["one", "uno"], "labels": ["dog", "cat"], "split": "query"}
B = {"id": "b", "image": "images/b.jpg", "labels": ["dog"], "metadata": {"year": 2011, "tags": ["x"]}}
C = {"id": "c", "image": None, "texts": ["three"], "labels": [], "split": "train"}


@pytest.fixture
def good(make_folder: MakeFolder) -> Path:
    return make_folder(A, B, C, images=("a.jpg", "b.jpg"))


def test_a_good_folder_is_read_as_written(good: Path) -> None:
    manifest = read_manifest(good)
    assert [record.id for record in manifest.records] == ["a", "b", "c"]
    first, second, third = manifest.records
    assert first.image == (good / "images" / "a.jpg").resolve()
    assert (first.texts, first.labels, first.split) == (("one", "uno"), ("dog", "cat"), "query")
    assert second.metadata == {"year": 2011, "tags": ["x"]}
    assert second.split == split_of("b")
    assert third.image is None
    assert manifest.label_names == ("cat", "dog")
    assert check_manifest(good) == []


def test_records_by_split_and_their_label_matrix(good: Path) -> None:
    manifest = read_manifest(good)
    assert [record.id for record in manifest.of_split("query", "train")] == [
        record.id for record in manifest.records if record.split != "database"
    ]
    matrix = manifest.label_matrix(manifest.records)
    assert matrix.dtype == np.bool_
    assert matrix.tolist() == [[True, True], [False, True], [False, False]]
    assert manifest.label_matrix(()).shape == (0, 2)


def test_every_bad_line_is_named_with_its_number(make_folder: MakeFolder) -> None:
    folder = make_folder(
        A,  # 1: good
        b"nonsense",  # 2
        {**A, "id": "d", "split": "test"},  # 3
        b"",  # 4: blank lines are no items
        {**A, "texts": ["other"]},  # 5: the id of line 1
        {**A, "id": "e", "image": "images/none.jpg"},  # 6
        {**A, "id": "f", "image": "../a.jpg"},  # 7
        {**A, "id": "g", "image": "images/text.jpg"},  # 8
        {**A, "id": "h", "image": "images/short.jpg"},  # 9
        {**A, "id": "i", "image": "images"},  # 10
        {"id": 1, "image": 2},  # 11: three faults
        {**A, "id": "j", "image": "images/empty.jpg"},  # 12
        images=("a.jpg", "text.jpg", "short.jpg"),
    )
    images = folder / "images"
    (images / "text.jpg").write_text("a text file")
    (images / "short.jpg").write_bytes((images / "a.jpg").read_bytes()[:300])
    (images / "empty.jpg").touch()
    manifest, problems = inspect_manifest(folder)
    assert [record.id for record in manifest.records] == ["a"]
    assert Counter(problem.line for problem in problems) == {
        2: 1, 3: 1, 5: 1, 6: 1, 7: 1, 8: 1, 9: 1, 10: 1, 11: 2, 12: 1
    }  # fmt: skip
    words = {problem.line: problem.message for problem in problems}
    assert "id a is already on line 1" in words[5]
    assert "no file 'images/none.jpg'" in words[6]
    assert "unsupported_image" in words[8]
    assert "broken_image" in words[9]
    assert "no regular file" in words[10]
    assert "empty_file" in words[12]


def test_reading_refuses_with_all_problems_but_decodes_nothing(make_folder: MakeFolder) -> None:
    folder = make_folder(A, b"{", b"[]")
    with pytest.raises(ManifestError) as caught:
        read_manifest(folder)
    assert [problem.split(":")[0] for problem in caught.value.problems] == ["line 2", "line 3"]
    assert "2 problem(s)" in str(caught.value)
    (folder / "pairs.jsonl").write_text('{"id": "a", "image": "images/a.jpg"}\n')
    (folder / "images" / "a.jpg").write_bytes(b"no picture")
    assert len(read_manifest(folder).records) == 1


def test_a_long_list_of_problems_is_cut_in_the_message_only(make_folder: MakeFolder) -> None:
    folder = make_folder(*[b"{"] * 50)
    with pytest.raises(ManifestError, match="and 30 more") as caught:
        read_manifest(folder)
    assert len(caught.value.problems) == 50


def test_a_manifest_that_is_not_there_or_empty(tmp_path: Path, make_folder: MakeFolder) -> None:
    assert check_manifest(tmp_path / "none")[0].line == 0
    assert "no readable pairs.jsonl" in str(check_manifest(tmp_path)[0])
    assert [str(problem) for problem in check_manifest(make_folder())] == ["pairs.jsonl holds no item"]


def test_a_pipe_as_manifest_or_image_does_not_block(make_folder: MakeFolder) -> None:
    folder = make_folder({**A, "image": "images/pipe.jpg"})
    os.mkfifo(folder / "images" / "pipe.jpg")
    assert "no regular file" in check_manifest(folder)[0].message
    (folder / "pairs.jsonl").unlink()
    os.mkfifo(folder / "pairs.jsonl")
    assert "no regular file" in check_manifest(folder)[0].message


def test_links_may_stay_but_not_leave(
    make_folder: MakeFolder, tmp_path: Path, picture: Callable[..., bytes]
) -> None:
    folder = make_folder(
        A, {**A, "id": "b", "image": "images/in.jpg"}, {**A, "id": "c", "image": "images/out.jpg"}
    )
    (tmp_path / "secret.jpg").write_bytes(picture())
    (folder / "images" / "in.jpg").symlink_to("a.jpg")
    (folder / "images" / "out.jpg").symlink_to(tmp_path / "secret.jpg")
    problems = check_manifest(folder)
    assert [problem.line for problem in problems] == [3]
    assert "link that leaves the folder" in problems[0].message


def test_a_link_in_a_circle_is_a_missing_file(make_folder: MakeFolder) -> None:
    folder = make_folder({**A, "image": "images/loop.jpg"})
    (folder / "images" / "loop.jpg").symlink_to("loop.jpg")
    assert "no file" in check_manifest(folder)[0].message


def test_a_line_without_end_costs_one_line(make_folder: MakeFolder) -> None:
    folder = make_folder(A, b'{"id": "' + b"x" * (3 * MAX_LINE_BYTES), {**A, "id": "b"})
    problems = check_manifest(folder)
    assert problems == [Problem(2, f"longer than {MAX_LINE_BYTES} bytes")]
    (folder / "pairs.jsonl").write_bytes(b"x" * (2 * MAX_LINE_BYTES))
    assert [problem.line for problem in check_manifest(folder)] == [1]


def test_a_byte_order_mark_is_no_fault(make_folder: MakeFolder) -> None:
    folder = make_folder(A)
    (folder / "pairs.jsonl").write_bytes(b"\xef\xbb\xbf" + (folder / "pairs.jsonl").read_bytes())
    assert check_manifest(folder) == []


def test_splits_by_hash_are_stable_disjoint_and_of_the_stated_size() -> None:
    counts = Counter(split_of(f"item-{number}") for number in range(20_000))
    assert counts["train"] == pytest.approx(14_000, abs=300)
    assert counts["database"] == pytest.approx(4_000, abs=250)
    assert counts["query"] == pytest.approx(2_000, abs=200)
    # SHA-256 of "a" begins with ca97, that is 0.79; of "b" with 3e23, of "f" with 252f, of "k" with 8254.
    assert [split_of(name) for name in "abfk"] == ["database", "train", "train", "train"]


def test_the_fingerprint_ignores_place_and_order_only(good: Path, tmp_path: Path) -> None:
    before = read_manifest(good).fingerprint
    assert len(before) == 64
    moved = tmp_path / "elsewhere"
    shutil.copytree(good, moved)
    lines = (moved / "pairs.jsonl").read_text().splitlines(keepends=True)
    (moved / "pairs.jsonl").write_text("".join(reversed(lines)))
    assert read_manifest(moved).fingerprint == before


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('"id": "c"', '"id": "x"'),
        ('["one", "uno"]', '["one"]'),
        ('["one", "uno"]', '["uno", "one"]'),
        ('["dog", "cat"]', '["dog"]'),
        ('"split": "query"', '"split": "database"'),
        ('["one", "uno"], "labels": ["dog", "cat"]', '["one"], "labels": ["uno", "dog", "cat"]'),
    ],
)
def test_the_fingerprint_sees_every_field(good: Path, old: str, new: str) -> None:
    before = read_manifest(good).fingerprint
    text = (good / "pairs.jsonl").read_text()
    assert old in text
    (good / "pairs.jsonl").write_text(text.replace(old, new))
    assert read_manifest(good).fingerprint != before


def test_the_fingerprint_sees_the_pixels_and_a_vanished_image(good: Path) -> None:
    before = read_manifest(good).fingerprint
    shutil.copy(good / "images" / "b.jpg", good / "images" / "a.jpg")
    manifest = read_manifest(good)
    (good / "images" / "b.jpg").unlink()
    with pytest.raises(DataError, match="unreadable"):
        _ = manifest.fingerprint
    shutil.copy(good / "images" / "a.jpg", good / "images" / "b.jpg")
    assert read_manifest(good).fingerprint != before


def test_progress_counts_every_line(good: Path) -> None:
    seen: list[tuple[int, int]] = []
    check_manifest(good, lambda done, total: seen.append((done, total)))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_an_image_file_has_a_largest_size(tmp_path: Path) -> None:
    with (tmp_path / "large.jpg").open("wb") as handle:
        handle.truncate(MAX_IMAGE_BYTES + 1)  # sparse: takes no disk
    with pytest.raises(DataError, match="wanted at most 64 MiB"):
        read_image_bytes(tmp_path / "large.jpg")


def test_a_path_is_checked_again_where_it_is_opened(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"'\.\.'"):
        locate(tmp_path.resolve(), "../x")
    with pytest.raises(DataError, match="wanted a folder"):
        existing_folder(tmp_path / "none")
