"""Comparisons and the summary's sentences, on made-up studies with known answers."""

import json

import numpy as np
import pandas as pd
import pytest

from lvmlib import comparison
from lvmlib.comparison import BASELINES, compare, compare_sizes, over_baseline
from lvmlib.evaluation import RANKINGS
from lvmlib.pages import summary
from lvmlib.study import load_study

DOCUMENTS = np.repeat(np.arange(40), 10)
METRICS = ["contrastive", "mse", *(f"r{k}_{r}" for k in (1, 5, 10) for r in RANKINGS)]
METRICS += [f"mrr_{r}" for r in RANKINGS]


def write_run(study, entry, size, seed, cosine, status="trained", rows=None):
    """Write a run folder as `execute` does, with the given cosines by window."""
    folder = study / entry / str(size) / "epochs" / f"seed{seed}"
    folder.mkdir(parents=True)
    scores = pd.DataFrame({"document": DOCUMENTS, "cosine": cosine})
    scores["row"] = np.arange(len(scores)) if rows is None else rows
    for name in BASELINES:
        scores[f"cosine_{name}"] = 0.5 if name == "six_numbers" else 0.4
    scores.to_parquet(folder / "test.parquet")
    history = {"epoch": [1, 2], "seconds": [1.0, 2.0], "train_cosine": [0.3, 0.6]}
    pd.DataFrame(history | {"validation_cosine": [0.3, 0.5]}).to_csv(
        folder / "history.csv", index=False
    )
    metrics = dict.fromkeys(METRICS, 0.1)
    own = {"size": size, "arm": "epochs", "seed": seed, "protocol": "controlled"}
    info = {
        "architecture": entry,
        "parameters": own,
        "status": status,
        "test": metrics
        | {"cosine": float(np.mean(cosine)), "windows": 400, "documents": 40},
        "baselines": {
            name: metrics | {"cosine": float(scores[f"cosine_{name}"].mean())}
            for name in BASELINES
        },
        "best_baseline": "six_numbers",
        "skill": 0.1,
        "windows": {"train": size - 5, "validation": 10, "test": 400},
        "model_parameters": {"trainable": 10**6, "with_buffers": 10**6},
        "latency_ms": {"p50": 2.0 if entry == "amn" else 1.0, "p95": 3.0},
        "dataset": {"name": "made-up", "sha256": "ab" * 32},
        "recipe_hash": "x",
        "best_epoch": 2,
        "epochs": 2,
        "steps": size,
    }
    info |= dict.fromkeys(["validation_cosine", "train_cosine"], 0.5)
    info |= dict.fromkeys(["windows_per_second", "wall_seconds"], 10.0)
    info |= {"peak_memory_mb": 1.0, "threads": 1, "precision": "32-true"}
    info |= {"processor": "a kind"}
    info |= {"device": "cpu", "commit": "abc"}
    (folder / "run.json").write_text(json.dumps(info))


def noise(scale, seed):
    """Noise whose document means are exactly zero, so that estimates are exact."""
    values = np.random.default_rng(seed).normal(0, scale, (40, 10))
    return (values - values.mean(axis=1, keepdims=True)).ravel()


def test_a_training_set_counts_once_in_the_means_of_baselines():
    columns = [f"baseline_{name}" for name in BASELINES]
    runs = pd.DataFrame({key: [0.1, 0.1, 0.1, 0.4, 0.5] for key in columns})
    runs["size"], runs["seed"] = [5, 5, 5, 5, 9], [0, 0, 0, 1, 0]
    means = comparison.baseline_means(runs)
    assert means["ridge"].to_dict() == pytest.approx({5: 0.25, 9: 0.5})


@pytest.fixture
def study(tmp_path):
    """amn gains 0.05 from size 100 to 200, gru gains 0.001; three seeds."""
    for seed in range(3):
        for entry, gain in (("amn", 0.05), ("gru", 0.001)):
            base = 0.55 if entry == "amn" else 0.45
            for size in (100, 200):
                value = base + gain * (size == 200) + noise(0.02, [seed, size])
                write_run(tmp_path, entry, size, seed, value)
    return tmp_path


def test_a_difference_is_paired_by_seed_and_window(study):
    runs = load_study(study)
    amn = runs[runs["entry"] == "amn"]
    interval = compare(amn[amn["size"] == 200], amn[amn["size"] == 100])
    assert interval.estimate == pytest.approx(0.05)
    assert (interval.seeds, interval.documents) == (3, 40)


def test_only_seeds_of_both_sides_are_compared(study):
    runs = load_study(study)
    amn = runs[runs["entry"] == "amn"]
    before = amn[(amn["size"] == 100) & (amn["seed"] > 0)].iloc[::-1]  # in any order
    assert compare(amn[amn["size"] == 200], before).seeds == 2


def test_runs_on_other_test_windows_are_not_paired(study):
    write_run(study, "lstm", 100, 0, np.full(400, 0.5))
    write_run(study, "lstm", 200, 0, np.full(400, 0.5), rows=np.arange(400) + 1)
    runs = load_study(study)
    lstm = runs[runs["entry"] == "lstm"]
    with pytest.raises(ValueError, match="other test windows"):
        comparison.window_scores(lstm)


def test_verdicts_follow_from_the_intervals(study):
    table = compare_sizes(load_study(study), 100, 200).set_index("entry")
    assert table["verdict"].to_dict() == {"amn": "improves", "gru": "equivalent"}
    assert table.loc["amn", "large"] - table.loc["amn", "small"] == pytest.approx(0.05)


def test_the_two_means_are_over_the_common_seeds(study):
    runs = load_study(study)
    alone = (runs["entry"] == "amn") & (runs["size"] == 200) & (runs["seed"] > 0)
    runs["test_cosine"] += 0.1 * runs["seed"]
    row = compare_sizes(runs[~alone], 100, 200).set_index("entry").loc["amn"]
    assert row["interval"].seeds == 1
    assert row["large"] - row["small"] == pytest.approx(0.05, abs=1e-3)


def test_one_seed_gets_no_verdict(study):
    runs = load_study(study)
    table = compare_sizes(runs[runs["seed"] == 0], 100, 200)
    assert set(table["verdict"]) == {"no verdict (one seed)"}
    assert "no verdict" in summary.answer(runs[runs["seed"] == 0])[0]


def test_a_network_is_compared_with_its_own_baseline(study):
    runs = load_study(study)
    cell = runs[(runs["entry"] == "gru") & (runs["size"] == 200)]
    assert over_baseline(cell, "six_numbers").estimate == pytest.approx(-0.049)


def test_the_answer_counts_what_was_found(study):
    data, baselines = summary.answer(load_study(study))
    assert "**improves: amn; equivalent: gru**" in data
    assert "+0.001 to +0.050" in data
    assert "1 of 2 networks beat the best baseline" in baselines


def test_failed_training_is_named_and_has_no_rank(study):
    write_run(study, "lstm", 200, 0, np.full(400, 0.9), status="collapsed")
    runs = load_study(study)
    assert "**Collapsed:** lstm (200 vectors)." in summary.answer(runs)[2]
    ranks = summary.ranking(runs).set_index("entry")["rank"]
    assert ranks["lstm"] == "—"
    assert ranks["amn"] == "1"
    assert ranks["gru"] == "2"
    assert summary.recommendation(runs)[0].index.tolist() == ["amn", "gru"]


def test_the_ranking_has_every_baseline(study):
    entries = summary.ranking(load_study(study))["entry"]
    for label in BASELINES.values():
        assert f"<em>baseline: {label}</em>" in set(entries)


def test_the_recommendation_weighs_quality_and_cost(study):
    costs, said = summary.recommendation(load_study(study))
    assert said[0].startswith("**Best quality:** amn")
    assert costs.loc["gru", "latency_ms"] == 1.0
    assert "amn, 2.0 ms" in said[2]  # gru is faster, but not within 0.01 of the best


def test_times_are_the_first_seed_s_and_kinds_of_machines_are_counted(study):
    runs = load_study(study)
    gru = (runs["entry"] == "gru") & (runs["size"] == 200)
    assert "kinds of machine" not in " ".join(summary.recommendation(runs)[1])
    runs.loc[gru & (runs["seed"] > 0), ["latency_ms", "processor"]] = [9.0, "another"]
    costs, said = summary.recommendation(runs)
    assert costs.loc["gru", "latency_ms"] == 1.0
    assert "kinds of machine" not in " ".join(said)
    runs.loc[gru, "processor"] = "another"
    assert "Training speeds are of 2 kinds" in summary.recommendation(runs)[1][-1]


def test_a_better_baseline_is_recommended_first(tmp_path):
    for size in (100, 200):
        write_run(tmp_path, "gru", size, 0, np.full(400, 0.45))
    _, said = summary.recommendation(load_study(tmp_path))
    assert said[0].startswith("**First of all:** six numbers scores 0.5000")


def test_reported_changes_are_computed_from_the_reported_figures(study):
    table = summary.reported_beside(load_study(study)).set_index("architecture")
    assert table.loc["gru", "reported change"] == "+0.30%"  # printed there as +0.29%
    assert table.loc["graphmert", "reported change"] == "−3.15%"
    assert table.loc["amn", "our verdict"] == "improves"
    assert table.loc["transformer", "our verdict"] == "not measured"


def test_one_size_alone_is_shown_beside_the_reported_figures(study):
    write_run(study, "graphmert", 100, 0, np.full(400, 0.25))
    table = summary.reported_beside(load_study(study)).set_index("architecture")
    row = table.loc["graphmert"]
    assert (row["ours 100"], row["ours 200"]) == ("0.2500", "not measured")
    assert row["our change"] == row["our verdict"] == "not measured"


def test_limits_name_what_was_unequal(study):
    said = " ".join(summary.limits(load_study(study)))
    assert "100 to 200, 2.0 times" in said
    assert "3 seeds, 40 test documents" in said
    assert "In 100% of the runs the last epoch was the best" in said
