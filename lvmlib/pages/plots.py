"""Figures of the notebooks: titled, with units, in colours that all can tell apart."""

from __future__ import annotations

from collections.abc import Sequence

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import seaborn as sns
from IPython.display import display
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from lvmlib.comparison import (
    BASELINES,
    baseline_means,
    scores_by_size,
    window_scores,
)
from lvmlib.pages.collapse import REPEAT, repeat_name
from lvmlib.runs import Run
from lvmlib.statistics import MARGIN, clustered_interval
from lvmlib.training import GRADIENT_NORM_LIMIT

NETWORK, BASELINE, MUTED = "#0173b2", "#de8f05", "0.55"  # colour-blind safe


def set_style() -> None:
    """Set the look of all figures."""
    sns.set_theme(context="notebook", style="whitegrid", palette="colorblind")
    plt.rcParams |= {
        "figure.constrained_layout.use": True,
        "figure.dpi": 100,
        "savefig.dpi": 160,
        "axes.spines.top": False,
        "axes.spines.right": False,
        "axes.titlelocation": "left",
        "axes.titleweight": "bold",
        "grid.color": "0.92",
        "legend.frameon": False,
    }


def show(figure: Figure, alt: str) -> None:
    """Display a figure with its text alternative (Markdown's marks go) and close it."""
    plain = " ".join(alt.replace("*", "").split())
    display(figure, metadata={"image/png": {"alt": plain}})
    plt.close(figure)


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
    bottom.plot(history["epoch"], history["train_loss"], "o-", label="training")
    bottom.plot(history["epoch"], history["validation_loss"], "o-", label="validation")
    bottom.axvline(info["best_epoch"], color=MUTED, lw=1)
    bottom.set(title="Loss of the raw output", xlabel="epoch (line: best epoch)")
    bottom.set(ylabel="squared error\nper dimension", yscale="log")
    whole_epochs(bottom)
    return figure


def scores_with_baselines(run: Run) -> Figure:
    """Draw the test cosine of network and baselines with 95% intervals."""
    documents = run.scores["document"]
    columns = {"network": "cosine"} | {v: f"cosine_{k}" for k, v in BASELINES.items()}
    intervals = {
        label: clustered_interval(run.scores[column], documents)
        for label, column in columns.items()
    }
    order = sorted(intervals, key=lambda label: intervals[label].estimate)
    figure, axes = plt.subplots(figsize=(7, 3.2))
    for height, label in enumerate(order):
        i = intervals[label]
        colour = NETWORK if label == "network" else BASELINE
        axes.plot([i.low, i.high], [height] * 2, color=colour, lw=3, alpha=0.45)
        axes.plot(i.estimate, height, "o", color=colour)
    axes.set_yticks(range(len(order)), order)
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


def scaling(runs: pd.DataFrame) -> Figure:
    """Draw the loss 1 − test cosine by training size, a line an entry."""
    figure, axes = plt.subplots(figsize=(7.5, 5))
    palette = sns.color_palette("colorblind")
    marks = "osD^vPX*"
    for n, (entry, group) in enumerate(runs.groupby("entry", sort=False)):
        points = []
        for size, cell in group.groupby("size"):
            i = clustered_interval(*window_scores(cell))
            points.append((size, 1 - i.estimate, 1 - i.high, 1 - i.low))
        size, loss, low, high = np.array(points).T
        shift = 1 + 0.02 * (n - 2)  # so that intervals stand side by side
        style = {"color": palette[n % 10], "marker": marks[n % 8], "label": entry}
        axes.errorbar(size * shift, loss, [loss - low, high - loss], capsize=2, **style)
    levels = baseline_means(runs)
    # Without the mean vector, whose line far above would press the others together.
    for name, dashes in (("six_numbers", "--"), ("ridge", "-.")):
        line = 1 - levels[name]
        axes.plot(line.index, line, dashes, color="0.4", label=BASELINES[name])
    sizes = sorted(runs["size"].unique())
    axes.set_xscale("log")
    axes.set_xticks(sizes, [f"{size / 1000:.3g}" for size in sizes])
    axes.minorticks_off()
    axes.set(xlabel="training vectors, thousands (log scale)", ylabel="1 − test cosine")
    axes.set_title("Error by training size (lower is better)")
    figure.legend(loc="outside lower center", ncols=4)
    return figure


def forest(changes: pd.DataFrame, title: str) -> Figure:
    """Draw the rows of `findings.contrasts` as intervals around a band of ±MARGIN."""
    entries = list(dict.fromkeys(changes["entry"]))
    arms = list(dict.fromkeys(changes["arm"]))
    # Narrower than the others: it has to be read on a phone, too.
    figure, axes = plt.subplots(figsize=(6, 1.6 + 0.55 * len(entries)))
    axes.axvspan(-MARGIN, MARGIN, color="0.9", zorder=0)
    axes.axvline(0, color="0.4", lw=1)
    looks = zip(arms, (NETWORK, BASELINE), "os", strict=False)
    for n, (arm, color, marker) in enumerate(looks):
        part = changes[changes["arm"] == arm]
        heights = [entries.index(entry) + 0.22 * n for entry in part["entry"]]
        intervals = part["interval"]
        middle = np.array([i.estimate for i in intervals])
        ends = np.array([[i.low, i.high] for i in intervals]).T
        style = {"color": color, "marker": marker, "ls": "none", "capsize": 3}
        axes.errorbar(
            middle, heights, xerr=np.abs(ends - middle), label=arm, **style, lw=2
        )
    axes.set_yticks(np.arange(len(entries)) + 0.11 * (len(arms) - 1), entries)
    axes.invert_yaxis()
    axes.margins(y=0.2)
    axes.set_title(title)
    axes.set_xlabel(f"change with 95% interval (band: ±{MARGIN}, equivalent)")
    if len(arms) > 1:
        figure.legend(loc="outside lower center", ncols=len(arms))
    return figure


def fitted_curves(runs: pd.DataFrame, curves: dict) -> Figure:
    """Draw each entry's error by size with both forms that `fit_curves` fitted."""
    rows = -(-len(curves) // 2)
    columns = min(2, len(curves))
    figure, spots = plt.subplots(
        rows, columns, figsize=(4 * columns, 2.9 * rows), squeeze=False, sharex=True
    )
    for axes, (entry, forms) in zip(spots.flat, curves.items(), strict=False):
        scores, documents = scores_by_size(runs, entry)
        for size, values in scores.items():
            i = clustered_interval(values, documents)
            error = [[i.high - i.estimate], [i.estimate - i.low]]
            axes.errorbar(size, 1 - i.estimate, error, fmt="o", color="0.2", capsize=2)
        sizes = np.geomspace(min(scores), 10 * max(scores), 100)
        looks = zip(forms.items(), ("-", "--"), (NETWORK, BASELINE), strict=True)
        for (form, curve), dashes, color in looks:
            axes.plot(sizes, curve.fit.predict(sizes), dashes, color=color, label=form)
        axes.axvspan(max(scores), sizes[-1], color="0.95", zorder=0)
        axes.set(title=entry, xscale="log")
    for axes in spots.flat[len(curves) :]:
        axes.axis("off")
        spots[-2, -1].tick_params(labelbottom=True)  # nothing is below it
    figure.supxlabel("training vectors (grey: beyond the data)", size="medium")
    figure.supylabel("1 − test cosine", size="medium")
    handles, labels = spots.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper center", ncols=2)
    return figure


def collapse(rows: pd.DataFrame) -> Figure:
    """Draw training cosine and gradient norm of `collapse.graphmert_runs`."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 6.5), sharex=True)
    cells = rows.groupby(["entry", "size", "protocol"], sort=False).ngroup()
    for n, row in zip(cells, rows.itertuples(), strict=True):
        label = f"{row.entry}, {row.size:,}, {row.protocol}"
        label += f", seed {row.seed}" if row.seed else ""
        marker = "osD^v"[row.seed % 5]
        style = {"color": f"C{n % 10}", "marker": marker, "markersize": 4}
        history = row.history
        top.plot(history.index, history["train_cosine"], label=label, **style)
        top.axhline(row.level, color=f"C{n % 10}", ls=":", lw=1)
        bottom.plot(history.index, history["gradient_norm"], **style)
        bottom.plot(
            history.index, history["gradient_norm_max"], ":", color=f"C{n % 10}"
        )
    top.set_title("Training cosine (dotted: constant mean vector)")
    top.set_ylabel("mean cosine")
    bottom.set_title("Gradient norm before clipping (dotted: largest of the epoch)")
    bottom.set(xlabel="epoch", ylabel="norm", yscale="log")
    whole_epochs(bottom)
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def collapse_by_update(updates: pd.DataFrame) -> Figure:
    """Draw training cosine and gradient norm of `collapse.repeats`."""
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(7, 5), sharex=True)
    for (precision, start), rows in updates.groupby(REPEAT, sort=False):
        label = repeat_name(precision, start)
        top.plot(rows["update"], rows["cosine"], lw=1, label=label)
        bottom.plot(rows["update"], rows["gradient_norm"], lw=1)
    top.set_title("Training cosine of each update's batch")
    top.set_ylabel("mean cosine")
    bottom.axhline(GRADIENT_NORM_LIMIT, color="0.2", ls=":", lw=1)
    bottom.set_title("Gradient norm before clipping (dotted: where it is clipped)")
    bottom.set(xlabel="update", ylabel="norm", yscale="log")
    figure.legend(loc="outside lower center", ncols=2)
    return figure


def quality_and_cost(costs: pd.DataFrame, baselines: pd.DataFrame) -> Figure:
    """Draw test cosine against latency; the area of a mark is the parameter count.

    Grey networks are dominated: column `on_frontier` of `summary.recommendation`. The
    baselines, of `summary.baseline_costs`, have a line at their test cosine as well.
    """
    figure, axes = plt.subplots(figsize=(7, 4))
    colors = [NETWORK if best else MUTED for best in costs["on_frontier"]]
    both = pd.concat([costs, baselines])
    axes.scatter(
        both["latency_ms"],
        both["test_cosine"],
        s=8 * both["parameters"] / 1e6 + 20,
        color=colors + [BASELINE] * len(baselines),
        alpha=0.6,
    )
    for n, row in enumerate(both.itertuples()):  # above and below: neighbours are close
        million = f"{row.parameters / 1e6:.1f} M"
        count = million if row.parameters >= 1e5 else f"{row.parameters:,.0f}"
        axes.annotate(
            f"{row.Index} ({count})",
            (row.latency_ms, row.test_cosine),
            xytext=(8, -14 if n % 2 else 6),
            textcoords="offset points",
            size="small",
        )
    for cosine in baselines["test_cosine"]:
        axes.axhline(cosine, color=BASELINE, lw=1, ls="--", zorder=0)
    axes.set_xscale("log")
    axes.margins(x=0.25, y=0.15)
    axes.set(xlabel="latency of one prediction, ms (log scale)")
    axes.set_ylabel("test cosine")
    axes.set_title("Quality against cost (area: parameters; grey: dominated)")
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
