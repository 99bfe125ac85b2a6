"""The profile `scale` as processes: what callers behind nginx notice of a kill, a reindex and a roll-back."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from container_files import ROOT
from real_servers import POSTGRES

sys.path.insert(0, str(ROOT / "clients" / "python"))
sys.path.insert(0, str(ROOT / "tests" / "service" / "api"))

from tiny import TEXTS, make_model, picture

from bench import replicas, scale_out
from bench.callers import Call, Log, Watch, asking, longest_ms, median_ms, watching
from bench.replicas import NotStarted, Replica, Stack, proxy_text, shared_settings
from bench.scale_out import Findings, mixed
from bench.search import Row, show

QUICK = {"MODEL_BATCH_DELAY_MS": "0", "CANARY_INTERVAL_S": "0.5", "DRAIN_S": "5"}


@pytest.fixture
def nginx():
    if replicas.nginx_path() is None:
        if os.environ.get("HASHGUARD_REQUIRE_SYSTEM") == "1":
            pytest.fail("HASHGUARD_REQUIRE_SYSTEM is set, but there is no nginx")
        pytest.skip("there is no nginx")


def draw(folder: Path) -> Path:
    """A manifest folder of 40 pairs."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(40):
        (folder / "images" / f"{number}.png").write_bytes(picture(number))
        text = f"{TEXTS[number % len(TEXTS)]} {number}"
        lines.append(json.dumps({"id": f"p{number}", "image": f"images/{number}.png", "texts": [text]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@pytest.mark.system
@POSTGRES
@pytest.mark.usefixtures("nginx")
def test_callers_notice_neither_a_kill_nor_a_new_generation(tmp_path, postgres):
    url = postgres.database()
    environment = shared_settings(tmp_path, url, "pgvector", url, **QUICK)
    data = draw(tmp_path / "data")
    for seed in (0, 1):
        make_model(tmp_path / "home" / "models", seed=seed)
    replicas.command(environment, "index", "build", "--data", data, "--model", "tiny/1")

    def steps(pair):
        def kill(scene, found):
            scale_out.kill(scene, found, pair[0])

        def reindex(scene, found):
            scale_out.reindex(scene, found, "tiny/2")

        return [kill, reindex, scale_out.roll_back]

    found = scale_out.tell(tmp_path, environment, data, steps, searchers=2, pause_s=1.0)
    rows = {row.what: row.ours for row in found.rows}
    assert found.broken() == []
    assert rows["calls"] > 50
    assert rows["written items that replica-b finds"] > 5
    assert [name for name, *_ in found.phases] == [
        "steady", "replica-a killed and restarted", "reindex", "roll-back", "steady again",
    ]  # fmt: skip


def call(begun, ended, generation="", model="m/1", error="", kind="search"):
    return Call(kind, begun, ended, error, model, generation)


def test_the_old_generation_is_stale_from_the_first_new_answer_on():
    log = Log([call(0, 1, "old"), call(1, 2, "new"), call(2.5, 2.6, "old"), call(4, 5, "new")])
    assert log.stale_s("new", 0) == 0.5
    assert log.stale_s("new", 3) == 0
    assert log.stale_s("old", 0) == 3
    with pytest.raises(ValueError, match="no answer named the generation next"):
        log.stale_s("next", 0)


def test_a_generation_with_two_models_is_a_wrong_pair():
    calls = [call(0, 1, "a", "m/1"), call(0, 1, "a", "m/1"), call(0, 1, "b", "m/2"), call(0, 1, kind="write")]
    assert mixed(Log(calls)) == 0
    assert mixed(Log([*calls, call(0, 1, "b", "m/1")])) == 1


def test_failures_lost_writes_and_late_replicas_are_found():
    found = Findings()
    found.add("calls that failed", 0, 0, "")
    found.add("late", 1.9, 2.0, "s")
    found.add("found", 7, 7, "of all")
    found.add("a duration without a target", 99, None, "s")
    assert found.broken() == []
    found.add("calls that failed", 1, 0, "")
    found.add("late", 2.1, 2.0, "s")
    found.add("found", 6, 7, "of all")
    assert found.broken() == [
        "calls that failed: wanted 0, got 1 ",
        "late: wanted 2, got 2.1 s",
        "found: wanted 7, got 6 of all",
    ]


def test_rows_are_shown_with_their_peers_and_ratios(capsys):
    show([Row("failed", 0.0, 0, "", None, None), Row("took", 1.0, 2.0, "s", 0.5, None)])
    assert [line.split() for line in capsys.readouterr().out.splitlines()] == [
        ["failed", "0", "peer", "0"],
        ["took", "1", "s", "peer", "2", "ratio", "0.500"],
    ]


def test_a_call_that_the_client_gives_up_is_a_failure():
    with asking("http://127.0.0.1:1", "hg_x", ["a"], [b"b"], 1) as log:
        limit = time.monotonic() + 30
        while not log.failures():
            assert time.monotonic() < limit
            time.sleep(0.05)
    assert log.failures()[0].error.startswith("ConnectError")
    assert len(log.retries) >= 3
    assert log.written == []
    assert longest_ms(log.calls) >= median_ms(log.calls) > 0


def test_replicas_are_watched_until_the_last_one_serves_the_generation(tmp_path):
    served = {"index_generation": "old"}

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(served).encode())

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever).start()
        alive, dead = (
            Replica(name, port, tmp_path, {}) for name, port in (("a", server.server_port), ("b", 1))
        )
        with watching([alive, dead]) as watch:
            old = watch.await_all("old", ["a"], 10)
            served["index_generation"] = "new"
            assert watch.await_all("new", ["a"], 10) == watch.first("new") > old
            with pytest.raises(TimeoutError, match="not all replicas serve new"):
                watch.await_all("new", ["a", "b"], 0.2)
        server.shutdown()


def test_the_first_replica_counts_where_the_generation_begins():
    watch = Watch({"a": ("new", 3.0), "b": ("new", 4.5), "c": ("old", 1.0)})
    assert watch.first("new") == 3.0
    assert watch.await_all("new", ["a", "b"], 1) == 4.5


def test_a_replica_that_does_not_start_says_why(tmp_path):
    environment = shared_settings(tmp_path, "postgresql://127.0.0.1:1/none", "memory", "")
    replica = Replica("replica-a", *replicas.free_ports(1), tmp_path, environment)
    replica.start()
    with pytest.raises(NotStarted, match=r"replica-a ended: .*catalog"):
        replica.await_ready()
    with pytest.raises(NotStarted, match="hashguard keys ended with"):
        replicas.command(environment, "keys", "revoke", "x")


def test_a_replica_that_ignores_a_signal_is_killed(tmp_path, monkeypatch):
    monkeypatch.setattr(replicas, "END_S", 0.3)
    stubborn = "import signal, time; signal.signal(15, signal.SIG_IGN); print(1, flush=True); time.sleep(60)"
    replica = Replica("replica-a", 1, tmp_path, {})
    replica.process = subprocess.Popen([sys.executable, "-c", stubborn], stdout=subprocess.PIPE)
    with replica.process.stdout as out:
        assert out.readline() == b"1\n"
    with pytest.raises(NotStarted, match=r"went on for 0\.3 s after SIGTERM"):
        replica.end(signal.SIGTERM)
    assert replica.process.returncode == -signal.SIGKILL


def test_the_committed_file_of_nginx_is_the_one_that_runs(tmp_path, monkeypatch):
    pair = tuple(Replica(name, 1000 + place, tmp_path, {}) for place, name in enumerate(replicas.NAMES))
    text = proxy_text(tmp_path, 8888, pair)
    assert "listen 127.0.0.1:8888;" in text
    assert "server 127.0.0.1:1001 max_fails" in text
    assert "replica-" not in text
    other = tmp_path / "nginx.conf"
    other.write_text("listen 80;")
    monkeypatch.setattr(replicas, "PROXY_FILE", other)
    with pytest.raises(NotStarted, match=r"nginx.conf: wanted 'listen 8080;' in it"):
        proxy_text(tmp_path, 8888, pair)
    assert Stack("http://x", pair).replicas == pair
