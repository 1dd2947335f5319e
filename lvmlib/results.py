"""What a study's runs say: one table, and comparisons as frames of plain columns.

A quantity with an interval is three columns: `change`, `change_low`, `change_high`.
Differences are paired by seed and test window; intervals are over documents and, from
two seeds on, over seeds.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from functools import lru_cache
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from lvmlib.files import project_folder, read_json
from lvmlib.names import unknown_name
from lvmlib.records import (
    BASELINES,
    RunError,
    is_whole,
    read_scores,
)
from lvmlib.statistics import (
    Interval,
    clustered_interval,
    holm,
    rank_ranges,
    verdict,
)

REPORTED_SIZES = (80_634, 232_605)
PAGES = ("networks", "costs", "runs")  # of a study that names none
SURE = 0.95  # the probability of beating another that a decided pair needs
RESAMPLES = 2000  # draws of the hierarchical bootstrap
PUBLISHED_WIDTH = 512  # of amn's MLP, of lstm's and gru's states
LATENCY_NOISE = 0.1  # share by which two latencies may differ and mean nothing
FIRST = ["entry", "architecture", "size", "arm", "seed", "planned_seeds", "protocol"]
METRICS = ["r1_document", "r5_document", "r10_document", "mrr_document", "r10_all"]
METRICS += ["r10_all_with_context", "mrr_all", "contrastive"]


# --- the study's table ---------------------------------------------------------------


def load_study(path: str | Path) -> pd.DataFrame:
    """Read a study as one table, a row a finished run.

    Parameters
    ----------
    path : str or Path
        A folder of runs, <runs>/<study>, or a results.csv.

    Returns
    -------
    DataFrame
        entry, architecture, size, arm, seed, planned_seeds, protocol, status, folder;
        then run.json flattened: the recipe under its own names (learning_rate, mask;
        asked_epochs, asked_precision and asked_device where the run has its own),
        test_<metric>, baseline_<name>_<metric>, windows_train, parameters_trainable,
        dataset_name, wall_seconds (of all the run's processes), ….

    Raises
    ------
    RunError
        If there is no finished run, or runs on different datasets.
    """
    path = Path(path)
    if path.suffix == ".csv":
        return pd.read_csv(path)
    plan = read_plan(path)
    if plan:
        folders = [f for f, run in plan.items() if answers(f, run["recipe_hash"])]
    else:
        deeper = next(path.rglob("study.json"), None)
        if deeper:
            raise RunError(
                f"{path} is not a study's folder of runs: give {deeper.parent}."
            )
        folders = sorted(file.parent for file in path.rglob("run.json"))
    if not folders:
        raise RunError(f"{path} holds no finished run: run the study first.")
    table = pd.json_normalize([_flat(folder) for folder in folders], sep="_")
    cells = Counter(folder.parent for folder in plan or folders)
    table["planned_seeds"] = [cells[folder.parent] for folder in folders]
    first = [*FIRST, "status", "folder"]
    table = table[[*first, *(c for c in table if c not in first)]]
    if table["dataset_sha256"].nunique() > 1:
        names = table.groupby("dataset_sha256")["folder"].first().tolist()
        raise RunError(
            f"{path} mixes runs on different datasets, such as {' and '.join(names)}: "
            "their scores do not compare; delete one kind."
        )
    return table


def _flat(folder: Path) -> dict[str, Any]:
    """Return run.json with the recipe's fields on top and the plural names gone."""
    info = json.loads((folder / "run.json").read_text())
    recipe, counts = info.pop("parameters"), info.pop("model_parameters")
    info |= {key if key not in info else f"asked_{key}": recipe[key] for key in recipe}
    info |= {f"parameters_{key}": count for key, count in counts.items()}
    info["baseline"] = info.pop("baselines")
    info.pop("checksums", None)
    seconds = pd.read_csv(folder / "history.csv", usecols=["seconds"])["seconds"]
    # run.json's own figure is that of the run's last process alone.
    info["wall_seconds"] = max(info["wall_seconds"], float(seconds.sum()))
    parts = folder.parts
    info["entry"] = parts[-4] if info["arm"] == parts[-2] else info["architecture"]
    return info | {"folder": str(folder)}


def told_apart(
    file: str | Path,
) -> dict[tuple[str, bool, int], tuple[np.ndarray, np.ndarray]]:
    """Read which targets came first among the chunks after them (measured/apart.py).

    Returns
    -------
    dict
        By model, whether it reads the mean of all so far, and training vectors: 1.0
        where the target came first, (S, W), and the windows' documents, (W,). Empty if
        there is no such file.

    Raises
    ------
    ValueError
        If the models were not scored on the same windows.
    """
    if not Path(file).exists():
        return {}
    ranks = pd.read_parquet(file)
    table = ranks.pivot(
        index=["document", "row"],
        columns=["model", "running_mean", "size", "seed"],
        values="rank",
    )
    table = table.sort_index().sort_index(axis=1)
    if table.isna().any(axis=None):
        raise ValueError(f"{file}: not all models have a rank for the same windows.")
    documents = table.index.get_level_values("document").to_numpy()
    return {
        key: ((seeds.to_numpy() == 1).astype(float), documents)
        for key, seeds in table.T.groupby(level=["model", "running_mean", "size"])
    }


def published_study() -> Path:
    """Return the folder of the reference study's committed runs."""
    return project_folder() / "reports" / "reference" / "runs"


def later_linear(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the best study's runs of ridge to the weights on the data of these runs.

    It came after the reference study, whose runs have no such baseline; no rows where
    the data are others, or the project has no such study.
    """
    folder = project_folder() / "reports" / "best" / "runs"
    if not folder.exists() or "baseline_ridge_to_weights_cosine" in runs:
        return runs[:0]
    linear = load_study(folder).query("entry == 'linear'")
    for what in ("dataset_sha256", "protocol"):  # the same training windows
        linear = linear[linear[what].isin(runs[what])]
    return linear


def study_pages(path: str | Path) -> list[str]:
    """Return the question pages of a study's report, as its plan has them."""
    return (read_json(Path(path) / "study.json") or {}).get("pages") or list(PAGES)


def study_answer(path: str | Path) -> str:
    """Return the notebook that becomes the report's first page, index.html."""
    return (read_json(Path(path) / "study.json") or {}).get("answer") or "summary"


def headline(file: str | Path) -> str:
    """Return the bold beginning of an answer that a report keeps; "" without one."""
    answer = Path(file).read_text() if Path(file).exists() else ""
    bold = answer.split("**")[1] if answer.count("**") > 1 else answer.split(". ")[0]
    return bold.rstrip(".: \n")


def read_plan(path: str | Path) -> dict[Path, dict[str, Any]]:
    """Return the planned runs by folder: label, page, recipe_hash, …; else none."""
    plan = read_json(Path(path) / "study.json") or {"runs": []}
    return {Path(path) / run["folder"]: run for run in plan["runs"]}


def answers(folder: Path, recipe_hash: str) -> bool:
    """Say whether a folder holds the finished run that this recipe asks for."""
    info = read_json(folder / "run.json")
    if info is None or info.get("recipe_hash") != recipe_hash:
        return False
    return is_whole(folder, info)


def missing_runs(path: str | Path) -> pd.DataFrame:
    """List the planned runs that are not done.

    Returns
    -------
    DataFrame
        label, entry, size, reason (the error in its notebook, if there is one).
    """
    rows = [
        {"label": run["label"], "reason": _failure(folder)}
        | {"entry": folder.parts[-4], "size": int(folder.parts[-3])}
        for folder, run in read_plan(path).items()
        if not answers(folder, run["recipe_hash"])
    ]
    return pd.DataFrame(rows, columns=["label", "entry", "size", "reason"])


def _failure(folder: Path) -> str:
    notebook = read_json(folder / "notebook.ipynb")
    if notebook is None:
        return "it was not started"
    for cell in notebook["cells"]:
        for output in cell.get("outputs", []):
            if output["output_type"] == "error":
                return f"{output['ename']}: {output['evalue']}"
    return "it was interrupted, or answers an older recipe"


def history(folder: str | Path) -> pd.DataFrame:
    """Return a run's history, indexed by epoch."""
    return pd.read_csv(Path(folder) / "history.csv").set_index("epoch")


def main_runs(table: pd.DataFrame) -> pd.DataFrame:
    """Keep the networks named like their architecture, in the main arm and protocol.

    The others ask side questions: another rate, another protocol; `linear` stands among
    the baselines of all runs. A study without such entries is kept whole, but for its
    arm (`epochs`, where the study has it).
    """
    named = table[table["entry"] == table["architecture"]]
    named = named[named["entry"] != "linear"]
    runs = table if named.empty else named
    arms = runs["arm"].unique()
    runs = runs[runs["arm"] == ("epochs" if "epochs" in arms else arms[0])]
    if named.empty:
        return runs
    return runs[runs["protocol"] == runs["protocol"].mode()[0]]


def headline_sizes(runs: pd.DataFrame) -> tuple[int, int]:
    """Return the two sizes to compare: the reported ones, else the outermost.

    One reported size is enough: the other one's runs may not be done yet.
    """
    sizes = set(runs["size"])
    if set(REPORTED_SIZES) & sizes:
        return REPORTED_SIZES
    return min(sizes), max(sizes)


def repeated(table: pd.DataFrame) -> pd.Series:
    """Tell which runs are of entries with several planned seeds at all their sizes."""
    return table.groupby("entry")["planned_seeds"].transform("min") > 1


def widths(table: pd.DataFrame) -> pd.DataFrame:
    """Return the trained runs of networks' widths, of each width's recipes the best.

    By validation cosine, for each network, way to begin, size and seed by itself. Added
    columns: `width` (of amn's MLP, of the others' states; 512 as published), `start`
    ("head start", "random weights").
    """
    runs = table[table["status"] == "trained"]
    chosen = runs.reindex(columns=["mlp", "hidden"])  # NaN where as published
    alone = runs["head_start"] == "none"
    start = alone.map({True: "random weights", False: "head start"})
    runs = runs.assign(width=chosen.max(axis=1).fillna(PUBLISHED_WIDTH), start=start)
    cell = ["architecture", "start", "width", "size", "seed"]
    return runs.sort_values("validation_cosine").groupby(cell).tail(1)


def wider(table: pd.DataFrame) -> pd.DataFrame:
    """Compare each width of a network with the published one, see `widths`.

    Returns
    -------
    DataFrame
        architecture, start, width, size, parameters, change (in test cosine, with
        interval), seeds.
    """
    rows, cell = [], ["architecture", "start", "size"]
    for key, runs in widths(table).groupby(cell):
        by_width = dict(list(runs.groupby("width")))
        before = by_width.pop(PUBLISHED_WIDTH, runs[:0])
        for width, after in by_width.items():
            if set(after["seed"]) & set(before["seed"]):
                found = compare(after, before)
                row = dict(zip(cell, key, strict=True)) | {"width": int(width)}
                row |= {"parameters": after["parameters_trainable"].iloc[0]}
                rows.append(row | found.columns("change") | {"seeds": found.seeds})
    columns = ["architecture", "start", "width", "size", "parameters", "change"]
    return pd.DataFrame(rows, columns=[*columns, "change_low", "change_high", "seeds"])


def sides(table: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return the smaller size's runs, and the larger size's by arm.

    The arm `steps` gives the larger size as many updates as the smaller one had, so its
    runs are set against the smaller size's runs of the main arm.
    """
    runs = main_runs(table)
    small, large = headline_sizes(runs)
    after = {runs["arm"].iloc[0]: runs[runs["size"] == large]}
    steps = table[table["arm"] == "steps"]
    steps = steps[steps["entry"].isin(runs["entry"]) & (steps["size"] == large)]
    after.setdefault("steps", steps)
    return runs[runs["size"] == small], after


# --- scores and paired differences ---------------------------------------------------

_scores = lru_cache(maxsize=256)(read_scores)


def window_scores(
    runs: pd.DataFrame, column: str = "cosine", source: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Collect the test windows' scores of some runs, one a seed.

    Parameters
    ----------
    column : str
        A column of test.parquet, or what is made of its ranks: `r1_document` (or any
        other number), `r1_all`, `mrr_document`, `mrr_all`.
    source : str
        Only windows of documents of this source; empty: all.

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
    if source:
        frames = [frame[frame["source"] == source] for frame in frames]
    rows = frames[0]["row"].to_numpy()
    for frame, folder in zip(frames, runs["folder"], strict=True):
        if not np.array_equal(frame["row"], rows):
            raise ValueError(
                f"{folder} was scored on other test windows than "
                f"{runs['folder'].iloc[0]}: their scores cannot be paired."
            )
    documents = frames[0]["document"].to_numpy()
    return np.stack([_score(frame, column).to_numpy() for frame in frames]), documents


def _score(frame: pd.DataFrame, column: str) -> pd.Series:
    """Return a column, or the score that is made of a rank: r<k>_… or mrr_…."""
    of_rank = re.fullmatch(r"(?:r(\d+)|mrr)_(document|all)", column)
    if not of_rank and column not in frame:
        raise unknown_name("score", column, [*frame, "r1_document", "mrr_all"])
    if not of_rank:
        return frame[column]
    rank = frame[f"rank_{of_rank[2]}"]
    return (rank <= int(of_rank[1])) * 1.0 if of_rank[1] else 1 / rank


def baseline_means(runs: pd.DataFrame) -> pd.DataFrame:
    """Return mean test cosines of the baselines: a row a size, a column a name.

    Runs on one training set share its baselines, so each set counts once.
    """
    columns = {f"baseline_{name}_cosine": name for name in BASELINES}
    known = [column for column in columns if column in runs]
    sets = runs.drop_duplicates(["size", "seed"])
    return sets.groupby("size")[known].mean().rename(columns=columns)


def best_baseline(runs: pd.DataFrame) -> tuple[str, float]:
    """Return name and mean test cosine of the best baseline of one size's runs."""
    (cosines,) = baseline_means(runs).to_dict("records")
    best = max(cosines, key=cosines.__getitem__)
    return best, cosines[best]


def paired_differences(
    after: pd.DataFrame,
    before: pd.DataFrame,
    column: str = "cosine",
    before_column: str = "",
    source: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Subtract `before` from `after`, paired by seed and test window.

    Parameters
    ----------
    before_column : str
        Another column to subtract, such as cosine_ridge; empty is the same.
    source : str
        Only windows of documents of this source; empty: all.

    Returns
    -------
    differences : (S, W)
        A row a seed that both have, in ascending order; at least one.
    documents : (W,)
        The document of each window.

    Raises
    ------
    ValueError
        If they have no seed in common, or were not scored on the same test windows.
    """
    seeds = sorted(set(after["seed"]) & set(before["seed"]))
    if not seeds:
        raise ValueError("the two groups of runs have no seed in common.")
    one, other = (
        runs.set_index("seed")[["folder"]].loc[seeds] for runs in (after, before)
    )
    new, documents = window_scores(one, column, source)
    old, others = window_scores(other, before_column or column, source)
    if not np.array_equal(documents, others):
        raise ValueError("the two groups were scored on different test windows.")
    return new - old, documents


def compare(
    after: pd.DataFrame,
    before: pd.DataFrame,
    column: str = "cosine",
    before_column: str = "",
    source: str = "",
) -> Interval:
    """Return the interval of after − before, paired by seed and test window."""
    found = paired_differences(after, before, column, before_column, source)
    return clustered_interval(*found)


def on_common_windows(
    runs: pd.DataFrame, column: str = "cosine"
) -> tuple[np.ndarray, np.ndarray]:
    """Collect scores as `window_scores`, on the targets that all of the runs predict.

    Runs that read contexts of several lengths were scored on several sets of windows:
    a chunk with eight others before it is no target of a run that reads ten.
    """
    frames = [_scores(folder).set_index("row") for folder in runs["folder"]]
    rows = frames[0].index
    for frame in frames[1:]:
        rows = rows.intersection(frame.index)
    scores = np.stack([frame.loc[rows, column].to_numpy() for frame in frames])
    return scores, frames[0].loc[rows, "document"].to_numpy()


def over_baseline(runs: pd.DataFrame, baseline: str) -> Interval:
    """Return the interval of network − baseline, each run against its own baseline."""
    network, documents = window_scores(runs)
    reference, _ = window_scores(runs, f"cosine_{baseline}")
    return clustered_interval(network - reference, documents)


# --- does more data help? ------------------------------------------------------------


def compare_sizes(runs: pd.DataFrame, small: int, large: int) -> pd.DataFrame:
    """Ask for every entry whether `large` beats `small`.

    All entries answer the same question, so "improves" and "regresses" need a p-value
    that survives Holm's correction. One seed allows no verdict, so an entry with one
    takes no part in the correction; but if the plan has several seeds for it, it counts
    as the least certain of all (p = 1), so that no verdict rests on what was left out.

    Returns
    -------
    DataFrame
        A row an entry that has both sizes with a common seed: entry, small, large
        (means over the common seeds), change, p_value (adjusted; NaN with one seed),
        verdict, seeds.
    """
    rows = []
    for entry, group in runs.groupby("entry", sort=False):
        seeds = [set(group["seed"][group["size"] == size]) for size in (small, large)]
        group = group[group["seed"].isin(set.intersection(*seeds))]
        before, after = (group[group["size"] == size] for size in (small, large))
        if len(group) and small < large:
            found = compare(after, before)
            row = {"entry": entry, "interval": found, "seeds": found.seeds}
            row |= {"small": before["test_cosine"].mean()}
            row |= {"large": after["test_cosine"].mean()}
            rows.append(row | found.columns("change"))
    columns = ["entry", "small", "large", "change", "change_low", "change_high"]
    columns += ["p_value", "verdict", "seeds"]
    if not rows:
        return pd.DataFrame(columns=columns)
    table = pd.DataFrame(rows)
    several = (table["seeds"] > 1).to_numpy()
    p_values = [interval.p_value for interval in table["interval"][several]]
    asked = set(runs["entry"][runs["planned_seeds"] > 1])
    waiting = [1.0] * len(asked - set(table["entry"][several]))
    table["p_value"] = np.nan
    table.loc[several, "p_value"] = holm(p_values + waiting)[: len(p_values)]
    table["verdict"] = [
        verdict(interval, adjusted_p=p)
        for interval, p in zip(table["interval"], table["p_value"], strict=True)
    ]
    return table[columns]


def contrasts(table: pd.DataFrame) -> pd.DataFrame:
    """Compare the headline sizes at equal epochs and at equal updates.

    Returns
    -------
    DataFrame
        arm ("epochs", "steps"), and the columns of `compare_sizes`, whose correction is
        made within each arm.
    """
    small, large = headline_sizes(main_runs(table))
    before, after = sides(table)
    found = [
        compare_sizes(pd.concat([before, runs]), small, large).assign(arm=arm)
        for arm, runs in after.items()
    ]
    both = [part for part in found if len(part)] or found[:1]
    return pd.concat(both, ignore_index=True)


# --- networks and baselines beside each other ----------------------------------------


def ranking(runs: pd.DataFrame) -> pd.DataFrame:
    """Return networks and baselines by test cosine at the larger headline size.

    Among the baselines is ridge to the weights, from a later study if need be.

    A rank is a range: two entries are ordered only when the interval of their
    difference excludes zero after Holm's correction. Entries whose training failed, or
    that have one seed, have no rank.

    Returns
    -------
    DataFrame
        name, kind ("network", "baseline"), best_rank, worst_rank, small, large, change,
        verdict, skill.
    """
    small, large = headline_sizes(runs)
    changes = compare_sizes(runs, small, large).set_index("entry")
    cell = runs[runs["size"] == large]
    ranks = _ranks(cell[cell["status"] == "trained"])
    kept = ["small", "change", "change_low", "change_high", "verdict"]
    rows = []
    for entry, group in cell.groupby("entry"):
        best, worst = ranks.get(entry, (np.nan, np.nan))
        row = {"name": entry, "kind": "network", "best_rank": best, "worst_rank": worst}
        row |= {"large": group["test_cosine"].mean(), "skill": group["skill"].mean()}
        rows.append(
            row | (dict(changes.loc[entry, kept]) if entry in changes.index else {})
        )
    levels = baseline_means(runs)
    later = later_linear(runs)
    if len(later):
        means = later.groupby("size")["test_cosine"].mean()
        levels["ridge_to_weights"] = means.reindex(levels.index)
    for name in levels if rows else ():
        before, after = (levels[name].get(size, np.nan) for size in (small, large))
        row = {"name": name, "kind": "baseline", "large": after}
        row |= {"small": before, "change": after - before}
        rows.append(row)
    columns = ["name", "kind", "best_rank", "worst_rank", "small", "large", "change"]
    columns += ["change_low", "change_high", "verdict", "skill"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values("large", ascending=False, ignore_index=True)


def _ranks(cell: pd.DataFrame) -> dict[str, tuple[int, int]]:
    groups = {e: g for e, g in cell.groupby("entry") if g["seed"].nunique() > 1}
    seeds = set(cell["seed"]).intersection(*(g["seed"] for g in groups.values()))
    if len(groups) < 2 or len(seeds) < 2:
        return {}
    scores, documents = {}, None
    for entry, group in groups.items():
        common = group[group["seed"].isin(seeds)].sort_values("seed")
        scores[entry], documents = window_scores(common)
    return rank_ranges(scores, documents)


def superiority(runs: pd.DataFrame, size: int) -> pd.DataFrame:
    """Ask of every two networks which is better, over seeds and documents.

    The probability is a hierarchical bootstrap's (arXiv 2103.03098): draw a seed, then
    as many documents as the exam has, with replacement; ties count half. One seed a
    draw, not a mean over seeds: the question is which of two models wins that are each
    trained once. Seeds are paired. Entries whose training failed are left out.

    Few seeds that agree make a probability of 1, whatever the next would do. So a pair
    is `decided` only if, besides, it has two seeds and its mean difference is no zero
    by Holm's correction over such pairs, as in the ranking.

    Returns
    -------
    DataFrame
        Two rows a pair, each the other's mirror, in the study's order: better, worse,
        probability that `better` beats `worse`, seeds in common, p_value (adjusted; NaN
        with one seed), decided.
    """
    cell = runs[(runs["size"] == size) & (runs["status"] == "trained")]
    groups = dict(list(cell.groupby("entry", sort=False)))
    rows = []
    for a, b in combinations(groups, 2):
        if not set(groups[a]["seed"]) & set(groups[b]["seed"]):
            continue
        differences, documents = paired_differences(groups[a], groups[b])
        share = _win_share(differences, documents)
        p = clustered_interval(differences, documents).p_value
        seeds = len(differences)
        rows.append((a, b, share, seeds, p if seeds > 1 else np.nan))
    columns = ["better", "worse", "probability", "seeds", "p_value"]
    pairs = pd.DataFrame(rows, columns=columns)
    several = pairs["seeds"] > 1
    pairs.loc[several, "p_value"] = holm(pairs["p_value"][several])
    mirror = pairs.rename(columns={"better": "worse", "worse": "better"})
    mirror["probability"] = 1 - mirror["probability"]
    both = pd.concat([pairs, mirror], ignore_index=True)
    certain = both["p_value"] < 1 - SURE
    return both.assign(decided=certain & (both["probability"] > SURE))


def _win_share(differences: np.ndarray, documents: np.ndarray) -> float:
    """Share of draws with a mean above zero; averaged over seeds, not drawn."""
    names, inverse = np.unique(documents, return_inverse=True)
    sums = np.stack([np.bincount(inverse, row) for row in differences])  # (S, J)
    windows = np.bincount(inverse)
    even = np.full(len(names), 1 / len(names))
    draws = np.random.default_rng(0).multinomial(len(names), even, RESAMPLES)
    means = (draws @ sums.T) / (draws @ windows)[:, None]  # (RESAMPLES, S)
    return float(((means > 0) + 0.5 * (means == 0)).mean())


def metrics(runs: pd.DataFrame) -> pd.DataFrame:
    """Return retrieval and contrastive accuracy at the headline sizes.

    Returns
    -------
    DataFrame
        name, kind, size and METRICS: means over seeds.
    """
    rows = []
    for size, cell in runs[runs["size"].isin(headline_sizes(runs))].groupby("size"):
        for entry, group in cell.groupby("entry", sort=False):
            means = {m: group[f"test_{m}"].mean() for m in METRICS}
            rows.append({"name": entry, "kind": "network", "size": size} | means)
        first = cell.iloc[0]
        for name in BASELINES:
            if f"baseline_{name}_cosine" in cell:
                means = {m: first[f"baseline_{name}_{m}"] for m in METRICS}
                rows.append({"name": name, "kind": "baseline", "size": size} | means)
    return pd.DataFrame(rows, columns=["name", "kind", "size", *METRICS])


# --- what it costs -------------------------------------------------------------------


def latency() -> pd.DataFrame:
    """Return the committed latencies of one prediction, measured once by the benchmark.

    Returns
    -------
    DataFrame
        Indexed by architecture or baseline: latency_ms, parameters, processor, …;
        no rows where the project has no such file.
    """
    path = project_folder() / "reports" / "benchmark" / "latency.csv"
    if path.exists():
        return pd.read_csv(path, index_col="name")
    return pd.DataFrame(columns=["latency_ms", "parameters", "processor"])


def dominated_by(costs: pd.DataFrame) -> list[list[str]]:
    """Name for each row the rows that dominate it (Pareto); none is on the frontier.

    Those are at least as good in test cosine, latency and parameters, and better in one
    of them. Latencies less than 10% apart are one: that much is noise.
    """
    fast = 1 + LATENCY_NOISE
    points = costs[["latency_ms", "parameters", "test_cosine"]]
    return [
        [
            name
            for name, (ms, size, cosine) in zip(
                costs["name"], points.to_numpy(), strict=True
            )
            if ms <= fast * mine
            and size <= own
            and cosine >= quality
            and (fast * ms < mine or size < own or cosine > quality)
        ]
        for mine, own, quality in points.to_numpy()
    ]


def training_data(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the windows of every size, and the data they were cut from."""
    columns = ["windows_train", "windows_test", "test_documents", "protocol"]
    columns += ["dataset_name", "dataset_sha256"]
    return runs.groupby("size")[columns].first().reset_index()
