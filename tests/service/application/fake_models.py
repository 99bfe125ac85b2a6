"""A small deterministic model for tests: it implements the port `Encoder`, without torch and training.

Texts and images become points by hashed words and by mean colours over a grid; codes are the signs of a
random projection that depends on the model's version. A picture of one colour and the word for that colour
get the same point, so the fake is a (tiny) cross-modal model. `python fake_models.py JOB_ID` is a reindex
worker with these models.
"""

from __future__ import annotations

import hashlib
import io
import json
import sys
import time
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

from service.application.errors import InvalidInput, NotFound, Unavailable, UnsupportedMedia
from service.application.ports import ItemRecord, ModelRef
from service.application.types import Examined, Item
from service.catalog_wiring import utc_now
from service.worker import main

COLOURS = {"red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "grey": (128, 128, 128)}
BITS = 64
DIMENSIONS = 192


class FakeEncoder:
    """`scored`: None while attack scores are off, else the sides that have one (maybe none).

    A `blind` model makes of each picture a code that has nothing to do with what is on it.
    """

    def __init__(
        self,
        version="1",
        *,
        name="fake",
        modalities=("image", "text"),
        slow_s=0.0,
        bits=BITS,
        scored=None,
        blind=False,
    ):
        self.blind = blind
        self.bits = bits
        self.model_name = name
        self.model_version = version
        self.digest = hashlib.sha256(f"{name}/{version}".encode()).hexdigest()
        self.preprocessing_digest = hashlib.sha256(b"preprocessing").hexdigest()
        self.modalities = frozenset(modalities)
        curve = tuple(1 - distance / bits for distance in range(bits + 1))
        self.calibration = {"image-to-text": curve, "text-to-image": curve}
        self.score_thresholds = None if scored is None else {side: {0.01: 2.0, 0.05: 0.9} for side in scored}
        self.slow_s = slow_s
        self.batches = []
        seed = int.from_bytes(hashlib.sha256(self.digest.encode()).digest()[:4])
        self._projection = np.random.default_rng(seed).standard_normal((DIMENSIONS, bits))

    def decode(self, data):
        if not data:
            raise InvalidInput("the image has no bytes", code="empty_file")
        try:
            with Image.open(io.BytesIO(data), formats=["JPEG", "PNG", "WEBP"]) as image:
                return np.asarray(image.convert("RGB").resize((8, 8)))
        except UnidentifiedImageError as error:
            raise UnsupportedMedia("not a JPEG, PNG or WebP image") from error
        except OSError as error:
            raise InvalidInput(f"broken image: {error}", code="broken_image") from error

    def encode_images(self, images):
        if self.blind:
            seeds = [int.from_bytes(hashlib.sha256(image.tobytes()).digest()[:4]) for image in images]
            return self._codes([np.random.default_rng(seed).standard_normal(DIMENSIONS) for seed in seeds])
        return self._codes([image.reshape(-1).astype(float) / 255 - 0.3 for image in images])

    def encode_texts(self, texts):
        return self._codes([_text_point(text) for text in texts])

    def examine_images(self, images):
        """A picture's score is its brightest value: 1 for a colour, 0.5 for grey."""
        scores = [image.max() / 255 for image in images]
        return self._examined("image", self.encode_images(images), scores)

    def examine_texts(self, texts):
        """A text's score is the number of its exclamation marks."""
        return self._examined("text", self.encode_texts(texts), [text.count("!") for text in texts])

    def _examined(self, side, codes, scores):
        there = side in (self.score_thresholds or {})
        return [
            Examined(code.tobytes(), float(score) if there else None)
            for code, score in zip(codes, scores, strict=True)
        ]

    def _codes(self, points):
        self.batches.append(len(points))
        if self.slow_s:
            time.sleep(self.slow_s)
        return np.packbits(np.stack(points) @ self._projection >= 0, axis=1)


def _text_point(text):
    point = np.zeros(DIMENSIONS)
    for word in text.lower().split():
        if word == "crash":
            raise RuntimeError("this word crashes the model")
        if word in COLOURS:
            point += np.tile(np.array(COLOURS[word]) / 255 - 0.3, DIMENSIONS // 3)
        else:
            seed = int.from_bytes(hashlib.sha256(word.encode()).digest()[:4])
            point += 0.05 * np.random.default_rng(seed).standard_normal(DIMENSIONS)
    return point


class FakeShelf:
    """Models listed in `fake.json` of a folder: {"name/version": options of FakeEncoder}."""

    def __init__(self, folder: Path):
        self.path = folder / "fake.json"

    def publish(self, version="1", *, name="fake", **options):
        self.path.parent.mkdir(parents=True, exist_ok=True)
        listed = self._listed() | {f"{name}/{version}": options}
        self.path.write_text(json.dumps(listed))

    def refs(self):
        return [
            ModelRef(e.model_name, e.model_version, e.digest, e.model_version, e.bits, e.preprocessing_digest)
            for e in map(self._encoder, self._listed())
        ]

    def card(self, name, version):
        if f"{name}/{version}" not in self._listed():
            raise NotFound(f"there is no model {name}/{version}", code="model_not_found")
        return {"name": name, "version": version}

    def load(self, name, version):
        options = self._listed().get(f"{name}/{version}")
        if options is None:
            raise NotFound(f"there is no model {name}/{version}", code="model_not_found")
        if options.get("damaged"):
            raise Unavailable("the model is damaged", code="model_damaged")
        return self._encoder(f"{name}/{version}")

    def _listed(self):
        return json.loads(self.path.read_text()) if self.path.exists() else {}

    def _encoder(self, label):
        name, version = label.split("/")
        options = {key: value for key, value in self._listed()[label].items() if key != "damaged"}
        return FakeEncoder(version, name=name, **options)


def picture(colour, size=16, kind="PNG"):
    """Bytes of a picture of one colour: a name of COLOURS or (r, g, b)."""
    out = io.BytesIO()
    Image.new("RGB", (size, size), COLOURS.get(colour, colour)).save(out, kind)
    return out.getvalue()


def put_text(parts, item_id, text="text"):
    """An item without codes, straight into the catalog."""
    item = Item(item_id, None, None, text, {}, utc_now(), utc_now())
    parts.catalog.items.put([ItemRecord(item, {}, "0" * 64)], lambda: None)


if __name__ == "__main__":
    sys.exit(main(make_shelf=lambda settings: FakeShelf(settings.models_folder)))
