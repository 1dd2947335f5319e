"""What one prediction costs: networks and baselines timed in turns, in one process.

The latency in a run's run.json is that of the machine it was trained on, with whatever
ran beside it. A choice between networks needs them side by side.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.comparison import PAIRED_BASELINES
from lvmlib.evaluation import Baseline, fit_baselines
from lvmlib.inference import predict
from lvmlib.models import build_model, count_parameters
from lvmlib.vectors import Dataset, cut_windows

ROUNDS = 15
WINDOWS = 60  # to fit baselines on: their cost does not depend on it


def side_by_side(
    architectures: Iterable[str], dim: int, context: int = 5
) -> pd.DataFrame:
    """Time one prediction, (context, D) to (D,), of networks, six numbers and ridge.

    Each is asked twice in every round, and the second call is timed, on the CPU. The
    fastest of all rounds counts: what else the machine does can only add to it.
    Weights and vectors are random: the time does not depend on them.

    Returns
    -------
    DataFrame
        Indexed by architecture or baseline: latency_ms, parameters (trained
        or fitted numbers; the mean vector in six numbers has D).
    """
    rng = np.random.default_rng(0)
    window = rng.normal(size=(context, dim)).astype(np.float32)
    calls: dict[str, Callable[[], np.ndarray]] = {}
    parameters = {"six_numbers": context + 1 + dim, "ridge": (context * dim + 1) * dim}
    baselines = _random_baselines(rng, dim, context)
    for name in PAIRED_BASELINES:
        calls[name] = partial(_predict_one, baselines[name], window)
    for name in architectures:
        model = build_model(name, dim=dim, context=context)
        parameters[name] = count_parameters(model)["trainable"]
        calls[name] = partial(predict, model, window, device="cpu")
    seconds = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            call()  # brings the weights into the cache
            started = time.perf_counter()
            call()
            seconds[name].append(time.perf_counter() - started)
    latency = {name: 1000 * min(found) for name, found in seconds.items()}
    return pd.DataFrame({"latency_ms": latency, "parameters": parameters})


def _random_baselines(
    rng: np.random.Generator, dim: int, context: int
) -> dict[str, Baseline]:
    vectors = rng.normal(size=(WINDOWS + context, dim)).astype(np.float32)
    dataset = Dataset(Path(), {}, pd.DataFrame(), vectors, None)
    windows = cut_windows(dataset, np.arange(len(vectors)), context, False)
    return fit_baselines(dataset, windows[:-5], windows[-5:])


def _predict_one(baseline: Baseline, window: np.ndarray) -> np.ndarray:
    """Return a unit vector (D,), as `predict` does of a network."""
    (raw,) = baseline.predict(window[None])
    return raw / np.linalg.norm(raw)
