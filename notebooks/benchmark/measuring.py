"""How fast training is: the control, one lever at a time, and all of them.

Every cell (an architecture and a variant) is a process of its own, so that its peak
memory is its own (`cells`). The cells of an architecture take turns, and every round
measures what matrix products reach, so that a machine that slows down slows all
of them. On the CPU only.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import pandas as pd
import torch
from cells import STUDY_BATCHES, work
from control import VARIANTS, flops_per_window, has_bf16

from lvmlib.corpus.writing import write_dataset
from lvmlib.evaluation import BASELINE_KINDS
from lvmlib.files import write_json
from lvmlib.inference import predict
from lvmlib.models import (
    ARCHITECTURES,
    build_model,
    count_parameters,
    model_class,
)
from lvmlib.names import unknown_name
from lvmlib.results import REPORTED_SIZES
from lvmlib.runs import git_commit, processor_name
from lvmlib.vectors import open_dataset

REPORTED_SIZE = max(REPORTED_SIZES)
DIM = 768
VALIDATION_VECTORS = 12_500  # of the synthetic dataset; Wikipedia's has 12,443
TOGETHER = 5  # variants alive beside the control: graphmert takes 2 GB in each
SPAWNED = multiprocessing.get_context("spawn")
HERE = str(Path(__file__).parent)  # where a cell's process has to look, too
os.environ["PYTHONPATH"] = os.pathsep.join(
    filter(None, [HERE, os.environ.get("PYTHONPATH")])
)
PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload(["cells"])
EPOCHS_SHARE = 0.4  # of the control's passes: 8 for 20, with the rate taken to zero


class BenchmarkError(ValueError):
    """A cell failed, or cannot measure what it was asked to."""


@dataclass(frozen=True)
class Plan:
    """What to measure: the notebook's parameters.

    Attributes
    ----------
    dataset, size : str, int
        Dataset folder and training vectors of the throughput cells.
    rounds, seconds : int, float
        Number of interleaved rounds, and how long a cell trains in each.
    architectures, variants : str
        Names separated by spaces; the variants beside the control.
    quality_architectures, quality_size, quality_epochs, quality_seeds
        Time to quality: the control's passes; "all" has 0.4 times as many.
    largest : int
        Vectors of the synthetic dataset for growth and memory.
    threads : int
        Of each cell; 0 is one a core.
    output : str
        Where the raw numbers go, as JSON; empty for nowhere.
    measured : str
        Such a JSON of an earlier benchmark: nothing in it is measured again.
    """

    dataset: str = ""
    size: int = 10_000
    rounds: int = 10
    seconds: float = 0.4
    architectures: str = "amn lstm gru transformer graphmert"
    variants: str = " ".join(list(VARIANTS)[1:])
    quality_architectures: str = "amn lstm gru"
    quality_size: int = 5000
    quality_epochs: int = 12
    quality_seeds: int = 3
    largest: int = 1_000_000
    threads: int = 0
    output: str = ""
    measured: str = ""

    def __post_init__(self) -> None:
        """Refuse what cannot be measured; raises ValueError."""
        for name in (self.architectures + " " + self.quality_architectures).split():
            model_class(name)
        for name in self.variants.split():
            if name not in VARIANTS:
                raise unknown_name("variant", name, VARIANTS)
        if self.measured:
            return
        dim = open_dataset(self.dataset, verify=False).dim
        if dim != DIM:
            raise BenchmarkError(f"{self.dataset} has dimension {dim}, expected {DIM}.")


class Record:
    """Raw numbers by section, on disk after every addition."""

    def __init__(self, plan: Plan):
        self.plan = plan
        self.content: dict[str, Any] = {"plan": asdict(plan)}
        if plan.measured:
            self.content = json.loads(Path(plan.measured).read_text())

    def add(self, section: str, *rows: dict[str, Any]) -> None:
        """Append rows to a section and write everything."""
        self.content.setdefault(section, []).extend(rows)
        if self.plan.output:
            write_json(self.plan.output, self.content)

    def has(self, section: str) -> bool:
        """Say whether a section was measured before."""
        return bool(self.plan.measured) and section in self.content

    def rows(self, section: str) -> pd.DataFrame:
        """Return a section as a table."""
        return pd.DataFrame(self.content.get(section, []))


class Cell:
    """A process that measures one thing, from its start to the end of a with block.

    It is forked from a server that has imported the library and done nothing else:
    as fresh as one of its own, its peak memory included, without seconds of imports.
    """

    def __init__(self, plan: Plan, kind: str, **cell: Any):
        self.task = {"kind": kind, "threads": plan.threads, **cell}
        tunables = VARIANTS[cell["variant"]].tunables if "variant" in cell else ""
        # Tunables are read once, when a program starts: no fork of the server would.
        processes = SPAWNED if tunables else PROCESSES
        self.connection, theirs = processes.Pipe()
        self.process = processes.Process(
            target=work, args=(theirs,), kwargs=self.task, daemon=True
        )
        with mock.patch.dict(os.environ, GLIBC_TUNABLES=tunables):
            self.process.start()
        theirs.close()

    def __enter__(self) -> Cell:
        return self

    def __exit__(self, *_: object) -> None:
        self.connection.close()
        self.process.join()

    def ask(self, seconds: float = 0.0) -> dict[str, Any]:
        """Let it go on for so long and return its answer.

        `others` is the share of the machine that other processes took meanwhile,
        where the system tells. Raises BenchmarkError if the process fails.
        """
        before, started = busy_seconds(), time.perf_counter()
        try:
            self.connection.send(seconds)
            answer = self.connection.recv()
        except (EOFError, OSError):
            self.process.join()
            answer = {"error": f"exit code {self.process.exitcode}, out of memory?"}
        if "error" in answer:
            raise BenchmarkError(f"The cell {self.task} failed: {answer['error']}")
        if before is not None and "cpu_seconds" in answer:
            cores = (time.perf_counter() - started) * (os.cpu_count() or 1)
            others = busy_seconds() - before - answer["cpu_seconds"]
            answer["others"] = max(0.0, others / cores)
        return answer


def busy_seconds() -> float | None:
    """Return the seconds that all cores together have been busy since the start."""
    try:
        numbers = Path("/proc/stat").read_text().split("\n", 1)[0].split()[1:9]
    except OSError:
        return None
    user, nice, system, _idle, _wait, *rest = map(int, numbers)
    return (user + nice + system + sum(rest)) / os.sysconf("SC_CLK_TCK")


def environment() -> dict[str, Any]:
    """Describe machine and software."""
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "load": round(os.getloadavg()[0], 2),
        "bf16": has_bf16(),
        "torch": torch.__version__,
        "commit": git_commit(),
    }


def measure_speed(record: Record) -> None:
    """Measure windows/s of every variant, interleaved, the control in each group."""
    plan = record.plan
    if record.has("speed"):
        return
    chosen = [name for name in plan.variants.split() if name != "control"]
    groups = [chosen[n : n + TOGETHER] for n in range(0, len(chosen), TOGETHER)]
    for architecture in plan.architectures.split():
        started = time.monotonic()
        for number, group in enumerate(groups):
            names = ["control", *group]
            options = {"architecture": architecture}
            options |= {"dataset": plan.dataset, "size": plan.size}
            with ExitStack() as stack:
                ceiling = stack.enter_context(Cell(plan, "ceiling"))
                cells = [
                    stack.enter_context(Cell(plan, "speed", variant=v, **options))
                    for v in names
                ]
                for cell in cells:
                    cell.ask(plan.seconds)  # warms up
                for turn in range(plan.rounds):
                    key = {"architecture": architecture, "group": number, "round": turn}
                    limit = ceiling.ask(plan.seconds)
                    rows = [
                        {**key, "variant": name, **cell.ask(plan.seconds)}
                        for name, cell in zip(names, cells, strict=True)
                    ]
                    both = {k: limit[k] for k in ("bfloat16", "float32")}
                    record.add("speed", *[row | both for row in rows])
        passed = time.monotonic() - started
        print(f"{architecture}: {plan.rounds} rounds, {passed:.0f} s", flush=True)


def measure_once(record: Record, section: str, kind: str, *cells: dict) -> None:
    """Ask each cell once, one after another."""
    if record.has(section):
        return
    started = time.monotonic()
    for cell in cells:
        with Cell(record.plan, kind, **cell) as process:
            record.add(section, cell | process.ask(record.plan.seconds))
    print(f"{section}: {time.monotonic() - started:.0f} s", flush=True)


def measure_quality(record: Record) -> None:
    """Train control and "all" on the same windows, seed by seed."""
    plan = record.plan
    fewer = max(1, round(EPOCHS_SHARE * plan.quality_epochs))
    cells = [
        {"architecture": a, "variant": v, "epochs": epochs, "seed": seed}
        | {"dataset": plan.dataset, "size": plan.quality_size}
        for a in plan.quality_architectures.split()
        for seed in range(plan.quality_seeds)
        for v, epochs in (("control", plan.quality_epochs), ("all", fewer))
    ]
    measure_once(record, "quality", "quality", *cells)


def measure_profiles(record: Record, architectures: list[str]) -> None:
    """Profile "all" of the given architectures."""
    where = {"dataset": record.plan.dataset, "size": record.plan.size}
    cells = [{"architecture": name} | where for name in architectures]
    measure_once(record, "profile", "profile", *cells)


def measure_memory(record: Record) -> None:
    """Measure peak memory at (up to) the reported size, on random vectors.

    "all" with the batch of the speed cells and with the reference study's.
    """
    plan = record.plan
    if record.has("memory"):
        return
    size = min(plan.largest, REPORTED_SIZE)
    with tempfile.TemporaryDirectory() as folder:
        place = f"{folder}/vectors"
        write_synthetic(place, size)
        cells = [
            {"architecture": a, "variant": v, "batch_size": batch}
            | {"dataset": place, "size": size}
            for a in plan.architectures.split()
            for v, batch in (
                ("control", VARIANTS["control"].batch_size),
                ("all", STUDY_BATCHES[a]),
                ("all", VARIANTS["all"].batch_size),
            )
        ]
        measure_once(record, "memory", "memory", *cells)


def measure_growth(record: Record) -> None:
    """Measure cost by number of vectors, on random ones in a temporary folder."""
    plan = record.plan
    if record.has("growth"):
        return
    sizes = [plan.largest // 10**n for n in range(10) if plan.largest // 10**n >= 1000]
    sizes = (sizes or [plan.largest])[:3]
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        place = f"{folder}/vectors"
        write_synthetic(place, plan.largest)
        shared = {"architecture": "amn", "variant": "all", "dataset": place}
        shared["protocol"] = "as_reported"  # whose first rows are the file's first rows
        cells = {n: Cell(plan, "speed", size=n, **shared) for n in reversed(sizes)}
        for cell in cells.values():
            stack.enter_context(cell).ask(plan.seconds)
        for turn in range(plan.rounds):
            for n, cell in cells.items():
                row = {"vectors": n, "round": turn} | cell.ask(plan.seconds)
                record.add("growth", row)


def write_synthetic(folder: str, pool: int, length: int = 50) -> None:
    """Write a dataset of random int8 vectors: the pool, validation and test."""
    random = np.random.default_rng(0)
    counts = {"pool": pool, "validation": min(pool, VALIDATION_VECTORS), "test": 100}
    starts = np.concatenate([[0], np.cumsum(list(counts.values()))])
    parts = []
    for start, stop, role in zip(starts, starts[1:], counts, strict=False):
        part = pd.DataFrame({"start": np.arange(start, stop, length), "role": role})
        parts.append(part.assign(stop=(part["start"] + length).clip(upper=stop)))
    documents = pd.concat(parts, ignore_index=True)
    documents.insert(0, "document_id", np.arange(len(documents)))
    documents.insert(1, "title", "random")
    n = int(starts[-1])
    blocks = (
        random.standard_normal((min(10_000, n - row), DIM), np.float32)
        for row in range(0, n, 10_000)
    )
    write_dataset(folder, blocks, documents, {"name": "random"})


# --- what the rounds say, as numbers -------------------------------------------------

TURN = ["architecture", "group", "round"]


def speed_summary(rows: pd.DataFrame, bf16: bool) -> pd.DataFrame:
    """Take medians over rounds, by architecture and variant.

    Returns
    -------
    DataFrame
        architecture, variant, rate (windows/s), ratio (to the control of the same
        round), lowest, highest; of "all" also mflop (a window) and share (of what
        matrix products reached in that round).
    """
    rows = rows.assign(rate=rows["windows"] / rows["seconds"])
    control = rows[rows["variant"] == "control"].set_index(TURN)["rate"]
    rows = rows.join(control.rename("control"), on=TURN)
    rows["ratio"] = rows["rate"] / rows["control"]
    names = rows["architecture"].unique()
    counts = {name: flops_per_window(name) for name in names}
    is_all = rows["variant"] == "all"
    rows["mflop"] = rows["architecture"].map(counts).where(is_all) / 1e6
    ceiling = rows["bfloat16" if bf16 else "float32"]
    rows["share"] = rows["rate"] * rows["mflop"] * 1e6 / ceiling
    cells = rows.groupby(["architecture", "variant"], sort=False)
    return cells.agg(
        rate=("rate", "median"),
        ratio=("ratio", "median"),
        lowest=("ratio", "min"),
        highest=("ratio", "max"),
        mflop=("mflop", "first"),
        share=("share", "median"),
    ).reset_index()


def fabric_cost(rows: pd.DataFrame) -> pd.Series:
    """Return by how much "all" takes longer than "bare", the median over rounds."""
    rows = rows.assign(rate=rows["windows"] / rows["seconds"])
    rates = rows.pivot_table(index=TURN, columns="variant", values="rate")
    if not {"bare", "all"} <= set(rates):
        return pd.Series(dtype=float)
    cost = (rates["bare"] / rates["all"] - 1).dropna()
    return cost.groupby("architecture", sort=False).median()


def quality_speedups(rows: pd.DataFrame, margin: float = 0.002) -> pd.DataFrame:
    """Compare, seed by seed, the time to the control's best cosine less the margin.

    Returns
    -------
    DataFrame
        architecture, seed, control_best, all_best, control_seconds, all_seconds
        (infinite if never reached), speedup, fewer (passes until there, control / all).
    """
    found = []
    for key, pair in rows.groupby(["architecture", "seed"], sort=False):
        curves = pair.set_index("variant")["curve"]
        if not {"control", "all"} <= set(curves.index):
            continue  # interrupted between the two
        best = {
            name: max(cosine for _, cosine in curves[name]) for name in curves.index
        }
        reached = {}
        for name in ("control", "all"):
            steps = enumerate(curves[name], 1)
            level = best["control"] - margin
            there = ((n, s) for n, (s, cosine) in steps if cosine >= level)
            reached[name] = next(there, (np.inf, np.inf))
        row = dict(zip(("architecture", "seed"), key, strict=True))
        row |= {f"{name}_best": best[name] for name in ("control", "all")}
        row |= {f"{name}_seconds": reached[name][1] for name in ("control", "all")}
        row["speedup"] = reached["control"][1] / reached["all"][1]
        found.append(row | {"fewer": reached["control"][0] / reached["all"][0]})
    return pd.DataFrame(found)


def growth_summary(rows: pd.DataFrame) -> pd.DataFrame:
    """Return microseconds a window by number of vectors, and relative to the fewest.

    Each round is compared with itself, so that a slow round is slow for all sizes.
    """
    rows = rows.assign(
        step=1e6 * rows["seconds"] / rows["windows"],
        gather=1e6 * rows["gather_seconds"] / rows["windows"],
    )
    by_round = rows.pivot_table(index="round", columns="vectors", values="step")
    relative = by_round.div(by_round.iloc[:, 0], axis=0).median()
    middle = rows.groupby("vectors")[["gather", "step"]].median()
    return middle.assign(relative=relative).reset_index()


# --- the latency that every page shows -----------------------------------------------


def side_by_side(rounds: int = 15, dim: int = DIM, context: int = 5) -> pd.DataFrame:
    """Time one prediction, (context, D) to (D,), of all networks and the baselines.

    By `lvmlib.predict` on the CPU, one thread. In every round each is asked in turn,
    twice, and the second call is timed; the fastest of all rounds counts, since what
    else the machine does can only add to it. Weights and vectors are random: the time
    does not depend on them.

    Returns
    -------
    DataFrame
        name, latency_ms, parameters (trained or fitted), processor, threads, torch.
    """
    torch.set_num_threads(1)
    window = np.random.default_rng(0).normal(size=(context, dim)).astype(np.float32)
    models = {name: build_model(name, dim=dim) for name in ARCHITECTURES}
    models |= {
        name: build_model("linear", dim=dim, kind=kind)
        for name, kind in BASELINE_KINDS.items()
    }
    seconds: dict[str, list[float]] = {name: [] for name in models}
    for _ in range(rounds):
        for name, model in models.items():
            predict(model, window, "cpu")  # brings the weights into the cache
            started = time.perf_counter()
            predict(model, window, "cpu")
            seconds[name].append(time.perf_counter() - started)
    table = pd.DataFrame({"name": list(models)})
    table["latency_ms"] = [round(1000 * min(seconds[name]), 4) for name in models]
    table["parameters"] = [count_parameters(m)["trainable"] for m in models.values()]
    machine = {"processor": processor_name(), "threads": 1, "torch": torch.__version__}
    return table.assign(**machine)


if __name__ == "__main__":  # python notebooks/benchmark/measuring.py latency.csv
    side_by_side().to_csv(sys.argv[1], index=False)
