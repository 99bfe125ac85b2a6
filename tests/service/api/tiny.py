"""A real, tiny model with random weights, pictures of every sort, and homes and servers made of them.

The weights know nothing, but a picture still finds itself and a text itself, at distance 0.
"""

from __future__ import annotations

import io
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from model.artefact import save_artefact
from model.artefact_parts import ArtefactParts
from model.attack_score import to_tensors
from model.branches import BranchSizes, SemanticEncoders
from model.data.text import TokenizerOptions, train_codec
from model.hashers.registry import build_hasher, resolve
from model.preprocessing import Preprocessing
from service.settings import Settings

ROOT = Path(__file__).resolve().parents[3]
BITS = 32
TEXTS = ["two red circles", "a blue square", "three green stars on sand", "one small dog", "a yellow house"]


def score_tensors(embedding: int, benign: Mapping[str, NDArray[np.float64]]) -> dict[str, Any]:
    """Content of `score.safetensors` for a tiny model: random branches, thresholds from `benign`."""
    sizes = BranchSizes(width=8, labels=2, image=4, text=6, embedding=embedding)
    with torch.random.fork_rng():
        torch.manual_seed(7)
        encoders = SemanticEncoders(sizes)
        torch.nn.init.normal_(encoders.classifier.weight, std=2.0)
    return to_tensors(encoders, benign)


def make_model(
    models: Path, name: str = "tiny", seed: int = 0, benign: Mapping[str, NDArray[np.float64]] | None = None
) -> Path:
    """Write the next version of a tiny model; its folder. benign: gives it an attack score (above)."""
    codec = train_codec(TEXTS * 4, TokenizerOptions(), max_length=16)
    architecture = resolve(
        {
            "image": {"kind": "residual_cnn", "size": 32, "stem": 8, "widths": [8], "pools": [0, 1]},
            "text": {"kind": "conv", "vocabulary_size": codec.vocabulary_size, "max_length": 16},
        }
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        hasher = build_hasher(architecture, BITS)
    curve = [round(1 - distance / BITS, 4) for distance in range(BITS + 1)]
    tasks = ("image-to-text", "text-to-image", "image-to-image", "text-to-text")
    parts = ArtefactParts(
        architecture=architecture,
        bits=BITS,
        tensors={name: tensor.detach().numpy() for name, tensor in hasher.state_dict().items()},
        preprocessing=Preprocessing(size=32),
        tokenizer=codec.to_json(),
        label_names=["red", "blue"],
        training_data={"fingerprint": "0" * 64},
        defence={"name": "none"},
        seed=seed,
        code_version="test",
        calibration=dict.fromkeys(tasks, curve),
        score_tensors=None if benign is None else score_tensors(hasher.text_tower().embedding_width, benign),
    )
    return save_artefact(models, name, parts)


def picture(seed: int = 0, size: int = 40, kind: str = "PNG") -> bytes:
    """A picture that differs for each seed."""
    pixels = np.random.default_rng(seed).integers(0, 256, (5, 5, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).resize((size, size), Image.Resampling.BICUBIC).save(out, kind)
    return out.getvalue()


def settings_for(home: Path, **changes: Any) -> Settings:
    """Settings of a small, quick service."""
    quick = {
        "home": home,
        "device": "cpu",
        "index_backend": "memory",
        "model_batch_delay_ms": 0.0,
        "follower_poll_s": 0.05,
        "canary_interval_s": 0.2,
        "worker_heartbeat_s": 0.2,
        "worker_timeout_s": 20.0,
        "drain_s": 5.0,
    }
    return Settings(**{**quick, **changes})


def environment(**settings: Any) -> dict[str, str]:
    """The environment of a child process: this one's, these settings, and one thread for each library."""
    mine = {f"HASHGUARD_{name.upper()}": str(value) for name, value in settings.items()}
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("HASHGUARD_")}
    return inherited | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "COLUMNS": "200"} | mine


@contextmanager
def running(
    home: Path, *options: str, **settings: Any
) -> Iterator[tuple[httpx.Client, subprocess.Popen[str]]]:
    """`hashguard serve` as a real process on a free port; a client of it, and the process."""
    command = [sys.executable, "-m", "service.cli", "serve", "--home", str(home), "--port", "0", *options]
    log = home.parent / f"serve-{time.monotonic_ns()}.log"
    with log.open("w") as sink:
        process = subprocess.Popen(
            command, cwd=home.parent, env=environment(**settings), stderr=sink, stdout=sink, text=True
        )
        try:
            address = _address(process, log)
            with httpx.Client(base_url=address, timeout=60.0) as client:
                yield client, process
            process.terminate()
            ended = process.wait(timeout=60)
            if ended != 0:
                raise RuntimeError(
                    f"SIGTERM should end the server with 0, it was {ended}: {log.read_text()[-2000:]}"
                )
        finally:
            process.kill()
            process.wait()


def _address(process: subprocess.Popen[str], log: Path) -> str:
    limit = time.monotonic() + 180
    while time.monotonic() < limit and process.poll() is None:
        for line in log.read_text().splitlines():
            if line.startswith("serving "):
                return line.rsplit(" ", 1)[1]
        time.sleep(0.05)
    raise RuntimeError(f"the server did not start: {log.read_text()[-2000:]}")


def copy_model(folder: Path, home: Path) -> None:
    """Put a model into a home folder."""
    shutil.copytree(folder, home / "models" / folder.parent.name / folder.name)


def fill(client: Any) -> None:
    """Store the five pairs."""
    for number, text in enumerate(TEXTS):
        files = {
            "image": ("x", picture(number)),
            "text": (None, text),
            "metadata": (None, f'{{"n": {number}}}'),
        }
        stored = client.put(f"/v1/items/pair-{number}", files=files)
        assert stored.status_code == 201, stored.text
