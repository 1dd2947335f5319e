"""Runs: one architecture trained at one size with one seed, kept in a folder.

What a folder holds, and how it is read back, is in `records`.
"""

from __future__ import annotations

import importlib.metadata
import platform
import re
import resource
import shlex
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import nn

from lvmlib import evaluation
from lvmlib.files import atomic_path, project_folder, read_json, write_json
from lvmlib.gpu import resolve_precision
from lvmlib.inference import predict_windows, resolve_device
from lvmlib.models import build_model, count_parameters
from lvmlib.recipe import Settings, total_steps
from lvmlib.records import Run, RunError, checksums, is_whole, load_run, training_status
from lvmlib.start import Started
from lvmlib.training import train
from lvmlib.vectors import Dataset, Split

PACKAGES = ("torch", "lightning-fabric", "numpy", "scipy", "pandas")


def _of_model(settings: Settings, dim: int) -> dict[str, Any]:
    """Return what decides an untrained model."""
    return {
        "architecture": settings.architecture,
        "options": {"dim": dim, "context": settings.reads} | settings.options,
        "scale": settings.recipe.scale,
        "head_start": settings.recipe.head_start,
        "start": settings.recipe.start,
        "seed": settings.seed,
    }


def new_model(settings: Settings, dim: int) -> nn.Module:
    """Build the untrained model of a run; the seed decides its weights.

    What dropout draws later goes on from where the weights' random numbers ended, so
    the model keeps that state for `run`, and what it was built for.
    """
    torch.manual_seed(settings.seed)
    built, recipe = _of_model(settings, dim), settings.recipe
    model = build_model(settings.architecture, **built["options"])
    if recipe.scale or recipe.head_start != "none":
        model = Started(model, recipe.scale, recipe.head_start, recipe.start)
    model.running_mean = settings.running_mean
    model.built, model.random_state = built, torch.get_rng_state()
    return model


def run(settings: Settings, model: nn.Module, dataset: Dataset, split: Split) -> Run:
    """Train, score and keep one run; a run that is already done is only read.

    Parameters
    ----------
    model : nn.Module
        Of `new_model`; it is trained in place, so that a second run needs another.
    dataset, split
        What the settings name: the caller has opened and shown them.

    Raises
    ------
    ParameterError, TrainingError
        From the parts.
    RunError
        If model or split are not what the settings name, or the folder belongs to a run
        on another dataset.
    """
    started = time.monotonic()
    found = vars(model).get("built", {})
    for key, value in _of_model(settings, dataset.dim).items():
        if found.get(key) != value:
            raise RunError(
                f"the model's {key} is {found.get(key)}, but the settings ask for "
                f"{value}: build it by new_model."
            )
    identity = settings.recipe_hash(dataset.sha256)
    folder = settings.folder
    done = _finished(folder, identity, dataset)
    if done:
        return done
    _check_split(settings, dataset, split)
    random_state = vars(model).pop("random_state", None)
    if random_state is None:
        raise RunError("the model has been trained already: build another one.")
    torch.manual_seed(settings.seed)  # on all devices
    torch.set_rng_state(random_state)
    # Asked before training: a folder that cannot be written must not cost hours.
    write_json(folder / f"recipe-{identity}.json", settings.parameters())
    (folder / "run.json").unlink(missing_ok=True)  # of a recipe that has changed
    recipe = settings.recipe
    history = train(model, dataset, split, recipe, settings.seed, folder, identity)
    scores, results = assess(model, dataset, split)
    with atomic_path(folder / "test.parquet") as temporary:
        scores.to_parquet(temporary, index=False)
    info = _describe(settings, dataset, split, model, history) | results
    # Another loss than one of nearness may leave a constant's cosine behind on purpose.
    near = recipe.judge == "validation_cosine"
    level = results["training_mean_cosine"] if near else -1.0
    info["status"] = training_status(history, level)
    info["checksums"] = checksums(folder)
    info["wall_seconds"] = time.monotonic() - started
    for stale in folder.glob("recipe-*.json"):
        if stale.name != f"recipe-{identity}.json":
            stale.unlink()
    write_json(folder / "run.json", info)
    (folder / "checkpoint.pt").unlink(missing_ok=True)
    return load_run(folder)


def _check_split(settings: Settings, dataset: Dataset, split: Split) -> None:
    # The run is kept as an answer to its recipe, which names protocol, size and seed.
    for part, windows in vars(settings.split(dataset)).items():
        if not np.array_equal(windows, getattr(split, part)):
            raise RunError(
                f"the {part} windows are not those of {settings.protocol} with size "
                f"{settings.size:,} and seed {settings.seed}, which the settings name."
            )


def _finished(folder: Path, identity: str, dataset: Dataset) -> Run | None:
    info = read_json(folder / "run.json")
    if info is None or not is_whole(folder, info):
        return None
    run = load_run(folder)
    found = run.info["dataset"]["sha256"]
    if found != dataset.sha256:
        raise RunError(
            f"{folder} holds a run on dataset {run.info['dataset']['name']} "
            f"({found[:12]}…), but {dataset.folder} is {dataset.sha256[:12]}…: choose "
            "another run_dir, or delete the folder."
        )
    if run.info["recipe_hash"] != identity:
        return None
    if run.info["commit"] != git_commit():
        print(f"{folder} was made by commit {run.info['commit']}; reading it as it is.")
    return run


def assess(
    model: torch.nn.Module, dataset: Dataset, split: Split
) -> tuple[pd.DataFrame, dict[str, Any]]:
    """Score a trained model and the baselines on the test windows.

    Returns
    -------
    scores : DataFrame
        `evaluation.score_windows`, a column cosine_<baseline> for each baseline, and
        `source` if the documents of the dataset have one.
    results : dict
        Test metrics, skill, and what `evaluation.score_baselines` gives.
    """
    raw = predict_windows(model, dataset, split.test)
    scores = evaluation.score_windows(raw, dataset, split.test)
    if "source" in dataset.documents:
        sources = dataset.documents["source"].to_numpy()
        scores.insert(1, "source", sources[scores["document"]])
    cosines, results = evaluation.score_baselines(dataset, split)
    test = evaluation.summarise(scores)
    best = results["baselines"][results["best_baseline"]]["cosine"]
    return pd.concat([scores, cosines], axis=1), results | {
        "test": test,
        "skill": (test["cosine"] - best) / (1 - best),  # 0 is the best baseline
    }


def _describe(
    settings: Settings,
    dataset: Dataset,
    split: Split,
    model: torch.nn.Module,
    history: pd.DataFrame,
) -> dict[str, Any]:
    device = resolve_device(settings.recipe.device)
    best = history.loc[history[settings.recipe.judge].idxmax()]
    fitted = {"numbers": model.numbers} if hasattr(model, "numbers") else {}
    return fitted | {
        "architecture": settings.architecture,
        "recipe_hash": settings.recipe_hash(dataset.sha256),
        "parameters": settings.parameters(),
        "dataset": {k: dataset.info[k] for k in ("name", "n", "dim", "sha256")},
        "windows": {k: len(part) for k, part in vars(split).items()},
        "model_parameters": count_parameters(model),
        "epochs": len(history),
        "steps": int(history["step"].iloc[-1]),
        "planned_steps": total_steps(settings.recipe, len(split.train)),
        "best_epoch": int(best["epoch"]),
        "validation_cosine": float(best["validation_cosine"]),
        "train_cosine": float(best["train_cosine"]),
        "windows_per_second": history["windows"].sum() / history["seconds"].sum(),
        "peak_memory_mb": peak_memory_mb(),
        "precision": resolve_precision(settings.recipe.precision, device),
        "device": device.type,
        "processor": processor_name(device),
        "threads": torch.get_num_threads(),
        "versions": {p: importlib.metadata.version(p) for p in PACKAGES}
        | {"python": platform.python_version()},
        "commit": git_commit(),
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
    }


def command(settings: Settings) -> str:
    """Return the papermill command that repeats a run, in a folder of its own.

    It names the dataset from here or from the project, or, if that lies elsewhere, by
    its folder's own name: where that is differs by reader.
    """
    dataset = Path(settings.dataset)
    if dataset.is_absolute():
        around = [p for p in (Path.cwd(), project_folder()) if p in dataset.parents]
        dataset = dataset.relative_to(around[0]) if around else dataset.name
        settings = replace(settings, dataset=str(dataset))
    notebook = f"notebooks/{settings.architecture}.ipynb"
    words = ["papermill", "-k", "python3", notebook, "again.ipynb"]
    return shlex.join(words + replace(settings, run_dir="").arguments())


def processor_name(device: torch.device | None = None) -> str:
    """Return what computes: a GPU's name, or the CPU's and what torch uses of it."""
    if device and device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = platform.processor() or platform.machine()
    with suppress(OSError):  # only Linux has this file
        found = re.search(r"\nmodel name\s*: (.+)", Path("/proc/cpuinfo").read_text())
        model = found[1] if found else model
    return f"{model}, {torch.backends.cpu.get_cpu_capability()}"


def peak_memory_mb() -> float:
    """Return this process's peak resident memory in MB."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**20 if sys.platform == "darwin" else 2**10)


def git_commit() -> str:
    """Return the project's short commit, with "+" when files differ from it."""
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always"]
    command += ["--exclude=*", "--dirty=+"]
    try:
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        return found.stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
