"""What became of GraphMERT's runs, on made-up studies whose numbers are known."""

import numpy as np
import pandas as pd
import pytest
from studies import HISTORY, LARGE, SMALL, write_run

from lvmlib.pages import collapse, plots
from lvmlib.study import load_study


def test_a_fall_is_a_return_to_the_level_from_above():
    def at(*cosines, last=0.5):
        columns = {"train_cosine": cosines, "validation_cosine": [0.5, 0.5, 0.5, last]}
        history = pd.DataFrame(columns, index=range(1, 5))
        return collapse.fall(history, level=0.2)

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
    rows = collapse.graphmert_runs(everything, everything[:0])
    table = collapse.graphmert_table(rows).set_index(["entry", "vectors"])
    row = table.loc[("graphmert", "80,634")]
    assert row["fell back at epoch (by update)"] == "2 (20)"
    assert row["best training cosine (epoch)"] == "0.5000 (1)"
    assert row["largest gradient norm (epoch, update)"] == "90 (1, 7)"
    assert row["warm-up"] == "0%"
    smooth = table.loc[("graphmert-smooth", "232,605")]
    assert smooth["mask"] == "smooth"
    assert smooth["fell back at epoch (by update)"] == "—"
    assert smooth["largest gradient norm (epoch, update)"] == "4 (2, not kept)"
    said = collapse.graphmert_said(rows, everything)
    assert "**Collapsed:** graphmert at 80,634 (controlled, seed 0), graph" in said
    assert "graphmert-gpu differs" not in said  # it repeats graphmert
    assert "graphmert-smooth differs from graphmert by +0.2000" in said
    assert "Of 2 versions at 80,634 vectors graphmert-smooth has the best valid" in said
    assert "cosine (0.6000)." in said
    assert "versions at 232,605" not in said
    assert "graphmert-smooth changes by +0.0200" in said
    assert "no verdict (one seed)" in said
    assert (
        "fell back to the constant mean in 2 of 4 runs (graphmert 1 of 1, graph" in said
    )
    assert (
        "smooth 0 of 2; even none in 2 runs would leave room for a fall in up to 78%"
        in said
    )
    assert "recipe is not" not in said  # none of these runs stored epochs
    assert len(plots.collapse(rows).axes) == 2


def test_graphmerts_recipe_is_set_beside_that_of_the_others(tmp_path):
    mine = {"epochs": 4, "batch_size": 32, "schedule": "cosine"}
    write_run(tmp_path, "graphmert", SMALL, 0.5, used=mine)
    write_run(tmp_path, "amn", SMALL, 0.5, used=mine | {"epochs": 8})
    write_run(tmp_path, "amn-half-rate", SMALL, 0.5, used=mine | {"epochs": 9})
    everything = load_study(tmp_path)
    rows = collapse.graphmert_runs(everything, everything[:0])
    said = collapse.graphmert_said(rows, everything)
    assert "constant mean in 0 of 1 run." in said
    assert "(epochs 4, theirs 8): beside theirs, its scores compare recipes" in said


def test_a_fall_that_training_came_back_from_is_no_collapse(tmp_path):
    three = {key: [0.5, 0.5, 0.5] for key in HISTORY} | {"epoch": [1, 2, 3]}
    history = {"train_cosine": [0.6, 0.5, 0.61], "gradient_norm_max": [0.1, 86.0, 0.1]}
    history = three | history
    write_run(tmp_path, "graphmert", SMALL, 0.5, history=history)
    everything = load_study(tmp_path)
    rows = collapse.graphmert_runs(everything, everything[:0])
    said = collapse.graphmert_said(rows, everything)
    assert "constant mean in 0 of 1 run. It fell and came back in graphmert at" in said
    assert "80,634 (controlled, seed 0): down by 0.1000 to 0.5000 at epoch 2" in said
    assert "norm reached 86, and at 0.6100 in the end." in said


def write_updates(folder, **falls):
    """Write 200 updates a repeat; `falls` has the one with the steepest gradient."""
    update, parts = np.arange(1, 201), []
    for name, fall in falls.items():
        precision, start = name.split("_")
        after = update > (fall or 1000)
        rows = pd.DataFrame({"update": 23_000 + update, "loss": 0.001})
        rows["cosine"] = np.where(after, 0.15, 0.6)
        rows["gradient_norm"] = np.where(update == fall, 20.0, 0.002)
        parts.append(rows.assign(precision=precision, start=int(start)))
    (folder / "collapse").mkdir(exist_ok=True)
    pd.concat(parts).to_csv(folder / "collapse" / "updates.csv", index=False)
    return collapse.repeats(folder / "PLAN.md")


def test_a_collapse_in_float32_acquits_bfloat16(tmp_path):
    falls = {"bf16-mixed_0": 80, "32-true_22000": None, "32-true_23000": 90}
    updates = write_updates(tmp_path, **falls)
    said = collapse.repeats_said(updates, updates)
    assert "bfloat16 from the beginning collapses (training cosine 0.600 in" in said
    assert "0.150 in the last 50; largest gradient norm 20, at update 23,080)" in said
    assert "float32 from update 22,000 does not (" in said
    assert "float32 from update 23,000 collapses" in said
    assert "so the rounding of these updates is not to blame" in said
    assert "norm is 0.002: clipping at 1, as reported, lets through what is 500" in said
    assert len(plots.collapse_by_update(updates).axes[0].lines) == 3


def test_a_collapse_in_bfloat16_alone_leaves_it_suspect(tmp_path):
    falls = {"bf16-mixed_0": 80, "32-true_22000": None}
    updates = write_updates(tmp_path, **falls)
    said = collapse.repeats_said(updates, updates)
    assert "Only bfloat16 collapses here: it may be what it takes." in said


@pytest.mark.parametrize("plan", ["", "PLAN.md"])
def test_no_repeat_is_said_to_be_missing_where_a_run_collapsed(tmp_path, plan):
    updates = collapse.repeats(plan and tmp_path / plan)
    rows = pd.DataFrame({"status": ["trained", "collapsed"]})
    said = collapse.repeats_said(updates, rows)
    assert said.startswith("*Not measured yet:* a collapse")
    for none in (rows[:1], rows[:0]):
        assert collapse.repeats_said(updates, none).startswith("No run")
