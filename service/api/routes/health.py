"""Probes and metrics; never behind authentication, never behind admission, never on the request threads."""

from __future__ import annotations

import asyncio
from typing import Any

from fastapi import APIRouter
from starlette.responses import Response

from service.api.deps import PUBLIC, ContextDep
from service.api.metrics import CONTENT_TYPE
from service.api.schemas.admin import LiveAnswer, ReadyAnswer

router = APIRouter(tags=["probes"], dependencies=[PUBLIC])

PROBE_TIMEOUT_S = 2.0
"""Seconds after which the state of the application counts as not ready."""

_NOT_READY: dict[int | str, dict[str, Any]] = {
    503: {"description": "Not ready; `reasons` says why.", "model": ReadyAnswer}
}


@router.head("/livez", include_in_schema=False)
@router.get("/livez", operation_id="livez", summary="The process runs")
async def livez() -> LiveAnswer:
    """Says nothing about the model or the index: restart the process when this does not answer."""
    return LiveAnswer(status="alive")


@router.head("/readyz", include_in_schema=False)
@router.get("/readyz", operation_id="readyz", summary="The service can answer", responses=_NOT_READY)
async def readyz(response: Response, ctx: ContextDep) -> ReadyAnswer:
    """Ready means: warm model, matching index, a recent canary query answered, not draining."""
    answer = await _readiness(ctx)
    if not answer.ready:
        response.status_code = 503
        response.headers["Retry-After"] = "1"
    return answer


@router.get(
    "/metrics",
    operation_id="metrics",
    summary="Metrics for Prometheus",
    response_class=Response,
    responses={200: {"content": {"text/plain": {"schema": {"type": "string"}}}}},
)
async def metrics(ctx: ContextDep) -> Response:
    """Counters of this process and the state of index and jobs."""
    return Response(await asyncio.to_thread(ctx.metrics.render), headers={"Content-Type": CONTENT_TYPE})


async def _readiness(ctx: ContextDep) -> ReadyAnswer:
    try:
        async with asyncio.timeout(PROBE_TIMEOUT_S):
            state = await asyncio.to_thread(ctx.application.health.ready)
    except TimeoutError:
        return _not_ready(f"the state was not known within {PROBE_TIMEOUT_S:g} seconds")
    reasons = list(state.reasons)
    if ctx.gate.draining:
        reasons.append("draining")
    return ReadyAnswer(
        ready=state.ok and not ctx.gate.draining,
        reasons=reasons,
        model_version=state.model_version,
        index_generation=state.generation_id,
        items=state.item_count,
    )


def _not_ready(reason: str) -> ReadyAnswer:
    return ReadyAnswer(ready=False, reasons=[reason], model_version=None, index_generation=None, items=0)
