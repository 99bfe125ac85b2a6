"""Folders that appear in one step: what may be replaced, what may not, what a failure leaves behind."""

import json
import os
from pathlib import Path

import pytest

from model.data.folders import ManifestWriter, new_folder, write_json
from model.data.lines import Fields
from model.data.manifest import read_manifest
from model.errors import DataError


def make(out: Path) -> None:
    with new_folder(out) as folder, ManifestWriter(folder) as writer:
        writer.write(Fields("a", texts=("t",)))
        assert writer.count == 1


def test_the_result_appears_when_all_is_written(tmp_path: Path) -> None:
    out = tmp_path / "deep" / "set"
    with new_folder(out) as folder:
        assert not out.exists()
        assert folder.parent == out.parent.resolve()
        write_json(folder / "x.json", {"b": 1, "a": 2})
    assert json.loads((out / "x.json").read_text()) == {"a": 2, "b": 1}
    assert [path.name for path in out.parent.iterdir()] == ["set"]


def test_an_empty_folder_may_be_replaced(tmp_path: Path) -> None:
    (tmp_path / "set").mkdir()
    make(tmp_path / "set")
    assert len(read_manifest(tmp_path / "set").records) == 1


def test_the_result_is_as_readable_as_any_new_folder(tmp_path: Path) -> None:
    make(tmp_path / "set")
    (tmp_path / "plain").mkdir()
    assert (tmp_path / "set").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_a_failure_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(RuntimeError), new_folder(tmp_path / "set") as folder:
        (folder / "half").touch()
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["file", "full", "link"])
def test_what_is_there_is_never_replaced(tmp_path: Path, kind: str) -> None:
    out = tmp_path / "set"
    if kind == "file":
        out.write_text("mine")
    elif kind == "full":
        out.mkdir()
        (out / "mine").touch()
    else:
        (tmp_path / "elsewhere").mkdir()
        out.symlink_to(tmp_path / "elsewhere")
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(DataError, match="wanted a new"):
        make(out)
    assert sorted(tmp_path.rglob("*")) == before


def test_something_that_appears_meanwhile_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "set"
    with pytest.raises(DataError, match="cannot put the result at set"), new_folder(out):
        out.mkdir()
        (out / "mine").touch()
    assert [path.name for path in tmp_path.iterdir()] == ["set"]
    assert [path.name for path in out.iterdir()] == ["mine"]


def test_a_place_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match="cannot write beside"):
        make(tmp_path / "file" / "set")


def test_a_link_that_the_file_system_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    with new_folder(tmp_path / "set") as folder, ManifestWriter(folder) as writer:
        with pytest.raises(DataError, match="import without --link"):
            writer.link_image("a", ".jpg", tmp_path / "x.jpg")
        writer.write(Fields("a", texts=("t",)))
