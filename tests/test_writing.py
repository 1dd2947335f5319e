import gzip
import json
import resource
import signal
import subprocess
import sys

import numpy as np
import pandas as pd
import pytest

from lvmlib.corpus.writing import quantise, write_dataset
from lvmlib.vectors import DatasetError, open_dataset

DOCUMENTS = pd.DataFrame(
    {"document_id": ["a", "b"], "title": ["A", "B"], "start": [0, 7], "stop": [7, 20]}
)


def vectors(n=20, dim=32, seed=0):
    return np.random.default_rng(seed).normal(size=(n, dim)).astype(np.float32)


def blocks(array, size=6):
    return (array[start : start + size] for start in range(0, len(array), size))


def unit(array):
    return array / np.linalg.norm(array, axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("dtype", "worst"), [("int8", 0.9998), ("float16", 0.999999), ("float32", 1 - 1e-6)]
)
def test_what_was_written_is_read_back(tmp_path, dtype, worst):
    array = vectors()
    dataset = write_dataset(
        tmp_path / "d", blocks(array), DOCUMENTS, {"name": "d"}, dtype
    )
    again = open_dataset(tmp_path / "d").gather(np.arange(20))  # verifies norms, hashes
    assert (unit(array) * unit(again)).sum(axis=1).min() > worst
    assert dataset.info["n"] == 20
    assert dataset.documents["title"].tolist() == ["A", "B"]


def test_quantised_rows_are_unit_vectors_and_quantising_again_changes_nothing():
    rows, scales = quantise(vectors(200, 768))
    back = rows * scales[:, None]
    np.testing.assert_allclose(np.linalg.norm(back, axis=1), 1, atol=1e-6)
    assert (unit(vectors(200, 768)) * back).sum(axis=1).mean() > 0.9999
    assert (quantise(back)[0] == rows).all()


def test_chunks_are_kept_with_their_rows(tmp_path):
    texts = [f"chunk {n}, “quoted”" for n in range(20)]
    write_dataset(tmp_path / "d", [vectors()], DOCUMENTS, {"name": "d"}, chunks=texts)
    with gzip.open(tmp_path / "d" / "chunks.jsonl.gz", "rt", encoding="utf-8") as file:
        lines = [json.loads(line) for line in file]
    assert [line["text"] for line in lines] == texts
    assert [line["row"] for line in lines] == list(range(20))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ([vectors(19)], "19 vectors were given for documents with 20 rows"),
        ([vectors(21)], "do not fit"),
        ([vectors(10), vectors(10, 16)], "changed its dimension"),
        ([np.zeros((20, 8), np.float32)], "zero, NaN or infinite"),
        ([np.full((20, 8), np.nan, np.float32)], "zero, NaN or infinite"),
    ],
)
def test_vectors_that_do_not_fit_leave_nothing_behind(tmp_path, given, message):
    with pytest.raises(DatasetError, match=message):
        write_dataset(tmp_path / "d", given, DOCUMENTS, {"name": "d"})
    assert not list(tmp_path.iterdir())


def test_a_folder_that_exists_is_not_touched(tmp_path):
    (tmp_path / "keep").write_text("mine")
    with pytest.raises(DatasetError, match="exists already"):
        write_dataset(tmp_path, [vectors()], DOCUMENTS, {"name": "d"})
    assert (tmp_path / "keep").read_text() == "mine"


def test_a_full_disk_is_one_sentence_and_leaves_nothing(tmp_path):
    code = (
        "import numpy as np, pandas as pd\n"
        "from lvmlib.corpus.writing import write_dataset\n"
        "documents = pd.DataFrame({'document_id': ['a'], 'title': ['A'],"
        " 'start': [0], 'stop': [5000]})\n"
        "ones = np.ones((5000, 768), np.float32)\n"
        f"write_dataset({str(tmp_path / 'd')!r}, [ones], documents, {{'name': 'd'}})\n"
    )

    def limit():
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))

    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, preexec_fn=limit
    )
    assert done.returncode == 1
    assert "could not be written" in done.stderr.splitlines()[-1]
    assert not list(tmp_path.iterdir())
