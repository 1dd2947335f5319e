"""Choosing recipes on validation alone: `python -m lvmlib.tuning best`.

The study's YAML says under `tuning` how many trials each entry gets at each size (the
same for all) and what they may choose from. Each cell has an Optuna journal of its
own, so that trials go on where they were stopped; a killed one is lost.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
import torch
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from lvmlib.files import atomic_path, copy_file, runs_root
from lvmlib.recipe import make_settings
from lvmlib.runs import new_model
from lvmlib.study import read_yaml
from lvmlib.training import TrainingError, train
from lvmlib.vectors import open_dataset

RANDOM_TRIALS = 4  # of a cell, before the sampler leans on what they found
JUDGES = ("validation_cosine", "validation_likelihood")  # of `Recipe.judge`


def tune(name: str, dataset: str, entry: str, size: int) -> None:
    """Run what is left of a cell's trials, scored by their best epoch's judge."""
    torch.set_num_threads(1)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    plan = read_yaml(name).tuning
    own = plan.entries[entry]
    space = plan.space | own.space
    cell = folder_of(name) / f"{entry}-{size}"
    data = open_dataset(dataset, verify=False)

    def objective(trial: optuna.Trial) -> float:
        chosen = {key: suggest(trial, key, choice) for key, choice in space.items()}
        parameters = own.fixed | chosen | {"size": size, "seed": plan.seed}
        settings = make_settings(own.architecture, parameters)
        split, recipe = settings.split(data), settings.recipe
        folder = cell / str(trial.number)
        rows: list[dict[str, float]] = []

        def report(row: dict[str, float]) -> None:
            rows.append(row)
            trial.report(row[recipe.judge], len(rows))
            trial.set_user_attr("history", rows)
            if trial.should_prune():
                raise optuna.TrialPruned

        model = new_model(settings, data.dim)
        try:
            train(model, data, split, recipe, settings.seed, folder, after_epoch=report)
        except TrainingError:
            return -math.inf  # it diverged, which is an answer
        finally:
            shutil.rmtree(folder, ignore_errors=True)
        return max(row[recipe.judge] for row in rows)

    study = open_study(cell)
    done = len(study.get_trials(states=(TrialState.COMPLETE, TrialState.PRUNED)))
    study.optimize(objective, max(0, plan.trials - done))


def open_study(cell: Path) -> optuna.Study:
    """Open a cell's journal, <cell>.log."""
    cell.parent.mkdir(parents=True, exist_ok=True)
    return optuna.create_study(
        storage=_journal(cell),
        study_name=cell.name,
        direction="maximize",
        load_if_exists=True,
        # Not seeded: a restart would draw the same recipes again.
        sampler=optuna.samplers.TPESampler(n_startup_trials=RANDOM_TRIALS),
        pruner=optuna.pruners.MedianPruner(n_startup_trials=RANDOM_TRIALS),
    )


def _journal(cell: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(f"{cell}.log"))


def suggest(trial: optuna.Trial, name: str, choice: Any) -> Any:
    """Draw one parameter: from a list, or from {low, high} on a logarithmic scale."""
    if isinstance(choice, list):
        return trial.suggest_categorical(name, choice)
    return trial.suggest_float(name, choice["low"], choice["high"], log=True)


def trials_table(folder: Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return all trials of a study: a row a trial, and a row an epoch.

    The first has entry, size, trial, state, the highest validation_cosine (of a pruned
    trial so far) and, where it was the judge, validation_likelihood, seconds and the
    chosen parameters.
    """
    trials, epochs = [], []
    for journal in sorted(folder.glob("*.log")):
        entry, _, size = journal.stem.rpartition("-")
        storage = _journal(journal.with_suffix(""))
        if journal.stem not in optuna.get_all_study_names(storage):
            continue  # killed before its first trial
        for trial in optuna.load_study(study_name=journal.stem, storage=storage).trials:
            place = {"entry": entry, "size": int(size), "trial": trial.number}
            rows = trial.user_attrs.get("history", [])
            if not trial.state.is_finished() or not rows:
                continue
            history = pd.DataFrame(rows)
            row = place | {"state": trial.state.name.lower()}
            row |= dict(history.filter(JUDGES).max())
            row["seconds"] = history["seconds"].sum()
            trials.append(row | trial.params)
            epochs += [place | row for row in rows]
    return pd.DataFrame(trials), pd.DataFrame(epochs)


def folder_of(name: str) -> Path:
    """Return the folder of a study's journals."""
    return runs_root() / Path(name).stem / "tuning"


def main() -> None:
    """Run all trials that are left, and keep them in reports/<study>/tuning."""
    parser = argparse.ArgumentParser(prog="lvmlib.tuning", description=__doc__)
    parser.add_argument("study", help="name of a file in parameters/")
    parser.add_argument("--dataset", default="", help="another dataset folder")
    parser.add_argument("--cores", type=int, help="all unless told")
    arguments = parser.parse_args()
    name, content = arguments.study, read_yaml(arguments.study)
    if content.tuning is None:
        parser.error(f"{name} has no tuning: say what is chosen, as best.yaml does.")
    dataset = arguments.dataset or content.dataset
    folder, kept = folder_of(name), Path("reports") / Path(name).stem / "tuning"
    for journal in kept.glob("*.log"):  # go on from what the repository has
        if not (folder / journal.name).exists():
            copy_file(journal, folder / journal.name)
    cells = [
        (name, dataset, entry, size)
        for entry, own in content.tuning.entries.items()
        for size in own.sizes
    ]
    # So that a kill takes the processes along, which would go on for hours.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    with multiprocessing.get_context("spawn").Pool(arguments.cores) as pool:
        pool.starmap(tune, cells, chunksize=1)
    for journal in folder.glob("*.log"):
        copy_file(journal, kept / journal.name)
    trials, epochs = trials_table(folder)
    for table, file in ((trials, "trials.csv"), (epochs, "epochs.csv")):
        with atomic_path(kept / file) as temporary:
            table.to_csv(temporary, index=False)


if __name__ == "__main__":
    main()
