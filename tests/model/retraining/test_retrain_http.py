"""The trainer's calls of a service, against a small HTTP server that answers as it is told."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from model.errors import RetrainingError
from model.retraining import live
from model.retraining.live import Live, Service, read_key

GENERATIONS, JOBS, JOB, REINDEX = (
    "GET /v1/admin/generations",
    "GET /v1/admin/jobs",
    "GET /v1/admin/jobs/j1",
    "POST /v1/admin/reindex",
)


def job(phase, **more):
    return {
        "id": "j1",
        "phase": phase,
        "done": 1,
        "total": 2,
        "error": None,
        "model": "a/2",
        "activate": True,
    } | more


class Handler(BaseHTTPRequestHandler):
    def answer(self):
        call = f"{self.command} {self.path}"
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        self.server.calls.append((call, self.headers.get("Authorization"), body))
        answers = self.server.answers[call]
        status, document = answers.pop(0) if len(answers) > 1 else answers[0]
        data = document if isinstance(document, bytes) else json.dumps(document).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    do_GET = do_POST = answer

    def log_message(self, *_):
        pass


@pytest.fixture
def answers():
    """What is answered to which call: a list of (status, document), the last one for ever."""
    return {JOBS: [(200, {"jobs": []})]}


@pytest.fixture
def server(answers):
    found = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.answers, found.calls = answers, []
    thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield found
    found.shutdown()
    thread.join()
    found.server_close()


@pytest.fixture
def service(server):
    found = Service(f"http://127.0.0.1:{server.server_port}", "hg_key", poll_s=0.01)
    yield found
    found.close()


def test_the_live_model_is_the_live_generations(service, server, answers):
    row = {"model_version": "a/1", "model_digest": "aa", "live": False}
    answers[GENERATIONS] = [
        (200, {"generations": [row, row | {"model_digest": "bb", "live": True}]}),
        (200, {"generations": []}),
    ]
    assert service.live() == Live("a/1", "bb")
    assert service.live() is None
    assert {key for _, key, _ in server.calls} == {"Bearer hg_key"}


def test_a_reindex_is_asked_for_once_and_followed_to_its_end(service, server, answers):
    answers[REINDEX] = [(202, job("queued"))]
    answers[JOB] = [(200, job("encoding")), (503, b"draining"), (200, job("swapping")), (200, job("done"))]
    seen = []
    service.reindex("a/2", lambda *told: seen.append(told))
    assert [phase for phase, _, _ in seen] == ["queued", "encoding", "swapping"]
    (sent,) = [body for call, _, body in server.calls if call == REINDEX]
    assert json.loads(sent) == {"model": "a/2", "activate": True}


def test_a_job_that_runs_for_this_model_is_followed_and_no_other(service, server, answers):
    other, over = job("encoding", model="a/1"), job("failed")
    answers[JOBS] = [(200, {"jobs": [other, over, job("encoding")]})]
    answers[JOB] = [(200, job("done"))]
    service.reindex("a/2", lambda *_: None)
    assert REINDEX not in [call for call, _, _ in server.calls]


@pytest.mark.parametrize("phase", ["failed", "cancelled"])
def test_a_job_that_does_not_end_well_says_why(service, answers, phase):
    answers[REINDEX] = [(202, job("queued"))]
    answers[JOB] = [(200, job(phase, error="the model is worse"))]
    with pytest.raises(RetrainingError, match=f"the reindex with a/2 {phase}: the model is worse"):
        service.reindex("a/2", lambda *_: None)


@pytest.mark.parametrize(
    ("status", "document", "said"),
    [
        (401, {"detail": "No key."}, "answered 401: No key"),
        (409, {"detail": "A job runs."}, "answered 409: A job runs"),
        (503, b"<html>", "answered 503"),
        (200, b"<html>", "wanted JSON, got status 200"),
        (200, [1], "wanted a JSON object, got list"),
    ],
)
def test_a_refusal_is_one_sentence(service, answers, status, document, said):
    answers[REINDEX] = [(status, document)]
    with pytest.raises(RetrainingError, match=said):
        service.reindex("a/2", lambda *_: None)


def test_patience_with_a_service_that_is_away_ends(service, answers, monkeypatch):
    monkeypatch.setattr(live, "PATIENCE_S", 0.05)
    answers[REINDEX] = [(202, job("queued"))]
    answers[JOB] = [(503, b"")]
    with pytest.raises(RetrainingError, match="answered 503"):
        service.reindex("a/2", lambda *_: None)


def test_nobody_there_and_no_address(server):
    away = Service("http://127.0.0.1:1", None)
    with pytest.raises(RetrainingError, match=r"no answer from http://127\.0\.0\.1:1"):
        away.live()
    away.close()
    with pytest.raises(RetrainingError, match="wanted http://host:port"):
        Service("http://127.0.0.1:port", None)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "empty"),
        (b"two words", "no key has"),
        (b"\xff\xfe", "UnicodeDecodeError"),
        (None, "FileNotFoundError"),
    ],
)
def test_a_bad_key_file_is_refused_without_showing_it(tmp_path, content, said):
    file = tmp_path / "key"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(RetrainingError, match=said) as refusal:
        read_key(file)
    assert "two words" not in str(refusal.value)


def test_a_key_file_may_end_in_a_new_line(tmp_path):
    (tmp_path / "key").write_text("hg_1_2\n")
    assert read_key(tmp_path / "key") == "hg_1_2"
    assert read_key(None) is None
