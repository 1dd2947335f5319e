"""Which text λ is chosen on, and what that costs: reports/diversity/penalty.csv.

python notebooks/measured/penalty.py DATASET reports/diversity/penalty.csv
"""

import sys

import numpy as np
import pandas as pd

from lvmlib.evaluation import cosine
from lvmlib.inference import predict_windows
from lvmlib.models import build_model
from lvmlib.moments import Moments
from lvmlib.statistics import clustered_interval
from lvmlib.vectors import make_split, open_dataset

SIZES, SEEDS = (80_634, 120_951), (0, 1, 2)
WIKIPEDIA = "wikipedia-en-first-articles"


def main(folder, output):
    """Fit ridge to Wikipedia; choose λ on Wikipedia alone, or on all kinds alike."""
    dataset = open_dataset(folder, verify=False)
    sources = dataset.documents["source"].to_numpy()
    scores, exponents = {}, {}
    for seed in SEEDS:
        every = make_split(dataset, "controlled", SIZES[0], seed).validation
        for size in SIZES:
            name = f"{WIKIPEDIA}:1"
            split = make_split(dataset, "controlled", size, seed, sources=name)
            moments = Moments(dataset, split.train)
            for way, windows in (
                ("wikipedia", split.validation),
                ("all kinds", alike(every, sources[dataset.document_of(every[:, -1])])),
            ):
                model = build_model("linear", dim=dataset.dim)
                model.fit_moments(moments, windows)
                raw = predict_windows(model.eval(), dataset, split.test)
                truth = dataset.gather(split.test[:, -1])
                scores[way, size, seed] = cosine(raw, truth)
                exponents[way, size, seed] = model.numbers["exponent"]
                print(way, size, seed, model.numbers["exponent"], flush=True)
    documents, rows = dataset.document_of(split.test[:, -1]), []
    for way in ("wikipedia", "all kinds"):
        small, large = (np.stack([scores[way, s, k] for k in SEEDS]) for s in SIZES)
        for kind in np.unique(sources):
            on = sources[documents] == kind
            gain = clustered_interval((large - small)[:, on], documents[on])
            row = {"chosen_on": way, "exam": kind, "small": small[:, on].mean()}
            row |= {"large": large[:, on].mean()} | gain.columns("gain")
            for size, part in zip(SIZES, ("small", "large"), strict=True):
                found = [exponents[way, size, seed] for seed in SEEDS]
                row[f"exponents_{part}"] = " ".join(map(str, found))
            rows.append(row)
    pd.DataFrame(rows).to_csv(output, index=False)


def alike(windows, kinds):
    """Draw as many windows of each kind."""
    fewest, rng = min(np.unique(kinds, return_counts=True)[1]), np.random.default_rng(0)
    drawn = [
        rng.permutation(np.flatnonzero(kinds == kind))[:fewest]
        for kind in np.unique(kinds)
    ]
    return windows[np.sort(np.concatenate(drawn))]


if __name__ == "__main__":
    main(*sys.argv[1:])
