"""The one gradient loop: images, embedded texts, evaluation and the inner step of adversarial training.

Only this file steps and projects. In `ascend` a restart is `steps` gradients and one last look without one;
what is kept per query is the best point by the criterion over everything seen, the clean input included.
`push` takes the same path and gives its last point, unseen: what training inside needs, at `steps` gradients.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

import torch
from torch import Generator, Tensor

from model.attacks.base import AttackOutcome, CodeCriterion, Criterion, ModelFn, Objective, Target
from model.attacks.mainstay import signs
from model.attacks.relaxation import Relaxation
from model.attacks.steps import ConstantStep, StepRule
from model.attacks.threat import Threat
from model.attacks.victims import frozen, module_of, movable_of
from model.errors import RecipeError
from model.hashers.folding import folded_norms

SATURATED = 0.999


@dataclass(frozen=True)
class Ascent:
    """Everything fixed about a gradient attack; `method` is the first half of its name.

    random_start: the first restart starts inside the ball; later ones always do. momentum and lengths come
    from `rule`. Raises RecipeError when steps or restarts are below 1.
    """

    method: str
    threat: Threat
    objective: Objective
    rule: StepRule = field(default_factory=ConstantStep)
    relaxation: Relaxation = field(default_factory=Relaxation)
    steps: int = 20
    restarts: int = 1
    random_start: bool = True

    def __post_init__(self) -> None:
        for name, value in (("steps", self.steps), ("restarts", self.restarts)):
            if value < 1:
                raise RecipeError(f"{name}: wanted a whole number >= 1, got {value!r}")


@dataclass(eq=False)
class Best:
    """Best point per query so far: x, criterion, the objective of its code."""

    x: Tensor
    value: Tensor
    loss: Tensor

    def keep(self, x: Tensor, value: Tensor, loss: Tensor) -> None:
        """Take over what is strictly better; NaN never is."""
        better = value > self.value
        self.x = torch.where(per_row(better, x), x, self.x)
        self.value = torch.where(better, value, self.value)
        self.loss = torch.where(better, loss, self.loss)


@dataclass(eq=False)
class Tally:
    """What one attack has spent and seen: forwards, gradients, all-zero gradients (n,), loss curves."""

    zero: Tensor
    forwards: int = 0
    gradients: int = 0

    def __post_init__(self) -> None:
        self.curves: list[Tensor] = []


@dataclass(frozen=True, eq=False)
class Problem:
    """One batch under one attack."""

    plan: Ascent
    model_fn: ModelFn
    x: Tensor
    target: Target
    criterion: Criterion
    movable: Tensor | None
    relaxation: Relaxation

    def judge(self, logits: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """(criterion, objective of the code, objective of tanh), each (n,), of logits (n, K)."""
        z = logits.detach()
        objective, target = self.plan.objective, self.target
        return self.criterion(z, target), objective(signs(z), target), objective(torch.tanh(z), target)

    def gradient(self, x: Tensor, progress: float) -> tuple[Tensor, Tensor, Tensor]:
        """(logits, relaxed loss (n,), gradient of the loss like x) at x."""
        variable = x.detach().requires_grad_(True)
        with torch.enable_grad():
            logits = self.model_fn(variable)
            loss = self.plan.objective(self.relaxation(logits, progress), self.target)
            total = loss.sum()
        if total.grad_fn is None:  # a model that gives no gradient at all: seen as zero, and reported
            return logits.detach(), loss.detach(), torch.zeros_like(x)
        (slope,) = torch.autograd.grad(total, variable, materialize_grads=True)
        return logits.detach(), loss.detach(), torch.nan_to_num(slope, posinf=0.0, neginf=0.0)


def ascend(
    plan: Ascent,
    model_fn: ModelFn,
    x: Tensor,
    target: Target,
    *,
    generator: Generator,
    criterion: Criterion | None = None,
) -> AttackOutcome:
    """Run `plan` on a batch x (n, ...); see AttackOutcome."""
    chosen = criterion or CodeCriterion(plan.objective)
    x = x.detach()
    problem = Problem(plan, model_fn, x, target, chosen, movable_of(model_fn), plan.relaxation)
    with frozen(model_fn), folded_norms(module_of(model_fn)):
        best, saturated = _clean(problem)
        clean_loss = best.loss.clone()
        tally = Tally(torch.zeros(len(x), device=x.device), forwards=1)
        for restart in range(plan.restarts):
            start = x
            if restart or plan.random_start:
                start = plan.threat.draw(x, generator, problem.movable)
            _climb(replace(problem, relaxation=plan.relaxation.of_restart(restart)), start, best, tally)
    n = len(x)
    curve = torch.stack(tally.curves) if tally.curves else x.new_zeros(0, 0, n)
    counts = [torch.full((n,), count, dtype=torch.int64) for count in (tally.forwards, tally.gradients)]
    zero = tally.zero / max(tally.gradients, 1)
    forwards, gradients = counts
    return AttackOutcome(
        best.x, best.value, best.loss, clean_loss, forwards, gradients, zero, saturated, curve
    )


def _clean(problem: Problem) -> tuple[Best, Tensor]:
    """The clean inputs as the first best, and the share of saturated units (n,)."""
    with torch.no_grad():
        logits = problem.model_fn(problem.x)
    value, loss, _ = problem.judge(logits)
    saturated = (torch.tanh(logits).abs() > SATURATED).float().mean(1)
    return Best(problem.x, value, loss), saturated


def push(
    plan: Ascent,
    model_fn: ModelFn,
    x: Tensor,
    target: Target,
    *,
    generator: Generator,
    training: bool = False,
) -> Tensor:
    """The last point (like x) of one restart of `plan`, for adversarial training: not judged, not the best.

    It costs `steps` gradients and nothing else. `training` as in `victims.frozen`.
    """
    x = x.detach()
    movable = movable_of(model_fn)
    problem = Problem(plan, model_fn, x, target, CodeCriterion(plan.objective), movable, plan.relaxation)
    point = plan.threat.draw(x, generator, movable) if plan.random_start else x
    with frozen(model_fn, training=training), folded_norms(module_of(model_fn)):
        for seen in _path(problem, point):
            point = seen.ahead
    return point


def _climb(problem: Problem, start: Tensor, best: Best, tally: Tally) -> None:
    """One restart from `start`; updates `best` and `tally`."""
    plan, point = problem.plan, start
    curve: list[Tensor] = []
    for seen in _path(problem, start):
        value, hard, soft = problem.judge(seen.logits)
        best.keep(seen.point, value, hard)
        curve.append(soft)
        tally.zero += (seen.slope.flatten(1) == 0).all(1)
        point = seen.ahead
    with torch.no_grad():
        value, hard, soft = problem.judge(problem.model_fn(point))
    best.keep(point, value, hard)
    tally.curves.append(torch.stack([*curve, soft]))
    tally.forwards += plan.steps + 1
    tally.gradients += plan.steps


@dataclass(frozen=True, eq=False)
class Seen:
    """One step: the point, its logits (n, K) and slope, and the point it leads to."""

    point: Tensor
    logits: Tensor
    slope: Tensor
    ahead: Tensor


def _path(problem: Problem, start: Tensor) -> Iterator[Seen]:
    """The steps of one restart from `start`."""
    plan, x, threat = problem.plan, problem.x, problem.plan.threat
    point, former, state, top = start, start, None, None
    for step in range(plan.steps):
        here = point
        logits, loss, seen_slope = problem.gradient(point, step / max(plan.steps - 1, 1))
        slope = seen_slope
        if state is None or top is None:
            state, top = plan.rule.begin(loss, plan.steps), Top(point, slope, loss)
        else:
            top.keep(point, slope, loss)
            back = state.update(step - 1, loss)
            if back is not None:
                point, slope = top.restore(back, point, slope)
        length = state.size()
        move = plan.threat.eps * (per_row(length, x) if isinstance(length, Tensor) else length)
        ahead = threat.project(point + move * threat.direction(slope), x)
        if state.momentum < 1.0 and step:
            inertia = (1 - state.momentum) * (point - former)
            ahead = threat.project(point + state.momentum * (ahead - point) + inertia, x)
        yield Seen(here, logits, seen_slope, ahead)
        former, point = point, ahead


@dataclass(eq=False)
class Top:
    """Best point of this restart by the relaxed loss, with its gradient: where APGD goes back to."""

    x: Tensor
    slope: Tensor
    loss: Tensor

    def keep(self, x: Tensor, slope: Tensor, loss: Tensor) -> None:
        """Take over what is better."""
        better = loss > self.loss
        rows = per_row(better, x)
        self.x, self.slope = torch.where(rows, x, self.x), torch.where(rows, slope, self.slope)
        self.loss = torch.where(better, loss, self.loss)

    def restore(self, back: Tensor, x: Tensor, slope: Tensor) -> tuple[Tensor, Tensor]:
        """Both, with the queries `back` (bool (n,)) at their best."""
        rows = per_row(back, x)
        return torch.where(rows, self.x, x), torch.where(rows, self.slope, slope)


def per_row(values: Tensor, like: Tensor) -> Tensor:
    """Values (n,) shaped to broadcast over `like` (n, ...)."""
    return values.view(-1, *[1] * (like.dim() - 1))
