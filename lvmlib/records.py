"""What a run leaves in its folder, read back, without torch: pages import fast.

A run folder holds run.json (written last: it is what makes a run done), history.csv,
test.parquet (a row a test window), model.safetensors, the executed notebook, and
recipe-<hash>.json, whose name says which recipe the folder answers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lvmlib.files import one_line, sha256
from lvmlib.statistics import clustered_interval

BASELINES = {
    "last_vector": "last vector",
    "context_average": "context average",
    "five_weights": "five weights",
    "six_numbers": "six numbers",
    "ridge": "ridge",
    "ridge_to_weights": "ridge to the weights",
    "mean_vector": "mean vector",
}
PAIRED_BASELINES = ("six_numbers", "ridge")  # that every network is set against
SHARED = "baselines"  # attribute of a published test.parquet: where those columns are
GRADIENT_NORM_LIMIT = 1.0  # of an update; longer ones are scaled down
HASHED = ("history.csv", "test.parquet")  # beside run.json; weights have their own
LEVEL_TOLERANCE = 0.02  # how near the constant-mean level counts as being at it


class RunError(RuntimeError):
    """A run folder does not fit what was asked of it."""


@dataclass(frozen=True)
class Run:
    """A finished run, read back from its folder."""

    folder: Path
    info: dict[str, Any]  # run.json
    history: pd.DataFrame
    scores: pd.DataFrame  # a row a test window

    @property
    def wall_seconds(self) -> float:
        """How long the run took, in all its processes if it was interrupted."""
        # run.json's own figure is that of its last process alone.
        return max(self.info["wall_seconds"], self.history["seconds"].sum())


def load_run(folder: str | Path) -> Run:
    """Read a finished run.

    Raises
    ------
    RunError
        If the folder has no run.json, or a file of it is damaged.
    """
    folder = Path(folder)
    try:
        info = json.loads((folder / "run.json").read_text())
        history = pd.read_csv(folder / "history.csv")
        scores = read_scores(folder)
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(
            f"{folder} holds no finished run ({one_line(error)})."
        ) from error
    return Run(folder, info, history, scores)


def checksums(folder: str | Path) -> dict[str, str]:
    """Return what run.json keeps of the files beside it."""
    return {name: sha256(Path(folder) / name)[:16] for name in HASHED}


def is_whole(folder: str | Path, info: dict[str, Any]) -> bool:
    """Say whether the files beside run.json are those that it was written with.

    Runs from before there were checksums pass.
    """
    try:
        return "checksums" not in info or info["checksums"] == checksums(folder)
    except OSError:
        return False


def read_scores(folder: str | Path) -> pd.DataFrame:
    """Read a run's scores, a row a test window.

    Published runs share their baselines' columns, which lie beside the entries.
    """
    folder = Path(folder)
    scores = pd.read_parquet(folder / "test.parquet")
    shared = scores.attrs.get(SHARED)
    if shared:
        beside = folder.parents[3] / "baselines" / Path(shared).name
        scores = scores.join(pd.read_parquet(beside))
    return scores


def scores_table(run: Run) -> pd.DataFrame:
    """Return the network's and the baselines' test cosine, best first.

    Columns name, kind ("network", "baseline"), cosine and network_minus (network −
    baseline), with intervals over documents.
    """
    documents, network = run.scores["document"], run.scores["cosine"]
    own = clustered_interval(network, documents)
    rows = [
        {"name": run.info["architecture"], "kind": "network"} | own.columns("cosine")
    ]
    for name in run.info["baselines"]:
        column = f"cosine_{name}"
        if column in run.scores:
            score = clustered_interval(run.scores[column], documents)
            lead = clustered_interval(network - run.scores[column], documents)
            row = {"name": name, "kind": "baseline"} | score.columns("cosine")
            rows.append(row | lead.columns("network_minus"))
    return pd.DataFrame(rows).sort_values("cosine", ascending=False)


def metrics_table(run: Run) -> pd.DataFrame:
    """Return all test metrics of the network and the baselines, a row each."""
    rows = {run.info["architecture"]: run.info["test"]} | run.info["baselines"]
    return pd.DataFrame(rows).T.rename_axis("name").reset_index()


def training_status(history: pd.DataFrame, constant_level: float) -> str:
    """Name what became of a training run.

    Parameters
    ----------
    constant_level : float
        Cosine of the constant mean vector on the training windows.

    Returns
    -------
    status : str
        "diverged" (a loss was not finite), "collapsed" (it fell from its own earlier
        best back to the constant-mean level), "unlearned" (it never left that level)
        or "trained". See `at_constant_level`.
    """
    if not np.isfinite(history[["train_loss", "validation_cosine"]].to_numpy()).all():
        return "diverged"
    at_level = at_constant_level(history, constant_level)
    if at_level.all():
        return "unlearned"
    return "collapsed" if at_level.iloc[-1] else "trained"


def at_constant_level(history: pd.DataFrame, level: float) -> pd.Series:
    """Say for each epoch whether it ended within 0.02 of a constant mean's cosine.

    By the training cosine, or by a validation cosine that fell along with it: the
    former is a mean over the epoch and hides a collapse within the last one.
    """
    training, validation = history["train_cosine"], history["validation_cosine"]
    fell = training < training.cummax()
    edge = level + LEVEL_TOLERANCE
    return (training <= edge) | (fell & (validation <= edge))
