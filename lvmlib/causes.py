"""What else could explain a result: rates, arithmetic, protocols, failed trainings.

Functions take tables of `results.load_study`: `table` is a controlled study, `reported`
one under the original protocol. They return frames; an interval is three columns.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import numpy as np
import pandas as pd

from lvmlib.records import at_constant_level
from lvmlib.results import (
    best_baseline,
    compare,
    compare_sizes,
    headline_sizes,
    history,
    main_runs,
    over_baseline,
    sides,
)

DIP = 0.01  # cosine; a larger fall from one epoch to the next is no noise
# Columns of a study's table that decide a run's numbers, where it has them.
DECISIVE = ["arm", "size", "protocol", "asked_epochs", "min_steps", "batch_size"]
DECISIVE += ["learning_rate", "schedule", "warmup", "weight_decay", "patience", "mask"]
DECISIVE += ["scale", "head_start", "loss", "averaging", "context", "horizon"]
DECISIVE += ["running_mean", "layers", "clip"]


# --- the learning rate ---------------------------------------------------------------


def _at_other_rates(table: pd.DataFrame, base: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Yield the entries that differ from one size of a main entry in the rate alone."""
    first = base.iloc[0]
    alike = (table["entry"] != first["entry"]) & (
        table["learning_rate"] != first["learning_rate"]
    )
    for column in ("architecture", "protocol", "arm", "size"):
        alike &= table[column] == first[column]
    for _, cell in table[alike].groupby("entry", sort=False):
        if set(cell["seed"]) & set(base["seed"]):
            yield cell


def _best_validated(cells: list[pd.DataFrame]) -> pd.DataFrame:
    return max(cells, key=lambda cell: cell["validation_cosine"].mean())


def _rate(runs: pd.DataFrame) -> float:
    return runs["learning_rate"].iloc[0]


def rates(table: pd.DataFrame) -> pd.DataFrame:
    """Compare other learning rates with the registered one at the largest size.

    Returns
    -------
    DataFrame
        entry, registered, rate, difference (in validation cosine, other − registered,
        paired by seed), seeds, spread (the registered entry's deviation over seeds).
    """
    runs = main_runs(table)
    _, large = headline_sizes(runs)
    rows = []
    for entry, base in runs[runs["size"] == large].groupby("entry", sort=False):
        for cell in _at_other_rates(table, base):
            common = set(cell["seed"]) & set(base["seed"])
            pair = [side[side["seed"].isin(common)] for side in (cell, base)]
            other, same = (side["validation_cosine"].mean() for side in pair)
            row = {"entry": entry, "registered": _rate(base), "rate": _rate(cell)}
            row |= {"difference": other - same, "seeds": len(common)}
            rows.append(row | {"spread": base["validation_cosine"].std()})
    columns = ["entry", "registered", "rate", "difference", "seeds", "spread"]
    return pd.DataFrame(rows, columns=columns)


def contrasts_at_rates(table: pd.DataFrame) -> pd.DataFrame:
    """Return what more data changes where both headline sizes had another rate, too.

    Returns
    -------
    DataFrame
        entry, rate, registered_rate, seeds (that all four cells have), and with
        intervals `registered`, `other` (that rate at both sizes) and `better` (at each
        size what validates better of the two: better_small_rate, better_large_rate).
    """
    runs = main_runs(table)
    sizes = headline_sizes(runs)
    rows = []
    for entry, base in runs.groupby("entry", sort=False):
        own = [base[base["size"] == size] for size in sizes]
        if any(side.empty for side in own) or sizes[0] == sizes[1]:
            continue
        small, large = (
            {_rate(cell): cell for cell in _at_other_rates(table, side)} for side in own
        )
        for rate in [rate for rate in small if rate in large]:
            cells = [own[0], small[rate], own[1], large[rate]]
            seeds = set.intersection(*(set(cell["seed"]) for cell in cells))
            cells = [cell[cell["seed"].isin(seeds)] for cell in cells]
            better = [_best_validated(cells[:2]), _best_validated(cells[2:])]
            row = {"entry": entry, "rate": rate, "seeds": len(seeds)}
            row |= {"registered_rate": _rate(cells[0])}
            row |= compare(cells[2], cells[0]).columns("registered")
            row |= compare(cells[3], cells[1]).columns("other")
            row |= compare(better[1], better[0]).columns("better")
            row |= {"better_small_rate": _rate(better[0])}
            rows.append(row | {"better_large_rate": _rate(better[1])})
    return pd.DataFrame(rows)


def best_of_all_rates(table: pd.DataFrame) -> pd.Series | None:
    """Set the network that validates best, of all rates, beside the best baseline.

    Returns
    -------
    Series
        architecture, rate, baseline, and the network − baseline with its interval
        (`lead`); None without runs at the largest size.
    """
    runs = main_runs(table)
    _, large = headline_sizes(runs)
    cells = []
    for _, base in runs[runs["size"] == large].groupby("entry", sort=False):
        cells += [base, *_at_other_rates(table, base)]
    if not cells:
        return None
    best = _best_validated(cells)
    name, _ = best_baseline(best)
    row = {"architecture": best["architecture"].iloc[0], "rate": _rate(best)}
    row |= {"baseline": name}
    return pd.Series(row | over_baseline(best, name).columns("lead"))


# --- what computed it ----------------------------------------------------------------


def decisive(table: pd.DataFrame) -> list[str]:
    """Return the columns of a study's table that decide a run's numbers, but seeds."""
    return ["architecture", *(column for column in DECISIVE if column in table)]


def _ways(runs: pd.DataFrame) -> pd.Series:
    device = runs["device"].replace("cuda", "gpu").str.upper()
    names = {"bf16-mixed": "bfloat16", "32-true": "float32"}
    return device + ", " + runs["precision"].replace(names)


def arithmetic(table: pd.DataFrame) -> pd.DataFrame:
    """Compare runs that differ in nothing but what computed them, and how precisely.

    Returns
    -------
    DataFrame
        architecture, size, `one` and `other` way of computing, such as "CPU, bfloat16",
        difference (other − one in test cosine, over common seeds), seeds.
    """
    rows = []
    for _, cell in table.groupby(decisive(table), sort=False, dropna=False):
        ways = dict(list(cell.groupby(_ways(cell))))
        for names in itertools.combinations(ways, 2):
            one, other = (ways[name].drop_duplicates("seed") for name in names)
            if set(one["seed"]) & set(other["seed"]):
                found = compare(other, one)
                row = {name: one[name].iloc[0] for name in ("architecture", "size")}
                row |= {"one": names[0], "other": names[1]}
                rows.append(row | found.columns("difference") | {"seeds": found.seeds})
    columns = ["architecture", "size", "one", "other", "difference", "difference_low"]
    return pd.DataFrame(rows, columns=[*columns, "difference_high", "seeds"])


def pair_ways(table: pd.DataFrame) -> pd.DataFrame:
    """Return how each pair of runs of the contrasts was computed.

    Columns arm, entry, seed, small_way, large_way.
    """
    before, arms = sides(table)
    before = before.assign(small_way=_ways(before))
    found = [
        before[["entry", "seed", "small_way"]]
        .merge(after.assign(large_way=_ways(after))[["entry", "seed", "large_way"]])
        .assign(arm=arm)
        for arm, after in arms.items()
    ]
    return pd.concat(found)[["arm", "entry", "seed", "small_way", "large_way"]]


# --- the original protocol -----------------------------------------------------------


def protocols(reported: pd.DataFrame, table: pd.DataFrame) -> pd.DataFrame:
    """Set the original protocol's conclusion beside that of the controlled study.

    Both on the same vectors; the original's models sit the frozen exam as well.

    Returns
    -------
    DataFrame
        entry; own_small, own_large (cosine on each size's own held-out windows) and
        own_percent, their change; frozen, the same models' change on the frozen exam,
        with interval; hidden, frozen − the change by own exams; controlled (NaN where
        not measured) and its verdict.
    """
    old = main_runs(reported) if len(reported) else reported
    if old.empty:
        return pd.DataFrame()
    small, large = headline_sizes(old)
    frozen = compare_sizes(old, small, large).set_index("entry")
    honest = compare_sizes(main_runs(table), small, large).set_index("entry")
    own = old.pivot_table("validation_cosine", "entry", "size", sort=False)
    own = own.reindex(columns=[small, large]).dropna()
    rows = []
    for entry in own.index.intersection(frozen.index):
        before, after = own.loc[entry]
        row = {"entry": entry, "own_small": before, "own_large": after}
        row |= {"own_percent": 100 * (after / before - 1)}
        for name, found in (("frozen", frozen), ("controlled", honest)):
            ends = ("change", "change_low", "change_high")
            values = found.reindex([entry])[list(ends)].iloc[0]
            row |= {end.replace("change", name): values[end] for end in ends}
        row["hidden"] = row["frozen"] - (after - before)
        rows.append(row | {"verdict": honest["verdict"].get(entry)})
    return pd.DataFrame(rows)


def causes(table: pd.DataFrame) -> pd.DataFrame:
    """Isolate what separates the original protocol from the controlled one.

    Returns
    -------
    DataFrame
        cause, entry, size, what, difference, seeds. Validation scores are kept as a
        mean a run, so their differences have no interval. `cause` and `what`:

        - "leaky split", lead: the validation lead over six numbers, leaky − controlled
          (windows that are easier, but not leaked, raise both; six numbers cannot
          memorise);
        - "mixed windows", test: windows across documents − within;
        - "fewer updates", test: equal updates − equal epochs.
    """
    runs = main_runs(table)
    leaky, mixed, steps = [], [], []
    for (entry, size), base in runs.groupby(["entry", "size"], sort=False):
        first = base.iloc[0]
        cells = table[(table["size"] == size) & table["seed"].isin(base["seed"])]
        own = cells[cells["architecture"] == first["architecture"]]
        own = own[own["arm"] == first["arm"]]
        here = {"entry": entry, "size": size}
        if len(cell := own[own["protocol"] == "leaky"]):
            leaky.append(here | {"cause": "leaky split"} | _lead(cell, base))
        if len(cell := own[own["protocol"] == "mixed"]):
            mixed.append(here | {"cause": "mixed windows"} | _test(cell, base))
        cell = cells[(cells["entry"] == entry) & (cells["arm"] == "steps")]
        if len(cell) and first["arm"] != "steps":
            steps.append(here | {"cause": "fewer updates"} | _test(cell, base))
    columns = ["cause", "entry", "size", "what", "difference", "difference_low"]
    columns += ["difference_high", "seeds"]
    return pd.DataFrame([*leaky, *mixed, *steps], columns=columns)


def _test(cell: pd.DataFrame, base: pd.DataFrame) -> dict:
    found = compare(cell, base)
    return {"what": "test", "seeds": found.seeds} | found.columns("difference")


def _lead(cell: pd.DataFrame, base: pd.DataFrame) -> dict:
    base = base[base["seed"].isin(cell["seed"])]
    leaky, controlled = (
        (
            runs["validation_cosine"] - runs["baseline_six_numbers_validation_cosine"]
        ).mean()
        for runs in (cell, base)
    )
    return {"what": "lead", "seeds": len(cell), "difference": leaky - controlled}


# --- trainings that failed -----------------------------------------------------------


def training_course(runs: pd.DataFrame) -> pd.DataFrame:
    """Return what became of each run's training, epoch by epoch.

    Returns
    -------
    DataFrame
        The rows of `runs` and: peak_cosine (the best training cosine), last_cosine;
        fell (the epoch that fell back to the level of the constant mean; NaN if none
        did); norm, norm_epoch, norm_step (the largest gradient norm before clipping;
        its update is NaN in histories of before it was kept); drop (the largest fall of
        the training cosine in one epoch).
    """
    rows = []
    for row in runs.to_dict("records"):
        epochs = history(row["folder"])
        cosine, norms = epochs["train_cosine"], epochs["gradient_norm_max"]
        at_level = at_constant_level(epochs, row["training_mean_cosine"])
        after = at_level & (~at_level).cummax()
        fell = float(after.idxmax()) if after.any() else np.nan
        steepest = norms.idxmax()
        row |= {"peak_cosine": cosine.max()}
        row |= {"last_cosine": cosine.iloc[-1], "norm": norms.max()}
        row |= {"fell": fell, "norm_epoch": steepest}
        row |= {"norm_step": epochs.loc[steepest].get("gradient_norm_max_step", np.nan)}
        rows.append(row | {"drop": -cosine.diff().fillna(0).min()})
    return pd.DataFrame(rows)


def graphmert(table: pd.DataFrame, reported: pd.DataFrame) -> pd.DataFrame:
    """Return the GraphMERT runs of both studies with `training_course`.

    A run that did not set its mask has the architecture's own.
    """
    both = pd.concat([reported, table]).drop_duplicates("folder")
    runs = both[both["architecture"] == "graphmert"]
    if runs.empty:
        return runs
    mask = runs["mask"] if "mask" in runs else pd.Series(index=runs.index, dtype=object)
    from lvmlib.recipe import model_options  # it imports torch

    default = model_options("graphmert")["mask"]
    return training_course(runs.assign(mask=mask.fillna(default)))
