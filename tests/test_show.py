"""How numbers, intervals and tables are written; the colours of figures."""

import numpy as np
import pandas as pd
import pytest
from bs4 import BeautifulSoup
from nbformat.v4 import new_code_cell, new_markdown_cell, new_notebook, new_output

from lvmlib import show
from lvmlib.models import ARCHITECTURES
from lvmlib.show import plots
from lvmlib.show.html import ReportExporter
from lvmlib.statistics import clustered_interval


@pytest.fixture
def shown(monkeypatch):
    """Return what was displayed, instead of displaying it."""
    found = []
    monkeypatch.setattr(show, "display", lambda thing, **_: found.append(thing))
    return found


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (show.number(1234.5678, 2), "1,234.57"),
        (show.number(-0.25), "−0.2500"),
        (show.number(-0.00001), "0.0000"),
        (show.number(float("nan")), "—"),
        (show.signed(0.5, 1), "+0.5"),
        (show.interval((0.012, -0.004, 0.028), 3), "+0.012 [−0.004, +0.028]"),
        (show.interval((0.5, 0.4, 0.6), 1, signed=False), "0.5 [0.4, 0.6]"),
        (show.interval((0.1, -0.00001, 0.2), 3), "+0.100 [−0.000, +0.200]"),
        (show.interval((0.1, np.nan, np.nan), 1), "+0.1"),
        (show.span([0.3, 0.1, 0.2], 1), "+0.1 to +0.3"),
        (show.span([2, 2], 0, signed=False), "2"),
        (show.counted(1, "seed"), "1 seed"),
        (show.counted(1200, "run"), "1,200 runs"),
        (show.listed(["a", "b", "c"]), "a, b and c"),
        (show.listed([]), "none"),
        (show.p_value(0.00001), "< 0.0001"),
        (show.p_value(0.0123), "0.012"),
    ],
)
def test_how_numbers_are_written(text, expected):
    assert text == expected


def test_an_interval_is_three_columns():
    found = clustered_interval([0.1, 0.3, 0.2, 0.4], [0, 0, 1, 1])
    assert found.columns("gain") == {
        "gain": found.estimate,
        "gain_low": found.low,
        "gain_high": found.high,
    }
    assert show.interval(found, 2).startswith("+0.25 [")


def test_a_table_folds_intervals_and_escapes_text(shown):
    frame = pd.DataFrame(
        {
            "title": ["<script>alert(1)</script></table>", "x" * 10_000],
            "gain": [0.01, 0.02],
            "gain_low": [0.0, np.nan],
            "gain_high": [0.02, np.nan],
            "vectors": [80634, 5],
            "seed": [1000, 2],
            "share": [0.5, np.nan],
            "done": [True, False],
            "link": ['<a href="x.html">x</a>', None],
        }
    )
    show.table(frame, "A & B", percent=("share",), html=("link",), labels={"gain": "g"})
    page = BeautifulSoup(shown[0].data, "html.parser")
    assert page.caption.text == "A & B"
    assert not page.script
    heads = [th.text for th in page.thead.find_all("th")]
    assert heads == ["title", "g", "vectors", "seed", "share", "done", "link"]
    first, second = page.tbody.find_all("tr")
    assert first.th.text.startswith("<script>")
    assert 300 <= len(second.th.text) < 400
    cells = [td.text for td in first.find_all("td")]
    assert cells == [
        "+0.0100 [+0.0000, +0.0200]",
        "80,634",
        "1000",
        "50.00%",
        "yes",
        "x",
    ]
    assert first.a["href"] == "x.html"
    assert [td.text for td in second.find_all("td")][3:] == ["—", "no", "—"]


def test_cells_are_counted_in_their_order():
    runs = pd.DataFrame({"entry": ["b", "a", "b"], "size": [5000, 20, 5000]})
    assert show.cells(runs) == "3 runs of b and a"


def test_a_rank_is_a_range_a_place_or_nothing():
    assert show.places([1, 2, np.nan], [3, 2, np.nan]) == ["1–3", "2", ""]


HOSTILE = (
    "</main></div><script>alert(1)</script> <img src=x onerror=alert(2)> # *no* `code` "
    "[link](javascript:alert(3)) http://evil.com/x_y www.evil.com a@evil.com $x^$ $y$ "
    "&lt; ~~gone~~ | a | \\( z \\) 1. 2 -- !"
)


def test_text_of_others_is_shown_as_it_is():
    output = new_output(
        "display_data", {"text/markdown": f"They say: “{show.quoted(HOSTILE)}”"}
    )
    cells = [new_code_cell("1", outputs=[output]), new_markdown_cell("After it.")]
    page, _ = ReportExporter().from_notebook_node(
        new_notebook(cells=cells, metadata={"language_info": {"name": "python"}})
    )
    page = BeautifulSoup(page, "html.parser")
    (told,) = (p for p in page.main.find_all("p") if "They say" in p.text)
    assert told.text == f"They say: “{HOSTILE}”"
    assert not told.find_all(True)
    assert "After it." in page.main.text


def test_a_table_without_rows_is_not_shown(shown):
    show.table(pd.DataFrame({"a": []}), "nothing")
    assert not shown


def test_a_model_has_one_colour_in_every_figure():
    assert len({plots.colour(name) for name in ARCHITECTURES}) == len(ARCHITECTURES)
    assert plots.colour("gru-half-rate") == plots.colour("gru")
    assert plots.marker("gru-half-rate") == plots.marker("gru")
    others = ("resnet", "mamba", "mlp", "rnn", "my-own", "my-other")
    assert len({plots.colour(name) for name in others}) == len(others)
