"""Model cards."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path

from service.api.deps import ContextDep, Scope, requires
from service.api.openapi import problems
from service.api.schemas.admin import ModelsAnswer

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[Depends(requires(Scope.READ))])

Name = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Version = Annotated[str, Path(max_length=9, pattern=r"^[0-9]+$")]


@router.get("", operation_id="listModels", summary="All model cards", responses=problems())
async def listing(ctx: ContextDep) -> ModelsAnswer:
    """The models of this home folder."""
    return ModelsAnswer(models=await ctx.workers.run(ctx.application.models.cards))


@router.get("/{name}/{version}", operation_id="getModel", summary="One model card", responses=problems(404))
async def card(name: Name, version: Version, ctx: ContextDep) -> dict[str, Any]:
    """What the model is, how well it does, and at what it is known to break."""
    return await ctx.workers.run(ctx.application.models.card, name, version)
