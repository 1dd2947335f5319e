"""From a source of text (or of windows) to a dataset folder."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pandas as pd

from lvmlib.corpus.archives import import_npz
from lvmlib.corpus.encoding import (
    DEFAULT_ENCODER,
    check_encoder,
    encode_chunks,
    encoder_name,
    load_encoder,
)
from lvmlib.corpus.sources import SourceError
from lvmlib.corpus.text import MIN_CHUNKS, chunk, read_articles
from lvmlib.corpus.writing import write_dataset
from lvmlib.names import check_names
from lvmlib.vectors import Dataset, DatasetError, check_whole, open_dataset

# What decides how a source is read, and what is usual.
READING = {
    "chunk_characters": 210,
    "max_documents": 0,
    "unique_chunks": False,
    "title_column": "title",
    "text_column": "text",
}
NAMED = 10  # of the files of a folder that were passed over


def open_or_build(
    source: str = "", output: str = "", encoder: str = DEFAULT_ENCODER, **reading: Any
) -> Dataset:
    """Open a dataset folder, or build one from any other source.

    Parameters
    ----------
    source : str
        A dataset folder (opened and verified), an .npz of windows, or a text source
        (see `text.read_articles`). Empty: the bundled sample.
    output : str
        Folder of the dataset to build. If it is there already, from the same source
        with the same settings, it is opened instead of built again.
    encoder : str
        See `encoding.load_encoder`.
    chunk_characters : int
        Mean length of a chunk, 210 unless given; see `text.chunk`.
    max_documents : int
        Read at most this many; 0, as usual, is all.
    unique_chunks : bool
        Leave out a chunk that the source had before, letter for letter.
    title_column, text_column : str
        What these two columns of a source are called.

    Raises
    ------
    DatasetError, SourceError, EncoderError
        One sentence each: what was found, what was expected, what to do.
    """
    check_names(reading, READING)
    reading = READING | reading
    check_whole(1, chunk_characters=reading["chunk_characters"])
    check_whole(0, max_documents=reading["max_documents"])
    if not source or (Path(source) / "dataset.json").exists():
        return open_dataset(source)
    if not output:
        raise DatasetError(f"{source} has to be built: name an output folder.")
    if Path(output).exists():
        return _reopen(output, encoder, _asked(source, reading))
    if Path(source).suffix == ".npz":
        licence = "not stated in the file"
        names = {"name": Path(output).name, "encoder": encoder_name(encoder)}
        return import_npz(source, output, licence=licence, **names)
    return build(source, output, encoder, **reading)


def _asked(source: str, reading: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a built dataset beside its encoder, for dataset.json."""
    return {"source": Path(source).name or source} | reading


def _reopen(output: str, encoder: str, asked: dict[str, Any]) -> Dataset:
    """Open what an earlier call built, if it was asked for the same."""
    dataset, built = open_dataset(output), dict(asked)
    made_with = dataset.info.get("encoder")
    if not isinstance(made_with, dict):
        made_with = {"name": made_with}
    if stated := dataset.info.get("built_with"):
        built |= READING | stated  # older versions stated less
    elif asked["source"] not in str(dataset.info.get("source")):
        built["source"] = dataset.info.get("source")
    if Path(encoder).is_dir():  # whose name tells too little
        check_encoder(made_with, load_encoder(encoder), Path(output))
    else:
        asked["encoder"], built["encoder"] = encoder, made_with.get("name")
    for key, value in asked.items():
        if value != built[key]:
            raise DatasetError(
                f"{output} was built with {key} {built[key]!r}, not {value!r}: "
                "choose another output folder."
            )
    return dataset


def build(
    source: str,
    output: str,
    encoder: str = DEFAULT_ENCODER,
    info: dict[str, Any] | None = None,
    keep_text: bool = True,
    **reading: Any,
) -> Dataset:
    """Read articles, chunk them, encode the chunks and write a dataset folder.

    Articles with fewer than 6 chunks are dropped and counted. Encoded shards are kept
    beside `output` until it is complete, so that a kill costs one shard.

    Parameters
    ----------
    info : dict, optional
        Entries for dataset.json, such as name, source and licence.
    keep_text : bool
        Keep the chunks beside the vectors, as chunks.jsonl.gz.
    reading
        chunk_characters, max_documents, unique_chunks, title_column and text_column,
        as of `open_or_build`.
    """
    if Path(output).exists():
        raise DatasetError(f"{output} exists already: choose another output folder.")
    reading = READING | reading
    documents, chunks, counts, passed_over = _read(source, **reading)
    model = load_encoder(encoder)
    shards = Path(output).with_name(Path(output).name + ".shards")
    vectors = encode_chunks(chunks, model, shards)
    described = {
        "name": Path(output).name,
        "source": Path(source).name if Path(source).exists() else source,
        "licence": "that of the source",
        "encoder": model.info,
        "chunking": {
            "unit": "whole sentences packed within a paragraph",
            "mean_characters_wanted": reading["chunk_characters"],
            "mean_characters": round(sum(map(len, chunks)) / len(chunks), 1),
            "min_chunks_per_document": MIN_CHUNKS,
            **counts,
            "chunks_truncated": vectors.truncated,
        },
        "built_with": _asked(source, reading),
    }
    if passed_over:
        named = {"count": len(passed_over), "names": passed_over[:NAMED]}
        described["files_passed_over"] = named
    info = described | (info or {})
    texts = chunks if keep_text else None
    dataset = write_dataset(output, vectors, documents, info, chunks=texts)
    shutil.rmtree(shards, ignore_errors=True)
    return dataset


def _read(
    source: str,
    chunk_characters: int,
    max_documents: int,
    unique_chunks: bool,
    **columns: str,
) -> tuple[pd.DataFrame, list[str], Counter, list[str]]:
    """Return documents with their row ranges, chunks, what was cut, files not read."""
    rows, chunks, seen, passed_over = [], [], set(), []
    counts = Counter(documents_dropped=0, sentences_split=0)
    articles = read_articles(source, max_documents, **columns, passed_over=passed_over)
    for article in articles:
        pieces = chunk(article.paragraphs, chunk_characters, counts)
        if unique_chunks:
            new = [c for c in dict.fromkeys(pieces) if c not in seen]
            seen.update(new)
            counts["chunks_repeated"] += len(pieces) - len(new)
            pieces = new
        if len(pieces) < MIN_CHUNKS:
            counts["documents_dropped"] += 1
            continue
        start = len(chunks)
        chunks.extend(pieces)
        rows.append((article.document_id, article.title, start, len(chunks)))
    if len(rows) < 2:
        raise SourceError(
            f"{source} has {len(rows)} document(s) of at least {MIN_CHUNKS} chunks "
            f"({counts['documents_dropped']} shorter ones were dropped; passed over: "
            f"{', '.join(passed_over[:NAMED]) or 'no file'}); a dataset needs two."
        )
    documents = pd.DataFrame(rows, columns=["document_id", "title", "start", "stop"])
    for same in documents["document_id"][documents["document_id"].duplicated()]:
        raise SourceError(  # now, and not after hours of encoding
            f"{source} has more than one document with the id {same!r}: leave out or "
            "rename one of them."
        )
    return documents, chunks, counts, passed_over
