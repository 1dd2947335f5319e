"""Did bfloat16 make GraphMERT collapse? The same training again, and on in float32.

graphmert-smooth at 232,605 vectors, seed 2, collapsed in its fourth epoch. "whole"
trains it again from the beginning and keeps checkpoints; "from" waits for one of them
and goes on from it in float32. Both write what each update had to FOLDER. Run it on a
GPU from the project's folder; reports/reference/PLAN.md says what came of it.

    python repeat.py DATASET FOLDER whole
    python repeat.py DATASET FOLDER from 23000 LAST

It watches the insides of the library as they were at commit e5ee744: run it there.
"""

import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from lvmlib.parameters import Settings

from lvmlib import build_model, make_split, open_dataset, training
from lvmlib.study import read_study

KEPT = (22_000, 23_000, 23_200)  # updates after which a checkpoint is kept


class LastUpdate(Exception):
    """The last update that was asked for is done."""


def repeat(settings: Settings, folder: Path, start: int, last: int) -> pd.DataFrame:
    """Train from a checkpoint (or the beginning) to `last`; return a row an update.

    The loss, the cosine and the gradient's norm of each come from the epoch's sums,
    which are copied on the device, so that nothing waits for it.
    """
    recipe, sums = settings.recipe, {}
    finish, save = training._finish_update, training._save_checkpoint

    def watched(optimizer, size, state):
        finish(optimizer, size, state)
        sums[state.step] = state.totals[:3].clone()
        if state.step == last:
            raise LastUpdate

    def keep(fabric, path, parts, identity, state):
        kept = folder / f"at-{state.step}.pt"
        save(fabric, kept, parts, identity, state)

    training._finish_update, training._save_checkpoint = watched, keep
    training._checkpoint_is_due = lambda fabric, state, when: (
        not start and state.step in KEPT
    )
    place = folder / f"{start}-{recipe.precision}"
    place.mkdir(parents=True, exist_ok=True)
    if start:
        (place / "checkpoint.pt").symlink_to((folder / f"at-{start}.pt").resolve())
    dataset = open_dataset(settings.dataset, verify=False)
    split = make_split(dataset, settings.protocol, settings.size, settings.seed)
    torch.manual_seed(settings.seed)
    model = build_model(settings.architecture, dim=dataset.dim, **settings.options)
    while start and not (folder / f"at-{start}.pt").exists():
        time.sleep(0.2)
    with suppress(LastUpdate):
        training.train(model, dataset, split, recipe, settings.seed, place)
    steps = np.array(list(sums))
    each = torch.stack(list(sums.values())).cpu().double().diff(dim=0).numpy()
    each[:, :2] /= recipe.batch_size  # sums over windows; the norm is one an update
    found = pd.DataFrame(each, columns=["loss", "cosine", "gradient_norm"])
    found.insert(0, "update", steps[1:])
    found.insert(0, "start", start)
    found.insert(0, "precision", recipe.precision)
    return found[found["gradient_norm"] > 0]  # not where an epoch's sums began anew


if __name__ == "__main__":
    dataset, folder, how, *given = sys.argv[1:]
    start, last = map(int, given) if how == "from" else (0, 24_000)
    (run,) = [
        run
        for run in read_study("reference", dataset).runs
        if run.entry == "graphmert-smooth"
        and (run.settings.size, run.settings.seed) == (232605, 2)
    ]
    precision = "32-true" if start else "bf16-mixed"
    recipe = replace(run.settings.recipe, precision=precision)
    found = repeat(replace(run.settings, recipe=recipe), Path(folder), start, last)
    found = found[found["update"] > KEPT[0]]
    found.to_csv(Path(folder) / f"{start}.csv", index=False, float_format="%.4g")
