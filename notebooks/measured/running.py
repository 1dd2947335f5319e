"""Five chunks and the mean of all so far: reports/best/running.csv, and a model.

python notebooks/measured/running.py DATASET reports/best lvmlib/pretrained

On the exam of the studies, whose blocks begin inside articles: the mean there is that
of the block so far. Beside it ridge to the weights of five chunks, from the committed
runs.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
from beside import LONGEST, append_means, fit_linear

from lvmlib.evaluation import cosine
from lvmlib.inference import predict_windows
from lvmlib.models.linear import Moments
from lvmlib.records import load_run
from lvmlib.results import REPORTED_SIZES
from lvmlib.show import interval
from lvmlib.statistics import clustered_interval
from lvmlib.vectors import Split, make_split, open_dataset
from lvmlib.weights import save_weights

CARD = """# running: model card

**What it does.** Reads the mean of the embeddings of all chunks of a document so far
and the last five of them (`lvmlib.with_mean`), and predicts the next: (6, 768) to a
unit vector (768,).

**Size.** {numbers} fitted numbers: {weights}.

**Training data.** {size:,} vectors of {name} (SHA-256
`{sha}…`), {windows:,} windows.

**Test.** On {tested:,} windows of {documents} documents that no training saw, with 95%
intervals over documents:

- cosine: {cosine}
- over ridge to the weights of five chunks: {over}

On whole articles it gains more: see reports/task/beside.html.

**Not for.** Vectors of another encoder: the numbers mean nothing to it. Text in another
language or genre: not measured. A prediction is an average over what could follow, not
a sentence; do not read it as a fact about the text.
"""


def main(folder, report, package):
    """Fit both to the whole pool, score them on the exam, and keep the six numbers."""
    plain = open_dataset(folder, verify=False)
    dataset, size = append_means(plain), max(REPORTED_SIZES)
    cut = vars(make_split(plain, "controlled", size)).values()
    mean_first = (np.column_stack([plain.n + rows[:, -1], rows]) for rows in cut)
    split, slots = Split(*mean_first), list(range(6))
    moments, rows = Moments(dataset, split.train), []
    five = load_run(Path(report) / "runs/linear" / str(size) / "epochs/seed0").scores
    truth = dataset.gather(split.test[:, -1])
    assert np.array_equal(five["row"], split.test[:, -1])
    members = dataset.document_of(split.test[:, -1])
    starts = dataset.documents["start"].to_numpy()[members]
    for kind in ("weights", "ridge_to_weights"):
        model = fit_linear(dataset, moments, split, slots, kind)
        scores = cosine(predict_windows(model, dataset, split.test), truth)
        own = clustered_interval(scores, five["document"])
        over = clustered_interval(scores - five["cosine"], five["document"])
        # The windows that have 15 chunks before them, for the page of longer contexts.
        long = split.test[:, -1] - starts >= LONGEST
        there = (scores - five["cosine"])[long], five["document"][long]
        row = {"model": kind, "size": size, "windows": len(scores)}
        row |= own.columns("cosine") | over.columns("over_ridge")
        row |= clustered_interval(*there).columns("over_ridge_long")
        rows.append(row | {"long_windows": int(long.sum())})
        print(rows[-1], flush=True)
        if kind == "weights":
            save_weights(model, Path(package) / "running.safetensors")
            (Path(package) / "running.md").write_text(
                CARD.format(
                    numbers=len(model.numbers),
                    weights=", ".join(f"{x:.3f}" for x in model.numbers.values()),
                    size=size,
                    name=plain.info["name"],
                    sha=plain.sha256[:12],
                    windows=len(split.train),
                    tested=len(scores),
                    documents=five["document"].nunique(),
                    cosine=interval(own, signed=False),
                    over=interval(over),
                )
            )
    pd.DataFrame(rows).to_csv(Path(report) / "running.csv", index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
