"""`hashguard data`: what is printed, for people and for machines, and the exit status."""

import json
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from click.testing import Result
from data_set_files import SOURCES, write
from typer.testing import CliRunner

from model.data.commands import app
from model.data.manifest import read_manifest
from model.data.progress import progress_bar

MakeFolder = Callable[..., Path]


def run(*arguments: object) -> Result:
    # Wide, so that no table wraps the words that the tests look for.
    return CliRunner().invoke(app, [str(argument) for argument in arguments], env={"COLUMNS": "300"})


def test_sample_then_check(tmp_path: Path) -> None:
    drawn = run("sample", tmp_path / "set", "--pairs", 40, "--seed", 3)
    assert (drawn.exit_code, drawn.stdout) == (0, f"40 pairs, seed 3: {tmp_path / 'set'}\n")
    checked = run("check", tmp_path / "set")
    assert checked.exit_code == 0
    assert "no problems" in checked.stdout
    assert all(word in checked.stdout for word in ("items", "train", "database", "query", "labels", "texts"))


def test_both_speak_json(tmp_path: Path) -> None:
    drawn = run("sample", tmp_path / "set", "--pairs", 40, "--seed", 3, "--json")
    assert json.loads(drawn.stdout) == {"folder": str(tmp_path / "set"), "pairs": 40, "seed": 3}
    checked = json.loads(run("check", tmp_path / "set", "--json").stdout)
    assert (checked["ok"], checked["items"], checked["images"], checked["texts"]) == (True, 40, 40, 80)
    assert sum(checked["splits"].values()) == 40


def test_sample_refuses_a_folder_with_files(tmp_path: Path) -> None:
    (tmp_path / "mine").touch()
    result = run("sample", tmp_path, "--pairs", 3)
    assert result.exit_code == 1
    assert result.stderr.startswith("error: wanted a new or empty folder")
    assert run("sample", tmp_path / "new", "--pairs", 0).exit_code == 1
    assert run("sample", tmp_path / "new", "--pairs", "many").exit_code == 2


def test_check_names_bad_lines_and_exits_with_one(make_folder: MakeFolder) -> None:
    folder = make_folder(
        {"id": "a", "image": "images/a.jpg"}, b"[red]x[/red]", {"id": "a", "texts": ["t"]}, {"id": "[bold]"}
    )
    result = run("check", folder)
    assert result.exit_code == 1
    rows = [line.split("│")[1:3] for line in result.stdout.splitlines() if line.startswith("│")]
    assert [number.strip() for number, _ in rows] == ["2", "3", "4", "4"]
    assert "id a is already on line 1" in rows[1][1]
    assert "'[bold]'" in rows[2][1]  # a stranger's text is never read as markup


def test_check_as_json_lists_every_problem(make_folder: MakeFolder) -> None:
    folder = make_folder(*[b"{"] * 300)
    result = run("check", folder, "--json")
    assert result.exit_code == 1
    answer = json.loads(result.stdout)
    assert (answer["ok"], len(answer["problems"])) == (False, 300)
    assert answer["problems"][4]["line"] == 5
    assert "and 100 more (--json lists them all)" in run("check", folder).stdout


def test_check_of_no_folder(tmp_path: Path) -> None:
    result = run("check", tmp_path / "none")
    assert result.exit_code == 1
    assert "no readable pairs.jsonl" in result.stdout


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_importer_has_its_command(name: str, tmp_path: Path) -> None:
    built = SOURCES[name](tmp_path / "source")
    result = run("import", name, built.source, tmp_path / "out")
    assert result.exit_code == 0, result.output
    assert result.stdout.startswith(f"{built.items} items (")
    assert len(read_manifest(tmp_path / "out").records) == built.items
    assert run("import", name, built.source, tmp_path / "out").exit_code == 1


def test_the_shared_options_reach_the_writer(tmp_path: Path) -> None:
    built = SOURCES["coco"](tmp_path / "source")
    options = (
        "--queries",
        1,
        "--train",
        1,
        "--seed",
        4,
        "--require-text",
        "--require-labels",
        "--size",
        16,
        "--json",
    )
    result = run("import", "coco", built.source, tmp_path / "out", *options)
    report = json.loads(result.stdout)
    assert report["splits"] == {"query": 1, "train": 1}
    assert {refused["reason"].split(",")[0] for refused in report["refused"]} == {"no text", "no label"}


def test_options_of_one_importer_reach_it(tmp_path: Path) -> None:
    built = SOURCES["nuswide"](tmp_path / "nus")
    report = json.loads(
        run("import", "nuswide", built.source, tmp_path / "a", "--top", 1, "--tags", "1k", "--json").stdout
    )
    assert (report["labels"], report["texts"]) == (1, 3)
    built = SOURCES["mirflickr"](tmp_path / "mir")
    options = ("--relevant", "--common-tags", "--link", "--json")
    assert (
        json.loads(run("import", "mirflickr", built.source, tmp_path / "b", *options).stdout)["labels"] == 2
    )
    write(tmp_path / "x.csv", "key;say;also;of\nk;one;two;a+b\n")
    options = ("--id-column", "key", "--image-column", "", "--text-column", "say", "--text-column", "also",
               "--labels-column", "of", "--label-separator", "+", "--delimiter", ";", "--json")  # fmt: skip
    report = json.loads(run("import", "csv", tmp_path / "x.csv", tmp_path / "c", *options).stdout)
    assert (report["items"], report["labels"], report["texts"]) == (1, 2, 2)


def test_what_was_refused_is_shown_and_strict_makes_it_an_error(tmp_path: Path) -> None:
    rows = "".join(f"bad id {number},,text\n" for number in range(30))
    write(tmp_path / "x.csv", "id,image,text\ngood,,text\n" + rows)
    result = run("import", "csv", tmp_path / "x.csv", tmp_path / "out")
    assert result.exit_code == 0
    assert "30 record(s) refused" in result.stdout
    assert "line 3" in result.stdout
    assert "and 10 more" in result.stdout
    assert len(json.loads((tmp_path / "out" / "import.json").read_text())["refused"]) == 30
    strict = run("import", "csv", tmp_path / "x.csv", tmp_path / "strict", "--strict")
    assert strict.exit_code == 1
    assert strict.stderr.startswith("error: strict: line 3: id: wanted 1 to 200 characters")
    assert not (tmp_path / "strict").exists()


def test_half_a_protocol_is_an_error(tmp_path: Path) -> None:
    built = SOURCES["flickr8k"](tmp_path / "source")
    result = run("import", "flickr8k", built.source, tmp_path / "out", "--queries", 1)
    assert result.exit_code == 1
    assert "--queries and --train go together" in result.stderr


def test_the_progress_bar_is_silent_off_a_terminal(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    clock = iter(range(100))
    monkeypatch.setattr(time, "monotonic", lambda: float(next(clock)))
    with progress_bar("working") as report:
        report(1, 2)
        report(2, 0)
    assert capsys.readouterr().err == ""


def test_the_progress_bar_shows_on_a_terminal_after_a_second(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    with progress_bar("working") as report:
        report(1, 2)
    assert "working" not in capsys.readouterr().err
    with progress_bar("working") as report:
        time.sleep(1.05)
        report(1, 2)
    assert "working" in capsys.readouterr().err
