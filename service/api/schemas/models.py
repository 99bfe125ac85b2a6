"""Answers about models: what each is, how it fared under attack, and at what it is known to break."""

from __future__ import annotations

from typing import Any

from pydantic import ConfigDict, Field

from service.api.schemas.base import Answer


class _Open(Answer):
    """An answer with more fields than those that clients may rely on."""

    model_config = ConfigDict(extra="allow")


class CleanFigure(_Open):
    """Mean average precision without an attack; `lo` and `hi` are its 95 % interval over the queries."""

    task: str = Field(examples=["image-to-text"])
    protocol: str = Field(
        description="What is retrieved from: `train+database` (the main one) or `database` (strict).",
        examples=["train+database"],
    )
    map: float = Field(examples=[0.742])
    lo: float = Field(examples=[0.711])
    hi: float = Field(examples=[0.771])
    chance: float = Field(description="That of a random ranking.", examples=[0.159])
    n: int = Field(description="Queries that count.", examples=[400])


class WorstCaseFigure(CleanFigure):
    """Mean over queries of the least average precision over all attacks of one budget and the clean query."""

    norm: str = Field(examples=["linf"])
    eps: float = Field(
        description="Pictures: in pixels from 0 to 1. Texts: the share of words, edits a word, or RMS.",
        examples=[0.03137254902],
    )
    clean_map: float = Field(description="`map` of the same queries without an attack.", examples=[0.742])
    attacks: list[str] = Field(examples=[["apgd:mainstay", "apgd:own-code"]])


class GatesAnswer(_Open):
    """The evaluation's checks on itself; figures are recorded only when all that were judged hold."""

    judged: int
    held: list[str] = Field(examples=[["deterministic", "convergence"]])
    not_judged: list[dict[str, str]] = Field(description="`name` and `why` of gates with nothing to judge.")


class RobustnessAnswer(_Open):
    """What `hashguard evaluate` measured on the model, as its artefact's robustness.json has it."""

    data: dict[str, Any] = Field(description="Name, fingerprint and split of the data set, queries.")
    threat: dict[str, Any] = Field(description="The threat model in sentences.")
    profile: str = Field(examples=["standard"])
    seed: int
    attacks: list[dict[str, Any]] = Field(description="Every attack with its budget and effort.")
    clean: list[CleanFigure]
    worst_case: list[WorstCaseFigure]
    gates: GatesAnswer
    versions: dict[str, str]


class ModelCardAnswer(_Open):
    """A model card: the public part of the manifest, and what is known of the model's robustness."""

    name: str = Field(examples=["sample"])
    version: str = Field(examples=["1"])
    digest: str = Field(description="SHA-256 of the manifest; it pairs the model with its indexes.")
    bits: int = Field(examples=[64])
    modalities: list[str] = Field(examples=[["image", "text"]])
    known_to_break_at: str = Field(
        description="The smallest evaluated budget that takes half of the mAP, or takes it down to chance; "
        "or that the model was not evaluated."
    )
    robustness: RobustnessAnswer | None = Field(description="Null when no evaluation is recorded.")
    readme: str = Field(description="The model card as Markdown.")


class ModelsAnswer(Answer):
    """The cards of all models in this home folder."""

    models: list[ModelCardAnswer]
