"""Parameters of a run: what a notebook may be given, and what decides its numbers."""

from __future__ import annotations

import hashlib
import inspect
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, field, fields
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    ValidationError,
    create_model,
    model_validator,
)
from pydantic.dataclasses import dataclass

from lvmlib.files import runs_root
from lvmlib.models import model_class
from lvmlib.names import ParameterError, check_names, read_parameters, unknown_name
from lvmlib.records import GRADIENT_NORM_LIMIT
from lvmlib.start import HEAD_STARTS
from lvmlib.vectors import PROTOCOLS, Dataset, Split, make_split

ADDED = {"scale": False, "head_start": "none", "loss": "mse", "context": 5}
ADDED |= {"every_position": False, "averaging": 0.0, "clip": GRADIENT_NORM_LIMIT}
ADDED |= {"horizon": 1, "sources": "", "per_document": 0, "running_mean": False}
LOSSES = ("mse", "cosine", "ranking", "following", "following_and_batch")
STRICT = ConfigDict(strict=True, extra="forbid")


def _number(value: Any) -> Any:
    """Read "1e-3", which YAML takes for text; leave what is no number alone."""
    try:
        return float(value) if isinstance(value, str) else value
    except ValueError:
        return value


Share = Annotated[float, BeforeValidator(_number), Field(ge=0, lt=1)]
Rate = Annotated[float, BeforeValidator(_number), Field(gt=0, le=1)]
Decay = Annotated[float, BeforeValidator(_number), Field(ge=0, allow_inf_nan=False)]


@dataclass(frozen=True, config=STRICT)
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
    scale : bool
        Train on vectors of unit variance, see `lvmlib.start`.
    head_start : str
        "none", or begin at the best linear model for the loss: "frozen", or "trained"
        at a tenth of the rate.
    loss : str
        "mse" of raw outputs; "cosine", 1 − cosine; "ranking": tell the next vector
        from those of the batch's other windows; "following": from those that come
        after it in its document, which judges the epochs, too; "following_and_batch":
        from both, judged by the latter. See `lvmlib.losses`.
    every_position : bool
        Predict what follows each of the context's vectors, not the last one alone;
        for recurrent and causal networks, without a head start.
    averaging : float
        Decay of the moving average of the weights that is scored; 0 is none.
    clip : float
        Largest norm of an update's gradient; longer ones are scaled down to it.
    precision : str
        "bf16-mixed", "32-true", or "auto": bf16 where the hardware computes it.
    device : str
        "auto" (CUDA, then MPS, then CPU), "cuda", "mps" or "cpu".
    """

    arm: Literal["epochs", "steps"] = "epochs"
    epochs: PositiveInt = 8
    min_steps: NonNegativeInt = 0
    batch_size: PositiveInt = 32
    learning_rate: Rate = 5e-4
    schedule: Literal["cosine", "constant", "plateau"] = "cosine"
    warmup: Share = 0.05
    weight_decay: Decay = 0.01
    patience: NonNegativeInt = 0
    scale: bool = False
    head_start: Literal[HEAD_STARTS] = "none"
    loss: Literal[LOSSES] = "mse"
    every_position: bool = False
    averaging: Share = 0.0
    clip: Rate = GRADIENT_NORM_LIMIT
    precision: Literal["auto", "32-true", "bf16-mixed"] = "auto"
    device: Literal["auto", "cuda", "mps", "cpu"] = "auto"

    @model_validator(mode="after")
    def _fits_together(self) -> Recipe:
        if self.arm == "steps" and not self.min_steps:
            raise ValueError("arm 'steps' needs min_steps of at least 1.")
        if self.schedule == "plateau" and self.warmup:
            raise ValueError("schedule 'plateau' has no warm-up: set warmup to 0.")
        if self.every_position and self.head_start != "none":
            raise ValueError(
                "every_position has no head start: the linear model reads the whole "
                "context."
            )
        if self.every_position and self.loss not in ("mse", "cosine"):
            raise ValueError(f"loss {self.loss!r} is that of the last position alone.")
        return self

    @property
    def follows(self) -> bool:
        """Whether the loss asks for what comes after the target in its document."""
        return self.loss.startswith("following")

    @property
    def judge(self) -> str:
        """The column of a history that the best epoch has most of."""
        return "validation_likelihood" if self.follows else "validation_cosine"

    @property
    def start(self) -> str:
        """The kind of linear model that a head start begins at: the strongest."""
        return "ranking_weights" if self.follows else "ridge_to_weights"


@dataclass(frozen=True, config=STRICT)
class Settings:
    """Everything that decides the numbers of one run: the notebooks' parameters."""

    architecture: str
    dataset: str = ""
    size: PositiveInt = 2000
    protocol: Literal[tuple(PROTOCOLS)] = "controlled"
    seed: Annotated[int, Field(ge=0, lt=2**63)] = 0  # torch's generators take no more
    context: PositiveInt = 5
    horizon: PositiveInt = 1
    sources: str = ""
    per_document: NonNegativeInt = 0
    running_mean: bool = False
    run_dir: str = ""
    recipe: Recipe = field(default_factory=Recipe)
    options: dict[str, Any] = field(default_factory=dict)

    @model_validator(mode="after")
    def _fits_together(self) -> Settings:
        if self.recipe.every_position and self.running_mean:
            raise ValueError(
                "every_position has no running_mean: the mean, which is read first, "
                "holds the vectors that earlier positions are to predict."
            )
        return self

    def split(self, dataset: Dataset) -> Split:
        """Cut the windows that the settings name, see `make_split`."""
        return make_split(dataset, self.protocol, **self._of_split())

    def _of_split(self) -> dict[str, Any]:
        names = ("size", "seed", "context", "horizon", "sources", "per_document")
        return {name: getattr(self, name) for name in (*names, "running_mean")}

    @property
    def reads(self) -> int:
        """How many vectors a model of these settings reads: its own `context`."""
        return self.context + self.running_mean

    def parameters(self) -> dict[str, Any]:
        """Return the settings as flat notebook parameters."""
        own = {"dataset": self.dataset, "protocol": self.protocol}
        own |= self._of_split() | {"run_dir": self.run_dir}
        return own | asdict(self.recipe) | self.options

    def arguments(self) -> list[str]:
        """Return papermill's arguments for these settings.

        All of them: a notebook's own defaults make a small run for reading along.
        """
        items = self.parameters().items()
        return [word for name, value in items for word in ("-p", name, str(value))]

    def recipe_hash(self, dataset_sha256: str) -> str:
        """Hash what decides the numbers: all but where the run is kept and computed.

        What recipes have had since `ADDED` counts only where it is not as before, so
        that the runs made without it keep their hash.
        """
        decisive = {"architecture": self.architecture, "data": dataset_sha256}
        decisive |= self.parameters()
        for name in ("dataset", "run_dir", "device"):
            del decisive[name]
        for name, before in ADDED.items():
            if decisive[name] == before:
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


def total_steps(recipe: Recipe, windows: int) -> int:
    """Return the number of optimiser updates for a training set of `windows`."""
    if recipe.arm == "steps":
        return recipe.min_steps
    per_epoch = -(-windows // recipe.batch_size)
    return max(recipe.epochs * per_epoch, recipe.min_steps)


def model_options(architecture: str) -> dict[str, Any]:
    """Return an architecture's own parameters with their defaults."""
    own = inspect.signature(model_class(architecture)).parameters
    return {n: p.default for n, p in own.items() if n not in ("dim", "context")}


def make_settings(architecture: str, parameters: dict[str, Any]) -> Settings:
    """Build Settings from flat notebook parameters.

    Raises
    ------
    ParameterError
        Naming an unknown parameter and the nearest valid one, or one with a value that
        it cannot have.
    """
    own = {f.name for f in fields(Settings)} - {"architecture", "recipe", "options"}
    of_recipe = {f.name for f in fields(Recipe)}
    options = model_options(architecture)
    check_names(parameters, own | of_recipe | set(options))
    every = hasattr(model_class(architecture), "at_every_position")
    if parameters.get("every_position") and not every:
        raise ParameterError(
            f"every_position: {architecture} predicts after its whole context only."
        )

    def chosen(names: Iterable[str]) -> dict[str, Any]:
        return {name: parameters[name] for name in names if name in parameters}

    types = {  # counts and widths are at least one
        name: (PositiveInt if type(default) is int else type(default), default)
        for name, default in options.items()
    }
    try:
        checked = create_model("Options", __config__=STRICT, **types)(**chosen(options))
        recipe = Recipe(**chosen(of_recipe))
        # Only options that differ from the model's own defaults enter the recipe hash.
        differing = {k: v for k, v in checked if v != options[k]}
        return Settings(architecture, recipe=recipe, options=differing, **chosen(own))
    except ValidationError as error:
        raise ParameterError(first_error(error)) from None


def first_error(error: ValidationError) -> str:
    """Say what the first of pydantic's errors found, and what was expected."""
    found = error.errors()[0]
    if not found["loc"]:
        return str(found["ctx"]["error"])
    place = ".".join(map(str, found["loc"]))
    if found["type"] == "missing":
        return f"parameter {place!r} is missing."
    if found["type"] == "literal_error" and isinstance(found["input"], str):
        valid = re.findall(r"'([^']*)'", found["ctx"]["expected"])
        return str(unknown_name(place, found["input"], valid))
    value = f"{found['input']!r} ({type(found['input']).__name__})"
    return (
        f"parameter {place!r} is {value}: {found['msg'][0].lower()}{found['msg'][1:]}."
    )


def notebook_settings(namespace: dict[str, Any], architecture: str) -> Settings:
    """Validate an architecture notebook's parameters: `read_parameters` + values."""
    valid = Settings(architecture, options=model_options(architecture)).parameters()
    return make_settings(architecture, read_parameters(namespace, valid))
