"""Settings and workers for homes with fake models."""

import importlib
import multiprocessing
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest
from fake_models import FakeShelf

from service.settings import Settings
from service.wiring import build_runner, open_parts
from service.worker_processes import ProcessWorker, open_log

ROOT = Path(__file__).parents[3]


def settings_for(home, **changes):
    defaults = {
        "home": home,
        "index_backend": "memory",
        "model_batch_delay_ms": 0,
        "follower_poll_s": 0.05,
        "canary_interval_s": 0.2,
        "worker_heartbeat_s": 0.1,
        "worker_timeout_s": 5,
        "reindex_batch_size": 8,
    }
    return Settings(**{**defaults, **changes})


class ThreadWorker(threading.Thread):
    """A worker in a thread: what a worker process does, without the seconds that its start costs."""

    def __init__(self, settings, job_id):
        super().__init__(daemon=True)
        self.settings, self.job_id, self.stopping = settings, job_id, threading.Event()

    def run(self):
        parts = open_parts(self.settings, FakeShelf(self.settings.models_folder))
        build_runner(parts).run(self.job_id, self.stopping)
        parts.close()

    def poll(self):
        return None if self.is_alive() else 0

    def terminate(self):
        self.stopping.set()
        self.join()


def thread_launcher(settings):
    def launch(job_id):
        worker = ThreadWorker(settings, job_id)
        worker.start()
        return worker

    return launch


FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["fake_service"])  # loads torch once, not in each worker


class ForkedWorker:
    """A worker process that need not load anything: it is forked from one that has."""

    def __init__(self, process):
        self.process = process

    def poll(self):
        return self.process.exitcode

    def terminate(self):
        self.process.terminate()
        self.process.join()


def forking_launcher(settings, most_bytes=None):
    """Workers as `fake_service.py` has them; no file that they write may have more than `most_bytes`."""

    def launch(job_id):
        return ForkedWorker(fork(settings, [job_id], most_bytes))

    return launch


def fork(settings, arguments, most_bytes=None, log=None):
    """`fake_service.py` with arguments in a process of its own, whose output goes to a file."""
    given = (settings.child_environment(), arguments, most_bytes, log)
    process = FORKS.Process(target=forked, args=given, daemon=True)
    with pytest.MonkeyPatch.context() as patch:  # Python 3.11 preloads without the path of this process
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), str(Path(__file__).parent)]))
        process.start()
    return process


def forked(environment, arguments, most_bytes, log):
    """What such a process does."""
    os.environ.update(environment)
    if most_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (most_bytes, most_bytes))
    if log is not None:
        sink = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        for stream in (1, 2):
            os.dup2(sink, stream)
    sys.argv = ["fake_service.py", *arguments]
    sys.exit(importlib.import_module("fake_service").main())


def process_launcher(settings, script="fake_models.py"):
    """Real worker processes, with fake models; `script` is a worker when it gets a job's id."""

    def launch(job_id):
        environment = settings.child_environment() | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        with open_log(settings.logs_folder, job_id) as log:
            return ProcessWorker(
                subprocess.Popen(
                    [sys.executable, str(Path(__file__).with_name(script)), job_id],
                    env=environment,
                    stdout=log,
                    stderr=log,
                    start_new_session=True,
                )
            )

    return launch
