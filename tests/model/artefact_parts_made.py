"""Tiny real models as artefact parts, for the tests of artefacts, inference and the model commands."""

import dataclasses
import io

import numpy as np
import torch
from PIL import Image

from model.artefact_parts import ArtefactParts
from model.hashers.create import create_hasher
from model.hashers.weights import to_arrays
from model.preprocessing import Preprocessing

SIZE = 32
TEXTS = ["a red dog runs", "two blue cats sleep on a mat", "the dog and the cat", "a red mat", "blue sky"] * 4
IMAGE = {"kind": "residual_cnn", "size": SIZE, "stem": 8, "widths": [8, 12], "pools": [0, 2]}
TEXT = {"kind": "conv", "dim": 8, "width": 8, "max_length": 12, "tokenizer": {"size": 60, "min_frequency": 1}}


def make_parts(image=IMAGE, text=TEXT, bits=16, seed=0, **changes):
    """Parts of a tiny model whose logits spread over the codes as a trained model's do."""
    made = create_hasher({"image": image, "text": text}, bits, TEXTS, torch.Generator().manual_seed(seed))
    reads_images = image is not None and image["kind"] != "features"
    parts = ArtefactParts(
        architecture=made.architecture,
        bits=bits,
        tensors=to_arrays(made.hasher),
        preprocessing=Preprocessing(size=SIZE) if reads_images else None,
        tokenizer=None if made.codec is None else made.codec.to_json(),
        label_names=["colour:blue", "colour:red"],
        training_data={"fingerprint": "f" * 64, "pairs": len(TEXTS)},
        defence={"name": "none"},
        seed=seed,
        code_version="0.1.0",
        scores={"clean": {"image-to-text": 0.5}, "robust": None},
        calibration={"image-to-text": np.linspace(1, 0, bits + 1).tolist()},
    )
    return dataclasses.replace(parts, **changes)


def picture_bytes(seed, size=SIZE, kind="PNG"):
    """An encoded picture of coloured noise."""
    pixels = np.random.default_rng(seed).integers(0, 256, (size, size, 3), dtype=np.uint8)
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, kind)
    return out.getvalue()
