"""Isotonic calibration against scikit-learn and its own promises."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression

from model.training.calibration import calibrate, calibration_table, fit_decreasing


@given(st.lists(st.tuples(st.floats(0, 1), st.floats(0.1, 50)), min_size=1, max_size=40))
def test_fit_is_scikit_learns(pairs):
    values, weights = (np.array(side) for side in zip(*pairs, strict=True))
    order = np.arange(len(values))
    theirs = IsotonicRegression(increasing=False).fit(order, values, sample_weight=weights).predict(order)
    assert fit_decreasing(values, weights) == pytest.approx(theirs, abs=1e-9)


@given(st.integers(0, 10_000), st.sampled_from([16, 64]))
def test_probabilities_never_rise_and_have_one_entry_per_distance(seed, bits):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, bits + 2, (30, 30)).astype(np.int32)
    relevant = rng.random((30, 30)) < 0.3
    table = calibrate(distances, relevant, bits)
    assert len(table) == bits + 1
    assert all(a >= b for a, b in pairwise(table))
    assert all(0 <= p <= 1 for p in table)


def test_it_recovers_a_known_relation():
    rng = np.random.default_rng(0)
    distances = rng.integers(0, 17, (400, 400)).astype(np.int32)
    truth = 1 / (1 + np.exp(distances - 8.0))
    table = calibrate(distances, rng.random((400, 400)) < truth, 16)
    assert table == pytest.approx(1 / (1 + np.exp(np.arange(17) - 8.0)), abs=0.02)


def test_unseen_distances_lie_between_their_neighbours():
    distances = np.repeat(np.array([[2, 6]], dtype=np.int32), 100, axis=0)
    relevant = np.repeat(np.array([[True, False]]), 100, axis=0)
    table = calibrate(distances, relevant, 8)
    assert table == pytest.approx([1, 1, 1, 0.75, 0.5, 0.25, 0, 0, 0])


def test_excluded_pairs_do_not_count_and_too_few_pairs_give_nothing():
    distances = np.full((20, 20), 5, dtype=np.int32)
    relevant = np.ones((20, 20), dtype=bool)
    distances[:10] = 17
    relevant[:10] = False
    assert calibrate(distances, relevant, 16) == (1.0,) * 17
    assert calibrate(distances[:12], relevant[:12], 16) is None


def test_tasks_without_enough_pairs_are_left_out():
    many = (np.full((20, 20), 5, dtype=np.int32), np.ones((20, 20), dtype=bool))
    few = (many[0][:2], many[1][:2])
    assert set(calibration_table({"image-to-text": many, "text-to-text": few}, 16)) == {"image-to-text"}
