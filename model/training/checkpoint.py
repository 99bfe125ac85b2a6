"""Checkpoints: everything a run needs to go on bit for bit, written so that a kill never hurts.

A run's checkpoints lie in one folder, one sub-folder each, named by the step:

    step-0000000140/
        weights.safetensors    every tensor of the hasher, its average, the best so far, the defence
        optimisers.pt          optimiser states, read with ``weights_only=True`` (no code is ever unpickled)
        state.json             counters, history, what the run is, SHA-256 of the two files; written last

A new one is written beside its place, flushed to disk and renamed; then all but the newest two go. There
is no generator state in it: randomness follows from counters (model/training/randomness.py).
"""

import hashlib
import io
import json
import shutil
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from safetensors import SafetensorError
from torch import Tensor

from model.durable import sync_folder, write_file
from model.errors import CheckpointError

FORMAT = 1
KEPT = 2
WEIGHTS, OPTIMISERS, STATE = "weights.safetensors", "optimisers.pt", "state.json"


@dataclass(frozen=True)
class Identity:
    """What a checkpoint belongs to: it is continued under exactly this, or not at all."""

    recipe: dict[str, Any]
    data: str
    bits: int
    defence: str


@dataclass(frozen=True)
class Snapshot:
    """A run's state between two steps.

    tensors: by owner ("hasher", "average", "best", "defence", ...), each a state dict.
    optimisers: state dicts by group. counters: plain JSON (step, sums of the epoch so far, history, ...).
    """

    tensors: dict[str, dict[str, Tensor]]
    optimisers: dict[str, dict[str, Any]]
    counters: dict[str, Any] = field(default_factory=dict)


def list_checkpoints(folder: Path) -> list[Path]:
    """The checkpoints in a folder, oldest first."""
    return sorted(path for path in folder.glob("step-*") if path.is_dir())


def save_checkpoint(folder: Path, snapshot: Snapshot, identity: Identity) -> Path:
    """Write a checkpoint, then delete all but the newest two.

    Raises:
        CheckpointError: the disk refuses; what was there before is left as it was.

    """
    target = folder / f"step-{snapshot.counters['step']:010d}"
    temporary = folder / f".{target.name}.partial"
    flat = {f"{owner}/{name}": t for owner, part in snapshot.tensors.items() for name, t in part.items()}
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        buffer = io.BytesIO()
        torch.save(snapshot.optimisers, buffer)
        plain = {name: t.detach().cpu().contiguous() for name, t in flat.items()}
        files = {WEIGHTS: safetensors.torch.save(plain), OPTIMISERS: buffer.getvalue()}
        for name, content in files.items():
            write_file(temporary / name, content)
        state = {
            "format": FORMAT,
            "identity": asdict(identity),
            "counters": snapshot.counters,
            "files": {name: hashlib.sha256(content).hexdigest() for name, content in files.items()},
        }
        write_file(temporary / STATE, json.dumps(state, indent=1).encode())
        shutil.rmtree(target, ignore_errors=True)
        temporary.replace(target)
        sync_folder(folder)
        for old in list_checkpoints(folder)[:-KEPT]:
            shutil.rmtree(old)
    except OSError as error:
        shutil.rmtree(temporary, ignore_errors=True)
        kept = ", ".join(path.name for path in list_checkpoints(folder)) or "none"
        raise CheckpointError(
            f"cannot write checkpoint {target.name} in {folder}: {error.strerror or error}; "
            f"still there to continue from: {kept}"
        ) from error
    return target


def load_checkpoint(folder: Path, identity: Identity, *, previous: bool = False) -> Snapshot:
    """The newest checkpoint of a folder, or with ``previous`` the one before it.

    Raises:
        CheckpointError: there is none, it is damaged, or it belongs to another recipe, data, code length
            or defence. A damaged one is never skipped silently: the message says what can be done.

    """
    found = list_checkpoints(folder)
    wanted = 2 if previous else 1
    if len(found) < wanted:
        raise CheckpointError(
            f"nothing to continue from: wanted {wanted} checkpoint(s) in {folder}, found {len(found)}"
        )
    chosen = found[-wanted]
    try:
        state, files = _read(chosen)
        tensors: dict[str, dict[str, Tensor]] = {}
        for name, tensor in safetensors.torch.load(files[WEIGHTS]).items():
            owner, _, key = name.partition("/")
            tensors.setdefault(owner, {})[key] = tensor
        optimisers = torch.load(io.BytesIO(files[OPTIMISERS]), weights_only=True)
        mismatch = _difference(state["identity"], identity)
        counters = state["counters"]
    except (OSError, ValueError, KeyError, TypeError, SafetensorError, RuntimeError) as error:
        raise CheckpointError(
            f"checkpoint {chosen} is damaged: {error}. {_way_out(found, previous)}"
        ) from error
    if mismatch:
        raise CheckpointError(f"checkpoint {chosen} belongs to another run: {mismatch}")
    return Snapshot(tensors, optimisers, counters)


def _read(checkpoint: Path) -> tuple[dict[str, Any], dict[str, bytes]]:
    """State and verified file contents; ValueError or OSError when anything is off."""
    state = json.loads((checkpoint / STATE).read_text("utf-8"))
    if not isinstance(state, dict) or state.get("format") != FORMAT:
        raise ValueError(f"{STATE}: wanted format {FORMAT}, got {str(state)[:80]}")
    files = {}
    for name in (WEIGHTS, OPTIMISERS):
        files[name] = (checkpoint / name).read_bytes()
        found = hashlib.sha256(files[name]).hexdigest()
        if found != state["files"][name]:
            raise ValueError(f"{name}: wanted SHA-256 {state['files'][name]}, got {found}")
    return state, files


def _way_out(found: list[Path], previous: bool) -> str:
    """What a user with a damaged checkpoint can do."""
    if not previous and len(found) >= 2:
        return f"The one before it, {found[-2].name}, is used with --resume --previous"
    return "There is no earlier one; train again without --resume"


def _difference(stored: Mapping[str, Any], identity: Identity) -> str:
    """What differs between a checkpoint's identity and ours, or the empty string."""
    before, now = _leaves(stored), _leaves(asdict(identity))
    return "; ".join(
        f"{key} was {before.get(key)!r}, now {now.get(key)!r}"
        for key in sorted(before.keys() | now.keys())
        if before.get(key) != now.get(key)
    )


def _leaves(value: object, prefix: str = "") -> dict[str, Any]:
    """Nested tables as {dotted key: value}."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, each in value.items():
        found |= _leaves(each, f"{prefix}.{key}" if prefix else str(key))
    return found
