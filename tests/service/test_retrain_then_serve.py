"""The trainer as a job beside a running service: killed in its training, run again, its model served."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "api"))

from tiny import environment, make_model, picture, running

RECIPE = """
[architecture.image]
kind = "residual_cnn"
size = 16
stem = 4
widths = [6]
pools = [0, 1]
hidden = 8
[architecture.text]
kind = "conv"
max_length = 12
dim = 8
width = 8
layers = 1
hidden = 8
[data]
validation = 0.25
[schedule]
epochs = 12
batch = 16
"""
LOOSE = ("--max-clean-drop", "1", "--max-robust-drop", "1", "--attacks", "fgsm:mainstay", "--queries", "6")


def draw(folder: Path) -> Path:
    """A manifest folder of 60 pairs with labels, and a recipe beside it."""
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(60):
        label = ("red", "blue")[number % 2]
        (folder / "images" / f"{number}.png").write_bytes(picture(number))
        line = {"id": f"p{number}", "image": f"images/{number}.png", "texts": [f"a {label} {number}"]}
        lines.append(json.dumps(line | {"labels": [label]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    (folder.parent / "tiny.toml").write_text(RECIPE)
    return folder


def start(home: Path, url: object, data: Path, key: Path) -> subprocess.Popen[str]:
    recipe = data.parent / "tiny.toml"
    options = ["--data", data, "--home", home, "--url", url, "--key-file", key, "--recipe", recipe, *LOOSE]
    command = [sys.executable, "-m", "model.cli", "retrain", "--if-new-data", "--device", "cpu", "--json"]
    return subprocess.Popen(
        [*command, *map(str, options)],
        env=environment(),
        cwd=data.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after_a_checkpoint(trainer: subprocess.Popen[str], home: Path) -> None:
    limit = time.monotonic() + 120
    while not list(home.glob("retrain/*/models/.runs/tiny/checkpoints/step-*")):
        assert trainer.poll() is None, trainer.communicate()[1]
        assert time.monotonic() < limit
        time.sleep(0.02)
    trainer.kill()
    trainer.communicate()
    assert trainer.returncode == -signal.SIGKILL


def test_a_killed_trainer_is_run_again_and_its_model_is_served(tmp_path: Path) -> None:
    home, data, key = tmp_path / "home", draw(tmp_path / "data"), tmp_path / "key"
    make_model(home / "models")
    made = [
        sys.executable,
        "-m",
        "service.cli",
        "keys",
        "create",
        "trainer",
        "--scope",
        "admin",
        "--home",
        str(home),
    ]
    with key.open("w") as file:
        subprocess.run(made, env=environment(), stdout=file, stderr=subprocess.DEVNULL, check=True)
    settings = {"device": "cpu", "index_backend": "memory", "authentication": "required"}
    with running(home, **settings) as (client, _):
        kill_after_a_checkpoint(start(home, client.base_url, data, key), home)
        assert client.get("/readyz").json()["model_version"] == "tiny/1"
        assert [card["version"] for card in client.get("/v1/models").json()["models"]] == ["1"]

        again = start(home, client.base_url, data, key)
        out, err = again.communicate(timeout=240)
        assert again.returncode == 0, err
        assert "continuing at step" in err
        assert json.loads(out)["outcome"] == "served"
        assert client.get("/readyz").json()["model_version"] == "tiny/2"
        card = client.get("/v1/models/tiny/2").json()
        assert card["robustness"]["worst_case"]
        assert card["training_data"]["fingerprint"] != "0" * 64
