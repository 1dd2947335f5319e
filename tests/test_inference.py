"""Predictions and the device they are made on."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from lvmlib import inference
from lvmlib.inference import predict, resolve_device, with_mean
from lvmlib.models import build_model


@pytest.fixture
def model():
    torch.manual_seed(0)
    return build_model("lstm", dim=8, hidden=4, dropout=0.5)


@pytest.fixture
def context():
    vectors = np.random.default_rng(0).normal(size=(7, 5, 8)).astype(np.float32)
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def test_unit_vectors_one_window_or_many(model, context):
    many = predict(model, context)
    one = predict(model, context[2])
    assert many.shape == (7, 8)
    assert one.shape == (8,)
    assert many.dtype == one.dtype == np.float32
    np.testing.assert_allclose(np.linalg.norm(many, axis=1), 1, rtol=1e-6)
    np.testing.assert_allclose(one, many[2], atol=1e-6)
    raw = model.eval()(torch.from_numpy(context)).detach().numpy()
    expected = raw / np.linalg.norm(raw, axis=1, keepdims=True)
    np.testing.assert_allclose(many, expected, atol=1e-6)


def test_no_dropout_and_the_models_mode_is_restored(model, context):
    model.train()
    assert np.array_equal(predict(model, context), predict(model, context))
    assert model.training
    model.eval()
    predict(model, context)
    assert not model.training
    model.train()
    with pytest.raises(ValueError, match="dimension"):
        predict(model, context[..., :4])
    assert model.training


def test_blocks_do_not_matter(model, context, monkeypatch):
    whole = predict(model, context)
    monkeypatch.setattr(inference, "BLOCK", 3)
    np.testing.assert_allclose(predict(model, context), whole, atol=1e-6)


def test_lists_tensors_half_precision_and_read_only_arrays(model, context, recwarn):
    expected = predict(model, context)
    context.setflags(write=False)
    tensor = torch.tensor(context, requires_grad=True)
    for same in (context, context.tolist(), context.astype(np.float64), tensor):
        np.testing.assert_array_equal(predict(model, same), expected)
    for half in (context.astype(np.float16), tensor.bfloat16()):
        np.testing.assert_allclose(predict(model, half), expected, atol=0.02)
    assert predict(model, context[:0]).shape == (0, 8)
    assert not recwarn.list


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (np.zeros(8), r"shape \(8,\); expected \(T, D\)"),
        (np.zeros((2, 3, 5, 8)), r"shape \(2, 3, 5, 8\)"),
        (np.zeros((2, 0, 8)), r"shape \(2, 0, 8\)"),
        (np.zeros((5, 9)), "dimension 9, but this lstm was trained on 8"),
        (np.full((5, 8), np.nan), "NaN"),
        (np.zeros((5, 8)), "zero vector"),
        (np.full((5, 8), np.inf), "NaN or infinite"),
    ],
)
def test_bad_contexts_get_one_sentence(model, bad, words):
    with pytest.raises(ValueError, match=words):
        predict(model, bad)


def test_auto_is_cuda_then_mps_then_cpu(monkeypatch):
    there = {"cuda": True, "mps": True}
    monkeypatch.setattr(torch.cuda, "is_available", lambda: there["cuda"])
    monkeypatch.setattr(torch.backends.mps, "is_available", lambda: there["mps"])
    assert resolve_device().type == "cuda"
    there["cuda"] = False
    assert resolve_device("auto").type == "mps"
    with pytest.raises(ValueError, match="'cuda' is not available"):
        resolve_device("cuda")
    there["mps"] = False
    assert resolve_device().type == "cpu"
    assert resolve_device("cpu").type == "cpu"


def test_unknown_devices_get_the_nearest():
    with pytest.raises(ValueError, match=r"'cudda'. Did you mean 'cuda'"):
        resolve_device("cudda")


def test_vectors_of_another_length_are_divided_by_it(model, context):
    expected = predict(model, context)
    for factor in (30, 1e-20, 1e25, 1e-30):
        scaled = factor * context.astype(np.float64)
        np.testing.assert_allclose(predict(model, scaled), expected, atol=1e-6)


def test_the_mean_of_all_so_far_comes_first():
    vectors = np.eye(8, dtype=np.float32)[:7]
    context = with_mean(vectors)
    assert context.shape == (6, 8)
    np.testing.assert_allclose(context[0, :7], 7**-0.5, rtol=1e-6)
    np.testing.assert_array_equal(context[1:], vectors[2:])
    for wrong in (vectors[:4], vectors[0]):
        with pytest.raises(ValueError, match="n of at least 5"):
            with_mean(wrong)
