"""A search that the service asks itself, to warm a model and to know that it can answer."""

from __future__ import annotations

import base64

from service.application.ports import Reach
from service.application.serving import Serving

_TEXT = "a canary"
# A grey PNG of 8 x 8 pixels.
_PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAgAAAAICAAAAADhZOFXAAAADklEQVR42mNogAIGyhgAgIQgARDoahcAAAAASUVORK5CYII="
)


def ask_canary(serving: Serving) -> None:
    """Encode an input on each side that the model has and search with its code on both sides.

    Raises whatever the model, the index or the batching raises.
    """
    codes = []
    if "image" in serving.encoder.modalities:
        codes.append(serving.encoder.encode_images([serving.encoder.decode(_PNG)]))
    if "text" in serving.encoder.modalities:
        codes.append(serving.encoder.encode_texts([_TEXT]))
    for code in codes:
        for index in serving.indexes.values():
            index.search(code[0].tobytes(), Reach(k=1))
