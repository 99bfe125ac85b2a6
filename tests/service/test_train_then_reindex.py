"""From training to serving in one line, while the service runs: what docs/operations.md says to type."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

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
epochs = 1
batch = 16
"""

LINE = """
hashguard() { "$PYTHON" -m service.cli "$@"; }
hashguard train --data "$DATA" --recipe "$RECIPE" --bits 32 --name tiny --out "$MODELS" \\
    && hashguard reindex --url "$URL"
"""


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """A manifest folder of 40 pairs with labels."""
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    lines = []
    for number in range(40):
        label = ("red", "blue")[number % 2]
        (folder / "images" / f"{number}.png").write_bytes(picture(number))
        line = {"id": f"p{number}", "image": f"images/{number}.png", "texts": [f"a {label} {number}"]}
        lines.append(json.dumps(line | {"labels": [label]}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    (tmp_path / "tiny.toml").write_text(RECIPE)
    return folder


def type_in(line: str, tmp_path: Path, **values: object) -> subprocess.CompletedProcess[str]:
    mine = {"PYTHON": sys.executable, "DATA": str(tmp_path / "data"), "RECIPE": str(tmp_path / "tiny.toml")}
    given = environment() | mine | {name: str(value) for name, value in values.items()}
    return subprocess.run(
        ["bash", "-c", line],
        env=given,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )


def labels_of(client: httpx.Client) -> list[str]:
    return [f"{card['name']}/{card['version']}" for card in client.get("/v1/models").json()["models"]]


def test_a_model_is_trained_and_served_while_the_service_runs(tmp_path: Path, data: Path) -> None:
    home = tmp_path / "home"
    make_model(home / "models")
    with running(home, "--keep", "2", device="cpu", index_backend="memory") as (client, _):
        assert client.put("/v1/items/a", files={"text": (None, "a red 1")}).status_code == 201
        assert labels_of(client) == ["tiny/1"]
        typed = type_in(LINE, tmp_path, MODELS=home / "models", URL=client.base_url)
        assert typed.returncode == 0, typed.stderr
        folder, said = typed.stdout.splitlines()[-2:]
        assert (folder, said.startswith("generation g")) == (str(home / "models" / "tiny" / "2"), True)
        assert labels_of(client) == ["tiny/1", "tiny/2"]
        assert client.get("/readyz").json()["model_version"] == "tiny/2"
        job = client.get("/v1/admin/jobs").json()["jobs"][0]
        assert (job["phase"], job["model"], job["validation"]["text_count"]) == ("done", "tiny/2", 1)
        assert "wanted 20 or more" in job["validation"]["note"]
