"""The whole loop as a newcomer goes through it, with the real command in processes of its own.

Draw data, check it, train, build, serve, put an item, find it by text and by image, delete it, train a second
version, reindex, and see the new version named in the answers.
"""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest
from tiny import ROOT, running

HASHGUARD = [sys.executable, "-m", "service.cli"]


def hashguard(*arguments: object) -> str:
    """Run the command to its end and return what it printed."""
    ran = subprocess.run(
        [*HASHGUARD, *map(str, arguments)], cwd=ROOT, capture_output=True, text=True, check=False, timeout=200
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def ids(answer: httpx.Response) -> list[str]:
    """Ids of the hits, in order."""
    assert answer.status_code == 200, answer.text
    return [hit["id"] for hit in answer.json()["hits"]]


def finished(client: httpx.Client, location: str) -> dict[str, Any]:
    """The job behind `location`, once it has ended."""
    for _ in range(1200):
        job: dict[str, Any] = client.get(location).json()
        if job["phase"] in {"done", "failed", "cancelled"}:
            return job
        time.sleep(0.1)
    pytest.fail("the reindex did not end in time")


@pytest.mark.timeout(600)
def test_from_pairs_to_answers_and_on_to_a_second_model(tmp_path: Path) -> None:
    data, models, home = tmp_path / "data", tmp_path / "home" / "models", tmp_path / "home"
    hashguard("data", "sample", data, "--pairs", 240, "--seed", 3)
    hashguard("data", "check", data)
    training = ("train", "--data", data, "--bits", 64, "--out", models, "--name", "mine", "--epochs", 2)
    first = hashguard(*training, "--seed", 0).strip().splitlines()[-1]
    assert Path(first) == models / "mine" / "1"
    hashguard("model", "verify", first)
    hashguard("index", "build", "--home", home, "--data", data, "--model", "mine/1")

    pair = json.loads((data / "pairs.jsonl").read_text().splitlines()[0])
    picture = (data / pair["image"]).read_bytes()
    text = "zebra crossing at dawn with one violet umbrella"
    with running(home) as (client, _):
        put = client.put("/v1/items/mine-1", files={"image": ("a", picture)}, data={"text": text})
        assert put.status_code == 201, put.text
        by_text = client.post("/v1/search/text-to-text", json={"text": text, "k": 1000})
        by_image = client.post(
            "/v1/search/image-to-image", files={"image": ("a", picture)}, data={"k": "1000"}
        )
        for answer in (by_text, by_image):
            assert "mine-1" in ids(answer)
            assert answer.json()["model_version"] == "mine/1"
        zero = [hit for hit in by_image.json()["hits"] if hit["id"] == "mine-1"]
        assert zero[0]["distance"] == 0
        across = client.post("/v1/search/text-to-image", json={"text": text, "k": 1000})
        assert "mine-1" in ids(across)
        assert "mine-1" in ids(
            client.post("/v1/search/image-to-text", files={"image": ("a", picture)}, data={"k": "1000"})
        )
        assert client.delete("/v1/items/mine-1").status_code == 204
        assert client.get("/v1/items/mine-1").status_code == 404
        assert "mine-1" not in ids(client.post("/v1/search/text-to-image", json={"text": text, "k": 1000}))

        second = hashguard(*training, "--seed", 1).strip().splitlines()[-1]
        assert Path(second) == models / "mine" / "2"
        accepted = client.post("/v1/admin/reindex", json={"model": "latest"})
        assert accepted.status_code == 202, accepted.text
        job = finished(client, accepted.headers["location"])
        assert job["phase"] == "done", job
        answer = client.post("/v1/search/text-to-image", json={"text": pair["texts"][0], "k": 5})
        assert answer.json()["model_version"] == "mine/2"
        assert len(ids(answer)) == 5
