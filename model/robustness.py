"""The content of an artefact's robustness.json: what an evaluation found, and where the model breaks.

It is read as a stranger's file: unknown or missing fields, wrong types, numbers that no evaluation gives
(a worst case above the clean mAP, an interval without its mean) and control characters are refused. No torch
here: the service reads it for the public model card.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError, model_validator

from model.artefact_checks import ROBUSTNESS, read_object
from model.errors import ArtefactError

MAX_BYTES = 1_000_000
PROTOCOLS = ("train+database", "database")
"""What is retrieved from: the papers' protocol, which is the main one, and the strict one."""
SLACK = 1e-6  # figures are written with ten digits

Task = Literal["image-to-text", "text-to-image", "image-to-image", "text-to-text"]
Protocol = Literal["train+database", "database"]
Norm = Literal["linf", "l2", "text", "words", "typos", "embedding"]
NORMS: tuple[Norm, ...] = get_args(Norm)
SENT: Mapping[str, tuple[Norm, ...]] = {"image": ("linf", "l2"), "text": ("text",)}
"""Norms by which a side is known to break: what a client can send."""


def _printable(text: str) -> str:
    if not text.isprintable():
        raise ValueError("wanted printable characters on one line")
    return text


Sentence = Annotated[str, Field(max_length=8000), AfterValidator(_printable)]
Name = Annotated[str, Field(min_length=1, max_length=300), AfterValidator(_printable)]
Digest = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
Share = Annotated[float, Field(ge=0, le=1)]
Budget = Annotated[float, Field(ge=0, le=1e6)]
Count = Annotated[int, Field(ge=0, le=10_000_000)]
Some = Annotated[int, Field(ge=1, le=10_000_000)]
Sentences = Annotated[list[Sentence], Field(max_length=50)]
Names = Annotated[list[Name], Field(max_length=500)]


class _Part(BaseModel):
    """Nothing unknown, nothing converted, no NaN."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False)


class Evaluated(_Part):
    """Which model; digest: of its manifest, which is what pairs models with indexes too."""

    name: Name
    version: Name
    digest: Digest


class Data(_Part):
    """What it was evaluated on; counts: items by split, queries: how many were evaluated."""

    name: Name
    fingerprint: Digest
    split_digest: Digest
    counts: Annotated[dict[Name, Count], Field(max_length=10)]
    queries: Some


class Threat(_Part):
    """The threat model and how figures were computed, in sentences."""

    goals: Sentences
    knowledge: Sentences
    capability: Sentences
    metric: Sentence
    relevance: Sentence
    ties: Sentence
    intervals: Sentence
    wordnet: Sentence


class Attack(_Part):
    """One attack, its budget and effort; queries: evaluations an input of black-box methods; n: inputs."""

    attack: Name
    side: Literal["image", "text"]
    purpose: Name
    norm: Name
    eps: Budget
    steps: Count
    restarts: Count
    queries: Count
    n: Count


class Clean(_Part):
    """MAP without an attack, with its 95 % interval, and that of a random ranking."""

    task: Task
    protocol: Protocol
    map: Share
    lo: Share
    hi: Share
    chance: Share
    n: Some

    @model_validator(mode="after")
    def _interval(self) -> Self:
        if not self.lo - SLACK <= self.map <= self.hi + SLACK:
            raise ValueError(f"wanted lo <= map <= hi, got {self.lo}, {self.map}, {self.hi}")
        return self


class WorstCase(Clean):
    """Mean over queries of the least AP over all attacks of one budget; eps in [0, 1] pixels for pictures.

    clean_map: of the same queries, which also are attempts, so that no worst case is above it.
    """

    norm: Norm
    eps: Annotated[Budget, Field(gt=0)]
    clean_map: Share
    attacks: Annotated[Names, Field(min_length=1)]

    @model_validator(mode="after")
    def _within(self) -> Self:
        if self.map > self.clean_map + SLACK:
            raise ValueError(f"wanted a worst case of at most clean_map {self.clean_map}, got {self.map}")
        if self.norm == "linf" and self.eps > 1:
            raise ValueError(f"wanted eps in (0, 1] pixels for linf, got {self.eps}")
        return self

    @property
    def side(self) -> str:
        """What is attacked: "image" or "text"."""
        return self.task.partition("-to-")[0]

    @property
    def broken(self) -> bool:
        """Whether the model counts as broken: at or below chance, or at half of the clean mAP or less."""
        return self.map <= max(self.chance, self.clean_map / 2)


class LeftOut(_Part):
    """A gate that was not judged, or an attack that was not run, and why."""

    name: Name
    why: Sentence


class Gates(_Part):
    """The gates of honesty: all that were judged hold, else nothing would have been recorded."""

    judged: Some
    held: Annotated[Names, Field(min_length=1)]
    not_judged: Annotated[list[LeftOut], Field(max_length=500)]

    @model_validator(mode="after")
    def _all_hold(self) -> Self:
        if len(set(self.held)) != self.judged or len(self.held) != self.judged:
            raise ValueError(f"wanted {self.judged} different gates that hold, got {len(self.held)}")
        return self


class Robustness(_Part):
    """robustness.json, format 1."""

    format: Annotated[int, Field(ge=1, le=1)]
    model: Evaluated
    data: Data
    threat: Threat
    profile: Name
    seed: Annotated[int, Field(ge=0, le=2**63)]
    command: Sentence
    twin: Digest | None
    attacks: Annotated[list[Attack], Field(max_length=1000)]
    clean: Annotated[list[Clean], Field(min_length=1, max_length=8)]
    worst_case: Annotated[list[WorstCase], Field(min_length=1, max_length=1000)]
    gates: Gates
    not_run: Annotated[list[LeftOut], Field(max_length=500)]
    versions: Annotated[dict[Name, Name], Field(max_length=20)]

    @model_validator(mode="after")
    def _once(self) -> Self:
        clean = [(row.task, row.protocol) for row in self.clean]
        cases = [(row.task, row.protocol, row.norm, row.eps) for row in self.worst_case]
        for what, keys in (("clean", clean), ("worst_case", cases)):
            if len(set(keys)) != len(keys):
                raise ValueError(f"{what}: wanted every task, protocol and budget once, got one twice")
        if missing := {case[:2] for case in cases} - set(clean):
            raise ValueError(f"clean: wanted a figure for {sorted(missing)[0]} too, got none")
        return self

    def main_cases(self, side: str) -> list[WorstCase]:
        """Worst cases of a side's main task under the main protocol, by norm, smallest budget first.

        The main task leads to the other side, or to the same one for a model with a single tower.
        """
        tasks = [f"{side}-to-{to}" for to in ("image", "text") if to != side] + [f"{side}-to-{side}"]
        main = [row for row in self.worst_case if row.protocol == PROTOCOLS[0]]
        found = next((rows for task in tasks if (rows := [row for row in main if row.task == task])), [])
        return sorted(found, key=lambda row: (NORMS.index(row.norm), row.eps))

    def headline(self, side: str) -> list[list[WorstCase]]:
        """Of the main cases those of what a client can send, a list for each norm, smallest budget first.

        Texts count under words and typing errors together, which is the worst of the two.
        """
        cases = self.main_cases(side)
        groups = [[case for case in cases if case.norm == norm] for norm in SENT[side]]
        return [group for group in groups if group]


def build_robustness(table: Mapping[str, Any], where: str) -> Robustness:
    """The checked content; raises ArtefactError that names the field, what was wanted and what came."""
    try:
        return Robustness.model_validate(table)
    except ValidationError as error:
        raise ArtefactError(f"{where}: {_first(error)}") from error


def read_robustness(data: bytes, digest: str, where: str) -> Robustness:
    """robustness.json of the model `digest`; raises ArtefactError, also for figures of another model."""
    found = build_robustness(read_object(data, where, MAX_BYTES), where)
    if found.model.digest != digest:
        raise ArtefactError(f"{where}: wanted figures of the model {digest}, got of {found.model.digest}")
    return found


def robustness_bytes(robustness: Robustness) -> bytes:
    """The file's content; raises ArtefactError when it would be too large to be read back."""
    data = (json.dumps(robustness.model_dump(), indent=1, allow_nan=False) + "\n").encode()
    if len(data) > MAX_BYTES:
        raise ArtefactError(f"{ROBUSTNESS}: wanted at most {MAX_BYTES} bytes, got {len(data)}")
    return data


def breaking_point(cases: Sequence[WorstCase]) -> WorstCase | None:
    """The smallest evaluated budget at which a model counts as broken; None when it is at none of them.

    cases: of one task, protocol and norm. That a budget is not among the broken says nothing of budgets that
    were not evaluated, nor of attacks that were not run.
    """
    return min((case for case in cases if case.broken), key=lambda case: case.eps, default=None)


def _first(error: ValidationError) -> str:
    """The first problem of many as "field: what was wanted, got what"."""
    problem = error.errors(include_url=False, include_context=False)[0]
    place = ".".join(str(part) for part in problem["loc"])
    got = repr(problem["input"])
    shown = "" if problem["type"] in ("missing", "value_error") else f", got {got[:80]}"
    prefix = f"{place}: " if place else ""
    return f"{prefix}{problem['msg'].removeprefix('Value error, ')}{shown}"
