"""Made-up studies whose numbers are known by construction."""

import json

import numpy as np
import pandas as pd

import lvmlib
from lvmlib.evaluation import BASELINES, RANKINGS
from lvmlib.recipe import Recipe
from lvmlib.results import REPORTED_SIZES

SMALL, LARGE = REPORTED_SIZES
DOCUMENTS = np.repeat(np.arange(40), 10)
METRICS = ["contrastive", "mse", *(f"r{k}_{r}" for k in (1, 5, 10) for r in RANKINGS)]
METRICS += [f"mrr_{r}" for r in RANKINGS]
HISTORY = {
    "epoch": [1, 2],
    "step": [10, 20],
    "seconds": [3.0, 4.0],
    "train_cosine": [0.3, 0.6],
    "validation_cosine": [0.3, 0.5],
    "gradient_norm": [1.0, 2.0],
    "gradient_norm_max": [3.0, 4.0],
}


def noise(*seed, scale=0.02):
    """Noise whose document means are exactly zero, so that estimates are exact."""
    values = np.random.default_rng(seed).normal(0, scale, (40, 10))
    return (values - values.mean(axis=1, keepdims=True)).ravel()


def write_run(
    study,
    entry,
    size,
    cosine,
    *,
    seed=0,
    arm="epochs",
    scores=None,
    history=None,
    used=None,
    six=0.5,
    ridge=0.4,
    **info,
):
    """Write a run folder as `lvmlib.run` does; `cosine` is a mean or a row a window.

    `ridge` is that baseline's test cosine, `six` six numbers' validation cosine.
    """
    folder = study / entry / str(size) / arm / f"seed{seed}"
    folder.mkdir(parents=True)
    if np.isscalar(cosine):
        cosine = cosine + noise(seed, size, len(entry))
    table = {"document": DOCUMENTS, "row": np.arange(400), "cosine": cosine}
    table |= {"contrastive": 0.9, "rank_document": 1, "rank_all": 2} | (scores or {})
    table |= {f"cosine_{name}": 0.4 for name in BASELINES}
    table |= {"cosine_six_numbers": 0.5, "cosine_ridge": ridge}
    pd.DataFrame(table).to_parquet(folder / "test.parquet")
    pd.DataFrame(HISTORY | (history or {})).to_csv(folder / "history.csv", index=False)
    metrics = dict.fromkeys(METRICS, 0.1) | {"cosine": 0.4, "validation_cosine": six}
    own = vars(Recipe()) | {"arm": arm}
    own |= {"size": size, "seed": seed, "protocol": "controlled"}
    own |= {"learning_rate": 0.001, "epochs": 2}
    content = {
        "architecture": entry.split("-")[0],
        "parameters": own | (used or {}),
        "status": "trained",
        "test": metrics
        | {"cosine": float(np.mean(cosine)), "windows": 400, "documents": 40},
        "baselines": {name: metrics for name in BASELINES}
        | {"ridge": metrics | {"cosine": ridge}},
        "best_baseline": "six_numbers",
        "windows": {"train": size - 5, "validation": 10, "test": 400},
        "model_parameters": dict.fromkeys(
            ("trainable", "with_buffers"), 10**6 * (1 + (entry == "gru"))
        ),
        "dataset": {"name": "made-up", "sha256": "ab" * 32},
        "recipe_hash": "x",
        "training_mean_cosine": 0.2,
        "steps": size,
    }
    content |= {"epochs": 2, "best_epoch": 2, "skill": 0.1, "peak_memory_mb": 1.0}
    content |= dict.fromkeys(["validation_cosine", "train_cosine"], 0.5)
    content |= dict.fromkeys(["windows_per_second", "wall_seconds"], 10.0)
    content |= {"precision": "32-true", "device": "cpu", "threads": 1, "commit": "abc"}
    content |= {"processor": "a kind"}
    (folder / "run.json").write_text(json.dumps(content | info))


def write_pairs(study, changes, seeds=3, base=0.5, **options):
    """Write both headline sizes of every architecture, with the given changes."""
    for entry, gain in changes.items():
        for seed in range(seeds):
            write_run(study, entry, SMALL, base, seed=seed, **options)
            write_run(study, entry, LARGE, base + gain, seed=seed, **options)


def execute(settings):
    """Run settings as an architecture's notebook does."""
    dataset = lvmlib.open_dataset(settings.dataset)
    split = settings.split(dataset)
    return lvmlib.run(settings, lvmlib.new_model(settings, dataset.dim), dataset, split)
