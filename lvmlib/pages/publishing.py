"""What a study leaves in the repository: small files of its runs, cards, a model.

`python -m lvmlib.pages.publishing reference` copies what the summary needs from the
finished runs to reports/reference/runs, so that the report can be made again from the
repository alone, with `--render`; with `--ship amn`, that entry's model goes into the
package.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shutil
import subprocess
import tempfile
import textwrap
from pathlib import Path

import pandas as pd
import torch

from lvmlib.comparison import BASELINES, PAIRED_BASELINES, over_baseline
from lvmlib.files import atomic_path, write_json
from lvmlib.models import model_class
from lvmlib.pages import findings, plots
from lvmlib.pages.report import counted, signed, span
from lvmlib.pages.summary import (
    best_baseline,
    headline_sizes,
    main_arm,
    main_runs,
    sides,
)
from lvmlib.recipe import runs_root
from lvmlib.runs import SHARED, load_run, read_scores
from lvmlib.statistics import clustered_interval, format_interval
from lvmlib.study import Study, answers, load_study, read_plan, summary_arguments
from lvmlib.weights import PRETRAINED, load_weights, save_weights

# Of a run's scores by window: what a table or a sentence of the summary reads.
COLUMNS = ["document", "row", "cosine", "contrastive", "rank_document", "rank_all"]
ANSWER, ANSWER_ENDS = "<!-- answer -->", "<!-- answer ends -->"
SMALL_FILES = ("test.parquet", "history.csv", "run.json")  # last: then a run is done


def publish_runs(study: str | Path, target: str | Path) -> int:
    """Copy the plan and each finished run's small files; return the number of runs.

    Weights, notebooks and checkpoints stay where they are. Of test.parquet the columns
    that the summary reads are kept, as float32: about 8 bytes a test window. Those of
    the baselines are the same for all runs on one training set: `target`/baselines has
    them once, and `load_run` joins them.
    """
    study, target = Path(study), Path(target)
    table = load_study(study)
    for row in table.itertuples():
        folder = target / Path(row.folder).relative_to(study)
        folder.mkdir(parents=True, exist_ok=True)
        paired = dict.fromkeys((*PAIRED_BASELINES, row.best_baseline))
        scores = read_scores(row.folder)
        baselines = scores[[f"cosine_{name}" for name in paired]].astype("float32")
        found = hashlib.sha256(baselines.to_numpy().tobytes()).hexdigest()[:16]
        shared = target / "baselines" / f"{found}.parquet"
        if not shared.exists():
            write_scores(baselines, shared)
        scores = scores[COLUMNS]
        scores.attrs[SHARED] = shared.name
        write_scores(scores, folder / "test.parquet")
        for name in SMALL_FILES[1:]:
            _copy(Path(row.folder) / name, folder / name)
    _copy(study / "study.json", target / "study.json")
    return len(table)


def restore_runs(study: Study, published: Path) -> int:
    """Put published runs where the study looks for its own; return how many.

    So a machine that has none of a study's runs trains only what nobody has trained; a
    run that was begun here is left alone. A restored run has its scores and history,
    but neither weights nor notebook: to have them, delete its folder in the study and
    in reports/, or repeat it in a folder of its own with one papermill command.
    """
    count = 0
    for run in study.runs:
        source = published / run.folder.relative_to(study.folder)
        if run.folder.exists() or not answers(source, run.recipe_hash):
            continue
        shared = pd.read_parquet(source / "test.parquet").attrs[SHARED]
        copies = {published / "baselines" / shared: study.folder / "baselines" / shared}
        copies |= {source / name: run.folder / name for name in SMALL_FILES}
        recipe = run.folder / f"recipe-{run.recipe_hash}.json"
        write_json(recipe, run.settings.parameters())
        for original, copy in copies.items():
            _copy(original, copy)
        count += 1
    return count


def _copy(original: Path, copy: Path) -> None:
    with atomic_path(copy) as temporary:
        shutil.copyfile(original, temporary)


def publish_pages(runs: pd.DataFrame, study: str | Path, report: Path) -> None:
    """Render the pages that the summary links: seed 0 at the two headline sizes."""
    runs = main_arm(runs)
    runs = runs[runs["size"].isin(headline_sizes(runs)) & (runs["seed"] == 0)]
    plan = read_plan(study)
    for folder in map(Path, runs["folder"]):
        page, notebook = report / plan[folder]["page"], folder / "notebook.ipynb"
        if not notebook.exists():  # restored: its page was published with it
            continue
        if not page.exists() or page.stat().st_mtime < notebook.stat().st_mtime:
            _to_page(notebook, page)


def _to_page(notebook: str | Path, page: Path) -> None:
    command = ["jupyter", "nbconvert", "--log-level", "WARN", "--to", "lvm_report"]
    command += [str(notebook), "--output-dir", str(page.parent), "--output", page.name]
    subprocess.run(command, check=True)


def headline(everything: pd.DataFrame) -> str:
    """Return a study's answer from its results.csv alone: a sentence, then its parts.

    >>> headline(load_study("reports/reference/results.csv"))  # doctest: +SKIP
    """
    runs = main_runs(everything)
    small, large = headline_sizes(runs)
    before, arms = sides(everything)
    after = arms[runs["arm"].iloc[0]]
    changes, in_steps = (_changes(before, other) for other in (after, arms["steps"]))
    if changes.empty or small == large:
        return "No network was trained on two sizes of the training set yet."
    best = after.groupby("entry")["test_cosine"].mean()
    name, cosine = best_baseline(after)
    return (
        f"**From {small:,} to {large:,} training vectors the cosine on "
        f"{after['test_documents'].iloc[0]} unseen documents changed by "
        f"{span(changes.groupby('entry').mean(), 4)} and rose in {_rises(changes)}; "
        f"the best network, {best.idxmax()}, then has {best.max():.4f}, and "
        f"{BASELINES[name]}, which is no network, {cosine:.4f}.** That is at equal "
        f"epochs, so with more updates too: {_means(changes)}. At equal updates "
        + (
            f"the cosine rose in {_rises(in_steps)}: {_means(in_steps)}."
            if len(in_steps)
            else "nothing is measured yet."
        )
    )


def _changes(before: pd.DataFrame, after: pd.DataFrame) -> pd.Series:
    """Return the change of each pair of runs, of one entry and seed."""
    old, new = (
        side.set_index(["entry", "seed"])["test_cosine"] for side in (before, after)
    )
    return (new.reindex(old.index) - old).dropna()


def _rises(changes: pd.Series) -> str:
    return f"{(changes > 0).sum()} of {counted(len(changes), 'pair')} of runs"


def _means(changes: pd.Series) -> str:
    return ", ".join(
        f"{signed(cell.mean(), 4)} ({entry}, {counted(len(cell), 'seed')})"
        for entry, cell in changes.groupby("entry", sort=False)
    )


def tell_readme(readme: Path, sentence: str) -> None:
    """Put the answer between the README's two marks."""
    start, rest = readme.read_text().split(ANSWER, 1)
    _, end = rest.split(ANSWER_ENDS, 1)
    told = textwrap.fill(sentence, 88, break_on_hyphens=False)
    with atomic_path(readme) as temporary:
        temporary.write_text(f"{start}{ANSWER}\n{told}\n{ANSWER_ENDS}{end}")


def write_scores(scores: pd.DataFrame, path: Path) -> None:
    """Write scores as small as Parquet can without losing more than float32 does."""
    floats = list(scores.select_dtypes("float"))
    encodings = dict.fromkeys(floats, "BYTE_STREAM_SPLIT")
    if "row" in scores:  # rises, mostly by one
        encodings["row"] = "DELTA_BINARY_PACKED"
    with atomic_path(path) as temporary:
        scores.astype(dict.fromkeys(floats, "float32")).to_parquet(
            temporary,
            index=False,
            compression="zstd",
            use_dictionary=[name for name in scores if name not in encodings],
            column_encoding=encodings,
        )


def ship(folder: str | Path, path: str | Path = PRETRAINED) -> None:
    """Put a finished run's model into the package: float16, with its card beside.

    Half the numbers' bytes cost nothing that the exam can see; `load_pretrained` turns
    them back into float32.
    """
    run = load_run(folder)
    model = load_weights(run.folder / "model.safetensors")
    save_weights(model.to(torch.float16), path)
    Path(path).chmod(0o644)  # safetensors writes for the owner only
    card = model_card(pd.DataFrame([{"folder": str(folder), "seed": 0}]))
    Path(path).with_suffix(".md").write_text(card)


def model_card(runs: pd.DataFrame) -> str:
    """Return the Markdown card of one entry at one size, from its runs.

    Parameters
    ----------
    runs : DataFrame
        Rows of `load_study`'s table, one a seed; the columns folder and seed are read.
    """
    loaded = [load_run(folder) for folder in runs["folder"]]
    info, seeds = loaded[0].info, len(loaded)
    used, data, windows = info["parameters"], info["dataset"], info["windows"]
    scores = [run.scores["cosine"].to_numpy() for run in loaded]
    cosine = clustered_interval(scores, loaded[0].scores["document"])
    gains = "".join(
        f"- over {name.replace('_', ' ')}: {format_interval(gain, 4)}\n"
        for name in PAIRED_BASELINES
        for gain in [over_baseline(runs, name)]
    )
    contrastive = sum(run.info["test"]["contrastive"] for run in loaded) / seeds
    skill = sum(run.info["skill"] for run in loaded) / seeds
    statuses = ", ".join(sorted({run.info["status"] for run in loaded}))
    recipe = {k: used[k] for k in ("epochs", "batch_size", "learning_rate", "schedule")}
    and_seeds = " and seeds" if seeds > 1 else ""
    precisions, commits = (
        ", ".join(sorted({run.info[key] for run in loaded}))
        for key in ("precision", "commit")
    )
    return f"""# {model_class(info["architecture"]).title}: model card

**What it does.** Reads the embeddings of five consecutive chunks of text and predicts
the embedding of the next: (5, {data["dim"]}) to a unit vector ({data["dim"]},).

**Size.** {info["model_parameters"]["trainable"]:,} parameters. A prediction took
{info["latency_ms"]["p50"]:.1f} ms (median, one window, other runs beside it).

**Training data.** {used["size"]:,} vectors of {data["name"]} (SHA-256
`{data["sha256"][:12]}…`), {windows["train"]:,} windows, protocol {used["protocol"]}.

**Training.** {json.dumps(recipe)}, {info["steps"]:,} updates, {precisions},
commit {commits}; {counted(seeds, "seed")}; status: {statuses}.

**Test.** On {info["test"]["windows"]:,} windows of {info["test"]["documents"]}
documents that no training saw; 95% intervals over documents{and_seeds}:

- cosine: {format_interval(cosine, 4, signed=False)}
{gains}- contrastive accuracy: {contrastive:.3f} (chance 0.5)
- skill against the best baseline: {signed(skill, 3)}

**Not for.** Vectors of another encoder: the numbers mean nothing to it. Text in another
language or genre: not measured. A prediction is an average over what could follow, not
a sentence; do not read it as a fact about the text.
"""


def render(report: Path) -> None:
    """Render index.html and results.csv from `report`/runs, through the notebook.

    The original protocol's runs, where they are committed too, go beside them. The
    reference study's answer and main figure also go to the README.
    """
    with tempfile.TemporaryDirectory() as folder:
        notebook = f"{folder}/index.ipynb"
        command = ["papermill", "--no-progress-bar", "-k", "python3"]
        command += ["notebooks/summary.ipynb", notebook]
        reported = report.parent / "as_reported" / "runs"
        command += summary_arguments(report.name, report / "runs", reported)
        subprocess.run(command, check=True)
        _to_page(notebook, report / "index.html")
    table = load_study(report / "runs")
    with atomic_path(report / "results.csv") as temporary:
        table.drop(columns="folder").to_csv(temporary, index=False)
    if report.name == "reference":
        tell_readme(Path("README.md"), headline(table))
        changes = findings.contrasts(table)
        if len(changes):
            plots.set_style()
            title = findings.contrast_title(*headline_sizes(main_runs(table)))
            plots.forest(changes, title).savefig(report / "contrast.png", dpi=120)


def main() -> None:
    """Publish a study's runs and cards, a model if asked, or render what is there."""
    parser = argparse.ArgumentParser(
        prog="lvmlib.pages.publishing", description=__doc__
    )
    parser.add_argument("study", help="name of a study, such as reference")
    parser.add_argument("--ship", default="", help="the entry whose model ships")
    parser.add_argument("--render", action="store_true", help="only render the report")
    arguments = parser.parse_args()
    if not arguments.study:  # make rebuild, without STUDY=
        parser.error("name a study, such as: make rebuild STUDY=reference")
    report = Path("reports") / arguments.study
    if arguments.render:
        render(report)
        return
    study = runs_root() / arguments.study
    print(f"{publish_runs(study, report / 'runs')} runs → {report / 'runs'}")
    everything = load_study(study)
    publish_pages(everything, study, report)
    table = main_runs(everything)
    largest = table[table["size"] == table["size"].max()]
    for entry, runs in largest.groupby("entry"):
        card = report / "cards" / f"{entry}.md"
        card.parent.mkdir(parents=True, exist_ok=True)
        card.write_text(model_card(runs.sort_values("seed")))
        if entry == arguments.ship:
            ship(runs.sort_values("seed")["folder"].iloc[0])


if __name__ == "__main__":
    main()
