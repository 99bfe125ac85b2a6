"""Randomness as a function of (seed, purpose, counters), so that nothing has to be remembered.

A run that is continued draws the same numbers as one that never stopped because each draw follows from
where the run is (epoch, step, process) and not from what was drawn before. Checkpoints therefore hold no
generator state. For results that are equal from run to run on a GPU as well, switch on
`torch.use_deterministic_algorithms(True)` before training; on a CPU everything used here is deterministic
for a fixed number of threads.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from numpy.typing import NDArray


def derive(seed: int, *path: str | int) -> int:
    """A 63-bit seed for one purpose: SHA-256 of the seed and the path that names the purpose."""
    text = "/".join(str(part) for part in (seed, *path))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big") >> 1


def make_generator(device: torch.device | str, seed: int, *path: str | int) -> torch.Generator:
    """A generator on ``device`` seeded for one purpose."""
    generator = torch.Generator(device=device)
    generator.manual_seed(derive(seed, *path))
    return generator


@contextmanager
def lent_randomness(device: torch.device, seed: int, *path: str | int) -> Iterator[None]:
    """Within the block torch's default generators (dropout, initial weights) follow from the arguments.

    They are put back afterwards, so the process keeps its own randomness. Touches the CPU's default
    generator and, for a CUDA device, that device's.
    """
    cuda = [device] if device.type == "cuda" else []
    with torch.random.fork_rng(devices=cuda):
        torch.set_rng_state(make_generator("cpu", seed, *path).get_state())
        for each in cuda:
            torch.cuda.set_rng_state(make_generator(each, seed, *path).get_state(), each)
        yield


def pick(seed: int, epoch: int, items: NDArray[np.int64], counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """For each item one of ``range(count)``, from (seed, epoch, item) alone.

    SplitMix64 (Steele, Lea, Flood, OOPSLA 2014) over the three numbers; the bias of the remainder is
    below 1e-15 for any count that fits in memory.

    Args:
        seed: the run's seed.
        epoch: from 0.
        items: (n,) item numbers, >= 0.
        counts: (n,) how many there are to pick from, >= 1.

    Returns:
        (n,) picks in [0, count).

    """
    state = np.uint64(derive(seed, "pick", epoch)) + items.astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    state ^= state >> np.uint64(31)
    return (state % counts.astype(np.uint64)).astype(np.int64)
