"""The oracle's own codes and distances: NumPy, and the artefacts' files through `model.inference`."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from bench.chaos.corpus import read_picture, read_texts
from model.inference import Encoder

_BATCH = 256


class Codes:
    """Codes of all contents under one model; `bits` is their width."""

    def __init__(self, images: NDArray[np.bool_], texts: NDArray[np.bool_], match: Mapping) -> None:
        self.bits = images.shape[1]
        self.match: Mapping[str, tuple[float, ...]] = match
        self._packed = {"image": np.packbits(images, axis=1), "text": np.packbits(texts, axis=1)}

    @classmethod
    def of(cls, artefact: Path, contents: Path) -> Codes:
        """Encode every picture and text of a folder of contents."""
        encoder = Encoder.load(artefact, "cpu")
        texts = read_texts(contents)
        parts = []
        for start in range(0, len(texts), _BATCH):
            numbers = range(start, min(start + _BATCH, len(texts)))
            parts.append(
                encoder.encode_images([encoder.decode(read_picture(contents, one)) for one in numbers])
            )
        return cls(np.concatenate(parts), encoder.encode_texts(texts), encoder.calibration or {})

    def distances(self, side: str, query: int, to: str, contents: NDArray[np.int64]) -> NDArray[np.int64]:
        """Bits (n,) in which the code of a query differs from those of the contents (n,) on the other side.

        For a content of -1 (there is none) it is more than any distance.
        """
        differing = np.bitwise_count(self._packed[to][contents] ^ self._packed[side][query])
        return np.where(contents < 0, self.bits + 1, differing.sum(axis=1, dtype=np.int64))
