"""The project's own drawn data set: what `make run` and the tests use on a machine with nothing on it.

It is a starter, not evidence: quality is claimed on real photographs only. Item i of seed s depends on
(s, i) alone, so a longer set begins with the shorter one, and the same arguments give the same bytes.
"""

import io
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from model.data.drawing import SIZE, draw
from model.data.folders import ManifestWriter, new_folder, write_json
from model.data.lines import Fields
from model.data.manifest import Progress, split_of
from model.data.scenes import draw_scene
from model.errors import DataError

MAX_PAIRS = 10_000_000
MAX_SEED = 2**63 - 1
JPEG_QUALITY = 90
FORMAT = 1
"""Raised whenever the same seed draws something else than before."""


@dataclass(frozen=True)
class Drawn:
    """One item of the sample set and its JPEG."""

    fields: Fields
    jpeg: bytes


def draw_pair(seed: int, index: int) -> Drawn:
    """Item `index` of the set with this seed."""
    rng = np.random.default_rng([seed, index])
    scene = draw_scene(rng)
    item_id = f"scene-{seed}-{index:06d}"
    buffer = io.BytesIO()
    draw(scene, rng).save(buffer, "JPEG", quality=JPEG_QUALITY)
    fields = Fields(
        item_id,
        image=f"images/{item_id}.jpg",
        texts=scene.captions(rng),
        labels=scene.labels(),
        split=split_of(item_id),
        metadata={"ground": scene.ground, "objects": sum(group.count for group in scene.groups)},
    )
    return Drawn(fields, buffer.getvalue())


def write_sample(out: Path, pairs: int, seed: int, progress: Progress | None = None) -> None:
    """Draw `pairs` items into a new manifest folder; `sample.json` beside them records the arguments.

    Raises DataError when `out` holds anything already, cannot be written, or a number is out of range.
    """
    if not 1 <= pairs <= MAX_PAIRS:
        raise DataError(f"wanted 1 to {MAX_PAIRS} pairs, got {pairs}")
    if not 0 <= seed <= MAX_SEED:
        raise DataError(f"wanted a seed from 0 to {MAX_SEED}, got {seed}")
    with new_folder(out) as folder, ManifestWriter(folder) as writer:
        for index in range(pairs):
            drawn = draw_pair(seed, index)
            writer.write_image(drawn.fields.id, ".jpg", drawn.jpeg)
            writer.write(drawn.fields)
            if progress:
                progress(index + 1, pairs)
        write_json(folder / "sample.json", {"format": FORMAT, "pairs": pairs, "seed": seed, "size": SIZE})
