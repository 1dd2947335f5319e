"""Every kind of source as rows of id, title and text, one at a time."""

from __future__ import annotations

import bz2
import codecs
import csv
import gzip
import html
import io
import json
import re
import sys
import zlib
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
COMPRESSED = (".bz2", ".gz", ".zst")
MAX_RATIO = 200  # text inflates to ten times its size or so, a bomb to a thousand
PIECE = 2**20  # bytes of a JSON array read at a time
# Before an element of a JSON array, the first or another one.
OPENING, COMMA = (re.compile(rf"\s*{c}\s*(?=[^\s\]])") for c in (r"\[", ","))
HUGGING_FACE = re.compile(r"[\w.-]+/[\w.-]+(:[\w.-]+)?")
DOC = re.compile(r'<doc id="([^"]*)".* title="(.*)">\s*$')

Row = tuple[str, str, str]  # id ("" if there is none), title, text


class SourceError(ValueError):
    """A source of text that cannot be read."""


class _NoColumns(SourceError):
    """Of a file without documents, which is passed over in a folder that has some."""


def read_rows(
    source: str, title_column: str = "title", text_column: str = "text"
) -> Iterator[Row]:
    """Yield id, title and text of each document of any source `read_articles` takes.

    Raises
    ------
    SourceError
        Naming the file, what was found, what was expected and what to do.
    """
    path, columns = Path(source), {"title": title_column, "text": text_column}
    if path.is_dir():
        for file in _files_to_read(path, columns):
            yield from _read_file(file, columns)
    elif path.exists():
        yield from _read_file(path, columns)
    elif HUGGING_FACE.fullmatch(source) and not _is_name_of_file(path):
        yield from _hugging_face(source, columns)
    else:
        raise SourceError(f"{source} is not there: give {KINDS}.")


def unread_files(
    source: str, title_column: str = "title", text_column: str = "text"
) -> list[str]:
    """Return the files of a folder that `read_rows` passes over.

    They are of no known kind, or have not these columns where other files can be read.
    """
    folder, columns = Path(source), {"title": title_column, "text": text_column}
    files = _files(folder) if folder.is_dir() else []
    unread = set(files) - set(_files_to_read(folder, columns))
    return [str(f.relative_to(folder)) for f in files if f in unread]


def _files_to_read(folder: Path, columns: dict[str, str]) -> list[Path]:
    known = [file for file in _files(folder) if _reader(file)]
    # If none has the columns, all: reading the first one tells which it lacks.
    return [file for file in known if _has_columns(file, columns)] or known


def _has_columns(path: Path, columns: dict[str, str]) -> bool:
    """Return whether a file begins with a document, or is of a kind without columns."""
    try:
        return _reader(path) not in _WITH_COLUMNS or any(_read_file(path, columns))
    except _NoColumns:
        return False
    except SourceError:
        return True  # reading it tells what is wrong


def _files(folder: Path) -> list[Path]:
    """Return a folder's files, hidden ones aside, in the order of their paths."""
    return [
        file
        for file in sorted(folder.rglob("*"))
        if file.is_file()
        and not any(p.startswith(".") for p in file.relative_to(folder).parts)
    ]


def _is_name_of_file(path: Path) -> bool:
    return path.suffix[1:] in _READERS or path.suffix in COMPRESSED


def _read_file(path: Path, columns: dict[str, str]) -> Iterator[Row]:
    reader = _reader(path)
    if not reader:
        raise SourceError(f"{path} is of no known kind: give {KINDS}.")
    named = {"columns": columns} if reader in _WITH_COLUMNS else {}
    try:
        yield from reader(path, **named)
    except EOFError:
        raise SourceError(
            f"{path} is truncated, it ends before its compressed data does: fetch it "
            "again."
        ) from None
    except ParseError as error:
        raise SourceError(
            f"{path} is no well-formed XML in UTF-8 ({one_line(error)}), it is "
            "truncated or damaged: fetch it again."
        ) from None
    except DAMAGE as error:
        raise SourceError(
            f"{path} cannot be read, it is damaged or not what its name says "
            f"({one_line(error)}): fetch or write it again."
        ) from None


def _reader(path: Path) -> Callable[..., Iterator[Row]] | None:
    """Find the reader by the name or by how the file begins; None: no known kind."""
    try:
        with _open(path) as file:
            start = file.read(200).removeprefix(b"\xef\xbb\xbf").lstrip()
    except (EOFError, *DAMAGE):
        start = b""  # reading it tells what is wrong
    suffix = _bare(path).rpartition(".")[2].lower()
    if suffix == "json" and start.startswith(b"["):
        return _json_array
    if suffix not in _READERS or suffix == "txt":
        for beginning, kind in _BEGINNINGS.items():
            if start.startswith(beginning):
                return kind
    empty = _text_file if not start else None
    return _READERS.get(suffix, empty)


def _bare(path: Path) -> str:
    """Return a file's name without the suffix of its compression."""
    packed = path.suffix.lower() in COMPRESSED
    return path.name.removesuffix(path.suffix) if packed else path.name


def _check_inflation(path: Path, size: int) -> None:
    """Raise SourceError if `size` bytes are more than a file of text inflates to."""
    if size > MAX_RATIO * path.stat().st_size + PIECE:
        raise SourceError(
            f"{path} inflates to more than {MAX_RATIO} times its size, which no text "
            "does: it may be a bomb, so it was not read on; unpack it yourself if you "
            "trust it, Parquet into JSON Lines."
        )


class _Limited(io.RawIOBase):
    """Reads a compressed file until that has inflated more than text does."""

    def __init__(self, file: BinaryIO, path: Path):
        self.file, self.path, self.read_so_far = file, path, 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        data = self.file.read(len(buffer))
        self.read_so_far += len(data)
        _check_inflation(self.path, self.read_so_far)
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self.file.close()
        super().close()


def _open(path: Path) -> BinaryIO:
    suffix = path.suffix.lower()
    if suffix not in COMPRESSED:
        return path.open("rb")
    unpack = {".bz2": bz2.open, ".gz": gzip.open, ".zst": _open_zstandard}[suffix]
    return io.BufferedReader(_Limited(unpack(path), path), PIECE)


def _open_zstandard(path: Path) -> BinaryIO:
    return pa.input_stream(path, compression="zstd")


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
    return (SourceError if damaged else _NoColumns)(
        f"{where}: expected a JSON object, found {found.strip()[:40]!r}{why}; write "
        "the documents as JSON Lines, an object a line, or as one array of objects."
    )


def _text_pieces(path: Path) -> Iterator[str]:
    """Yield a file's text a megabyte at a time; an error names the byte."""
    decoder, offset = codecs.getincrementaldecoder("utf-8-sig")(), 0
    with _open(path) as file:
        while data := file.read(PIECE):
            yield decoder.decode(data)
            offset += len(data)
    decoder.decode(b"", final=True)


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
        groups = map(file.metadata.row_group, range(file.metadata.num_row_groups))
        _check_inflation(path, sum(group.total_byte_size for group in groups))
        # One at a time: a value that the file holds once may stand in every row.
        read_so_far = 0
        for batch in file.iter_batches(batch_size=1, columns=wanted):
            read_so_far += batch.nbytes
            _check_inflation(path, read_so_far)
            for row in batch.to_pylist():
                yield _row(row, str(path), columns)


def _text_file(path: Path) -> Iterator[Row]:
    yield "", _bare(path).removesuffix(".txt"), "".join(_lines(path))


def _markdown(path: Path) -> Iterator[Row]:
    """Read the paragraphs and list items of Markdown, without code and tables."""
    page = BeautifulSoup(mistune.html("".join(_lines(path))), "html.parser")
    for dropped in page.find_all(["pre", "table", "script", "style"]):
        dropped.decompose()
    blocks = [b for b in page.find_all(["p", "li"]) if not b.find(["p", "li"])]
    text = "\n".join(" ".join(block.get_text().split()) for block in blocks)
    yield "", _bare(path).removesuffix(".md"), text


def _hugging_face(source: str, columns: dict[str, str]) -> Iterator[Row]:
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
            yield _row(row, source, columns)
    except SourceError:
        raise
    except Exception as error:  # the hub's client passes on errors of many libraries
        raise SourceError(
            f"{source} is not a file here and cannot be streamed from Hugging Face "
            f"({one_line(error)}): check its name, its config and the network."
        ) from error


def _row(row: Mapping[str, Any], where: str, columns: dict[str, str]) -> Row:
    _check_columns(row, where, columns)
    values = [row.get("id"), row[columns["title"]], row[columns["text"]]]
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


def _check_columns(names: Collection[str], where: str, columns: dict[str, str]) -> None:
    missing = [name for name in columns.values() if name not in names]
    if missing:
        raise _NoColumns(
            f"{where} has no {' and no '.join(missing)}, only "
            f"{', '.join(names) or 'nothing'}: rename the columns, or name them by "
            "title_column and text_column."
        )


UNREADABLE = (ValueError, RecursionError)  # no JSON, or digits or depth without end
DAMAGE = (csv.Error, pa.ArrowException, UnicodeDecodeError, zlib.error, OSError)
DAMAGE += (RecursionError,)
_READERS = {
    "xml": _dump,
    "jsonl": _json_lines,
    "json": _json_lines,
    "csv": _csv,
    "parquet": _parquet,
    "txt": _text_file,
    "md": _markdown,
}
_WITH_COLUMNS = (_json_lines, _json_array, _csv, _parquet)
# WikiExtractor names its files wiki_00, Wikimedia its dumps …xml-p1p41242.bz2.
_BEGINNINGS = {b"<doc ": _wiki_extractor, b'{"': _json_lines, b"<mediawiki": _dump}
