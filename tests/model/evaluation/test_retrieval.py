"""Tie-aware metrics against brute force over tie orders, against torchmetrics, and by their properties."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchmetrics.functional import retrieval as reference

from model.errors import DataError
from model.evaluation.buckets import (
    Buckets,
    hamming_distances,
    query_blocks,
    shared_labels,
)
from model.evaluation.retrieval import (
    Scores,
    average_precision,
    bootstrap_interval,
    chance_level,
    first_relevant_map,
    mean_average_precision,
    ndcg_at,
    precision_at,
    precision_recall,
    saat_map,
)


def list_ap(relevant, k):
    """AP@k of one ranked list, from the definition."""
    hits, total = 0, 0.0
    for rank, each in enumerate(relevant[:k], start=1):
        hits += bool(each)
        total += bool(each) * hits / rank
    return total / min(sum(map(bool, relevant)), k)


def list_precision(relevant, k):
    return sum(map(bool, relevant[:k])) / k


def list_ndcg(grades, k, gain):
    def dcg(ranked):
        return sum(gain(g) / math.log2(rank + 1) for rank, g in enumerate(ranked[:k], start=1))

    return dcg(grades) / dcg(sorted(grades, reverse=True))


def over_tie_orders(distances, grades, metric):
    """Mean of `metric(ranked grades)` over every order of the tied items."""
    groups = [
        [g for d, g in zip(distances, grades, strict=True) if d == each] for each in sorted(set(distances))
    ]
    orders = itertools.product(*(list(itertools.permutations(group)) for group in groups))
    return float(np.mean([metric(list(itertools.chain(*order))) for order in orders]))


small_rankings = st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3)), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(small_rankings, st.integers(1, 9))
def test_equals_brute_force_over_tie_orders(items, k):
    distances, grades = (np.array(column) for column in zip(*items, strict=True))
    buckets = Buckets.from_distances(distances[None], grades[None])
    cases = [
        (average_precision(buckets), lambda r: list_ap(r, len(r))),
        (average_precision(buckets, k), lambda r: list_ap(r, k)),
        (precision_at(buckets, k), lambda r: list_precision(r, k)),
        (ndcg_at(buckets, k), lambda r: list_ndcg(r, k, float)),
        (ndcg_at(buckets, k, "exponential"), lambda r: list_ndcg(r, k, lambda g: 2.0**g - 1)),
        (ndcg_at(buckets), lambda r: list_ndcg(r, len(r), float)),
        (chance_level(grades[None], k), None),
    ]
    if not grades.any():
        assert all(np.isnan(got.values).all() and got.excluded == 1 for got, _ in cases)
        return
    for got, metric in cases[:-1]:
        assert got.values[0] == pytest.approx(over_tie_orders(distances, grades, metric), abs=1e-12)
    random_order = over_tie_orders([0] * len(grades), grades, lambda r: list_ap(r, k))
    assert cases[-1][0].mean == pytest.approx(random_order, abs=1e-12)


@pytest.fixture
def untied():
    """Distances without ties, and graded relevance, for 12 queries over 60 items."""
    rng = np.random.default_rng(3)
    distances = np.stack([rng.permutation(60) for _ in range(12)])
    return distances, rng.integers(0, 4, (12, 60)) * (rng.random((12, 60)) < 0.3)


@pytest.mark.parametrize("k", [1, 5, 20, None])
def test_agrees_with_torchmetrics_without_ties(untied, k):
    distances, grades = untied
    buckets = Buckets.from_distances(distances, grades)
    cut = k or distances.shape[1]
    for row in range(len(distances)):
        scores = torch.tensor(100.0 - distances[row])  # torchmetrics counts only scores above 0
        target = torch.tensor(grades[row])
        assert ndcg_at(buckets, k).values[row] == pytest.approx(
            reference.retrieval_normalized_dcg(scores, target, top_k=k).item(), abs=1e-6
        )
        assert precision_at(buckets, cut).values[row] == pytest.approx(
            reference.retrieval_precision(scores, target > 0, top_k=cut).item(), abs=1e-6
        )
        # torchmetrics divides AP@k by the hits in the list, as SAAT does: the same without a cut-off.
        if k is None:
            assert average_precision(buckets).values[row] == pytest.approx(
                reference.retrieval_average_precision(scores, target > 0).item(), abs=1e-6
            )


def random_codes(seed, queries=9, items=80, bits=16, share=0.2):
    rng = np.random.default_rng(seed)
    return (
        rng.random((queries, bits)) < 0.5,
        rng.random((items, bits)) < 0.5,
        rng.random((queries, items)) < share,
    )


@pytest.mark.parametrize("k", [1, 7, 200])
def test_saat_variant_is_the_published_loop(k):
    queries, database, relevance = random_codes(1)
    relevance[2] = False
    wanted = []
    for row, query in enumerate(queries):
        order = np.argsort((query != database).sum(axis=1), kind="stable")
        listed = relevance[row][order][:k]
        ranks = np.flatnonzero(listed) + 1
        wanted.append(np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0)
    got = saat_map(queries, database, relevance, k)
    assert got.values == pytest.approx(wanted)
    assert (got.n, got.excluded) == (9, 0)
    assert got.mean == pytest.approx(np.mean(wanted))


@pytest.mark.parametrize("k", [1, 7, 200])
def test_first_relevant_variant_is_the_published_loop(k):
    queries, database, relevance = random_codes(2)
    relevance[0] = False
    wanted = []
    for row, query in enumerate(queries):
        order = np.argsort((query != database).sum(axis=1), kind="stable")
        ranks = np.flatnonzero(relevance[row][order])[:k] + 1
        wanted.append(np.mean(np.arange(1, len(ranks) + 1) / ranks) if len(ranks) else 0.0)
    assert first_relevant_map(queries, database, relevance, k).values == pytest.approx(wanted)


def test_the_two_published_variants_differ():
    queries, database, relevance = random_codes(3)
    first = first_relevant_map(queries, database, relevance, 5).mean
    assert first != pytest.approx(saat_map(queries, database, relevance, 5).mean, abs=1e-3)


def test_codes_in_any_allowed_form_give_the_same():
    queries, database, relevance = random_codes(4, bits=24)
    wanted = mean_average_precision(queries, database, relevance, 10)
    for form in (np.int8, np.float32, np.float64):
        signed = [np.where(codes, 1, -1).astype(form) for codes in (queries, database)]
        assert np.array_equal(
            mean_average_precision(*signed, relevance, 10).values, wanted.values, equal_nan=True
        )
    distances = (queries[:, None] != database[None]).sum(axis=2)
    assert np.array_equal(hamming_distances(queries, database), distances)
    by_distance = average_precision(Buckets.from_distances(distances, relevance), 10)
    assert by_distance.values == pytest.approx(wanted.values)


def test_blocks_of_queries_do_not_matter(monkeypatch):
    queries, database, relevance = random_codes(5)
    whole = mean_average_precision(queries, database, relevance)
    saat = saat_map(queries, database, relevance, 9)
    monkeypatch.setattr("model.evaluation.buckets._BLOCK_CELLS", 170)
    assert len(list(query_blocks(9, 80))) == 5
    assert np.array_equal(mean_average_precision(queries, database, relevance).values, whole.values)
    assert np.array_equal(saat_map(queries, database, relevance, 9).values, saat.values)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 100))
def test_bounds(seed, k):
    queries, database, relevance = random_codes(seed, queries=4, items=50)
    buckets = Buckets.from_codes(queries, database, relevance)
    for scores in (average_precision(buckets, k), precision_at(buckets, k), ndcg_at(buckets, k)):
        counted = scores.values[~np.isnan(scores.values)]
        assert ((counted >= 0) & (counted <= 1 + 1e-12)).all()
        assert scores.n + scores.excluded == 4


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_moving_a_relevant_item_closer_never_hurts(seed):
    rng = np.random.default_rng(seed)
    distances = rng.integers(0, 6, (1, 30))
    relevance = rng.random((1, 30)) < 0.3
    relevance[0, 0] = True
    distances[0, 0] = rng.integers(1, 6)
    closer = distances.copy()
    closer[0, 0] -= 1
    for k in (None, 5):
        before = average_precision(Buckets.from_distances(distances, relevance), k).mean
        after = average_precision(Buckets.from_distances(closer, relevance), k).mean
        assert after >= before - 1e-12


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), st.randoms(use_true_random=False))
def test_the_order_of_database_rows_does_not_matter(seed, shuffler):
    queries, database, relevance = random_codes(seed, queries=3, items=40)
    order = list(range(40))
    shuffler.shuffle(order)
    for k in (None, 6):
        before = mean_average_precision(queries, database, relevance, k).values
        after = mean_average_precision(queries, database[order], relevance[:, order], k).values
        assert np.array_equal(before, after, equal_nan=True)


def test_perfect_and_worst_ranking():
    relevance = np.array([[True] * 3 + [False] * 7])
    perfect = Buckets.from_distances(np.array([[0] * 3 + [5] * 7]), relevance)
    worst = Buckets.from_distances(np.array([[5] * 3 + [0] * 7]), relevance)
    for k in (None, 2, 3, 10):
        assert average_precision(perfect, k).mean == pytest.approx(1)
        assert ndcg_at(perfect, k).mean == pytest.approx(1)
    assert average_precision(worst, 7).mean == 0
    assert average_precision(worst).mean == pytest.approx(np.mean([1 / 8, 2 / 9, 3 / 10]))


def test_random_codes_reach_the_chance_level():
    queries, database, relevance = random_codes(6, queries=200, items=2000, bits=64, share=0.1)
    got, chance = mean_average_precision(queries, database, relevance), chance_level(relevance)
    assert got.mean == pytest.approx(chance.mean, abs=0.005)
    assert chance.mean == pytest.approx(0.1, abs=0.01)
    assert chance.mean > relevance.mean()


def test_large_rankings_stay_accurate():
    """A million items: the closed form against a direct sum over places."""
    count, near, hits_near, hits_far = 1_000_000, 999_000, 40_000, 10
    distances = np.concatenate([np.zeros(near, np.int32), np.ones(count - near, np.int32)])[None]
    relevance = np.zeros((1, count), dtype=bool)
    relevance[0, :hits_near] = True
    relevance[0, near : near + hits_far] = True
    places = np.arange(1, near + 1)
    total = hits_near / near * math.fsum((1 + (places - 1) * (hits_near - 1) / (near - 1)) / places)
    far = count - near
    places = np.arange(1, far + 1)
    total += (
        hits_far
        / far
        * math.fsum((hits_near + 1 + (places - 1) * (hits_far - 1) / (far - 1)) / (near + places))
    )
    got = average_precision(Buckets.from_distances(distances, relevance)).mean
    assert got == pytest.approx(total / (hits_near + hits_far), rel=1e-10)


def test_queries_without_relevant_items_are_excluded_and_counted():
    queries, database, relevance = random_codes(7)
    relevance[[1, 4]] = False
    kept = np.delete(np.arange(9), [1, 4])
    for k in (None, 5):
        got = mean_average_precision(queries, database, relevance, k)
        alone = mean_average_precision(queries[kept], database, relevance[kept], k)
        assert (got.n, got.excluded) == (7, 2)
        assert np.isnan(got.values[[1, 4]]).all()
        assert got.mean == pytest.approx(alone.mean)


def test_no_query_counts():
    queries, database, relevance = random_codes(8)
    got = mean_average_precision(queries, database, relevance & False)
    assert (math.isnan(got.mean), got.n, got.excluded) == (True, 0, 9)
    assert all(map(math.isnan, bootstrap_interval(got, seed=1)))
    curve = precision_recall(Buckets.from_codes(queries, database, relevance & False))
    assert np.isnan(curve.precision).all()
    assert np.isnan(curve.recall).all()


@pytest.mark.parametrize("shape", [(0, 5), (3, 0), (0, 0)])
def test_empty_inputs(shape):
    queries, database = np.zeros((shape[0], 16), bool), np.zeros((shape[1], 16), bool)
    relevance = np.zeros(shape, bool)
    for scores in (mean_average_precision(queries, database, relevance), chance_level(relevance)):
        assert (scores.n, scores.excluded) == (0, shape[0])
    assert ndcg_at(Buckets.from_distances(np.zeros(shape, int), relevance), 5).n == 0


def test_precision_recall_per_radius():
    distances = np.array([[0, 1, 1, 3], [2, 2, 3, 3], [0, 0, 0, 0]])
    relevance = np.array([[1, 0, 1, 1], [0, 1, 0, 0], [0, 0, 0, 0]], dtype=bool)
    curve = precision_recall(Buckets.from_distances(distances, relevance))
    assert curve.precision == pytest.approx([1, 2 / 3, (2 / 3 + 1 / 2) / 2, (3 / 4 + 1 / 4) / 2])
    assert curve.recall == pytest.approx([1 / 6, 1 / 3, (2 / 3 + 1) / 2, 1])
    assert list(curve.answering) == [1, 1, 2, 2]
    assert (curve.n, curve.excluded) == (2, 1)


def test_recall_never_falls():
    buckets = Buckets.from_codes(*random_codes(9))
    curve = precision_recall(buckets)
    assert (np.diff(curve.recall) >= 0).all()
    assert curve.recall[-1] == pytest.approx(1)
    assert len(curve.recall) == 17


def test_shared_labels_counts():
    left, right = np.array([[1, 1, 0], [0, 0, 0]]), np.array([[1, 1, 1], [0, 0, 1], [1, 0, 0]])
    assert shared_labels(left, right).tolist() == [[2, 0, 1], [0, 0, 0]]
    assert shared_labels(left.astype(bool), right.astype(bool)).dtype == np.uint8
    many = np.ones((1, 300), dtype=bool)
    assert shared_labels(many, many).tolist() == [[255]]


def test_bootstrap_interval_covers_the_mean_and_repeats():
    values = np.random.default_rng(0).random(400)
    values[:3] = np.nan
    scores = Scores(values, float(np.nanmean(values)), 397, 3)
    low, high = bootstrap_interval(scores, seed=5)
    assert low < scores.mean < high
    assert high - low == pytest.approx(2 * 1.96 * np.nanstd(values) / math.sqrt(397), rel=0.15)
    assert bootstrap_interval(scores, seed=5) == (low, high)
    assert bootstrap_interval(scores, seed=6) != (low, high)
    narrow = bootstrap_interval(scores, seed=5, confidence=0.5)
    assert low < narrow[0] < narrow[1] < high


BOOL = np.zeros((2, 16), bool)
BAD_INPUTS = [
    (lambda: mean_average_precision(BOOL, BOOL[:, :8], np.zeros((2, 2), bool)), "one width"),
    (lambda: mean_average_precision(BOOL, BOOL, np.zeros((2, 3), bool)), "relevance: wanted"),
    (lambda: mean_average_precision(BOOL, BOOL, np.zeros((2, 2))), "bool or integer grades"),
    (lambda: mean_average_precision(BOOL.astype(np.uint8), BOOL, np.zeros((2, 2), bool)), "signed"),
    (lambda: mean_average_precision(BOOL.astype(int), BOOL, np.zeros((2, 2), bool)), r"-1 and \+1"),
    (lambda: mean_average_precision(BOOL[0], BOOL, np.zeros((16, 2), bool)), r"\(q, K\)"),
    (lambda: hamming_distances(BOOL[0], BOOL), r"array \(n, K\)"),
    (lambda: hamming_distances(BOOL[:, :0], BOOL[:, :0]), r"array \(n, K\)"),
    (lambda: Buckets.from_distances(np.zeros((1, 2)), np.zeros((1, 2), bool)), "integers"),
    (lambda: Buckets.from_distances(np.full((1, 2), -1), np.zeros((1, 2), bool)), r"0\.\.4096"),
    (lambda: Buckets.from_distances(np.full((1, 2), 5000), np.zeros((1, 2), bool)), r"0\.\.4096"),
    (lambda: Buckets.from_distances(np.zeros((1, 2), int), np.full((1, 2), -1)), r"0\.\.255"),
    (lambda: Buckets.from_distances(np.zeros((1, 2), int), np.full((1, 2), 256)), r"0\.\.255"),
    (lambda: Buckets.from_distances(np.zeros(2, int), np.zeros(2, bool)), r"\(q, n\)"),
    (lambda: shared_labels(np.zeros((1, 2)), np.zeros((1, 3))), r"\(q, L\)"),
    (lambda: mean_average_precision(BOOL, BOOL, np.ones((2, 2), bool), 0), "k: wanted"),
    (lambda: mean_average_precision(BOOL, BOOL, np.ones((2, 2), bool), True), "k: wanted"),
    (lambda: saat_map(BOOL, BOOL, np.ones((2, 2), bool), -1), "k: wanted"),
    (lambda: first_relevant_map(BOOL, BOOL, np.ones((2, 2), bool), 1.5), "k: wanted"),
    (lambda: ndcg_at(Buckets.from_codes(BOOL, BOOL, np.ones((2, 2), bool)), 1, "cubic"), "gain"),
    (lambda: bootstrap_interval(Scores(np.ones(2), 1, 2, 0), seed=0, confidence=1), "confidence"),
    (lambda: bootstrap_interval(Scores(np.ones(2), 1, 2, 0), seed=0, samples=0), "samples"),
]


@pytest.mark.parametrize(("call", "words"), BAD_INPUTS)
def test_bad_input_is_refused(call, words):
    with pytest.raises(DataError, match=words):
        call()
