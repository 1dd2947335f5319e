"""What is in a dataset: the measurements of its data card."""

from __future__ import annotations

import gzip
import json
import zlib
from pathlib import Path

import numpy as np
import pandas as pd
from scipy.stats import entropy

from lvmlib import evaluation
from lvmlib.files import one_line
from lvmlib.vectors import (
    Dataset,
    DatasetError,
    cut_windows,
    document_rows,
    exam_documents,
)

LAGS = 10
SAMPLED = 2000  # rows or pairs that a costly measurement looks at
COMPARED = 500  # rows that are compared with all others
NEAR = 0.98  # cosine from which two chunks count as near duplicates
CONTEXT = 5
DAMAGE = (OSError, EOFError, zlib.error)  # of the gzip
DAMAGE += (ValueError, RecursionError, LookupError, TypeError)  # of a line of JSON


def read_chunks(dataset: Dataset) -> list[str] | None:
    """Return the text of every row, or None where the dataset keeps no text.

    Raises DatasetError when the file is damaged or its rows are not the dataset's.
    """
    path, texts = dataset.folder / "chunks.jsonl.gz", []
    if not path.exists():
        return None
    try:
        with gzip.open(path, "rt", encoding="utf-8") as file:
            for line in map(json.loads, file):
                if line["row"] != len(texts) or not isinstance(line["text"], str):
                    raise ValueError(f"found {str(line)[:40]}")
                texts.append(line["text"])
        if len(texts) != dataset.n:
            raise EOFError("that is its end")
    except DAMAGE as error:
        raise DatasetError(
            f"{path} is damaged after line {len(texts)} ({type(error).__name__}: "
            f"{one_line(error)}) or belongs to another dataset, expected gzipped JSON, "
            f"rows 0 to {dataset.n - 1} in order, each with a text: copy it again from "
            "the source, or delete it, only the words are missing then."
        ) from None
    return texts


def origin(dataset: Dataset) -> pd.DataFrame:
    """Return what dataset.json says of the dataset, a row an entry.

    Of a path of the machine that built it (older files have some) only the name.
    """
    rows = []
    for key, value in dataset.info.items():
        if isinstance(value, dict):
            value = ", ".join(f"{k}: {_without_path(v)}" for k, v in value.items())
        rows.append((key, _without_path(value)))
    return pd.DataFrame(rows, columns=["entry", "value"])


def _without_path(value: object) -> str:
    return Path(str(value)).name if Path(str(value)).is_absolute() else str(value)


def examples(
    dataset: Dataset, chunks: list[str] | None, windows: np.ndarray, number: int = 3
) -> pd.DataFrame:
    """Return the text of a few windows; without text, their documents and rows."""
    chosen = windows[np.linspace(0, len(windows) - 1, number).astype(int)]
    rows = []
    for window in chosen:
        title = dataset.documents["title"].iloc[dataset.document_of(window[-1])]
        row = {"document": title, "rows": f"{window[0]}–{window[-1]}"}
        if chunks:
            row["context"] = " ¶ ".join(chunks[r] for r in window[:-1])
            row["next"] = chunks[window[-1]]
        rows.append(row)
    return pd.DataFrame(rows)


def counts(dataset: Dataset, chunks: list[str] | None) -> pd.DataFrame:
    """Count documents, vectors, characters and windows of each split."""
    rows = []
    for part, members in exam_documents(dataset).items():
        stream = document_rows(dataset, members)
        whole = cut_windows(dataset, stream, CONTEXT, within_documents=False)
        inside = cut_windows(dataset, stream, CONTEXT, within_documents=True)
        row = {"split": part, "documents": len(members), "vectors": len(stream)}
        if chunks:
            row["characters"] = sum(len(chunks[r]) for r in stream)
        row["windows within documents"] = len(inside)
        row["windows over the stream"] = len(whole)
        row["of these across documents"] = len(whole) - len(inside)
        rows.append(row)
    return pd.DataFrame(rows)


def cosine_by_lag(dataset: Dataset) -> pd.DataFrame:
    """Return the cosine of vectors `lag` chunks apart in a document; lag 0: random.

    Mean, and 10th and 90th percentile, over up to 2,000 pairs a lag. A random pair is
    two vectors of different documents.
    """
    generator = np.random.default_rng(0)
    table = []
    for lag in range(LAGS + 1):
        first = generator.integers(0, dataset.n - lag, 4 * SAMPLED)
        second = first + lag if lag else generator.permutation(first)
        same = dataset.document_of(first) == dataset.document_of(second)
        keep = np.flatnonzero(same if lag else ~same)[:SAMPLED]
        if len(keep):
            pairs = (dataset.gather(rows[keep]) for rows in (first, second))
            values = evaluation.cosine(*pairs)
            low, high = np.percentile(values, [10, 90])
            table.append((lag, values.mean(), low, high, len(keep)))
    return pd.DataFrame(table, columns=["lag", "mean", "low", "high", "pairs"])


def nearest_position(dataset: Dataset, windows: np.ndarray) -> pd.DataFrame:
    """Return how near each context position is to the target, and how often nearest."""
    vectors = dataset.gather(_sample(windows))  # (W, 6, D)
    near = np.einsum("wtd,wd->wt", vectors[:, :-1], vectors[:, -1])
    nearest = np.bincount(near.argmax(axis=1), minlength=near.shape[1]) / len(near)
    names = [f"t−{step}" for step in range(near.shape[1], 0, -1)]
    return pd.DataFrame(
        {"position": names, "mean cosine": near.mean(axis=0), "nearest in": nearest}
    )


def geometry(dataset: Dataset) -> dict[str, float]:
    """Return the mean vector's norm and the effective rank of the centred vectors.

    The effective rank is exp(entropy) of the normalised eigenvalues of the covariance
    (Roy & Vetterli 2007): D for an even cloud, 1 for a line.
    """
    vectors = dataset.gather(_sample(np.arange(dataset.n), 10 * SAMPLED))
    values = np.linalg.eigvalsh(np.cov(vectors, rowvar=False))
    rank = float(np.exp(entropy(values.clip(min=0))))
    mean_norm = float(np.linalg.norm(vectors.mean(axis=0)))
    return {"mean_norm": mean_norm, "effective_rank": rank}


def duplicates(dataset: Dataset) -> pd.DataFrame:
    """Count exact duplicates, and estimate near ones, within and across splits.

    Exact: equal stored rows. Near: of up to 500 sampled vectors of the first split,
    the share with a cosine of at least 0.98 to another vector of the second.
    """
    parts = {
        name: document_rows(dataset, members)
        for name, members in exam_documents(dataset).items()
    }
    stored = np.array([hash(row.tobytes()) for row in dataset.vectors])
    table = []
    pairs = [(name, "pool") for name in parts]
    for first, second in [*pairs, ("test", "validation")]:
        own, other = stored[parts[first]], stored[parts[second]]
        if first == second:
            exact = len(own) - len(np.unique(own))
        else:
            exact = int(np.isin(own, other).sum())
        near = _near_share(dataset, parts[first], parts[second])
        table.append((first, second, exact, near))
    columns = ["vectors of", "also in", "exact duplicates", "near duplicates, share"]
    return pd.DataFrame(table, columns=columns)


def _near_share(dataset: Dataset, rows: np.ndarray, among: np.ndarray) -> float:
    asked = _sample(rows, COMPARED)
    wanted = dataset.gather(asked)
    highest = np.full(len(asked), -1.0)
    for start in range(0, len(among), 4096):
        block = among[start : start + 4096]
        near = wanted @ dataset.gather(block).T
        near[asked[:, None] == block] = -1  # not with itself
        highest = np.maximum(highest, near.max(axis=1))
    return float((highest >= NEAR).mean())


def _sample(rows: np.ndarray, most: int = SAMPLED) -> np.ndarray:
    if len(rows) <= most:
        return rows
    chosen = np.random.default_rng(0).choice(len(rows), most, replace=False)
    return rows[np.sort(chosen)]


def fitness(
    dataset: Dataset, lags: pd.DataFrame, repeated: pd.DataFrame
) -> pd.DataFrame:
    """Check whether a dataset is fit for the study.

    Returns
    -------
    DataFrame
        check, found, needed, fit: "gap" (mean cosine of neighbours − of random pairs,
        at least), "repeated" (share of the test vectors with a near duplicate
        elsewhere, at most), "documents" (test documents, at least).
    """
    mean = lags.set_index("lag")["mean"].reindex([0, 1])
    of_test = repeated[repeated["vectors of"] == "test"]
    repeats = of_test["near duplicates, share"].max()
    tested = len(exam_documents(dataset)["test"])
    rows = [
        ("gap", mean[1] - mean[0], 0.05, mean[1] - mean[0] >= 0.05),
        ("repeated", repeats, 0.05, repeats <= 0.05),
        ("documents", float(tested), 20.0, tested >= 20),
    ]
    return pd.DataFrame(rows, columns=["check", "found", "needed", "fit"])
