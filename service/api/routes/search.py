"""Searches and encodings."""

from __future__ import annotations

from collections.abc import Sequence

from fastapi import APIRouter
from starlette.requests import Request

from service.api.bodies import StrictJsonRoute, Upload, read_upload, required_image, validated
from service.api.deps import Context, ContextDep, needs
from service.api.errors import problem_of, status_of
from service.api.openapi import problems, upload_body
from service.api.schemas.base import Problem
from service.api.schemas.search import (
    BatchQuery,
    BatchResult,
    BatchResultEntry,
    BatchSearch,
    Code,
    ItemSearch,
    SearchOptions,
    SearchResult,
    TextBody,
    TextSearch,
)
from service.api.searched import note_searches
from service.application.errors import InvalidInput, ServiceError
from service.application.types import Query, Scope, SearchAnswer, Side

router = APIRouter(
    prefix="/v1",
    tags=["search"],
    route_class=StrictJsonRoute,
    dependencies=[needs(Scope.SEARCH)],
)

_OPTIONS = ("k", "max_distance", "filter", "cursor")
_IMAGE_BODY = upload_body(*_OPTIONS, required=("image",), raw=True)
_TEXT_PROBLEMS = problems(404, 413, 415)


@router.post(
    "/search/image-to-text",
    operation_id="searchImageToText",
    summary="Find texts for an image",
    responses=_TEXT_PROBLEMS,
    openapi_extra=_IMAGE_BODY,
)
async def image_to_text(request: Request, ctx: ContextDep) -> SearchResult:
    """Multipart `image` with form fields, or the image itself as the body with query parameters."""
    return await _by_image(request, ctx, "text")


@router.post(
    "/search/image-to-image",
    operation_id="searchImageToImage",
    summary="Find images for an image",
    responses=_TEXT_PROBLEMS,
    openapi_extra=_IMAGE_BODY,
)
async def image_to_image(request: Request, ctx: ContextDep) -> SearchResult:
    """Multipart `image` with form fields, or the image itself as the body with query parameters."""
    return await _by_image(request, ctx, "image")


@router.post(
    "/search/text-to-image",
    operation_id="searchTextToImage",
    summary="Find images for a text",
    responses=_TEXT_PROBLEMS,
)
async def text_to_image(body: TextSearch, request: Request, ctx: ContextDep) -> SearchResult:
    """Images whose codes are nearest to the text's."""
    return await _search(request, ctx, body.query("image", text=body.text))


@router.post(
    "/search/text-to-text",
    operation_id="searchTextToText",
    summary="Find texts for a text",
    responses=_TEXT_PROBLEMS,
)
async def text_to_text(body: TextSearch, request: Request, ctx: ContextDep) -> SearchResult:
    """Texts whose codes are nearest to the text's."""
    return await _search(request, ctx, body.query("text", text=body.text))


@router.post(
    "/search/item",
    operation_id="searchItem",
    summary="More like an item of the corpus",
    responses=_TEXT_PROBLEMS,
)
async def like_item(body: ItemSearch, request: Request, ctx: ContextDep) -> SearchResult:
    """Hits on the side `to` that are nearest to the side `from` of the item."""
    return await _search(request, ctx, body.query(body.to, item=(body.id, body.from_)))


@router.post(
    "/search/batch",
    operation_id="searchBatch",
    summary="Many queries in one call",
    responses=_TEXT_PROBLEMS,
)
async def batch(body: BatchSearch, request: Request, ctx: ContextDep) -> BatchResult:
    """A status for each query; one that fails does not touch the others."""
    most = ctx.settings.max_batch_queries
    if len(body.queries) > most:
        raise InvalidInput(f"A batch takes at most {most} queries, this one has {len(body.queries)}.")
    ctx.metrics.batch("search", len(body.queries))
    return await ctx.workers.run(_answer_batch, request, ctx, body.queries)


@router.post(
    "/encode/image",
    operation_id="encodeImage",
    summary="The code of an image",
    responses=_TEXT_PROBLEMS,
    openapi_extra=upload_body(required=("image",), raw=True),
)
async def encode_image(request: Request, ctx: ContextDep) -> Code:
    """The binary code that a search with this image would use."""
    upload = await read_upload(request, (), raw=True)
    return Code.of(await ctx.workers.run(ctx.application.retrieval.encode_image, required_image(upload)))


@router.post(
    "/encode/text",
    operation_id="encodeText",
    summary="The code of a text",
    responses=_TEXT_PROBLEMS,
)
async def encode_text(body: TextBody, ctx: ContextDep) -> Code:
    """The binary code that a search with this text would use."""
    return Code.of(await ctx.workers.run(ctx.application.retrieval.encode_text, body.text))


async def _by_image(request: Request, ctx: Context, to: Side) -> SearchResult:
    upload = await read_upload(request, _OPTIONS, raw=True)
    image = required_image(upload)
    return await _search(request, ctx, search_options(upload).query(to, image=image))


def search_options(upload: Upload) -> SearchOptions:
    """The options of a search that came as form fields or query parameters."""
    values = upload.values(integers=("k", "max_distance"), documents=("filter",))
    return validated(SearchOptions, values, upload.place)


async def _search(request: Request, ctx: Context, query: Query) -> SearchResult:
    answer = await ctx.workers.run(ctx.application.retrieval.search, query)
    note_searches(request.scope, ctx.metrics, [answer])
    return SearchResult.of(answer)


def _answer_batch(request: Request, ctx: Context, raw: Sequence[object]) -> BatchResult:
    """Answer the queries that fit in one go; the others keep their problems in their places."""
    parsed = [_parsed(query) for query in raw]
    queries = [query for query in parsed if isinstance(query, Query)]
    found = iter(ctx.application.retrieval.search_batch(queries) if queries else ())
    answers = [query if isinstance(query, ServiceError) else next(found) for query in parsed]
    answered = [answer for answer in answers if isinstance(answer, SearchAnswer)]
    note_searches(request.scope, ctx.metrics, answered)
    return BatchResult(results=[_entry(answer) for answer in answers])


def _parsed(raw: object) -> Query | ServiceError:
    try:
        return validated(BatchQuery, raw, "body").as_query()
    except ServiceError as error:
        return error


def _entry(answer: SearchAnswer | ServiceError) -> BatchResultEntry:
    if isinstance(answer, SearchAnswer):
        return BatchResultEntry(status=200, answer=SearchResult.of(answer))
    return BatchResultEntry(status=status_of(answer), problem=Problem.model_validate(problem_of(answer)))
