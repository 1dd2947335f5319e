"""What else a model could read beside five chunks: reports/task/beside.csv.

python notebooks/measured/beside.py DATASET ENCODER reports/task/beside.csv

The exam of the other studies has blocks from inside articles, whose beginnings are not
among the vectors. So a fifth of the articles of the pool is set aside here as an exam
of its own. Every window has 15 chunks before its target. All that differs is what a
model reads: how many of them, the article's title, its first chunk, and the mean of all
chunks before the target.
"""

import sys
from copy import copy
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pandas as pd

from lvmlib.corpus.encoding import load_encoder
from lvmlib.evaluation import cosine
from lvmlib.inference import predict_windows
from lvmlib.models import build_model
from lvmlib.moments import Moments
from lvmlib.recipe import make_settings
from lvmlib.runs import new_model
from lvmlib.statistics import clustered_interval
from lvmlib.study import read_study
from lvmlib.training import train
from lvmlib.vectors import (
    Split,
    cut_windows,
    document_rows,
    exam_documents,
    open_dataset,
)

SIZES, EXAM_SHARE, LONGEST = (80_634, 170_000), 0.2, 15
# Columns of a window: title, first chunk, mean of all before, 15 chunks, the target.
TITLE, FIRST, MEAN = range(3)
FIVE, TEN, FIFTEEN = (list(range(18 - n, 18)) for n in (5, 10, 15))
INPUTS = {
    "five": FIVE,
    "five, title": [TITLE, *FIVE],
    "five, first": [FIRST, *FIVE],
    "five, mean": [MEAN, *FIVE],
    "five, all three": [TITLE, FIRST, MEAN, *FIVE],
    "ten": TEN,
    "ten, all three": [TITLE, FIRST, MEAN, *TEN],
    "fifteen": FIFTEEN,
    "fifteen, all three": [TITLE, FIRST, MEAN, *FIFTEEN],
}
NETWORKS = ("amn", "gru")  # with a head start, recipes of the best study at 80,634
READ_BY_NETWORKS = [*list(INPUTS)[:6], "fifteen"]  # minutes of a core each


def append_titles(dataset, encoder):
    """Return the dataset with the vectors of its documents' titles as further rows."""
    titles = load_encoder(encoder).encode(list(dataset.documents["title"]))
    rows = np.concatenate([dataset.gather(np.arange(dataset.n)), titles])
    return replace(dataset, vectors=rows.astype(np.float16), scales=None)


def windows_of(dataset, rows):
    """Cut windows (W, 19) with all that could be read, and the target."""
    chunks = cut_windows(dataset, rows, LONGEST, True)
    documents, starts = dataset.document_of(chunks[:, -1]), dataset.documents["start"]
    titles = dataset.documents["stop"].max() + documents
    means = dataset.n + chunks[:, -2]  # see Dataset.means
    return np.column_stack([titles, starts.to_numpy()[documents], means, chunks])


def splits(dataset):
    """Yield each size with its split; the exam and validation are the same."""
    parts = exam_documents(dataset)
    pool = np.random.default_rng([0, 0]).permutation(parts["pool"])
    held_out = round(EXAM_SHARE * len(pool))
    exam, rest = document_rows(dataset, pool[:held_out]), pool[held_out:]
    validation = document_rows(dataset, parts["validation"])
    for size in SIZES:
        train_rows = document_rows(dataset, rest)[:size]
        assert len(train_rows) == size, f"only {len(train_rows)} vectors are left"
        cut = (windows_of(dataset, rows) for rows in (train_rows, validation, exam))
        yield size, Split(*cut)


def chosen(moments, slots):
    """Return the moments of some of the slots: parts of the same sums."""
    part, dim = copy(moments), moments.dataset.dim
    slots = [*slots, moments.windows.shape[1] - 1]
    part.windows, part.means = moments.windows[:, slots], moments.means[slots]
    part.sums, part.products = (
        moments.sums[slots],
        moments.products[np.ix_(slots, slots)],
    )
    features = np.concatenate([np.arange(s * dim, (s + 1) * dim) for s in slots[:-1]])
    gram, right = moments.gram
    part.gram = gram[np.ix_(features, features)], right[features]
    return part


def fit_linear(dataset, moments, split, slots, kind):
    """Return a linear model, fitted to what these slots hold."""
    model = build_model("linear", dim=dataset.dim, context=len(slots), kind=kind)
    model.fit_moments(chosen(moments, slots), split.validation[:, [*slots, -1]])
    return model.eval()


def train_network(dataset, split, slots, name):
    """Return a network trained with a head start, as the best study did at 80,634."""
    run = next(
        run
        for run in read_study("best", str(dataset.folder)).runs
        if run.entry == name and run.settings.size == SIZES[0]
    )
    own = run.settings.parameters() | {"context": len(slots), "seed": 0}
    settings = make_settings(name, own)
    model = new_model(settings, dataset.dim)
    part = Split(*(rows[:, [*slots, -1]] for rows in vars(split).values()))
    with TemporaryDirectory() as folder:
        train(model, dataset, part, settings.recipe, 0, folder)
    return model.eval()


def main(folder, encoder, output):
    """Score every set of inputs on the same windows and write a row for each."""
    dataset = append_titles(open_dataset(folder, False), encoder)
    rows, scores = [], {}

    def score(model, network, size, name, split):
        windows = split.test[:, [*INPUTS[name], -1]]
        raw = predict_windows(network, dataset, windows)
        found = scores[model, size, name] = cosine(raw, dataset.gather(windows[:, -1]))
        documents = dataset.document_of(windows[:, -1])
        row = {"model": model, "size": size, "inputs": name, "windows": len(windows)}
        row |= {"documents": len(np.unique(documents)), "cosine": found.mean()}
        others = {
            "over_five": (model, size, "five"),
            "over_plain": (model, size, name.partition(",")[0]),
            "over_small": (model, SIZES[0], name),
        }
        if model in NETWORKS:
            others["over_ridge"] = ("ridge to weights", size, name)
        for column, other in others.items():
            row |= clustered_interval(found - scores[other], documents).columns(column)
        rows.append(row)
        print(row, flush=True)
        pd.DataFrame(rows).to_csv(output, index=False)

    for size, split in splits(dataset):
        moments = Moments(dataset, split.train)
        for model, kind in (
            ("ridge to weights", "ridge_to_weights"),
            ("weights", "weights"),  # one number for each vector that is read
        ):
            for name, slots in INPUTS.items():
                fitted = fit_linear(dataset, moments, split, slots, kind)
                score(model, fitted, size, name, split)
        for model in NETWORKS if size == SIZES[0] else ():
            for name in READ_BY_NETWORKS:
                network = train_network(dataset, split, INPUTS[name], model)
                score(model, network, size, name, split)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], Path(sys.argv[3]))
