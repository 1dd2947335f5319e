"""The original protocol and its faults, on made-up studies whose numbers are known."""

import pytest
from studies import LARGE, SMALL, write_run

from lvmlib.pages import collapse, findings, protocols
from lvmlib.study import load_study


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
    assert protocols.band(percent) == word


def test_two_protocols_beside_each_other(study, tmp_path):
    old = tmp_path / "old" / "as_reported"
    kind = {"used": {"protocol": "as_reported"}}
    write_run(old, "amn", SMALL, 0.50, validation_cosine=0.60, six=0.55, **kind)
    write_run(old, "amn", LARGE, 0.52, validation_cosine=0.57, six=0.53, **kind)
    everything = load_study(study)
    everything = everything[~everything["folder"].str.contains("as_reported")]
    reported = findings.read_reported(old, everything)
    table, said = protocols.protocols(reported, everything)
    row = table.set_index("architecture").loc["amn"]
    assert row["own exam"] == "0.6000 → 0.5700 (−5.00%)"
    assert row["original's models, frozen exam"].startswith("+0.0200")
    assert row["controlled study"].startswith("+0.0300")
    assert row["its verdict"] == "improves"
    assert "in 1 of 1 architectures (amn)" in said
    # Own exams: −0.03 against +0.02; six numbers: −0.02 against 0.
    assert row["hidden by the own exams"] == "+0.0500"
    assert "to the other +0.0500 of that gain is hidden" in said
    assert "change by −0.0200 between them and by +0.0000 on the frozen one" in said
    assert "+0.0200 of what is hidden is the exams' difficulty" in said
    assert "The rest, +0.0300, is what" in said
    exam = protocols.causes(reported, everything).set_index(["cause", "size"])
    assert exam.loc[("other exam", SMALL), "estimate"].item() == pytest.approx(0.10)
    assert exam.loc[("other exam", LARGE), "estimate"].item() == pytest.approx(0.05)


def test_a_study_under_the_original_protocol_is_its_own(tmp_path):
    kind = {"used": {"protocol": "as_reported"}, "validation_cosine": 0.6}
    for size, cosine in ((SMALL, 0.50), (LARGE, 0.52)):
        write_run(tmp_path, "amn", size, cosine, **kind)
    write_run(tmp_path, "graphmert", SMALL, 0.5, **kind)
    everything = load_study(tmp_path)
    reported = findings.read_reported("", everything)
    table, said = protocols.protocols(reported, everything)
    (row,) = table.to_dict("records")
    assert row["own exam"] == "0.6000 → 0.6000 (+0.00%)"
    assert row["original's models, frozen exam"].startswith("+0.0200")
    assert "controlled study" not in row
    assert "graphmert under the original protocol" in said
    assert set(protocols.causes(reported, everything)["cause"]) == {"other exam"}
    assert len(collapse.graphmert_runs(everything, reported)) == 1


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
    found = protocols.causes(everything[:0], everything).set_index("what")
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
    said = protocols.cause_said(found.reset_index())
    assert "*Not measured yet:* the causes other exam." in said
    assert "leaky − controlled): amn +0.1200 at 232,605." in said
    table = protocols.cause_table(found.reset_index())
    assert table["difference, 95% interval"][0] == "+0.1200"


def test_a_cause_at_two_sizes_alters_the_gain_from_more_data(study):
    for size, validation in ((SMALL, 0.6), (LARGE, 0.52)):
        leaky = {"used": {"protocol": "leaky"}, "validation_cosine": validation}
        write_run(study, "amn-leaky", size, 0.5, **leaky, six=0.5)
    everything = load_study(study)
    said = protocols.cause_said(protocols.causes(everything[:0], everything))
    # Leads over six numbers: 0.1 and 0.02 when leaky, 0 when controlled.
    told = "amn +0.1000 at 80,634, +0.0200 at 232,605, which adds −0.0800 to what more"
    assert told in said
