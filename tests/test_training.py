"""The training loop: what it computes, and what a kill leaves of it."""

from __future__ import annotations

import itertools
import math
import sys
import time
import types
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch
import torch.nn.functional as F
from conftest import drifting_vectors, needs_cuda

from lvmlib import evaluation, gpu, training
from lvmlib.evaluation import cosine
from lvmlib.gpu import make_gather, resident_gather, resolve_precision
from lvmlib.inference import predict_windows
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.recipe import Recipe, total_steps
from lvmlib.records import training_status
from lvmlib.training import TrainingError, train
from lvmlib.vectors import make_split, open_dataset
from lvmlib.weights import load_weights

RECIPE = Recipe(
    epochs=3,
    batch_size=16,
    learning_rate=0.01,
    warmup=0.1,
    precision="32-true",
    device="cpu",
)
OPTIONS = {
    "amn": {"hidden": 8, "mlp": 16},
    "lstm": {"hidden": 12, "dropout": 0.5},
    "gru": {"hidden": 12},
    "transformer": {"layers": 2, "hidden": 16, "heads": 2, "feedforward": 32},
    "graphmert": {"layers": 2, "heads": 2, "feedforward": 32},
}


@pytest.fixture(scope="session")
def dataset(dataset_folder):
    return open_dataset(dataset_folder)


@pytest.fixture(scope="session")
def split(dataset):
    return make_split(dataset, "controlled", 200)


def build(name="amn", seed=0):
    torch.manual_seed(seed)
    return build_model(name, dim=16, **OPTIONS[name])


def same_weights(one, other) -> bool:
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(
        torch.equal(one[k], other[k]) for k in one
    )


def same_history(one, other, rtol=0.0) -> bool:
    tables = [table.drop(columns="seconds") for table in (one, other)]
    pd.testing.assert_frame_equal(*tables, check_exact=not rtol, rtol=rtol)
    return True


def run(folder, dataset, split, recipe=RECIPE, name="amn", seed=0, **options):
    model = build(name, seed)
    return model, train(model, dataset, split, recipe, seed, folder, **options)


@pytest.fixture
def record_updates(monkeypatch):
    """Keep the batch and the learning rate of each update."""
    updates, plain = [], training.differentiate

    def recorded(fabric, model, optimizer, batch, *rest, **named):
        updates.append((batch.clone(), optimizer.param_groups[0]["lr"]))
        plain(fabric, model, optimizer, batch, *rest, **named)

    monkeypatch.setattr(training, "differentiate", recorded)
    return updates


@pytest.fixture
def script_validation(monkeypatch):
    """Return a function that lets the validation cosines be those of a list."""

    def script(values):
        values = iter(values)
        monkeypatch.setattr(
            evaluation, "cosine", lambda a, _: np.full(len(a), next(values))
        )

    return script


# --- one update, one epoch ----------------------------------------------------------


def loud(seed=0, factor=20):
    """An LSTM whose last layer is scaled up: its gradients are longer than 1.

    (AMN's key bias has no gradient but rounding, which AdamW would blow up.)
    """
    model = build("lstm", seed)
    with torch.no_grad():
        model.output_proj.weight *= factor
    return model


def train_by_hand(model, dataset, split, recipe, limit):
    """One epoch in plain PyTorch, with the order that seed 0 gives to epoch 0."""
    optimizer = torch.optim.AdamW(
        model.parameters(), recipe.learning_rate, weight_decay=recipe.weight_decay
    )
    order = np.random.default_rng([0, 2, 0]).permutation(len(split.train))
    losses, cosines, norms = [], [], []
    for rows in torch.from_numpy(split.train[order]).split(recipe.batch_size):
        batch = torch.from_numpy(dataset.gather(rows.numpy()))
        raw, target = model(batch[:, :5]), batch[:, 5]
        loss = ((raw - target) ** 2).mean()
        optimizer.zero_grad()
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), limit)
        optimizer.step()
        norms.append(norm.item())
        losses += [loss.item()] * len(rows)
        cosines += F.cosine_similarity(raw, target).tolist()
    return losses, cosines, norms


def test_an_epoch_is_the_plain_loop_with_clipping(dataset, split, tmp_path):
    recipe = replace(RECIPE, epochs=1, schedule="constant", warmup=0.0)
    recipe = replace(recipe, weight_decay=0.3)
    model = loud()
    history = train(model.eval(), dataset, split, recipe, 0, tmp_path)
    by_hand = loud()  # leaves the random numbers, and so the dropout, as before
    losses, cosines, norms = train_by_hand(by_hand, dataset, split, recipe, limit=1.0)
    unclipped = loud()
    train_by_hand(unclipped, dataset, split, recipe, limit=math.inf)

    def difference(other):
        pairs = zip(model.parameters(), other.parameters(), strict=True)
        return max((a - b).abs().max().item() for a, b in pairs)

    assert difference(by_hand) < 1e-6
    assert difference(unclipped) > 1e-3  # clipping was at work
    row = history.iloc[0]
    assert row["train_loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert row["train_cosine"] == pytest.approx(np.mean(cosines), abs=1e-5)
    assert row["gradient_norm"] == pytest.approx(np.mean(norms), rel=1e-4)
    assert row["gradient_norm_max"] == pytest.approx(max(norms), rel=1e-4)
    assert row["gradient_norm_max_step"] == 1 + np.argmax(norms)
    assert max(norms) > 1
    assert (row["epoch"], row["step"]) == (1, len(norms))
    assert row["windows"] == len(split.train) == len(losses)


def test_the_first_norm_that_is_no_number_is_the_largest(
    dataset, split, tmp_path, monkeypatch
):
    norms = itertools.chain([1.0, 3.0, 2.0], itertools.repeat(math.nan))
    monkeypatch.setattr(
        training, "clip_gradients", lambda *_: torch.tensor(next(norms))
    )
    recipe = replace(RECIPE, epochs=2, batch_size=len(split.train) // 5)
    history = train(loud(), dataset, split, recipe, 0, tmp_path)
    assert history["gradient_norm_max"].isna().all()
    assert history["gradient_norm_max_step"][0] == 4
    assert history["gradient_norm_max_step"][1] == history["step"][0] + 1


def test_the_gradient_norm_is_the_one_before_clipping(dataset, split, tmp_path):
    recipe = replace(RECIPE, epochs=1, batch_size=1000, warmup=0.0)
    model = loud()
    model.dropout.p = 0.0
    batch = torch.from_numpy(dataset.gather(split.train))
    F.mse_loss(model(batch[:, :5]), batch[:, 5]).backward()
    norm = math.sqrt(sum(p.grad.square().sum().item() for p in model.parameters()))
    history = train(model, dataset, split, recipe, 0, tmp_path)
    assert norm > 1
    assert history["gradient_norm_max"][0] == pytest.approx(norm, rel=1e-4)
    assert history["gradient_norm"][0] == pytest.approx(norm, rel=1e-4)
    assert len(history) == 1


def test_updates_follow_gradients_of_norm_one_at_most(
    dataset, split, tmp_path, monkeypatch
):
    norms = []
    step = torch.optim.AdamW.step

    def recorded(self, *arguments, **options):
        grads = [p.grad for g in self.param_groups for p in g["params"]]
        norms.append(math.sqrt(sum(g.square().sum().item() for g in grads)))
        return step(self, *arguments, **options)

    monkeypatch.setattr(torch.optim.AdamW, "step", recorded)
    history = train(loud(), dataset, split, RECIPE, 0, tmp_path)
    assert len(norms) == history["step"].iloc[-1]
    assert max(norms) == pytest.approx(1, abs=1e-4)
    assert history["gradient_norm_max"].max() > 2


def test_all_architectures_see_the_same_batches(
    dataset, split, tmp_path, record_updates
):
    orders = {}
    for name, seed in [("amn", 0), ("lstm", 0), ("amn", 1)]:
        record_updates.clear()
        run(tmp_path / f"{name}{seed}", dataset, split, name=name, seed=seed)
        orders[name, seed] = torch.cat([batch for batch, _ in record_updates])
    assert torch.equal(orders["amn", 0], orders["lstm", 0])
    assert not torch.equal(orders["amn", 0], orders["amn", 1])
    first, second, third = orders["amn", 0].split(len(split.train))
    assert not torch.equal(first, second)
    # Each epoch has each training window once.
    every = torch.from_numpy(dataset.gather(split.train))
    for epoch in (first, second, third, orders["amn", 1][: len(every)]):
        assert torch.equal(sort_rows(epoch), sort_rows(every))


@pytest.mark.parametrize("dtype", ["int8", "float16", "float32"])
@pytest.mark.filterwarnings("error")
def test_vectors_on_the_device_are_those_of_the_dataset(tmp_path, write_dataset, dtype):
    dataset = open_dataset(
        write_dataset(tmp_path / dtype, drifting_vectors(), dtype=dtype)
    )
    windows = make_split(dataset, "controlled", 200, running_mean=True).train
    resident = resident_gather(dataset, torch.device("cpu"), windows)
    mapped = make_gather(dataset, torch.device("cpu"), windows)
    for rows in (windows, windows[:7][1::2], windows[:0], windows[:, -1]):
        expected = torch.from_numpy(dataset.gather(rows))
        for gather in (resident, mapped):
            found = gather(torch.from_numpy(rows))
            assert found.dtype == torch.float32
            assert torch.equal(found, expected)
    before = resident(torch.arange(5))
    resident(torch.arange(5)).zero_()  # what a caller does to a batch stays there
    assert torch.equal(resident(torch.arange(5)), before)


def test_training_on_resident_vectors_is_training(
    dataset, split, tmp_path, monkeypatch
):
    model, history = run(tmp_path / "mapped", dataset, split)
    monkeypatch.setattr(training, "make_gather", resident_gather)
    other, expected = run(tmp_path / "resident", dataset, split)
    assert same_history(history, expected)
    assert same_weights(model, other)


@needs_cuda
def test_a_gpu_gets_what_the_cpu_gets(dataset, split, tmp_path):
    recipe = replace(RECIPE, device="cuda")
    model, history = run(tmp_path / "cuda", dataset, split, recipe)
    _, expected = run(tmp_path / "cpu", dataset, split)
    assert {p.device.type for p in model.parameters()} == {"cuda"}
    columns = ["train_loss", "train_cosine", "validation_cosine", "gradient_norm"]
    pd.testing.assert_frame_equal(history[columns], expected[columns], rtol=1e-3)


@needs_cuda
@pytest.mark.parametrize("name", OPTIONS)
def test_updates_on_a_gpu_do_not_wait_for_it(
    dataset, split, tmp_path, monkeypatch, name
):
    plain, count = training.differentiate, itertools.count()

    def watched(*arguments, **named):
        # The very first update sets up libraries and the optimiser's state.
        torch.cuda.set_sync_debug_mode("error" if next(count) else "default")
        try:
            plain(*arguments, **named)
        finally:
            torch.cuda.set_sync_debug_mode("default")

    monkeypatch.setattr(training, "differentiate", watched)
    recipe = replace(RECIPE, device="cuda", precision="bf16-mixed")
    _, history = run(tmp_path, dataset, split, recipe, name)
    assert np.isfinite(history).all(axis=None)


@needs_cuda
@pytest.mark.parametrize("precision", ["32-true", "bf16-mixed"])
@pytest.mark.parametrize("name", OPTIONS)
def test_a_recorded_update_is_the_plain_one(
    dataset, split, tmp_path, monkeypatch, name, precision
):
    recipe = replace(RECIPE, device="cuda", precision=precision)
    _, history = run(tmp_path / "recorded", dataset, split, recipe, name)
    monkeypatch.setattr(training, "RecordedGradients", lambda plain, _: plain)
    _, expected = run(tmp_path / "plain", dataset, split, recipe, name)
    assert same_history(history, expected, rtol=1e-5)


@needs_cuda
def test_resuming_recorded_updates_is_the_same_as_never_stopping(
    dataset, split, tmp_path, monkeypatch
):
    recipe = replace(RECIPE, device="cuda")
    _, expected = run(tmp_path / "whole", dataset, split, recipe, "transformer")
    given = (tmp_path / "cut", dataset, split, recipe, "transformer")
    recorded, count = gpu.RecordedGradients.__call__, itertools.count()

    def failing(self, *arguments):
        if next(count) == 20:
            raise InterruptedError
        recorded(self, *arguments)

    monkeypatch.setattr(gpu.RecordedGradients, "__call__", failing)
    with pytest.raises(InterruptedError):
        run(*given, checkpoint_seconds=0)
    _, history = run(*given)
    assert same_history(history, expected, rtol=1e-5)


def sort_rows(windows):
    return windows[windows[:, 0, 0].argsort()]


def test_bfloat16_trains_float32_weights(dataset, split, tmp_path):
    recipe = replace(RECIPE, precision="bf16-mixed")
    model, history = run(tmp_path, dataset, split, recipe)
    _, exact = run(tmp_path / "exact", dataset, split)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert history["train_loss"][0] != exact["train_loss"][0]
    for column in ("train_cosine", "validation_cosine"):
        np.testing.assert_allclose(history[column], exact[column], atol=0.02)


def test_bfloat16_is_for_products_not_for_the_input(dataset, split, tmp_path):
    recipe = replace(RECIPE, precision="bf16-mixed", epochs=1)
    model, seen = build(), set()

    def look(module, inputs, output):
        if module.training:
            seen.add((type(module).__name__, inputs[0].dtype, output.dtype))

    model.register_forward_hook(look)
    model.context_encoder.register_forward_hook(look)
    model.query_encoder.register_forward_hook(look)
    train(model, dataset, split, recipe, 0, tmp_path)
    assert seen == {
        ("AMN", torch.float32, torch.float32),
        ("Linear", torch.float32, torch.bfloat16),
    }


@pytest.mark.parametrize("device", ["cpu", "cuda", "mps"])
def test_explicit_precision_is_kept(device):
    assert resolve_precision("32-true", torch.device(device)) == "32-true"
    assert resolve_precision("bf16-mixed", torch.device(device)) == "bf16-mixed"


def test_automatic_precision_asks_the_processor(monkeypatch):
    cpu = torch.device("cpu")
    for capability, expected in [
        ({"avx2": True}, "32-true"),
        ({"avx512_bf16": True}, "bf16-mixed"),
        ({"amx_bf16": True, "avx512_bf16": False}, "bf16-mixed"),
    ]:
        monkeypatch.setattr(torch.cpu, "get_capabilities", lambda c=capability: c)
        assert resolve_precision("auto", cpu) == expected
    assert resolve_precision("auto", torch.device("mps")) == "32-true"


# --- how much and how fast ----------------------------------------------------------


def test_total_steps_of_both_arms():
    recipe = Recipe(epochs=8, batch_size=32)
    assert total_steps(recipe, 320) == 80
    assert total_steps(recipe, 321) == 88  # the last batch has one window
    assert total_steps(replace(recipe, min_steps=100), 320) == 100
    assert total_steps(replace(recipe, min_steps=50), 320) == 80
    steps = replace(recipe, arm="steps", min_steps=50)
    assert total_steps(steps, 320) == total_steps(steps, 32_000) == 50


@pytest.mark.parametrize(("arm", "least"), [("epochs", 25), ("steps", 25)])
def test_training_stops_at_the_last_step(dataset, split, tmp_path, arm, least):
    per_epoch = -(-len(split.train) // 16)
    assert 2 * per_epoch < least < 3 * per_epoch
    recipe = replace(RECIPE, arm=arm, epochs=1, min_steps=least)
    _, history = run(tmp_path, dataset, split, recipe)
    assert history["step"].tolist() == [per_epoch, 2 * per_epoch, least]
    assert history["epoch"].tolist() == [1, 2, 3]
    assert history["windows"][2] == 16 * (least - 2 * per_epoch)
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "history.csv"), history)


@pytest.mark.parametrize(
    ("schedule", "expected"),
    [
        # 10 updates, of which 2 warm up; the cosine goes over the other 8.
        (
            "cosine",
            [1 / 3, 2 / 3, 1]
            + [(1 + math.cos(math.pi * k / 8)) / 2 for k in range(1, 8)],
        ),
        ("constant", [1 / 3, 2 / 3] + [1] * 8),
    ],
)
def test_warm_up_and_decay(
    dataset, split, tmp_path, record_updates, schedule, expected
):
    recipe = replace(RECIPE, arm="steps", min_steps=10, warmup=0.2, schedule=schedule)
    run(tmp_path, dataset, split, recipe)
    rates = [rate for _, rate in record_updates]
    np.testing.assert_allclose(rates, 0.01 * np.array(expected), rtol=1e-6)
    assert rates[6] == pytest.approx(0.005 if schedule == "cosine" else 0.01)


def test_plateau_halves_the_rate_after_epochs_without_improvement(
    dataset, split, tmp_path, record_updates, script_validation
):
    # Better in epochs 1 to 3, then three epochs that are not, a fourth, and the rest.
    script_validation([0.1, 0.2, 0.3] + [0.25] * 9)
    recipe = replace(RECIPE, epochs=12, schedule="plateau", warmup=0.0, batch_size=1000)
    _, history = run(tmp_path, dataset, split, recipe)
    rates = [rate for _, rate in record_updates]
    assert rates == pytest.approx([0.01] * 7 + [0.005] * 4 + [0.0025])
    assert history["learning_rate"].tolist() == rates


def test_early_stopping_keeps_the_best_weights(
    dataset, split, tmp_path, script_validation
):
    script_validation([0.1, 0.5, 0.4, 0.45, 0.3, 0.9])
    recipe = replace(RECIPE, epochs=6, patience=3, schedule="constant", warmup=0.0)
    stopped, history = run(tmp_path / "stopped", dataset, split, recipe)
    cosines = history["validation_cosine"].tolist()
    assert cosines == pytest.approx([0.1, 0.5, 0.4, 0.45, 0.3])
    script_validation([0.1, 0.5])
    best, _ = run(tmp_path / "best", dataset, split, replace(recipe, epochs=2))
    assert same_weights(stopped, best)
    script_validation([0.1, 0.5, 0.6])
    other, _ = run(tmp_path / "other", dataset, split, replace(recipe, epochs=3))
    assert not same_weights(stopped, other)


def test_without_patience_training_goes_to_the_end(
    dataset, split, tmp_path, script_validation
):
    script_validation([0.9, 0.1, 0.1, 0.1, 0.1, 0.1])
    _, history = run(tmp_path, dataset, split, replace(RECIPE, epochs=6))
    assert len(history) == 6


@pytest.mark.parametrize("name", ["amn", "lstm"])
def test_the_best_weights_are_left_in_the_model_and_on_disk(
    dataset, split, tmp_path, name
):
    recipe = replace(RECIPE, epochs=12, learning_rate=0.05, schedule="constant")
    model, history = run(tmp_path, dataset, split, recipe, name)
    best = history["validation_cosine"].max()
    assert best > history["validation_cosine"].iloc[-1]  # the last is not the best
    target = dataset.gather(split.validation[:, -1])
    for found in (model, load_weights(tmp_path / "model.safetensors")):
        raw = predict_windows(found, dataset, split.validation)
        assert cosine(raw, target).mean() == pytest.approx(best, abs=1e-6)
    row = history.loc[history["validation_cosine"].idxmax()]
    assert row["validation_loss"] == pytest.approx(np.mean((raw - target) ** 2))
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"model.safetensors", "history.csv"}


def test_training_learns_what_the_data_has(dataset, split, tmp_path):
    model, history = run(tmp_path, dataset, split, replace(RECIPE, epochs=12))
    assert history["train_loss"].iloc[-1] < 0.6 * history["train_loss"].iloc[0]
    target = dataset.gather(split.test[:, -1])
    trained = cosine(predict_windows(model, dataset, split.test), target).mean()
    untrained = cosine(predict_windows(build(), dataset, split.test), target).mean()
    assert trained > untrained + 0.02


def test_predictions_do_not_depend_on_blocks_or_dropout(dataset, split):
    model = build("lstm").train()
    whole = predict_windows(model, dataset, split.test)
    assert whole.shape == (len(split.test), 16)
    assert whole.dtype == np.float32
    np.testing.assert_allclose(
        predict_windows(model, dataset, split.test, block=7), whole, atol=1e-6
    )
    assert model.training
    predict_windows(model.eval(), dataset, split.test)
    assert not model.training


# --- interruptions ------------------------------------------------------------------

TRAIN = """
import os, signal, sys
import torch
from lvmlib import gpu, records, training
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.vectors import make_split, open_dataset

torch.set_num_threads(1)
_, dataset, folder, last_step = sys.argv
save = training.save_checkpoint

def save_and_die(fabric, path, parts, identity, state):
    save(fabric, path, parts, identity, state)
    if state.step == int(last_step):
        os.kill(os.getpid(), signal.SIGKILL)

training.save_checkpoint = save_and_die
torch.manual_seed(0)
model = build_model("lstm", dim=16, hidden=12, dropout=0.5)
dataset = open_dataset(dataset)
split = make_split(dataset, "controlled", 200)
recipe = training.Recipe(
    epochs=6, batch_size=16, learning_rate=0.01, warmup=0.1,
    precision="32-true", device="cpu",
)
training.train(model, dataset, split, recipe, 0, folder, "id", checkpoint_seconds=0)
"""


def test_a_killed_process_goes_on_to_the_same_numbers(dataset, split, tmp_path, python):
    """Killed twice, in the middle of an epoch and after the very last update."""
    recipe = replace(RECIPE, epochs=6)
    uninterrupted = run(tmp_path / "a", dataset, split, recipe, "lstm", identity="id")
    total = total_steps(recipe, len(split.train))
    killed = tmp_path / "killed"
    for step, epochs_done in ((total // 2 + 2, 3), (total, 5)):
        child = python(TRAIN, dataset.folder, killed, step)
        _, errors = child.communicate(timeout=60)
        assert child.returncode == -9, errors
        names = {path.name for path in killed.iterdir()}
        assert {"checkpoint.pt", "model.safetensors", "history.csv"} <= names
        assert len(pd.read_csv(killed / "history.csv")) == epochs_done
        state = torch.load(killed / "checkpoint.pt")["state"]
        assert state["step"] == step
        assert state["batch"] > 0
    model, history = run(killed, dataset, split, recipe, "lstm", identity="id")
    assert same_history(history, uninterrupted[1])
    assert same_weights(model, uninterrupted[0])
    assert same_weights(model, load_weights(killed / "model.safetensors"))


def test_a_kill_at_any_moment(dataset, split, tmp_path, python):
    """Killed from outside as soon as one epoch is there, wherever it is by then."""
    recipe = replace(RECIPE, epochs=6)
    uninterrupted = run(tmp_path / "a", dataset, split, recipe, "lstm")
    killed = tmp_path / "killed"
    child = python(TRAIN, dataset.folder, killed, -1)
    while not (killed / "history.csv").exists():
        assert child.poll() is None, child.communicate()[1]
        time.sleep(0.001)
    child.kill()
    child.communicate()
    assert child.returncode == -9
    assert (killed / "checkpoint.pt").exists()
    model, history = run(killed, dataset, split, recipe, "lstm", identity="id")
    assert same_history(history, uninterrupted[1])
    assert same_weights(model, uninterrupted[0])


class Interruption(Exception):
    pass


def run_interrupted(monkeypatch, updates, *arguments, **options):
    """Train with a checkpoint after each update, and fail after so many of them."""
    count, plain = iter(range(1, 10**6)), training.differentiate

    def failing(*arguments, **named):
        if next(count) > updates:
            raise Interruption
        plain(*arguments, **named)

    with monkeypatch.context() as patch:
        patch.setattr(training, "differentiate", failing)
        with pytest.raises(Interruption):
            run(*arguments, checkpoint_seconds=0, **options)


SCHEDULED = {
    "cosine": replace(RECIPE, epochs=5),
    "constant": replace(RECIPE, epochs=5, schedule="constant"),
    # At this rate the validation cosine jumps about, so that the plateau acts.
    "plateau": replace(
        RECIPE, epochs=14, schedule="plateau", warmup=0.0, learning_rate=0.05
    ),
}


@pytest.mark.parametrize("name", ["lstm", "transformer"])
def test_bfloat16_resumes_exactly(dataset, split, tmp_path, monkeypatch, name):
    recipe = replace(RECIPE, precision="bf16-mixed")
    whole, expected = run(tmp_path / "whole", dataset, split, recipe, name)
    again, repeated = run(tmp_path / "again", dataset, split, recipe, name)
    assert same_history(repeated, expected)
    for updates in (5, 14):
        run_interrupted(monkeypatch, updates, tmp_path, dataset, split, recipe, name)
    model, history = run(tmp_path, dataset, split, recipe, name)
    assert same_history(history, expected)
    assert same_weights(model, whole)
    assert same_weights(again, whole)


@pytest.mark.parametrize("schedule", SCHEDULED)
def test_every_schedule_resumes_exactly(
    dataset, split, tmp_path, monkeypatch, schedule
):
    recipe = SCHEDULED[schedule]
    whole, expected = run(tmp_path / "whole", dataset, split, recipe, "lstm")
    if schedule == "plateau":
        assert expected["learning_rate"].nunique() > 1
    total = total_steps(recipe, len(split.train))
    for updates in (2, total // 3, total // 2):
        run_interrupted(monkeypatch, updates, tmp_path, dataset, split, recipe, "lstm")
    model, history = run(tmp_path, dataset, split, recipe, "lstm")
    assert same_history(history, expected)
    assert same_weights(model, whole)


def test_a_resumed_run_does_not_start_again(
    dataset, split, tmp_path, monkeypatch, record_updates
):
    run_interrupted(monkeypatch, 20, tmp_path, dataset, split)
    record_updates.clear()
    run(tmp_path, dataset, split)
    assert len(record_updates) == total_steps(RECIPE, len(split.train)) - 20


def test_checkpoints_wait_for_their_time(dataset, split, tmp_path, monkeypatch):
    saved = []
    monkeypatch.setattr(training, "save_checkpoint", lambda *a: saved.append(a))
    run(tmp_path / "often", dataset, split, checkpoint_seconds=0)
    assert len(saved) == total_steps(RECIPE, len(split.train))
    saved.clear()
    run(tmp_path / "seldom", dataset, split, checkpoint_seconds=1000)
    assert saved == []


@pytest.fixture
def interrupted_folder(dataset, split, tmp_path, monkeypatch):
    folder = tmp_path / "interrupted"
    run_interrupted(monkeypatch, 20, folder, dataset, split, identity="one")
    return folder


def test_a_checkpoint_of_another_identity_is_ignored(
    dataset, split, tmp_path, interrupted_folder, record_updates
):
    recipe = replace(RECIPE, learning_rate=0.02)
    model, history = run(interrupted_folder, dataset, split, recipe, identity="two")
    assert len(record_updates) == total_steps(recipe, len(split.train))
    fresh, expected = run(tmp_path / "fresh", dataset, split, recipe)
    assert same_history(history, expected)
    assert same_weights(model, fresh)


@pytest.mark.parametrize(
    "damage", ["garbage", "truncated", "empty", "foreign", "other"]
)
def test_a_damaged_checkpoint_is_named(dataset, split, interrupted_folder, damage):
    path = interrupted_folder / "checkpoint.pt"
    content = path.read_bytes()
    if damage == "garbage":
        path.write_bytes(b"garbage" * 1000)
    elif damage == "truncated":
        path.write_bytes(content[: len(content) // 2])
    elif damage == "empty":
        path.write_bytes(b"")
    elif damage == "foreign":
        torch.save({"weights": torch.zeros(3)}, path)
    else:  # of a model that has been changed since
        saved = torch.load(path)
        saved["model"].popitem()
        torch.save(saved, path)
    damaged = path.read_bytes()
    with pytest.raises(TrainingError) as error:
        run(interrupted_folder, dataset, split, identity="one")
    message = str(error.value)
    assert message.startswith(f"{path} cannot be read")
    assert "delete it to start this run again" in message
    assert path.read_bytes() == damaged


# --- divergence and what became of a run --------------------------------------------


def break_after(model, updates):
    """Let a model's outputs be NaN after so many training batches."""
    count = iter(range(1, 10**6))

    def hook(module, _, output):
        broken = module.training and next(count) > updates
        return output * math.nan if broken else output

    model.register_forward_hook(hook)
    return model


def test_divergence_ends_training_with_the_best_weights_so_far(
    dataset, split, tmp_path
):
    per_epoch = -(-len(split.train) // RECIPE.batch_size)
    model = break_after(build(), per_epoch + 3)
    history = train(model, dataset, split, RECIPE, 0, tmp_path)
    assert len(history) == 2  # of three
    assert np.isfinite(history.iloc[0]).all()
    assert math.isnan(history["train_loss"][1])
    assert math.isnan(history["validation_cosine"][1])
    assert training_status(history, 0.4) == "diverged"
    assert np.isfinite(predict_windows(model, dataset, split.test)).all()
    assert same_weights(model, load_weights(tmp_path / "model.safetensors"))


@pytest.mark.parametrize("schedule", ["cosine", "plateau"])
def test_divergence_in_the_first_epoch_is_an_error(dataset, split, tmp_path, schedule):
    recipe = replace(RECIPE, schedule=schedule, warmup=0.0)
    with pytest.raises(TrainingError, match="diverged in its first epoch") as error:
        train(break_after(build(), 3), dataset, split, recipe, 0, tmp_path)
    assert "lower learning_rate" in str(error.value)
    assert not (tmp_path / "model.safetensors").exists()
    assert len(pd.read_csv(tmp_path / "history.csv")) == 1


def test_checkpoints_count_time_across_epochs(dataset, split, tmp_path, monkeypatch):
    """Epochs shorter than `checkpoint_seconds` must not postpone it for ever."""
    clock = iter(range(100_000))
    monkeypatch.setattr(training.time, "monotonic", lambda: next(clock))
    saved = []
    save = training.save_checkpoint

    def recorded(fabric, path, parts, identity, state):
        saved.append(state.step)
        save(fabric, path, parts, identity, state)

    monkeypatch.setattr(training, "save_checkpoint", recorded)
    recipe = replace(RECIPE, epochs=30, batch_size=1000)  # one update an epoch
    run(tmp_path, dataset, split, recipe, checkpoint_seconds=60)
    assert saved


@pytest.mark.parametrize("limit", [1.0, 0.01])
@pytest.mark.parametrize("scale", [1e-6, 0.9, 1.1, 1e3, float("nan")])
def test_clipping_is_torch_s_to_the_bit(scale, limit):
    ours, theirs = ([torch.nn.Parameter(torch.ones(n)) for n in (3, 4)] for _ in "ab")
    ours.append(torch.nn.Parameter(torch.ones(2)))  # never gets a gradient
    unit = F.normalize(torch.arange(1.0, 8), dim=0).split([3, 4])
    for parameters in (ours, theirs):
        for parameter, part in zip(parameters, unit, strict=False):
            parameter.grad = part * scale
    norm = training.clip_gradients(ours, limit)
    expected = torch.nn.utils.clip_grad_norm_(theirs, limit)
    assert torch.equal(norm, expected) or scale != scale
    for a, b in zip(ours, theirs, strict=False):
        torch.testing.assert_close(a.grad, b.grad, rtol=0, atol=0, equal_nan=True)


# --- models that are given their data ------------------------------------------------


class OnRidge(torch.nn.Module):
    """A small network on top of a fitted linear model, as a user would write it."""

    title = "residual"

    def __init__(self, dim=16, context=5, hidden=8):
        super().__init__()
        self.base = build_model("linear", dim=dim, context=context, kind="ridge")
        self.net = torch.nn.Sequential(
            torch.nn.Linear(context * dim, hidden),
            torch.nn.GELU(),
            torch.nn.Linear(hidden, dim),
        )
        torch.nn.init.zeros_(self.net[2].weight)

    def fit(self, dataset, split):
        self.base.fit(dataset, split)

    def forward(self, context):
        return self.base(context) + self.net(context.flatten(1))


@pytest.fixture
def on_ridge(monkeypatch):
    monkeypatch.setattr("lvmlib.models.ARCHITECTURES", (*ARCHITECTURES, "on_ridge"))
    module = types.SimpleNamespace(Model=OnRidge)
    monkeypatch.setitem(sys.modules, "lvmlib.models.on_ridge", module)
    OPTIONS["on_ridge"] = {}
    yield
    del OPTIONS["on_ridge"]


def test_a_fitted_base_is_trained_on_resumed_saved_and_loaded(
    on_ridge, dataset, split, tmp_path, monkeypatch
):
    ridge = build_model("linear", dim=16, kind="ridge")
    ridge.fit(dataset, split)
    model, expected = run(tmp_path / "whole", dataset, split, name="on_ridge")
    assert torch.equal(model.base.matrix, ridge.matrix)
    fits, fit = [], OnRidge.fit
    monkeypatch.setattr(OnRidge, "fit", lambda *given: fits.append(1) or fit(*given))
    cut = (tmp_path / "cut", dataset, split, RECIPE, "on_ridge")
    run_interrupted(monkeypatch, 20, *cut)
    other, history = run(*cut)
    assert same_history(history, expected)
    assert same_weights(other, model)
    assert fits == [1]  # the checkpoint had what it left


def test_a_model_without_trainable_parameters_is_only_fitted(dataset, split, tmp_path):
    model = build_model("linear", dim=16, kind="ridge_to_weights")
    history = train(model, dataset, split, RECIPE, 0, tmp_path)
    assert len(history) == 1
    assert history["step"].tolist() == [0]
    assert training_status(history, 0.0) == "trained"
    raw = predict_windows(model, dataset, split.validation)
    near = cosine(raw, dataset.gather(split.validation[:, -1])).mean()
    assert history["validation_cosine"].iloc[0] == pytest.approx(near)
    loaded = load_weights(tmp_path / "model.safetensors")
    assert torch.equal(loaded.matrix, model.matrix)
