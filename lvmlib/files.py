"""Writing files so that a kill or a full disk never leaves half of one behind."""

from __future__ import annotations

import glob
import hashlib
import json
import os
import platform
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from safetensors import SafetensorError


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its name on success.

    For a file, or a folder that the caller makes. What stood at `path` stays untouched
    until the new one is complete and on disk. What a killed process left of its own try
    is swept away.

    Raises
    ------
    OSError
        When the disk is full or the folder cannot be written; names the file.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        if temporary.is_file():
            with temporary.open("rb") as file:
                os.fsync(file.fileno())
        os.replace(temporary, path)
    # torch.save and safetensors report a full disk as errors of their own.
    except (OSError, RuntimeError, SafetensorError) as error:
        reason = getattr(error, "strerror", None) or str(error) or repr(error)
        raise OSError(
            f"{path} could not be written ({reason.splitlines()[0]}); what was there "
            "before is untouched. Free some space, or set LVM_RUNS to a folder on "
            "another disk, and start again: finished work is kept."
        ) from error
    finally:
        with suppress(OSError):  # where the folder itself is what is wrong
            _remove(temporary)


def _temporary(path: Path) -> Path:
    """Name this process's temporary; remove those that killed ones left of `path`."""
    ours = f".{path.name}.{platform.node()}."
    for left in path.parent.glob(f"{glob.escape(ours)}*.tmp"):
        number = left.name.removeprefix(ours).removesuffix(".tmp")
        # No process's number, one gone already, or not ours to ask or remove.
        with suppress(ValueError, OverflowError, OSError):
            try:
                os.kill(int(number), 0)  # sends nothing
            except ProcessLookupError:
                _remove(left)
    return path.with_name(f"{ours}{os.getpid()}.tmp")


def _remove(path: Path) -> None:
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)


def write_json(path: str | Path, content: dict[str, Any]) -> None:
    """Write a dictionary as indented JSON, atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def read_json(path: str | Path) -> dict[str, Any] | None:
    """Return the content of a JSON file, or None if it is missing or damaged."""
    try:
        content = json.loads(Path(path).read_text())
    except (OSError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def sha256(path: str | Path) -> str:
    """Return the SHA-256 of a file in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def copy_file(source: str | Path, target: str | Path) -> None:
    """Copy a file, whole or not at all."""
    with atomic_path(target) as temporary:
        shutil.copyfile(source, temporary)


def runs_root() -> Path:
    """Return $LVM_RUNS, else runs/ in the project (or the current) folder."""
    return Path(os.environ.get("LVM_RUNS") or project_folder() / "runs")


def project_folder() -> Path:
    """Return the folder of this project, else (lvmlib is installed) the current one."""
    project = Path(__file__).parent.parent
    return project if (project / "parameters").is_dir() else Path.cwd()


def one_line(error: BaseException) -> str:
    """Return what another library's error says, on one line, to stand in a sentence."""
    return " ".join(str(error).split()) or type(error).__name__
