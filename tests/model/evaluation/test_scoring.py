"""Scores per query against a slow oracle; worst cases are means of minima; what does not count is NaN."""

from fractions import Fraction
from itertools import pairwise, permutations
from math import isnan, nan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from model.errors import DataError
from model.evaluation.scoring import PROTOCOLS, Pool, Scorer, as_scores, mean_of, sides_of, tasks_of

BITS, ITEMS, LABELS = 3, 5, 3


def expected_ap(code, label, pool, k=None):
    """AP averaged over every order of the items that keeps the distances sorted, in exact fractions."""
    distance = (pool.codes != code).sum(1).tolist()
    relevant = (pool.labels & label).any(1).tolist()
    total = sum(relevant)
    if not total:
        return None
    orders = [
        order
        for order in permutations(range(len(distance)))
        if all(distance[a] <= distance[b] for a, b in pairwise(order))
    ]
    found = Fraction(0)
    for order in orders:
        hits = Fraction(0)
        for rank, item in enumerate(order[:k], start=1):
            if relevant[item]:
                found += (hits + 1) / rank
                hits += 1
    return found / len(orders) / (total if k is None else min(total, k))


def made_pool(codes, labels):
    n = len(codes)
    return Pool(
        np.array(codes, dtype=bool).reshape(n, BITS),
        np.array(labels, dtype=bool).reshape(n, LABELS),
        tuple(f"item-{row}" for row in range(n)),
        ("",) * n,
    )


def made_scorer(query_labels, pool, goals=None):
    labels = np.array(query_labels, dtype=bool).reshape(-1, LABELS)
    floor = np.zeros((len(labels), BITS), dtype=bool)
    pools = {(side, protocol): pool for side in ("image", "text") for protocol in PROTOCOLS}
    return Scorer(labels, goals, floor, pools)


def bits(rows, width):
    return st.lists(st.lists(st.booleans(), min_size=width, max_size=width), min_size=rows, max_size=rows)


@settings(max_examples=40, deadline=None)
@given(bits(ITEMS, BITS), bits(ITEMS, LABELS), bits(3, BITS), bits(3, LABELS))
def test_average_precision_is_the_mean_over_all_orders_of_ties(codes, labels, queries, query_labels):
    pool = made_pool(codes, labels)
    scorer = made_scorer(query_labels, pool)
    sent = np.array(queries, dtype=bool)
    whole = scorer.ap(sent, scorer.all_rows, "image-to-text", "database")
    cut = scorer.ap(sent, scorer.all_rows, "image-to-text", "database", 2)
    chance = scorer.chance_ap("image-to-text", "database")
    for row in range(3):
        label = scorer.labels[row]
        for value, k in ((whole[row], None), (cut[row], 2)):
            wanted = expected_ap(sent[row], label, pool, k)
            assert isnan(value) if wanted is None else value == pytest.approx(float(wanted))
        tied = Pool(np.zeros_like(pool.codes), pool.labels, pool.ids, pool.texts)
        wanted = expected_ap(np.zeros(BITS, dtype=bool), label, tied)
        assert isnan(chance[row]) if wanted is None else chance[row] == pytest.approx(float(wanted))


def test_rows_choose_the_labels_of_the_queries_that_the_codes_stand_for():
    pool = made_pool(np.eye(3), np.eye(3))
    scorer = made_scorer(np.eye(3), pool)
    codes = np.eye(3, dtype=bool)[[2, 0]]
    assert scorer.ap(codes, np.array([2, 0]), "image-to-image", "database").tolist() == [1.0, 1.0]
    assert scorer.ap(codes, np.array([0, 2]), "image-to-image", "database").max() < 1.0


def test_one_pass_gives_what_two_give():
    rng = np.random.default_rng(1)
    pool = made_pool(rng.random((60, BITS)) < 0.5, rng.random((60, LABELS)) < 0.3)
    scorer = made_scorer(rng.random((7, LABELS)) < 0.5, pool)
    codes = rng.random((7, BITS)) < 0.5
    both = scorer.ap_both(codes, scorer.all_rows, "text-to-text", "train+database")
    for found, k in zip(both, (None, 50), strict=True):
        alone = scorer.ap(codes, scorer.all_rows, "text-to-text", "train+database", k)
        np.testing.assert_array_equal(found, alone)


def test_a_query_without_relevant_items_is_excluded_and_not_scored_zero():
    pool = made_pool(np.eye(3), [[1, 0, 0]] * 3)
    scorer = made_scorer([[1, 0, 0], [0, 1, 0]], pool)
    values = scorer.ap(np.ones((2, BITS), dtype=bool), scorer.all_rows, "image-to-text", "database")
    assert values[0] == 1.0
    assert isnan(values[1])
    assert mean_of(values) == 1.0
    scores = as_scores(values)
    assert (scores.n, scores.excluded, scores.mean) == (1, 1, 1.0)
    assert isnan(mean_of(np.array([nan])))


def test_t_map_looks_at_the_goals():
    pool = made_pool(np.eye(3), np.eye(3))
    scorer = made_scorer(np.eye(3), pool, goals=np.eye(3, dtype=bool)[[1, 2, 0]])
    towards = np.eye(3, dtype=bool)[[1, 2, 0]]
    assert scorer.target_ap(towards, scorer.all_rows, "image-to-text", "database").tolist() == [1.0] * 3
    with pytest.raises(DataError, match="goals"):
        made_scorer(np.eye(3), pool).target_ap(towards, scorer.all_rows, "image-to-text", "database")


def test_what_cannot_be_scored_is_refused():
    scorer = made_scorer(np.eye(3), made_pool(np.eye(3), np.eye(3)))
    codes = np.eye(3, dtype=bool)
    with pytest.raises(DataError, match="wanted one of image-to-text"):
        scorer.ap(codes, scorer.all_rows, "image-to-sound", "database")
    with pytest.raises(DataError, match="retrieve text from nowhere"):
        scorer.ap(codes, scorer.all_rows, "image-to-text", "nowhere")
    with pytest.raises(DataError, match="a code for each query, got 2 for 3"):
        scorer.ap(codes[:2], scorer.all_rows, "image-to-text", "database")


def test_tasks_are_those_of_the_sides_that_a_model_reads():
    assert sides_of("text-to-image") == ("text", "image")
    assert tasks_of("image", frozenset({"image", "text"})) == ("image-to-text", "image-to-image")
    assert tasks_of("image", frozenset({"image"})) == ("image-to-image",)
    assert tasks_of("text", frozenset({"image"})) == ()
