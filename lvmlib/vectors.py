"""Datasets of chunk vectors, their windows, and the ways of splitting them.

A dataset is a folder: `vectors.npy` (N, D), unit-norm rows in reading order, as
float32, float16, or int8 with `scales.npy` (N,) so that vector = int8 · scale;
`documents.csv` (document_id, title, start, stop[, role]); `dataset.json`.

A window is row numbers: those of the context's vectors and the target's. Windows are
index arrays (W, context + 1) into the memory-mapped vectors, so no vector is ever
copied per window. Row n + r, of n, is no chunk: it is the mean of row r's document up
to and with r.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from numbers import Integral
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from numpy.lib.stride_tricks import sliding_window_view
from pydantic import BaseModel, ConfigDict, PositiveInt, ValidationError

from lvmlib.files import one_line, sha256

SAMPLE = Path(__file__).parent / "sample"
NORM_TOLERANCE = 0.01
BLOCK = 8192  # rows that are verified at a time
VECTORS = ("int8", "float16", "float32")  # int8 has scales.npy beside it
ROLES = ("pool", "validation", "test")
# One fixed shuffle sets the exam aside, whatever the seed, the size or the protocol.
EXAM_SEED = 20_261_122
VALIDATION_SHARE, TEST_SHARE = 0.10, 0.25
HELD_OUT_WINDOWS = 0.10  # share of windows that `as_reported` validates on
FOLLOWING = 29  # chunks after the target that it is told from


class DatasetError(ValueError):
    """A dataset folder, or what was asked of it, is not fit for use."""


class Info(BaseModel):
    """What dataset.json must say; other entries are kept as they are."""

    model_config = ConfigDict(strict=True)
    name: str
    n: PositiveInt
    dim: PositiveInt
    sha256: str
    sha256_scales: str | None = None
    encoder: str | dict[str, Any] | None = None
    built_with: dict[str, Any] | None = None


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

    def gather(self, rows: np.ndarray) -> np.ndarray:
        """Return the float32 vectors of `rows`, shape (*rows.shape, D)."""
        averaged = np.asarray(rows) >= self.n
        chunks = np.where(averaged, 0, rows) if averaged.any() else rows
        vectors = self.vectors[chunks].astype(np.float32)
        if self.scales is not None:
            vectors *= self.scales[chunks][..., None]
        if averaged.any():
            vectors[averaged] = self.means[rows[averaged] - self.n]
        return vectors

    @cached_property
    def means(self) -> np.ndarray:
        """Means of each document up to and with a row, (N, D) float16 of unit length.

        All of them, in memory: half a second and 150 MB for 100,000 vectors.
        """
        means = np.empty((self.n, self.dim), np.float16)
        for start, stop in self.documents[["start", "stop"]].to_numpy():
            sums = self.gather(np.arange(start, stop)).cumsum(axis=0)  # (chunks, D)
            lengths = np.linalg.norm(sums, axis=1, keepdims=True)
            means[start:stop] = sums / np.maximum(lengths, NORM_TOLERANCE)
        return means

    def document_of(self, rows: np.ndarray) -> np.ndarray:
        """Return, for each row number, the position of its document in `documents`."""
        stops = self.documents["stop"].to_numpy()
        return np.searchsorted(stops, rows % self.n, side="right")

    def chunks_of(self, windows: np.ndarray) -> np.ndarray:
        """Return the windows without the column of means, if they have one."""
        return windows[:, windows.max(axis=0, initial=0) < self.n]

    def following(self, windows: np.ndarray) -> np.ndarray:
        """Return the targets that come after each window's in its document, (W, 29).

        The next `FOLLOWING` of these windows' targets, by row number; the window's own
        where its document has no more.
        """
        order = np.argsort(windows[:, -1], kind="stable")
        targets = windows[order, -1]
        documents = self.document_of(targets)
        last = np.searchsorted(documents, documents, side="right")[:, None] - 1
        after = np.arange(len(order))[:, None] + np.arange(1, FOLLOWING + 1)
        found = np.empty(after.shape, windows.dtype)
        rows = targets[np.minimum(after, last)]
        found[order] = np.where(after <= last, rows, targets[:, None])
        return found


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
        With the file, what was found and what was expected.
    """
    folder = Path(folder) if str(folder) else SAMPLE
    if not folder.is_dir():
        raise DatasetError(f"{folder} is not a folder: give a dataset folder.")
    info, scales = _read_info(folder / "dataset.json"), None
    vectors = _read_array(folder / "vectors.npy", (info["n"], info["dim"]), VECTORS)
    if vectors.dtype == np.int8:
        path = folder / "scales.npy"
        scales = np.array(_read_array(path, (info["n"],), ("float32",)))
        for row in np.flatnonzero(~(np.isfinite(scales) & (scales > 0))):
            raise DatasetError(f"{path} row {row} is {scales[row]}, expected above 0.")
    documents = _read_documents(folder / "documents.csv", len(vectors))
    dataset = Dataset(folder, info, documents, vectors, scales)
    if verify:
        _check_rows(dataset)
        _check_hash(folder / "vectors.npy", info["sha256"])
        if scales is not None and info.get("sha256_scales"):
            _check_hash(path, info["sha256_scales"])
    return dataset


@contextmanager
def _reading(path: Path, kind: str) -> Iterator[None]:
    try:
        yield
    # pandas' and json's errors are ValueErrors, too; of deep nesting it is recursion.
    except (OSError, ValueError, EOFError, RecursionError) as error:
        raise DatasetError(
            f"{path} cannot be read as {kind} ({one_line(error)}), it is missing, "
            "truncated or something else: copy it again from the source."
        ) from None


def _read_info(path: Path) -> dict[str, Any]:
    with _reading(path, "JSON"):
        info = json.loads(path.read_text())
    try:
        Info.model_validate(info)
    except ValidationError as error:
        wrong = "; ".join(map(_describe_error, error.errors()))
        raise DatasetError(f"{path}: {wrong}.") from None
    return info


def _describe_error(error: dict[str, Any]) -> str:
    field = error["loc"][0] if error["loc"] else "its content"
    if error["type"] == "missing":
        return f"{field} is missing"
    expected = error["msg"].removeprefix("Input should be ")
    return f"{field} is {json.dumps(error['input'])[:60]}, expected {expected}"


def _read_array(
    path: Path, shape: tuple[int, ...], dtypes: tuple[str, ...]
) -> np.ndarray:
    """Map an array of the machine's own byte order; another one is converted."""
    with _reading(path, "a .npy array"):
        array = np.lib.format.open_memmap(path, mode="r")  # never a pickle or .npz
    if array.dtype.name not in dtypes:
        raise DatasetError(
            f"{path} holds {array.dtype}, expected {' or '.join(dtypes)}: convert it."
        )
    if array.shape != shape:
        raise DatasetError(
            f"{path} has shape {array.shape}, but dataset.json states {shape}: one of "
            "them belongs to another dataset."
        )
    native = array.dtype.newbyteorder("=")
    return array if array.dtype == native else array.astype(native)


def _read_documents(path: Path, n: int) -> pd.DataFrame:
    with _reading(path, "CSV"):
        # An article may be called "Null".
        documents = pd.read_csv(
            path, dtype={"document_id": str, "title": str}, na_filter=False
        )
    missing = {"document_id", "title", "start", "stop"} - set(documents.columns)
    if missing:
        raise DatasetError(f"{path} lacks the column(s) {', '.join(sorted(missing))}.")
    for column in ("start", "stop"):
        if not pd.api.types.is_integer_dtype(documents[column]):
            raise DatasetError(f"{path} has a '{column}' that is not a whole number.")
    _check_ranges(path, documents, n)
    ids = documents["document_id"]
    for second in ids.index[ids.duplicated()]:
        first = ids.index[ids == ids[second]][0]
        raise DatasetError(
            f"{path} lines {first + 2} and {second + 2} have the same document_id "
            f"{ids[second]!r}: leave out or rename one of them."
        )
    for role in documents["role"].unique() if "role" in documents else ():
        if role not in ROLES:
            raise DatasetError(
                f"{path} has the role {role!r}, expected one of {', '.join(ROLES)}."
            )
    return documents


def _check_ranges(path: Path, documents: pd.DataFrame, n: int) -> None:
    starts, stops = (documents[column].to_numpy() for column in ("start", "stop"))
    expected = np.concatenate([[0], stops])
    for row in np.flatnonzero((starts != expected[:-1]) | (stops <= starts)):
        raise DatasetError(
            f"{path} line {row + 2}: rows {starts[row]}..{stops[row]}, expected rows "
            f"from {expected[row]} on, at least one: documents follow one another."
        )
    if expected[-1] != n:
        raise DatasetError(f"{path} ends at row {expected[-1]}, expected {n}, the end.")


def _check_rows(dataset: Dataset) -> None:
    for start in range(0, dataset.n, BLOCK):
        vectors = dataset.gather(np.arange(start, min(start + BLOCK, dataset.n)))
        norms = np.sqrt(np.einsum("nd,nd->n", vectors, vectors))
        for row in np.flatnonzero(~(np.abs(norms - 1) <= NORM_TOLERANCE)):
            raise DatasetError(
                f"{dataset.folder / 'vectors.npy'} row {start + row} has norm "
                f"{norms[row]:.4g}, expected 1 within {NORM_TOLERANCE}."
            )


def _check_hash(path: Path, expected: str) -> None:
    found = sha256(path)
    if found != expected:
        raise DatasetError(
            f"{path} has SHA-256 {found[:9]}, but dataset.json states {expected[:9]}: "
            "it was changed or damaged; copy it again."
        )


def check_whole(least: int, **numbers: Any) -> None:
    """Raise DatasetError unless all are whole numbers of at least `least`."""
    for name, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, Integral) or value < least:
            raise DatasetError(
                f"{name} is {value!r}, expected a whole number of at least {least}."
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
    """Windows as row numbers, each (W, what is read + 1), the target last."""

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
    roles = documents.get("role", draw_roles(len(documents)))
    parts = {role: np.flatnonzero(roles == role) for role in ROLES}
    for role, members in parts.items():
        if len(members) < 2:
            raise DatasetError(
                f"{dataset.folder / 'documents.csv'}: the {role} split has "
                f"{len(members)} of {len(documents)} documents, at least 2 are needed: "
                "use a dataset with more documents or change their roles."
            )
    return parts


def draw_roles(
    documents: int, validation: float = VALIDATION_SHARE, test: float = TEST_SHARE
) -> np.ndarray:
    """Draw the role of each document: the same each time, at least two of both exams.

    `validation` and `test` are shares of the documents; the rest is the pool.
    """
    order = np.random.default_rng(EXAM_SEED).permutation(documents)
    held_out = np.cumsum([max(2, round(s * documents)) for s in (validation, test)])
    roles = np.full(documents, "pool", dtype=object)
    roles[order[: held_out[0]]] = "validation"
    roles[order[held_out[0] : held_out[1]]] = "test"
    return roles


def document_rows(dataset: Dataset, members: np.ndarray, first: int = 0) -> np.ndarray:
    """Concatenate the row numbers of the given documents, in the given order.

    Of each document all, or only the `first` rows.
    """
    spans = dataset.documents[["start", "stop"]].to_numpy()[members]
    if first:
        spans[:, 1] = np.minimum(spans[:, 1], spans[:, 0] + first)
    return np.concatenate([np.arange(*span) for span in spans])


def cut_windows(
    dataset: Dataset,
    rows: np.ndarray,
    context: int,
    within_documents: bool,
    horizon: int = 1,
) -> np.ndarray:
    """Cut a stream of rows into windows (W, context + 1).

    The target is `horizon` rows after the context. N rows give N − context − horizon
    + 1 windows, less those that cross from one document into the next when
    `within_documents` is set.
    """
    length = context + horizon
    if len(rows) < length:
        return np.empty((0, context + 1), dtype=rows.dtype)
    windows = sliding_window_view(rows, length)
    if within_documents:
        ends = dataset.document_of(windows[:, [0, -1]])
        windows = windows[ends[:, 0] == ends[:, 1]]
    return np.delete(windows, np.s_[context:-1], axis=1)


def make_split(
    dataset: Dataset,
    protocol: str,
    size: int,
    seed: int = 0,
    context: int = 5,
    horizon: int = 1,
    sources: str = "",
    per_document: int = 0,
    running_mean: bool = False,
) -> Split:
    """Cut training, validation and test windows.

    The test windows, and under `controlled` the validation windows, are the frozen
    exam: the same for every size and seed. Sizes are prefixes of one order of the
    pool, so that within a seed a smaller training set is part of every larger one.

    Parameters
    ----------
    protocol : str
        One of PROTOCOLS: "controlled", "as_reported", ….
    size : int
        Number of training vectors, at most the pool's.
    horizon : int
        How many chunks after its context a window's target is; 1 is the next.
    sources : str
        Of a joined dataset, see `corpus.joining`: the sources to train and validate
        on, with their shares of `size`, such as "wikipedia:2, papers:1". Empty: all of
        the pool as it comes. The test windows are always those of all sources.
    per_document : int
        Train on the first so many vectors of each document; 0 is all.
    running_mean : bool
        Put the mean of the document's vectors so far, as a row of its own, before the
        context: windows of shape (W, context + 2).

    Raises
    ------
    DatasetError
        If a number is no whole number or too small, the pool is smaller than `size`, a
        source is unknown, or a part has no window.
    ValueError
        If the protocol's name is unknown.
    """
    check_whole(1, size=size, context=context, horizon=horizon)
    check_whole(0, seed=seed, per_document=per_document)
    if protocol not in PROTOCOLS:
        expected = list(PROTOCOLS)
        raise ValueError(f"unknown protocol {protocol!r}, expected one of {expected}.")
    rules = PROTOCOLS[protocol]
    parts = exam_documents(dataset)
    pool = parts["pool"]
    if rules.shuffled:
        pool = np.random.default_rng([seed, 0]).permutation(pool)
    validated = parts["validation"]
    groups = [(pool, size)]
    if sources:
        names, shares = _read_sources(dataset, sources)
        of = dataset.documents["source"].to_numpy()
        counts = np.diff(np.round(size * np.cumsum([0, *shares])).astype(int))
        groups = [(pool[of[pool] == n], k) for n, k in zip(names, counts, strict=True)]
        validated = validated[np.isin(of[validated], names)]
    taken = [_take(dataset, *group, per_document) for group in groups]
    within, how = rules.within_documents, (context, True, horizon)
    train = cut_windows(dataset, np.concatenate(taken), context, within, horizon)
    if rules.document_validation:
        validation = cut_windows(dataset, document_rows(dataset, validated), *how)
    else:
        order = np.random.default_rng([seed, 1]).permutation(len(train))
        held_out = max(1, round(HELD_OUT_WINDOWS * len(train)))
        validation = train[np.sort(order[:held_out])]
        train = train[np.sort(order[held_out:])]
    rows = document_rows(dataset, parts["test"])
    split = Split(train, validation, cut_windows(dataset, rows, *how))
    for part, windows in vars(split).items():
        if not len(windows):
            raise DatasetError(
                f"no {part} window of {context + 1} consecutive vectors is left at "
                f"size {size:,}: use a larger size or longer documents."
            )
    if running_mean:
        cut = vars(split).values()
        split = Split(*(np.column_stack([dataset.n + w[:, -2], w]) for w in cut))
    return split


def _take(
    dataset: Dataset, pool: np.ndarray, size: int, per_document: int
) -> np.ndarray:
    """Return the first `size` rows of these documents, in their order."""
    stream = document_rows(dataset, pool, per_document) if len(pool) else pool
    if size > len(stream):
        raise DatasetError(
            f"size {size:,} is larger than the {len(stream):,} vectors that "
            f"{dataset.folder} has for training; choose a smaller size."
        )
    return stream[:size]


def _read_sources(dataset: Dataset, sources: str) -> tuple[list[str], np.ndarray]:
    """Read "wikipedia:2, papers:1" into names and shares (which add up to 1)."""
    known = list(dataset.documents.get("source", pd.Series(dtype=str)).unique())
    pairs = [part.rpartition(":") for part in sources.split(",")]
    names = [name.strip() for name, _, _ in pairs]
    try:
        weights = np.array([float(weight) for _, _, weight in pairs])
    except ValueError:
        weights = np.zeros(1)
    if not (np.isfinite(weights).all() and (weights > 0).all() and all(names)):
        raise DatasetError(
            f'sources is {sources!r}, expected such as "wikipedia:2, papers:1".'
        )
    for name in names:
        if name not in known or names.count(name) > 1:
            raise DatasetError(
                f"sources names {name!r}, expected each at most once of what "
                f"{dataset.folder} has: {', '.join(known) or 'no column source'}."
            )
    return names, weights / weights.sum()


def describe(dataset: Dataset, split: Split) -> pd.DataFrame:
    """Count what each part of a split holds.

    Returns
    -------
    DataFrame
        `part`; `windows`; `documents` and `vectors` that occur in them; `crossing`,
        windows that run across the end of a document; `seen_in_training`, vectors that
        training windows hold too (missing for train itself).
    """
    parts = {part: dataset.chunks_of(rows) for part, rows in vars(split).items()}
    documents = [dataset.document_of(windows) for windows in parts.values()]
    vectors = [np.unique(windows) for windows in parts.values()]
    seen = [int(np.isin(rows, vectors[0]).sum()) for rows in vectors]
    table = {"part": list(parts), "windows": list(map(len, parts.values()))}
    table["documents"] = [len(np.unique(members)) for members in documents]
    table["vectors"] = list(map(len, vectors))
    table["crossing"] = [int((d[:, 0] != d[:, -1]).sum()) for d in documents]
    table["seen_in_training"] = pd.array([pd.NA, *seen[1:]], dtype="Int64")
    return pd.DataFrame(table)
