"""Scores of predictions on windows, and the baselines that every table shows.

Retrieval ranks the true target among the test vectors by cosine to the prediction,
among those of its document and among all; with the window's own context left out, and
left in, where a prediction that copies its context ranks that first.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lvmlib.files import atomic_path, read_json, runs_root, write_json
from lvmlib.inference import predict_windows
from lvmlib.losses import total_surprise
from lvmlib.models import build_model
from lvmlib.moments import Moments
from lvmlib.records import BASELINES
from lvmlib.vectors import Dataset, Split
from lvmlib.weights import load_weights, save_weights

# What each of the baselines is among the kinds of `linear`.
BASELINE_KINDS = {name: name for name in BASELINES}
BASELINE_KINDS |= {"five_weights": "weights", "six_numbers": "weights_and_mean"}
VERSION = 2  # of the baselines; those kept under another one are fitted again
RANKINGS = ("document", "all", "document_with_context", "all_with_context")
FITTED = "fitted.json"  # what was fitted to a split, beside its weights
TIE = 1e-6  # similarities nearer than this are equal; float32 rounds at about 1e-7
BLOCK = 512  # windows gathered at a time
VALIDATION_BLOCK = 2048  # windows; all at once would be the peak of a run's memory
LIKELIHOOD_BLOCK = 256  # windows, of which each has thirty targets
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


def validation_sums(
    model: nn.Module,
    dataset: Dataset,
    windows: np.ndarray,
    later: np.ndarray | None = None,
) -> torch.Tensor:
    """Return the sums over windows that validation needs, in blocks.

    Of the squared error per dimension and of the cosine, neither finite where a
    prediction is not; and, given `Dataset.following`, of the log likelihood.
    """
    block = VALIDATION_BLOCK if later is None else LIKELIHOOD_BLOCK
    sums = torch.zeros(2 if later is None else 3, dtype=torch.float64)
    for start in range(0, len(windows), block):
        part = windows[start : start + block]
        raw = predict_windows(model, dataset, part)
        target = dataset.gather(part[:, -1])
        finite = np.isfinite(raw).all()
        near = cosine(raw, target).sum() if finite else math.nan
        found = [np.square(raw - target).sum(dtype=np.float64) / dataset.dim, near]
        if later is not None:
            rows = later[start : start + block]
            given = (raw, target, dataset.gather(rows), rows != part[:, -1:])
            found.append(-total_surprise(*map(torch.from_numpy, given)).item())
        sums += torch.tensor(found, dtype=torch.float64)
    return sums


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
    raw = np.asarray(raw, dtype=np.float32)
    windows = dataset.chunks_of(_checked(windows))
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
    return scores | {"rank_document": count(rivals & same), "rank_all": count(rivals)}


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


def fit_baselines(
    dataset: Dataset, train: np.ndarray, validation: np.ndarray
) -> dict[str, nn.Module]:
    """Fit the linear family to training windows (W, C + 1), in one pass.

    Returns
    -------
    dict
        Name, of BASELINES, to a fitted model of `lvmlib.models.linear`, whose `numbers`
        say what was fitted.

    Raises
    ------
    ValueError
        If one of the two sets of windows is empty or their shapes do not fit.
    """
    train, validation = _checked(train), _checked(validation)
    moments, fitted = Moments(dataset, train), {}
    for name, kind in BASELINE_KINDS.items():
        sizes = {"dim": dataset.dim, "context": train.shape[1] - 1}
        fitted[name] = build_model("linear", kind=kind, **sizes).eval()
        fitted[name].fit_moments(moments, validation)
    return fitted


def mean_cosine(model: nn.Module, dataset: Dataset, windows: np.ndarray) -> float:
    """Return a model's mean cosine on windows (W, C + 1), computed in blocks.

    Of the baseline mean_vector on training windows this is the constant-mean level, the
    one that a collapsed model falls back to.
    """
    windows, total = _checked(windows), 0.0
    for part in _blocks(len(windows), 4 * BLOCK):
        raw = predict_windows(model, dataset, windows[part])
        total += cosine(raw, dataset.gather(windows[part, -1])).sum()
    return float(total / len(windows))


def fitted_baselines(dataset: Dataset, split: Split) -> dict[str, nn.Module]:
    """Fit the baselines of a split, or load what was fitted to it before."""
    place = place_of(dataset, split)
    numbers = read_json(place / FITTED)
    if numbers is None:
        fitted = fit_baselines(dataset, split.train, split.validation)
        for name, model in fitted.items():
            save_weights(model, place / f"{name}.safetensors")
        numbers = {name: model.numbers for name, model in fitted.items()}
        write_json(place / FITTED, numbers)  # last: it is what makes all usable
    models = {name: load_weights(place / f"{name}.safetensors") for name in numbers}
    for name, model in models.items():
        model.numbers = numbers[name]
    return models


def place_of(dataset: Dataset, split: Split) -> Path:
    """Return the folder, under `runs_root`, of what is fitted to a split."""
    decisive = hashlib.sha256(f"{VERSION} {dataset.sha256}".encode())
    for windows in vars(split).values():
        decisive.update(np.ascontiguousarray(windows))
    return runs_root() / "baselines" / decisive.hexdigest()[:16]


def score_baselines(
    dataset: Dataset, split: Split
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Fit the baselines and score them, once for all runs on the same split.

    What was found is kept under a hash of the vectors, the windows and VERSION: ridge
    costs a minute at 232,605 vectors.

    Returns
    -------
    cosines : DataFrame
        Columns cosine_<baseline>, a row a test window.
    results : dict
        `baselines`: by name, test metrics, `validation_cosine` and fitted `numbers`;
        `best_baseline`; `training_mean_cosine`, the constant-mean level.
    """
    place = place_of(dataset, split)
    results = read_json(place / "results.json")
    if results:
        return pd.read_parquet(place / "cosines.parquet"), results
    baselines = fitted_baselines(dataset, split)
    table, cosines = {}, {}
    for name, baseline in baselines.items():
        outputs = predict_windows(baseline, dataset, split.test)
        scored = score_windows(outputs, dataset, split.test)
        cosines[f"cosine_{name}"] = scored["cosine"]
        table[name] = summarise(scored) | {
            "validation_cosine": mean_cosine(baseline, dataset, split.validation),
            "numbers": baseline.numbers,
        }
    level = mean_cosine(baselines["mean_vector"], dataset, split.train)
    results = {
        "baselines": table,
        "best_baseline": max(table, key=lambda name: table[name]["cosine"]),
        "training_mean_cosine": level,
    }
    with atomic_path(place / "cosines.parquet") as temporary:
        pd.DataFrame(cosines).to_parquet(temporary, index=False)
    write_json(place / "results.json", results)  # last: it is what makes both usable
    return pd.DataFrame(cosines), results


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
