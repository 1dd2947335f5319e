"""Rates, arithmetic and hypotheses, on made-up studies whose numbers are known."""

import pytest
from studies import LARGE, SMALL, write_run

from lvmlib.pages import explanations, protocols
from lvmlib.pages.summary import main_runs
from lvmlib.study import load_study


def test_rates_are_compared_by_validation_with_the_same_seed(study):
    half = {"learning_rate": 0.0005}
    write_run(study, "amn-half-rate", LARGE, 0.6, used=half, validation_cosine=0.503)
    write_run(study, "amn-same-rate", LARGE, 0.6, validation_cosine=0.9)
    runs = load_study(study)
    found = explanations.rates(runs)
    assert found["entry"].tolist() == ["amn"]
    assert found["rate"].item() == 0.0005
    assert found["difference"].item() == pytest.approx(0.003)
    said = explanations.rate_said(found, main_runs(runs))
    assert "0.0005, gives +0.0030" in said
    assert "another rate of gru" in said


def test_what_data_change_is_said_at_another_rate_of_both_sizes(study):
    def found():
        return explanations.contrasts_at_other_rates(load_study(study))

    said = explanations.other_rates_said
    assert said(found()).startswith("*Not measured yet:* both sizes at")
    assert explanations.rate_answer(found()) == []
    half = {"used": {"learning_rate": 0.0005}}
    write_run(study, "amn-half-rate", LARGE, 0.57, validation_cosine=0.7, **half)
    assert said(found()).startswith("*Not measured yet:* both sizes at")
    write_run(study, "amn-half-rate", SMALL, 0.45, validation_cosine=0.2, **half)
    text = said(found())
    assert text.startswith("**amn with 0.0005 at both sizes** changes by +0.1200")
    assert "(1 seed); at the registered 0.001, same seeds, by +0.0300" in text
    assert "better at each size (0.001 and 0.0005) by +0.0700" in text
    (answer,) = explanations.rate_answer(found())
    assert "more data changes amn by +0.0700 [" in answer
    assert "instead of +0.0300 (1 seed)." in answer


def test_the_best_of_all_rates_stands_beside_the_best_baseline(study):
    half = {"used": {"learning_rate": 0.0005}}
    write_run(study, "amn-half-rate", LARGE, 0.57, validation_cosine=0.7, **half)
    said = explanations.best_of_all_rates(load_study(study))
    assert "at 232,605 vectors, amn with 0.0005 validates best. Its test" in said
    assert "cosine is 0.5700; against" in said


def test_curves_at_another_rate_need_four_sizes(study):
    def sizes():
        found = explanations.runs_at_other_rates(load_study(study))
        return sorted(found["size"])

    for size in (10_000, 20_000, SMALL, LARGE):
        assert sizes() == []
        if size not in (SMALL, LARGE):  # which are there
            write_run(study, "amn", size, 0.5)
        half = {"learning_rate": 0.0005}
        write_run(study, "amn-half-rate", size, 0.5, used=half)
    assert sizes() == [10_000, 20_000, SMALL, LARGE]


def test_dips_are_falls_of_validation_from_one_epoch_to_the_next(study):
    write_run(study, "lstm", LARGE, 0.5, history={"validation_cosine": [0.52, 0.45]})
    write_run(study, "lstm", SMALL, 0.5, history={"validation_cosine": [0.52, 0.515]})
    found = explanations.dips(load_study(study))
    (row,) = found.to_dict("records")
    assert (row["entry"], row["size"], row["epoch"]) == ("lstm", LARGE, 2)
    said = explanations.dip_said(found)
    assert "lstm at 232,605 with seed 0 (by 0.0700 at epoch 2)" in said
    assert explanations.dip_said(found[:0]).startswith("In no run")


def test_a_network_that_is_better_with_fewer_updates_was_held_back(study):
    def held_back(everything):
        causes = protocols.causes(everything[:0], everything)
        return explanations.held_back(causes, main_runs(everything))

    said = held_back(load_study(study))
    assert said == "At 232,605 vectors no network was better with fewer updates."
    write_run(study, "gru", LARGE, 0.53, arm="steps", steps=SMALL)  # gru has 0.501
    said = held_back(load_study(study))
    assert said.startswith("**Better with fewer updates**, on the same 232,605")
    assert "gru by +0.0290" in said
    assert "(1 seed). There" in said
    assert "amn" not in said
    epochs = load_study(study).query("arm == 'epochs'")
    assert held_back(epochs).startswith("*Not measured yet:*")


def test_arithmetic_is_compared_where_nothing_else_differs(study):
    float32 = {"used": {"precision": "32-true"}, "precision": "32-true"}
    for seed in (0, 1):
        write_run(study, "amn-float32", SMALL, 0.502, seed=seed, **float32)
    other = {"used": {"learning_rate": 0.1}, "precision": "32-true"}
    write_run(study, "amn-other", SMALL, 0.9, **other)
    everything = load_study(study)
    main = everything["entry"].isin(["amn", "gru"])
    assert explanations.arithmetic(everything[~main]).empty
    everything.loc[main, "precision"] = "bf16-mixed"
    everything.loc[
        (everything["entry"] == "gru")
        & (everything["size"] == LARGE)
        & (everything["seed"] == 2),
        "precision",
    ] = "32-true"
    at_equal_updates = (everything["arm"] == "steps") & (everything["seed"] < 2)
    everything.loc[at_equal_updates, "precision"] = "32-true"
    found = explanations.arithmetic(everything)
    (row,) = explanations.arithmetic_table(found).to_dict("records")
    assert (row["architecture"], row["vectors"], row["seeds"]) == ("amn", "80,634", 2)
    assert (row["one"], row["other"]) == ("CPU, bfloat16", "CPU, float32")
    assert found["interval"][0].estimate == pytest.approx(0.002)
    said = explanations.arithmetic_said(found, everything)
    assert said.startswith("At equal epochs 1 of 6 pairs")
    assert "(gru with seed 2). At equal updates 2 of 3 pairs" in said
    assert "(amn with seeds 0 and 1). By itself" in said
    assert "changes the test cosine of amn by +0.00200" in said
    write_run(study, "amn-gpu", SMALL, 0.505, device="cuda")
    table = explanations.arithmetic_table(explanations.arithmetic(load_study(study)))
    assert table[["one", "other", "seeds"]].to_dict("records") == [
        {"one": "CPU, float32", "other": "GPU, float32", "seeds": 1}
    ]
    none = explanations.arithmetic_said(found[:0], everything)
    assert none.endswith("*Not measured yet:* one training in two ways.")


def test_what_was_not_tested_is_not_claimed(tmp_path):
    for size in (100, 200):
        write_run(tmp_path, "amn", size, 0.5)
    said = explanations.hypotheses(load_study(tmp_path), {})["these runs say"]
    assert said.str.startswith("not measured").all()


def test_the_fourth_hypothesis_is_tested_at_the_reported_sizes(study):
    said = explanations.hypotheses(load_study(study), {})["these runs say"]
    assert said[3].startswith("tested (improves: amn; equivalent: gru).")
    assert "gru (2.0 million parameters)" in said[1]
