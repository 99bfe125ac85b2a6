"""A model that a run learns from: a finished clean one, or the run's own averaged weights."""

import hashlib
from pathlib import Path

import torch

from model.artefact import open_artefact
from model.artefact_checks import TOKENIZER, WEIGHTS
from model.defences.base import Batch, DefenceContext, StepState
from model.defences.encoding import encode
from model.errors import RecipeError
from model.hashers.base import CrossModalHasher
from model.hashers.weights import restore_hasher
from model.losses.objective import Codes

AVERAGE = "average"


class Teacher:
    """Gives codes and learns nothing. It is no module: its weights stay out of checkpoints and optimisers."""

    def __init__(self, hasher: CrossModalHasher | None) -> None:
        """Teach by a hasher, or with None by the run's own average."""
        self._hasher = None if hasher is None else hasher.eval().requires_grad_(False)

    @classmethod
    def named(cls, name: str, context: DefenceContext) -> "Teacher":
        """The teacher of a recipe: ``average``, or an artefact's folder.

        Raises:
            ArtefactError: no sound artefact there.
            RecipeError: its codes are of another length, or it reads other tokens or images of another size.

        """
        if name == AVERAGE:
            return cls(None)
        folder = Path(name)
        artefact = open_artefact(folder)
        preprocessing, tokens = artefact.preprocessing(), artefact.files.get(TOKENIZER)
        size = None if preprocessing is None else preprocessing.size
        _same("code length", context.bits, artefact.card.bits)
        _same("image size", context.image_size, size)
        _same("tokenizer", _digest(context.tokenizer), None if tokens is None else _digest(tokens.decode()))
        architecture = artefact.card.manifest["architecture"]
        where = f"teacher {folder.name}"
        return cls(restore_hasher(architecture, context.bits, artefact.files[WEIGHTS], where))

    @torch.no_grad()
    def codes(self, batch: Batch, state: StepState) -> Codes:
        """Relaxed codes of the benign global batch, in evaluation mode.

        Raises:
            RecipeError: the run keeps no average to learn from.

        """
        if self._hasher is None:
            if state.average is None:
                raise RecipeError("teacher: wanted the run's averaged weights, this run keeps none")
            return encode(state.average, batch, state)
        self._hasher = self._hasher.to(batch.labels.device)
        return encode(self._hasher, batch, state)


def _digest(text: str | None) -> str | None:
    return None if text is None else hashlib.sha256(text.encode()).hexdigest()[:12]


def _same(what: str, wanted: object, got: object) -> None:
    if wanted != got:
        raise RecipeError(f"teacher: {what}: wanted the run's, {wanted}, got {got}")
