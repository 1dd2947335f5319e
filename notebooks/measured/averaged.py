"""What averaging the predictions of several seeds adds: reports/best/averaged.csv.

    python notebooks/measured/averaged.py DATASET OUTPUT MODEL RUN RUN [RUN ...]

Runs are folders with their weights. A row is added to OUTPUT, or the model's replaced.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.evaluation import cosine
from lvmlib.files import read_json
from lvmlib.inference import predict_windows
from lvmlib.recipe import make_settings
from lvmlib.statistics import clustered_interval
from lvmlib.vectors import open_dataset
from lvmlib.weights import load_weights


def main(folder, output, name, *runs):
    """Score the average of unit predictions against the mean of single scores."""
    dataset, total, single = open_dataset(folder, verify=False), 0, []
    for run in map(Path, runs):
        info = read_json(run / "run.json")
        settings = make_settings(info["architecture"], info["parameters"])
        windows = settings.split(dataset).test
        truth = dataset.gather(windows[:, -1])
        raw = predict_windows(load_weights(run / "model.safetensors"), dataset, windows)
        single.append(cosine(raw, truth))
        total = total + raw / np.linalg.norm(raw, axis=1, keepdims=True)
    before, after = np.mean(single, axis=0), cosine(total, truth)
    found = clustered_interval(after - before, dataset.document_of(windows[:, -1]))
    row = {"model": name, "size": settings.size, "seeds": len(runs)}
    row |= {"before": before.mean(), "after": after.mean()} | found.columns("change")
    rows = pd.DataFrame([row])
    if Path(output).exists():
        old = pd.read_csv(output)
        rows = pd.concat([old[old["model"] != name], rows])
    rows.to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
