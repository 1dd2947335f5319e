"""Figures of the notebooks: titled, with units, in colours that all can tell apart."""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from colorsys import hls_to_rgb
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator
from matplotlib_inline.backend_inline import set_matplotlib_formats

from lvmlib.progress import in_kernel
from lvmlib.records import BASELINES, Run

NETWORK, BASELINE, MUTED = "#3b4cc0", "#8c6d31", "0.55"  # of no single model
ARMS = {"epochs": "equal epochs", "steps": "equal updates"}
# A model has one colour in all figures of all studies (Okabe & Ito's, seaborn's).
COLOURS = {
    "amn": "#0173b2",
    "lstm": "#de8f05",
    "gru": "#029e73",
    "transformer": "#cc78bc",
    "graphmert": "#d55e00",
    "linear": "#7a5195",
    "context_average": "#949494",
    "six_numbers": "#6b6b6b",
    "ridge": "#2f2f2f",
}
SAME = {"ridge_to_weights": "linear", "ridge to the weights": "linear"}
MARKERS = dict(zip(COLOURS, "osD^vPX*h", strict=True))


def colour(name: str) -> str:
    """Return a model's colour; the entry gru-half-rate has its architecture's."""
    base = SAME.get(name, name).partition("-")[0]
    if base in COLOURS:
        return COLOURS[base]
    hue = zlib.crc32(name.encode()) % 360 / 360  # a colour of its own, always the same
    return to_hex(hls_to_rgb(hue, 0.42, 0.6))


def marker(name: str) -> str:
    """Return a model's marker, as `colour`."""
    return MARKERS.get(name.partition("-")[0], ".")


def set_style() -> None:
    """Set the look of all figures."""
    plt.style.use(Path(__file__).with_name("figures.mplstyle"))
    if in_kernel():
        set_matplotlib_formats("png", "svg", metadata={"Date": None})


def whole_epochs(axes: Axes) -> None:
    """Put ticks on whole epochs only, also when there is just one."""
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))


def learning_curves(run: Run) -> Figure:
    """Draw cosine and loss by epoch; the best epoch and the floor are marked."""
    history, info = run.history, run.info
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6), sharex=True)
    top.plot(history["epoch"], history["train_cosine"], "o-", label="training")
    top.plot(history["epoch"], history["validation_cosine"], "o-", label="validation")
    floor = "constant mean vector, on training windows"
    top.axhline(info["training_mean_cosine"], color=MUTED, ls=":", label=floor)
    top.axvline(info["best_epoch"], color=MUTED, lw=1)
    top.set(title="Cosine to the true next vector", ylabel="mean cosine")
    top.legend()
    recipe = info["parameters"]
    if recipe.get("loss", "mse") == "mse":  # another one has other units
        dims = info["dataset"]["dim"] if recipe.get("scale") else 1  # it sums over them
        bottom.plot(history["epoch"], history["train_loss"] / dims, "o-", color="C0")
    bottom.plot(history["epoch"], history["validation_loss"], "o-", color="C1")
    bottom.axvline(info["best_epoch"], color=MUTED, lw=1)
    bottom.set(title="Error of the raw output", xlabel="epoch (line: best epoch)")
    bottom.set(ylabel="squared error\nper dimension", yscale="log")
    whole_epochs(bottom)
    return figure


def scores_with_baselines(scores: pd.DataFrame) -> Figure:
    """Draw the test cosines of `records.scores_table` with 95% intervals."""
    figure, axes = plt.subplots(figsize=(7, 3.2))
    heights = range(len(scores))[::-1]  # the best on top
    colours = scores["kind"].map({"network": NETWORK, "baseline": BASELINE})
    ends = scores["cosine_low"], scores["cosine_high"]
    axes.hlines(heights, *ends, colors=colours, lw=3, alpha=0.45)
    axes.scatter(scores["cosine"], heights, c=colours)
    axes.set_yticks(heights, scores["name"].map(BASELINES).fillna("network"))
    axes.set(title="Test cosine with 95% intervals over documents", xlabel="cosine")
    return figure


def positions(values: np.ndarray, title: str, label: str, even: float) -> Figure:
    """Draw one value a context position: mean and spread over windows (W, T).

    `even` is the value that all positions would have if none mattered more.
    """
    names = [f"t−{step}" for step in range(values.shape[1], 0, -1)]
    low, middle, high = np.percentile(values, [10, 50, 90], axis=0)
    figure, axes = plt.subplots(figsize=(7, 3.2))
    axes.bar(names, values.mean(axis=0), color=NETWORK, alpha=0.8, width=0.6)
    axes.errorbar(names, middle, [middle - low, high - middle], fmt="none", color="0.2")
    axes.axhline(even, color=MUTED, ls=":")
    axes.set(title=title, ylabel=label)
    axes.set_xlabel("context position (bars: mean; lines: 10th to 90th percentile)")
    return figure


def matrices(
    maps: np.ndarray, titles: Sequence[str], columns: int, label: str
) -> Figure:
    """Draw square maps (n, T, T): row attends to column, one colour scale."""
    rows = -(-len(maps) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(max(4, 2 * columns), max(3, 2.2 * rows)), squeeze=False
    )
    names = [f"t−{step}" for step in range(maps.shape[-1], 0, -1)]
    style = {"vmin": min(0.0, maps.min()), "vmax": maps.max(), "cmap": "cividis"}
    for spot, matrix, title in zip(axes.flat, maps, titles, strict=False):
        image = spot.imshow(matrix, **style)
        spot.set_title(title, size="medium")
        spot.set_xticks(range(len(names)), names, size=7)
        spot.set_yticks(range(len(names)), names, size=7)
        spot.grid(False)
    for spot in axes.flat[len(maps) :]:
        spot.axis("off")
    figure.colorbar(image, ax=axes, label=label, shrink=0.7)
    return figure
