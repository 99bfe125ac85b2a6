"""How bodies are read: strict JSON for JSON calls, multipart or raw bytes for calls that take an image."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Iterable, Mapping
from dataclasses import dataclass
from typing import Any, TypeVar

from fastapi.routing import APIRoute
from pydantic import BaseModel, ValidationError
from starlette.requests import Request
from starlette.responses import Response

from service.api import strict_json
from service.api.deps import admit_early
from service.api.errors import FieldError, InvalidFields, WrongContentType, field_errors
from service.api.multipart import read_form

M = TypeVar("M", bound=BaseModel)

MULTIPART = "multipart/form-data"


class StrictJsonRequest(Request):
    """A request whose JSON is read by `service/api/strict_json.py`."""

    async def json(self) -> object:
        """The body's value; cached, as FastAPI asks again."""
        if not hasattr(self, "_strict_value"):
            self._strict_value = strict_json.loads(await self.body())
        return self._strict_value


class StrictJsonRoute(APIRoute):
    """A route whose JSON body, when it takes one, is checked before FastAPI validates it.

    Leave to call comes before that: nobody without a key makes the service read a body.

    Raises `WrongContentType` unless the body is declared as JSON: the check also keeps cross-site forms
    out, which cannot declare it.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        """FastAPI's handler behind the check."""
        handler = super().get_route_handler()
        if self.body_field is None:
            return handler

        async def strict(request: Request) -> Response:
            await admit_early(request, self)
            media_type = declared_type(request)
            if media_type != "application/json" and not media_type.endswith("+json"):
                raise WrongContentType(
                    f"The body must be application/json, not {media_type or 'undeclared'}."
                )
            request = StrictJsonRequest(request.scope, request.receive)
            await request.json()
            return await handler(request)

        return strict


def declared_type(request: Request) -> str:
    """The media type of the body as declared, without parameters, in lower case; empty when undeclared."""
    return request.headers.get("content-type", "").split(";")[0].strip().lower()


@dataclass(frozen=True)
class Upload:
    """What came with a call that takes an image: the image's bytes, and the other fields as texts."""

    image: bytes | None
    fields: Mapping[str, str]
    place: str = "form"

    def values(self, integers: Iterable[str] = (), documents: Iterable[str] = ()) -> dict[str, Any]:
        """The fields with `integers` read as integers and `documents` as JSON where they look like it.

        A text that is no integer stays a text, which a strict schema then refuses in its own words.
        """
        values: dict[str, Any] = dict(self.fields)
        for name in integers:
            text = values.get(name)
            if text is not None and text.lstrip("-").isdecimal() and text.isascii() and len(text) <= 18:
                values[name] = int(text)
        for name in documents:
            if name in values:
                values[name] = strict_json.loads(values[name], self.place, (name,))
        return values


async def read_upload(request: Request, allowed: Iterable[str], raw: bool = False) -> Upload:
    """Read an image and the fields named in `allowed`.

    With `raw`, the body may also be the image itself (`image/*` or `application/octet-stream`), the
    fields then being query parameters.

    Raises:
        WrongContentType: neither of the two.
        InvalidFields: a field of another name, one sent twice, or `image` without a file name.
        BadRequest, TooLarge: as `read_form`.
    """
    media_type = declared_type(request)
    if media_type == MULTIPART:
        form = await read_form(request.stream(), request.headers["content-type"])
        _refuse_unknown([*form.files, *form.fields], [*allowed, "image"], "form")
        if "image" in form.fields:
            raise _fault("form", "image", "not_a_file", "the image must be sent as a file")
        _refuse_unknown(form.files, ["image"], "form", "this field is no file")
        _refuse_unknown(request.query_params, (), "query")
        return Upload(form.files.get("image"), _clean(form.fields, "form"))
    if raw and (media_type.startswith("image/") or media_type == "application/octet-stream"):
        return Upload(await request.body(), query_fields(request, allowed), "query")
    wanted = f"{MULTIPART} or image/*" if raw else MULTIPART
    raise WrongContentType(f"The body must be {wanted}, not {media_type or 'undeclared'}.")


def query_fields(request: Request, allowed: Iterable[str]) -> dict[str, str]:
    """The query parameters; raises `InvalidFields` for unknown names and names that come twice."""
    _refuse_unknown(request.query_params, allowed, "query")
    pairs = request.query_params.multi_items()
    if len(pairs) != len(request.query_params):
        names = [name for name, _ in pairs]
        twice = next(name for name in names if names.count(name) > 1)
        raise _fault("query", twice, "duplicate_field", "this parameter was sent more than once")
    return _clean(dict(pairs), "query")


def validated(model: type[M], values: object, place: str) -> M:
    """`values` as a schema; raises `InvalidFields` with each fault."""
    try:
        return model.model_validate(values)
    except ValidationError as error:
        raise InvalidFields(field_errors(error.errors(include_url=False), place)) from error


def required_image(upload: Upload) -> bytes:
    """The image of an upload; raises `InvalidFields` when there is none."""
    if upload.image is None:
        raise _fault("form", "image", "missing", "Field required")
    return upload.image


def _refuse_unknown(
    names: Iterable[str], allowed: Iterable[str], place: str, detail: str = "this field is not known here"
) -> None:
    known = set(allowed)
    unknown = [name for name in names if name not in known]
    if unknown:
        raise _fault(place, unknown[0], "extra_forbidden", detail)


def _clean(fields: Mapping[str, str], place: str) -> dict[str, str]:
    for name, text in fields.items():
        if "\0" in text:
            raise _fault(place, name, "invalid_text", "the text holds NUL")
    return dict(fields)


def _fault(place: str, name: str, code: str, detail: str) -> InvalidFields:
    pointer = name.replace("~", "~0").replace("/", "~1")
    return InvalidFields([FieldError(place, f"#/{pointer}", code, detail)])
