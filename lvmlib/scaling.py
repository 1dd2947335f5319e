"""Learning curves: loss 1 − cosine against the size D of the training set.

Two forms are fitted beside each other, since learning curves have no universal one
(Viering & Loog 2021, arXiv 2103.10948): a power law that falls to a floor, and a
straight line in log D, which has none. They describe the sizes at hand; what each says
of a size that it was not fitted to (`held_out_error`) shows how little they predict.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from lvmlib.results import baseline_means

DELTA = 1e-3  # log loss; Huber's threshold in Hoffmann et al.
ALPHA = (1e-3, 3.0)  # bounds; lower is a straight line in log D, higher one single step
FLOORS = (0.0, 0.5, 0.9, 0.99)  # starting values of E, as shares of the lowest loss
EXPONENTS = (0.03, 0.1, 0.3, 1.0)  # starting values of alpha
LEAST = 4  # sizes that a power law needs, one more than it has parameters
FLAT = 1e-6  # loss; a curve that falls less over all its sizes does not fall


@dataclass(frozen=True)
class CurveFit:
    """A fitted learning curve; a loss is 1 − cosine.

    `form` is "power law", E + A·D^(−alpha), or "logarithm", a − b·log D, and
    `parameters` has those names. `residual` is the root mean square of
    log(loss / fitted loss). `agreeing` is the share of starting points that ended at
    the best objective. `at_bound` names the parameters at their bound: such a fit has
    not found them.
    """

    form: str
    parameters: dict[str, float]
    residual: float
    agreeing: float
    at_bound: tuple[str, ...] = ()

    def predict(self, sizes: ArrayLike) -> np.ndarray:
        """Return the fitted losses at `sizes`, in their shape."""
        sizes, values = np.asarray(sizes, dtype=np.float64), self.parameters
        if self.form == "logarithm":
            return values["a"] - values["b"] * np.log(sizes)
        if values["A"] == 0:  # then alpha is NaN
            return np.full(sizes.shape, values["E"])
        return values["E"] + values["A"] * sizes ** -values["alpha"]


def fit_power_law(sizes: np.ndarray, losses: np.ndarray) -> CurveFit:
    """Fit L(D) = E + A·D^(−alpha) with E ≥ 0, A ≥ 0 and 0.001 ≤ alpha ≤ 3.

    Huber's loss of log residuals from a grid of starts (Hoffmann et al. 2022, arXiv
    2203.15556), with what shows whether it can be believed (Besiroglu et al. 2024,
    arXiv 2404.10102): `agreeing`, `at_bound`. Sizes and losses, (N,), are of at least
    LEAST sizes. A curve that does not fall has A = 0, at its bound, and alpha NaN.
    """
    # A is the loss above the floor at one vector, far outside the data and bound up
    # with alpha; the search uses that loss at the centre of the sizes instead.
    centre = np.log(sizes).mean()
    u = np.log(sizes) - centre

    def curve(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        floor, fall, alpha = theta
        power = np.exp(-alpha * u)
        slopes = [np.ones_like(u), power, -fall * u * power]
        return floor + fall * power, np.stack(slopes)

    starts = product(np.multiply(FLOORS, losses.min()), EXPONENTS)
    first = [(e, max(losses.mean() - e, FLAT), alpha) for e, alpha in starts]
    bounds = [(0, None), (0, None), ALPHA]
    (floor, fall, alpha), found = _search(curve, losses, first, bounds)
    ends = floor + fall * np.exp(-alpha * np.array([u.min(), u.max()]))
    if ends[0] - ends[1] < FLAT:
        values = {"E": float(ends.mean()), "A": 0.0, "alpha": float("nan")}
        at_bound: tuple[str, ...] = ("A",)
    else:
        scale = float(fall * np.exp(alpha * centre))
        values = {"E": float(floor), "A": scale, "alpha": float(alpha)}
        edges = [("E", floor < FLAT), ("alpha", np.isclose(alpha, ALPHA).any())]
        at_bound = tuple(name for name, reached in edges if reached)
    return CurveFit("power law", values, **found, at_bound=at_bound)


def fit_logarithm(sizes: np.ndarray, losses: np.ndarray) -> CurveFit:
    """Fit L(D) = a − b·log D as `fit_power_law` does.

    From two starts, the line through the losses and a flat one. There is no bound: b is
    negative when the loss rises.
    """
    centre = np.log(sizes).mean()
    u = np.log(sizes) - centre

    def curve(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[0] - theta[1] * u, np.stack([np.ones_like(u), -u])

    first = [(losses.mean(), b) for b in (-np.polyfit(u, losses, 1)[0], 0.0)]
    (level, b), found = _search(curve, losses, first, [(None, None)] * 2)
    values = {"a": float(level + b * centre), "b": float(b)}
    return CurveFit("logarithm", values, **found)


def held_out_error(
    fit: Callable[[np.ndarray, np.ndarray], CurveFit],
    sizes: np.ndarray,
    losses: np.ndarray,
) -> float:
    """Return predicted − measured loss at the last, largest size, fitted without it.

    Below zero: the form promised more than the data gave. NaN where too few are left.
    """
    if len(sizes) <= LEAST:
        return float("nan")
    return float(fit(sizes[:-1], losses[:-1]).predict(sizes[-1]) - losses[-1])


def _search(
    curve: Callable[[np.ndarray], tuple[np.ndarray, np.ndarray]],
    losses: np.ndarray,
    starts: list[tuple[float, ...]],
    bounds: list[tuple[float | None, float | None]],
) -> tuple[np.ndarray, dict]:
    """Minimise Huber's loss of log residuals; `curve` gives (N,) and slopes (P, N)."""
    logs = np.log(losses)
    unit = np.array([0.01, 0.01, 0.1][: len(bounds)])  # steps of like effect

    def objective(x: np.ndarray) -> tuple[float, np.ndarray]:
        fitted, slopes = curve(x * unit)
        fitted = np.maximum(fitted, 1e-12)  # a step too far may go below zero
        # In units of DELTA and summed: where the objective is small, its tolerance
        # stops the search early, as in Hoffmann et al.'s fit (Besiroglu et al.).
        z = (np.log(fitted) - logs) / DELTA
        huber = np.where(np.abs(z) <= 1, z**2 / 2, np.abs(z) - 0.5).sum()
        return huber, slopes @ (np.clip(z, -1, 1) / DELTA / fitted) * unit

    # SLSQP reaches bounds exactly, where least_squares only creeps up to them.
    settings = {
        "jac": True,
        "method": "SLSQP",
        "bounds": [
            [b and b / s for b in pair] for pair, s in zip(bounds, unit, strict=True)
        ],
        "options": {"maxiter": 1000, "ftol": 1e-12},
    }
    ends = [minimize(objective, start / unit, **settings) for start in starts]
    best = min(ends, key=lambda end: end.fun)
    enough = best.fun + 1e-6 * (1 + best.fun)
    fitted = curve(best.x * unit)[0]
    return best.x * unit, {
        "residual": float(np.sqrt(np.mean((np.log(fitted) - logs) ** 2))),
        "agreeing": float(np.mean([end.fun <= enough for end in ends])),
    }


def fit_study(runs: pd.DataFrame) -> pd.DataFrame:
    """Fit both forms to ridge and to every entry of a study with enough sizes.

    Each to a point a size, the mean loss of its seeds: a size must not pull the curve
    towards itself because more seeds of it were trained.

    Returns
    -------
    DataFrame
        name, form; E, A, alpha or a, b; residual, held_out_error, agreeing (share of
        the optimiser's starts) and at_bound (parameters that the fit did not find).
    """
    trained = runs[runs["status"] == "trained"].groupby("entry", sort=False)
    curves = {n: cell.groupby("size")["test_cosine"].mean() for n, cell in trained}
    curves["ridge"] = baseline_means(runs)["ridge"]
    rows = []
    for name, cosines in curves.items():
        if len(cosines) < LEAST:
            continue
        sizes, losses = cosines.index.to_numpy(float), 1 - cosines.to_numpy()
        for fit in (fit_power_law, fit_logarithm):
            curve = fit(sizes, losses)
            row = {"name": name, "form": curve.form} | curve.parameters
            row |= {"residual": curve.residual}
            row |= {"held_out_error": held_out_error(fit, sizes, losses)}
            row |= {"agreeing": curve.agreeing}
            rows.append(row | {"at_bound": ", ".join(curve.at_bound)})
    return pd.DataFrame(rows)
