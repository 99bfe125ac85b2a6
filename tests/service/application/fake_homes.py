"""Settings and workers for homes with fake models."""

import subprocess
import sys
import threading
from pathlib import Path

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
