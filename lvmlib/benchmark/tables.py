"""Tables, figures and verdicts of the benchmark page, all computed from its numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from lvmlib.benchmark.control import VARIANTS, flops_per_window
from lvmlib.benchmark.measuring import REPORTED_SIZE
from lvmlib.pages.plots import BASELINE, MUTED, NETWORK

MARGIN = 0.002  # of validation cosine: not worse than the control
BUSY = 0.05  # share of the machine that others took, above which it was busy
LEVERS = {
    "control": "control: the plain loop",
    "fused": "fused AdamW",
    "gather": "one gather a batch, no .item()",
    "batch128": "batch 128",
    "batch256": "batch 256",
    "bf16": "bf16 autocast",
    "layers": "our layers, our clipping",
    "usual": "batch 256, bf16, fused, gather",
    "bare": "the same and our layers",
    "all": "all: training.train",
    "malloc": "all, and malloc with huge pages",
}


@dataclass(frozen=True)
class Target:
    """What was asked: a bound an architecture, from below or from above."""

    what: str
    bounds: Mapping[str, float]
    at_least: bool = True
    form: str = "{:.2f}"

    def is_met(self, name: str, value: float) -> bool:
        """Say whether a value is on the right side of its bound."""
        bound = self.bounds[name]
        return value >= bound if self.at_least else value <= bound

    def missed(self, found: Mapping[str, float]) -> list[str]:
        """Return the names that were measured and do not meet their bound."""
        return [n for n in self.bounds if n in found and not self.is_met(n, found[n])]

    def verdict(self, found: Mapping[str, float]) -> str:
        """Say which bounds are met, which are not, and which were not measured."""
        relation = "at least" if self.at_least else "at most"
        missed, said = self.missed(found), []
        met = [n for n in self.bounds if n in found and n not in missed]
        for label, names in (("met by", met), ("**not met** by", missed)):
            each = [
                f"{n} ({self.form.format(found[n])}, asked {relation} "
                f"{self.form.format(self.bounds[n])})"
                for n in names
            ]
            said += [f"{label} {', '.join(each)}"] if each else []
        left = [n for n in self.bounds if n not in found]
        said += [f"not measured for {', '.join(left)}"] if left else []
        return f"Target, {self.what}: {'; '.join(said)}."


TARGETS = {
    "speed": Target(
        "windows/s against the control's",
        {"amn": 4.0, "lstm": 3.3, "gru": 3.7, "transformer": 3.5, "graphmert": 3.0},
    ),
    "share": Target(
        "share of the ceiling",
        {"graphmert": 0.75, "transformer": 0.70, "gru": 0.75, "lstm": 0.65},
        form="{:.0%}",
    ),
    "fabric": Target(
        "cost of Fabric against the bare loop",
        {"amn": 0.02},
        at_least=False,
        form="{:.1%}",
    ),
    "memory": Target(
        f"peak memory in GB at {REPORTED_SIZE:,} vectors",
        {"amn": 1.2, "lstm": 1.2, "gru": 1.2, "transformer": 1.2, "graphmert": 3.0},
        at_least=False,
    ),
    "quality": Target(
        "speed-up of the time to the control's quality",
        {"amn": 6.0, "lstm": 6.0, "gru": 6.0},
    ),
    # "Flat" is made a number here: within a tenth.
    "growth": Target(
        "cost a window with the most vectors, in units of that with the fewest",
        {"amn": 1.1},
        at_least=False,
    ),
}


def busy(rows: pd.DataFrame) -> str:
    """Say whether other processes used the machine during the rounds."""
    if "others" not in rows:
        return "Whether the machine was busy is not known on this system."
    middle, most = rows["others"].median(), rows["others"].max()
    said = (
        f"While a cell trained, other processes took {middle:.0%} of the machine "
        f"(median; at most {most:.0%})"
    )
    if middle > BUSY:
        return f"**The machine was busy.** {said}: read ratios only, with caution."
    return f"{said}: it was quiet."


def speed_rows(rows: pd.DataFrame, bf16: bool) -> pd.DataFrame:
    """Add to each cell's round its rate, ratio to the control's, and ceiling share."""
    key = ["architecture", "group", "round"]
    rows = rows.assign(rate=rows["windows"] / rows["seconds"])
    control = rows[rows["variant"] == "control"].set_index(key)["rate"]
    rows = rows.join(control.rename("control"), on=key)
    rows["ratio"] = rows["rate"] / rows["control"]
    chosen = [VARIANTS[name] for name in rows["variant"]]
    rows["mflop"] = [
        flops_per_window(name, variant.layers) / 1e6
        for name, variant in zip(rows["architecture"], chosen, strict=True)
    ]
    in_bf16 = [bf16 and variant.bf16 for variant in chosen]
    ceiling = np.where(in_bf16, rows["bfloat16"], rows["float32"])
    rows["share"] = rows["rate"] * rows["mflop"] * 1e6 / ceiling
    return rows


def speed_summary(rows: pd.DataFrame, bf16: bool) -> pd.DataFrame:
    """Take medians over rounds, by architecture and variant."""
    cells = speed_rows(rows, bf16).groupby(["architecture", "variant"], sort=False)
    return cells.agg(
        rate=("rate", "median"),
        ratio=("ratio", "median"),
        low=("ratio", "min"),
        high=("ratio", "max"),
        mflop=("mflop", "first"),
        share=("share", "median"),
        peak_mb=("peak_mb", "max"),
    )


def of_variant(summary: pd.DataFrame, column: str, variant: str = "all") -> dict:
    """Return a column by architecture, for one variant."""
    chosen = summary.reset_index().query("variant == @variant")
    return dict(zip(chosen["architecture"], chosen[column], strict=True))


def fabric_costs(rows: pd.DataFrame) -> pd.Series:
    """Return by how much "all" takes longer than "bare", by architecture and round."""
    rows = rows.assign(rate=rows["windows"] / rows["seconds"])
    key = ["architecture", "group", "round"]
    rates = rows.pivot_table(index=key, columns="variant", values="rate")
    if not {"bare", "all"} <= set(rates):
        return pd.Series(dtype=float, index=pd.Index([], name="architecture"))
    return (rates["bare"] / rates["all"] - 1).dropna()


def fabric_cost(rows: pd.DataFrame) -> dict[str, float]:
    """Return the median of `fabric_costs` over the rounds."""
    return fabric_costs(rows).groupby("architecture").median().to_dict()


def fabric_said(rows: pd.DataFrame) -> str:
    """Tell the spread over rounds, so that a cost below it is not taken for exact."""
    spread = fabric_costs(rows).groupby("architecture").quantile([0.25, 0.75]).unstack()
    said = [
        f"{name} {low:.1%} to {high:.1%}"
        for name, low, high in spread.itertuples()
        if name in TARGETS["fabric"].bounds
    ]
    return f"Its quartiles over the rounds: {', '.join(said)}." if said else ""


def speed_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Show control and "all" side by side."""
    rows = []
    for architecture in summary.index.unique("architecture"):
        cells = summary.loc[architecture]
        if "all" not in cells.index:
            continue
        control, best = cells.loc["control"], cells.loc["all"]
        rows.append(
            {
                "architecture": architecture,
                "control, windows/s": f"{control['rate']:,.0f}",
                "all, windows/s": f"{best['rate']:,.0f}",
                "ratio": f"{best['ratio']:.2f}",
                "lowest": f"{best['low']:.2f}",
                "highest": f"{best['high']:.2f}",
                "MFLOP a window": f"{best['mflop']:,.1f}",
                "share of ceiling": f"{best['share']:.0%}",
            }
        )
    return pd.DataFrame(rows)


def lever_table(summary: pd.DataFrame) -> pd.DataFrame:
    """Show the ratio to the control, a row a lever, a column an architecture."""
    ratios = summary["ratio"].unstack("architecture")
    names = [name for name in LEVERS if name in ratios.index]
    shown = ratios.loc[names, summary.index.unique("architecture")]
    shown = shown.map(lambda x: "" if pd.isna(x) else f"{x:.2f}")
    shown.columns.name = None
    shown.insert(0, "variant", [LEVERS[name] for name in names])
    return shown


def ceilings(rows: pd.DataFrame) -> str:
    """Say what matrix products reached."""
    each = rows.drop_duplicates(["architecture", "group", "round"])
    said = [
        f"{each[dtype].median() / 1e9:,.0f} GFLOP/s in {dtype} "
        f"({each[dtype].min() / 1e9:,.0f} to {each[dtype].max() / 1e9:,.0f})"
        for dtype in ("bfloat16", "float32")
    ]
    return f"Matrix products reached {said[0]} and {said[1]}, by round."


def memory_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, list[dict[str, float]]]:
    """Return peak memory in GB as a table, and by architecture.

    The table has columns for the control, for "all" with the study's batch and for
    "all" with the benchmark's; the list has a dictionary for each of the last two.
    """
    rows = rows.assign(gb=rows["peak_mb"] * 2**20 / 1e9)
    shown = pd.DataFrame({"architecture": rows["architecture"].unique()})
    found = []
    for place, name in enumerate(("control", "all, study's batch", "all, largest")):
        chosen = rows.groupby("architecture", sort=False).nth(place)
        shown[f"{name}, GB (batch)"] = [
            f"{gb:.2f} ({batch})"
            for gb, batch in zip(chosen["gb"], chosen["batch_size"], strict=True)
        ]
        found.append(dict(zip(chosen["architecture"], chosen["gb"], strict=True)))
    return shown, found[1:]


def first_reaching(curve: list, level: float) -> tuple[float, float]:
    """Return passes and training seconds until a level; infinite if never."""
    reached = ((n, s) for n, (s, cosine) in enumerate(curve, 1) if cosine >= level)
    return next(reached, (np.inf, np.inf))


def quality_said(speedups: pd.DataFrame) -> str:
    """Split each speed-up into fewer windows and more windows a second."""
    said = []
    for name, part in speedups[speedups["speedup"] > 0].groupby(
        "architecture", sort=False
    ):
        fewer = part["fewer"].median()
        faster = (part["speedup"] / part["fewer"]).median()
        said.append(f"{name} {fewer:.1f} times fewer, {faster:.1f} times as fast")
    if not said:
        return ""
    return f"Windows until that quality, and windows a second: {'; '.join(said)}."


def quality_speedups(rows: pd.DataFrame) -> pd.DataFrame:
    """Compare, seed by seed, the time to the control's best cosine less the margin.

    The speed-up is zero where "all" never gets there.
    """
    found = []
    for (architecture, seed), pair in rows.groupby(
        ["architecture", "seed"], sort=False
    ):
        curves = pair.set_index("variant")["curve"]
        if not {"control", "all"} <= set(curves.index):
            continue  # interrupted between the two
        best = max(cosine for _, cosine in curves["control"])
        level = best - MARGIN
        (slow, control_s), (fast, all_s) = (
            first_reaching(curves[v], level) for v in ("control", "all")
        )
        found.append(
            {
                "architecture": architecture,
                "seed": seed,
                "control's best": best,
                "best of all": max(cosine for _, cosine in curves["all"]),
                "control_s": control_s,
                "all_s": all_s,
                "speedup": control_s / all_s,
                "fewer": slow / fast,
            }
        )
    return pd.DataFrame(found)


def quality_table(speedups: pd.DataFrame) -> pd.DataFrame:
    """Show the times to quality; infinite is not reached."""
    shown = speedups[["architecture", "seed"]].copy()
    for name in ("control's best", "best of all"):
        shown[name] = [f"{value:.4f}" for value in speedups[name]]
    for name in ("control", "all"):
        seconds = speedups[f"{name}_s"]
        shown[f"{name}, s"] = [
            f"{value:.1f}" if np.isfinite(value) else "not reached" for value in seconds
        ]
    shown["speed-up"] = [
        f"{value:.1f}" if value else "" for value in speedups["speedup"]
    ]
    return shown


def latency_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Show milliseconds a call, p50 / p95, by batch size; load time and file size."""
    shown = pd.DataFrame({"architecture": rows["architecture"]})
    for name in [column for column in rows if column.startswith("p50_")]:
        size = name.removeprefix("p50_")
        shown[f"batch {size}, ms"] = [
            f"{half:.2f} / {most:.2f}"
            for half, most in zip(rows[name], rows[f"p95_{size}"], strict=True)
        ]
    shown["load, ms"] = [f"{value:.0f}" for value in rows["load_ms"]]
    shown["file, MB"] = [f"{value:.1f}" for value in rows["file_mb"]]
    return shown


def growth_table(rows: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, float]]:
    """Return the cost a window by number of vectors, and the last against the first."""
    rows = rows.assign(
        step=1e6 * rows["seconds"] / rows["windows"],
        gather=1e6 * rows["gather_seconds"] / rows["windows"],
    )
    # Each round compared with itself, so that a slow round is slow for all sizes.
    by_round = rows.pivot_table(index="round", columns="vectors", values="step")
    relative = by_round.div(by_round.iloc[:, 0], axis=0).median()
    middle = rows.groupby("vectors")[["gather", "step"]].median()
    shown = pd.DataFrame(
        {
            "vectors": [f"{n:,}" for n in middle.index],
            "gather, µs a window": [f"{value:.1f}" for value in middle["gather"]],
            "whole step, µs a window": [f"{value:.1f}" for value in middle["step"]],
            "relative": [f"{value:.2f}" for value in relative],
        }
    )
    return shown, {"amn": float(relative.iloc[-1])}


def missed_architectures(found: Mapping[str, Mapping[str, float]]) -> list[str]:
    """Return the architectures that miss a target of `found`, by target's name."""
    names = {name for key in found for name in TARGETS[key].missed(found[key])}
    return sorted(names)


def profile_table(operators: list[dict]) -> pd.DataFrame:
    """Show the operators that take the most time of their own."""
    return pd.DataFrame(
        {
            "operator": [f"<code>{row['operator']}</code>" for row in operators],
            "share of time": [f"{row['share']:.1%}" for row in operators],
            "calls": [f"{row['calls']:,}" for row in operators],
        }
    )


def speed_figure(summary: pd.DataFrame) -> Figure:
    """Draw the ratio of "all" to the control with its range, and the target."""
    ratio, low, high = (of_variant(summary, c) for c in ("ratio", "low", "high"))
    names = list(ratio)[::-1]
    figure, axes = plt.subplots(figsize=(7, 1.2 + 0.5 * len(names)))
    middle = np.array([ratio[name] for name in names])
    spread = [
        middle - [low[name] for name in names],
        np.array([high[name] for name in names]) - middle,
    ]
    axes.barh(names, middle, xerr=spread, color=NETWORK, alpha=0.8, height=0.5)
    for height, name in enumerate(names):
        axes.plot([TARGETS["speed"].bounds[name]] * 2, [height - 0.35, height + 0.35],
                  color=BASELINE, lw=3)  # fmt: skip
    axes.axvline(1, color=MUTED, ls=":")
    axes.set(title="Training speed against the control")
    axes.set_xlabel("times the control's windows/s (line: range; mark: target)")
    return figure


def quality_figure(rows: pd.DataFrame) -> Figure:
    """Draw validation cosine by training seconds, control and "all", a panel each."""
    names = list(rows["architecture"].unique())
    figure, panels = plt.subplots(
        1, len(names), figsize=(max(5, 3.2 * len(names)), 3.4), squeeze=False
    )
    for axes, name in zip(panels.flat, names, strict=True):
        for variant, colour in (("control", BASELINE), ("all", NETWORK)):
            chosen = rows.query("architecture == @name and variant == @variant")
            for n, curve in enumerate(chosen["curve"]):
                seconds, cosines = np.array(curve).T
                label = variant if n == 0 else None
                axes.plot(seconds, cosines, "o-", ms=3, color=colour, label=label)
        axes.set(title=name, xlabel="training seconds (log scale)", xscale="log")
    panels[0, 0].set_ylabel("validation cosine")
    panels[0, 0].legend()
    return figure
