"""Does other text help on a book that is unread? reports/diversity/works.csv.

python notebooks/measured/works.py DATASET reports/diversity/works.csv

In the study an exam's textbook or tutorial is a section of a work whose other sections
are trained on. Here each work is left out of the training set in turn, and its sections
of the exam are scored; Wikipedia alone and the study's mixture sit the same windows.
"""

import sys
from dataclasses import replace
from itertools import zip_longest

import numpy as np
import pandas as pd
from penalty import OTHERS, WIKIPEDIA, alike

from lvmlib.evaluation import cosine
from lvmlib.inference import predict_windows
from lvmlib.models import build_model
from lvmlib.moments import Moments
from lvmlib.statistics import clustered_interval
from lvmlib.vectors import make_split, open_dataset

SIZE, SEEDS = 40_316, (0, 1, 2)
FIXED = 1.0  # exponent of the λ that is one for all
HOME, HALF = f"{WIKIPEDIA}:1", f"{WIKIPEDIA}:4, {OTHERS}"
# Works by the title of their first document; two are left out at a time, one of each.
WORKS = {
    "textbooks": {
        "biology": "The Science of Biology",
        "sociology": "What Is Sociology?",
        "economics": "What Is Economics, and Why Is It Important?",
        "physics": "Displacement",
    },
    "tutorials": {
        "rust": "appendix-01-keywords",
        "deep learning": "distributions",
        "ansible": "collections_installing",
    },
}


def works_of(documents):
    """Return the work of each document, "" where it is of no book."""
    found = np.full(len(documents), "", object)
    for source, works in WORKS.items():
        own = np.flatnonzero(documents["source"] == source)
        titles = documents["title"].iloc[own].tolist()
        for work, first in works.items():
            found[own[titles.index(first) :]] = work
    return found


def score(dataset, sources, seed, exam):
    """Fit ridge to the weights, λ chosen on all kinds alike; score the exam."""
    every = make_split(dataset, "controlled", SIZE, seed).validation
    kinds = dataset.documents["source"].to_numpy()[dataset.document_of(every[:, -1])]
    split = make_split(dataset, "controlled", SIZE, seed, sources=sources)
    model, moments = (
        build_model("linear", dim=dataset.dim),
        Moments(dataset, split.train),
    )
    model.fit_moments(moments, alike(every, kinds))
    raw = predict_windows(model.eval(), dataset, exam)
    print(sources[:40], seed, model.numbers["exponent"], flush=True)
    truth = dataset.gather(exam[:, -1])
    # And with one λ for all: that of a work's left out was chosen on others, which are
    # read, and may shrink too little.
    start, means = moments.centred_weights(), moments.means
    change = moments.ridge(start, FIXED).change
    fixed = np.concatenate(
        [
            means[-1]
            + np.einsum("bcd,c->bd", x - means[:-1], start)
            + (x - means[:-1]).reshape(len(x), -1) @ change
            for x in map(dataset.gather, np.array_split(exam[:, :-1], 20))
        ]
    )
    return np.stack([cosine(raw, truth), cosine(fixed.astype("float32"), truth)])


def main(folder, output):
    """Score Wikipedia alone, the mixture, and the mixture without each work."""
    dataset = open_dataset(folder, verify=False)
    works = works_of(dataset.documents)
    exam = make_split(dataset, "controlled", SIZE).test
    of = dataset.document_of(exam[:, -1])
    scores = {"home": [], "half": [], "unread": []}
    for seed in SEEDS:
        scores["home"].append(score(dataset, HOME, seed, exam))
        scores["half"].append(score(dataset, HALF, seed, exam))
        unread = np.full((2, len(exam)), np.nan)
        for left_out in zip_longest(*WORKS.values(), fillvalue="none"):
            documents = dataset.documents.copy()
            documents.loc[np.isin(works, left_out), "role"] = "test"
            found = score(replace(dataset, documents=documents), HALF, seed, exam)
            on = np.isin(works[of], left_out)
            unread[:, on] = found[:, on]
            print(seed, left_out, found[:, on].mean(axis=1), flush=True)
        scores["unread"].append(unread)
    rows = []
    each = {work: [work] for names in WORKS.values() for work in names}
    for named, group in (each | {kind: list(w) for kind, w in WORKS.items()}).items():
        on = np.isin(works[of], group)
        home, half, unread = (np.stack(found)[..., on] for found in scores.values())
        row = {"work": named, "sections": len(np.unique(of[on]))}
        row["home"] = home[:, 0].mean()
        for name, change in {"gain": half - home, "gain_unread": unread - home}.items():
            for way, end in enumerate(("", "_fixed")):  # (seeds, 2, windows)
                found = clustered_interval(change[:, way], of[on])
                row |= found.columns(name + end)
        rows.append(row)
    pd.DataFrame(rows).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
