"""How diverse the training sets are: what reports/diversity/sets.csv holds.

python notebooks/measured/sets.py DATASET reports/diversity/sets.csv
"""

import sys

import numpy as np
import pandas as pd

from lvmlib.study import read_study
from lvmlib.vectors import open_dataset

VECTORS = 10_000  # of each set, drawn at random, since the score grows with them


def vendi_score(vectors):
    """Return how many directions unit vectors (N, D) spread over: 1 to D.

    The Vendi score (Friedman & Dieng 2022) with the cosine as similarity: the
    exponential of the entropy of the eigenvalues of K/N, which are those of the D × D
    matrix of second moments.
    """
    moments = vectors.T.astype(np.float64) @ vectors / len(vectors)
    values = np.linalg.eigvalsh(moments)
    share = values[values > 0] / values[values > 0].sum()
    return float(np.exp(-(share * np.log(share)).sum()))


def main(folder, output):
    """Describe each training set of the study once, seed 0."""
    dataset, rows = open_dataset(folder, verify=False), []
    for run in read_study("diversity", folder).runs:
        if run.settings.seed:
            continue
        used = np.unique(run.settings.split(dataset).train)
        documents = dataset.documents.iloc[np.unique(dataset.document_of(used))]
        drawn = np.random.default_rng(0).permutation(used)[:VECTORS]
        row = {"set": run.entry, "vectors": run.settings.size}
        row |= {"documents": len(documents), "kinds": documents["source"].nunique()}
        rows.append(row | {"vendi": vendi_score(dataset.gather(np.sort(drawn)))})
    pd.DataFrame(rows).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
