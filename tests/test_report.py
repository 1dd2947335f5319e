"""The pages' tables, sentences and figures, on one small real run."""

import shlex

import numpy as np
import pytest

from lvmlib.pages import plots, report
from lvmlib.recipe import Recipe, Settings, make_settings
from lvmlib.runs import execute
from lvmlib.vectors import Split, make_split, open_dataset


@pytest.fixture(scope="module")
def settings(dataset_folder, tmp_path_factory):
    recipe = Recipe(epochs=2, batch_size=16, learning_rate=0.01, precision="32-true")
    folder = str(tmp_path_factory.mktemp("run"))
    options = {"hidden": 8, "mlp": 16}
    return Settings(
        "amn",
        str(dataset_folder),
        150,
        run_dir=folder,
        recipe=recipe,
        options=options,
    )


@pytest.fixture(scope="module")
def run(settings):
    return execute(settings)


@pytest.fixture
def shown(monkeypatch):
    """Collect what is displayed, as text, with its metadata."""
    outputs = []

    def display(output, metadata=None):
        outputs.append((getattr(output, "data", output), metadata))

    monkeypatch.setattr(report, "display", display)
    monkeypatch.setattr(plots, "display", display)
    return outputs


def test_the_finding_quotes_the_run(run):
    text = report.finding(run)
    assert f"**{run.info['test']['cosine']:.4f}**" in text
    assert f"Best epoch: {run.info['best_epoch']} of 2." in text
    best = run.info["best_baseline"]
    difference = (run.scores["cosine"] - run.scores[f"cosine_{best}"]).mean()
    assert f"({difference:+.3f} [".replace("-", "−") in text
    assert "one seed" in text


def test_the_command_gives_the_same_recipe(settings):
    words = shlex.split(report.command(settings))
    assert words[:4] == ["papermill", "-k", "python3", "notebooks/amn.ipynb"]
    given = dict(zip(words[6::3], words[7::3], strict=True))
    assert given["run_dir"] == ""
    typed = {
        name: type(settings.parameters()[name])(value) for name, value in given.items()
    }
    again = make_settings("amn", typed)
    assert again.recipe_hash("x") == settings.recipe_hash("x")


def test_leakage_is_counted_by_hand():
    train = np.array([[0, 1, 2, 3, 4, 5]])
    validation = np.array([[4, 5, 6, 7, 8, 9]])
    test = np.array([[10, 11, 12, 13, 14, 15]])
    text = report.leakage(Split(train, validation, test))
    assert "2 of 6 validation vectors (33%)" in text
    assert "0 of 6 test vectors (0%)" in text


def test_every_table_of_scores_has_every_baseline(run, shown):
    report.score_table(run)
    report.retrieval_table(run)
    report.other_table(run)
    assert len(shown) == 6  # scores, four kinds of candidates, the other metrics
    for html, _ in shown:
        for label in ("network", "last vector", "six numbers", "ridge", "mean vector"):
            assert label in html


def test_parameters_and_provenance_are_complete(run, settings, shown):
    report.parameter_table(settings)
    report.provenance(run, settings)
    table, line, command = (text for text, _ in shown)
    for name, value in settings.parameters().items():
        assert f"<td>{name}</td>" in table
        assert str(value) in table
    for fact in (run.info["commit"], run.info["dataset"]["sha256"][:12], "torch"):
        assert fact in line
    assert "papermill" in command


def test_data_table_counts_windows_across_documents(settings, shown):
    dataset = open_dataset(settings.dataset)
    report.data_table(dataset, make_split(dataset, "controlled", 150))
    assert "0 of" in shown[1][0]
    assert shown[0][0].count("<tr>") >= 3


def test_captions_and_values_are_escaped(shown):
    import pandas as pd

    report.table(pd.DataFrame({"a": [1]}), "<script>")
    assert "<caption>&lt;script&gt;</caption>" in shown[0][0]


def test_figures_carry_their_text_alternative(run, shown):
    plots.show(plots.learning_curves(run), "two curves")
    plots.show(plots.scores_with_baselines(run), "intervals")
    assert [metadata for _, metadata in shown] == [
        {"image/png": {"alt": "two curves"}},
        {"image/png": {"alt": "intervals"}},
    ]


def test_figures_are_titled_and_labelled(run):
    figures = [plots.learning_curves(run), plots.scores_with_baselines(run)]
    values = np.random.default_rng(0).random((9, 5))
    figures.append(plots.positions(values, "Title", "share", even=0.2))
    for figure in figures:
        for axes in figure.axes:
            assert axes.get_title() or axes.get_title(loc="left")
        assert figure.axes[-1].get_xlabel()
        plots.plt.close(figure)


def test_one_epoch_has_one_tick():
    figure, axes = plots.plt.subplots()
    axes.plot([1], [0.5], "o")
    plots.whole_epochs(axes)
    assert {tick for tick in axes.get_xticks() if 0.5 < tick < 1.5} == {1}
    plots.plt.close(figure)


def test_signs():
    assert report.signed(0.01234, 4) == "+0.0123"
    assert report.signed(-0.01234, 4) == "−0.0123"
    assert report.signed(-0.00002, 4) == "+0.0000"
