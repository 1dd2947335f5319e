"""Findings and claims on made-up studies whose numbers are known by construction."""

import json
from functools import partial
from importlib.resources import files

import numpy as np
import pandas as pd
import pytest

from lvmlib import claims, findings, plots, summary
from lvmlib.comparison import BASELINES, compare_sizes
from lvmlib.evaluation import RANKINGS
from lvmlib.runs import RunError
from lvmlib.study import load_study

SMALL, LARGE = summary.REPORTED_SIZES.values()
DOCUMENTS = np.repeat(np.arange(40), 10)
METRICS = ["contrastive", "mse", *(f"r{k}_{r}" for k in (1, 5, 10) for r in RANKINGS)]
METRICS += [f"mrr_{r}" for r in RANKINGS]
HISTORY = {
    "epoch": [1, 2],
    "step": [10, 20],
    "train_cosine": [0.3, 0.6],
    "validation_cosine": [0.3, 0.5],
    "gradient_norm": [1.0, 2.0],
    "gradient_norm_max": [3.0, 4.0],
}


def noise(*seed, scale=0.02):
    """Noise whose document means are exactly zero, so that estimates are exact."""
    values = np.random.default_rng(seed).normal(0, scale, (40, 10))
    return (values - values.mean(axis=1, keepdims=True)).ravel()


def write_run(
    study,
    entry,
    size,
    cosine,
    *,
    seed=0,
    arm="epochs",
    scores=None,
    history=None,
    used=None,
    six=0.5,
    **info,
):
    """Write a run folder as `execute` does; `cosine` is a mean or a row a window."""
    folder = study / entry / str(size) / arm / f"seed{seed}"
    folder.mkdir(parents=True)
    if np.isscalar(cosine):
        cosine = cosine + noise(seed, size, len(entry))
    table = {"document": DOCUMENTS, "row": np.arange(400), "cosine": cosine}
    table |= {"contrastive": 0.9, "rank_document": 1, "rank_all": 2} | (scores or {})
    table |= {f"cosine_{name}": 0.4 for name in BASELINES}
    pd.DataFrame(table | {"cosine_six_numbers": 0.5}).to_parquet(
        folder / "test.parquet"
    )
    pd.DataFrame(HISTORY | (history or {})).to_csv(folder / "history.csv", index=False)
    metrics = dict.fromkeys(METRICS, 0.1) | {"cosine": 0.4, "validation_cosine": six}
    own = {"size": size, "arm": arm, "seed": seed, "protocol": "controlled"}
    own |= {"learning_rate": 0.001, "warmup": 0.05}
    content = {
        "architecture": entry.split("-")[0],
        "parameters": own | (used or {}),
        "status": "trained",
        "test": metrics
        | {"cosine": float(np.mean(cosine)), "windows": 400, "documents": 40},
        "baselines": {name: metrics for name in BASELINES},
        "best_baseline": "six_numbers",
        "windows": {"train": size - 5, "validation": 10, "test": 400},
        "model_parameters": dict.fromkeys(
            ("trainable", "with_buffers"), 10**6 * (1 + (entry == "gru"))
        ),
        "latency_ms": {"p50": 2.0, "p95": 3.0},
        "dataset": {"name": "made-up", "sha256": "ab" * 32},
        "recipe_hash": "x",
        "training_mean_cosine": 0.2,
        "steps": size,
    }
    content |= {"epochs": 2, "best_epoch": 2, "skill": 0.1, "peak_memory_mb": 1.0}
    content |= dict.fromkeys(["validation_cosine", "train_cosine"], 0.5)
    content |= dict.fromkeys(["windows_per_second", "wall_seconds"], 10.0)
    content |= {"precision": "32-true", "device": "cpu", "threads": 1, "commit": "abc"}
    (folder / "run.json").write_text(json.dumps(content | info))


def write_pairs(study, changes, seeds=3, base=0.5):
    """Write both headline sizes of every architecture, with the given changes."""
    for entry, gain in changes.items():
        for seed in range(seeds):
            write_run(study, entry, SMALL, base, seed=seed)
            write_run(study, entry, LARGE, base + gain, seed=seed)


@pytest.fixture
def study(tmp_path):
    """amn gains 0.03, gru 0.001, at three seeds; at equal updates amn gains 0.01."""
    write_pairs(tmp_path, {"amn": 0.03, "gru": 0.001})
    for seed in range(3):
        write_run(tmp_path, "amn", LARGE, 0.51, seed=seed, arm="steps", steps=SMALL)
    return tmp_path


# --- which runs are compared --------------------------------------------------------


def test_main_runs_are_named_like_their_architecture_in_arm_and_protocol(study):
    write_run(study, "amn-half-rate", LARGE, 0.5)
    write_run(study, "amn-leaky", LARGE, 0.5, used={"protocol": "leaky"})
    write_run(study, "lstm", SMALL, 0.5, used={"protocol": "mixed"})
    runs = summary.main_runs(load_study(study))
    assert set(runs["entry"]) == {"amn", "gru"}
    assert set(runs["arm"]) == {"epochs"}
    assert set(runs["protocol"]) == {"controlled"}


def test_a_study_of_variants_only_is_kept(tmp_path):
    write_run(tmp_path, "amn-1e-3", SMALL, 0.5)
    write_run(tmp_path, "amn-2e-3", SMALL, 0.5)
    assert len(summary.main_runs(load_study(tmp_path))) == 2


def test_one_reported_size_asks_for_the_other(tmp_path):
    write_run(tmp_path, "amn", LARGE, 0.5)
    write_run(tmp_path, "amn", 5000, 0.5)
    runs = load_study(tmp_path)
    assert summary.headline_sizes(runs) == (SMALL, LARGE)
    assert "Not measured yet" in summary.answer(runs)[0]
    assert "80,634" in findings.contrast_said(findings.contrasts(runs), runs)


def test_every_section_bears_missing_runs(tmp_path):
    write_run(tmp_path, "amn", 5000, 0.5)
    write_run(tmp_path, "amn", SMALL, 0.5)
    runs = load_study(tmp_path)
    said = [
        summary.answer(runs)[1],
        summary.recommendation(runs)[1][0],
        findings.contrast_said(findings.contrasts(runs), runs),
        findings.curve_said(runs, findings.fit_curves(runs)),
        findings.protocols(runs[:0], runs)[1],
        findings.cause_said(findings.causes(runs[:0], runs)),
        findings.over_baselines(runs)[1],
        findings.superiority_said(findings.superiority(runs, LARGE), runs, LARGE),
        findings.stories(runs)[1],
        findings.graphmert_said(findings.graphmert_runs(runs, runs[:0]), runs),
        findings.rate_said(findings.rates(runs), runs),
    ]
    for sentence in said:
        assert "ot measured yet" in sentence, sentence
    assert summary.ranking(runs).empty
    verdicts, _ = claims.table(runs, runs[:0], {})
    assert set(verdicts["verdict"]) == {claims.OPEN}


# --- the registered contrast --------------------------------------------------------


def test_contrast_at_equal_epochs_and_equal_updates(study):
    changes = findings.contrasts(load_study(study)).set_index(["arm", "entry"])
    estimates = changes["interval"].map(lambda i: i.estimate)
    assert estimates["equal epochs", "amn"] == pytest.approx(0.03)
    assert estimates["equal epochs", "gru"] == pytest.approx(0.001)
    assert estimates["equal updates", "amn"] == pytest.approx(0.01)
    updates = changes["updates"].to_dict()
    assert updates["equal epochs", "amn"] == "80,634 → 232,605"
    assert updates["equal updates", "amn"] == "80,634 → 80,634"
    verdicts = changes["verdict"].to_dict()
    assert verdicts["equal epochs", "gru"] == "equivalent"
    assert verdicts["equal updates", "amn"] == "improves"
    said = findings.contrast_said(changes.reset_index(), load_study(study))
    assert "**improves**: amn; **equivalent**: gru." in said
    assert said.endswith("*Not measured yet:* equal updates of gru.")


def test_one_seed_takes_no_part_in_holms_correction(study):
    rng = np.random.default_rng(0)
    for size in (SMALL, LARGE):
        write_run(study, "graphmert", size, 0.4 + rng.normal(0, 0.1, 400))
        for seed in range(3):
            write_run(study, "lstm", size, 0.4 + rng.normal(0, 0.1, 400), seed=seed)
    runs = summary.main_runs(load_study(study))
    table = compare_sizes(runs, SMALL, LARGE).set_index("entry")
    own = {entry: row["interval"].p_value for entry, row in table.iterrows()}
    assert np.isnan(table.loc["graphmert", "adjusted_p"])
    assert table.loc["lstm", "adjusted_p"] == pytest.approx(own["lstm"])  # the largest
    assert table.loc["graphmert", "verdict"] == "no verdict (one seed)"
    said = summary.answer(runs)[0]
    assert "at 3 seeds" in said  # graphmert was not asked for a verdict


def test_many_missing_runs_are_counted_by_entry(study):
    plan = [("amn", SMALL, s) for s in range(4)] + [
        ("lstm", SMALL, s) for s in range(7)
    ]
    runs = [
        {
            "folder": f"{entry}/{size}/epochs/seed{seed}",
            "label": f"{entry}, {size:,} vectors, epochs, seed {seed}",
            "page": "x.html",
            "recipe_hash": "x",
        }
        for entry, size, seed in plan
    ]
    (study / "study.json").write_text(json.dumps({"title": "t", "runs": runs}))
    (said,) = findings.missing(study)
    assert "8 of 11 planned runs are not started: amn (1), lstm (7)." in said


# --- learning curves ----------------------------------------------------------------


def test_curves_recover_what_was_put_in(tmp_path, monkeypatch):
    quick = partial(findings.resample_curves, refits=20)
    monkeypatch.setattr(findings, "resample_curves", quick)
    plots.set_style()
    sizes = [5000, 10_000, 20_000, SMALL, LARGE]
    for size in sizes:
        write_run(tmp_path, "amn", size, 0.6 - 0.9 * size**-0.3 + noise(size))
    for size in sizes[:3]:
        write_run(tmp_path, "gru", size, 0.5)
    runs = load_study(tmp_path)
    curves = findings.fit_curves(runs)
    assert list(curves) == ["amn"]
    power = curves["amn"]["power law"].fit
    assert power.parameters["E"] == pytest.approx(0.4, rel=1e-4)
    gain = 0.9 * (LARGE**-0.3 - (10 * LARGE) ** -0.3)
    text = f"{gain:+.4f}"
    assert findings.curve_table(curves)["ten times more data"][0].startswith(text)
    said = findings.curve_said(runs, curves)
    assert f"would add {gain:+.3f}" in said
    assert "*Not measured yet:* gru (a curve needs four sizes)." in said
    (axes,) = plots.fitted_curves(runs, curves).axes
    assert axes.get_title(loc="left") == "amn"
    text = findings.hypotheses(runs, curves)["these runs say"][1]
    assert "still rise beyond the uncertainty for 1 of 1 (amn)" in text


# --- the original protocol, and the causes ------------------------------------------


@pytest.mark.parametrize(
    ("percent", "word"),
    [
        (5.01, "significant improvement"),
        (5, "modest improvement"),
        (0.29, "modest improvement"),
        (0, "similar"),
        (-5, "similar"),
        (-5.01, "regression"),
    ],
)
def test_the_originals_words(percent, word):
    assert findings.band(percent) == word


def test_two_protocols_beside_each_other(study, tmp_path):
    old = tmp_path / "old" / "as_reported"
    kind = {"used": {"protocol": "as_reported"}}
    write_run(old, "amn", SMALL, 0.50, validation_cosine=0.60, six=0.55, **kind)
    write_run(old, "amn", LARGE, 0.52, validation_cosine=0.57, six=0.53, **kind)
    everything = load_study(study)
    everything = everything[~everything["folder"].str.contains("as_reported")]
    reported = findings.read_reported(old, everything)
    table, said = findings.protocols(reported, everything)
    row = table.set_index("architecture").loc["amn"]
    assert row["own exam"] == "0.6000 → 0.5700 (−5.00%)"
    assert row["original's models, frozen exam"].startswith("+0.0200")
    assert row["controlled study"].startswith("+0.0300")
    assert row["its verdict"] == "improves"
    assert "in 1 of 1 architectures (amn)" in said
    assert "change by −0.0200 from one own exam to the other, and by +0.0000" in said
    exam = findings.causes(reported, everything).set_index(["cause", "size"])
    assert exam.loc[("other exam", SMALL), "estimate"].item() == pytest.approx(0.10)
    assert exam.loc[("other exam", LARGE), "estimate"].item() == pytest.approx(0.05)


def test_a_study_on_other_vectors_is_refused(study, tmp_path):
    other = tmp_path / "other"
    everything = load_study(study)
    write_run(other, "amn", SMALL, 0.5, dataset={"name": "x", "sha256": "cd" * 32})
    with pytest.raises(RunError, match="same vectors"):
        findings.read_reported(other, everything)
    assert findings.read_reported("", everything).empty
    assert findings.read_reported(tmp_path / "not started", everything).empty


def test_each_cause_alone(study):
    everything = load_study(study)
    write_run(
        study,
        "amn-leaky",
        LARGE,
        0.52,
        used={"protocol": "leaky"},
        validation_cosine=0.66,
        six=0.54,
    )
    write_run(study, "amn-mixed", LARGE, 0.525, used={"protocol": "mixed"})
    everything = load_study(study)
    found = findings.causes(everything[:0], everything).set_index("what")
    estimates = found["estimate"].to_dict()
    # Leaky: 0.66 − 0.54; controlled: 0.5 − 0.5.
    lead = estimates["validation lead over six numbers: leaky − controlled"]
    assert lead == pytest.approx(0.12)
    assert estimates["leaky: validation − test cosine"] == pytest.approx(0.14)
    assert estimates["controlled: validation − test cosine"] == pytest.approx(-0.03)
    mixed = estimates["test cosine: windows across documents − within"]
    assert mixed == pytest.approx(-0.005)
    steps = found.loc["test cosine: equal updates − equal epochs"]
    assert steps["estimate"] == pytest.approx(-0.02)
    assert steps["seeds"] == 3
    said = findings.cause_said(found.reset_index())
    assert "*Not measured yet:* the causes other exam." in said
    table = findings.cause_table(found.reset_index())
    assert table["difference, 95% interval"][0] == "+0.1200"


# --- networks against baselines and each other --------------------------------------


def test_leads_over_six_numbers_and_ridge(study):
    table, said = findings.over_baselines(summary.main_runs(load_study(study)))
    row = table.set_index(["entry", "vectors"]).loc[("amn", "232,605")]
    assert row["minus six numbers"].startswith("+0.0300")
    assert row["minus ridge"].startswith("+0.1300")
    assert "the networks differ from six fitted numbers by +0.001 to +0.030." in said
    assert "above ridge: amn, gru; below it: none" in said


def test_superiority_is_the_share_of_seeds_and_documents(tmp_path):
    # Seed 0 and 1: amn is better everywhere; seed 2: worse everywhere. P = 2/3.
    for seed, lead in enumerate((0.1, 0.1, -0.1)):
        write_run(tmp_path, "amn", LARGE, np.full(400, 0.5 + lead), seed=seed)
        write_run(tmp_path, "gru", LARGE, np.full(400, 0.5), seed=seed)
    write_run(tmp_path, "lstm", LARGE, np.full(400, 0.6), seed=0)
    write_run(tmp_path, "transformer", LARGE, 0.9, status="collapsed")
    runs = load_study(tmp_path)
    matrix = findings.superiority(runs, LARGE)
    assert list(matrix) == ["amn", "gru", "lstm"]
    assert matrix.loc["amn", "gru"] == pytest.approx(2 / 3)
    assert matrix.loc["gru", "amn"] == pytest.approx(1 / 3)
    assert matrix.loc["amn", "lstm"] == 0.5  # ties, at the common seed
    assert matrix.loc["lstm", "gru"] == 1
    said = findings.superiority_said(matrix, runs, LARGE)
    assert "1 of 3 pairs are decided at 95%: lstm beats gru (1.00)." in said
    assert "One seed only (lstm)" in said
    assert findings.superiority_table(matrix)["amn"].tolist() == ["—", "0.33", "0.50"]


def test_documents_are_drawn_with_replacement():
    # Means of two documents, +1 and −0.4: of four equally likely draws one is below 0.
    documents = np.array([0, 0, 1, 1])
    share = findings._win_share(
        np.array([[1.0, 1.0, -0.4, -0.4]]), documents, 40_000, seed=0
    )
    assert share == pytest.approx(0.75, abs=0.01)


def test_other_scores_may_tell_another_story(tmp_path):
    alike, against, flat = {"rank_all": 1, "rank_document": 1}, {"rank_all": 4}, {}
    for entry, scores in (("amn", alike), ("gru", against), ("lstm", flat)):
        for seed in range(2):
            poor = {"rank_document": 20, "contrastive": 0.8}
            write_run(tmp_path, entry, SMALL, 0.5, seed=seed, scores=poor)
            write_run(tmp_path, entry, LARGE, 0.6, seed=seed, scores=scores)
    table, said = findings.stories(load_study(tmp_path))
    row = table.set_index("entry").loc["amn"]
    assert row["contrastive accuracy"].startswith("+0.100 ")
    assert row["R@10, same document"].startswith("+1.000 ")
    assert row["MRR, all"].startswith("+0.500 ")
    assert table.set_index("entry").loc["gru", "MRR, all"].startswith("−0.250 ")
    assert "uncertainty for: amn; one moves against it for: gru;" in said
    assert said.endswith("includes zero: lstm.")


def test_the_frontier_has_what_no_other_dominates():
    costs = pd.DataFrame(
        {
            "test_cosine": [0.6, 0.5, 0.5, 0.4],
            "latency_ms": [4.0, 1.0, 2.0, 1.0],
            "parameters": [8, 4, 4, 2],
        }
    )
    assert summary.on_frontier(costs) == [True, True, False, True]


# --- GraphMERT and the rates --------------------------------------------------------


def test_a_fall_is_a_return_to_the_level_from_above():
    def at(*cosines):
        return findings.fall(pd.Series(cosines, index=range(1, 5)), level=0.2)

    assert at(0.1, 0.5, 0.55, 0.21) == 4
    assert at(0.1, 0.5, 0.22, 0.2) == 3
    assert np.isnan(at(0.1, 0.2, 0.3, 0.4))
    assert np.isnan(at(0.1, 0.15, 0.2, 0.21))


def test_graphmert_versions(tmp_path):
    collapsed = {"train_cosine": [0.5, 0.2], "gradient_norm_max": [90.0, 4.0]}
    plain = {"history": collapsed, "status": "collapsed", "used": {"warmup": 0.0}}
    write_run(tmp_path, "graphmert", SMALL, 0.3, **plain)
    for size, cosine in ((SMALL, 0.5), (LARGE, 0.52)):
        write_run(tmp_path, "graphmert-smooth", size, cosine, used={"mask": "smooth"})
    everything = load_study(tmp_path)
    rows = findings.graphmert_runs(everything, everything[:0])
    table = findings.graphmert_table(rows).set_index(["entry", "vectors"])
    row = table.loc[("graphmert", "80,634")]
    assert row["fell back at epoch (by update)"] == "2 (20)"
    assert row["best training cosine (epoch)"] == "0.5000 (1)"
    assert row["largest gradient norm (epoch)"] == "90 (1)"
    assert row["warm-up"] == "0%"
    smooth = table.loc[("graphmert-smooth", "232,605")]
    assert smooth["mask"] == "smooth"
    assert smooth["fell back at epoch (by update)"] == "—"
    said = findings.graphmert_said(rows, everything)
    assert "**Collapsed:** graphmert at 80,634 (controlled)." in said
    assert "graphmert-smooth differs from graphmert by +0.2000" in said
    assert "graphmert-smooth changes by +0.0200" in said
    assert "no verdict (one seed)" in said
    assert len(plots.collapse(rows).axes) == 2


def test_rates_are_compared_by_validation_with_the_same_seed(study):
    half = {"learning_rate": 0.0005}
    write_run(study, "amn-half-rate", LARGE, 0.6, used=half, validation_cosine=0.503)
    write_run(study, "amn-same-rate", LARGE, 0.6, validation_cosine=0.9)
    runs = load_study(study)
    found = findings.rates(runs)
    assert found["entry"].tolist() == ["amn"]
    assert found["rate"].item() == 0.0005
    assert found["difference"].item() == pytest.approx(0.003)
    assert "0.0005, gives +0.0030" in findings.rate_said(found, runs)


# --- hypotheses and claims ----------------------------------------------------------


def test_what_was_not_tested_is_not_claimed(tmp_path):
    for size in (100, 200):
        write_run(tmp_path, "amn", size, 0.5)
    said = findings.hypotheses(load_study(tmp_path), {})["these runs say"]
    assert said.str.startswith("not measured").all()


def test_the_fourth_hypothesis_is_tested_at_the_reported_sizes(study):
    said = findings.hypotheses(load_study(study), {})["these runs say"]
    assert said[3].startswith("tested: of the architectures, 1 improves, 1 equivalent.")
    assert "gru (2.0 million parameters)" in said[1]


def verdicts(study):
    everything = load_study(study)
    table, _ = claims.table(everything, everything[:0], {})
    return table.set_index("claim")["verdict"].to_dict()


def test_every_claim_names_a_check_and_none_a_verdict():
    entries = json.loads((files("lvmlib") / "claims.json").read_text())
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
    table, said = claims.table(everything, everything[:0], {})
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
    table, _ = claims.table(load_study(tmp_path / "study"), reported, {})
    row = table.set_index("claim").loc[claim]
    assert row["verdict"] == claims.FAILS
    assert "collapsed: from epoch 1 to 2 validation −0.3000" in row["because"]


def test_claims_are_about_the_reported_sizes(tmp_path):
    write_run(tmp_path, "amn", 100, 0.5)
    everything = load_study(tmp_path)
    table, said = claims.table(everything, everything[:0], {})
    assert table.empty
    assert "80,634 and 232,605" in said


def test_the_forest_has_a_row_an_entry_and_arm(study):
    changes = findings.contrasts(load_study(study))
    figure = plots.forest(changes)
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["amn", "gru"]
    assert len(figure.axes[0].containers) == 2
