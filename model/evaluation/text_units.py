"""Attacks on texts as work units: words and typing errors as a user sends them; embeddings as in papers."""

from __future__ import annotations

from math import nan
from time import monotonic
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from model.attacks.base import Target
from model.attacks.batches import Batching, attack_in_batches
from model.attacks.registry import Effort
from model.attacks.text_attacks import TextOutcome
from model.attacks.threat import embedding_threat
from model.attacks.victims import EmbeddingModel, frozen
from model.evaluation.evidence import Attacked
from model.evaluation.image_units import codes_of_logits, objective_of
from model.evaluation.scoring import Bits
from model.evaluation.specs import EMBEDDING, AttackSpec
from model.evaluation.stage import CHUNK, Stage, Tick


def attack_texts(stage: Stage, spec: AttackSpec, tick: Tick | None = None) -> Attacked:
    """One spec of side "text" on the first texts of the stage's queries; see Attacked."""
    started = monotonic()
    texts = [record.texts[0] for record in stage.setting.queries[spec.first : spec.stop]]
    target = stage.target(spec)
    if spec.method == EMBEDDING:
        unit = _embedded(stage, spec, texts, target, tick)
    else:
        unit = _changed(stage, spec, texts, target, tick)
    clean = stage.clean["text"][spec.first : spec.stop]
    unknown = np.full(len(texts), nan)
    unit |= {
        "spec": spec,
        "rows": np.arange(spec.first, spec.first + len(texts)),
        "loss": objective_of(spec, unit["codes"], target),
        "clean_loss": objective_of(spec, clean, target),
        "flips": (unit["codes"] != clean).sum(1, dtype=np.int64),
        "saturated": _saturation(stage, texts),
        "linf": unknown,
        "l2": unknown,
        "ssim": unknown,
        "seconds": monotonic() - started,
    }
    return Attacked(**unit)


def _changed(
    stage: Stage, spec: AttackSpec, texts: list[str], target: Target, tick: Tick | None
) -> dict[str, Any]:
    """Words or typing errors: what a user can send, checked against its limits."""
    rule = stage.substitution if spec.method == "words" else None
    attacker = stage.text_attack(spec.name, rule)
    generator = stage.generator(spec)
    parts: list[TextOutcome] = []
    broken: list[str] = []
    for start in range(0, len(texts), CHUNK):
        rows = slice(start, min(start + CHUNK, len(texts)))
        made = attacker(stage.text_model, texts[rows], target.rows(rows), generator=generator)
        broken += [f"text {spec.first + start + row}: {fault}" for row, fault in made.broken(attacker.rule)]
        parts.append(made)
        if tick:
            tick(rows.stop, len(texts))
    sent = tuple(text for part in parts for text in part.texts)
    changed = torch.cat([part.changed for part in parts])
    return {
        "codes": stage.encoder.encode_texts(sent),
        "queries": torch.cat([part.queries for part in parts]).numpy(),
        "never_gradient": np.zeros(len(texts), dtype=np.bool_),
        "had_gradient": False,
        "curve": np.zeros((0, 0)),
        "broken_limits": tuple(broken),
        "texts": sent,
        "extra": {
            "original": [text for part in parts for text in part.original],
            "words_changed": float(changed.double().mean()),
            "note": rule.note if rule else "one typing error a word",
        },
    }


def _embedded(
    stage: Stage, spec: AttackSpec, texts: list[str], target: Target, tick: Tick | None
) -> dict[str, Any]:
    """APGD on the embedded text, which no client can send: the papers' setting, labelled so."""
    hasher = stage.subject.hasher
    tokens = stage.text_model.tokens(texts)
    model_fn, embedded = EmbeddingModel.of(hasher, tokens)
    lengths = model_fn.mask.sum(1).float().mean()
    threat = embedding_threat(hasher.text_tower(), spec.eps, max(1, round(float(lengths))))
    effort = Effort(steps=spec.steps or None, restarts=max(spec.restarts, 1))
    outcome = attack_in_batches(
        stage.setting.build(f"apgd:{spec.aim}", threat, effort),
        stage.victim(model_fn),
        embedded,
        target,
        generator=stage.generator(spec),
        batching=Batching(CHUNK, progress=tick),
    )
    with frozen(model_fn), torch.no_grad():
        codes: Bits = codes_of_logits(hasher, model_fn(outcome.x_adv))
    moved = threat.size((outcome.x_adv - embedded) * model_fn.movable)
    inside = bool((moved <= threat.eps * (1 + 1e-5)).all())
    return {
        "codes": codes,
        "queries": outcome.queries.numpy(),
        "never_gradient": (outcome.zero_gradients >= 1.0).cpu().numpy(),
        "had_gradient": True,
        "curve": outcome.best_curve.double().cpu().numpy(),
        "broken_limits": () if inside else (f"an embedding left the ball of {spec.eps} RMS",),
        "extra": {
            "note": "embeddings are changed, not texts: the papers' setting; no client can send it",
            **stage.embedding_facts(outcome.x_adv, model_fn.mask),
        },
    }


def _saturation(stage: Stage, texts: list[str]) -> NDArray[np.float64]:
    model = stage.text_model
    with frozen(model):
        logits: Tensor = model.logits(texts)
    found: NDArray[np.float64] = (torch.tanh(logits).abs() > 0.999).double().mean(1).cpu().numpy()
    return found
