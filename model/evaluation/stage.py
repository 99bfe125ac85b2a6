"""A model on the stage: under test, encoded, with what an attacker knows of it and the surrogates at hand.

Everything that several units of one model share is made here once: its pictures, codes, knowledge, targets,
the encoder that turns what a client would send into codes. Randomness is derived from the seed and the
spec, so that no unit depends on which were run before it.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from model.attacks.base import Attack, ModelFn, Target
from model.attacks.knowledge import Knowledge
from model.attacks.registry import OBJECTIVES, Effort, build_attack, build_text_attack
from model.attacks.subjects import Subject, with_both
from model.attacks.text_attacks import TextAttack
from model.attacks.text_limits import SubstitutionRule, label_words
from model.attacks.text_model import TextModel, neighbourhood
from model.attacks.threat import Threat
from model.attacks.victims import ImageModel
from model.attacks.wordnet import Thesaurus
from model.data.manifest import Manifest, Record
from model.evaluation.encoded import EncodedData, encode_data, encoder_of, knowledge_from
from model.evaluation.scoring import Bits
from model.evaluation.specs import AttackSpec
from model.inference import Encoder

BuildAttack = Callable[[str, Threat, Effort], Attack]
Tick = Callable[[int, int], None]
"""Called with (queries done, queries in all) of one unit; may raise to stop."""

CHUNK = 64


@dataclass(frozen=True, eq=False)
class Setting:
    """What all models of a report share. queries: the evaluated ones. build: makes the image attacks."""

    manifest: Manifest
    queries: list[Record]
    seed: int = 0
    thesaurus: Thesaurus | None = None
    build: BuildAttack = build_attack


@dataclass(frozen=True, eq=False)
class Contender:
    """A model to evaluate under a label, and the models that an attacker trained itself."""

    label: str
    subject: Subject
    surrogates: tuple[Subject, ...] = ()


@dataclass(frozen=True, eq=False)
class Encodings:
    """Data sets encoded in this process, by model: a surrogate that is also evaluated is encoded once."""

    known: dict[str, EncodedData] = field(default_factory=dict)

    def of(self, subject: Subject, setting: Setting, tick: Tick | None = None) -> EncodedData:
        """The encoded data of `subject`, computed on first use."""
        key = fingerprint_of(subject)
        if key not in self.known:
            self.known[key] = encode_data(subject, setting.manifest, setting.queries, tick)
        return self.known[key]


@dataclass(frozen=True, eq=False)
class Stage:
    """The model under test and all that its units share."""

    subject: Subject
    setting: Setting
    encoded: EncodedData
    surrogates: tuple[tuple[Subject, EncodedData], ...] = ()

    @cached_property
    def encoder(self) -> Encoder:
        """The service's encoder over this model."""
        return encoder_of(self.subject)

    @cached_property
    def images(self) -> Tensor:
        """The queries' pictures, float (n, 3, S, S) in [0, 1] on the device."""
        return self.subject.images(self.setting.queries)

    @property
    def clean(self) -> Mapping[str, Bits]:
        """Codes of the clean queries, bool (n, K) by side."""
        return self.encoded.splits["query"].codes

    @cached_property
    def _knowledge(self) -> dict[tuple[str, str], Knowledge]:
        return {}

    def knowledge(self, side: str) -> Knowledge:
        """What a white-box attacker of this model's `side` queries knows."""
        return self.knowledge_of(self.subject, self.encoded, side)

    def knowledge_of(self, subject: Subject, encoded: EncodedData, side: str) -> Knowledge:
        """The same for another model's codes: what an attacker learns from its surrogate."""
        key = (encoded.digest, side)
        if key not in self._knowledge:
            self._knowledge[key] = knowledge_from(
                encoded, side, seed=self.setting.seed, device=subject.device
            )
        return self._knowledge[key]

    def target(self, spec: AttackSpec, knowledge: Knowledge | None = None) -> Target:
        """The targets of the spec's queries; the same query has the same target in every unit of one aim."""
        known = self.knowledge(spec.side) if knowledge is None else knowledge
        generator = self.generator_of(f"target:{spec.aim}")
        return OBJECTIVES[spec.aim].target(known, generator=generator).rows(slice(spec.first, spec.stop))

    def generator(self, spec: AttackSpec) -> torch.Generator:
        """Randomness of one unit."""
        return self.generator_of(json.dumps(spec.to_json(), sort_keys=True))

    def generator_of(self, use: str) -> torch.Generator:
        """Randomness of one use."""
        digest = hashlib.sha256(f"{self.setting.seed}:{use}".encode()).digest()
        return torch.Generator().manual_seed(int.from_bytes(digest[:8], "big") >> 1)

    @cached_property
    def text_model(self) -> TextModel:
        """The text tower behind its tokenizer."""
        return TextModel(self.subject.hasher, self.subject.text_codec())

    def victim(self, model_fn: ModelFn) -> ModelFn:
        """What an attack sees of the model's logits: just that, unless it knows of more (score_stage.py)."""
        return model_fn

    def text_attack(self, name: str, rule: SubstitutionRule | None) -> TextAttack:
        """The attack `name` on texts."""
        return build_text_attack(name, rule)

    def embedding_facts(self, embedded: Tensor, mask: Tensor) -> dict[str, Any]:
        """What a unit keeps, as plain JSON, of attacked embeddings (m, L, D), which no client can send."""
        return {}

    @cached_property
    def substitution(self) -> SubstitutionRule:
        """What word substitution may do: the neighbourhood is over the words of the train split."""
        manifest, thesaurus = self.setting.manifest, self.setting.thesaurus
        corpus = [text for record in manifest.of_split("train") for text in record.texts]
        labels = label_words(manifest.label_names, thesaurus)
        return SubstitutionRule(labels, neighbourhood(self.text_model, corpus), thesaurus)


@dataclass(frozen=True, eq=False)
class Resized:
    """A surrogate that reads pictures of another size: bilinear, differentiable."""

    model_fn: ImageModel
    size: int

    @property
    def module(self) -> nn.Module:
        """The surrogate's tower."""
        return self.model_fn.module

    def __call__(self, x: Tensor) -> Tensor:
        """Logits (n, K) of images (n, 3, S, S) of the victim's size."""
        side = (self.size, self.size)
        return self.model_fn(nn.functional.interpolate(x, side, mode="bilinear", antialias=True))


def surrogate_fn(surrogate: Subject, size: int) -> ModelFn:
    """The surrogate's image tower for pictures of side `size`."""
    own = surrogate.preprocessing
    model_fn = ImageModel(surrogate.hasher)
    return model_fn if own is None or own.size == size else Resized(model_fn, own.size)


@contextmanager
def channels_last(*subjects: Subject) -> Iterator[None]:
    """Image towers in channels-last layout inside (measured about 13 % faster), as they were after.

    Only the layout of the weights changes, never a value.
    """
    towers = [subject.hasher.image for subject in subjects if subject.hasher.image is not None]
    try:
        for tower in towers:
            tower.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        yield
    finally:
        for tower in towers:
            tower.to(memory_format=torch.contiguous_format)  # type: ignore[call-overload]


def fingerprint_of(subject: Subject) -> str:
    """What a model's codes depend on, as SHA-256 (hex): its digest, its modules, the kind of device."""
    text = f"{subject.digest}\n{subject.hasher}\n{subject.device.type}"
    return hashlib.sha256(text.encode()).hexdigest()


def choose_queries(manifest: Manifest, subjects: list[Subject], count: int | None) -> list[Record]:
    """The first `count` (all without) labelled queries that every model can read, by a hash of their ids.

    So the same items are chosen whatever the order of the file, and a longer run contains the shorter one.
    """
    records = list(manifest.of_split("query"))
    for subject in subjects:
        records = with_both(records, subject)
    records = [record for record in records if record.labels]
    records.sort(key=lambda record: hashlib.sha256(record.id.encode()).hexdigest())
    return records[:count]
