"""Turning .npz files of ready-made windows back into a dataset.

Such a file holds each vector six times, five times as context and once as target, since
its windows were cut from one stream. The stream is rebuilt from what each window has
that the one before it has not. Files are other people's: they are streamed in blocks,
nothing in them is unpickled, and sizes are checked before anything is read.
"""

from __future__ import annotations

import math
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd
from numpy.lib import format as npy

from lvmlib.corpus.writing import write_dataset
from lvmlib.files import one_line
from lvmlib.vectors import Dataset, DatasetError

NAMES = (
    ("context_sequences", "target_vectors"),
    ("contexts", "targets"),
    ("train_context_sequences", "train_target_vectors"),
    ("train_contexts", "train_targets"),
)
CONTEXT, WINDOW = 5, 6  # vectors of a context; with its target
TOLERANCE = 1e-5  # two copies of a vector differ by less, in its largest component
BLOCK = 4 * 2**20  # bytes of windows at a time; working on them takes ten times that
# Overlapping windows deflate to a fifth or so, a zip bomb to a thousandth.
MAX_RATIO, MAX_BYTES, MAX_DIM = 100, 64 * 2**30, 2**16
MAX_WHOLE = 4 * 2**30  # bytes of an array that has to be read at once
TYPES = ("float32", "float16")
DAMAGE = (zipfile.BadZipFile, zlib.error, EOFError, OSError, RuntimeError)


@dataclass(frozen=True)
class _Layout:
    """The two arrays of a file whose names, sizes and headers are in order."""

    names: tuple[str, str]
    ignored: list[str]
    n: int
    dim: int
    dtype: np.dtype  # the coarser one of the two arrays


def import_npz(
    path: str | Path, output: str | Path, *, name: str, encoder: str, licence: str
) -> Dataset:
    """Rebuild the stream of vectors behind a file of windows, as a dataset folder.

    A document ends where a window shares no vector with the next one. Where windows are
    missing (some were held out), the stream goes on as long as one vector is shared.
    The file is read twice, a few megabytes at a time.

    Parameters
    ----------
    path : path
        An .npz file with float32 or float16 `context_sequences` (N, 5, D) and
        `target_vectors` (N, D), or `contexts` and `targets`, or either with `train_` in
        front. If one is float16, both are rounded to it, as copies could not be told
        otherwise. In Fortran order, which cannot be streamed, up to 4 GB an array.
    output : path
        The folder to write; `info["import"]` counts windows, vectors, breaks, missing
        windows and exact duplicates, and names the arrays that were ignored.
    name, encoder, licence : str
        What the file does not say; `encoder` is the model's name.

    Raises
    ------
    DatasetError
        If the file is damaged, differs from the above, looks like a zip bomb, has
        zero, NaN or infinite vectors, or if most of its windows do not overlap.
    """
    path = Path(path)
    layout = _check_layout(path)
    steps, duplicates, difference = _scan(path, layout)
    starts = (np.cumsum(steps) - steps)[steps == WINDOW]
    documents = pd.DataFrame({"document_id": np.arange(1, len(starts) + 1)})
    documents["title"] = [f"{path.stem} {number}" for number in documents.document_id]
    documents["start"], documents["stop"] = starts, np.append(starts[1:], steps.sum())
    report = {
        "arrays": list(layout.names),
        "ignored": layout.ignored,
        "windows": layout.n,
        "vectors": int(steps.sum()),
        "breaks": len(starts) - 1,
        "missing_windows": int((steps[steps < WINDOW] - 1).sum()),
        "duplicates": duplicates,
        "tolerance": TOLERANCE,
        "largest_difference": difference,
    }
    info = {"name": name, "source": f"windows of {path.name}", "licence": licence}
    info |= {"encoder": {"name": encoder}, "chunking": "not stated", "import": report}
    return write_dataset(output, _stream(path, layout, steps), documents, info)


def _check_layout(path: Path) -> _Layout:
    """Check names, declared sizes and array headers, before any data is read."""
    with _opened(path) as archive:
        members = archive.namelist()
        for name, times in Counter(members).items():
            if times > 1:
                raise DatasetError(
                    f"{path} holds {name} {times} times, expected each array once: "
                    "save it again with numpy.savez."
                )
        found = [name[:-4] for name in members if name.endswith(".npy")]
        pair = next((pair for pair in NAMES if set(pair) <= set(found)), None)
        if pair is None:
            expected = " or ".join(" with ".join(names) for names in NAMES)
            raise DatasetError(
                f"{path} holds {', '.join(members[:8]) or 'nothing'}, expected "
                f"{expected}: save the arrays under one of these pairs of names."
            )
        arrays = [_check_array(path, archive, name) for name in pair]
    (contexts, targets), dtypes = zip(*arrays, strict=True)
    if len(targets) != 2 or contexts != (targets[0], CONTEXT, targets[1]):
        raise DatasetError(
            f"{path}: {pair[0]} has shape {contexts} and {pair[1]} {targets}, expected "
            f"(N, {CONTEXT}, D) and (N, D): save them in these shapes."
        )
    ignored = [name for name in found if name not in pair]
    return _Layout(pair, ignored, *targets, min(dtypes, key=lambda d: d.itemsize))


def _check_array(
    path: Path, archive: zipfile.ZipFile, name: str
) -> tuple[tuple[int, ...], np.dtype]:
    """Return shape and type of an array whose declared sizes and header agree."""
    member, where = archive.getinfo(f"{name}.npy"), f"{path}: {name}"
    size, deflated = member.file_size, member.compress_size
    method, methods = member.compress_type, (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)
    if method not in methods or size > min(MAX_BYTES, MAX_RATIO * deflated):
        raise DatasetError(
            f"{where} would inflate from {deflated:,} to {size:,} bytes by method "
            f"{method}, expected deflate, at most {MAX_RATIO} times as many bytes and "
            f"{MAX_BYTES:,} in all: it may be a zip bomb, so it was not read; save it "
            "again with numpy.savez_compressed if it is yours."
        )
    with archive.open(member) as handle:
        shape, fortran, dtype = _read_header(where, handle)
        needed = handle.tell() + dtype.itemsize * math.prod(shape)
    fits = all(length > 0 for length in shape) and shape[-1:] <= (MAX_DIM,)
    if dtype.name not in TYPES or not fits:
        raise DatasetError(
            f"{where} holds {dtype}, shape {shape}, expected float32 or float16, at "
            f"least one window, and 1 to {MAX_DIM:,} components a vector: convert it."
        )
    if fortran and needed > MAX_WHOLE:
        raise DatasetError(
            f"{where} is in Fortran order, so all of its {needed:,} bytes have to be "
            f"read at once, and that are more than {MAX_WHOLE:,}: convert it with "
            "numpy.ascontiguousarray."
        )
    if size != needed:
        raise DatasetError(
            f"{where} states {size:,} bytes, but shape {shape} needs {needed:,}: it is "
            "damaged or a zip bomb, so it was not read; copy it again from the source."
        )
    return shape, dtype.newbyteorder("=")


def _read_header(where: str, handle: IO[bytes]) -> tuple[tuple, bool, np.dtype]:
    try:
        if (version := npy.read_magic(handle)) != (1, 0):
            raise ValueError(f"version {version}")  # whose header may be of any size
        return npy.read_array_header_1_0(handle)
    except DAMAGE:
        raise
    except Exception as error:  # what is no header fails in many ways
        raise DatasetError(
            f"{where} does not start like a .npy array of format 1.0 "
            f"({error or repr(error)}): save it again with numpy.savez."
        ) from None


@contextmanager
def _opened(path: Path) -> Iterator[zipfile.ZipFile]:
    try:
        with zipfile.ZipFile(path) as archive:
            yield archive
    except DAMAGE as error:
        raise DatasetError(
            f"{path} cannot be read as an .npz archive, it is missing, truncated or "
            f"something else ({one_line(error)}): copy it again from the source."
        ) from None


def _windows(path: Path, layout: _Layout) -> Iterator[np.ndarray]:
    """Yield blocks of windows (n, 6, D), both arrays read side by side."""
    rows = max(1, BLOCK // (4 * WINDOW * layout.dim))
    with _opened(path) as archive:
        blocks = [_blocks(archive, name, rows) for name in layout.names]
        for context, target in zip(*blocks, strict=True):
            parts, dtype = [context, target[:, None]], layout.dtype
            windows = np.concatenate(parts, axis=1, dtype=dtype, casting="same_kind")
            yield windows.astype(np.float32, copy=False)


def _blocks(archive: zipfile.ZipFile, name: str, rows: int) -> Iterator[np.ndarray]:
    """Yield an array so many rows at a time; Fortran order has to be read at once."""
    with archive.open(f"{name}.npy") as handle:
        shape, fortran, dtype = _read_header(name, handle)
        at_once, order = (shape[0], "F") if fortran else (rows, "C")
        for start in range(0, shape[0], at_once):
            part = (min(at_once, shape[0] - start), *shape[1:])
            size = dtype.itemsize * math.prod(part)
            data = handle.read(size)
            if len(data) < size:
                raise EOFError("its data end early")
            block = np.frombuffer(data, dtype).reshape(part, order=order)
            yield from np.split(block, range(rows, len(block), rows))


def _scan(path: Path, layout: _Layout) -> tuple[np.ndarray, int, float]:
    """Return each window's step (N,), duplicates and copies' largest difference."""
    steps, hashes, largest = np.empty(layout.n, dtype=np.int64), [], 0.0
    start, previous = 0, np.full((1, WINDOW, layout.dim), np.nan, dtype=np.float32)
    for windows in _windows(path, layout):
        peaks = np.abs(windows).max(axis=2)
        for row, _ in np.argwhere(~(np.isfinite(peaks) & (peaks > 0))):
            raise DatasetError(
                f"{path} window {start + row} has a vector that is zero, NaN or "
                "infinite, expected unit vectors: encode that chunk again."
            )
        step, difference = _compare(np.concatenate([previous, windows]))
        fresh = _last(windows, step)
        hashes.append(np.array([hash(vector.tobytes()) for vector in fresh]))
        steps[start : start + len(windows)] = step
        start, previous = start + len(windows), windows[-1:]
        largest = max(largest, difference)
    overlapping = int((steps < WINDOW).sum())
    if overlapping < layout.n / 2:
        raise DatasetError(
            f"{path}: {overlapping:,} of {layout.n:,} windows overlap the one before, "
            "expected most, so no stream can be rebuilt: they were shuffled or have "
            "other targets; use the file from before that."
        )
    return steps, int(steps.sum()) - len(np.unique(np.concatenate(hashes))), largest


def _compare(windows: np.ndarray) -> tuple[np.ndarray, float]:
    """Return how far each window moved on from the one before it, (n − 1,).

    1 for windows cut one after the other, 2 to 5 where some are missing in between,
    6 where nothing overlaps; and the largest difference between copies of a vector.
    """
    steps = np.full(len(windows) - 1, WINDOW)
    left, largest = np.arange(len(steps)), 0.0
    for step in range(1, WINDOW):
        old, new = windows[left, step:], windows[left + 1, :-step]
        difference = np.abs(new - old).max(axis=2)
        same = (difference <= TOLERANCE * np.abs(old).max(axis=2)).all(axis=1)
        largest = max(largest, float(difference[same].max(initial=0)))
        steps[left[same]] = step
        left = left[~same]
    return steps, largest


def _last(windows: np.ndarray, steps: np.ndarray) -> np.ndarray:
    """Return the last steps[i] vectors of each window i, in reading order."""
    return windows[np.arange(WINDOW) >= WINDOW - steps[:, None]]


def _stream(path: Path, layout: _Layout, steps: np.ndarray) -> Iterator[np.ndarray]:
    start = 0
    for windows in _windows(path, layout):
        yield _last(windows, steps[start : start + len(windows)])
        start += len(windows)
