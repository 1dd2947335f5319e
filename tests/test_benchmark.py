"""The benchmark: its control, its counts, its processes and its arithmetic."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice, product
from multiprocessing import Pipe

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from lvmlib.benchmark import measuring as benchmark
from lvmlib.benchmark import tables
from lvmlib.benchmark.cells import Turnstile, control_curve, paced
from lvmlib.benchmark.control import (
    PLAIN,
    VARIANTS,
    batches,
    flops_per_window,
    one_pass,
    plain_model,
    plain_optimizer,
    use_torch_dropout,
)
from lvmlib.benchmark.measuring import (
    BenchmarkError,
    Cell,
    Plan,
    Record,
    write_synthetic,
)
from lvmlib.layers import Dropout
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.vectors import make_split, open_dataset

TINY = {"rounds": 1, "seconds": 0.01, "size": 300, "threads": 1}


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory):
    folder = tmp_path_factory.mktemp("synthetic") / "vectors"
    write_synthetic(str(folder), 600)
    return folder


def test_every_architecture_has_a_plain_form():
    assert set(PLAIN) == set(ARCHITECTURES)
    for name in ("lstm", "transformer", "graphmert"):
        model = use_torch_dropout(build_model(name, dim=24))
        assert not any(isinstance(part, Dropout) for part in model.modules())
        assert any(type(part) is nn.Dropout for part in model.modules())


def test_the_control_learns():
    data = open_dataset()
    split = make_split(data, "controlled", 1000)
    torch.manual_seed(0)
    curve = control_curve("amn", "control", data, split, epochs=3, seed=0)
    seconds, cosines = zip(*curve, strict=True)
    assert cosines[2] > cosines[1] > cosines[0] > 0
    assert seconds[2] > seconds[1] > seconds[0] > 0
    model, forward = plain_model("amn", VARIANTS["control"])
    optimizer = plain_optimizer("amn", model, VARIANTS["control"])
    pairs = batches(data, split.train, VARIANTS["control"], seed=0)
    control = VARIANTS["control"]
    means = [np.mean(one_pass(forward, optimizer, pairs(), control)) for _ in range(3)]
    assert means[2] < 0.8 * means[0]


@pytest.mark.parametrize("architecture", ARCHITECTURES)
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


@pytest.mark.parametrize(
    ("architecture", "layers"),
    [
        *product(["amn", "transformer", "graphmert"], [False, True]),
        ("gru", True),  # torch's own recurrent layers it cannot count
    ],
)
def test_counted_operations_are_torchs(architecture, layers):
    variant = replace(VARIANTS["bare"], layers=layers)
    _, forward = plain_model(architecture, variant)
    context, counter = torch.randn(4, 5, 768), FlopCounterMode(display=False)
    with counter:
        forward(context).sum().backward()
    expected = counter.get_total_flops() / 4
    assert flops_per_window(architecture, layers) == pytest.approx(expected, rel=1e-9)


def test_counted_operations_of_recurrent_layers_by_hand():
    """The issue's table, and what the zero state saves: 3 products of 2·H·4H or 3H."""
    assert flops_per_window("lstm", False) / 1e6 == pytest.approx(128, abs=0.5)
    assert flops_per_window("gru", False) / 1e6 == pytest.approx(199, abs=0.5)
    saved = flops_per_window("lstm", False) - flops_per_window("lstm", True)
    assert saved == 2 * 3 * 2 * 4 * 512 * 512
    saved = flops_per_window("gru", False) - flops_per_window("gru", True)
    assert saved == 2 * 3 * 4 * 3 * 512 * 512


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


def test_an_interrupted_benchmark_keeps_what_it_has(tmp_path, monkeypatch):
    output = tmp_path / "benchmark.json"
    record = Record(Plan(**TINY, output=str(output)))

    class Interrupted(Cell):
        def __init__(self, plan, kind, **cell):
            self.number = cell["architecture"]

        def __exit__(self, *_):
            pass

        def ask(self, seconds=0.0):
            if self.number == "gru":
                raise KeyboardInterrupt
            return {"p50_1": 1.0}

    monkeypatch.setattr(benchmark, "Cell", Interrupted)
    with pytest.raises(KeyboardInterrupt):
        benchmark.measure_latency(record)
    kept = json.loads(output.read_text())
    assert [row["architecture"] for row in kept["latency"]] == ["amn", "lstm"]
    assert kept["plan"]["rounds"] == 1


def test_a_cell_that_fails_says_why():
    with (
        Cell(Plan(**TINY), "latency", architecture="amm") as cell,
        pytest.raises(BenchmarkError, match="Did you mean 'amn'"),
    ):
        cell.ask()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [({"architectures": "amm"}, "'amn'"), ({"variants": "fussed"}, "'fused'")],
)
def test_a_misspelt_name_is_refused(wrong, message):
    with pytest.raises(ValueError, match=message):
        Plan(**wrong)


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


def test_medians_ratios_and_shares_by_hand():
    summary = tables.speed_summary(made_up_rows(), bf16=True)
    best = summary.loc[("amn", "all")]
    assert best["rate"] == 275
    assert (best["ratio"], best["low"], best["high"]) == (3.5, 3.0, 4.0)
    assert best["share"] == pytest.approx(flops_per_window("amn", True) / 1e10)
    control = summary.loc[("amn", "control")]
    assert control["ratio"] == 1
    expected = (
        75 * flops_per_window("amn", False) / 1e9
    )  # the mean of two is the median
    assert control["share"] == pytest.approx(expected)
    assert tables.fabric_cost(made_up_rows()) == {"amn": pytest.approx(0.025)}
    assert "was busy" in tables.busy(made_up_rows())
    assert "quiet" in tables.busy(made_up_rows().assign(others=0.01))


def test_verdicts_say_met_missed_and_not_measured():
    target = tables.Target("speed", {"amn": 4.0, "lstm": 3.3, "gru": 3.7})
    said = target.verdict({"amn": 4.0, "lstm": 3.2})
    assert "met by amn (4.00, asked at least 4.00)" in said
    assert "**not met** by lstm (3.20" in said
    assert "not measured for gru" in said
    below = tables.Target("memory", {"amn": 1.2}, at_least=False)
    assert below.missed({"amn": 1.3}) == ["amn"]
    assert below.missed({"amn": 1.2}) == []
    found = {"speed": {"amn": 5.0, "lstm": 1.0}, "memory": {"gru": 1.3}}
    assert tables.missed_architectures(found) == ["gru", "lstm"]


def test_time_to_quality_by_hand():
    control = [(1.0, 0.3), (2.0, 0.499), (3.0, 0.5)]
    rows = pd.DataFrame(
        [
            {"architecture": "amn", "seed": 0, "variant": "control", "curve": control},
            {
                "architecture": "amn",
                "seed": 0,
                "variant": "all",
                "curve": [(0.5, 0.498)],
            },
            {"architecture": "amn", "seed": 1, "variant": "control", "curve": control},
            {
                "architecture": "amn",
                "seed": 1,
                "variant": "all",
                "curve": [(0.5, 0.49)],
            },
            {"architecture": "gru", "seed": 0, "variant": "control", "curve": control},
        ]
    )
    found = tables.quality_speedups(rows)
    assert list(found["control_s"]) == [2.0, 2.0]
    assert list(found["speedup"]) == [4.0, 0.0]  # not reached is infinitely late
    assert tables.quality_table(found)["all, s"].tolist() == ["0.5", "not reached"]


def test_growth_is_relative_to_the_smallest_of_its_round():
    rows = pd.DataFrame(
        [
            {
                "vectors": n,
                "round": turn,
                "windows": 10,
                "seconds": s,
                "gather_seconds": s,
            }
            for turn, pair in enumerate([(1.0, 1.1), (2.0, 2.2), (3.0, 9.0)])
            for n, s in zip((10, 100), pair, strict=True)
        ]
    )
    shown, found = tables.growth_table(rows)
    assert found == {"amn": pytest.approx(1.1)}
    assert shown["relative"].tolist() == ["1.00", "1.10"]


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


def test_a_speed_up_is_fewer_windows_times_faster_ones():
    curves = {
        "control": [[10.0, 0.1], [20.0, 0.5], [30.0, 0.5]],
        "all": [[2.0, 0.499]],
    }
    cell = {"architecture": "amn", "seed": 0}
    rows = pd.DataFrame([cell | {"variant": v, "curve": c} for v, c in curves.items()])
    found = tables.quality_speedups(rows)
    assert found["speedup"].tolist() == [10.0]
    assert "amn 2.0 times fewer, 5.0 times as fast" in tables.quality_said(found)


def test_the_spread_of_the_cost_of_fabric():
    rows = [
        {"architecture": "amn", "group": 0, "round": n, "variant": v}
        | {"windows": 100, "seconds": seconds}
        for n, slow in enumerate([1.0, 1.1, 1.2])
        for v, seconds in (("bare", 1.0), ("all", slow))
    ]
    assert "amn 5.0% to 15.0%" in tables.fabric_said(pd.DataFrame(rows))
    assert tables.fabric_said(pd.DataFrame(rows[:0], columns=list(rows[0]))) == ""
