"""Weight files: ours, and the ones that other people already have."""

from __future__ import annotations

import hashlib
import json
import re
import textwrap
from collections.abc import Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import nn

from lvmlib.files import atomic_path, one_line
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.names import unknown_name
from lvmlib.start import Started

DIGEST = "sha256"  # in a file's metadata
WRAPPED = ("module.", "_orig_mod.")  # what DDP and torch.compile put before names
PRETRAINED_ENCODER = "all-mpnet-base-v2"  # whose vectors the shipped models read
PRETRAINED = {
    use: Path(__file__).parent / "pretrained" / f"{use}.safetensors"
    for use in ("best", "ranking", "running")
}


class WeightsError(ValueError):
    """A file that does not hold the weights of one of our architectures."""


def save_weights(model: nn.Module, path: str | Path) -> None:
    """Write a model of `build_model` as ``.safetensors``, atomically.

    The file's metadata carry ``architecture`` and, as JSON, ``options``; those of a
    `Started` model ``head_start`` and ``scale`` too; of one that reads the mean of all
    so far ``running_mean``; and a digest of all this and the numbers.

    Raises
    ------
    OSError
        When the file cannot be written; names it.
    """
    metadata = {
        "architecture": model.architecture,
        "options": json.dumps(model.options),
    }
    if isinstance(model, Started):
        metadata |= {"scale": json.dumps(model.scale), "head_start": model.head_start}
    if getattr(model, "running_mean", False):
        metadata["running_mean"] = "true"
    state = {
        key.removeprefix("network."): value.contiguous()
        for key, value in model.state_dict().items()
    }
    metadata[DIGEST] = digest(state, metadata)
    with atomic_path(path) as temporary:
        save_file(state, temporary, metadata)


def digest(
    state: dict[str, torch.Tensor], metadata: dict[str, str] | None = None
) -> str:
    """Return the SHA-256 of tensors' names, types, shapes and bytes, and of metadata.

    Without them it is that of files from before they were part of it.
    """
    found = hashlib.sha256()
    if metadata:
        found.update(json.dumps(metadata, sort_keys=True).encode())
    for key in sorted(state):
        value = state[key].detach().cpu().contiguous()
        found.update(f"{key} {value.dtype} {tuple(value.shape)} ".encode())
        found.update(value.flatten().view(torch.uint8).numpy())
    return found.hexdigest()


def load_weights(path: str | Path) -> nn.Module:
    """Load a trained model, on the CPU, in float32 and in evaluation mode.

    Parameters
    ----------
    path : str or Path
        A ``.safetensors`` file, or a ``.pt``/``.pth`` file that holds a state dict
        or a dict with ``model_state_dict`` among other entries, which are ignored.
        Nothing in the file is executed.

    Returns
    -------
    nn.Module
        The architecture, and `dim` and `context` where they shape the weights, are
        told by the file's keys and shapes. Our own files tell all options; other
        people's graphmert gets the band mask and everything the usual sizes. Its
        attribute `digest` is that of the file, checked, or "" where it has none;
        `running_mean` says whether it reads `inference.with_mean`.

    Raises
    ------
    WeightsError
        When the file is missing, damaged, carries code, its numbers are not those that
        were saved, or its keys, shapes or numbers are not those of one of our
        architectures.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"{path} is not there (or not a file); check the path.")
    if path.stat().st_size == 0:
        raise WeightsError(f"{path} is empty; fetch or write it again.")
    if path.suffix == ".safetensors":
        state, metadata = _read_safetensors(path)
    else:
        state, metadata = _read_torch(path), {}
    stated = metadata.pop(DIGEST, "")
    found = digest(state, metadata) if stated else ""
    if stated != found and stated != digest(state):  # the latter in older files
        raise WeightsError(
            f"{path} has numbers or options that were not saved in it: its digest is "
            f"{found[:9]}, but its metadata state {stated[:9]}; fetch it again."
        )
    # Saved from inside DDP, from a compiled model, or both, in either order.
    while state and (
        prefix := next((p for p in WRAPPED if all(k.startswith(p) for k in state)), "")
    ):
        state = {key.removeprefix(prefix): value for key, value in state.items()}
    if "head_start" in metadata:
        state = {
            key if key.startswith("start.") else f"network.{key}": value
            for key, value in state.items()
        }
    with torch.device("meta"):  # names and shapes, but no memory and no random numbers
        model = _build(path, state, metadata)
    model.load_state_dict(_checked(path, state, model), assign=True)
    model.digest, model.running_mean = stated, "running_mean" in metadata
    return model.eval()


def load_pretrained(use: str = "best") -> nn.Module:
    """Load a small model that ships with the package; its card lies beside it.

    Parameters
    ----------
    use : {"best", "ranking", "running"}
        The model of five chunks that is nearest to the next vector; or of two that read
        the mean of all chunks so far, too (`with_mean`), one fitted to tell the next
        chunk from those after it, and one that is nearer than any of five chunks, but
        worse at that.

    All predict vectors of all-mpnet-base-v2; those of another encoder mean nothing to
    them. Raises WeightsError if the package was installed without them.
    """
    if use not in PRETRAINED:
        raise unknown_name("use", use, PRETRAINED)
    return load_weights(PRETRAINED[use])


def _read_safetensors(path: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            return state, file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise WeightsError(
            f"{path} is damaged or not a safetensors file ({one_line(error)}); fetch "
            "or write it again."
        ) from error


class _Inert:
    """Stands for an object of the file that we do not need: holds and does nothing."""

    def __init__(self, *args: Any): ...

    __setstate__ = __init__


# What checkpoints often hold beside the weights: command-line arguments, paths, and
# metrics as numpy numbers (under the names that older versions gave them, too).
_BESIDE = ["argparse.Namespace", "numpy.dtype", "numpy.ndarray"]
for _core in ("numpy.core.multiarray", "numpy._core.multiarray"):
    _BESIDE += [f"{_core}.scalar", f"{_core}._reconstruct"]
for _module in ("pathlib", "pathlib._local"):
    _BESIDE += [f"{_module}.{kind}" for kind in ("Path", "PosixPath", "WindowsPath")]
    _BESIDE += [f"{_module}.PurePath", f"{_module}.PurePosixPath"]


def _read_torch(path: Path) -> dict[str, torch.Tensor]:
    inert = [(_Inert, name) for name in _BESIDE]
    try:
        with torch.serialization.safe_globals(inert):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a damaged file can fail anywhere in the reader
        code = re.search(r"GLOBAL (\S+)", str(error))
        if code:
            raise WeightsError(
                f"{path} wants to run {code[1]} and was not loaded; ask for a file "
                "that holds the state dict only."
            ) from None
        raise WeightsError(
            f"{path} is damaged or not a PyTorch weight file "
            f"({type(error).__name__}); fetch or write it again."
        ) from error
    if isinstance(content, dict):
        content = content.get("model_state_dict", content)
    if not isinstance(content, dict) or not content:
        raise WeightsError(
            f"{path} holds no weights but a {type(content).__name__}; expected a state "
            "dict, or a dict with 'model_state_dict'."
        )
    for key, value in content.items():
        if not isinstance(key, str) or not isinstance(value, torch.Tensor):
            raise WeightsError(
                f"{path} holds no weights: {key!r} is a {type(value).__name__}; "
                "expected a state dict, or a dict with 'model_state_dict'."
            )
    return content


def _build(
    path: Path, state: dict[str, torch.Tensor], metadata: dict[str, str]
) -> nn.Module:
    """Build the model that a file's metadata name or, without, its keys tell."""
    try:
        if "architecture" in metadata:
            options = json.loads(metadata.get("options", "{}"))
            model = build_model(metadata["architecture"], **options)
            if "head_start" in metadata:
                scale = json.loads(metadata.get("scale", "false"))
                kind = "ridge_to_weights" if "start.matrix" in state else "weights"
                model = Started(model, bool(scale), metadata["head_start"], kind)
            return model
        model = _nearest(state)
        with suppress(KeyError):  # keys are missing: `_checked` names them
            return build_model(model.architecture, **model.sizes_of(state))
        return model
    except (ValueError, TypeError, IndexError, RecursionError) as error:
        raise WeightsError(
            f"{path}: its metadata or shapes fit none of our models "
            f"({one_line(error)})."
        ) from error


def _nearest(state: dict[str, torch.Tensor]) -> nn.Module:
    """Build the usual model that shares the most keys with a file."""

    def overlap(model: nn.Module) -> float:
        keys = model.state_dict().keys()
        return len(keys & state.keys()) / len(keys | state.keys())

    nearest = max((build_model(name) for name in ARCHITECTURES), key=overlap)
    if overlap(nearest) == 0:
        raise ValueError(
            f"keys {_listed(state)}; expected those of one of "
            f"{', '.join(ARCHITECTURES)}"
        )
    return nearest


def _checked(
    path: Path, state: dict[str, torch.Tensor], model: nn.Module
) -> dict[str, torch.Tensor]:
    """Return the tensors as float32 once their keys, shapes and numbers are right."""
    expected, given = (
        {f"{key} {tuple(value.shape)}" for key, value in tensors.items()}
        for tensors in (model.state_dict(), state)
    )
    if given != expected:
        raise WeightsError(
            f"{path} is not a full {model.architecture} with {model.options}: missing "
            f"{_listed(expected - given)}; unexpected {_listed(given - expected)}."
        )
    checked = {}
    for key, found in state.items():
        if not found.is_floating_point() or found.layout is not torch.strided:
            raise WeightsError(
                f"{path}: {key} is {found.dtype} ({found.layout}); expected dense "
                "floating-point numbers."
            )
        checked[key] = found.detach().to(torch.float32, copy=True).contiguous()
        if not torch.isfinite(checked[key]).all():
            raise WeightsError(
                f"{path}: {key} holds NaN or infinite numbers; the training that wrote "
                "it has diverged."
            )
    return checked


def _listed(names: Iterable[str]) -> str:
    return textwrap.shorten(", ".join(sorted(names)) or "none", 300, placeholder=" …")
