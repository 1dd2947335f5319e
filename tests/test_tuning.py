"""Tuning: trials on validation, kept, resumed, the same number for every cell."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from conftest import drifting_vectors

from lvmlib import tuning
from lvmlib.recipe import Settings

PLAN = {
    "sizes": [200],
    "seeds": [0],
    "architectures": {"amn": {}},
    "tuning": {
        "trials": 3,
        "seed": 0,
        "space": {
            "learning_rate": {"low": 0.0001, "high": 0.01},
            "loss": ["mse", "cosine"],
        },
        "entries": {
            "amn": {
                "architecture": "amn",
                "sizes": [200],
                "fixed": {"scale": True, "epochs": 2, "device": "cpu"},
                "space": {"head_start": ["frozen", "none"]},
            }
        },
    },
}


@pytest.fixture
def study(write_dataset, tmp_path, runs_root, monkeypatch):
    """Return a study file's name and its dataset; the current folder is theirs."""
    dataset = write_dataset(tmp_path / "data", drifting_vectors())
    monkeypatch.chdir(tmp_path)
    (tmp_path / "parameters").mkdir()
    (tmp_path / "parameters" / "small.yaml").write_text(yaml.safe_dump(PLAN))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    return "small", str(dataset)


def test_trials_are_kept_and_an_interrupted_cell_goes_on(study, monkeypatch):
    name, dataset = study
    train, count = tuning.train, iter(range(10))

    def failing(*arguments, **named):
        if next(count) == 1:
            raise KeyboardInterrupt
        return train(*arguments, **named)

    monkeypatch.setattr(tuning, "train", failing)
    with pytest.raises(KeyboardInterrupt):
        tuning.tune(name, dataset, "amn", 200)
    before, _ = tuning.trials_table(tuning.folder_of(name))
    assert len(before) == 1
    tuning.tune(name, dataset, "amn", 200)
    trials, epochs = tuning.trials_table(tuning.folder_of(name))
    assert len(trials) == 3  # that was asked for, the killed one aside
    assert trials.iloc[0].to_dict() == before.iloc[0].to_dict()
    best = epochs.groupby("trial")["validation_cosine"].max()
    assert list(trials["validation_cosine"]) == list(best)
    assert trials["learning_rate"].between(0.0001, 0.01).all()
    assert set(trials["loss"]) <= {"mse", "cosine"}
    tuning.tune(name, dataset, "amn", 200)  # nothing is left to do
    assert len(tuning.trials_table(tuning.folder_of(name))[0]) == 3


def test_no_trial_looks_at_the_test_windows(study, monkeypatch):
    name, dataset = study
    cut = Settings.split

    def blind(*arguments):
        split = cut(*arguments)
        split.test[:] = np.iinfo(split.test.dtype).max  # reading them would fail
        return split

    monkeypatch.setattr(Settings, "split", blind)
    tuning.tune(name, dataset, "amn", 200)
    trials, _ = tuning.trials_table(tuning.folder_of(name))
    assert (trials["validation_cosine"] > 0).all()


def test_a_study_without_a_space_to_choose_from_is_refused(study, monkeypatch, capsys):
    name, _ = study
    untuned = {key: value for key, value in PLAN.items() if key != "tuning"}
    Path("parameters/small.yaml").write_text(yaml.safe_dump(untuned))
    monkeypatch.setattr(sys, "argv", ["lvmlib.tuning", name])
    with pytest.raises(SystemExit):
        tuning.main()
    assert "small has no tuning" in capsys.readouterr().err
