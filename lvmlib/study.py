"""Studies: grids of runs planned in YAML, run through Snakemake, read as one table.

`python -m lvmlib quick` runs parameters/quick.yaml and renders reports/quick.
"""

from __future__ import annotations

import itertools
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pandas as pd
import torch
import yaml

from lvmlib.files import read_json, write_json
from lvmlib.models import build_model, count_parameters
from lvmlib.recipe import (
    ParameterError,
    Settings,
    check_names,
    make_settings,
    project_folder,
    runs_root,
    total_steps,
)
from lvmlib.runs import RunError, execute, load_run
from lvmlib.vectors import open_dataset

KEYS = ("title", "dataset", "protocol", "sizes", "seeds", "arms", "threads", "recipe")
KEYS += ("architectures",)
GRID = ("sizes", "arms")  # what an entry may have of its own beside parameters
ONE_ARM = {"epochs": None}


@dataclass(frozen=True)
class PlannedRun:
    """One cell of a study's grid."""

    entry: str  # the line of the YAML: an architecture, perhaps with overrides
    settings: Settings
    recipe_hash: str

    @property
    def folder(self) -> Path:
        """Where the run is kept."""
        return self.settings.folder

    @property
    def label(self) -> str:
        """The run's name for people."""
        s = self.settings
        return f"{self.entry}, {s.size:,} vectors, {s.recipe.arm}, seed {s.seed}"

    @property
    def page(self) -> str:
        """File name of the run's HTML page."""
        s = self.settings
        return f"{self.entry}-{s.size}-{s.recipe.arm}-seed{s.seed}.html"

    @property
    def is_done(self) -> bool:
        """Whether run.json is there and answers the recipe asked for."""
        return answers(self.folder, self.recipe_hash)

    @cached_property  # asked every second while a study is watched
    def cost(self) -> float:
        """Relative cost: trained windows times parameters, in which time is linear."""
        recipe = self.settings.recipe
        with torch.device("meta"):
            model = build_model(self.settings.architecture)
        windows = total_steps(recipe, self.settings.size) * recipe.batch_size
        return windows * count_parameters(model)["trainable"]


@dataclass(frozen=True)
class Study:
    """A grid of runs with a name."""

    name: str
    title: str
    runs: tuple[PlannedRun, ...]
    dataset_sha256: str
    threads: int  # of each run; runs beside each other share the cores

    @property
    def folder(self) -> Path:
        """Where the study's runs are kept."""
        return runs_root() / self.name

    def write_plan(self) -> None:
        """Keep the plan beside the runs, so that the summary knows what is missing."""
        plan = {
            "title": self.title,
            "runs": [
                {
                    "folder": str(run.folder.relative_to(self.folder)),
                    "label": run.label,
                    "page": run.page,
                    "recipe_hash": run.recipe_hash,
                }
                for run in self.runs
            ],
        }
        path = self.folder / "study.json"
        if not path.exists() or json.loads(path.read_text()) != plan:
            write_json(path, plan)


def read_study(name: str, dataset: str = "") -> Study:
    """Read parameters/<name>.yaml (or the YAML file `name`) into a plan.

    Parameters
    ----------
    dataset : str
        A dataset folder to use instead of the one that the file names.

    Raises
    ------
    ParameterError
        For a file that is missing or has unknown or invalid entries.
    DatasetError
        If the dataset cannot be opened.
    """
    path = Path(name)
    if path.suffix not in (".yaml", ".yml"):
        path = Path("parameters") / f"{name}.yaml"
    content = _read_yaml(path)
    folder = dataset or content.get("dataset", "")
    opened = open_dataset(folder, verify=False)
    shared = {"dataset": folder, "protocol": content.get("protocol", "controlled")}
    shared |= content.get("recipe") or {}
    try:
        runs = [
            _plan(path.stem, opened.sha256, entry, shared | parameters, *cell)
            for entry, own in content["architectures"].items()
            for parameters, *cell in _grid(content, own or {})
        ]
    except ValueError as error:
        raise ParameterError(f"{path}: {error}") from error
    title = content.get("title", path.stem)
    threads = content.get("threads", 1)
    return Study(path.stem, title, tuple(runs), opened.sha256, threads)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(path.read_text())
        content = content if isinstance(content, dict) else {}
        check_names(content, KEYS)
    except (OSError, yaml.YAMLError, ParameterError) as error:
        raise ParameterError(f"{path} cannot be read as a study ({error}).") from error
    for key in ("architectures", "sizes", "seeds"):
        if not content.get(key):
            raise ParameterError(f"{path} has no {key}: name at least one.")
    shapes = {"seeds": list, "architectures": dict, "arms": dict, "recipe": dict}
    for key, shape in shapes.items():
        if content.get(key) and not isinstance(content[key], shape):
            what = "a list" if shape is list else "names with values"
            raise ParameterError(f"{path}: {key} is {content[key]!r}, expected {what}.")
    return content


def _grid(
    content: dict[str, Any], own: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], int, str, int]]:
    """Yield parameters, size, arm and seed of each of an entry's runs.

    An arm's own `sizes` come before the entry's, and those before the study's;
    so do its parameters.
    """
    for arm, of_arm in (own.get("arms") or content.get("arms") or ONE_ARM).items():
        parameters = own | (of_arm or {})
        sizes = parameters.get("sizes") or content["sizes"]
        if isinstance(sizes, list):
            sizes = dict.fromkeys(sizes, content["seeds"])
        if not isinstance(sizes, dict):
            raise ValueError(
                f"sizes is {sizes!r}, expected a list, or each size with its seeds."
            )
        parameters = {k: v for k, v in parameters.items() if k not in GRID}
        for size, seeds in sizes.items():
            if not isinstance(seeds, list):
                raise ValueError(
                    f"seeds at size {size} are {seeds!r}, expected a list such as [0]."
                )
            for seed in seeds:
                yield parameters, size, arm, seed


def _plan(
    study: str,
    sha256: str,
    entry: str,
    parameters: dict[str, Any],
    size: int,
    arm: str,
    seed: int,
) -> PlannedRun:
    folder = runs_root() / study / entry / str(size) / arm / f"seed{seed}"
    parameters = {"architecture": entry} | parameters
    architecture = parameters.pop("architecture")
    parameters |= {"size": size, "seed": seed, "arm": arm, "run_dir": str(folder)}
    settings = make_settings(architecture, parameters)
    return PlannedRun(entry, settings, settings.recipe_hash(sha256))


def summary_arguments(name: str, folder: Path, reported: Path) -> list[str]:
    """Return papermill's arguments for a study's summary.

    Parameters
    ----------
    name : str
        The study's, such as "reference".
    folder, reported : Path
        Its runs, and those of the original protocol on the same vectors, which are set
        beside the reference study.
    """
    given = {"study": folder}
    if name == "reference":
        given["reported"] = reported
    plan = Path("reports") / name / "PLAN.md"
    if plan.exists():
        given["plan"] = plan
    return [word for key, value in given.items() for word in ("-p", key, str(value))]


def load_study(path: str | Path) -> pd.DataFrame:
    """Read a study as one table, a row a finished run.

    Parameters
    ----------
    path : path
        A study's folder of runs (runs/quick), or its committed results.csv.

    Returns
    -------
    DataFrame
        Columns entry, architecture, size, arm, seed, planned_seeds (of this entry, size
        and arm), protocol, status, test_cosine and the other test metrics,
        baseline_<name> (their test cosines), skill, parameters, latency_ms,
        wall_seconds, folder, and more. When the folder has a plan (study.json), only
        runs that answer it are read.

    Raises
    ------
    RunError
        If there is no finished run, the runs are on different datasets, or the folder
        has a study's folder of runs somewhere below (whose entries would be mixed up).
    """
    path = Path(path)
    if path.suffix == ".csv":  # hashes may look like numbers, such as 12e4567
        return pd.read_csv(path, dtype={"commit": str, "recipe_hash": str})
    plan = read_plan(path)
    folders = [f for f, run in plan.items() if answers(f, run["recipe_hash"])]
    if not plan:
        deeper = next(path.rglob("study.json"), None)
        if deeper:
            raise RunError(
                f"{path} is not a study's folder of runs: give {deeper.parent}."
            )
        folders = sorted(file.parent for file in path.rglob("run.json"))
    rows = [_row(path, folder) for folder in folders]
    if not rows:
        raise RunError(f"{path} holds no finished run: run the study first.")
    table = pd.DataFrame(rows)
    cells = Counter(folder.parent for folder in plan or folders)
    planned = [cells[folder.parent] for folder in folders]
    table.insert(table.columns.get_loc("seed") + 1, "planned_seeds", planned)
    if table["dataset_sha256"].nunique() > 1:
        names = table.groupby("dataset_sha256")["folder"].first().tolist()
        raise RunError(
            f"{path} mixes runs on different datasets, such as {' and '.join(names)}: "
            "their scores do not compare; delete one kind."
        )
    return table


def _row(study: Path, folder: Path) -> dict[str, Any]:
    run = load_run(folder)
    info, place = run.info, folder.relative_to(study).parts
    used = info["parameters"]
    return {
        "entry": place[0] if len(place) == 4 else info["architecture"],
        "architecture": info["architecture"],
        **{k: used[k] for k in ("size", "arm", "seed", "protocol")},
        "status": info["status"],
        **{f"test_{k}": v for k, v in info["test"].items()},
        "validation_cosine": info["validation_cosine"],
        "train_cosine": info["train_cosine"],
        **{f"baseline_{k}": v["cosine"] for k, v in info["baselines"].items()},
        "best_baseline": info["best_baseline"],
        "skill": info["skill"],
        "best_epoch": info["best_epoch"],
        "epochs": info["epochs"],
        "steps": info["steps"],
        "training_windows": info["windows"]["train"],
        "parameters": info["model_parameters"]["trainable"],
        "parameters_with_buffers": info["model_parameters"]["with_buffers"],
        "latency_ms": info["latency_ms"]["p50"],
        "windows_per_second": info["windows_per_second"],
        "wall_seconds": run.wall_seconds,
        "peak_memory_mb": info["peak_memory_mb"],
        "precision": info["precision"],
        "device": info["device"],
        "processor": info["processor"],
        "threads": info["threads"],
        "commit": info["commit"],
        "dataset": info["dataset"]["name"],
        "dataset_sha256": info["dataset"]["sha256"],
        "recipe_hash": info["recipe_hash"],
        "folder": str(folder),
    }


def example_study() -> Path:
    """Return runs/quick if it has runs, else a tiny study trained on the spot.

    Two architectures at two sizes for one epoch: enough to see every table and
    figure, not enough to learn anything from them.
    """
    quick = runs_root() / "quick"
    if any(quick.rglob("run.json")):
        return quick
    example = runs_root() / "example"
    tiny = {"epochs": 1}
    for entry, size in itertools.product(("amn", "lstm"), (500, 1000)):
        planned = _plan("example", "", entry, tiny, size, "epochs", seed=0)
        execute(planned.settings)
    return example


def published_study() -> Path:
    """Return the committed runs of the reference study, or else an example study."""
    published = project_folder() / "reports" / "reference" / "runs"
    return published if any(published.rglob("run.json")) else example_study()


def missing_runs(path: str | Path) -> list[dict[str, Any]]:
    """List the planned runs that are not done: label, page, reason, started."""
    plan = read_plan(path)
    return [
        {
            "label": run["label"],
            "page": run["page"],
            "reason": failure(folder),
            "started": (folder / "notebook.ipynb").exists(),
        }
        for folder, run in plan.items()
        if not answers(folder, run["recipe_hash"])
    ]


def failure(folder: str | Path) -> str:
    """Say why a run is missing: the error in its notebook, if there is one."""
    notebook = read_json(Path(folder) / "notebook.ipynb")
    if notebook is None:
        return "it was not started"
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}"
    return "it was interrupted, or answers an older recipe"


def read_plan(path: str | Path) -> dict[Path, dict[str, str]]:
    """Return the planned runs by folder; without a plan, none."""
    file = Path(path) / "study.json"
    if not file.exists():
        return {}
    return {Path(path) / r["folder"]: r for r in json.loads(file.read_text())["runs"]}


def answers(folder: Path, recipe_hash: str) -> bool:
    """Say whether a folder holds the finished run that this recipe asks for."""
    info = read_json(folder / "run.json")
    return info is not None and info["recipe_hash"] == recipe_hash
