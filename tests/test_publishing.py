"""What is committed of a study, and the model that ships."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest

import lvmlib
from lvmlib import publishing
from lvmlib.comparison import compare_sizes
from lvmlib.study import load_study, missing_runs, read_study
from lvmlib.weights import PRETRAINED


@pytest.fixture
def study(tmp_path, monkeypatch):
    """A study of two finished runs and one that is missing, on the sample."""
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "runs"))
    (tmp_path / "small.yaml").write_text(
        "sizes: [300, 600, 900]\nseeds: [0]\nrecipe: {epochs: 1}\n"
        "architectures: {amn: {}}\n"
    )
    planned = read_study(str(tmp_path / "small.yaml"))
    planned.write_plan()
    for run in planned.runs[:2]:
        lvmlib.execute(run.settings)
    return planned.folder


def test_what_is_published_tells_the_same_story(study, tmp_path):
    target = tmp_path / "reports" / "runs"
    assert publishing.publish_runs(study, target) == 2
    before, after = load_study(study), load_study(target)
    pd.testing.assert_frame_equal(
        after.drop(columns="folder"), before.drop(columns="folder")
    )
    assert [run["label"] for run in missing_runs(target)] == [
        run["label"] for run in missing_runs(study)
    ]
    ours, theirs = (compare_sizes(t, 300, 600)["interval"][0] for t in (after, before))
    np.testing.assert_allclose(
        [ours.estimate, ours.low, ours.high],
        [theirs.estimate, theirs.low, theirs.high],
        atol=1e-7,
    )
    for folder in before["folder"]:
        whole = pd.read_parquet(f"{folder}/test.parquet")
        kept = pd.read_parquet(
            folder.replace(str(study), str(target)) + "/test.parquet"
        )
        pd.testing.assert_frame_equal(
            kept, whole[list(kept)], check_dtype=False, atol=1e-7
        )
    kept = {path.name for path in target.rglob("*") if path.is_file()}
    assert kept == {"study.json", "run.json", "history.csv", "test.parquet"}
    assert publishing.publish_runs(study, target) == 2  # again, over what is there


def test_a_shipped_model_predicts_what_the_run_s_model_does(study, tmp_path):
    folder = load_study(study)["folder"].iloc[0]
    path = tmp_path / "shipped" / "amn.safetensors"
    publishing.ship(folder, path)
    context = lvmlib.open_dataset().gather(np.arange(5))
    shipped = lvmlib.predict(lvmlib.load_weights(path), context)
    whole = lvmlib.predict(lvmlib.load_weights(f"{folder}/model.safetensors"), context)
    assert shipped @ whole > 0.9999
    assert path.stat().st_size < 0.51 * (PRETRAINED.stat().st_size * 2 + 10_000)
    card = path.with_suffix(".md").read_text()
    cosine = lvmlib.load_run(folder).info["test"]["cosine"]
    assert re.search(rf"cosine: {cosine:.4f} \[", card)


def test_the_model_in_the_package():
    assert PRETRAINED.stat().st_size < 5e6
    context = lvmlib.open_dataset().gather(np.arange(5))
    prediction = lvmlib.predict(lvmlib.load_pretrained(), context)
    assert prediction.shape == (768,)
    assert np.linalg.norm(prediction) == pytest.approx(1, abs=1e-5)
    assert PRETRAINED.with_suffix(".md").exists()
