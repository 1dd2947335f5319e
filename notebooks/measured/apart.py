"""Is the next chunk told from those that come after it? reports/best/apart.parquet.

python notebooks/measured/apart.py DATASET reports/best/apart.parquet

R@1 of the pages leaves out the five chunks that were read. A model that reads the mean
of all so far has read the earlier ones, too, and its prediction is drawn to them. So
here the target's rivals are only the later chunks of its document, which no model has
read; windows whose target is its document's last have none and are left out. Models are
the simple ones fitted to all vectors (232,605, seed 0), without the mean and with it,
and the runs of the best study (in $LVM_RUNS) that were fitted or trained to this end.
Weights of published runs are not kept: where they are gone, the output's rows stay.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.evaluation import place_of, score_baselines
from lvmlib.files import runs_root
from lvmlib.inference import predict_windows
from lvmlib.publish import write_scores
from lvmlib.results import REPORTED_SIZES, load_study
from lvmlib.vectors import make_split, open_dataset
from lvmlib.weights import load_weights

MODELS = ("last_vector", "five_weights", "ridge_to_weights")


def ranks(raw, dataset, windows):
    """Return each target's rank among itself and the later chunks, (W,)."""
    targets = windows[:, -1]
    documents, found = dataset.document_of(targets), np.empty(len(targets), "int32")
    for document in np.unique(documents):
        own = np.flatnonzero(documents == document)
        near = raw[own] @ dataset.gather(targets[own]).T  # (windows, their targets)
        later = np.triu(np.ones_like(near, bool))
        truth = np.diag(near)[:, None]
        found[own] = np.where(later, near >= truth, False).sum(axis=1)
    return found


def models(dataset):
    """Yield what each model is called, its file and the windows that it reads."""
    for mean in (False, True):
        size = max(REPORTED_SIZES)
        split = make_split(dataset, "controlled", size, running_mean=mean)
        score_baselines(dataset, split)  # fits them, unless that was done
        for name in MODELS:
            file = place_of(dataset, split) / f"{name}.safetensors"
            named = {"model": name, "running_mean": mean, "size": size, "seed": 0}
            yield named, file, split.test
        table = load_study(runs_root() / "best")
        aimed = table["loss"].str.startswith("following") | (
            table["kind"] == "ranking_weights"
        )
        for run in table[aimed & (table["running_mean"] == mean)].itertuples():
            fitted = run.architecture == "linear"
            named = {"model": "ranking_weights" if fitted else run.entry}
            named |= {"running_mean": mean, "size": run.size, "seed": run.seed}
            yield named, f"{run.folder}/model.safetensors", split.test


def main(folder, output):
    """Rank the target by each model and write a row for each window."""
    dataset, parts = open_dataset(folder, verify=False), []
    before = pd.read_parquet(output) if Path(output).exists() else pd.DataFrame()
    for named, file, windows in models(dataset):
        if len(before):
            same = (before[list(named)] == pd.Series(named)).all(axis=1)
            if not Path(file).exists() and same.any():
                continue
            before = before[~same]
        raw = predict_windows(load_weights(file), dataset, windows)
        documents = dataset.document_of(windows[:, -1])
        found = pd.DataFrame({"document": documents, "row": windows[:, -1]})
        found = found.assign(rank=ranks(raw, dataset, windows), **named)
        last = np.append(documents[:-1] != documents[1:], True)  # has no rival
        parts.append(found[~last])
        print(named, f"R@1 {(parts[-1]['rank'] == 1).mean():.4f}", flush=True)
    write_scores(pd.concat([before, *parts], ignore_index=True), output)


if __name__ == "__main__":
    main(*sys.argv[1:])
