"""What a study says beyond the ranking: contrasts, curves, leads, probabilities.

Functions take tables of `load_study` and return a table, sentences, or both. Runs may
be missing: then the table is empty and the sentence says what is not measured yet.
`everything` is a whole study, `runs` its main runs (`summary.main_runs`), `reported` a
study under the original protocol (empty if there is none).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.comparison import (
    BASELINES,
    PAIRED_BASELINES,
    compare,
    compare_sizes,
    over_baseline,
    paired_differences,
    registered,
    scores_by_size,
)
from lvmlib.pages.report import signed, span
from lvmlib.pages.summary import (
    ARMS,
    alone,
    headline_sizes,
    main_runs,
    sides,
    verdicts,
)
from lvmlib.runs import RunError
from lvmlib.scaling import ResampledCurve, percentiles, resample_curves
from lvmlib.statistics import Interval, clustered_interval, format_interval, holm
from lvmlib.study import load_study, missing_runs, read_plan

SURE = 0.95  # the probability of beating another that a decided pair needs
STORIES = {
    "cosine": "cosine",
    "contrastive accuracy": "contrastive",
    "R@10, same document": lambda scores: (scores["rank_document"] <= 10) * 1.0,
    "MRR, all": lambda scores: 1 / scores["rank_all"],
}


def not_measured(what: str) -> str:
    """Return the one line that stands where runs are missing."""
    return f"*Not measured yet:* {what}."


def read_reported(folder: str | Path, everything: pd.DataFrame) -> pd.DataFrame:
    """Read the study under the original protocol; no rows if it has no runs yet.

    A study that is itself under that protocol needs no other.

    Raises
    ------
    RunError
        If its runs are on other vectors than `everything`.
    """
    if set(everything["protocol"]) == {"as_reported"}:
        return everything
    if not folder or not any(Path(folder).rglob("run.json")):
        return everything[:0]
    reported = load_study(folder)
    if set(reported["dataset_sha256"]) != set(everything["dataset_sha256"]):
        raise RunError(
            f"{folder} is on {reported['dataset'].iloc[0]}, the study on "
            f"{everything['dataset'].iloc[0]}: give runs on the same vectors."
        )
    return reported


def missing(study: str | Path) -> list[str]:
    """Say which planned runs are missing and why; many of one entry in one word."""
    runs, plan = missing_runs(study), read_plan(study)
    waiting = [run for run in runs if not run["started"]]
    said = []
    if len(waiting) > 5:
        runs = [run for run in runs if run["started"]]
        counts = Counter(run["label"].split(", ")[0] for run in waiting)
        names = ", ".join(f"{entry} ({n})" for entry, n in counts.items())
        said = [
            f"**Missing:** {len(waiting)} of {len(plan)} planned runs are not started: "
            f"{names}."
        ]
    return said + [f"**Missing:** {r['label']}. Reason: {r['reason']}" for r in runs]


def plan_changes(plan: str | Path) -> str:
    """Return what a registered plan (Markdown) lists under "Changes to the plan".

    Raises
    ------
    RunError
        If the file has no such section.
    """
    if not plan:
        return "This study has no registered plan."
    _, found, rest = Path(plan).read_text().partition("\n## Changes to the plan\n")
    if not found:
        raise RunError(f"{plan} has no section “## Changes to the plan”: add one.")
    return rest.partition("\n## ")[0].strip()


def interval_text(interval: Interval | None) -> str:
    """Format an interval, or a dash where there is none."""
    return "—" if interval is None else format_interval(interval, digits=4)


def _p_value(p: float) -> str:
    if not np.isfinite(p):
        return "—"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def listed(words: list[str]) -> str:
    """Join words by commas; no word is "none"."""
    return ", ".join(words) if words else "none"


# --- does more data help? ----------------------------------------------------------


def contrasts(everything: pd.DataFrame) -> pd.DataFrame:
    """Compare the headline sizes at equal epochs and at equal updates.

    Sides as in `summary.sides`; Holm's correction is made within each arm.

    Returns
    -------
    DataFrame
        Rows of `compare_sizes`, with `arm` and `updates`, those of the smaller and of
        the larger size.
    """
    runs = main_runs(everything)
    small, large = headline_sizes(runs)
    before, arms = sides(everything)
    tables = []
    for arm, after in arms.items() if small < large else ():
        table = compare_sizes(pd.concat([before, after]), small, large)
        pairs = before.merge(after, on=["entry", "seed"]).groupby("entry")
        updates = pairs[["steps_x", "steps_y"]].mean()
        table["updates"] = [
            "{:,.0f} → {:,.0f}".format(*updates.loc[entry]) for entry in table["entry"]
        ]
        tables.append(table.assign(arm=ARMS[arm]))
    columns = ["arm", "entry", "small", "large", "updates", "interval", "adjusted_p"]
    both = [table for table in tables if len(table)]
    columns += ["verdict"]
    return pd.concat(both)[columns] if both else pd.DataFrame(columns=columns)


def contrast_title(small: int, large: int) -> str:
    """Return what stands above the contrasts' figure and table."""
    return f"Test cosine: {large:,} minus {small:,} training vectors"


def contrast_table(changes: pd.DataFrame, small: int, large: int) -> pd.DataFrame:
    """Format what `contrasts` returns."""
    p_values = changes["adjusted_p"].map(_p_value)
    return pd.DataFrame(
        {
            "training": changes["arm"],
            "entry": changes["entry"],
            f"{small:,}": changes["small"].map("{:.4f}".format),
            f"{large:,}": changes["large"].map("{:.4f}".format),
            "change, 95% interval": changes["interval"].map(interval_text),
            "verdict": changes["verdict"],
            "seeds": [interval.seeds for interval in changes["interval"]],
            "p (Holm)": p_values,
            "updates": changes["updates"],
        }
    )


def contrast_said(changes: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Say for each arm which verdicts there are, and which entries have none."""
    small, large = headline_sizes(runs)
    several = runs[runs["planned_seeds"] > 1]  # others are not asked for a verdict
    asked = (runs if several.empty else several)["entry"].unique()
    said = []
    for arm in ARMS.values():
        part = changes[changes["arm"] == arm]
        if part.empty:
            lack = f"runs at both {small:,} and {large:,} vectors with a common seed"
            said.append(not_measured(f"{arm} ({lack})"))
            continue
        found = f"At {arm}, from {small:,} to {large:,} vectors: "
        said.append(f"{found}**{verdicts(registered(part))}**.{alone(part)}")
        others = [entry for entry in asked if entry not in set(part["entry"])]
        if others:
            said.append(not_measured(f"{arm} of {', '.join(others)}"))
    return " ".join(said)


# --- learning curves ---------------------------------------------------------------

CURVE_SIZES = 4  # that a power law needs, one more than it has parameters


def fit_curves(
    runs: pd.DataFrame, baselines: Sequence[str] = ("ridge",)
) -> dict[str, dict[str, ResampledCurve]]:
    """Fit both forms to the baselines and to every entry with four sizes.

    Runs whose training failed are left out.
    """
    curves = {}
    for name in [*runs["entry"].unique(), *baselines]:
        scores, documents = scores_by_size(runs, name)
        if len(scores) >= CURVE_SIZES:
            curves[name] = resample_curves(scores, documents)
    return curves


def network_curves(
    curves: dict[str, dict[str, ResampledCurve]],
) -> dict[str, dict[str, ResampledCurve]]:
    """Leave ridge's curve out of what `fit_curves` returns."""
    return {name: forms for name, forms in curves.items() if name not in BASELINES}


def curve_table(curves: dict[str, dict[str, ResampledCurve]]) -> pd.DataFrame:
    """Return parameters with intervals, the gain at ten times the data, and checks."""
    rows = []
    for entry, forms in curves.items():
        for form, curve in forms.items():
            low, high = curve.interval("gain")
            fit = curve.fit
            flags = [] if fit.converged else ["not converged"]
            flags += ["starts disagree"] if fit.agreeing < fit.starts / 2 else []
            flags += [f"{name} at its bound" for name in fit.at_bound]
            rows.append(
                {
                    "entry": entry,
                    "form": form,
                    "parameters, 95% interval": _parameters(curve),
                    "ten times more data": f"{signed(fit.gain(), 4)} "
                    f"[{signed(low, 4)}, {signed(high, 4)}]",
                    "test cosine then": f"{fit.reach():.4f}",
                    "beware": ", ".join(flags) or "—",
                    "held-out error": signed(curve.held_out_error, 4)
                    if np.isfinite(curve.held_out_error)
                    else "—",
                    "residual": f"{fit.residual:.2%}",
                    "convergence": f"{fit.agreeing} of {fit.starts} starts, "
                    f"{curve.draws['converged'].mean():.0%} of refits",
                }
            )
    return pd.DataFrame(rows)


def _parameters(curve: ResampledCurve) -> str:
    parts = []
    for name, value in curve.fit.parameters.items():
        if np.isfinite(value):
            low, high = curve.interval(name)
            parts.append(f"{name} {value:.3g} [{low:.3g}, {high:.3g}]")
    return "; ".join(parts)


def curve_said(runs: pd.DataFrame, curves: dict[str, dict[str, ResampledCurve]]) -> str:
    """Say what ten times more data would buy, how far to trust it, and what lacks.

    A paragraph an entry, in Markdown.
    An interval is taken for too narrow when the form, fitted without the largest size,
    missed that size by more than half the interval's width.
    """
    said = []
    for entry, forms in curves.items():
        gains, missed = [], []
        for form, curve in forms.items():
            low, high = curve.interval("gain")
            if abs(curve.held_out_error) > (high - low) / 2:
                missed.append(f"{form} by {signed(curve.held_out_error, 4)}")
            flag = "" if curve.fit.is_sure else ", unsure"
            gains.append(
                f"{signed(curve.fit.gain())} [{signed(low)}, {signed(high)}] "
                f"({form}{flag})"
            )
        largest = next(iter(forms.values())).fit.largest
        said.append(
            f"**{entry}:** ten times more than {largest:,.0f} vectors would add "
            f"{' or '.join(gains)} to the test cosine."
        )
        if missed:
            said[-1] += (
                f" Fitted without the largest size, it is missed ({listed(missed)}) by "
                "more than half the interval's width: the interval is too narrow."
            )
        elif not np.isfinite(curve.held_out_error):
            said[-1] += (
                " With four sizes no form can be tried on one it was not fitted to."
            )
    if network_curves(curves) and "ridge" in curves:
        said += filter(None, [_best_and_ridge(curves)])
    short = [entry for entry in runs["entry"].unique() if entry not in curves]
    if short:
        said.append(not_measured(f"{', '.join(short)} (a curve needs four sizes)"))
    return "\n\n".join(said)


def _best_and_ridge(curves: dict[str, dict[str, ResampledCurve]]) -> str:
    """Say where the best network and ridge would be with ten times more data.

    Of the networks whose fit is sure; nothing of a form that has none.
    """
    said = []
    for form in next(iter(curves.values())):
        laws = {name: forms[form] for name, forms in curves.items()}
        ridge = laws.pop("ridge")
        laws = {name: curve for name, curve in laws.items() if curve.fit.is_sure}
        if not laws:
            continue
        top = max(laws, key=lambda name: laws[name].fit.reach())
        apart = laws[top].fit.reach() - ridge.fit.reach()
        paired = laws[top].draws["reach"] - ridge.draws["reach"]
        low, high = percentiles(paired, ridge.level)
        said.append(
            f"by the {form} the best of the networks with a sure fit, {top}, would "
            f"then have {laws[top].fit.reach():.4f} and ridge {ridge.fit.reach():.4f} "
            f"({signed(apart, 4)} [{signed(low, 4)}, {signed(high, 4)}])"
        )
    text = "; ".join(said)
    return f"{text[:1].upper()}{text[1:]}." if said else ""


# --- networks against baselines, and against each other -----------------------------


def over_baselines(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return every network's lead over six numbers and over ridge, by size."""
    rows, leads = [], []
    for (entry, size), cell in runs.groupby(["entry", "size"], sort=False):
        six, ridge = (over_baseline(cell, name) for name in PAIRED_BASELINES)
        leads.append((entry, size, six, ridge))
        rows.append(
            {
                "entry": entry,
                "vectors": f"{size:,}",
                "test cosine": f"{cell['test_cosine'].mean():.4f}",
                "minus six numbers": interval_text(six),
                "minus ridge": interval_text(ridge),
                "seeds": six.seeds,
            }
        )
    said = []
    for size in dict.fromkeys(headline_sizes(runs)):
        cell = [(e, six, ridge) for e, at, six, ridge in leads if at == size]
        if not cell:
            said.append(not_measured(f"any network at {size:,} vectors"))
            continue
        above = [entry for entry, _, ridge in cell if ridge.low > 0]
        below = [entry for entry, _, ridge in cell if ridge.high < 0]
        said.append(
            f"At {size:,} vectors the networks differ from six fitted numbers by "
            f"{span(six.estimate for _, six, _ in cell)}. Beyond the uncertainty, "
            f"above ridge: {listed(above)}; below it: {listed(below)}."
        )
    return pd.DataFrame(rows), " ".join(said)


def superiority(
    runs: pd.DataFrame, size: int, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Ask of every two networks which is better, over seeds and documents.

    The probability is a hierarchical bootstrap's (arXiv 2103.03098): draw a seed, then
    as many documents as the exam has, with replacement; ties count half. One seed a
    draw, not a mean over seeds: the question is which of two models wins that are each
    trained once. Seeds are paired, since a seed gives both architectures the same
    training documents. Entries whose training failed are left out.

    Few seeds that agree make a probability of 1, whatever the next would do. So a pair
    is `decided` only if, besides, it has two seeds and its mean difference is no zero
    by Holm's correction over such pairs, as in the ranking.

    Returns
    -------
    DataFrame
        Two rows a pair, each the other's mirror, in the study's order: better, worse,
        probability that `better` beats `worse`, seeds in common, adjusted_p (NaN with
        one seed), decided.
    """
    cell = runs[(runs["size"] == size) & (runs["status"] == "trained")]
    groups = dict(list(cell.groupby("entry", sort=False)))
    rows = []
    for a, b in combinations(groups, 2):
        if not set(groups[a]["seed"]) & set(groups[b]["seed"]):
            continue
        differences, documents = paired_differences(groups[a], groups[b])
        share = _win_share(differences, documents, resamples, seed)
        p = clustered_interval(differences, documents).p_value
        seeds = len(differences)
        rows.append((a, b, share, seeds, p if seeds > 1 else np.nan))
    columns = ["better", "worse", "probability", "seeds", "adjusted_p"]
    pairs = pd.DataFrame(rows, columns=columns)
    several = pairs["seeds"] > 1
    pairs.loc[several, "adjusted_p"] = holm(pairs["adjusted_p"][several])
    mirror = pairs.rename(columns={"better": "worse", "worse": "better"})
    mirror["probability"] = 1 - mirror["probability"]
    both = pd.concat([pairs, mirror], ignore_index=True)
    certain = both["adjusted_p"] < 1 - SURE
    return both.assign(decided=certain & (both["probability"] > SURE))


def _win_share(
    differences: np.ndarray, documents: np.ndarray, resamples: int, seed: int
) -> float:
    """Share of draws with a mean above zero; averaged over seeds, not drawn."""
    names, inverse = np.unique(documents, return_inverse=True)
    sums = np.stack([np.bincount(inverse, row) for row in differences])  # (S, J)
    windows = np.bincount(inverse)
    even = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(seed).multinomial(len(names), even, resamples)
    means = (draws @ sums.T) / (draws @ windows)[:, None]  # (resamples, S)
    return float(((means > 0) + 0.5 * (means == 0)).mean())


def superiority_table(pairs: pd.DataFrame) -> pd.DataFrame:
    """Format what `superiority` returns; rows and columns in the study's order."""
    if pairs.empty:
        return pd.DataFrame()
    matrix = pairs.set_index(["better", "worse"])["probability"].unstack()
    order = list(dict.fromkeys([*pairs["better"], *pairs["worse"]]))
    text = matrix.loc[order, order].map(lambda p: "—" if np.isnan(p) else f"{p:.2f}")
    text.columns.name = None
    return text.rename_axis("P(row beats column)").reset_index()


def superiority_said(pairs: pd.DataFrame, size: int) -> str:
    """Say which pairs are decided, and why others that look so are not."""
    if pairs.empty:
        return not_measured(f"two trained networks at {size:,} vectors")
    decided, few, single = [], [], []
    for pair in pairs[pairs["probability"] > SURE].itertuples():
        over, p = f"{pair.better} over {pair.worse}", f"{pair.probability:.2f}"
        if pair.decided:
            decided.append(f"{pair.better} beats {pair.worse} ({p})")
        elif pair.seeds > 1:
            few.append(f"{over} ({p}, p = {pair.adjusted_p:.3f})")
        else:
            single.append(over)
    said = (
        f"At {size:,} vectors {len(decided)} of {len(pairs) // 2} pairs are decided"
        f"{': ' if decided else ''}{'; '.join(decided)}."
    )
    if few:
        said += (
            f" Above {SURE}, but their few seeds leave the mean difference uncertain: "
        )
        said += f"{'; '.join(few)}."
    if single:
        said += f" Above {SURE} on one seed, which another could turn: "
        said += f"{'; '.join(single)}."
    return said


def stories(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Ask whether other scores change with the data in the same direction as cosine."""
    small, large = headline_sizes(runs)
    rows, said = [], {"agree": [], "disagree": [], "undecided": []}
    for entry, group in runs.groupby("entry", sort=False):
        before, after = (group[group["size"] == size] for size in (small, large))
        if small == large or not set(before["seed"]) & set(after["seed"]):
            continue
        found = {name: compare(after, before, s) for name, s in STORIES.items()}
        first, *others = (np.sign(i.low) + np.sign(i.high) for i in found.values())
        directions = {"agree": all(first * o > 0 for o in others)}
        directions["disagree"] = any(first * o < 0 for o in others)
        said[next((k for k, true in directions.items() if true), "undecided")].append(
            entry
        )
        seeds = {"seeds": found["cosine"].seeds}
        texts = {name: interval_text(i) for name, i in found.items()}
        rows.append({"entry": entry} | texts | seeds)
    if not rows:
        lack = f"runs at both {small:,} and {large:,} vectors with a common seed"
        return pd.DataFrame(), not_measured(lack)
    return pd.DataFrame(rows), (
        f"From {small:,} to {large:,} vectors all other scores move with cosine beyond "
        f"the uncertainty for: {listed(said['agree'])}; one moves against it for: "
        f"{listed(said['disagree'])}; undecided, since an interval includes zero: "
        f"{listed(said['undecided'])}."
    )
