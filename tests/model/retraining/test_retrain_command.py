"""`hashguard retrain` as a command: its one line, its JSON, its exit statuses."""

import json

import pytest
from retrain_made import Admin
from typer.testing import CliRunner

from model.cli import app
from model.retraining import launch
from model.training.stopping import Stopped


@pytest.fixture
def call(home, live_folder, monkeypatch):
    """Runs the command on the live model's own data, with a made service."""

    class Closing(Admin):
        def close(self):
            pass

    def invoke(*options, made=True):
        if made:
            monkeypatch.setattr(launch, "Service", lambda url, key: Closing(home / "models"))
        data = live_folder.parents[2] / "old"
        words = ["retrain", "--data", str(data), "--home", str(home), "--if-new-data", *options]
        return CliRunner().invoke(app, words)

    return invoke


def test_what_came_of_it_is_one_line_or_one_document(call):
    done = call()
    assert (done.exit_code, done.stdout) == (
        0,
        "unchanged: tiny/1: the live model was trained on this very data\n",
    )
    assert json.loads(call("--json").stdout)["outcome"] == "unchanged"


def test_a_service_that_does_not_answer_is_status_1(call):
    failed = call("--url", "http://127.0.0.1:1", made=False)
    assert failed.exit_code == 1
    assert "error: no answer from http://127.0.0.1:1" in failed.stderr


@pytest.mark.parametrize("options", [("--max-clean-drop", "2"), ("--queries", "0"), ("--colour", "red")])
def test_wrong_usage_is_status_2(call, options):
    assert call(*options).exit_code == 2


def test_a_missing_key_file_is_status_1(call, tmp_path):
    failed = call("--key-file", str(tmp_path / "none"))
    assert (failed.exit_code, "FileNotFoundError" in failed.stderr) == (1, True)


def test_a_stop_is_status_128_and_the_signal(call, monkeypatch):
    def stopped(*_):
        raise Stopped(15, "stopped at step 3 of 9", resumable=True)

    monkeypatch.setattr(launch, "retrain", stopped)
    ended = call()
    assert ended.exit_code == 143
    assert "stopped at step 3 of 9; the same command continues" in ended.stderr
