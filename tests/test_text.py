from __future__ import annotations

from collections import Counter

import pytest
import sentencex
from hypothesis import given
from hypothesis import strategies as st

from lvmlib.corpus.text import chunk, read_articles, split_sentence

LONG = (
    "This line is a sentence that is long enough to be told from a heading of any kind"
)


def paragraphs_of(text, tmp_path):
    (tmp_path / "a.txt").write_text(text)
    return list(next(read_articles(tmp_path / "a.txt")).paragraphs)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (f"{LONG}; {LONG}.\nShort.\n\n\nEnd.", [f"{LONG}; {LONG}.", "Short.", "End."]),
        (f"History\n{LONG}; {LONG}:\nItem one", [f"{LONG}; {LONG}:"]),
        ("Head\n\nWhy? “So\nthat it\nends.”\n\nSee also", ["Why? “So that it ends.”"]),
        ("One line.\n\n(Another.)\n\nAnd so", ["One line.", "(Another.)"]),
        ("  Tabs\tand\u00a0wide   spaces.  \r\n", ["Tabs and wide spaces."]),
    ],
)  # fmt: skip
def test_paragraphs_of_plain_text(text, expected, tmp_path):
    assert paragraphs_of(text, tmp_path) == expected


def sentences(*lengths):
    return [f"A{'b' * (length - 2)}." for length in lengths]


def test_chunk_closes_at_150_characters():
    a, b, c, d = sentences(100, 49, 60, 149)
    assert chunk([" ".join([a, b, c, d])]) == [f"{a} {b}", f"{c} {d}"]
    a, b, c = sentences(100, 48, 60)  # 149 characters with the space: not yet closed
    assert chunk([" ".join([a, b, c])]) == [f"{a} {b} {c}"]


def test_chunk_never_joins_beyond_420_characters_but_keeps_a_long_sentence_whole():
    a, b, c = sentences(100, 319, 50)
    assert chunk([" ".join([a, b, c])]) == [f"{a} {b}", c]
    a, b, c = sentences(100, 320, 50)
    assert chunk([" ".join([a, b, c])]) == [a, b, c]
    a, b, c = sentences(100, 840, 50)
    assert chunk([" ".join([a, b, c])]) == [a, b, c]


@pytest.mark.parametrize(
    ("unit", "count"),
    [("many words and then a clause, ", 1700), ("word ", 10_000), ("x", 5000)],
    ids=["clauses", "words", "characters"],
)
def test_what_ends_no_sentence_is_split_near_the_chunk_size(unit, count):
    text, counts = (unit * count).strip(), Counter()
    chunks = chunk(["Before it.", f"{text}.", "After it."], counts=counts)
    assert (chunks[0], chunks[-1]) == ("Before it.", "After it.")
    assert counts == {"sentences_split": 1}
    inner = chunks[1:-1]
    assert max(map(len, inner)) <= 420
    assert min(map(len, inner[:-1])) >= 150
    glue = " " if " " in unit else ""
    assert glue.join(inner) == f"{text}."
    if "," in unit:
        assert all(text.endswith(",") for text in inner[:-1])


def test_chunk_scales_with_characters():
    a, b, c = sentences(30, 30, 30)
    assert chunk([" ".join([a, b, c])], characters=42) == [a, b, c]
    assert chunk([" ".join([a, b, c])], characters=50) == [f"{a} {b}", c]


def test_chunk_drops_what_has_no_letter_and_keeps_paragraphs_apart():
    assert chunk(["(1990).", "Yes.", "", "…", "No."]) == ["Yes.", "No."]
    assert chunk([]) == []


def test_abbreviations_and_quotations_end_no_sentence():
    text = "Dr. J. R. Smith of the U.S. Navy, i.e. he, said: “No. I will not.”"
    assert chunk([f"{text} {LONG}."], characters=70) == [text, f"{LONG}."]


# Pieces that are hard on a sentence splitter, and text of any kind.
PIECES = [
    "Dr.",
    "U.S.",
    "word",
    "Word",
    "end.",
    "End!",
    "why?",
    "“",
    "”",
    '"',
    "(",
    ")",
]
MIXED = st.lists(
    st.sampled_from([*PIECES, "3.14", "…", "漢字。", "é", "-"]), max_size=60
)
PARAGRAPH = st.one_of(MIXED.map(" ".join), st.text(max_size=200))
SIZES = st.integers(10, 400)


def letters(texts):
    return [character for text in texts for character in text if character.isalpha()]


@given(st.lists(PARAGRAPH, max_size=4), SIZES)
def test_no_letter_is_lost_or_moved(paragraphs, characters):
    assert letters(chunk(paragraphs, characters)) == letters(paragraphs)


@given(st.lists(PARAGRAPH, max_size=4), SIZES)
def test_no_chunk_spans_paragraphs(paragraphs, characters):
    alone = [text for p in paragraphs for text in chunk([p], characters)]
    assert chunk(paragraphs, characters) == alone


@given(PARAGRAPH, SIZES)
def test_sentences_stay_whole_and_only_single_ones_are_too_long(paragraph, characters):
    whole = [
        piece
        for s in sentencex.segment("en", paragraph)
        for piece in (
            split_sentence(s.strip(), characters)
            if len(s.strip()) > 4 * characters
            else [s.strip()]
        )
        if piece
    ]
    left = iter(whole)
    for text in chunk([paragraph], characters):
        joined = next(s for s in left if any(map(str.isalpha, s)) or text.startswith(s))
        while joined != text:
            joined = f"{joined} {next(left)}"
        assert len(text) <= 2 * characters or text in whole
    assert not letters(left)
