"""Learning curves: loss 1 − cosine against the size D of the training set.

Two forms are fitted beside each other, since learning curves have no universal one
(Viering & Loog 2021, arXiv 2103.10948): a power law that falls to a floor, and a
straight line in log D, which has none. They describe the sizes at hand; what each says
of a size that it was not fitted to (`held_out_error`) shows how little they predict.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product

import numpy as np
import pandas as pd
from numpy.typing import ArrayLike
from scipy.optimize import minimize

from lvmlib.results import scores_by_size

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
    log(loss / fitted loss). `converged` is the optimiser's word for the best of
    `starts` starting points, and `agreeing` of them ended at its objective.
    `at_bound` names the parameters at their bound: such a fit has not found them.
    """

    form: str
    parameters: dict[str, float]
    largest: float
    residual: float
    converged: bool
    starts: int
    agreeing: int
    at_bound: tuple[str, ...] = ()

    def predict(self, sizes: ArrayLike) -> np.ndarray:
        """Return the fitted losses at `sizes`, in their shape."""
        sizes, values = np.asarray(sizes, dtype=np.float64), self.parameters
        if self.form == "logarithm":
            return values["a"] - values["b"] * np.log(sizes)
        if values["A"] == 0:  # then alpha is NaN
            return np.full(sizes.shape, values["E"])
        return values["E"] + values["A"] * sizes ** -values["alpha"]


def fit_power_law(
    sizes: ArrayLike,
    losses: ArrayLike,
    starts: Iterable[tuple[float, float]] | None = None,
) -> CurveFit:
    """Fit L(D) = E + A·D^(−alpha) with E ≥ 0, A ≥ 0 and 0.001 ≤ alpha ≤ 3.

    Huber's loss of log residuals from a grid of starts (Hoffmann et al. 2022, arXiv
    2203.15556), with what shows whether it can be believed (Besiroglu et al. 2024,
    arXiv 2404.10102): `converged`, `agreeing`, `at_bound`.

    Parameters
    ----------
    sizes, losses : (N,)
        A point a run, or a point a size; sizes may repeat.
    starts : pairs of E and alpha, optional
        Instead of the grid of 16. A starts where the mean loss is met.

    Returns
    -------
    CurveFit
        A curve that does not fall has A = 0, at its bound, and alpha NaN.

    Raises
    ------
    ValueError
        Fewer than 4 different sizes, or values not finite and above zero.
    """
    sizes, losses = _points(sizes, losses, least=4, form="a power law")
    # A is the loss above the floor at one vector, far outside the data and bound up
    # with alpha; the search uses that loss at the centre of the sizes instead.
    centre = np.log(sizes).mean()
    u = np.log(sizes) - centre

    def curve(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        floor, fall, alpha = theta
        power = np.exp(-alpha * u)
        slopes = [np.ones_like(u), power, -fall * u * power]
        return floor + fall * power, np.stack(slopes)

    if starts is None:
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
    return CurveFit("power law", values, float(sizes.max()), **found, at_bound=at_bound)


def fit_logarithm(
    sizes: ArrayLike, losses: ArrayLike, starts: Iterable[float] | None = None
) -> CurveFit:
    """Fit L(D) = a − b·log D as `fit_power_law` does.

    From two starts, the line through the losses and a flat one, or from `starts`,
    values of b. There is no bound: b is negative when the loss rises. Raises ValueError
    with fewer than 3 different sizes, or values not finite and above zero.
    """
    sizes, losses = _points(sizes, losses, least=3, form="a logarithm")
    centre = np.log(sizes).mean()
    u = np.log(sizes) - centre

    def curve(theta: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        return theta[0] - theta[1] * u, np.stack([np.ones_like(u), -u])

    if starts is None:
        starts = [-np.polyfit(u, losses, 1)[0], 0.0]
    first = [(losses.mean(), b) for b in starts]
    (level, b), found = _search(curve, losses, first, [(None, None)] * 2)
    values = {"a": float(level + b * centre), "b": float(b)}
    return CurveFit("logarithm", values, float(sizes.max()), **found)


def held_out_error(
    fit: Callable[[ArrayLike, ArrayLike], CurveFit],
    sizes: ArrayLike,
    losses: ArrayLike,
) -> float:
    """Return predicted − measured mean loss at the largest size, fitted without it.

    Below zero: the form promised more than the data gave. NaN with fewer than 5 sizes.
    """
    sizes, losses = (np.asarray(x, dtype=np.float64) for x in (sizes, losses))
    last = sizes == sizes.max()
    if len(np.unique(sizes[~last])) < 4:
        return float("nan")
    prediction = fit(sizes[~last], losses[~last]).predict(sizes.max())
    return float(prediction - losses[last].mean())


@dataclass(frozen=True)
class ResampledCurve:
    """A learning curve with the refits that its intervals are taken from.

    `draws` has a row a refit: the form's parameters (alpha is NaN where A is 0),
    `converged` and `at_bound`.
    `seed_deviation` is the standard deviation of log loss between seeds of one size:
    NaN when no size has two, and then the intervals are over documents only.
    """

    fit: CurveFit
    held_out_error: float
    draws: pd.DataFrame
    seed_deviation: float
    level: float

    def interval(self, name: str) -> tuple[float, float]:
        """Return the percentile interval of a column of `draws`, without NaN."""
        tail = (1 - self.level) / 2
        low, high = self.draws[name].quantile([tail, 1 - tail])
        return float(low), float(high)


def resample_curves(
    scores: Mapping[int, ArrayLike],
    documents: ArrayLike,
    refits: int = 400,
    level: float = 0.95,
    seed: int = 0,
) -> dict[str, ResampledCurve]:
    """Fit both forms, and refit them to resampled documents and redrawn seeds.

    Each is fitted to the mean loss of each size.

    Parameters
    ----------
    scores : size to (S, W)
        Test cosines of each size's runs; S may differ, the W windows are the same.
    documents : (W,)
        The document of each window: any labels.

    Returns
    -------
    dict
        "power law" and "logarithm", each a `ResampledCurve`.

    Raises
    ------
    ValueError
        Fewer than 4 sizes or 2 documents, shapes that do not match, scores that are
        not finite.

    Notes
    -----
    All sizes share the exam, so each resample of documents serves all of them. Seeds
    are redrawn, not resampled: most sizes have one or three, which cannot show their
    own spread. The variance of log loss between seeds is pooled over the sizes, and
    drawn anew for each refit (scaled inverse chi-squared), so that a few degrees of
    freedom widen the interval as in a t interval. Sizes are taken as independent, and
    the interaction of seeds and documents is counted twice. Simulated 95% intervals, of
    80 refits at seven sizes, cover 91-100% for E, A and alpha, with 3 seeds at two of
    the sizes or 5 at all.
    """
    sizes, sums, windows = _document_sums(scores, documents)
    deviation, freedom = _seed_deviation(sizes, sums.sum(axis=1))
    random = np.random.default_rng(seed)
    many = random.multinomial(
        len(windows), np.ones(len(windows)) / len(windows), refits
    )
    samples = (many @ sums.T) / (many @ windows)[:, None]  # (refits, R)
    if freedom:  # curves share the documents, not the noise of their seeds
        random = np.random.default_rng([seed, zlib.crc32(sums.tobytes())])
        sigma = deviation * np.sqrt(freedom / random.chisquare(freedom, (refits, 1)))
        samples = samples * np.exp(sigma * random.standard_normal(samples.shape))

    # A point a size: where neither form fits, a size must not pull the curve towards
    # itself because more seeds of it were trained.
    sizes, size_of = np.unique(sizes, return_inverse=True)
    share = (size_of[:, None] == np.arange(len(sizes))) / np.bincount(size_of)  # (R, N)
    samples, losses = samples @ share, sums.sum(axis=1) / windows.sum() @ share
    curves = {}
    for fit in (fit_power_law, fit_logarithm):
        point, error = fit(sizes, losses), held_out_error(fit, sizes, losses)
        refit = _from_near(point)
        draws = pd.DataFrame([_draw(refit, sizes, sample) for sample in samples])
        curves[point.form] = ResampledCurve(point, error, draws, deviation, level)
    return curves


def _from_near(point: CurveFit) -> Callable[[ArrayLike, ArrayLike], CurveFit]:
    """Return the form's fit with starts near `point` instead of those from afar.

    The distant starts take most of the time, and serve only where the near one fails,
    or ends at a bound that `point`, found from everywhere, is not at.
    """
    if point.form == "logarithm":
        return partial(fit_logarithm, starts=[point.parameters["b"]])
    floor, alpha = point.parameters["E"], point.parameters["alpha"]
    near = [] if np.isnan(alpha) else [(floor, alpha)]
    distant = [(0.0, 0.03), (0.9 * point.predict(point.largest), 0.3)]

    def fit(sizes: ArrayLike, losses: ArrayLike) -> CurveFit:
        if near:
            found = fit_power_law(sizes, losses, starts=near)
            if found.converged and found.at_bound in ((), point.at_bound):
                return found
        return fit_power_law(sizes, losses, starts=near + distant)

    return fit


def _draw(
    fit: Callable[[ArrayLike, ArrayLike], CurveFit],
    sizes: np.ndarray,
    losses: np.ndarray,
) -> dict:
    found = fit(sizes, losses)
    return found.parameters | {
        "converged": found.converged,
        "at_bound": ", ".join(found.at_bound),
    }


def _points(
    sizes: ArrayLike, losses: ArrayLike, least: int, form: str
) -> tuple[np.ndarray, np.ndarray]:
    sizes, losses = (np.asarray(x, dtype=np.float64) for x in (sizes, losses))
    if sizes.ndim != 1 or sizes.shape != losses.shape:
        raise ValueError(
            f"sizes have shape {sizes.shape} and losses {losses.shape}; expected one "
            "loss for each size, both (N,)."
        )
    good = np.isfinite(sizes) & np.isfinite(losses) & (sizes > 0) & (losses > 0)
    if not good.all():
        raise ValueError(
            f"{np.count_nonzero(~good)} of {good.size} points have a size or loss that "
            "is not finite and above zero; leave out runs that failed."
        )
    found = len(np.unique(sizes))
    if found < least:
        raise ValueError(
            f"{form} needs at least {least} different sizes, one more than it has "
            f"parameters, found {found}: two sizes cannot identify it."
        )
    return sizes, losses


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
        "converged": bool(best.success),
        "starts": len(ends),
        "agreeing": int(np.sum([end.fun <= enough for end in ends])),
    }


def _document_sums(
    scores: Mapping[int, ArrayLike], documents: ArrayLike
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return sizes (R,) and summed losses (R, J) of all runs, and windows (J,)."""
    names, inverse = np.unique(np.asarray(documents), return_inverse=True)
    windows = np.bincount(inverse)
    if len(names) < 2:
        raise ValueError(
            f"the test windows come from {len(names)} document(s); resampling "
            "documents needs at least 2."
        )
    sizes, sums = [], []
    for size, values in scores.items():
        for row in np.atleast_2d(np.asarray(values, dtype=np.float64)):
            if row.shape != inverse.shape or not np.isfinite(row).all():
                raise ValueError(
                    f"scores of size {size} have shape {np.shape(values)}; expected "
                    f"(seeds, {len(inverse)}), finite, as there are that many windows."
                )
            sizes.append(size)
            sums.append(np.bincount(inverse, 1 - row))
    return np.array(sizes, dtype=np.float64), np.array(sums), windows


def _seed_deviation(sizes: np.ndarray, totals: np.ndarray) -> tuple[float, int]:
    """Return the pooled deviation of log losses within sizes, and its freedom."""
    groups = [np.log(totals[sizes == size]) for size in np.unique(sizes)]
    freedom = len(sizes) - len(groups)
    if freedom == 0:
        return float("nan"), 0
    squares = sum(np.sum((group - group.mean()) ** 2) for group in groups)
    return float(np.sqrt(squares / freedom)), freedom


def fit_study(runs: pd.DataFrame, refits: int = 400) -> pd.DataFrame:
    """Fit both forms to ridge and to every entry of a study with enough sizes.

    Returns
    -------
    DataFrame
        name, form; E, A, alpha or a, b with intervals; residual, held_out_error,
        agreeing (share of the optimiser's starts), converged (share of the refits) and
        at_bound (parameters that the fit did not find).
    """
    rows = []
    for name in [*runs["entry"].unique(), "ridge"]:
        scores, documents = scores_by_size(runs, name)
        if len(scores) < LEAST:
            continue
        for form, curve in resample_curves(scores, documents, refits).items():
            row = {"name": name, "form": form}
            for key, value in curve.fit.parameters.items():
                low, high = curve.interval(key)
                row |= {key: value, f"{key}_low": low, f"{key}_high": high}
            row |= {"residual": curve.fit.residual}
            row |= {"held_out_error": curve.held_out_error}
            row |= {"agreeing": curve.fit.agreeing / curve.fit.starts}
            row |= {"converged": curve.draws["converged"].mean()}
            rows.append(row | {"at_bound": ", ".join(curve.fit.at_bound)})
    return pd.DataFrame(rows)
