"""What GraphMERT's layers do to what they read: reports/graphmert/layers.csv.

python notebooks/measured/layers.py DATASET reports/graphmert/layers.csv

For every run of the study of depth in $LVM_RUNS, and for the same network before its
training: by layer, how much it changes its input and how alike it leaves two windows
(`GraphMERT.course`), over 400 windows of the exam. And how large the network's output
is beside what a linear start leaves to it. Weights of published runs are not kept:
where they are gone, the output's rows stay.
"""

import sys
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from lvmlib.files import runs_root
from lvmlib.models import build_model
from lvmlib.results import load_study
from lvmlib.start import inside
from lvmlib.vectors import make_split, open_dataset
from lvmlib.weights import load_weights

WINDOWS = 400
RUN = ["entry", "size", "seed"]


def course(network, context):
    """Return a row a layer; layer 0 is what the first one reads."""
    change, alike = network.eval().course(context)
    change = [np.nan, *change.tolist()]
    return pd.DataFrame({"change": change, "alike": alike}).rename_axis("layer")


def spread(model, context):
    """Return how much the network's part of a prediction differs between windows.

    As a share of its mean length: zero is the same answer to all.
    """
    network, scale = inside(model)
    with torch.inference_mode():
        raw = network(context * scale)  # (B, D)
    return float((raw - raw.mean(0)).norm(dim=1).mean() / raw.norm(dim=1).mean())


def main(folder, output):
    """Write the layers of every run whose weights are there."""
    dataset, parts = open_dataset(folder, verify=False), []
    before = pd.read_csv(output) if Path(output).exists() else pd.DataFrame()
    for run in load_study(runs_root() / "graphmert").itertuples():
        file = Path(run.folder) / "model.safetensors"
        if not file.exists():
            continue
        windows = make_split(dataset, run.protocol, run.size, run.seed).test
        chosen = np.random.default_rng(0).choice(len(windows), WINDOWS, replace=False)
        context = torch.from_numpy(dataset.gather(windows[chosen, :-1]))
        model = load_weights(file).eval()
        network, scale = inside(model)
        torch.manual_seed(run.seed)
        fresh = build_model("graphmert", **network.options)
        of = {name: getattr(run, name) for name in RUN}
        of |= {"layers": len(network.layers), "spread": spread(model, context)}
        found = course(network, context * scale)
        found["alike_untrained"] = course(fresh, context * scale)["alike"]
        parts.append(found.reset_index().assign(**of))
        print(of, flush=True)
        if len(before):
            before = before[~(before[RUN] == pd.Series(of)[RUN]).all(axis=1)]
    pd.concat([before, *parts], ignore_index=True).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
