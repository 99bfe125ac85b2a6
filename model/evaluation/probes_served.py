"""The served path as a probe: files and texts, one at a time, through the service's own encoder.

What was scored was computed in batches and from tensors; what a client gets is computed alone and from the
bytes of a PNG. Bits whose logit lies within the encoder's margin of zero may differ: kernels of another batch
or memory layout round differently (see model/inference.py). Any other bit may not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.attacks.rounding import from_levels, to_png
from model.data.manifest import Record
from model.data.paths import read_image_bytes
from model.errors import DataError, ModelError
from model.evaluation.evidence import Attacked, ModelEvidence
from model.evaluation.scoring import Bits
from model.evaluation.verdicts import of_images, title
from model.inference import MARGIN, Encoder

PROBED = 64
"""Inputs sent of each kind and of each attacked unit."""

Sent = bytes | str
"""A picture's file, or a text."""


class Client:
    """Sends things to a model one at a time and compares the codes with the scored ones."""

    def __init__(self, evidence: ModelEvidence) -> None:
        subject = evidence.subject
        self.subject = subject
        self.encoder = Encoder(
            subject.card, subject.hasher, subject.preprocessing, subject.codec, {}, subject.device
        )

    def compare(self, things: Sequence[Sent], scored: Bits) -> dict[str, Any]:
        """{"sent", "differing" bits or None, "error" or None} for things (m,) and their codes (m, K)."""
        entry: dict[str, Any] = {"sent": len(things), "differing": 0, "error": None}
        for thing, wanted in zip(things, scored, strict=True):
            try:
                differs = self._code(thing) != wanted
                if differs.any():
                    differs &= ~self._near_zero(thing)
            except (ModelError, RuntimeError) as error:  # RuntimeError: torch's, in inference mode
                return entry | {"differing": None, "error": str(error).partition("\n")[0][:300]}
            entry["differing"] += int(differs.sum())
        return entry

    def _code(self, thing: Sent) -> Bits:
        """Bool (K,)."""
        if isinstance(thing, str):
            code: Bits = self.encoder.encode_texts([thing])[0]
        else:
            code = self.encoder.encode_images([self.encoder.decode(thing)])[0]
        return code

    def _near_zero(self, thing: Sent) -> Bits:
        """Bool (K,): bits that rounding may turn."""
        with torch.no_grad():
            size = self._logits(thing).abs()
        near: Bits = (size < MARGIN * size.amax().clamp(min=1.0)).cpu().numpy()
        return near

    def _logits(self, thing: Sent) -> Tensor:
        """Logits (K,)."""
        subject = self.subject
        if isinstance(thing, str):
            tokens = subject.text_codec().encode([thing]).to(subject.device)
            text: Tensor = subject.hasher.text_tower()(tokens)
            return text[0]
        levels = self.encoder.decode(thing)[None]
        image: Tensor = subject.hasher.image_tower()(from_levels(levels).to(subject.device))
        return image[0]


def served(evidence: ModelEvidence) -> dict[str, Any]:
    """By what was sent, `Client.compare`: clean queries, kept attacked images as PNG, changed texts."""
    client, facts = Client(evidence), {}
    if "image" in evidence.modalities:
        files = [_file(record) for record in evidence.queries[:PROBED]]
        facts["clean images"] = client.compare(files, evidence.clean_codes["image"][:PROBED])
    if "text" in evidence.modalities:
        texts = [record.texts[0] for record in evidence.queries[:PROBED]]
        facts["clean texts"] = client.compare(texts, evidence.clean_codes["text"][:PROBED])
    for unit in evidence.attacked:
        things = _sent_by(unit)
        if things:
            facts[title(unit)] = client.compare(things, unit.codes[: len(things)])
    return facts


def database_again(evidence: ModelEvidence) -> dict[str, Any]:
    """Some items of every pool encoded anew by this model, against the codes that were scored against."""
    client, known = Client(evidence), {record.id: record for record in evidence.manifest.records}
    facts = {}
    for (side, protocol), pool in evidence.scores.pools.items():
        rows = np.unique(np.linspace(0, len(pool.ids) - 1, min(PROBED, len(pool.ids))).astype(np.int64))
        records = [known[pool.ids[row]] for row in rows]
        things = [_file(record) if side == "image" else record.texts[0] for record in records]
        facts[f"{side} {protocol}"] = client.compare(things, pool.codes[rows])
    return facts


def _sent_by(unit: Attacked) -> list[Sent]:
    """What a client would send of a unit that was kept: PNG files or texts; empty when nothing was."""
    if unit.images is not None and of_images(unit):
        return [to_png(image) for image in from_levels(unit.images[:PROBED])]
    if unit.texts is not None and unit.spec.side == "text":
        return list(unit.texts[:PROBED])
    return []


def _file(record: Record) -> bytes:
    if record.image is None:
        raise DataError(f"item {record.id}: wanted an image, got none")
    return read_image_bytes(record.image)
