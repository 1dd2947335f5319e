"""What a study says beyond the ranking: contrasts, curves, causes, hypotheses.

Functions take tables of `load_study` and return a table, sentences, or both. Runs may
be missing: then the table is empty and the sentence says what is not measured yet.
`everything` is a whole study, `runs` its main runs (`summary.main_runs`), `reported` a
study under the original protocol (empty if there is none).
"""

from __future__ import annotations

from collections import Counter
from html import escape
from itertools import combinations
from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.comparison import (
    compare,
    compare_sizes,
    over_baseline,
    registered,
    window_scores,
)
from lvmlib.parameters import model_options
from lvmlib.report import signed, span
from lvmlib.runs import RunError, load_run
from lvmlib.scaling import ResampledCurve, resample_curves
from lvmlib.statistics import Interval, clustered_interval, format_interval
from lvmlib.study import load_study, missing_runs, read_plan
from lvmlib.summary import REPORTED_SIZES, headline_sizes, main_runs
from lvmlib.training import LEVEL_TOLERANCE

ARMS = {"epochs": "equal epochs", "steps": "equal updates"}
CAUSES = ("other exam", "leaky split", "mixed windows", "fewer updates")
SURE = 0.95  # a probability of beating another that counts as decided
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

    Raises
    ------
    RunError
        If its runs are on other vectors than `everything`.
    """
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


def _text(interval: Interval | None) -> str:
    return "—" if interval is None else format_interval(interval, digits=4)


def _p_value(p: float) -> str:
    if not np.isfinite(p):
        return "—"
    return "< 0.0001" if p < 1e-4 else f"{p:.2g}"


def _listed(words: list[str]) -> str:
    return ", ".join(words) if words else "none"


# --- does more data help? ----------------------------------------------------------


def contrasts(everything: pd.DataFrame) -> pd.DataFrame:
    """Compare the headline sizes at equal epochs and at equal updates.

    The arm `steps` gives the larger size as many updates as the smaller one had, so its
    runs are set against the smaller size's runs of the main arm. Holm's correction is
    made within each arm.

    Returns
    -------
    DataFrame
        Rows of `compare_sizes`, with `arm` and `updates`, those of the smaller and of
        the larger size.
    """
    runs = main_runs(everything)
    small, large = headline_sizes(runs)
    before = runs[runs["size"] == small]
    arms = {runs["arm"].iloc[0]: runs[runs["size"] == large]}
    steps = everything[everything["arm"] == "steps"]
    steps = steps[steps["entry"].isin(runs["entry"]) & (steps["size"] == large)]
    arms.setdefault("steps", steps)
    tables = []
    for arm, after in arms.items() if small < large else ():
        table = compare_sizes(pd.concat([before, after]), small, large)
        updates = [cell.groupby("entry")["steps"].mean() for cell in (before, after)]
        table["updates"] = [
            f"{updates[0][entry]:,.0f} → {updates[1][entry]:,.0f}"
            for entry in table["entry"]
        ]
        tables.append(table.assign(arm=ARMS[arm]))
    columns = ["arm", "entry", "small", "large", "updates", "interval", "adjusted_p"]
    both = [table for table in tables if len(table)]
    columns += ["verdict"]
    return pd.concat(both)[columns] if both else pd.DataFrame(columns=columns)


def contrast_table(changes: pd.DataFrame, small: int, large: int) -> pd.DataFrame:
    """Format what `contrasts` returns."""
    p_values = changes["adjusted_p"].map(_p_value)
    return pd.DataFrame(
        {
            "training": changes["arm"],
            "entry": changes["entry"],
            f"{small:,}": changes["small"].map("{:.4f}".format),
            f"{large:,}": changes["large"].map("{:.4f}".format),
            "change, 95% interval": changes["interval"].map(_text),
            "verdict": changes["verdict"],
            "seeds": [interval.seeds for interval in changes["interval"]],
            "p (Holm)": p_values,
            "updates": changes["updates"],
        }
    )


def contrast_said(changes: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Say for each arm which verdicts there are, and which entries have none."""
    small, large = headline_sizes(runs)
    said = []
    for arm in ARMS.values():
        part = changes[changes["arm"] == arm]
        if part.empty:
            lack = f"runs at both {small:,} and {large:,} vectors with a common seed"
            said.append(not_measured(f"{arm} ({lack})"))
            continue
        groups = registered(part).groupby("verdict", sort=False)["entry"]
        found = "; ".join(f"**{verdict}**: {', '.join(e)}" for verdict, e in groups)
        said.append(f"At {arm}, from {small:,} to {large:,} vectors: {found}.")
        others = [e for e in runs["entry"].unique() if e not in set(part["entry"])]
        if others:
            said.append(not_measured(f"{arm} of {', '.join(others)}"))
    return " ".join(said)


# --- learning curves ---------------------------------------------------------------


def fit_curves(runs: pd.DataFrame) -> dict[str, dict[str, ResampledCurve]]:
    """Fit both forms to every entry with four sizes; failed training is left out."""
    curves = {}
    for entry, group in runs[runs["status"] == "trained"].groupby("entry", sort=False):
        scores, documents = {}, None
        for size, cell in group.groupby("size"):
            scores[size], documents = window_scores(cell)
        if len(scores) > 3:
            curves[entry] = resample_curves(scores, documents)
    return curves


def curve_table(curves: dict[str, dict[str, ResampledCurve]]) -> pd.DataFrame:
    """Return parameters with intervals, the gain at ten times the data, and checks."""
    rows = []
    for entry, forms in curves.items():
        for form, curve in forms.items():
            low, high = curve.interval("gain")
            fit = curve.fit
            flags = [] if fit.converged else ["not converged"]
            flags += [f"{name} at its bound" for name in fit.at_bound]
            rows.append(
                {
                    "entry": entry,
                    "form": form,
                    "parameters, 95% interval": _parameters(curve),
                    "ten times more data": f"{signed(fit.gain(), 4)} "
                    f"[{signed(low, 4)}, {signed(high, 4)}]",
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
    """Say what ten times more data would buy, and which entries lack sizes."""
    said = []
    for entry, forms in curves.items():
        gains = []
        for form, curve in forms.items():
            low, high = curve.interval("gain")
            flag = "" if curve.fit.converged and not curve.fit.at_bound else ", unsure"
            gains.append(
                f"{signed(curve.fit.gain())} [{signed(low)}, {signed(high)}] "
                f"({form}{flag})"
            )
        largest = next(iter(forms.values())).fit.largest
        said.append(
            f"**{entry}:** ten times more than {largest:,.0f} vectors would add "
            f"{' or '.join(gains)} to the test cosine."
        )
    short = [entry for entry in runs["entry"].unique() if entry not in curves]
    if short:
        said.append(not_measured(f"{', '.join(short)} (a curve needs four sizes)"))
    return " ".join(said)


# --- the original protocol on the same vectors --------------------------------------


def band(percent: float) -> str:
    """Return the original report's word for a change in percent."""
    if percent > 5:
        return "significant improvement"
    if percent > 0:
        return "modest improvement"
    return "similar" if percent >= -5 else "regression"


def protocols(
    reported: pd.DataFrame, everything: pd.DataFrame
) -> tuple[pd.DataFrame, str]:
    """Set the original protocol's conclusion beside that of the controlled study.

    Both on the same vectors; the original's models sit the frozen exam as well.
    """
    if reported.empty:
        return pd.DataFrame(), not_measured("runs under the original protocol")
    old, new = main_runs(reported), main_runs(everything)
    small, large = headline_sizes(old)
    frozen = compare_sizes(old, small, large).set_index("entry")
    honest = compare_sizes(new, small, large).set_index("entry")
    own = old.pivot_table("validation_cosine", "entry", "size", sort=False)
    own = own.reindex(columns=sorted({small, large})).dropna()
    if own.empty or small == large:
        lack = f"the original protocol at both {small:,} and {large:,} vectors"
        return pd.DataFrame(), not_measured(lack)
    own["percent"] = 100 * (own[large] / own[small] - 1)
    rows = []
    for entry, score in own.iterrows():
        row = {"architecture": entry}
        own_exam = f"{score[small]:.4f} → {score[large]:.4f}"
        row["own exam"] = f"{own_exam} ({signed(score['percent'], 2)}%)"
        row["the original's word"] = band(score["percent"])
        row["controlled study"] = _text(honest["interval"].get(entry))
        row["its verdict"] = honest["verdict"].get(entry, "not measured yet")
        row["original's models, frozen exam"] = _text(frozen["interval"].get(entry))
        rows.append(row)
    both = frozen.index.intersection(own.index)
    up = [e for e in both if frozen.loc[e, "interval"].low > 0]
    words = own["percent"].map(band).value_counts()
    said = (
        f"By the original protocol the scores change by {span(own.percent, 2)} "
        f"percent: in its words "
        f"{', '.join(f'{n} {word}' for word, n in words.items())}. On the frozen exam "
        f"the very same models gain beyond the uncertainty over documents in {len(up)} "
        f"of {len(both)} architectures ({_listed(up)}). {_exams_apart(old)}"
    )
    lack = [entry for entry in old["entry"].unique() if entry not in own.index]
    if lack:
        said += " " + not_measured(f"{', '.join(lack)} under the original protocol")
    return pd.DataFrame(rows), said


def _exams_apart(reported: pd.DataFrame) -> str:
    """Say how far the two own exams differ, by what hardly learns from more data."""
    small, large = headline_sizes(reported)
    scores = []
    for size in (small, large):
        folder = reported[reported["size"] == size]["folder"].iloc[0]
        six = load_run(folder).info["baselines"]["six_numbers"]
        scores.append((six["validation_cosine"], six["cosine"]))
    own, frozen = (after - before for before, after in zip(*scores, strict=True))
    return (
        "Six fitted numbers, which hardly learn from more data, change by "
        f"{signed(own, 4)} from one own exam to the other, and by {signed(frozen, 4)} "
        "on the frozen one."
    )


def causes(reported: pd.DataFrame, everything: pd.DataFrame) -> pd.DataFrame:
    """Isolate what separates the original protocol from the controlled one.

    Returns
    -------
    DataFrame
        Columns cause, entry, size, what, estimate, interval, seeds. Validation scores
        are kept as a mean a run, so their differences have no interval.
    """
    runs = main_runs(everything)
    main = dict(list(runs.groupby("entry", sort=False)))
    rows = _other_exam(reported, set(main))
    for entry, base in main.items():
        variants = everything[
            (everything["architecture"] == base["architecture"].iloc[0])
            & (everything["arm"] == base["arm"].iloc[0])
        ]
        for protocol, compared in (("leaky", _leaky), ("mixed", _mixed)):
            for size, cell in variants[variants["protocol"] == protocol].groupby(
                "size"
            ):
                same = base[(base["size"] == size) & base["seed"].isin(cell["seed"])]
                if len(same):
                    cell = cell[cell["seed"].isin(same["seed"])]
                    rows += compared(entry, size, cell, same)
        steps = everything[
            (everything["entry"] == entry) & (everything["arm"] == "steps")
        ]
        for size, cell in steps.groupby("size"):
            same = base[(base["size"] == size) & (base["arm"] != "steps")]
            if set(same["seed"]) & set(cell["seed"]):
                what = "test cosine: equal updates − equal epochs"
                row = ("fewer updates", entry, size, what)
                rows.append(_measured(*row, compare(cell, same)))
    columns = ["cause", "entry", "size", "what", "estimate", "interval", "seeds"]
    rows.sort(key=lambda row: CAUSES.index(row["cause"]))
    return pd.DataFrame(rows, columns=columns)


def _measured(
    cause: str, entry: str, size: int, what: str, found: Interval | np.ndarray
) -> dict:
    row = {"cause": cause, "entry": entry, "size": size, "what": what}
    if isinstance(found, Interval):
        return row | {
            "estimate": found.estimate,
            "interval": found,
            "seeds": found.seeds,
        }
    return row | {"estimate": found.mean(), "interval": None, "seeds": len(found)}


def _other_exam(reported: pd.DataFrame, entries: set[str]) -> list[dict]:
    rows = []
    old = main_runs(reported) if len(reported) else reported
    for (entry, size), cell in old.groupby(["entry", "size"], sort=False):
        if entry in entries:
            gap = (cell["validation_cosine"] - cell["test_cosine"]).to_numpy()
            what = "original protocol: own exam − frozen exam"
            rows.append(_measured("other exam", entry, size, what, gap))
    return rows


def _leaky(
    entry: str, size: int, leaky: pd.DataFrame, same: pd.DataFrame
) -> list[dict]:
    leaky, same = leaky.sort_values("seed"), same.sort_values("seed")
    lead = [_validation_lead(cell) for cell in (leaky, same)]
    what = "validation lead over six numbers: leaky − controlled"
    rows = [_measured("leaky split", entry, size, what, lead[0] - lead[1])]
    for name, cell in (("leaky", leaky), ("controlled", same)):
        gap = (cell["validation_cosine"] - cell["test_cosine"]).to_numpy()
        what = f"{name}: validation − test cosine"
        rows.append(_measured("leaky split", entry, size, what, gap))
    return rows


def _validation_lead(runs: pd.DataFrame) -> np.ndarray:
    """Return validation cosine − that of six numbers, a run each.

    Windows that are easier, but not leaked, raise both; six numbers cannot memorise.
    """
    six = [
        load_run(folder).info["baselines"]["six_numbers"]["validation_cosine"]
        for folder in runs["folder"]
    ]
    return runs["validation_cosine"].to_numpy() - np.array(six)


def _mixed(
    entry: str, size: int, mixed: pd.DataFrame, same: pd.DataFrame
) -> list[dict]:
    what = "test cosine: windows across documents − within"
    return [_measured("mixed windows", entry, size, what, compare(mixed, same))]


def cause_table(found: pd.DataFrame) -> pd.DataFrame:
    """Format what `causes` returns."""
    return pd.DataFrame(
        {
            "cause": found["cause"],
            "entry": found["entry"],
            "vectors": found["size"].map("{:,}".format),
            "what is compared": found["what"],
            "difference, 95% interval": [
                _text(interval) if interval else signed(estimate, 4)
                for interval, estimate in zip(
                    found["interval"], found["estimate"], strict=True
                )
            ],
            "seeds": found["seeds"],
        }
    )


def cause_said(found: pd.DataFrame) -> str:
    """Say how large each cause's effect is, and which causes are not measured."""
    said = []
    first = found.groupby("cause", sort=False)["what"].first()
    for cause, what in first.items():
        part = found[found["what"] == what]
        said.append(
            f"**{cause.capitalize()}** ({what}): {span(part['estimate'], 4)}, "
            f"{', '.join(part['entry'].unique())}."
        )
    lack = [cause for cause in CAUSES if cause not in first.index]
    if lack:
        said.append(not_measured(f"the causes {', '.join(lack)}"))
    return " ".join(said)


# --- networks against baselines, and against each other -----------------------------


def over_baselines(runs: pd.DataFrame) -> tuple[pd.DataFrame, str]:
    """Return every network's lead over six numbers and over ridge, by size."""
    rows, leads = [], []
    for (entry, size), cell in runs.groupby(["entry", "size"], sort=False):
        six, ridge = (over_baseline(cell, name) for name in ("six_numbers", "ridge"))
        leads.append((entry, size, six, ridge))
        rows.append(
            {
                "entry": entry,
                "vectors": f"{size:,}",
                "test cosine": f"{cell['test_cosine'].mean():.4f}",
                "minus six numbers": _text(six),
                "minus ridge": _text(ridge),
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
            f"above ridge: {_listed(above)}; below it: {_listed(below)}."
        )
    return pd.DataFrame(rows), " ".join(said)


def superiority(
    runs: pd.DataFrame, size: int, resamples: int = 2000, seed: int = 0
) -> pd.DataFrame:
    """Return P(row beats column), over seeds and documents (arXiv 2103.03098).

    A hierarchical bootstrap: draw a seed, then as many documents as the exam has, with
    replacement; ties count half. One seed a draw, not a mean over seeds: the question
    is which of two models wins that are each trained once. Seeds are paired, since a
    seed gives both architectures the same training documents. Entries whose training
    failed are left out. NaN: no common seed.
    """
    cell = runs[(runs["size"] == size) & (runs["status"] == "trained")]
    groups = dict(list(cell.groupby("entry", sort=False)))
    matrix = pd.DataFrame(np.nan, index=list(groups), columns=list(groups))
    for a, b in combinations(groups, 2):
        seeds = sorted(set(groups[a]["seed"]) & set(groups[b]["seed"]))
        if not seeds:
            continue
        pair = [groups[entry].set_index("seed").loc[seeds] for entry in (a, b)]
        (one, documents), (other, _) = (window_scores(side) for side in pair)
        share = _win_share(one - other, documents, resamples, seed)
        matrix.loc[a, b], matrix.loc[b, a] = share, 1 - share
    return matrix


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


def superiority_table(matrix: pd.DataFrame) -> pd.DataFrame:
    """Format what `superiority` returns; rows and columns in the study's order."""
    if len(matrix) < 2:
        return pd.DataFrame()
    text = matrix.map(lambda p: "—" if np.isnan(p) else f"{p:.2f}")
    return text.rename_axis("P(row beats column)").reset_index()


def superiority_said(matrix: pd.DataFrame, runs: pd.DataFrame, size: int) -> str:
    """Say which pairs are decided, and how many are not."""
    if len(matrix) < 2:
        return not_measured(f"two trained networks at {size:,} vectors")
    sure = [(a, b) for a in matrix for b in matrix if matrix.loc[a, b] > SURE]
    pairs = int(matrix.notna().to_numpy().sum()) // 2
    won = "; ".join(f"{a} beats {b} ({matrix.loc[a, b]:.2f})" for a, b in sure)
    seeds = runs[(runs["size"] == size) & runs["entry"].isin(matrix.index)]
    counts = seeds.groupby("entry")["seed"].nunique()
    text = (
        f"At {size:,} vectors {len(sure)} of {pairs} pairs are decided at "
        f"{SURE:.0%}{': ' + won if won else ''}."
    )
    if counts.min() < 2:
        text += f" One seed only ({', '.join(counts.index[counts < 2])}): another seed "
        text += "could turn those pairs."
    return text


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
        texts = {name: format_interval(i) for name, i in found.items()}
        rows.append({"entry": entry} | texts | seeds)
    if not rows:
        lack = f"runs at both {small:,} and {large:,} vectors with a common seed"
        return pd.DataFrame(), not_measured(lack)
    return pd.DataFrame(rows), (
        f"From {small:,} to {large:,} vectors all other scores move with cosine beyond "
        f"the uncertainty for: {_listed(said['agree'])}; one moves against it for: "
        f"{_listed(said['disagree'])}; undecided, since an interval includes zero: "
        f"{_listed(said['undecided'])}."
    )


# --- GraphMERT, and the rates ------------------------------------------------------


def graphmert_runs(everything: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Return the GraphMERT runs of both studies with what became of each.

    Adds the recipe (warmup, mask), the constant-mean `level`, and epochs: of the best
    training cosine (`peak`), of the fall back to the level (`fell`: NaN if it did not)
    and of the largest gradient norm (`steepest`).
    """
    rows = []
    for runs in (reported, everything):
        for row in runs[runs["architecture"] == "graphmert"].to_dict("records"):
            run = load_run(row["folder"])
            history, used = run.history.set_index("epoch"), run.info["parameters"]
            level = run.info["training_mean_cosine"]
            cosine, norms = history["train_cosine"], history["gradient_norm_max"]
            fell = fall(cosine, level)
            rows.append(
                row
                | {"warmup": used["warmup"], "level": level, "history": history}
                | {"mask": used.get("mask", model_options("graphmert")["mask"])}
                | {"peak": cosine.idxmax(), "peak_cosine": cosine.max()}
                | {"fell": fell, "fell_step": history["step"].get(fell, np.nan)}
                | {"steepest": norms.idxmax(), "norm": norms.max()}
            )
    unique = pd.DataFrame(rows)
    return unique.drop_duplicates("folder") if rows else unique


def fall(cosine: pd.Series, level: float) -> float:
    """Return the epoch when the training cosine fell back to the level; NaN if not."""
    at_level = cosine <= level + LEVEL_TOLERANCE
    after = at_level & (~at_level).cummax()
    return float(after.idxmax()) if after.any() else float("nan")


def graphmert_table(rows: pd.DataFrame) -> pd.DataFrame:
    """Format what `graphmert_runs` returns."""
    if rows.empty:
        return rows
    digits = "{:.4f}".format
    peaks = zip(rows["peak_cosine"].map(digits), rows["peak"], strict=True)
    falls = zip(rows["fell"], rows["fell_step"], strict=True)
    norms = zip(rows["norm"], rows["steepest"], strict=True)
    return pd.DataFrame(
        {
            "entry": rows["entry"],
            "vectors": rows["size"].map("{:,}".format),
            "status": rows["status"],
            "fell back at epoch (by update)": [
                "—" if np.isnan(e) else f"{e:.0f} ({step:,.0f})" for e, step in falls
            ],
            "best training cosine (epoch)": [f"{c} ({e})" for c, e in peaks],
            "last": [digits(h["train_cosine"].iloc[-1]) for h in rows["history"]],
            "constant mean": rows["level"].map(digits),
            "largest gradient norm (epoch)": [f"{n:.3g} ({e})" for n, e in norms],
            "test cosine": rows["test_cosine"].map(digits),
            "warm-up": rows["warmup"].map("{:.0%}".format),
            "mask": rows["mask"],
            "precision": rows["precision"],
            "protocol": rows["protocol"].str.replace("_", " "),
        }
    )


def graphmert_said(rows: pd.DataFrame, everything: pd.DataFrame) -> str:
    """Say which versions collapsed, what the changes did, and whether it scales."""
    if rows.empty:
        return not_measured("any GraphMERT run")
    said = []
    for status, part in rows.groupby("status", sort=False):
        names = [f"{r.entry} at {r.size:,} ({r.protocol})" for r in part.itertuples()]
        said.append(f"**{status.capitalize()}:** {', '.join(names)}.")
    own = everything[everything["architecture"] == "graphmert"]
    plain = own[own["entry"] == "graphmert"]
    for (entry, size), cell in own.groupby(["entry", "size"], sort=False):
        same = plain[(plain["size"] == size) & (plain["entry"] != entry)]
        if set(same["seed"]) & set(cell["seed"]):
            found = compare(cell, same)
            said.append(
                f"At {size:,} vectors {entry} differs from graphmert by {_text(found)} "
                f"in test cosine ({found.seeds} seed{'s' if found.seeds > 1 else ''})."
            )
    small, large = headline_sizes(everything)
    changes = compare_sizes(own, small, large)
    for row in changes.itertuples() if small < large else ():
        said.append(
            f"From {small:,} to {large:,} vectors {row.entry} changes by "
            f"{_text(row.interval)}: {row.verdict}."
        )
    if changes.empty or small == large:
        said.append(not_measured(f"a GraphMERT at both {small:,} and {large:,}"))
    return " ".join(said)


def rates(everything: pd.DataFrame) -> pd.DataFrame:
    """Compare other learning rates with the registered one at the largest size.

    By validation cosine, paired by seed. Columns entry, registered, rate, difference,
    seeds, and `spread`, the standard deviation over the registered entry's seeds.
    """
    runs = main_runs(everything)
    _, large = headline_sizes(runs)
    rows = []
    for entry, base in runs[runs["size"] == large].groupby("entry", sort=False):
        alike = everything["entry"] != entry
        for column in ("architecture", "protocol", "arm", "size"):
            alike &= everything[column] == base[column].iloc[0]
        own = _rate(base)
        for _, cell in everything[alike].groupby("entry", sort=False):
            common = set(cell["seed"]) & set(base["seed"])
            if not common or _rate(cell) == own:
                continue
            sides = [side[side["seed"].isin(common)] for side in (cell, base)]
            other, same = (side["validation_cosine"].mean() for side in sides)
            row = {"entry": entry, "registered": own, "rate": _rate(cell)}
            row |= {"difference": other - same, "seeds": len(common)}
            rows.append(row | {"spread": base["validation_cosine"].std()})
    columns = ["entry", "registered", "rate", "difference", "seeds", "spread"]
    return pd.DataFrame(rows, columns=columns)


def _rate(runs: pd.DataFrame) -> float:
    return load_run(runs["folder"].iloc[0]).info["parameters"]["learning_rate"]


def rate_table(found: pd.DataFrame) -> pd.DataFrame:
    """Format what `rates` returns."""
    table = found.assign(
        difference=found["difference"].map(lambda x: signed(x, 4)),
        spread=found["spread"].map("{:.4f}".format).replace("nan", "—"),
    )
    names = {"registered": "registered rate", "rate": "other rate"}
    names |= {"difference": "validation cosine: other − registered"}
    return table.rename(columns=names | {"spread": "deviation between seeds"})


def rate_said(found: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Say for which entries another rate was better than the registered one."""
    _, large = headline_sizes(runs)
    if found.empty:
        return not_measured(f"another learning rate at {large:,} vectors")
    said = []
    for entry, part in found.groupby("entry", sort=False):
        best = part.loc[part["difference"].idxmax()]
        change = f"{signed(best['difference'], 4)} in validation cosine"
        said.append(
            f"**{entry}:** at {large:,} vectors the best of {len(part)} other rates, "
            f"{best['rate']:g}, gives {change} against the registered "
            f"{best['registered']:g}."
        )
    return " ".join(said)


# --- the four hypotheses ------------------------------------------------------------


def hypotheses(
    everything: pd.DataFrame,
    curves: dict[str, dict[str, ResampledCurve]],
) -> pd.DataFrame:
    """Return the original report's four explanations with what these runs say."""
    runs = main_runs(everything)
    changes = contrasts(everything)
    changes = registered(changes[changes["arm"] == ARMS["epochs"]])
    rows = [
        (
            "1. Diversity of the data matters more than its quantity",
            f"not measured: every vector here is from one source "
            f"({escape(runs['dataset'].iloc[0])}).",
        ),
        (
            "2. The models have reached the limit of their capacity",
            f"{_about_capacity(runs, changes)} {_about_gains(curves)}",
        ),
        ("3. The larger set needs other hyperparameters", _about_rates(everything)),
        (
            "4. The task is simple: 80k examples already cover it",
            f"{_about_enough(runs, changes)} {_about_gains(curves)}",
        ),
    ]
    return pd.DataFrame(rows, columns=["hypothesis", "these runs say"])


def _about_capacity(runs: pd.DataFrame, changes: pd.DataFrame) -> str:
    text = "not measured: no architecture was trained at two capacities."
    sizes = runs.groupby("entry")["parameters"].first().reindex(changes["entry"])
    if sizes.nunique() < 2:
        return text
    ends = [
        f"{entry} ({sizes[entry] / 1e6:.1f} million parameters) "
        f"{_text(changes.set_index('entry').loc[entry, 'interval'])}"
        for entry in (sizes.idxmin(), sizes.idxmax())
    ]
    return f"{text} Across architectures, more data changes {' and '.join(ends)}."


def _about_gains(curves: dict[str, dict[str, ResampledCurve]]) -> str:
    if not curves:
        return "Learning curves: not measured (four sizes are needed)."
    rising = [e for e, forms in curves.items() if _gain_low(forms) > 0]
    return (
        f"Learning curves: both fitted forms still rise beyond the uncertainty for "
        f"{len(rising)} of {len(curves)} ({_listed(rising)})."
    )


def _gain_low(forms: dict[str, ResampledCurve]) -> float:
    return min(curve.interval("gain")[0] for curve in forms.values())


def _about_rates(everything: pd.DataFrame) -> str:
    found = rates(everything)
    if found.empty:
        return "not measured: each entry has one recipe at the largest size."
    best = found.groupby("entry", sort=False)["difference"].max()
    changes = ", ".join(f"{entry} {signed(d, 4)}" for entry, d in best.items())
    return (
        "tested for the learning rate: the best other rate at the largest size changes "
        f"the validation cosine by {changes}. Batch size and schedule: not measured."
    )


def _about_enough(runs: pd.DataFrame, changes: pd.DataFrame) -> str:
    small, large = headline_sizes(runs)
    if (small, large) != tuple(REPORTED_SIZES.values()):
        return f"not measured: the largest size here is {large:,} vectors."
    if changes.empty:
        return f"not measured: {small:,} against {large:,} vectors."
    if max(interval.seeds for interval in changes["interval"]) < 2:
        return "not measured: one seed gives no verdict."
    counts = changes["verdict"].value_counts()
    said = ", ".join(f"{n} {verdict}" for verdict, n in counts.items())
    return f"tested: of the architectures, {said}."


def combined_change(runs: pd.DataFrame, weights: dict[str, float]) -> Interval | None:
    """Return the interval of Σ weight · change between the headline sizes.

    None when an entry lacks a size, or no seed is common to all.
    """
    small, large = headline_sizes(runs)
    cells = [
        runs[(runs["entry"] == entry) & (runs["size"] == size)]
        for entry in weights
        for size in (small, large)
    ]
    seeds = set.intersection(*(set(cell["seed"]) for cell in cells))
    if not seeds:
        return None
    scores, documents = [], None
    for cell in cells:
        cell = cell[cell["seed"].isin(seeds)].sort_values("seed")
        values, documents = window_scores(cell)
        scores.append(values)
    changes = np.stack(scores[1::2]) - np.stack(scores[::2])  # (entries, S, W)
    factors = np.array(list(weights.values()))
    return clustered_interval(np.tensordot(factors, changes, axes=1), documents)
