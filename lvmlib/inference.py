"""Predictions of a trained model: the call that a user of one makes."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import nn
from torch.nn import functional

from lvmlib.models import evaluation_mode
from lvmlib.names import unknown_name
from lvmlib.vectors import NORM_TOLERANCE, Dataset

BLOCK = 1024  # windows at a time, so that memory does not grow with the input


def resolve_device(device: str = "auto") -> torch.device:
    """Return the device to compute on; ``auto`` is CUDA, then MPS, then CPU.

    Raises
    ------
    ValueError
        For a name other than auto, cpu, cuda and mps, or a device that this machine
        lacks.
    """
    there = {"cuda": torch.cuda.is_available(), "cpu": True}
    there["mps"] = torch.backends.mps.is_available()
    if device == "auto":
        device = next(name for name in ("cuda", "mps", "cpu") if there[name])
    if device not in there:
        raise unknown_name("device", device, ["auto", *there])
    if not there[device]:
        raise ValueError(f"Device {device!r} is not available here: choose auto.")
    return torch.device(device)


def predict(
    model: nn.Module, context: ArrayLike | torch.Tensor, device: str = "auto"
) -> np.ndarray:
    """Predict the next vector, without dropout.

    Parameters
    ----------
    model : nn.Module
        From `load_weights` or `build_model`. Its mode and its place are restored.
    context : array or tensor
        (T, D) or (B, T, D), in reading order; T is 5 for the usual models.
    device : str
        Where to compute, see `resolve_device`.

    Returns
    -------
    np.ndarray
        (D,) or (B, D), float32, unit vectors.

    Raises
    ------
    ValueError
        For a context of another shape, with NaN or infinite numbers, with a zero
        vector (which cannot mean anything), or of another dimension than the model's;
        for an absent device.

    Notes
    -----
    Models are trained on unit vectors: vectors of another length are divided by it.
    """
    if not isinstance(context, torch.Tensor):
        context = torch.from_numpy(np.array(context, np.float32))
    if context.ndim not in (2, 3) or context.shape[-2] == 0:
        raise ValueError(
            f"context has shape {tuple(context.shape)}; expected (T, D), or (B, T, D) "
            "for a batch."
        )
    if not torch.isfinite(context).all():
        raise ValueError("context holds NaN or infinite numbers; check its vectors.")
    dim = model.options["dim"]
    if context.shape[-1] != dim:
        raise ValueError(
            f"context has vectors of dimension {context.shape[-1]}, but this "
            f"{model.architecture} was trained on {dim}."
        )
    norm = context.double().norm(dim=-1, keepdim=True)
    if not norm.all():
        raise ValueError(
            "context holds a zero vector, which no text has; leave it out."
        )
    unit = (context / norm).float()
    context = torch.where((norm - 1).abs() <= NORM_TOLERANCE, context.float(), unit)
    windows = context if context.ndim == 3 else context[None]
    place, target = next(model.parameters()).device, resolve_device(device)
    with evaluation_mode(model), torch.inference_mode():
        try:
            model.to(target)
            raw = torch.cat([model(block.to(target)) for block in windows.split(BLOCK)])
        finally:
            model.to(place)
    found = functional.normalize(raw.float(), dim=-1).cpu().numpy()
    return found if context.ndim == 3 else found[0]


def with_mean(vectors: ArrayLike, context: int = 5) -> np.ndarray:
    """Return what a model with a running mean reads after a document's (n, D) so far.

    Their mean, of unit length, and the last `context` of them: (context + 1, D).
    """
    vectors = np.asarray(vectors, np.float32)
    if vectors.ndim != 2 or len(vectors) < context:
        raise ValueError(
            f"vectors have shape {vectors.shape}, expected (n, D) with n of at least "
            f"{context}: all of the document's so far."
        )
    mean = vectors.mean(axis=0)
    return np.vstack([mean / np.linalg.norm(mean), vectors[-context:]])


def predict_windows(
    model: nn.Module, dataset: Dataset, windows: np.ndarray, block: int = 512
) -> np.ndarray:
    """Return the raw outputs (W, D) for windows (W, context + 1), in float32."""
    device = next(model.parameters()).device
    raw = np.empty((len(windows), dataset.dim), np.float32)
    with evaluation_mode(model), torch.inference_mode():
        for start in range(0, len(windows), block):
            context = dataset.gather(windows[start : start + block, :-1])
            outputs = model(torch.from_numpy(context).to(device)).float()
            raw[start : start + block] = outputs.cpu().numpy()
    return raw
