"""Kill, starve and mislead the product, and count what is lost: `make campaign`.

python tests/campaign.py KILLS FOLDER writes reports/campaign/log.csv: a row a trial.
Not collected by pytest: it takes as long as its number of kills.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import multiprocessing
import os
import random
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from pathlib import Path

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq
import sentence_transformers  # noqa: F401  (seconds that no kill should spend)
import torch

import lvmlib
from lvmlib import publish, runs, training
from lvmlib.corpus.archives import import_npz
from lvmlib.corpus.building import build
from lvmlib.corpus.card import read_chunks
from lvmlib.corpus.encoding import bundled_encoder
from lvmlib.corpus.sources import SourceError, read_rows
from lvmlib.names import ParameterError
from lvmlib.recipe import make_settings
from lvmlib.records import RunError
from lvmlib.study import read_study
from lvmlib.vectors import DatasetError
from lvmlib.weights import WeightsError

FORK = multiprocessing.get_context("fork")
ROOT = Path(__file__).parent.parent
TRAINING = {"size": 2000, "epochs": 6, "batch_size": 32, "precision": "32-true"}
OURS = (DatasetError, ParameterError, RunError, SourceError, WeightsError)


# --- jobs that are killed: each leaves something whole, or goes on -------------------


def train_job(folder: Path) -> None:
    """Train a run with a checkpoint every fifth of a second."""
    original = training.train

    def often(*arguments: object, **named: object) -> pd.DataFrame:
        return original(*arguments, **named, checkpoint_seconds=0.2)

    runs.train = often
    settings = make_settings("amn", TRAINING | {"run_dir": str(folder / "run")})
    dataset = lvmlib.open_dataset("")
    model = lvmlib.new_model(settings, dataset.dim)
    lvmlib.run(settings, model, dataset, settings.split(dataset))


def encode_job(folder: Path) -> None:
    """Build a dataset from a text of a few hundred chunks."""
    source = folder / "text.jsonl"
    lines = [f"Line {n} is about subject {n // 9}. " * 6 for n in range(400)]
    rows = [{"title": str(n), "text": "\n".join(lines[n::2])} for n in range(2)]
    source.write_text("\n".join(map(json.dumps, rows)))
    build(str(source), str(folder / "built"), bundled_encoder())


def publish_job(folder: Path) -> None:
    """Publish the reference study's runs once more, elsewhere."""
    target = folder / "published"
    publish.publish_runs(ROOT / "reports/as_reported/runs", target)
    (folder / "done").touch()


def render_job(folder: Path) -> None:
    """Render a notebook, as it is, into a page."""
    for number in range(6):
        publish.render_page(
            ROOT / "notebooks/explore.ipynb", folder / f"page{number}.html"
        )
    (folder / "done").touch()


JOBS = {
    "training": (train_job, "run/run.json"),
    "encoding": (encode_job, "built/dataset.json"),
    "publishing": (publish_job, "done"),
    "rendering": (render_job, "done"),
}


def contents(job: str, folder: Path) -> str:
    """Return a hash of what a finished job has to give, the clock aside."""
    found = hashlib.sha256()
    if job == "training":
        run = lvmlib.load_run(folder / "run")
        found.update(run.scores.to_numpy().tobytes())
        found.update(run.history.drop(columns="seconds").to_numpy().tobytes())
        state = lvmlib.load_weights(folder / "run/model.safetensors").state_dict()
        for value in state.values():
            found.update(value.numpy().tobytes())
    elif job == "encoding":
        found.update((folder / "built/vectors.npy").read_bytes())
    else:
        for path in sorted(folder.rglob("*.*")):
            if path.is_file():
                found.update(path.name.encode() + path.read_bytes())
    return found.hexdigest()


def start(job: str, folder: Path) -> multiprocessing.Process:
    """Start a job in a process group of its own; what it says goes to a file.

    It is forked from this process, which has imported everything, so that a kill finds
    it at work and not at its imports.
    """

    def work() -> None:
        os.setsid()
        with (folder.parent / f"{folder.name}.txt").open("w") as said:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            JOBS[job][0](folder)

    process = FORK.Process(target=work)
    process.start()
    return process


def last_line(folder: Path) -> str:
    """Return what a job said last."""
    said = (folder.parent / f"{folder.name}.txt").read_text().strip()
    return said.splitlines()[-1] if said else ""


def kill_often(job: str, kills: int, folder: Path, draw: random.Random) -> list[dict]:
    """Kill a job at random moments until it was killed so often; it must still end.

    A job that ends unkilled is begun anew elsewhere. Every result must be that of a job
    that was left alone. `lost` is the time since the last checkpoint, at most.
    """
    marker = JOBS[job][1]
    for name in ("first", "alone"):  # the first one fills caches
        alone = folder / job / name
        alone.mkdir(parents=True)
        started = time.monotonic()
        left = start(job, alone)
        left.join()
        if left.exitcode:
            raise RuntimeError(f"{job} fails by itself: {last_line(alone)}")
    whole, expected = time.monotonic() - started, contents(job, alone)
    rows, done, number = [], 0, 0
    while done < kills:
        number += 1
        here = folder / job / str(number)
        here.mkdir()
        killed, lost, begun, broken = 0, 0.0, time.monotonic(), ""
        while not (here / marker).exists():
            process = start(job, here)
            process.join(draw.uniform(0.02, 1.0) * whole if done < kills else None)
            if process.exitcode is None:
                os.killpg(process.pid, signal.SIGKILL)
                process.join()
                killed, done = killed + 1, done + 1
                checkpoint = here / "run/checkpoint.pt"
                if checkpoint.exists():
                    lost = max(lost, time.time() - checkpoint.stat().st_mtime)
            elif process.exitcode:
                broken = last_line(here)
                break
        same = not broken and contents(job, here) == expected
        row = {"trial": f"{job} {number}", "kills": killed, "fine": same}
        row |= {"error": broken, "seconds": time.monotonic() - begun}
        rows.append(row | {"alone_seconds": whole, "lost_seconds": lost})
        shutil.rmtree(here)
    return rows


# --- no room, no right to write ------------------------------------------------------


def starve(folder: Path) -> list[dict]:
    """Give each job a disk that is full, or read-only, then one that is neither.

    It must stop with an error that names the cause, and go on to the same result.
    """
    rows = []
    for job in ("training", "encoding", "publishing"):
        for cause, option, message in (
            ("full disk", "size=300k", "could not be written"),
            ("read-only disk", "size=64m,ro", "Read-only"),
        ):
            here = folder / f"{job}-{cause.split()[0]}"
            here.mkdir()
            row = {"trial": f"{job}, {cause}", "fine": False}
            mount = ["mount", "-t", "tmpfs", "-o", option, "tmpfs", str(here)]
            if subprocess.run(mount, capture_output=True).returncode:
                rows.append(row | {"error": "not tried: mounting needs root"})
                continue
            try:
                first = start(job, here)
                first.join()
                said = last_line(here)
                room = ["mount", "-o", "remount,rw,size=64m", str(here)]
                subprocess.run(room, check=True)
                second = start(job, here)
                second.join()
                whole = contents(job, here) if not second.exitcode else ""
                alone = contents(job, folder / job / "alone")
                row["fine"] = message in said and bool(first.exitcode)
                row["fine"] &= whole == alone
                row["error"] = "" if row["fine"] else (said + last_line(here))[:300]
            finally:
                subprocess.run(["umount", str(here)], check=True)
            rows.append(row)
    return rows


# --- two at once, and hostile inputs -------------------------------------------------


def two_at_once(folder: Path) -> dict:
    """Train the same run in one folder from two processes at the same time."""
    here = folder / "two"
    here.mkdir()
    pair = [start("training", here) for _ in range(2)]
    for process in pair:
        process.join()
    found = contents("training", here)
    alone = contents("training", folder / "training" / "alone")
    codes = sorted(process.exitcode for process in pair)
    return {"trial": "two trainings in one folder", "fine": found == alone} | {
        "error": "" if codes == [0, 0] else f"exit codes {codes}"
    }


class Evil:
    """Runs something when it is unpickled."""

    def __init__(self, path: Path):
        self.path = path

    def __reduce__(self):
        return (Path.touch, (self.path,))


def demanding_text(number: int, folder: Path) -> Path:
    """Write a small text that asks for much: depth, digits or memory."""
    kinds = ("nested.jsonl", "nested.json", "long.jsonl", "long.json", "once.parquet")
    path = folder / (*kinds, "repeated.parquet")[number]
    if path.suffix == ".parquet":
        text, rows = pa.array(["A sentence. " * 2**17]), pa.array([0] * 64)
        column = pa.DictionaryArray.from_arrays(rows, text)
        table, once = pa.table({"title": column, "text": column}), path.stem == "once"
        pq.write_table(table, path, compression="zstd", use_dictionary=once)
    else:
        row = '{"a": ' * 200_000 if path.stem == "nested" else f'{{"id": {"9" * 5000}}}'
        path.write_text(f"[{row}]" if path.suffix == ".json" else row)
    return path


def hostile(folder: Path, draw: random.Random) -> list[dict]:
    """Give inputs that are damaged, lie or carry code; each must be refused."""
    sentinel, rows = folder / "executed", []
    sample = lvmlib.open_dataset("").folder

    def dataset(number: int) -> None:
        copy = folder / f"dataset{number}"
        shutil.copytree(sample, copy)
        name = ("vectors.npy", "scales.npy", "documents.csv", "dataset.json")[
            number % 4
        ]
        content = bytearray((copy / name).read_bytes())
        place = draw.randrange(len(content) // 2)
        if number < 8:
            content = content[: place + 1]  # cut off
        else:
            content[place : place + 64] = draw.randbytes(64)
        (copy / name).write_bytes(content)
        try:
            lvmlib.open_dataset(copy)
        finally:
            shutil.rmtree(copy)

    def weights(number: int) -> None:
        path = folder / f"w{number}.{('pt', 'safetensors')[number % 2]}"
        if number % 2 == 0:
            torch.save({"model_state_dict": Evil(sentinel)}, path)
        else:
            lvmlib.save_weights(lvmlib.build_model("amn", dim=8), path)
            content = bytearray(path.read_bytes())
            content[draw.randrange(len(content))] ^= 1 << draw.randrange(8)
            path.write_bytes(content)
        lvmlib.load_weights(path)

    def archive(number: int) -> None:
        path = folder / f"a{number}.npz"
        trap = np.array([Evil(sentinel)] * 5, dtype=object).reshape(1, 5, 1)
        np.savez(path, contexts=trap, targets=np.ones((1, 1), np.float32))
        if number % 2:
            with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as bomb:
                bomb.writestr("contexts.npy", bytes(20 * 2**20))
                bomb.writestr("targets.npy", b"no array")
        import_npz(path, folder / f"o{number}", name="x", encoder="y", licence="z")

    def text(number: int) -> None:
        names = ("a.jsonl", "a.json", "a.csv", "a.xml", "a.parquet", "a.jsonl.gz")
        path = folder / f"{number}{names[number % len(names)]}"
        path.write_bytes(draw.randbytes(2000))
        list(read_rows(str(path)))

    def plan(number: int) -> None:
        entries = ("../evil", "a/b", "!!python/object/apply:os.system [touch x]", "")
        path = folder / f"p{number}.yaml"
        entry = entries[number % 4]
        path.write_text(f"sizes: [100]\nseeds: [0]\narchitectures: {{{entry}: {{}}}}\n")
        read_study(str(path))

    def demand(number: int) -> None:
        list(read_rows(str(demanding_text(number, folder))))

    def chunks(number: int) -> None:
        copy = folder / f"chunks{number}"
        shutil.copytree(sample, copy)
        whole = gzip.compress(b'{"row": 0, "text": "A."}\n' * 99)
        contents = (whole[:-9], whole[:-8] + bytes(8), draw.randbytes(2000))
        lines = (draw.randbytes(2000), b'{"row": 0}', b"[0, 1]", b"[" * 200_000)
        content = (*contents, *map(gzip.compress, lines))[number]
        (copy / "chunks.jsonl.gz").write_bytes(content)
        read_chunks(lvmlib.open_dataset(copy))

    for kind, count in (
        (dataset, 16),
        (weights, 14),
        (archive, 8),
        (text, 18),
        (plan, 4),
        (demand, 6),
        (chunks, 7),
    ):
        for number in range(count):
            row = {"trial": f"hostile {kind.__name__} {number}", "fine": False}
            try:
                kind(number)
                row["error"] = "accepted"
            except OURS as error:
                row |= {"fine": "\n" not in str(error), "error": ""}
            except Exception as error:
                row["error"] = f"{type(error).__name__}: {error}"[:200]
            if sentinel.exists():
                row |= {"fine": False, "error": "it was executed"}
            rows.append(row)
    return rows


def main() -> int:
    """Run the campaign."""
    kills, folder = int(sys.argv[1]), Path(sys.argv[2])
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    os.environ["LVM_RUNS"] = str(folder / "runs")
    torch.set_num_threads(1)  # threads do not outlive a fork
    draw, rows = random.Random(0), []
    for job in JOBS:
        rows += kill_often(job, kills // len(JOBS), folder, draw)
        print(f"{job}: {len(rows)} trials so far", flush=True)
    rows += [*starve(folder), two_at_once(folder), *hostile(folder, draw)]
    table = pd.DataFrame(rows)
    target = ROOT / "reports" / "campaign" / "log.csv"
    target.parent.mkdir(exist_ok=True)
    table.to_csv(target, index=False)
    print(f"{table['fine'].sum()} of {len(table)} as they should be → {target}")
    print(table[~table["fine"]].to_string())
    return int(not table["fine"].all())


if __name__ == "__main__":
    sys.exit(main())
