"""Writing dataset folders: quantised, hashed, complete or not at all."""

from __future__ import annotations

import gzip
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.format import dtype_to_descr, write_array_header_1_0

from lvmlib.files import atomic_path, sha256, write_json
from lvmlib.vectors import Dataset, DatasetError, open_dataset


def quantise(vectors: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return int8 rows and float32 scales of unit vectors (N, D).

    Each row uses the whole range of int8, and its scale makes int8 · scale a unit
    vector again. Raises DatasetError for zero rows and values that are not finite.
    """
    peak = np.abs(vectors).max(axis=1, keepdims=True)
    if not (np.isfinite(peak).all() and (peak > 0).all()):
        raise DatasetError("a vector is zero, NaN or infinite and has no direction.")
    rows = np.rint(vectors * (127 / peak)).astype(np.int8)
    norms = np.linalg.norm(rows.astype(np.float32), axis=1)
    return rows, (1 / norms).astype(np.float32)


def write_dataset(
    folder: str | Path,
    blocks: Iterable[np.ndarray],
    documents: pd.DataFrame,
    info: dict[str, Any],
    dtype: str = "int8",
    chunks: Iterable[str] | None = None,
) -> Dataset:
    """Write a dataset folder and open it; it appears complete or not at all.

    Parameters
    ----------
    blocks : iterable of (n, D) float arrays
        The vectors in reading order; rows are divided by their norms.
    documents : DataFrame
        document_id, title, start, stop and, where wanted, role and source.
    info : dict
        name, source, licence, encoder, chunking; n, dim and hashes are added.
    dtype : {"int8", "float16", "float32"}
        How the vectors are kept.
    chunks : iterable of str, optional
        The text of each row, kept as chunks.jsonl.gz.

    Raises
    ------
    DatasetError
        If the folder exists, a vector has no direction, or the rows and the document
        ranges do not fit.
    OSError
        If the disk is full; nothing is left at `folder`.
    """
    folder = Path(folder)
    if folder.exists():
        raise DatasetError(f"{folder} exists already: choose another output folder.")
    n = int(documents["stop"].iloc[-1])
    with atomic_path(folder) as partial:
        partial.mkdir()
        dim = _write_vectors(partial, blocks, n, dtype)
        documents.to_csv(partial / "documents.csv", index=False)
        if chunks is not None:
            with gzip.open(partial / "chunks.jsonl.gz", "wt", encoding="utf-8") as file:
                for row, text in enumerate(chunks):
                    line = {"row": row, "text": text}
                    file.write(json.dumps(line, ensure_ascii=False) + "\n")
        info = info | {"n": n, "dim": dim, "documents": len(documents), "dtype": dtype}
        info["sha256"] = sha256(partial / "vectors.npy")
        if dtype == "int8":
            info["sha256_scales"] = sha256(partial / "scales.npy")
        write_json(partial / "dataset.json", info)
        open_dataset(partial)
    return open_dataset(folder, verify=False)


def _write_vectors(
    folder: Path, blocks: Iterable[np.ndarray], n: int, dtype: str
) -> int:
    dim, row, scales = 0, 0, []
    # Written, not memory-mapped: a full disk is then an error and not a bus error.
    with (folder / "vectors.npy").open("wb") as file:
        for block in blocks:
            block = np.asarray(block, dtype=np.float32)
            if not row:
                dim = block.shape[1]
                header = {"descr": dtype_to_descr(np.dtype(dtype)), "shape": (n, dim)}
                write_array_header_1_0(file, header | {"fortran_order": False})
            if row + len(block) > n or block.shape[1:] != (dim,):
                raise DatasetError(
                    f"vectors of shape {block.shape} at row {row} do not fit into "
                    f"({n}, {dim}): the encoder changed its dimension or a document "
                    "is missing."
                )
            rows, scale = quantise(block)
            if dtype == "int8":
                scales.append(scale)
            else:
                rows = block / np.linalg.norm(block, axis=1, keepdims=True)
            file.write(rows.astype(dtype).tobytes())
            row += len(block)
    if row != n:
        raise DatasetError(f"{row} vectors were given for documents with {n} rows.")
    if scales:
        np.save(folder / "scales.npy", np.concatenate(scales))
    return dim
