"""Model cards over HTTP with recorded figures; the record changes neither answers nor generations."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from robustness_made import robustness_table
from starlette.testclient import TestClient
from tiny import make_model, picture, settings_for

from model.artefact import read_card, record_robustness, verify
from model.errors import ArtefactError
from model.robustness import build_robustness
from service.api.app import create_app
from service.commands.home import adopt_model
from service.wiring import build_application


def record(folder: Path, **changes: object) -> str:
    """Record made figures; the model's digest."""
    digest = read_card(folder).digest
    record_robustness(folder, build_robustness(robustness_table(digest, **changes), "made"))
    return digest


def test_figures_and_the_line_are_public(home: Path) -> None:
    settings = settings_for(home)
    with TestClient(create_app(build_application(settings), settings), base_url="http://127.0.0.1") as client:
        before = client.get("/v1/models/tiny/1").json()
        assert before["robustness"] is None
        assert before["known_to_break_at"].startswith("not evaluated")
        digest = record(home / "models" / "tiny" / "1")
        card = client.get("/v1/models/tiny/1").json()
        assert card["digest"] == before["digest"] == digest
        assert card["robustness"] == json.loads(json.dumps(robustness_table(digest)))
        assert card["known_to_break_at"].startswith(
            "pictures: 8/255 per pixel (image-to-text mAP 0.700 clean"
        )
        assert card["known_to_break_at"] in card["readme"]
        changed = {"robustness", "known_to_break_at", "readme"}
        assert {name for name in card if card[name] != before[name]} == changed
        assert client.get("/v1/models").json()["models"] == [card]


def test_what_was_indexed_before_is_found_after(home: Path) -> None:
    """Codes, generation and digest belong together as before, also for a service that starts anew."""
    settings, answers = settings_for(home), []
    for turn in range(2):
        application = build_application(settings)
        with TestClient(create_app(application, settings), base_url="http://127.0.0.1") as client:
            if turn == 0:
                files = {"image": ("x", picture(1)), "text": (None, "two red circles")}
                assert client.put("/v1/items/one", files=files).status_code == 201
            answer = client.post("/v1/search/image-to-text", files={"image": ("x", picture(1))}).json()
            assert client.get("/readyz").json()["ready"] is True
            answers.append((answer["hits"], answer["index_generation"], answer["model_version"]))
        if turn == 0:
            record(home / "models" / "tiny" / "1")
    assert answers[0] == answers[1]
    assert answers[0][0][0]["id"] == "one"


@pytest.mark.parametrize("name", ["README.md", "robustness.json", "evidence.json"])
def test_a_damaged_record_is_a_problem_and_no_stack_trace(home: Path, name: str) -> None:
    folder, settings = home / "models" / "tiny" / "1", settings_for(home)
    with TestClient(create_app(build_application(settings), settings), base_url="http://127.0.0.1") as client:
        record(folder)
        (folder / name).write_bytes(b"{}")
        answer = client.get("/v1/models/tiny/1")
        assert (answer.status_code, answer.json()["code"]) == (503, "model_damaged")
        assert "Traceback" not in answer.text
        assert client.get("/readyz").json()["ready"] is True  # what is loaded goes on


def test_a_home_takes_the_record_along(home: Path, model_folder: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "elsewhere", "mine")
    settings = settings_for(home)
    assert adopt_model(settings, str(folder)) == "mine/1"
    copy = home / "models" / "mine" / "1"
    record(folder)
    assert adopt_model(settings, str(folder)) == "mine/1"  # the same model: its home learns what is known
    assert (copy / "robustness.json").read_bytes() == (folder / "robustness.json").read_bytes()
    record(copy, profile="standard")
    adopt_model(settings, str(folder))
    assert json.loads((copy / "robustness.json").read_text())["profile"] == "standard"
    assert verify(copy).digest == verify(folder).digest


def test_a_damaged_record_is_not_adopted(home: Path, tmp_path: Path) -> None:
    folder = make_model(tmp_path / "elsewhere", "mine")
    record(folder)
    (folder / "robustness.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"robustness\.json: wanted"):
        adopt_model(settings_for(home), str(folder))
    assert not (home / "models" / "mine").exists()
