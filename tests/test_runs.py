"""Run folders: what a run leaves, and what it takes for one to be done."""

from __future__ import annotations

import functools
import json
import math
import shutil
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from studies import execute

from lvmlib import runs, training
from lvmlib.evaluation import BASELINES, cosine
from lvmlib.files import project_folder
from lvmlib.inference import predict, with_mean
from lvmlib.models import build_model
from lvmlib.recipe import Recipe, Settings, make_settings
from lvmlib.records import RunError, load_run
from lvmlib.results import answers
from lvmlib.runs import git_commit
from lvmlib.vectors import DatasetError, make_split, open_dataset
from lvmlib.weights import load_weights

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=0.01,
    warmup=0.1,
    precision="32-true",
    device="cpu",
)
OPTIONS = {"hidden": 8, "mlp": 16}


@pytest.fixture(scope="session")
def done(dataset_folder, tmp_path_factory):
    """Settings of a run that is done. Tests that change its folder take a copy."""
    folder = tmp_path_factory.mktemp("done") / "seed0"
    settings = Settings(
        "amn",
        str(dataset_folder),
        150,
        run_dir=str(folder),
        recipe=RECIPE,
        options=OPTIONS,
    )
    execute(settings)
    return settings


@pytest.fixture
def copied(done, tmp_path):
    folder = shutil.copytree(done.run_dir, tmp_path / "copied")
    return replace(done, run_dir=str(folder))


@pytest.fixture
def no_training(monkeypatch):
    def refuse(*_):
        raise AssertionError("it trains")

    monkeypatch.setattr(training, "differentiate", refuse)


@pytest.fixture
def same_commit(monkeypatch, done):
    commit = load_run(done.run_dir).info["commit"]
    monkeypatch.setattr(runs, "git_commit", lambda: commit)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in Path(folder).iterdir()}


def strict_json(path) -> dict:
    """Read JSON as every other program does: without NaN."""

    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    return json.loads(Path(path).read_text(), parse_constant=refuse)


# --- what a run leaves --------------------------------------------------------------


def test_a_run_writes_its_files(done, dataset_folder):
    identity = done.recipe_hash(open_dataset(dataset_folder).sha256)
    assert sorted(contents(done.run_dir)) == [
        "history.csv",
        "model.safetensors",
        f"recipe-{identity}.json",
        "run.json",
        "test.parquet",
    ]
    recipe = strict_json(Path(done.run_dir) / f"recipe-{identity}.json")
    assert recipe == done.parameters()


def test_what_run_json_says(done, dataset_folder):
    info = strict_json(Path(done.run_dir) / "run.json")
    dataset = open_dataset(dataset_folder)
    split = make_split(dataset, "controlled", 150)
    run = load_run(done.run_dir)
    assert info == run.info
    assert info["architecture"] == "amn"
    assert info["parameters"] == done.parameters()
    assert info["recipe_hash"] == done.recipe_hash(dataset.sha256)
    assert info["dataset"] == {
        "name": "tiny",
        "n": 400,
        "dim": 16,
        "sha256": dataset.sha256,
    }
    assert info["windows"] == {
        "train": len(split.train),
        "validation": len(split.validation),
        "test": len(split.test),
    }
    steps = 3 * math.ceil(len(split.train) / 16)
    assert info["steps"] == info["planned_steps"] == steps
    assert (info["epochs"], info["status"]) == (3, "trained")
    best = run.history.loc[run.history["validation_cosine"].idxmax()]
    assert info["best_epoch"] == best["epoch"]
    assert info["validation_cosine"] == pytest.approx(best["validation_cosine"])
    assert info["train_cosine"] == pytest.approx(best["train_cosine"])
    model = load_weights(Path(done.run_dir) / "model.safetensors")
    assert info["model_parameters"]["trainable"] == sum(
        p.numel() for p in model.parameters()
    )
    assert info["wall_seconds"] > run.history["seconds"].sum()
    assert info["windows_per_second"] == pytest.approx(
        3 * len(split.train) / run.history["seconds"].sum()
    )
    assert 50 < info["peak_memory_mb"] < 100_000
    assert (info["device"], info["precision"]) == ("cpu", "32-true")
    assert info["threads"] == 1
    assert {"torch", "numpy", "python"} <= info["versions"].keys()


def test_a_run_that_reads_the_mean_of_all_so_far(done, dataset_folder, tmp_path):
    reading = replace(done, running_mean=True, run_dir=str(tmp_path / "mean"))
    run, plain = execute(reading), load_run(done.run_dir)
    assert run.scores["row"].tolist() == plain.scores["row"].tolist()  # they pair
    ranks = [f"cosine_{name}" for name in ("last_vector", "mean_vector")]
    np.testing.assert_allclose(run.scores[ranks], plain.scores[ranks], atol=1e-6)
    assert len(run.info["baselines"]["five_weights"]["numbers"]) == 6
    model = load_weights(tmp_path / "mean" / "model.safetensors")
    dataset = open_dataset(dataset_folder)
    starts = dataset.documents["start"].to_numpy()
    for row, expected in run.scores[["row", "cosine"]].to_numpy()[::7]:
        row = int(row)
        so_far = dataset.gather(np.arange(starts[dataset.document_of(row)], row))
        found = predict(model, with_mean(so_far), "cpu") @ dataset.gather(row)
        assert found == pytest.approx(expected, abs=1e-3)


def test_scores_and_baselines_agree_with_the_weights_on_disk(done, dataset_folder):
    run = load_run(done.run_dir)
    dataset = open_dataset(dataset_folder)
    split = make_split(dataset, "controlled", 150)
    assert run.scores["row"].tolist() == split.test[:, -1].tolist()
    assert run.scores["cosine"].mean() == pytest.approx(run.info["test"]["cosine"])
    assert run.info["test"]["windows"] == len(split.test)
    model = load_weights(Path(done.run_dir) / "model.safetensors")
    predicted = predict(model, dataset.gather(split.test[:, :-1]), "cpu")
    truth = dataset.gather(split.test[:, -1])
    np.testing.assert_allclose(
        cosine(predicted, truth), run.scores["cosine"], atol=1e-5
    )
    baselines = run.info["baselines"]
    assert set(baselines) == set(BASELINES)
    for name, row in baselines.items():
        column = run.scores[f"cosine_{name}"]
        assert column.mean() == pytest.approx(row["cosine"])
    last = cosine(dataset.gather(split.test[:, -2]), truth).mean()
    assert baselines["last_vector"]["cosine"] == pytest.approx(last)
    best = max(baselines, key=lambda name: baselines[name]["cosine"])
    assert run.info["best_baseline"] == best
    level = baselines[best]["cosine"]
    expected = (run.info["test"]["cosine"] - level) / (1 - level)
    assert run.info["skill"] == pytest.approx(expected)
    mean = dataset.gather(split.train[:, -1]).mean(axis=0)
    targets = dataset.gather(split.train[:, -1])
    constant = cosine(np.tile(mean, (len(targets), 1)), targets).mean()
    assert run.info["training_mean_cosine"] == pytest.approx(constant, abs=1e-6)


def test_a_run_as_reported_also_sits_the_exam(done, tmp_path):
    reported = replace(done, protocol="as_reported", run_dir=str(tmp_path / "run"))
    run = execute(reported)
    windows = run.info["windows"]
    assert windows["train"] + windows["validation"] == 150 - 5
    assert run.scores["row"].equals(load_run(done.run_dir).scores["row"])


def test_scores_of_a_joined_dataset_say_their_source(done, dataset_folder, tmp_path):
    joined = tmp_path / "joined"
    shutil.copytree(dataset_folder, joined)
    documents = pd.read_csv(joined / "documents.csv")
    documents["source"] = [f"part {n % 2}" for n in range(len(documents))]
    documents.to_csv(joined / "documents.csv", index=False)
    run = execute(replace(done, dataset=str(joined), run_dir=str(tmp_path / "run")))
    odd = run.scores["document"] % 2 == 1
    assert run.scores["source"].equals(odd.map({True: "part 1", False: "part 0"}))
    rest = run.scores.drop(columns="source")
    pd.testing.assert_frame_equal(rest, load_run(done.run_dir).scores)


def test_a_run_can_be_repeated_to_the_same_numbers(done, tmp_path):
    again = execute(replace(done, run_dir=str(tmp_path / "again")))
    first = load_run(done.run_dir)
    pd.testing.assert_frame_equal(again.scores, first.scores)
    assert again.info["test"] == first.info["test"]
    other = execute(replace(done, seed=1, run_dir=str(tmp_path / "other")))
    assert other.info["test"]["cosine"] != first.info["test"]["cosine"]
    assert other.scores["row"].equals(first.scores["row"])


def test_without_run_dir_a_run_has_a_place_of_its_own(done, runs_root):
    run = execute(replace(done, run_dir=""))
    assert run.folder == runs_root / "interactive/amn/150/epochs/seed0"


# --- what is not the settings' -------------------------------------------------------


def test_a_model_is_trained_once_and_of_the_run_s_own_seed(done, tmp_path):
    dataset = open_dataset(done.dataset)
    settings = replace(done, run_dir=str(tmp_path / "run"))
    split = make_split(dataset, "controlled", 150)
    model = runs.new_model(replace(settings, seed=1), dataset.dim)
    with pytest.raises(RunError, match="seed is 1, but the settings ask for 0"):
        runs.run(settings, model, dataset, split)
    plain = build_model("amn", dim=dataset.dim, **OPTIONS)
    with pytest.raises(RunError, match="ask for amn: build it by new_model"):
        runs.run(settings, plain, dataset, split)
    model = runs.new_model(settings, dataset.dim)
    first = runs.run(settings, model, dataset, split)
    assert runs.run(settings, model, dataset, split).info == first.info  # only read
    changed = replace(settings, recipe=replace(RECIPE, weight_decay=0.2))
    with pytest.raises(RunError, match="has been trained already"):
        runs.run(changed, model, dataset, split)
    assert load_run(settings.folder).info == first.info


def test_a_model_with_another_start_than_the_loss_asks_for_is_refused(done, tmp_path):
    dataset, split = open_dataset(done.dataset), done.split(open_dataset(done.dataset))
    recipe = replace(RECIPE, head_start="frozen")
    settings = replace(done, run_dir=str(tmp_path / "run"), recipe=recipe)
    model = runs.new_model(settings, dataset.dim)
    asked = replace(settings, recipe=replace(recipe, loss="following"))
    with pytest.raises(RunError, match="start is ridge_to_weights"):
        runs.run(asked, model, dataset, split)


def test_what_is_drawn_between_building_and_training_changes_nothing(done, tmp_path):
    dataset = open_dataset(done.dataset)
    split = make_split(dataset, "controlled", 150)
    cosines = []
    for name in ("a", "b"):
        settings = replace(  # with dropout
            done,
            architecture="lstm",
            options={"hidden": 8},
            run_dir=str(tmp_path / name),
        )
        model = runs.new_model(settings, dataset.dim)
        torch.rand(len(cosines))
        done_run = runs.run(settings, model, dataset, split)
        cosines.append(done_run.info["test"]["cosine"])
    assert cosines[0] == cosines[1]


def test_other_windows_than_the_settings_name_are_refused(done, tmp_path):
    dataset = open_dataset(done.dataset)
    settings = replace(done, run_dir=str(tmp_path / "run"))
    model = runs.new_model(settings, dataset.dim)
    for other in (
        make_split(dataset, "controlled", 120),
        make_split(dataset, "as_reported", 150),
    ):
        with pytest.raises(RunError, match="windows are not those of controlled"):
            runs.run(settings, model, dataset, other)
    assert not settings.folder.exists()


# --- when a run is done -------------------------------------------------------------


def test_run_json_is_written_last(copied, monkeypatch):
    folder, write = Path(copied.run_dir), runs.write_json
    shutil.rmtree(folder)

    def fail_at_run_json(path, content):
        if Path(path).name == "run.json":
            names = contents(folder)
            assert {"history.csv", "model.safetensors", "test.parquet"} <= names.keys()
            raise OSError("disk full")
        write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(runs, "write_json", fail_at_run_json)
        with pytest.raises(OSError, match="disk full"):
            execute(copied)
    assert "run.json" not in contents(folder)
    with pytest.raises(RunError):
        load_run(folder)
    assert execute(copied).info["status"] == "trained"


def test_a_done_run_is_only_read(copied, no_training, same_commit, capsys):
    before = contents(copied.run_dir)
    times = {path: path.stat().st_mtime_ns for path in Path(copied.run_dir).iterdir()}
    run = execute(copied)
    assert run.info["status"] == "trained"
    assert contents(copied.run_dir) == before
    assert times == {p: p.stat().st_mtime_ns for p in Path(copied.run_dir).iterdir()}
    assert capsys.readouterr().out == ""


def test_changed_code_only_warns(copied, no_training, monkeypatch, capsys):
    commit = load_run(copied.run_dir).info["commit"]
    monkeypatch.setattr(runs, "git_commit", lambda: "0ther")
    execute(copied)
    said = capsys.readouterr().out
    assert said.count("\n") == 1
    assert f"was made by commit {commit}" in said


def test_where_a_run_is_computed_does_not_matter(copied, no_training, dataset_folder):
    moved = shutil.copytree(dataset_folder, Path(copied.run_dir).parent / "moved")
    recipe = replace(copied.recipe, device="auto")
    execute(replace(copied, dataset=str(moved), recipe=recipe))


def test_a_changed_recipe_trains_again(copied, dataset_folder):
    before = load_run(copied.run_dir).info
    changed = replace(copied, recipe=replace(RECIPE, weight_decay=0.2))
    run = execute(changed)
    assert run.info["recipe_hash"] != before["recipe_hash"]
    assert run.info["parameters"]["weight_decay"] == 0.2
    assert run.info["test"]["cosine"] != before["test"]["cosine"]
    sha256 = open_dataset(dataset_folder).sha256
    recipes = [name for name in contents(copied.run_dir) if name.startswith("recipe")]
    assert recipes == [f"recipe-{changed.recipe_hash(sha256)}.json"]


def test_an_unfinished_run_is_not_done_for_the_old_recipe_either(copied, monkeypatch):
    def interrupt(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(runs, "assess", interrupt)
        with pytest.raises(InterruptedError):
            execute(replace(copied, recipe=replace(RECIPE, weight_decay=0.2)))
    assert "run.json" not in contents(copied.run_dir)
    with pytest.raises(RunError, match="holds no finished run"):
        load_run(copied.run_dir)


def test_a_changed_recipe_that_cannot_train_loses_nothing(copied, monkeypatch):
    before = contents(copied.run_dir)
    with pytest.raises(DatasetError, match="size 9,999 is larger"):
        execute(replace(copied, size=9999))
    assert contents(copied.run_dir) == before
    with pytest.raises(ValueError, match="Unknown"):
        execute(replace(copied, options={"hiden": 3}))
    assert contents(copied.run_dir) == before


def test_a_run_folder_of_another_dataset_is_refused(
    copied, write_dataset, dataset_folder, tmp_path
):
    vectors = np.load(dataset_folder / "vectors.npy")[:, ::-1]
    other = write_dataset(tmp_path / "other", vectors, name="other")
    before = contents(copied.run_dir)
    with pytest.raises(RunError) as error:
        execute(replace(copied, dataset=str(other)))
    message = str(error.value)
    assert message.startswith(f"{copied.run_dir} holds a run on dataset tiny")
    assert str(other) in message
    assert "choose another run_dir, or delete the folder" in message
    assert contents(copied.run_dir) == before


def test_an_interruption_after_training_does_not_train_again(
    done, tmp_path, monkeypatch
):
    settings = replace(done, run_dir=str(tmp_path / "run"))
    often = functools.partial(training.train, checkpoint_seconds=0)
    monkeypatch.setattr(runs, "train", often)

    def interrupt(*_):
        raise InterruptedError

    with monkeypatch.context() as patch:
        patch.setattr(runs, "assess", interrupt)
        with pytest.raises(InterruptedError):
            execute(settings)
    with monkeypatch.context() as patch:
        patch.setattr(training, "differentiate", interrupt)
        run = execute(settings)
    expected = load_run(done.run_dir)
    assert run.info["test"] == expected.info["test"]
    assert "checkpoint.pt" not in contents(settings.run_dir)


# --- bad folders and full disks -----------------------------------------------------


def truncate(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-20])


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
@pytest.mark.parametrize("name", ["run.json", "test.parquet"])
def test_a_damaged_run_is_named(copied, name, damage):
    damage(Path(copied.run_dir) / name)
    with pytest.raises(RunError) as error:
        load_run(copied.run_dir)
    assert str(error.value).startswith(f"{copied.run_dir} holds no finished run (")


@pytest.mark.parametrize("damage", [Path.unlink, truncate])
@pytest.mark.parametrize("name", ["run.json", "test.parquet", "history.csv"])
def test_a_run_that_is_not_whole_is_trained_again(copied, name, damage):
    whole = load_run(copied.run_dir)
    damage(Path(copied.run_dir) / name)
    assert not answers(Path(copied.run_dir), whole.info["recipe_hash"])
    again = execute(copied)
    assert again.info["finished"] >= whole.info["finished"]
    pd.testing.assert_frame_equal(again.scores, whole.scores)
    assert answers(Path(copied.run_dir), whole.info["recipe_hash"])


def test_a_run_without_history_or_folder(copied, tmp_path):
    (Path(copied.run_dir) / "history.csv").write_text("")
    with pytest.raises(RunError, match="holds no finished run"):
        load_run(copied.run_dir)
    with pytest.raises(RunError, match="nowhere holds no finished run"):
        load_run(tmp_path / "nowhere")


EXECUTE_ON_A_FULL_DISK = """
import resource, signal, sys
from dataclasses import replace
import torch
from lvmlib.recipe import make_settings
from studies import execute

torch.set_num_threads(1)
_, dataset, first, second = sys.argv
settings = make_settings("amn", {
    "dataset": dataset, "size": 150, "run_dir": first, "epochs": 2, "hidden": 8,
    "mlp": 16, "device": "cpu", "precision": "32-true",
})
execute(settings)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
settings = replace(settings, seed=1, run_dir=second)
for limit in 3_000, 14_000:  # the weights do not fit, then the scores do not
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try:
        execute(settings)
    except OSError as error:
        print(error)
execute(settings)
"""


def test_a_full_disk_stops_a_run_and_keeps_the_others(
    dataset_folder, tmp_path, python, monkeypatch
):
    first, second = tmp_path / "first", tmp_path / "second"
    child = python(EXECUTE_ON_A_FULL_DISK, dataset_folder, first, second, stdout=-1)
    output, errors = child.communicate(timeout=120)
    assert child.returncode != 0
    messages = [*output.splitlines(), errors.strip().splitlines()[-1]]
    names = ["model.safetensors", "test.parquet", "test.parquet"]
    assert len(messages) == 3, errors
    for name, message in zip(names, messages, strict=True):
        assert f"{second / name} could not be written (" in message
        assert "Free some space" in message
    assert not (second / "run.json").exists()
    assert not list(second.glob(".*.tmp"))
    run = load_run(first)
    assert run.scores["cosine"].mean() == pytest.approx(run.info["test"]["cosine"])
    load_weights(first / "model.safetensors")
    # With space again, the same call finishes.
    parameters = run.info["parameters"] | {"seed": 1, "run_dir": str(second)}
    again = execute(make_settings("amn", parameters))
    assert again.info["parameters"] == parameters
    assert again.info["status"] in ("trained", "unlearned")


# --- provenance ---------------------------------------------------------------------


def test_the_command_of_a_run_names_no_folder_of_this_machine(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for dataset, named in {
        "": "''",
        "../vectors": "../vectors",
        "/some/disk/my vectors": "'my vectors'",
        str(tmp_path / "data/vectors"): "data/vectors",
        str(project_folder() / "runs/vectors"): "runs/vectors",
    }.items():
        settings = Settings("amn", dataset, run_dir="/some/disk/runs/seed0")
        assert f" -p dataset {named} -p protocol" in runs.command(settings)
        assert " -p run_dir '' " in runs.command(settings)


def test_git_commit_marks_changed_files(tmp_path, monkeypatch):
    package = tmp_path / "project" / "lvmlib"
    package.mkdir(parents=True)
    (package / "runs.py").write_text("one")
    monkeypatch.setattr(runs, "__file__", str(package / "runs.py"))

    def git(*arguments):
        who = ["-c", "user.name=a", "-c", "user.email=a@b"]
        command = ["git", "-C", str(package), *who, *arguments]
        done = subprocess.run(command, check=True, capture_output=True, text=True)
        return done.stdout.strip()

    git("init", "--quiet")
    git("add", "runs.py")
    git("commit", "--quiet", "-m", "one")
    head = git("rev-parse", "--short", "HEAD")
    assert git_commit() == head
    (package / "untracked.py").write_text("new")
    assert git_commit() == head
    (package / "runs.py").write_text("two")
    assert git_commit() == f"{head}+"


def test_git_commit_without_git_or_repository(tmp_path, monkeypatch):
    monkeypatch.setattr(runs, "__file__", str(tmp_path / "runs.py"))
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_commit() == "unknown"
    monkeypatch.setenv("PATH", "")
    assert git_commit() == "unknown"


def test_a_run_names_the_processor_that_computed_it(monkeypatch):
    asked = []
    monkeypatch.setattr(
        torch.cuda, "get_device_name", lambda device: asked.append(device) or "A GPU"
    )
    gpu = torch.device("cuda", 0)
    assert runs.processor_name(gpu) == "A GPU"
    assert asked == [gpu]
    cpu = runs.processor_name(torch.device("cpu"))
    assert cpu.endswith(torch.backends.cpu.get_cpu_capability())
    assert cpu == runs.processor_name()
