"""What the tests share: a small dataset with structure, and runs kept out of sight."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbformat
import numpy as np
import pandas as pd
import pytest
import torch
from IPython.core.interactiveshell import InteractiveShell
from IPython.utils.capture import CapturedIO, capture_output
from traitlets.config import Config

sys.path.insert(0, str(Path(__file__).parent.parent / "notebooks" / "benchmark"))
from studies import LARGE, SMALL, write_pairs, write_run

NOTEBOOKS = Path(__file__).parent.parent / "notebooks"
torch.set_num_threads(1)
needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")

LENGTHS = (24, 9, 31, 6, 18, 27, 12, 40, 15, 22, 8, 30, 19, 11, 26, 14, 33, 7, 25, 23)


@pytest.fixture(scope="session", autouse=True)
def no_runs_in_the_checkout(tmp_path_factory):
    """Keep runs in a temporary folder."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LVM_RUNS", str(tmp_path_factory.mktemp("runs")))
        yield


@pytest.fixture
def run_notebook(monkeypatch):
    """Return a function that runs a notebook as papermill does, in this process.

    It gives back what the cells show, and as `values` their variables; an error of a
    cell is raised.
    """
    monkeypatch.chdir(NOTEBOOKS)  # where a kernel would be
    history = Config({"HistoryManager": {"hist_file": ":memory:"}})
    shell = InteractiveShell.instance(config=history)

    def run(name: str, **parameters) -> CapturedIO:
        lines = [f"{key} = {value!r}" for key, value in parameters.items()]
        injected = "\n".join(["# Parameters", *lines])
        with capture_output() as shown:
            for cell in nbformat.read(NOTEBOOKS / f"{name}.ipynb", as_version=4).cells:
                if cell.cell_type == "code":
                    shell.run_cell(cell.source, store_history=True).raise_error()
                if "parameters" in cell.metadata.get("tags", []) and parameters:
                    shell.run_cell(injected, store_history=True)
        shown.values = dict(shell.user_ns)
        return shown

    yield run
    InteractiveShell.clear_instance()
    plt.close("all")


@pytest.fixture
def runs_root(tmp_path, monkeypatch) -> Path:
    """Return a folder of runs for one test alone."""
    monkeypatch.setenv("LVM_RUNS", str(tmp_path / "runs"))
    return tmp_path / "runs"


def drifting_vectors(lengths=LENGTHS, dim=16, seed=0) -> np.ndarray:
    """Unit vectors of documents whose topic drifts, around a mean that all share."""
    rng = np.random.default_rng(seed)
    shared, rows = rng.standard_normal(dim), []
    for length in lengths:
        topic = rng.standard_normal(dim)
        for _ in range(length):
            topic = 0.9 * topic + 0.45 * rng.standard_normal(dim)
            rows.append(0.7 * shared + topic + 0.4 * rng.standard_normal(dim))
    vectors = np.array(rows)
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype("float32")


@pytest.fixture(scope="session")
def write_dataset():
    """Return a function that writes a dataset folder as the contract has it."""

    def write(
        folder: Path, vectors, lengths=LENGTHS, dtype="float32", roles=None, **info
    ) -> Path:
        folder.mkdir(parents=True, exist_ok=True)
        if dtype == "int8":
            scales = (np.abs(vectors).max(axis=1) / 127).astype("float32")
            np.save(folder / "scales.npy", scales)
            vectors = np.rint(vectors / scales[:, None])
        np.save(folder / "vectors.npy", vectors.astype(dtype))
        stops = np.cumsum(lengths)
        documents = pd.DataFrame({"document_id": np.arange(len(lengths))})
        documents["title"] = [f"Title {n}" for n in range(len(lengths))]
        documents["start"], documents["stop"] = stops - lengths, stops
        if roles is not None:
            documents["role"] = roles
        documents.to_csv(folder / "documents.csv", index=False)
        digest = hashlib.sha256((folder / "vectors.npy").read_bytes()).hexdigest()
        facts = {"name": "tiny", "n": len(vectors), "dim": vectors.shape[1]}
        content = facts | {"sha256": digest} | info
        (folder / "dataset.json").write_text(json.dumps(content))
        return folder

    return write


@pytest.fixture(scope="session")
def dataset_folder(tmp_path_factory, write_dataset) -> Path:
    """400 vectors of dimension 16 in 20 documents; 256 of them in the pool."""
    return write_dataset(tmp_path_factory.mktemp("data") / "tiny", drifting_vectors())


@pytest.fixture(scope="session")
def python():
    """Return a function that runs Python code in a process of its own."""

    def start(code: str, *arguments, **options) -> subprocess.Popen:
        places = [str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        environment["PYTHONPATH"] = os.pathsep.join(filter(None, places))
        command = [sys.executable, "-c", code, *map(str, arguments)]
        return subprocess.Popen(
            command, env=environment, stderr=subprocess.PIPE, text=True, **options
        )

    return start


@pytest.fixture
def study(tmp_path):
    """amn gains 0.03, gru 0.001, at three seeds; at equal updates amn gains 0.01."""
    write_pairs(tmp_path, {"amn": 0.03, "gru": 0.001})
    for seed in range(3):
        write_run(tmp_path, "amn", LARGE, 0.51, seed=seed, arm="steps", steps=SMALL)
    return tmp_path
