"""The linear family, from the last vector to ridge, solved and not trained."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache, partial

import numpy as np
import torch
from torch import nn

from lvmlib.evaluation import BASELINE_KINDS, fitted_baselines, mean_cosine
from lvmlib.moments import Moments
from lvmlib.names import unknown_name
from lvmlib.vectors import Dataset, Split

RIDGES = ("ridge", "ridge_to_weights")
KINDS = ("last_vector", "context_average", "weights", "weights_and_mean")
KINDS += ("ranking_weights", *RIDGES, "low_rank", "mean_vector")
# What is fitted, of the two tensors that every kind has.
WITH_WEIGHTS = ("weights", "weights_and_mean", "ridge_to_weights", "low_rank")
WITH_WEIGHTS += ("ranking_weights",)
WITH_CONSTANT = (*RIDGES, "weights_and_mean", "low_rank", "mean_vector")
STEP, LIMIT = 0.5, 3.0  # the search for λ, in powers of ten of its unit


def climb(score: Callable[[float], float]) -> float:
    """Return the exponent of the best score: from 0 up, else down, while it rises."""
    best, found = 0.0, score(0.0)
    for step in (STEP, -STEP):
        while abs(best + step) <= LIMIT and (ahead := score(best + step)) > found:
            best, found = best + step, ahead
        if best:
            break
    return best


class Linear(nn.Module):
    """A weighted sum of the context vectors, a constant and, for ridge, a full matrix.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    context : int
        Number of context vectors.
    kind : str
        "last_vector", "context_average"; "weights" (one a position, least squares);
        "weights_and_mean" (and one of the mean target); "ridge" (a matrix a position,
        shrunk to zero); "ridge_to_weights" (shrunk to the weights, times the identity);
        "low_rank" (what it adds to the weights, by `rank` directions of the target that
        it moves most: reduced-rank regression); "ranking_weights" (one a position, to
        tell the target from what follows it, not to be near it); "mean_vector" (of
        training targets).
    rank : int
        Of "low_rank"; at most `dim`.

    Notes
    -----
    λ is chosen by validation cosine: its exponent goes in halves from 0 to the best;
    −3 or 3 means that the search ended there. Validation serves nothing else. What
    generalised cross-validation would choose is noted beside it, as `gcv_exponent`.
    """

    def __init__(
        self,
        dim: int = 768,
        context: int = 5,
        kind: str = "ridge_to_weights",
        rank: int = 256,
    ):
        super().__init__()
        if kind not in KINDS:
            raise unknown_name("kind of linear", kind, KINDS)
        self.kind = kind
        self.numbers: dict[str, float] = {}  # what was fitted, by name

        def fixed(*shape: int) -> nn.Parameter:
            return nn.Parameter(torch.zeros(*shape), requires_grad=False)

        self.weights, self.constant = fixed(context), fixed(dim)
        with torch.no_grad():  # these two are fitted to nothing
            if kind == "last_vector":
                self.weights[-1] = 1.0
            elif kind == "context_average":
                self.weights.fill_(1 / context)
        if kind in RIDGES:
            self.matrix = fixed(context * dim, dim)
        if kind == "low_rank":
            rank = min(rank, dim)
            self.down, self.up = fixed(context * dim, rank), fixed(rank, dim)

    @property
    def kept(self) -> int:
        """How many numbers this kind has to keep, of those that it could."""
        fitted = {"weights": WITH_WEIGHTS, "constant": WITH_CONSTANT}
        named = self.named_parameters()
        return sum(p.numel() for n, p in named if self.kind in fitted.get(n, KINDS))

    @staticmethod
    def sizes_of(state: dict[str, torch.Tensor]) -> dict[str, int | str]:
        """Return the sizes that a weight file's shapes tell."""
        sizes = {"dim": len(state["constant"]), "context": len(state["weights"])}
        if "down" in state:
            return sizes | {"kind": "low_rank", "rank": len(state["up"])}
        return sizes | {"kind": "ridge" if "matrix" in state else "weights"}

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        if context.shape[1] != len(self.weights):
            raise ValueError(
                f"this model reads {len(self.weights)} vectors, found "
                f"{context.shape[1]}: give it the last {len(self.weights)}, or what "
                "`lvmlib.with_mean` makes of all, if it reads their mean."
            )
        raw = self.constant + torch.einsum("btd,t->bd", context, self.weights)
        if self.kind in RIDGES:
            raw = raw + context.flatten(1) @ self.matrix
        if self.kind == "low_rank":
            raw = raw + context.flatten(1) @ self.down @ self.up
        return raw

    def fit(self, dataset: Dataset, split: Split) -> None:
        """Fit to the training windows (and λ to the validation windows).

        The baselines of every run are fitted once for a split, and kept in the folder
        of runs: a model of their kind is read from there. Raises ValueError where
        `Moments.ranking_weights` does.
        """
        names = {kind: name for name, kind in BASELINE_KINDS.items()}
        if self.kind in names:
            baseline = fitted_baselines(dataset, split)[names[self.kind]]
            self.load_state_dict(baseline.state_dict())
            self.numbers = baseline.numbers
        else:
            self.fit_moments(Moments(dataset, split.train), split.validation)

    @torch.no_grad()  # one that a head start trains has gradients
    def fit_moments(self, moments: Moments, validation: np.ndarray) -> None:
        """Fit to windows that others of the family are fitted to as well."""
        c, means = len(self.weights), moments.means
        if self.kind in RIDGES:
            self._fit_ridge(moments, validation)
        elif self.kind == "low_rank":
            self._fit_low_rank(moments, validation)
        elif self.kind == "weights":
            self._set(moments.weights())
        elif self.kind == "weights_and_mean":
            *weights, share = moments.weights_and_mean()
            self._set(np.array(weights), share * means[-1])
            self.numbers["mean_coefficient"] = float(share)
        elif self.kind == "ranking_weights":
            weights = moments.ranking_weights()
            sharpness = float(np.linalg.norm(weights))  # a cosine does not see it
            self._set(weights / max(sharpness, 1e-12))
            self.numbers["sharpness"] = sharpness
        elif self.kind == "mean_vector":
            self._set(np.zeros(c), means[-1])

    def _set(self, weights: np.ndarray, constant: np.ndarray | float = 0.0) -> None:
        self.weights.copy_(torch.as_tensor(weights))
        self.constant.copy_(torch.as_tensor(constant))
        if self.kind in WITH_WEIGHTS:
            names = (f"weight_{n}" for n in range(1, len(weights) + 1))
            self.numbers = dict(zip(names, map(float, weights), strict=True))

    def _fit_ridge(self, moments: Moments, validation: np.ndarray) -> None:
        means = moments.means
        start = np.zeros(len(self.weights))
        if self.kind == "ridge_to_weights":
            start = moments.centred_weights()
        solved = cache(partial(moments.ridge, start, dtype=np.float32))

        def use(matrix: np.ndarray) -> None:
            self.matrix.copy_(torch.from_numpy(matrix))
            moved = start @ means[:-1] + means[:-1].ravel() @ matrix
            self._set(start, means[-1] - moved)

        def by_validation(exponent: float) -> float:
            use(solved(exponent).change)
            return mean_cosine(self, moments.dataset, validation)

        exponent = climb(by_validation)
        use(moments.ridge(start, exponent).change)
        self.numbers |= {"lambda": solved(exponent).penalty, "exponent": exponent}
        self.numbers["gcv_exponent"] = climb(lambda e: -solved(e).gcv)

    def _fit_low_rank(self, moments: Moments, validation: np.ndarray) -> None:
        full = Linear(len(self.constant), len(self.weights))
        full.fit_moments(moments, validation)
        change, means = full.matrix.numpy(), moments.means
        _, directions = np.linalg.eigh(moments.explained(change))  # ascending
        kept = directions[:, -len(self.up) :].astype(np.float32)
        self.down.copy_(torch.from_numpy(change @ kept))
        self.up.copy_(torch.from_numpy(kept.T))
        start = full.weights.double().numpy()
        moved = start @ means[:-1] + means[:-1].ravel() @ (change @ kept) @ kept.T
        self._set(start, means[-1] - moved)
        self.numbers |= {key: full.numbers[key] for key in ("lambda", "exponent")}


Model = Linear
