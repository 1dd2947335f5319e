"""Scores of predictions on windows, and the baselines that every table shows.

Retrieval ranks the true target among the test vectors by cosine to the prediction,
among those of its document and among all; with the window's own context left out, and
left in, where a prediction that copies its context ranks that first.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial

import numpy as np
import pandas as pd
from scipy.linalg import cho_factor, cho_solve

from lvmlib.vectors import Dataset

BASELINES = {
    "last_vector": "last vector",
    "context_average": "context average",
    "five_weights": "five weights",
    "six_numbers": "six numbers",
    "ridge": "ridge",
    "mean_vector": "mean vector",
}
PAIRED_BASELINES = ("six_numbers", "ridge")  # that every network is set against
RANKINGS = ("document", "all", "document_with_context", "all_with_context")
TIE = 1e-6  # similarities nearer than this are equal; float32 rounds at about 1e-7
STEP, LIMIT = 0.5, 3.0  # ridge's search for λ, in powers of ten of its unit
BLOCK = 512  # windows gathered at a time
SIMILARITIES = 4_000_000  # entries of a block of similarities, 16 MB


def cosine(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the cosines of the rows of `a` and `b`, both (W, D), as (W,) float64.

    A zero vector has cosine 0. Raises ValueError if the shapes differ or a value is
    not finite.
    """
    a, b = np.asarray(a), np.asarray(b)
    if a.ndim != 2 or a.shape != b.shape:
        raise ValueError(f"expected two arrays (W, D), found {a.shape} and {b.shape}.")
    if not (np.isfinite(a).all() and np.isfinite(b).all()):
        raise ValueError("vectors have NaN or infinite values: the model diverged.")
    return np.einsum("wd,wd->w", _unit(a), _unit(b), dtype=np.float64)


def score_windows(
    raw: np.ndarray, dataset: Dataset, windows: np.ndarray
) -> pd.DataFrame:
    """Score the raw predictions (W, D) of windows (W, C + 1), one row a window.

    Candidates are the unique vectors that occur in `windows`. A rank is the number of
    candidates at least as similar as the target: 1 is best, and ties count against
    the prediction, so that a zero vector ranks last.

    Returns
    -------
    DataFrame
        `document` (position in `dataset.documents`) and `row` of the target; `cosine`;
        `squared_error`, the mean over dimensions of (raw − target)², as in training;
        `rank_document`, `rank_all` and both `…_with_context`; `contrastive`, the share
        of other documents' targets farther from the prediction than the truth, ties
        counted half (Large Concept Models, arXiv 2412.08821; chance is 0.5).

    Raises
    ------
    ValueError
        If shapes do not fit, a prediction is not finite, or there is one document only.
    """
    raw, windows = np.asarray(raw, dtype=np.float32), _checked(windows)
    if raw.shape != (len(windows), dataset.dim):
        raise ValueError(
            f"predictions have shape {raw.shape}, expected one vector for each window, "
            f"({len(windows)}, {dataset.dim})."
        )
    rows, columns = np.unique(windows, return_inverse=True)
    columns = columns.reshape(windows.shape)  # where each vector is among candidates
    documents = dataset.document_of(rows)  # (K,)
    is_target = np.isin(rows, windows[:, -1])
    if len(np.unique(documents[is_target])) < 2:
        raise ValueError("all targets are of one document, contrastive needs two.")
    candidates = _unit(dataset.gather(rows))  # (K, D)
    blocks = []
    for part in _blocks(len(windows), max(1, SIMILARITIES // len(rows))):
        target = dataset.gather(windows[part, -1])
        scores = {
            "document": documents[columns[part, -1]],
            "row": windows[part, -1],
            "cosine": cosine(raw[part], target),
            "squared_error": np.square(raw[part] - target).mean(1, dtype=np.float64),
        }
        similarity = _unit(raw[part]) @ candidates.T  # (B, K)
        scores |= _retrieve(similarity, columns[part], documents, is_target)
        blocks.append(pd.DataFrame(scores))
    return pd.concat(blocks, ignore_index=True)


def _retrieve(
    similarity: np.ndarray,  # (B, K)
    columns: np.ndarray,  # (B, C + 1)
    documents: np.ndarray,  # (K,)
    is_target: np.ndarray,  # (K,)
) -> dict[str, np.ndarray]:
    window, target = np.arange(len(columns)), columns[:, -1]
    count = partial(np.count_nonzero, axis=1)
    truth = similarity[window, target][:, None]
    beaten, tied_or_beaten = similarity < truth - TIE, similarity <= truth + TIE
    rivals = ~beaten  # the truth itself among them
    same = documents[target][:, None] == documents
    others = ~same & is_target
    farther = (count(beaten & others) + count(tied_or_beaten & others)) / 2
    scores = {
        "rank_document_with_context": count(rivals & same),
        "rank_all_with_context": count(rivals),
        "contrastive": farther / count(others),
    }
    rivals[window[:, None], columns[:, :-1]] = False
    return scores | {
        "rank_document": count(rivals & same),
        "rank_all": count(rivals),
    }


def summarise(scores: pd.DataFrame) -> dict[str, float]:
    """Return means over windows of what `score_windows` gave.

    Keys: `cosine`, `mse`, `contrastive`, the counts `windows` and `documents`, and for
    each of `RANKINGS` the share of ranks up to 1, 5 and 10 and the mean of 1 / rank:
    `r1_document`, `r5_document`, `r10_document`, `mrr_document`, `r1_all`, ….
    """
    summary = {
        "cosine": float(scores["cosine"].mean()),
        "mse": float(scores["squared_error"].mean()),
        "contrastive": float(scores["contrastive"].mean()),
    }
    for ranking in RANKINGS:
        ranks = scores[f"rank_{ranking}"]
        for k in (1, 5, 10):
            summary[f"r{k}_{ranking}"] = float((ranks <= k).mean())
        summary[f"mrr_{ranking}"] = float((1 / ranks).mean())
    counts = {"windows": len(scores), "documents": scores["document"].nunique()}
    return summary | counts


@dataclass(frozen=True)
class Baseline:
    """A fitted baseline: `predict` maps a context (B, C, D) to raw vectors (B, D)."""

    name: str
    predict: Callable[[np.ndarray], np.ndarray]
    numbers: dict[str, float] = field(default_factory=dict)  # what was fitted


def fit_baselines(
    dataset: Dataset, train: np.ndarray, validation: np.ndarray
) -> dict[str, Baseline]:
    """Fit the six baselines on training windows (W, C + 1), streaming over them.

    - `last_vector` and `context_average` have nothing to fit.
    - `five_weights`: one weight a position, least squares to the raw target.
    - `six_numbers`: the same, with a coefficient on the mean vector.
    - `ridge`: linear from the centred context (C · D) to the centred target. Its λ is
      10^exponent times the mean eigenvalue of the centred context's Gram matrix,
      trace / (C · D). The exponent goes in halves from 0 to the best validation cosine;
      −3 or 3 means that the search ended there. Validation serves nothing else.
    - `mean_vector`: the mean of the training targets.

    Raises
    ------
    ValueError
        If one of the two sets of windows is empty or their shapes do not fit.
    """
    train, validation = _checked(train), _checked(validation)
    if train.shape[1] != validation.shape[1]:
        raise ValueError(
            f"training windows have {train.shape[1]} rows but validation windows "
            f"{validation.shape[1]}: cut both with the same context."
        )
    c = train.shape[1] - 1
    sums, products = _moments(dataset, train)
    means = sums / len(train)  # (C + 1, D)
    five = np.linalg.lstsq(products[:c, :c], products[:c, c])[0]
    # Normal equations again, with the mean vector as one more feature.
    cross, square = sums @ means[c], len(train) * means[c] @ means[c]
    gram = np.block([[products[:c, :c], cross[:c, None]], [cross[:c], square]])
    six = np.linalg.lstsq(gram, np.append(products[:c, c], cross[c]))[0]
    w5, w6, mean = (v.astype(np.float32) for v in (five, six, means[c]))
    numbers = {f"weight_{i}": float(w) for i, w in enumerate(five, start=1)}
    numbers6 = dict(zip([*numbers, "mean_coefficient"], six.tolist(), strict=True))
    baselines = [
        Baseline("last_vector", lambda x: x[:, -1]),
        Baseline("context_average", lambda x: x.mean(axis=1)),
        Baseline("five_weights", lambda x: w5 @ x, numbers),
        Baseline("six_numbers", lambda x: w6[:c] @ x + w6[c] * mean, numbers6),
        _ridge(dataset, train, validation, means),
        Baseline("mean_vector", lambda x: np.tile(mean, (len(x), 1))),
    ]
    return {baseline.name: baseline for baseline in baselines}


def baseline_cosine(
    baseline: Baseline, dataset: Dataset, windows: np.ndarray
) -> np.ndarray:
    """Return the baseline's cosine on each window, (W,), computed in blocks.

    The mean of `mean_vector`'s on training windows is the constant-mean level, the one
    that a collapsed model falls back to.
    """
    windows = _checked(windows)
    cosines = []
    for part in _blocks(len(windows), BLOCK):
        vectors = dataset.gather(windows[part])
        cosines.append(cosine(baseline.predict(vectors[:, :-1]), vectors[:, -1]))
    return np.concatenate(cosines)


def baseline_outputs(
    baseline: Baseline, dataset: Dataset, windows: np.ndarray
) -> np.ndarray:
    """Return the baseline's raw predictions (W, D), computed in blocks."""
    windows = _checked(windows)
    raw = np.empty((len(windows), dataset.dim), dtype=np.float32)
    for part in _blocks(len(windows), BLOCK):
        raw[part] = baseline.predict(dataset.gather(windows[part, :-1]))
    return raw


def best_baseline(cosines: dict[str, float]) -> str:
    """Return the name of the baseline with the highest cosine."""
    return max(cosines, key=cosines.__getitem__)


def skill(cosine: float, best: float) -> float:
    """Return (cosine − best) / (1 − best): 0 is the best baseline, 1 is perfect."""
    return (cosine - best) / (1 - best)


def _moments(dataset: Dataset, windows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return sums (C + 1, D) and inner products (C + 1, C + 1) of positions."""
    slots = windows.shape[1]
    sums, products = np.zeros((slots, dataset.dim)), np.zeros((slots, slots))
    for part in _blocks(len(windows), BLOCK):
        vectors = dataset.gather(windows[part]).astype(np.float64)  # (B, C + 1, D)
        sums += vectors.sum(axis=0)
        flat = vectors.swapaxes(0, 1).reshape(slots, -1)
        products += flat @ flat.T
    return sums, products


def _ridge(
    dataset: Dataset, train: np.ndarray, validation: np.ndarray, means: np.ndarray
) -> Baseline:
    """Fit (XᵀX + λ) B = XᵀY or, for fewer windows than features, its dual.

    B = Xᵀ (XXᵀ + λ)⁻¹ Y is the same solution from a smaller matrix.
    """
    features = means[:-1].size  # C · D
    dual = len(train) < features
    if dual:
        x, right = _centred(dataset, train, means)
        gram = (x @ x.T).astype(np.float64)
    else:
        gram, right = np.zeros((features, features)), np.zeros((features, dataset.dim))
        for part in _blocks(len(train), 4 * BLOCK):
            x, y = _centred(dataset, train[part], means)
            gram += x.T @ x
            right += x.T @ y
    # Never zero, so that a single window or constant vectors have a solution.
    scale = max(float(np.trace(gram)) / features, 1e-12)

    def fit(exponent: float) -> Baseline:
        penalty = scale * 10**exponent
        weights = _solve(gram, right, penalty).astype(np.float32)
        weights = x.T @ weights if dual else weights  # (C · D, D)
        constant = (means[-1] - means[:-1].ravel() @ weights).astype(np.float32)
        numbers = {"lambda": penalty, "exponent": exponent}
        return Baseline(
            "ridge", lambda c: c.reshape(len(c), -1) @ weights + constant, numbers
        )

    return _search(fit, dataset, validation)


def _centred(
    dataset: Dataset, windows: np.ndarray, means: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    vectors = dataset.gather(windows) - means.astype(np.float32)
    return vectors[:, :-1].reshape(len(windows), -1), vectors[:, -1]


def _search(
    fit: Callable[[float], Baseline], dataset: Dataset, validation: np.ndarray
) -> Baseline:
    """Walk from exponent 0 up, or else down, while validation cosine improves."""

    def measured(exponent: float) -> tuple[float, float, Baseline]:
        baseline = fit(exponent)
        return baseline_cosine(baseline, dataset, validation).mean(), exponent, baseline

    best = measured(0.0)
    for step in (STEP, -STEP):
        while abs(best[1] + step) <= LIMIT:
            ahead = measured(best[1] + step)
            if ahead[0] <= best[0]:
                break
            best = ahead
        if best[1] != 0:
            break
    return best[2]


def _solve(gram: np.ndarray, right: np.ndarray, penalty: float) -> np.ndarray:
    """Solve (gram + penalty · I) · W = right for a symmetric gram."""
    matrix = gram.copy()
    np.fill_diagonal(matrix, matrix.diagonal() + penalty)
    # The transpose is in LAPACK's order: nothing is copied once more.
    factor = cho_factor(matrix.T, overwrite_a=True, check_finite=False)
    return cho_solve(factor, right, check_finite=False)


def _blocks(total: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, total, size))


def _unit(vectors: np.ndarray) -> np.ndarray:
    # In float64, since the squares of very small float32 numbers underflow.
    norms = np.sqrt(np.einsum("wd,wd->w", vectors, vectors, dtype=np.float64))
    norms[norms == 0] = 1
    unit = np.empty(vectors.shape, dtype=np.float32)
    return np.divide(vectors, norms[:, None], out=unit, casting="same_kind")


def _checked(windows: np.ndarray) -> np.ndarray:
    windows = np.asarray(windows)
    if windows.ndim != 2 or windows.shape[1] < 2 or not len(windows):
        raise ValueError(
            f"windows have shape {windows.shape}, expected (W, context + 1), W > 0."
        )
    return windows.astype(np.int64)
