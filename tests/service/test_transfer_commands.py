"""`hashguard index export | import | import-codes`: what people and machines see, with a real tiny model."""

from __future__ import annotations

import json
import logging
import sys
from pathlib import Path

import numpy as np
import pytest
import structlog

sys.path.insert(0, str(Path(__file__).parent / "api"))

from tiny import BITS, make_model

from service import cli
from service.commands.home import adopt_model
from service.commands.options import settings_with

COUNT = 40


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """Two tiny models of the same width, `tiny/1` and `tiny/2`."""
    folder = tmp_path_factory.mktemp("models")
    return [make_model(folder), make_model(folder, seed=1)]


@pytest.fixture
def home(tmp_path, models):
    adopt_model(settings_with(home=tmp_path / "home"), str(models[0]))
    return tmp_path / "home"


@pytest.fixture
def run(capsys, monkeypatch):
    """Runs the command in this process: status, standard output, standard error."""
    monkeypatch.delenv("HASHGUARD_HOME", raising=False)
    monkeypatch.setenv("HASHGUARD_DEVICE", "cpu")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


@pytest.fixture
def given(tmp_path):
    """Options that name files of ready codes for both sides."""
    (tmp_path / "ids.txt").write_text("".join(f"i{number}\n" for number in range(COUNT)))
    codes = np.random.default_rng(0).integers(0, 256, (COUNT, BITS // 8), dtype=np.uint8)
    np.save(tmp_path / "codes.npy", codes)
    sides = ("--image-codes", tmp_path / "codes.npy", "--text-codes", tmp_path / "codes.npy")
    return ("--ids", tmp_path / "ids.txt", *sides)


def test_ready_codes_in_and_out_and_in_again(run, home, given, tmp_path):
    status, out, _ = run("index", "import-codes", *given, "--model", "tiny/1", "--home", home, "--json")
    report = json.loads(out)
    assert (status, report["items"], report["created"], report["model"]) == (0, COUNT, COUNT, "tiny/1")
    status, out, _ = run("index", "verify", "--home", home, "--json")
    [found] = json.loads(out)["generations"]
    assert (status, found["id"], found["image_count"]) == (0, report["generation"], COUNT)
    status, out, _ = run("index", "export", tmp_path / "out", "--home", home)
    assert status == 0
    assert f"{COUNT} image and {COUNT} text codes of tiny/1" in out
    status, out, _ = run("index", "import", tmp_path / "out", "--home", home, "--backend", "memory", "--json")
    taken = json.loads(out)
    counts = {"new": 0, "known": 2 * COUNT, "changed": 0, "absent": 0, "encoded": 0}
    assert (status, taken["codes"], taken["model"]) == (0, counts, "tiny/1")
    meta = json.loads((home / "generations" / taken["generation"] / "META.json").read_text())
    assert (meta["backend"], meta["counts"]) == ("memory", {"image": COUNT, "text": COUNT})


def test_people_read_lines(run, home, given, tmp_path):
    status, out, _ = run("index", "import-codes", *given, "--model", "tiny/1", "--home", home)
    assert status == 0
    assert f"of tiny/1 is live: {COUNT} items, {COUNT} of them new" in out
    status, out, _ = run("index", "export", tmp_path / "out", "--home", home, "--model", "tiny/1", "--json")
    assert json.loads(out)["codes"] == {"image": COUNT, "text": COUNT}
    status, out, _ = run("index", "import", tmp_path / "out", "--home", home)
    assert status == 0
    assert f"0 new, {2 * COUNT} known" in out
    assert "0 items were encoded" in out
    status, out, _ = run("index", "import", tmp_path / "out", "--home", home, "--codes-only")
    assert "is live" not in out


def test_what_another_models_import_leaves_out_is_named(run, home, given, tmp_path, models):
    """Forty bare items of tiny/1, thirty of them with codes of tiny/2: ten are in no index of it."""
    run("index", "import-codes", *given, "--model", "tiny/1", "--home", home)
    adopt_model(settings_with(home=home), str(models[1]))
    status, _, err = run("index", "build", "--home", home, "--model", "tiny/2")
    assert status == 1
    assert f"{COUNT} items came as bare codes of another model" in " ".join(err.split())
    (tmp_path / "ids.txt").write_text("".join(f"i{number}\n" for number in range(30)))
    np.save(tmp_path / "codes.npy", np.load(tmp_path / "codes.npy")[:30])
    import_again = ("index", "import-codes", *given, "--model", "tiny/2", "--home", home)
    status, _, err = run(*import_again)
    assert (status, "10 items are not in it" in err, "the first are i30, i31, i32" in err) == (0, True, True)
    report = json.loads(run(*import_again, "--json")[1])
    assert report["left_out"] == {"count": 10, "ids": ["i30", "i31", "i32", "i33", "i34"]}


def test_a_build_that_goes_on_without_bare_items_names_them(run, home, given, models, monkeypatch):
    run("index", "import-codes", *given, "--model", "tiny/1", "--home", home)
    adopt_model(settings_with(home=home), str(models[1]))
    monkeypatch.setenv("HASHGUARD_REINDEX_SKIPS_BROKEN_ITEMS", "true")
    status, _, err = run("index", "build", "--home", home, "--model", "tiny/2")
    assert (status, f"{COUNT} items are not in it (bare): i0, i1, i10, i11, i12" in err) == (0, True), err


def test_another_models_export_is_refused(run, home, given, tmp_path, models):
    run("index", "import-codes", *given, "--model", "tiny/1", "--home", home)
    run("index", "export", tmp_path / "out", "--home", home)
    other = tmp_path / "other"
    adopt_model(settings_with(home=other), str(models[1]))
    status, _, err = run("index", "import", tmp_path / "out", "--home", other)
    assert status == 1
    assert "is not in this home; there are: tiny/2" in " ".join(err.split())


def test_what_cannot_be_is_one_line(run, home, given, tmp_path):
    calls = [
        (("import-codes", *given[:2], "--model", "tiny/1"), "give --image-codes"),
        (("import-codes", *given, "--model", "tiny/9"), "no model 'tiny/9'"),
        (("import-codes", *given, "--model", "tiny/1", "--backend", "abacus"), "'abacus'"),
        (("import-codes", *given, "--model", "tiny/1", "--backend", "pgvector"), "HASHGUARD_INDEX_URL"),
        (("export", tmp_path / "out"), "no generation is live"),
        (("export", tmp_path / "out", "--model", "tiny/1"), "no codes of tiny/1"),
        (("import", tmp_path / "nothing"), "cannot be read"),
    ]
    for arguments, words in calls:
        status, out, err = run("index", *arguments, "--home", home)
        assert (status, out) == (1, "")
        assert words in " ".join(err.split())
        assert len(err.strip().splitlines()) == 1
    assert run("index", "import-codes", *given, "--home", home)[0] == 2


def test_bad_files_leave_nothing(run, home, given, tmp_path):
    with (tmp_path / "ids.txt").open("a") as file:
        file.write("i0\n")
    np.save(tmp_path / "codes.npy", np.zeros((COUNT + 1, BITS // 8), np.uint8))
    status, _, err = run("index", "import-codes", *given, "--model", "tiny/1", "--home", home)
    assert status == 1
    assert "wanted distinct ids" in err
    assert not (home / "generations").exists()
