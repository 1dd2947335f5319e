"""Contrasts, curves and leads, on made-up studies whose numbers are known."""

import json
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
from scipy import stats
from studies import LARGE, SMALL, noise, write_run

from lvmlib.comparison import compare_sizes
from lvmlib.pages import (
    claims,
    collapse,
    explanations,
    findings,
    plots,
    protocols,
    summary,
)
from lvmlib.pages.report import signed
from lvmlib.runs import RunError
from lvmlib.study import load_study


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
        protocols.protocols(runs[:0], runs)[1],
        protocols.cause_said(protocols.causes(runs[:0], runs)),
        findings.over_baselines(runs)[1],
        findings.superiority_said(findings.superiority(runs, LARGE), LARGE),
        findings.stories(runs)[1],
        collapse.graphmert_said(collapse.graphmert_runs(runs, runs[:0]), runs),
        explanations.rate_said(explanations.rates(runs), runs),
    ]
    for sentence in said:
        assert "ot measured yet" in sentence, sentence
    assert summary.ranking(runs).empty
    verdicts, _ = claims.table(runs, runs[:0], {}, pd.DataFrame())
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
    assert "**improves: amn; equivalent: gru**." in said
    assert said.endswith("*Not measured yet:* equal updates of gru.")


def test_updates_are_those_of_the_seeds_compared(tmp_path):
    write_run(tmp_path, "amn", LARGE, 0.5, steps=30)
    for seed, steps in enumerate((10, 20)):  # seed 1 has no partner
        write_run(tmp_path, "amn", SMALL, 0.5, seed=seed, steps=steps)
    (updates,) = findings.contrasts(load_study(tmp_path))["updates"]
    assert updates == "10 → 30"


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
    everything = load_study(study)
    said = findings.contrast_said(findings.contrasts(everything), runs)
    gain = table.loc["graphmert", "interval"].estimate
    assert f"One seed, so no verdict: graphmert ({signed(gain, 4)})." in said


def test_only_what_was_asked_for_a_verdict_is_missed_in_the_contrast(study):
    write_run(study, "graphmert", SMALL, 0.4)  # one seed, one size
    for seed in range(3):
        write_run(study, "lstm", SMALL, 0.4, seed=seed)
    everything = load_study(study)
    changes = findings.contrasts(everything)
    said = findings.contrast_said(changes, summary.main_runs(everything))
    assert "*Not measured yet:* equal epochs of lstm." in said
    assert "graphmert" not in said


def test_what_is_planned_and_missing_counts_as_the_least_certain(tmp_path):
    rng = np.random.default_rng(0)
    for seed in range(3):
        write_run(tmp_path, "gru", SMALL, 0.4, seed=seed)
        for size in (SMALL, LARGE):
            scores = 0.4 + rng.normal(0, 0.1, 400)
            write_run(tmp_path, "lstm", size, scores, seed=seed)
    changes = findings.contrasts(load_study(tmp_path))
    (row,) = changes[changes["arm"] == "equal epochs"].itertuples()
    assert row.adjusted_p == pytest.approx(min(2 * row.interval.p_value, 1))
    runs = summary.main_runs(load_study(tmp_path))
    without = compare_sizes(runs[runs["entry"] == "lstm"], SMALL, LARGE)
    assert without["adjusted_p"][0] == pytest.approx(row.interval.p_value)


def write_plan(study, plan):
    """Write study.json: runs planned in arm epochs, as (entry, size, seed)."""
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


def test_many_missing_runs_are_counted_by_entry(study):
    plan = [("amn", SMALL, s) for s in range(4)]
    write_plan(study, plan + [("lstm", SMALL, s) for s in range(7)])
    (said,) = findings.missing(study)
    assert "8 of 11 planned runs are not started: amn (1), lstm (7)." in said


def test_runs_for_side_questions_have_a_table_of_their_own(study):
    write_run(study, "amn-leaky", LARGE, 0.5)
    plan = [("amn", 5000, 0), ("amn", SMALL, 0), ("gru", SMALL, 0)]
    write_plan(study, [*plan, ("amn-leaky", LARGE, 0), ("amn-leaky", LARGE, 1)])
    main, aside = (
        t.set_index("entry") for t in summary.grids(load_study(study), study)
    )
    assert main.index.tolist() == ["amn", "gru"]
    assert main.columns.tolist() == ["5,000 vectors", "80,634 vectors"]
    assert main["5,000 vectors"].tolist() == ["missing", "—"]
    assert main.loc["gru", "80,634 vectors"] == '<a href="x.html">0.5000</a>'
    assert aside.index.tolist() == ["amn-leaky"]
    assert aside.columns.tolist() == ["232,605 vectors"]


def test_a_run_that_was_interrupted_took_as_long_as_its_epochs(tmp_path):
    write_run(tmp_path, "amn", SMALL, 0.5)
    write_run(tmp_path, "amn", LARGE, 0.5, history={"seconds": [60.0, 50.0]})
    assert load_study(tmp_path)["wall_seconds"].tolist() == [110.0, 10.0]


def test_changes_to_the_plan_are_read_from_it(tmp_path):
    plan = tmp_path / "PLAN.md"
    plan.write_text("# Plan\n\n## Changes to the plan\n\n- One.\n\n## Later\n\nNo.")
    assert findings.plan_changes(plan) == "- One."
    assert findings.plan_changes("") == "This study has no registered plan."
    plan.write_text("# Plan\n")
    with pytest.raises(RunError, match="has no section"):
        findings.plan_changes(plan)


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
    assert list(curves) == ["amn", "ridge"]
    assert findings.curve_table(curves)["test cosine then"][2] == "0.4000"  # constant
    power = curves["amn"]["power law"].fit
    assert power.parameters["E"] == pytest.approx(0.4, rel=1e-4)
    gain = 0.9 * (LARGE**-0.3 - (10 * LARGE) ** -0.3)
    text = f"{gain:+.4f}"
    assert findings.curve_table(curves)["ten times more data"][0].startswith(text)
    said = findings.curve_said(runs, curves)
    assert f"would add {gain:+.3f}" in said
    assert "*Not measured yet:* gru (a curve needs four sizes)." in said
    missed = curves["amn"]["logarithm"].held_out_error  # the truth is a power law
    assert f"logarithm by {missed:+.4f}".replace("-", "−") in said
    assert "the interval is too narrow" in said
    far = 0.6 - 0.9 * (10 * LARGE) ** -0.3
    assert f"amn, would then have {far:.4f} and ridge 0.4000" in said
    assert f"({far - 0.4:+.4f} [" in said.partition("By the power law")[2]
    bound = replace(curves["amn"]["power law"], fit=replace(power, at_bound=("E",)))
    unsure = curves | {"amn": curves["amn"] | {"power law": bound}}
    text = findings.curve_said(runs, unsure)  # such a fit is not compared with ridge
    assert "By the power law" not in text
    assert "By the logarithm the best of the networks with a sure fit, amn" in text
    axes, _ = plots.fitted_curves(runs, curves).axes
    assert axes.get_title(loc="left") == "amn"
    text = explanations.hypotheses(runs, curves)["these runs say"][1]
    assert "still rise beyond the uncertainty for 1 of 1 (amn)" in text


def test_a_study_on_other_vectors_is_refused(study, tmp_path):
    other = tmp_path / "other"
    everything = load_study(study)
    write_run(other, "amn", SMALL, 0.5, dataset={"name": "x", "sha256": "cd" * 32})
    with pytest.raises(RunError, match="same vectors"):
        findings.read_reported(other, everything)
    assert findings.read_reported("", everything).empty
    assert findings.read_reported(tmp_path / "not started", everything).empty


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
    pairs = findings.superiority(runs, LARGE)
    chance = pairs.set_index(["better", "worse"])["probability"]
    assert set(pairs["better"]) == {"amn", "gru", "lstm"}
    assert chance["amn", "gru"] == pytest.approx(2 / 3)
    assert chance["gru", "amn"] == pytest.approx(1 / 3)
    assert chance["amn", "lstm"] == 0.5  # ties, at the common seed
    assert chance["lstm", "gru"] == 1
    said = findings.superiority_said(pairs, LARGE)
    assert "0 of 3 pairs are decided." in said
    assert "on one seed, which another could turn: lstm over gru." in said
    assert findings.superiority_table(pairs)["amn"].tolist() == ["—", "0.33", "0.50"]


def test_few_seeds_that_agree_decide_nothing_by_themselves(tmp_path):
    # amn is better with each of three seeds, by 0.01 to 0.19: t = 1.9 on 2 degrees of
    # freedom. lstm is better than both by 0.3, but for noise of 0.001.
    for seed, lead in enumerate((0.01, 0.10, 0.19)):
        write_run(tmp_path, "amn", LARGE, 0.4 + lead, seed=seed)
        write_run(tmp_path, "gru", LARGE, 0.4, seed=seed)
        write_run(tmp_path, "lstm", LARGE, 0.7 + lead + seed / 1000, seed=seed)
    pairs = findings.superiority(load_study(tmp_path), LARGE)
    row = pairs.set_index(["better", "worse"]).loc
    assert row["amn", "gru"]["probability"] == 1
    assert row["amn", "gru"]["adjusted_p"] == pytest.approx(
        stats.ttest_1samp([0.01, 0.10, 0.19], 0).pvalue
    )
    assert not row["amn", "gru"]["decided"]
    assert row["lstm", "amn"]["decided"]
    assert not row["amn", "lstm"]["decided"]
    said = findings.superiority_said(pairs, LARGE)
    assert "lstm beats amn (1.00)" in said
    assert "leave the mean difference uncertain: amn over gru (1.00, p = 0.194)" in said


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
    assert row["contrastive accuracy"].startswith("+0.1000 ")
    assert row["R@10, same document"].startswith("+1.0000 ")
    assert row["MRR, all"].startswith("+0.5000 ")
    assert table.set_index("entry").loc["gru", "MRR, all"].startswith("−0.2500 ")
    assert "uncertainty for: amn; one moves against it for: gru;" in said
    assert said.endswith("includes zero: lstm.")


def test_the_frontier_has_what_no_other_dominates():
    costs = pd.DataFrame(
        {
            "test_cosine": [0.6, 0.5, 0.5, 0.4],
            "latency_ms": [4.0, 1.0, 2.0, 1.0],
            "parameters": [8, 4, 4, 2],
        },
        index=list("abcd"),
    )
    assert summary.dominating(costs) == [[], [], ["b"], []]


def test_latencies_that_differ_by_noise_do_not_save_a_worse_network():
    costs = pd.DataFrame(
        {
            "test_cosine": [0.6, 0.5],
            "latency_ms": [5.7, 5.6],
            "parameters": [4, 8],
        },
        index=list("ab"),
    )
    assert summary.dominating(costs) == [[], ["a"]]
    costs.loc["b", "latency_ms"] = 5.0
    assert summary.dominating(costs) == [[], []]


def test_baselines_are_beside_the_networks_they_beat(study):
    runs = summary.main_runs(load_study(study))
    names = ["six_numbers", "ridge", "amn"]
    measured = pd.DataFrame({"latency_ms": 0.5, "parameters": 7}, index=names)
    baselines = summary.baseline_costs(runs, measured)
    costs, _ = summary.recommendation(runs)
    table = summary.cost_table(costs, baselines).set_index("entry")
    assert table.index[-1] == "<em>baseline: ridge</em>"
    assert table.loc["<em>baseline: ridge</em>", "test cosine"] == "0.4000"
    assert table.loc["<em>baseline: ridge</em>", "latency, ms"] == "0.50"
    assert table.loc["<em>baseline: ridge</em>", "training windows/s"] == "—"
    figure = plots.quality_and_cost(costs, baselines)
    assert len(figure.axes[0].texts) == len(costs) + 2


def test_the_forest_has_a_row_an_entry_and_arm(study):
    changes = findings.contrasts(load_study(study))
    figure = plots.forest(changes, "More data")
    labels = [text.get_text() for text in figure.axes[0].get_yticklabels()]
    assert labels == ["amn", "gru"]
    assert len(figure.axes[0].containers) == 2
