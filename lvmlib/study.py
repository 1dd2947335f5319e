"""Studies: grids of runs planned in YAML, run through Snakemake, read as one table.

`python -m lvmlib quick` runs parameters/quick.yaml and renders reports/quick.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Annotated, Any

import torch
import yaml
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, ValidationError

from lvmlib.files import one_line, project_folder, read_json, runs_root, write_json
from lvmlib.models import build_model, count_parameters
from lvmlib.names import ParameterError, check_names, unknown_name
from lvmlib.recipe import STRICT, Settings, first_error, make_settings, total_steps
from lvmlib.results import PAGES, answers
from lvmlib.vectors import open_dataset

GRID = ("sizes", "arms")  # what an entry may have of its own beside parameters
# For GLIBC_TUNABLES, in the Snakefile: malloc keeps what is freed, in huge pages.
HUGE_PAGES = "glibc.malloc.hugetlb=1:glibc.malloc.trim_threshold=4000000000"
HUGE_PAGES += ":glibc.malloc.mmap_threshold=4000000000"
ONE_ARM = {"epochs": None}
NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")  # of an entry, an arm, a study


class TunedEntry(BaseModel):
    """What is chosen for an entry, beside what is chosen for all."""

    model_config = STRICT
    architecture: str
    sizes: list[PositiveInt]
    fixed: dict[str, Any] = {}
    space: dict[str, Any] = {}


class Tuning(BaseModel):
    """How recipes are chosen, see `lvmlib.tuning`."""

    model_config = STRICT
    trials: PositiveInt  # of each entry at each size
    seed: NonNegativeInt = 0  # of all trials
    space: dict[str, Any]
    entries: dict[str, TunedEntry]


class StudyFile(BaseModel):
    """What a study's YAML may say; a key without a value is as if it were not there."""

    model_config = STRICT
    title: str = ""
    dataset: str = ""
    protocol: str = "controlled"
    seeds: Annotated[list[Any], Field(min_length=1)]
    sizes: Any  # a list, or each size with its seeds: see `_grid`
    threads: PositiveInt = 1
    recipe: dict[str, Any] = {}
    arms: dict[Any, Any] = {}
    architectures: Annotated[dict[Any, Any], Field(min_length=1)]
    answer: str = "summary"  # the notebook that becomes index.html
    pages: list[str] = []  # question notebooks, see `results.study_pages`
    tuning: Tuning | None = None


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
        own = self.settings
        windows = total_steps(own.recipe, own.size) * own.recipe.batch_size
        sizes = {"context": own.reads} | own.options
        try:
            with torch.device("meta"):
                model = build_model(own.architecture, **sizes)
        except ValueError:  # the run itself will say what is wrong with its options
            return float(windows)
        return windows * count_parameters(model)["trainable"]


@dataclass(frozen=True)
class Study:
    """A grid of runs with a name."""

    name: str
    title: str
    runs: tuple[PlannedRun, ...]
    dataset_sha256: str
    threads: int  # of each run; runs beside each other share the cores
    pages: tuple[str, ...] = PAGES  # of its report: notebooks, a question each
    answer: str = "summary"  # the notebook that becomes its first page

    @property
    def folder(self) -> Path:
        """Where the study's runs are kept."""
        return runs_root() / self.name

    def write_plan(self) -> None:
        """Keep the plan beside the runs, so that the summary knows what is missing."""
        plan = {
            "title": self.title,
            "answer": self.answer,
            "pages": list(self.pages),
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
        if read_json(path) != plan:
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
    content, path = read_yaml(name), yaml_path(name)
    folder = dataset or content.dataset
    opened = open_dataset(folder, verify=False)
    shared = {"protocol": content.protocol} | content.recipe
    try:
        runs = [
            _plan(path.stem, entry, shared | parameters, own, opened.sha256)
            for entry, of_entry in content.architectures.items()
            for parameters, own in _grid(content, folder, _names(entry, of_entry))
        ]
        labels = [run.label for run in runs]
        for label in labels:
            if labels.count(label) > 1:
                raise ValueError(f"{label} is planned twice.")
    except (ValueError, OSError, RuntimeError) as error:  # a link may lead to itself
        raise ParameterError(f"{path}: {error}") from error
    return Study(
        path.stem,
        content.title or path.stem,
        tuple(runs),
        opened.sha256,
        content.threads,
        tuple(content.pages) or PAGES,
        content.answer,
    )


class _Loader(yaml.SafeLoader):
    """YAML in which a key given twice is an error, not a silent choice."""

    # When composed: what is merged by "<<" is among a mapping's own keys later.
    def compose_mapping_node(self, anchor: str | None) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[Any, int] = {}
        for key, _ in node.value:
            name, line = str(key.value), key.start_mark.line + 1
            if isinstance(key, yaml.ScalarNode) and not key.tag.endswith(":merge"):
                name = self.construct_object(key)  # 100, 1_00 and 0x64 are one
            if name in lines:
                raise ParameterError(
                    f"{name!r} is given twice, in lines {lines[name]} and {line}"
                )
            lines[name] = line
        return node


def yaml_path(name: str) -> Path:
    """Return where a study is written: parameters/<name>.yaml, or the file `name`."""
    path = Path(name)
    return path if path.suffix in (".yaml", ".yml") else Path(f"parameters/{name}.yaml")


def read_yaml(name: str) -> StudyFile:
    """Read a study's file; ParameterError for what is missing, unknown or no shape."""
    path = yaml_path(name)
    try:
        content = yaml.load(path.read_text(), _Loader)
        content = content if isinstance(content, dict) else {}
        check_names(content, StudyFile.model_fields)
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ParameterError(
            f"{path} cannot be read as a study ({one_line(error)})."
        ) from error
    try:
        given = {key: value for key, value in content.items() if value is not None}
        file = StudyFile(**given)
    except ValidationError as error:
        raise ParameterError(f"{path}: {first_error(error)}") from None
    folder = project_folder() / "notebooks"
    notebooks = sorted(file.stem for file in folder.glob("*.ipynb"))
    for page in [file.answer, *file.pages]:  # else told when all runs are done
        if page not in notebooks:
            raise ParameterError(f"{path}: {unknown_name('page', page, notebooks)}")
    return file


def _names(what: str, value: Any) -> dict[str, Any]:
    if value is not None and not isinstance(value, dict):
        raise ValueError(f"{what} is {value!r}, expected names with values.")
    return value or {}


def _grid(
    content: StudyFile, dataset: str, of_entry: dict[str, Any]
) -> Iterator[tuple[dict[str, Any], dict[str, Any]]]:
    """Yield parameters, and dataset, size, arm and seed, of each of an entry's runs.

    An arm's own `sizes` come before the entry's, and those before the study's;
    so do its parameters.
    """
    arms = _names("arms", of_entry.get("arms")) or content.arms or ONE_ARM
    for arm, of_arm in arms.items():
        parameters = of_entry | _names(arm, of_arm)
        sizes = parameters.get("sizes") or content.sizes
        if isinstance(sizes, list) and not any(
            isinstance(s, list | dict) for s in sizes
        ):
            sizes = dict.fromkeys(sizes, content.seeds)
        if not sizes or not isinstance(sizes, dict):
            raise ValueError(
                f"sizes is {sizes!r}, expected a list, or each size with its seeds."
            )
        parameters = {k: v for k, v in parameters.items() if k not in GRID}
        for size, seeds in sizes.items():
            # A size may have parameters of its own: {seeds: [0], …}.
            of_size = dict(seeds) if isinstance(seeds, dict) else {"seeds": seeds}
            seeds = of_size.pop("seeds", content.seeds)
            if not isinstance(seeds, list):
                raise ValueError(
                    f"seeds at size {size} are {seeds!r}, expected a list such as [0]."
                )
            for seed in seeds:
                own = {"dataset": dataset, "size": size, "seed": seed, "arm": arm}
                yield parameters | of_size, own


def _plan(
    study: str, entry: str, parameters: dict[str, Any], own: dict[str, Any], sha256: str
) -> PlannedRun:
    for name in (study, entry, own["arm"]):
        if not (isinstance(name, str) and NAME.fullmatch(name)):
            raise ValueError(
                f"the name {name!r} would be a folder: use letters, digits, '.', '_' "
                "and '-', the first no '-' or '.'."
            )
    root = runs_root() / study
    folder = root / entry / str(own["size"]) / own["arm"] / f"seed{own['seed']}"
    if not folder.resolve().is_relative_to(root.resolve()):
        raise ValueError(
            f"{folder} leads out of {root} by a link, to {folder.resolve()}: what is "
            "there may be deleted, so remove the link, or set LVM_RUNS."
        )
    own = own | {"run_dir": str(folder)}
    for name in own.keys() & parameters.keys():
        raise ValueError(
            f"{name} is no parameter of a study's runs (found {parameters[name]!r}): "
            "say it under dataset, sizes, seeds or arms; LVM_RUNS says where runs are."
        )
    parameters = {"architecture": entry} | parameters | own
    settings = make_settings(parameters.pop("architecture"), parameters)
    return PlannedRun(entry, settings, settings.recipe_hash(sha256))
