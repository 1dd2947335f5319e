"""Latencies of networks and baselines, side by side."""

import time

import numpy as np
import pytest

from lvmlib.models import build_model, count_parameters
from lvmlib.pages import latency

DIM = 16


def test_every_network_and_baseline_is_timed_and_counted():
    table = latency.side_by_side(["amn", "lstm"], DIM)
    assert set(table.index) == {"six_numbers", "ridge", "amn", "lstm"}
    assert (table["latency_ms"] > 0).all()
    amn = count_parameters(build_model("amn", dim=DIM))["trainable"]
    assert table.loc["amn", "parameters"] == amn
    # Ridge is linear from all five vectors, with a constant.
    assert table.loc["ridge", "parameters"] == 5 * DIM * DIM + DIM


def test_a_slow_call_is_seen_and_only_the_second_of_two_is_timed(monkeypatch):
    calls = []

    def slow(model, window, device):
        calls.append(model.architecture)
        time.sleep(0.02 if len(calls) % 2 else 0.005)  # the first of two is slower

    monkeypatch.setattr(latency, "predict", slow)
    found = latency.side_by_side(["amn"], DIM).loc["amn", "latency_ms"]
    assert 5 <= found < 20
    assert len(calls) == 2 * latency.ROUNDS


def test_a_baseline_answers_with_a_unit_vector():
    rng = np.random.default_rng(0)
    ridge = latency._random_baselines(rng, DIM, 5)["ridge"]
    answer = latency._predict_one(ridge, rng.normal(size=(5, DIM)).astype("float32"))
    assert answer.shape == (DIM,)
    assert np.linalg.norm(answer) == pytest.approx(1, abs=1e-6)
