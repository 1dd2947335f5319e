"""The fast layers against torch's plain ones, in float64."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from conftest import needs_cuda
from control import plain_amn, plain_gru, plain_lstm, plain_transformer
from torch import nn

from lvmlib.layers import Dropout, GRULayer, LSTMLayer, keep_mask, run_recurrent
from lvmlib.models import build_model

EXACT = {"rtol": 0, "atol": 1e-10}


def gradients(output, inputs):
    """Backpropagate the same random numbers through an output."""
    generator = torch.Generator().manual_seed(1)
    seed = torch.randn(output.shape, generator=generator, dtype=output.dtype)
    return torch.autograd.grad((output * seed).sum(), inputs)


@pytest.mark.parametrize("steps", [1, 2, 5])
@pytest.mark.parametrize(
    ("plain", "fast"), [(nn.LSTM, LSTMLayer), (nn.GRU, GRULayer)], ids=["lstm", "gru"]
)
def test_recurrent_layers_equal_torch(plain, fast, steps):
    torch.manual_seed(0)
    layer = plain(12, 8).double()
    weights = list(layer.parameters())
    x = torch.randn(steps, 7, 12, dtype=torch.float64, requires_grad=True)
    expected, _ = layer(x)
    found = fast.apply(x, *weights)
    torch.testing.assert_close(found, expected, **EXACT)
    for ours, theirs in zip(
        gradients(found, [x, *weights]), gradients(expected, [x, *weights]), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("plain", [nn.LSTM, nn.GRU])
def test_recurrent_layers_of_torch_keep_out_of_autocast(plain):
    torch.manual_seed(0)
    layer, x = plain(12, 8), torch.randn(5, 7, 12)
    expected, _ = layer(x)
    with torch.autocast("cpu", torch.bfloat16):
        states = run_recurrent(layer, x)
        rounded = run_recurrent(layer, x.bfloat16())
    assert torch.equal(states, expected)
    assert rounded.dtype == torch.float32
    torch.testing.assert_close(rounded, expected, rtol=0, atol=0.02)


@needs_cuda
@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_small_gradients_survive_mixed_precision_on_a_gpu(name):
    torch.manual_seed(0)
    model = build_model(name).cuda().train()
    for module in model.modules():
        if isinstance(module, nn.LSTM):
            module.dropout = 0.0
    context = torch.randn(64, 5, 768, device="cuda") / 768**0.5
    found = []
    for enabled in (False, True):
        with torch.autocast("cuda", torch.bfloat16, enabled=enabled):
            raw = model(context).float()
        loss = (raw - context[:, -1]).square().mean()
        found.append(torch.autograd.grad(loss, model.parameters()))
    for exact, mixed in zip(*found, strict=True):
        assert (mixed - exact).norm() < 0.05 * exact.norm()


@pytest.mark.parametrize("plain", [plain_amn, plain_lstm, plain_gru, plain_transformer])
def test_models_equal_their_plain_form(plain):
    torch.manual_seed(0)
    model = build_model(plain.__name__.removeprefix("plain_"), dim=24).double()
    for module in model.modules():  # no dropout, but training's code path
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        if isinstance(module, nn.MultiheadAttention | nn.LSTM):
            module.dropout = 0.0
    model.train()
    context = torch.randn(6, 5, 24, dtype=torch.float64, requires_grad=True)
    found, expected = model(context), plain(model, context)
    torch.testing.assert_close(found, expected, **EXACT)
    inputs = [context, *model.parameters()]
    for ours, theirs in zip(
        gradients(found, inputs), gradients(expected, inputs), strict=True
    ):
        torch.testing.assert_close(ours, theirs, **EXACT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("p", [0.1, 0.2, 0.9])
def test_mask_drops_a_share_p(p, dtype):
    torch.manual_seed(0)
    mask = keep_mask(torch.empty(1001, 999, dtype=dtype), p)
    assert mask.dtype == dtype
    assert mask.shape == (1001, 999)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    dropped = 1 - mask.double().mean().item()
    error = (p * (1 - p) / mask.numel()) ** 0.5
    assert abs(dropped - p) < 5 * error + 2**-17
    # Neighbours come from the same 64 random bits and must not know of each other.
    flat = mask.double().flatten()
    for lag in (1, 2, 3, 4):
        together = np.corrcoef(flat[:-lag], flat[lag:])[0, 1]
        assert abs(together) < 5e-3


def test_dropout_keeps_the_mean_and_repeats_with_the_seed():
    layer = Dropout(0.1)
    x = torch.ones(1000, 1000, requires_grad=True)
    torch.manual_seed(0)
    first = layer(x)
    torch.manual_seed(0)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))
    assert first.mean().item() == pytest.approx(1, abs=2e-3)
    first.sum().backward()
    assert torch.equal(x.grad, first.detach())  # what is dropped gets no gradient
    assert torch.equal(layer.eval()(x), x)


@pytest.mark.parametrize("p", [0.0, 1e-9, 1 - 1e-9, 1.0])
def test_dropout_at_the_ends(p):
    found = Dropout(p)(torch.ones(4, 5))
    assert torch.equal(found, torch.full((4, 5), float(p < 0.5)))
