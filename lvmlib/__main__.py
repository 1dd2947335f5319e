"""Run a study and render its report: `python -m lvmlib quick`."""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from tqdm import tqdm

from lvmlib.files import read_json
from lvmlib.publish import restore_runs
from lvmlib.records import is_whole
from lvmlib.results import missing_runs
from lvmlib.study import PlannedRun, Study, read_study


def main() -> int:
    """Run what is missing, render the report, and return an exit status."""
    parser = argparse.ArgumentParser(prog="lvmlib", description=__doc__)
    parser.add_argument("study", help="name of a file in parameters/, or its path")
    parser.add_argument("--dataset", default="", help="another dataset folder")
    parser.add_argument("--cores", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    try:
        study = read_study(arguments.study, arguments.dataset)
    except ValueError as error:
        sys.exit(f"error: {error}")
    forget_useless(study)
    study.write_plan()
    report = Path("reports") / study.name
    index, published = report / "index.html", report / "runs"
    restored = restore_runs(study, published)
    if restored:
        print(f"{study.name}: {restored} finished runs are taken from {published}")
    log = study.folder / "snakemake.log"
    # Also when the environment was not activated: its tools are found beside Python.
    tools = Path(sys.executable).parent
    os.environ["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    snakemake = ["snakemake", "--cores", str(arguments.cores), "--keep-going"]
    # What a kill or a power cut leaves behind must not stop the next start: runs write
    # atomically and go on from their checkpoints.
    snakemake += ["--rerun-incomplete", "--nolock", "--config"]
    snakemake += [f"study={arguments.study}", f"dataset={arguments.dataset}", "--"]

    with log.open("w") as file:
        if not all(run.is_done for run in study.runs):
            runs = subprocess.Popen([*snakemake, "runs"], stdout=file, stderr=file)
            try:
                watch(study, runs)
            except KeyboardInterrupt:
                runs.wait()  # Snakemake got the same signal and stops its runs
                print("\nstopped; the same command goes on from here.", file=sys.stderr)
                return 130
        render = subprocess.run([*snakemake, "report"], stdout=file, stderr=file)
    missing = missing_runs(study.folder)
    for run in missing.itertuples():
        print(f"missing: {run.label}: {run.reason}", file=sys.stderr)
    if render.returncode or not index.exists():
        print(f"the report was not rendered; see {log}", file=sys.stderr)
        return 1
    if "Nothing to be done" in log.read_text():
        print(f"{study.name}: all {len(study.runs)} runs and pages are up to date.")
    print(index)
    return 1 if len(missing) else 0


def forget_useless(study: Study) -> None:
    """Delete finished runs that answer nothing now: to Snakemake they would be done.

    They are on another dataset, or damaged.
    """
    for run in study.runs:
        path = run.folder / "run.json"
        if not path.exists():
            continue  # nothing yet, or a run that goes on from its checkpoint
        info = read_json(path) or {}
        of, why = info.get("dataset"), ""
        if isinstance(of, dict) and of.get("sha256") != study.dataset_sha256:
            why = "the dataset has changed"
        elif not (info and is_whole(run.folder, info)):
            why = "its files are damaged"
        if why:
            print(f"{run.label}: {why}, training again.")
            shutil.rmtree(run.folder)


def watch(study: Study, process: subprocess.Popen) -> None:
    """Show how far the study is, until the process that runs it ends.

    On a terminal one live line; elsewhere a line a finished run.
    """
    total = sum(run.cost for run in study.runs)
    waiting = [run for run in study.runs if not run.is_done]
    before = total - sum(run.cost for run in waiting)
    log = study.folder / "snakemake.log"
    print(f"{study.name}: {len(study.runs)} runs, {len(waiting)} to do (log: {log})")
    bar = tqdm(
        total=total,
        initial=before,
        disable=None,
        bar_format="{percentage:3.0f}% |{bar:15}| {elapsed}, {remaining} left · {desc}",
    )
    started = time.monotonic()
    while process.poll() is None:
        time.sleep(1)
        finished = [run for run in waiting if run.is_done]
        waiting = [run for run in waiting if run not in finished]
        shares = {run.label: share_done(run) for run in waiting}
        left = sum((1 - shares[run.label]) * run.cost for run in waiting)
        passed = time.monotonic() - started
        remaining = passed * left / max(total - before - left, 1e-6 * total)
        count = f"{len(study.runs) - len(waiting)} of {len(study.runs)} runs done"
        for run in finished:
            gone, ahead = map(bar.format_interval, (passed, remaining))
            bar.write(f"{count} ({run.label}), {gone} passed, about {ahead} left")
        now = [f"{r.entry} {r.settings.size:,}" for r in waiting if shares[r.label]]
        bar.set_description_str(f"{count} · {', '.join(now)}", refresh=False)
        bar.n = total - left
        bar.refresh()
    bar.close()


def share_done(run: PlannedRun) -> float:
    """Return the share of a running run's updates that are done, 0 if not started."""
    progress = read_json(run.folder / "progress.json")
    return progress["step"] / progress["total"] if progress else 0.0


if __name__ == "__main__":
    sys.exit(main())
