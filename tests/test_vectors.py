"""Datasets, what is refused of them, and the properties that the protocols promise."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from itertools import pairwise
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from conftest import drifting_vectors
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lvmlib.vectors import (
    SAMPLE,
    Dataset,
    DatasetError,
    cut_windows,
    describe,
    document_rows,
    exam_documents,
    make_split,
    open_dataset,
)

# --- the protocols ------------------------------------------------------------------


@st.composite
def layouts(draw) -> Dataset:
    """Datasets of 7 to 14 documents of 1 to 16 vectors, half of them with roles."""
    lengths = draw(st.lists(st.integers(1, 16), min_size=7, max_size=14))
    stops = np.cumsum(lengths)
    documents = pd.DataFrame({"start": stops - lengths, "stop": stops})
    if draw(st.booleans()):
        each = ["pool", "validation", "test"]
        more = st.sampled_from(each)
        rest = draw(
            st.lists(more, min_size=len(lengths) - 6, max_size=len(lengths) - 6)
        )
        documents["role"] = draw(st.permutations(each * 2 + rest))
    vectors = np.ones((sum(lengths), 1), dtype=np.float32)
    return Dataset(Path("layout"), {}, documents, vectors, None)


def document_of_row(dataset: Dataset) -> np.ndarray:
    """Each row's document, written out."""
    lengths = dataset.documents["stop"] - dataset.documents["start"]
    return np.repeat(np.arange(len(lengths)), lengths)


def split_or_reject(dataset, protocol, size, seed=0):
    try:
        return make_split(dataset, protocol, size, seed)
    except DatasetError as error:
        assume("window" not in str(error))  # documents too short for one
        raise


def as_set(windows: np.ndarray) -> set[tuple[int, ...]]:
    found = set(map(tuple, windows.tolist()))
    assert len(found) == len(windows)  # none is there twice
    return found


def pool_size(dataset: Dataset) -> int:
    return len(document_rows(dataset, exam_documents(dataset)["pool"]))


examples = settings(max_examples=120, deadline=None)


@examples
@given(layouts(), st.data(), st.integers(0, 5))
def test_controlled_never_trains_on_exam_documents(dataset, data, seed):
    size = data.draw(st.integers(6, max(6, pool_size(dataset))))
    assume(size <= pool_size(dataset))
    split = split_or_reject(dataset, "controlled", size, seed)
    document = document_of_row(dataset)
    parts = {
        name: set(document[windows].ravel()) for name, windows in vars(split).items()
    }
    assert not parts["train"] & parts["validation"]
    assert not parts["train"] & parts["test"]
    assert not parts["validation"] & parts["test"]
    members = {k: set(v.tolist()) for k, v in exam_documents(dataset).items()}
    assert parts["train"] <= members["pool"]
    assert parts["validation"] <= members["validation"]
    assert parts["test"] <= members["test"]
    assert sorted(set.union(*members.values())) == list(range(len(dataset.documents)))
    if "role" in dataset.documents:
        roles = dataset.documents["role"]
        assert all(roles[k] == role for role, ks in members.items() for k in ks)


@examples
@given(layouts(), st.data(), st.integers(0, 5))
def test_controlled_windows_are_consecutive_rows_of_one_document(dataset, data, seed):
    pool = pool_size(dataset)
    assume(pool > 5)
    size = data.draw(st.integers(6, pool))
    split = split_or_reject(dataset, "controlled", size, seed)
    document = document_of_row(dataset)
    for windows in vars(split).values():
        assert windows.shape[1] == 6
        assert (np.diff(windows, axis=1) == 1).all()
        assert (document[windows] == document[windows[:, :1]]).all()
    # No window that a document has is left out.
    lengths = (dataset.documents["stop"] - dataset.documents["start"]).to_numpy()
    members = exam_documents(dataset)
    for part in ("validation", "test"):
        expected = np.maximum(lengths[members[part]] - 5, 0).sum()
        assert len(as_set(getattr(split, part))) == expected
    whole = split_or_reject(dataset, "controlled", pool, seed)
    assert len(as_set(whole.train)) == np.maximum(lengths[members["pool"]] - 5, 0).sum()
    assert len(np.unique(split.train)) <= size


@examples
@given(layouts(), st.data(), st.integers(0, 5))
def test_controlled_sizes_nest_within_a_seed(dataset, data, seed):
    pool = pool_size(dataset)
    assume(pool > 5)
    sizes = sorted(data.draw(st.lists(st.integers(6, pool), min_size=2, max_size=4)))
    splits = [split_or_reject(dataset, "controlled", size, seed) for size in sizes]
    for smaller, larger in pairwise(splits):
        assert as_set(smaller.train) <= as_set(larger.train)
        # Prefixes of one order, so that curves over steps start alike.
        assert np.array_equal(smaller.train, larger.train[: len(smaller.train)])


@examples
@given(layouts(), st.data(), st.integers(0, 5), st.integers(0, 5))
def test_the_exam_is_the_same_for_all_sizes_seeds_and_protocols(
    dataset, data, seed, other_seed
):
    pool = pool_size(dataset)
    assume(pool > 6)
    size, other_size = (data.draw(st.integers(7, pool)) for _ in range(2))
    one = split_or_reject(dataset, "controlled", size, seed)
    other = split_or_reject(dataset, "controlled", other_size, other_seed)
    reported = split_or_reject(dataset, "as_reported", other_size, other_seed)
    assert np.array_equal(one.validation, other.validation)
    assert np.array_equal(one.test, other.test)
    assert np.array_equal(one.test, reported.test)


@examples
@given(layouts(), st.data(), st.integers(0, 5))
def test_as_reported_n_vectors_give_n_minus_5_windows(dataset, data, seed):
    pool = pool_size(dataset)
    assume(pool > 6)
    size = data.draw(st.integers(7, pool))
    split = split_or_reject(dataset, "as_reported", size, seed)
    train, validation = as_set(split.train), as_set(split.validation)
    assert len(train) + len(validation) == size - 5
    assert not train & validation
    assert len(validation) == max(1, round((size - 5) / 10))
    # The first N rows of the pool in reading order, whatever the seed.
    members = exam_documents(dataset)
    rows = np.flatnonzero(np.isin(document_of_row(dataset), members["pool"]))[:size]
    expected = {tuple(rows[i : i + 6].tolist()) for i in range(size - 5)}
    assert train | validation == expected


@examples
@given(layouts(), st.integers(0, 3))
def test_as_reported_never_sees_exam_documents(dataset, seed):
    size = pool_size(dataset)
    assume(size > 6)
    split = split_or_reject(dataset, "as_reported", size, seed)
    seen = np.concatenate([split.train.ravel(), split.validation.ravel()])
    documents = set(document_of_row(dataset)[seen])
    assert documents <= set(exam_documents(dataset)["pool"])


def test_seeds_change_what_is_trained_on(dataset_folder):
    dataset = open_dataset(dataset_folder)
    one, other = (make_split(dataset, "controlled", 150, seed) for seed in (0, 1))
    assert as_set(one.train) != as_set(other.train)
    one, other = (make_split(dataset, "as_reported", 150, seed) for seed in (0, 1))
    assert as_set(one.validation) != as_set(other.validation)
    again = make_split(dataset, "as_reported", 150, 1)
    assert np.array_equal(other.train, again.train)


def test_a_split_by_hand(write_dataset, tmp_path):
    """Seven documents of seven rows: two windows each, in the order that roles say."""
    roles = ["test", "pool", "validation", "pool", "test", "validation", "pool"]
    vectors = np.tile([1.0, 0.0], (49, 1))
    folder = write_dataset(tmp_path / "seven", vectors, [7] * 7, roles=roles)
    dataset = open_dataset(folder)
    split = make_split(dataset, "controlled", 21)
    assert sorted(split.train[:, 0]) == [7, 8, 21, 22, 42, 43]
    assert split.validation[:, 0].tolist() == [14, 15, 35, 36]
    assert split.test.tolist()[0] == [0, 1, 2, 3, 4, 5]
    assert split.test[:, 0].tolist() == [0, 1, 28, 29]
    reported = make_split(dataset, "as_reported", 14)
    starts = np.sort(np.concatenate([reported.train, reported.validation])[:, 0])
    assert starts.tolist() == [7, 8, 9, 10, 11, 12, 13, 21, 22]


def test_without_roles_a_tenth_validates_and_a_quarter_is_the_test(dataset_folder):
    parts = exam_documents(open_dataset(dataset_folder))
    assert {name: len(members) for name, members in parts.items()} == {
        "pool": 13,
        "validation": 2,
        "test": 5,
    }


def test_a_stream_no_longer_than_the_context_has_no_window(dataset_folder):
    dataset = open_dataset(dataset_folder)
    assert cut_windows(dataset, np.arange(5), 5, False).shape == (0, 6)
    assert cut_windows(dataset, np.arange(6), 5, False).tolist() == [[*range(6)]]


# --- datasets that open -------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 0), ("float16", 5e-4), ("int8", 4e-3)]
)
def test_all_three_encodings_give_the_same_vectors(
    write_dataset, dataset_folder, tmp_path, dtype, tolerance
):
    exact = np.load(dataset_folder / "vectors.npy")
    dataset = open_dataset(write_dataset(tmp_path / dtype, exact, dtype=dtype))
    assert dataset.vectors.dtype == dtype
    assert isinstance(dataset.vectors, np.memmap)
    assert (dataset.n, dataset.dim) == (400, 16)
    rows = np.array([[3, 4, 5], [399, 0, 3]])
    found = dataset.gather(rows)
    assert found.shape == (2, 3, 16)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, exact[rows], rtol=0, atol=tolerance)
    np.testing.assert_allclose(np.linalg.norm(found, axis=-1), 1, atol=0.01)


def test_gathering_does_not_write_to_the_file(write_dataset, dataset_folder, tmp_path):
    exact = np.load(dataset_folder / "vectors.npy")
    for dtype in ("float32", "int8"):
        folder = write_dataset(tmp_path / dtype, exact, dtype=dtype)
        before = (folder / "vectors.npy").read_bytes()
        first = open_dataset(folder)
        gathered = first.gather(np.arange(4))
        gathered[:] = 7
        assert (first.gather(np.arange(4)) != 7).all()
        assert (folder / "vectors.npy").read_bytes() == before


def test_document_of_rows_of_any_shape(dataset_folder):
    dataset = open_dataset(dataset_folder)
    written_out = document_of_row(dataset)
    assert np.array_equal(dataset.document_of(np.arange(400)), written_out)
    assert dataset.document_of(np.array([[0, 23], [24, 399]])).tolist() == [
        [0, 0],
        [1, 19],
    ]


def test_titles_are_text_whatever_they_say(write_dataset, dataset_folder, tmp_path):
    folder = shutil.copytree(dataset_folder, tmp_path / "titles")
    documents = pd.read_csv(folder / "documents.csv")
    documents["title"] = ["Null", "NaN", "NA", "1984", "2.50"] + ["x"] * 15
    documents["document_id"] = ["007", *map(str, range(1, 20))]
    documents.to_csv(folder / "documents.csv", index=False)
    opened = open_dataset(folder).documents
    assert opened["title"].tolist()[:5] == ["Null", "NaN", "NA", "1984", "2.50"]
    assert opened["document_id"][0] == "007"


def test_the_bundled_sample_opens_and_its_hash_is_verified(tmp_path):
    dataset = open_dataset()
    assert (dataset.n, dataset.dim) == (12060, 768)
    assert len(dataset.documents) == 95
    assert pool_size(dataset) >= 6000  # the quick study's larger size
    stated = json.loads((SAMPLE / "dataset.json").read_text())
    content = (SAMPLE / "vectors.npy").read_bytes()
    assert dataset.sha256 == stated["sha256"] == hashlib.sha256(content).hexdigest()
    damaged = shutil.copytree(SAMPLE, tmp_path / "damaged")
    with (damaged / "vectors.npy").open("r+b") as file:
        file.seek(-1, 2)
        last = file.read(1)[0]
        file.seek(-1, 2)
        file.write(bytes([last ^ 1]))  # one bit
    with pytest.raises(DatasetError, match=r"vectors\.npy has SHA-256"):
        open_dataset(damaged)


@pytest.mark.parametrize("dtype", ["float32", "float16", "int8"])
def test_big_endian_files_are_read(write_dataset, dataset_folder, tmp_path, dtype):
    exact = np.load(dataset_folder / "vectors.npy")
    folder = write_dataset(tmp_path / dtype, exact, dtype=dtype)
    expected = open_dataset(folder).gather(np.arange(400))
    for file in folder.glob("*.npy"):
        array = np.load(file)
        np.save(file, array.astype(array.dtype.newbyteorder(">")))
    save(folder, np.load(folder / "vectors.npy"))
    dataset = open_dataset(folder)
    assert dataset.vectors.dtype == dtype  # the machine's own, as torch needs it
    assert np.array_equal(dataset.gather(np.arange(400)), expected)


def test_describe_counts_what_the_parts_share(write_dataset, tmp_path):
    roles = ["pool", "pool", "validation", "validation", "test", "test"]
    vectors = np.tile([1.0, 0.0], (60, 1))
    folder = write_dataset(tmp_path / "six", vectors, [10] * 6, roles=roles)
    dataset = open_dataset(folder)
    table = describe(dataset, make_split(dataset, "controlled", 20)).set_index("part")
    assert table["windows"].tolist() == [10, 10, 10]
    assert table["documents"].tolist() == [2, 2, 2]
    assert table["vectors"].tolist() == [20, 20, 20]
    assert table["crossing"].tolist() == [0, 0, 0]
    assert table["seen_in_training"].tolist()[1:] == [0, 0]
    assert pd.isna(table["seen_in_training"]["train"])
    split = make_split(dataset, "as_reported", 20)
    table = describe(dataset, split).set_index("part")
    crossing = [(w[0] < 10) & (w[-1] >= 10) for w in split.train]
    assert table["crossing"]["train"] == sum(crossing)
    seen = set(split.train.ravel()) & set(split.validation.ravel())
    assert table["seen_in_training"]["validation"] == len(seen) > 0


# --- datasets that are refused ------------------------------------------------------


@pytest.fixture
def folder(dataset_folder, tmp_path) -> Path:
    """A copy of the dataset, to be damaged."""
    return shutil.copytree(dataset_folder, tmp_path / "dataset")


def refusal(folder: Path, file: str = "") -> str:
    with pytest.raises(DatasetError) as error:
        open_dataset(folder)
    message = str(error.value)
    assert str(folder / file) in message
    assert "\n" not in message
    return message


def save(folder: Path, vectors: np.ndarray, **info) -> None:
    """Replace the vectors and state their hash, so that only the hash is right."""
    path = folder / "vectors.npy"
    np.save(path, vectors)
    content = json.loads((folder / "dataset.json").read_text())
    content |= {"sha256": hashlib.sha256(path.read_bytes()).hexdigest()} | info
    (folder / "dataset.json").write_text(json.dumps(content))


def vectors_of(folder: Path) -> np.ndarray:
    return np.load(folder / "vectors.npy")


def test_a_folder_that_is_not_there(tmp_path):
    assert "is not a folder" in refusal(tmp_path / "nowhere")


@pytest.mark.parametrize("file", ["vectors.npy", "documents.csv", "dataset.json"])
def test_a_missing_file(folder, file):
    (folder / file).unlink()
    assert "missing" in refusal(folder, file)


@pytest.mark.parametrize("kept", [0, 5, 100, 4000])
def test_a_truncated_vectors_file(folder, kept):
    path = folder / "vectors.npy"
    path.write_bytes(path.read_bytes()[:kept])
    assert "truncated" in refusal(folder, "vectors.npy")


def test_another_kind_of_file(folder):
    with (folder / "vectors.npy").open("wb") as file:
        np.savez(file, context_sequences=np.zeros((2, 5, 16)))
    assert ".npy array" in refusal(folder, "vectors.npy")


@pytest.mark.parametrize(
    ("row", "factor", "found"),
    [
        (17, np.nan, "row 17 has norm nan"),
        (399, np.inf, "row 399 has norm inf"),
        (0, 0.0, "row 0 has norm 0,"),
        (210, 1.02, "row 210 has norm 1.02,"),
        (12, 0.98, "row 12 has norm 0.98,"),
    ],
)
def test_a_row_that_is_no_unit_vector(folder, row, factor, found):
    vectors = vectors_of(folder)
    vectors[row] *= factor
    save(folder, vectors)
    assert found in refusal(folder, "vectors.npy")
    vectors = vectors_of(folder)
    vectors[row] = np.eye(16)[0] * 1.005
    save(folder, vectors)
    assert open_dataset(folder).n == 400


@pytest.mark.parametrize("dtype", ["float64", "int16", ">f8"])
def test_a_wrong_dtype(folder, dtype):
    save(folder, vectors_of(folder).astype(dtype))
    message = refusal(folder, "vectors.npy")
    assert f"holds {np.dtype(dtype)}, expected int8 or float16 or float32" in message


class Bomb:
    def __reduce__(self):
        return Path.touch, (Path("bomb-went-off"),)


@pytest.mark.parametrize("as_array", [True, False])
def test_pickled_objects_are_not_loaded(folder, as_array, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    if as_array:
        np.save(folder / "vectors.npy", np.array([Bomb()] * 400), allow_pickle=True)
    else:
        np.array([Bomb()]).dump(folder / "vectors.npy")
    assert ".npy array" in refusal(folder, "vectors.npy")
    assert not Path("bomb-went-off").exists()


@pytest.mark.parametrize("info", [{"n": 401}, {"dim": 32}, {"n": 16, "dim": 400}])
def test_another_shape_than_stated(folder, info):
    save(folder, vectors_of(folder), **info)
    message = refusal(folder, "vectors.npy")
    assert "has shape (400, 16), but dataset.json states" in message
    save(folder, vectors_of(folder).ravel(), n=400, dim=16)
    assert "has shape (6400,)" in refusal(folder, "vectors.npy")


def test_another_hash_than_stated(folder):
    vectors = vectors_of(folder)
    vectors[7] = vectors[8]
    np.save(folder / "vectors.npy", vectors)
    assert "has SHA-256" in refusal(folder, "vectors.npy")


@pytest.mark.parametrize(
    ("line", "column", "value", "found"),
    [
        (3, "start", 20, "line 3: rows 20..33, expected rows from 24"),  # overlaps
        (3, "start", 26, "line 3: rows 26..33, expected rows from 24"),  # leaves a gap
        (2, "start", 1, "line 2: rows 1..24, expected rows from 0"),
        (3, "stop", 24, "line 3: rows 24..24, expected rows from 24"),  # is empty
        (21, "stop", 401, "ends at row 401, expected 400"),
        (21, "stop", 399, "ends at row 399, expected 400"),
        (4, "document_id", 1, "lines 3 and 4 have the same document_id '1'"),
    ],
)
def test_documents_that_do_not_fit(folder, line, column, value, found):
    documents = pd.read_csv(folder / "documents.csv")
    documents.loc[line - 2, column] = value
    documents.to_csv(folder / "documents.csv", index=False)
    assert found in refusal(folder, "documents.csv")


def test_no_document(folder):
    (folder / "documents.csv").write_text("document_id,title,start,stop\n")
    refusal(folder, "documents.csv")


@pytest.mark.parametrize("value", ["24.5", "", "many"])
def test_a_document_range_that_is_no_number(folder, value):
    text = (folder / "documents.csv").read_text()
    (folder / "documents.csv").write_text(text.replace("0,24\n", f"0,{value}\n"))
    assert "'stop' that is not a whole number" in refusal(folder, "documents.csv")


def test_a_documents_file_without_its_columns(folder):
    (folder / "documents.csv").write_text("document_id,start\n1,0\n")
    assert "lacks the column(s) stop, title" in refusal(folder, "documents.csv")
    (folder / "documents.csv").write_text("")
    refusal(folder, "documents.csv")


@pytest.mark.parametrize("role", ["training", ""])
def test_a_bad_role(folder, role):
    documents = pd.read_csv(folder / "documents.csv")
    documents["role"] = ["pool"] * 10 + ["validation"] * 4 + ["test"] * 5 + [role]
    documents.to_csv(folder / "documents.csv", index=False)
    assert f"role {role!r}, expected" in refusal(folder, "documents.csv")


@pytest.mark.parametrize(
    "content", ["{", "", '{"n": 400,}', "\xff\xfe", 100_000 * '{"n":']
)
def test_invalid_json(folder, content):
    (folder / "dataset.json").write_text(content, encoding="latin-1")
    assert "JSON" in refusal(folder, "dataset.json")


@pytest.mark.parametrize(
    ("change", "found"),
    [
        ({"sha256": None}, "sha256 is null, expected a valid string"),
        ({"n": "12060"}, 'n is "12060", expected a valid integer'),
        ({"n": 400.5}, "n is 400.5, expected a valid integer"),
        ({"n": True}, "n is true, expected a valid integer"),
        ({"n": -400}, "n is -400, expected greater than 0"),
        ({"dim": [16]}, "dim is [16], expected a valid integer"),
        ({"name": 7}, "name is 7, expected a valid string"),
        ({"sha256_scales": 0}, "sha256_scales is 0, expected a valid string"),
        ({"encoder": 5}, "encoder is 5, expected"),
        ({"built_with": []}, "built_with is [], expected a valid dictionary"),
        ({"name": 7, "n": "x"}, 'n is "x"'),  # all faults at once
    ],
)
def test_a_field_of_another_type(folder, change, found):
    content = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(content | change))
    assert found in refusal(folder, "dataset.json")


def test_json_without_the_facts(folder):
    (folder / "dataset.json").write_text('{"n": 400}')
    message = refusal(folder, "dataset.json")
    assert all(f"{f} is missing" in message for f in ("name", "dim", "sha256"))
    for content in ("[]", "400", "null"):
        (folder / "dataset.json").write_text(content)
        assert f"its content is {content}, expected" in refusal(folder, "dataset.json")


@pytest.fixture
def int8_folder(write_dataset, folder, tmp_path) -> Path:
    return write_dataset(tmp_path / "int8", vectors_of(folder), dtype="int8")


def test_missing_scales(int8_folder):
    (int8_folder / "scales.npy").unlink()
    assert "missing" in refusal(int8_folder, "scales.npy")


@pytest.mark.parametrize("value", [np.nan, np.inf, 0, -1])
def test_scales_that_are_no_positive_numbers(int8_folder, value):
    scales = np.load(int8_folder / "scales.npy")
    scales[31] = value
    np.save(int8_folder / "scales.npy", scales)
    assert "row 31 is" in refusal(int8_folder, "scales.npy")


def test_scales_of_another_kind(int8_folder):
    scales = np.load(int8_folder / "scales.npy")
    np.save(int8_folder / "scales.npy", scales[:-1])
    assert "has shape (399,)" in refusal(int8_folder, "scales.npy")
    np.save(int8_folder / "scales.npy", scales.astype("float64"))
    assert "holds float64, expected float32" in refusal(int8_folder, "scales.npy")


def test_scales_of_another_hash(write_dataset, folder, tmp_path):
    stated = {"sha256_scales": "0" * 64}
    target = tmp_path / "scaled"
    write_dataset(target, vectors_of(folder), dtype="int8", **stated)
    assert "has SHA-256" in refusal(target, "scales.npy")


def test_a_zero_row_of_int8(int8_folder):
    vectors = vectors_of(int8_folder)
    vectors[12] = 0
    save(int8_folder, vectors)
    assert "row 12 has norm 0" in refusal(int8_folder, "vectors.npy")


def test_without_verifying_only_the_rows_are_not_read(folder):
    vectors = vectors_of(folder)
    vectors[7] = np.nan
    np.save(folder / "vectors.npy", vectors)
    assert open_dataset(folder, verify=False).n == 400
    save(folder, vectors, n=401)
    with pytest.raises(DatasetError, match="has shape"):
        open_dataset(folder, verify=False)


# --- splits that are refused --------------------------------------------------------


@pytest.mark.parametrize("protocol", ["controlled", "as_reported"])
def test_a_size_larger_than_the_dataset(dataset_folder, protocol):
    dataset = open_dataset(dataset_folder)
    assert len(make_split(dataset, protocol, 256).train)
    with pytest.raises(DatasetError) as error:
        make_split(dataset, protocol, 257)
    message = str(error.value)
    assert "size 257 is larger than the 256 vectors" in message
    assert str(dataset_folder) in message


@pytest.mark.parametrize("protocol", ["controlled", "as_reported"])
def test_a_size_without_a_window(dataset_folder, protocol):
    with pytest.raises(DatasetError, match="no train window"):
        make_split(open_dataset(dataset_folder), protocol, 5)


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"size": 0}, "size is 0, expected a whole number of at least 1"),
        ({"size": -10}, "size is -10,"),
        ({"size": "150"}, "size is '150',"),
        ({"size": 150.0}, "size is 150.0,"),
        ({"size": None}, "size is None,"),
        ({"size": True}, "size is True,"),
        ({"seed": -1}, "seed is -1, expected a whole number of at least 0"),
        ({"seed": "0"}, "seed is '0',"),
        ({"seed": None}, "seed is None,"),
        ({"context": 0}, "context is 0,"),
        ({"protocol": "controled"}, "'controled', expected one of"),
        ({"protocol": None}, "None, expected one of"),
    ],
)
def test_arguments_that_make_no_split(dataset_folder, wrong, found):
    asked = {"protocol": "controlled", "size": 150} | wrong
    with pytest.raises(ValueError, match=re.escape(found)):  # a DatasetError is one
        make_split(open_dataset(dataset_folder), **asked)


def test_numpys_whole_numbers_are_whole(dataset_folder):
    dataset = open_dataset(dataset_folder)
    one = make_split(dataset, "controlled", np.int64(150), np.uint8(3))
    assert np.array_equal(one.train, make_split(dataset, "controlled", 150, 3).train)


def test_test_documents_too_short_for_a_window(write_dataset, tmp_path):
    roles = ["pool", "pool", "validation", "validation", "test", "test"]
    lengths = [9, 9, 9, 9, 5, 5]
    vectors = np.tile([1.0, 0.0], (46, 1))
    folder = write_dataset(tmp_path / "short", vectors, lengths, roles=roles)
    with pytest.raises(DatasetError, match="no test window of 6 consecutive"):
        make_split(open_dataset(folder), "controlled", 18)


@pytest.mark.parametrize("role", ["pool", "validation", "test"])
def test_fewer_than_two_documents_in_a_split(write_dataset, tmp_path, role):
    roles = ["pool", "validation", "test"] * 2
    roles[roles.index(role)] = "test" if role != "test" else "pool"
    vectors = np.tile([1.0, 0.0], (60, 1))
    folder = write_dataset(tmp_path / role, vectors, [10] * 6, roles=roles)
    for protocol in ("controlled", "as_reported"):
        with pytest.raises(DatasetError) as error:
            make_split(open_dataset(folder), protocol, 10)
        message = str(error.value)
        assert str(folder / "documents.csv") in message
        assert f"the {role} split has 1 of 6 documents, at least 2" in message


@pytest.mark.parametrize("documents", [1, 3, 5])
def test_too_few_documents_to_set_any_aside(write_dataset, tmp_path, documents):
    vectors = np.tile([1.0, 0.0], (10 * documents, 1))
    folder = write_dataset(tmp_path / "few", vectors, [10] * documents)
    with pytest.raises(DatasetError, match=f"of {documents} documents, at least 2"):
        exam_documents(open_dataset(folder))


# --- a later target, sources, and the beginnings of documents ------------------------


@pytest.fixture
def joined(write_dataset, tmp_path):
    """40 documents of 12 vectors, every other one from source b; 8 sit the exams."""
    lengths = [12] * 40
    folder = write_dataset(tmp_path / "joined", drifting_vectors(lengths), lengths)
    table = pd.read_csv(folder / "documents.csv")
    table["source"] = ["a", "b"] * 20
    table["role"] = ["pool"] * 32 + ["validation"] * 4 + ["test"] * 4
    table.to_csv(folder / "documents.csv", index=False)
    return open_dataset(folder)


def sources_of(dataset, windows):
    return set(
        dataset.documents["source"].to_numpy()[dataset.document_of(windows[:, 0])]
    )


def test_a_horizon_moves_the_target_alone(joined):
    one, three = (make_split(joined, "controlled", 120, horizon=h) for h in (1, 3))
    for part, windows in vars(three).items():
        assert (np.diff(windows[:, :-1]) == 1).all()
        assert (windows[:, -1] - windows[:, -2] == 3).all()
        ends = joined.document_of(windows[:, [0, -1]])
        assert (ends[:, 0] == ends[:, 1]).all()
        per_document = {len(getattr(one, part)): 12 - 5, len(windows): 12 - 7}
        (a, b), (x, y) = per_document, per_document.values()
        assert a / x == b / y  # documents


def test_sources_have_their_shares_and_the_exam_has_all(joined):
    split = make_split(joined, "controlled", 96, seed=1, sources="a:1, b:3")
    documents = pd.Series(joined.document_of(np.unique(split.train)))
    counts = joined.documents["source"].loc[documents].value_counts()
    assert counts.to_dict() == {"a": 24, "b": 72}
    only = make_split(joined, "controlled", 96, seed=1, sources="a:1")
    assert (
        sources_of(joined, only.train) == sources_of(joined, only.validation) == {"a"}
    )
    assert sources_of(joined, only.test) == {"a", "b"}
    np.testing.assert_array_equal(only.test, split.test)


def test_the_beginnings_of_documents(joined):
    split = make_split(joined, "controlled", 128, per_document=8)
    rows = np.unique(split.train)
    starts = joined.documents["start"].to_numpy()[joined.document_of(rows)]
    assert (rows - starts).max() == 7
    assert len(np.unique(joined.document_of(rows))) == 16
    assert len(split.train) == 16 * 3


@pytest.mark.parametrize("protocol", ["controlled", "as_reported"])
@pytest.mark.parametrize("horizon", [1, 3])
def test_a_running_mean_is_that_of_what_the_window_has_behind_it(
    dataset_folder, protocol, horizon
):
    dataset = open_dataset(dataset_folder)
    named = {"context": 5, "horizon": horizon}
    plain = make_split(dataset, protocol, 150, **named)
    with_means = make_split(dataset, protocol, 150, **named, running_mean=True)
    starts = dataset.documents["start"].to_numpy()
    for part, windows in vars(with_means).items():
        np.testing.assert_array_equal(windows[:, 1:], getattr(plain, part))
        np.testing.assert_array_equal(dataset.chunks_of(windows), windows[:, 1:])
        for window in windows[::7]:
            first, last = starts[dataset.document_of(window[-2])], window[-2]
            total = dataset.gather(np.arange(first, last + 1)).sum(axis=0)
            found = dataset.gather(window[0])
            np.testing.assert_allclose(found, total / np.linalg.norm(total), atol=1e-3)
    assert with_means.train.shape[1] == 7
    expected, found = (describe(dataset, s) for s in (plain, with_means))
    pd.testing.assert_frame_equal(found, expected)


def test_a_running_mean_holds_nothing_of_the_target_or_after_it(
    write_dataset, tmp_path
):
    vectors = drifting_vectors()
    dataset = open_dataset(write_dataset(tmp_path / "one", vectors))
    windows = make_split(dataset, "controlled", 150, running_mean=True).train
    for window in windows[::9]:
        changed = vectors.copy()
        changed[window[-1] :] *= -1
        other = Dataset(Path("other"), {}, dataset.documents, changed, None)
        before = (d.gather(window[:-1]) for d in (dataset, other))
        np.testing.assert_allclose(*before, atol=1e-3)
        assert dataset.document_of(window[0]) == dataset.document_of(window[-1])


def test_what_follows_a_window_is_of_its_document_and_of_its_set(
    write_dataset, tmp_path, monkeypatch
):
    monkeypatch.setattr("lvmlib.vectors.FOLLOWING", 4)
    dataset = open_dataset(write_dataset(tmp_path / "d", drifting_vectors()))
    windows = make_split(dataset, "controlled", 150, running_mean=True).train
    windows = np.random.default_rng(0).permutation(windows)[::2]
    targets = windows[:, -1]
    for window, found in zip(windows, dataset.following(windows), strict=True):
        later = targets[dataset.document_of(targets) == dataset.document_of(window[-1])]
        later = np.sort(later[later > window[-1]])[:4]
        assert found.tolist() == [*later, *[window[-1]] * (4 - len(later))]


@pytest.mark.parametrize(
    ("wrong", "found"),
    [
        ({"sources": "c:1"}, "'c', expected each at most once of what .* a, b"),
        ({"sources": "a:1, a:2"}, "'a', expected each at most once"),
        ({"sources": "a"}, "expected such as"),
        ({"sources": "a:-1"}, "expected such as"),
        ({"sources": "a:nan"}, "expected such as"),
        ({"sources": "a:1", "size": 193}, "193 is larger than the 192 vectors"),
        ({"horizon": 0}, "horizon is 0"),
        ({"per_document": -1}, "per_document is -1"),
    ],
)
def test_sources_that_are_none(joined, wrong, found):
    with pytest.raises(DatasetError, match=found):
        make_split(joined, "controlled", **{"size": 48} | wrong)
