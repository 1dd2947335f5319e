"""Studies: their plans, their table, what is missing, and the runner's small parts."""

from __future__ import annotations

import json
import shutil
import sys
from itertools import product
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml
from papermill.cli import _resolve_type
from studies import execute

from lvmlib import __main__ as runner
from lvmlib.models import ARCHITECTURES
from lvmlib.names import ParameterError
from lvmlib.recipe import Settings, make_settings
from lvmlib.records import RunError
from lvmlib.results import load_study, missing_runs
from lvmlib.study import read_study
from lvmlib.vectors import SAMPLE, DatasetError, make_split, open_dataset

PROJECT = Path(__file__).parent.parent
COMMITTED = sorted((PROJECT / "parameters").glob("*.yaml"))
TUNING = {"trials": 8, "space": {"warmup": [0.05]}, "entries": {}}
GRID = {
    "title": "A grid",
    "sizes": [100, 150],
    "seeds": [0, 1, 2],
    "arms": {"epochs": {}, "steps": {"min_steps": 40, "warmup": 0.0}},
    "recipe": {"epochs": 3, "warmup": 0.2, "learning_rate": 0.01},
    "architectures": {
        "amn": {},
        "lstm": {"learning_rate": 0.002, "hidden": 8},
        "graphmert-smooth": {"architecture": "graphmert", "mask": "smooth"},
    },
}


@pytest.fixture
def plan(tmp_path, dataset_folder, runs_root):
    """Return a function that reads a study from a YAML file with this content."""

    def read(content=GRID, name="grid", dataset=dataset_folder):
        path = tmp_path / f"{name}.yaml"
        text = content if isinstance(content, str) else yaml.safe_dump(content)
        path.write_text(text)
        return read_study(str(path), str(dataset))

    return read


# --- plans --------------------------------------------------------------------------


def test_a_plan_is_the_whole_grid(plan, dataset_folder):
    study = plan()
    assert (study.name, study.title, study.threads) == ("grid", "A grid", 1)
    assert study.dataset_sha256 == open_dataset(dataset_folder).sha256
    cells = {
        (run.entry, s.size, s.recipe.arm, s.seed)
        for run in study.runs
        for s in [run.settings]
    }
    assert cells == set(
        product(GRID["architectures"], [100, 150], ["epochs", "steps"], [0, 1, 2])
    )
    assert len(study.runs) == len(cells) == 36
    for unique in ("folder", "label", "page", "recipe_hash"):
        assert len({getattr(run, unique) for run in study.runs}) == 36, unique


def test_where_runs_are_kept(plan, runs_root):
    study = plan()
    assert study.folder == runs_root / "grid"
    for run in study.runs:
        s = run.settings
        place = f"{run.entry}/{s.size}/{s.recipe.arm}/seed{s.seed}"
        assert run.folder == runs_root / "grid" / place


def test_entries_override_the_recipe_and_arms_override_entries(plan):
    content = GRID | {"architectures": GRID["architectures"] | {"gru": {"warmup": 0.3}}}
    study = plan(content)
    runs = {
        (r.entry, r.settings.recipe.arm): r.settings
        for r in study.runs
        if (r.settings.size, r.settings.seed) == (100, 1)
    }
    amn, lstm = runs["amn", "epochs"], runs["lstm", "epochs"]
    assert (amn.recipe.learning_rate, lstm.recipe.learning_rate) == (0.01, 0.002)
    assert (amn.recipe.epochs, lstm.options) == (3, {"hidden": 8})
    assert runs["gru", "epochs"].recipe.warmup == 0.3
    assert runs["gru", "steps"].recipe.warmup == 0.0
    assert runs["gru", "steps"].recipe.min_steps == 40
    smooth = runs["graphmert-smooth", "epochs"]
    assert (smooth.architecture, smooth.options) == ("graphmert", {"mask": "smooth"})


def test_sizes_name_their_seeds_and_the_nearest_ones_count(plan):
    own = {"sizes": {100: [0, 1]}, "arms": {"epochs": {"min_steps": 7}}}
    study = plan(
        GRID
        | {
            "seeds": [5],
            "sizes": {100: [0], 150: [0, 1, 2]},
            "arms": {"epochs": None, "steps": {"min_steps": 9, "sizes": [150]}},
            "architectures": {"amn": None, "lstm": own},
        }
    )
    cells = [
        (r.entry, r.settings.size, r.settings.recipe.arm, r.settings.seed)
        for r in study.runs
    ]
    assert cells == [
        ("amn", 100, "epochs", 0),
        *[("amn", 150, "epochs", seed) for seed in (0, 1, 2)],
        ("amn", 150, "steps", 5),
        ("lstm", 100, "epochs", 0),
        ("lstm", 100, "epochs", 1),
    ]
    assert [r.settings.recipe.min_steps for r in study.runs] == [0] * 4 + [9, 7, 7]


def test_a_size_may_have_parameters_of_its_own(plan):
    own = {"seeds": [4], "learning_rate": 0.03}
    sizes = {100: own, 150: {"warmup": 0.2}}
    study = plan(GRID | {"arms": {}, "architectures": {"amn": {"sizes": sizes}}})
    cells = [
        (r.settings.size, r.settings.seed, r.settings.recipe.learning_rate)
        for r in study.runs
    ]
    rate = cells[-1][2]
    assert cells == [(100, 4, 0.03), *[(150, seed, rate) for seed in (0, 1, 2)]]
    assert rate != 0.03
    assert study.runs[-1].settings.recipe.warmup == 0.2


def test_defaults_of_a_small_study(tmp_path, monkeypatch, runs_root):
    (tmp_path / "parameters").mkdir()
    content = "sizes: [300]\nseeds: [0]\narchitectures:\n  gru:\n"
    (tmp_path / "parameters" / "small.yaml").write_text(content)
    monkeypatch.chdir(tmp_path)
    study = read_study("small")  # by its name, on the sample
    assert study.title == "small"
    assert study.dataset_sha256 == open_dataset(SAMPLE, verify=False).sha256
    (run,) = study.runs
    folder = str(runs_root / "small/gru/300/epochs/seed0")
    assert run.settings == Settings("gru", size=300, run_dir=folder)


def test_the_recipe_hash_is_stable(plan, monkeypatch, tmp_path, write_dataset):
    first = [run.recipe_hash for run in plan().runs]
    assert [run.recipe_hash for run in plan().runs] == first
    assert [run.recipe_hash for run in plan(name="renamed").runs] == first
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "elsewhere"))
    assert [run.recipe_hash for run in plan().runs] == first
    other = write_dataset(tmp_path / "other", np.tile([1.0, 0.0], (400, 1)))
    assert not {run.recipe_hash for run in plan(dataset=other).runs} & set(first)
    changed = plan(GRID | {"recipe": GRID["recipe"] | {"epochs": 4}})
    assert not {run.recipe_hash for run in changed.runs} & set(first)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": [100]}, "'size'. Did you mean 'sizes'?"),
        ({"recipe": {"epoch": 3}}, "'epoch'. Did you mean 'epochs'?"),
        ({"architectures": {"amn": {"hiden": 4}}}, "'hiden'. Did you mean 'hidden'?"),
        ({"architectures": {"lstn": {}}}, "'lstn'. Did you mean 'lstm'?"),
        ({"architectures": {"x": {"architecture": "grru"}}}, "Did you mean 'gru'?"),
        ({"arms": {"step": {}}}, "Did you mean 'steps'?"),
        ({"arms": {"steps": {}}}, "min_steps"),
        ({"protocol": "controled"}, "'controled'. Did you mean 'controlled'?"),
        ({"recipe": {"learning_rate": "fast"}}, "'fast' (str)"),
        ({"sizes": ["100k"]}, "'size' is '100k' (str)"),
        ({"sizes": 100}, "sizes is 100, expected a list"),
        ({"sizes": {100: 0}}, "seeds at size 100 are 0, expected a list"),
        ({"sizes": []}, "sizes is {}, expected a list"),
        ({"seeds": None}, "parameter 'seeds' is missing"),
        ({"architectures": ["amn"]}, "'architectures' is ['amn'] (list): input"),
        ({"recipe": ["epochs"]}, "'recipe' is ['epochs'] (list): input should be"),
        ({"architectures": {"../evil": {}}}, "'../evil'"),
        ({"architectures": {3: {"architecture": "amn"}}}, "the name 3"),
        ({"architectures": {"amn": 3}}, "amn is 3, expected names with values"),
        ({"arms": {"epochs": 3}}, "epochs is 3, expected names with values"),
        ({"pages": "networks"}, "'pages' is 'networks' (str): input should be a"),
        ({"pages": ["netwroks"]}, "'netwroks'. Did you mean 'networks'?"),
        ({"pages": ["../networks"]}, "Unknown page: '../networks'"),
        ({"threads": "two"}, "'threads' is 'two' (str): input should be a"),
        ({"threads": 0}, "'threads' is 0 (int): input should be greater"),
        ({"title": ["a"]}, "'title' is ['a'] (list): input should be a valid"),
        ({"tuning": {"trials": 8}}, "parameter 'tuning.space' is missing"),
        ({"tuning": TUNING | {"trials": 0}}, "'tuning.trials' is 0 (int): input"),
        ({"tuning": TUNING | {"seeds": 1}}, "'tuning.seeds' is 1 (int): extra inputs"),
        (
            {"tuning": TUNING | {"entries": {"amn": {"architecture": "amn"}}}},
            "parameter 'tuning.entries.amn.sizes' is missing",
        ),
        ({"seeds": [0, 0]}, "amn, 100 vectors, epochs, seed 0 is planned twice"),
        ({"arms": ["epochs"]}, "'arms' is ['epochs'] (list): input should be"),
        ({"sizes": [[100]]}, "sizes is [[100]], expected a list"),
        ({"seeds": [2**70]}, "parameter 'seed' is 1180591620717411303424"),
        ({"recipe": {"size": 7}}, "size is no parameter of a study's runs"),
        ({"recipe": {"arm": "steps", "min_steps": 9}}, "arm is no parameter of a"),
        ({"architectures": {"amn": {"run_dir": "/tmp/x"}}}, "run_dir is no parameter"),
        ({"architectures": {"amn": {"dataset": "x"}}}, "dataset is no parameter of"),
        ({"architectures": {"amn": {"hidden": -5}}}, "parameter 'hidden' is -5 (int)"),
        (
            {"architectures": {"graphmert": {"heads": 0}}},
            "parameter 'heads' is 0 (int)",
        ),
    ],
)
def test_a_wrong_study_is_one_sentence_with_the_file(plan, tmp_path, change, message):
    with pytest.raises(ParameterError) as error:
        plan(GRID | change)
    assert str(tmp_path / "grid.yaml") in str(error.value)
    assert message in str(error.value)


@pytest.mark.parametrize(
    "content",
    [
        "",
        "a: [",
        "- amn\n",
        "text",
        "seeds: [0]\n",
        "title: 2020-13-45\n",
        "[" * 5000,
        "title: M\xfcller\n".encode("latin-1"),
    ],
)
def test_a_file_that_is_no_study(plan, tmp_path, content):
    path = tmp_path / "grid.yaml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ParameterError) as error:
        read_study(str(path))
    assert str(path) in str(error.value)


def test_a_missing_study_and_a_missing_dataset(plan, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParameterError, match=r"parameters/no\.yaml cannot be read"):
        read_study("no")
    with pytest.raises(DatasetError, match="nowhere is not a folder"):
        plan(dataset=tmp_path / "nowhere")


def test_the_plan_is_written_once(plan):
    study = plan()
    study.write_plan()
    path = study.folder / "study.json"
    written = json.loads(path.read_text())
    assert written["title"] == "A grid"
    assert [run["recipe_hash"] for run in written["runs"]] == [
        run.recipe_hash for run in study.runs
    ]
    folders = [study.folder / run["folder"] for run in written["runs"]]
    assert folders == [run.folder for run in study.runs]
    before = path.stat()
    study.write_plan()
    assert path.stat().st_mtime_ns == before.st_mtime_ns
    assert path.stat().st_ino == before.st_ino
    plan(GRID | {"title": "Another"}).write_plan()
    assert json.loads(path.read_text())["title"] == "Another"


def test_costs_are_windows_times_parameters(plan):
    costs = {
        (r.entry, r.settings.size, r.settings.recipe.arm): r.cost for r in plan().runs
    }
    assert costs["amn", 100, "steps"] == costs["amn", 150, "steps"] == 40 * 32 * 1510912
    assert costs["graphmert-smooth", 150, "epochs"] == 3 * 5 * 32 * 67352833


def test_a_wider_network_costs_more(tmp_path, dataset_folder):
    (tmp_path / "widths.yaml").write_text(
        "sizes: [100]\nseeds: [0]\narchitectures:\n  narrow: {architecture: gru}\n"
        "  wide: {architecture: gru, hidden: 900}\n"
    )
    runs = read_study(str(tmp_path / "widths.yaml"), str(dataset_folder)).runs
    cost = {run.entry: run.cost for run in runs}
    assert cost["wide"] > 1.5 * cost["narrow"]


def repeated_by_papermill(settings: Settings) -> Settings:
    """What a notebook gets from the arguments, as papermill's CLI reads them."""
    words = settings.arguments()
    assert words[::3] == ["-p"] * (len(words) // 3)
    assert all(isinstance(word, str) for word in words)
    given = {
        name: _resolve_type(value)
        for name, value in zip(words[1::3], words[2::3], strict=True)
    }
    return make_settings(settings.architecture, given)


@pytest.mark.parametrize("path", COMMITTED, ids=lambda path: path.stem)
def test_papermill_repeats_each_run_of_the_committed_studies(path, runs_root):
    study = read_study(str(path), str(SAMPLE))
    assert {run.entry for run in study.runs} == set(
        yaml.safe_load(path.read_text())["architectures"]
    )
    for run in study.runs:
        repeated = repeated_by_papermill(run.settings)
        assert repeated == run.settings
        assert repeated.recipe_hash(study.dataset_sha256) == run.recipe_hash


def test_papermill_repeats_numbers_as_people_write_them():
    settings = make_settings(
        "lstm",
        {
            "learning_rate": 1e-05,
            "weight_decay": 0,
            "warmup": 1 / 3,
            "dropout": 0.0,
            "run_dir": "runs/a study/lstm",
            "min_steps": 1_000_000,
        },
    )
    assert repeated_by_papermill(settings) == settings


def test_the_three_studies_are_committed():
    names = {path.stem for path in COMMITTED}
    assert names >= {"quick", "as_reported", "reference"}


def test_the_quick_study_fits_the_sample(runs_root):
    study = read_study(str(PROJECT / "parameters" / "quick.yaml"))
    dataset = open_dataset(verify=False)
    assert study.dataset_sha256 == dataset.sha256
    architectures = {run.settings.architecture for run in study.runs}
    assert architectures == set(ARCHITECTURES)
    sizes = {run.settings.size for run in study.runs}
    assert len(sizes) == 2
    for size in sizes:
        assert len(make_split(dataset, "controlled", size).train) > 0.8 * size


# --- finished studies ---------------------------------------------------------------

TINY = {
    "title": "Tiny",
    "sizes": [100, 150],
    "seeds": [0],
    "recipe": {
        "epochs": 1,
        "learning_rate": 0.01,
        "batch_size": 16,
        "precision": "32-true",
        "device": "cpu",
    },
    "architectures": {
        "amn": {"hidden": 4, "mlp": 8},
        "small-lstm": {"architecture": "lstm", "hidden": 4},
    },
}


@pytest.fixture(scope="session")
def finished(tmp_path_factory, dataset_folder) -> Path:
    """A study of four runs, all done. Tests that change it take a copy."""
    folder = tmp_path_factory.mktemp("finished")
    (folder / "tiny.yaml").write_text(yaml.safe_dump(TINY))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LVM_RUNS", str(folder / "runs"))
        study = read_study(str(folder / "tiny.yaml"), str(dataset_folder))
        study.write_plan()
        for run in study.runs:
            assert not run.is_done
            execute(run.settings)
            assert run.is_done
    return folder / "runs" / "tiny"


@pytest.fixture
def copied(finished, plan, runs_root):
    """A copy of the finished study and its plan."""
    shutil.copytree(finished, runs_root / "tiny")
    return plan(TINY, "tiny")


def test_without_a_plan_all_runs_below_are_read(finished, copied):
    planned = load_study(copied.folder)
    (copied.folder / "study.json").unlink()
    found = load_study(copied.folder)
    pd.testing.assert_frame_equal(found, planned)
    one = load_study(copied.runs[0].folder.parent)
    assert one["architecture"].tolist() == one["entry"].tolist() == ["amn"]


def test_a_run_of_another_recipe_is_not_done(copied, plan, finished):
    changed = TINY | {"recipe": TINY["recipe"] | {"weight_decay": 0.5}}
    study = plan(changed, "tiny")
    study.write_plan()
    assert not any(run.is_done for run in study.runs)
    assert len(missing_runs(study.folder)) == 4
    with pytest.raises(RunError, match="holds no finished run"):
        load_study(study.folder)
    execute(study.runs[1].settings)
    assert [run.is_done for run in study.runs] == [False, True, False, False]
    assert load_study(study.folder)["size"].tolist() == [150]


def notebook(*outputs):
    cells = [
        {"cell_type": "markdown"},
        {"cell_type": "code", "outputs": [{"output_type": "stream"}, *outputs]},
    ]
    return json.dumps({"cells": cells})


def test_missing_runs_say_why(copied):
    assert missing_runs(copied.folder).empty
    first, second, third, fourth = copied.runs
    shutil.rmtree(first.folder)
    for run in (second, third):
        (run.folder / "run.json").unlink()
    error = {"output_type": "error", "ename": "DatasetError", "evalue": "too large."}
    (second.folder / "notebook.ipynb").write_text(notebook(error))
    (third.folder / "notebook.ipynb").write_text(notebook())
    missing = missing_runs(copied.folder)
    assert missing[["label", "reason"]].to_numpy().tolist() == [
        [*row]
        for row in [
            (first.label, "it was not started"),
            (second.label, "DatasetError: too large."),
            (third.label, "it was interrupted, or answers an older recipe"),
        ]
    ]
    assert third.label == "small-lstm, 100 vectors, epochs, seed 0"
    assert third.page == "small-lstm-100-epochs-seed0.html"
    assert load_study(copied.folder)["folder"].tolist() == [str(fourth.folder)]
    (third.folder / "notebook.ipynb").write_text("{")
    reasons = missing_runs(copied.folder).set_index("label")["reason"]
    assert reasons[third.label] == "it was not started"


@pytest.mark.parametrize("content", ["", "{"])
def test_a_damaged_run_json_is_not_done(copied, content):
    (copied.runs[0].folder / "run.json").write_text(content)
    assert not copied.runs[0].is_done
    assert len(missing_runs(copied.folder)) == 1


# --- the runner ---------------------------------------------------------------------


def test_only_runs_of_another_dataset_are_forgotten(
    copied, plan, dataset_folder, write_dataset, tmp_path, capsys
):
    before = {p: p.read_bytes() for p in copied.folder.rglob("*") if p.is_file()}
    runner.forget_useless(copied)
    assert capsys.readouterr().out == ""
    vectors = np.load(dataset_folder / "vectors.npy")[:, ::-1]
    other = write_dataset(tmp_path / "other", vectors)
    changed = plan(TINY, "tiny", other)
    # One run is of the new dataset already, one has never finished.
    (changed.runs[2].folder / "run.json").unlink()
    shutil.rmtree(changed.runs[3].folder)
    execute(changed.runs[3].settings)
    kept = {p for n in (2, 3) for p in changed.runs[n].folder.iterdir()}
    unplanned = copied.folder / "amn/100/epochs/seed7"
    shutil.copytree(copied.runs[0].folder, unplanned)
    runner.forget_useless(changed)
    assert [run.folder.exists() for run in changed.runs] == [False, False, True, True]
    assert all(path.exists() for path in kept)
    assert (unplanned / "run.json").exists()
    assert (copied.folder / "study.json").read_bytes() == before[
        copied.folder / "study.json"
    ]
    said = capsys.readouterr().out.splitlines()
    assert len(said) == 2
    assert (
        said[0] == f"{copied.runs[0].label}: the dataset has changed, training again."
    )


def test_progress_of_running_runs(copied):
    run = copied.runs[0]
    assert runner.share_done(run) == 0
    progress = run.folder / "progress.json"
    progress.write_text('{"step": 30, "total": 120, "text": "epoch 2"}')
    assert runner.share_done(run) == 0.25
    progress.write_text('{"st')
    assert runner.share_done(run) == 0


def test_a_study_that_cannot_start_is_one_sentence(tmp_path, monkeypatch, runs_root):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "wrong.yaml").write_text("sizess: [3]\n")
    for words, message in [
        (["quik"], "parameters/quik.yaml cannot be read"),
        (["wrong.yaml"], "Did you mean 'sizes'?"),
        (["no.yaml", "--dataset", "nowhere"], "no.yaml cannot be read"),
    ]:
        monkeypatch.setattr(sys, "argv", ["lvmlib", *words])
        with pytest.raises(SystemExit) as exit:
            runner.main()
        assert str(exit.value).startswith("error: ")
        assert message in str(exit.value)
    assert not runs_root.exists()


def test_a_key_given_twice_is_refused_with_both_lines(plan):
    text = "sizes: [100]\nseeds: [0]\narchitectures: {amn: {}}\nsizes: [150]\n"
    with pytest.raises(ParameterError, match=r"'sizes' .* lines 1 and 4"):
        plan(text)


@pytest.mark.parametrize("again", ["1_00", "0x64", "100"])
def test_a_size_written_in_two_ways_is_given_twice(plan, again):
    text = f"sizes: {{100: [0], {again}: [1]}}\nseeds: [0]\narchitectures: {{amn: }}\n"
    with pytest.raises(ParameterError, match="100 is given twice, in lines 1 and 1"):
        plan(text)


@pytest.mark.parametrize("level", ["amn", "amn/100", "amn/100/epochs"])
def test_no_run_is_planned_behind_a_link(plan, runs_root, tmp_path, level):
    foreign = tmp_path / "precious"
    (foreign / "100/epochs/seed0").mkdir(parents=True)
    link = runs_root / "grid" / level
    link.parent.mkdir(parents=True)
    link.symlink_to(foreign)
    with pytest.raises(
        ParameterError, match=r"leads out of .* by a link, to .*precious"
    ):
        plan()
    assert (foreign / "100/epochs/seed0").exists()


def test_finished_runs_that_are_damaged_are_trained_again(copied, plan):
    whole, damaged, begun = copied.runs[:3]
    of_another_recipe = plan(TINY | {"recipe": {"epochs": 7}}, "tiny").runs[0]
    (damaged.folder / "history.csv").write_text("cut")
    (begun.folder / "run.json").unlink()
    runner.forget_useless(copied)
    assert whole.is_done
    assert not damaged.folder.exists()
    assert begun.folder.exists()  # it goes on from its checkpoint
    assert not of_another_recipe.is_done


def test_a_merged_mapping_may_be_merged_again_before_it_is_read(plan):
    text = """
recipe: &short {epochs: 2}
architectures: {amn: {arms: {epochs: &longer {<<: *short, epochs: 3}}}, lstm: {}}
arms: {epochs: {<<: *longer}}
sizes: [100]
seeds: [0]
"""
    assert [run.settings.recipe.epochs for run in plan(text).runs] == [3, 3]


def test_a_list_as_a_key_is_no_study(plan, tmp_path):
    with pytest.raises(ParameterError, match=r"grid\.yaml cannot be read"):
        plan("? [a]\n: 3\n")


def test_what_yaml_says_is_one_line(tmp_path):
    path = tmp_path / "bad.yaml"
    path.write_text("architectures: {!!python/object/apply:os.system [x]: {}}")
    with pytest.raises(ParameterError) as error:
        read_study(str(path))
    assert "\n" not in str(error.value)
