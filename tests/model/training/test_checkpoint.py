"""Checkpoints: what comes back, what is refused, what a full disk leaves behind."""

import dataclasses
import errno
import json

import pytest
import torch

from model.errors import CheckpointError
from model.training import checkpoint
from model.training.checkpoint import Identity, Snapshot, list_checkpoints, load_checkpoint, save_checkpoint

IDENTITY = Identity({"seed": 1, "schedule": {"epochs": 3}}, "f" * 64, 64, "none")


def snapshot(step):
    g = torch.Generator().manual_seed(step)
    weight = torch.rand(2, 3, 4, 4, generator=g).to(memory_format=torch.channels_last)
    parameter = torch.nn.Parameter(weight)
    optimiser = torch.optim.AdamW([parameter])
    parameter.sum().backward()
    optimiser.step()
    return Snapshot(
        {"hasher": {"a.weight": weight, "count": torch.tensor(step)}, "best": {}},
        {"hasher": optimiser.state_dict()},
        {"step": step, "history": [{"epoch": 1, "losses": {"inter": 0.1 + 0.2}}]},
    )


@pytest.fixture
def kept(tmp_path):
    """A folder after three saves."""
    for step in (3, 6, 12):
        save_checkpoint(tmp_path / "c", snapshot(step), IDENTITY)
    return tmp_path / "c"


def test_what_was_saved_comes_back_bit_for_bit(kept):
    found, wanted = load_checkpoint(kept, IDENTITY), snapshot(12)
    assert found.counters == wanted.counters
    assert torch.equal(found.tensors["hasher"]["a.weight"], wanted.tensors["hasher"]["a.weight"])
    assert found.tensors["hasher"]["count"] == 12
    ours, theirs = found.optimisers["hasher"]["state"][0], wanted.optimisers["hasher"]["state"][0]
    assert torch.equal(ours["exp_avg_sq"], theirs["exp_avg_sq"])


def test_the_newest_two_are_kept_and_the_older_one_can_be_asked_for(kept):
    assert [path.name for path in list_checkpoints(kept)] == ["step-0000000006", "step-0000000012"]
    assert load_checkpoint(kept, IDENTITY, previous=True).counters["step"] == 6


def test_saving_the_same_step_again_replaces_it(kept):
    save_checkpoint(kept, snapshot(12), IDENTITY)
    assert load_checkpoint(kept, IDENTITY).counters["step"] == 12


def test_nothing_there_is_said(tmp_path, kept):
    with pytest.raises(CheckpointError, match="nothing to continue from"):
        load_checkpoint(tmp_path / "nowhere", IDENTITY)


@pytest.mark.parametrize("name", ["weights.safetensors", "optimisers.pt", "state.json"])
@pytest.mark.parametrize("damage", ["flip", "cut", "remove"])
def test_damage_is_named_and_the_way_out_told(kept, name, damage):
    victim = kept / "step-0000000012" / name
    content = bytearray(victim.read_bytes())
    if damage == "remove":
        victim.unlink()
    else:
        content = content[: len(content) // 2] if damage == "cut" else content
        content[len(content) // 3] ^= 0x55
        victim.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"step-0000000012 is damaged.*step-0000000006.*--previous"):
        load_checkpoint(kept, IDENTITY)
    assert load_checkpoint(kept, IDENTITY, previous=True).counters["step"] == 6


def test_damage_without_an_earlier_one_says_so(kept):
    for path in list_checkpoints(kept):
        (path / "optimisers.pt").write_bytes(b"")
    with pytest.raises(CheckpointError, match="no earlier one"):
        load_checkpoint(kept, IDENTITY, previous=True)


def test_a_state_of_another_format_is_refused(kept):
    path = kept / "step-0000000012" / "state.json"
    state = json.loads(path.read_text())
    for other in (state | {"format": 99}, [state], {"format": 1}):
        path.write_text(json.dumps(other))
        with pytest.raises(CheckpointError, match="is damaged"):
            load_checkpoint(kept, IDENTITY)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"bits": 32}, r"bits was 64, now 32"),
        ({"defence": "other"}, r"defence was 'none', now 'other'"),
        ({"data": "0" * 64}, r"data was"),
        ({"recipe": {"seed": 2, "schedule": {"epochs": 3}}}, r"recipe\.seed was 1, now 2"),
        ({"recipe": {"seed": 1, "schedule": {"epochs": 4}}}, r"recipe\.schedule\.epochs was 3, now 4"),
        ({"recipe": {"seed": 1}}, r"recipe\.schedule\.epochs was 3, now None"),
    ],
)
def test_another_run_is_refused_with_the_difference(kept, change, said):
    with pytest.raises(CheckpointError, match=said):
        load_checkpoint(kept, dataclasses.replace(IDENTITY, **change))


def test_a_full_disk_leaves_the_earlier_checkpoints_whole(kept, monkeypatch):
    def full(path, content):
        path.write_bytes(content[:10])
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "write_file", full)
    with pytest.raises(CheckpointError, match=r"No space left on device.*step-0000000012"):
        save_checkpoint(kept, snapshot(15), IDENTITY)
    assert sorted(path.name for path in kept.iterdir()) == ["step-0000000006", "step-0000000012"]
    assert load_checkpoint(kept, IDENTITY).counters["step"] == 12


def test_what_a_kill_leaves_half_written_is_no_checkpoint(kept):
    (kept / ".step-0000000015.partial").mkdir()
    assert load_checkpoint(kept, IDENTITY).counters["step"] == 12
    save_checkpoint(kept, snapshot(15), IDENTITY)
    assert not list(kept.glob(".*"))
