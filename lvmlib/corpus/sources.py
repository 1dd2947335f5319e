"""Every kind of source as rows of id, title and text, one at a time."""

from __future__ import annotations

import codecs
import csv
import html
import io
import json
import re
import sys
from collections.abc import Callable, Collection, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

import mistune
import pyarrow as pa
import pyarrow.parquet as pq
from bs4 import BeautifulSoup

from lvmlib.corpus.wikitext import read_dump
from lvmlib.files import one_line

KINDS = (
    "a MediaWiki dump (.xml), WikiExtractor output, JSON Lines (.jsonl), a .json "
    "array, .csv, .txt, .md (each also as .gz, .bz2 or .zst), .parquet, a folder of "
    "them, or a Hugging Face dataset (owner/name or owner/name:config)"
)
COMPRESSED = {".bz2": "bz2", ".gz": "gzip", ".zst": "zstd"}  # as pyarrow calls them
MAX_RATIO = 200  # text inflates to ten times its size or so, a bomb to a thousand
PIECE = 2**20  # bytes of a JSON array read at a time
# Before an element of a JSON array, the first or another one.
OPENING, COMMA = (re.compile(rf"\s*{c}\s*(?=[^\s\]])") for c in (r"\[", ","))
HUGGING_FACE = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
DOC = re.compile(r'<doc id="([^"]*)".* title="(.*)">\s*$')

Row = tuple[str, str, str]  # id ("" if there is none), title, text


class SourceError(ValueError):
    """A source of text that cannot be read."""


class _NoDocuments(SourceError):
    """Of a file without documents, which is passed over in a folder that has some."""


def read_rows(
    source: str,
    title_column: str = "title",
    text_column: str = "text",
    passed_over: list[str] | None = None,
) -> Iterator[Row]:
    """Yield id, title and text of each document of any source `read_articles` takes.

    Raises
    ------
    SourceError
        Naming the file, what was found, what was expected and what to do.
    """
    path, columns = Path(source), {"title": title_column, "text": text_column}
    if path.is_dir():
        yield from _read_folder(
            path, columns, [] if passed_over is None else passed_over
        )
    elif path.exists():
        yield from _read_file(path, columns)
    elif HUGGING_FACE.fullmatch(source) and path.suffix not in COMPRESSED | _READERS:
        yield from _hugging_face(source, columns)
    else:
        raise SourceError(f"{source} is not there: give {KINDS}.")


def _read_folder(
    folder: Path, columns: dict[str, str], passed_over: list[str]
) -> Iterator[Row]:
    """Read a folder's files, hidden ones aside, in the order of their paths.

    Those of no known kind or without documents are added to `passed_over`. If all are,
    the first one of a known kind tells what it lacks.
    """
    lacking, has_documents = None, False
    for file in sorted(folder.rglob("*")):
        name = file.relative_to(folder)
        if not file.is_file() or any(part.startswith(".") for part in name.parts):
            continue
        rows = _read_file(file, columns)
        try:
            first = next(rows, None)
        except _NoDocuments as error:
            passed_over.append(str(name))
            if _reader(file):
                lacking = lacking or error
            continue
        if first:
            has_documents = True
            yield first
            yield from rows
    if lacking and not has_documents:
        raise lacking


def _read_file(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    reader = _reader(path)
    if not reader:
        raise _NoDocuments(f"{path} is of no known kind: give {KINDS}.")
    try:
        yield from reader(path, columns)
    except DAMAGE as error:
        raise SourceError(
            f"{path} is truncated, not in UTF-8, damaged or not what its name says "
            f"({one_line(error)}): fetch it again or write it anew."
        ) from None


def _reader(path: Path) -> Callable[..., Iterator[Row]] | None:
    """Find the reader by the name or by how the file begins; None: no known kind."""
    try:
        with _open(path) as file:
            start = file.read(200).removeprefix(codecs.BOM_UTF8).lstrip()
    except DAMAGE:
        start = b""  # reading it tells what is wrong
    suffix = _bare(path).suffix.lower()
    if suffix == ".json" and start.startswith(b"["):
        return _json_array
    if suffix not in _READERS or suffix == ".txt":
        for beginning, kind in _BEGINNINGS.items():
            if start.startswith(beginning):
                return kind
    return _READERS.get(suffix, None if start else _text_file)


def _bare(path: Path) -> Path:
    """Return a file's path without the suffix of its compression."""
    return path.with_suffix("") if path.suffix.lower() in COMPRESSED else path


def _check_inflation(path: Path, size: int) -> None:
    """Raise SourceError if `size` bytes are more than a file of text inflates to."""
    if size > MAX_RATIO * path.stat().st_size + PIECE:
        raise SourceError(
            f"{path} inflates to more than {MAX_RATIO} times its size, which no text "
            "does: it may be a bomb, so it was not read on; unpack it yourself if you "
            "trust it, Parquet into JSON Lines."
        )


def _open(path: Path) -> BinaryIO:
    """Open a file, unpacked, to be read until it has inflated more than text does."""
    packing, read_so_far = COMPRESSED.get(path.suffix.lower()), 0

    def check(data: pa.Buffer) -> pa.Buffer:
        nonlocal read_so_far
        read_so_far += len(data)
        _check_inflation(path, read_so_far)
        return data

    unpacked = pa.input_stream(path, compression=packing)
    return io.BufferedReader(pa.TransformInputStream(unpacked, check), PIECE)


def _lines(path: Path) -> Iterator[str]:
    offset = 0
    with _open(path) as file:
        for line in file:
            try:
                text = line.decode()
            except UnicodeDecodeError as error:
                raise SourceError(
                    f"{path} is not UTF-8: byte 0x{line[error.start]:02x} at offset "
                    f"{offset + error.start} ({error.reason}); convert the file."
                ) from None
            yield text if offset else text.removeprefix("\ufeff")
            offset += len(line)


def _dump(path: Path, _: dict[str, str]) -> Iterator[Row]:
    with _open(path) as file:
        yield from read_dump(file)


def _wiki_extractor(path: Path, _: dict[str, str]) -> Iterator[Row]:
    head, body = None, []
    for number, line in enumerate(_lines(path), start=1):
        if start := DOC.match(line):
            if head:
                break
            head, body = start, []
        elif head and line.strip() == "</doc>":
            title, text = html.unescape(head[2]), html.unescape("".join(body))
            yield head[1], title, text.lstrip().removeprefix(f"{title}\n")
            head = None
        elif head:
            body.append(line)
        elif line.strip():
            raise SourceError(
                f"{path}, line {number}: text outside of <doc …> and </doc>, the file "
                "is damaged: extract it again."
            )
    if head:
        raise SourceError(
            f"{path}: document {head[1]} ({head[2]}) is not closed by </doc>, the file "
            "is truncated or damaged: extract it again."
        )


def _json_lines(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        where = f"{path}, line {number}"
        try:
            row = json.loads(line) if line.strip() else None
        except UNREADABLE as error:
            raise _no_object(where, line, error) from None
        if isinstance(row, dict):
            yield _row(row, f"{where},", columns)
        elif row is not None:
            raise _no_object(where, line)


def _json_array(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    """Read an array of objects, one at a time: only the object at hand is in memory."""
    decoder, rest, number = json.JSONDecoder(), "", 0
    for piece in _text_pieces(path):
        rest, end = rest + piece, 0
        while before := (COMMA if number else OPENING).match(rest, end):
            where, start = f"{path}, element {number + 1}", before.end()
            if rest[start] != "{":
                raise _no_object(where, rest[start : start + 40])
            try:
                row, end = decoder.raw_decode(rest, start)
            except json.JSONDecodeError:
                break  # it goes on in the next piece
            except UNREADABLE as error:
                raise _no_object(where, rest[start : start + 40], error) from None
            number += 1
            yield _row(row, f"{where},", columns)
        rest = rest[end:].lstrip()
    if "".join(rest.split()).removeprefix("," if number else "[") != "]":
        raise SourceError(
            f"{path} is no JSON array, it is truncated or damaged after element "
            f"{number} (at {rest[:40]!r}): fetch or write it again."
        )


def _no_object(where: str, found: str, error: Exception | None = None) -> SourceError:
    """Say that a line or an element is no JSON object, and whether it is other JSON."""
    # A line "{" begins a file that is one object, a package.json for example.
    damaged = error is not None and found.strip() != "{"
    why = f" ({getattr(error, 'msg', error)})" if error else ""
    return (SourceError if damaged else _NoDocuments)(
        f"{where}: expected a JSON object, found {found.strip()[:40]!r}{why}; write "
        "the documents as JSON Lines, an object a line, or as one array of objects."
    )


def _text_pieces(path: Path) -> Iterator[str]:
    with _open(path) as file:
        pieces = iter(lambda: file.read(PIECE), b"")
        yield from codecs.iterdecode(pieces, "utf-8-sig")


def _csv(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default is shorter than a long article
    reader = csv.DictReader(_lines(path), strict=True)
    if reader.fieldnames is not None:
        _check_columns(reader.fieldnames, f"{path}, line 1,", columns)
    for row in reader:
        where = f"{path}, line {reader.line_num},"
        if None in row or None in row.values():
            raise SourceError(
                f"{where} has not the {len(reader.fieldnames)} fields that the header "
                "names: check the quotes before it."
            )
        yield _row(row, where, columns)


def _parquet(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    # With its default, pre_buffer, pyarrow keeps all of the file it has read so far.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        _check_columns(names, str(path), columns)
        wanted = [name for name in ("id", *columns.values()) if name in names]
        groups = [file.metadata.row_group(n) for n in range(file.num_row_groups)]
        _check_inflation(path, sum(group.total_byte_size for group in groups))
        # One at a time: a value that the file holds once may stand in every row.
        read_so_far = 0
        for batch in file.iter_batches(batch_size=1, columns=wanted):
            read_so_far += batch.nbytes
            _check_inflation(path, read_so_far)
            for row in batch.to_pylist():
                yield _row(row, str(path), columns)


def _text_file(path: Path, _: dict[str, str]) -> Iterator[Row]:
    yield "", _bare(path).stem, "".join(_lines(path))


def _markdown(path: Path, _: dict[str, str]) -> Iterator[Row]:
    """Read the paragraphs and list items of Markdown, without code and tables."""
    page = BeautifulSoup(mistune.html("".join(_lines(path))), "html.parser")
    for dropped in page.find_all(["pre", "table", "script", "style"]):
        dropped.decompose()
    blocks = [b for b in page.find_all(["p", "li"]) if not b.find(["p", "li"])]
    text = "\n".join(" ".join(block.get_text().split()) for block in blocks)
    yield "", _bare(path).stem, text


def _hugging_face(source: str, columns: dict[str, str]) -> Iterator[Row]:
    name, _, config = source.partition(":")
    try:
        from datasets import load_dataset  # large, and only this source needs it

        for row in load_dataset(name, config or None, split="train", streaming=True):
            yield _row(row, source, columns)
    except SourceError:
        raise
    except Exception as error:  # the hub's client passes on errors of many libraries
        raise SourceError(
            f"{source} is not a file here and cannot be streamed from Hugging Face "
            f"({one_line(error)}): check its name, its config and the network, and "
            "that the package is there: pip install datasets."
        ) from error


def _row(row: Mapping[str, Any], where: str, columns: dict[str, str]) -> Row:
    _check_columns(row, where, columns)
    values = [row.get("id"), row[columns["title"]], row[columns["text"]]]
    if not isinstance(values[2], str | None):
        raise SourceError(
            f"{where} has a text that is {type(values[2]).__name__}, expected a string."
        )
    # JSON can hold half of a surrogate pair, which is no text: it becomes "?".
    return tuple(
        "" if value is None else str(value).strip().encode(errors="replace").decode()
        for value in values
    )


def _check_columns(names: Collection[str], where: str, columns: dict[str, str]) -> None:
    missing = [name for name in columns.values() if name not in names]
    if missing:
        raise _NoDocuments(
            f"{where} has no {' and no '.join(missing)}, only "
            f"{', '.join(names) or 'nothing'}: rename the columns, or name them by "
            "title_column and text_column."
        )


UNREADABLE = (ValueError, RecursionError)  # no JSON, or digits or depth without end
DAMAGE = (csv.Error, pa.ArrowException, ParseError, UnicodeDecodeError)
DAMAGE += (OSError, RecursionError)
_READERS = {
    ".xml": _dump,
    ".jsonl": _json_lines,
    ".json": _json_lines,
    ".csv": _csv,
    ".parquet": _parquet,
    ".txt": _text_file,
    ".md": _markdown,
}
# WikiExtractor names its files wiki_00, Wikimedia its dumps …xml-p1p41242.bz2.
_BEGINNINGS = {b"<doc ": _wiki_extractor, b'{"': _json_lines, b"<mediawiki": _dump}
