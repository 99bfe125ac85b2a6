"""Real faults of a reindex: killed in each phase, disk full, artefact damaged or gone, an image that is none.

Whatever happens, the old pair answers with all items, nothing half is visible, and the next reindex is whole.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from fake_homes import ROOT, forking_launcher, settings_for, thread_launcher
from fake_models import picture
from fake_service import MOMENTS
from homes_to_break import blob_of, faults, folder_of, inspect, live, repair, sql

from service.application.types import FINAL_PHASES, ItemDraft, JobPhase, LeftOut, Query
from service.wiring import build_runner, open_parts, rebuild
from service.worker_processes import ProcessWorker, open_log

HALF = "worker with half a generation"
OTHERS = {HALF, "worker when the alias has moved", "service before it serves the new one"}
KILLS = [*(moment for moment in MOMENTS if moment not in OTHERS), HALF]  # the next build would sweep the half
TEXTS = {f"i{number}": f"word{number} of item {number}" for number in range(12)}


class Switch:
    """A launcher that starts what is put into it."""

    def __init__(self, launch):
        self.launch = launch

    def __call__(self, job_id):
        return self.launch(job_id)


@pytest.fixture
def switch(home):
    return Switch(thread_launcher(settings_for(home)))


@pytest.fixture
def app(make_app, switch, shelf):
    app = make_app(launch=switch)
    app.items.put_batch([ItemDraft(item_id, text=text) for item_id, text in TEXTS.items()])
    app.items.put(ItemDraft("picture", picture("red")))
    shelf.publish("2")
    return app


def reindex(app, seconds=120):
    job = app.reindexing.start("fake/2", True, None)
    return ended(app, job.id, seconds)


def ended(app, job_id, seconds=120):
    until = time.monotonic() + seconds
    while (job := app.reindexing.job(job_id)).phase not in FINAL_PHASES:
        assert time.monotonic() < until, job
        time.sleep(0.05)
        app.reindexing.watch()
    return job


def check_whole(app, model, texts=TEXTS):
    """The service is on the model, finds each item once, and names only what lies there whole."""
    for item_id, text in texts.items():
        answer = app.retrieval.search(Query(to="text", text=text, k=1000))
        assert answer.model_version == model
        assert sorted(hit.id for hit in answer.hits) == sorted(texts)
        assert next(hit.distance for hit in answer.hits if hit.id == item_id) == 0
    [nearest] = app.retrieval.search(Query(to="image", text="red", k=10)).hits
    assert nearest.id == "picture"


def shown(app):
    return [one.id for one in app.reindexing.generations()]


def test_a_worker_killed_in_any_phase_leaves_the_old_pair_and_nothing_half(
    app, switch, make_app, home, parts
):
    """Encoding, building, half written, not validated, not known to the catalog, before the alias moves."""
    switch.launch = forking_launcher(settings_for(home))
    before = shown(app)
    for moment in KILLS:
        (home / "kill").write_text(moment)
        job = reindex(app)
        reason = "the worker process ended with status -9 before the job was done"
        assert (job.phase, job.error) == (JobPhase.FAILED, reason), moment
        check_whole(app, "fake/1")
        whole = [job.generation_id] if moment == "worker before the alias moves" else []
        assert [one for one in shown(app) if one not in before] == whole, moment
        before = shown(app)
    app.close()
    again = make_app(launch=thread_launcher(settings_for(home)))
    check_whole(again, "fake/1")
    found = inspect(parts)
    assert faults(found) == ["generation-unknown", "left-behind"]
    assert all(one.repaired for one in repair(parts))
    assert inspect(parts) == []
    job = reindex(again)
    assert (job.phase, job.error, job.total) == (JobPhase.DONE, None, 0)  # every code was kept
    check_whole(again, "fake/2")
    kept = {path.name for path in (home / "generations").iterdir()}
    assert kept == set(shown(again))


def on_full_disk(settings):
    """A launcher whose workers have 16 KiB for generations: a file system of their own, full in no time."""

    def launch(job_id):
        generations = str(settings.generations_folder)
        mount = 'mount -t tmpfs -o size=16k tmpfs "$1" && shift && exec "$@"'
        worker = [sys.executable, str(Path(__file__).with_name("fake_models.py")), job_id]
        command = [*UNSHARE, "sh", "-c", mount, "sh", generations, *worker]
        environment = settings.child_environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open_log(settings.logs_folder, job_id) as log:
            return ProcessWorker(subprocess.Popen(command, env=environment, stdout=log, stderr=log))

    return launch


UNSHARE = ["unshare", "--mount", *([] if os.geteuid() == 0 else ["--map-root-user"])]


def may_mount(folder):
    """Whether this machine lets a process mount a file system for itself."""
    if shutil.which("unshare") is None:
        return False
    trial = [*UNSHARE, "mount", "-t", "tmpfs", "tmpfs", str(folder)]
    return subprocess.run(trial, capture_output=True, check=False).returncode == 0


def test_a_disk_that_is_full_fails_the_job_with_the_reason(app, switch, home, tmp_path):
    if not may_mount(tmp_path):
        pytest.skip("no file system can be mounted here; the limit on file sizes below is tested everywhere")
    switch.launch = on_full_disk(settings_for(home))
    before, files = shown(app), sorted((home / "generations").rglob("*"))
    job = reindex(app)
    assert job.phase is JobPhase.FAILED
    assert "No space left on device" in job.error
    check_whole(app, "fake/1")
    assert (shown(app), sorted((home / "generations").rglob("*"))) == (before, files)
    switch.launch = thread_launcher(settings_for(home))
    assert reindex(app).phase is JobPhase.DONE
    check_whole(app, "fake/2")


def test_a_catalog_that_cannot_grow_fails_the_job_and_keeps_what_it_has(app, switch, home, shelf):
    """The kernel refuses what the worker writes to it, as a full disk does: the job cannot even say so."""
    settings = settings_for(home)
    most = max(path.stat().st_size for path in home.glob("catalog.db*")) + 4096

    switch.launch = forking_launcher(settings, most)
    job = reindex(app)
    assert job.phase is JobPhase.FAILED
    assert "ended with status" in job.error or "catalog" in job.error
    check_whole(app, "fake/1")
    switch.launch = thread_launcher(settings)
    assert reindex(app).phase is JobPhase.DONE
    check_whole(app, "fake/2")


class Waiting:
    """A launcher whose job waits until the test runs it."""

    def __call__(self, job_id):
        return self

    def poll(self):
        return None

    def terminate(self):
        pass


@pytest.mark.parametrize(
    ("trouble", "reason"),
    [("damaged", "the model is damaged"), ("vanished", "there is no model 'fake/2'; there are: fake/1")],
)
def test_an_artefact_that_is_damaged_or_gone_when_the_worker_comes(
    app, switch, shelf, parts, trouble, reason
):
    switch.launch = Waiting()
    job = app.reindexing.start("fake/2", True, None)
    if trouble == "damaged":
        shelf.publish("2", damaged=True)
    else:
        shelf.path.write_text('{"fake/1": {}}')
    done = build_runner(parts).run(job.id, threading.Event())
    assert (done.phase, done.error) == (JobPhase.FAILED, reason)
    check_whole(app, "fake/1")


@pytest.mark.parametrize("trouble", ["damaged", "vanished"])
def test_a_live_artefact_that_is_damaged_or_gone_at_a_restart(app, make_app, shelf, parts, trouble):
    """The predecessor answers and the probe says why; with the artefact back, the live pair does."""
    assert reindex(app).phase is JobPhase.DONE
    check_whole(app, "fake/2")
    app.close()
    if trouble == "damaged":
        shelf.publish("2", damaged=True)
    else:
        shelf.path.write_text('{"fake/1": {}}')
    again = make_app(launch=Waiting())
    check_whole(again, "fake/1")
    assert live(parts).id in again.health.ready().reasons[0]
    named = [one for one in inspect(parts) if one.open]
    assert faults(named) == [{"damaged": "model-damaged", "vanished": "model-missing"}[trouble]]
    again.close()
    shelf.publish("2")
    check_whole(make_app(launch=Waiting()), "fake/2")


def spoil(parts):
    """The bytes of the picture are replaced by others that are stored soundly, and are no picture."""
    data = b"GIF89a, but not really"
    parts.blobs.ensure(digest := hashlib.sha256(data).hexdigest(), data)
    old = blob_of(parts, "picture")
    sql(parts, f"UPDATE items SET image_digest = '{digest}' WHERE id = 'picture'")
    old.unlink()


def test_an_image_that_no_longer_decodes_fails_the_job_or_is_named(app, home, shelf, parts):
    spoil(parts)
    job = reindex(app)
    assert job.phase is JobPhase.FAILED
    assert job.error == "1 items cannot be encoded: picture: not a JPEG, PNG or WebP image"
    check_whole(app, "fake/1")
    tolerant = open_parts(settings_for(home, reindex_skips_broken_items=True), shelf)
    done = rebuild(tolerant, "fake/2")
    tolerant.close()
    assert (done.phase, done.validation.left_out) == (JobPhase.DONE, (LeftOut("broken", 1, ("picture",)),))
    app.follower.tick()
    assert app.retrieval.search(Query(to="image", text="red")).hits == ()
    assert sorted(faults(inspect(parts))) == ["blob-undecodable", "code-missing"]


def test_what_is_served_goes_on_without_its_files(app, parts):
    """The folder of the live generation vanishes under a running service: it answers from memory."""
    shutil.rmtree(folder_of(parts, live(parts)))
    check_whole(app, "fake/1")
    assert faults(inspect(parts)) == ["generation-damaged"]
    assert all(one.repaired for one in repair(parts))
    until = time.monotonic() + 20
    while app.items.state.current.generation.id != live(parts).id:
        assert time.monotonic() < until
        time.sleep(0.05)
    check_whole(app, "fake/1")
