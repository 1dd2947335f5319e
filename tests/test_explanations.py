"""GraphMERT, rates and hypotheses, on made-up studies whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
from studies import LARGE, SMALL, write_run

from lvmlib.pages import explanations, plots, protocols
from lvmlib.pages.summary import main_runs
from lvmlib.study import load_study


def test_a_fall_is_a_return_to_the_level_from_above():
    def at(*cosines, last=0.5):
        columns = {"train_cosine": cosines, "validation_cosine": [0.5, 0.5, 0.5, last]}
        history = pd.DataFrame(columns, index=range(1, 5))
        return explanations.fall(history, level=0.2)

    assert at(0.1, 0.5, 0.55, 0.21) == 4
    assert at(0.1, 0.5, 0.22, 0.2) == 3
    assert at(0.4, 0.5, 0.55, 0.4, last=0.17) == 4
    assert np.isnan(at(0.1, 0.2, 0.3, 0.4))
    assert np.isnan(at(0.1, 0.15, 0.2, 0.21))


def test_graphmert_versions(tmp_path):
    collapsed = {"train_cosine": [0.5, 0.2], "gradient_norm_max": [90.0, 4.0]}
    collapsed |= {"gradient_norm_max_step": [7, 19]}
    plain = {"history": collapsed, "status": "collapsed", "used": {"warmup": 0.0}}
    write_run(tmp_path, "graphmert", SMALL, 0.3, **plain)
    write_run(tmp_path, "graphmert-gpu", SMALL, 0.3, **plain, device="cuda")
    for size, cosine in ((SMALL, 0.5), (LARGE, 0.52)):
        used = {"used": {"mask": "smooth"}, "validation_cosine": cosine + 0.1}
        write_run(tmp_path, "graphmert-smooth", size, cosine, **used)
    everything = load_study(tmp_path)
    rows = explanations.graphmert_runs(everything, everything[:0])
    table = explanations.graphmert_table(rows).set_index(["entry", "vectors"])
    row = table.loc[("graphmert", "80,634")]
    assert row["fell back at epoch (by update)"] == "2 (20)"
    assert row["best training cosine (epoch)"] == "0.5000 (1)"
    assert row["largest gradient norm (epoch, update)"] == "90 (1, 7)"
    assert row["warm-up"] == "0%"
    smooth = table.loc[("graphmert-smooth", "232,605")]
    assert smooth["mask"] == "smooth"
    assert smooth["fell back at epoch (by update)"] == "—"
    assert smooth["largest gradient norm (epoch, update)"] == "4 (2, not kept)"
    said = explanations.graphmert_said(rows, everything)
    assert "**Collapsed:** graphmert at 80,634 (controlled), graphmert-gpu at" in said
    assert "graphmert-gpu differs" not in said  # it repeats graphmert
    assert "graphmert-smooth differs from graphmert by +0.2000" in said
    assert "Of 2 versions at 80,634 vectors graphmert-smooth has the best valid" in said
    assert "cosine (0.6000)." in said
    assert "versions at 232,605" not in said
    assert "graphmert-smooth changes by +0.0200" in said
    assert "no verdict (one seed)" in said
    assert "fell back to the constant mean in 2 of 4 runs." in said
    assert "recipe is not" not in said  # none of these runs stored epochs
    assert len(plots.collapse(rows).axes) == 2


def test_graphmerts_recipe_is_set_beside_that_of_the_others(tmp_path):
    mine = {"epochs": 4, "batch_size": 32, "schedule": "cosine"}
    write_run(tmp_path, "graphmert", SMALL, 0.5, used=mine)
    write_run(tmp_path, "amn", SMALL, 0.5, used=mine | {"epochs": 8})
    write_run(tmp_path, "amn-half-rate", SMALL, 0.5, used=mine | {"epochs": 9})
    everything = load_study(tmp_path)
    rows = explanations.graphmert_runs(everything, everything[:0])
    said = explanations.graphmert_said(rows, everything)
    assert "constant mean in 0 of 1 run." in said
    assert "(epochs 4, theirs 8): beside theirs, its scores compare recipes" in said


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
    said = explanations.contrast_at_other_rates
    assert said(load_study(study)).startswith("*Not measured yet:* both sizes at")
    half = {"used": {"learning_rate": 0.0005}}
    write_run(study, "amn-half-rate", LARGE, 0.57, validation_cosine=0.7, **half)
    assert said(load_study(study)).startswith("*Not measured yet:* both sizes at")
    write_run(study, "amn-half-rate", SMALL, 0.45, validation_cosine=0.2, **half)
    text = said(load_study(study))
    assert text.startswith("**amn with 0.0005 at both sizes** changes from 80,634 to")
    assert "by +0.1200" in text
    assert "(1 seed); at the registered 0.001, same seeds, by +0.0300" in text
    assert "better at each size (0.001 and 0.0005) by +0.0700" in text


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
