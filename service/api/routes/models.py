"""Model cards: public, so that anybody can see what a service is known to break at."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path

from service.api.deps import PUBLIC, ContextDep
from service.api.openapi import problems
from service.api.schemas.models import ModelCardAnswer, ModelsAnswer

router = APIRouter(prefix="/v1/models", tags=["models"], dependencies=[PUBLIC])

Name = Annotated[str, Path(max_length=100, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$")]
Version = Annotated[str, Path(max_length=9, pattern=r"^[0-9]+$")]


@router.get("", operation_id="listModels", summary="All model cards", responses=problems(public=True))
async def listing(ctx: ContextDep) -> ModelsAnswer:
    """The models of this home folder."""
    cards = await ctx.workers.run(ctx.application.models.cards)
    return ModelsAnswer(models=[ModelCardAnswer.model_validate(card) for card in cards])


@router.get(
    "/{name}/{version}",
    operation_id="getModel",
    summary="One model card",
    responses=problems(404, public=True),
)
async def card(name: Name, version: Version, ctx: ContextDep) -> ModelCardAnswer:
    """What the model is, how well it does, and at what it is known to break."""
    return ModelCardAnswer.model_validate(await ctx.workers.run(ctx.application.models.card, name, version))
