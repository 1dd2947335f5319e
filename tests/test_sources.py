from __future__ import annotations

import bz2
import csv
import gzip
import json
import random
import sys
import tracemalloc
from contextlib import suppress
from pathlib import Path
from types import SimpleNamespace

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lvmlib.corpus import sources
from lvmlib.corpus.sources import SourceError, read_rows
from lvmlib.corpus.text import Article, read_articles

LONG = (
    "is longer than any line of a text whose lines were broken at a margin, as some are"
)
FIRST = (f"The first paragraph of it, with “quotes”, {LONG}.", "Short.")
SECOND = (f"Another article begins here, and its only paragraph {LONG}.",)
EXPECTED = [Article("12", "Ærø & more", FIRST), Article("7", 'A "B", C', SECOND)]
ROWS = [
    {"id": "12", "title": "Ærø & more", "text": "\n\nHistory\n".join(FIRST)},
    {"id": "7", "title": 'A "B", C', "text": f"{SECOND[0]}\n"},
]
SHARED = Path(__file__).parents[2] / "shared/data/wikiextractor"


def json_lines(path, rows=ROWS):
    path.write_text("\n".join(json.dumps(row) for row in rows) + "\n")


def comma_separated(path, rows=ROWS):
    with path.open("w", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, rows[0].keys())
        writer.writeheader()
        writer.writerows(rows)


def parquet(path, rows=ROWS):
    # The columns of wikimedia/wikipedia, in more than one row group.
    rows = [row | {"url": "https://x"} for row in rows]
    plain = {"compression": "none", "use_dictionary": False}
    pq.write_table(pa.Table.from_pylist(rows), path, row_group_size=1, **plain)


def wiki_extractor(path, rows=ROWS):
    blocks = [
        f'<doc id="{row["id"]}" url="https://x?curid=1" title="{row["title"]}">\n'
        f"{row['title']}\n\n{row['text'].rstrip()}\n\n</doc>\n"
        for row in rows
    ]
    path.write_text("".join(blocks))


def json_array(path, rows=ROWS):
    path.write_text(f"\ufeff [ {json.dumps(rows[0])} ,\n" if len(rows) > 1 else "[")
    with path.open("a") as file:
        file.write(",\n".join(map(json.dumps, rows[1:] or rows)) + "]\n")


def unread(source, **columns):
    """Return the files that reading a source passes over."""
    names = []
    list(read_rows(str(source), passed_over=names, **columns))
    return names


def packed(content, suffix):
    """Compress as the suffix says."""
    if suffix == ".zst":
        return bytes(pa.compress(content, codec="zstd", asbytes=True))
    return {".bz2": bz2.compress, ".gz": gzip.compress}[suffix](content)


WRITERS = {
    "a.json": json_array,
    "a.jsonl": json_lines,
    "a.csv": comma_separated,
    "a.parquet": parquet,
    "wiki_00": wiki_extractor,
    "wiki_01": json_lines,  # WikiExtractor --json
    "extract.txt": wiki_extractor,
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_kind_gives_the_same_articles(name, tmp_path):
    WRITERS[name](tmp_path / name)
    assert list(read_articles(tmp_path / name)) == EXPECTED
    assert list(read_articles(str(tmp_path / name), max_documents=1)) == EXPECTED[:1]


@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".zst"])
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "wiki_00", "a.json"])
def test_compressed_files_read_the_same(name, suffix, tmp_path):
    WRITERS[name](tmp_path / name)
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(packed((tmp_path / name).read_bytes(), suffix))
    assert list(read_articles(path)) == EXPECTED


DUMP = "<mediawiki><page><title>T</title><revision><text>{}</text></revision></page>"


@pytest.mark.parametrize("suffix", [".bz2", ".gz", ".zst"])
@pytest.mark.parametrize(
    ("name", "form"),
    [
        ("T.xml", DUMP + "</mediawiki>"),
        ("T.txt", "\ufeff{}"),
        ("T.md", "# Head\n\n{}"),
    ],
)
def test_compressed_dumps_and_texts(name, form, suffix, tmp_path):
    path = tmp_path / f"{name}{suffix}"
    path.write_bytes(packed(form.format(FIRST[0]).encode(), suffix))
    assert list(read_rows(str(path))) == [("", "T", FIRST[0])]


@pytest.mark.parametrize("piece", [1, 2, 3, 50, 400])
def test_a_json_array_is_read_in_pieces_that_end_anywhere(piece, tmp_path, monkeypatch):
    monkeypatch.setattr(sources, "PIECE", piece)
    json_array(tmp_path / "a.json")
    assert list(read_articles(tmp_path / "a.json")) == EXPECTED


@pytest.mark.parametrize("name", ["a.jsonl", "a.json", "a.csv", "a.parquet"])
def test_columns_of_other_names(name, tmp_path):
    rows = [{"id": r["id"], "Head": r["title"], "body": r["text"]} for r in ROWS]
    WRITERS[name](tmp_path / name, rows)
    columns = {"title_column": "Head", "text_column": "body"}
    assert list(read_articles(tmp_path / name, **columns)) == EXPECTED


def test_what_is_no_text_in_a_folder_is_passed_over(tmp_path):
    json_lines(tmp_path / "b.jsonl")
    (tmp_path / "images").mkdir()
    (tmp_path / "images" / "one.png").write_bytes(b"\x89PNG\r\n\x1a\n\0\0")
    (tmp_path / "LICENSE").write_text("Permission is hereby granted.")
    assert list(read_articles(tmp_path)) == EXPECTED
    assert unread(tmp_path) == ["LICENSE", "images/one.png"]
    assert unread(tmp_path / "b.jsonl") == []


NO_DOCUMENTS = {
    "lines.json": '{"name": "lvm"}\n',
    "list.jsonl": "[1, 2]\n",
    "matrix.json": "[[1, 2], [3, 4]]",
    "numbers.csv": "a,b\n1,2\n3,4,5\n",
    "package.json": '{\n  "name": "lvm"\n}\n',
    "records.json": '[{"name": "lvm"}]',
}


@pytest.mark.parametrize("text", ["b.jsonl", "wiki_00"])
def test_tables_without_the_columns_are_passed_over_beside_others(text, tmp_path):
    for name, content in NO_DOCUMENTS.items():
        (tmp_path / name).write_text(content)
        with pytest.raises(
            SourceError, match=rf"{name}.* (has no title|expected a JS)"
        ):
            list(read_articles(tmp_path / name))
    parquet(tmp_path / "table.parquet", [{"a": 1, "b": "2"}])
    names = [*NO_DOCUMENTS, "table.parquet"]
    with pytest.raises(SourceError, match=r"lines.json, line 1, has no title"):
        list(read_articles(tmp_path))
    (json_lines if text == "b.jsonl" else wiki_extractor)(tmp_path / text)
    assert list(read_articles(tmp_path)) == EXPECTED
    assert unread(tmp_path) == names
    other = {"title_column": "a", "text_column": "b"}
    with pytest.raises(SourceError, match=r"numbers.csv, line 3, has not the 2 fields"):
        unread(tmp_path, **other)
    (tmp_path / "numbers.csv").write_text("a,b\n1,2\n")
    assert {*names} - {*unread(tmp_path, **other)} == {"numbers.csv", "table.parquet"}


def test_a_later_record_without_the_columns_is_an_error_in_a_folder_too(tmp_path):
    json_lines(tmp_path / "a.jsonl")
    json_lines(tmp_path / "b.jsonl", [*ROWS, {"title": "A"}])
    with pytest.raises(SourceError, match=r"b.jsonl, line 3, has no text"):
        list(read_articles(tmp_path))


def test_markdown_is_read_without_its_markup(tmp_path):
    (tmp_path / "About it.md").write_text(
        f"# A heading\n\n{FIRST[0].replace('paragraph', '*paragraph*')}\n\n"
        "```\ncode = True\n```\n\n| a | b |\n| - | - |\n| 1 | 2 |\n\n"
        f"- [{SECOND[0]}](https://example.org)\n\n<script>alert(1)</script>\n"
    )
    (article,) = read_articles(tmp_path)
    assert article == Article("1", "About it", (FIRST[0], SECOND[0]))


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
def test_documents_without_an_id_are_numbered(name, tmp_path):
    WRITERS[name](
        tmp_path / name, [{"title": r["title"], "text": r["text"]} for r in ROWS]
    )
    assert [a.document_id for a in read_articles(tmp_path / name)] == ["1", "2"]


def test_folders_are_read_in_the_order_of_their_paths(tmp_path):
    for folder in ("AB", "AA", ".git"):
        (tmp_path / folder).mkdir()
    wiki_extractor(tmp_path / "AB" / "wiki_00", ROWS[1:])
    wiki_extractor(tmp_path / "AA" / "wiki_01", ROWS[:1])
    (tmp_path / ".git" / "HEAD").write_text("neither this")
    (tmp_path / "AA" / ".DS_Store").write_bytes(b"\xff nor that")
    assert list(read_articles(tmp_path)) == EXPECTED


def test_folder_of_text_files_takes_titles_from_their_names(tmp_path):
    (tmp_path / "b.txt").write_text("One sentence.\r\nTwo sentences.")
    (tmp_path / "a story.v2.txt").write_text("\ufeffHeading\n\nA sentence\nwrapped.\n")
    assert list(read_articles(tmp_path)) == [
        Article("1", "a story.v2", ("A sentence wrapped.",)),
        Article("2", "b", ("One sentence. Two sentences.",)),
    ]


@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet", "wiki_00"])
def test_pages_without_text_are_kept_to_be_counted(name, tmp_path):
    empty = {"id": "3", "title": "Empty", "text": ""}
    WRITERS[name](tmp_path / name, [empty, *ROWS])
    assert list(read_articles(tmp_path / name)) == [
        Article("3", "Empty", ()),
        *EXPECTED,
    ]
    WRITERS[name](tmp_path / name, [empty])
    with pytest.raises(SourceError, match="holds no article with text"):
        list(read_articles(tmp_path / name))


def test_null_is_no_text_and_numbers_are_titles(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text('{"id": 0, "title": 1984, "text": null}\n\n')
    assert list(read_rows(str(path))) == [("0", "1984", "")]


def test_half_a_surrogate_pair_becomes_a_question_mark(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_text(r'{"title": "\ud83d", "text": "Half \ud83d, whole \ud83d\ude00."}')
    assert list(read_rows(str(path))) == [("", "?", "Half ?, whole 😀.")]


@pytest.mark.parametrize("name", ["a.csv", "a.parquet"])
def test_long_article(name, tmp_path):
    """Longer than the csv module allows, and repetitive."""
    row, path = {"title": "Long", "text": "A sentence. " * 25_000}, tmp_path / name
    if name == "a.csv":
        comma_separated(path, [row])
    else:
        pq.write_table(pa.Table.from_pylist([row]), path, compression="zstd")
        assert path.stat().st_size < 1000
    assert list(read_rows(str(path))) == [("", "Long", row["text"].strip())]


@pytest.mark.skipif(not SHARED.exists(), reason="../shared is not there")
def test_real_wiki_extractor_output():
    articles = list(read_articles(SHARED))
    assert len(articles) == 141
    anarchism = articles[0]
    assert (anarchism.document_id, anarchism.title) == ("12", "Anarchism")
    assert anarchism.paragraphs[0].startswith("Anarchism is a political philosophy")


ENDLESS = {
    '{"a": ' * 200_000: "objects",
    '{"a": ' + "[" * 200_000: "arrays",
    f'{{"id": {"9" * 5000}, "title": "A", "text": "B."}}': "digits",
}


class TestBadInput:
    def fails(self, source, message):
        with pytest.raises(SourceError, match=message) as error:
            list(read_articles(source))
        assert str(source) in str(error.value)
        assert "\n" not in str(error.value)

    @pytest.mark.parametrize(
        ("name", "start"),
        [
            ("a.jsonl", '{"title": "Ä", "text": "b"}\n{"title": "'),
            ("a.jsonl.bz2", '{"title": "Ä", "text": "b"}\n{"title": "'),
            ("a.csv", "title,text\nÄ,b\nc,"),
            ("a.txt", "Ä sentence.\n"),
            ("wiki_00", '<doc id="1" url="" title="Ä">\n'),
        ],
    )
    def test_invalid_utf8_names_file_and_offset(self, name, start, tmp_path):
        content = start.encode() + b"caf\xe9 is Latin-1"
        packed = bz2.compress(content) if name.endswith("bz2") else content
        (tmp_path / name).write_bytes(packed)
        offset = len(start.encode()) + 3
        self.fails(tmp_path / name, f"not UTF-8: byte 0xe9 at offset {offset} ")

    def test_truncated_bz2(self, tmp_path):
        json_lines(tmp_path / "a.jsonl")
        packed = bz2.compress((tmp_path / "a.jsonl").read_bytes())
        (tmp_path / "a.jsonl.bz2").write_bytes(packed[:-20])
        self.fails(tmp_path / "a.jsonl.bz2", "is truncated")

    def test_not_bz2_at_all(self, tmp_path):
        (tmp_path / "a.xml.bz2").write_bytes(b"<html>not found</html>")
        self.fails(tmp_path / "a.xml.bz2", "damaged or not what its name says")

    @pytest.mark.parametrize(
        "xml", ["", "<mediawiki><page><title>A", "<a></b>", "<mediawiki>caf\udce9"]
    )
    def test_broken_xml(self, xml, tmp_path):
        path = tmp_path / "a.xml"
        path.write_bytes(xml.encode(errors="surrogateescape"))
        self.fails(path, r"truncated, not in UTF-8, damaged .*\(.*line 1, column \d+\)")

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.txt", "wiki_00"])
    def test_empty_file(self, name, tmp_path):
        (tmp_path / name).touch()
        self.fails(tmp_path / name, "holds no article with text")

    def test_empty_folder(self, tmp_path):
        self.fails(tmp_path, "holds no article with text")

    def test_other_xml(self, tmp_path):
        (tmp_path / "a.xml").write_text("<feed><entry>Text.</entry></feed>")
        self.fails(tmp_path / "a.xml", "holds no article with text")

    @pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.parquet"])
    def test_missing_columns(self, name, tmp_path):
        WRITERS[name](tmp_path / name, [{"headline": "A", "text": "B."}])
        self.fails(tmp_path / name, "has no title, only headline, text.*: rename")

    def test_text_that_is_no_string(self, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"title": "A", "text": ["B."]}\n')
        self.fails(
            tmp_path / "a.jsonl", "line 1, has a text that is list, expected a str"
        )

    @pytest.mark.parametrize(
        "line",
        ['[{"title": 1}]', '{"title": "A", "te', "text", *ENDLESS],
        ids=["list", "cut", "text", *ENDLESS.values()],
    )
    def test_broken_json_lines(self, line, tmp_path):
        (tmp_path / "a.jsonl").write_text('{"title": "A", "text": "B."}\n' + line)
        self.fails(tmp_path / "a.jsonl", "line 2: expected a JSON object, found '.*'")

    @pytest.mark.parametrize("line", ENDLESS, ids=ENDLESS.values())
    @pytest.mark.parametrize("before", ["", '{"title": "A", "text": "B."},'])
    def test_json_array_without_end(self, line, before, tmp_path):
        (tmp_path / "a.json").write_text(f"[{before}{line}]")
        number = 2 if before else 1
        self.fails(tmp_path / "a.json", f"element {number}: expected a JSON object, fo")

    def test_values_nested_almost_too_deep(self, tmp_path):
        """What can be parsed can be too deep to be made a title."""
        for depth in range(sys.getrecursionlimit() - 300, sys.getrecursionlimit()):
            value = "[" * depth + "]" * depth
            (tmp_path / "a.jsonl").write_text(f'{{"title": {value}, "text": "B."}}')
            with suppress(SourceError):
                list(read_articles(tmp_path / "a.jsonl"))

    def test_broken_csv(self, tmp_path):
        path = tmp_path / "a.csv"
        path.write_text('title,text\nA,"never closed\n')
        self.fails(path, "unexpected end of data")
        path.write_text("title,text\nA,B.\nA,unquoted, comma\n")
        self.fails(path, "line 3, has not the 2 fields that the header names")

    def test_truncated_parquet(self, tmp_path):
        path = tmp_path / "a.parquet"
        parquet(path)
        path.write_bytes(path.read_bytes()[:-100])
        self.fails(path, "damaged or not what its name says")

    def test_parquet_with_invalid_utf8(self, tmp_path):
        path = tmp_path / "a.parquet"
        bad = pa.array([b"caf\xe9"]).view(pa.string())
        pq.write_table(pa.table({"title": bad, "text": bad}), path)
        self.fails(path, "can't decode byte 0xe9 in position 3")

    def test_wiki_extractor_cut_within_a_document(self, tmp_path):
        wiki_extractor(tmp_path / "wiki_00")
        text = (tmp_path / "wiki_00").read_text()
        (tmp_path / "wiki_00").write_text(text[:-20])
        self.fails(tmp_path / "wiki_00", "document 7 .* is not closed by </doc>")
        (tmp_path / "wiki_00").write_text(text.replace("</doc>", "", 1))
        self.fails(tmp_path / "wiki_00", "document 12 .* is not closed by </doc>")
        (tmp_path / "wiki_00").write_text(text + "\nleft over")
        self.fails(tmp_path / "wiki_00", "line 17: text outside of <doc …>")

    def test_unknown_kind(self, tmp_path):
        (tmp_path / "a.pdf").write_bytes(b"%PDF-1.7")
        self.fails(tmp_path / "a.pdf", "is of no known kind: give a MediaWiki dump")

    @pytest.mark.parametrize("suffix", [".bz2", ".gz", ".zst"])
    def test_a_bomb_is_not_read_on(self, suffix, tmp_path):
        row = json.dumps({"title": "A", "text": "B."}) + "\n"
        content = row.encode() + bytes(50 * 2**20)
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(packed(content, suffix))
        self.fails(path, "inflates to more than 200 times its size")

    @pytest.mark.parametrize("once", [True, False])
    def test_a_bomb_in_parquet_is_not_inflated(self, once, tmp_path):
        path, pool = (
            tmp_path / "a.parquet",
            pa.proxy_memory_pool(pa.system_memory_pool()),
        )
        text, rows = pa.array(["A sentence. " * 25_000]), pa.array([0] * 64)
        column = pa.DictionaryArray.from_arrays(rows, text)
        table = pa.table({"title": column, "text": column})
        pq.write_table(table, path, compression="zstd", use_dictionary=once)
        before = pa.default_memory_pool()
        pa.set_memory_pool(pool)
        try:
            self.fails(path, "inflates to more than 200 times its size")
        finally:
            pa.set_memory_pool(before)
        assert pool.max_memory() < 4 * 2**20 < 64 * 12 * 25_000

    @pytest.mark.parametrize("suffix", [".gz", ".zst"])
    def test_truncated_or_not_compressed_at_all(self, suffix, tmp_path):
        json_lines(tmp_path / "a.jsonl")
        whole = packed((tmp_path / "a.jsonl").read_bytes(), suffix)
        path = tmp_path / f"a.jsonl{suffix}"
        path.write_bytes(whole[:-20])
        self.fails(path, "truncated|damaged")
        path.write_bytes(b"<html>not found</html>")
        self.fails(path, "damaged or not what its name says")

    @pytest.mark.parametrize(
        ("text", "found"),
        [
            ('[{"title": "A", "text": "B."}', "truncated or damaged after element 1"),
            ('[{"title": "A", "text": "B."} {}]', "damaged after element 1"),
            ('[{"title": "A", "text": "B."}, 1]', "element 2: expected a JSON object"),
            ('[{"title": "A"}]', "element 1, has no text"),
            ('[[[{"title": "A", "text": "B."}]', "element 1: expected a JSON object"),
            ('[{"title": "A", "text": "B."}, [', "element 2: expected a JSON object"),
            ('[{"title": "A", "text": "B."}] more', "damaged after element 1"),
        ],
    )
    def test_broken_json_array(self, text, found, tmp_path):
        (tmp_path / "a.json").write_text(text)
        self.fails(tmp_path / "a.json", found)

    @pytest.mark.parametrize("source", ["nowhere", "some/where.jsonl", "/no/such/file"])
    def test_missing_source(self, source):
        self.fails(source, "is not there: give a MediaWiki dump")


class TestHuggingFace:
    def test_streams_name_and_config(self, monkeypatch):
        calls = []

        def load_dataset(name, config, **options):
            calls.append((name, config, options))
            return iter(ROWS)

        monkeypatch.setitem(
            sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset)
        )
        assert list(read_articles("wikimedia/wikipedia:20231101.en")) == EXPECTED
        assert list(read_articles("owner/name", 1)) == EXPECTED[:1]
        options = {"split": "train", "streaming": True}
        assert calls == [
            ("wikimedia/wikipedia", "20231101.en", options),
            ("owner/name", None, options),
        ]

    def test_asks_for_the_package_when_it_is_absent(self, monkeypatch):
        monkeypatch.setitem(sys.modules, "datasets", None)
        with pytest.raises(SourceError, match=r"owner/name is not a file.*pip install"):
            list(read_articles("owner/name"))

    def test_names_the_source_when_the_hub_fails(self, monkeypatch):
        def load_dataset(*_, **__):
            raise ConnectionError("Couldn't\nreach the hub")

        monkeypatch.setitem(
            sys.modules, "datasets", SimpleNamespace(load_dataset=load_dataset)
        )
        with pytest.raises(SourceError, match=r"owner/name .*\(Couldn't reach the hub"):
            list(read_articles("owner/name"))


def peak_memory(path):
    """Read a source and return the most bytes that Python and Arrow held meanwhile."""
    tracemalloc.start()
    arrow = max(pa.total_allocated_bytes() for _ in read_articles(path))
    _, python = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return python + arrow


@pytest.mark.parametrize(
    "name", ["a.xml.bz2", "a.jsonl", "a.json", "a.csv", "a.parquet", "wiki_00"]
)
def test_memory_does_not_grow_with_the_source(name, tmp_path):
    text = "\n\n".join(f"Sentence {n} of a paragraph. " * 40 for n in range(8))
    row = {"id": "1", "title": "T", "text": text}
    page = "<page><title>T</title><revision><text>{}</text></revision></page>"
    peaks = []
    for count in (200, 1000) if name == "a.json" else (80, 800):
        path = tmp_path / name
        if name == "a.xml.bz2":  # not the same again and again, which a bomb would be
            draw = random.Random(0)
            texts = [f"{draw.randbytes(200).hex()} {text}" for _ in range(count)]
            xml = f"<mediawiki>{''.join(map(page.format, texts))}</mediawiki>"
            path.write_bytes(bz2.compress(xml.encode()))
        else:
            WRITERS[name](path, [row] * count)
        peaks.append(peak_memory(path))
    assert peaks[1] < 2 * peaks[0]
