"""A small data set and models trained on it in seconds, on which attacks do what they do on real ones.

The project's drawn scenes at 32 px with a third of their contrast: low contrast makes a budget of so many
grey levels count as much as it does for a large model on photographs. Undefended, the mainstay attack at
8/255 drives mAP below chance, and unbounded close to the theoretical floor.
"""

import io
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from PIL import Image

from model.attacks.subjects import Subject, load_subject
from model.data.folders import ManifestWriter, new_folder
from model.data.sample import draw_pair
from model.training.config import from_table
from model.training.display import Silent
from model.training.distributed import World
from model.training.fit import Order, fit
from model.training.stopping import StopWish

SIDE, BITS, CONTRAST = 32, 32, 0.3
QUERIES, DATABASE, TRAIN = 100, 200, 500

RECIPE = {
    "name": "small",
    "architecture": {
        "image": {
            "kind": "residual_cnn",
            "size": SIDE,
            "stem": 12,
            "widths": [24, 32],
            "pools": [0, 2],
            "hidden": 32,
        },
        "text": {
            "kind": "conv",
            "max_length": 24,
            "dim": 24,
            "width": 48,
            "layers": 1,
            "hidden": 32,
            "tokenizer": {"kind": "bpe", "size": 300},
        },
    },
    "data": {"validation": 0.05},
    "loss": {
        "inter": 5.0,
        "intra": 5.0,
        "pair_binary": 0.5,
        "pair_balanced": True,
        "proxy": 0.3,
        "quantisation": 0.0,
    },
    "augment": {"crop_padding": 2},
    "schedule": {"epochs": 24, "batch": 64, "validate_every": 24},
    "optimiser": {"rate": 0.01, "average": 0.95},
}


def draw_folder(out: Path, seed: int = 3) -> Path:
    """A manifest folder of queries, database and train items, in this order."""
    with new_folder(out) as folder, ManifestWriter(folder) as writer:
        for index in range(QUERIES + DATABASE + TRAIN):
            drawn = draw_pair(seed, index)
            with Image.open(io.BytesIO(drawn.jpeg)) as picture:
                pixels = np.asarray(picture.resize((SIDE, SIDE)), dtype=np.float64)
            faint = Image.fromarray(np.round(128 + CONTRAST * (pixels - 128)).astype(np.uint8))
            buffer = io.BytesIO()
            faint.save(buffer, "PNG")
            path = writer.write_image(drawn.fields.id, ".png", buffer.getvalue())
            split = "query" if index < QUERIES else "database" if index < QUERIES + DATABASE else "train"
            writer.write(replace(drawn.fields, image=path, split=split))
    return out


def train_small(data: Path, models: Path, seed: int) -> Path:
    """The artefact's folder."""
    recipe = from_table({**RECIPE, "seed": seed})
    alone = World(0, 1, torch.device("cpu"))
    outcome = fit(Order(data, models, f"small-{seed}", BITS, "none", recipe), alone, Silent(), StopWish())
    assert outcome is not None
    return outcome.folder


def load_small(folder: Path) -> Subject:
    return load_subject(folder, "cpu")
