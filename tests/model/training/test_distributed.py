"""One process's view of the world, and gathering checked against the plain gradient in two processes."""

import dataclasses
import os
import socket
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import load_file
from torch import distributed as dist
from torch import multiprocessing

from model.errors import ModelError
from model.training.config import from_table
from model.training.display import Silent
from model.training.distributed import World, joined_world, pick_device
from model.training.fit import Order, fit
from model.training.stopping import StopWish

CPU = torch.device("cpu")


def test_alone_everything_is_the_identity():
    world = World(0, 1, CPU)
    rows = torch.rand(3, 2)
    assert world.gather(rows) is rows
    assert world.any(True)
    assert not world.any(False)
    assert world.leads
    world.wait()


def test_parts_tile_the_batch():
    parts = [World(rank, 4, CPU).part(12) for rank in range(4)]
    assert [list(range(12))[part] for part in parts] == [[0, 1, 2], [3, 4, 5], [6, 7, 8], [9, 10, 11]]


def test_without_torchrun_there_is_one_process(monkeypatch):
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    with joined_world("cpu") as world:
        assert (world.rank, world.size, world.device) == (0, 1, CPU)


@pytest.mark.parametrize("name", ["abacus", "cuda:99", "meta:x"])
def test_a_device_that_is_not_there_is_refused(name):
    with pytest.raises(ModelError, match="is not usable here"):
        pick_device(name)


def test_auto_is_the_gpu_when_there_is_one(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("auto").type == "cuda"
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == CPU


class Recorder(Silent):
    """Remembers what it is told."""

    def __init__(self):
        self.lines = []

    def say(self, message):
        self.lines.append(message)


def _train(rank, port, order, answers):
    """One of two processes that train as torchrun would start them."""
    torch.set_num_threads(1)  # the forked OpenMP pool has no threads
    place = {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    os.environ.update(place)
    ear = Recorder()
    with joined_world("cpu") as world:
        outcome = fit(order, world, ear, StopWish())
    answers.put((rank, epochs(ear.lines), outcome and str(outcome.folder)))


def epochs(lines):
    """The loss terms of each epoch's line."""
    shown = [line.split("  | ")[0].split("  ")[1:] for line in lines if line.startswith("epoch ")]
    return [{name: float(value) for name, value in (term.rsplit(" ", 1) for term in each)} for each in shown]


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def together(target, *arguments):
    """Answers of two forked processes, by rank."""
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    members = [context.Process(target=target, args=(rank, *arguments, answers)) for rank in (0, 1)]
    for member in members:
        member.start()
    found = sorted(answers.get() for _ in members)
    for member in members:
        member.join(60)
        assert member.exitcode == 0
    return found


def test_two_processes_without_batch_norm_follow_the_same_curve(folder, tiny, tmp_path):
    """Without batch norm and dropout nothing but the order of sums differs."""
    text = {"kind": "bag_of_words", "dim": 16, "hidden": 0}
    recipe = from_table({**tiny, "architecture": {"text": text}})
    order = Order(folder, tmp_path / "two", "tiny", 16, "none", recipe)
    (_, curve, written), (_, _, nothing) = together(_train, free_port(), order)
    assert written == str(tmp_path / "two" / "tiny" / "1")
    assert nothing is None
    ear = Recorder()
    alone = fit(dataclasses.replace(order, models=tmp_path / "one"), World(0, 1, CPU), ear, StopWish())
    assert len(curve) == 4
    for one, two in zip(epochs(ear.lines), curve, strict=True):
        assert one == pytest.approx(two, abs=0.002)
    ours, theirs = (load_file(Path(f) / "model.safetensors") for f in (alone.folder, written))
    for name, tensor in ours.items():
        assert np.allclose(tensor, theirs[name], atol=1e-4), name


def _member(rank, address, answers):
    """One of two processes: a loss of all rows, whose gradient must be the plain one."""
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=address, rank=rank, world_size=2)
    world = World(rank, 2, CPU)
    rows = torch.arange(8.0).view(4, 2)
    weight = torch.tensor(3.0, requires_grad=True)
    gathered = world.gather(rows[world.part(4)] * weight)
    (gathered @ gathered.T).square().sum().backward()
    gradient = weight.grad.clone()
    dist.all_reduce(gradient)
    answers.put(
        (rank, gathered.detach().tolist(), float(gradient) / 2, world.any(rank == 1), world.any(False))
    )
    world.wait()
    dist.destroy_process_group()


def test_gathered_gradients_average_to_the_gradient_of_the_whole(tmp_path):
    found = together(_member, f"file://{tmp_path / 'rendezvous'}")
    rows = torch.arange(8.0).view(4, 2)
    weight = torch.tensor(3.0, requires_grad=True)
    whole = rows * weight
    (whole @ whole.T).square().sum().backward()
    for _, gathered, gradient, some, none in found:
        assert gathered == whole.tolist()
        assert gradient == pytest.approx(float(weight.grad))
        assert some
        assert not none
