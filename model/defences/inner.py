"""The inner attack of adversarial training: images and embedded texts of a batch, each within its budget.

It is the evaluation's own gradient loop (model/attacks/loop.py) in its cheap form: no first look, no best of
all steps, no last look, and no gradients of parameters. Images move in [0, 1] pixels; texts move in
embedding space, in units of the root mean square of the model's own embedding table (model/attacks/threat.py
says why).

`single-step` is the fast adversarial training of Wong, Rice, Kolter (ICLR 2020, arXiv 2001.03994): uniform
start, one step of 1.25 eps. It can collapse into "catastrophic overfitting", where the one step that was
trained against does nothing and several small ones do everything. So every `check_every` steps both are tried
on a few items; when the several steps are ahead by more than `check_gap`, the rest of the run takes one step
more (2, then 3, ... up to 10, each of 2.5 eps / steps). The gap and the steps are figures of every epoch.
`check_pgd` has a short `pgd` looked at in the same way, so that it grows to what the model asks for.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from model.attacks.base import Target
from model.attacks.iterative import pgd
from model.attacks.mainstay import signs
from model.attacks.objectives import Mainstay
from model.attacks.relaxation import KINDS, Relaxation
from model.attacks.threat import Threat, embedding_threat
from model.attacks.victims import EmbeddingModel, ImageModel, frozen, rows_of
from model.defences.base import SMALLEST, Batch, StepState
from model.defences.sides import InPrecision, Side, TextsInPrecision, embedded, some_rows
from model.errors import RecipeError
from model.hashers.base import CrossModalHasher
from model.hashers.options import option

METHODS = ("pgd", "single-step")
AIMS = ("mainstay", "own-code", "mixed")
SINGLE_STEP = 1.25
"""Step of the single-step attack in units of eps (Wong et al. 2020, section 5.2)."""
CHECKED_STEPS = 10
"""Steps of the attack that a single step is compared with, and the most that a run is raised to."""
AIM = Mainstay()
RELAXATIONS: dict[str, Relaxation] = {kind: Relaxation(kind) for kind in KINDS}


@dataclass(frozen=True)
class InnerSettings:
    """``[defence.inner]``: what is attacked within a training step, how strongly, how cheaply."""

    eps_image: float = option(8 / 255, low=0.0, high=1.0)
    """Budget of images, L-inf, in [0, 1] pixels; 0 attacks no images."""
    eps_text: float = option(0.05, low=0.0, high=10.0)
    """Budget of texts, L-inf, in units of the RMS of the embedding table; 0 attacks no texts."""
    method: str = "pgd"
    """``pgd``, or ``single-step`` (``steps`` and ``step`` are then 1 and 1.25)."""
    steps: int = option(3, low=1, high=100)
    """Gradients per attack."""
    step: float = option(0.0, low=0.0, high=4.0)
    """Length of a step in units of eps; 0 for 2.5 / steps, at most 1."""
    random_start: bool = True
    """Start somewhere in the ball instead of at its centre."""
    objective: str = "mainstay"
    """Away from the given anchors (``mainstay``), from the item's own code (``own-code``), or from one of
    them by lot for each item (``mixed``)."""
    relaxation: str = "tanh"
    """What the gradient is taken of: see `Relaxation`. The paper's is ``tanh``."""
    training_norms: bool = False
    """Batch norm by the batch's own statistics (and dropout) while attacking; the running ones stay as they
    are either way."""
    begin: float = option(0.0, low=0.0, high=1.0)
    """Share of the run before which nothing is attacked."""
    ramp: float = option(0.0, low=0.0, high=1.0)
    """Share of the run, from ``begin`` on, over which both budgets rise from 0 to their full size."""
    check_every: int = option(100, low=0, high=1_000_000)
    """Steps between two looks for catastrophic overfitting; 0 for none."""
    check_pgd: bool = False
    """Whether ``pgd`` is looked at too, and takes one step more when ten find clearly more than its own."""
    check_rows: int = option(16, low=2, high=4096)
    """Items of such a look."""
    check_gap: float = option(0.15, low=0.0, high=2.0)
    """Objective (its range is 2) by which ten small steps may beat the one before something is done."""

    def __post_init__(self) -> None:
        for name, allowed in (("method", METHODS), ("objective", AIMS), ("relaxation", KINDS)):
            if getattr(self, name) not in allowed:
                wanted = ", ".join(allowed)
                raise RecipeError(f"inner.{name}: wanted one of {wanted}, got {getattr(self, name)!r}")


@dataclass(frozen=True)
class Adversaries:
    """A batch after the attack, row i still item i, detached from every graph.

    images: float (n, 3, S, S) in [0, 1]. embeddings: float (n, L, D); D is 0 without a text tower.
    mask: bool (n, L), true at tokens. Rows without the modality are as they were.
    """

    images: Tensor
    embeddings: Tensor
    mask: Tensor


class InnerAttack(nn.Module):
    """Attacks the batches of a run; its one buffer remembers how often overfitting was answered."""

    answered: Tensor

    def __init__(self, settings: InnerSettings) -> None:
        """Take the settings; nothing is drawn."""
        super().__init__()
        self.settings = settings
        self.register_buffer("answered", torch.zeros((), dtype=torch.int64))

    def threat(self) -> dict[str, Any]:
        """What is defended against, for the manifest: norm, budgets and their units."""
        return {
            "norm": "linf",
            "eps_image": self.settings.eps_image,
            "unit_image": "pixels in [0, 1]",
            "eps_text": self.settings.eps_text,
            "unit_text": "root mean square of the embedding table",
        }

    def active(self, state: StepState) -> bool:
        """Whether this step attacks at all: after ``begin``, and with a budget above 0."""
        s = self.settings
        return state.progress >= s.begin and max(s.eps_image, s.eps_text) > 0

    def strength(self, state: StepState) -> float:
        """Share of the full budgets at this step, in [0, 1]: rises from 0 at ``begin`` over ``ramp``."""
        s = self.settings
        return min(1.0, max(0.0, state.progress - s.begin) / s.ramp) if s.ramp else 1.0

    def forward(
        self, hasher: CrossModalHasher, batch: Batch, anchors: Tensor, state: StepState
    ) -> Adversaries:
        """Attack the batch's images and texts away from ``anchors`` (n, K) in [-1, 1].

        All randomness is from ``state.generator``, but for the dropout of ``training_norms``. The hasher is
        left as it was: modes, statistics, `.grad`.
        """
        images, sides = batch.images, []
        embeddings, mask = embedded(hasher, batch.tokens)
        if hasher.image is not None:
            sides.append(self._image_side(hasher, batch, anchors, state))
            images = self._moved(images, sides[-1], state)
        if hasher.text is not None:
            sides.append(self._text_side(hasher, batch, (embeddings, mask, anchors), state))
            embeddings = self._moved(embeddings, sides[-1], state)
        self._look(sides, state)
        return Adversaries(images, embeddings, mask)

    def _image_side(self, hasher: CrossModalHasher, batch: Batch, anchors: Tensor, state: StepState) -> Side:
        """The images that there are."""
        rows = batch.has_image.nonzero().squeeze(1)
        threat = Threat("linf", self.settings.eps_image * self.strength(state))
        model_fn = InPrecision(ImageModel(hasher), state.autocast)
        return Side("image", rows, some_rows(batch.images, rows), some_rows(anchors, rows), model_fn, threat)

    def _text_side(
        self,
        hasher: CrossModalHasher,
        batch: Batch,
        inputs: tuple[Tensor, Tensor, Tensor],
        state: StepState,
    ) -> Side:
        """The texts that there are; ``inputs`` are embeddings, mask and anchors of the whole batch."""
        rows = batch.has_text.nonzero().squeeze(1)
        embeddings, mask, anchors = (some_rows(each, rows) for each in inputs)
        eps = self.settings.eps_text * self.strength(state)
        threat = embedding_threat(hasher.text_tower(), eps, mask.shape[1])
        model_fn = TextsInPrecision(EmbeddingModel(hasher, mask), state.autocast)
        return Side("text", rows, embeddings, anchors, model_fn, threat)

    def _moved(self, whole: Tensor, side: Side, state: StepState) -> Tensor:
        """``whole`` (n, ...) with the side's rows attacked."""
        if not side.threat.eps or len(side.rows) < SMALLEST:
            return whole
        made = self._attack(side, self._target(side, state), self.steps(), state)
        return made if len(made) == len(whole) else whole.index_copy(0, side.rows, made)

    def steps(self) -> int:
        """Gradients per attack now."""
        first = self.settings.steps if self.settings.method == "pgd" else 1
        return max(first, min(first + int(self.answered), CHECKED_STEPS))

    def _attack(self, side: Side, target: Target, steps: int, state: StepState) -> Tensor:
        """The side's inputs after ``steps`` steps."""
        s = self.settings
        if s.method == "pgd":
            length = s.step or None
        else:
            length = SINGLE_STEP if steps == 1 else None
        attack = pgd(
            side.threat,
            AIM,
            steps=steps,
            step=length,
            relaxation=RELAXATIONS[s.relaxation],
            random_start=s.random_start,
        )
        return attack.push(
            side.model_fn, side.x, target, generator=state.generator, training=s.training_norms
        )

    def _target(self, side: Side, state: StepState) -> Target:
        """The codes to leave: the anchors, the items' own, or one of both by lot."""
        aim = self.settings.objective
        if aim == "mainstay":
            return Target.single(side.anchors)
        with torch.no_grad(), frozen(side.model_fn):
            own = signs(side.model_fn(side.x))
        if aim == "mixed":
            lot = torch.rand(len(own), 1, generator=state.generator, device=own.device) < 0.5
            own = torch.where(lot, side.anchors, own)
        return Target.single(own)

    def _look(self, sides: list[Side], state: StepState) -> None:
        """Every so often: do the steps still find what many find? If not, take one more from now on."""
        s = self.settings
        if (s.method == "pgd" and not s.check_pgd) or not s.check_every or state.step % s.check_every:
            return
        gaps = {side.name: self._gap(side, state) for side in sides}
        for name, gap in gaps.items():
            state.figures[f"inner_gap_{name}"] = gap
        if max(gaps.values()) > s.check_gap and self.steps() < CHECKED_STEPS:
            self.answered += 1
        state.figures["inner_steps"] = float(self.steps())

    def _gap(self, side: Side, state: StepState) -> float:
        """How much higher the objective is after many steps than after the run's own, over all processes."""
        few = Side(
            side.name,
            side.rows[: self.settings.check_rows],
            side.x[: self.settings.check_rows],
            side.anchors[: self.settings.check_rows],
            rows_of(side.model_fn, slice(self.settings.check_rows)),
            side.threat,
        )
        gap = torch.zeros(1, device=side.x.device)
        if len(few.rows) >= SMALLEST and side.threat.eps:
            target = self._target(few, state)
            reached = []
            for steps in (CHECKED_STEPS, self.steps()):
                x = self._attack(few, target, steps, state)
                with torch.no_grad(), frozen(few.model_fn):
                    reached.append(AIM(torch.tanh(few.model_fn(x)), target).mean())
            gap[0] = reached[0] - reached[1]
        return float(state.gather(gap).mean())
