"""The training loop: one page over Lightning Fabric, resumable at any moment.

What shares randomness: seed k decides the training subset (`vectors.make_split`), the
initialisation and the dropout masks (torch's global generator, seeded with k before
the model is built) and the order of the windows (a generator of its own per epoch, so
that all architectures see the same batches).

On several devices (`make_fabric`) each takes its share of every batch, and the weights
follow the path of one device; only the dropout masks are others, and, of losses that
take rivals from the batch, the rivals: each device has those of its share.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from contextlib import closing, nullcontext
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from lightning_fabric import Fabric
from torch import Tensor, nn
from torch.optim.lr_scheduler import LambdaLR, ReduceLROnPlateau
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from lvmlib.checkpoints import (
    State,
    TrainingError,
    read_checkpoint,
    resume,
    save_checkpoint,
)
from lvmlib.evaluation import validation_sums
from lvmlib.files import atomic_path
from lvmlib.gpu import RecordedGradients, make_fabric, make_gather, parameters_of
from lvmlib.losses import batch_loss, side_by_side
from lvmlib.progress import Progress
from lvmlib.recipe import Recipe, total_steps
from lvmlib.start import Started, inside
from lvmlib.vectors import Dataset, Split
from lvmlib.weights import load_weights, save_weights

START_RATE = 0.1  # of a trained head start, as a share of the network's rate
STEPS_TO_AGREE = 64  # how often several devices ask the first one's clock


def train(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    seed: int,
    folder: str | Path,
    identity: str = "",
    checkpoint_seconds: float = 120.0,
    fabric: Fabric | None = None,
    after_epoch: Callable[[dict[str, float]], None] | None = None,
) -> pd.DataFrame:
    """Train a model in place and leave it with its best weights on validation.

    The best weights, by `recipe.judge`, go to `folder`/model.safetensors, the history
    to history.csv. At most every `checkpoint_seconds` a checkpoint is written; called
    again with the same arguments, training goes on from it to the same numbers as an
    uninterrupted run. A model with `fit` is fitted first; one without trainable
    parameters only that. A checkpoint of another `identity` (a hash of recipe and
    dataset) is ignored. The last one is left, for what may still fail after training,
    to the caller.

    Parameters
    ----------
    fabric : Fabric
        For several devices: `make_fabric(recipe, devices)`, launched. Every process
        calls `train` with the same arguments and gets the same weights and history;
        the first one writes the files, in a folder that all of them can read.
    after_epoch : callable
        Is given each epoch's row once it is kept; what it raises ends training.

    Returns
    -------
    history : DataFrame
        A row an epoch: epoch, step, learning_rate, train_loss, train_cosine,
        validation_loss, validation_cosine, gradient_norm, gradient_norm_max,
        gradient_norm_max_step (the update that had it), seconds, windows.
        If `recipe.follows`, validation_likelihood too: the mean log likelihood.
        The training loss is the recipe's, the validation loss the mean squared error
        per dimension of raw outputs. Training figures are means over the epoch with
        dropout on, of the weights as they move; validation may score their average.

    Raises
    ------
    TrainingError
        If training diverged before a first epoch was finished.
    """
    folder = Path(folder)
    checkpoint = folder / "checkpoint.pt"
    begun = read_checkpoint(checkpoint, identity)
    started = time.monotonic()
    if begun is None and hasattr(model, "fit"):
        model.fit(dataset, split)
    if not any(parameter.requires_grad for parameter in model.parameters()):
        writes = fabric is None or fabric.is_global_zero
        return _keep_fitted(model, dataset, split, folder if writes else None, started)
    fabric = fabric or make_fabric(recipe)
    device = fabric.device
    gather = make_gather(dataset, device, split.train)
    wrapped, optimizer = fabric.setup(model, _make_optimizer(model, recipe, device))
    if recipe.every_position:
        wrapped.mark_forward_method("at_every_position")
    total = total_steps(recipe, len(split.train))
    scheduler = _make_scheduler(recipe, optimizer, total)
    parts = {"model": model, "optimizer": optimizer, "scheduler": scheduler}
    if recipe.averaging:
        average = get_ema_multi_avg_fn(recipe.averaging)
        parts["averaged"] = AveragedModel(model, multi_avg_fn=average)
    state = resume(begun, checkpoint, parts, device) if begun else State()
    state.totals = state.totals.to(device)
    rows_of = split.train
    if recipe.follows:
        rows_of = np.hstack([rows_of, dataset.following(rows_of)])
    numbered = recipe.loss not in ("mse", "cosine")  # it asks which rows they are
    gradients = partial(differentiate, recipe=recipe)
    if device.type == "cuda" and fabric.world_size == 1 and not numbered:
        gradients = RecordedGradients(gradients, recipe.batch_size)
    saved = time.monotonic()
    shown = Progress(folder, total) if fabric.is_global_zero else None
    with closing(shown) if shown else nullcontext():
        while not _is_over(state, recipe, total):
            windows = _shuffled(dataset, rows_of, recipe, seed, len(state.history))
            batches = windows.to(device).split(recipe.batch_size)
            started = time.monotonic()
            model.train()
            for batch in batches[state.batch :][: total - state.step]:
                _seed_dropout(fabric, seed, state.step)
                rows = batch[fabric.global_rank :: fabric.world_size]
                number = torch.full((), state.step + 1.0, device=device)
                given = (gather(rows), len(batch), number, state.totals)
                named = {"rows": rows} if numbered else {}
                gradients(fabric, wrapped, optimizer, *given, **named)
                optimizer.step()
                if recipe.averaging:
                    parts["averaged"].update_parameters(model)
                state.step, state.batch = state.step + 1, state.batch + 1
                state.windows += len(batch)
                if isinstance(scheduler, LambdaLR):
                    scheduler.step()
                if shown:
                    shown.update(state.step)
                if _checkpoint_is_due(fabric, state, saved + checkpoint_seconds):
                    state.seconds += time.monotonic() - started
                    save_checkpoint(fabric, checkpoint, parts, identity, state)
                    started = saved = time.monotonic()
            totals = fabric.all_reduce(state.totals).tolist()  # waits for the device
            state.seconds += time.monotonic() - started
            _finish_epoch(fabric, parts, dataset, split, recipe, state, totals, folder)
            if shown:
                shown.describe(state.history[-1])
            if after_epoch:
                after_epoch(state.history[-1])
    fabric.barrier()  # the first process has written the best weights
    _load_best(model, recipe, state, folder)
    return pd.DataFrame(state.history)


def _shuffled(
    dataset: Dataset, windows: np.ndarray, recipe: Recipe, seed: int, epoch: int
) -> Tensor:
    """Return the windows in an epoch's order."""
    order = np.random.default_rng([seed, 2, epoch]).permutation(len(windows))
    if recipe.loss == "ranking":
        order = side_by_side(order, dataset.document_of(windows[:, -1]))
    return torch.from_numpy(windows[order])


def _keep_fitted(
    model: nn.Module,
    dataset: Dataset,
    split: Split,
    folder: Path | None,
    started: float,
) -> pd.DataFrame:
    """Save a model that nothing is left to train of; its history has one row.

    Of several processes one has the folder, the others None.
    """
    row = {"epoch": 1, "step": 0, "learning_rate": 0.0}
    for part, windows in (("train", split.train), ("validation", split.validation)):
        loss, cosine = validation_sums(model, dataset, windows) / len(windows)
        row |= {f"{part}_loss": float(loss), f"{part}_cosine": float(cosine)}
    row |= dict.fromkeys(["gradient_norm", "gradient_norm_max"], 0.0)
    row |= {"gradient_norm_max_step": 0, "windows": len(split.train)}
    history = pd.DataFrame([row | {"seconds": time.monotonic() - started}])
    if folder:
        save_weights(model, folder / "model.safetensors")
        with atomic_path(folder / "history.csv") as temporary:
            history.to_csv(temporary, index=False)
    return history


def _make_optimizer(
    model: nn.Module, recipe: Recipe, device: torch.device
) -> torch.optim.Optimizer:
    groups = [{"params": list(inside(model)[0].parameters())}]
    if isinstance(model, Started) and model.head_start == "trained":
        rate = START_RATE * recipe.learning_rate  # decay would pull it to zero
        moved = list(model.start.parameters())
        groups.append({"params": moved, "lr": rate, "weight_decay": 0.0})
    return torch.optim.AdamW(
        groups,
        lr=recipe.learning_rate,
        weight_decay=recipe.weight_decay,
        fused=device.type in ("cpu", "cuda"),  # 3 to 5 times faster on a CPU
    )


def _make_scheduler(
    recipe: Recipe, optimizer: torch.optim.Optimizer, total: int
) -> LambdaLR | ReduceLROnPlateau:
    if recipe.schedule == "plateau":
        return ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    warmup = round(recipe.warmup * total)

    def share_of_peak(step: int) -> float:
        if step < warmup:
            return (step + 1) / (warmup + 1)
        if recipe.schedule == "constant":
            return 1.0
        return 0.5 * (1 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))

    return LambdaLR(optimizer, share_of_peak)


def _seed_dropout(fabric: Fabric, seed: int, step: int) -> None:
    """Give each of several devices its own masks; the step alone tells them."""
    if fabric.world_size > 1:  # so that a checkpoint need not hold all their states
        words = np.random.SeedSequence([seed, 3, step, fabric.global_rank])
        torch.manual_seed(int(words.generate_state(1)[0]))


def differentiate(
    fabric: Fabric,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    batch: Tensor,
    size: int,
    number: Tensor,  # of the update, from one; on the device, as all that follows
    totals: Tensor,  # of the epoch, see State
    recipe: Recipe,
    rows: Tensor | None = None,  # the batch's, for the losses of ranks
) -> None:
    """Leave clipped gradients, and what the epoch's row needs in its totals."""
    # DDP takes the mean of the devices' gradients. Each device divides by an equal
    # share of all windows, not by its own number (which may be 0), so that the mean is
    # the gradient of one device with the whole batch.
    share = size / fabric.world_size
    loss, raw, target = batch_loss(model, batch, recipe, share, rows)
    optimizer.zero_grad()
    fabric.backward(loss)
    norm = clip_gradients(parameters_of(optimizer), recipe.clip)
    with torch.no_grad():  # kept on the device: reading a number would wait for it
        cosine = F.cosine_similarity(raw, target).sum() * fabric.world_size
        totals[:3] += torch.stack([loss * size, cosine, norm])
        steepest = torch.stack([norm, number.to(norm.dtype)])
        largest = totals[3]
        higher = ~(norm <= largest) & ~largest.isnan()  # the first NaN stays
        totals[3:] = torch.where(higher, steepest, totals[3:])


def clip_gradients(parameters: list[nn.Parameter], limit: float) -> Tensor:
    """Scale gradients down to the largest norm and return the norm they had.

    `nn.utils.clip_grad_norm_` multiplies by one where nothing is to be clipped, so as
    not to wait for a device; a CPU, which never waits, saves a pass over all gradients.
    """
    gradients = [p.grad for p in parameters if p.grad is not None]
    norm = nn.utils.get_total_norm(gradients)
    if norm.device.type != "cpu" or not norm + 1e-6 <= limit:
        nn.utils.clip_grads_with_norm_(parameters, limit, norm)
    return norm


def _finish_epoch(
    fabric: Fabric,
    parts: dict[str, Any],
    dataset: Dataset,
    split: Split,
    recipe: Recipe,
    state: State,
    totals: list[float],
    folder: Path,
) -> None:
    loss, cosine, norm, norm_max, norm_max_step = totals
    model, scheduler = parts["model"], parts["scheduler"]
    if "averaged" in parts:
        model = parts["averaged"].module
    row = {
        "epoch": len(state.history) + 1,
        "step": state.step,
        "learning_rate": parts["optimizer"].param_groups[0]["lr"],
        "train_loss": loss / state.windows,
        "train_cosine": cosine / state.windows,
        "gradient_norm": norm / state.batch,
        "gradient_norm_max": norm_max,
        "gradient_norm_max_step": round(norm_max_step),
        "seconds": state.seconds,
        "windows": state.windows,
    }
    row |= _validate(fabric, model, dataset, split.validation, recipe)
    row = fabric.broadcast(row)  # from here on, all processes must decide alike
    if isinstance(scheduler, ReduceLROnPlateau):
        # The reported schedule watched the loss of normalised predictions.
        scheduler.step(2 - 2 * row["validation_cosine"])
    before = [row[recipe.judge] for row in state.history]
    state.history.append(row)
    state.batch, state.windows, state.seconds = 0, 0, 0.0
    state.totals.zero_()
    if fabric.is_global_zero:
        if row[recipe.judge] > max(before, default=-math.inf):
            save_weights(model, folder / "model.safetensors")
        with atomic_path(folder / "history.csv") as temporary:
            pd.DataFrame(state.history).to_csv(temporary, index=False)


def _validate(
    fabric: Fabric,
    model: nn.Module,
    dataset: Dataset,
    windows: np.ndarray,
    recipe: Recipe,
) -> dict[str, float]:
    """Return validation figures; each device computes its share of the windows."""
    share = slice(fabric.global_rank, None, fabric.world_size)
    later = dataset.following(windows)[share] if recipe.follows else None
    sums = validation_sums(model, dataset, windows[share], later)
    if fabric.world_size > 1:
        sums = fabric.all_reduce(sums.to(fabric.device), reduce_op="sum")
    means = (sums / len(windows)).tolist()
    names = ("validation_loss", "validation_cosine", "validation_likelihood")
    return dict(zip(names, means, strict=False))


def _is_over(state: State, recipe: Recipe, total: int) -> bool:
    """Say whether training is done, diverged, or stopped getting better."""
    # The last epoch's updates may be done while its validation is not: batch tells.
    if state.step >= total and not state.batch:
        return True
    if not state.history:
        return False
    scores = [row[recipe.judge] for row in state.history]
    if not math.isfinite(scores[-1] + state.history[-1]["train_loss"]):
        return True
    since_best = len(scores) - 1 - int(np.nanargmax(scores))
    return bool(recipe.patience) and since_best >= recipe.patience


def _checkpoint_is_due(fabric: Fabric, state: State, when: float) -> bool:
    """Ask the clock; several devices now and then ask the first one's."""
    if fabric.world_size > 1 and state.step % STEPS_TO_AGREE:
        return False
    return fabric.broadcast(time.monotonic() >= when)


def _load_best(model: nn.Module, recipe: Recipe, state: State, folder: Path) -> None:
    if not any(math.isfinite(row[recipe.judge]) for row in state.history):
        raise TrainingError(
            f"training diverged in its first epoch (step {state.step}): lower "
            "learning_rate, or raise warmup."
        )
    best = load_weights(folder / "model.safetensors")
    model.load_state_dict(best.state_dict())
