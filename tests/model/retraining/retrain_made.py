"""Tiny data of coloured pictures, a recipe that trains on it in a second, and a made service."""

import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from PIL import Image

from model.artefact import read_card
from model.data.manifest import split_of
from model.errors import RetrainingError
from model.retraining.floors import Floors
from model.retraining.live import Live

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 210)}
TOWER = {"kind": "residual_cnn", "size": 16, "stem": 4, "widths": [6], "pools": [0, 1], "hidden": 8}
RECIPE = {
    "name": "tiny",
    "architecture": {
        "image": TOWER,
        "text": {"kind": "conv", "max_length": 8, "dim": 8, "width": 8, "layers": 1, "hidden": 8},
    },
    "data": {"validation": 0.25},
    "schedule": {"epochs": 2, "batch": 16},
    "optimiser": {"rate": 0.01},
}
ATTACKS = "fgsm:mainstay@8/255"
NO_FLOORS = Floors(clean=1.0, robust=1.0)
UNREACHABLE = Floors(clean=-0.9, robust=-0.9)
"""Wants more than there is, whatever the draw."""


def draw_data(folder: Path, n: int = 90, seed: int = 0) -> Path:
    """A manifest folder of pictures of one colour each, with captions and labels."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = []
    for number in range(n):
        colour = list(COLOURS)[number % 3]
        pixels = np.clip(rng.integers(-60, 60, (16, 16, 3)) + np.array(COLOURS[colour]), 0, 255)
        Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{number}.png")
        line = {"id": f"i{number}", "image": f"images/{number}.png", "texts": [f"a {colour} {number % 7}"]}
        lines.append(json.dumps(line | {"labels": [colour], "split": split_of(f"i{number}")}))
    (folder / "pairs.jsonl").write_text("\n".join(lines) + "\n")
    return folder


@dataclass
class Admin:
    """The calls that the trainer makes: what is live, and a reindex, which `fails` with a reason."""

    models: Path
    live_model: str | None = "tiny/1"
    fails: str | None = None
    asked: list[str] = field(default_factory=list)

    def live(self) -> Live | None:
        if self.live_model is None:
            return None
        return Live(self.live_model, read_card(self.models / self.live_model).digest)

    def reindex(self, model, tell):
        self.asked.append(model)
        tell("encoding", 1, 2)
        if self.fails is not None:
            raise RetrainingError(f"the reindex with {model} failed: {self.fails}")
        self.live_model = model
