"""What a study leaves in the repository: small files of its runs, pages and cards.

`python -m lvmlib.publish reference` copies what the pages need from the finished runs
to reports/reference/runs, so that the report can be made again from the repository
alone, with `--render`; `--ship amn best` puts that entry's model into the package as
`load_pretrained("best")`.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from base64 import b64decode
from collections.abc import Collection
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

import nbformat
import pandas as pd
import papermill
from jinja2 import Environment, PackageLoader

from lvmlib.files import (
    atomic_path,
    copy_file,
    project_folder,
    read_json,
    runs_root,
    write_json,
)
from lvmlib.names import unknown_name
from lvmlib.records import (
    BASELINES,
    PAIRED_BASELINES,
    SHARED,
    checksums,
    load_run,
    read_scores,
)
from lvmlib.results import (
    answers,
    headline_sizes,
    latency,
    load_study,
    main_runs,
    over_baseline,
    read_plan,
    study_answer,
    study_pages,
    told_apart,
    window_scores,
)
from lvmlib.show import interval, signed
from lvmlib.show.html import ReportExporter
from lvmlib.statistics import clustered_interval

if TYPE_CHECKING:  # it imports torch, which takes seconds; rendering needs none
    from lvmlib.study import Study

# Of a run's scores by window: what a page reads.
COLUMNS = ["document", "row", "cosine", "contrastive", "rank_document", "rank_all"]
COLUMNS += ["source"]  # of a joined dataset
SINGLE = ("five_weights", "ridge_to_weights")  # beside the paired baselines
ANSWER, ANSWER_ENDS = "<!-- answer -->", "<!-- answer ends -->"
SHIP = "the entry whose model ships, and for what use: best, ranking or running"
UP = [["index.html", "Answer"]]  # where a run's page leads
SMALL_FILES = ("test.parquet", "history.csv", "run.json")  # last: then a run is done


# --- runs ----------------------------------------------------------------------------


def publish_runs(study: str | Path, target: str | Path) -> int:
    """Copy the plan and each finished run's small files; return the number of runs.

    Weights, notebooks and checkpoints stay where they are. Of test.parquet the columns
    that the pages read are kept, as float32: about 8 bytes a test window. Those of the
    baselines are the same for all runs on one training set: `target`/baselines has them
    once, and `load_run` joins them.
    """
    study, target = Path(study), Path(target)
    table = load_study(study)
    for row in table.itertuples():
        folder = target / Path(row.folder).relative_to(study)
        folder.mkdir(parents=True, exist_ok=True)
        scores = read_scores(row.folder)
        paired = dict.fromkeys((*PAIRED_BASELINES, *SINGLE, row.best_baseline))
        columns = [f"cosine_{name}" for name in paired]
        baselines = scores[[c for c in columns if c in scores]].astype("float32")
        found = hashlib.sha256(baselines.to_numpy().tobytes()).hexdigest()[:16]
        shared = target / "baselines" / f"{found}.parquet"
        if not shared.exists():
            write_scores(baselines, shared)
        scores = scores[[c for c in COLUMNS if c in scores]]
        scores.attrs[SHARED] = shared.name
        write_scores(scores, folder / "test.parquet")
        copy_file(Path(row.folder) / "history.csv", folder / "history.csv")
        info = read_json(Path(row.folder) / "run.json")
        dataset = Path(info["parameters"]["dataset"]).name  # no folder of this machine
        info["parameters"] |= {"dataset": dataset, "run_dir": ""}
        write_json(folder / "run.json", info | {"checksums": checksums(folder)})
    copy_file(study / "study.json", target / "study.json")
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
            copy_file(original, copy)
        count += 1
    return count


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


# --- cards and models ----------------------------------------------------------------


def model_card(
    runs: pd.DataFrame, report: Path, use: str = "", encoder: str = ""
) -> str:
    """Return the Markdown card of one entry at one size.

    Parameters
    ----------
    runs : DataFrame
        Rows of `load_study`'s table, one a seed.
    report : Path
        The study's report, which may have apart.parquet, see `results.told_apart`.
    use, encoder : str
        Of a model that ships: what `load_pretrained` calls it, whose vectors it reads.
    """
    info, entry = load_run(runs["folder"].iloc[0]).info, runs["entry"].iloc[0]
    recipe = info["parameters"]  # that of an older run lacks what came later
    kind = recipe.get("kind", "ridge_to_weights")
    read = entry if info["steps"] else kind, recipe.get("running_mean", False)
    told = told_apart(report / "apart.parquet").get((*read, recipe["size"]))
    started = recipe.get("head_start", "none") != "none"
    loader = PackageLoader("lvmlib.show", "template")
    template = Environment(loader=loader, trim_blocks=True)
    template.filters |= {"interval": interval, "signed": signed}
    return template.get_template("card.md.j2").render(
        first=info,
        runs=runs,
        use=use,
        encoder=encoder,
        scores={
            name: clustered_interval(*window_scores(runs, name))
            for name in ("cosine", "r1_document", "mrr_document")
        },
        told=clustered_interval(*told) if told else None,
        names=BASELINES,
        leads={
            name: over_baseline(runs, name)
            for name in (*PAIRED_BASELINES, "ridge_to_weights")
            if f"baseline_{name}_cosine" in runs and name != kind
        },
        # Of the published architecture alone: nothing else was measured.
        latency=None if started else latency()["latency_ms"].get(entry),
    )


def publish_cards(table: pd.DataFrame, folder: Path) -> None:
    """Write the card of each main entry at the largest size."""
    largest = table[table["size"] == table["size"].max()]
    for entry, runs in largest.groupby("entry"):
        folder.mkdir(parents=True, exist_ok=True)
        card = model_card(runs.sort_values("seed"), folder.parent)
        (folder / f"{entry}.md").write_text(card)


def ship(runs: pd.DataFrame, report: Path, path: str | Path) -> None:
    """Put one finished run's model into the package: float16, with its card beside.

    Half the numbers' bytes cost nothing that the exam can see; `load_pretrained` turns
    them back into float32.
    """
    from lvmlib.weights import PRETRAINED_ENCODER, load_weights, save_weights

    (folder,), path = runs["folder"], Path(path)
    model = load_weights(Path(folder) / "model.safetensors")
    save_weights(model.half(), path)
    path.chmod(0o644)  # safetensors writes for the owner only
    card = model_card(runs, report, path.stem, PRETRAINED_ENCODER)
    path.with_suffix(".md").write_text(card)


# --- pages ---------------------------------------------------------------------------


def render_page(notebook: Path, page: Path, pages: list[list[str]] = ()) -> None:
    """Turn an executed notebook into an HTML page."""
    exporter = ReportExporter(pages=[list(p) for p in pages], here=page.name)
    html, _ = exporter.from_filename(str(notebook))
    with atomic_path(page) as temporary:
        temporary.write_text(html)


def render_run_pages(
    study: str | Path, report: Path, among: Collection[str] | None = None
) -> None:
    """Render the pages of runs, failed ones too, with a notebook newer than theirs.

    A restored run has none: its page was published with it. `among`: only the runs with
    these folders.
    """
    for folder, run in read_plan(study).items():
        page, notebook = report / run["page"], folder / "notebook.ipynb"
        if not notebook.exists() or (among is not None and str(folder) not in among):
            continue
        if not page.exists() or page.stat().st_mtime < notebook.stat().st_mtime:
            render_page(notebook, page, UP)


def _shown(table: pd.DataFrame) -> list[str]:
    """Return the folders of the main arm's first seed at the two sizes compared."""
    arms = main_runs(table)["arm"]
    runs = table[(table["arm"] == arms.iloc[0]) & (table["seed"] == 0)]
    return runs["folder"][runs["size"].isin(headline_sizes(main_runs(table)))].tolist()


def render(report: Path, study: Path) -> None:
    """Render a study's pages and results.csv into `report`, from the folder of runs.

    A notebook gets of `reported` (the original protocol's committed runs) and `plan`
    (reports/<study>/PLAN.md) what it has as a parameter and what is there. The words
    and figure of the study's answer, and of a page that tags its own, stay beside the
    pages, for the front page.
    """
    answer = study_answer(study)
    names = [answer, *study_pages(study)]
    pages = [["index.html", "Answer"]] + [[f"{n}.html", n.title()] for n in names[1:]]
    given = {"study": study, "plan": report / "PLAN.md"}
    given["reported"] = report.parent / "as_reported" / "runs"
    with tempfile.TemporaryDirectory() as folder:
        made = {name: Path(folder) / f"{name}.ipynb" for name in names}
        with ThreadPoolExecutor(2) as pool:
            executed = pool.map(lambda name: _execute(name, made[name], given), names)
            render_run_pages(study, report)  # meanwhile
            list(executed)
        for name, notebook in made.items():
            html = "index" if name == answer else name
            render_page(notebook, report / f"{html}.html", pages)
            _keep_answer(notebook, report, "" if name == answer else f"{name}-")
    table = load_study(study)
    hidden = r"^(folder|run_dir|asked_dataset)$|^baseline_(?!\w+_cosine$)|numbers"
    hidden += r"|validation_cosine_"
    with atomic_path(report / "results.csv") as temporary:
        kept = [column for column in table if not re.search(hidden, column)]
        table[kept].to_csv(temporary, index=False)


def _keep_answer(notebook: Path, report: Path, prefix: str) -> None:
    """Keep what a page tags as its answer and main figure, if it does."""
    tagged = _tagged_outputs(notebook)
    words = tagged.get("answer", {}).get("text/markdown", "")
    figure = tagged.get("main-figure", {}).get("image/png", "")
    for name, content in (
        ("answer.md", f"{words}\n".encode() if words else b""),
        ("figure.png", b64decode(figure)),
    ):
        path = report / f"{prefix}{name}"
        path.unlink(missing_ok=True)  # the front page must not quote a former one
        if content:
            with atomic_path(path) as temporary:
                temporary.write_bytes(content)


def render_front(reports: Path) -> None:
    """Render reports/index.html, which names every report, and tell the README."""
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / "front.ipynb"
        _execute("front", made, {"reports": reports})
        render_page(made, reports / "index.html")
        _keep_answer(made, reports, "")
    answer = (reports / "answer.md").read_text()
    tell_readme(project_folder() / "README.md", answer)


def _execute(name: str, target: Path, given: dict[str, Path]) -> None:
    source = project_folder() / "notebooks" / f"{name}.ipynb"
    command = ["papermill", "--no-progress-bar", "-k", "python3", source, target]
    for key in papermill.inspect_notebook(source):
        if key in given and given[key].exists():
            # As seen from here where it lies here: no page names a machine's folders.
            path, here = given[key].resolve(), Path.cwd()
            seen = path.relative_to(here) if path.is_relative_to(here) else path
            command += ["-p", key, seen]
    threads = os.environ | {"OMP_NUM_THREADS": "1"}  # two run side by side
    done = subprocess.run(
        [str(word) for word in command], capture_output=True, text=True, env=threads
    )
    if done.returncode:
        sys.exit(f"error: notebooks/{name}.ipynb failed\n{done.stderr[-3000:]}")


def _tagged_outputs(notebook: Path) -> dict[str, dict]:
    """Return what the first output of each tagged code cell shows, by tag."""
    cells = nbformat.read(notebook, as_version=4).cells
    return {
        tag: cell.outputs[0].data
        for cell in cells
        if cell.cell_type == "code" and cell.outputs and "data" in cell.outputs[0]
        for tag in cell.metadata.get("tags", [])
    }


def tell_readme(readme: Path, answer: str) -> None:
    """Put the answer between the README's two marks."""
    start, rest = readme.read_text().split(ANSWER, 1)
    _, end = rest.split(ANSWER_ENDS, 1)
    wrap = textwrap.TextWrapper(88, subsequent_indent="  ", break_on_hyphens=False)
    told = "\n".join(wrap.fill(line) for line in answer.splitlines())
    with atomic_path(readme) as temporary:
        temporary.write_text(f"{start}{ANSWER}\n{told}\n{ANSWER_ENDS}{end}")


def main() -> None:
    """Publish a study's runs, pages and cards, or render what is there."""
    parser = argparse.ArgumentParser(prog="lvmlib.publish", description=__doc__)
    parser.add_argument("study", nargs="?", help="name of a study, such as reference")
    parser.add_argument("--ship", nargs=2, metavar=("ENTRY", "USE"), help=SHIP)
    parser.add_argument("--render", action="store_true", help="only render the pages")
    parser.add_argument("--runs", type=Path, help="folder of runs to render")
    arguments = parser.parse_args()
    if not arguments.study:  # make rebuild, without STUDY=
        parser.error("name a study, such as: make rebuild STUDY=reference")
    if arguments.ship:
        from lvmlib.weights import PRETRAINED

        entry, use = arguments.ship
        if use not in PRETRAINED:
            parser.error(str(unknown_name("use", use, PRETRAINED)))
    report = Path("reports") / arguments.study
    if arguments.render:
        render(report, arguments.runs or report / "runs")
        if not arguments.runs:  # committed ones
            render_front(report.parent)
            print(f"{report / 'index.html'}, the front page and README.md are rendered")
        return
    study = runs_root() / arguments.study
    print(f"{publish_runs(study, report / 'runs')} runs → {report / 'runs'}")
    table = load_study(study)
    render_run_pages(study, report, among=_shown(table))
    publish_cards(table[table["entry"] == table["architecture"]], report / "cards")
    if arguments.ship:
        runs = table[(table["entry"] == entry) & (table["seed"] == 0)]
        ship(runs[runs["size"] == runs["size"].max()], report, PRETRAINED[use])


if __name__ == "__main__":
    main()
