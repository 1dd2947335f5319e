"""The original report's claims, on made-up studies whose numbers are known."""

import json
from importlib.resources import files

import pandas as pd
import pytest
from studies import LARGE, SMALL, write_pairs, write_run

from lvmlib.pages import claims
from lvmlib.study import load_study

BASELINES = pd.DataFrame(
    {"test_cosine": 0.4, "latency_ms": 0.5, "parameters": 1000}, index=["ridge"]
)


def decided(study, baselines=BASELINES):
    everything = load_study(study)
    table, _ = claims.table(everything, everything[:0], {}, baselines)
    return table.set_index("claim")


def verdicts(study):
    return decided(study)["verdict"].to_dict()


def test_every_claim_names_a_check_and_none_a_verdict():
    entries = json.loads((files("lvmlib.pages") / "claims.json").read_text())
    for entry in entries:
        assert entry["check"] in claims.CHECKS
        assert entry["where"]
        texts = [text for text in entry.values() if isinstance(text, str)]
        assert not set(texts) & {claims.HOLDS, claims.FAILS, claims.OPEN}
    assert {entry["check"] for entry in entries} == set(claims.CHECKS)


def test_claims_hold_where_the_runs_say_so(tmp_path):
    changes = {"amn": 0.002, "lstm": -0.02, "transformer": -0.03, "gru": 0.02}
    write_pairs(tmp_path, changes)
    found = verdicts(tmp_path)
    assert found["GRU is the only architecture that improves"] == claims.HOLDS
    assert found["GRU scales better than every other architecture"] == claims.HOLDS
    assert found["AMN does not change with more data"] == claims.HOLDS
    assert found["LSTM regresses with more data"] == claims.HOLDS
    assert found["LSTM does not change with more data"] == claims.FAILS
    assert found["2.88 times more data does not improve performance"] == claims.FAILS
    assert found["GraphMERT regresses with more data"] == claims.OPEN
    everything = load_study(tmp_path)
    table, said = claims.table(everything, everything[:0], {}, BASELINES)
    mean = table.set_index("claim").loc[
        "On average the score falls with more data (−0.97%)"
    ]
    assert mean["because"].startswith("mean change −0.0070")
    assert mean["verdict"] == claims.HOLDS
    assert said.startswith(f"The verdicts on its {len(table)} claims: ")


def test_claims_fail_where_the_runs_say_so(tmp_path):
    changes = dict.fromkeys(["amn", "lstm", "transformer"], 0.03) | {"gru": 0.01}
    write_pairs(tmp_path, changes)
    found = verdicts(tmp_path)
    for claim in (
        "2.88 times more data does not improve performance",
        "On average the score falls with more data (−0.97%)",
        "GRU is the only architecture that improves",
        "GRU scales better than every other architecture",
        "The architectures have reached their learning ceiling",
        "More data helps only when its diversity grows",
    ):
        assert found[claim] == claims.FAILS, claim
    assert found["GRU is worth training on 232k"] == claims.HOLDS


def test_claims_need_two_seeds(tmp_path):
    write_pairs(tmp_path, dict.fromkeys(["amn", "lstm", "transformer", "gru"], 0.03), 1)
    found = verdicts(tmp_path)
    assert found["2.88 times more data does not improve performance"] == claims.OPEN
    assert found["On average the score falls with more data (−0.97%)"] == claims.OPEN
    assert found["GRU scales better than every other architecture"] == claims.OPEN
    assert found["Transformer (80k) has the highest accuracy"] == claims.OPEN


def test_the_best_must_beat_every_other(tmp_path):
    write_pairs(tmp_path, {"amn": 0, "lstm": 0, "gru": 0})
    claim = "Transformer (80k) has the highest accuracy"
    assert verdicts(tmp_path)[claim] == claims.OPEN
    write_pairs(tmp_path, {"transformer": 0}, base=0.52)
    assert verdicts(tmp_path)[claim] == claims.HOLDS


def test_overfitting_is_not_collapse(tmp_path):
    rising = {"train_cosine": [0.5, 0.7], "validation_cosine": [0.5, 0.45]}
    fallen = {"train_cosine": [0.5, 0.2], "validation_cosine": [0.5, 0.2]}
    claim = "GraphMERT overfits on the larger set"
    for name, history, status, expected in (
        ("overfit", rising, "trained", claims.HOLDS),
        ("collapsed", fallen, "collapsed", claims.FAILS),
    ):
        folder = tmp_path / name
        write_run(folder, "graphmert", LARGE, 0.3, history=history, status=status)
        assert verdicts(folder)[claim] == expected
    reported = load_study(tmp_path / "collapsed")
    write_run(tmp_path / "study", "amn", SMALL, 0.5)
    table, _ = claims.table(load_study(tmp_path / "study"), reported, {}, BASELINES)
    row = table.set_index("claim").loc[claim]
    assert row["verdict"] == claims.FAILS
    assert "collapsed: from epoch 1 to 2 validation −0.3000" in row["because"]


def test_graphmert_is_said_by_the_version_that_has_both_sizes(tmp_path):
    write_run(tmp_path, "graphmert", SMALL, 0.5)
    write_pairs(tmp_path, {"graphmert-smooth": 0.02}, seeds=1)
    row = decided(tmp_path).loc["GraphMERT regresses with more data"]
    assert row["verdict"] == claims.OPEN
    own, other = row["because"].split(", graphmert-smooth ")
    assert own == "graphmert not measured"
    assert other.startswith("+0.0200")
    assert other.endswith("no verdict (one seed)")


@pytest.mark.parametrize(
    ("epochs", "expected"), [((8, 2), claims.HOLDS), ((9, 7), claims.FAILS)]
)
def test_a_best_epoch_that_is_far_earlier_is_half_as_late(tmp_path, epochs, expected):
    for size, epoch in zip((SMALL, LARGE), epochs, strict=True):
        write_run(tmp_path, "graphmert", size, 0.5, best_epoch=epoch)
    everything = load_study(tmp_path)
    table, _ = claims.table(everything, everything, {}, BASELINES)
    row = table.set_index("claim").filter(like="best epoch moves", axis=0).iloc[0]
    assert row["verdict"] == expected
    assert row["because"] == f"epoch {epochs[0]} → {epochs[1]}"


def test_claims_are_about_the_reported_sizes(tmp_path):
    write_run(tmp_path, "amn", 100, 0.5)
    everything = load_study(tmp_path)
    table, said = claims.table(everything, everything[:0], {}, BASELINES)
    assert table.empty
    assert "80,634 and 232,605" in said


def test_no_other_rate_is_needed_if_every_architecture_says_so(tmp_path):
    write_pairs(tmp_path, {"amn": 0.01, "lstm": 0.01})
    half = {"learning_rate": 0.0005}
    claim = "The larger set needs another learning rate"
    write_run(tmp_path, "amn-half-rate", LARGE, 0.5, used=half)
    row = decided(tmp_path).loc[claim]
    assert row["verdict"] == claims.OPEN
    assert row["because"].endswith("not tried: lstm")
    write_run(tmp_path, "lstm-half-rate", LARGE, 0.5, used=half)
    assert verdicts(tmp_path)[claim] == claims.FAILS


@pytest.mark.parametrize(
    ("ridge", "expected"), [(0.45, claims.HOLDS), (0.6, claims.FAILS)]
)
def test_what_a_baseline_beats_is_neither_balanced_nor_worth_training(
    tmp_path, ridge, expected
):
    write_pairs(tmp_path, {"lstm": 0.03, "gru": 0.03}, ridge=ridge)
    found = decided(tmp_path, BASELINES.assign(test_cosine=ridge))
    balanced = found.loc["LSTM is a strong balance of quality and speed"]
    assert balanced["verdict"] == expected
    own, *rivals = balanced["because"].split("; ")
    assert own == "lstm 0.5300 in 2.0 ms with 1.0 million parameters"
    assert (rivals == []) == (expected == claims.HOLDS)
    worth = found.loc["GRU is worth training on 232k"]
    assert worth["verdict"] == expected
    assert f"over ridge {0.53 - ridge:+.4f}".replace("-", "−") in worth["because"]
