"""What became of GraphMERT's training, and one collapse of it update by update.

Functions take tables of `load_study`, as in `lvmlib.pages.findings`.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.comparison import compare, compare_sizes
from lvmlib.pages.explanations import DIP, PRECISIONS, decisive
from lvmlib.pages.findings import interval_text, listed, not_measured
from lvmlib.pages.report import counted
from lvmlib.pages.summary import headline_sizes, main_runs
from lvmlib.recipe import model_options
from lvmlib.runs import load_run
from lvmlib.training import GRADIENT_NORM_LIMIT, at_constant_level


def graphmert_runs(everything: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Return the GraphMERT runs of both studies with what became of each.

    Adds the recipe (warmup, mask), the constant-mean `level`, and epochs: of the best
    training cosine (`peak`), of the fall back to the level (`fell`: NaN if it did not)
    and of the largest gradient norm (`steepest`, with its update in `steepest_step`:
    NaN in histories of before it was kept). The protocol is in words.
    """
    rows = []
    for runs in (reported, everything):
        for row in runs[runs["architecture"] == "graphmert"].to_dict("records"):
            run = load_run(row["folder"])
            history, used = run.history.set_index("epoch"), run.info["parameters"]
            level = run.info["training_mean_cosine"]
            cosine, norms = history["train_cosine"], history["gradient_norm_max"]
            fell, steepest = fall(history, level), history.loc[norms.idxmax()]
            rows.append(
                row
                | {"protocol": row["protocol"].replace("_", " ")}
                | {"warmup": used["warmup"], "level": level, "history": history}
                | {"mask": used.get("mask", model_options("graphmert")["mask"])}
                | {"peak": cosine.idxmax(), "peak_cosine": cosine.max()}
                | {"fell": fell, "fell_step": history["step"].get(fell, np.nan)}
                | {"steepest": steepest.name, "norm": norms.max()}
                | {"steepest_step": steepest.get("gradient_norm_max_step", np.nan)}
            )
    unique = pd.DataFrame(rows)
    return unique.drop_duplicates("folder") if rows else unique


def fall(history: pd.DataFrame, level: float) -> float:
    """Return the epoch (the index) when training fell back to the level; NaN if not."""
    at_level = at_constant_level(history, level)
    after = at_level & (~at_level).cummax()
    return float(after.idxmax()) if after.any() else float("nan")


def graphmert_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Format what `graphmert_runs` returns."""
    if rows.empty:
        return rows
    digits = "{:.4f}".format
    peaks = zip(rows["peak_cosine"].map(digits), rows["peak"], strict=True)
    falls = zip(rows["fell"], rows["fell_step"], strict=True)
    norms = zip(rows["norm"], rows["steepest"], rows["steepest_step"], strict=True)
    return pd.DataFrame(
        {
            "entry": rows["entry"],
            "vectors": rows["size"].map("{:,}".format),
            "seed": rows["seed"],
            "status": rows["status"],
            "fell back at epoch (by update)": [
                "—" if np.isnan(e) else f"{e:.0f} ({step:,.0f})" for e, step in falls
            ],
            "best training cosine (epoch)": [f"{c} ({e})" for c, e in peaks],
            "last": [digits(h["train_cosine"].iloc[-1]) for h in rows["history"]],
            "constant mean": rows["level"].map(digits),
            "largest gradient norm (epoch, update)": [
                f"{n:.3g} ({e}, {'not kept' if np.isnan(step) else f'{step:,.0f}'})"
                for n, e, step in norms
            ],
            "test cosine": rows["test_cosine"].map(digits),
            "warm-up": rows["warmup"].map("{:.0%}".format),
            "mask": rows["mask"],
            "precision": rows["precision"],
            "protocol": rows["protocol"],
        }
    )


def graphmert_said(rows: pd.DataFrame, everything: pd.DataFrame) -> str:
    """Say which versions collapsed, what the changes did, and whether it scales."""
    if rows.empty:
        return not_measured("any GraphMERT run")
    said = []
    for status, part in rows.groupby("status", sort=False):
        cells = part.groupby(["entry", "size", "protocol"], sort=False)["seed"]
        names = [
            f"{entry} at {size:,} ({protocol}, seed{'s' * (len(seeds) > 1)} "
            f"{listed([str(seed) for seed in seeds])})"
            for (entry, size, protocol), seeds in cells
        ]
        said.append(f"**{status.capitalize()}:** {', '.join(names)}.")
    said.append(
        f"Training fell back to the constant mean in {rows['fell'].notna().sum()} of "
        f"{counted(len(rows), 'run')}{_by_version(rows)}.{_recovered(rows)}"
        f"{_other_recipe(everything)}"
    )
    own = everything[everything["architecture"] == "graphmert"]
    own = own[~decisive(own, "seed").duplicated()]  # no repeats on another machine
    plain = own[own["entry"] == "graphmert"]
    for (entry, size), cell in own.groupby(["entry", "size"], sort=False):
        same = plain[(plain["size"] == size) & (plain["entry"] != entry)]
        if set(same["seed"]) & set(cell["seed"]):
            found = compare(cell, same)
            said.append(
                f"At {size:,} vectors {entry} differs from graphmert by "
                f"{interval_text(found)} in test cosine "
                f"({counted(found.seeds, 'seed')})."
            )
    said += [
        f"Of {len(means)} versions at {size:,} vectors {means.idxmax()} has the best "
        f"validation cosine ({means.max():.4f})."
        for size, cell in own.groupby("size")
        for means in [cell.groupby("entry")["validation_cosine"].mean()]
        if len(means) > 1
    ]
    small, large = headline_sizes(everything)
    changes = compare_sizes(own, small, large)
    for row in changes.itertuples() if small < large else ():
        said.append(
            f"From {small:,} to {large:,} vectors {row.entry} changes by "
            f"{interval_text(row.interval)}: {row.verdict}."
        )
    if changes.empty or small == large:
        said.append(not_measured(f"a GraphMERT at both {small:,} and {large:,}"))
    return " ".join(said)


def _by_version(rows: pd.DataFrame) -> str:
    """Say how often each version fell, or nothing where none did."""
    falls = rows.groupby("entry", sort=False)["fell"].agg(["count", "size"])
    if not falls["count"].any():
        return ""
    versions = [f"{row.Index} {row.count} of {row.size}" for row in falls.itertuples()]
    runs = falls["size"].max()
    most = 1 - 0.05 ** (1 / runs)  # share that shows none at 5%
    return (
        f" ({', '.join(versions)}; even none in {runs} runs would leave "
        f"room for a fall in up to {most:.0%} of them, so that no version is shown to "
        "be safe)"
    )


def _recovered(rows: pd.DataFrame) -> str:
    """Say in which runs training fell within an epoch and came back, or nothing."""
    said = []
    for row in rows[rows["fell"].isna()].itertuples():
        cosine = row.history["train_cosine"]
        falls, last = -cosine.diff(), cosine.iloc[-1]
        if falls.max() > DIP and last > cosine[epoch := falls.idxmax()] + DIP:
            said.append(
                f"{row.entry} at {row.size:,} ({row.protocol}, seed {row.seed}): down "
                f"by {falls.max():.4f} to {cosine[epoch]:.4f} at epoch {epoch}, where "
                f"the gradient norm reached "
                f"{row.history['gradient_norm_max'][epoch]:.3g}, and at {last:.4f} in "
                "the end"
            )
    return f" It fell and came back in {'; '.join(said)}." if said else ""


RECIPE = ("epochs", "batch_size", "schedule")  # parameters


def _other_recipe(everything: pd.DataFrame) -> str:
    """Say how GraphMERT's recipe differs from that of the other networks, or nothing.

    Parameters that an old run did not store count as not differing.
    """
    used: list[dict[str, set]] = []
    own, main = everything["architecture"] == "graphmert", main_runs(everything)
    for part in (everything[own], main[main["architecture"] != "graphmert"]):
        stored = [load_run(folder).info["parameters"] for folder in part["folder"]]
        used.append({key: {s[key] for s in stored if key in s} for key in RECIPE})
    said = [
        f"{key.replace('_', ' ')} {listed(sorted(map(str, mine)))}, theirs "
        f"{listed(sorted(map(str, used[1][key])))}"
        for key, mine in used[0].items()
        if mine and used[1][key] and mine != used[1][key]
    ]
    if not said:
        return ""
    return (
        f" Its recipe is not that of the other networks ({'; '.join(said)}): beside "
        "theirs, its scores compare recipes too."
    )


# --- one collapse, repeated ----------------------------------------------------------


REPEAT = ["precision", "start"]  # columns that tell one repeat from another


def repeats(plan: str | Path) -> pd.DataFrame:
    """Read what each update had in repeats of a collapse, kept beside the plan.

    Columns precision, start (the update of the checkpoint it went on from; 0 is the
    beginning), update, loss, cosine, gradient_norm. Empty where there is no such file.
    """
    path = Path(plan).parent / "collapse" / "updates.csv"
    return pd.read_csv(path) if plan and path.exists() else pd.DataFrame()


def repeat_name(precision: str, start: int) -> str:
    """Return such a text as "float32 from update 23,000"."""
    since = f"update {start:,}" if start else "the beginning"
    return f"{PRECISIONS[precision]} from {since}"


def repeats_said(updates: pd.DataFrame, rows: pd.DataFrame) -> str:
    """Say which repeats collapsed, and whether bfloat16 is to blame.

    `rows` is what `graphmert_runs` returns: without a collapse there is none to repeat.
    """
    if updates.empty:
        if rows.empty or not (rows["status"] == "collapsed").any():
            return "No run of GraphMERT collapsed here: there is none to repeat."
        return not_measured("a collapse repeated in another precision")
    said, collapsed = [], set()
    for (precision, start), part in updates.groupby(REPEAT, sort=False):
        cosine = part["cosine"]
        before, after = cosine.iloc[:50].mean(), cosine.iloc[-50:].mean()
        fell = after < before / 2
        if fell:
            collapsed.add(precision)
        peak = part.loc[part["gradient_norm"].idxmax()]
        said.append(
            f"{repeat_name(precision, start)} {'collapses' if fell else 'does not'} "
            f"(training cosine {before:.3f} in the first 50 of these updates, "
            f"{after:.3f} in the last 50; largest gradient norm "
            f"{peak['gradient_norm']:.3g}, at update {peak['update']:,.0f})"
        )
    usual = updates["gradient_norm"].median()
    blame = (
        "Float32 collapses too, so the rounding of these updates is not to blame; "
        "whether float32 from the beginning would come here is not measured."
        if "32-true" in collapsed
        else "Only bfloat16 collapses here: it may be what it takes."
    )
    return (
        f"**Update by update:** {'; '.join(said)}. {blame} The usual norm is "
        f"{usual:.2g}: clipping at {GRADIENT_NORM_LIMIT:g}, as reported, lets through "
        f"what is {GRADIENT_NORM_LIMIT / usual:,.0f} times as large."
    )
