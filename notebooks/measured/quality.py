"""How soon a head start is as good as the published recipe.

python notebooks/measured/quality.py DATASET reports/benchmark/quality.csv

Each network is trained as published, by the benchmark's plain loop, and then by the
best study's recipe from ridge to the weights, whose fit is counted. One seed, one core.
Validation, of at most 1,000 windows, is not counted.
"""

import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import pandas as pd
import torch

sys.path.append(str(Path(__file__).parent.parent / "benchmark"))
from cells import control_curve, run_train

from lvmlib.evaluation import mean_cosine
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.moments import Moments
from lvmlib.runs import new_model, processor_name
from lvmlib.study import read_study
from lvmlib.vectors import make_split, open_dataset

EPOCHS, TUNED_AT = 8, 80_634
CELLS = [("amn", 20_000), ("amn", 80_634), ("lstm", 20_000), ("gru", 20_000)]
CELLS += [("transformer", 20_000)]


def started_curve(model, recipe, data, split):
    """Fit the linear model, then train: seconds so far and validation cosine."""
    with TemporaryDirectory() as runs:
        os.environ["LVM_RUNS"] = runs  # where nothing has been fitted yet
        linear = build_model("linear", dim=data.dim).eval()
        begun = time.perf_counter()
        linear.fit_moments(Moments(data, split.train), split.validation)
        fitting = time.perf_counter() - begun
        history = run_train(model, data, split, recipe)
    curve = [(fitting, mean_cosine(linear, data, split.validation))]
    seconds = fitting + history["seconds"].cumsum()
    return curve + list(zip(seconds, history["validation_cosine"], strict=True))


def main(folder, output):
    """Train all both ways and write a row a point."""
    data, rows = open_dataset(folder, verify=False), []
    tuned = {
        run.entry: run.settings
        for run in read_study("best", folder).runs
        if run.settings.size == TUNED_AT and run.entry in ARCHITECTURES
    }
    for name, size in CELLS:
        split = make_split(data, "controlled", size)
        few = split.validation[:: -(-len(split.validation) // 1000)]
        split = replace(split, validation=few)
        torch.manual_seed(0)
        ways = {"published": control_curve(name, "control", data, split, EPOCHS, 0)}
        model = new_model(replace(tuned[name], size=size, seed=0), data.dim)
        recipe = tuned[name].recipe
        ways["head start"] = started_curve(model, recipe, data, split)
        for way, curve in ways.items():
            row = {"architecture": name, "size": size, "way": way}
            rows += [row | {"seconds": s, "validation_cosine": c} for s, c in curve]
            print(name, size, way, curve, flush=True)
        pd.DataFrame(rows).assign(processor=processor_name()).to_csv(
            output, index=False
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
