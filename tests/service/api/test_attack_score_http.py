"""The attack score over HTTP, on a real tiny model: answers, metrics, log lines, probes and the doctor."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from starlette.testclient import TestClient
from structlog.testing import capture_logs
from tiny import TEXTS, fill, make_model, picture, settings_for
from typer.testing import CliRunner

from model.inference import Encoder
from service.api.app import create_app
from service.cli import app as command
from service.wiring import build_application

IMAGE = base64.b64encode(picture(3)).decode()
HUGE = 1e9
# Thresholds: images 1e9 at 1 % and 0 at 5 %: every picture exceeds the second alone; no text any.
BENIGN = {"image": np.array([0.0] * 195 + [HUGE] * 5), "text": np.full(200, HUGE)}


@pytest.fixture(scope="module")
def scored_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A models folder with `tiny/1`, which has an attack score."""
    folder = tmp_path_factory.mktemp("scored") / "models"
    make_model(folder, benign=BENIGN)
    return folder


@pytest.fixture(scope="module")
def clients(
    tmp_path_factory: pytest.TempPathFactory, scored_models: Path
) -> Iterator[Mapping[str, TestClient]]:
    """Clients of two applications with the same model and corpus, with scores off and on."""
    found = {}
    for switch in ("off", "on"):
        home = tmp_path_factory.mktemp(switch) / "home"
        home.mkdir()
        (home / "models").symlink_to(scored_models)
        settings = settings_for(home, attack_score=switch)
        app = create_app(build_application(settings), settings)
        found[switch] = TestClient(app, base_url="http://127.0.0.1:8000")
        found[switch].__enter__()
        fill(found[switch])
    yield found
    for client in found.values():
        client.__exit__(None, None, None)


@pytest.fixture(scope="module")
def truth(scored_models: Path) -> Encoder:
    return Encoder.load(scored_models / "tiny" / "1", "cpu", score=True)


def ask(client: TestClient, what: str) -> dict[str, Any]:
    """The answer to one of the ways of asking."""
    calls = {
        "form": lambda: client.post("/v1/search/image-to-text", files={"image": ("x", picture(3))}),
        "raw": lambda: client.post(
            "/v1/search/image-to-image?k=3", content=picture(3), headers={"Content-Type": "image/png"}
        ),
        "text": lambda: client.post("/v1/search/text-to-image", json={"text": TEXTS[1]}),
        "text-to-text": lambda: client.post("/v1/search/text-to-text", json={"text": TEXTS[1], "k": 2}),
        "item": lambda: client.post("/v1/search/item", json={"id": "pair-0", "from": "image", "to": "text"}),
    }
    response = calls[what]()
    assert response.status_code == 200, response.text
    found: dict[str, Any] = response.json()
    return found


@pytest.mark.parametrize("what", ["form", "raw", "text", "text-to-text", "item"])
def test_every_search_has_its_score_and_the_same_hits(
    clients: Mapping[str, TestClient], truth: Encoder, what: str
) -> None:
    off, on = ask(clients["off"], what), ask(clients["on"], what)
    assert off["hits"] == on["hits"]
    assert off["hits"]
    assert off["next_cursor"] == on["next_cursor"]
    assert off["attack_score"] is None
    wanted = {
        "form": truth.score_images([truth.decode(picture(3))])[0],
        "text": truth.score_texts([TEXTS[1]])[0],
    }
    expected = {**wanted, "raw": wanted["form"], "text-to-text": wanted["text"], "item": None}[what]
    assert on["attack_score"] == expected


def batch(client: TestClient) -> list[dict[str, Any]]:
    queries = [
        {"to": "text", "image": IMAGE},
        {"to": "image", "text": TEXTS[1]},
        {"to": "text", "id": "pair-0", "from": "text"},
        {"to": "text", "text": " "},
        {"to": "image", "image": IMAGE, "k": 2},
    ]
    found: list[dict[str, Any]] = client.post("/v1/search/batch", json={"queries": queries}).json()["results"]
    return found


def test_a_batch_has_a_score_for_each_query(clients: Mapping[str, TestClient], truth: Encoder) -> None:
    off, on = batch(clients["off"]), batch(clients["on"])
    assert [entry["status"] for entry in on] == [200, 200, 200, 422, 200]
    answers = [entry["answer"] for entry in on if entry["answer"]]
    assert [answer["hits"] for answer in answers] == [
        entry["answer"]["hits"] for entry in off if entry["answer"]
    ]
    picture_score = truth.score_images([truth.decode(picture(3))])[0]
    text_score = truth.score_texts([TEXTS[1]])[0]
    assert [answer["attack_score"] for answer in answers] == [picture_score, text_score, None, picture_score]


def counts(client: TestClient, name: str) -> dict[str, float]:
    """Samples of a metric by the text of their labels."""
    lines = client.get("/metrics").text.splitlines()
    found = [line[len(name) :].rsplit(" ", 1) for line in lines if line.startswith((f"{name}{{", f"{name} "))]
    return {labels: float(value) for labels, value in found}


def test_metrics_count_what_is_above_each_threshold(clients: Mapping[str, TestClient]) -> None:
    client = clients["on"]
    ask(client, "form")
    ask(client, "text")
    suspicious, scored = "hashguard_suspicious_queries_total", "hashguard_scored_queries_total"
    before, seen = counts(client, suspicious), counts(client, scored)
    for what in ("form", "raw", "text", "item"):
        ask(client, what)
    batch(client)
    client.get("/", params={"q": TEXTS[0]})
    client.post("/v1/encode/image", files={"image": ("x", picture(3))})
    client.post("/v1/search/text-to-text", json={"text": " "})
    after, now = counts(client, suspicious), counts(client, scored)
    assert {labels: after[labels] - before[labels] for labels in after} == {
        '{modality="image",rate="0.01"}': 0,
        '{modality="image",rate="0.05"}': 4,
        '{modality="text",rate="0.01"}': 0,
        '{modality="text",rate="0.05"}': 0,
    }
    assert {labels: now[labels] - seen[labels] for labels in now} == {
        '{modality="image"}': 4,
        '{modality="text"}': 3,
    }
    assert counts(client, "hashguard_attack_score_threshold") == {
        '{modality="image",rate="0.01"}': HUGE,
        '{modality="image",rate="0.05"}': 0,
        '{modality="text",rate="0.01"}': HUGE,
        '{modality="text",rate="0.05"}': HUGE,
    }
    for name in (suspicious, scored, "hashguard_attack_score_threshold"):
        assert counts(clients["off"], name) == {}


def request_lines(client: TestClient, *asked: str) -> list[Mapping[str, Any]]:
    with capture_logs() as logs:
        for what in asked:
            batch(client) if what == "batch" else ask(client, what)
    return [line for line in logs if line["event"] == "request"]


def test_log_lines_name_suspicious_queries_and_nothing_of_what_was_asked(
    clients: Mapping[str, TestClient], truth: Encoder
) -> None:
    image, text, many = request_lines(clients["on"], "form", "text", "batch")
    score = round(float(truth.score_images([truth.decode(picture(3))])[0]), 6)
    assert (image["suspicious"], image["suspicious_rate"], image["attack_score"]) == (1, 0.05, score)
    assert (many["suspicious"], many["suspicious_rate"], many["attack_score"]) == (2, 0.05, score)
    assert not {"suspicious", "suspicious_rate", "attack_score"} & set(text)
    assert not any("suspicious" in line for line in request_lines(clients["off"], "form", "batch"))
    assert TEXTS[1] not in json.dumps([dict(text), dict(many)])


@pytest.fixture
def bare_home(tmp_path: Path) -> Path:
    """A home whose model has no attack score."""
    home = tmp_path / "home"
    make_model(home / "models")
    return home


def test_a_model_without_a_score_is_served_and_the_probe_says_so(bare_home: Path) -> None:
    settings = settings_for(bare_home, attack_score="on")
    app = create_app(build_application(settings), settings)
    with TestClient(app, base_url="http://127.0.0.1:8000") as client:
        fill(client)
        assert ask(client, "form")["attack_score"] is None
        assert ask(client, "form")["hits"]
        ready = client.get("/readyz")
        assert (ready.status_code, ready.json()["ready"]) == (200, True)
        assert ready.json()["reasons"] == ["the attack score is on, and tiny/1 has none for images and texts"]
        assert counts(client, "hashguard_scored_queries_total") == {}


def test_a_hostile_score_file_is_a_clear_reason_when_on_and_is_not_read_when_off(tmp_path: Path) -> None:
    home = tmp_path / "home"
    make_model(home / "models", benign={"image": np.full(50, np.nan)})
    for switch, status in (("on", 503), ("off", 200)):
        settings = settings_for(home, attack_score=switch)
        app = create_app(build_application(settings), settings)
        with TestClient(app, base_url="http://127.0.0.1:8000") as client:
            ready = client.get("/readyz")
            assert ready.status_code == status
            assert ("wanted falling numbers" in json.dumps(ready.json()["reasons"])) == (switch == "on")
            searched = client.post("/v1/search/text-to-text", json={"text": "a"})
            assert searched.status_code == status


def doctor(home: Path, switch: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("HASHGUARD_ATTACK_SCORE", switch)
    monkeypatch.setenv("HASHGUARD_DEVICE", "cpu")
    ran = CliRunner().invoke(command, ["doctor", "--home", str(home), "--json"])
    checks = {check["name"]: check for check in json.loads(ran.stdout)["checks"]}
    found: dict[str, Any] = checks["attack score"]
    return found


def test_the_doctor_says_what_becomes_of_the_score(
    bare_home: Path, tmp_path: Path, scored_models: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert doctor(tmp_path / "nowhere", "on", monkeypatch)["detail"] == "on; no model yet"
    with_score = tmp_path / "scored"
    with_score.mkdir()
    (with_score / "models").symlink_to(scored_models)
    for home in (bare_home, with_score):
        assert doctor(home, "on", monkeypatch)["detail"] == "on; no live generation yet"
        settings = settings_for(home)
        application = build_application(settings)  # makes the empty generation
        application.close()
        assert doctor(home, "off", monkeypatch) == {"name": "attack score", "ok": True, "detail": "off"}
    assert doctor(with_score, "on", monkeypatch)["detail"] == "on, from tiny/1"
    missing = doctor(bare_home, "on", monkeypatch)
    assert not missing["ok"]
    assert "wanted an attack score for images and texts, tiny/1 has none" in missing["detail"]
