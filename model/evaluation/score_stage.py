"""A stage whose queries also get attack scores, and the attacker who knows the score (attacks/joint.py).

`ScoreStage` runs the same units as any stage. With an `Evasion` every attack on it becomes a joint one: the
model function has one column more, which says whether the query passes, and the objective pays for a query
that does not. Gradient attacks are then PGD from the clean input, whatever their spec says (joint.py).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
from torch import Tensor

from model.artefact import open_artefact
from model.attack_score import AttackScore
from model.attacks.base import Attack, ModelFn
from model.attacks.iterative import GradientAttack
from model.attacks.joint import EmbeddingScore, ImageScore, Joint, JointModel, JointTextModel
from model.attacks.registry import Effort
from model.attacks.rounding import to_levels
from model.attacks.subjects import Subject
from model.attacks.text_attacks import TextAttack
from model.attacks.text_limits import SubstitutionRule
from model.attacks.text_model import TextModel
from model.attacks.threat import Threat
from model.attacks.victims import EmbeddingModel, ImageModel, frozen
from model.errors import DataError
from model.evaluation.detection import Floats
from model.evaluation.evidence import Attacked
from model.evaluation.stage import BuildAttack, Stage
from model.inference import Encoder, attack_score_of

SCORES = "attack_scores"


@dataclass(frozen=True)
class Evasion:
    """What an attacker who knows the score wants of it: to stay at or below a score, at a price.

    thresholds: by side. weight: what a query above it costs, in units of the objective, whose range on codes
    is 2 (`Joint`).
    """

    thresholds: Mapping[str, float]
    weight: float


@dataclass(frozen=True, eq=False, kw_only=True)
class ScoreStage(Stage):
    """A model with its attack score; under attack by who knows it when there is an `evasion`."""

    score: AttackScore
    evasion: Evasion | None = None

    @cached_property
    def encoder(self) -> Encoder:
        """The service's encoder over this model, with its score."""
        subject = self.subject
        return Encoder(
            subject.card,
            subject.hasher,
            subject.preprocessing,
            subject.codec,
            calibration={},
            device=subject.device,
            score=self.score,
        )

    @cached_property
    def text_model(self) -> TextModel:
        """The text tower behind its tokenizer; with the column that says who passes when evading."""
        plain = super().text_model
        if self.evasion is None:
            return plain
        return JointTextModel(plain.hasher, plain.codec, self.score, self.evasion.thresholds["text"])

    def evading(self, evasion: Evasion) -> ScoreStage:
        """The same stage under attack by who knows the score."""
        build = _joint_builder(self.setting.build, evasion.weight)
        return replace(self, setting=replace(self.setting, build=build), evasion=evasion)

    def victim(self, model_fn: ModelFn) -> ModelFn:
        """The logits, with the column that says who passes when evading."""
        if self.evasion is None:
            return model_fn
        if isinstance(model_fn, ImageModel):
            return JointModel(model_fn, ImageScore(self.score), self.evasion.thresholds["image"])
        if isinstance(model_fn, EmbeddingModel):
            score_fn = EmbeddingScore(self.score, model_fn.hasher, model_fn.mask)
            return JointModel(model_fn, score_fn, self.evasion.thresholds["text"])
        raise DataError(f"wanted images or embedded texts to score, got {type(model_fn).__name__}")

    def text_attack(self, name: str, rule: SubstitutionRule | None) -> TextAttack:
        """The attack `name` on texts, joint when evading."""
        plain = super().text_attack(name, rule)
        if self.evasion is None:
            return plain
        return replace(plain, objective=Joint(plain.objective, self.evasion.weight))

    def embedding_facts(self, embedded: Tensor, mask: Tensor) -> dict[str, Any]:
        """The scores of attacked embeddings: there is no text that could be scored later."""
        score_fn = EmbeddingScore(self.score, self.subject.hasher, mask)
        with frozen(self.subject.hasher), torch.no_grad():
            found: list[float] = score_fn(embedded).double().tolist()
        return {SCORES: found}

    def clean_scores(self, side: str) -> Floats:
        """Scores (n,) of the clean queries of a side, as served."""
        if side == "text":
            return self.encoder.score_texts([record.texts[0] for record in self.setting.queries])
        return self.encoder.score_images(list(to_levels(self.images)))

    def scores_of(self, unit: Attacked) -> Floats:
        """Scores (m,) of what a unit's attack sent, as served; raises DataError for one without it."""
        if unit.images is not None:
            return self.encoder.score_images(list(unit.images))
        if unit.texts is not None:
            return self.encoder.score_texts(unit.texts)
        if SCORES not in unit.extra:
            raise DataError(f"{unit.spec.name}: wanted a unit that keeps what was sent, got codes alone")
        return np.array(unit.extra[SCORES], dtype=np.float64)


def load_score(subject: Subject) -> AttackScore:
    """The attack score of a subject's artefact, on its device; raises ArtefactError when it has none."""
    artefact = open_artefact(subject.card.folder, score=True)
    found = attack_score_of(artefact, subject.hasher)
    return replace(found, encoders=found.encoders.to(subject.device))


def _joint_builder(build: BuildAttack, weight: float) -> BuildAttack:
    def joint(name: str, threat: Threat, effort: Effort) -> Attack:
        method, _, aim = name.rpartition(":")
        attack = build(f"pgd:{aim}", threat, effort)
        if method not in ("pgd", "apgd") or not isinstance(attack, GradientAttack):
            raise DataError(f"{name}: wanted a gradient attack to join with the score")
        return replace(attack, objective=Joint(attack.objective, weight), random_start=False)

    return joint
