"""Datasets of chunk vectors, their windows, and the two ways of splitting them.

A dataset is a folder: `vectors.npy` (N, D), unit-norm rows in reading order, as
float32, float16, or int8 with `scales.npy` (N,) so that vector = int8 · scale;
`documents.csv` (document_id, title, start, stop[, role]); `dataset.json`.

A window is six row numbers: five context vectors and the target. Windows are index
arrays (W, 6) into the memory-mapped vectors, so no vector is ever copied per window.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view

from lvmlib.files import sha256

SAMPLE = Path(__file__).parent / "sample"
NORM_TOLERANCE = 0.01
# One fixed shuffle sets the exam aside, whatever the seed, the size or the protocol.
EXAM_SEED = 20_261_122
VALIDATION_SHARE, TEST_SHARE = 0.10, 0.25
HELD_OUT_WINDOWS = 0.10  # share of windows that `as_reported` validates on


class DatasetError(ValueError):
    """A dataset folder, or what was asked of it, is not fit for use."""


@dataclass(frozen=True)
class Dataset:
    """An opened dataset folder; the vectors stay on disk until gathered."""

    folder: Path
    info: dict[str, Any]
    documents: pd.DataFrame
    vectors: np.ndarray  # (N, D) memory map: int8, float16 or float32
    scales: np.ndarray | None  # (N,) float32, for int8 only

    @property
    def n(self) -> int:
        """Number of vectors."""
        return self.vectors.shape[0]

    @property
    def dim(self) -> int:
        """Length of a vector."""
        return self.vectors.shape[1]

    @property
    def sha256(self) -> str:
        """Hash of vectors.npy as dataset.json states it."""
        return self.info["sha256"]

    @cached_property
    def _stops(self) -> np.ndarray:
        return self.documents["stop"].to_numpy()

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the float32 vectors of `rows`, shape (*rows.shape, D)."""
        vectors = self.vectors[rows].astype(np.float32)
        if self.scales is not None:
            vectors *= self.scales[rows][..., None]
        return vectors

    def document_of(self, rows: np.ndarray) -> np.ndarray:
        """Return, for each row number, the position of its document in `documents`."""
        return np.searchsorted(self._stops, rows, side="right")


def open_dataset(folder: str | Path = "", verify: bool = True) -> Dataset:
    """Open a dataset folder, memory-mapped.

    Parameters
    ----------
    folder : path
        A dataset folder; the empty string opens the bundled sample.
    verify : bool
        Also read every vector once: norms, finiteness and SHA-256. Without it only
        shapes, dtypes and document ranges are checked, which takes milliseconds.

    Raises
    ------
    DatasetError
        With the file, what was found, what was expected and what to do.
    """
    folder = Path(folder) if str(folder) else SAMPLE
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: give a dataset folder.")
    info = _read_info(folder / "dataset.json")
    vectors = _read_array(folder / "vectors.npy", dimensions=2)
    _check_matrix(folder / "vectors.npy", vectors, info)
    scales = None
    if vectors.dtype == np.int8:
        scales = np.array(_read_array(folder / "scales.npy", dimensions=1))
        _check_scales(folder / "scales.npy", scales, len(vectors))
    documents = _read_documents(folder / "documents.csv", len(vectors))
    dataset = Dataset(folder, info, documents, vectors, scales)
    if verify:
        _check_rows(dataset)
        _check_hash(folder / "vectors.npy", info["sha256"])
        if scales is not None and "sha256_scales" in info:
            _check_hash(folder / "scales.npy", info["sha256_scales"])
    return dataset


def _read_info(path: Path) -> dict[str, Any]:
    try:
        info = json.loads(path.read_text())
    except FileNotFoundError:
        raise DatasetError(
            f"{path} is missing: a dataset folder has vectors.npy, documents.csv and "
            "dataset.json."
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise DatasetError(f"{path} is not valid JSON ({error}).") from None
    stated = info if isinstance(info, dict) else {}
    missing = [key for key in ("name", "n", "dim", "sha256") if key not in stated]
    if missing:
        raise DatasetError(f"{path} lacks {', '.join(missing)}: add it.")
    return info


def _read_array(path: Path, dimensions: int) -> np.ndarray:
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # never a pickle or .npz
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing: copy it from the source.") from None
    except (ValueError, EOFError, OSError) as error:
        raise DatasetError(
            f"{path} cannot be read as a .npy array, it is truncated or something "
            f"else ({error}): copy it again from the source."
        ) from None
    if array.ndim != dimensions:
        raise DatasetError(
            f"{path} has shape {array.shape}, expected {dimensions} dimension(s)."
        )
    return array


def _check_matrix(path: Path, vectors: np.ndarray, info: dict[str, Any]) -> None:
    if vectors.dtype not in (np.int8, np.float16, np.float32):
        raise DatasetError(
            f"{path} holds {vectors.dtype}, expected int8 (with scales.npy), float16 "
            "or float32: convert it."
        )
    if vectors.shape != (info["n"], info["dim"]):
        raise DatasetError(
            f"{path} has shape {vectors.shape}, but dataset.json states "
            f"({info['n']}, {info['dim']}): one of them belongs to another dataset."
        )


def _check_scales(path: Path, scales: np.ndarray, n: int) -> None:
    if scales.shape != (n,) or scales.dtype != np.float32:
        raise DatasetError(
            f"{path} is {scales.dtype} {scales.shape}, expected float32 ({n},)."
        )
    if not (np.isfinite(scales).all() and (scales > 0).all()):
        row = int(np.flatnonzero(~(np.isfinite(scales) & (scales > 0)))[0])
        raise DatasetError(
            f"{path} row {row} is {scales[row]}, expected a positive number: "
            "encode that chunk again."
        )


def _read_documents(path: Path, n: int) -> pd.DataFrame:
    try:
        # An article may be called "Null".
        documents = pd.read_csv(
            path, dtype={"document_id": str, "title": str}, na_filter=False
        )
    except FileNotFoundError:
        raise DatasetError(f"{path} is missing: copy it from the source.") from None
    except (pd.errors.ParserError, pd.errors.EmptyDataError, ValueError) as error:
        raise DatasetError(f"{path} is not a valid CSV file ({error}).") from None
    missing = {"document_id", "title", "start", "stop"} - set(documents.columns)
    if missing:
        raise DatasetError(f"{path} lacks the column(s) {', '.join(sorted(missing))}.")
    for column in ("start", "stop"):
        if not pd.api.types.is_integer_dtype(documents[column]):
            raise DatasetError(f"{path} has a '{column}' that is not a whole number.")
    expected = 0
    for line, (start, stop) in enumerate(
        zip(documents["start"], documents["stop"], strict=True), start=2
    ):
        if start != expected or stop <= start:
            problem = "overlaps the one before" if start < expected else "leaves a gap"
            if stop <= start:
                problem = "is empty"
            raise DatasetError(
                f"{path} line {line}: the document's rows {start}..{stop} {problem}; "
                f"documents must follow one another, this one from row {expected}."
            )
        expected = stop
    if expected != n:
        relation = "run past the end of" if expected > n else "do not cover"
        raise DatasetError(
            f"{path} ends at row {expected}: its documents {relation} the {n} vectors."
        )
    if "role" in documents:
        unknown = set(documents["role"].unique()) - {"pool", "validation", "test"}
        if unknown:
            raise DatasetError(
                f"{path} has the role {sorted(map(str, unknown))[0]!r}, expected "
                "pool, validation or test."
            )
    return documents


def _check_rows(dataset: Dataset, block: int = 8192) -> None:
    path = dataset.folder / "vectors.npy"
    for start in range(0, dataset.n, block):
        vectors = dataset.gather(np.arange(start, min(start + block, dataset.n)))
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        bad = np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE))
        if len(bad):
            row, norm = start + int(bad[0]), norms[bad[0]]
            found = (
                f"norm {norm:.4g}" if np.isfinite(norm) else "NaN or infinite values"
            )
            raise DatasetError(
                f"{path} row {row} has {found}, expected unit norm (within "
                f"{NORM_TOLERANCE}): encode that chunk again, or divide rows by norms."
            )


def _check_hash(path: Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        raise DatasetError(
            f"{path} has SHA-256 {found[:12]}…, but dataset.json states "
            f"{expected[:12]}…: the file was changed or damaged; copy it again."
        )


@dataclass(frozen=True)
class Protocol:
    """How windows are cut from a dataset and what is held out.

    Attributes
    ----------
    within_documents : bool
        Training windows stay inside one document; otherwise they run over the whole
        stream of vectors, across the ends of documents.
    shuffled : bool
        The pool's documents are shuffled by the seed before the first `size` vectors
        are taken; otherwise they are taken in reading order.
    document_validation : bool
        Validate on windows of unseen documents; otherwise on a random tenth of the
        training stream's own windows, which overlap the remaining ones.
    """

    within_documents: bool
    shuffled: bool
    document_validation: bool


PROTOCOLS = {
    "controlled": Protocol(True, True, True),
    "as_reported": Protocol(False, False, False),
    # One fault of `as_reported` each, to see what it does alone.
    "leaky": Protocol(True, True, False),
    "mixed": Protocol(False, True, True),
}


@dataclass(frozen=True)
class Split:
    """Windows as row numbers, each of shape (W, context + 1), the target last."""

    train: np.ndarray
    validation: np.ndarray
    test: np.ndarray


def exam_documents(dataset: Dataset) -> dict[str, np.ndarray]:
    """Return the positions of the pool, validation and test documents.

    The dataset's `role` column decides; without one, a fixed shuffle sets a tenth of
    the documents aside for validation and a quarter for the test. Neither the seed
    nor the size has any influence.

    Raises
    ------
    DatasetError
        If one of the three has fewer than two documents.
    """
    documents = dataset.documents
    if "role" in documents:
        roles = documents["role"].to_numpy()
        parts = {
            role: np.flatnonzero(roles == role)
            for role in ("pool", "validation", "test")
        }
    else:
        order = np.random.default_rng(EXAM_SEED).permutation(len(documents))
        validation = max(2, round(VALIDATION_SHARE * len(order)))
        test = max(2, round(TEST_SHARE * len(order)))
        parts = {
            "pool": np.sort(order[validation + test :]),
            "validation": np.sort(order[:validation]),
            "test": np.sort(order[validation : validation + test]),
        }
    for role, members in parts.items():
        if len(members) < 2:
            raise DatasetError(
                f"{dataset.folder / 'documents.csv'}: the {role} split has "
                f"{len(members)} of {len(documents)} documents, at least 2 are needed: "
                "use a dataset with more documents or change their roles."
            )
    return parts


def document_rows(dataset: Dataset, members: np.ndarray) -> np.ndarray:
    """Concatenate the row numbers of the given documents, in the given order."""
    starts = dataset.documents["start"].to_numpy()[members]
    stops = dataset.documents["stop"].to_numpy()[members]
    return np.concatenate(
        [np.arange(*span) for span in zip(starts, stops, strict=True)]
    )


def cut_windows(
    dataset: Dataset, rows: np.ndarray, context: int, within_documents: bool
) -> np.ndarray:
    """Cut a stream of rows into windows (W, context + 1).

    N rows give N − context windows, less those that cross from one document into the
    next when `within_documents` is set.
    """
    if len(rows) <= context:
        return np.empty((0, context + 1), dtype=rows.dtype)
    windows = sliding_window_view(rows, context + 1)
    if within_documents:
        ends = dataset.document_of(windows[:, [0, -1]])
        windows = windows[ends[:, 0] == ends[:, 1]]
    return np.array(windows)


def make_split(
    dataset: Dataset,
    protocol: str | Protocol,
    size: int,
    seed: int = 0,
    context: int = 5,
) -> Split:
    """Cut training, validation and test windows.

    The test windows, and under `controlled` the validation windows, are the frozen
    exam: the same for every size and seed. Sizes are prefixes of one order of the
    pool, so that within a seed a smaller training set is part of every larger one.

    Parameters
    ----------
    protocol : str or Protocol
        "controlled", "as_reported", or a protocol of one's own.
    size : int
        Number of training vectors, at most the pool's.

    Raises
    ------
    DatasetError
        If the pool is smaller than `size` or a part has no window.
    ValueError
        If the protocol's name is unknown.
    """
    if isinstance(protocol, str):
        if protocol not in PROTOCOLS:
            raise ValueError(
                f"unknown protocol {protocol!r}, expected one of {list(PROTOCOLS)}."
            )
        protocol = PROTOCOLS[protocol]
    parts = exam_documents(dataset)
    pool = parts["pool"]
    if protocol.shuffled:
        pool = np.random.default_rng([seed, 0]).permutation(pool)
    stream = document_rows(dataset, pool)
    if size > len(stream):
        raise DatasetError(
            f"size {size:,} is larger than the {len(stream):,} vectors that "
            f"{dataset.folder} has for training; choose a smaller size."
        )
    train = cut_windows(
        dataset, stream[: max(size, 0)], context, protocol.within_documents
    )
    if protocol.document_validation:
        rows = document_rows(dataset, parts["validation"])
        validation = cut_windows(dataset, rows, context, True)
    else:
        order = np.random.default_rng([seed, 1]).permutation(len(train))
        held_out = max(1, round(HELD_OUT_WINDOWS * len(train)))
        train, validation = (
            train[np.sort(order[held_out:])],
            train[np.sort(order[:held_out])],
        )
    rows = document_rows(dataset, parts["test"])
    split = Split(train, validation, cut_windows(dataset, rows, context, True))
    for part in ("train", "validation", "test"):
        if not len(getattr(split, part)):
            raise DatasetError(
                f"no {part} window of {context + 1} consecutive vectors is left at "
                f"size {size:,}: use a larger size or longer documents."
            )
    return split
