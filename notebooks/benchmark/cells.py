"""What one cell of the benchmark measures, in a process of its own.

The parent (`measuring`) asks for a number of seconds, and the cell answers with what it
found in them. Training is stopped between rounds where it takes its next batch.
"""

from __future__ import annotations

import os
import tempfile
import time
from dataclasses import fields, replace
from itertools import islice
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import pandas as pd
import torch
from control import (
    VARIANTS,
    batches,
    one_pass,
    plain_model,
    plain_optimizer,
)
from torch.optim.lr_scheduler import ReduceLROnPlateau
from torch.profiler import ProfilerActivity, profile

from lvmlib.evaluation import cosine
from lvmlib.inference import predict_windows
from lvmlib.models import build_model
from lvmlib.recipe import Recipe
from lvmlib.runs import peak_memory_mb
from lvmlib.training import train
from lvmlib.vectors import Dataset, Split, make_split, open_dataset

# Peak rates of "all", with warm-up: the reference study's; graphmert's is rescaled.
RATES = {"amn": 4e-3, "lstm": 2e-3, "gru": 4e-3, "transformer": 4e-3, "graphmert": 2e-4}
# What the reference study trains with.
STUDY_BATCHES = {"graphmert": 32} | dict.fromkeys(
    ("amn", "lstm", "gru", "transformer"), 64
)
# To a quality: recurrent networks need updates more than windows.
QUALITY_BATCHES = {"amn": 128, "transformer": 64} | dict.fromkeys(
    ("lstm", "gru", "graphmert"), 32
)


class Turnstile:
    """Holds a training loop between the rounds that the parent asks for."""

    def __init__(self, parent: Connection):
        self.parent, self.until = parent, None

    def __call__(self, windows: int) -> None:
        """Count the windows of the coming step; between rounds, wait here."""
        now = time.perf_counter()
        if self.until is not None and now >= self.until:
            self.answer(
                windows=self.windows,
                seconds=now - self.started,
                gather_seconds=self.gathering,
                cpu_seconds=time.process_time() - self.cpu,
            )
            self.until = None
        if self.until is None:
            seconds = self.wait()
            self.windows, self.gathering, self.cpu = 0, 0.0, time.process_time()
            self.started = time.perf_counter()
            self.until = self.started + seconds
        self.windows += windows

    def wait(self) -> float:
        """Return the seconds asked for; end the process when no more is asked."""
        try:
            return self.parent.recv()
        except EOFError:
            raise SystemExit from None

    def answer(self, **found: Any) -> None:
        """Answer the parent, with this process's peak memory so far."""
        self.parent.send(found | {"peak_mb": peak_memory_mb()})


def paced(dataset: Dataset, turn: Turnstile) -> Dataset:
    """Return a dataset that passes the turnstile before it gathers a batch."""

    class Paced(Dataset):
        def gather(self, rows: np.ndarray) -> np.ndarray:
            turn(len(rows))
            started = time.perf_counter()
            vectors = super().gather(rows)
            turn.gathering += time.perf_counter() - started
            return vectors

    return Paced(**{f.name: getattr(dataset, f.name) for f in fields(dataset)})


def engine_recipe(architecture: str, **changes: Any) -> Recipe:
    """Return the recipe of "all"."""
    recipe = Recipe(learning_rate=RATES[architecture], batch_size=256, device="cpu")
    return replace(recipe, **changes)


def cell_speed(
    turn: Turnstile,
    architecture: str,
    variant: str,
    dataset: str,
    size: int,
    protocol: str = "controlled",
) -> None:
    """Train without end; "all" is `training.train` itself."""
    data = open_dataset(dataset, verify=False)
    windows = make_split(data, protocol, size).train
    torch.manual_seed(0)
    if variant in ("all", "malloc"):
        # So many that no epoch ends: validation and saving are not what is measured.
        windows = np.tile(windows, (max(1, 400_000 // len(windows)), 1))
        split = Split(windows, windows[:8], windows[:8])
        recipe = engine_recipe(architecture, arm="steps", min_steps=10**6)
        run_train(build_model(architecture), paced(data, turn), split, recipe)
    model, forward = plain_model(architecture, VARIANTS[variant])
    optimizer = plain_optimizer(architecture, model, VARIANTS[variant])
    pairs = batches(data, windows, VARIANTS[variant], seed=0)
    while True:
        one_pass(forward, optimizer, pairs(), VARIANTS[variant], turn)


def run_train(
    model: torch.nn.Module, data: Dataset, split: Split, recipe: Recipe, seed: int = 0
) -> pd.DataFrame:
    """Run `training.train` in a temporary folder, without checkpoints."""
    with tempfile.TemporaryDirectory() as folder:
        return train(model, data, split, recipe, seed, folder, "", float("inf"))


def cell_ceiling(turn: Turnstile, side: int = 2048) -> None:
    """Multiply square matrices in bfloat16 and in float32, the best time of each."""
    while True:
        found, seconds = {}, turn.wait() / 2
        for dtype in (torch.bfloat16, torch.float32):
            a, b = torch.randn(2, side, side).to(dtype)
            a @ b.T
            times, until = [], time.perf_counter() + seconds
            while not times or time.perf_counter() < until:
                started = time.perf_counter()
                a @ b.T
                times.append(time.perf_counter() - started)
            found[str(dtype).removeprefix("torch.")] = 2 * side**3 / np.median(times)
        turn.answer(**found)


def cell_memory(
    turn: Turnstile,
    architecture: str,
    variant: str,
    batch_size: int,
    dataset: str,
    size: int,
) -> None:
    """Train ten steps and, for "all", validate, to see what memory that takes."""
    data = open_dataset(dataset, verify=False)
    split = make_split(data, "controlled", size)
    turn.wait()
    if variant == "all":
        steps = {"arm": "steps", "min_steps": 10}
        recipe = engine_recipe(architecture, batch_size=batch_size, **steps)
        run_train(build_model(architecture), data, split, recipe)
    else:
        model, forward = plain_model(architecture, VARIANTS[variant])
        optimizer = plain_optimizer(architecture, model, VARIANTS[variant])
        pairs = batches(data, split.train, VARIANTS[variant], seed=0)()
        one_pass(forward, optimizer, islice(pairs, 10), VARIANTS[variant])
    turn.answer()


def cell_quality(
    turn: Turnstile,
    architecture: str,
    variant: str,
    dataset: str,
    size: int,
    epochs: int,
    seed: int,
) -> None:
    """Train to the end; tell the validation cosine by the seconds spent training.

    Validation, the same for both, is not counted; it is of at most 1,000 windows.
    """
    data = open_dataset(dataset, verify=False)
    split = make_split(data, "controlled", size, seed)
    few = split.validation[:: -(-len(split.validation) // 1000)]
    split = replace(split, validation=few)
    torch.manual_seed(seed)
    turn.wait()
    if variant == "all":
        batch_size = QUALITY_BATCHES[architecture]
        recipe = engine_recipe(architecture, batch_size=batch_size, epochs=epochs)
        history = run_train(build_model(architecture), data, split, recipe, seed)
        seconds, cosines = history["seconds"].cumsum(), history["validation_cosine"]
        turn.answer(curve=list(zip(seconds, cosines, strict=True)))
    else:
        turn.answer(
            curve=control_curve(architecture, variant, data, split, epochs, seed)
        )


def control_curve(
    architecture: str, variant: str, data: Dataset, split: Split, epochs: int, seed: int
) -> list[tuple[float, float]]:
    """Train by the reported recipe: seconds so far and validation cosine by epoch."""
    model, forward = plain_model(architecture, VARIANTS[variant])
    optimizer = plain_optimizer(architecture, model, VARIANTS[variant])
    scheduler = ReduceLROnPlateau(optimizer, factor=0.5, patience=3)
    target = data.gather(split.validation[:, -1])
    pairs, seconds, curve = batches(data, split.train, VARIANTS[variant], seed), 0.0, []
    for _ in range(epochs):
        model.train()
        started = time.perf_counter()
        one_pass(forward, optimizer, pairs(), VARIANTS[variant])
        seconds += time.perf_counter() - started
        near = cosine(predict_windows(model, data, split.validation), target).mean()
        if architecture != "graphmert":  # its reported rate is constant
            scheduler.step(2 - 2 * near)
        curve.append((seconds, float(near)))
    return curve


def cell_profile(turn: Turnstile, architecture: str, dataset: str, size: int) -> None:
    """Profile four steps of "all": the operators by their own time."""
    data = open_dataset(dataset, verify=False)
    windows = make_split(data, "controlled", size).train
    split = Split(windows, windows[:8], windows[:8])
    model = build_model(architecture)
    recipe = engine_recipe(architecture, arm="steps", min_steps=4)
    run_train(model, data, split, recipe)  # warms up
    turn.wait()
    with profile(activities=[ProfilerActivity.CPU]) as profiler:
        run_train(model, data, split, recipe)
    events = profiler.key_averages()
    total = sum(event.self_cpu_time_total for event in events)
    rows = [
        {"operator": e.key, "share": e.self_cpu_time_total / total, "calls": e.count}
        for e in sorted(events, key=lambda e: -e.self_cpu_time_total)[:8]
    ]
    turn.answer(operators=rows)


def work(parent: Connection, kind: str, threads: int, **cell: Any) -> None:
    """Be a cell's process: measure what `kind` says, or tell what went wrong."""
    torch.set_num_threads(threads or os.cpu_count() or 1)
    try:
        globals()[f"cell_{kind}"](Turnstile(parent), **cell)
    except Exception as error:
        parent.send({"error": f"{type(error).__name__}: {error}"})
