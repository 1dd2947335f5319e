"""Comparisons between runs: paired differences on the same test windows."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache

import numpy as np
import pandas as pd

from lvmlib.runs import read_scores
from lvmlib.statistics import Interval, clustered_interval, holm, verdict

BASELINES = {
    "last_vector": "last vector",
    "context_average": "context average",
    "five_weights": "five weights",
    "six_numbers": "six numbers",
    "ridge": "ridge",
    "mean_vector": "mean vector",
}
PAIRED_BASELINES = ("six_numbers", "ridge")  # that every network is set against
Score = str | Callable[[pd.DataFrame], pd.Series]  # a column, or what to make of them


_scores = lru_cache(maxsize=256)(read_scores)


def window_scores(
    runs: pd.DataFrame, column: Score = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """Collect the test windows' scores of some runs.

    Parameters
    ----------
    runs : DataFrame
        Rows of `load_study`'s table, one a seed.
    column : str or function
        A column of test.parquet, or a function from that table to a score a window.

    Returns
    -------
    scores : (S, W)
        A row a run, in the order of the table.
    documents : (W,)
        The document of each window.

    Raises
    ------
    ValueError
        If the runs were not scored on the same test windows.
    """
    frames = [_scores(folder) for folder in runs["folder"]]
    rows = frames[0]["row"].to_numpy()
    for frame, folder in zip(frames, runs["folder"], strict=True):
        if not np.array_equal(frame["row"], rows):
            raise ValueError(
                f"{folder} was scored on other test windows than "
                f"{runs['folder'].iloc[0]}: their scores cannot be paired."
            )
    if isinstance(column, str):
        values = [frame[column] for frame in frames]
    else:
        values = [column(frame) for frame in frames]
    scores = np.stack([value.to_numpy() for value in values])
    return scores, frames[0]["document"].to_numpy()


def scores_by_size(
    runs: pd.DataFrame, name: str
) -> tuple[dict[int, np.ndarray], np.ndarray]:
    """Collect the scores of an entry's trained runs, or of a baseline, at every size.

    Returns
    -------
    scores : dict
        Size to (S, W), a row a seed.
    documents : (W,)
        The document of each window.
    """
    if name in BASELINES:  # the same for all entries on one training set
        runs, column = runs.drop_duplicates(["size", "seed"]), f"cosine_{name}"
    else:
        trained = runs["status"] == "trained"
        runs, column = runs[(runs["entry"] == name) & trained], "cosine"
    scores, documents = {}, np.empty(0)
    for size, cell in runs.groupby("size"):
        scores[size], documents = window_scores(cell, column)
    return scores, documents


def baseline_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean test cosines of the baselines: a row a size, a column a name.

    Runs on one training set share its baselines, so each set counts once.
    """
    columns = {f"baseline_{name}": name for name in BASELINES}
    sets = runs.drop_duplicates(["size", "seed"])
    return sets.groupby("size")[list(columns)].mean().rename(columns=columns)


def paired_differences(
    after: pd.DataFrame, before: pd.DataFrame, column: Score = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract `before` from `after`, paired by seed and test window.

    Returns
    -------
    differences : (S, W)
        A row a seed that both have, in ascending order; at least one.
    documents : (W,)
        The document of each window.

    Raises
    ------
    ValueError
        If the two sides were not scored on the same test windows.
    """
    seeds = sorted(set(after["seed"]) & set(before["seed"]))
    pair = [runs.set_index("seed").loc[seeds].reset_index() for runs in (after, before)]
    (new, documents), (old, others) = (window_scores(runs, column) for runs in pair)
    if not np.array_equal(documents, others):
        raise ValueError("the two sides were scored on other test windows.")
    return new - old, documents


def compare(
    after: pd.DataFrame, before: pd.DataFrame, column: Score = "cosine"
) -> Interval:
    """Return the interval of after − before, paired by seed and test window."""
    return clustered_interval(*paired_differences(after, before, column))


def over_baseline(runs: pd.DataFrame, baseline: str) -> Interval:
    """Return the interval of network − baseline, each run against its own baseline."""
    network, documents = window_scores(runs)
    reference, _ = window_scores(runs, f"cosine_{baseline}")
    return clustered_interval(network - reference, documents)


def compare_sizes(runs: pd.DataFrame, small: int, large: int) -> pd.DataFrame:
    """Ask for every entry whether `large` beats `small`.

    All entries answer the same question, so "improves" and "regresses" need a p-value
    that survives Holm's correction. One seed allows no verdict, so an entry with one
    takes no part in the correction; but if the plan has several seeds for it, it counts
    as the least certain of all (p = 1), so that no verdict rests on what was left out.
    An entry without any run is not known here.

    Returns
    -------
    DataFrame
        A row an entry that has both sizes with a common seed: entry, small, large
        (mean test cosines over the common seeds), interval, adjusted_p (NaN with one
        seed), verdict.
    """
    rows = []
    for entry, group in runs.groupby("entry", sort=False):
        seeds = [set(group["seed"][group["size"] == size]) for size in (small, large)]
        group = group[group["seed"].isin(set.intersection(*seeds))]
        before, after = (group[group["size"] == size] for size in (small, large))
        if len(group):
            rows.append(
                {
                    "entry": entry,
                    "small": before["test_cosine"].mean(),
                    "large": after["test_cosine"].mean(),
                    "interval": compare(after, before),
                }
            )
    table = pd.DataFrame(rows, columns=["entry", "small", "large", "interval"])
    several = np.array([i.seeds > 1 for i in table["interval"]], dtype=bool)
    p_values = [interval.p_value for interval in table["interval"][several]]
    asked = set(runs["entry"][runs["planned_seeds"] > 1])
    waiting = [1.0] * len(asked - set(table["entry"][several]))
    table["adjusted_p"] = np.nan
    table.loc[several, "adjusted_p"] = holm(p_values + waiting)[: len(p_values)]
    table["verdict"] = [
        verdict(interval, adjusted_p=p)
        for interval, p in zip(table["interval"], table["adjusted_p"], strict=True)
    ]
    return table


def registered(changes: pd.DataFrame) -> pd.DataFrame:
    """Keep the entries that were asked for a verdict: two seeds or more, if any has."""
    seeds = np.array([interval.seeds for interval in changes["interval"]], dtype=int)
    return changes[seeds > 1] if (seeds > 1).any() else changes
