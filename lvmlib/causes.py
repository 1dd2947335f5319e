"""What else could explain a result: the rate, the protocol, the number of updates.

Functions take a controlled study's table of `results.load_study` and return frames; an
interval is three columns.
"""

from __future__ import annotations

from collections.abc import Iterator

import pandas as pd

from lvmlib.results import (
    best_baseline,
    compare,
    headline_sizes,
    main_runs,
    over_baseline,
)
from lvmlib.statistics import MARGIN

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


def gaining(rates: pd.DataFrame) -> tuple[pd.DataFrame, pd.Series]:
    """Part the entries of `rates` by whether another rate gains more than MARGIN.

    Returns
    -------
    gained : DataFrame
        A row of `rates` for each entry that does, the one with most seeds.
    others : Series
        For each other entry the most that a rate gains, or 0 if none does.
    """
    gained = rates[rates["difference"] > MARGIN].sort_values("seeds", ascending=False)
    gained = gained.drop_duplicates("entry")
    most = rates.groupby("entry", sort=False)["difference"].max().clip(lower=0)
    return gained, most.drop(gained["entry"])


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


def decisive(table: pd.DataFrame) -> list[str]:
    """Return the columns of a study's table that decide a run's numbers, but seeds."""
    return ["architecture", *(column for column in DECISIVE if column in table)]


# --- the original protocol -----------------------------------------------------------


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
