"""The benchmark: its control, its counts, its processes and its arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice
from multiprocessing import Pipe

import measuring as benchmark
import numpy as np
import pandas as pd
import pytest
import torch
from cells import Turnstile, paced
from control import (
    PLAIN,
    VARIANTS,
    batches,
    flops_per_window,
    one_pass,
    plain_model,
    plain_optimizer,
    use_torch_dropout,
)
from measuring import (
    BenchmarkError,
    Cell,
    Plan,
    Record,
    write_synthetic,
)
from torch import nn

from lvmlib.layers import Dropout
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.vectors import make_split, open_dataset

TINY = {"rounds": 1, "seconds": 0.01, "size": 300, "threads": 1}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "vectors"
    write_synthetic(str(folder), 600)
    return folder


def test_plain_forms_have_torchs_dropout():
    for name in ("lstm", "transformer", "graphmert"):
        model = use_torch_dropout(build_model(name, dim=24))
        assert not any(isinstance(part, Dropout) for part in model.modules())
        assert any(type(part) is nn.Dropout for part in model.modules())


@pytest.mark.parametrize("architecture", [*PLAIN, "graphmert"])
def test_one_step_with_all_levers_has_the_controls_gradients(architecture):
    """In float64 and without dropout: 1e-10, also after the clipping."""
    generator = torch.Generator().manual_seed(0)
    context = torch.randn(6, 5, 24, generator=generator, dtype=torch.float64)
    target = torch.randn(6, 24, generator=generator, dtype=torch.float64)
    found = {}
    for name in ("control", "bare"):
        variant = replace(VARIANTS[name], bf16=False)
        torch.manual_seed(0)
        model, forward = plain_model(architecture, variant, dim=24)
        model.double()
        for module in model.modules():
            if isinstance(module, nn.Dropout):
                module.p = 0.0
            if isinstance(module, nn.MultiheadAttention | nn.LSTM):
                module.dropout = 0.0
        optimizer = plain_optimizer(architecture, model, variant)
        one_pass(forward, optimizer, [(context, target)], variant)
        found[name] = {k: p.grad for k, p in model.named_parameters()}
    for key, expected in found["control"].items():
        torch.testing.assert_close(found["bare"][key], expected, rtol=0, atol=1e-10)


def test_gathered_and_materialised_batches_hold_the_same_windows():
    data = open_dataset()
    windows = make_split(data, "controlled", 400).train
    kinds = [
        batches(data, windows, VARIANTS[name], seed=0) for name in ("control", "gather")
    ]
    seen = []
    for kind in kinds:
        pairs = list(kind())
        assert pairs[0][0].shape == (32, 5, 768)
        assert pairs[0][1].shape == (32, 768)
        both = [torch.cat([c.flatten(1), t], dim=1) for c, t in pairs]
        seen.append(np.sort(torch.cat(both).sum(1).numpy()))
    np.testing.assert_allclose(seen[0], seen[1], atol=1e-4)
    assert len(list(islice(kinds[1](), 3))) == 3


def test_turnstile_counts_the_steps_of_a_round(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr("time.perf_counter", lambda: next(clock))
    ours, theirs = Pipe()
    for seconds in (4.0, 1.0, 100.0):
        ours.send(seconds)
    turn = Turnstile(theirs)
    for _ in range(6):
        turn(32)
    first, second = ours.recv(), ours.recv()
    # A call looks at the clock once, the start of a round once more.
    assert first["windows"] == 4 * 32
    assert first["seconds"] == 4
    assert second["windows"] == 32
    assert second["peak_mb"] > 1
    ours.close()
    with pytest.raises(SystemExit):  # nothing more is asked
        turn.wait()


def test_a_paced_dataset_gathers_the_same():
    data, passed = open_dataset(), []

    class Turn:
        gathering = 0.0

        def __call__(self, windows):
            passed.append(windows)

    turn, rows = Turn(), np.arange(12).reshape(2, 6)
    assert np.array_equal(paced(data, turn).gather(rows), data.gather(rows))
    assert passed == [2]
    assert turn.gathering > 0


def test_synthetic_dataset(synthetic):
    data = open_dataset(synthetic)
    assert data.vectors.dtype == np.int8
    assert make_split(data, "controlled", 600).train.shape == (12 * 45, 6)
    assert (data.documents.groupby("role")["document_id"].count() == [12, 2, 12]).all()


def test_cells_take_turns_and_are_recorded(tmp_path, capsys):
    output = tmp_path / "benchmark.json"
    options = {"architectures": "amn", "variants": "all"}
    record = Record(Plan(**TINY, **options, output=str(output)))
    benchmark.measure_speed(record)
    rows = pd.DataFrame(json.loads(output.read_text())["speed"])
    assert list(rows["variant"]) == ["control", "all"]
    assert (rows["windows"] % [32, 1] == 0).all()
    assert (rows[["bfloat16", "float32"]] > 1e8).all(axis=None)
    assert (rows["peak_mb"] > 100).all()


def test_a_cell_that_fails_says_why():
    with (
        Cell(Plan(**TINY), "profile", architecture="amm", dataset="", size=300) as cell,
        pytest.raises(BenchmarkError, match="Did you mean 'amn'"),
    ):
        cell.ask()


def made_up_rows():
    """Two rounds: the control makes 100 then 50 windows/s, all 400 then 150."""
    rows = []
    for turn, (control, bare, best) in enumerate([(100, 420, 400), (50, 150, 150)]):
        for name, rate in (("control", control), ("bare", bare), ("all", best)):
            rows.append(
                {"architecture": "amn", "group": 0, "round": turn, "variant": name}
                | {"windows": rate * 2, "seconds": 2.0, "peak_mb": 1.0, "others": 0.5}
                | {"bfloat16": 1e10 * rate, "float32": 1e9}
            )
    return pd.DataFrame(rows)


def test_a_measured_benchmark_is_not_measured_again(tmp_path):
    path = tmp_path / "benchmark.json"
    plan = Plan(**TINY, architectures="amn", output=str(path), largest=1000)
    content = {"plan": {}, "speed": [{"variant": "control"}]}
    content |= {name: [{}] for name in ("memory", "growth", "quality")}
    path.write_text(json.dumps(content))
    record = Record(replace(plan, output="", measured=str(path)))
    for name in ("speed", "memory", "growth", "quality"):
        getattr(benchmark, f"measure_{name}")(record)
    assert record.content == content
    assert not Record(plan).has("speed")


def test_operations_are_those_by_hand():
    d, h = 768, 512
    mlp, query = 2 * d * 512 + 512 * 256 + 256 * d, 256 * d
    assert flops_per_window("amn") == 2 * (3 * (2 * query + mlp) - query)
    # Two layers, five steps of inputs and four of states (the first state is zero);
    # no gradient for the data.
    first, second, states = 5 * 4 * h * d, 5 * 4 * h * h, 2 * 4 * 4 * h * h
    assert flops_per_window("lstm") == 2 * (
        3 * (first + second + states + h * d) - first
    )
    with pytest.raises((ValueError, RuntimeError)):
        flops_per_window("linear")


def test_medians_ratios_and_shares():
    rows = []
    for turn, (control, ours) in enumerate(((100, 300), (50, 200), (100, 200))):
        key = {"architecture": "amn", "group": 0, "round": turn, "seconds": 1.0}
        key |= {"bfloat16": 2e9, "float32": 1e9}
        rows += [key | {"variant": "control", "windows": control}]
        rows += [key | {"variant": name, "windows": ours} for name in ("bare", "all")]
    rows = pd.DataFrame(rows)
    found = benchmark.speed_summary(rows, bf16=False).set_index("variant").loc["all"]
    assert (found["ratio"], found["lowest"], found["highest"]) == (3, 2, 4)
    assert found["share"] == pytest.approx(200 * flops_per_window("amn") / 1e9)
    assert benchmark.fabric_cost(rows).to_dict() == {"amn": 0}


def test_time_to_quality():
    curves = {"control": [(10, 0.4), (20, 0.5)], "all": [(2, 0.499), (3, 0.6)]}
    rows = [
        {"architecture": "amn", "seed": 0, "variant": name, "curve": curve}
        for name, curve in curves.items()
    ]
    found = benchmark.quality_speedups(pd.DataFrame(rows)).iloc[0]
    assert (found["control_seconds"], found["all_seconds"]) == (20, 2)
    assert (found["speedup"], found["fewer"]) == (10, 2)


def test_latency_has_every_model():
    table = benchmark.side_by_side(rounds=1, dim=24).set_index("name")
    assert set(table.index) >= {*ARCHITECTURES, "six_numbers", "ridge"}
    assert (table["latency_ms"] > 0).all()
