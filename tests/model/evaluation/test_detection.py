"""Figures of detection against scikit-learn, by counting, and by what intervals must do."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import binomtest, mannwhitneyu
from sklearn.metrics import roc_auc_score

from model.errors import DataError
from model.evaluation.detection import auroc, auroc_interval, share_above, share_interval

few_values = st.lists(st.sampled_from([0.0, 0.25, 0.5, 1.0, 2.0]), min_size=1, max_size=30)


@given(few_values, few_values)
def test_auroc_counts_ties_half_as_scikit_learn_does(benign, attacked):
    found = auroc(np.array(benign), np.array(attacked))
    truth = roc_auc_score([0] * len(benign) + [1] * len(attacked), benign + attacked)
    assert found == pytest.approx(truth, abs=1e-12)
    pairs = len(benign) * len(attacked)
    assert found == pytest.approx(mannwhitneyu(attacked, benign).statistic / pairs, abs=1e-12)


@given(few_values, few_values)
def test_auroc_is_symmetric_and_sees_order_alone(benign, attacked):
    a, b = np.array(benign), np.array(attacked)
    assert auroc(a, b) + auroc(b, a) == pytest.approx(1)
    assert auroc(np.exp(a), np.exp(b)) == auroc(a, b)


def test_the_ends_of_auroc():
    low, high = np.array([0.0, 1.0]), np.array([2.0, 3.0])
    assert (auroc(low, high), auroc(high, low), auroc(low, low)) == (1.0, 0.0, 0.5)


def test_the_interval_holds_the_figure_narrows_with_queries_and_repeats():
    rng = np.random.default_rng(0)
    widths = []
    for n in (40, 640):
        benign = rng.normal(size=n)
        attacked = benign + rng.normal(0.8, 1.0, size=n)
        low, high = auroc_interval(benign, attacked, np.arange(n), seed=3)
        assert 0.5 < low < auroc(benign, attacked) < high < 1
        assert (low, high) == auroc_interval(benign, attacked, np.arange(n), seed=3)
        widths.append(high - low)
    assert widths[1] < 0.5 * widths[0]


def test_the_interval_draws_a_query_with_both_of_its_scores():
    """By hand: the same draws, each query's clean and attacked score together, some never attacked."""
    rng = np.random.default_rng(1)
    benign, rows = rng.normal(size=12), np.array([1, 4, 5, 9])
    attacked = benign[rows] + 0.5
    draws = np.random.default_rng(7).multinomial(12, np.full(12, 1 / 12), size=50)
    found = []
    for counts in draws:
        drawn = np.repeat(attacked, counts[rows])
        if len(drawn):
            found.append(auroc(np.repeat(benign, counts), drawn))
    wanted = np.quantile(found, [0.025, 0.975])
    assert auroc_interval(benign, attacked, rows, seed=7, samples=50) == pytest.approx(tuple(wanted))


def test_the_interval_covers_the_truth_about_as_often_as_it_says():
    rng, covered = np.random.default_rng(2), 0
    truth = 0.7602499389065233  # Phi(1 / sqrt(2)): N(1, 1) above N(0, 1)
    for seed in range(200):
        low, high = auroc_interval(
            rng.normal(size=60), rng.normal(1, 1, 60), np.arange(60), seed=seed, samples=300
        )
        covered += low <= truth <= high
    assert 0.88 <= covered / 200 <= 1


def test_a_share_is_of_what_lies_above_and_not_on_the_threshold():
    scores = np.array([0.0, 1.0, 1.0, 2.0])
    assert [share_above(scores, level) for level in (-1, 0, 1, 2)] == [1, 0.75, 0.25, 0]


@given(st.integers(1, 500), st.data())
def test_the_interval_of_a_share_is_wilsons(n, data):
    hits = data.draw(st.integers(0, n))
    low, high = share_interval(hits / n, n)
    truth = binomtest(hits, n).proportion_ci(0.95, method="wilson")
    assert (low, high) == pytest.approx((truth.low, truth.high), abs=1e-9)
    assert 0 <= low <= hits / n <= high <= 1


def test_what_is_no_score_is_refused():
    good, rows = np.array([1.0, 2.0]), np.array([0, 1])
    for bad in (np.zeros(0), np.array([np.nan]), np.array([np.inf]), np.zeros((2, 2))):
        for call in (
            lambda bad=bad: auroc(good, bad),
            lambda bad=bad: auroc(bad, good),
            lambda bad=bad: share_above(bad, 0.5),
        ):
            with pytest.raises(DataError, match="wanted finite scores"):
                call()
    for wrong in (np.array([0]), np.array([0, 2]), np.array([-1, 0])):
        with pytest.raises(DataError, match="a row below 2"):
            auroc_interval(good, good, wrong, seed=0)
    assert auroc_interval(good, good, rows, seed=0, samples=20)
    with pytest.raises(DataError, match="at least one draw"):
        share_interval(0.0, 0)
