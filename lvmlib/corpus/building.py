"""From a source of text (or of windows) to a dataset folder."""

from __future__ import annotations

import shutil
from collections import Counter
from collections.abc import Sequence
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
from lvmlib.corpus.sources import SourceError, unread_files
from lvmlib.corpus.text import MIN_CHUNKS, chunk, read_articles
from lvmlib.corpus.writing import write_dataset
from lvmlib.vectors import Dataset, DatasetError, check_whole, open_dataset

COLUMNS = ("title_column", "text_column")
LATER = {"unique_chunks": False, "title_column": "title", "text_column": "text"}
NAMED = 10  # of the files of a folder that were passed over


def open_or_build(
    source: str = "",
    output: str = "",
    encoder: str = DEFAULT_ENCODER,
    chunk_characters: int = 210,
    max_documents: int = 0,
    unique_chunks: bool = False,
    title_column: str = "title",
    text_column: str = "text",
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
    unique_chunks : bool
        Leave out a chunk that the source had before, letter for letter.
    title_column, text_column : str
        What these two columns of a source are called.

    Raises
    ------
    DatasetError, SourceError, EncoderError
        One sentence each: what was found, what was expected, what to do.
    """
    check_whole(1, chunk_characters=chunk_characters)
    check_whole(0, max_documents=max_documents)
    if not source or (Path(source) / "dataset.json").exists():
        return open_dataset(source)
    if not output:
        raise DatasetError(f"{source} has to be built: name an output folder.")
    reading = {"chunk_characters": chunk_characters, "max_documents": max_documents}
    later = {"unique_chunks": unique_chunks, "title_column": title_column}
    later |= {"text_column": text_column}
    # Only where it is not as ever, so that what was built before is opened still.
    reading |= {key: later[key] for key, usual in LATER.items() if later[key] != usual}
    if Path(output).exists():
        return _reopen(output, encoder, _asked(source, reading))
    if Path(source).suffix == ".npz":
        licence = "not stated in the file"
        names = {"name": Path(output).name, "encoder": encoder_name(encoder)}
        return import_npz(source, output, licence=licence, **names)
    return build(source, output, encoder, reading)


def _asked(source: str, reading: dict[str, Any]) -> dict[str, Any]:
    """Return what decides a built dataset beside its encoder, for dataset.json."""
    return {"source": Path(source).name or source} | reading


def _reopen(output: str, encoder: str, asked: dict[str, Any]) -> Dataset:
    """Open what an earlier call built, if it was asked for the same."""
    dataset, built = open_dataset(output), {}
    made_with = dataset.info.get("encoder")
    if not isinstance(made_with, dict):
        made_with = {"name": made_with}
    if Path(encoder).is_dir():  # whose name tells too little
        check_encoder(made_with, load_encoder(encoder), Path(output))
    elif made_with.get("name") != encoder:
        built["encoder"] = made_with.get("name")
    if asked["source"] not in str(dataset.info.get("source")):
        built["source"] = dataset.info.get("source")
    asked = asked | {"encoder": encoder}
    stated = dataset.info.get("built_with") or {}
    if stated:
        stated = dict.fromkeys(LATER) | stated
    built |= {key: value for key, value in stated.items() if key != "encoder"}
    for key, value in built.items():
        if value != asked.get(key):
            raise DatasetError(
                f"{output} was built with {key} {value!r}, not {asked.get(key)!r}: "
                "choose another output folder."
            )
    return dataset


def build(
    source: str,
    output: str,
    encoder: str = DEFAULT_ENCODER,
    reading: dict[str, Any] | None = None,
    info: dict[str, Any] | None = None,
    keep_text: bool = True,
) -> Dataset:
    """Read articles, chunk them, encode the chunks and write a dataset folder.

    Articles with fewer than 6 chunks are dropped and counted. Encoded shards are kept
    beside `output` until it is complete, so that a kill costs one shard.

    Parameters
    ----------
    reading : dict, optional
        Of `open_or_build`'s arguments what is not as usual: chunk_characters,
        max_documents, unique_chunks, title_column, text_column.
    info : dict, optional
        Entries for dataset.json, such as name, source and licence.
    keep_text : bool
        Keep the chunks beside the vectors, as chunks.jsonl.gz.
    """
    if Path(output).exists():
        raise DatasetError(f"{output} exists already: choose another output folder.")
    reading = {"chunk_characters": 210, "max_documents": 0} | (reading or {})
    documents, chunks, counts = _read(source, **reading)
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
    columns = {key: reading[key] for key in COLUMNS if key in reading}
    if passed_over := unread_files(source, **columns):
        named = [*passed_over[:NAMED], *["…"][: len(passed_over) > NAMED]]
        described["files_passed_over"] = {"count": len(passed_over), "names": named}
    info = described | (info or {})
    texts = chunks if keep_text else None
    dataset = write_dataset(output, vectors, documents, info, chunks=texts)
    shutil.rmtree(shards, ignore_errors=True)
    return dataset


def _read(
    source: str,
    chunk_characters: int,
    max_documents: int,
    unique_chunks: bool = False,
    **columns: str,
) -> tuple[pd.DataFrame, Sequence[str], Counter]:
    """Return the kept documents with their row ranges, all chunks, and what was cut."""
    rows, chunks, seen = [], [], set()
    counts = Counter(documents_dropped=0, sentences_split=0)
    for article in read_articles(source, max_documents, **columns):
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
        passed_over = ", ".join(unread_files(source, **columns)[:NAMED]) or "no file"
        raise SourceError(
            f"{source} has {len(rows)} document(s) of at least {MIN_CHUNKS} chunks "
            f"({counts['documents_dropped']} shorter ones were dropped; passed over: "
            f"{passed_over}); a dataset needs two."
        )
    columns = ["document_id", "title", "start", "stop"]
    documents = pd.DataFrame(rows, columns=columns)
    for same in documents["document_id"][documents["document_id"].duplicated()]:
        raise SourceError(  # now, and not after hours of encoding
            f"{source} has more than one document with the id {same!r}: leave out or "
            "rename one of them."
        )
    return documents, chunks, counts
