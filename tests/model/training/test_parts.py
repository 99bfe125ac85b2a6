"""Schedule, randomness, averaging, stopping: the small parts by themselves."""

import math
import os
import signal
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from model.training.averaging import Averaged
from model.training.randomness import derive, lent_randomness, make_generator, pick
from model.training.schedule import rate_factor
from model.training.stopping import listening


def test_rate_rises_then_falls_along_a_cosine():
    factors = [rate_factor(step, 100, 0.1, 0.01) for step in range(100)]
    assert factors[:10] == pytest.approx([(i + 1) / 10 for i in range(10)])
    assert all(a >= b for a, b in pairwise(factors[9:]))
    assert factors[-1] == pytest.approx(0.01)
    halfway = 10 + (99 - 10) / 2
    wanted = 0.01 + 0.99 * 0.5 * (1 + math.cos(math.pi * (54 - 10) / 89))
    assert halfway == 54.5
    assert factors[54] == pytest.approx(wanted)


@given(total=st.integers(1, 400), warm=st.floats(0, 0.9), floor=st.floats(0, 1))
def test_rate_stays_in_range_and_never_starts_at_zero(total, warm, floor):
    factors = [rate_factor(step, total, warm, floor) for step in range(total)]
    assert factors[0] > 0
    assert all(0 <= f <= 1 + 1e-12 for f in factors)


def test_seeds_differ_by_purpose_and_repeat():
    assert derive(1, "a", 2) == derive(1, "a", 2)
    assert len({derive(1, "a", 2), derive(1, "a", 3), derive(2, "a", 2), derive(1, "b", 2)}) == 4
    one, two = make_generator("cpu", 5, "x"), make_generator("cpu", 5, "x")
    assert torch.equal(torch.rand(4, generator=one), torch.rand(4, generator=two))


def test_lent_randomness_repeats_and_gives_back_what_was_there():
    before = torch.get_rng_state()
    with lent_randomness(torch.device("cpu"), 3, "here"):
        first = torch.rand(3)
    with lent_randomness(torch.device("cpu"), 3, "here"):
        assert torch.equal(torch.rand(3), first)
    assert torch.equal(torch.get_rng_state(), before)


def test_picks_depend_on_seed_epoch_and_item_alone():
    items, counts = np.arange(1000), np.full(1000, 5)
    picks = pick(1, 2, items, counts)
    assert np.array_equal(picks[::-1], pick(1, 2, items[::-1], counts))
    assert not np.array_equal(picks, pick(1, 3, items, counts))
    assert not np.array_equal(picks, pick(2, 2, items, counts))
    shares = np.bincount(picks, minlength=5) / 1000
    assert shares == pytest.approx([0.2] * 5, abs=0.05)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=50), st.integers(0, 2**31 - 1))
def test_picks_are_in_range(counts, seed):
    counts = np.array(counts)
    picks = pick(seed, 0, np.arange(len(counts)), counts)
    assert (picks >= 0).all()
    assert (picks < counts).all()


def test_average_follows_the_formula_and_copies_counters():
    model = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    average = Averaged(model, 0.5)
    old = model[0].weight.detach().clone()
    with torch.no_grad():
        model[0].weight += 1
        model[1].num_batches_tracked += 3
    average.update(model, 1)
    decay = min(0.5, 2 / 11)
    assert torch.allclose(average.model[0].weight, old * decay + (old + 1) * (1 - decay))
    assert average.model[1].num_batches_tracked == 3
    assert not average.model.training
    assert not average.model[0].weight.requires_grad


def test_average_without_decay_is_the_model():
    model = nn.Linear(2, 2)
    average = Averaged(model, 0.0)
    with torch.no_grad():
        model.weight.mul_(3)
    average.update(model, 50)
    assert torch.equal(average.model.weight, model.weight)


@pytest.mark.parametrize("signum", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_is_remembered_and_handlers_return(signum):
    before = signal.getsignal(signum)
    with listening() as wish:
        assert not wish
        os.kill(os.getpid(), signum)
        assert wish
        assert wish.signum == signum
        # The second one acts at once.
        assert signal.getsignal(signum) in (signal.SIG_DFL, signal.default_int_handler)
    assert signal.getsignal(signum) is before


def test_a_second_interrupt_is_not_swallowed():
    def twice():
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        signal.sigtimedwait([], 0.01)

    with listening(), pytest.raises(KeyboardInterrupt):
        twice()
