"""The architectures, one file each, found by name.

A file ``lvmlib/models/<name>.py`` is an architecture. It offers ``Model``, an
``nn.Module`` whose constructor takes ``dim``, ``context`` and its own options as
keywords, with

- ``sizes_of(state)``: the constructor options that a weight file's shapes tell;
- ``forward``: context (B, context, dim) to the raw prediction (B, dim);
- optionally ``fit(dataset, split)``, called once before training: what it leaves in
  parameters and buffers is kept. A model without trainable parameters is only fitted.

The prediction is ``raw / |raw|``; the models return `raw`, which the loss needs.
"""

from __future__ import annotations

import inspect
import pkgutil
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from typing import Any

import pandas as pd
import torch
from torch import nn
from torch.nn import functional

from lvmlib.names import unknown_name

ARCHITECTURES: tuple[str, ...] = tuple(
    sorted(module.name for module in pkgutil.iter_modules(__path__))
)


def model_class(name: str) -> type[nn.Module]:
    """Return the class of an architecture; `ValueError` for an unknown name."""
    if name not in ARCHITECTURES:
        raise unknown_name("architecture", name, ARCHITECTURES)
    return import_module(f"{__name__}.{name}").Model


def build_model(
    name: str, dim: int = 768, context: int = 5, **options: Any
) -> nn.Module:
    """Build an untrained model.

    Parameters
    ----------
    name : str
        One of `ARCHITECTURES`.
    dim : int
        Dimension of the vectors.
    context : int
        Number of context vectors.
    **options
        The architecture's own, such as ``mask`` for graphmert.

    Returns
    -------
    nn.Module
        Maps context (B, context, dim) to raw predictions (B, dim). Its attributes
        `architecture` and `options` say how to build it again.

    Raises
    ------
    ValueError
        For an unknown architecture or option, naming the nearest, and for sizes
        that do not fit.
    """
    cls = model_class(name)
    known = list(inspect.signature(cls).parameters)
    for option in options:
        if option not in known:
            raise unknown_name(f"option of {name}", option, known)
    for size, value in {"dim": dim, "context": context}.items():
        if not isinstance(value, int) or value < 1:
            raise ValueError(f"{size} must be a whole number above 0, got {value!r}.")
    model = cls(dim=dim, context=context, **options)
    model.architecture = name
    model.options = {"dim": dim, "context": context, **options}
    return model


def count_parameters(model: nn.Module) -> dict[str, int]:
    """Count a model's numbers: those trained, and those with its buffers.

    Returns
    -------
    dict
        ``trainable`` (or fitted) and ``with_buffers``. They differ for the transformer,
        whose position table is a buffer. A linear head start is counted beside them, as
        ``start``.
    """
    network = getattr(model, "network", model)
    every = sum(p.numel() for p in network.parameters())
    counts = {
        "trainable": getattr(network, "kept", every),
        "with_buffers": every + sum(b.numel() for b in network.buffers()),
    }
    start = getattr(model, "start", None)
    return counts if start is None else counts | {"start": start.kept}


def parts(model: nn.Module) -> pd.DataFrame:
    """Return the model's parts: part, kind, parameters."""
    rows = [
        (name, type(part).__name__, sum(p.numel() for p in part.parameters()))
        for name, part in model.named_children()
    ]
    own = model.named_parameters(recurse=False)
    rows += [(name, "Parameter", parameter.numel()) for name, parameter in own]
    return pd.DataFrame(rows, columns=["part", "kind", "parameters"])


@contextmanager
def evaluation_mode(model: nn.Module) -> Iterator[None]:
    """Switch dropout off within the block, then restore the model's mode."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def position_sensitivity(
    model: nn.Module, context: torch.Tensor, projections: int = 16, seed: int = 0
) -> torch.Tensor:
    """Tell how strongly the prediction moves with each context position.

    For the unit prediction u and context vector x_t this is the Frobenius norm of
    the Jacobian du/dx_t. Hutchinson's estimate of it: the mean of |J'v|² over
    random sign vectors v is |J|²_F, so each v costs one backward pass.

    Parameters
    ----------
    model : nn.Module
        Evaluated without dropout; its mode and gradients are left as they were.
    context : torch.Tensor
        (B, context, D), on the model's device.
    projections : int
        Number of sign vectors a window; the error falls with its square root.
    seed : int
        Seed of the sign vectors.

    Returns
    -------
    torch.Tensor
        (B, context), change of the unit prediction per unit change of a position.
    """
    generator = torch.Generator().manual_seed(seed)
    context = context.detach().clone().requires_grad_()  # (B, T, D)
    total = torch.zeros(context.shape[:2], device=context.device)  # (B, T)
    # cuDNN refuses the backward pass of a recurrent net in evaluation mode.
    without_cudnn = torch.backends.cudnn.flags(enabled=False)
    with evaluation_mode(model), torch.enable_grad(), without_cudnn:
        unit = functional.normalize(model(context), dim=-1)  # (B, D)
        for _ in range(projections):
            signs = torch.randint(0, 2, unit.shape, generator=generator) * 2.0 - 1
            along = (unit * signs.to(unit)).sum()
            (gradient,) = torch.autograd.grad(along, context, retain_graph=True)
            total += gradient.square().sum(-1)
    return (total / projections).sqrt()
