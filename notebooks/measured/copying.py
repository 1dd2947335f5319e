"""Do models copy their context, and do hubs catch them? reports/best/copying.csv.

    python notebooks/measured/copying.py DATASET OUTPUT RUN [RUN ...]

A run is a folder with its weights; beside the runs, the linear family fitted to the
first run's vectors is measured.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import skew

from lvmlib import evaluation
from lvmlib.files import read_json
from lvmlib.inference import predict_windows
from lvmlib.recipe import make_settings
from lvmlib.records import BASELINES
from lvmlib.vectors import open_dataset
from lvmlib.weights import load_weights

BLOCK = 256  # windows gathered at a time


def unit(vectors):
    """Divide vectors by their lengths."""
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def copying(raw, dataset, windows):
    """Return how much nearer the context predictions are than the truth is, (W,).

    max cos(prediction, context) / max cos(truth, context), the *paraphrasing* of Large
    Concept Models (arXiv 2412.08821): above 1 the model copies its context.
    """
    ratios, windows = [], dataset.chunks_of(windows)
    for start in range(0, len(windows), BLOCK):
        part = slice(start, start + BLOCK)
        vectors = unit(dataset.gather(windows[part]))  # (B, C + 1, D)
        context, truth = vectors[:, :-1], vectors[:, -1]
        of = (unit(raw[part]), truth)
        nearest = [np.einsum("bcd,bd->bc", context, x).max(axis=1) for x in of]
        ratios.append(nearest[0] / nearest[1])
    return np.concatenate(ratios)


def k_occurrence_skew(raw, dataset, windows, k=10):
    """Return the skewness of how often a candidate is among a prediction's k nearest.

    Candidates are the vectors of the windows, each window's own context left out. Near
    zero all are found alike; large, a few *hubs* are near everything (Radovanović et
    al. 2010; Dinu et al., arXiv 1412.6568).
    """
    windows = dataset.chunks_of(windows)
    rows, columns = np.unique(windows, return_inverse=True)
    columns = columns.reshape(windows.shape)
    candidates, found = unit(dataset.gather(rows)), np.zeros(len(rows))
    for start in range(0, len(windows), BLOCK):
        part = slice(start, start + BLOCK)
        similarity = unit(raw[part]) @ candidates.T  # (B, K)
        own = columns[part, :-1]
        similarity[np.arange(len(own))[:, None], own] = -2
        nearest = np.argpartition(-similarity, k - 1, axis=1)[:, :k]
        found += np.bincount(nearest.ravel(), minlength=len(rows))
    return skew(found)


def main(folder, output, *runs):
    """Measure each model once."""
    dataset, models = open_dataset(folder, verify=False), {}
    for run in map(Path, runs):
        info = read_json(run / "run.json")
        settings = make_settings(info["architecture"], info["parameters"])
        models[run.parts[-4]] = load_weights(run / "model.safetensors")
        if len(models) == 1:
            split = settings.split(dataset)
    evaluation.score_baselines(dataset, split)
    place = evaluation.place_of(dataset, split)
    for name in BASELINES:
        models[BASELINES[name]] = load_weights(place / f"{name}.safetensors")
    rows = []
    for name, model in models.items():
        raw = predict_windows(model, dataset, split.test)
        row = {"model": name}
        row["copying"] = copying(raw, dataset, split.test).mean()
        row["skew"] = k_occurrence_skew(raw, dataset, split.test)
        scores = evaluation.summarise(
            evaluation.score_windows(raw, dataset, split.test)
        )
        rows.append(row | {key: scores[key] for key in ("cosine", "r1_all")})
    pd.DataFrame(rows).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
