"""One process's view of the world, and gathering checked against the plain gradient in two processes."""

import pytest
import torch
from torch import distributed as dist
from torch import multiprocessing

from model.errors import ModelError
from model.training.distributed import World, joined_world, pick_device

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


def _member(rank, address, answers):
    """One of two processes: a loss of all rows, whose gradient must be the plain one."""
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
    context = multiprocessing.get_context("fork")
    answers = context.SimpleQueue()
    address = f"file://{tmp_path / 'rendezvous'}"
    members = [context.Process(target=_member, args=(rank, address, answers)) for rank in (0, 1)]
    for member in members:
        member.start()
    found = [answers.get() for _ in members]
    for member in members:
        member.join(60)
        assert member.exitcode == 0
    rows = torch.arange(8.0).view(4, 2)
    weight = torch.tensor(3.0, requires_grad=True)
    whole = rows * weight
    (whole @ whole.T).square().sum().backward()
    for _, gathered, gradient, some, none in found:
        assert gathered == whole.tolist()
        assert gradient == pytest.approx(float(weight.grad))
        assert some
        assert not none
