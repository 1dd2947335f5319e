"""Weight files: ours and other people's, whole, damaged and hostile."""

from __future__ import annotations

import argparse
import json
import os
import pickle
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from lvmlib import weights
from lvmlib.models import build_model
from lvmlib.recipe import make_settings
from lvmlib.runs import new_model
from lvmlib.weights import WeightsError, load_weights, save_weights

FIVE = ("amn", "graphmert", "gru", "lstm", "transformer")


def same(model, other) -> bool:
    first, second = model.state_dict(), other.state_dict()
    return first.keys() == second.keys() and all(
        torch.equal(first[key], second[key]) for key in first
    )


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("amn", dim=8)


@pytest.fixture
def state(model):
    return dict(model.state_dict())


def refusal(path) -> str:
    with pytest.raises(WeightsError) as error:
        load_weights(path)
    message = str(error.value)
    assert str(path) in message
    assert message.endswith(".")
    return message


# --- what loads ---


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("amn", {"hidden": 4}),
        ("lstm", {"hidden": 4, "layers": 1, "dropout": 0.0}),
        ("gru", {"hidden": 4, "layers": 3}),
        ("transformer", {"hidden": 4, "heads": 2, "feedforward": 4, "context": 7}),
        ("graphmert", {"mask": "smooth", "layers": 1, "heads": 2, "feedforward": 4}),
    ],
)
def test_our_files_come_back_whole(name, options, tmp_path):
    model = build_model(name, dim=8, **options)
    save_weights(model, tmp_path / "model.safetensors")
    random_numbers = torch.get_rng_state()
    loaded = load_weights(tmp_path / "model.safetensors")
    assert torch.equal(torch.get_rng_state(), random_numbers)
    assert loaded.architecture == name
    assert loaded.options == model.options
    assert same(model, loaded)
    assert not loaded.training
    x = torch.randn(2, model.options["context"], 8)
    assert torch.equal(loaded(x), model.eval()(x))
    if name == "graphmert":
        assert loaded.decay_mask.kind == "smooth"
    loaded.train()(x).sum().backward()  # may be trained further


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_keys_and_shapes_tell_the_architecture(name, suffix, tmp_path):
    model = build_model(name, dim=16, context=3)
    path = tmp_path / f"file{suffix}"
    (torch.save if suffix == ".pt" else save_file)(model.state_dict(), path)
    loaded = load_weights(str(path))
    assert loaded.architecture == name
    assert loaded.options["dim"] == 16
    assert same(model, loaded)
    if name == "graphmert":
        assert loaded.options["context"] == 3
        assert loaded.decay_mask.kind == "band"
    x = torch.randn(2, 3, 16)
    assert torch.equal(loaded(x), model.eval()(x))


@pytest.mark.parametrize("legacy", [False, True])
def test_checkpoints_with_everything_that_people_put_in_them(model, tmp_path, legacy):
    optimizer = torch.optim.AdamW(model.parameters())
    model(torch.randn(2, 5, 8)).sum().backward()
    optimizer.step()
    checkpoint = {
        "epoch": 16,
        "model_state_dict": model.state_dict(),
        "optimizer_state_dict": optimizer.state_dict(),
        "val_cosine": np.float64(0.5664),
        "val_loss": np.float32(0.001),
        "history": [{"epoch": 1, "curve": np.arange(3.0), "flag": np.bool_(True)}],
        "args": argparse.Namespace(lr=5e-4, data=Path("a/b.npz"), epochs=20),
    }
    path = tmp_path / "best_model.pth"
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    assert same(load_weights(path), model)
    with pytest.raises(pickle.UnpicklingError):  # and torch's own list is as it was
        torch.load(path, weights_only=True)


def test_ddp_prefix(state, model, tmp_path):
    path = tmp_path / "ddp.pt"
    prefixed = {f"module.{key}": value for key, value in state.items()}
    torch.save({"model_state_dict": prefixed}, path)
    assert same(load_weights(path), model)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_floating_types_become_float32(state, tmp_path, dtype):
    torch.save(
        {key: value.to(dtype) for key, value in state.items()}, tmp_path / "w.pt"
    )
    loaded = load_weights(tmp_path / "w.pt")
    for key, value in loaded.state_dict().items():
        assert value.dtype == torch.float32
        assert torch.equal(value, state[key].to(dtype).float())


def test_saving_is_atomic(model, tmp_path, monkeypatch):
    path = tmp_path / "run" / "model.safetensors"
    save_weights(model, path)
    before = path.read_bytes()

    def full_disk(tensors, filename, metadata):
        Path(filename).write_bytes(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("lvmlib.weights.save_file", full_disk)
    with pytest.raises(OSError, match="No space left"):
        save_weights(model, path)
    assert path.read_bytes() == before
    assert os.listdir(path.parent) == [path.name]


def test_metadata_are_written(model, tmp_path):
    save_weights(model, tmp_path / "m.safetensors")
    plain = load_file(tmp_path / "m.safetensors")
    assert torch.equal(plain["context_encoder.bias"], model.context_encoder.bias)
    raw = (tmp_path / "m.safetensors").read_bytes()
    assert b'"architecture":"amn"' in raw


# --- what does not ---


class Attack:
    def __init__(self, function, *args):
        self.call = function, args

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("how", ["torch", "legacy", "pickle"])
@pytest.mark.parametrize("where", ["beside", "instead"])
@pytest.mark.parametrize("what", ["os.system", "exec"])
def test_code_is_refused_and_not_run(state, tmp_path, how, where, what):
    sentinel = tmp_path / "sentinel"
    if what == "exec":
        attack = Attack(exec, f"open({str(sentinel)!r}, 'w')")
    else:
        attack = Attack(os.system, f"touch {sentinel}")
    content = {"model_state_dict": state, "args": attack}
    if where == "instead":
        content = attack
    path = tmp_path / "best_model.pt"
    if how == "pickle":
        path.write_bytes(pickle.dumps(attack, protocol=2))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=how == "torch")
    message = refusal(path)
    assert ("exec" if what == "exec" else "system") in message
    assert "wants to run" in message
    assert not sentinel.exists()
    # the file is a real attack: an unguarded load does run it
    if how == "torch":
        torch.load(path, weights_only=False)
        assert sentinel.exists()


def test_a_pickled_model_is_refused(model, tmp_path):
    torch.save(model, tmp_path / "whole.pt")
    assert "wants to run lvmlib.models.amn.AMN" in refusal(tmp_path / "whole.pt")


def test_missing_and_unexpected_keys_are_named(state, tmp_path):
    state["query_encoder.weights"] = state.pop("query_encoder.weight")
    torch.save(state, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert "amn" in message
    assert "missing query_encoder.weight (256, 8);" in message
    assert "unexpected query_encoder.weights (256, 8)." in message


def test_another_networks_file_is_refused(tmp_path):
    torch.save(torch.nn.Linear(3, 3).state_dict(), tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert all(name in message for name in FIVE)
    assert "bias, weight" in message
    save_file({}, tmp_path / "w.safetensors")
    assert "keys none; expected" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda t: t[:, :-1], "unexpected query_encoder.weight (256, 7)"),
        (lambda t: t.int(), "is torch.int32"),
        (lambda t: t.to(torch.complex64), "is torch.complex64"),
        (lambda t: t.to_sparse(), "torch.sparse_coo"),
        (lambda t: t * float("nan"), "NaN or infinite"),
        (lambda t: t * float("inf"), "NaN or infinite"),
        (lambda t: t.tolist(), "is a list"),
    ],
)
def test_wrong_tensors_are_named(state, tmp_path, change, words):
    state["query_encoder.weight"] = change(state["query_encoder.weight"])
    torch.save(state, tmp_path / "w.pt")
    message = refusal(tmp_path / "w.pt")
    assert words in message
    assert "query_encoder.weight" in message


def test_shapes_that_no_model_has_are_refused(tmp_path):
    state = build_model("graphmert", dim=8).state_dict()
    state["pos_embedding"] = torch.zeros(1, 5, 12)
    torch.save(state, tmp_path / "w.pt")
    assert "divisible by heads" in refusal(tmp_path / "w.pt")
    state["pos_embedding"] = torch.zeros(5, 8)
    torch.save(state, tmp_path / "w.pt")
    refusal(tmp_path / "w.pt")


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_missing_empty_truncated_and_foreign_files(model, tmp_path, suffix):
    path = tmp_path / f"model{suffix}"
    assert "is not there" in refusal(path)
    path.touch()
    assert "is empty" in refusal(path)
    path.write_text("epoch,cosine\n1,0.5\n")
    assert "damaged or not a" in refusal(path)
    if suffix == ".pt":
        torch.save(model.state_dict(), path)
    else:
        save_weights(model, path)
    whole = path.read_bytes()
    for part in range(1, 20):
        path.write_bytes(whole[: len(whole) * part // 20])
        assert "damaged or not a" in refusal(path)
    path.unlink()
    path.mkdir()
    assert "is not there (or not a file)" in refusal(path)


@pytest.mark.parametrize("content", [{}, [1], {"epoch": 3}, {"model_state_dict": None}])
def test_files_without_weights(tmp_path, content):
    torch.save(content, tmp_path / "w.pt")
    assert "holds no weights" in refusal(tmp_path / "w.pt")


@pytest.mark.parametrize(
    "metadata",
    [
        {"architecture": "mamba"},
        {"architecture": "amn", "options": "{"},
        {"architecture": "amn", "options": '{"colour": 1}'},
        {"architecture": "amn", "options": "[8]"},
        {"architecture": "amn", "options": '{"dim": 8, "hidden": "x"}'},
    ],
)
def test_metadata_of_no_use(state, tmp_path, metadata):
    save_file(state, tmp_path / "w.safetensors", metadata)
    assert "metadata" in refusal(tmp_path / "w.safetensors")


@pytest.mark.parametrize(
    "wrapped",
    [
        "_orig_mod.",
        "module.",
        "_orig_mod.module.",
        "module._orig_mod.",
        "module.module.module.",
    ],
)
def test_files_of_wrapped_models_are_read(tmp_path, wrapped):
    usual = build_model("amn", dim=8)
    state = {wrapped + key: value for key, value in usual.state_dict().items()}
    torch.save(state, tmp_path / "usual.pt")
    loaded = load_weights(tmp_path / "usual.pt").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in usual.state_dict().items())


def test_weights_in_another_order_of_memory_are_the_same_after_a_round_trip(tmp_path):
    model = build_model("amn", dim=8)
    for parameter in model.parameters():
        if parameter.ndim == 2:
            parameter.data = parameter.data.T.contiguous().T  # as numpy's Fortran order
    save_weights(model, tmp_path / "model.safetensors")
    loaded = load_weights(tmp_path / "model.safetensors").state_dict()
    assert all(torch.equal(loaded[k], v) for k, v in model.state_dict().items())


def test_one_flipped_byte_is_found(tmp_path):
    model = build_model("amn", dim=8, hidden=4, mlp=8)
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    content = bytearray(path.read_bytes())
    content[-3] ^= 1  # in the last number's mantissa
    (tmp_path / "flipped.safetensors").write_bytes(content)
    with pytest.raises(
        WeightsError, match="numbers or options that were not saved in it"
    ):
        load_weights(tmp_path / "flipped.safetensors")
    assert load_weights(path).digest


def test_one_changed_option_is_found(tmp_path):
    model = build_model("graphmert", dim=8, heads=4, layers=1, feedforward=8)
    path = tmp_path / "model.safetensors"
    save_weights(model, path)
    content = path.read_bytes()
    assert content.count(b'heads\\": 4') == 1
    path.write_bytes(content.replace(b'heads\\": 4', b'heads\\": 2'))
    with pytest.raises(WeightsError, match="or options that were not saved in it"):
        load_weights(path)


def test_a_digest_of_the_numbers_alone_is_still_one(tmp_path):
    model = build_model("amn", dim=8, hidden=4, mlp=8)
    state = model.state_dict()
    of_old = {"architecture": "amn", "options": json.dumps(model.options)}
    of_old["sha256"] = weights.digest(state)
    save_file(state, tmp_path / "old.safetensors", of_old)
    assert load_weights(tmp_path / "old.safetensors").digest == of_old["sha256"]


@pytest.mark.parametrize("use", weights.PRETRAINED)
def test_what_ships_has_a_digest_and_says_what_it_reads(use):
    model = weights.load_pretrained(use)
    assert len(model.digest) == 64
    assert model.running_mean == (use != "best")


def test_that_a_model_reads_the_mean_is_kept(tmp_path):
    settings = make_settings("amn", {"running_mean": True, "hidden": 4, "mlp": 8})
    model = new_model(settings, dim=8)
    save_weights(model, tmp_path / "model.safetensors")
    assert load_weights(tmp_path / "model.safetensors").running_mean


def test_a_file_without_a_digest_loads_and_says_so(tmp_path):
    model = build_model("amn", dim=8)
    save_file(model.state_dict(), tmp_path / "model.safetensors")
    assert load_weights(tmp_path / "model.safetensors").digest == ""


@pytest.mark.parametrize("kind", ["weights", "ridge", "low_rank"])
def test_every_member_of_the_linear_family_is_told_by_its_keys(tmp_path, kind):
    model = build_model("linear", dim=6, kind=kind, rank=2)
    for parameter in model.parameters():
        parameter.data = torch.randn(parameter.shape)
    torch.save(model.state_dict(), tmp_path / "linear.pt")
    loaded = load_weights(tmp_path / "linear.pt")
    context = torch.randn(4, 5, 6)
    assert torch.equal(loaded(context), model(context))
