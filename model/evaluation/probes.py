"""Probes: what is found out about a model by running it, not by attacking it. `run_probes` returns the facts.

They ask whether the model that is attacked, the one that is scored and the one that is served are the same
function, whether it runs an optimisation when it should only look, and whether the data are kept apart. The
probes report, the gates (gates_conduct.py) judge.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from model.attacks.victims import frozen
from model.evaluation.evidence import ModelEvidence
from model.evaluation.probes_data import file_budgets, overlaps, text_limits
from model.evaluation.probes_served import database_again, served
from model.inference import MARGIN

PROBED = 64
"""Clean queries that a probe looks at."""


def run_probes(evidence: ModelEvidence) -> dict[str, Any]:
    """Every fact of one model, as plain JSON. Leaves the model as it was (parameters, modes, `.grad`).

    forward, gradients_inside: by side. served, database: codes of what a client sends, against the scored
    ones. disjoint: overlaps of the splits. files, texts: budgets and limits of what was kept, seen again.
    """
    full_precision: AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=True, deterministic=True, allow_tf32=False, fp32_precision="ieee"
    )
    with frozen(evidence.subject.hasher), full_precision:
        inputs = _inputs(evidence)
        return {
            "forward": {side: _forward(tower, x) for side, tower, x in inputs},
            "gradients_inside": {side: _gradients_inside(tower, x) for side, tower, x in inputs},
            "served": served(evidence),
            "database": database_again(evidence),
            "disjoint": overlaps(evidence),
            "files": file_budgets(evidence),
            "texts": text_limits(evidence),
        }


class Watch(TorchDispatchMode):
    """Notes operators of a backward pass, and whether any runs with gradients switched on, inside it."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.backward: set[str] = set()
        self.recording = False

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: Iterable[object],
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> object:
        """Take the operator's name and run it."""
        if "backward" in str(func):
            self.backward.add(str(func))
        self.recording = self.recording or torch.is_grad_enabled()
        return func(*args, **(kwargs or {}))


def _inputs(evidence: ModelEvidence) -> list[tuple[str, nn.Module, Tensor]]:
    """(side, tower, input) for each side, of the first clean queries."""
    subject, records = evidence.subject, evidence.queries[:PROBED]
    found: list[tuple[str, nn.Module, Tensor]] = []
    if "image" in evidence.modalities:
        found.append(("image", subject.hasher.image_tower(), subject.images(records)))
    if "text" in evidence.modalities:
        tokens = subject.text_codec().encode([record.texts[0] for record in records])
        found.append(("text", subject.hasher.text_tower(), tokens.to(subject.device)))
    return found


def _forward(tower: nn.Module, x: Tensor) -> dict[str, Any]:
    """How far runs of one input lie apart, relative to a row's largest logit (or 1).

    The same twice; as an attacker runs it, recording gradients; as the service runs it; each row alone.
    A model that notices which of them it is in could show each another face.
    """
    with torch.no_grad():
        first, again = tower(x), tower(x)
        alone = torch.cat([tower(x[row : row + 1]) for row in range(len(x))])
    with torch.enable_grad():
        watched = tower(x.clone().requires_grad_(x.is_floating_point())).detach()
    runs = {"again": again, "recording": watched, "alone": alone, "serving": _attempt(tower, x)}
    apart = {name: run if isinstance(run, str) else _gap(run, first) for name, run in runs.items()}
    return {"apart": apart, "inputs": len(x), "limit": MARGIN}


def _attempt(run: Callable[[Tensor], Tensor], x: Tensor) -> Tensor | str:
    """Logits in inference mode, or what torch says against it: some things cannot run there."""
    with torch.inference_mode():
        try:
            return run(x.clone())
        except RuntimeError as error:
            return f"raised: {str(error).partition('.')[0][:200]}"


def _gap(logits: Tensor, wanted: Tensor) -> float | str:
    scale = wanted.abs().amax(1, keepdim=True).clamp(min=1.0)
    gap = float(((logits - wanted).abs() / scale).amax())
    return gap if np.isfinite(gap) else "not finite"


def _gradients_inside(tower: nn.Module, x: Tensor) -> dict[str, Any]:
    """Operators of a backward pass that a mere look at the input runs, and whether it records gradients."""
    watch = Watch()
    with torch.no_grad(), watch:
        tower(x)
    return {"backward": sorted(watch.backward), "recording": watch.recording}
