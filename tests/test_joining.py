"""Several datasets joined into one: shares, sources, and parts that do not fit."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest
from conftest import LENGTHS, drifting_vectors

from lvmlib.corpus.joining import join_datasets
from lvmlib.corpus.writing import write_dataset as write_part
from lvmlib.vectors import DatasetError, open_dataset

ENCODER = {"name": "all-mpnet-base-v2", "precision": "float32"}
ROLES = ["pool"] * 12 + ["validation"] * 4 + ["test"] * 4


@pytest.fixture
def part(tmp_path, write_dataset):
    """Return a function that writes a part of 400 vectors in 20 documents."""

    def write(name, seed=0, **options):
        facts = {"name": name, "encoder": ENCODER, "licence": "CC0"} | options
        vectors = drifting_vectors(dim=facts.pop("dim", 16), seed=seed)
        return write_dataset(tmp_path / name, vectors, **facts)

    return write


def everything(dataset) -> np.ndarray:
    return dataset.gather(np.arange(dataset.n))


def test_all_of_two_parts(tmp_path, part):
    parts = [part("wiki", 1, roles=ROLES), part("books", 2, roles=ROLES[::-1])]
    joined = join_datasets([(p, 1.0) for p in parts], tmp_path / "out", "mixed")
    wiki, books = map(open_dataset, parts)
    stacked = np.concatenate([everything(wiki), everything(books)])
    assert np.allclose(everything(joined), stacked, atol=1e-6)
    documents = joined.documents
    assert list(documents["source"]) == ["wiki"] * 20 + ["books"] * 20
    assert list(documents["document_id"][[0, 19, 20]]) == [
        "wiki/0",
        "wiki/19",
        "books/0",
    ]
    assert list(documents["stop"] - documents["start"]) == [*LENGTHS, *LENGTHS]
    assert list(documents["role"]) == [*ROLES, *ROLES[::-1]]
    assert list(documents["title"]) == [*wiki.documents["title"]] * 2
    assert open_dataset(tmp_path / "out").info["join"] == {
        "seed": 0,
        "parts": [
            {"name": d.info["name"], "sha256": d.sha256, "share": 1.0}
            | {"documents": 20, "vectors": 400}
            for d in (wiki, books)
        ],
    }
    assert (joined.info["name"], joined.info["encoder"]) == ("mixed", ENCODER)
    assert joined.info["licence"] == "CC0"


@pytest.mark.parametrize("share", [0.001, 0.25, 0.5, 0.77, 1])
def test_shares_are_met_to_within_one_document(tmp_path, part, share):
    parts = [(part("a"), share), (part("b", 1), 1 - share / 2)]
    joined = join_datasets(parts, tmp_path / "out", "mixed")
    lengths = joined.documents["stop"] - joined.documents["start"]
    counts = lengths.groupby(joined.documents["source"]).sum()
    for (_, asked), name, stated in zip(
        parts, "ab", joined.info["join"]["parts"], strict=True
    ):
        assert 0 <= counts[name] - asked * 400 < max(LENGTHS)
        assert stated["vectors"] == counts[name]
        assert stated["documents"] == (joined.documents["source"] == name).sum()


def test_documents_are_whole_in_order_and_keep_their_vectors(tmp_path, part):
    original = open_dataset(part("a", roles=ROLES))
    joined = join_datasets([(original.folder, 0.5)], tmp_path / "out", "half")
    taken = joined.documents["document_id"].astype(int).to_numpy()
    assert 2 < len(taken) < 18
    assert (np.diff(taken) > 0).all()
    for place, document in enumerate(taken):
        here, there = joined.documents.iloc[place], original.documents.iloc[document]
        assert (here["title"], here["role"]) == (there["title"], there["role"])
        rows = np.arange(there["start"], there["stop"])
        found = joined.gather(np.arange(here["start"], here["stop"]))
        assert np.allclose(found, original.gather(rows), atol=1e-6)


def test_samples_repeat_nest_and_follow_the_seed(tmp_path, part):
    folder = part("a")

    def ids(name, share, seed):
        out = tmp_path / name
        return list(join_datasets([(folder, share)], out, "j", seed).documents.title)

    first = ids("1", 0.4, 0)
    assert ids("2", 0.4, 0) == first
    assert (tmp_path / "1/vectors.npy").read_bytes() == (
        tmp_path / "2/vectors.npy"
    ).read_bytes()
    assert set(first) < set(ids("3", 0.8, 0))
    assert ids("4", 0.4, 1) != first


def test_ids_that_differ_stay_and_a_joined_part_keeps_its_sources(tmp_path, part):
    joined = join_datasets([(part("a"), 1), (part("b", 1), 1)], tmp_path / "ab", "ab")
    again = join_datasets(
        [(joined.folder, 1), (part("c", 2), 1)], tmp_path / "abc", "abc"
    )
    assert list(again.documents["source"].unique()) == ["a", "b", "c"]
    assert list(again.documents["document_id"][[0, 20, 40]]) == ["a/0", "b/0", "0"]


def test_joining_int8_again_changes_no_byte(tmp_path):
    stops = np.cumsum(LENGTHS)
    documents = pd.DataFrame({"document_id": range(20), "title": "", "stop": stops})
    documents["start"], parts = stops - LENGTHS, []
    for seed in (0, 1):
        parts.append((tmp_path / f"part{seed}", 1.0))
        info = {"name": f"part{seed}", "encoder": ENCODER}
        vectors = drifting_vectors(dim=48, seed=seed)
        write_part(parts[-1][0], [vectors], documents, info)
    joined = join_datasets(parts, tmp_path / "out", "mixed")
    assert joined.vectors.dtype == np.int8
    for file in ("vectors.npy", "scales.npy"):
        stacked = np.concatenate([np.load(folder / file) for folder, _ in parts])
        assert np.array_equal(np.load(tmp_path / "out" / file), stacked)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32", "float32"], "float32"),
        (["float16", "float32"], "float16"),
        (["float32", "int8"], "int8"),
    ],
)
def test_the_smallest_dtype_is_kept(tmp_path, part, dtypes, expected):
    parts = [(part(f"p{i}", i, dtype=dtype), 1) for i, dtype in enumerate(dtypes)]
    joined = join_datasets(parts, tmp_path / "out", "mixed")
    assert joined.vectors.dtype == joined.info["dtype"] == expected
    stacked = np.concatenate([drifting_vectors(seed=seed) for seed in (0, 1)])
    found = everything(joined)
    found /= np.linalg.norm(found, axis=1, keepdims=True)  # float16 rounds it too
    assert np.einsum("nd,nd->n", found, stacked).min() > 0.9999


# --- bad input ----------------------------------------------------------------------


def refuse(parts, output, match):
    with pytest.raises(DatasetError, match=match):
        join_datasets(parts, output, "mixed")
    assert not output.exists()


@pytest.mark.parametrize("share", [0, -0.5, 1.01, float("nan"), None])
def test_a_share_that_is_none(tmp_path, part, share):
    refuse([(part("a"), share)], tmp_path / "out", f"a has the share {share}, expected")


@pytest.mark.parametrize("seed", [-1, "0", None])
def test_a_seed_that_is_none(tmp_path, part, seed):
    with pytest.raises(DatasetError, match="seed is"):
        join_datasets([(part("a"), 1)], tmp_path / "out", "mixed", seed)


def test_no_parts(tmp_path):
    refuse([], tmp_path / "out", "no datasets to join")


def test_another_dimension(tmp_path, part):
    parts = [(part("a"), 1), (part("b", dim=8), 1)]
    refuse(
        parts,
        tmp_path / "out",
        r"b has vectors of all-.* \(8 d.*\), but .*a has those .* \(16 d",
    )


def test_another_encoder(tmp_path, part):
    parts = [(part("a"), 1), (part("b", encoder="gtr-t5-base"), 1)]
    match = "b has vectors of gtr-t5-base .*, but .*a has those of all-mpnet-.*: encode"
    refuse(parts, tmp_path / "out", match)


def test_an_encoder_is_its_name(tmp_path, part):
    other = part("b", 1, encoder=ENCODER | {"precision": "bfloat16 weights"})
    parts = [(part("a"), 1), (other, 1), (part("c", 2, encoder=ENCODER["name"]), 1)]
    local = {"name": ENCODER["name"].rpartition("/")[2]}  # as a folder tells it
    parts.append((part("d", 3, encoder=local), 1))
    assert join_datasets(parts, tmp_path / "out", "mixed").n == 1600


@pytest.mark.parametrize("encoder", [None, "", {"pooling": "mean"}])
def test_no_encoder_named(tmp_path, part, encoder):
    parts = [(part("a", encoder=encoder), 1), (part("b", encoder=encoder), 1)]
    refuse(parts, tmp_path / "out", r"a/dataset\.json names no encoder")


@pytest.mark.parametrize("first", [True, False])
def test_roles_in_one_part_only(tmp_path, part, first):
    with_roles, without = part("with", roles=ROLES), part("without", 1)
    parts = [(with_roles, 1), (without, 1)][:: 1 if first else -1]
    match = "/without gives its documents no roles, but other parts do: name the shares"
    refuse(parts, tmp_path / "out", match)


def test_parts_without_roles_get_them(tmp_path, part):
    with_roles, without = part("with", roles=ROLES), part("without", 1)
    parts = [(with_roles, 1), (without, 1)]
    given = {"held_out": (0.1, 0.2), "exam_chunks": 7}
    joined = join_datasets(parts, tmp_path / "joined", "joined", **given)
    roles = joined.documents.groupby("source")["role"]
    assert roles.get_group("with").tolist() == list(ROLES)
    drawn = roles.get_group("without").value_counts()
    documents = len(open_dataset(without).documents)
    assert drawn["test"] == max(2, round(0.2 * documents))
    assert drawn["validation"] == max(2, round(0.1 * documents))
    # Of a test document one block, of the others all.
    before = open_dataset(without)
    for here in joined.documents.query("source == 'without'").itertuples():
        number = before.documents["title"].tolist().index(here.title)
        there = before.documents.iloc[number]
        rows = np.arange(there["start"], there["stop"])
        found = joined.gather(np.arange(here.start, here.stop))
        whole = before.gather(rows)
        if here.role != "test":
            np.testing.assert_allclose(found, whole, atol=1e-6)
            continue
        assert len(found) == min(7, len(rows))
        (first,) = np.flatnonzero(np.isclose(whole, found[0]).all(axis=1))
        block = whole[first : first + len(found)]
        np.testing.assert_allclose(found, block, atol=1e-6)
    with pytest.raises(DatasetError, match="held_out has the share 2"):
        join_datasets(parts, tmp_path / "other", "joined", held_out=(0.1, 2))


def test_the_same_name_twice(tmp_path, part):
    folder = part("a")
    refuse([(folder, 1), (folder, 0.5)], tmp_path / "out", "second part named 'a'")


def test_a_damaged_part(tmp_path, part):
    folder = part("a")
    info = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps(info | {"sha256": "0" * 64}))
    refuse([(part("b"), 1), (folder, 1)], tmp_path / "out", "changed or damaged")
