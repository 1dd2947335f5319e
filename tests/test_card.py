import gzip
import json
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from lvmlib.corpus import card
from lvmlib.vectors import DatasetError, make_split, open_dataset


@pytest.fixture(scope="module")
def sample():
    return open_dataset()


def test_origin_shows_no_path_of_the_machine_that_built_it(sample):
    encoder = {"name": "/home/someone/models/minilm", "dim": 384}
    info = {"name": "x", "encoder": encoder, "source": "/data/a.jsonl"}
    shown = card.origin(replace(sample, info=info)).set_index("entry")["value"]
    assert shown["encoder"] == "name: minilm, dim: 384"
    assert shown["source"] == "a.jsonl"


def test_counts_add_up_to_the_dataset(sample):
    table = card.counts(sample, None)
    assert table["vectors"].sum() == sample.n
    assert table["documents"].sum() == len(sample.documents)
    length = sample.documents["stop"] - sample.documents["start"]
    assert table["windows within documents"].sum() == (length - 5).clip(lower=0).sum()
    assert (table["windows over the stream"] == table["vectors"] - 5).all()


def test_characters_are_those_of_the_chunks(sample):
    table = card.counts(sample, ["abc"] * sample.n)
    assert (table["characters"] == 3 * table["vectors"]).all()


def test_chunks_of_another_dataset_are_refused(dataset_folder, tmp_path):
    folder = shutil.copytree(dataset_folder, tmp_path / "d")
    with gzip.open(folder / "chunks.jsonl.gz", "wt") as file:
        file.write('{"row": 0, "text": "only one"}\n')
    with pytest.raises(DatasetError, match="another dataset"):
        card.read_chunks(open_dataset(folder))


LINES = '{"row": 0, "text": "a"}\n' * 9
DAMAGED = {
    "no gzip": b"PK",
    "truncated": gzip.compress(LINES.encode())[:-9],
    "a wrong checksum": gzip.compress(LINES.encode())[:-8] + bytes(8),
    "other bytes": gzip.compress(LINES.encode())[:10] + b"\xff" * 50,
    "no JSON": gzip.compress(b"text"),
    "no UTF-8": gzip.compress(b'{"row": 0, "text": "caf\xe9"}'),
    "no text": gzip.compress(b'{"row": 0}'),
    "a list": gzip.compress(b"[0, 1]"),
    "a number": gzip.compress(b"0"),
    "too deep": gzip.compress(b"[" * 200_000),
    "too many digits": gzip.compress(b"9" * 5000),
}


@pytest.mark.parametrize("content", DAMAGED.values(), ids=DAMAGED)
def test_damaged_chunks_are_one_sentence(content, dataset_folder, tmp_path):
    folder = shutil.copytree(dataset_folder, tmp_path / "d")
    (folder / "chunks.jsonl.gz").write_bytes(content)
    with pytest.raises(
        DatasetError, match=r"is damaged after line \d.*copy it"
    ) as error:
        card.read_chunks(open_dataset(folder))
    assert str(folder / "chunks.jsonl.gz") in str(error.value)
    assert "\n" not in str(error.value)


def test_a_chunk_is_a_string(dataset_folder, tmp_path):
    folder = shutil.copytree(dataset_folder, tmp_path / "d")
    rows = [json.dumps({"row": n, "text": "a" if n else None}) for n in range(400)]
    (folder / "chunks.jsonl.gz").write_bytes(gzip.compress("\n".join(rows).encode()))
    with pytest.raises(DatasetError, match="in order, each with a text"):
        card.read_chunks(open_dataset(folder))


def test_cosine_by_lag_finds_a_known_structure(dataset_folder):
    """Lag 0 pairs documents, lag k stays inside one: checked against every pair."""
    dataset = open_dataset(dataset_folder)
    lags = card.cosine_by_lag(dataset).set_index("lag")["mean"]
    vectors = dataset.gather(np.arange(dataset.n))
    document = dataset.document_of(np.arange(dataset.n))
    inside = document[:-3] == document[3:]
    exact = (vectors[:-3] * vectors[3:]).sum(axis=1)[inside].mean()
    assert lags[3] == pytest.approx(exact, abs=0.02)
    apart = (vectors @ vectors.T)[document[:, None] != document].mean()
    assert lags[0] == pytest.approx(apart, abs=0.03)


def test_nearest_position_counts_every_window_once(sample):
    table = card.nearest_position(sample, make_split(sample, "controlled", 1000).test)
    assert table["position"].tolist() == ["t−5", "t−4", "t−3", "t−2", "t−1"]
    assert table["nearest in"].sum() == pytest.approx(1)
    assert table["mean cosine"].is_monotonic_increasing  # nearer chunks are nearer


def test_effective_rank_of_known_clouds():
    class Cloud:
        def __init__(self, vectors):
            self.vectors, self.n = vectors, len(vectors)

        def gather(self, rows):
            return self.vectors[rows]

    even = np.vstack([np.eye(8), -np.eye(8)] * 50)
    line = np.outer(np.linspace(-1, 1, 800), np.eye(8)[0])
    assert card.geometry(Cloud(even))["effective_rank"] == pytest.approx(8, rel=1e-3)
    assert card.geometry(Cloud(line))["effective_rank"] == pytest.approx(1, rel=1e-3)
    assert card.geometry(Cloud(even))["mean_norm"] == pytest.approx(0, abs=1e-6)


def test_duplicates_are_found_where_they_were_put(sample, tmp_path):
    from lvmlib.corpus.writing import write_dataset
    from lvmlib.vectors import document_rows, exam_documents

    vectors = sample.gather(np.arange(sample.n))
    parts = {k: document_rows(sample, v) for k, v in exam_documents(sample).items()}
    vectors[parts["test"][:40]] = vectors[parts["pool"][100:140]]
    info = {"name": "repeated"}
    dataset = write_dataset(tmp_path / "d", [vectors], sample.documents, info)
    before = card.duplicates(sample).set_index(["vectors of", "also in"])
    after = card.duplicates(dataset).set_index(["vectors of", "also in"])
    column = "exact duplicates"
    assert after[column]["test", "pool"] == 40 + before[column]["test", "pool"]
    assert after[column]["pool", "pool"] == before[column]["pool", "pool"]


def test_the_sample_is_fit_and_a_shuffled_one_is_not(sample):
    lags, repeated = card.cosine_by_lag(sample), card.duplicates(sample)
    assert card.fitness(sample, lags, repeated)["fit"].all()
    shuffled = lags.assign(mean=lags["mean"].iloc[0])
    checks = card.fitness(sample, shuffled, repeated).set_index("check")["fit"]
    assert checks.to_dict() == {"gap": False, "repeated": True, "documents": True}


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs /proc")
def test_a_million_vectors_need_little_memory(tmp_path):
    """Memory that the process owns, not pages of the file that it may drop again."""
    code = (
        "from pathlib import Path\n"
        "import numpy as np\n"
        "import json\n"
        "from lvmlib.vectors import make_split, open_dataset\n"
        "def owned():\n"
        "    status = Path('/proc/self/status').read_text()\n"
        "    return int(status.split('RssAnon:')[1].split()[0]) / 1024\n"
        f"place = Path({str(tmp_path / 'million')!r})\n"
        "place.mkdir()\n"
        "n, files = 1_000_000, np.lib.format\n"
        "path = place / 'vectors.npy'\n"
        "files.open_memmap(path, 'w+', np.float16, (n, 64))[:] = 0.125\n"
        "rows = [f'{i},t,{i},{i + 100}' for i in range(0, n, 100)]\n"
        "lines = ['document_id,title,start,stop', *rows]\n"
        "(place / 'documents.csv').write_text('\\n'.join(lines))\n"
        "info = {'name': 'x', 'n': n, 'dim': 64, 'sha256': ''}\n"
        "(place / 'dataset.json').write_text(json.dumps(info))\n"
        "before = owned()\n"
        "dataset = open_dataset(place, verify=False)\n"
        "split = make_split(dataset, 'controlled', 600_000)\n"
        "dataset.gather(split.train[np.random.default_rng(0).integers(0, 1000, 256)])\n"
        "print(owned() - before)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert float(done.stdout) < 300, done.stderr
