"""What a study found: the tables and sentences of the summary notebook."""

from __future__ import annotations

import json
from importlib.resources import files
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import pandas as pd
import seaborn as sns
import torch
from matplotlib.figure import Figure

from lvmlib.comparison import (
    BASELINES,
    PAIRED_BASELINES,
    baseline_means,
    compare,
    compare_sizes,
    over_baseline,
    registered,
    window_scores,
)
from lvmlib.models import ARCHITECTURES
from lvmlib.pages.report import STATUS, signed, span
from lvmlib.runs import load_run, processor_name
from lvmlib.statistics import format_interval, rank_ranges
from lvmlib.study import missing_runs, read_plan

REPORTED_SIZES = {"80k": 80_634, "232k": 232_605}
ARMS = {"epochs": "equal epochs", "steps": "equal updates"}
SMALL = 10_000_000  # parameters; the recommendation's "small"
TIMES = ["latency_ms", "windows_per_second"]
MACHINE = ["processor", "device", "precision"]
LATENCY_NOISE = 0.1  # share by which two latencies may differ and mean nothing
NEAR = 0.01  # cosine; how much quality "best cost" may give up


def main_arm(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the main arm: `epochs`, where the study has it."""
    arms = runs["arm"].unique()
    return runs[runs["arm"] == ("epochs" if "epochs" in arms else arms[0])]


def main_runs(runs: pd.DataFrame) -> pd.DataFrame:
    """Keep the main entries: named like their architecture, in main arm and protocol.

    The others ask side questions: another rate, another protocol. A study without main
    entries is kept whole, but for its arm.
    """
    named = runs[runs["entry"] == runs["architecture"]]
    if named.empty:
        return main_arm(runs)
    named = main_arm(named)
    return named[named["protocol"] == named["protocol"].mode()[0]]


def headline_sizes(runs: pd.DataFrame) -> tuple[int, int]:
    """Return the two sizes to compare: the reported ones, else the outermost.

    One reported size is enough: the other one's runs may not be done yet.
    """
    sizes = set(runs["size"])
    if set(REPORTED_SIZES.values()) & sizes:
        return tuple(REPORTED_SIZES.values())
    return min(sizes), max(sizes)


def sides(everything: pd.DataFrame) -> tuple[pd.DataFrame, dict[str, pd.DataFrame]]:
    """Return both sides of the contrasts: the smaller size's runs, the larger's by arm.

    The arm `steps` gives the larger size as many updates as the smaller one had, so its
    runs are set against the smaller size's runs of the main arm.
    """
    runs = main_runs(everything)
    small, large = headline_sizes(runs)
    after = {runs["arm"].iloc[0]: runs[runs["size"] == large]}
    steps = everything[everything["arm"] == "steps"]
    steps = steps[steps["entry"].isin(runs["entry"]) & (steps["size"] == large)]
    after.setdefault("steps", steps)
    return runs[runs["size"] == small], after


def best_baseline(runs: pd.DataFrame) -> tuple[str, float]:
    """Return name and mean test cosine of the best baseline of one size's runs."""
    (cosines,) = baseline_means(runs).to_dict("records")
    best = max(cosines, key=cosines.__getitem__)
    return best, cosines[best]


def answer(runs: pd.DataFrame) -> list[str]:
    """Answer the study's question in sentences: data, baselines, trouble."""
    return [_about_data(runs), _about_baselines(runs), *_about_trouble(runs)]


def _about_data(runs: pd.DataFrame) -> str:
    small, large = headline_sizes(runs)
    found = compare_sizes(runs, small, large)
    changes = registered(found)
    if small == large or changes.empty:
        return (
            "**Does more data help?** Not measured yet: no entry has runs at both "
            f"{small:,} and {large:,} vectors."
        )
    estimates = [i.estimate for i in changes["interval"]]
    apart = [i for i in changes["interval"] if i.low > 0 or i.high < 0]
    seeds = min(i.seeds for i in changes["interval"])
    text = (
        f"**Does more data help?** From {small:,} to {large:,} training vectors the "
        f"test cosine changed by {span(estimates)} at {ARMS[runs['arm'].iloc[0]]}, "
        f"on the same {runs['test_windows'].iloc[0]:,} windows of "
        f"{runs['test_documents'].iloc[0]} unseen documents. "
    )
    if seeds < 2:
        up = sum(i.low > 0 for i in apart)
        return text + (
            f"In {up} of {len(changes)} architectures the model trained on more data "
            f"is better beyond the uncertainty over documents, in {len(apart) - up} it "
            "is worse. **That is no verdict**: one seed was trained, so another "
            "subset and initialisation could turn it."
        )
    most = max(i.seeds for i in changes["interval"])
    seeds = f"{seeds} to {most}" if most > seeds else seeds
    return text + f"Verdicts at {seeds} seeds: **{verdicts(changes)}**.{alone(found)}"


def alone(changes: pd.DataFrame) -> str:
    """Name the changes known from one seed where others have several, or nothing."""
    names = [
        f"{row.entry} ({signed(row.interval.estimate, 4)})"
        for row in changes.drop(registered(changes).index).itertuples()
    ]
    return f" One seed, so no verdict: {', '.join(names)}." if names else ""


def verdicts(changes: pd.DataFrame) -> str:
    """List entries by verdict: "improves: amn, lstm; inconclusive: gru"."""
    groups = changes.groupby("verdict", sort=False)["entry"]
    return "; ".join(f"{verdict}: {', '.join(names)}" for verdict, names in groups)


def _about_baselines(runs: pd.DataFrame) -> str:
    _, large = headline_sizes(runs)
    cell = runs[runs["size"] == large]
    if cell.empty:
        return f"**Are the networks worth it?** Not measured yet at {large:,} vectors."
    name, cosine = best_baseline(cell)
    means = cell.groupby("entry")["test_cosine"].mean()
    intervals = {e: over_baseline(g, name) for e, g in cell.groupby("entry")}
    better = sum(i.low > 0 for i in intervals.values())
    top = means.idxmax()
    return (
        f"**Are the networks worth it?** At {large:,} vectors the best baseline, "
        f"{BASELINES[name]}, has a test cosine of {cosine:.4f}; the best network, "
        f"{top}, has {means[top]:.4f} ({format_interval(intervals[top])}). "
        f"**{better} of {len(intervals)} networks beat the best baseline** beyond the "
        "uncertainty."
    )


def _about_trouble(runs: pd.DataFrame) -> list[str]:
    said = []
    for status, group in runs[runs["status"] != "trained"].groupby("status"):
        cells = group.groupby("entry", sort=False)["size"].unique()
        names = "; ".join(
            f"{entry} ({', '.join(f'{size:,}' for size in sorted(sizes))} vectors)"
            for entry, sizes in cells.items()
        )
        said.append(f"**{status.capitalize()}:** {names}. {STATUS[status]}")
    return said


def grids(runs: pd.DataFrame, study: str | Path) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Return entries by sizes: the first seed's test cosine.

    The main entries, and those with names of their own, which ask side questions. All
    of the main arm, planned or done; at the two headline sizes with links to the runs'
    pages.
    """
    runs = main_arm(runs)
    arm = runs["arm"].iloc[0]
    plan = {str(folder): run for folder, run in read_plan(study).items()}
    cells: dict[str, dict[str, str]] = {}
    for row in runs.sort_values(["size", "seed"], ascending=[True, False]).itertuples():
        text = f"{row.test_cosine:.4f}"
        if row.folder in plan and row.size in headline_sizes(runs):
            text = f'<a href="{plan[row.folder]["page"]}">{text}</a>'
        if row.status != "trained":
            text += f" ({row.status})"
        cells.setdefault(row.entry, {})[f"{row.size:,} vectors"] = text
    for run in missing_runs(study):
        entry, size, of_arm = run["label"].split(", ")[:3]
        if of_arm != arm:
            continue
        link = f'<a href="{run["page"]}">missing</a>' if run["started"] else "missing"
        cells.setdefault(entry, {}).setdefault(size, link)
    order = list(dict.fromkeys(run["label"].split(", ")[0] for run in plan.values()))
    table = pd.DataFrame.from_dict(cells, orient="index").fillna("—")
    table = table[sorted(table, key=lambda name: int(name.split()[0].replace(",", "")))]
    table = table.reindex([entry for entry in order or table.index if entry in cells])
    main = table.index.isin(ARCHITECTURES)
    if not main.any():  # every entry is as much an aside as the others
        main = ~main
    return _planned_sizes(table[main]), _planned_sizes(table[~main])


def _planned_sizes(table: pd.DataFrame) -> pd.DataFrame:
    """Leave out the sizes at which no entry of the table has a run, done or planned."""
    return table.loc[:, (table != "—").any()].rename_axis("entry").reset_index()


def ranking(runs: pd.DataFrame) -> pd.DataFrame:
    """Return entries by test cosine at the largest headline size, baselines below.

    A rank is a range: two entries are ordered only when the interval of their
    difference excludes zero after Holm's correction. Entries whose training failed, or
    that have one seed where others have several, have no rank.
    """
    small, large = headline_sizes(runs)
    changes = compare_sizes(runs, small, large).set_index("entry")
    cell = runs[runs["size"] == large]
    ranks = _ranks(cell[cell["status"] == "trained"])
    rows = []
    for entry, group in cell.groupby("entry"):
        row = {"rank": ranks.get(entry, "—"), "entry": entry}
        if entry in changes.index:
            change = changes.loc[entry]
            row[f"{small:,}"] = f"{change['small']:.4f}"
        row[f"{large:,}"] = f"{group['test_cosine'].mean():.4f}"
        row["order"] = group["test_cosine"].mean()
        if entry in changes.index:
            row["change, 95% interval"] = format_interval(change["interval"], digits=4)
            row["verdict"] = change["verdict"]
        row["skill"] = signed(group["skill"].mean())
        rows.append(row)
    levels = baseline_means(runs)
    for name, label in BASELINES.items() if rows else ():
        means = levels[name].reindex(sorted({small, large}))  # one, if of one size
        row = {"rank": "", "entry": f"<em>baseline: {label}</em>"}
        row |= {f"{size:,}": f"{means[size]:.4f}" for size in (small, large)}
        row |= {"order": means[large], "verdict": "", "skill": ""}
        row["change, 95% interval"] = signed(means[large] - means[small], 4)
        rows.append(row)
    if not rows:
        return pd.DataFrame()
    table = pd.DataFrame(rows).sort_values("order", ascending=False)
    return table.drop(columns="order").fillna("—").replace("nan", "—")


def _ranks(cell: pd.DataFrame) -> dict[str, str]:
    groups = dict(list(cell.groupby("entry")))
    if any(group["seed"].nunique() > 1 for group in groups.values()):
        groups = {e: g for e, g in groups.items() if g["seed"].nunique() > 1}
    seeds = set(cell["seed"]).intersection(*(g["seed"] for g in groups.values()))
    if len(groups) < 2 or not seeds:
        return {}
    scores, documents = {}, None
    for entry, group in groups.items():
        common = group[group["seed"].isin(seeds)].sort_values("seed")
        scores[entry], documents = window_scores(common)
    return {
        entry: f"{best}–{worst}" if best < worst else f"{best}"
        for entry, (best, worst) in rank_ranges(scores, documents).items()
    }


def other_metrics(runs: pd.DataFrame) -> pd.DataFrame:
    """Return retrieval and contrastive accuracy at the headline sizes."""
    columns = {
        "r1_document": "R@1, same document",
        "r10_document": "R@10, same document",
        "r10_all": "R@10, all",
        "r10_all_with_context": "R@10, all, context left in",
        "mrr_all": "MRR, all",
        "contrastive": "contrastive accuracy",
    }
    rows = []
    for size, cell in runs[runs["size"].isin(headline_sizes(runs))].groupby("size"):
        means = cell.groupby("entry", sort=False)[[f"test_{c}" for c in columns]].mean()
        rows += [{"entry": e, "size": size, **row} for e, row in means.iterrows()]
        baselines = load_run(cell["folder"].iloc[0]).info["baselines"]
        for name, label in BASELINES.items():
            row = {f"test_{c}": baselines[name][c] for c in columns}
            rows.append({"entry": f"<em>{label}</em>", "size": size, **row})
    table = pd.DataFrame(rows)
    for column, title in columns.items():
        table[title] = table.pop(f"test_{column}").map("{:.3f}".format)
    table["size"] = table["size"].map("{:,}".format)
    return table


def learning(runs: pd.DataFrame) -> tuple[Figure, pd.DataFrame]:
    """Draw one entry's learning curves by size; return them and how they ended.

    Over updates, not epochs: an epoch of the smallest size has few updates.
    """
    figure, axes = plt.subplots(figsize=(7, 3.4))
    colours = sns.color_palette("viridis_r", len(runs))  # sizes are an order
    rows = []
    for colour, row in zip(colours, runs.sort_values("size").itertuples(), strict=True):
        history = load_run(row.folder).history
        style = {"color": colour, "marker": ".", "label": f"{row.size:,}"}
        axes.plot(history["step"], history["validation_cosine"], **style)
        axes.plot(history["step"], history["train_cosine"], ":", color=colour)
        rows.append(
            {
                "training vectors": f"{row.size:,}",
                "best epoch": f"{row.best_epoch} of {row.epochs}",
                "validation cosine": f"{row.validation_cosine:.4f}",
                "training cosine": f"{row.train_cosine:.4f}",
                "test cosine": f"{row.test_cosine:.4f}",
                "status": row.status,
                "minutes": f"{row.wall_seconds / 60:.0f}",
            }
        )
    axes.set(title="Cosine by update (solid: validation, dotted: training)")
    axes.set(xlabel="updates (log scale)", ylabel="mean cosine", xscale="log")
    figure.legend(title="vectors", loc="outside right upper")
    return figure, pd.DataFrame(rows)


def recommendation(runs: pd.DataFrame) -> tuple[pd.DataFrame, list[str]]:
    """Return what each network costs, and a choice for three kinds of need.

    Column `on_frontier`: no other network dominates it. Training speed is that of the
    first seed's run: other seeds may have been trained on another machine.
    """
    _, large = headline_sizes(runs)
    cell = runs[(runs["size"] == large) & (runs["status"] == "trained")]
    groups = cell.sort_values("seed").groupby("entry")
    costs = groups[["test_cosine", "skill", "parameters"]].mean()
    costs[TIMES] = groups[TIMES].first()
    costs = costs.sort_values("test_cosine", ascending=False)
    if costs.empty:
        return costs, [f"Not measured yet: no network is trained at {large:,} vectors."]
    costs["on_frontier"] = [not names for names in dominating(costs)]
    name, cosine = best_baseline(cell)
    quality = costs.index[0]
    small = costs[costs["parameters"] < SMALL]
    near = costs[costs["test_cosine"] >= costs["test_cosine"].max() - NEAR]
    cheap = near["latency_ms"].idxmin()
    said = [
        f"**Best quality:** {quality}, test cosine {costs.test_cosine[quality]:.4f}"
        f"{_as_good_as(quality, cell)}.",
        f"**Best small** (under {SMALL / 1e6:.0f} million parameters): "
        + (
            f"{small.index[0]}, {small.test_cosine.iloc[0]:.4f} with "
            f"{small.parameters.iloc[0] / 1e6:.1f} million parameters."
            if len(small)
            else "none was trained."
        ),
        f"**Best cost** (fastest within {NEAR} of the best): {cheap}, "
        f"{costs.latency_ms[cheap]:.1f} ms a prediction, "
        f"{costs.test_cosine[cheap]:.4f}.",
    ]
    kinds = len(groups[MACHINE].first().drop_duplicates())
    if kinds > 1:
        said.append(
            f"Training speeds are of {kinds} kinds of machine or arithmetic: between "
            "those they rank nothing."
        )
    if cosine >= costs["test_cosine"].max():
        said.insert(
            0,
            f"**First of all:** {BASELINES[name]} scores {cosine:.4f}, more than every "
            "network here; its cost is below too. On this evidence put that into "
            "production; the choices below hold only among the networks.",
        )
    return costs, said


def _as_good_as(best: str, cell: pd.DataFrame) -> str:
    entries = dict(list(cell.groupby("entry")))
    top = entries.pop(best)
    rivals = {e: g for e, g in entries.items() if set(g["seed"]) & set(top["seed"])}
    close = [entry for entry, group in rivals.items() if compare(top, group).low <= 0]
    return f" ({', '.join(close)} cannot be told from it)" if close else ""


def dominating(costs: pd.DataFrame) -> list[list[str]]:
    """Name for each row the rows that dominate it (Pareto); none is on the frontier.

    Those are at least as good in test cosine, latency and parameters, and better in one
    of them. Latencies less than 10% apart are one: that much is noise.
    """
    fast = 1 + LATENCY_NOISE
    points = costs[["latency_ms", "parameters", "test_cosine"]]
    return [
        [
            name
            for name, ms, size, cosine in points.itertuples()
            if ms <= fast * mine
            and size <= own
            and cosine >= quality
            and (fast * ms < mine or size < own or cosine > quality)
        ]
        for mine, own, quality in points.to_numpy()
    ]


def baseline_costs(runs: pd.DataFrame, measured: pd.DataFrame) -> pd.DataFrame:
    """Return what six numbers and ridge cost: columns as of `recommendation`'s costs.

    `measured` is what `latency.side_by_side` returns.
    """
    _, large = headline_sizes(runs)
    cell = runs[runs["size"] == large]
    costs = measured.loc[[*PAIRED_BASELINES], ["parameters", "latency_ms"]]
    costs["test_cosine"] = baseline_means(cell).loc[large]
    return costs.rename(index=BASELINES)


def cost_table(costs: pd.DataFrame, baselines: pd.DataFrame) -> pd.DataFrame:
    """Format what `recommendation` and `baseline_costs` return."""
    if costs.empty:
        return pd.DataFrame()
    baselines = baselines.rename(index="<em>baseline: {}</em>".format)
    both = pd.concat([costs, baselines])
    speed = both["windows_per_second"].map("{:,.0f}".format, na_action="ignore")
    table = pd.DataFrame(
        {
            "entry": both.index,
            "test cosine": both["test_cosine"].map("{:.4f}".format),
            "skill": both["skill"].map(signed, na_action="ignore"),
            "parameters": both["parameters"].map("{:,.0f}".format),
            "latency, ms": both["latency_ms"].map("{:.2f}".format),
            "training windows/s": speed,
            "on the frontier": both["on_frontier"].map({True: "yes", False: "no"}),
        }
    )
    return table.fillna("—")


def reported_beside(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the original report's table beside this study's."""
    reported = json.loads((files("lvmlib.pages") / "reported.json").read_text())[
        "table"
    ]
    small, large = headline_sizes(runs)
    ours = compare_sizes(runs, small, large).set_index("entry")
    rows = []
    for architecture, row in reported.items():
        old, new = (row[size]["best_val_cosine"] for size in REPORTED_SIZES)
        line = {"architecture": architecture}
        line |= {"reported 80k": f"{old:.4f}", "reported 232k": f"{new:.4f}"}
        line["reported change"] = signed(100 * (new / old - 1), 2) + "%"
        if architecture in ours.index:
            mine = ours.loc[architecture]
            line[f"ours {small:,}"] = f"{mine['small']:.4f}"
            line[f"ours {large:,}"] = f"{mine['large']:.4f}"
            percent = 100 * (mine["large"] / mine["small"] - 1)
            line["our change"] = signed(percent, 2) + "%"
            line["our verdict"] = mine["verdict"]
        else:  # one of the sizes may be there, or seeds that do not pair
            mine = runs[runs["entry"] == architecture]
            means = mine.groupby("size")["test_cosine"].mean()
            for size in means.index.intersection([small, large]):
                line[f"ours {size:,}"] = f"{means[size]:.4f}"
        rows.append(line)
    return pd.DataFrame(rows).fillna("not measured")


def limits(everything: pd.DataFrame) -> list[str]:
    """Return what the study cannot tell, from its own settings."""
    runs = main_runs(everything)
    first = runs.iloc[0]
    counts = runs.groupby(["entry", "size"])["seed"].nunique()
    seeds = f"{counts.min()}"
    if counts.max() > counts.min():
        seeds += f" to {counts.max()}"
    said = [
        f"All claims are about these vectors ({first['dataset']}, "
        f"`{first['dataset_sha256'][:12]}`); another encoder or corpus is another "
        "study.",
        f"{seeds} seed{'s' if counts.max() > 1 else ''}, "
        f"{first['test_documents']} test documents, {first['test_windows']:,} test "
        "windows.",
    ]
    if "epochs" in set(runs["arm"]):
        ratio = runs["steps"].max() / runs["steps"].min()
        said.append(
            "At equal epochs a larger training set also means more updates (here "
            f"{runs['steps'].min():,} to {runs['steps'].max():,}, {ratio:.1f} times)"
            + (
                "; the arm `steps` holds them equal."
                if "steps" in set(everything["arm"])
                else "; equal updates were not measured."
            )
        )
    if (runs["best_epoch"] == runs["epochs"]).any():
        share = (runs["best_epoch"] == runs["epochs"]).mean()
        said.append(
            f"In {share:.0%} of the runs the last epoch was the best one: what more "
            "epochs would give is not measured."
        )
    said.append(
        "Latencies were measured while this page was made, of one window at a time, "
        f"networks and baselines in turns ({processor_name()}; threads: "
        f"{torch.get_num_threads()}): on another machine the ratios may differ too."
    )
    return said


def dataset_table(runs: pd.DataFrame) -> pd.DataFrame:
    """Return the windows of every size, and the data they were cut from."""
    columns: dict[str, Any] = {
        "training_windows": "training windows",
        "test_windows": "test windows",
        "test_documents": "test documents",
        "protocol": "protocol",
        "dataset": "dataset",
        "dataset_sha256": "SHA-256",
    }
    table = runs.groupby("size")[list(columns)].first().reset_index()
    table["dataset_sha256"] = table["dataset_sha256"].str[:12]
    for column in ("size", "training_windows", "test_windows"):
        table[column] = table[column].map("{:,}".format)
    return table.rename(columns=columns | {"size": "training vectors"})
