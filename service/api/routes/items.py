"""The corpus: put, get, list, delete, images and thumbnails."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query
from starlette.requests import Request
from starlette.responses import Response

from service.api.bodies import StrictJsonRoute, query_fields, read_upload, validated
from service.api.deps import Context, ContextDep, needs
from service.api.errors import problem_body, problem_of, status_of
from service.api.openapi import problems, upload_body
from service.api.schemas.base import Problem
from service.api.schemas.items import (
    BatchItem,
    BatchItems,
    BatchItemsAnswer,
    BatchItemsEntry,
    ItemAnswer,
    ItemFields,
    ItemsAnswer,
    NewItemFields,
    item_path,
)
from service.application.errors import InvalidInput, ServiceError
from service.application.types import Item, ItemDraft, ItemOutcome, Scope

router = APIRouter(prefix="/v1/items", tags=["items"], route_class=StrictJsonRoute)

_SEARCH = [needs(Scope.SEARCH)]
_WRITE = [needs(Scope.WRITE)]
_LOCATION = {"Location": {"description": "Path of the item.", "schema": {"type": "string"}}}
_PUT_PROBLEMS = problems(409, 413, 415)
_CREATED: dict[int | str, dict[str, Any]] = {
    200: {"description": "The item replaced an earlier one of this id.", "model": ItemAnswer},
    201: {"description": "The item is new.", "model": ItemAnswer, "headers": _LOCATION},
}

PathId = Annotated[str, Path(min_length=1, max_length=200, pattern=r"^[A-Za-z0-9._:-]+$")]


@router.post(
    "",
    operation_id="createItem",
    summary="Store an item",
    status_code=201,
    responses=_CREATED | _PUT_PROBLEMS,
    openapi_extra=upload_body("id", "text", "metadata"),
    dependencies=_WRITE,
)
async def create(request: Request, response: Response, ctx: ContextDep) -> ItemAnswer:
    """An item with an image, a text or both; without an `id` one is made up. Idempotent by `id`."""
    upload = await read_upload(request, ("id", "text", "metadata"))
    fields = validated(NewItemFields, upload.values(documents=("metadata",)), "form")
    item_id = fields.id if fields.id is not None else ctx.application.items.new_id()
    return await _put(ctx, response, ItemDraft(item_id, upload.image, fields.text, fields.metadata))


@router.post(
    "/batch",
    operation_id="putItems",
    summary="Store many items",
    responses=problems(413, 415),
    dependencies=_WRITE,
)
async def create_many(body: BatchItems, ctx: ContextDep) -> BatchItemsAnswer:
    """A status for each item; one that fails does not touch the others."""
    most = ctx.settings.max_batch_items
    if len(body.items) > most:
        raise InvalidInput(f"A batch takes at most {most} items, this one has {len(body.items)}.")
    ctx.metrics.batch("items", len(body.items))
    return await ctx.workers.run(_put_batch, ctx, body.items)


@router.get(
    "",
    operation_id="listItems",
    summary="List the corpus",
    responses=problems(),
    dependencies=_SEARCH,
)
async def listing(
    request: Request,
    ctx: ContextDep,
    cursor: Annotated[str | None, Query(max_length=4096)] = None,
    limit: Annotated[int, Query(ge=1, le=1000)] = 100,
) -> ItemsAnswer:
    """Items in the order of their ids, page by page."""
    query_fields(request, ("cursor", "limit"))
    return ItemsAnswer.of(await ctx.workers.run(ctx.application.items.page, cursor, limit))


@router.put(
    "/{id}",
    operation_id="putItem",
    summary="Store an item under an id",
    responses=_CREATED | _PUT_PROBLEMS,
    openapi_extra=upload_body("text", "metadata"),
    dependencies=_WRITE,
)
async def put(id: PathId, request: Request, response: Response, ctx: ContextDep) -> ItemAnswer:  # noqa: A002
    """Create or replace the item; it can be found as soon as this returns."""
    upload = await read_upload(request, ("text", "metadata"))
    fields = validated(ItemFields, upload.values(documents=("metadata",)), "form")
    return await _put(ctx, response, ItemDraft(id, upload.image, fields.text, fields.metadata))


@router.get(
    "/{id}",
    operation_id="getItem",
    summary="One item",
    responses=problems(404),
    dependencies=_SEARCH,
)
async def get(id: PathId, ctx: ContextDep) -> ItemAnswer:  # noqa: A002
    """The item without its image, which lies at `image_url`."""
    return ItemAnswer.of(await ctx.workers.run(ctx.application.items.get, id))


@router.delete(
    "/{id}",
    operation_id="deleteItem",
    summary="Delete an item",
    status_code=204,
    responses=problems(404),
    dependencies=_WRITE,
)
async def delete(id: PathId, ctx: ContextDep) -> Response:  # noqa: A002
    """The item, its image (when no other item has it) and its codes are gone when this returns."""
    await ctx.workers.run(ctx.application.items.delete, id)
    return Response(status_code=204)


@router.get(
    "/{id}/image",
    operation_id="getItemImage",
    summary="The image of an item, or a thumbnail",
    response_class=Response,
    responses=problems(404)
    | {
        200: {
            "description": "The image as it was stored, or a thumbnail with `size`.",
            "content": {"image/*": {"schema": {"type": "string", "format": "binary"}}},
        },
        304: {"description": "The client has it (If-None-Match)."},
    },
    dependencies=_SEARCH,
)
async def image(
    id: PathId,  # noqa: A002
    request: Request,
    ctx: ContextDep,
    size: Annotated[int | None, Query(ge=32, le=1024, description="Longest side, in pixels.")] = None,
) -> Response:
    """With `size`, a thumbnail whose sides are at most that; it is made once and kept."""
    query_fields(request, ("size",))
    item = await ctx.workers.run(ctx.application.items.get, id)
    tag = f'"{item.image_digest}-{size or "full"}"'
    headers = {"ETag": tag, "Cache-Control": "private, no-cache"}
    if item.image_digest is not None and tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    if size is None:
        data, media_type = await ctx.workers.run(ctx.application.items.image, id)
    else:
        data, media_type = await ctx.workers.run(ctx.application.items.thumbnail, id, size)
    return Response(data, media_type=media_type, headers=headers)


async def _put(ctx: Context, response: Response, draft: ItemDraft) -> ItemAnswer:
    stored: tuple[Item, bool] = await ctx.workers.run(ctx.application.items.put, draft)
    item, created = stored
    response.status_code = 201 if created else 200
    if created:
        response.headers["Location"] = item_path(item.id)
    return ItemAnswer.of(item)


def _put_batch(ctx: Context, raw: Sequence[object]) -> BatchItemsAnswer:
    """Store the items that fit in one go; the others keep their problems in their places."""
    parsed = [_parsed(ctx, item) for item in raw]
    drafts = [item for item in parsed if isinstance(item, ItemDraft)]
    stored = iter(ctx.application.items.put_batch(drafts) if drafts else ())
    results = [_entry(next(stored)) if isinstance(item, ItemDraft) else item for item in parsed]
    return BatchItemsAnswer(results=results)


def _parsed(ctx: Context, raw: object) -> ItemDraft | BatchItemsEntry:
    try:
        item = validated(BatchItem, raw, "body")
    except ServiceError as error:
        given = raw.get("id") if isinstance(raw, dict) else None
        return BatchItemsEntry(
            id=given if isinstance(given, str) else None,
            status=status_of(error),
            problem=Problem.model_validate(problem_of(error)),
        )
    return item.draft(item.id if item.id is not None else ctx.application.items.new_id())


def _entry(outcome: ItemOutcome) -> BatchItemsEntry:
    if outcome.code is None:
        return BatchItemsEntry(id=outcome.id, status=outcome.status)
    body = problem_body(outcome.status, outcome.code, outcome.detail or "")
    return BatchItemsEntry(id=outcome.id, status=outcome.status, problem=Problem.model_validate(body))
