"""A model under attack and the items it is attacked with, read from an artefact and a manifest folder.

Codes always come from the model itself, and the subject carries its digest, so that no report can mix one
model's codes with another's (design notes: codes cached by file time).
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from model.artefact import ModelCard, open_artefact
from model.artefact_checks import TOKENIZER, WEIGHTS
from model.attacks.knowledge import Knowledge, choose_goals
from model.attacks.mainstay import signs
from model.attacks.rounding import LEVELS
from model.attacks.victims import frozen
from model.data.manifest import Manifest, Record
from model.data.paths import read_image_bytes
from model.data.text import TextCodec, read_codec
from model.errors import DataError, ImageError, MissingTower
from model.hashers.base import CrossModalHasher
from model.hashers.weights import restore_hasher
from model.inference import choose_device
from model.preprocessing import Preprocessing

BATCH = 256


@dataclass(frozen=True, eq=False)
class Subject:
    """A hasher in evaluation mode on its device, with what reads its input; None for a side it lacks."""

    card: ModelCard
    hasher: CrossModalHasher
    preprocessing: Preprocessing | None
    codec: TextCodec | None
    device: torch.device

    @property
    def digest(self) -> str:
        """Digest of the artefact."""
        return self.card.digest

    def images(self, records: Sequence[Record]) -> Tensor:
        """The records' pictures as float (n, 3, S, S) on whole levels of [0, 1], on the device.

        Raises DataError for a record without a usable image, MissingTower for a model that reads none.
        """
        prepare = self.preprocessing
        if prepare is None:
            raise MissingTower(f"{self.card.name}/{self.card.version} reads no images")
        with ThreadPoolExecutor() as pool:
            pixels = list(pool.map(lambda record: _decode(record, prepare), records))
        if not pixels:
            return torch.zeros(0, 3, prepare.size, prepare.size, device=self.device)
        return torch.stack(pixels).to(self.device).permute(0, 3, 1, 2).float() / LEVELS

    def text_codec(self) -> TextCodec:
        """The tokenizer; raises MissingTower for a model that reads no texts."""
        if self.codec is None:
            raise MissingTower(f"{self.card.name}/{self.card.version} reads no texts")
        return self.codec

    def image_codes(self, records: Sequence[Record]) -> Tensor:
        """Codes -1/+1 (n, K) of the records' images, on the device."""
        tower = self.hasher.image_tower()
        blocks = [records[i : i + BATCH] for i in range(0, len(records), BATCH)]
        with frozen(tower), torch.no_grad():
            parts = [signs(tower(self.images(block))) for block in blocks]
        return torch.cat(parts) if parts else torch.zeros(0, self.hasher.bits, device=self.device)

    def text_codes(self, texts: Sequence[str]) -> Tensor:
        """Codes -1/+1 (n, K) of texts, on the device."""
        tower, codec = self.hasher.text_tower(), self.text_codec()
        blocks = [texts[i : i + BATCH] for i in range(0, len(texts), BATCH)]
        with frozen(tower), torch.no_grad():
            parts = [signs(tower(codec.encode(block).to(self.device))) for block in blocks]
        return torch.cat(parts) if parts else torch.zeros(0, self.hasher.bits, device=self.device)


def load_subject(folder: Path, device: str = "auto") -> Subject:
    """The verified artefact in `folder` on `device`; raises ArtefactError, ModelError (see Encoder.load)."""
    target = choose_device(device)
    artefact = open_artefact(folder)
    architecture = artefact.card.manifest["architecture"]
    where = str(folder / WEIGHTS)
    hasher = restore_hasher(architecture, artefact.card.bits, artefact.files[WEIGHTS], where)
    table = architecture.get("text") or {}
    data = artefact.files.get(TOKENIZER)
    codec = None
    if data is not None:
        codec = read_codec(data.decode("utf-8"), table["max_length"], table.get("padding_id", 0))
    return Subject(artefact.card, hasher.to(target), artefact.preprocessing(), codec, target)


def with_both(records: Sequence[Record], subject: Subject) -> list[Record]:
    """The labelled records that have what each of the model's towers reads."""
    return [
        record
        for record in records
        if record.labels
        and (subject.preprocessing is None or record.image)
        and (subject.codec is None or record.texts)
    ]


def knowledge_of(
    subject: Subject, manifest: Manifest, queries: Sequence[Record], side: str, *, seed: int
) -> Knowledge:
    """What a white-box attacker of `side` ("image" or "text") queries knows; goals are drawn with `seed`.

    The reference set is the train split, encoded on both sides (each item by its first text). Raises
    DataError when there is none.
    """
    reference = with_both(manifest.of_split("train"), subject)
    if not reference or not queries:
        raise DataError(
            f"wanted labelled queries and labelled train items to aim by, got {len(queries)} and "
            f"{len(reference)}"
        )
    labels = torch.from_numpy(manifest.label_matrix(queries)).float().to(subject.device)
    code_labels = torch.from_numpy(manifest.label_matrix(reference)).float().to(subject.device)
    codes, clean = _sides(subject, reference), _sides(subject, queries)
    other = "text" if side == "image" else "image"
    everything = torch.cat(list(codes.values()))
    all_labels = code_labels.repeat(len(codes), 1)
    generator = torch.Generator().manual_seed(seed)
    return Knowledge(
        clean=clean[side],
        labels=labels,
        codes=everything,
        code_labels=all_labels,
        paired=clean.get(other),
        other_side=codes.get(other),
        goals=choose_goals(labels, all_labels, generator=generator),
    )


def _sides(subject: Subject, records: Sequence[Record]) -> dict[str, Tensor]:
    """Codes of the records by side, for the sides that the model reads."""
    found = {}
    if subject.preprocessing is not None:
        found["image"] = subject.image_codes(records)
    if subject.codec is not None:
        found["text"] = subject.text_codes([record.texts[0] for record in records])
    return found


def _decode(record: Record, preprocessing: Preprocessing) -> Tensor:
    """Uint8 (S, S, 3)."""
    if record.image is None:
        raise DataError(f"item {record.id} has no image")
    try:
        return torch.from_numpy(preprocessing.decode(read_image_bytes(record.image)))
    except ImageError as error:
        raise DataError(f"item {record.id}: {error}") from error
