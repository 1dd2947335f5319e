"""What is committed of a study, and the model that ships."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

import lvmlib
from lvmlib.comparison import BASELINES, compare_sizes, over_baseline
from lvmlib.pages import publishing
from lvmlib.study import load_study, missing_runs, read_study
from lvmlib.weights import PRETRAINED

PROJECT = Path(__file__).parent.parent


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
    leads = [over_baseline(table[:1], "ridge") for table in (after, before)]
    assert leads[0].estimate == pytest.approx(leads[1].estimate, abs=1e-7)
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
        whole = lvmlib.load_run(folder).scores
        kept = lvmlib.load_run(folder.replace(str(study), str(target))).scores
        assert {"cosine_ridge", "cosine_six_numbers", "rank_all"} <= set(kept)
        pd.testing.assert_frame_equal(
            kept, whole[list(kept)], check_dtype=False, atol=1e-7
        )
    kept = {path.name for path in target.glob("amn/**/*") if path.is_file()}
    assert kept == {"run.json", "history.csv", "test.parquet"}
    assert len(list(target.glob("baselines/*"))) == 2  # one a training set
    assert publishing.publish_runs(study, target) == 2  # again, over what is there


def test_published_runs_are_not_trained_again(study, tmp_path, monkeypatch):
    published = tmp_path / "reports" / "runs"
    publishing.publish_runs(study, published)
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "elsewhere"))
    planned = read_study(str(tmp_path / "small.yaml"))
    started = planned.runs[0].folder
    started.mkdir(parents=True)  # begun on this machine: left alone
    assert publishing.restore_runs(planned, published) == 1
    assert [run.is_done for run in planned.runs] == [False, True, False]
    restored = planned.runs[1]
    assert list(restored.folder.glob(f"recipe-{restored.recipe_hash}.json"))
    before = lvmlib.load_run(published / "amn/600/epochs/seed0")
    after = lvmlib.execute(restored.settings)  # reads it: there are no weights
    assert not (restored.folder / "model.safetensors").exists()
    assert after.info == before.info
    pd.testing.assert_frame_equal(after.scores, before.scores)
    assert publishing.restore_runs(planned, published) == 0


def test_runs_of_another_recipe_are_not_restored(study, tmp_path, monkeypatch):
    published = tmp_path / "reports" / "runs"
    publishing.publish_runs(study, published)
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "elsewhere"))
    changed = (tmp_path / "small.yaml").read_text().replace("epochs: 1", "epochs: 2")
    (tmp_path / "small.yaml").write_text(changed)
    planned = read_study(str(tmp_path / "small.yaml"))
    assert publishing.restore_runs(planned, published) == 0


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


def test_the_headline_on_made_up_numbers():
    rows = [
        ("amn", 100, 0, 0.50),
        ("amn", 200, 0, 0.52),
        ("amn", 100, 1, 0.51),
        ("amn", 200, 1, 0.54),
        ("amn", 200, 2, 0.99),  # no partner: in no difference, but in the mean
        ("gru", 100, 0, 0.60),
        ("gru", 200, 0, 0.59),
    ]
    runs = pd.DataFrame(rows, columns=["entry", "size", "seed", "test_cosine"])
    runs = runs.assign(architecture=runs["entry"], arm="epochs", protocol="controlled")
    runs = runs.assign(test_documents=7, **{f"baseline_{n}": 0.1 for n in BASELINES})
    runs["baseline_ridge"] = 0.7
    assert publishing.headline(runs) == (
        "**From 100 to 200 training vectors the cosine on 7 unseen documents changed "
        "by −0.0100 to +0.0250 and rose in 2 of 3 pairs of runs; the best network, "
        "amn, then has 0.6833, and ridge, which is no network, 0.7000.** That is at "
        "equal epochs, so with more updates too: +0.0250 (amn, 2 seeds), −0.0100 (gru, "
        "1 seed). At equal updates nothing is measured yet."
    )
    steps = runs[(runs["entry"] == "amn") & (runs["size"] == 200)].assign(arm="steps")
    steps["test_cosine"] -= 0.01
    both = publishing.headline(pd.concat([runs, steps]))
    assert "updates the cosine rose in 2 of 2 pairs of runs: +0.0150 (amn, 2 s" in both
    assert "yet" in publishing.headline(runs[runs["size"] == 100])


@pytest.mark.parametrize("name", ["reference", "as_reported"])
def test_what_is_committed_makes_results_csv_again(name):
    report = PROJECT / "reports" / name
    results = load_study(report / "results.csv")
    again = load_study(report / "runs").drop(columns="folder")
    pd.testing.assert_frame_equal(again, results[list(again)], check_dtype=False)
    ignored = subprocess.run(
        ["git", "check-ignore", "--no-index", report / "runs" / "study.json"],
        cwd=PROJECT,
        check=False,
    )
    assert ignored.returncode, "git ignores the published runs"
    for folder in load_study(report / "runs")["folder"]:
        assert {"cosine", "cosine_ridge"} <= set(lvmlib.load_run(folder).scores)


def test_the_readme_says_what_results_csv_says():
    results = load_study(PROJECT / "reports" / "reference" / "results.csv")
    readme = " ".join((PROJECT / "README.md").read_text().split())
    assert publishing.headline(results) in readme


def test_the_readme_is_told_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    marks = publishing.ANSWER, publishing.ANSWER_ENDS
    readme.write_text("# Title\n{}\nold\n{}\nrest\n".format(*marks))
    publishing.tell_readme(readme, "The new answer.")
    assert readme.read_text() == "# Title\n{}\nThe new answer.\n{}\nrest\n".format(
        *marks
    )


def test_a_study_without_a_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["publishing", "", "--render"])
    with pytest.raises(SystemExit):
        publishing.main()
    assert "such as: make rebuild STUDY=reference" in capsys.readouterr().err
