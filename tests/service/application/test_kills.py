"""kill -9 of real service and worker processes amid a swap: nothing is lost, doubled or half done."""

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import pytest
from fake_homes import ROOT, settings_for
from fake_models import FakeEncoder

from service.catalog.catalog import open_catalog
from service.catalog_wiring import utc_now
from service.worker_processes import open_log, worker_is_dead

FINAL = {"done", "failed", "cancelled"}
QUIET = {"port": 0, "follower_poll_s": 0.2, "canary_interval_s": 5, "worker_heartbeat_s": 1}


@contextmanager
def running(home, **changes):
    """A service process on the home, and a client of it; the process is killed in the end."""
    settings = settings_for(home, **QUIET | changes)
    environment = settings.child_environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    script = str(Path(__file__).with_name("fake_service.py"))
    path = home.parent / f"service-{time.monotonic_ns()}.log"
    with path.open("w") as log:
        process = subprocess.Popen([sys.executable, script], env=environment, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port(process, path)}", timeout=60) as client:
            yield client, process
    finally:
        process.kill()
        process.wait()


def port(process, log, seconds=120):
    until = time.monotonic() + seconds
    while process.poll() is None and time.monotonic() < until:
        for line in log.read_text().splitlines():
            if line.startswith("port "):
                return line.split()[1]
        time.sleep(0.02)
    raise AssertionError(log.read_text()[-2000:])


def put(client, item_id, text):
    answer = client.put(f"/v1/items/{item_id}", files={"text": (None, text)})
    assert answer.status_code in {200, 201}, answer.text


def delete(client, item_id):
    assert client.delete(f"/v1/items/{item_id}").status_code == 204


def search(client, text):
    answer = client.post("/v1/search/text-to-text", json={"text": text, "k": 1000})
    assert answer.status_code == 200, answer.text
    return answer.json()


def reindex(client, **body):
    answer = client.post("/v1/admin/reindex", json=body)
    assert answer.status_code == 202, answer.text
    return answer.json()["id"]


def finished(client, job_id, seconds=120):
    until = time.monotonic() + seconds
    while (job := client.get(f"/v1/admin/jobs/{job_id}").json())["phase"] not in FINAL:
        assert time.monotonic() < until, job
        time.sleep(0.2)
    return job


def wait_until(condition, seconds=120):
    until = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < until, "it did not happen in time"
        time.sleep(0.02)


def check_whole(client, home, texts, model):
    """The service is on `model`, and finds exactly these items, each once and at distance 0 to itself."""
    for item_id, text in texts.items():
        answer = search(client, text)
        assert answer["model_version"] == model
        ids = [hit["id"] for hit in answer["hits"]]
        assert sorted(ids) == sorted(texts), "an item is missing, doubled or should be gone"
        assert next(hit["distance"] for hit in answer["hits"] if hit["id"] == item_id) == 0
    shown = {one["id"] for one in client.get("/v1/admin/generations").json()["generations"]}
    assert shown == {path.name for path in (home / "generations").iterdir() if path.name[0] != "."}


@pytest.fixture
def texts():
    return {f"i{n}": f"word{n} of item {n}" for n in range(6)}


def fill(client, texts):
    for item_id, text in texts.items():
        put(client, item_id, text)


def write_meanwhile(client, texts, new):
    """Change the corpus: one new, one changed, one gone."""
    put(client, new, f"{new}, written meanwhile")
    put(client, "i1", f"changed with {new}")
    delete(client, gone := max(one for one in texts if one[0] == "i"))
    texts |= {new: f"{new}, written meanwhile", "i1": f"changed with {new}"}
    del texts[gone]


def test_a_worker_killed_before_or_after_the_alias_moves(home, shelf, texts):
    """Before: the job has failed, and the old pair stays. After: what it was for has happened; it is done."""
    with running(home) as (client, _):
        fill(client, texts)
        shelf.publish("2", slow_s=0.1)
        (home / "kill").write_text("worker before the alias moves")
        job = reindex(client)
        write_meanwhile(client, texts, "first")
        done = finished(client, job)
        reason = "the worker process ended with status -9 before the job was done"
        assert (done["phase"], done["error"]) == ("failed", reason)
        assert done["validation"]["text_count"] >= 5
        check_whole(client, home, texts, "fake/1")

        (home / "kill").write_text("worker when the alias has moved")
        job = reindex(client)
        write_meanwhile(client, texts, "second")
        done = finished(client, job)
        assert (done["phase"], done["error"], done["model"]) == ("done", None, "fake/2")
        check_whole(client, home, texts, "fake/2")
        write_meanwhile(client, texts, "third")
        roll_back(client)
        check_whole(client, home, texts, "fake/1")
    catalog = open_catalog(settings_for(home).database_url(), utc_now)
    for version in "12":
        assert catalog.codes.all(FakeEncoder(version).digest, "text", 64)[0] == sorted(texts)
    catalog.close()


def roll_back(client):
    """Activate the predecessor, which is served when the call returns."""
    old = next(one for one in generations(client) if one["predecessor"])
    back = client.post(f"/v1/admin/generations/{old['id']}/activate")
    assert (back.status_code, back.json()["live"]) == (200, True)


def generations(client):
    return client.get("/v1/admin/generations").json()["generations"]


def test_a_service_killed_between_alias_and_swap_comes_back_on_the_new_pair(home, shelf, texts):
    (home / "kill").write_text("service before it serves the new one")
    with running(home) as (client, process):
        fill(client, texts)
        shelf.publish("2", slow_s=0.1)
        reindex(client)
        write_meanwhile(client, texts, "new")
        assert process.wait(timeout=120) == -signal.SIGKILL
    (home / "kill").unlink()
    with running(home) as (client, _):
        check_whole(client, home, texts, "fake/2")
        wait_until(lambda: not [one for one in jobs(client) if one["phase"] not in FINAL])
        assert [one["phase"] for one in jobs(client)] == ["done"]
        write_meanwhile(client, texts, "later")
        roll_back(client)
        check_whole(client, home, texts, "fake/1")


def jobs(client):
    return client.get("/v1/admin/jobs").json()["jobs"]


def test_after_a_crash_of_service_and_worker_a_reindex_can_start_at_once(home, shelf, texts):
    with running(home, worker_timeout_s=600) as (client, process):
        fill(client, texts)
        shelf.publish("2", slow_s=1)
        job = reindex(client)
        log = home / "logs" / f"reindex-{job}.log"
        wait_until(lambda: jobs(client)[0]["phase"] == "encoding")
        worker = worker_of(job)
        assert not worker_is_dead(log.parent, job)
        process.kill()
        process.wait()
        assert not worker_is_dead(log.parent, job)  # it outlives its service, and keeps its job
        os.kill(worker, signal.SIGKILL)
        wait_until(lambda: worker_is_dead(log.parent, job))
    shelf.publish("2")
    with running(home, worker_timeout_s=600) as (client, _):
        again = reindex(client)  # 409 for ten minutes, were it for the silence alone
        lost = client.get(f"/v1/admin/jobs/{job}").json()
        assert (lost["phase"], lost["error"]) == ("failed", "the worker process died before the job was done")
        assert finished(client, again)["phase"] == "done"
        check_whole(client, home, texts, "fake/2")


def worker_of(job_id):
    """The process that works on a job: the one that was started with its id as the last argument."""
    for folder in Path("/proc").iterdir():
        if folder.name.isdigit():
            try:
                arguments = (folder / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if job_id.encode() in arguments:
                return int(folder.name)
    raise AssertionError(f"no process works on {job_id}")


def test_a_lock_is_held_by_one_and_known_for_this_machine_only(tmp_path, monkeypatch):
    assert not worker_is_dead(tmp_path, "never-started")
    with open_log(tmp_path, "j"):
        assert not worker_is_dead(tmp_path, "j")
        with pytest.raises(BlockingIOError), open_log(tmp_path, "j"):
            pass
    assert worker_is_dead(tmp_path, "j")
    monkeypatch.setattr("socket.gethostname", lambda: "another machine")
    assert not worker_is_dead(tmp_path, "j")
    assert json.dumps((tmp_path / "reindex-j.log").read_text()).startswith('"worker on ')
