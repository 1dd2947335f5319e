"""What training minimises: squared error, cosine, or telling the next vector apart."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from lvmlib.vectors import FOLLOWING

if TYPE_CHECKING:
    from lvmlib.recipe import Recipe  # which imports what imports this module

TEMPERATURE = 0.05  # by which cosines, or products, are divided
NEIGHBOURS = 8  # windows of one document that it sees side by side


def batch_loss(
    model: nn.Module,
    batch: Tensor,
    recipe: Recipe,
    share: float,
    rows: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Return a batch's loss by the recipe, with predictions and truths.

    Parameters
    ----------
    batch : (B, context + 1, D)
        Context and target; if the loss asks for what follows the target, that, too.
    share : float
        By how many windows the sum over windows is divided.
    rows : (B, context + 1)
        The batch's row numbers, for the losses of ranks.

    Returns
    -------
    loss : scalar
    raw, target : (B, D)
    """
    reads = batch.shape[1] - (FOLLOWING if recipe.follows else 0) - 1
    context, target = batch[:, :reads], batch[:, reads]  # (B, context, D), (B, D)
    if recipe.every_position:
        every = model.at_every_position(context).float()  # (B, context, D)
        raw = every[:, -1]  # (B, D)
        outputs, targets = every.flatten(0, 1), batch[:, 1:].flatten(0, 1)
        share *= context.shape[1]
    else:
        raw = outputs = model(context).float()  # (B, D)
        targets = target
    if recipe.loss == "mse":
        per = 1 if recipe.scale else raw.shape[1]  # scaled: of unit variance
        loss = F.mse_loss(outputs, targets, reduction="sum") / (share * per)
    elif recipe.follows:
        there = rows[:, reads + 1 :] != rows[:, reads : reads + 1]  # (B, FOLLOWING)
        given = (raw, target, batch[:, reads + 1 :], there)
        others = rows[:, : reads + 1] if recipe.loss == "following_and_batch" else None
        loss = total_surprise(*given, others) / share
    else:
        loss = total_loss(recipe.loss, outputs, targets, rows) / share
    return loss, raw, target


def total_loss(kind: str, raw: Tensor, target: Tensor, rows: Tensor) -> Tensor:
    """Return the sum over windows of one of the losses.

    Parameters
    ----------
    kind : {"cosine", "ranking"}
        1 − cosine; or the cross-entropy of the true target among the targets of all
        given windows, by cosine over `TEMPERATURE` (InfoNCE, van den Oord et al. 2018).
    raw, target : (B, D)
    rows : (B, T + 1)
        The windows' row numbers. A target that lies in a window's own context is left
        out of its candidates: a prediction near its context must not pay for that.
    """
    if not len(raw):  # one of several devices may get none of a last batch
        return raw.sum()
    if kind == "cosine":
        return (1 - F.cosine_similarity(raw, target)).sum()
    similarity = F.normalize(raw) @ F.normalize(target).T / TEMPERATURE  # (B, B)
    own_context = (rows[:, None, :-1] == rows[None, :, -1:]).any(-1)  # (B, B)
    similarity = similarity.masked_fill(own_context, -torch.inf)
    truth = torch.arange(len(raw), device=raw.device)
    return F.cross_entropy(similarity, truth, reduction="sum")


def total_surprise(
    raw: Tensor,
    target: Tensor,
    later: Tensor,
    there: Tensor,
    rows: Tensor | None = None,
) -> Tensor:
    """Return the sum over windows of −log the probability that the target comes next.

    Of the target and the chunks after it, k is the next one with a probability
    ∝ exp(raw · k / TEMPERATURE): conditional logit (McFadden 1974), as in
    `Moments.ranking_weights`. Where nothing comes after it, it is certain: 0.

    Parameters
    ----------
    raw, target : (B, D)
    later : (B, K, D)
        Of `Dataset.following`.
    there : (B, K)
        Which of them are chunks, and not the target once more.
    rows : (B, T + 1), optional
        The windows' row numbers. With them the targets of the other windows are rivals,
        too, but for a window's own context.
    """
    logits = torch.einsum("bd,bkd->bk", raw, later).masked_fill(~there, -torch.inf)
    truth = (raw * target).sum(-1, keepdim=True)  # (B, 1)
    logits = torch.cat([truth, logits], dim=1)
    if rows is not None:
        own = (rows[:, None] == rows[None, :, -1:]).any(-1)  # (B, B), itself among them
        logits = torch.cat([logits, (raw @ target.T).masked_fill(own, -torch.inf)], 1)
    logits = logits / TEMPERATURE
    return (logits.logsumexp(1) - logits[:, 0]).sum()


def side_by_side(order: np.ndarray, documents: np.ndarray) -> np.ndarray:
    """Reorder windows so that up to `NEIGHBOURS` of one document follow each other.

    Batches of random windows hold hardly two of one document; those are the candidates
    that are hard to tell from the truth.

    Parameters
    ----------
    order : (W,)
        A random order of the windows.
    documents : (W,)
        The document of each window, by its number.
    """
    of = documents[order]
    grouped = np.argsort(of, kind="stable")  # in each document: still the random order
    starts = np.r_[0, np.flatnonzero(np.diff(of[grouped])) + 1]
    sizes = np.diff(np.r_[starts, len(order)])
    place = np.arange(len(order)) - np.repeat(starts, sizes)  # in its document
    first = grouped[np.arange(len(order)) - place % NEIGHBOURS]  # its group's first one
    return order[grouped[np.argsort(first, kind="stable")]]
