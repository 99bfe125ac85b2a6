"""The door of `model` for the service: pictures and texts in, bits out, NumPy on both sides.

A code must depend on its input alone, or an item indexed in a batch of 64 would not be found by itself.
Floating-point sums do depend on the batch: libraries pick another blocking for another shape, which moved
logits by up to 5e-6 of a row's largest (MobileNetV2 at 96 px, torch 2.13 on a CPU; 1e-6 and less for the
other towers). Only a logit next to zero can turn its bit by that. So a batch decides the rows whose smallest
logit is clear of zero by `MARGIN`, and every other row (0 to 5 in a hundred) is computed again alone; alone
is how a single query is computed, so both agree bit for bit.

bfloat16 and TF32 are never used here: they would move logits by 1e-3 and more between devices.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.artefact import Artefact, ModelCard, open_artefact
from model.artefact_checks import SCORE, TOKENIZER, WEIGHTS
from model.artefact_parts import NO_PREPROCESSING
from model.attack_score import AttackScore, read_score
from model.data.text import TextCodec, read_codec
from model.errors import ArtefactError, DataError, MissingTower, ModelError
from model.hashers.base import CrossModalHasher, to_bits
from model.hashers.weights import restore_hasher
from model.preprocessing import Preprocessing, image_type, thumbnail

MAX_BATCH = 64
# Relative to a row's largest logit (or to 1): twenty times the largest difference that was measured.
MARGIN = 1e-4

T = TypeVar("T")


class Encoder:
    """A loaded model that turns pictures and texts into codes. One caller at a time.

    `modalities` says which sides it reads raw ("image", "text"); a tower over precomputed features is not
    among them and is reached through `encode_features`. `calibration` is None when the model has none.
    """

    def __init__(
        self,
        card: ModelCard,
        hasher: CrossModalHasher,
        preprocessing: Preprocessing | None,
        codec: TextCodec | None,
        calibration: Mapping[str, tuple[float, ...]],
        device: torch.device,
        score: AttackScore | None = None,
    ) -> None:
        self.card = card
        self.bits = card.bits
        self.model_name = card.name
        self.model_version = card.version
        self.digest = card.digest
        self.preprocessing_digest = NO_PREPROCESSING if preprocessing is None else preprocessing.digest()
        self.calibration = calibration or None
        readers = {"image": preprocessing, "text": codec}
        self.modalities = frozenset(side for side, reader in readers.items() if reader is not None)
        self.device = device
        self._hasher = hasher.to(device).eval().requires_grad_(False)
        self._preprocessing = preprocessing
        self._codec = codec
        self._score = None if score is None else replace(score, encoders=score.encoders.to(device))

    @classmethod
    def load(cls, folder: Path, device: str = "auto", *, score: bool = False) -> Encoder:
        """Verify the artefact in `folder` file by file and build it on `device`.

        `device` is "auto" (a GPU when there is one), "cpu", "cuda" or "cuda:N". With `score` the attack score
        is loaded too; codes are the same either way. Raises ArtefactError when anything is not as the
        manifest says or there is no score to load (nothing is loaded then), ModelError for a device not
        there.
        """
        target = choose_device(device)
        artefact = open_artefact(folder, score=score)
        manifest = artefact.card.manifest
        preprocessing, calibration = artefact.preprocessing(), artefact.calibration()
        codec = _codec(artefact)
        weights = artefact.files[WEIGHTS]
        hasher = restore_hasher(manifest["architecture"], artefact.card.bits, weights, str(folder / WEIGHTS))
        _check_readers(artefact.card, hasher, preprocessing, codec)
        scorer = attack_score_of(artefact, hasher) if score else None
        return cls(artefact.card, hasher, preprocessing, codec, calibration, target, scorer)

    def decode(self, data: bytes) -> NDArray[np.uint8]:
        """Bytes of a picture as uint8 (S, S, 3); raises ImageError, MissingTower for a text-only model."""
        return self._pictures().decode(data)

    @staticmethod
    def image_type(data: bytes) -> str:
        """MIME type by the bytes; raises ImageError."""
        return image_type(data)

    @staticmethod
    def thumbnail(data: bytes, size: int) -> bytes:
        """An upright JPEG whose longer side is at most `size` (16 to 1024); raises ImageError, ValueError."""
        return thumbnail(data, size)

    def encode_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.bool_]:
        """Codes bool (n, K) of arrays uint8 (S, S, 3) as `decode` gives them; any n, 0 included.

        Raises ValueError for another shape or type, MissingTower for a text-only model.
        """
        self._check_pictures(images)
        return self._decide(self._image_logits, images)

    def encode_texts(self, texts: Sequence[str]) -> NDArray[np.bool_]:
        """Codes bool (n, K) of texts of any length and content; raises MissingTower without a text tower."""
        return self._decide(partial(self._text_logits, self._texts()), texts)

    def encode_features(self, side: str, vectors: NDArray[np.float32]) -> NDArray[np.bool_]:
        """Codes bool (n, K) of precomputed vectors (n, dim), for a tower over features on `side`.

        Raises MissingTower when the tower of that side is none over features, ValueError for a wrong shape.
        """
        table = self.card.manifest["architecture"].get(side) or {}
        if table.get("kind") != "features":
            raise MissingTower(f"{self.model_name}/{self.model_version} reads no {side} features")
        if vectors.ndim != 2 or vectors.shape[1] != table["dim"]:
            raise ValueError(f"wanted vectors (n, {table['dim']}), got {vectors.shape}")
        tower = self._hasher.image_tower() if side == "image" else self._hasher.text_tower()
        rows = list(vectors.astype(np.float32))
        return self._decide(lambda block: tower(torch.from_numpy(np.stack(block)).to(self.device)), rows)

    @property
    def score_thresholds(self) -> dict[str, dict[float, float]]:
        """By side, false positive rate to the score above which a query is suspicious at that rate.

        Sides that were not calibrated are not there; empty when no score is loaded.
        """
        sides = {} if self._score is None else self._score.sides
        return {side: dict(each.thresholds) for side, each in sides.items()}

    def score_images(self, images: Sequence[NDArray[np.uint8]]) -> NDArray[np.float64]:
        """Attack scores float (n,) >= 0 of arrays uint8 (S, S, 3) as `decode` gives them; any n.

        Raises ValueError for another shape or type, MissingTower for a text-only model or without a score.
        """
        self._check_pictures(images)
        score = self._scorer("image")
        return self._figures(lambda block: score.of_images(self._pixels(block)), images)

    def score_texts(self, texts: Sequence[str]) -> NDArray[np.float64]:
        """Attack scores float (n,) >= 0 of texts; raises MissingTower without texts or without a score."""
        codec, score = self._texts(), self._scorer("text")
        return self._figures(
            lambda block: score.of_tokens(self._hasher, codec.encode(block).to(self.device)), texts
        )

    def warm_up(self) -> None:
        """Run each side once alone and once in a full batch, so that the first query does not pay for it."""
        if self._preprocessing is not None:
            side = self._preprocessing.size
            grey = np.full((side, side, 3), 128, dtype=np.uint8)
            self.encode_images([grey] * MAX_BATCH)
            self.encode_images([grey])
        if self._codec is not None:
            self.encode_texts(["warm up"] * MAX_BATCH)
            self.encode_texts(["warm up"])

    def _pictures(self) -> Preprocessing:
        if self._preprocessing is None:
            raise MissingTower(f"{self.model_name}/{self.model_version} reads no images")
        return self._preprocessing

    def _texts(self) -> TextCodec:
        if self._codec is None:
            raise MissingTower(f"{self.model_name}/{self.model_version} reads no texts")
        return self._codec

    def _check_pictures(self, images: Sequence[NDArray[np.uint8]]) -> None:
        side = self._pictures().size
        for image in images:
            if image.shape != (side, side, 3) or image.dtype != np.uint8:
                raise ValueError(f"wanted uint8 ({side}, {side}, 3), got {image.dtype} {image.shape}")

    def _scorer(self, side: str) -> AttackScore:
        if self._score is None or side not in self._score.sides:
            raise MissingTower(
                f"{self.model_name}/{self.model_version}: no attack score for {side}s is loaded"
            )
        return self._score

    def _pixels(self, block: Sequence[NDArray[np.uint8]]) -> Tensor:
        pixels = torch.from_numpy(np.stack(block)).to(self.device)
        return pixels.permute(0, 3, 1, 2).contiguous().float() / 255.0

    def _image_logits(self, block: Sequence[NDArray[np.uint8]]) -> Tensor:
        logits: Tensor = self._hasher.image_tower()(self._pixels(block))
        return logits

    def _figures(self, scores_of: Callable[[Sequence[T]], Tensor], rows: Sequence[T]) -> NDArray[np.float64]:
        scores = np.empty(len(rows), dtype=np.float64)
        with torch.inference_mode(), _full_precision():
            for number, row in enumerate(rows):  # one at a time: a score must not depend on its batch
                scores[number] = float(scores_of([row])[0])
        return scores

    def _text_logits(self, codec: TextCodec, block: Sequence[str]) -> Tensor:
        logits: Tensor = self._hasher.text_tower()(codec.encode(block).to(self.device))
        return logits

    def _decide(self, logits_of: Callable[[Sequence[T]], Tensor], rows: Sequence[T]) -> NDArray[np.bool_]:
        codes = np.empty((len(rows), self.bits), dtype=np.bool_)
        with torch.inference_mode(), _full_precision():
            for start in range(0, len(rows), MAX_BATCH):
                block = rows[start : start + MAX_BATCH]
                logits = logits_of(block)
                if len(block) > 1:
                    for row in _unsure(logits):
                        logits[row] = logits_of(block[row : row + 1])[0]
                if not bool(torch.isfinite(logits).all()):
                    name = f"{self.model_name}/{self.model_version}"
                    raise ModelError(f"{name}: wanted finite logits, got NaN or infinity")
                codes[start : start + len(block)] = to_bits(logits).cpu().numpy()
        return codes


def choose_device(name: str) -> torch.device:
    """The torch device of "auto", "cpu", "cuda" or "cuda:N"; raises ModelError when it is not there."""
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    if name == "auto":
        return torch.device("cuda" if count else "cpu")
    try:
        device = torch.device(name)
    except RuntimeError as error:
        raise ModelError(f"device: wanted auto, cpu, cuda or cuda:N, got {name!r}") from error
    if device.type not in ("cpu", "cuda"):
        raise ModelError(f"device: wanted auto, cpu, cuda or cuda:N, got {name!r}")
    if device.type == "cuda" and (device.index or 0) >= count:
        raise ModelError(
            f"device: wanted {name}, but this machine has {count} CUDA devices that torch can use"
        )
    return device


def _full_precision() -> AbstractContextManager[None]:
    """Make cuDNN compute without TF32 and with the same sums every time; nothing on a CPU."""
    flags: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False, fp32_precision="ieee"
    )
    return flags


def _unsure(logits: Tensor) -> list[int]:
    """Rows (n, K) that hold a logit within MARGIN of zero, relative to the row's largest or to 1."""
    size = logits.abs()
    close = size.amin(1) < MARGIN * size.amax(1).clamp(min=1.0)
    found: list[int] = close.nonzero().flatten().tolist()
    return found


def _codec(artefact: Artefact) -> TextCodec | None:
    data = artefact.files.get(TOKENIZER)
    if data is None:
        return None
    table = artefact.card.manifest["architecture"].get("text") or {}
    where = f"{artefact.card.folder / TOKENIZER}"
    max_length, padding_id = table.get("max_length"), table.get("padding_id", 0)
    if not isinstance(max_length, int) or not isinstance(padding_id, int):
        raise ArtefactError(f"{where}: wanted a text tower that reads tokens, got {table.get('kind')!r}")
    try:
        return read_codec(data.decode("utf-8"), max_length, padding_id)
    except (DataError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{where}: {error}") from error


def attack_score_of(artefact: Artefact, hasher: CrossModalHasher) -> AttackScore:
    """The attack score of an artefact that was opened with it; raises ArtefactError."""
    card = artefact.card
    if SCORE not in artefact.files:
        raise ArtefactError(f"{card.folder}: wanted an attack score ({SCORE}), this model has none")
    labels = len(card.manifest["label_names"])
    return read_score(artefact.files[SCORE], hasher, labels, str(card.folder / SCORE))


def _check_readers(
    card: ModelCard, hasher: CrossModalHasher, preprocessing: Preprocessing | None, codec: TextCodec | None
) -> None:
    """Each tower that reads raw input needs its reader, and ids must lie inside the tower's vocabulary."""
    architecture = card.manifest["architecture"]
    for side, reader in (("image", preprocessing), ("text", codec)):
        table: Mapping[str, Any] = architecture.get(side) or {"kind": "features"}
        if (reader is None) != (table["kind"] == "features"):
            got = "none" if reader is None else "one"
            raise ArtefactError(f"{card.folder}: {side}: a {table['kind']} tower and {got} to read its input")
    most = None if hasher.text is None else hasher.text.vocabulary_size
    if codec is not None and most is not None and codec.vocabulary_size > most:
        entries = codec.vocabulary_size
        raise ArtefactError(f"{card.folder}: {TOKENIZER}: wanted at most {most} entries, got {entries}")
