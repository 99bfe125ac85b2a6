"""The `hashguard` command: finding sub-commands, the life of an index, demo, reindex, doctor, and errors."""

from __future__ import annotations

import io
import json
import logging
import os
import shutil
import socket
import subprocess
import sys
import time
import types
from collections.abc import Callable, Iterator
from dataclasses import replace
from importlib.metadata import EntryPoint, PackageNotFoundError
from pathlib import Path
from typing import Any

import httpx
import pytest
import structlog
import typer

sys.path.insert(0, str(Path(__file__).parent / "api"))

from tiny import copy_model, environment, make_model, picture, running

from service import cli
from service.application.types import JobPhase
from service.commands import console, demo, doctor, home_checks, index, serve
from service.commands import reindex as reindex_command
from service.commands.home import opened
from service.commands.options import settings_with
from service.version import distribution_version

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model, `tiny/1`."""
    return make_model(tmp_path_factory.mktemp("artefacts"))


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A manifest folder of six pairs."""
    folder = tmp_path_factory.mktemp("corpus")
    (folder / "images").mkdir()
    lines = []
    for number in range(6):
        (folder / "images" / f"{number}.png").write_bytes(picture(number))
        line = {
            "id": f"p{number}",
            "image": f"images/{number}.png",
            "texts": [f"text number {number}"],
            "labels": ["x"],
        }
        lines.append(json.dumps(line | {"split": "database", "metadata": {"n": number}}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Iterator[Run]:
    """Runs the command in this process: status, standard output, standard error."""
    for name in ("HASHGUARD_HOME", "HASHGUARD_HOST", "HASHGUARD_PORT"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HASHGUARD_DEVICE", "cpu")
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level

    def run(*arguments: object) -> tuple[int, str, str]:
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            cli.main([str(argument) for argument in arguments])
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    yield run
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


# Finding commands


def test_help_lists_every_command_and_loads_none_of_them() -> None:
    script = (
        "import sys\nfrom service import cli\ntry:\n cli.main(['--help'])\nexcept SystemExit as end:\n"
        " heavy = ('torch', 'faiss', 'fastapi', 'model', 'sqlalchemy')\n"
        " print(end.code, [name for name in heavy if name in sys.modules])"
    )
    started = time.monotonic()
    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "0 []"
    for name in ("demo", "serve", "data", "train", "model", "index", "reindex", "keys", "doctor"):
        assert name in shown.stdout
    assert time.monotonic() - started < 20


def test_version_and_bare_call(run: Run) -> None:
    status, out, _ = run("--version")
    assert status == 0
    assert out.startswith("hashguard ")
    assert run()[0] == 2


def test_an_unknown_command_or_option_is_wrong_usage(run: Run) -> None:
    assert run("fly")[0] == 2
    status, _, err = run("index", "verify", "--colour", "red")
    assert status == 2
    assert "--colour" in err


def points(monkeypatch: pytest.MonkeyPatch, *found: EntryPoint) -> None:
    def entry_points(group: str, name: str | None = None) -> list[EntryPoint]:
        return [point for point in found if group == cli.GROUP and name in {None, point.name}]

    monkeypatch.setattr(cli, "entry_points", entry_points)


def test_commands_of_other_packages_are_mounted(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    plugin = types.ModuleType("plugin")
    group = typer.Typer()
    group.command("hello")(lambda: typer.echo("hello from a group"))
    group.command("other")(lambda: None)
    plugin.group = group  # type: ignore[attr-defined]
    plugin.alone = lambda: typer.echo("hello from a function")  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plugin", plugin)
    points(
        monkeypatch,
        EntryPoint("extra", "plugin:group", cli.GROUP),
        EntryPoint("data", "plugin:alone", cli.GROUP),
    )
    assert "extra" in run("--help")[1]
    assert run("extra", "hello")[:2] == (0, "hello from a group\n")
    assert run("data")[:2] == (0, "hello from a function\n")


def test_a_command_whose_package_is_missing_says_what_to_install(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    points(monkeypatch)
    status, out, err = run("train")
    assert (status, out) == (1, "")
    assert "hashguard train is not installed here; install it with: pip install 'hashguard[training]'" in err
    points(monkeypatch, EntryPoint("train", "nowhere.at.all:train", cli.GROUP))
    status, _, err = run("train")
    assert status == 1
    assert "needs the module nowhere; install it with" in err
    points(monkeypatch, EntryPoint("extra", "nowhere:app", cli.GROUP))
    assert run("extra")[2] == "error: hashguard extra needs the module nowhere\n"


@pytest.mark.parametrize(
    ("error", "status", "words"),
    [
        (RuntimeError("odd [x]"), 1, "error: odd [x]"),
        (OSError(), 1, "OSError"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_a_failure_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: BaseException, status: int, words: str
) -> None:
    def broken() -> None:
        raise error

    plugin = types.ModuleType("plugin")
    plugin.broken = broken  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "plugin", plugin)
    points(monkeypatch, EntryPoint("data", "plugin:broken", cli.GROUP))
    got, _, err = run("data")
    assert got == status
    assert words in err
    assert len(err.splitlines()) == (1 if words else 0)
    if isinstance(error, RuntimeError):
        with pytest.raises(RuntimeError):
            cli.main(["--debug", "data"])


# The index


def test_an_index_is_built_verified_rolled_back_and_damage_is_found(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    home = tmp_path / "home"
    build = ("index", "build", "--home", home, "--json")
    status, out, err = run(*build, "--data", corpus, "--model", model_folder)
    assert status == 0, err
    first = json.loads(out)
    assert (first["model"], first["items"], first["import"]["created"]) == ("tiny/1", 6, 6)
    second = json.loads(run(*build, "--data", corpus, "--model", model_folder)[1])
    assert (second["import"]["created"], second["import"]["unchanged"]) == (0, 6)
    assert json.loads(run(*build)[1])["import"] is None

    listed = json.loads(run("index", "verify", "--home", home, "--json")[1])
    assert listed["ok"] is True
    assert [(one["live"], one["image_count"], one["text_count"]) for one in listed["generations"]] == [
        (True, 6, 6),
        (False, 6, 6),
        (False, 6, 6),
    ]
    back = json.loads(run("index", "rollback", "--home", home, "--json")[1])
    assert (back["id"], back["live"]) == (second["generation"], True)
    assert run("index", "rollback", first["generation"], "--home", home)[0] == 0
    forth = json.loads(run("index", "rollback", "--home", home, "--json")[1])
    assert forth["id"] == second["generation"]  # which was live before
    assert run("index", "rollback", "--home", home)[0] == 0
    assert "there is no generation 'nobody'" in run("index", "rollback", "nobody", "--home", home)[2]

    damaged = next((home / "generations" / second["generation"]).rglob("*.npy"))
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    status, out, _ = run("index", "verify", "--home", home)
    assert (status, "sound" in out) == (1, True)
    status, _, err = run("index", "rollback", second["generation"], "--home", home)
    assert (status, "cannot be served" in err) == (1, True)
    status, out, _ = run("doctor", "--home", home, "--json")
    assert status == 1
    problems = [check["name"] for check in json.loads(out)["checks"] if not check["ok"]]
    assert problems == ["generations"]
    shutil.rmtree(home / "models")
    assert "is not here" in json.dumps(json.loads(run("index", "verify", "--home", home, "--json")[1]))


def test_how_many_generations_are_kept_and_an_older_one_whose_model_is_damaged(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    home = tmp_path / "home"
    build = ("index", "build", "--home", home)
    assert run(*build, "--data", corpus, "--model", model_folder)[0] == 0
    make_model(home / "models", seed=1)
    assert run(*build)[0] == run(*build)[0] == 0
    oldest = json.loads(run("index", "verify", "--home", home, "--json")[1])["generations"][-1]
    assert oldest["model"] == "tiny/1"
    weights = home / "models" / "tiny" / "1" / "model.safetensors"
    sound = weights.read_bytes()
    weights.write_bytes(b"rotten")
    status, _, err = run("index", "rollback", oldest["id"], "--home", home)
    assert (status, f"generation {oldest['id']} is not live, the job failed" in err) == (1, True), err
    weights.write_bytes(sound)
    assert run("index", "rollback", oldest["id"], "--home", home)[0] == 0
    assert run(*build, "--keep", "1")[0] == 0
    kept = json.loads(run("index", "verify", "--home", home, "--json")[1])["generations"]
    assert [one["live"] for one in kept] == [True]
    assert "greater than or equal to 1" in run(*build, "--keep", "0")[2]


def test_a_generation_that_is_not_what_the_catalog_says_is_found(
    tmp_path: Path, model_folder: Path, run: Run
) -> None:
    home = tmp_path / "home"
    assert run("index", "build", "--home", home, "--model", model_folder)[0] == 0
    with opened(settings_with(home=home, device="cpu")) as parts:
        live = parts.catalog.generations.live()
        assert live is not None
        assert index._trouble(parts, live) == ""
        assert "the catalog says otherwise" in index._trouble(parts, replace(live, image_count=99))


def test_the_version_of_a_bare_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> str:
        raise PackageNotFoundError(name)

    assert distribution_version()
    monkeypatch.setattr("service.version.version", missing)
    assert distribution_version() == "0+source"


def test_lines_that_do_not_come_in_are_named_and_the_others_served(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    data = tmp_path / "data"
    shutil.copytree(corpus, data)
    (data / "images" / "0.png").write_bytes(b"no picture")
    (data / "pairs.jsonl").write_text((data / "pairs.jsonl").read_text() + "no json\n")
    status, out, err = run(
        "index", "build", "--home", tmp_path / "home", "--data", data, "--model", model_folder
    )
    assert status == 1
    assert "is live: 5 items, 5 image and 5 text codes" in out
    assert "not imported: line 1: p0" in err
    assert "not imported: line 7" in err
    assert err.splitlines()[-1] == "error: 2 of 7 lines did not come in"


def test_what_cannot_be_built_is_said_in_one_line(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    home = tmp_path / "home"
    for arguments, words in (
        ((), "there is no model yet"),
        (("--model", "tiny/9"), "there is no model 'tiny/9'"),
        (("--model", corpus), "holds no manifest.json"),
        (("--model", model_folder, "--data", tmp_path / "nowhere"), "there is no pairs.jsonl"),
        (("--model", model_folder, "--device", "toaster"), "toaster"),
    ):
        status, _, err = run("index", "build", "--home", home, *arguments)
        assert (status, words in err) == (1, True), err
        assert err.splitlines()[-1].startswith("error: ")
    other = make_model(tmp_path / "others", seed=5)
    status, _, err = run("index", "build", "--home", home, "--model", other)
    assert (status, "another model tiny/1" in err) == (1, True), err
    status, _, err = run("index", "rollback", "--home", tmp_path / "empty")
    assert (status, "no generation is live" in err) == (1, True)
    status, _, err = run("index", "verify", "--home", tmp_path / "none", "--repair")
    assert (status, "there is none; the home is empty" in err) == (1, True), err
    assert not (tmp_path / "none").exists()


def test_verify_mends_nothing_by_a_catalog_that_is_older_than_the_home(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    home = tmp_path / "home"
    build = ("index", "build", "--home", home, "--model", model_folder, "--json")
    assert run(*build)[0] == 0
    shutil.copytree(home, tmp_path / "backup")
    later = json.loads(run(*build, "--data", corpus)[1])["generation"]
    for path in home.glob("catalog.db*"):
        path.unlink()
    shutil.copy(tmp_path / "backup" / "catalog.db", home)
    status, out, _ = run("index", "verify", "--home", home, "--grace", "0", "--repair", "--json")
    found = json.loads(out)["findings"]
    assert status == 1
    assert {"catalog-behind", "generation-unknown"} <= {one["fault"] for one in found}
    assert all(one["problem"] for one in found)
    steps = {one["fault"]: one["next_step"] for one in found}
    assert steps["generation-unknown"].startswith("first the catalog: ")
    assert (home / "generations" / later).is_dir()


def test_a_job_that_fails_ends_the_build_with_its_reason(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    home = tmp_path / "home"
    assert run("index", "build", "--home", home, "--data", corpus, "--model", model_folder)[0] == 0
    blob = next(path for path in (home / "blobs").rglob("*") if path.is_file())
    blob.write_bytes(b"rotten")
    make_model(home / "models", seed=1)
    status, _, err = run("index", "build", "--home", home)
    assert (status, "the index was not built, the job failed" in err) == (1, True), err
    status, out, _ = run("doctor", "--home", home)
    assert (status, "PROBLEM" in out) == (1, True)


# Serving


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "example.org"])
def test_an_address_open_to_others_needs_to_be_meant(run: Run, tmp_path: Path, host: str) -> None:
    status, _, err = run("serve", "--home", tmp_path, "--host", host)
    assert status == 1
    assert "--allow-unauthenticated" in err
    assert list(tmp_path.iterdir()) == []


def test_it_can_be_meant_and_an_address_of_somebody_else_still_fails(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    serve.listen(serve.settings_with(host="0.0.0.0", port=0, allow_unauthenticated=True)).close()
    monkeypatch.setenv("HASHGUARD_ALLOW_UNAUTHENTICATED", "1")
    status, _, err = run("serve", "--home", tmp_path, "--host", "192.0.2.1")
    assert (status, "cannot listen on 192.0.2.1" in err) == (1, True)


def test_a_taken_port_is_said_before_anything_else_happens(run: Run, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        for command in ("serve", "demo"):
            status, _, err = run(command, "--home", tmp_path, "--port", port)
            assert (status, f"cannot listen on 127.0.0.1 port {port}: Address already in use" in err) == (
                1,
                True,
            )
    assert list(tmp_path.iterdir()) == []


def test_settings_that_do_not_fit_are_named(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    status, _, err = run("serve", "--port", "70000")
    assert (status, "port: Input should be less than or equal to 65535" in err) == (1, True)
    monkeypatch.setenv("HASHGUARD_WORKER_TIMEOUT_S", "1")
    assert "settings: Value error" in run("doctor")[2]


def test_a_model_that_is_asked_for_is_adopted_and_the_index_follows(
    run: Run, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    served: list[str] = []
    monkeypatch.setattr(serve, "run_server", lambda settings, bound, started: (started(), bound.close()))
    for model, wanted in (
        (model_folder, "tiny/1"),
        (make_model(tmp_path / "more" / "models", "fresh"), "fresh/1"),
    ):
        status, _, err = run("serve", "--home", home, "--port", "0", "--host", "localhost", "--model", model)
        assert status == 0, err
        assert "serving" in err
        listed = json.loads(run("index", "verify", "--home", home, "--json")[1])["generations"]
        served.append(next(one["model"] for one in listed if one["live"]))
        assert served[-1] == wanted
    count = len(listed)
    assert run("serve", "--home", home, "--port", "0", "--model", "fresh/1")[0] == 0
    assert len(json.loads(run("index", "verify", "--home", home, "--json")[1])["generations"]) == count


# Demo, reindex, doctor


def test_the_demo_needs_its_model(run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(demo, "files", lambda package: tmp_path)
    with pytest.raises(typer.Exit):
        demo.sample_model()
    for version in ("2", "10"):
        copied = tmp_path / "assets" / "models" / "sample" / version
        copied.mkdir(parents=True)
        (copied / "manifest.json").touch()
    assert demo.sample_model().name == "10"


def test_the_demo_goes_on_where_it_stopped_skips_what_is_done_and_its_service_reindexes(
    run: Run, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    monkeypatch.setattr(demo, "sample_model", lambda: model_folder)
    arguments = ("demo", "--home", home, "--no-serve", "--pairs", "8")
    half = home / "demo" / "sample-8.partial"
    half.mkdir(parents=True)
    (half / "rubbish").touch()
    with monkeypatch.context() as cut_off:
        cut_off.setattr(demo, "build_index", lambda parts, label: (_ for _ in ()).throw(OSError("cut off")))
        assert run(*arguments)[2].splitlines()[-1] == "error: cut off"
    status, _, err = run(*arguments)
    assert status == 0, err
    assert "drawing" not in err
    assert "8 items indexed" in err
    assert not half.exists()
    status, _, err = run(*arguments)
    assert (status, err) == (0, "")

    with running(home, device="cpu") as (client, _):
        url = str(client.base_url)
        status, out, err = run("reindex", "--url", url, "--json")
        assert status == 0, err
        job = json.loads(out)
        assert (job["phase"], job["kind"]) == ("done", "reindex")
        assert client.get("/readyz").json()["index_generation"] == job["generation"]
        status, _, err = run("reindex", "--url", url, "--model", "tiny/9")
        assert (status, "the service answered 404" in err) == (1, True)
    assert run("doctor", "--home", home)[0] == 0


def test_a_demo_that_cannot_draw_its_corpus_says_so(
    run: Run, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(demo, "sample_model", lambda: model_folder)
    monkeypatch.setattr(demo.sys, "executable", shutil.which("false"))
    status, _, err = run("demo", "--home", tmp_path, "--no-serve")
    assert (status, "`hashguard data sample` ended with status 1" in err) == (1, True)


def test_the_demo_names_its_address_and_two_calls_to_try(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    shutil.copytree(corpus, home / "demo" / "sample-6")
    monkeypatch.setattr(demo, "sample_model", lambda: model_folder)
    monkeypatch.setattr(serve, "run_server", lambda settings, bound, started: (started(), bound.close()))
    status, out, err = run("demo", "--home", home, "--port", "0", "--pairs", "6")
    assert status == 0, err
    assert "hashguard is ready: http://127.0.0.1:" in out
    text_call, image_call = [line.strip() for line in out.splitlines() if "curl" in line]
    assert "/v1/search/text-to-image" in text_call
    assert '{"text": "text number 0", "k": 3}' in text_call
    assert "/v1/search/image-to-text -F k=3 -F image=@" in image_call
    assert Path(image_call.rpartition("@")[2]).is_file()


class Answers:
    """A service that answers a reindex from a list."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *answers: httpx.Response | Exception) -> None:
        self.answers = list(answers)
        self.asked: list[httpx.Request] = []
        client = httpx.Client
        transport = httpx.MockTransport(self.handle)
        monkeypatch.setattr(
            reindex_command.httpx, "Client", lambda **given: client(transport=transport, **given)
        )
        monkeypatch.setattr(reindex_command, "POLL_S", 0.0)

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.asked.append(request)
        answer = self.answers.pop(0)
        if isinstance(answer, BaseException):
            raise answer
        return answer


def job(phase: str, **changes: Any) -> httpx.Response:
    fields = {
        "id": "j",
        "phase": phase,
        "done": 1,
        "total": 2,
        "model": "m/1",
        "generation": None,
        "error": None,
    }
    return httpx.Response(200, json=fields | changes)


def test_a_reindex_that_fails_or_is_not_understood_ends_with_1(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    for answers, words in (
        ((job("queued"), job("encoding"), job("failed", error="no disk")), "the job failed: no disk"),
        ((job("cancelled"),), "the job cancelled: no reason given"),
        ((httpx.ConnectError("refused"),), "no answer from http://127.0.0.1:8000"),
        ((httpx.Response(200, text="<html>"),), "no JSON object"),
        ((httpx.Response(409, json={"detail": "one runs"}),), "the service answered 409: one runs"),
        ((httpx.Response(500, json={}),), "the service answered 500: no reason given"),
    ):
        Answers(monkeypatch, *answers)
        status, _, err = run("reindex")
        assert (status, words in err) == (1, True), err
        monkeypatch.undo()


def test_a_reindex_is_watched_to_its_end_or_not_at_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, job("queued"), job("encoding"), job("done", generation="g1"))
    assert run("reindex")[:2] == (0, "generation g1 is built and live\n")
    monkeypatch.undo()
    Answers(monkeypatch, job("done", generation="g2"))
    assert run("reindex", "--no-activate")[:2] == (0, "generation g2 is built\n")
    monkeypatch.undo()
    Answers(monkeypatch, job("queued"))
    assert run("reindex", "--no-wait")[:2] == (0, "job j is queued\n")
    monkeypatch.undo()
    left_out = {"left_out": [{"reason": "bare", "count": 9, "ids": ["a", "b"]}]}
    Answers(monkeypatch, job("done", generation="g3", validation=left_out))
    assert "9 items are not in it (bare): a, b" in run("reindex")[2]


def test_a_model_is_named_by_its_folder_and_may_be_told_how_good_it_must_be(
    run: Run, monkeypatch: pytest.MonkeyPatch, model_folder: Path
) -> None:
    for model, label in ((model_folder, "tiny/1"), ("tiny/7", "tiny/7"), ("latest", "latest")):
        service = Answers(monkeypatch, job("done", generation="g1"))
        assert run("reindex", "--model", model, "--quality-floor", "0.02")[0] == 0
        body = {"model": label, "activate": True, "quality_floor": 0.02}
        assert json.loads(service.asked[0].content) == body
        monkeypatch.undo()


def test_watching_can_be_given_up_and_the_job_goes_on(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    Answers(monkeypatch, job("queued"), KeyboardInterrupt())  # type: ignore[arg-type]
    status, _, err = run("reindex")
    assert status == 130
    assert "job j goes on" in err


def test_the_doctor_is_content_with_a_home_that_is_not_there_yet(run: Run, tmp_path: Path) -> None:
    status, out, _ = run("doctor", "--home", tmp_path / "not" / "yet", "--json")
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 0, out
    assert set(checks) == {"python", "torch", "faiss", "home", "disk", *home_checks.CHECKS}
    assert "not there yet" in checks["home"]["detail"]
    assert list(tmp_path.iterdir()) == []


def test_the_doctor_finds_what_is_wrong(
    run: Run, tmp_path: Path, model_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    copy_model(model_folder, home)
    (home / "models" / "tiny" / "1" / "model.safetensors").write_bytes(b"rotten")
    (home / "models" / "odd" / "1").mkdir(parents=True)
    (home / "models" / "odd" / "1" / "manifest.json").write_text("{")
    (home / "catalog.db").write_bytes(b"this is no database" * 100)
    monkeypatch.setattr(doctor, "LEAST_FREE_BYTES", 10**18)
    status, out, _ = run("doctor", "--home", home, "--json")
    problems = {check["name"] for check in json.loads(out)["checks"] if not check["ok"]}
    assert status == 1
    assert problems == {"disk", "catalog", "models", "generations", "blobs"}
    shutil.rmtree(home / "models" / "odd")
    assert "model.safetensors" in run("doctor", "--home", home, "--json")[1]


def test_the_doctor_names_what_it_finds_and_repairs_it_and_so_does_verify(
    run: Run, tmp_path: Path, model_folder: Path, corpus: Path
) -> None:
    """Real models and commands: a flipped byte, an orphan, a lost image; status 1, repaired, status 0."""
    home = tmp_path / "home"
    assert run("index", "build", "--home", home, "--data", corpus, "--model", model_folder)[0] == 0
    live = json.loads(run("index", "verify", "--home", home, "--json")[1])["generations"][0]["id"]
    damaged = home / "generations" / live / "text" / "codes.npy"
    damaged.write_bytes(damaged.read_bytes()[:-1] + b"\xff")
    orphan = home / "blobs" / "ab" / "cd" / ("abcd" + "0" * 60)
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"nobody's")

    status, out, _ = run("doctor", "--home", home, "--grace", "0")
    assert status == 1
    for words in ("PROBLEM", "generation-damaged", "blob-orphaned", "--repair", "2 found, 2 still open"):
        assert words in out
    assert json.loads(run("doctor", "--home", home, "--quick", "--json")[1])["findings"][0]["problem"] is True
    status, out, _ = run("index", "verify", "--home", home, "--repair")
    assert (status, "1 found, 0 still open" in out) == (0, True), out
    assert not (home / "generations" / live).exists()
    status, out, _ = run("doctor", "--home", home, "--grace", "0", "--repair", "--json")
    document = json.loads(out)
    [finding] = document["findings"]
    assert (status, document["ok"], finding["repaired"], finding["next_step"]) == (0, True, "removed", None)
    assert not orphan.exists()
    assert run("index", "verify", "--home", home)[0] == run("doctor", "--home", home, "--grace", "0")[0] == 0

    lost = next(path for path in (home / "blobs").rglob("*") if path.is_file())
    lost.unlink()
    status, out, _ = run("doctor", "--home", home, "--repair", "--json")
    [finding] = json.loads(out)["findings"]
    assert (status, finding["fault"], finding["repaired"]) == (1, "blob-missing", None)
    assert "PUT the image again" in finding["next_step"]
    assert run("doctor", "--home", home, "--grace", "-1")[0] == 2

    (home / "models" / "tiny" / "1" / "calibration.json").write_text("{}")
    found = json.loads(run("index", "verify", "--home", home, "--json", "--repair")[1])["findings"]
    assert [one["fault"] for one in found] == ["model-damaged"]
    assert "calibration.json" in found[0]["detail"]
    (home / "models" / "tiny" / "1" / "manifest.json").write_text("{")
    found = json.loads(run("index", "verify", "--home", home, "--json")[1])["findings"]
    assert [(one["fault"], one["subject"]) for one in found] == [("model-damaged", "tiny/1")]


def test_the_doctor_survives_broken_libraries(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = types.ModuleType("torch")
    broken.ones = lambda n: types.SimpleNamespace(sum=lambda: 4.0)  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "torch", broken)
    monkeypatch.setitem(sys.modules, "faiss", None)
    monkeypatch.setattr(doctor.os, "access", lambda path, mode: not mode & os.W_OK)
    status, out, err = run("doctor", "--home", tmp_path, "--json")
    assert out, err
    checks = {check["name"]: check for check in json.loads(out)["checks"]}
    assert status == 1
    assert "torch says 4.0" in checks["torch"]["detail"]
    assert not checks["faiss"]["ok"]
    assert "not writable" in checks["home"]["detail"]
    assert "catalog" not in checks


def test_a_bar_shows_progress_on_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = console.Console(force_terminal=True, width=100, record=True, file=io.StringIO())
    monkeypatch.setattr(console, "err", terminal)
    with console.progress_bar("encoding", 4) as bar:
        bar.at(2)
        bar.at(4, 4, JobPhase.BUILDING.value)
    assert "building" in terminal.export_text()
