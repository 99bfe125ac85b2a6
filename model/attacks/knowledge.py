"""What an attacker knows when it chooses its aim: codes and labels, never the model's inside.

Codes are floats -1/+1. The reference set is what the mainstay is taken over: the codes of the training
items, of both modalities (algorithms.md section 2), encoded by the model under attack.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Generator, Tensor

from model.errors import DataError


@dataclass(frozen=True, eq=False)
class Knowledge:
    """n queries against N reference codes of K bits and C labels.

    clean: (n, K) codes of the clean queries. labels: (n, C), 0/1. codes: (N, K) reference codes.
    code_labels: (N, C). paired: (n, K) code of each query's partner on the other side (the caption of an
    image). other_side: (M, K) codes of the other modality, where the partner's neighbours are looked for.
    goals: (n, C) labels that a targeted attack wants to reach. Raises DataError when shapes disagree.
    """

    clean: Tensor
    labels: Tensor
    codes: Tensor
    code_labels: Tensor
    paired: Tensor | None = None
    other_side: Tensor | None = None
    goals: Tensor | None = None

    def __post_init__(self) -> None:
        n, bits = self.clean.shape
        classes = self.labels.shape[-1]
        _shape("labels", self.labels, (n, classes))
        _shape("codes", self.codes, (len(self.codes), bits))
        _shape("code_labels", self.code_labels, (len(self.codes), classes))
        _shape("paired", self.paired, (n, bits))
        if self.other_side is not None:
            _shape("other_side", self.other_side, (len(self.other_side), bits))
        _shape("goals", self.goals, (n, classes))

    def relevant(self) -> Tensor:
        """Bool (n, N): which reference items share a label with which query."""
        return shared_labels(self.labels, self.code_labels)

    def wanted_goals(self) -> Tensor:
        """`goals`; raises DataError when there are none."""
        if self.goals is None:
            raise DataError("a targeted attack needs `goals`, labels to reach (choose_goals), got none")
        return self.goals


def shared_labels(a: Tensor, b: Tensor) -> Tensor:
    """Bool (n, N): rows of a (n, C) and b (N, C) that share a label."""
    return a.float() @ b.float().T > 0


def choose_goals(labels: Tensor, code_labels: Tensor, *, generator: Generator) -> Tensor:
    """For each query, the label set of a random reference item that shares no label with it: (n, C).

    Raises DataError when a query shares a label with every item: then there is nothing to reach.
    """
    foreign = ~shared_labels(labels, code_labels)
    hopeless = torch.nonzero(~foreign.any(1)).flatten()
    if len(hopeless):
        raise DataError(f"a targeted attack needs items of other labels, query {int(hopeless[0])} has none")
    return code_labels[draw_rows(foreign, 1, generator)[:, 0]].to(labels.dtype)


def draw_rows(allowed: Tensor, count: int, generator: Generator) -> Tensor:
    """`count` different columns per row of bool (n, N), uniformly, as int64 (n, count).

    A row with fewer allowed columns repeats them. Every row needs at least one.
    """
    noise = torch.rand(allowed.shape, generator=generator, device=generator.device).to(allowed.device)
    order = noise.masked_fill(~allowed, -1.0).topk(min(count, allowed.shape[1]), dim=1).indices
    choices = allowed.sum(1, keepdim=True).clamp(max=order.shape[1])
    picked = torch.arange(count, device=allowed.device) % choices
    return order.gather(1, picked)


def _shape(name: str, tensor: Tensor | None, wanted: tuple[int, int]) -> None:
    if tensor is not None and tuple(tensor.shape) != wanted:
        raise DataError(f"{name}: wanted shape {wanted}, got {tuple(tensor.shape)}")
