"""What a run left, read back: its tables, and what became of its training."""

from __future__ import annotations

import math

import pandas as pd
import pytest
from studies import LARGE, write_run

from lvmlib.records import (
    RunError,
    load_run,
    metrics_table,
    scores_table,
    training_status,
)


def test_scores_stand_beside_the_baselines_best_first(tmp_path):
    write_run(tmp_path, "amn", LARGE, 0.47, ridge=0.45)
    (folder,) = tmp_path.rglob("seed0")
    run = load_run(folder)
    table = scores_table(run).set_index("name")
    assert list(table.index[:3]) == ["six_numbers", "amn", "ridge"]
    assert table.loc["amn", "kind"] == "network"
    assert table.loc["ridge", "network_minus"] == pytest.approx(0.02)
    assert table.loc["ridge", "network_minus_low"] < 0.02
    metrics = metrics_table(run).set_index("name")
    assert metrics.loc["amn", "cosine"] == pytest.approx(0.47)


def test_a_folder_without_a_run_is_named(tmp_path):
    with pytest.raises(RunError, match=f"{tmp_path.name} holds no finished run"):
        load_run(tmp_path)


# --- what became of a run ------------------------------------------------------------


def status(train_cosine, level=0.42, **columns):
    history = pd.DataFrame({"train_cosine": train_cosine})
    history = history.assign(train_loss=0.001, validation_cosine=0.5)
    return training_status(history.assign(**columns), level)


@pytest.mark.parametrize(
    ("cosines", "expected"),
    [
        ([0.45, 0.52, 0.55], "trained"),
        ([0.43, 0.42, 0.50], "trained"),  # slow to leave the level
        ([0.55, 0.54, 0.45], "trained"),  # worse, but not at the level
        ([0.519, 0.548, 0.444, 0.424, 0.424], "collapsed"),  # the reported GraphMERT
        ([0.30, 0.46, 0.30], "collapsed"),  # below the level is not better
        ([0.30, 0.41, 0.42], "unlearned"),
        ([0.439], "unlearned"),  # within 0.02 of 0.42
        ([0.441], "trained"),
    ],
)
def test_status_by_the_training_cosine(cosines, expected):
    assert status(cosines) == expected


def test_a_collapse_within_the_last_epoch_shows_in_validation():
    validation = [0.53, 0.55, 0.17]  # graphmert-smooth at 232,605 vectors, seed 2
    assert status([0.54, 0.57, 0.33], 0.2, validation_cosine=validation) == "collapsed"
    # Validation falls while training goes on rising: overfitting, if anything.
    assert status([0.54, 0.57, 0.58], 0.2, validation_cosine=validation) == "trained"


def test_status_of_losses_that_are_not_finite():
    assert status([0.5, 0.5], train_loss=[0.1, math.nan]) == "diverged"
    assert status([0.5, 0.5], train_loss=[0.1, math.inf]) == "diverged"
    assert status([0.5, math.nan], validation_cosine=[0.5, math.nan]) == "diverged"
