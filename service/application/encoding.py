"""Turns the contents of items into codes.

Used when items come in, when a worker re-encodes the corpus and when a generation catches up.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

from service.application.errors import InvalidInput, ServiceError, Unavailable
from service.application.ports import BlobStore, CodeArray, Encoder, ItemVersion, NewCode
from service.application.types import Side

Codes: TypeAlias = dict[Side, bytes]


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
    codes: list[Codes] = [{} for _ in contents]
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
    _encode_side("image", encoder.encode_images, images, codes, errors)
    if "text" in encoder.modalities:
        texts = [
            (position, content.text)
            for position, content in enumerate(contents)
            if content.text is not None and position not in errors
        ]
        _encode_side("text", encoder.encode_texts, texts, codes, errors)
    return [errors.get(position, found) for position, found in enumerate(codes)]


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


def _encode_side(
    side: Side,
    encode: Callable[[Sequence[Any]], CodeArray],
    inputs: Sequence[tuple[int, Any]],
    codes: list[Codes],
    errors: dict[int, ServiceError],
) -> None:
    results = _each(encode, [value for _, value in inputs])
    for (position, _), result in zip(inputs, results, strict=True):
        if isinstance(result, ServiceError):
            errors[position] = result
        else:
            codes[position][side] = result


def _each(encode: Callable[[Sequence[Any]], CodeArray], values: Sequence[Any]) -> list[bytes | ServiceError]:
    """Encode together; when that fails, one by one, to know whose fault it is."""
    if not values:
        return []
    try:
        return [row.tobytes() for row in encode(values)]
    except Unavailable:
        raise
    except Exception as error:  # noqa: BLE001 - a model may raise anything; the items after this one count
        if len(values) > 1:
            return [result for value in values for result in _each(encode, [value])]
        if isinstance(error, ServiceError):
            return [error]
        return [InvalidInput(f"the model cannot encode this input: {error!r}", code="not_encodable")]
