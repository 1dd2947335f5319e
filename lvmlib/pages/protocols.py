"""The original protocol beside the controlled one, and each of its faults alone.

Functions take tables of `load_study`, as in `findings`: `reported` is a study under the
original protocol, `everything` the controlled one.
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from lvmlib.comparison import compare, compare_sizes
from lvmlib.pages.findings import interval_text, listed, not_measured
from lvmlib.pages.report import signed, span
from lvmlib.pages.summary import headline_sizes, main_runs
from lvmlib.runs import load_run
from lvmlib.statistics import Interval

CAUSES = ("other exam", "leaky split", "mixed windows", "fewer updates")


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

    Both on the same vectors; the original's models sit the frozen exam as well. Where
    `everything` is under the original protocol itself, nothing is set beside it.
    """
    if reported.empty:
        return pd.DataFrame(), not_measured("runs under the original protocol")
    old = main_runs(reported)
    small, large = headline_sizes(old)
    frozen = compare_sizes(old, small, large).set_index("entry")
    honest = compare_sizes(main_runs(everything), small, large).set_index("entry")
    own = old.pivot_table("validation_cosine", "entry", "size", sort=False)
    own = own.reindex(columns=sorted({small, large})).dropna()
    if own.empty or small == large:
        lack = f"the original protocol at both {small:,} and {large:,} vectors"
        return pd.DataFrame(), not_measured(lack)
    own["percent"] = 100 * (own[large] / own[small] - 1)
    both = frozen.index.intersection(own.index)
    gains = frozen.loc[both, "interval"].map(lambda interval: interval.estimate)
    hidden = gains - (own[large] - own[small])[both]
    rows = []
    for entry, score in own.iterrows():
        row = {"architecture": entry}
        own_exam = f"{score[small]:.4f} → {score[large]:.4f}"
        row["own exam"] = f"{own_exam} ({signed(score['percent'], 2)}%)"
        row["the original's word"] = band(score["percent"])
        if everything is not reported:
            row["controlled study"] = interval_text(honest["interval"].get(entry))
            row["its verdict"] = honest["verdict"].get(entry, "not measured yet")
        row["original's models, frozen exam"] = interval_text(
            frozen["interval"].get(entry)
        )
        row["hidden by the own exams"] = signed(hidden.get(entry, np.nan), 4)
        rows.append(row)
    up = [e for e in both if frozen.loc[e, "interval"].low > 0]
    words = own["percent"].map(band).value_counts()
    said = (
        f"By the original protocol the scores change by {span(own.percent, 2)} "
        f"percent: in its words "
        f"{', '.join(f'{n} {word}' for word, n in words.items())}. On the frozen exam "
        f"the very same models gain beyond the uncertainty over documents in {len(up)} "
        f"of {len(both)} architectures ({listed(up)}). "
        f"{_exams_apart(old, hidden)}"
    )
    lack = [entry for entry in old["entry"].unique() if entry not in own.index]
    if lack:
        said += " " + not_measured(f"{', '.join(lack)} under the original protocol")
    return pd.DataFrame(rows), said


def _exams_apart(reported: pd.DataFrame, hidden: pd.Series) -> str:
    """Say how much of what the own exams hide of each gain is their difficulty.

    Difficulty is judged by six fitted numbers, which hardly learn from more data.
    """
    small, large = headline_sizes(reported)
    scores = []
    for size in (small, large):
        folder = reported[reported["size"] == size]["folder"].iloc[0]
        six = load_run(folder).info["baselines"]["six_numbers"]
        scores.append((six["validation_cosine"], six["cosine"]))
    six_own, six_frozen = (
        after - before for before, after in zip(*scores, strict=True)
    )
    harder = six_frozen - six_own
    return (
        f"From one own exam to the other {span(hidden, 4)} of that gain is hidden. Six "
        "fitted numbers, which hardly learn from more data, change by "
        f"{signed(six_own, 4)} between them and by {signed(six_frozen, 4)} on the "
        f"frozen one: {signed(harder, 4)} of what is hidden is the exams' difficulty. "
        f"The rest, {span(hidden - harder, 4)}, is what an exam on its own training "
        "documents gives a network, more at one size than at the other."
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
                interval_text(interval) if interval else signed(estimate, 4)
                for interval, estimate in zip(
                    found["interval"], found["estimate"], strict=True
                )
            ],
            "seeds": found["seeds"],
        }
    )


def _effect(entry: str, cells: pd.DataFrame) -> str:
    """Say what a cause does at each size, and so to the gain from more data."""
    sizes = zip(cells["estimate"], cells["size"], strict=True)
    said = f"{entry} {listed([f'{signed(e, 4)} at {size:,}' for e, size in sizes])}"
    if len(cells) == 1:
        return said
    altered = cells["estimate"].iloc[-1] - cells["estimate"].iloc[0]
    return f"{said}, which adds {signed(altered, 4)} to what more data seems to give"


def cause_said(found: pd.DataFrame) -> str:
    """Say how large each cause's effect is, and which causes are not measured."""
    said = []
    first = found.groupby("cause", sort=False)["what"].first()
    for cause, what in first.items():
        part = found[found["what"] == what].groupby("entry", sort=False)
        effects = [_effect(entry, cells.sort_values("size")) for entry, cells in part]
        said.append(f"**{cause.capitalize()}** ({what}): {'; '.join(effects)}.")
    lack = [cause for cause in CAUSES if cause not in first.index]
    if lack:
        said.append(not_measured(f"the causes {', '.join(lack)}"))
    return " ".join(said)
