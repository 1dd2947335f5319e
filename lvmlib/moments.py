"""Sums over windows, and what is solved from them: the fits of the linear family."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
from scipy.linalg import cho_solve, cholesky, get_lapack_funcs
from scipy.special import logsumexp

from lvmlib.vectors import Dataset

BLOCK = 2048  # windows gathered at a time, so that memory does not grow with them
SHRINK = 1e-6  # their penalty: where every target could be told, they stay finite


class Solution(NamedTuple):
    """What ridge gives for one λ."""

    change: np.ndarray  # Δ, (C · D, D)
    penalty: float  # λ
    gcv: float  # lower is better


class Moments:
    """What the whole family is fitted from: sums over windows (W, C + 1)."""

    def __init__(self, dataset: Dataset, windows: np.ndarray):
        self.dataset, self.windows = dataset, windows
        slots = windows.shape[1]
        sums, products = np.zeros((slots, dataset.dim)), np.zeros((slots, slots))
        for vectors in self._vectors(np.float64):  # (B, C + 1, D)
            sums += vectors.sum(axis=0)
            flat = vectors.swapaxes(0, 1).reshape(slots, -1)
            products += flat @ flat.T
        self.means = sums / len(windows)  # (C + 1, D)
        self.sums, self.products = sums, products
        self.freedom: dict[float, float] = {}  # tr H of ridge, by λ's exponent

    def _vectors(self, dtype: type) -> Iterator[np.ndarray]:
        for start in range(0, len(self.windows), BLOCK):
            yield self.dataset.gather(self.windows[start : start + BLOCK]).astype(dtype)

    def _centred(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        for vectors in self._vectors(np.float32):
            vectors -= self.means.astype(np.float32)
            yield vectors[:, :-1].reshape(len(vectors), -1), vectors[:, -1]

    def weights(self) -> np.ndarray:
        """Return the least-squares weights (C,) of the context vectors."""
        c = len(self.products) - 1
        return np.linalg.lstsq(self.products[:c, :c], self.products[:c, c])[0]

    def weights_and_mean(self) -> np.ndarray:
        """Return those weights with one more, of the mean target: (C + 1,)."""
        c, mean = len(self.products) - 1, self.means[-1]
        cross, square = self.sums @ mean, len(self.windows) * mean @ mean
        inner = self.products[:c, :c]
        gram = np.block([[inner, cross[:c, None]], [cross[:c], square]])
        return np.linalg.lstsq(gram, np.append(self.products[:c, c], cross[c]))[0]

    def centred_weights(self) -> np.ndarray:
        """Return the least-squares weights (C,) of the centred context vectors."""
        products = self.products - len(self.windows) * self.means @ self.means.T
        return np.linalg.lstsq(products[:-1, :-1], products[:-1, -1])[0]

    @cached_property
    def gram(self) -> tuple[np.ndarray, np.ndarray]:
        """XᵀX (C · D, C · D) and XᵀY (C · D, D) of the centred vectors."""
        features, dim = self.means[:-1].size, self.means.shape[1]
        gram, right = np.zeros((features, features)), np.zeros((features, dim))
        for x, y in self._centred():
            gram += x.T @ x
            right += x.T @ y
        return gram, right

    @cached_property
    def dual(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """X (W, C · D), Y (W, D) and XXᵀ (W, W) of the centred vectors."""
        x, y = (np.concatenate(part) for part in zip(*self._centred(), strict=True))
        return x, y, (x @ x.T).astype(np.float64)

    def ranking_weights(self) -> np.ndarray:
        """Return weights (C,) that tell the target from what its document has after it.

        Conditional logit (McFadden 1974): of the target and those `following` it, chunk
        k is the next one with a probability ∝ exp(Σ weight_c x_c · k). Its likelihood
        is concave in the weights. Raises ValueError if no document has two windows, or
        no best weights are found.
        """
        from scipy.optimize import minimize  # half a second, for this alone

        told = list(self._following())
        if not told:
            raise ValueError(
                "no document of the training windows has two of them: there is nothing "
                "to tell a target from."
            )
        count = sum(len(products) for products, _ in told)

        def surprise(weights: np.ndarray) -> tuple[float, np.ndarray]:
            value, slope = SHRINK * weights @ weights, 2 * SHRINK * weights
            for products, there in told:  # (B, K, C), (B, K)
                logits = np.where(there, products @ weights, -np.inf)
                total = logsumexp(logits, axis=1)
                share = np.exp(logits - total[:, None])
                expected = np.einsum("bk,bkc->bc", share, products)
                value += (total - logits[:, 0]).sum() / count
                slope = slope + (expected - products[:, 0]).sum(axis=0) / count
            return value, slope

        start = np.zeros(len(self.products) - 1)
        found = minimize(surprise, start, jac=True, method="BFGS", tol=1e-6)
        if not np.abs(found.jac).max() < 1e-4:  # it may stop short of its tolerance
            raise ValueError(f"the ranking weights did not converge: {found.message}")
        return found.x

    def _following(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Products of contexts with the target and what follows it, block by block.

        (B, K, C), the target's first, and which of the K are of its document, (B, K);
        windows with nothing after their target are left out.
        """
        later = self.dataset.following(self.windows)  # (W, K − 1)
        candidates = np.concatenate([self.windows[:, -1:], later], axis=1)
        there = candidates != self.windows[:, -1:]
        there[:, 0] = True
        told = np.flatnonzero(there[:, 1:].any(axis=1))
        for start in range(0, len(told), BLOCK):
            own = told[start : start + BLOCK]
            context = self.dataset.gather(self.windows[own, :-1])  # (B, C, D)
            rows, columns = np.unique(candidates[own], return_inverse=True)
            vectors = self.dataset.gather(rows)
            products = np.stack(
                [
                    np.einsum("bcd,bd->bc", context, vectors[column])
                    for column in columns.reshape(len(own), -1).T
                ],
                axis=1,
            )
            yield products, there[own]

    def ridge(
        self, start: np.ndarray, exponent: float, dtype: type = np.float64
    ) -> Solution:
        """Solve for W = W₀ + Δ with the penalty λ on Δ, where W₀ = [start₁ I … ].

        Δ = (XᵀX + λ)⁻¹ (XᵀY − XᵀX W₀) or, for fewer windows than features, its dual
        Xᵀ (XXᵀ + λ)⁻¹ (Y − X W₀), the same from a smaller matrix.

        λ is 10^exponent times the mean eigenvalue of XᵀX. Generalised cross-validation
        (Golub, Heath & Wahba 1979) is W |residual|² / (W − tr H)², H the hat matrix.
        In float32 it takes half the time and is off by about 1e-5 of Δ: enough to
        search λ.
        """
        features, dim = self.means[:-1].size, self.means.shape[1]
        dual = len(self.windows) < features
        if dual:
            x, y, matrix = self.dual
            rest = y - np.einsum("c,wcd->wd", start, x.reshape(len(x), -1, dim))
        else:
            matrix, right = self.gram
            blocks = matrix.reshape(features, -1, dim)
            rest = right - np.einsum("c,fcd->fd", start, blocks)
        # Never zero, so that a single window or constant vectors have a solution.
        penalty = 10**exponent * max(float(np.trace(matrix)) / features, 1e-12)
        matrix = matrix.astype(dtype)
        np.fill_diagonal(matrix, matrix.diagonal() + penalty)
        # The transpose is in LAPACK's order: nothing is copied once more.
        factor = cholesky(matrix.T, overwrite_a=True, check_finite=False)
        found = cho_solve((factor, False), rest.astype(dtype), check_finite=False)
        change = found.astype(np.float32)
        change = x.T @ change if dual else change
        if exponent not in self.freedom:  # tr M (M + λ)⁻¹, for M = XᵀX or XXᵀ
            inverse, _ = get_lapack_funcs("trtri", (factor,))(factor, overwrite_c=True)
            lost = penalty * np.vdot(inverse.T, inverse.T)
            self.freedom[exponent] = len(matrix) - float(lost)
        if dual:
            residual = penalty**2 * np.square(found).sum()
        else:  # Δᵀ XᵀX Δ = Δᵀ (rest − λ Δ)
            residual = self._rest(start) - (found * (rest + penalty * found)).sum()
        windows = len(self.windows)
        gcv = windows * residual / max(windows - self.freedom[exponent], 1e-9) ** 2
        return Solution(change, penalty, float(gcv))

    def explained(self, change: np.ndarray) -> np.ndarray:
        """Return Δᵀ XᵀX Δ, (D, D): what Δ moves, by direction of the target."""
        if len(self.windows) < self.means[:-1].size:
            moved = self.dual[0] @ change
            return moved.T @ moved
        return change.T @ self.gram[0] @ change

    def _rest(self, start: np.ndarray) -> float:
        """Return |Y − X W₀|² of the centred vectors."""
        products = self.products - len(self.windows) * self.means @ self.means.T
        signed = np.append(-start, 1.0)
        return float(signed @ products @ signed)
