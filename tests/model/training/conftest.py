"""A tiny data set of coloured squares with captions, and a recipe that trains on it in a second."""

import json

import numpy as np
import pytest
from PIL import Image

from model.training.config import from_table

COLOURS = {"red": (200, 30, 30), "green": (30, 180, 40), "blue": (40, 60, 210)}
SHAPES = ("square", "stripe")

TINY = {
    "name": "tiny",
    "architecture": {
        "image": {
            "kind": "residual_cnn",
            "size": 16,
            "stem": 4,
            "widths": [6, 8],
            "pools": [0, 2],
            "hidden": 8,
        },
        "text": {"kind": "conv", "max_length": 12, "dim": 8, "width": 8, "layers": 1, "hidden": 8},
    },
    "data": {"validation": 0.25},
    "augment": {"crop_padding": 2},
    "schedule": {"epochs": 4, "batch": 16},
    "optimiser": {"rate": 0.01},
}


def draw(colour, shape, rng):
    """A 20 px picture: noise, and a square or a stripe of the colour."""
    picture = rng.integers(0, 90, (20, 20, 3), dtype=np.uint8)
    rows = slice(4, 16) if shape == "square" else slice(8, 12)
    columns = slice(4, 16) if shape == "square" else slice(0, 20)
    picture[rows, columns] = COLOURS[colour]
    return picture


def write_folder(folder, n, *, seed=0, change=None):
    """A manifest folder of ``n`` train items; ``change(i, row)`` may alter a row."""
    (folder / "images").mkdir(parents=True)
    rng = np.random.default_rng(seed)
    lines = []
    for i in range(n):
        colour, shape = list(COLOURS)[i % 3], SHAPES[(i // 3) % 2]
        Image.fromarray(draw(colour, shape, rng)).save(folder / "images" / f"{i}.png")
        row = {
            "id": f"item-{i}",
            "image": f"images/{i}.png",
            "texts": [f"a {colour} {shape}", f"one {shape} that is {colour}, number {i}"],
            "labels": [colour, shape],
            "split": "train",
        }
        lines.append(json.dumps(change(i, row) if change else row))
    (folder / "pairs.jsonl").write_text("\n".join(lines))
    return folder


@pytest.fixture
def write_pairs():
    """`write_folder`, for tests that want data of their own."""
    return write_folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    """72 paired and labelled items."""
    return write_folder(tmp_path_factory.mktemp("data") / "squares", 72)


@pytest.fixture
def make_folder(tmp_path):
    """Writes another folder: ``make_folder(n, change=...)``."""

    def make(n, **options):
        return write_folder(tmp_path / "made", n, **options)

    return make


@pytest.fixture
def tiny():
    """The recipe table, to be changed freely."""
    return json.loads(json.dumps(TINY))


@pytest.fixture
def recipe(tiny):
    """The tiny recipe."""
    return from_table(tiny)
