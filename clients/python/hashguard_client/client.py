"""The calls of a hashguard service as methods; each returns the JSON object that the service answered."""

from __future__ import annotations

import base64
import json
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from hashguard_client.errors import NoPredecessor, ServiceProblem, UnexpectedAnswer
from hashguard_client.retries import Retries

Json = dict[str, Any]

ENDED = frozenset({"done", "failed", "cancelled"})
"""Phases in which a job stays."""


class Client:
    """A connection pool to one service; use it as a context manager, or call `close`.

    `options` of the searches are `k`, `max_distance`, `filter` and `cursor`, as the interface has them.
    """

    def __init__(
        self,
        url: str = "http://127.0.0.1:8000",
        *,
        api_key: str | None = None,
        timeout_s: float = 30.0,
        retries: Retries | None = None,
        transport: httpx.BaseTransport | None = None,
    ) -> None:
        """`api_key` goes with every call as a bearer token; `transport` replaces the network (tests).

        Raises ValueError, without a word of the key, when it cannot be sent in a header.
        """
        headers = {} if api_key is None else {"Authorization": f"Bearer {_sendable(api_key)}"}
        self._http = httpx.Client(base_url=url, timeout=timeout_s, headers=headers, transport=transport)
        self._retries = retries or Retries()

    def __enter__(self) -> Client:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connections."""
        self._http.close()

    def text_to_image(self, text: str, **options: object) -> Json:
        """Images for a text."""
        return self._json("POST", "/v1/search/text-to-image", json={"text": text, **options})

    def text_to_text(self, text: str, **options: object) -> Json:
        """Texts for a text."""
        return self._json("POST", "/v1/search/text-to-text", json={"text": text, **options})

    def image_to_text(self, image: bytes, **options: object) -> Json:
        """Texts for an image."""
        return self._json("POST", "/v1/search/image-to-text", **_form(image, options))

    def image_to_image(self, image: bytes, **options: object) -> Json:
        """Images for an image."""
        return self._json("POST", "/v1/search/image-to-image", **_form(image, options))

    def like_item(self, item_id: str, from_: str, to: str, **options: object) -> Json:
        """Hits on the side `to` ("image" or "text") that are like the side `from_` of an item."""
        body = {"id": item_id, "from": from_, "to": to, **options}
        return self._json("POST", "/v1/search/item", json=body)

    def search_batch(self, queries: Sequence[Mapping[str, Any]]) -> list[Json]:
        """One entry (`status`, `answer` or `problem`) for each query; `image` may be bytes."""
        body = {"queries": [_with_base64(query) for query in queries]}
        return list(self._json("POST", "/v1/search/batch", json=body)["results"])

    def encode_text(self, text: str) -> Json:
        """The binary code of a text."""
        return self._json("POST", "/v1/encode/text", json={"text": text})

    def encode_image(self, image: bytes) -> Json:
        """The binary code of an image."""
        return self._json("POST", "/v1/encode/image", **_form(image, {}))

    def put_item(
        self,
        item_id: str,
        *,
        image: bytes | None = None,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Json:
        """Create or replace an item; it can be found as soon as this returns."""
        return self._json("PUT", _item(item_id), **_form(image, {"text": text, "metadata": metadata}))

    def create_item(
        self,
        *,
        image: bytes | None = None,
        text: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> Json:
        """Store an item under an id that the service makes up."""
        form = _form(image, {"text": text, "metadata": metadata})
        return self._json("POST", "/v1/items", idempotent=False, **form)

    def put_items(self, items: Sequence[Mapping[str, Any]]) -> list[Json]:
        """One entry (`id`, `status`, `problem`) for each item; `image` may be bytes."""
        named = [{"id": uuid.uuid4().hex} | _with_base64(item) for item in items]
        return list(self._json("POST", "/v1/items/batch", json={"items": named})["results"])

    def item(self, item_id: str) -> Json:
        """One item."""
        return self._json("GET", _item(item_id))

    def items(self, page_size: int = 100) -> Iterator[Json]:
        """All items in the order of their ids, fetched page by page."""
        cursor: str | None = None
        while True:
            params = {"limit": page_size} | ({"cursor": cursor} if cursor else {})
            page = self._json("GET", "/v1/items", params=params)
            yield from page["items"]
            cursor = page["next_cursor"]
            if cursor is None:
                return

    def image(self, item_id: str, size: int | None = None) -> bytes:
        """The image of an item, or a thumbnail whose sides are at most `size` pixels."""
        params = {"size": size} if size is not None else {}
        return self._send("GET", f"{_item(item_id)}/image", params=params).content

    def delete_item(self, item_id: str) -> None:
        """Delete an item; raises `ServiceProblem` (404) when it is not there."""
        self._send("DELETE", _item(item_id))

    def reindex(
        self,
        model: str = "latest",
        *,
        activate: bool = True,
        quality_floor: float | None = None,
        key: str | None = None,
    ) -> Json:
        """Start a reindex; the job. The same `key` (with the same request) gives the same job.

        `quality_floor`: how much lower than the live model's mAP the new one's may be, 0 to 1; None for what
        the service is set to.
        """
        headers = {"Idempotency-Key": key or uuid.uuid4().hex}
        floor = {} if quality_floor is None else {"quality_floor": quality_floor}
        body = {"model": model, "activate": activate, **floor}
        return self._json("POST", "/v1/admin/reindex", json=body, headers=headers)

    def job(self, job_id: str) -> Json:
        """One job."""
        return self._json("GET", _job(job_id))

    def jobs(self, limit: int = 100) -> list[Json]:
        """Jobs, newest first."""
        return list(self._json("GET", "/v1/admin/jobs", params={"limit": limit})["jobs"])

    def cancel_job(self, job_id: str) -> Json:
        """Ask a job to stop; the job. One that has ended stays what it is."""
        return self._json("DELETE", _job(job_id))

    def wait_for_job(self, job_id: str, timeout_s: float = 3600.0, every_s: float = 0.5) -> Json:
        """The job when it has ended, whether `done`, `failed` or `cancelled`.

        Raises TimeoutError when it has not within `timeout_s`; the job goes on.
        """
        until = time.monotonic() + timeout_s
        while (job := self.job(job_id))["phase"] not in ENDED:
            if time.monotonic() >= until:
                raise TimeoutError(f"job {job_id} has not ended within {timeout_s:g} s: it is {job['phase']}")
            time.sleep(every_s)
        return job

    def generations(self) -> list[Json]:
        """The kept index generations, newest first; one is `live`, one may be its `predecessor`."""
        return list(self._json("GET", "/v1/admin/generations")["generations"])

    def activate(self, generation_id: str) -> Json:
        """Serve a kept generation.

        The predecessor is served when this returns, and the answer is the generation (with `live`). An older
        one has to catch up first: the answer is the job (with `phase`) that does so and then serves it.
        """
        path = f"/v1/admin/generations/{quote(generation_id, safe='')}/activate"
        return self._json("POST", path)

    def roll_back(self) -> Json:
        """Serve the predecessor again, which takes an instant and loses no write; the generation.

        What was live becomes the predecessor, so the same call leads forward again. Raises `NoPredecessor`
        when none is kept.
        """
        kept = self.generations()
        found = next((one["id"] for one in kept if one["predecessor"]), None)
        if found is None:
            raise NoPredecessor(f"none of the {len(kept)} kept generations was live before the live one")
        return self.activate(found)

    def ready(self) -> Json:
        """Whether the service can answer; not tried again, since "no" is an answer."""
        response = self._http.get("/readyz")
        return _object(response)

    def _json(self, method: str, path: str, **request: Any) -> Json:  # noqa: ANN401 - httpx' own
        return _object(self._send(method, path, **request))

    def _send(
        self,
        method: str,
        path: str,
        *,
        idempotent: bool = True,
        **request: Any,  # noqa: ANN401 - httpx' own
    ) -> httpx.Response:
        response = self._retries.send(lambda: self._http.request(method, path, **request), idempotent)
        if response.is_error:
            raise ServiceProblem(response.status_code, _object(response))
        return response


def _sendable(api_key: str) -> str:
    """The key without the white space around it that files and terminals leave."""
    bare = api_key.strip()
    if not bare or not all("!" <= character <= "~" for character in bare):
        raise ValueError("api_key must be visible ASCII characters; it is empty or holds others")
    return bare


def _object(response: httpx.Response) -> Json:
    try:
        document = response.json()
    except ValueError:
        document = None
    if not isinstance(document, dict):
        kind = response.headers.get("Content-Type", "nothing")
        raise UnexpectedAnswer(
            f"{response.url} answered {response.status_code} with {kind}, not a JSON object"
        )
    return document


def _job(job_id: str) -> str:
    return f"/v1/admin/jobs/{quote(job_id, safe='')}"


def _item(item_id: str) -> str:
    return f"/v1/items/{quote(item_id, safe='')}"


def _form(image: bytes | None, fields: Mapping[str, Any]) -> dict[str, Any]:
    """A multipart form: texts as they are, everything else as JSON, what is None left out."""
    files: list[tuple[str, tuple[str | None, str | bytes]]] = []
    if image is not None:
        files.append(("image", ("image", image)))
    for name, value in fields.items():
        if value is not None:
            files.append((name, (None, value if isinstance(value, str) else json.dumps(value))))
    return {"files": files}


def _with_base64(entry: Mapping[str, Any]) -> Json:
    image = entry.get("image")
    if not isinstance(image, bytes):
        return dict(entry)
    return {**entry, "image": base64.b64encode(image).decode("ascii")}
