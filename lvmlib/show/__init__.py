"""How a notebook shows what it found: a sentence, a table, a figure, a number.

Nothing here says anything about a result: the words are the notebook's.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable, Mapping
from html import escape

import numpy as np
import pandas as pd
from IPython.display import HTML, Markdown, display
from matplotlib import pyplot as plt
from matplotlib.figure import Figure

from lvmlib.statistics import Interval

NONE = "—"
LONGEST = 300  # characters of a cell; a title may be as long as a page
NUMBERED = ("seed", "epoch", "year")  # whole numbers that are names, not amounts


def say(*paragraphs: str) -> None:
    """Display Markdown."""
    display(Markdown("\n\n".join(paragraphs)))


def quoted(text: str) -> str:
    """Return other people's text as Markdown and HTML that show it as it is."""
    plain = escape(" ".join(text.split()), quote=False)
    # As character references, no mark of Markdown means anything, nor does an address.
    return re.sub(r"[\\`*_{}\[\]()#+\-.:!|~$]", lambda m: f"&#{ord(m[0])};", plain)


def figure(drawing: Figure, alt: str) -> None:
    """Display a figure with its text alternative, and close it."""
    display(drawing, metadata={"image/png": {"alt": " ".join(alt.split())}})
    plt.close(drawing)


def number(value: float, digits: int = 4, signed: bool = False) -> str:
    """Return a number with a true minus, none on what rounds to zero; NaN: a dash."""
    if pd.isna(value):
        return NONE
    return f"{value:{'+' if signed else ''}z,.{digits}f}".replace("-", "−")


def signed(value: float, digits: int = 4) -> str:
    """Return a number with its sign."""
    return number(value, digits, signed=True)


def interval(
    found: Interval | tuple[float, float, float], digits: int = 4, signed: bool = True
) -> str:
    """Return text such as "+0.012 [−0.004, +0.028]"; unsigned for a plain score.

    An end that rounds to zero keeps its minus ("−0.000"): whether zero is inside shows.
    """
    if isinstance(found, Interval):
        found = (found.estimate, found.low, found.high)
    if pd.isna(found[1]):
        return number(found[0], digits, signed)
    sign = "+" if signed else ""
    low, high = (f"{end:{sign}.{digits}f}".replace("-", "−") for end in found[1:])
    return f"{number(found[0], digits, signed)} [{low}, {high}]"


def cells(runs: pd.DataFrame) -> str:
    """Return how many runs there are, and of which entries: "3 runs of amn and gru"."""
    return f"{counted(len(runs), 'run')} of {listed(runs['entry'].unique())}"


def places(best: Iterable[float], worst: Iterable[float]) -> list[str]:
    """Return ranges of ranks, such as "1–3" or "2"; "" for one that is missing."""
    pairs = zip(best, worst, strict=True)
    return ["" if a != a else f"{a:.0f}" + f"–{b:.0f}" * (a < b) for a, b in pairs]


def span(values: Iterable[float], digits: int = 3, signed: bool = True) -> str:
    """Return the least and the largest value, or the one that both are."""
    values = list(values)
    ends = (number(end, digits, signed) for end in (min(values), max(values)))
    return " to ".join(dict.fromkeys(ends))


def counted(count: int, noun: str) -> str:
    """Return text such as "1 seed" or "3 seeds"."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def listed(words: Iterable[str]) -> str:
    """Join words by commas and "and"; no word is "none"."""
    *most, last = [*map(str, words)] or ["none"]
    return f"{', '.join(most)} and {last}" if most else last


def p_value(value: float) -> str:
    """Return a p-value: two digits, or "< 0.0001"."""
    if pd.isna(value):
        return NONE
    return "< 0.0001" if value < 1e-4 else f"{value:.2g}"


def table(
    frame: pd.DataFrame,
    caption: str,
    *,
    digits: int | Mapping[str, int] = 4,
    signed: Collection[str] = (),
    unsigned: Collection[str] = (),
    percent: Collection[str] = (),
    labels: Mapping[str, str] | None = None,
    html: Collection[str] = (),
) -> None:
    """Display a frame as a table; nothing for a frame without rows.

    Columns x, x_low and x_high become one, "+0.012 [−0.004, +0.028]". The first column
    is the rows' header. Text is escaped and long text shortened.

    Parameters
    ----------
    digits : int or mapping
        Decimals of all numbers that are not whole, or of some columns (others: 4).
    signed, unsigned, percent, html : column names
        Numbers to show with a sign; intervals to show without; shares to show as
        percent; columns that are HTML already.
    labels : mapping
        Headings; others are the column's name with spaces.
    """
    if frame.empty:
        return
    frame = frame.rename(columns=str)
    texts, labels = {}, labels or {}
    places = digits if isinstance(digits, Mapping) else dict.fromkeys(frame, digits)
    for name in frame:
        base = name.removesuffix("_low").removesuffix("_high")
        if base != name and base in frame:
            continue
        places_of = places.get(name, 4)
        if f"{name}_low" in frame and f"{name}_high" in frame:
            ends = frame[[name, f"{name}_low", f"{name}_high"]].astype(float).to_numpy()
            cells = [interval(tuple(x), places_of, name not in unsigned) for x in ends]
        elif name in percent:
            shares = (number(100 * x, max(places_of - 2, 0)) for x in frame[name])
            cells = [share if share == NONE else f"{share}%" for share in shares]
        elif name in html:
            cells = [NONE if pd.isna(x) else str(x) for x in frame[name]]
        else:
            cells = [_text(name, x, places_of, name in signed) for x in frame[name]]
        texts[escape(labels.get(name, name.replace("_", " ")))] = cells
    shown = pd.DataFrame(texts)
    shown = shown.set_index(shown.columns[0])
    shown = shown.rename_axis(index=None, columns=shown.index.name)
    with pd.option_context("display.max_colwidth", None):
        opening, body = shown.to_html(border=0, escape=False).split(">", 1)
    display(HTML(f"{opening}><caption>{escape(caption)}</caption>{body}"))


def _text(name: str, value: object, digits: int, signed: bool) -> str:
    if pd.api.types.is_scalar(value) and pd.isna(value):
        return NONE
    if isinstance(value, bool | np.bool_):
        return "yes" if value else "no"
    if isinstance(value, int | np.integer):
        named = any(word in name for word in NUMBERED)
        return str(value) if named else number(value, 0, signed)
    if isinstance(value, float | np.floating):
        return number(value, digits, signed)
    text = " ".join(str(value).split())
    return escape(text if len(text) <= LONGEST else f"{text[:LONGEST]} …")
