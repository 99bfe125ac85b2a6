"""What a defence is: a recipe of named loss terms, with modules and phases of its own.

The loop (model/training/loop.py) knows nothing of a defence's insides. It asks for the phases of a step,
and in each phase for named terms; it adds them up, and only it calls ``backward()`` and ``step()``. So a
defence that attacks inside, trains encoders, a generator and a discriminator beside the hasher, or takes
several optimiser steps per batch is still only a declaration:

    class ThreeStage(Defence):
        name = "three-stage"
        phases = (
            Phase("separate", ("encoders",)),
            Phase("generate", ("generator",)),
            Phase("hash", ("hasher", "defence")),
        )

        def groups(self, hasher):
            return {"hasher": hasher, "encoders": self.encoders, "generator": self.generator,
                    "defence": self.objective}

        def losses(self, hasher, batch, state):
            match state.phase: ...

Each group has its own optimiser. In a phase only its groups' parameters require gradients, the others are
frozen (their gradients with respect to inputs still flow). Whatever a defence stores between steps (the
codes of the training items, say) belongs in buffers, which checkpoints keep.
"""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from model.branches import SemanticEncoders
from model.hashers.base import CrossModalHasher
from model.losses.objective import LossSettings

SMALLEST = 2
"""Rows that a tower needs in training: batch norm has no variance of one row."""


@dataclass(frozen=True)
class Batch:
    """This process's part of one step's items; row i of every tensor is item i, all on one device.

    images: float (n, 3, S, S) in [0, 1]; 0 where the item has none.
    tokens: int64 (n, L); padding only where the item has no text.
    labels: float (n, C) multi-hot.
    has_image, has_text: float (n,) in {0, 1}.
    items: int64 (n,), positions among the training items (rows of `DefenceContext.labels`).
    edited: int64 (n, tries, L') edited versions of the texts to choose from, or None.
    """

    images: Tensor
    tokens: Tensor
    labels: Tensor
    has_image: Tensor
    has_text: Tensor
    items: Tensor
    edited: Tensor | None = None


@dataclass(frozen=True)
class StepState:
    """Where a run is, and what a defence may use of its surroundings.

    phase: name of the phase asked for. step, total: this step (from 0) and the run's steps, for curricula.
    generator: fresh randomness on the batch's device that follows from seed, step, phase and process.
    gather: rows of all processes from this process's rows, differentiable; the identity for one process.
    autocast: the precision that towers are to run in; losses stay in float32 outside it.
    held: contexts entered here last until the phase's backward pass is over (weights moved for a moment).
    figures: numbers by name that are to be shown with the epoch but are no part of the loss; the last counts.
    average: the run's averaged weights in evaluation mode, or None.
    """

    phase: str
    step: int
    total: int
    generator: torch.Generator
    gather: Callable[[Tensor], Tensor]
    autocast: Callable[[], AbstractContextManager[None]]
    held: ExitStack = field(default_factory=ExitStack)
    figures: dict[str, float] = field(default_factory=dict)
    average: CrossModalHasher | None = None

    @property
    def progress(self) -> float:
        """Share of the run that lies behind, in [0, 1)."""
        return self.step / max(self.total, 1)


@dataclass(frozen=True)
class Phase:
    """One forward and backward pass of a step; ``trains`` names the groups that take an optimiser step."""

    name: str
    trains: tuple[str, ...]


@dataclass(frozen=True)
class DefenceContext:
    """What a defence is built from.

    bits: code length K. labels: float (N, C) of all training items. loss: the recipe's weights.
    tokenizer: the text codec as JSON; image_size: side S of the images; None without that tower, or when
    unknown. embedding_width: D of the text tower's embeddings; None without one.
    """

    bits: int
    labels: Tensor
    loss: LossSettings
    tokenizer: str | None = None
    image_size: int | None = None
    embedding_width: int | None = None


class Defence(nn.Module):
    """Base of all defences; a subclass gives `name` and `losses`, and more when it needs more."""

    name: ClassVar[str]
    phases: ClassVar[tuple[Phase, ...]] = (Phase("hash", ("hasher", "defence")),)

    def groups(self, hasher: CrossModalHasher) -> Mapping[str, nn.Module]:
        """Modules by optimiser group, disjoint; the group "hasher" is what is kept and averaged."""
        return {"hasher": hasher, "defence": self}

    def threat(self) -> dict[str, Any] | None:
        """What is defended against, as plain JSON for the manifest; None when nothing is."""
        return None

    def due(self, phase: str, step: int, total: int) -> bool:
        """Whether a phase is run at this step of ``total``; a phase that is not costs nothing.

        The same in every process: it must not depend on the batch.
        """
        return True

    def score_encoders(self) -> SemanticEncoders | None:
        """Encoders whose disagreement is to be the model's attack score; None for no score."""
        return None

    @abstractmethod
    def losses(self, hasher: CrossModalHasher, batch: Batch, state: StepState) -> dict[str, Tensor]:
        """Weighted scalar terms of ``state.phase`` by name; their sum is minimised."""
