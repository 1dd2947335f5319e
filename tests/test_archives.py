"""Datasets rebuilt from .npz files of windows, and the files that are refused."""

from __future__ import annotations

import json
import struct
import subprocess
import sys
import time
import tracemalloc
import warnings
import zipfile
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from conftest import LENGTHS, drifting_vectors
from hypothesis import given, settings
from hypothesis import strategies as st

from lvmlib.corpus import archives
from lvmlib.corpus.archives import NAMES, import_npz
from lvmlib.vectors import DatasetError, cut_windows, open_dataset

FACTS = {"name": "old", "encoder": "all-mpnet-base-v2", "licence": "unknown"}


def cut(vectors, lengths=LENGTHS) -> np.ndarray:
    """Windows (W, 6, D) inside documents, as the makers of such files cut them."""
    documents = np.split(vectors, np.cumsum(lengths)[:-1])
    return np.concatenate(
        [
            np.stack([document[i : i + 6] for i in range(len(document) - 5)])
            for document in documents
        ]
    )


def save(path, windows, names=NAMES[0], **others) -> Path:
    arrays = {names[0]: windows[:, :5], names[1]: windows[:, 5]}
    np.savez_compressed(path, **arrays, **others)
    return path


def refuse(path, match):
    """Check that a file is refused in one sentence with its name, leaving nothing."""
    output = path.parent / "output"
    with pytest.raises(DatasetError, match=match) as caught:
        import_npz(path, output, **FACTS)
    assert str(path) in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not output.exists()


@pytest.fixture
def vectors() -> np.ndarray:
    return drifting_vectors()


@pytest.fixture
def path(tmp_path) -> Path:
    return tmp_path / "windows.npz"


# --- rebuilding ---------------------------------------------------------------------


@pytest.mark.parametrize("block", [archives.BLOCK, 3000, 1])
@pytest.mark.parametrize("names", NAMES)
def test_dataset_to_windows_and_back(
    path, vectors, dataset_folder, names, block, monkeypatch
):
    monkeypatch.setattr(archives, "BLOCK", block)  # 1 byte: one window at a time
    original = open_dataset(dataset_folder)
    rows = cut_windows(original, np.arange(original.n), 5, within_documents=True)
    save(path, original.gather(rows), names)
    rebuilt = import_npz(path, path.parent / "output", **FACTS)
    assert list(rebuilt.documents["start"]) == list(original.documents["start"])
    assert list(rebuilt.documents["stop"]) == list(original.documents["stop"])
    here, there = (d.gather(np.arange(d.n)) for d in (rebuilt, original))
    assert np.einsum("nd,nd->n", here, there).min() > 0.9999
    report = rebuilt.info["import"]
    assert report == {
        "arrays": list(names),
        "ignored": [],
        "windows": 400 - 20 * 5,
        "vectors": 400,
        "breaks": 19,
        "missing_windows": 0,
        "duplicates": 0,
        "tolerance": 1e-5,
        "largest_difference": 0.0,
    }
    written = json.loads((rebuilt.folder / "dataset.json").read_text())
    assert written["import"] == report
    assert written["encoder"] == {"name": "all-mpnet-base-v2"}
    assert (written["name"], written["licence"]) == ("old", "unknown")


def test_windows_over_a_whole_stream_are_one_document(path, vectors):
    windows = cut(vectors, [len(vectors)])
    rebuilt = import_npz(save(path, windows), path.parent / "output", **FACTS)
    assert rebuilt.n == len(windows) + 5 == 400
    assert list(rebuilt.documents["title"]) == ["windows 1"]
    assert rebuilt.info["import"]["breaks"] == 0


def test_exact_duplicates_are_counted_where_they_are_not_copies(path, vectors):
    vectors[100] = vectors[101] = vectors[3]
    vectors[399] = vectors[398]  # side by side: all windows still overlap
    near = vectors[3] + 1e-4
    vectors[200] = near / np.linalg.norm(near)
    rebuilt = import_npz(save(path, cut(vectors)), path.parent / "output", **FACTS)
    assert rebuilt.n == 400
    assert rebuilt.info["import"]["duplicates"] == 3


def test_copies_may_differ_by_rounding_but_not_by_more(path, vectors):
    vectors *= np.linspace(0.2, 30, 400, dtype=np.float32)[:, None]  # any norm
    windows = cut(vectors)
    windows *= 1 + 2e-7 * np.arange(6, dtype=np.float32)[:, None]
    rebuilt = import_npz(save(path, windows), path.parent / "rebuilt", **FACTS)
    assert rebuilt.info["import"]["breaks"] == 19
    assert 0 < rebuilt.info["import"]["largest_difference"] < 1e-3
    save(path, cut(vectors) * (1 + 1e-4 * np.arange(6)[:, None]).astype(np.float32))
    refuse(path, "0 of 300 windows overlap")


@settings(deadline=None, max_examples=40)
@given(st.data())
def test_held_out_windows_leave_no_gap_while_a_vector_is_shared(data):
    kept = data.draw(st.lists(st.integers(1, 8), min_size=10, max_size=30))
    rows = np.cumsum([0, *kept])  # the first row of each window that is left
    vectors = np.random.default_rng(0).standard_normal((300, 4)).astype(np.float32)
    windows = vectors[rows[:, None] + np.arange(6)]
    steps, _ = archives._compare(windows)
    assert list(steps) == [min(step, 6) for step in kept]
    stream = archives._last(windows, np.append(6, steps))
    covered = np.zeros(300, dtype=bool)
    covered[(rows[:, None] + np.arange(6)).ravel()] = True
    assert np.array_equal(stream, vectors[covered])


def test_missing_windows_are_counted(path, vectors):
    windows = np.delete(cut(vectors, [400]), [50, 51, 52, 100, 200, 201], axis=0)
    rebuilt = import_npz(save(path, windows), path.parent / "output", **FACTS)
    report = rebuilt.info["import"]
    assert (rebuilt.n, report["missing_windows"], report["breaks"]) == (400, 6, 0)


class Evil:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_pickled_metadata_is_ignored_and_never_executed(path, vectors):
    sentinel = path.parent / "executed"
    metadata = np.array([{"article": "Anarchism"}, Evil(sentinel)], dtype=object)
    save(path, cut(vectors), metadata=metadata, train_contexts=np.zeros(3))
    with np.load(path, allow_pickle=True) as archive:  # the trap works
        assert archive["metadata"] is not None
    assert sentinel.exists()
    sentinel.unlink()
    rebuilt = import_npz(path, path.parent / "output", **FACTS)
    assert not sentinel.exists()
    assert rebuilt.info["import"]["ignored"] == ["metadata", "train_contexts"]
    assert rebuilt.n == 400


# --- bad input ----------------------------------------------------------------------


def test_windows_that_do_not_overlap(path, vectors):
    save(path, vectors[:396].reshape(66, 6, 16))
    refuse(path, "0 of 66 windows overlap the one before.*shuffled")


def test_shuffled_windows(path, vectors):
    windows = cut(vectors)
    save(path, windows[np.random.default_rng(1).permutation(len(windows))])
    refuse(path, r"\d+ of 300 windows overlap the one before.*shuffled")


def test_targets_of_other_windows(path, vectors):
    windows = cut(vectors)
    windows[:, 5] = windows[::-1, 5]
    save(path, windows)
    refuse(path, r"\d+ of 300 windows overlap")


def test_missing_arrays_are_named_with_those_expected(path):
    np.savez(path, contexts=np.zeros((1, 5, 2)), target_vectors=np.zeros((1, 2)))
    refuse(path, "holds contexts.npy, target_vectors.npy, expected .*contexts with")
    np.savez(path)
    refuse(path, "holds nothing, expected")


@pytest.mark.parametrize(
    ("contexts", "targets", "match"),
    [
        ((9, 5, 4), (8, 4), r"\(9, 5, 4\) and targets \(8, 4\), expected \(N, 5, D\)"),
        ((9, 5, 4), (9, 3), "expected"),
        ((9, 4, 4), (9, 4), r"has shape \(9, 4, 4\)"),
        ((9, 5), (9,), "expected"),
        ((9, 5, 4), (9, 4, 1), "expected"),
        ((9, 5, 4), (), r"expected \(N, 5, D\) and \(N, D\)"),
        (
            (0, 5, 4),
            (0, 4),
            r"shape \(0, 5, 4\), expected float32 or float16, at least one",
        ),
        ((9, 5, 0), (9, 0), r"shape \(9, 5, 0\), expected .* 1 to 65,536 components"),
        (
            (2, 5, 65_537),
            (2, 65_537),
            r"shape \(2, 5, 65537\), expected .* 1 to 65,536 components",
        ),
    ],
)
def test_shapes(path, contexts, targets, match):
    rng = np.random.default_rng(0)
    arrays = (rng.random(shape, dtype=np.float32) for shape in (contexts, targets))
    np.savez(path, **dict(zip(NAMES[1], arrays, strict=True)))
    refuse(path, match)


@pytest.mark.parametrize("dtype", ["float64", "int8", ">f8", "c8", object])
def test_dtypes(path, vectors, dtype):
    save(path, (100 * cut(vectors)).astype(dtype), NAMES[1])
    refuse(path, "contexts holds .*, expected float32")


def test_a_pickle_in_place_of_the_contexts_is_not_executed(path):
    sentinel = path.parent / "executed"
    trap = np.array([Evil(sentinel)] * 5, dtype=object).reshape(1, 5, 1)
    np.savez(path, contexts=trap, targets=np.ones((1, 1), dtype=np.float32))
    refuse(path, "contexts holds object")
    assert not sentinel.exists()


@pytest.mark.parametrize("dtypes", [("<f2", "<f4"), ("<f4", "<f2"), (">f2", "<f4")])
def test_arrays_of_two_precisions_are_compared_in_the_coarser(path, vectors, dtypes):
    vectors[399] = vectors[3]
    windows = cut(vectors)
    contexts, targets = (
        windows[:, :5].astype(dtypes[0]),
        windows[:, 5].astype(dtypes[1]),
    )
    np.savez(path, contexts=contexts, targets=targets)
    rebuilt = import_npz(path, path.parent / "output", **FACTS)
    report = rebuilt.info["import"]
    assert (rebuilt.n, report["breaks"], report["duplicates"]) == (400, 19, 1)
    assert report["largest_difference"] == 0
    cosine = (rebuilt.gather(np.arange(400)) * vectors).sum(axis=1)
    assert cosine.min() > 0.999


@pytest.mark.parametrize("block", [archives.BLOCK, 3000])
@pytest.mark.parametrize("order", [np.asfortranarray, np.ascontiguousarray])
@pytest.mark.parametrize("dtype", ["<f4", "<f2", ">f4", ">f2"])
def test_half_precision_fortran_order_and_byte_order(
    path, vectors, dtype, order, block, monkeypatch
):
    monkeypatch.setattr(archives, "BLOCK", block)
    windows = cut(vectors).astype(dtype)
    arrays = {"contexts": order(windows[:, :5]), "targets": order(windows[:, 5])}
    np.savez(path, **arrays)
    rebuilt = import_npz(path, path.parent / "output", **FACTS)
    plain = path.with_name("plain.npz")
    windows = windows.astype(windows.dtype.newbyteorder("="))
    np.savez(plain, contexts=windows[:, :5], targets=windows[:, 5])
    expected = import_npz(plain, path.parent / "plain", **FACTS)
    rows = np.arange(expected.n)
    np.testing.assert_array_equal(rebuilt.gather(rows), expected.gather(rows))


def test_a_large_array_in_fortran_order(path, vectors, monkeypatch):
    monkeypatch.setattr(archives, "MAX_WHOLE", 1000)
    windows = cut(vectors)
    np.savez(path, contexts=np.asfortranarray(windows[:, :5]), targets=windows[:, 5])
    refuse(path, "contexts is in Fortran order, so all of its .* bytes have to be read")


def test_a_member_twice(path, vectors):
    save(path, cut(vectors), NAMES[1])
    with (
        zipfile.ZipFile(path) as archive,
        zipfile.ZipFile(path.with_name("twice.npz"), "w") as twice,
    ):
        for name in [*archive.namelist(), "targets.npy"]:
            with warnings.catch_warnings(action="ignore"):
                twice.writestr(name, archive.read(name))
    refuse(path.with_name("twice.npz"), "holds targets.npy 2 times")


@pytest.mark.parametrize("block", [archives.BLOCK, 3000])
@pytest.mark.parametrize("value", [np.nan, np.inf, 0])
@pytest.mark.parametrize("position", [2, 5])
def test_vectors_without_a_direction(path, vectors, value, position, block):
    windows = cut(vectors)
    windows[17, position] = value
    save(path, windows)
    refuse(path, "window 17 has a vector that is zero, NaN or infinite")


def test_one_component_that_is_not_a_number(path, vectors):
    windows = cut(vectors)
    windows[299, 0, 7] = np.nan
    save(path, windows)
    refuse(path, "window 299 has a vector that is zero, NaN or infinite")


@pytest.mark.parametrize("kept", [0, 10, 0.3, 0.9, -1])
def test_truncated(path, vectors, kept):
    content = save(path, cut(vectors)).read_bytes()
    path.write_bytes(content[: int(kept * len(content)) if 0 < kept < 1 else kept])
    refuse(path, "cannot be read as an .npz archive")


def test_damaged_in_the_middle(path, vectors):
    content = bytearray(save(path, cut(vectors)).read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    refuse(path, "cannot be read as an .npz archive")


def test_files_that_are_no_archives(path):
    refuse(path, "missing")
    np.save(path.with_suffix(".npy"), np.zeros(3))
    path.with_suffix(".npy").rename(path)
    refuse(path, "cannot be read as an .npz archive")
    path.unlink()
    path.mkdir()
    refuse(path, "cannot be read as an .npz archive")


def test_an_existing_output_is_left_alone(path, vectors):
    output = path.parent / "output"
    output.mkdir()
    with pytest.raises(DatasetError, match="exists already"):
        import_npz(save(path, cut(vectors)), output, **FACTS)
    assert list(output.iterdir()) == []


def header(shape) -> bytes:
    buffer = BytesIO()
    facts = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(buffer, facts)
    return buffer.getvalue()


def write_members(path, contexts, targets, method=zipfile.ZIP_DEFLATED):
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.writestr("contexts.npy", contexts)
        archive.writestr("targets.npy", targets)


def no_reading(*_):
    raise AssertionError("data were read")


def test_zip_bombs_are_refused_before_any_reading(path, monkeypatch):
    monkeypatch.setattr(archives, "_windows", no_reading)
    n, noise = 20_000, np.random.default_rng(0).bytes
    zeros = header((n, 5, 4)) + bytes(n * 5 * 4 * 4)
    write_members(path, zeros, header((n, 4)) + noise(n * 16))
    refuse(path, r"contexts would inflate from [\d,]+ to 1,600,128 bytes.*zip bomb")
    write_members(path, header((2**40, 5, 4)) + noise(99), header((2**40, 4)))
    refuse(path, "contexts states 227 bytes, but shape .* needs 87,9.*zip bomb")
    write_members(path, header((9, 5, 4)) + noise(9999), header((9, 4)) + noise(144))
    refuse(path, "contexts states 10,127 bytes, but shape .* needs 848:")
    monkeypatch.setattr(archives, "MAX_BYTES", 10_000)
    refuse(path, "at most 100 times as many bytes and 10,000 in all")
    write_members(path, zeros, b"", zipfile.ZIP_BZIP2)
    refuse(path, "by method 12, expected deflate")


def test_a_directory_that_understates_what_inflates(path):
    """The central directory lies, so only the stream itself could tell."""
    contexts = header((9, 5, 4)) + np.ones((9, 5, 4), "<f4").tobytes()
    targets = header((9, 4)) + np.ones((9, 4), "<f4").tobytes()
    write_members(path, contexts + bytes(10**6), targets, zipfile.ZIP_STORED)
    content = path.read_bytes()
    long, short = len(contexts) + 10**6, len(contexts)
    path.write_bytes(content.replace(struct.pack("<I", long), struct.pack("<I", short)))
    refuse(path, "cannot be read as an .npz archive")


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"\x93NUMPY\x02\x00\xff\xff\xff\xff" + b" " * 99,  # a header of 4 GB
        b"\x93NUMPY\x01\x00\x50\x00" + b"(" * 80,
        b"\x93NUMPY\x01\x00\x50\x00" + b"[" * 79 + b"\n",
        b"\x93NUMPY\x01\x00\x04\x00{[]}",
        b"not an array",
    ],
)
def test_members_that_are_no_arrays(path, content):
    write_members(path, content, content)
    refuse(path, "contexts does not start like a .npy array of format 1.0")


# --- scale --------------------------------------------------------------------------


def write_large(path, documents, dim):
    """Write a file of windows as large as wanted: 100 from each of the documents.

    It is made document by document; savez_compressed would hold all of it in memory.
    """
    shapes, parts = ((100 * documents, 5, dim), (100 * documents, dim)), (slice(5), 5)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name, shape, part in zip(NAMES[0], shapes, parts, strict=True):
            with archive.open(f"{name}.npy", "w", force_zip64=True) as member:
                member.write(header(shape))
                for document in range(documents):
                    rng = np.random.default_rng(document)
                    vectors = rng.standard_normal((105, dim), dtype=np.float32)
                    member.write(cut(vectors, [105])[:, part].tobytes())


def test_memory_does_not_grow_with_the_file(path, monkeypatch):
    monkeypatch.setattr(archives, "BLOCK", 2**20)
    write_large(path, documents=130, dim=128)  # 40 MB of windows
    tracemalloc.start()
    rebuilt = import_npz(path, path.parent / "output", **FACTS)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (rebuilt.n, rebuilt.info["import"]["breaks"]) == (130 * 105, 129)
    assert peak < 12 * 2**20 < 130 * 100 * 6 * 128 * 4


IMPORT = """
import resource, sys
from lvmlib.corpus.archives import import_npz
data = import_npz(*sys.argv[1:], name="large", encoder="none", licence="none")
print(data.n, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss has another unit")
def test_the_232_600_windows_that_people_have(path, python):
    try:
        write_large(path, documents=2326, dim=768)
        size, start = path.stat().st_size, time.perf_counter()
        process = python(IMPORT, path, path.parent / "output", stdout=subprocess.PIPE)
        output, errors = process.communicate(timeout=1800)
        seconds = time.perf_counter() - start
    finally:
        path.unlink()
    assert process.returncode == 0, errors
    n, peak = map(int, output.split())
    print(f"{size / 1e9:.2f} GB, {seconds:.0f} s, peak {peak / 1e6:.0f} MB")
    assert n == 2326 * 105
    assert peak < 10**9
    rebuilt = open_dataset(path.parent / "output")
    assert rebuilt.info["import"]["windows"] == 232_600
    assert rebuilt.info["import"]["breaks"] == 2325
