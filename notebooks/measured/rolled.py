"""Direct against rolled predictions: what reports/task/rolled.csv holds.

python notebooks/measured/rolled.py DATASET SIZE reports/task/rolled.csv
"""

import sys

import numpy as np
import pandas as pd

from lvmlib.evaluation import cosine
from lvmlib.inference import predict
from lvmlib.models import build_model
from lvmlib.statistics import clustered_interval
from lvmlib.vectors import make_split, open_dataset

FARTHEST = 5


def ridge(dataset, split):
    """Return ridge to the weights, fitted to a split (or what is kept of it)."""
    model = build_model("linear", kind="ridge_to_weights", dim=dataset.dim)
    model.fit(dataset, split)
    return model.eval()


def roll(model, context, steps):
    """Predict `steps` chunks ahead of (B, T, D), each from the predictions before it.

    Returns (B, D), float32, unit vectors: the last prediction alone.
    """
    for _ in range(steps):
        found = predict(model, context)
        context = np.concatenate([context[:, 1:], found[:, None]], axis=1)
    return context[:, -1]


def main(folder, size, output):
    """Compare both on the chunks that every distance predicts."""
    dataset = open_dataset(folder, verify=False)
    splits = {
        ahead: make_split(dataset, "controlled", int(size), 0, horizon=ahead)
        for ahead in range(1, FARTHEST + 1)
    }
    targets, rows = splits[FARTHEST].test[:, -1], []
    one_step = ridge(dataset, splits[1])
    for ahead, split in splits.items():
        windows = split.test[np.isin(split.test[:, -1], targets)]
        vectors = dataset.gather(windows)
        direct = cosine(predict(ridge(dataset, split), vectors[:, :-1]), vectors[:, -1])
        rolled = cosine(roll(one_step, vectors[:, :-1], ahead), vectors[:, -1])
        found = clustered_interval(direct - rolled, dataset.document_of(windows[:, -1]))
        row = {"ahead": ahead, "direct": direct.mean(), "rolled": rolled.mean()}
        rows.append(row | found.columns("direct_minus_rolled"))
    pd.DataFrame(rows).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
