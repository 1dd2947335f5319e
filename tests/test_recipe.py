"""Parameters: what is refused, what a notebook gives, what decides a run's numbers."""

from __future__ import annotations

import datetime
import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from lvmlib import files
from lvmlib.files import project_folder
from lvmlib.models import ARCHITECTURES
from lvmlib.names import ParameterError
from lvmlib.recipe import (
    Recipe,
    make_settings,
    model_options,
)

# --- what is refused ----------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "nearest"),
    [
        ("learning_rat", "learning_rate"),
        ("epoch", "epochs"),
        ("Seed", "seed"),
        ("batchsize", "batch_size"),
        ("hiden", "hidden"),
        ("run_directory", "run_dir"),
    ],
)
def test_an_unknown_parameter_names_the_nearest(name, nearest):
    with pytest.raises(ParameterError) as error:
        make_settings("lstm", {"size": 100, name: 1})
    message = str(error.value)
    assert f"{name!r}" in message
    assert f"Did you mean {nearest!r}?" in message


def test_an_option_of_another_architecture_is_unknown():
    assert make_settings("graphmert", {"mask": "smooth"}).options == {"mask": "smooth"}
    with pytest.raises(ParameterError, match="'mask'"):
        make_settings("amn", {"mask": "smooth"})
    for fixed in ("dim", "architecture", "recipe", "options"):
        with pytest.raises(ParameterError, match=f"Unknown parameter: '{fixed}'"):
            make_settings("amn", {fixed: 5})


@pytest.mark.parametrize(
    "wrong",
    [
        *({"size": value} for value in ("2000", 2000.0, True, 0)),
        *({"seed": value} for value in (None, -1)),
        *({"learning_rate": value} for value in ("fast", 0.0, 1.5, math.nan)),
        *({"warmup": value} for value in (False, 1.0, -0.1)),
        *({name: 0} for name in ("epochs", "batch_size")),
        *({name: -1} for name in ("patience", "min_steps", "weight_decay")),
        {"dataset": 7},
        {"protocol": ["controlled"]},
        {"hidden": 0.5},
        {"dropout": "no"},
    ],
    ids=str,
)
def test_a_wrong_value_is_named(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ParameterError) as error:
        make_settings("lstm", wrong)
    assert name in str(error.value)
    assert repr(value) in str(error.value)


@pytest.mark.parametrize(
    ("wrong", "nearest"),
    [
        ({"protocol": "controled"}, "controlled"),
        ({"schedule": "cosin"}, "cosine"),
        ({"arm": "epoch"}, "epochs"),
        ({"precision": "bf16-mix"}, "bf16-mixed"),
        ({"device": "cudda"}, "cuda"),
    ],
)
def test_a_misspelt_choice_names_the_nearest(wrong, nearest):
    with pytest.raises(ParameterError, match=f"Did you mean '{nearest}'"):
        make_settings("lstm", wrong)


@pytest.mark.parametrize(
    "wrong", [{"arm": "steps"}, {"schedule": "plateau", "warmup": 0.1}]
)
def test_what_does_not_fit_together_is_refused(wrong):
    with pytest.raises(ParameterError, match=r"min_steps|warm"):
        make_settings("lstm", wrong)


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("1E-3", 1e-3), (".001", 1e-3)]
)
def test_rates_that_yaml_takes_for_text_are_read(text, value):
    assert make_settings("lstm", {"learning_rate": text}).recipe.learning_rate == value


@pytest.mark.parametrize("name", ["reference", "as_reported"])
def test_committed_runs_answer_today_s_recipes(name):
    """A changed default or field would train all of them again."""
    folder = project_folder() / "reports" / name / "runs"
    for file in folder.rglob("run.json"):
        info = json.loads(file.read_text())
        settings = make_settings(info["architecture"], info["parameters"])
        assert settings.recipe_hash(info["dataset"]["sha256"]) == info["recipe_hash"]


def test_an_unknown_architecture_names_the_nearest():
    with pytest.raises(ValueError, match=r"'transfomer'\. Did you mean 'transformer'"):
        make_settings("transfomer", {})


def test_whole_numbers_are_fine_for_floats():
    settings = make_settings("lstm", {"learning_rate": 1, "dropout": 0})
    assert settings.recipe.learning_rate == 1.0
    assert settings.options == {"dropout": 0.0}
    assert isinstance(settings.recipe.learning_rate, float)
    assert isinstance(settings.options["dropout"], float)


def test_all_parameters_arrive():
    given = {
        "dataset": "data/x",
        "size": 300,
        "protocol": "as_reported",
        "seed": 4,
        "run_dir": "runs/y",
        "arm": "steps",
        "epochs": 3,
        "min_steps": 70,
        "batch_size": 8,
        "learning_rate": 0.002,
        "schedule": "plateau",
        "warmup": 0.0,
        "weight_decay": 0.1,
        "patience": 2,
        "scale": True,
        "head_start": "frozen",
        "loss": "cosine",
        "every_position": False,
        "averaging": 0.9,
        "clip": 0.5,
        "context": 7,
        "horizon": 2,
        "sources": "a:1",
        "per_document": 9,
        "running_mean": True,
        "precision": "32-true",
        "device": "cpu",
        "hidden": 16,
    }
    settings = make_settings("gru", given)
    assert settings.parameters() == given
    assert settings.folder == Path("runs/y")
    names = {"architecture", "options", "recipe"}
    assert vars(settings).keys() | vars(settings.recipe).keys() == (
        given.keys() - {"hidden"} | names
    )


@pytest.mark.parametrize("architecture", ARCHITECTURES)
def test_defaults_are_those_of_recipe_and_model(architecture):
    settings = make_settings(architecture, {})
    assert settings.recipe == Recipe()
    assert settings.options == {}
    same = model_options(architecture)
    assert make_settings(architecture, same) == settings
    assert not {"dim", "context", "self"} & same.keys()


# --- what decides a run -------------------------------------------------------------


def test_the_recipe_hash_changes_with_all_that_decides_the_numbers():
    settings = make_settings("lstm", {"warmup": 0.0})
    variants = [
        settings,
        replace(settings, architecture="gru"),
        replace(settings, size=2001),
        replace(settings, seed=1),
        replace(settings, protocol="as_reported"),
        replace(settings, context=4),
        replace(settings, options={"dropout": 0.3}),
        replace(settings, options={"hidden": 256}),
    ]
    changes = {
        "arm": "steps",
        "epochs": 9,
        "min_steps": 1,
        "batch_size": 33,
        "learning_rate": 0.0006,
        "schedule": "constant",
        "warmup": 0.06,
        "weight_decay": 0.0,
        "patience": 1,
        "scale": True,
        "head_start": "trained",
        "loss": "ranking",
        "every_position": True,
        "averaging": 0.5,
        "clip": 0.01,
        "precision": "32-true",
    }
    for name, value in changes.items():
        needed = {"min_steps": 1} if name == "arm" else {}
        changed = replace(settings.recipe, **{name: value}, **needed)
        variants.append(replace(settings, recipe=changed))
    hashes = [variant.recipe_hash("abc") for variant in variants]
    hashes.append(settings.recipe_hash("abd"))
    assert len(set(hashes)) == len(hashes)
    assert vars(settings.recipe).keys() == changes.keys() | {"device"}


def test_the_recipe_hash_ignores_where_a_run_is_kept_and_computed():
    settings = make_settings("lstm", {})
    elsewhere = make_settings(
        "lstm", {"run_dir": "somewhere", "dataset": "a/copy", "device": "cpu"}
    )
    assert elsewhere.recipe_hash("abc") == settings.recipe_hash("abc")
    spelt_out = make_settings("lstm", settings.parameters() | {"hidden": 512})
    assert spelt_out.recipe_hash("abc") == settings.recipe_hash("abc")


def test_the_recipe_hash_does_not_depend_on_the_order_of_parameters():
    given = {"hidden": 8, "mlp": 16, "size": 300}
    backwards = dict(reversed(given.items()))
    hashes = {make_settings("amn", p).recipe_hash("abc") for p in (given, backwards)}
    assert len(hashes) == 1


# --- where runs are kept ------------------------------------------------------------


def test_runs_are_kept_in_the_project_or_where_lvm_runs_says(
    runs_root, tmp_path, monkeypatch
):
    settings = make_settings("gru", {"size": 300, "seed": 2})
    place = Path("interactive/gru/300/epochs/seed2")
    assert settings.folder == runs_root / place
    monkeypatch.delenv("LVM_RUNS")
    project = tmp_path / "project"
    (project / "parameters").mkdir(parents=True)
    monkeypatch.setattr(files, "__file__", str(project / "lvmlib/files.py"))
    assert files.runs_root() == project / "runs"
    (project / "parameters").rmdir()
    monkeypatch.chdir(tmp_path)
    assert files.runs_root() == tmp_path / "runs"


@pytest.mark.parametrize(
    ("given", "named"),
    [  # as papermill gives them: -p size 007, 1e400, no; -y with a date
        ({"size": float("inf")}, "size"),
        ({"learning_rate": float("inf")}, "learning_rate"),
        ({"weight_decay": float("inf")}, "weight_decay"),
        ({"scale": "no"}, "scale"),
        ({"seed": datetime.date(2026, 11, 30)}, "seed"),
        ({"epochs": None}, "epochs"),
        ({"epochs": True}, "epochs"),
        ({"warmup": "1_000"}, "warmup"),
        ({"run_dir": 7}, "run_dir"),
    ],
)
def test_values_of_the_wrong_type_name_their_parameter(given, named):
    with pytest.raises(ParameterError, match=f"parameter '{named}' is "):
        make_settings("amn", given)


def test_numbers_that_yaml_takes_for_text():
    texts = {"learning_rate": "1E-3", "weight_decay": "1_000"}
    settings = make_settings("amn", texts)
    assert settings.recipe.learning_rate == 0.001
    assert settings.recipe.weight_decay == 1000
    assert make_settings("amn", {"size": int("007")}).size == 7
