"""What an interrupted run goes on from, and its file."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor

from lvmlib.files import atomic_path


class TrainingError(RuntimeError):
    """Training could not go on; the message says why and what to do."""


@dataclass
class State:
    """What an interrupted run goes on from, beside weights and optimiser."""

    step: int = 0  # updates done
    batch: int = 0  # of them in the running epoch
    windows: int = 0  # in those
    seconds: float = 0.0  # spent on them
    # Over them, sums of loss, cosine and gradient norm, the norm's maximum, and the
    # update that had it. Each of several devices has its own, and their mean holds.
    totals: Tensor = field(default_factory=lambda: torch.zeros(5))
    history: list[dict[str, float]] = field(default_factory=list)  # finished epochs


def save_checkpoint(
    fabric: Fabric, path: Path, parts: dict[str, Any], identity: str, state: State
) -> None:
    """Write all that training goes on from; every process calls, the first writes."""
    fabric.all_reduce(state.totals)  # in place: the mean of all devices' on each
    if not fabric.is_global_zero:
        return
    content = {name: part.state_dict() for name, part in parts.items()}
    content |= {"identity": identity, "state": vars(state)}
    content["random"] = torch.get_rng_state()
    if torch.cuda.is_available():
        content["random_cuda"] = torch.cuda.get_rng_state()
    with atomic_path(path) as temporary:
        torch.save(content, temporary)


def read_checkpoint(path: Path, identity: str) -> dict[str, Any] | None:
    """Return a checkpoint's content, or None if there is none of this identity."""
    if not path.exists():
        return None
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
        return content if content["identity"] == identity else None
    except Exception as error:  # torch raises a dozen types for damaged files
        raise _damaged(path, error) from error


def resume(
    content: dict[str, Any], path: Path, parts: dict[str, Any], device: torch.device
) -> State:
    """Put everything where the checkpoint had it."""
    try:
        for name, part in parts.items():
            part.load_state_dict(content[name])
        content["state"].pop("best_cosine", None)  # of checkpoints before December 2026
        state = State(**content["state"])
        torch.set_rng_state(content["random"])
    except Exception as error:
        raise _damaged(path, error) from error
    if device.type == "cuda" and "random_cuda" in content:
        torch.cuda.set_rng_state(content["random_cuda"])
    return state


def _damaged(path: Path, error: Exception) -> TrainingError:
    return TrainingError(
        f"{path} cannot be read ({type(error).__name__}): delete it to start this run "
        "again from the beginning."
    )
