"""Bodies and answers of administration, models and probes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Any

from pydantic import Field

from service.api.schemas.base import Answer, Body
from service.application.types import Generation, Job

MODEL_PATTERN = r"^(latest|[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[0-9]{1,9})$"


class ReindexBody(Body):
    """Which model to reindex with, and whether to serve the result at once."""

    model: Annotated[
        str, Field(pattern=MODEL_PATTERN, description="`latest` or `name/version`.", examples=["latest"])
    ] = "latest"
    activate: bool = True


class JobAnswer(Answer):
    """A job; `rate` in items per second, `eta_s` in seconds, null while unknown."""

    id: str
    kind: str = Field(examples=["reindex"])
    phase: str = Field(examples=["encoding"])
    done: int
    total: int
    rate: float | None
    eta_s: float | None
    error: str | None
    model: str | None = Field(examples=["sample/1"])
    activate: bool
    generation: str | None
    created: datetime
    started: datetime | None
    finished: datetime | None

    @classmethod
    def of(cls, job: Job) -> JobAnswer:
        """From the use case's value."""
        return cls(
            id=job.id,
            kind=job.kind.value,
            phase=job.phase.value,
            done=job.done,
            total=job.total,
            rate=job.rate,
            eta_s=job.eta_s,
            error=job.error,
            model=job.model,
            activate=job.activate,
            generation=job.generation_id,
            created=job.created,
            started=job.started,
            finished=job.finished,
        )


class JobsAnswer(Answer):
    """Jobs, newest first."""

    jobs: list[JobAnswer]


class GenerationAnswer(Answer):
    """An index generation: one model version x one snapshot of the corpus."""

    id: str
    model_version: str = Field(examples=["sample/1"])
    model_digest: str
    preprocessing_digest: str
    bits: int
    snapshot_seq: int
    image_count: int
    text_count: int
    created: datetime
    live: bool

    @classmethod
    def of(cls, generation: Generation) -> GenerationAnswer:
        """From the use case's value."""
        return cls(
            id=generation.id,
            model_version=f"{generation.model_name}/{generation.model_version}",
            model_digest=generation.model_digest,
            preprocessing_digest=generation.preprocessing_digest,
            bits=generation.bits,
            snapshot_seq=generation.snapshot_seq,
            image_count=generation.image_count,
            text_count=generation.text_count,
            created=generation.created,
            live=generation.live,
        )


class GenerationsAnswer(Answer):
    """The kept generations, newest first."""

    generations: list[GenerationAnswer]


class ModelsAnswer(Answer):
    """The cards of all models in this home folder."""

    models: list[dict[str, Any]]


class LiveAnswer(Answer):
    """The process runs."""

    status: str = Field(examples=["alive"])


class ReadyAnswer(Answer):
    """Whether the service can answer; `reasons` says why not."""

    ready: bool
    reasons: list[str] = Field(examples=[[]])
    model_version: str | None = Field(examples=["sample/1"])
    index_generation: str | None
    items: int
