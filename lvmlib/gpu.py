"""Where training runs: device, precision, processes, and one GPU's recorded updates."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from lightning_fabric import Fabric
from lightning_fabric.plugins import MixedPrecision
from lightning_fabric.strategies import DDPStrategy
from torch import Tensor, nn

from lvmlib.inference import resolve_device
from lvmlib.recipe import Recipe
from lvmlib.vectors import Dataset


def resolve_precision(precision: str, device: torch.device) -> str:
    """Turn "auto" into bf16-mixed where the hardware multiplies bfloat16 natively."""
    if precision != "auto":
        return precision
    native = False
    if device.type == "cuda":
        native = torch.cuda.is_bf16_supported(including_emulation=False)
    elif device.type == "cpu":
        can = torch.cpu.get_capabilities()
        native = can.get("avx512_bf16", False) or can.get("amx_bf16", False)
    return "bf16-mixed" if native else "32-true"


def parameters_of(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    """Return all that an optimiser moves."""
    return [p for group in optimizer.param_groups for p in group["params"]]


class Autocast(MixedPrecision):
    """Mixed precision that leaves the model's input in float32.

    Fabric's own rounds it to bfloat16, which costs AMN an eighth of its time, and its
    average of the context most digits.
    """

    def convert_input(self, data: Any) -> Any:
        """Return the input as it is; autocast rounds what products need."""
        return data


def make_fabric(recipe: Recipe, devices: int = 1) -> Fabric:
    """Return the Fabric that trains a recipe: its device, precision and processes.

    For several devices, call its `launch()` in a script of its own before `train`:
    Fabric starts the script once more for every further device. Under torchrun or
    Slurm the processes are those that are there.
    """
    device = resolve_device(recipe.device)
    precision = resolve_precision(recipe.precision, device)
    mixed = precision == "bf16-mixed"
    # The threshold of graphmert's band mask never gets a gradient: without this
    # option, DDP would wait for it at the second update.
    strategy = DDPStrategy(find_unused_parameters=True) if devices > 1 else "auto"
    with warnings.catch_warnings():
        # On every machine with Slurm; but a run of one process needs no srun.
        warnings.filterwarnings("ignore", message="The `srun` command")
        return Fabric(
            accelerator=device.type,
            devices=devices,
            strategy=strategy,
            precision=None if mixed else precision,
            plugins=Autocast("bf16-mixed", device.type) if mixed else None,
        )


def make_gather(
    dataset: Dataset, device: torch.device, windows: np.ndarray
) -> Callable[[Tensor], Tensor]:
    """Return a function from row numbers to their float32 vectors, both on `device`.

    On a CPU it reads the memory map. Other devices get a copy of all vectors as they
    are stored, so that a batch is looked up and dequantised where it is used; and of
    the means, if there are any in `windows`.
    """
    if device.type == "cpu":
        return lambda rows: torch.from_numpy(dataset.gather(rows.numpy()))
    return resident_gather(dataset, device, windows)


def resident_gather(
    dataset: Dataset, device: torch.device, windows: np.ndarray
) -> Callable[[Tensor], Tensor]:
    """Copy all vectors to `device`; see `make_gather`."""
    vectors = torch.tensor(dataset.vectors, device=device)  # (N, D)
    scales = dataset.scales
    if scales is not None:
        scales = torch.tensor(scales, device=device)[:, None]  # (N, 1)

    def look_up(rows: Tensor) -> Tensor:
        found = vectors[rows].float()
        return found if scales is None else found.mul_(scales[rows])

    if windows.max() < dataset.n:
        return look_up
    means = torch.tensor(dataset.means, device=device)  # (N, D)

    def look_up_either(rows: Tensor) -> Tensor:
        averaged, chunks = (rows >= dataset.n)[..., None], rows % dataset.n
        return torch.where(averaged, means[chunks].float(), look_up(chunks))

    return look_up_either


class RecordedGradients:
    """`differentiate` on one GPU, its kernels launched as one graph.

    A GPU is done with so small a batch long before a CPU has launched the next one's
    some hundred kernels. After a few plain calls, which set up libraries and state, the
    launches are recorded once and replayed as one; the numbers are the same.
    """

    def __init__(self, differentiate: Callable[..., None], batch_size: int):
        self.differentiate, self.batch_size = differentiate, batch_size
        self.plain = 3  # calls still to do before the recording
        self.graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self,
        fabric: Fabric,
        model: nn.Module,
        optimizer: torch.optim.Optimizer,
        batch: Tensor,  # (B, context + 1, D)
        size: int,
        number: Tensor,
        totals: Tensor,
    ) -> None:
        """Leave gradients; the last batch of an epoch, if smaller, plainly."""
        if self.plain or size != self.batch_size:
            self.plain = max(0, self.plain - 1)
            self.differentiate(fabric, model, optimizer, batch, size, number, totals)
            return
        parameters = parameters_of(optimizer)
        if not self.graph:
            # What a graph reads and writes stays where it was when recorded.
            self.graph, self.batch = torch.cuda.CUDAGraph(), batch.clone()
            self.number = number.clone()
            given = (self.batch, size, self.number, totals)
            with torch.cuda.graph(self.graph):
                self.differentiate(fabric, model, optimizer, *given)
            self.gradients = [p.grad for p in parameters]
        self.batch.copy_(batch)
        self.number.copy_(number)
        self.graph.replay()
        for parameter, gradient in zip(parameters, self.gradients, strict=True):
            parameter.grad = gradient  # a plain call in between has left others
