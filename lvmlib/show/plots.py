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
from lvmlib.results import baseline_means, history, window_scores
from lvmlib.statistics import MARGIN, clustered_interval

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
    top.axhline(info["training_mean_cosine"], color=MUTED, ls=":")
    top.annotate(
        "constant mean vector, on training windows",
        (history["epoch"].iloc[-1], info["training_mean_cosine"]),
        xytext=(0, 4),
        textcoords="offset points",
        ha="right",
        size="small",
        color="0.35",
    )
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
    rows = [*scores.itertuples()][::-1]  # the best on top
    for height, row in enumerate(rows):
        colour = NETWORK if row.kind == "network" else BASELINE
        ends = [row.cosine_low, row.cosine_high]
        axes.plot(ends, [height] * 2, color=colour, lw=3, alpha=0.45)
        axes.plot(row.cosine, height, "o", color=colour)
    names = [BASELINES.get(row.name, "network") for row in rows]
    axes.set_yticks(range(len(rows)), names)
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


def error_by_size(runs: pd.DataFrame) -> Figure:
    """Draw the loss 1 − test cosine by training size, a line an entry."""
    figure, axes = plt.subplots(figsize=(6.5, 4.6))
    for entry, group in runs.groupby("entry", sort=False):
        points = []
        for size, cell in group.groupby("size"):
            i = clustered_interval(*window_scores(cell))
            points.append((size, 1 - i.estimate, 1 - i.high, 1 - i.low))
        size, loss, low, high = np.array(points).T
        style = {"color": colour(entry), "marker": marker(entry), "ms": 5}
        axes.errorbar(size, loss, [loss - low, high - loss], label=entry, **style)
    levels = baseline_means(runs)
    # Without the mean vector, whose line far above would press the others together.
    for name, dashes in (
        ("context_average", ":"),
        ("six_numbers", "--"),
        ("ridge", "-."),
    ):
        line = 1 - levels[name]
        label = BASELINES[name]
        axes.plot(line.index, line, dashes, color=colour(name), label=label)
    sizes = sorted(runs["size"].unique())
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size / 1000:.3g}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="training vectors, thousands (log scale)", ylabel="1 − test cosine")
    axes.set_title("Error by training size (lower is better)")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def slopes(found: pd.DataFrame) -> Figure:
    """Draw what each step to a larger size brought per doubling: `results.slopes`."""
    figure, axes = plt.subplots(figsize=(6.5, 4.2))
    axes.axhline(0, color="0.4", lw=1)
    for n, (name, part) in enumerate(found.groupby("name", sort=False)):
        middle = np.sqrt(part["smaller"] * part["larger"]) * 1.015**n
        value = part["per_doubling"]
        error = [value - part["per_doubling_low"], part["per_doubling_high"] - value]
        dashes = "-" if part["kind"].iloc[0] == "network" else "--"
        style = {"color": colour(name), "marker": marker(name), "ms": 5}
        label = BASELINES.get(name, name)
        axes.errorbar(middle, value, error, ls=dashes, label=label, **style)
    sizes = sorted({*found["smaller"], *found["larger"]})
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size / 1000:.3g}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="training vectors, thousands (between two sizes; log scale)")
    axes.set(ylabel="test cosine gained per doubling")
    axes.set_title("What each doubling of the data brought")
    figure.legend(loc="outside lower center", ncols=3)
    return figure


def forest(changes: pd.DataFrame, title: str) -> Figure:
    """Draw the rows of `results.contrasts` as intervals around a band of ±MARGIN."""
    entries = list(dict.fromkeys(changes["entry"]))
    # Narrower than the others: it has to be read on a phone, too.
    figure, axes = plt.subplots(figsize=(6, 1.6 + 0.55 * len(entries)))
    axes.axvspan(-MARGIN, MARGIN, color="0.9", zorder=0)
    axes.axvline(0, color="0.4", lw=1)
    looks = zip(
        changes.groupby("arm", sort=False), (NETWORK, BASELINE), "os", strict=False
    )
    for n, ((arm, part), color, marker) in enumerate(looks):
        heights = [entries.index(entry) + 0.22 * n for entry in part["entry"]]
        ends = part[["change_low", "change_high"]].to_numpy().T
        style = {"color": color, "marker": marker, "ls": "none", "capsize": 3, "lw": 2}
        error = np.abs(ends - part["change"].to_numpy())
        label = ARMS.get(arm, arm)
        axes.errorbar(part["change"], heights, xerr=error, label=label, **style)
    arms = changes["arm"].nunique()
    axes.set_yticks(np.arange(len(entries)) + 0.11 * (arms - 1), entries)
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set_title(title)
    axes.set_xlabel(f"change with 95% interval (band: ±{MARGIN}, equivalent)")
    if arms > 1:
        figure.legend(loc="outside lower center", ncols=arms)
    return figure


def learning(runs: pd.DataFrame) -> Figure:
    """Draw one entry's learning curves by size (one seed).

    Over updates, not epochs: an epoch of the smallest size has few updates.
    """
    import seaborn as sns  # a second, for this alone

    figure, axes = plt.subplots(figsize=(6.5, 3.4))
    colours = sns.color_palette("viridis_r", len(runs))  # sizes are an order
    for color, row in zip(colours, runs.sort_values("size").itertuples(), strict=True):
        epochs = history(row.folder)
        style = {"color": color, "marker": ".", "label": f"{row.size:,}"}
        axes.plot(epochs["step"], epochs["validation_cosine"], **style)
        axes.plot(epochs["step"], epochs["train_cosine"], ":", color=color)
    axes.set(title="Cosine by update (solid: validation, dotted: training)")
    axes.set(xlabel="updates (log scale)", ylabel="mean cosine", xscale="log")
    figure.legend(title="vectors", loc="outside right upper")
    return figure


def gains(ease: np.ndarray, gain: np.ndarray, title: str) -> Figure:
    """Draw each document's gain against ridge's cosine on it, both (documents,)."""
    figure, axes = plt.subplots(figsize=(7, 3.6))
    axes.axhline(0, color="0.4", lw=1)
    axes.axhline(gain.mean(), color=BASELINE, ls="--", label="mean over documents")
    axes.scatter(ease, gain, s=12, color=NETWORK, alpha=0.5)
    axes.set(xlabel="test cosine of ridge, mean of the document")
    axes.set(ylabel="gain in cosine", title=title)
    axes.legend()
    return figure
