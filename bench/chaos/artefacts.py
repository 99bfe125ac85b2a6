"""Two small models of the same width for a home: nothing but their digests tells their codes apart.

`initialised` ones have random weights, which takes a second; `trained` ones went through `hashguard train`.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import torch

from model.artefact import save_artefact
from model.artefact_parts import ArtefactParts
from model.data.sample import write_sample
from model.data.text import TokenizerOptions, train_codec
from model.hashers.registry import build_hasher, resolve
from model.preprocessing import Preprocessing

NAME = "chaos"
BITS = 64
TASKS = ("image-to-text", "text-to-image", "image-to-image", "text-to-text")
TRAINED_PAIRS = 400
_RECIPE = """
[architecture.image]
kind = "residual_cnn"
size = 32
stem = 16
widths = [32, 48]
pools = [0, 1]
hidden = 64
[architecture.text]
kind = "conv"
max_length = 24
dim = 32
width = 48
layers = 1
hidden = 64
[data]
validation = 0.2
[schedule]
epochs = 4
batch = 64
"""


def initialised(models: Path, texts: list[str], seed: int) -> str:
    """Write a model with random weights; its label."""
    codec = train_codec(texts, TokenizerOptions(), max_length=24)
    architecture = resolve(
        {
            "image": {"kind": "residual_cnn", "size": 32, "stem": 8, "widths": [16], "pools": [0, 1]},
            "text": {"kind": "conv", "vocabulary_size": codec.vocabulary_size, "max_length": 24},
        }
    )
    with torch.random.fork_rng():
        torch.random.default_generator.manual_seed(seed)
        hasher = build_hasher(architecture, BITS)
    parts = ArtefactParts(
        architecture=architecture,
        bits=BITS,
        tensors={name: tensor.detach().numpy() for name, tensor in hasher.state_dict().items()},
        preprocessing=Preprocessing(size=32),
        tokenizer=codec.to_json(),
        label_names=["drawn"],
        training_data={"fingerprint": "0" * 64},
        defence={"name": "none"},
        seed=seed,
        code_version="chaos",
        calibration={task: _curve(seed) for task in TASKS},
    )
    return _label(save_artefact(models, NAME, parts))


def trained(models: Path, work: Path, seed: int) -> str:
    """Train a small model on drawn pairs with the real command; its label."""
    data = work / f"pairs-{seed}"
    write_sample(data, TRAINED_PAIRS, seed)
    recipe = work / "small.toml"
    recipe.write_text(_RECIPE, encoding="utf-8")
    command = [sys.executable, "-m", "model.cli", "train", "--data", str(data), "--recipe", str(recipe)]
    command += ["--bits", str(BITS), "--name", NAME, "--out", str(models), "--seed", str(seed)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    ran = subprocess.run(
        [*command, "--device", "cpu"], stdout=subprocess.PIPE, text=True, check=True, env=environment
    )
    return _label(Path(ran.stdout.strip().splitlines()[-1]))


def _curve(seed: int) -> list[float]:
    """Invented probabilities, others for each seed: an answer tells whose they are."""
    return [round((1 - bit / BITS) * (1 - seed / 1000), 4) for bit in range(BITS + 1)]


def _label(folder: Path) -> str:
    return f"{folder.parent.name}/{folder.name}"
