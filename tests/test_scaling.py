"""Learning curves against known parameters, another optimiser."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
from numpy.testing import assert_allclose
from scipy.optimize import least_squares

from lvmlib import scaling
from lvmlib.scaling import fit_logarithm, fit_power_law, held_out_error

SIZES = np.array([5_000, 10_000, 20_000, 40_000, 80_634, 160_000, 232_605])
NOISE = 0.0005


def gain(fit, times=10):
    """Return what the fitted curve gives `times` as much data as the largest size."""
    here, there = fit.predict([SIZES[-1], times * SIZES[-1]])
    return here - there


def power_law(sizes, floor=0.40, scale=0.90, alpha=0.30):
    return floor + scale * np.asarray(sizes, dtype=float) ** -alpha


def logarithm(sizes, a=0.58, b=0.013):
    return a - b * np.log(sizes)


# --- the two forms -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("floor", "scale", "alpha"),
    [(0.40, 0.90, 0.30), (0.30, 0.50, 0.15), (0.41, 50, 0.8), (0.42, 2e6, 2.0)],
)
def test_power_law_is_recovered_without_noise(floor, scale, alpha):
    got = fit_power_law(SIZES, power_law(SIZES, floor, scale, alpha))
    expected = {"E": floor, "A": scale, "alpha": alpha}
    for name, value in expected.items():
        assert_allclose(got.parameters[name], value, rtol=1e-6)
    assert (got.agreeing, got.at_bound) == (1, ())
    assert got.residual < 1e-9
    later = power_law([232_605, 2_326_050], floor, scale, alpha)
    assert_allclose(got.predict([232_605, 2_326_050]), later, rtol=1e-9)
    assert_allclose(gain(got), later[0] - later[1], rtol=1e-6)


def test_logarithm_is_recovered_without_noise():
    got = fit_logarithm(SIZES, logarithm(SIZES))
    assert_allclose([got.parameters["a"], got.parameters["b"]], [0.58, 0.013])
    assert (got.agreeing, got.at_bound) == (1, ())
    assert_allclose(gain(got), 0.013 * np.log(10))
    assert_allclose(gain(got, 2), 0.013 * np.log(2))


def test_noisy_fit_is_that_of_another_optimiser():
    """Scipy's least squares has Huber's loss too, by another algorithm."""
    random = np.random.default_rng(3)
    losses = power_law(SIZES) + random.normal(0, NOISE, len(SIZES))

    def residuals(theta):
        floor, fall, alpha = theta
        fitted = floor + fall * (SIZES / 40_000) ** -alpha
        return np.log(fitted / losses) / 1e-3

    found = least_squares(
        residuals, [0.3, 0.1, 0.5], loss="huber", ftol=1e-12, xtol=1e-12, max_nfev=9999
    )
    floor, fall, alpha = found.x
    got = fit_power_law(SIZES, losses)
    assert_allclose(got.parameters["E"], floor, rtol=1e-4)
    assert_allclose(got.parameters["A"], fall * 40_000**alpha, rtol=1e-3)
    assert_allclose(got.parameters["alpha"], alpha, rtol=1e-3)
    logs = residuals(found.x) * 1e-3
    assert_allclose(got.residual, np.sqrt(np.mean(logs**2)), rtol=1e-3)


def test_a_run_that_failed_hardly_moves_the_fit():
    """Of three runs at one size one has lost 0.1: their mean would be off by 0.033."""
    sizes = np.append(np.repeat(SIZES, 2), 20_000)
    losses = power_law(sizes)
    losses[-1] += 0.1
    got = fit_power_law(sizes, losses)
    assert_allclose(got.predict(SIZES), power_law(SIZES), atol=5e-4)
    assert got.residual > 0.04  # but it is seen


def test_starts_that_disagree_are_counted(monkeypatch):
    """From E near the loss and alpha at 3, the search ends in another valley."""
    sizes = np.array([1, 10, 100, 1000, 10_000])
    losses = np.array([0.9, 0.5, 0.5, 0.5, 0.2])

    def fit_from(*starts):
        monkeypatch.setattr(scaling, "product", lambda *_: starts)
        return fit_power_law(sizes, losses)

    near, far = (0.0, 0.1), (0.49, 3.0)
    assert fit_from(near).predict(sizes)[-1] < 0.4 < fit_from(far).predict(sizes)[-1]
    assert fit_from(near, far).agreeing == 0.5


# --- which form predicts better ----------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_each_form_predicts_its_own_data_better(seed):
    noise = np.random.default_rng(seed).normal(0, NOISE, len(SIZES))
    falling, straight = power_law(SIZES) + noise, logarithm(SIZES) + noise
    assert 0.42 < falling.min() < falling.max() < 0.48
    assert 0.41 < straight.min() < straight.max() < 0.48

    power = held_out_error(fit_power_law, SIZES, falling)
    line = held_out_error(fit_logarithm, SIZES, falling)
    assert abs(power) < abs(line)
    assert line < -0.002  # the line falls on, the data do not
    assert fit_power_law(SIZES, falling).residual < 0.002
    assert fit_logarithm(SIZES, falling).residual > 0.004
    assert_allclose(gain(fit_power_law(SIZES, falling)), 0.011, atol=0.004)

    assert abs(held_out_error(fit_logarithm, SIZES, straight)) < 0.002
    got = fit_power_law(SIZES, straight)  # has no floor to find
    assert got.parameters["E"] < 0.25
    assert fit_logarithm(SIZES, straight).residual < got.residual + 1e-4


def test_held_out_error_by_hand():
    """Six losses on a line and a last one 0.01 above it."""
    sizes = np.append(SIZES[:6], 640_000)
    losses = logarithm(sizes) + np.array([0] * 6 + [0.01])
    assert_allclose(held_out_error(fit_logarithm, sizes, losses), -0.01)


def test_held_out_error_needs_five_sizes():
    assert np.isnan(held_out_error(fit_power_law, SIZES[:4], power_law(SIZES[:4])))


# --- degenerate input --------------------------------------------------------------


@pytest.mark.parametrize(
    "losses",
    [np.full(7, 0.44), np.linspace(0.42, 0.47, 7)],
    ids=["flat", "rising"],
)
def test_a_curve_that_does_not_fall_is_flagged(losses):
    got = fit_power_law(SIZES, losses)
    assert got.at_bound == ("A",)
    assert got.parameters["A"] == 0
    assert np.isnan(got.parameters["alpha"])
    assert gain(got) == 0
    assert losses.min() <= got.parameters["E"] <= losses.max()
    assert_allclose(got.predict(SIZES), got.parameters["E"])


def test_a_rising_curve_has_a_loss_and_no_gain_in_the_logarithm():
    got = fit_logarithm(SIZES, logarithm(SIZES, b=-0.01))
    assert_allclose(got.parameters["b"], -0.01)
    assert_allclose(gain(got), -0.01 * np.log(10))


def test_a_curve_without_floor_is_flagged():
    got = fit_power_law(SIZES, power_law(SIZES, floor=0, scale=0.6, alpha=0.03))
    assert got.at_bound == ("E",)
    assert_allclose(got.parameters["alpha"], 0.03, rtol=1e-6)


def test_an_exponent_out_of_range_is_flagged():
    steep = fit_power_law(SIZES, power_law(SIZES, scale=5e12, alpha=4.0))
    assert steep.at_bound == ("alpha",)
    assert_allclose(steep.parameters["alpha"], 3)


def test_more_seeds_of_a_size_do_not_bend_the_curve():
    cosines = {5: 0.40, 10: 0.50, 20: 0.51, 40: 0.56}
    one = pd.DataFrame(cosines.items(), columns=["size", "test_cosine"])
    one = one.assign(entry="amn", status="trained", seed=0, baseline_ridge_cosine=0.5)
    more = [one[one["size"] == 10].assign(seed=seed) for seed in range(1, 5)]
    found = [scaling.fit_study(runs) for runs in (one, pd.concat([one, *more]))]
    pd.testing.assert_frame_equal(*found, atol=1e-6)
    assert len(found[0]) == 4  # two forms of amn and of ridge
