"""`hashguard keys`, the start of a service that wants keys, commands that show one, a real guarded server."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx
import pytest
from test_cli import Answers, Run, job, model_folder, run  # noqa: F401 - fixtures

sys.path.insert(0, str(Path(__file__).parent / "api"))

from tiny import ROOT, copy_model, environment, running

sys.path.insert(0, str(ROOT / "clients" / "python"))

from hashguard_client.client import Client
from hashguard_client.errors import ServiceProblem

from service.commands import serve
from service.commands.options import settings_with

KEY = re.compile(r"hg_[0-9a-f]{12}_[A-Za-z0-9_-]{43}")
FAKE = "hg_0123456789ab_" + "A" * 43


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("API_KEY", "API_KEY_FILE", "AUTHENTICATION", "ALLOW_UNAUTHENTICATED", "ALLOWED_HOSTS"):
        monkeypatch.delenv(f"HASHGUARD_{name}", raising=False)


def made(run: Run, home: Path, *options: str) -> dict[str, Any]:  # noqa: F811
    status, out, err = run("keys", "create", "app", "--home", home, "--json", *options)
    assert status == 0, err
    return dict(json.loads(out))


def listed(run: Run, home: Path) -> list[dict[str, Any]]:  # noqa: F811
    return list(json.loads(run("keys", "list", "--home", home, "--json")[1])["keys"])


# keys


def test_a_key_is_shown_once_alone_on_standard_output(run: Run, tmp_path: Path) -> None:  # noqa: F811
    status, out, err = run("keys", "create", "my [app]", "--home", tmp_path)
    assert (status, KEY.fullmatch(out.strip()) is not None) == (0, True)
    assert "'my [app]': search; it is shown only now" in err
    assert out.strip() not in err
    for shown in (run("keys", "list", "--home", tmp_path), run("keys", "list", "--home", tmp_path, "--json")):
        assert "my [app]" in shown[1]
        assert out.strip()[16:] not in "".join(map(str, shown))


def test_keys_are_made_listed_and_revoked_for_machines(run: Run, tmp_path: Path) -> None:  # noqa: F811
    first = made(run, tmp_path)
    second = made(run, tmp_path, "--scope", "write", "--scope", "admin", "--expires", "12h")
    assert (first["scopes"], first["state"], first["expires"]) == (["search"], "valid", None)
    assert second["scopes"] == ["admin", "write"]
    assert [key["id"] for key in listed(run, tmp_path)] == [first["id"], second["id"]]
    assert "key" not in listed(run, tmp_path)[0]
    revoked = json.loads(run("keys", "revoke", first["id"], "--home", tmp_path, "--json")[1])
    assert (revoked["state"], revoked["id"]) == ("revoked", first["id"])
    assert run("keys", "revoke", first["id"], "--home", tmp_path)[0] == 0
    status, out, _ = run("keys", "revoke", second["key"], "--home", tmp_path)
    assert (status, f"key {second['id']} (app) is revoked" in out) == (0, True)
    assert [key["state"] for key in listed(run, tmp_path)] == ["revoked", "revoked"]
    status, out, _ = run("keys", "list", "--home", tmp_path)
    assert (status, "admin" in out, out.count("revoked")) == (0, True, 2)


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("90d", timedelta(days=90)),
        ("1h", timedelta(hours=1)),
        ("2100-01-02", datetime(2100, 1, 2, tzinfo=UTC)),
        ("2100-01-02T03:04:05+02:00", datetime(2100, 1, 2, 1, 4, 5, tzinfo=UTC)),
    ],
)
def test_when_a_key_expires(run: Run, tmp_path: Path, text: str, wanted: datetime | timedelta) -> None:  # noqa: F811
    expires = datetime.fromisoformat(made(run, tmp_path, "--expires", text)["expires"])
    if isinstance(wanted, timedelta):
        wanted = datetime.now(UTC) + wanted
    assert abs(expires - wanted) < timedelta(seconds=60)
    assert " until 2" in run("keys", "create", "x", "--home", tmp_path, "--expires", text)[2]


@pytest.mark.parametrize(
    "text", ["", "soon", "0d", "-1d", "1w", "999999d", "999999999h", "2100-13-01", "1 d"]
)
def test_what_is_no_end_of_a_key(run: Run, tmp_path: Path, text: str) -> None:  # noqa: F811
    status, out, err = run("keys", "create", "x", "--home", tmp_path, f"--expires={text}")
    if text == "999999d":
        assert status == 0  # the year 4764
        return
    assert (status, out, "--expires takes 90d" in err) == (1, "", True), err


def test_what_cannot_be_done_is_said_in_one_line(run: Run, tmp_path: Path) -> None:  # noqa: F811
    for arguments, status, words in (
        (("list",), 1, "holds no catalog, so no keys"),
        (("revoke", "0" * 12), 1, "holds no catalog, so no keys"),
        (("revoke", "nobody"), 1, "wanted the id of a key"),
        (("create", "x", "--expires", "2001-01-01"), 1, "must expire in the future"),
        (("create", ""), 1, "1 to 200 printable characters"),
        (("revoke", "0" * 12), 1, "there is no key 000000000000"),
        (("create", "x", "--scope", "root"), 2, "root"),
        (("create",), 2, "Missing argument"),
    ):
        got, out, err = run("keys", *arguments, "--home", tmp_path / "home")
        assert (got, out, words in err) == (status, "", True), err


def test_the_commands_load_neither_torch_nor_faiss(tmp_path: Path) -> None:
    script = (
        "import sys\nfrom service import cli\ntry:\n cli.main(['keys', 'list', '--help'])\n"
        "except SystemExit:\n"
        " print([name for name in ('torch', 'faiss', 'fastapi') if name in sys.modules])"
    )
    shown = subprocess.run(
        [sys.executable, "-c", script], env=environment(), capture_output=True, text=True, check=True
    )
    assert shown.stdout.splitlines()[-1] == "[]"


# serve


def test_an_address_open_to_others_is_served_once_there_is_a_good_key(run: Run, tmp_path: Path) -> None:  # noqa: F811
    settings = settings_with(home=tmp_path, host="0.0.0.0", port=0)
    refusal = (
        "would ask every caller of 0.0.0.0 for a key and there is none: make one with `hashguard keys create"
    )
    arguments = ("serve", "--home", tmp_path, "--host", "0.0.0.0", "--port", "0")
    assert refusal in run(*arguments)[2]
    key = made(run, tmp_path)
    serve.listen(settings).close()
    run("keys", "revoke", key["id"], "--home", tmp_path)
    assert refusal in run(*arguments)[2]


def test_keys_that_are_asked_for_on_this_machine_are_wanted_too(run: Run, tmp_path: Path) -> None:  # noqa: F811
    for changes in ({"authentication": "required"}, {"allowed_hosts": "images.example.org"}):
        with pytest.raises(BaseException, match="1"):
            serve.listen(settings_with(home=tmp_path, port=0, **changes))
    made(run, tmp_path)
    serve.listen(settings_with(home=tmp_path, port=0, authentication="required")).close()


def test_a_service_open_to_everybody_says_so(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(serve, "run_server", lambda settings, bound, started: (started(), bound.close()))
    arguments = ("serve", "--home", tmp_path, "--port", "0", "--allow-unauthenticated")
    status, _, err = run(*arguments, "--host", "0.0.0.0")
    assert (status, "whoever can reach 0.0.0.0 may do everything" in err) == (0, True)
    assert "warning" not in run(*arguments)[2]
    monkeypatch.setenv("HASHGUARD_AUTHENTICATION", "required")
    status, _, err = run(*arguments)
    assert (status, "authentication is required and allow_unauthenticated" in err) == (1, True)


# Commands that call a service


class Heads(Answers):
    """Remembers the Authorization headers that came."""

    def handle(self, request: httpx.Request) -> httpx.Response:
        self.seen = [*getattr(self, "seen", []), request.headers.get("authorization")]
        return super().handle(request)


def test_a_key_comes_from_an_option_a_file_or_the_environment(
    run: Run,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    (tmp_path / "key").write_text("from-file\n")
    done = [job("queued"), job("done", generation="g")]
    for options, variables, wanted in (
        ((), {}, None),
        (("--key", "from-option"), {}, "from-option"),
        (("--key-file", str(tmp_path / "key")), {}, "from-file"),
        ((), {"API_KEY": "from-environment"}, "from-environment"),
        ((), {"API_KEY_FILE": str(tmp_path / "key")}, "from-file"),
        (("--key", "from-option"), {"API_KEY_FILE": str(tmp_path / "key")}, "from-option"),
        (("--key-file", str(tmp_path / "key")), {"API_KEY": "from-environment"}, "from-file"),
    ):
        with monkeypatch.context() as patch:
            heads = Heads(patch, *done)
            for name, value in variables.items():
                patch.setenv(f"HASHGUARD_{name}", value)
            status, out, err = run("reindex", *options)
        assert (status, out) == (0, "generation g is built and live\n"), err
        assert heads.seen == [None if wanted is None else f"Bearer {wanted}"] * 2


def test_a_key_that_cannot_be_read_or_sent_is_not_told(run: Run, tmp_path: Path) -> None:  # noqa: F811
    (tmp_path / "empty").write_text(" \n")
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    for options, words in (
        (("--key", "secret words"), "characters that no key has"),
        (("--key", ""), "is empty"),
        (("--key-file", str(tmp_path / "empty")), "is empty"),
        (("--key-file", str(tmp_path / "binary")), "cannot be read: UnicodeDecodeError"),
        (("--key-file", str(tmp_path / "nowhere")), "cannot be read: FileNotFoundError"),
        (("--key", "secret", "--key-file", str(tmp_path / "empty")), "not both"),
    ):
        status, _, err = run("reindex", *options)
        assert (status, words in err, "secret" in err) == (1, True, False), err


def test_a_refused_key_gets_a_hint(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: F811
    for status, hint in ((401, True), (403, False)):
        with monkeypatch.context() as patch:
            Answers(patch, httpx.Response(status, json={"detail": "no."}))
            err = run("reindex")[2]
        assert f"answered {status}: no." in err
        assert ("--key-file or HASHGUARD_API_KEY" in err) is hint


# A real server


def test_a_server_beyond_loopback_lets_in_who_has_a_key_until_it_is_revoked(
    run: Run,  # noqa: F811
    tmp_path: Path,
    model_folder: Path,  # noqa: F811
) -> None:
    """The server is a process of its own; the keys are made and revoked from this one."""
    home = tmp_path / "home"
    copy_model(model_folder, home)
    app_key = made(run, home, "--scope", "search", "--scope", "write")["key"]
    operator = made(run, home, "--scope", "admin")["key"]
    (tmp_path / "key").write_text(operator + "\n")
    with running(home, "--host", "0.0.0.0", device="cpu") as (client, _):
        url = str(client.base_url)
        assert client.get("/readyz").json()["ready"] is True
        assert client.get("/metrics").status_code == client.get("/v1/models").status_code == 200
        bare = client.put("/v1/items/a", files={"text": (None, "a red ball")})
        assert (bare.status_code, bare.json()["code"]) == (401, "missing_key")
        large = client.put("/v1/items/a", files={"image": ("x", b"x" * 5_000_000)})
        assert (large.status_code, large.json()["code"]) == (401, "missing_key")
        with Client(url, api_key=app_key) as app:
            app.put_item("a", text="a red ball")
            assert app.text_to_text("a red ball", k=1)["hits"][0]["id"] == "a"
            with pytest.raises(ServiceProblem, match="403 missing_scope"):
                app.reindex()
            late = made(run, home)["key"]
            with Client(url, api_key=late) as other:
                assert other.item("a")["text"] == "a red ball"
            status, out, err = run("reindex", "--url", url, "--key-file", tmp_path / "key", "--json")
            assert (status, '"phase": "done"' in out) == (0, True), err
            assert run("keys", "revoke", app_key, "--home", home)[0] == 0
            assert seconds_until_refused(client, app_key) < 2.0
            with pytest.raises(ServiceProblem, match="401 invalid_key"):
                app.item("a")
    log = next(tmp_path.glob("serve-*.log")).read_text()
    refused = [json.loads(line) for line in log.splitlines() if '"refused"' in line]
    assert {line["refused"] for line in refused} == {"missing", "scope", "unknown"}
    assert any(line["key"] == app_key[3:15] and line["refused"] == "unknown" for line in refused)
    assert not any(key[16:] in log for key in (app_key, operator, late))
    assert all(key["last_used"] for key in listed(run, home))


def seconds_until_refused(client: httpx.Client, key: str) -> float:
    """How long a key still opens."""
    started = time.monotonic()
    while time.monotonic() - started < 10:
        answer = client.get("/v1/items/a", headers={"Authorization": f"Bearer {key}"})
        if answer.status_code == 401:
            return time.monotonic() - started
        time.sleep(0.02)
    pytest.fail("the revoked key still opened after 10 seconds")
