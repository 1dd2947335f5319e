"""Intervals and verdicts against hand computation, scipy and simulation."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.testing import assert_allclose
from scipy import stats

from lvmlib.statistics import (
    Interval,
    _crossed_mean,
    answer_of,
    clustered_interval,
    expected_best,
    holm,
    rank_ranges,
    verdict,
)


def interval(low: float, high: float, seeds: int = 3) -> Interval:
    return Interval((low + high) / 2, low, high, 0.01, 5.0, 0.5, seeds, 20)


# --- one seed ---------------------------------------------------------------------


@pytest.mark.parametrize("windows_per_document", [1, 10])
def test_equal_documents_are_a_one_sample_t_test(windows_per_document):
    """Windows that repeat their document's value add no information."""
    values = np.random.default_rng(0).normal(0.1, 1, size=12)
    labels = np.array([f"article {i}" for i in range(12)])
    got = clustered_interval(
        np.repeat(values, windows_per_document),
        np.repeat(labels, windows_per_document),
    )
    expected = stats.ttest_1samp(values, 0)
    low, high = expected.confidence_interval(0.95)
    assert_allclose(got.estimate, values.mean())
    assert_allclose((got.low, got.high), (low, high))
    assert_allclose(got.p_value, expected.pvalue)
    assert_allclose(got.standard_error, values.std(ddof=1) / 12**0.5)
    assert_allclose(got.degrees_of_freedom, 11)
    assert (got.seeds, got.documents) == (1, 12)


def test_unequal_documents_by_hand():
    """Three windows of mean 0 and one of 4: the mean is over windows, so 1.

    Two documents differing by 4 have variance 8; weights 3/4 and 1/4 have squares
    summing to 5/8; 8 * 5/8 = 5. Less than one degree of freedom counts as one.
    """
    got = clustered_interval([-1, 0, 1, 4], ["a", "a", "a", "b"])
    assert_allclose(got.estimate, 1)
    assert_allclose(got.standard_error, 5**0.5)
    assert_allclose(got.degrees_of_freedom, 1)


def test_long_documents_leave_fewer_effective_documents():
    windows = [4, 2, 2, 1, 1]  # weights .4 .2 .2 .1 .1: squares sum to 0.26
    documents = np.repeat(np.arange(5), windows)
    values = np.random.default_rng(1).normal(size=10)
    got = clustered_interval(values, documents)
    assert_allclose(got.degrees_of_freedom, 1 / 0.26 - 1)


def test_standard_error_agrees_with_bootstrap_over_documents():
    rng = np.random.default_rng(2)
    windows = rng.integers(5, 60, size=200)
    documents = np.repeat(np.arange(200), windows)
    values = rng.normal(size=200)[documents] + rng.normal(size=len(documents))
    totals = np.bincount(documents, values)
    bootstrap = stats.bootstrap(
        (totals, windows),
        lambda total, count, axis: total.sum(axis) / count.sum(axis),
        paired=True,
        n_resamples=4000,
        method="percentile",
        rng=rng,
    )
    got = clustered_interval(values, documents)
    assert_allclose(got.standard_error, bootstrap.standard_error, rtol=0.07)
    naive = values.std(ddof=1) / len(values) ** 0.5
    assert got.standard_error > 2 * naive
    tolerance = 0.15 * got.standard_error
    assert_allclose(
        (got.low, got.high), bootstrap.confidence_interval, atol=tolerance, rtol=0
    )


# --- several seeds ----------------------------------------------------------------


def test_crossed_design_by_hand():
    """Seeds x documents [[1, 3], [2, 8], [3, 7]]; means 2, 5, 5 and 2, 6; all: 4.

    MS seeds 2 * (4 + 1 + 1) / 2 = 6, MS documents 3 * (4 + 4) / 1 = 24, MS
    interaction (1 + 1 + 1 + 1 + 0 + 0) / 2 = 2; variance (24 + 6 - 2) / 6.
    Seeds' share (6 - 2 / 2) / (24 + 6 - 2) = 5/28, on 2 degrees of freedom; the
    documents' 23/28 on 1.
    """
    table = np.array([[1, 3], [2, 8], [3, 7]], dtype=float)
    got = clustered_interval(table, ["a", "b"])
    assert_allclose(got.estimate, 4)
    assert_allclose(got.standard_error**2, 28 / 6)
    assert_allclose(got.degrees_of_freedom, 1 / (5 / 28 / 2 + 23 / 28))
    half = stats.t.ppf(0.975, 56 / 51) * (28 / 6) ** 0.5
    assert_allclose((got.low, got.high), (4 - half, 4 + half))
    assert_allclose(got.p_value, 2 * stats.t.sf(4 / (28 / 6) ** 0.5, 56 / 51))
    assert (got.seeds, got.documents) == (3, 2)


def test_windows_of_a_document_count_by_their_mean():
    table = np.array([[1, 3], [2, 8], [3, 7]], dtype=float)
    noise = np.array([-0.5, 0.2, 0.3])
    windows = np.concatenate([table[:, [0]] + noise, table[:, [1]] - noise], axis=1)
    got = clustered_interval(windows, [0, 0, 0, 1, 1, 1])
    want = clustered_interval(table, [0, 1])
    assert_allclose(got.standard_error, want.standard_error)
    assert_allclose(got.degrees_of_freedom, want.degrees_of_freedom)


def test_identical_seeds_add_nothing_to_one_seed():
    rng = np.random.default_rng(3)
    documents = rng.integers(0, 9, size=50)
    values = rng.normal(size=50)
    one = clustered_interval(values, documents)
    three = clustered_interval(np.stack([values] * 3), documents)
    assert_allclose((three.low, three.high), (one.low, one.high))
    assert (one.seeds, three.seeds) == (1, 3)


def test_seeds_alone_are_a_t_test_over_seeds():
    offsets = np.array([0.1, 0.4, 0.2])
    got = clustered_interval(np.repeat(offsets[:, None], 30, axis=1), np.arange(30))
    low, high = stats.ttest_1samp(offsets, 0).confidence_interval(0.95)
    assert_allclose((got.low, got.high), (low, high))


def test_variance_never_falls_below_either_part():
    """Pure interaction: the plain subtraction goes below both parts, even below 0."""
    noise = np.random.default_rng(4).normal(size=(2000, 3, 4))
    _, variance, freedom = _crossed_mean(noise, np.full(4, 10))
    documents = noise.mean(axis=1).var(axis=1, ddof=1) / 4
    seeds = noise.mean(axis=2).var(axis=1, ddof=1) / 3
    remainder = noise - noise.mean(axis=1, keepdims=True)
    remainder = remainder - remainder.mean(axis=2, keepdims=True)
    subtracted = documents + seeds - (remainder**2).sum(axis=(1, 2)) / (2 * 3 * 3 * 4)
    assert (subtracted < 0).any()
    floor = np.maximum(documents, seeds)
    assert_allclose(variance, np.maximum(subtracted, floor))
    assert ((freedom >= 2 - 1e-9) & (freedom <= 3 + 1e-9)).all()


def test_order_of_windows_and_seeds_does_not_matter():
    rng = np.random.default_rng(5)
    values, documents = rng.normal(size=(3, 40)), rng.integers(0, 6, size=40)
    shuffled = rng.permutation(40)
    a = clustered_interval(values, documents)
    b = clustered_interval(values[::-1, shuffled], documents[shuffled])
    assert_allclose((a.low, a.high, a.p_value), (b.low, b.high, b.p_value))


@pytest.mark.parametrize(("value", "p_value"), [(0.0, 1.0), (0.25, 0.0)])
def test_no_variation_at_all(value, p_value):
    got = clustered_interval(np.full((3, 8), value), np.repeat([0, 1], 4))
    assert (got.low, got.high, got.p_value) == (value, value, p_value)


# Shares of the mean's variance that seeds, documents and their interaction make.
REGIMES = {
    "seeds": (1, 0, 0),
    "mostly seeds": (0.9, 0.1, 0),
    "both": (0.5, 0.5, 0),
    "mostly documents": (0.1, 0.9, 0),
    "documents": (0, 1, 0),
    "documents and interaction": (0, 0.75, 0.25),
    "all three": (1 / 3, 1 / 3, 1 / 3),
}


@pytest.mark.parametrize("regime", REGIMES)
@pytest.mark.parametrize(
    ("documents", "spread"), [(20, 0), (100, 0), (100, 1), (500, 1)], ids=str
)
def test_coverage_at_three_seeds(regime, documents, spread):
    """95% intervals hold the truth in 93-97% of studies (Monte Carlo error 0.3%).

    Window counts are log-normal with this spread: 0 means equal documents.
    """
    rng = np.random.default_rng(7)
    studies, seeds = 6000, 3
    windows = np.ceil(60 * np.exp(spread * rng.standard_normal(documents)))
    squares = np.sum((windows / windows.sum()) ** 2)
    between_seeds, between_documents, interaction = REGIMES[regime]
    hits = 0
    for _ in range(studies // 500):
        means = (
            rng.normal(size=(500, seeds, 1)) * (between_seeds * seeds) ** 0.5
            + rng.normal(size=(500, 1, documents))
            * (between_documents / squares) ** 0.5
            + rng.normal(size=(500, seeds, documents))
            * (interaction * seeds / squares) ** 0.5
        )
        estimate, variance, freedom = _crossed_mean(means, windows)
        half = stats.t.ppf(0.975, freedom) * variance**0.5
        hits += np.count_nonzero(np.abs(estimate) <= half)
    assert 0.93 <= hits / studies <= 0.97


# --- bad input --------------------------------------------------------------------


@pytest.mark.parametrize(
    ("differences", "documents", "message"),
    [
        ([1.0, 2.0, 3.0], [0, 1], "shape"),
        (np.ones((2, 3)), [0, 1], "shape"),
        (np.ones((2, 2, 2)), [0, 1], "shape"),
        (1.0, [[0]], "shape"),
        ([1.0, 2.0], [4, 4], "at least 2"),
        ([], [], "at least 2"),
        ([1.0, np.nan], [0, 1], "1 NaN or infinite values of 2"),
        ([1.0, -np.inf], [0, 1], "NaN or infinite"),
    ],
)
def test_bad_input_is_named(differences, documents, message):
    with pytest.raises(ValueError, match=message):
        clustered_interval(differences, documents)


# --- Holm, verdicts, ranks, text --------------------------------------------------


def test_holm_by_hand():
    """Sorted .005 .01 .03 .04, times 4 3 2 1: .02 .03 .06 .04; never decreasing."""
    assert_allclose(holm([0.01, 0.04, 0.03, 0.005]), [0.03, 0.06, 0.06, 0.02])
    assert_allclose(holm([0.6, 0.7]), [1, 1])
    assert_allclose(holm([0.02]), [0.02])
    assert holm([]).size == 0


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.004, 0.005, "equivalent"),
        (0.001, 0.004, "equivalent"),  # the order: before "improves"
        (0.001, 0.006, "improves"),
        (-0.020, -0.001, "regresses"),
        (-0.001, 0.006, "inconclusive"),
        (-0.006, 0.001, "inconclusive"),
    ],
)
def test_verdicts_in_order(low, high, expected):
    assert verdict(interval(low, high)) == expected
    assert verdict(interval(low, high, seeds=1)) == "no verdict (one seed)"


def test_verdict_adjustment():
    assert verdict(interval(0.01, 0.02), adjusted_p=0.04) == "improves"
    assert verdict(interval(0.01, 0.02), adjusted_p=0.06) == "inconclusive"
    assert verdict(interval(0.001, 0.004), adjusted_p=0.06) == "equivalent"


def test_rank_ranges_by_hand():
    """Differences from b: a is 1 above, d 1 below; c is level with b."""
    rng = np.random.default_rng(8)
    base, noise = rng.normal(size=(3, 40)), 0.01 * rng.normal(size=(4, 3, 40))
    scores = {
        "c": base + noise[0] - noise[0].mean(),
        "a": base + 1 + noise[1],
        "d": base - 1 + noise[2],
        "b": base + noise[3] - noise[3].mean(),
    }
    ranges = rank_ranges(scores, np.repeat(np.arange(20), 2))
    assert ranges == {"c": (2, 3), "a": (1, 1), "d": (4, 4), "b": (2, 3)}
    assert list(ranges) == list(scores)


def test_ranks_need_holm_over_the_pairs():
    """x beats y at p = 0.04, which orders two names but not three."""
    pattern = np.tile([1.0, -1.0], 10)  # mean 0, standard deviation d
    t = stats.t.isf(0.02, 19)
    x = pattern + t * pattern.std(ddof=1) / 20**0.5
    y = np.zeros(20)
    z = 3 * np.repeat([1.0, -1.0], 10)
    assert_allclose(clustered_interval(x - y, np.arange(20)).p_value, 0.04)
    assert rank_ranges({"y": y, "x": x}, np.arange(20)) == {"y": (2, 2), "x": (1, 1)}
    three = rank_ranges({"y": y, "x": x, "z": z}, np.arange(20))
    assert three == {"y": (1, 3), "x": (1, 3), "z": (1, 3)}


def test_ranks_of_one_name_and_of_unlike_shapes():
    assert rank_ranges({"only": np.arange(4)}, [0, 0, 1, 1]) == {"only": (1, 1)}
    with pytest.raises(ValueError, match="one shape"):
        rank_ranges({"a": np.zeros(4), "b": np.zeros((2, 4))}, [0, 0, 1, 1])


def test_expected_best_is_the_mean_over_all_draws():
    scores = [0.3, 0.1, 0.7]
    found = expected_best(scores)
    for k in (1, 2, 3):
        draws = list(itertools.product(scores, repeat=k))
        assert found[k - 1] == pytest.approx(np.mean([max(d) for d in draws]))


def test_a_difference_reaches_a_margin_only_with_its_whole_interval():
    assert answer_of(0.003, 0.004, 0.002) == "yes"
    assert answer_of(-0.001, 0.001, 0.002) == "no"
    assert answer_of(0.001, 0.003, 0.002) == "undecided"
    assert answer_of(0.003, 0.004, 0.002, seeds=1) == "no verdict (one seed)"
