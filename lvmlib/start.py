"""Two ways to begin better than at random: unit variance, and a linear head start."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import torch
from torch import nn

from lvmlib.losses import TEMPERATURE
from lvmlib.models import build_model
from lvmlib.names import unknown_name

if TYPE_CHECKING:
    from lvmlib.vectors import Dataset, Split

HEAD_STARTS = ("none", "frozen", "trained")


class Started(nn.Module):
    """``start(x) + network(s · x) / √D``, with s = √D if scaled, else 1.

    A unit vector's numbers have a variance of 1/D. Times √D they have that of which
    default rates and initial weights were made. With a head start the network's last
    layer begins at zero, so that training begins at the linear model's prediction.

    In a weight file the network's tensors keep the names they have without all this;
    the linear model's begin with "start.".

    Parameters
    ----------
    network : nn.Module
        Of `build_model`, untrained; its last linear layer makes its output.
    scale : bool
        Whether the network reads unit variance.
    head_start : {"none", "frozen", "trained"}
        Whether there is a linear model, and whether training moves it.
    kind : str
        Of the linear model: "ridge_to_weights", or "ranking_weights".
    """

    def __init__(
        self,
        network: nn.Module,
        scale: bool,
        head_start: str,
        kind: str = "ridge_to_weights",
    ):
        super().__init__()
        if head_start not in HEAD_STARTS:
            raise unknown_name("head_start", head_start, HEAD_STARTS)
        if not any(p.requires_grad for p in network.parameters()):
            raise ValueError(
                f"{network.architecture} is fitted, not trained: it has no scale and "
                "no head start."
            )
        self.network = network
        self.architecture, self.options = network.architecture, network.options
        self.scale, self.head_start = scale, head_start
        self.root = math.sqrt(self.options["dim"])
        self.factor = self.root if scale else 1.0  # of the vectors that it reads
        self.start = None
        if head_start != "none":
            sizes = {key: self.options[key] for key in ("dim", "context")}
            self.start = build_model("linear", kind=kind, **sizes)
            self.start.requires_grad_(head_start == "trained")
            last = [m for m in network.modules() if isinstance(m, nn.Linear)][-1]
            nn.init.zeros_(last.weight)
            nn.init.zeros_(last.bias)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        raw = self.network(context * self.factor) / self.root
        return raw if self.start is None else raw + self.start(context)

    def at_every_position(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to what follows each of its positions, (B, T, D)."""
        return self.network.at_every_position(context * self.factor) / self.root

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Fit the linear model; what the network gives at the start is taken off it."""
        if self.start is None:
            return
        self.start.fit(dataset, split)
        with torch.no_grad():
            if self.start.kind == "ranking_weights":  # as long as their loss asks
                self.start.weights *= TEMPERATURE * self.start.numbers["sharpness"]
            if getattr(self.network, "adds_average", False):
                share = 1 / len(self.start.weights)
                self.start.weights -= share if self.scale else share / self.root


def inside(model: nn.Module) -> tuple[nn.Module, float]:
    """Return the network itself, and what the vectors that it reads are multiplied by.

    For a model without scale and head start that is the model, and 1.
    """
    return (model.network, model.factor) if isinstance(model, Started) else (model, 1.0)
