"""Retrieval in four directions, from an image, a text or a stored item, one query or many.

A search takes the served pair once and finishes on it. Hits come in a total order (distance, then id), so
a page can be continued after its last hit and the same query gives the same page. An id that the index
still has but the catalog no longer (it was deleted a moment ago) is passed over and the page is filled up
from behind it: a page is short only when there is nothing more. "More like this" leaves the item itself
out, on both sides.

An item that is replaced between a look at the index and a look at the catalog would be shown with its new
content at the distance of the old. Such an item's number lies beyond what the index had taken in before: the
page is looked up again then, under the write lock. What other processes write reaches the index within the
follower's poll, and is not waited for.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar

from service.application.cursor import query_digest, read_search_cursor, write_search_cursor
from service.application.encoding import Content, encode_versions, examine_contents, without_scores
from service.application.errors import InvalidInput, NotFound, ServiceError, Unavailable
from service.application.ports import BlobStore, CodeRepository, ItemRepository, Neighbour, Reach
from service.application.serving import Held, Serving, ServingState
from service.application.types import (
    EncodeAnswer,
    Item,
    Query,
    SearchAnswer,
    SearchHit,
    Side,
    Suspicion,
    Timing,
)
from service.application.validation import (
    Limits,
    check_count,
    check_image,
    check_max_distance,
    check_query,
    check_text,
)

A = TypeVar("A")

_ATTEMPTS = 5
_WAIT_S = 1.0  # for the write lock; whoever keeps it longer is catching up with another process


@dataclass(frozen=True)
class _Encoded:
    """A query's code, the side it came from, and the milliseconds that decoding and encoding took.

    `score` is its attack score: None for stored items, which are not asked about, and without a score.
    """

    code: bytes
    side: Side
    decode_ms: float
    encode_ms: float
    score: float | None = None

    def suspicion(self, serving: Serving) -> Suspicion | None:
        """The score beside its thresholds."""
        thresholds = serving.encoder.score_thresholds
        if self.score is None or thresholds is None:
            return None
        return Suspicion(self.side, self.score, thresholds[self.side])


@dataclass(frozen=True)
class _Plan:
    """One search as the index sees it; `leave_out` is the item that asks for others like it."""

    query: Query
    encoded: _Encoded
    leave_out: str | None
    digest: str


@dataclass(frozen=True)
class _Page:
    """Hits, and whether there are more; `newest` is the highest number of a change among the items."""

    found: tuple[tuple[Neighbour, Item], ...]
    more: bool
    newest: int


class _LeftBehindError(Exception):
    """The pair was let go while the request ran, and an item was replaced since: it can be asked no more."""


@dataclass(frozen=True)
class Retrieval:
    """Searches; safe to call from any thread."""

    state: ServingState
    items: ItemRepository
    codes: CodeRepository
    blobs: BlobStore
    limits: Limits

    def search(self, query: Query) -> SearchAnswer:
        """Answer one query. Raises `InvalidInput`, `NotFound` (its item) and `Unavailable`."""
        started = time.perf_counter()
        check_query(query, self.limits)

        def answer(held: Held) -> SearchAnswer:
            check_max_distance(query.max_distance, held.serving.encoder.bits)
            return self._answer(held, query, self._encode(held.serving, query), started)

        return self._on_one_pair(answer)

    def search_batch(self, queries: Sequence[Query]) -> list[SearchAnswer | ServiceError]:
        """Answer many queries on one served pair; one that fails has its error in its place.

        Images and texts are encoded together. Raises `InvalidInput` for a batch that is empty or too long
        and `Unavailable` when nothing can be answered.
        """
        started = time.perf_counter()
        check_count("queries", queries, self.limits.max_batch_queries)
        return self._on_one_pair(lambda held: self._answer_all(held, queries, started))

    def encode_image(self, data: bytes) -> EncodeAnswer:
        """The code of an image. Raises `InvalidInput` and `Unavailable`."""
        serving = self.state.require()
        return _encode_answer(serving, _encode_image(serving, check_image(data, self.limits), score=False))

    def encode_text(self, text: str) -> EncodeAnswer:
        """The code of a text. Raises `InvalidInput` and `Unavailable`."""
        serving = self.state.require()
        return _encode_answer(serving, _encode_text(serving, check_text(text, self.limits), score=False))

    def _on_one_pair(self, answer: Callable[[Held], A]) -> A:
        """What `answer` makes of the served pair, of the next one when the pair was left behind."""
        for _ in range(_ATTEMPTS):
            try:
                return answer(self.state.hold())
            except _LeftBehindError:
                continue
        raise Unavailable("the model was changed again and again while the query was answered")

    def _answer_all(
        self, held: Held, queries: Sequence[Query], started: float
    ) -> list[SearchAnswer | ServiceError]:
        answers: list[SearchAnswer | ServiceError] = []
        for query, encoded in zip(queries, self._encode_all(held.serving, queries), strict=True):
            try:
                if isinstance(encoded, ServiceError):
                    raise encoded
                answers.append(self._answer(held, query, encoded, started))
            except ServiceError as error:
                answers.append(error)
        return answers

    def _encode(self, serving: Serving, query: Query) -> _Encoded:
        if query.item is not None:
            return self._encode_item(serving, *query.item)
        if query.image is not None:
            return _encode_image(serving, check_image(query.image, self.limits))
        return _encode_text(serving, check_text(query.text, self.limits))

    def _encode_item(self, serving: Serving, item_id: str, side: Side) -> _Encoded:
        _check_side(serving, side)
        started = time.perf_counter()
        version = self.codes.versions([item_id], serving.encoder.digest).get(item_id)
        if version is None:
            raise NotFound(f"there is no item {item_id!r}")
        if (version.image_digest if side == "image" else version.text) is None:
            raise NotFound(f"item {item_id!r} has no {side}", code=f"no_{side}")
        if side in version.codes:
            return _Encoded(version.codes[side], side, 0.0, _since(started))
        # Written under another model a moment ago: the code is on its way, make it here meanwhile.
        new, failures = encode_versions(serving.encoder, self.blobs, [version])
        if item_id in failures:
            raise failures[item_id]
        code = next(one.code for one in new if one.side == side)
        return _Encoded(code, side, 0.0, _since(started))

    def _encode_all(self, serving: Serving, queries: Sequence[Query]) -> list[_Encoded | ServiceError]:
        results: list[_Encoded | ServiceError | None] = [self._checked(serving, query) for query in queries]
        open_ = [position for position, result in enumerate(results) if result is None]
        started = time.perf_counter()
        contents = [_query_content(queries[position]) for position in open_]
        examined = examine_contents(serving.encoder, contents)
        each = _since(started) / max(1, len(open_))
        for position, found in zip(open_, examined, strict=True):
            side: Side = "text" if queries[position].image is None else "image"
            results[position] = (
                found
                if isinstance(found, ServiceError)
                else _Encoded(found[side].code, side, 0.0, each, found[side].score)
            )
        return [result for result in results if result is not None]

    def _checked(self, serving: Serving, query: Query) -> _Encoded | ServiceError | None:
        """The error of a query, the code of a stored item, or None for what is to be encoded."""
        try:
            check_query(query, self.limits)
            check_max_distance(query.max_distance, serving.encoder.bits)
            if query.item is not None:
                return self._encode_item(serving, *query.item)
            if query.image is not None:
                check_image(query.image, self.limits)
                _check_side(serving, "image")
            else:
                check_text(query.text, self.limits)
                _check_side(serving, "text")
        except ServiceError as error:
            return error
        return None

    def _answer(self, held: Held, query: Query, encoded: _Encoded, started: float) -> SearchAnswer:
        searching, serving = time.perf_counter(), held.serving
        leave_out = None if query.item is None else query.item[0]
        direction = (encoded.side, query.to)
        digest = query_digest(encoded.code, direction, (query.max_distance, leave_out), query.filter)
        page = self._consistent(held, _Plan(query, encoded, leave_out, digest))
        hits = tuple(_hit(serving, direction, neighbour, item) for neighbour, item in page.found)
        cursor = None
        if page.more:
            cursor = write_search_cursor(serving.encoder.digest, digest, page.found[-1][0])
        timing = Timing(encoded.decode_ms, encoded.encode_ms, _since(searching), _since(started))
        return SearchAnswer(
            hits=hits,
            next_cursor=cursor,
            exact=bool(query.filter) or serving.indexes[query.to].exact,
            model_version=serving.model_label,
            index_generation=serving.generation.id,
            timing=timing,
            suspicion=encoded.suspicion(serving),
        )

    def _consistent(self, held: Held, plan: _Plan) -> _Page:
        """A page whose items are all of the versions that the index holds. Raises `_LeftBehindError`."""
        applied = held.applied
        page = self._page(held.serving, plan)
        if page.newest <= applied:
            return page
        if not self.state.write_lock.acquire(timeout=_WAIT_S):
            return page
        try:
            applied = held.applied
            page = self._page(held.serving, plan)
            if page.newest > applied and not self.state.keeps(held):
                raise _LeftBehindError
        finally:
            self.state.write_lock.release()
        return page

    def _page(self, serving: Serving, plan: _Plan) -> _Page:
        """The hits of one page, as index and catalog have them one after the other."""
        query, encoder = plan.query, serving.encoder
        allow = self.items.matching(query.filter) if query.filter else None
        after = None
        if query.cursor is not None:
            after = read_search_cursor(query.cursor, encoder.digest, plan.digest, encoder.bits)
        found: list[tuple[Neighbour, Item]] = []
        while len(found) <= query.k:
            asked = query.k + 1 - len(found)
            reach = Reach(asked, query.max_distance, after, allow)
            neighbours = serving.indexes[query.to].search(plan.encoded.code, reach)
            items = self.items.get([one.id for one in neighbours if one.id != plan.leave_out])
            found.extend((one, items[one.id]) for one in neighbours if one.id in items)
            if len(neighbours) < asked:
                break
            after = neighbours[-1]
        newest = max((item.seq for _, item in found), default=0)
        return _Page(tuple(found[: query.k]), len(found) > query.k, newest)


def _query_content(query: Query) -> Content:
    image = query.image
    return Content("", None if image is None else lambda: image, query.text)


def _encode_image(serving: Serving, data: bytes, *, score: bool = True) -> _Encoded:
    _check_side(serving, "image")
    started = time.perf_counter()
    image = serving.encoder.decode(data)
    decode_ms = _since(started)
    started = time.perf_counter()
    encoder = serving.encoder
    [found] = encoder.examine_images([image]) if score else without_scores(encoder.encode_images([image]))
    return _Encoded(found.code, "image", decode_ms, _since(started), found.score)


def _encode_text(serving: Serving, text: str, *, score: bool = True) -> _Encoded:
    _check_side(serving, "text")
    started = time.perf_counter()
    encoder = serving.encoder
    [found] = encoder.examine_texts([text]) if score else without_scores(encoder.encode_texts([text]))
    return _Encoded(found.code, "text", 0.0, _since(started), found.score)


def _check_side(serving: Serving, side: Side) -> None:
    if side not in serving.encoder.modalities:
        raise InvalidInput(
            f"the model {serving.model_label} cannot encode {side}s", code="unsupported_modality"
        )


def _encode_answer(serving: Serving, encoded: _Encoded) -> EncodeAnswer:
    return EncodeAnswer(encoded.code.hex(), serving.encoder.bits, serving.model_label)


def _hit(serving: Serving, direction: tuple[Side, Side], neighbour: Neighbour, item: Item) -> SearchHit:
    bits = serving.encoder.bits
    calibration = serving.encoder.calibration
    table = None if calibration is None else calibration.get("-to-".join(direction))
    return SearchHit(
        id=item.id,
        distance=neighbour.distance,
        similarity=1 - neighbour.distance / bits,
        match=None if table is None else table[neighbour.distance],
        text=item.text,
        image_url=None if item.image_digest is None else f"/v1/items/{item.id}/image",
        metadata=item.metadata,
    )


def _since(started: float) -> float:
    """Milliseconds since a reading of `time.perf_counter`."""
    return (time.perf_counter() - started) * 1000
