"""The folder of a run: what must outlive the process, apart from the finished artefact.

    MODELS/.runs/<name>/
        hasher.json      resolved architecture and the codec's two numbers: rebuilt from these, never the hub
        tokenizer.json   only with a text tower
        checkpoints/     model/training/checkpoint.py; gone once the artefact is written
        logs/            TensorBoard

The leading dot keeps it out of the listing of models.
"""

import json
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from model.data.text import TextCodec, read_codec
from model.errors import CheckpointError, DataError
from model.hashers.create import Created
from model.hashers.registry import build_hasher
from model.training.checkpoint import list_checkpoints

RUNS = ".runs"
HASHER, TOKENIZER = "hasher.json", "tokenizer.json"


@dataclass(frozen=True)
class RunFolder:
    """Paths of one run."""

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Where checkpoints go."""
        return self.path / "checkpoints"

    @property
    def logs(self) -> Path:
        """Where TensorBoard's files go."""
        return self.path / "logs"

    def begin(self, created: Created) -> Path | None:
        """Make the folder for a new run; an unfinished one of that name is moved aside and its place told.

        Raises:
            CheckpointError: the disk refuses.

        """
        moved = None
        try:
            if list_checkpoints(self.checkpoints):
                moved = self.path.with_name(f"{self.path.name}.previous")
                shutil.rmtree(moved, ignore_errors=True)
                self.path.replace(moved)
            self.path.mkdir(parents=True, exist_ok=True)
            numbers: dict[str, Any] = {"architecture": created.architecture}
            (self.path / TOKENIZER).unlink(missing_ok=True)
            if created.codec is not None:
                numbers |= {"max_length": created.codec.max_length, "padding_id": created.codec.padding_id}
                (self.path / TOKENIZER).write_text(created.codec.to_json(), "utf-8")
            (self.path / HASHER).write_text(json.dumps(numbers, indent=1), "utf-8")
        except OSError as error:
            raise CheckpointError(f"cannot write the run's folder {self.path}: {error.strerror}") from error
        return moved

    def recreate(self, bits: int) -> Created:
        """The run's hasher with fresh weights (a checkpoint will fill them) and its codec.

        Raises:
            CheckpointError: the folder holds no run, or is damaged.

        """
        try:
            numbers = json.loads((self.path / HASHER).read_text("utf-8"))
            architecture: dict[str, Any] = numbers["architecture"]
            codec: TextCodec | None = None
            if "max_length" in numbers:
                text = (self.path / TOKENIZER).read_text("utf-8")
                codec = read_codec(text, numbers["max_length"], numbers["padding_id"])
        except FileNotFoundError as error:
            raise CheckpointError(
                f"nothing to continue from in {self.path}: no {Path(error.filename).name}; "
                "train without --resume"
            ) from error
        except (OSError, ValueError, KeyError, TypeError, DataError) as error:
            raise CheckpointError(f"the run in {self.path} is damaged: {error}") from error
        return Created(build_hasher(architecture, bits), architecture, codec)

    def finish(self) -> None:
        """Drop the checkpoints of a run whose artefact is written; the log stays."""
        shutil.rmtree(self.checkpoints, ignore_errors=True)
