"""What is committed of a study, the model that ships, the pages, the README."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import nbformat
import numpy as np
import pandas as pd
import pytest
from nbformat import v4
from nbformat.v4 import new_code_cell, new_notebook, new_output
from studies import execute

import lvmlib
from lvmlib import publish, results
from lvmlib.study import read_study
from lvmlib.weights import PRETRAINED

PROJECT = Path(__file__).parent.parent


@pytest.fixture
def planned(tmp_path, monkeypatch, dataset_folder):
    """A study of two finished runs and one that is missing."""
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "runs"))
    (tmp_path / "small.yaml").write_text(
        "sizes: [100, 150, 200]\nseeds: [0]\nrecipe: {epochs: 1}\n"
        "architectures: {amn: {hidden: 4, mlp: 8}}\n"
    )
    planned = read_study(str(tmp_path / "small.yaml"), str(dataset_folder))
    planned.write_plan()
    for run in planned.runs[:2]:
        execute(run.settings)
    return planned


def test_what_is_published_tells_the_same_story(planned, tmp_path):
    study, target = planned.folder, tmp_path / "reports" / "runs"
    assert publish.publish_runs(study, target) == 2
    before, after = lvmlib.load_study(study), lvmlib.load_study(target)
    places = ["folder", "run_dir", "asked_dataset"]  # of this machine alone
    pd.testing.assert_frame_equal(
        after.drop(columns=places), before.drop(columns=places)
    )
    assert after["run_dir"].tolist() == ["", ""]
    assert not after["asked_dataset"].str.contains("/").any()
    leads = [results.over_baseline(table, "ridge") for table in (after, before)]
    assert leads[0].columns("lead") == pytest.approx(leads[1].columns("lead"), abs=1e-7)
    assert len(results.missing_runs(target)) == 1
    kept = {path.name for path in target.glob("amn/**/*") if path.is_file()}
    assert kept == {"run.json", "history.csv", "test.parquet"}
    assert len(list(target.glob("baselines/*"))) == 2  # one a training set
    assert publish.publish_runs(study, target) == 2  # again, over what is there


def test_published_runs_are_not_trained_again(planned, tmp_path, monkeypatch):
    published = tmp_path / "reports" / "runs"
    publish.publish_runs(planned.folder, published)
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "elsewhere"))
    path, data = str(tmp_path / "small.yaml"), planned.runs[0].settings.dataset
    again = read_study(path, data)
    again.runs[0].folder.mkdir(parents=True)  # begun on this machine: left alone
    assert publish.restore_runs(again, published) == 1
    assert [run.is_done for run in again.runs] == [False, True, False]
    restored = execute(again.runs[1].settings)  # reads it: there are no weights
    assert not (restored.folder / "model.safetensors").exists()
    assert publish.restore_runs(again, published) == 0
    changed = (tmp_path / "small.yaml").read_text().replace("epochs: 1", "epochs: 2")
    (tmp_path / "small.yaml").write_text(changed)
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "third"))
    assert publish.restore_runs(read_study(path, data), published) == 0


def test_a_shipped_model_predicts_what_the_run_s_model_does(planned, tmp_path):
    runs = lvmlib.load_study(planned.folder)[:1]
    path = tmp_path / "shipped" / "amn.safetensors"
    path.parent.mkdir()
    publish.ship(runs, tmp_path, path)
    context = np.random.default_rng(0).normal(size=(5, 16))
    shipped = lvmlib.predict(lvmlib.load_weights(path), context)
    model = lvmlib.load_weights(Path(runs["folder"].iloc[0]) / "model.safetensors")
    assert shipped @ lvmlib.predict(model, context) > 0.999
    card = path.with_suffix(".md").read_text()
    assert f"cosine: {runs['test_cosine'].iloc[0]:.4f} [" in card


def test_a_page_that_shows_no_answer_leaves_none_behind(tmp_path):
    words = new_output("display_data", {"text/markdown": "**Yes.** So it is."})
    figure = new_output("display_data", {"image/png": "aGk="})
    cells = [
        new_code_cell("1", outputs=[words], metadata={"tags": ["answer"]}),
        new_code_cell("2", outputs=[figure], metadata={"tags": ["main-figure"]}),
    ]
    notebook = tmp_path / "page.ipynb"
    nbformat.write(new_notebook(cells=cells), notebook)
    publish._keep_answer(notebook, tmp_path, "page-")
    assert results.headline(tmp_path / "page-answer.md") == "Yes"
    assert (tmp_path / "page-figure.png").read_bytes() == b"hi"
    nbformat.write(new_notebook(), notebook)
    publish._keep_answer(notebook, tmp_path, "page-")
    assert not list(tmp_path.glob("page-*"))
    assert results.headline(tmp_path / "page-answer.md") == ""


MODELS = {use: lvmlib.load_pretrained(use) for use in PRETRAINED}


@pytest.mark.parametrize("use", PRETRAINED)
def test_the_models_in_the_package(use):
    assert PRETRAINED[use].stat().st_size < 5e6
    model = lvmlib.load_pretrained(use)
    context = lvmlib.open_dataset().gather(np.arange(model.options["context"]))
    prediction = lvmlib.predict(model, context)
    assert prediction.shape == (768,)
    assert np.linalg.norm(prediction) == pytest.approx(1, abs=1e-5)
    assert PRETRAINED[use].with_suffix(".md").exists()


def test_a_model_that_reads_the_mean_is_nearer_than_the_best_of_five_chunks():
    sample = lvmlib.open_dataset()
    near = {"best": [], "running": []}
    for start, stop in sample.documents[["start", "stop"]].to_numpy()[:8]:
        vectors = sample.gather(np.arange(start, stop))
        for n in range(5, len(vectors)):
            context = lvmlib.with_mean(vectors[:n])
            for use, read in (("best", context[1:]), ("running", context)):
                model = MODELS[use]
                near[use].append(lvmlib.predict(model, read) @ vectors[n])
    # Most of these articles were among those that "best" was fitted to.
    assert np.mean(near["running"]) > np.mean(near["best"]) + 0.003


def test_a_context_of_another_length_is_refused_in_words():
    so_far = lvmlib.open_dataset().gather(np.arange(12))
    with pytest.raises(ValueError, match=r"reads 5 vectors, found 12: .*with_mean"):
        lvmlib.predict(MODELS["best"], so_far)


def test_an_unknown_use_of_a_model_names_the_valid_ones():
    with pytest.raises(ValueError, match="best, ranking"):
        lvmlib.load_pretrained("rank")


def test_git_keeps_the_published_runs():
    for name in ("reference", "as_reported"):
        plan = PROJECT / "reports" / name / "runs" / "study.json"
        command = ["git", "check-ignore", "--no-index", plan]
        assert subprocess.run(command, cwd=PROJECT, check=False).returncode


def test_a_page_has_the_names_of_the_others(tmp_path):
    cell = v4.new_markdown_cell("# Title\n\nText.")
    notebook = v4.new_notebook(cells=[cell])
    notebook.metadata["language_info"] = {"name": "python"}
    source = tmp_path / "one.ipynb"
    source.write_text(v4.writes(notebook))
    pages = [["index.html", "Answer"], ["one.html", "One"]]
    publish.render_page(source, tmp_path / "one.html", pages)
    html = (tmp_path / "one.html").read_text()
    assert '<a href="index.html">Answer</a>' in html
    assert re.search(r'<a aria-current="page" href="one.html">|'
                     r'<a href="one.html" aria-current="page">', html)  # fmt: skip


def test_the_readme_is_told_between_its_marks(tmp_path):
    readme = tmp_path / "README.md"
    marks = publish.ANSWER, publish.ANSWER_ENDS
    readme.write_text("# Title\n{}\nold\n{}\nrest\n".format(*marks))
    publish.tell_readme(readme, "- One.\n- Two " + 20 * "words " + "end.")
    found = readme.read_text()
    words = f"# Title {marks[0]} - One. - Two {20 * 'words '}end. {marks[1]} rest"
    assert found.split() == words.split()
    assert f"{marks[0]}\n- One.\n- Two words" in found
    assert max(map(len, found.splitlines())) <= 88


def test_a_study_without_a_name_is_refused(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["publish", "", "--render"])
    with pytest.raises(SystemExit):
        publish.main()
    assert "STUDY=reference" in capsys.readouterr().err
