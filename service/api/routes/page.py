"""The page at `/`, the reference at `/docs` and their style sheet: plain HTML that works without scripts."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from urllib.parse import urlencode

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from service.api.authentication import lets_in_without_key
from service.api.bodies import Upload, read_upload, required_image, validated
from service.api.deps import PUBLIC, Context, ContextDep, admit
from service.api.errors import headers_of, status_of
from service.api.routes.search import search_options
from service.api.schemas.base import ItemId
from service.api.schemas.search import SearchOptions, SearchResult, TextSearch
from service.api.searched import note_searches
from service.api.ui.reference import reference
from service.api.ui.render import assets, page
from service.application.errors import NotFound, ServiceError, Unauthorised
from service.application.types import Query, Scope

# The pages are public; the searches on them ask for a key once they are asked for, to answer with a page.
router = APIRouter(include_in_schema=False, dependencies=[PUBLIC])

_DEFAULT_K = "12"
_PARAMETERS = ("q", "item", "k", "cursor")


class LikeItem(SearchOptions):
    """A search for images that are like the image of an item."""

    item: ItemId


@dataclass(frozen=True)
class View:
    """What the page shows; `asked` says in words what was searched for, `locked` that a key is needed."""

    q: str = ""
    k: str = _DEFAULT_K
    asked: str | None = None
    result: SearchResult | None = None
    error: str | None = None
    next_url: str | None = None
    locked: bool = False


@router.head("/")
@router.get("/")
async def show(request: Request, ctx: ContextDep) -> Response:
    """The form, and the hits for `?q=TEXT` or `?item=ID` when one is there."""
    given = {name: text for name, text in request.query_params.items() if name in _PARAMETERS}
    view = View(q=given.get("q", ""), k=given.get("k", _DEFAULT_K))
    if not view.q.strip() and "item" not in given:
        locked = not lets_in_without_key(ctx.settings, request.scope)
        return await _render(ctx, replace(view, locked=locked))
    try:
        await admit(request, ctx, Scope.SEARCH)
        asked, query = _query(given)
        view = await _answered(request, ctx, replace(view, asked=asked), query)
    except ServiceError as error:
        return await _failed(ctx, view, error)
    if view.result is not None and view.result.next_cursor is not None:
        view = replace(view, next_url="/?" + urlencode(given | {"cursor": view.result.next_cursor}))
    return await _render(ctx, view)


@router.post("/")
async def show_for_image(request: Request, ctx: ContextDep) -> Response:
    """The hits for an image that was sent with the form: the texts that fit it."""
    view = View(asked="your image")
    try:
        await admit(request, ctx, Scope.SEARCH)
        upload = await read_upload(request, ("k",))
        view = replace(view, k=upload.fields.get("k", _DEFAULT_K))
        query = search_options(upload).query("text", image=required_image(upload))
        view = await _answered(request, ctx, view, query)
    except ServiceError as error:
        return await _failed(ctx, view, error)
    return await _render(ctx, view)


@router.get("/docs")
async def docs(request: Request) -> Response:
    """The HTTP interface as a page, made from the OpenAPI document."""
    return page("docs.html", groups=reference(request.app.openapi()))


@router.get("/static/{name}")
async def static(name: str, request: Request) -> Response:
    """A static file of the pages."""
    asset = assets().get(name)
    if asset is None:
        raise NotFound("There is nothing at this path.")
    headers = {"ETag": asset.tag, "Cache-Control": "public, max-age=3600"}
    if asset.tag in request.headers.get("if-none-match", ""):
        return Response(status_code=304, headers=headers)
    return Response(asset.data, media_type=asset.media_type, headers=headers)


def _query(given: dict[str, str]) -> tuple[str, Query]:
    """What is asked in words, and the query; a text wins over an item."""
    upload = Upload(None, {"k": _DEFAULT_K} | given, "query")
    values = upload.values(integers=("k",))
    text, item = values.pop("q", ""), values.pop("item", "")
    if text.strip():
        return f"“{text}”", validated(TextSearch, values | {"text": text}, "query").query("image", text=text)
    like = validated(LikeItem, values | {"item": item}, "query")
    return f"images like {item}", like.query("image", item=(item, "image"))


async def _answered(request: Request, ctx: Context, view: View, query: Query) -> View:
    answer = await ctx.workers.run(ctx.application.retrieval.search, query)
    note_searches(request.scope, ctx.metrics, [answer])
    return replace(view, result=SearchResult.of(answer))


async def _failed(ctx: Context, view: View, error: ServiceError) -> Response:
    told = error.detail.replace("#/", "")  # people read "k: ...", not a pointer
    view = replace(view, error=told, locked=isinstance(error, Unauthorised))
    return await _render(ctx, view, status_of(error), headers_of(error))


async def _render(
    ctx: Context, view: View, status: int = 200, headers: dict[str, str] | None = None
) -> Response:
    state = await asyncio.to_thread(ctx.application.health.ready)
    return page("index.html", status, headers, view=view, state=state)
