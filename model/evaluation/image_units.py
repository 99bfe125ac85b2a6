"""Attacks on pictures as work units: made once, rounded to the file a client sends, encoded as served."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attacks.base import Attack, AttackOutcome, ModelFn, Target
from model.attacks.batches import Batching, attack_in_batches, join_outcomes
from model.attacks.corruptions import corrupt
from model.attacks.mainstay import signs
from model.attacks.registry import OBJECTIVES, Effort
from model.attacks.rounding import BudgetCheck, check_budget, quantise, to_levels
from model.attacks.threat import NORMS, Norm, Threat
from model.attacks.transfer import Surrogate, transfer
from model.attacks.victims import ImageModel, frozen
from model.errors import DataError
from model.evaluation.encoded import signed
from model.evaluation.evidence import Attacked
from model.evaluation.perception import sizes
from model.evaluation.scoring import Bits
from model.evaluation.specs import NATURAL, TRANSFER, AttackSpec
from model.evaluation.stage import CHUNK, Stage, Tick, channels_last, surrogate_fn
from model.hashers.base import CrossModalHasher

AttackPart = Callable[[slice], AttackOutcome]


def attack_images(stage: Stage, spec: AttackSpec, tick: Tick | None = None) -> Attacked:
    """One spec of side "image" on the stage's queries; see Attacked. Raises what the attack raises."""
    started = monotonic()
    x = stage.images[spec.first : spec.stop]
    if spec.method == NATURAL:
        return _corrupted(stage, spec, x, started)
    target = stage.target(spec)
    clean = stage.clean["image"][spec.first : spec.stop]
    return attack_pictures(stage, spec, (x, target, clean), started, tick)


def attack_pictures(
    stage: Stage,
    spec: AttackSpec,
    what: tuple[Tensor, Target, Bits],
    started: float,
    tick: Tick | None = None,
) -> Attacked:
    """Attack pictures x (m, 3, S, S) for their targets; `what` is (x, target, clean codes bool (m, K)).

    The budget that the files are judged by is the spec's, whatever ball the attack itself believes in.
    """
    x, target, clean = what
    threat = Threat(_norm(spec), spec.eps)
    attacker, outcome = _run(stage, spec, threat, (x, target), tick)
    sent = quantise(outcome.x_adv, x, attacker.threat)
    budget = check_budget(sent, x, threat)
    unit = _as_served(stage, spec, (x, sent, clean), target, started)
    unit.update(
        queries=outcome.queries.numpy(),
        never_gradient=(outcome.backward > 0).numpy() & (outcome.zero_gradients >= 1.0).cpu().numpy(),
        had_gradient=bool((outcome.backward > 0).any()),
        saturated=outcome.saturated.double().cpu().numpy(),
        curve=outcome.best_curve.double().cpu().numpy(),
        budget=_plain(budget),
    )
    return Attacked(**unit)


def saturation(stage: Stage, x: Tensor) -> NDArray[np.float64]:
    """Share (m,) of code units with |tanh| > 0.999 at pictures x (m, 3, S, S)."""
    model_fn = ImageModel(stage.subject.hasher)
    with frozen(model_fn), torch.no_grad():
        parts = [
            (torch.tanh(model_fn(part)).abs() > 0.999).double().mean(1) for part in torch.split(x, CHUNK)
        ]
    found: NDArray[np.float64] = torch.cat(parts).cpu().numpy()
    return found


def _run(
    stage: Stage, spec: AttackSpec, threat: Threat, what: tuple[Tensor, Target], tick: Tick | None
) -> tuple[Attack, AttackOutcome]:
    """The attack and what it made; the attacked tower runs in channels-last layout."""
    x, target = what
    method = "apgd" if spec.method == TRANSFER else spec.method
    effort = Effort(
        steps=spec.steps or None,
        restarts=max(spec.restarts, 1),
        queries=spec.queries or None,
        gallery=_gallery(stage) if method == "ranks" else None,
    )
    attacker = stage.setting.build(f"{method}:{spec.aim}", threat, effort)
    generator, victim = stage.generator(spec), stage.victim(ImageModel(stage.subject.hasher))
    x = x.contiguous(memory_format=torch.channels_last)
    if spec.method == TRANSFER:
        others = [surrogate for surrogate, _ in stage.surrogates]
        with channels_last(stage.subject, *others):
            return attacker, _transferred(stage, spec, attacker, (victim, x, target), tick)
    with channels_last(stage.subject):
        return attacker, attack_in_batches(
            attacker, victim, x, target, generator=generator, batching=Batching(CHUNK, progress=tick)
        )


def _transferred(
    stage: Stage,
    spec: AttackSpec,
    attacker: Attack,
    what: tuple[ModelFn, Tensor, Target],
    tick: Tick | None,
) -> AttackOutcome:
    """Made on every surrogate with the aim its own codes gave; the best per query for the victim is kept."""
    victim, x, target = what
    known = [
        (
            surrogate_fn(surrogate, x.shape[-1]),
            stage.target(spec, stage.knowledge_of(surrogate, encoded, "image")),
        )
        for surrogate, encoded in stage.surrogates
    ]
    generator, parts = stage.generator(spec), []
    for start in range(0, len(x), CHUNK):
        rows = slice(start, min(start + CHUNK, len(x)))
        own = [Surrogate(model_fn, aim.rows(rows)) for model_fn, aim in known]
        parts.append(transfer(attacker, own, victim, x[rows], target.rows(rows), generator=generator))
        if tick:
            tick(rows.stop, len(x))
    return join_outcomes(parts)


def _corrupted(stage: Stage, spec: AttackSpec, x: Tensor, started: float) -> Attacked:
    """A natural corruption: no attacker, so no queries, gradients, objective or budget."""
    sent = corrupt(spec.aim, x, int(spec.eps), generator=stage.generator(spec))
    clean = stage.clean["image"][spec.first : spec.stop]
    unit = _as_served(stage, spec, (x, sent, clean), None, started)
    unit.update(
        queries=np.zeros(len(x), dtype=np.int64),
        never_gradient=np.zeros(len(x), dtype=np.bool_),
        had_gradient=False,
        saturated=saturation(stage, x),
        curve=np.zeros((0, 0)),
    )
    return Attacked(**unit)


def _as_served(
    stage: Stage, spec: AttackSpec, what: tuple[Tensor, Tensor, Bits], target: Target | None, started: float
) -> dict[str, Any]:
    """The fields of a unit that depend on (clean pictures, sent pictures, clean codes) only."""
    x, sent, clean = what
    levels = to_levels(sent)
    codes = stage.encoder.encode_images(list(levels))
    loss = clean_loss = np.full(len(x), np.nan)
    if target is not None:
        loss, clean_loss = objective_of(spec, codes, target), objective_of(spec, clean, target)
    return {
        "spec": spec,
        "rows": np.arange(spec.first, spec.first + len(x)),
        "codes": codes,
        "loss": loss,
        "clean_loss": clean_loss,
        "flips": (codes != clean).sum(1, dtype=np.int64),
        "images": levels if spec.keep_images else None,
        "seconds": monotonic() - started,
        **sizes(sent, x),
    }


def objective_of(spec: AttackSpec, codes: Bits, target: Target) -> NDArray[np.float64]:
    """The spec's objective (m,) of real codes bool (m, K)."""
    loss = OBJECTIVES[spec.aim](signed(codes, target.codes.device), target)
    found: NDArray[np.float64] = loss.double().cpu().numpy()
    return found


def codes_of_logits(hasher: CrossModalHasher, logits: Tensor) -> Bits:
    """Bool (n, K) of logits, for what has no served form."""
    if logits.shape[1] != hasher.bits:
        raise DataError(f"wanted logits (n, {hasher.bits}), got {tuple(logits.shape)}")
    codes: Bits = (signs(logits) > 0).cpu().numpy()
    return codes


def _gallery(stage: Stage) -> Tensor:
    """Codes -1/+1 of the pictures behind the service, whose returned ranks the attacker sees."""
    return signed(stage.encoded.splits["database"].codes["image"], stage.subject.device)


def _norm(spec: AttackSpec) -> Norm:
    found: Norm | None = next((norm for norm in NORMS if norm == spec.norm), None)
    if found is None:
        raise DataError(f"{spec.name}: wanted a norm of pictures, got {spec.norm!r}")
    return found


def _plain(budget: BudgetCheck) -> dict[str, Any]:
    return {**asdict(budget), "holds": budget.holds}
