"""The study's table and its comparisons: known answers, and the committed studies'."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from studies import LARGE, SMALL, noise, write_run

import lvmlib
from lvmlib import causes, results, scaling, show
from lvmlib.evaluation import BASELINES
from lvmlib.records import RunError

PROJECT = Path(__file__).parent.parent
REPORTS = PROJECT / "reports"
FROZEN = Path(__file__).parent / "frozen"


def triple(row, name):
    return row[[name, f"{name}_low", f"{name}_high"]]


# --- the table -----------------------------------------------------------------------


def test_a_run_is_a_row_with_its_recipe_and_scores(study):
    table = lvmlib.load_study(study)
    assert len(table) == 15
    row = table[(table["entry"] == "amn") & (table["arm"] == "steps")].iloc[0]
    assert (row["size"], row["learning_rate"], row["warmup"]) == (LARGE, 0.001, 0.05)
    assert (row["epochs"], row["asked_epochs"]) == (2, 2)
    assert row["test_cosine"] == pytest.approx(0.51)
    assert row["baseline_ridge_cosine"] == 0.4
    assert row["wall_seconds"] == 10.0  # more than the history's seven seconds


def test_without_runs_or_on_two_datasets_there_is_no_table(tmp_path):
    with pytest.raises(RunError, match="no finished run"):
        lvmlib.load_study(tmp_path)
    write_run(tmp_path / "study", "amn", SMALL, 0.5)
    other = {"name": "other", "sha256": "cd" * 32}
    write_run(tmp_path / "study", "gru", SMALL, 0.5, dataset=other)
    with pytest.raises(RunError, match="different datasets"):
        lvmlib.load_study(tmp_path / "study")
    (tmp_path / "study/study.json").write_text('{"runs": []}')
    with pytest.raises(RunError, match=r"give .*study\."):
        lvmlib.load_study(tmp_path)


@pytest.mark.parametrize("name", ["reference", "as_reported"])
def test_what_is_committed_makes_results_csv_again(name):
    csv = lvmlib.load_study(REPORTS / name / "results.csv")
    again = lvmlib.load_study(REPORTS / name / "runs")
    pd.testing.assert_frame_equal(again[list(csv)], csv, check_dtype=False)
    assert not results.missing_runs(REPORTS / name / "runs").size


def test_side_questions_are_no_main_runs(study):
    write_run(study, "amn-half-rate", LARGE, 0.5)
    write_run(study, "linear", LARGE, 0.5)  # no network
    table = lvmlib.load_study(study)
    runs = results.main_runs(table)
    assert set(runs["entry"]) == {"amn", "gru"}
    assert set(runs["arm"]) == {"epochs"}
    assert results.headline_sizes(runs) == (SMALL, LARGE)
    assert results.headline_sizes(runs.assign(size=[5, 9] * 6)) == (5, 9)


# --- pairing -------------------------------------------------------------------------


def test_a_difference_is_paired_by_seed_and_window(study):
    runs = results.main_runs(lvmlib.load_study(study))
    amn = runs[runs["entry"] == "amn"]
    before, after = (amn[amn["size"] == size] for size in (SMALL, LARGE))
    found = results.compare(after, before)
    assert found.estimate == pytest.approx(0.03)
    assert (found.seeds, found.documents) == (3, 40)
    few = before[before["seed"] > 0].iloc[::-1]  # in any order
    assert results.compare(after, few).seeds == 2
    with pytest.raises(ValueError, match="no seed in common"):
        results.compare(after[after["seed"] == 0], few)


def test_runs_on_other_test_windows_are_not_paired(study):
    write_run(study, "lstm", SMALL, 0.5)
    write_run(study, "lstm", LARGE, 0.5, scores={"row": np.arange(400) + 1})
    runs = lvmlib.load_study(study)
    with pytest.raises(ValueError, match="other test windows"):
        results.window_scores(runs[runs["entry"] == "lstm"])


def test_another_column_may_be_subtracted(study):
    runs = lvmlib.load_study(study)
    cell = runs[(runs["entry"] == "amn") & (runs["size"] == SMALL)]
    found = results.compare(cell, cell, "cosine_six_numbers", "cosine_ridge")
    assert found.estimate == pytest.approx(0.1)


def test_contexts_of_several_lengths_meet_on_the_windows_that_all_have(tmp_path):
    cosine = np.linspace(0, 1, 400)
    write_run(tmp_path, "amn", SMALL, cosine)
    shifted = {"row": np.arange(400) + 100}  # its first hundred targets are missing
    write_run(tmp_path, "lstm", SMALL, cosine, scores=shifted)
    table = lvmlib.load_study(tmp_path).sort_values("entry")
    scores, documents = results.on_common_windows(table)
    assert scores.shape == (2, 300)
    np.testing.assert_allclose(scores, [cosine[100:], cosine[:300]])
    assert list(documents) == list(np.repeat(np.arange(40), 10)[100:])


def test_one_source_of_a_joined_exam(tmp_path):
    of_papers = np.arange(400) >= 300
    scores = {"source": np.where(of_papers, "papers", "books")}
    write_run(tmp_path, "amn", SMALL, 0.5 + noise(1), scores=scores)
    gained = 0.5 + noise(1) + np.where(of_papers, 0.04, -0.01)
    write_run(tmp_path, "lstm", SMALL, gained, scores=scores)
    table = lvmlib.load_study(tmp_path).set_index("entry")
    amn, lstm = table.loc[["amn"]], table.loc[["lstm"]]
    for source, change in (("papers", 0.04), ("books", -0.01), ("", 0.0025)):
        found = results.compare(lstm, amn, source=source)
        assert found.estimate == pytest.approx(change)
    assert results.window_scores(amn, source="papers")[0].shape == (1, 100)


def test_a_study_names_its_first_page(tmp_path):
    assert results.study_answer(tmp_path) == "summary"
    (tmp_path / "study.json").write_text('{"runs": [], "answer": "levers"}')
    assert results.study_answer(tmp_path) == "levers"


def test_reading_needs_no_torch():
    names = ("causes", "scaling", "show.plots", "publish", "names")
    code = f"import sys, {', '.join(f'lvmlib.{name}' for name in names)}"
    code += "; assert not {'torch', 'lightning_fabric'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_a_training_set_counts_once_in_the_means_of_baselines():
    columns = [f"baseline_{name}_cosine" for name in BASELINES]
    runs = pd.DataFrame({key: [0.1, 0.1, 0.1, 0.4, 0.5] for key in columns})
    runs["size"], runs["seed"] = [5, 5, 5, 5, 9], [0, 0, 0, 1, 0]
    means = results.baseline_means(runs)
    assert means["ridge"].to_dict() == pytest.approx({5: 0.25, 9: 0.5})


def test_a_network_is_compared_with_its_own_baseline(study, run_notebook):
    leads = run_notebook("networks", study=str(study)).values["leads"]
    row = leads[(leads["entry"] == "gru") & (leads["size"] == LARGE)].iloc[0]
    assert row["six_numbers"] == pytest.approx(0.001)  # 0.501 against 0.5
    assert row["ridge"] == pytest.approx(0.101)
    assert row["six_numbers_low"] <= row["six_numbers"] <= row["six_numbers_high"]


# --- verdicts ------------------------------------------------------------------------


def test_verdicts_follow_from_the_intervals_in_each_arm(study):
    found = results.contrasts(lvmlib.load_study(study)).set_index(["arm", "entry"])
    assert found["verdict"].to_dict() == {
        ("epochs", "amn"): "improves",
        ("epochs", "gru"): "equivalent",
        ("steps", "amn"): "improves",
    }
    assert found.loc[("epochs", "amn"), "change"] == pytest.approx(0.03)
    assert found.loc[("steps", "amn"), "change"] == pytest.approx(0.01)


def test_one_seed_gets_no_verdict_and_planned_ones_make_others_less_sure(study):
    runs = results.main_runs(lvmlib.load_study(study))
    single = results.compare_sizes(runs[runs["seed"] == 0], SMALL, LARGE)
    assert set(single["verdict"]) == {"no verdict (one seed)"}
    assert single["p_value"].isna().all()
    amn = results.compare_sizes(runs[runs["entry"] == "amn"], SMALL, LARGE)
    planned = runs.assign(planned_seeds=3)
    left = planned[(planned["entry"] == "amn") | (planned["seed"] == 0)]
    both = results.compare_sizes(left, SMALL, LARGE).set_index("entry")
    assert both.loc["amn", "p_value"] == pytest.approx(2 * amn["p_value"].iloc[0])


def test_the_two_means_are_over_the_common_seeds(study):
    runs = results.main_runs(lvmlib.load_study(study))
    alone = (runs["entry"] == "amn") & (runs["size"] == LARGE) & (runs["seed"] > 0)
    runs["test_cosine"] += 0.1 * runs["seed"]
    row = (
        results.compare_sizes(runs[~alone], SMALL, LARGE).set_index("entry").loc["amn"]
    )
    assert row["seeds"] == 1
    assert row["large"] - row["small"] == pytest.approx(0.03, abs=1e-3)


def test_failed_training_has_no_rank(study):
    for seed in range(3):
        write_run(study, "lstm", LARGE, 0.9, seed=seed, status="collapsed")
    runs = results.main_runs(lvmlib.load_study(study))
    ranks = results.ranking(runs).set_index("name")
    assert np.isnan(ranks.loc["lstm", "best_rank"])
    assert ranks.loc["amn", ["best_rank", "worst_rank"]].tolist() == [1, 1]
    assert ranks.loc["gru", ["best_rank", "worst_rank"]].tolist() == [2, 2]
    assert set(ranks.index[ranks["kind"] == "baseline"]) == set(BASELINES)


def test_one_common_seed_gives_no_rank(tmp_path):
    for entry, seeds in (("amn", (0, 1)), ("lstm", (0, 2))):
        for seed in seeds:
            write_run(tmp_path / "study", entry, LARGE, 0.5, seed=seed)
    runs = results.main_runs(lvmlib.load_study(tmp_path / "study"))
    assert results.ranking(runs)["best_rank"].isna().all()


@pytest.fixture
def widths(tmp_path):
    """Runs of two widths of amn: the wider one with two rates, one diverged."""
    study = tmp_path / "study"
    for entry, cosine in (("width-512", 0.5), ("width-1024", 0.52), ("half", 0.54)):
        for seed in (0, 1):
            write_run(study, entry, LARGE, cosine, seed=seed)
    table = lvmlib.load_study(study)
    table["mlp"] = table["entry"].map({"width-1024": 1024, "half": 1024})
    table["validation_cosine"] = table["test_cosine"]
    lower = (table["entry"] == "half") & (table["seed"] == 1)
    table.loc[lower, "validation_cosine"] = 0.1
    same = {"architecture": "amn", "head_start": "none", "parameters_trainable": 3}
    return table.assign(**same)


def test_of_a_width_s_rates_the_best_by_validation_counts(widths):
    kept = results.widths(widths).set_index(["width", "seed"])["entry"]
    assert kept.to_dict() == {
        (512, 0): "width-512",
        (512, 1): "width-512",
        (1024, 0): "half",
        (1024, 1): "width-1024",
    }
    (row,) = results.wider(widths).to_dict("records")
    assert (row["start"], row["width"], row["seeds"]) == ("random weights", 1024, 2)
    assert row["change"] == pytest.approx((0.04 + 0.02) / 2)
    failed = widths.assign(status="diverged")
    assert results.wider(failed).empty


def test_each_network_has_its_own_published_width(widths):
    lstm = widths[widths["entry"] != "half"].assign(architecture="lstm", mlp=np.nan)
    lstm["hidden"] = widths["mlp"]
    lstm = lstm[lstm["seed"] == 0]
    found = results.wider(pd.concat([widths, lstm])).set_index("architecture")
    assert found["seeds"].to_dict() == {"amn": 2, "lstm": 1}
    assert found.loc["lstm", "width"] == 1024
    assert found.loc["lstm", "change"] == pytest.approx(0.02)


def test_seeds_that_agree_by_chance_decide_nothing(tmp_path):
    for seed, gap in enumerate((0.001, 0.03, 0.002)):
        write_run(tmp_path, "amn", LARGE, 0.5, seed=seed)
        write_run(tmp_path, "gru", LARGE, 0.5 + gap, seed=seed)
    wins = results.superiority(lvmlib.load_study(tmp_path), LARGE)
    gru = wins[wins["better"] == "gru"].iloc[0]
    assert gru["probability"] > 0.95
    assert not gru["decided"]


def test_a_step_is_counted_per_doubling(tmp_path, run_notebook):
    for size, cosine in ((1000, 0.5), (4000, 0.54)):
        write_run(tmp_path, "amn", size, cosine)
    values = run_notebook("curves", study=str(tmp_path)).values
    steps = values["slopes"].set_index("name")
    assert steps.loc["amn", "change"] == pytest.approx(0.04)
    assert steps.loc["amn", "per_doubling"] == pytest.approx(0.02)


def test_combined_changes_need_all_parts(study, run_notebook):
    combined = run_notebook("claims", study=str(study)).values["combined"]
    assert combined({"amn": 1, "gru": -1}).estimate == pytest.approx(0.029)
    assert combined({"amn": 1, "lstm": 1}) is None


def test_what_is_dominated_is_off_the_frontier():
    frame = pd.DataFrame(
        [("a", 1.0, 10, 0.5), ("b", 1.05, 10, 0.5), ("c", 2.0, 20, 0.4)],
        columns=["name", "latency_ms", "parameters", "test_cosine"],
    )
    assert results.dominated_by(frame) == [[], [], ["a", "b"]]


# --- side questions ------------------------------------------------------------------


def test_other_rates_are_compared_by_validation_with_the_same_seeds(study):
    used = {"learning_rate": 0.0005}
    for size in (SMALL, LARGE):
        cosine = 0.5 + 0.02 * (size == LARGE)
        write_run(study, "gru-half", size, cosine, used=used, validation_cosine=0.6)
    table = lvmlib.load_study(study)
    row = causes.rates(table).iloc[0]
    assert (row["entry"], row["rate"], row["seeds"]) == ("gru", 0.0005, 1)
    assert row["difference"] == pytest.approx(0.1)
    again = causes.contrasts_at_rates(table).iloc[0]
    assert again["other"] == pytest.approx(0.02)
    assert again["better_large_rate"] == 0.0005
    best = causes.best_of_all_rates(table)
    assert (best["architecture"], best["rate"]) == ("gru", 0.0005)


def test_a_rate_that_gains_is_told_by_its_row_with_most_seeds():
    rates = pd.DataFrame(
        [("gru", 0.02, 1), ("gru", 0.01, 3), ("amn", -0.01, 1), ("lstm", 0.001, 1)],
        columns=["entry", "difference", "seeds"],
    )
    gained, others = causes.gaining(rates)
    assert gained["difference"].tolist() == [0.01]
    assert others.to_dict() == {"amn": 0, "lstm": 0.001}


def test_repeats_elsewhere_differ_in_arithmetic_alone(study, run_notebook):
    write_run(study, "amn-gpu", LARGE, 0.531, device="cuda", precision="bf16-mixed")
    found = run_notebook("costs", study=str(study)).values["ways"]
    assert found["other"].tolist() == ["GPU, bfloat16"]
    assert found["difference"].iloc[0] == pytest.approx(0.001)


def test_each_fault_alone(study):
    for seed in range(2):
        write_run(
            study, "amn-leaky", LARGE, 0.53, seed=seed, six=0.5,
            used={"protocol": "leaky"}, validation_cosine=0.58,
        )  # fmt: skip
        write_run(
            study, "amn-mixed", LARGE, 0.52, seed=seed, used={"protocol": "mixed"}
        )
    table = lvmlib.load_study(study)
    found = causes.causes(table).set_index(["cause", "what"])["difference"]
    assert found[("leaky split", "lead")] == pytest.approx(0.08)  # 0.5 − 0.5 before
    assert found[("mixed windows", "test")] == pytest.approx(-0.01)
    assert found[("fewer updates", "test")] == pytest.approx(-0.02)


def test_a_collapse_and_what_came_back_are_told_apart(tmp_path, run_notebook):
    epochs = {"epoch": [1, 2, 3], "step": [10, 20, 30], "seconds": [1.0] * 3}
    epochs |= {"gradient_norm": [1.0] * 3, "gradient_norm_max": [1.0, 9.0, 2.0]}
    fell = epochs | {"train_cosine": [0.5, 0.6, 0.2]}
    back = epochs | {"train_cosine": [0.5, 0.3, 0.6]}
    for seed, course in enumerate((fell, back)):
        history = course | {"validation_cosine": course["train_cosine"]}
        write_run(tmp_path, "graphmert", LARGE, 0.5, seed=seed, history=history)
    rows = run_notebook("collapse", study=str(tmp_path)).values["fates"]
    assert rows["fell"].tolist()[0] == 3
    assert np.isnan(rows["fell"].tolist()[1])
    assert rows["drop"].tolist() == pytest.approx([0.4, 0.2])
    assert set(rows["mask"]) == {"band"}


# --- the committed studies give the numbers they always gave -------------------------


@pytest.fixture(scope="module")
def reference():
    return lvmlib.load_study(REPORTS / "reference" / "runs")


def frozen(name):
    return pd.read_csv(FROZEN / f"{name}.csv", dtype=str, keep_default_na=False)


def texts(frame, name, digits=4):
    rows = frame[[name, f"{name}_low", f"{name}_high"]].astype(float).to_numpy()
    return [show.interval(tuple(row), digits) for row in rows]


def test_contrasts_are_as_frozen(reference):
    found, old = results.contrasts(reference), frozen("contrasts")
    assert texts(found, "change") == old["change, 95% interval"].tolist()
    assert found["verdict"].tolist() == old["verdict"].tolist()
    assert found["p_value"].map(show.p_value).tolist() == old["p (Holm)"].tolist()
    assert found["large"].map("{:.4f}".format).tolist() == old["232,605"].tolist()


def test_ranking_and_probabilities_are_as_frozen(reference):
    runs = results.main_runs(reference)
    ranking, old = results.ranking(runs), frozen("ranking")
    best = lvmlib.load_study(REPORTS / "best" / "runs").query("entry == 'linear'")
    added = ranking["name"] == "ridge_to_weights"  # by the study that came later
    of_size = best.groupby("size")["test_cosine"].mean().loc[[80_634, 232_605]]
    assert ranking.loc[added, ["small", "large"]].values.tolist() == [of_size.tolist()]
    elsewhere = runs.assign(dataset_sha256="another")
    assert results.later_linear(elsewhere).empty
    assert results.later_linear(runs.assign(protocol="as_reported")).empty
    ranking = ranking[~added]
    assert ranking["large"].map("{:.4f}".format).tolist() == old["232,605"].tolist()
    networks = ranking[ranking["kind"] == "network"]
    rank = show.places(networks["best_rank"], networks["worst_rank"])
    assert rank == [text for text in old["rank"] if text]
    wins, old = results.superiority(runs, LARGE), frozen("probabilities")
    for row in wins.itertuples():
        shown = old.set_index("P(row beats column)").loc[row.better, row.worse]
        assert f"{row.probability:.2f}" == shown


def test_what_pages_compute_is_as_frozen(run_notebook):
    found = run_notebook("networks").values
    leads, old = found["leads"], frozen("leads")
    assert texts(leads, "six_numbers") == old["minus six numbers"].tolist()
    assert texts(leads, "ridge") == old["minus ridge"].tolist()
    others, old = found["others"], frozen("other-scores")
    assert texts(others, "contrastive") == old["contrastive accuracy"].tolist()
    assert texts(others, "mrr_all") == old["MRR, all"].tolist()
    found, old = run_notebook("costs").values["ways"], frozen("arithmetic")
    assert texts(found, "difference", 5) == old["test cosine: other − one"].tolist()
    found, old = run_notebook("protocols").values["protocols"], frozen("protocols")
    assert texts(found, "frozen") == old["original's models, frozen exam"].tolist()
    hidden = old["hidden by the own exams"].tolist()
    assert found["hidden"].map(show.signed).tolist() == hidden


def test_scores_and_rates_are_as_frozen(reference):
    runs = results.main_runs(reference)
    found, old = results.metrics(runs), frozen("metrics")
    shown = found["r10_document"].map("{:.3f}".format).tolist()
    assert shown == old["R@10, same document"].tolist()
    found, old = causes.rates(reference), frozen("rates")
    column = "validation cosine: other − registered"
    assert found["difference"].map(show.signed).tolist() == old[column].tolist()


def test_causes_are_as_frozen(reference):
    found, old = causes.causes(reference), frozen("causes")
    assert texts(found, "difference") == old["difference, 95% interval"].tolist()
    assert found["seeds"].astype(int).astype(str).tolist() == old["seeds"].tolist()


def test_curves_are_as_frozen(reference):
    fits = scaling.fit_study(results.main_runs(reference))
    old = frozen("curves")
    assert fits["name"].tolist() == old["entry"].tolist()
    assert fits["residual"].map("{:.2%}".format).tolist() == old["residual"].tolist()
    errors = fits["held_out_error"].map(show.signed).tolist()
    assert errors == old["held-out error"].tolist()
    point = [text.split(" [")[0] for text in old["parameters, 95% interval"]]
    # On some processors a floor of zero is found as 7e-19.
    first = fits["E"].fillna(fits["a"]).round(12)
    assert [f"{p[0]} {x:.3g}" for p, x in zip(point, first, strict=True)] == point


def test_who_was_told_apart_is_read_by_model_and_seed(tmp_path):
    assert results.told_apart(tmp_path / "none.parquet") == {}
    ranks = pd.DataFrame(
        {
            "model": ["a"] * 4 + ["b"] * 2,
            "running_mean": [True] * 4 + [False] * 2,
            "size": 5,
            "seed": [0, 0, 1, 1, 0, 0],
            "document": [7, 8] * 3,
            "row": [70, 80] * 3,
            "rank": [1, 2, 3, 1, 1, 1],
        }
    )
    ranks.sample(frac=1, random_state=0).to_parquet(tmp_path / "apart.parquet")
    found = results.told_apart(tmp_path / "apart.parquet")
    assert found["a", True, 5][0].tolist() == [[1, 0], [0, 1]]
    assert found["b", False, 5][0].tolist() == [[1, 1]]
    assert found["a", True, 5][1].tolist() == [7, 8]
    ranks.iloc[:-1].to_parquet(tmp_path / "apart.parquet")
    with pytest.raises(ValueError, match="the same windows"):
        results.told_apart(tmp_path / "apart.parquet")


def test_an_entry_is_repeated_if_it_is_at_all_its_sizes():
    table = pd.DataFrame({"entry": ["a", "a", "b", "b"], "planned_seeds": [3, 2, 3, 1]})
    assert results.repeated(table).tolist() == [True, True, False, False]
