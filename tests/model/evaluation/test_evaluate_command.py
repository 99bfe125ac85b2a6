"""`hashguard evaluate` on real artefacts: statuses, reports, resuming after a kill, missing towers."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import pytest
import torch
import typer
from typer.testing import CliRunner
from variants import save_variant

from model.data.manifest import read_manifest
from model.evaluation.commands import evaluate
from model.evaluation.launch import Order, prepare, run
from model.evaluation.watching import Terminal, span
from model.training.stopping import Stopped, StopWish

app = typer.Typer()
app.command()(evaluate)

ATTACKS = "apgd:mainstay@16/255,noise:mainstay,typos:mainstay"
LONGER = ",".join(f"apgd:mainstay@{level}/255" for level in (16, 8, 4, 2)) + ",words:mainstay"
QUERIES = 24


def strict_json(text):
    def refuse(name):
        raise AssertionError(f"JSON with {name}")

    return json.loads(text, parse_constant=refuse)


def without_times(value):
    if isinstance(value, dict):
        return {key: without_times(item) for key, item in value.items() if key != "seconds"}
    return [without_times(item) for item in value] if isinstance(value, list) else value


def report_of(out):
    return strict_json((out / "report.json").read_text())


@pytest.fixture(scope="module")
def defended_folder(undefended, tmp_path_factory):
    """The undefended weights under another name: what a model with a useless defence is."""
    return save_variant(undefended, tmp_path_factory.mktemp("models"), "claimed", defence="saat")


@pytest.fixture
def call(small_data, tmp_path):
    def invoke(*options, out="out", data=None, queries=QUERIES):
        words = ["--data", str(data or small_data), "--out", str(tmp_path / out), "--device", "cpu"]
        words += ["--queries", str(queries), *map(str, options)]
        return CliRunner().invoke(app, words), tmp_path / out

    return invoke


@pytest.fixture(scope="module")
def quiet_run(undefended_folder, small_data, tmp_path_factory):
    """An uninterrupted run of LONGER."""
    out = tmp_path_factory.mktemp("quiet") / "out"
    words = ["--data", str(small_data), "--model", str(undefended_folder), "--attacks", LONGER]
    words += ["--out", str(out), "--queries", str(QUERIES), "--device", "cpu"]
    ran = CliRunner().invoke(app, words)
    assert ran.exit_code == 0, ran.output
    return out


def command(small_data, model, out):
    words = [sys.executable, "-m", "model.cli", "evaluate", "--data", small_data, "--model", model]
    words += ["--attacks", LONGER, "--out", out, "--queries", QUERIES, "--device", "cpu"]
    return [str(word) for word in words]


def test_a_report_says_what_was_done_and_what_came_of_it(quiet_run, undefended, small_data):
    report = report_of(quiet_run)
    manifest = read_manifest(small_data)
    assert report["data"]["fingerprint"] == manifest.fingerprint
    assert report["data"]["queries"] == QUERIES
    assert report["models"][0]["digest"] == undefended.digest
    assert {check["holds"] for check in report["checks"]} == {True}
    keys = {"model", "defence", "seed", "bits", "task", "attack", "norm", "eps", "map", "map_at_50", "n"}
    assert all(keys | {"bit_flips", "chance"} <= set(row) for row in report["rows"])
    case_keys = {"model", "task", "norm", "eps", "map", "lo", "hi", "clean_map", "n", "attacks"}
    assert all(case_keys <= set(case) for case in report["worst_case"])
    assert all(case["lo"] <= case["map"] <= case["hi"] for case in report["worst_case"])
    clean = [row for row in report["rows"] if row["attack"] == "none"]
    assert len(clean) == 8
    assert {row["eps"] for row in clean} == {0.0}
    worst = {(c["task"], c["protocol"], round(c["eps"] * 255)): c for c in report["worst_case"]}
    curve = [worst["image-to-text", "train+database", level]["map"] for level in (2, 4, 8, 16)]
    assert curve == sorted(curve, reverse=True)
    assert curve[-1] < worst["image-to-text", "train+database", 16]["chance"] + 0.05
    assert report["threat"]["command"].startswith("hashguard evaluate --data scenes --model small-0/1")
    assert str(small_data.parent) not in json.dumps(report)


def test_the_page_is_written_beside_it(quiet_run):
    page = (quiet_run / "report.html").read_text()
    assert page.startswith("<!doctype html>") or page.lower().startswith("<!doctype html>")
    assert "small-0/1" in page


def test_a_run_killed_in_the_middle_goes_on_to_the_same_report(
    quiet_run, small_data, undefended_folder, tmp_path
):
    out = tmp_path / "out"
    environment = {**os.environ, "OMP_NUM_THREADS": str(torch.get_num_threads())}
    words = command(small_data, undefended_folder, out)
    with subprocess.Popen(words, env=environment, stderr=subprocess.PIPE) as process:
        deadline = time.monotonic() + 120
        while len(list(out.glob("units/*.safetensors"))) < 2 and time.monotonic() < deadline:
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        process.wait()
    finished = {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.safetensors")}
    assert 2 <= len(finished) < 5
    assert not (out / "report.json").exists()
    ran = CliRunner().invoke(app, [*words[4:], "--resume"])
    assert ran.exit_code == 0, ran.output
    assert without_times(report_of(out)) == without_times(report_of(quiet_run))
    kept = {path.name: path.stat().st_mtime_ns for path in out.glob("units/*.safetensors")}
    assert len(kept) == 5
    assert {name: kept[name] for name in finished} == finished


def test_a_damaged_unit_is_done_again(quiet_run, undefended_folder, call, tmp_path):
    shutil.copytree(quiet_run, tmp_path / "out")
    paths = sorted((tmp_path / "out").glob("units/*.safetensors"))
    good = paths[0].read_bytes()
    paths[0].write_bytes(good[: len(good) // 2])
    paths[1].write_bytes(b"\0" * 100)
    ran, out = call("--model", undefended_folder, "--attacks", LONGER, "--resume")
    assert ran.exit_code == 0, ran.output
    first, second = report_of(quiet_run), report_of(out)
    assert second["models"][0].pop("notes") == ["2 damaged unit files were not believed and done again"]
    assert first["models"][0].pop("notes") == []
    assert without_times(first) == without_times(second)
    assert len(paths[1].read_bytes()) > 1000


def test_units_of_another_seed_are_not_taken(call, undefended_folder):
    ran, out = call("--model", undefended_folder, "--attacks", "noise:mainstay")
    assert ran.exit_code == 0, ran.output
    ran, out = call("--model", undefended_folder, "--attacks", "noise:mainstay", "--seed", 1, "--resume")
    assert ran.exit_code == 0, ran.output
    assert len(list(out.glob("units/*"))) == 2


def test_a_wish_to_stop_is_answered_and_leaves_finished_units(small_data, undefended_folder, tmp_path):
    order = Order(small_data, [undefended_folder], tmp_path, LONGER, False, None, [], QUERIES, None, 0, "cpu")
    prepared = prepare(order)

    class Impatient(Terminal):
        def working(self, label, what, share, left_s):
            if len(list(tmp_path.glob("units/*.safetensors"))) == 1:
                wish.take(signal.SIGTERM, None)
            super().working(label, what, share, left_s)

    wish = StopWish()
    before = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(Stopped) as stopped:
            run(prepared, Impatient(wish, 1, quiet=True))
    finally:
        signal.signal(signal.SIGTERM, before)
    assert stopped.value.signum == signal.SIGTERM
    assert len(list(tmp_path.glob("units/*.safetensors"))) == 1


def test_a_defended_model_without_a_twin_fails_and_the_report_is_written(call, defended_folder):
    ran, out = call("--model", defended_folder, "--attacks", ATTACKS)
    assert ran.exit_code == 1
    failed = [check for check in report_of(out)["checks"] if not check["holds"]]
    assert [check["model"] for check in failed] == ["claimed/1"]
    assert "twin" in failed[0]["name"] + failed[0]["detail"]
    assert "FAILED claimed/1" in ran.output
    assert (out / "report.html").stat().st_size > 1000


@pytest.mark.parametrize("how", ["--twin", "--model"])
def test_a_twin_is_given_or_found_among_the_models(call, defended_folder, undefended_folder, how):
    ran, out = call("--model", defended_folder, how, undefended_folder, "--attacks", ATTACKS, "--json")
    assert ran.exit_code == 0, ran.output
    report = report_of(out)
    labels = [entry["label"] for entry in report["models"]]
    assert labels == (["claimed/1"] if how == "--twin" else ["claimed/1", "small-0/1"])
    assert report["models"][0]["twin"]["digest"] != report["models"][0]["digest"]
    shown = strict_json(ran.stdout)
    assert shown["holds"] is True
    assert shown["worst_case"] == report["worst_case"]
    if how == "--model":  # the same weights under the same attacks: no difference at all
        assert report["pairs"]
        assert {pair["difference"] for pair in report["pairs"]} == {0.0}


def test_a_model_without_a_tower_is_judged_on_what_it_has(call, undefended, tmp_path):
    folders = [
        save_variant(undefended, tmp_path, f"only-{side}", sides=(side,)) for side in ("image", "text")
    ]
    names = "apgd:mainstay@16/255,apgd:cross-modal@16/255,words:mainstay,embedding:mainstay"
    ran, out = call("--model", folders[0], "--model", folders[1], "--attacks", names)
    assert ran.exit_code in (0, 1), ran.output
    report = report_of(out)
    tasks = {(row["model"], row["task"]) for row in report["rows"]}
    assert tasks == {("only-image/1", "image-to-image"), ("only-text/1", "text-to-text")}
    left = {(entry["model"], entry["what"]): entry["why"] for entry in report["left_out"]}
    assert "reads no texts" in left["only-image/1", "words:mainstay (text)"]
    assert "reads no images" in left["only-text/1", "apgd:mainstay (suite)"]
    assert "both sides" in left["only-image/1", "apgd:cross-modal (suite)"]
    assert report["pairs"] == []


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--attacks", "apgd:everything"], "unknown objective 'everything'"),
        (["--attacks", "../../x"], "wanted a name such as apgd:mainstay"),
        (["--attacks", "apgd:mainstay@8"], "wanted eps in [0, 1]"),
        (["--attacks", ""], "got 0 names"),
        (["--attacks", "standard"], "--surrogate DIR or a second --model"),
        (["--attacks", "quick", "--seed", "-1"], "--seed"),
    ],
)
def test_wrong_usage_is_status_2_and_writes_nothing(call, undefended_folder, options, said):
    ran, out = call("--model", undefended_folder, *options)
    assert ran.exit_code == 2
    assert said in ran.output.replace("\n", " ")
    assert not out.exists()


def test_one_model_given_twice_and_a_wrong_twin_are_wrong_usage(call, undefended_folder, defended_folder):
    ran, _ = call("--model", undefended_folder, "--model", undefended_folder)
    assert ran.exit_code == 2
    assert "one twice" in ran.output
    ran, _ = call("--model", undefended_folder, "--twin", defended_folder)
    assert ran.exit_code == 2
    assert "wanted an undefended model" in ran.output


def test_a_folder_with_other_things_is_left_alone(call, undefended_folder, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "mine.txt").write_text("mine")
    for options in ([], ["--resume"]):
        ran, out = call("--model", undefended_folder, "--attacks", ATTACKS, *options)
        assert ran.exit_code == 1
        assert "out holds" in ran.output.replace("\n", "")
        assert [path.name for path in out.iterdir()] == ["mine.txt"]


def test_what_is_not_there_is_one_line(call, undefended_folder, tmp_path):
    ran, out = call("--model", tmp_path / "nowhere", "--attacks", ATTACKS)
    assert (ran.exit_code, out.exists()) == (1, False)
    assert len(ran.output.strip().splitlines()) == 1
    ran, out = call("--model", undefended_folder, "--attacks", ATTACKS, data=tmp_path / "nowhere")
    assert (ran.exit_code, out.exists()) == (1, False)


def test_times_are_said_as_people_say_them():
    assert [span(s) for s in (40, 89.6, 600, 5000, 9000)] == ["40 s", "90 s", "10 min", "83 min", "2.5 h"]
