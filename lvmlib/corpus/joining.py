"""Joining datasets of one encoder into one, with a chosen share of each."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from numbers import Real
from pathlib import Path

import numpy as np
import pandas as pd

from lvmlib.corpus.writing import write_dataset
from lvmlib.vectors import (
    EXAM_SEED,
    VECTORS,
    Dataset,
    DatasetError,
    check_whole,
    document_rows,
    draw_roles,
    open_dataset,
)

BLOCK = 8192  # vectors copied at a time
Part = tuple[Dataset, np.ndarray]  # and the positions of the documents taken from it


def join_datasets(
    parts: Sequence[tuple[str | Path, float]],
    output: str | Path,
    name: str,
    seed: int = 0,
    held_out: tuple[float, float] | None = None,
    exam_chunks: int = 30,
) -> Dataset:
    """Join several dataset folders into one; each document keeps its source.

    Of each part, whole documents are taken in an order that `seed` shuffles, until they
    have its share of the part's vectors: a larger share contains a smaller one. They
    keep their reading order. The column `source` names the part (or what a joined part
    calls the document's source); ids get the part's name in front where two parts use
    the same. The vectors keep the parts' dtype, the smallest one if these differ.

    Parameters
    ----------
    parts : sequence of (folder, share)
        Datasets and the shares of them, above 0 and at most 1.
    output : path
        The folder to write.
    name : str
        The joined dataset's name.
    held_out : (validation, test), optional
        Shares of the documents that become the exams of each part that gives its
        documents no roles; see `vectors.draw_roles`.
    exam_chunks : int
        Of such a part's test documents one block of at most so many chunks is taken,
        drawn at random, so that many documents sit an exam that is soon scored.

    Raises
    ------
    DatasetError
        If there is nothing to join, a share is not a share, or the parts have the same
        name, different encoders or dimensions, or, without `held_out`, roles only in
        some of them.
    """
    shares_given = [*parts, *(("held_out", share) for share in held_out or ())]
    for what, share in shares_given:
        if not isinstance(share, Real) or not 0 < share <= 1:
            raise DatasetError(
                f"{what} has the share {share!r}, expected more than 0, at most 1."
            )
    check_whole(0, seed=seed)
    check_whole(1, exam_chunks=exam_chunks)
    datasets = [open_dataset(folder) for folder, _ in parts]
    for dataset in datasets if held_out else ():
        if "role" not in dataset.documents:
            _hold_out(dataset.documents, held_out, exam_chunks)
    _check_fit(datasets)
    taken, described = [], []
    for dataset, (_, share) in zip(datasets, parts, strict=True):
        members = _sample(dataset, share, seed)
        taken.append((dataset, members))
        part = {"name": dataset.info["name"], "sha256": dataset.sha256, "share": share}
        vectors = len(document_rows(dataset, members))
        described.append(part | {"documents": len(members), "vectors": vectors})
    documents = _join_documents(taken)
    info = {"name": name, "encoder": datasets[0].info["encoder"]}
    for key in ("source", "licence"):
        stated = [str(dataset.info.get(key, "not stated")) for dataset in datasets]
        info[key] = "; ".join(dict.fromkeys(stated))
    info["chunking"] = {d.info["name"]: d.info.get("chunking") for d in datasets}
    info["join"] = {"seed": seed, "parts": described}
    dtype = min((d.vectors.dtype.name for d in datasets), key=VECTORS.index)
    return write_dataset(output, _gather(taken), documents, info, dtype)


def _check_fit(datasets: list[Dataset]) -> None:
    """Check that names differ and that encoder, dimension and roles agree."""
    if not datasets:
        raise DatasetError("there are no datasets to join: name at least one folder.")
    first, names = datasets[0], set()
    for other in datasets:
        if other.info["name"] in names:
            raise DatasetError(
                f"{other.folder} is the second part named {other.info['name']!r}: "
                "leave it out if it is the same, else rename it in its dataset.json."
            )
        names.add(other.info["name"])
        if _kind(other) != _kind(first):
            raise DatasetError(
                f"{other.folder} has vectors of {_kind(other)}, but {first.folder} has "
                f"those of {_kind(first)}: encode one of them again, only vectors of "
                "one encoder can be joined."
            )
    without = [dataset for dataset in datasets if "role" not in dataset.documents]
    if 0 < len(without) < len(datasets):
        raise DatasetError(
            f"{without[0].folder} gives its documents no roles, but other parts do: "
            "name the shares to hold out, or add the column to its documents.csv "
            "(pool, validation or test)."
        )


def _hold_out(
    documents: pd.DataFrame, held_out: tuple[float, float], exam_chunks: int
) -> None:
    """Draw roles, and shorten the test documents to a block each, in place."""
    documents["role"] = draw_roles(len(documents), *held_out)
    room = (documents["stop"] - documents["start"] - exam_chunks).clip(lower=0)
    moved = np.random.default_rng(EXAM_SEED).integers(0, room.to_numpy() + 1)
    test = documents["role"] == "test"
    documents.loc[test, "start"] += moved[test]
    shortened = documents["stop"].clip(upper=documents["start"] + exam_chunks)
    documents.loc[test, "stop"] = shortened


def _kind(dataset: Dataset) -> str:
    """Return the encoder, without its owner, which a folder does not tell, and size."""
    encoder = dataset.info.get("encoder")
    name = encoder.get("name") if isinstance(encoder, dict) else encoder
    if not name:
        raise DatasetError(
            f"{dataset.folder / 'dataset.json'} names no encoder, so its vectors "
            'cannot be joined to others: add "encoder": {"name": ...}.'
        )
    return f"{name.rpartition('/')[2]} ({dataset.dim} dimensions)"


def _sample(dataset: Dataset, share: float, seed: int) -> np.ndarray:
    """Return the positions of documents that together have `share` of the vectors."""
    lengths = (dataset.documents["stop"] - dataset.documents["start"]).to_numpy()
    order = np.random.default_rng(seed).permutation(len(lengths))
    last = np.searchsorted(np.cumsum(lengths[order]), share * dataset.n)
    return np.sort(order[: last + 1])


def _join_documents(parts: list[Part]) -> pd.DataFrame:
    ids = pd.concat([dataset.documents["document_id"] for dataset, _ in parts])
    clash, frames = ids.duplicated().any(), []
    for dataset, members in parts:
        frame, name = dataset.documents.iloc[members].copy(), dataset.info["name"]
        if clash:
            frame["document_id"] = f"{name}/" + frame["document_id"]
        if "source" not in frame:
            frame["source"] = name
        frames.append(frame)
    documents = pd.concat(frames, ignore_index=True)
    lengths = documents["stop"] - documents["start"]
    documents["stop"] = lengths.cumsum()
    documents["start"] = documents["stop"] - lengths
    columns = ["document_id", "title", "start", "stop", "role", "source"]
    return documents[[column for column in columns if column in documents]]


def _gather(parts: list[Part]) -> Iterator[np.ndarray]:
    for dataset, members in parts:
        rows = document_rows(dataset, members)
        for start in range(0, len(rows), BLOCK):
            yield dataset.gather(rows[start : start + BLOCK])
