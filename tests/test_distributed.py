"""One run on two processes: the same numbers as on one.

This file is also the script that the test starts; Fabric starts it once more for the
second process.
"""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from safetensors.torch import load_file

from lvmlib import checkpoints, training
from lvmlib.models import build_model
from lvmlib.recipe import Recipe
from lvmlib.training import make_fabric, train
from lvmlib.vectors import make_split, open_dataset

RECIPE = Recipe(
    epochs=2, learning_rate=0.003, warmup=0.1, precision="32-true", device="cpu"
)
OPTIONS = {
    "amn": {"hidden": 8, "mlp": 16},
    "graphmert": {"layers": 2, "heads": 2, "feedforward": 32, "dropout": 0.0},
    "lstm": {"hidden": 12, "dropout": 0.5},
}
# Windows in the last batch: 5 are 3 and 2, and of 1 the second process gets none.
CASES = [("amn", 0), ("amn", 5), ("amn", 1), ("graphmert", 1)]


def read(folder):
    dataset = open_dataset(folder)
    return dataset, make_split(dataset, "controlled", 200)


def run(name, dataset, split, recipe, folder, **options):
    """Train and keep what this process has in the end."""
    torch.manual_seed(0)
    model = build_model(name, dim=16, **OPTIONS[name])
    history = train(model, dataset, split, recipe, 0, folder, **options)
    return {"weights": model.state_dict(), "history": history.to_dict()}


def with_last_batch(windows: int, left: int) -> Recipe:
    size = next(b for b in range(10, windows) if windows % b == left)
    return replace(RECIPE, batch_size=size)


# --- in two processes ---------------------------------------------------------------


def in_two_processes(dataset_folder: str, out: str) -> None:
    torch.set_num_threads(1)
    fabric = make_fabric(RECIPE, devices=2)
    fabric.launch()
    if fabric.global_rank:  # the first process is the only one that writes
        training.save_weights = training.atomic_path = training.Progress = None
        checkpoints.atomic_path = None
    dataset, split = read(dataset_folder)
    out, results = Path(out), {}
    for name, left in CASES:
        recipe = with_last_batch(len(split.train), left)
        folder = out / f"{name}{left}"
        results[name, left] = run(name, dataset, split, recipe, folder, fabric=fabric)
    recipe = replace(with_last_batch(len(split.train), 5), epochs=4)
    arguments = ("lstm", dataset, split, recipe)
    results["whole"] = run(*arguments, out / "whole", fabric=fabric)
    interrupt(arguments, out / "resumed", fabric)
    results["resumed"] = run(*arguments, out / "resumed", fabric=fabric)
    torch.save(results, out / f"{fabric.global_rank}.pt")


def interrupt(arguments, folder, fabric) -> None:
    """Fail at the 18th update, in the second epoch; the last checkpoint is of 15."""
    plain, often = training.differentiate, training.STEPS_TO_AGREE

    def failing(*arguments, **named):
        if arguments[5] == 18:  # the number of the update
            raise InterruptedError
        plain(*arguments, **named)

    training.differentiate, training.STEPS_TO_AGREE = failing, 5
    try:
        run(*arguments, folder, fabric=fabric, checkpoint_seconds=0)
    except InterruptedError:
        training.differentiate, training.STEPS_TO_AGREE = plain, often


# --- the tests ----------------------------------------------------------------------


@pytest.fixture(scope="module")
def out(dataset_folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("two")
    command = [sys.executable, __file__, str(dataset_folder), str(out)]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    subprocess.run(command, env=environment, check=True, timeout=100)
    return out


@pytest.fixture(scope="module")
def processes(out):
    return [torch.load(out / f"{rank}.pt", weights_only=False) for rank in (0, 1)]


def assert_equal_weights(one, other, tolerance=0.0):
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=0, atol=tolerance)


@pytest.mark.parametrize(("name", "left"), CASES)
def test_two_processes_get_what_one_gets(
    dataset_folder, processes, tmp_path, name, left
):
    dataset, split = read(dataset_folder)
    recipe = with_last_batch(len(split.train), left)
    single = run(name, dataset, split, recipe, tmp_path)
    double = processes[0][name, left]
    one, two = dict(single["weights"]), dict(double["weights"])
    for weights in (one, two):
        # No output depends on it, and its gradient is rounding, which AdamW blows up.
        weights.pop("context_encoder.bias", None)
    assert_equal_weights(two, one, tolerance=1e-5)
    pd.testing.assert_frame_equal(
        pd.DataFrame(double["history"]).drop(columns="seconds"),
        pd.DataFrame(single["history"]).drop(columns="seconds"),
        rtol=1e-5,
    )


def test_both_processes_end_with_the_same(processes, out):
    first, second = processes
    for case in first:
        assert_equal_weights(first[case]["weights"], second[case]["weights"])
        assert first[case]["history"] == second[case]["history"]
    for name, left in CASES:
        folder = out / f"{name}{left}"
        kept = load_file(folder / "model.safetensors")
        assert_equal_weights(kept, second[name, left]["weights"])
        assert {p.name for p in folder.iterdir()} == {
            "model.safetensors",
            "history.csv",
        }


def test_two_processes_resume(processes, out):
    """With dropout, whose masks depend on the step and the process alone."""
    content = torch.load(out / "resumed" / "checkpoint.pt", weights_only=True)
    assert (content["state"]["step"], content["state"]["batch"] > 0) == (15, True)
    for process in processes:
        whole, resumed = process["whole"], process["resumed"]
        assert_equal_weights(whole["weights"], resumed["weights"])
        pd.testing.assert_frame_equal(
            pd.DataFrame(whole["history"]).drop(columns="seconds"),
            pd.DataFrame(resumed["history"]).drop(columns="seconds"),
            rtol=1e-6,
        )


def test_the_idle_threshold_stays(processes):
    """No gradient for it, on either process, must not become one of zero and decay."""
    weights = processes[1]["graphmert", 1]["weights"]
    assert weights["decay_mask.threshold"] == 2


if __name__ == "__main__":
    in_two_processes(*sys.argv[1:])
