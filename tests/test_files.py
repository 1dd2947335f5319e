"""Files that are whole or not there: errors, kills and full disks."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import subprocess
import sys

import pytest
from safetensors import SafetensorError

from lvmlib.files import atomic_path, read_json, sha256, write_json


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def fail_halfway(path, error):
    with atomic_path(path) as temporary:
        temporary.write_text("half")
        raise error


def test_a_new_file_in_new_folders(tmp_path):
    path = tmp_path / "a" / "b" / "new.txt"
    with atomic_path(path) as temporary:
        temporary.write_text("content")
        assert temporary.parent == path.parent  # a rename stays on one disk
        assert not path.exists()
    assert path.read_text() == "content"
    assert names(path.parent) == ["new.txt"]


def test_the_old_file_stands_until_the_new_one_is_complete(tmp_path):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with path.open() as reader:
        with atomic_path(str(path)) as temporary:
            temporary.write_text("new")
            assert path.read_text() == "old"
        assert path.read_text() == "new"
        assert reader.read() == "old"  # renamed, not written over


@pytest.mark.parametrize("error", [KeyError("no"), KeyboardInterrupt(), SystemExit(1)])
def test_an_error_leaves_the_old_file_and_nothing_else(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(type(error)):
        fail_halfway(path, error)
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


@pytest.mark.parametrize(
    "error",
    [
        OSError(28, "No space left on device"),
        RuntimeError("PytorchStreamWriter failed writing file\nmore"),
        RuntimeError(),
        SafetensorError("I/O error: No space left on device"),
    ],
)
def test_errors_of_writing_name_the_file_and_say_what_to_do(tmp_path, error):
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(OSError, match="could not be written") as caught:
        fail_halfway(path, error)
    message = str(caught.value)
    assert message.startswith(f"{path} could not be written (")
    assert "Free some space, or set LVM_RUNS to a folder on another disk" in message
    assert "\n" not in message
    assert caught.value.__cause__ is error
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_a_folder_that_cannot_be_made(tmp_path):
    (tmp_path / "file").write_text("not a folder")
    path = tmp_path / "file" / "run.json"
    with pytest.raises(OSError, match=r"run\.json could not be written") as error:
        write_json(path, {})
    assert str(path) in str(error.value)


def test_json_is_readable_and_atomic(tmp_path):
    path = tmp_path / "file.json"
    write_json(path, {"name": "Žižek", "n": 1})
    assert json.loads(path.read_text()) == {"name": "Žižek", "n": 1}
    assert "Žižek" in path.read_text()
    with pytest.raises(TypeError):
        write_json(path, {"n": object()})
    assert json.loads(path.read_text())["n"] == 1
    assert names(tmp_path) == ["file.json"]


def test_sha256(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"abc" * 100_000)
    assert sha256(path) == hashlib.sha256(b"abc" * 100_000).hexdigest()


WRITE_ON_A_FULL_DISK = """
import json, resource, signal, sys
from pathlib import Path
import torch
from lvmlib.files import atomic_path, write_json
from lvmlib.models import build_model
from lvmlib.weights import save_weights

folder = Path(sys.argv[1])
model = build_model("amn", dim=64)
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

def save_torch(path):
    with atomic_path(path) as temporary:
        torch.save(model.state_dict(), temporary)

messages = {}
for name, write in {
    "checkpoint.pt": save_torch,
    "model.safetensors": lambda path: save_weights(model, path),
    "run.json": lambda path: write_json(path, {"text": "x" * 30_000}),
}.items():
    try:
        write(folder / name)
    except OSError as error:
        messages[name] = str(error)
print(json.dumps(messages))
"""


def test_a_full_disk_names_the_file_and_leaves_the_old_one(tmp_path, python):
    """A limit on file sizes fails like a full disk: in the middle of a write."""
    files = ["checkpoint.pt", "model.safetensors", "run.json"]
    for name in files:
        (tmp_path / name).write_text(f"old {name}")
    child = python(WRITE_ON_A_FULL_DISK, tmp_path, stdout=-1)
    output, errors = child.communicate(timeout=60)
    assert child.returncode == 0, errors
    messages = json.loads(output)
    assert sorted(messages) == files
    for name, message in messages.items():
        assert message.startswith(f"{tmp_path / name} could not be written (")
        assert message.endswith("start again: finished work is kept.")
        assert "\n" not in message
        assert (tmp_path / name).read_text() == f"old {name}"
    assert names(tmp_path) == files  # no temporary file is left
    assert os.strerror(errno.EFBIG) in messages["run.json"]


@pytest.mark.parametrize("content", ["{", "", "caf\udce9", "[" * 200_000, "[1]", "1"])
def test_json_that_is_no_object_is_none(content, tmp_path):
    path = tmp_path / "a.json"
    assert read_json(path) is None
    path.write_bytes(content.encode(errors="surrogateescape"))
    assert read_json(path) is None
    path.write_text('{"a": 1}')
    assert read_json(path) == {"a": 1}


def test_what_killed_processes_left_is_swept(tmp_path):
    path, begin = tmp_path / "file[1].txt", "with atomic_path(sys.argv[1]) as t: "
    code = "import os, sys; from lvmlib.files import atomic_path\n" + begin
    code += "t.write_text('half'); os.kill(os.getpid(), 9)"
    subprocess.run([sys.executable, "-c", code, path])
    (left,) = tmp_path.iterdir()
    host = left.name.removesuffix(".tmp").rpartition(".")[0]
    others = (f"{host}.{os.getpid()}", ".file[1].txt.elsewhere.1", f"{host}.1")
    kept = [tmp_path / f"{name}.tmp" for name in others]  # alive, or another machine's
    for other in kept:
        other.touch()
    with atomic_path(path) as temporary:
        temporary.write_text("whole")
    assert not left.exists()
    assert sorted([path, *kept[1:]]) == sorted(tmp_path.iterdir())
