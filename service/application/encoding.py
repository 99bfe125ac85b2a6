"""Turns the contents of items into codes.

Used when items come in, when a worker re-encodes the corpus and when a generation catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias, TypeVar

from service.application.errors import InvalidInput, ServiceError, Unavailable
from service.application.ports import BlobStore, CodeArray, Encoder, ItemVersion, NewCode
from service.application.types import Examined, Side

Codes: TypeAlias = dict[Side, bytes]
R = TypeVar("R")


@dataclass(frozen=True)
class Content:
    """What of an item is to be encoded; the image's bytes are fetched when their turn comes."""

    id: str
    image: Callable[[], bytes] | None = None
    text: str | None = None


def encode_contents(encoder: Encoder, contents: Sequence[Content]) -> list[Codes | ServiceError]:
    """The codes of each item on the sides that it has and the model knows, or why it cannot be encoded.

    Raises `Unavailable` when the model cannot work at all now: that is not the items' fault.
    """
    return _work(
        encoder,
        contents,
        {
            "image": lambda images: [code.tobytes() for code in encoder.encode_images(images)],
            "text": lambda texts: [code.tobytes() for code in encoder.encode_texts(texts)],
        },
    )


def examine_contents(
    encoder: Encoder, contents: Sequence[Content]
) -> list[dict[Side, Examined] | ServiceError]:
    """As `encode_contents`, with attack scores where the model has them: for queries."""
    return _work(encoder, contents, {"image": encoder.examine_images, "text": encoder.examine_texts})


def without_scores(codes: CodeArray) -> list[Examined]:
    """Packed codes (n, bits / 8) of inputs whose attack score nobody asked for."""
    return [Examined(code.tobytes()) for code in codes]


def _work(
    encoder: Encoder,
    contents: Sequence[Content],
    calls: Mapping[Side, Callable[[Sequence[Any]], list[R]]],
) -> list[dict[Side, R] | ServiceError]:
    results: list[dict[Side, R]] = [{} for _ in contents]
    errors: dict[int, ServiceError] = {}
    images: list[tuple[int, Any]] = []
    for position, content in enumerate(contents):
        if content.image is not None and "image" in encoder.modalities:
            try:
                images.append((position, encoder.decode(content.image())))
            except Unavailable:
                raise
            except ServiceError as error:
                errors[position] = error
    _work_on("image", calls, images, results, errors)
    if "text" in encoder.modalities:
        texts = [
            (position, content.text)
            for position, content in enumerate(contents)
            if content.text is not None and position not in errors
        ]
        _work_on("text", calls, texts, results, errors)
    return [errors.get(position, found) for position, found in enumerate(results)]


def encode_versions(
    encoder: Encoder, blobs: BlobStore, versions: Sequence[ItemVersion]
) -> tuple[list[NewCode], dict[str, ServiceError]]:
    """The codes that these item versions lack, and the items that cannot be encoded, by id."""
    contents = [_missing(version, blobs) for version in versions]
    codes: list[NewCode] = []
    failures: dict[str, ServiceError] = {}
    for version, result in zip(versions, encode_contents(encoder, contents), strict=True):
        if isinstance(result, ServiceError):
            failures[version.id] = result
        else:
            codes.extend(NewCode(version.id, version.seq, side, code) for side, code in result.items())
    return codes, failures


def lacks_codes(version: ItemVersion, sides: frozenset[str]) -> bool:
    """True when the version has content on one of `sides` without a code."""
    return ("image" in sides and version.image_digest is not None and "image" not in version.codes) or (
        "text" in sides and version.text is not None and "text" not in version.codes
    )


def _missing(version: ItemVersion, blobs: BlobStore) -> Content:
    digest = version.image_digest if "image" not in version.codes else None
    return Content(
        version.id,
        image=None if digest is None else lambda: blobs.read(digest),
        text=version.text if "text" not in version.codes else None,
    )


def _work_on(
    side: Side,
    calls: Mapping[Side, Callable[[Sequence[Any]], list[R]]],
    inputs: Sequence[tuple[int, Any]],
    results: list[dict[Side, R]],
    errors: dict[int, ServiceError],
) -> None:
    made = _each(calls[side], [value for _, value in inputs])
    for (position, _), result in zip(inputs, made, strict=True):
        if isinstance(result, ServiceError):
            errors[position] = result
        else:
            results[position][side] = result


def _each(call: Callable[[Sequence[Any]], list[R]], values: Sequence[Any]) -> list[R | ServiceError]:
    """All together; when that fails, one by one, to know whose fault it is."""
    if not values:
        return []
    try:
        return [*call(values)]
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the items after this one count
        if len(values) > 1:
            return [result for value in values for result in _each(call, [value])]
        if isinstance(error, ServiceError):
            return [error]
        return [InvalidInput(f"the model cannot encode this input: {error!r}", code="not_encodable")]
