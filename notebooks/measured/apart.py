"""Is the next chunk told from those that come after it? reports/best/apart.csv.

python notebooks/measured/apart.py DATASET reports/best/apart.csv

R@1 of the pages leaves out the five chunks that were read. A model that reads the mean
of all so far has read the earlier ones, too, and its prediction is drawn to them. So
here the target's rivals are only the later chunks of its document, which no model has
read. Models are the simple ones fitted to all vectors (232,605, seed 0), without the
mean and with it; windows whose target is its document's last have no rival.
"""

import sys

import numpy as np
import pandas as pd

from lvmlib.evaluation import place_of, score_baselines
from lvmlib.inference import predict_windows
from lvmlib.results import REPORTED_SIZES
from lvmlib.statistics import clustered_interval
from lvmlib.vectors import make_split, open_dataset
from lvmlib.weights import load_weights

MODELS = ("last_vector", "five_weights", "ridge_to_weights")


def ranks(raw, dataset, windows):
    """Return each target's rank among itself and the later chunks, (W,)."""
    targets = windows[:, -1]
    documents, found = dataset.document_of(targets), np.empty(len(targets))
    for document in np.unique(documents):
        own = np.flatnonzero(documents == document)
        near = raw[own] @ dataset.gather(targets[own]).T  # (windows, their targets)
        later = np.triu(np.ones_like(near, bool))
        truth = np.diag(near)[:, None]
        found[own] = np.where(later, near >= truth, False).sum(axis=1)
    return found


def main(folder, output):
    """Score each model on the same windows and write a row for each."""
    dataset, rows, without = open_dataset(folder, verify=False), [], {}
    for mean in (False, True):
        size = max(REPORTED_SIZES)
        split = make_split(dataset, "controlled", size, running_mean=mean)
        score_baselines(dataset, split)  # fits them, unless that was done
        windows = split.test
        documents = dataset.document_of(windows[:, -1])
        rivals = documents[:-1] == documents[1:]  # the last of a document has none
        kept = np.append(rivals, False)
        for name in MODELS:
            model = load_weights(place_of(dataset, split) / f"{name}.safetensors")
            raw = predict_windows(model, dataset, windows)
            first = (ranks(raw, dataset, windows)[kept] == 1) * 1.0
            row = {"model": name, "running_mean": mean, "windows": int(kept.sum())}
            row |= clustered_interval(first, documents[kept]).columns("r1")
            if mean:
                change = clustered_interval(first - without[name], documents[kept])
                row |= change.columns("change")
            without.setdefault(name, first)
            rows.append(row)
            print(row, flush=True)
    pd.DataFrame(rows).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
