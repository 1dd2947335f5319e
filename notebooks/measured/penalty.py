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

SEEDS = (0, 1, 2)
WIKIPEDIA = "wikipedia-en-first-articles"
OTHERS = "papers:1, textbooks:2, tutorials:1"
SETS = {
    "home": (80_634, f"{WIKIPEDIA}:1"),
    "more": (120_951, f"{WIKIPEDIA}:1"),
    "half": (80_634, f"{WIKIPEDIA}:4, {OTHERS}"),
    "plus-others": (120_951, f"{WIKIPEDIA}:8, {OTHERS}"),
}


def main(folder, output):
    """Fit ridge to each set; choose λ on Wikipedia alone, or on all kinds alike."""
    dataset = open_dataset(folder, verify=False)
    sources = dataset.documents["source"].to_numpy()
    scores, exponents = {}, {}
    for seed in SEEDS:
        home, every = (
            make_split(dataset, "controlled", 80_634, seed, sources=named).validation
            for named in (f"{WIKIPEDIA}:1", "")
        )
        every = alike(every, sources[dataset.document_of(every[:, -1])])
        for name, (size, named) in SETS.items():
            split = make_split(dataset, "controlled", size, seed, sources=named)
            moments = Moments(dataset, split.train)
            for way, windows in (("wikipedia", home), ("all kinds", every)):
                model = build_model("linear", dim=dataset.dim)
                model.fit_moments(moments, windows)
                raw = predict_windows(model.eval(), dataset, split.test)
                truth = dataset.gather(split.test[:, -1])
                scores[way, name, seed] = cosine(raw, truth)
                exponents[way, name, seed] = model.numbers["exponent"]
                print(way, name, seed, model.numbers["exponent"], flush=True)
    documents, rows = dataset.document_of(split.test[:, -1]), []
    for way in ("wikipedia", "all kinds"):
        cosines = {n: np.stack([scores[way, n, k] for k in SEEDS]) for n in SETS}
        chosen = {n: " ".join(str(exponents[way, n, k]) for k in SEEDS) for n in SETS}
        for name in list(SETS)[1:]:
            for kind in np.unique(sources):
                on = sources[documents] == kind
                before, after = cosines["home"][:, on], cosines[name][:, on]
                gain = clustered_interval(after - before, documents[on])
                row = {"set": name, "chosen_on": way, "exam": kind}
                row |= {"home": before.mean(), "score": after.mean()}
                row |= gain.columns("gain")
                row |= {"exponents_home": chosen["home"], "exponents": chosen[name]}
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
