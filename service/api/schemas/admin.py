"""Bodies and answers of administration and probes."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from pydantic import Field

from service.api.schemas.base import Answer, Body
from service.application.types import Generation, Job, Quality, Validation

MODEL_PATTERN = r"^(latest|[A-Za-z0-9][A-Za-z0-9._-]{0,99}/[0-9]{1,9})$"


class ReindexBody(Body):
    """Which model to reindex with, whether to serve the result at once, and how bad it may be."""

    model: Annotated[
        str, Field(pattern=MODEL_PATTERN, description="`latest` or `name/version`.", examples=["latest"])
    ] = "latest"
    activate: bool = True
    quality_floor: Annotated[
        float | None,
        Field(
            ge=0,
            le=1,
            description="How much lower than the live model's mAP the new one's may be, in either direction, "
            "on pairs of the corpus; null for the service's own setting.",
            examples=[0.02],
        ),
    ] = None


class TaskQualityAnswer(Answer):
    """mAP, 0 to 1, of the new model and of the live one in one direction of search."""

    task: str = Field(examples=["image-to-text"])
    map: float
    live_map: float


class QualityAnswer(Answer):
    """The new model beside the live one, on the same pairs of the corpus.

    `relevance` is `labels` when items that share a label count, `pairs` when only the other half does.
    """

    model: str = Field(examples=["sample/2"])
    live_model: str = Field(examples=["sample/1"])
    relevance: str = Field(examples=["labels"])
    queries: int
    items: int
    tasks: list[TaskQualityAnswer]
    floor: float | None = Field(description="The most that an mAP may be lower; null when nothing was asked.")

    @classmethod
    def of(cls, quality: Quality) -> QualityAnswer:
        """From the use case's value."""
        tasks = [
            TaskQualityAnswer(task=one.task, map=one.map, live_map=one.live_map) for one in quality.tasks
        ]
        return cls(
            model=quality.model,
            live_model=quality.live_model,
            relevance=quality.relevance,
            queries=quality.queries,
            items=quality.items,
            tasks=tasks,
            floor=quality.floor,
        )


class LeftOutAnswer(Answer):
    """Items of the corpus that the generation lacks, because the service was told to go on without them."""

    reason: str = Field(
        description="`bare`: imported as a code of another model, without image or text. `broken`: the image "
        "is missing or damaged, or the model cannot encode it.",
        examples=["bare"],
    )
    count: int
    ids: list[str] = Field(description="The first few.")


class ValidationAnswer(Answer):
    """What was checked before a generation could be served; `note` says why there is no `quality`."""

    image_count: int
    text_count: int
    canaries: int = Field(description="Codes that were looked up in what was written, and found.")
    quality: QualityAnswer | None
    note: str | None
    left_out: list[LeftOutAnswer]

    @classmethod
    def of(cls, validation: Validation) -> ValidationAnswer:
        """From the use case's value."""
        return cls(
            image_count=validation.image_count,
            text_count=validation.text_count,
            canaries=validation.canaries,
            quality=None if validation.quality is None else QualityAnswer.of(validation.quality),
            note=validation.note,
            left_out=[
                LeftOutAnswer(reason=one.reason, count=one.count, ids=[*one.ids])
                for one in validation.left_out
            ],
        )


class JobAnswer(Answer):
    """A job; `rate` in items per second, `eta_s` in seconds, null while unknown.

    `model` is what was asked for until the job has begun, then the version that it takes.
    """

    id: str
    kind: str = Field(examples=["reindex"], description="`reindex` or `catch-up`.")
    phase: str = Field(examples=["encoding"])
    done: int
    total: int
    rate: float | None
    eta_s: float | None
    error: str | None
    model: str | None = Field(examples=["sample/1"])
    activate: bool
    generation: str | None
    quality_floor: float | None
    validation: ValidationAnswer | None
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
            quality_floor=job.quality_floor,
            validation=None if job.validation is None else ValidationAnswer.of(job.validation),
            created=job.created,
            started=job.started,
            finished=job.finished,
        )


class JobsAnswer(Answer):
    """Jobs, newest first."""

    jobs: list[JobAnswer]


class GenerationAnswer(Answer):
    """An index generation: one model version x one snapshot of the corpus.

    Writes are encoded for the live one and its `predecessor`, which can therefore be activated at once.
    """

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
    predecessor: bool

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
            predecessor=generation.predecessor,
        )


class GenerationsAnswer(Answer):
    """The kept generations, newest first."""

    generations: list[GenerationAnswer]


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
