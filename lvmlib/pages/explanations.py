"""Other rates, other machines, and the original report's four hypotheses.

Functions take tables of `load_study`, as in `lvmlib.pages.findings`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from html import escape
from typing import Any

import numpy as np
import pandas as pd

from lvmlib.comparison import (
    BASELINES,
    compare,
    over_baseline,
    registered,
    window_scores,
)
from lvmlib.pages.findings import (
    CURVE_SIZES,
    contrasts,
    interval_text,
    listed,
    network_curves,
    not_measured,
)
from lvmlib.pages.report import counted, signed, span
from lvmlib.pages.summary import (
    ARMS,
    REPORTED_SIZES,
    best_baseline,
    headline_sizes,
    main_runs,
    sides,
    verdicts,
)
from lvmlib.runs import load_run
from lvmlib.scaling import ResampledCurve
from lvmlib.statistics import MARGIN, Interval, clustered_interval, format_interval

DIP = 0.01  # cosine; a larger fall from one epoch to the next is no noise


def rates(everything: pd.DataFrame) -> pd.DataFrame:
    """Compare other learning rates with the registered one at the largest size.

    By validation cosine, paired by seed. Columns entry, registered, rate, difference,
    seeds, and `spread`, the standard deviation over the registered entry's seeds.
    """
    runs = main_runs(everything)
    _, large = headline_sizes(runs)
    rows = []
    for entry, base in runs[runs["size"] == large].groupby("entry", sort=False):
        for cell in _at_other_rates(everything, base):
            common = set(cell["seed"]) & set(base["seed"])
            sides = [side[side["seed"].isin(common)] for side in (cell, base)]
            other, same = (side["validation_cosine"].mean() for side in sides)
            row = {"entry": entry, "registered": _rate(base), "rate": _rate(cell)}
            row |= {"difference": other - same, "seeds": len(common)}
            rows.append(row | {"spread": base["validation_cosine"].std()})
    columns = ["entry", "registered", "rate", "difference", "seeds", "spread"]
    return pd.DataFrame(rows, columns=columns)


def _at_other_rates(
    everything: pd.DataFrame, base: pd.DataFrame
) -> Iterator[pd.DataFrame]:
    """Yield the entries that differ from one size of a main entry in the rate alone."""
    alike = everything["entry"] != base["entry"].iloc[0]
    for column in ("architecture", "protocol", "arm", "size"):
        alike &= everything[column] == base[column].iloc[0]
    own = _rate(base)
    for _, cell in everything[alike].groupby("entry", sort=False):
        if set(cell["seed"]) & set(base["seed"]) and _rate(cell) != own:
            yield cell


def contrasts_at_other_rates(everything: pd.DataFrame) -> pd.DataFrame:
    """Return what more data changes where both headline sizes had another rate, too.

    Returns
    -------
    DataFrame
        A row an entry and rate: entry, rate, own (the registered one), seeds (which all
        four cells have), and the intervals `other` (that rate at both sizes),
        `registered` and `better` (of the two, what validates better at each size; those
        are in `rates`).
    """
    runs = main_runs(everything)
    sizes = headline_sizes(runs)
    rows = []
    for entry, base in runs.groupby("entry", sort=False):
        sides = [base[base["size"] == size] for size in sizes]
        if any(side.empty for side in sides) or sizes[0] == sizes[1]:
            continue
        small, large = (
            {_rate(cell): cell for cell in _at_other_rates(everything, side)}
            for side in sides
        )
        for rate in [rate for rate in small if rate in large]:
            pairs = zip(sides, (small[rate], large[rate]), strict=True)
            rows.append({"entry": entry, "rate": rate} | _at_two_rates(*pairs))
    columns = ["entry", "rate", "own", "seeds", "other", "registered", "better"]
    return pd.DataFrame(rows, columns=[*columns, "rates"])


Pair = tuple[pd.DataFrame, pd.DataFrame]  # a size at the registered rate, at the other


def _at_two_rates(small: Pair, large: Pair) -> dict[str, Any]:
    seeds = set.intersection(*(set(cell["seed"]) for cell in small + large))
    before, after = (
        [cell[cell["seed"].isin(seeds)] for cell in pair] for pair in (small, large)
    )
    better = [_best_validated(pair) for pair in (before, after)]
    return {
        "own": _rate(before[0]),
        "seeds": len(seeds),
        "registered": compare(after[0], before[0]),
        "other": compare(after[1], before[1]),
        "better": compare(*better[::-1]),
        "rates": [_rate(cell) for cell in better],
    }


def other_rates_said(found: pd.DataFrame) -> str:
    """Put what `contrasts_at_other_rates` returns in words."""
    said = [
        f"**{row.entry} with {row.rate:g} at both sizes** changes by "
        f"{interval_text(row.other)} in test cosine ({counted(row.seeds, 'seed')}); at "
        f"the registered {row.own:g}, same seeds, by {interval_text(row.registered)}; "
        f"at the rate that validates better at each size "
        f"({' and '.join(f'{rate:g}' for rate in row.rates)}) by "
        f"{interval_text(row.better)}."
        for row in found.itertuples()
    ]
    return " ".join(said) or not_measured("both sizes at another rate")


def rate_answer(found: pd.DataFrame) -> list[str]:
    """Say in a sentence, if any, how much of the answer is the rate's.

    Of several rates of an entry, the one with most seeds.
    """
    found = found.sort_values("seeds", kind="stable").groupby("entry").tail(1)
    changes = [
        f"{row.entry} by {interval_text(row.better)} instead of "
        f"{signed(row.registered.estimate, 4)} ({counted(row.seeds, 'seed')})"
        for row in found.itertuples()
    ]
    if not changes:
        return []
    return [
        "**Is it the learning rate?** Where another one was tried as well, after the "
        "registered scores were seen, and each size is given the one that validates "
        f"better, more data changes {listed(changes)}."
    ]


def runs_at_other_rates(everything: pd.DataFrame) -> pd.DataFrame:
    """Return the runs of entries at another rate that have the sizes for a curve."""
    bases = main_runs(everything).groupby(["entry", "size"], sort=False)
    cells = [cell for _, base in bases for cell in _at_other_rates(everything, base)]
    found = pd.concat(cells) if cells else everything[:0]
    sizes = found.groupby("entry")["size"].transform("nunique")
    return found[sizes >= CURVE_SIZES]


def best_of_all_rates(everything: pd.DataFrame) -> str:
    """Set the network that validates best, of all rates, beside the best baseline."""
    runs = main_runs(everything)
    _, large = headline_sizes(runs)
    cells = []
    for _, base in runs[runs["size"] == large].groupby("entry", sort=False):
        cells += [base, *_at_other_rates(everything, base)]
    if not cells:
        return not_measured(f"any rate at {large:,} vectors")
    best = _best_validated(cells)
    name, cosine = best_baseline(best)
    return (
        f"Of all networks and rates at {large:,} vectors, "
        f"{best['architecture'].iloc[0]} with {_rate(best):g} validates best. Its test "
        f"cosine is {best['test_cosine'].mean():.4f}; against {BASELINES[name]} "
        f"({cosine:.4f}) that is {interval_text(over_baseline(best, name))} "
        f"({counted(len(best), 'seed')})."
    )


def _best_validated(cells: Sequence[pd.DataFrame]) -> pd.DataFrame:
    return max(cells, key=lambda cell: cell["validation_cosine"].mean())


def _rate(runs: pd.DataFrame) -> float:
    return load_run(runs["folder"].iloc[0]).info["parameters"]["learning_rate"]


def untried(found: pd.DataFrame, runs: pd.DataFrame) -> list[str]:
    """Name the entries at the largest size for which no other rate was tried."""
    _, large = headline_sizes(runs)
    entries = runs["entry"][runs["size"] == large].unique()
    return [entry for entry in entries if entry not in set(found["entry"])]


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
        which = (
            f"the best of {len(part)} other rates" if len(part) > 1 else "another rate"
        )
        said.append(
            f"**{entry}:** at {large:,} vectors {which}, {best['rate']:g}, gives "
            f"{change} against the registered {best['registered']:g}."
        )
    lack = untried(found, runs)
    if lack:
        said.append(not_measured(f"another rate of {', '.join(lack)}"))
    return " ".join(said)


def dips(everything: pd.DataFrame) -> pd.DataFrame:
    """Return the runs whose validation cosine fell by more than DIP in one epoch.

    Columns entry, size, seed, epoch (after the fall) and fall, the largest.
    """
    rows = []
    for row in everything.to_dict("records"):
        validation = load_run(row["folder"]).history.set_index("epoch")
        falls = -validation["validation_cosine"].diff()
        if falls.max() > DIP:
            found = {key: row[key] for key in ("entry", "size", "seed")}
            rows.append(found | {"epoch": falls.idxmax(), "fall": falls.max()})
    return pd.DataFrame(rows, columns=["entry", "size", "seed", "epoch", "fall"])


def dip_said(found: pd.DataFrame) -> str:
    """Say in which runs training was unstable."""
    if found.empty:
        return f"In no run did validation fall by more than {DIP} in one epoch."
    runs = (
        f"{row.entry} at {row.size:,} with seed {row.seed} (by {row.fall:.4f} at epoch "
        f"{row.epoch:.0f})"
        for row in found.sort_values("fall", ascending=False).itertuples()
    )
    return (
        f"**Unstable:** validation cosine fell by more than {DIP} in one epoch in "
        f"{'; '.join(runs)}. Where that happens the rate is near the highest that "
        "trains at all, and what the run reached says as much about the rate as about "
        "the data."
    )


def held_back(causes: pd.DataFrame, runs: pd.DataFrame) -> str:
    """Say which networks were better with fewer updates on the same vectors.

    `causes` is what `protocols.causes` returns.
    """
    _, large = headline_sizes(runs)
    found = causes[(causes["cause"] == "fewer updates") & (causes["size"] == large)]
    better = [
        f"{row.entry} by {interval_text(row.interval)} ({counted(row.seeds, 'seed')})"
        for row in found.itertuples()
        if row.interval.low > 0
    ]
    if found.empty:
        return not_measured(f"one network with two numbers of updates at {large:,}")
    if not better:
        return f"At {large:,} vectors no network was better with fewer updates."
    return (
        f"**Better with fewer updates**, on the same {large:,} vectors: "
        f"{listed(better)}. There the recipe held the longer training back, so that "
        "its change at equal epochs understates what these vectors can give."
    )


# --- arithmetic ----------------------------------------------------------------------

PRECISIONS = {"bf16-mixed": "bfloat16", "32-true": "float32"}
IMMATERIAL = ("run_dir", "dataset", "precision", "device", "seed")  # parameters


def arithmetic(everything: pd.DataFrame) -> pd.DataFrame:
    """Compare runs that differ in nothing but what computed them, and how precisely.

    Returns
    -------
    DataFrame
        Columns architecture, size, `one` and `other` way of computing, such as "CPU,
        bfloat16", and `interval`: other − one in test cosine, over the seeds that were
        trained both ways.
    """
    rows = []
    for _, cell in everything.groupby(decisive(everything), sort=False):
        ways = dict(list(cell.groupby(_ways(cell))))
        for names in itertools.combinations(ways, 2):
            one, other = (ways[name].drop_duplicates("seed") for name in names)
            if set(one["seed"]) & set(other["seed"]):
                row = {name: one[name].iloc[0] for name in ("architecture", "size")}
                row |= {"one": names[0], "other": names[1]}
                rows.append(row | {"interval": compare(other, one)})
    columns = ["architecture", "size", "one", "other", "interval"]
    return pd.DataFrame(rows, columns=columns)


def decisive(runs: pd.DataFrame, *also: str) -> pd.Series:
    """Return what decides each run's numbers, and the columns `also`, as one text."""
    texts = []
    for row in runs.to_dict("records"):
        used = load_run(row["folder"]).info["parameters"]
        decisive = sorted((k, v) for k, v in used.items() if k not in IMMATERIAL)
        texts.append(str([row["architecture"], decisive, *(row[k] for k in also)]))
    return pd.Series(texts, index=runs.index)


def _ways(runs: pd.DataFrame) -> pd.Series:
    device = runs["device"].replace("cuda", "gpu").str.upper()
    return device + ", " + runs["precision"].replace(PRECISIONS)


def arithmetic_table(found: pd.DataFrame) -> pd.DataFrame:
    """Format what `arithmetic` returns."""
    return pd.DataFrame(
        {
            "architecture": found["architecture"],
            "vectors": found["size"].map("{:,}".format),
            "one": found["one"],
            "other": found["other"],
            "test cosine: other − one": [
                format_interval(interval, digits=5) for interval in found["interval"]
            ],
            "seeds": [interval.seeds for interval in found["interval"]],
        }
    )


def arithmetic_said(found: pd.DataFrame, everything: pd.DataFrame) -> str:
    """Say which pairs of the contrasts mix ways, and what a way alone changes."""
    before, arms = sides(everything)
    said = [
        f"At {ARMS[arm]} {_mixed_pairs(before, after)}."
        for arm, after in arms.items()
        if len(after)
    ]
    if found.empty:
        return " ".join([*said, not_measured("one training in two ways")])
    for (one, other), rows in found.groupby(["one", "other"]):
        ends = [end for i in rows["interval"] for end in (i.low, i.high)]
        said.append(
            f"By itself, {other} instead of {one} changes the test cosine of "
            f"{listed(list(rows['architecture'].unique()))} by "
            f"{span((i.estimate for i in rows['interval']), 5)}, at the far end of the "
            f"intervals by {max(map(abs, ends)):.5f}."
        )
    return " ".join([*said, f"The margin of equivalence is {MARGIN}."])


def _mixed_pairs(before: pd.DataFrame, after: pd.DataFrame) -> str:
    before, after = (runs.assign(way=_ways(runs)) for runs in (before, after))
    pairs = before.merge(after, on=["entry", "seed"], suffixes=("", "_after"))
    mixed = pairs[pairs["way"] != pairs["way_after"]]
    seeds = mixed.groupby("entry", sort=False)["seed"]
    names = [
        f"{entry} with seed{'s' if len(group) > 1 else ''} "
        f"{' and '.join(map(str, sorted(group)))}"
        for entry, group in seeds
    ]
    which = f" ({listed(names)})" if names else ""
    return f"{len(mixed)} of {len(pairs)} pairs of the contrast mix two of these{which}"


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
        f"{interval_text(changes.set_index('entry').loc[entry, 'interval'])}"
        for entry in (sizes.idxmin(), sizes.idxmax())
    ]
    return f"{text} Across architectures, more data changes {' and '.join(ends)}."


def _about_gains(curves: dict[str, dict[str, ResampledCurve]]) -> str:
    networks = network_curves(curves)
    if not networks:
        return "Learning curves: not measured (four sizes are needed)."
    rising = [e for e, forms in networks.items() if _gain_low(forms) > 0]
    return (
        f"Learning curves: both fitted forms still rise beyond the uncertainty for "
        f"{len(rising)} of {len(networks)} ({listed(rising)})."
    )


def _gain_low(forms: dict[str, ResampledCurve]) -> float:
    return min(curve.interval("gain")[0] for curve in forms.values())


def _about_rates(everything: pd.DataFrame) -> str:
    found = rates(everything)
    if found.empty:
        return "not measured: each entry has one recipe at the largest size."
    best = found.groupby("entry", sort=False)["difference"].max()
    changes = ", ".join(f"{entry} {signed(d, 4)}" for entry, d in best.items())
    rest = [f"rates of {name}" for name in untried(found, main_runs(everything))]
    return (
        "tested for the learning rate: the best other rate at the largest size changes "
        f"the validation cosine by {changes}. Not measured: "
        f"{listed([*rest, 'batch size', 'schedule'])}."
    )


def _about_enough(runs: pd.DataFrame, changes: pd.DataFrame) -> str:
    small, large = headline_sizes(runs)
    if (small, large) != tuple(REPORTED_SIZES.values()):
        return f"not measured: the largest size here is {large:,} vectors."
    if changes.empty:
        return f"not measured: {small:,} against {large:,} vectors."
    if max(interval.seeds for interval in changes["interval"]) < 2:
        return "not measured: one seed gives no verdict."
    return f"tested ({verdicts(changes)})."


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
