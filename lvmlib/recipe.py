"""Parameters of a run: what a notebook may be given, and what decides its numbers."""

from __future__ import annotations

import ast
import hashlib
import inspect
import json
import os
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from lvmlib.models import model_class, unknown_name
from lvmlib.vectors import PROTOCOLS

ARMS = ("epochs", "steps")
SCHEDULES = ("cosine", "constant", "plateau")
PRECISIONS = ("auto", "32-true", "bf16-mixed")


class ParameterError(ValueError):
    """A parameter is unknown, misspelt or of the wrong type."""


@dataclass(frozen=True)
class Recipe:
    """How a model is trained.

    Attributes
    ----------
    arm : str
        "epochs": that many passes, but at least `min_steps` updates. "steps": exactly
        `min_steps` updates whatever the size, so that sizes compare at equal compute.
    epochs, min_steps, batch_size : int
        Passes over the training windows; optimiser updates; windows in an update, on
        all devices together.
    learning_rate, weight_decay : float
        Of AdamW; the rate is the peak one.
    schedule : str
        "cosine" (to zero), "constant", or "plateau" (halved at the fourth epoch in a
        row without a better validation cosine, as in the original report).
    warmup : float
        Share of all updates over which the rate rises from zero.
    patience : int
        Stop after this many epochs without a better validation cosine; 0 is never.
    precision : str
        "bf16-mixed", "32-true", or "auto": bf16 where the hardware computes it.
    device : str
        "auto" (CUDA, then MPS, then CPU), "cuda", "mps" or "cpu".
    """

    arm: str = "epochs"
    epochs: int = 8
    min_steps: int = 0
    batch_size: int = 32
    learning_rate: float = 5e-4
    schedule: str = "cosine"
    warmup: float = 0.05
    weight_decay: float = 0.01
    patience: int = 0
    precision: str = "auto"
    device: str = "auto"

    def __post_init__(self) -> None:
        """Refuse values that cannot train.

        Raises
        ------
        ValueError
            Naming the parameter, its value and what was expected.
        """
        _expect_one_of("arm", self.arm, ARMS)
        _expect_one_of("schedule", self.schedule, SCHEDULES)
        _expect_one_of("precision", self.precision, PRECISIONS)
        _expect_one_of("device", self.device, ("auto", "cuda", "mps", "cpu"))
        for name, least in (("epochs", 1), ("batch_size", 1), ("patience", 0)):
            if getattr(self, name) < least:
                raise ValueError(
                    f"{name} is {getattr(self, name)}, expected at least {least}."
                )
        if self.min_steps < (self.arm == "steps"):
            raise ValueError(f"min_steps is {self.min_steps}; arm 'steps' needs >= 1.")
        if not 0 < self.learning_rate <= 1 or self.weight_decay < 0:
            raise ValueError(
                f"learning_rate {self.learning_rate} must be in (0, 1] and "
                f"weight_decay {self.weight_decay} must not be negative."
            )
        if not 0 <= self.warmup < 1:
            raise ValueError(f"warmup is {self.warmup}, expected a share in [0, 1).")
        if self.schedule == "plateau" and self.warmup:
            raise ValueError("schedule 'plateau' has no warm-up: set warmup to 0.")


def _expect_one_of(name: str, value: str, valid: tuple[str, ...]) -> None:
    if value not in valid:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(valid)}.")


def total_steps(recipe: Recipe, windows: int) -> int:
    """Return the number of optimiser updates for a training set of `windows`."""
    if recipe.arm == "steps":
        return recipe.min_steps
    per_epoch = -(-windows // recipe.batch_size)
    return max(recipe.epochs * per_epoch, recipe.min_steps)


@dataclass(frozen=True)
class Settings:
    """Everything that decides the numbers of one run: the notebooks' parameters."""

    architecture: str
    dataset: str = ""
    size: int = 2000
    protocol: str = "controlled"
    seed: int = 0
    run_dir: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    options: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        """Refuse values no run can have; raises ParameterError."""
        if self.protocol not in PROTOCOLS:
            raise ParameterError(unknown_name("protocol", self.protocol, PROTOCOLS))
        if self.size < 1 or self.seed < 0:
            raise ParameterError(
                f"size {self.size} must be positive and seed {self.seed} not negative."
            )

    def parameters(self) -> dict[str, Any]:
        """Return the settings as flat notebook parameters."""
        own = {"dataset": self.dataset, "size": self.size, "protocol": self.protocol}
        own |= {"seed": self.seed, "run_dir": self.run_dir}
        return own | asdict(self.recipe) | self.options

    def arguments(self) -> list[str]:
        """Return papermill's arguments for these settings.

        All of them: a notebook's own defaults make a small run for reading along.
        """
        items = self.parameters().items()
        return [word for name, value in items for word in ("-p", name, str(value))]

    def recipe_hash(self, dataset_sha256: str) -> str:
        """Hash what decides the numbers: all but where the run is kept and computed."""
        decisive = {"architecture": self.architecture, "data": dataset_sha256}
        decisive |= self.parameters()
        for name in ("dataset", "run_dir", "device"):
            del decisive[name]
        text = json.dumps(decisive, sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:12]

    @property
    def folder(self) -> Path:
        """Where the run is kept: `run_dir`, else a place of its own under runs/."""
        if self.run_dir:
            return Path(self.run_dir)
        place = f"{self.architecture}/{self.size}/{self.recipe.arm}/seed{self.seed}"
        return runs_root() / "interactive" / place


def model_options(architecture: str) -> dict[str, Any]:
    """Return an architecture's own parameters with their defaults."""
    own = inspect.signature(model_class(architecture)).parameters
    return {n: p.default for n, p in own.items() if n not in ("dim", "context")}


def runs_root() -> Path:
    """Return $LVM_RUNS, else runs/ in the project (or the current) folder."""
    if os.environ.get("LVM_RUNS"):
        return Path(os.environ["LVM_RUNS"])
    return project_folder() / "runs"


def project_folder() -> Path:
    """Return the folder of this project, else (lvmlib is installed) the current one."""
    project = Path(__file__).parent.parent
    return project if (project / "parameters").is_dir() else Path.cwd()


def make_settings(architecture: str, parameters: dict[str, Any]) -> Settings:
    """Build Settings from flat notebook parameters.

    Raises
    ------
    ParameterError
        Naming an unknown parameter and the nearest valid one, or a wrong type.
    """
    names = {f.name for f in fields(Settings)} - {"architecture", "recipe", "options"}
    recipe_names = {f.name for f in fields(Recipe)}
    options = model_options(architecture)
    check_names(parameters, names | recipe_names | set(options))
    defaults = Settings(architecture, options=options).parameters()
    values = {
        name: _of_type_of(name, value, defaults[name])
        for name, value in parameters.items()
    }

    def chosen(among: Iterable[str]) -> dict[str, Any]:
        return {name: values[name] for name in among if name in values}

    try:
        recipe = Recipe(**chosen(recipe_names))
    except ValueError as error:
        raise ParameterError(str(error)) from None
    # Only options that differ from the model's own defaults enter the recipe hash.
    own = {k: v for k, v in chosen(options).items() if v != options[k]}
    return Settings(architecture, recipe=recipe, options=own, **chosen(names))


def check_names(given: Iterable[str], valid: Iterable[str]) -> None:
    """Raise ParameterError at the first of `given` that is not among `valid`."""
    valid = list(valid)
    for name in given:
        if name not in valid:
            raise ParameterError(unknown_name("parameter", name, sorted(valid)))


def _of_type_of(name: str, value: Any, default: Any) -> Any:
    expected = type(default)
    if expected is float and type(value) is int:
        return float(value)
    if type(value) is not expected:
        raise ParameterError(
            f"parameter {name!r} is {value!r} ({type(value).__name__}), expected "
            f"{expected.__name__} such as {default!r}."
        )
    return value


def read_parameters(namespace: dict[str, Any], valid: Iterable[str]) -> dict[str, Any]:
    """Collect a notebook's parameters and refuse unknown ones.

    The parameters cell and the cell that papermill injects after it both begin with
    the comment "# Parameters"; every name that the latest of them assign must be
    valid. papermill itself only warns.

    Parameters
    ----------
    namespace : dict
        The notebook's globals(), which hold the source of its cells in `In`.

    Raises
    ------
    ParameterError
        Naming the unknown parameter and the nearest valid one.
    """
    valid = list(valid)
    cells = [cell.lstrip() for cell in namespace.get("In", [])]
    marked = [n for n, cell in enumerate(cells) if cell.startswith("# Parameters")]
    if not marked:  # run without history, as nbval does: nothing was injected either
        return {name: namespace[name] for name in valid if name in namespace}
    group = marked[-1:]
    # The injected cell follows at once; a cell that was run again has annotations.
    while group and group[0] - 1 in marked and not _is_annotated(cells[group[0]]):
        group.insert(0, group[0] - 1)
    names = [
        target.id
        for n in group
        for node in ast.parse(cells[n]).body
        for target in getattr(node, "targets", [getattr(node, "target", None)])
        if isinstance(target, ast.Name)
    ]
    check_names(names, valid)
    return {name: namespace[name] for name in names}


def _is_annotated(cell: str) -> bool:
    return any(isinstance(node, ast.AnnAssign) for node in ast.parse(cell).body)


def notebook_settings(namespace: dict[str, Any], architecture: str) -> Settings:
    """Validate an architecture notebook's parameters: `read_parameters` + types."""
    valid = Settings(architecture, options=model_options(architecture)).parameters()
    return make_settings(architecture, read_parameters(namespace, valid))
