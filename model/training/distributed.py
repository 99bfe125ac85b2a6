"""Several processes that train one model: who we are, how codes are gathered, who writes.

`torchrun` starts the processes and sets RANK, WORLD_SIZE and LOCAL_RANK; without them a run is one
process and everything here is the identity. The back end is NCCL on GPUs and gloo on CPUs.

What stays the same with R processes: the items of each step (every process takes its part of the same
global batch), their augmentation, and the losses, which see the codes of the global batch. What differs:
batch norm normalises each process's part by that part's own statistics, and the running statistics kept
are those of process 0 (there is no synchronised batch norm on a CPU, and one loop serves both); dropout
draws per process. So the loss curve is that of one process up to noise, not bit for bit.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch import distributed as dist

from model.errors import ModelError


@dataclass(frozen=True)
class World:
    """This process among the others."""

    rank: int
    size: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this is the process that validates, writes and speaks."""
        return self.rank == 0

    def part(self, length: int) -> slice:
        """This process's part of ``length`` rows; ``length`` must be a multiple of ``size``."""
        each = length // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def gather(self, local: Tensor) -> Tensor:
        """Rows of all processes in order of rank: (n, ...) -> (size * n, ...), differentiable."""
        if self.size == 1:
            return local
        gathered: Tensor = _Gather.apply(local, self.rank, self.size)  # type: ignore[no-untyped-call]
        return gathered

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in at least one process."""
        if self.size == 1:
            return flag
        told = torch.tensor([int(flag)], device=self.device)
        dist.all_reduce(told, op=dist.ReduceOp.MAX)
        return bool(told.item())

    def wait(self) -> None:
        """Return when all processes have come here."""
        if self.size > 1:
            dist.barrier()


class _Gather(torch.autograd.Function):
    """All rows forward; backward each process keeps the gradient of its own rows, times the world's size.

    Every process computes the same loss of the same gathered rows, so each has the full gradient of its
    own part and nothing needs to travel back; the factor undoes the mean over processes that
    DistributedDataParallel takes of the weights' gradients. No communication in backward also means that
    a process whose part lacks a modality cannot make the others wait for ever.
    """

    @staticmethod
    def forward(ctx: Any, local: Tensor, rank: int, size: int) -> Tensor:  # noqa: ANN401
        ctx.rows, ctx.rank, ctx.size = local.shape[0], rank, size
        local = local.contiguous()
        parts = [torch.empty_like(local) for _ in range(size)]
        dist.all_gather(parts, local)
        return torch.cat(parts)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:  # noqa: ANN401
        own = gradients[0].narrow(0, ctx.rank * ctx.rows, ctx.rows)
        return own * ctx.size, None, None


def pick_device(wanted: str) -> torch.device:
    """``auto`` is the first GPU when there is one, else the CPU; anything else is taken by its name.

    Raises:
        ModelError: no such device on this machine.

    """
    if wanted == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(wanted)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError) as error:
        raise ModelError(f"device {wanted!r} is not usable here: {str(error).splitlines()[0]}") from error
    return device


@contextmanager
def joined_world(device: str) -> Iterator[World]:
    """This process's `World`, its process group opened and closed around the block."""
    size, rank = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("RANK", "0"))
    chosen = pick_device(device)
    if size == 1:
        yield World(0, 1, chosen)
        return
    if chosen.type == "cuda":
        chosen = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(chosen)
    dist.init_process_group("nccl" if chosen.type == "cuda" else "gloo", rank=rank, world_size=size)
    try:
        yield World(rank, size, chosen)
    finally:
        dist.destroy_process_group()
