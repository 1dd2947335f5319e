"""Every kind of source as rows of id, title and text, one at a time."""

from __future__ import annotations

import bz2
import csv
import html
import json
import re
import sys
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO
from xml.etree.ElementTree import ParseError

import pyarrow as pa
import pyarrow.parquet as pq

from lvmlib.corpus.wikitext import read_dump

KINDS = (
    "a MediaWiki dump (.xml), WikiExtractor output, JSON Lines (.jsonl), .csv, .txt "
    "(each also as .bz2), .parquet, a folder of them, or a Hugging Face dataset "
    "(owner/name or owner/name:config)"
)
HUGGING_FACE = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
DOC = re.compile(r'<doc id="([^"]*)".* title="(.*)">\s*$')

Row = tuple[str, str, str]  # id ("" if there is none), title, text


class SourceError(ValueError):
    """A source of text that cannot be read."""


def read_rows(source: str) -> Iterator[Row]:
    """Yield id, title and text of each document of any source `read_articles` takes.

    Raises
    ------
    SourceError
        Naming the file, what was found, what was expected and what to do.
    """
    path = Path(source)
    if path.is_dir():
        for file in sorted(path.rglob("*")):
            hidden = any(p.startswith(".") for p in file.relative_to(path).parts)
            if file.is_file() and not hidden:
                yield from _read_file(file)
    elif path.exists():
        yield from _read_file(path)
    elif HUGGING_FACE.fullmatch(source) and path.suffix[1:] not in (*_READERS, "bz2"):
        yield from _hugging_face(source)
    else:
        raise SourceError(f"{source} is not there: give {KINDS}.")


def _read_file(path: Path) -> Iterator[Row]:
    try:
        yield from _reader(path)(path)
    except EOFError:
        raise SourceError(
            f"{path} is truncated, it ends before its compressed data does: fetch it "
            "again."
        ) from None
    except ParseError as error:
        raise SourceError(
            f"{path} is no well-formed XML in UTF-8 ({error}), it is truncated or "
            "damaged: fetch it again."
        ) from None
    except (csv.Error, pa.ArrowException, UnicodeDecodeError, OSError) as error:
        raise SourceError(
            f"{path} cannot be read, it is damaged or not what its name says "
            f"({error}): fetch or write it again."
        ) from None


def _reader(path: Path) -> Callable[[Path], Iterator[Row]]:
    """Find the reader by the name or, failing that, by how the file begins."""
    suffix = path.name.lower().removesuffix(".bz2").rpartition(".")[2]
    with _open(path) as file:
        start = file.read(200).lstrip()
    if suffix not in _READERS or suffix == "txt":
        for beginning, kind in _BEGINNINGS.items():
            if start.startswith(beginning):
                return kind
    if suffix not in _READERS and start:
        raise SourceError(f"{path} is of no known kind: give {KINDS}.")
    return _READERS.get(suffix, _text_file)


def _open(path: Path) -> BinaryIO:
    return bz2.open(path) if path.suffix.lower() == ".bz2" else path.open("rb")


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


def _dump(path: Path) -> Iterator[Row]:
    with _open(path) as file:
        yield from read_dump(file)


def _wiki_extractor(path: Path) -> Iterator[Row]:
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


def _json_lines(path: Path) -> Iterator[Row]:
    for number, line in enumerate(_lines(path), start=1):
        try:
            row = json.loads(line) if line.strip() else None
        except json.JSONDecodeError as error:
            row = error
        if isinstance(row, dict):
            yield _row(row, f"{path}, line {number},")
        elif row is not None:
            raise SourceError(
                f"{path}, line {number}: expected a JSON object a line, found "
                f"{line.strip()[:40]!r}; convert the file to JSON Lines."
            )


def _csv(path: Path) -> Iterator[Row]:
    csv.field_size_limit(sys.maxsize)  # the default is shorter than a long article
    reader = csv.DictReader(_lines(path), strict=True)
    for row in reader:
        where = f"{path}, line {reader.line_num},"
        if None in row or None in row.values():
            raise SourceError(
                f"{where} has not the {len(reader.fieldnames)} fields that the header "
                "names: check the quotes before it."
            )
        yield _row(row, where)


def _parquet(path: Path) -> Iterator[Row]:
    # With its default, pre_buffer, pyarrow keeps all of the file it has read so far.
    with pq.ParquetFile(path, pre_buffer=False) as file:
        names = file.schema_arrow.names
        _row(dict.fromkeys(names), str(path))  # only to see that they are there
        wanted = [name for name in ("id", "title", "text") if name in names]
        for batch in file.iter_batches(batch_size=64, columns=wanted):
            for row in batch.to_pylist():
                yield _row(row, str(path))


def _text_file(path: Path) -> Iterator[Row]:
    title = path.name.removesuffix(".bz2").removesuffix(".txt")
    yield "", title, "".join(_lines(path))


def _hugging_face(source: str) -> Iterator[Row]:
    try:
        from datasets import load_dataset  # large, and only this source needs it
    except ImportError:
        raise SourceError(
            f"{source} is not a file here, and reading it from Hugging Face needs "
            "another package: pip install datasets."
        ) from None
    name, _, config = source.partition(":")
    try:
        for row in load_dataset(name, config or None, split="train", streaming=True):
            yield _row(row, source)
    except SourceError:
        raise
    except Exception as error:  # the hub's client passes on errors of many libraries
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SourceError(
            f"{source} is not a file here and cannot be streamed from Hugging Face "
            f"({reason}): check its name, its config and the network."
        ) from error


def _row(row: Mapping[str, Any], where: str) -> Row:
    missing = [name for name in ("title", "text") if name not in row]
    if missing:
        raise SourceError(
            f"{where} has no {' and no '.join(missing)}, only {', '.join(row)}: rename "
            "the columns."
        )
    values = [row.get(name) for name in ("id", "title", "text")]
    if not isinstance(values[2], str | None):
        raise SourceError(
            f"{where} has a text that is {type(values[2]).__name__}, expected a string."
        )
    # JSON can hold half of a surrogate pair, which is no text: it becomes "?".
    document_id, title, text = (
        "" if value is None else str(value).strip().encode(errors="replace").decode()
        for value in values
    )
    return document_id, title, text


_READERS = {
    "xml": _dump,
    "jsonl": _json_lines,
    "json": _json_lines,
    "csv": _csv,
    "parquet": _parquet,
    "txt": _text_file,
}
# WikiExtractor names its files wiki_00, Wikimedia its dumps …xml-p1p41242.bz2.
_BEGINNINGS = {b"<doc ": _wiki_extractor, b'{"': _json_lines, b"<mediawiki": _dump}
