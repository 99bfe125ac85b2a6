"""What a retraining leaves on disk, so that a killed one goes on where it was and a refused one stays known.

    <home>/retrain/                 one retraining at a time (a lock on this folder)
        <key>/                      of one data set, recipe, defence, code length and name
            models/<name>/<version>/    the candidate, out of the service's sight until it may be served
            twin/<name>/1/              its undefended twin, which the gates want; it is never served
            evaluation/<key>/           its report beside the live model: units, report.json
            decision.json               what was decided, and why; written whole or not at all

The candidate moves to `<home>/models` by one rename, so this folder must be on the same file system.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

from model.artefact import ModelCard, list_models, read_card, verify
from model.artefact_checks import VERSION, read_object
from model.durable import folders, read_file, sync_folder, write_file
from model.errors import ArtefactError, RetrainingError
from model.training.checkpoint import list_checkpoints
from model.training.runs import RUNS, RunFolder

DECISION = "decision.json"
MAX_BYTES = 1_000_000
OUTCOMES = ("refused", "accepted", "served")

Outcome = Literal["refused", "accepted", "served"]


@dataclass(frozen=True)
class Decision:
    """What became of a candidate: refused, accepted (to be published and served), or served.

    model: "name/version". judged: key of the models, attacks and floors that it was judged by. reasons: why
    it was refused.
    """

    outcome: Outcome
    model: str
    digest: str
    judged: str
    reasons: list[str]


def key_of(table: Mapping[str, Any]) -> str:
    """A short name for everything in `table` (plain JSON)."""
    return hashlib.sha256(json.dumps(table, sort_keys=True).encode()).hexdigest()[:16]


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Until the block ends nobody else retrains here; the kernel frees the lock of a process that dies.

    Raises RetrainingError when somebody does, OSError.
    """
    folder.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise RetrainingError(f"another retraining is at work in {folder}") from error
        yield
    finally:
        os.close(descriptor)


def trained(models: Path) -> ModelCard | None:
    """The model in a folder of models, its files compared with its manifest; None before there is one.

    Raises ArtefactError.
    """
    found = list_models(models)
    return verify(found[-1].folder) if found else None


def resumable(models: Path, name: str) -> bool:
    """Whether a training of that name was cut off after a checkpoint."""
    return bool(list_checkpoints(RunFolder(models / RUNS / name).checkpoints))


@dataclass(frozen=True)
class Run:
    """The folder of one retraining."""

    path: Path

    @property
    def models(self) -> Path:
        """Where the candidate is trained."""
        return self.path / "models"

    @property
    def twins(self) -> Path:
        """Where its undefended twin is trained."""
        return self.path / "twin"

    def evaluation(self, judged: str) -> Path:
        """Where it is evaluated."""
        return self.path / "evaluation" / judged

    def clear(self) -> None:
        """Forget it all."""
        shutil.rmtree(self.path, ignore_errors=True)

    def decision(self) -> Decision | None:
        """What was decided; None when nothing was yet. Raises RetrainingError for a damaged file."""
        path = self.path / DECISION
        if not path.exists():
            return None
        try:
            table = read_object(read_file(path, MAX_BYTES), str(path), MAX_BYTES)
            found = Decision(**table)
        except (ArtefactError, TypeError) as error:
            raise RetrainingError(f"{path} is damaged ({error}); remove {self.path} to start anew") from error
        if found.outcome not in OUTCOMES:
            raise RetrainingError(f"{path}: outcome: wanted one of {OUTCOMES}, got {found.outcome!r}")
        return found

    def decide(self, decision: Decision) -> None:
        """Write a decision. Raises OSError."""
        self.path.mkdir(parents=True, exist_ok=True)
        draft = self.path / f".{DECISION}"
        write_file(draft, (json.dumps(asdict(decision), indent=1) + "\n").encode())
        draft.replace(self.path / DECISION)
        sync_folder(self.path)

    def reserve(self, name: str, published: Path) -> None:
        """Make the candidate's version the one after the newest in `published`.

        A version is written into the manifest, and with it into the digest, so it cannot change later. An
        empty folder of the newest version is enough for the next one to be numbered after it.
        """
        taken = max((int(version) for version in folders(published / name, VERSION)), default=0)
        if taken:
            (self.models / name / str(taken)).mkdir(parents=True, exist_ok=True)

    def publish(self, decision: Decision, published: Path) -> Path:
        """Move the accepted candidate to the service's models; its folder there. A second time does nothing.

        Raises RetrainingError when somebody else has written that version meanwhile, ArtefactError, OSError.
        """
        source, target = self.models / decision.model, published / decision.model
        if target.is_dir() and any(target.iterdir()):
            if read_card(target).digest == decision.digest:
                return target
            self.clear()
            raise RetrainingError(
                f"{decision.model} was written by somebody else meanwhile; the next run trains a new version"
            )
        if not source.is_dir():
            self.clear()
            raise RetrainingError(
                f"{decision.model} has vanished since it was accepted; the next run starts anew"
            )
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        sync_folder(target.parent)
        return target
