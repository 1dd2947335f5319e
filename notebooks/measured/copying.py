"""Do models copy their context, and do hubs catch them? reports/best/copying.csv.

    python notebooks/measured/copying.py DATASET OUTPUT RUN [RUN ...]

A run is a folder with its weights; beside the runs, the linear family fitted to the
first run's vectors is measured.
"""

import sys
from pathlib import Path

import pandas as pd

from lvmlib import evaluation
from lvmlib.files import read_json
from lvmlib.inference import predict_windows
from lvmlib.recipe import make_settings
from lvmlib.records import BASELINES
from lvmlib.vectors import open_dataset
from lvmlib.weights import load_weights


def main(folder, output, *runs):
    """Measure each model once."""
    dataset, models = open_dataset(folder, verify=False), {}
    for run in map(Path, runs):
        info = read_json(run / "run.json")
        settings = make_settings(info["architecture"], info["parameters"])
        models[run.parts[-4]] = load_weights(run / "model.safetensors")
        if len(models) == 1:
            split = settings.split(dataset)
    evaluation.score_baselines(dataset, split)
    place = evaluation.place_of(dataset, split)
    for name in BASELINES:
        models[BASELINES[name]] = load_weights(place / f"{name}.safetensors")
    rows = []
    for name, model in models.items():
        raw = predict_windows(model, dataset, split.test)
        row = {"model": name}
        row["copying"] = evaluation.copying(raw, dataset, split.test).mean()
        row["skew"] = evaluation.k_occurrence_skew(raw, dataset, split.test)
        scores = evaluation.summarise(
            evaluation.score_windows(raw, dataset, split.test)
        )
        rows.append(row | {key: scores[key] for key in ("cosine", "r1_all")})
    pd.DataFrame(rows).to_csv(output, index=False)


if __name__ == "__main__":
    main(*sys.argv[1:])
