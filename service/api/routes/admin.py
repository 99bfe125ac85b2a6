"""Administration: reindexing, jobs, generations and roll-back."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Header, Path, Query
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from service.api.bodies import StrictJsonRoute, query_fields
from service.api.deps import ContextDep, needs
from service.api.openapi import problems
from service.api.schemas.admin import (
    GenerationAnswer,
    GenerationsAnswer,
    JobAnswer,
    JobsAnswer,
    ReindexBody,
)
from service.application.types import Generation, Scope

router = APIRouter(
    prefix="/v1/admin",
    tags=["admin"],
    route_class=StrictJsonRoute,
    dependencies=[needs(Scope.ADMIN)],
)

PathId = Annotated[str, Path(min_length=1, max_length=100, pattern=r"^[A-Za-z0-9._-]+$")]


@router.post(
    "/reindex",
    operation_id="startReindex",
    summary="Rebuild the index",
    status_code=202,
    responses=problems(404, 409, 413, 415)
    | {
        202: {
            "description": "The job was queued, or the one that this Idempotency-Key made before.",
            "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
        }
    },
)
async def reindex(
    body: ReindexBody,
    response: Response,
    ctx: ContextDep,
    idempotency_key: Annotated[
        str | None, Header(min_length=1, max_length=200, pattern=r"^[\x21-\x7e]+$")
    ] = None,
) -> JobAnswer:
    """Encodes the corpus with a model into a new generation; with `activate` it is served when it is done."""
    start = ctx.application.reindexing.start
    job = await ctx.workers.run(start, body.model, body.activate, idempotency_key, body.quality_floor)
    response.headers["Location"] = f"/v1/admin/jobs/{job.id}"
    return JobAnswer.of(job)


@router.get("/jobs", operation_id="listJobs", summary="Jobs, newest first", responses=problems())
async def jobs(
    request: Request, ctx: ContextDep, limit: Annotated[int, Query(ge=1, le=1000)] = 100
) -> JobsAnswer:
    """All jobs that the catalog remembers, as many as `limit`."""
    query_fields(request, ("limit",))
    found = await ctx.workers.run(ctx.application.reindexing.jobs, limit)
    return JobsAnswer(jobs=[JobAnswer.of(job) for job in found])


@router.get("/jobs/{id}", operation_id="getJob", summary="One job", responses=problems(404))
async def job(id: PathId, ctx: ContextDep) -> JobAnswer:  # noqa: A002
    """Phase, progress, rate and remaining time."""
    return JobAnswer.of(await ctx.workers.run(ctx.application.reindexing.job, id))


@router.delete("/jobs/{id}", operation_id="cancelJob", summary="Cancel a job", responses=problems(404, 409))
async def cancel(id: PathId, ctx: ContextDep) -> JobAnswer:  # noqa: A002
    """Asks the job to stop; what it had built is thrown away."""
    return JobAnswer.of(await ctx.workers.run(ctx.application.reindexing.cancel, id))


@router.get(
    "/generations",
    operation_id="listGenerations",
    summary="Index generations, newest first",
    responses=problems(),
)
async def generations(ctx: ContextDep) -> GenerationsAnswer:
    """The kept generations; one of them is live."""
    found = await ctx.workers.run(ctx.application.reindexing.generations)
    return GenerationsAnswer(generations=[GenerationAnswer.of(generation) for generation in found])


@router.post(
    "/generations/{id}/activate",
    operation_id="activateGeneration",
    summary="Serve another generation",
    response_model=GenerationAnswer,
    responses=problems(404, 409)
    | {
        200: {"description": "It is served: it was the predecessor of the live one, or live."},
        202: {
            "description": "A job encodes what its model has not seen, then serves it.",
            "model": JobAnswer,
            "headers": {"Location": {"description": "Path of the job.", "schema": {"type": "string"}}},
        },
    },
)
async def activate(id: PathId, ctx: ContextDep) -> Response:  # noqa: A002
    """Roll-back: points the alias `live` at a kept generation; nothing that was written since is lost."""
    found = await ctx.workers.run(ctx.application.reindexing.activate, id)
    if isinstance(found, Generation):
        return JSONResponse(GenerationAnswer.of(found).model_dump(mode="json"))
    answer = JobAnswer.of(found).model_dump(mode="json")
    return JSONResponse(answer, 202, {"Location": f"/v1/admin/jobs/{found.id}"})
