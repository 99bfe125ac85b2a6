"""What training hands over to be kept, and how it becomes the files of an artefact (model/artefact.py)."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save

from model.artefact_checks import (
    CALIBRATION,
    FORMAT,
    SCORE,
    TOKENIZER,
    WEIGHTS,
    check_calibration,
)
from model.preprocessing import Preprocessing

NO_PREPROCESSING = hashlib.sha256(b"null").hexdigest()
Tensors = Mapping[str, NDArray[Any]]


@dataclass(frozen=True)
class ArtefactParts:
    """What training hands over. `architecture` is resolved JSON, `tensors` the hasher's state by name.

    `defence` is the recipe with its `name`, `scores` has `clean` and `robust`, `calibration` maps a task to
    K + 1 probabilities, `training_data` holds at least the manifest folder's `fingerprint`.
    """

    architecture: Mapping[str, Any]
    bits: int
    tensors: Tensors
    preprocessing: Preprocessing | None
    tokenizer: str | None
    label_names: Sequence[str]
    training_data: Mapping[str, Any]
    defence: Mapping[str, Any]
    seed: int
    code_version: str
    scores: Mapping[str, Any] = field(default_factory=dict)
    calibration: Mapping[str, Sequence[float]] = field(default_factory=dict)
    threat: Mapping[str, Any] | None = None
    score_tensors: Tensors | None = None


def contents(parts: ArtefactParts) -> dict[str, bytes]:
    """The files but for manifest and model card, by name; raises ArtefactError for a bad calibration."""
    tasks = {task: [float(p) for p in curve] for task, curve in parts.calibration.items()}
    calibration = {"bits": parts.bits, "tasks": tasks}
    check_calibration(calibration, parts.bits, CALIBRATION)
    files = {
        WEIGHTS: save({n: np.asarray(t, order="C") for n, t in parts.tensors.items()}),
        CALIBRATION: json.dumps(calibration, allow_nan=False).encode(),
    }
    if parts.tokenizer is not None:
        files[TOKENIZER] = parts.tokenizer.encode()
    if parts.score_tensors is not None:
        files[SCORE] = save({n: np.asarray(t, order="C") for n, t in parts.score_tensors.items()})
    return files


def describe(name: str, version: str, created: str, parts: ArtefactParts) -> dict[str, Any]:
    """The manifest but for its list of files."""
    preprocessing = parts.preprocessing
    return {
        "format": FORMAT,
        "name": name,
        "version": version,
        "created": created,
        "code_version": parts.code_version,
        "bits": parts.bits,
        "architecture": dict(parts.architecture),
        "preprocessing": None if preprocessing is None else asdict(preprocessing),
        "preprocessing_digest": NO_PREPROCESSING if preprocessing is None else preprocessing.digest(),
        "label_names": list(parts.label_names),
        "training_data": dict(parts.training_data),
        "defence": dict(parts.defence),
        "threat": None if parts.threat is None else dict(parts.threat),
        "scores": dict(parts.scores),
        "seed": parts.seed,
    }
