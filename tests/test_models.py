"""The architectures: sizes, keys, and outputs against numpy written from the text."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import erf
from torch import nn

import lvmlib.models
from lvmlib.models import (
    ARCHITECTURES,
    build_model,
    count_parameters,
    position_sensitivity,
)

FIVE = ("amn", "graphmert", "gru", "lstm", "transformer")
TINY = {
    "amn": {"hidden": 6, "mlp": 10},
    "lstm": {"hidden": 6},
    "gru": {"hidden": 6, "layers": 2},
    "transformer": {"hidden": 8, "layers": 2, "heads": 2, "feedforward": 12},
    "graphmert": {"layers": 2, "heads": 2, "feedforward": 12},
}


def tiny(name: str, dim: int = 8, context: int = 5, **options) -> nn.Module:
    """Build a small model whose every parameter is random, in float64."""
    torch.manual_seed(3)
    model = build_model(name, dim, context, **TINY[name] | options).double()
    with torch.no_grad():
        for key, parameter in model.named_parameters():
            if key != "decay_mask.threshold":
                parameter.normal_(std=0.5)
    return model


def windows(batch: int = 3, context: int = 5, dim: int = 8) -> torch.Tensor:
    generator = torch.Generator().manual_seed(5)
    return torch.randn(batch, context, dim, generator=generator, dtype=torch.float64)


# --- the same models in numpy, written from the description, not from the code ---


def softmax(x):
    x = np.exp(x - x.max(-1, keepdims=True))
    return x / x.sum(-1, keepdims=True)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def gelu(x):
    return x * (1 + erf(x / np.sqrt(2))) / 2


def linear(x, w, name):
    return x @ w[name + ".weight"].T + w[name + ".bias"]


def layer_norm(x, w, name):
    centred = x - x.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    return scaled * w[name + ".weight"] + w[name + ".bias"]


def attention(x, memory, w, name, mask, heads=2):
    """Multi-head attention of x to memory: result, and weights (B, heads, T, T)."""
    weight, bias = w[name + ".in_proj_weight"], w[name + ".in_proj_bias"]
    wq, wk, wv = np.split(weight, 3)
    bq, bk, bv = np.split(bias, 3)
    query, key, value = x @ wq.T + bq, memory @ wk.T + bk, memory @ wv.T + bv
    size = query.shape[-1] // heads
    results, weights = [], []
    for head in range(heads):
        part = slice(head * size, (head + 1) * size)
        scores = query[..., part] @ key[..., part].swapaxes(1, 2) / np.sqrt(size)
        weights.append(softmax(scores + mask))
        results.append(weights[-1] @ value[..., part])
    joined = np.concatenate(results, -1)
    return linear(joined, w, name + ".out_proj"), np.stack(weights, 1)


def numpy_amn(x, w):
    average = x.mean(1)
    keys = linear(x, w, "context_encoder")
    query = linear(average, w, "query_encoder")
    weights = softmax(np.einsum("bh,bth->bt", query, keys) / np.sqrt(6))
    h = np.concatenate([average, np.einsum("bt,btd->bd", weights, x)], -1)
    h = layer_norm(gelu(linear(h, w, "residual_net.0")), w, "residual_net.2")
    h = layer_norm(gelu(linear(h, w, "residual_net.3")), w, "residual_net.5")
    return average + linear(h, w, "residual_net.6"), weights


def recurrent_weights(w, name, layer=0):
    return [
        w[f"{name}.{kind}_l{layer}"]
        for kind in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    ]


def numpy_lstm(x, w):
    for layer in range(2):
        wi, wh, bi, bh = recurrent_weights(w, "lstm", layer)
        hidden = cell = np.zeros((len(x), wh.shape[1]))
        states = []
        for t in range(x.shape[1]):
            gates = x[:, t] @ wi.T + bi + hidden @ wh.T + bh
            i, f, g, o = np.split(gates, 4, -1)
            cell = sigmoid(f) * cell + sigmoid(i) * np.tanh(g)
            hidden = sigmoid(o) * np.tanh(cell)
            states.append(hidden)
        x = np.stack(states, 1)
    return linear(x[:, -1], w, "output_proj"), None


def numpy_gru(x, w):
    x = linear(x, w, "input_proj")
    for block in range(2):
        wi, wh, bi, bh = recurrent_weights(w, f"blocks.{block}.gru")
        hidden = np.zeros((len(x), wh.shape[1]))
        states = []
        for t in range(x.shape[1]):
            reset, update, new = np.split(x[:, t] @ wi.T + bi, 3, -1)
            h_reset, h_update, h_new = np.split(hidden @ wh.T + bh, 3, -1)
            z = sigmoid(update + h_update)
            candidate = np.tanh(new + sigmoid(reset + h_reset) * h_new)
            hidden = (1 - z) * candidate + z * hidden
            states.append(hidden)
        x = layer_norm(x + np.stack(states, 1), w, f"blocks.{block}.norm")
    return linear(x[:, -1], w, "output_proj"), None


def numpy_transformer(x, w):
    x = linear(x, w, "input_proj")
    length, size = x.shape[1:]
    for position in range(length):
        for k in range(0, size, 2):
            angle = position / 10_000 ** (k / size)
            x[:, position, k : k + 2] += np.sin(angle), np.cos(angle)
    memory, maps = x, []
    future = np.where(np.tri(length) == 0, -np.inf, 0)
    for i in range(2):
        name = f"transformer_decoder.layers.{i}"
        found, looking_back = attention(x, x, w, name + ".self_attn", future)
        x = layer_norm(x + found, w, name + ".norm1")
        found, reading = attention(x, memory, w, name + ".multihead_attn", future)
        x = layer_norm(x + found, w, name + ".norm2")
        h = np.maximum(linear(x, w, name + ".linear1"), 0)
        x = layer_norm(x + linear(h, w, name + ".linear2"), w, name + ".norm3")
        maps.append(np.stack([looking_back, reading], 1))
    h = layer_norm(gelu(linear(x[:, -1], w, "head.0")), w, "head.2")
    return linear(h, w, "head.3"), np.stack(maps, 1)


def numpy_graphmert(x, w, smooth=False):
    x, maps = x + w["pos_embedding"], []
    distance = np.abs(np.subtract.outer(np.arange(x.shape[1]), np.arange(x.shape[1])))
    if smooth:  # log of 0.6 ** GELU(...), added to the scores
        mask = np.log(0.6 ** gelu(np.sqrt(distance) - w["decay_mask.threshold"]))
    else:
        mask = np.where(distance > 2, -1e9 * (1 - 0.6**distance), 0)
    for i in range(2):
        name = f"layers.{i}"
        found, weights = attention(x, x, w, name + ".self_attn", mask)
        x = layer_norm(x + found, w, name + ".norm1")
        h = gelu(linear(x, w, name + ".feed_forward.0"))
        x = layer_norm(x + linear(h, w, name + ".feed_forward.3"), w, name + ".norm2")
        maps.append(weights)
    h = gelu(linear(x.mean(1), w, "output_head.0"))
    return linear(h, w, "output_head.3"), np.stack(maps, 1)


def numpy_smooth(x, w):
    return numpy_graphmert(x, w, smooth=True)


@pytest.mark.parametrize("context", [5, 3])
@pytest.mark.parametrize(
    ("name", "options", "by_hand"),
    [
        ("amn", {}, numpy_amn),
        ("lstm", {}, numpy_lstm),
        ("gru", {}, numpy_gru),
        ("transformer", {}, numpy_transformer),
        ("graphmert", {"mask": "band"}, numpy_graphmert),
        ("graphmert", {"mask": "smooth"}, numpy_smooth),
    ],
)
def test_outputs_and_attention_equal_numpy(name, options, by_hand, context):
    model = tiny(name, context=context, **options).eval()
    if name == "graphmert" and options["mask"] == "smooth":
        model.decay_mask.threshold.data.fill_(0.4)
    weights = {key: value.numpy() for key, value in model.state_dict().items()}
    x = windows(context=context)
    expected, expected_maps = by_hand(x.numpy(), weights)

    with_gradient = model(x).detach().numpy()
    with torch.inference_mode():  # torch takes another path here
        without = model(x).numpy()
    # float32 enters through the position table and the masks
    np.testing.assert_allclose(with_gradient, expected, atol=2e-6)
    np.testing.assert_allclose(without, expected, atol=2e-6)

    model.train()  # the looks inside ignore dropout and restore the mode
    if name == "amn":
        maps = model.attention(x).detach().numpy()
    elif name in ("transformer", "graphmert"):
        maps = model.attention_maps(x).numpy()
    else:
        return
    assert model.training
    assert maps.shape == expected_maps.shape
    np.testing.assert_allclose(maps, expected_maps, atol=2e-6)
    np.testing.assert_allclose(maps.sum(-1), 1, atol=1e-6)
    if name == "transformer":
        assert (maps[..., np.tri(context) == 0] == 0).all()
    if options.get("mask") == "band" and context == 5:
        apart = np.abs(np.subtract.outer(np.arange(5), np.arange(5)))
        assert (maps[..., apart > 2] == 0).all()
        assert (maps[..., apart <= 2] > 0).all()


# --- sizes and keys ---


@pytest.mark.parametrize(
    ("name", "trainable", "with_buffers"),
    [
        ("amn", 1_510_912, 1_510_912),
        ("lstm", 5_120_768, 5_120_768),
        ("gru", 7_095_552, 7_095_552),
        ("transformer", 17_867_520, 17_918_720),
        ("graphmert", 67_352_833, 67_352_833),
    ],
)
def test_parameter_counts(name, trainable, with_buffers):
    with torch.device("meta"):
        counts = count_parameters(build_model(name))
    assert counts == {"trainable": trainable, "with_buffers": with_buffers}


def both(*names):
    return {f"{name}.{kind}" for name in names for kind in ("weight", "bias")}


def attention_keys(name):
    return both(name + ".out_proj") | {name + ".in_proj_weight", name + ".in_proj_bias"}


def recurrent_keys(name, layers):
    kinds = ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
    return {f"{name}.{kind}_l{layer}" for kind in kinds for layer in range(layers)}


def tabled_keys(name):
    if name == "amn":
        nets = [f"residual_net.{i}" for i in (0, 2, 3, 5, 6)]
        return both("context_encoder", "query_encoder", *nets)
    if name == "lstm":
        return recurrent_keys("lstm", 2) | both("output_proj")
    if name == "gru":
        keys = both("input_proj", "output_proj")
        for i in range(4):
            keys |= recurrent_keys(f"blocks.{i}.gru", 1) | both(f"blocks.{i}.norm")
        return keys
    if name == "transformer":
        keys = both("input_proj", "head.0", "head.2", "head.3") | {"pos_encoder.pe"}
        parts = ("linear1", "linear2", "norm1", "norm2", "norm3")
        for i in range(4):
            layer = f"transformer_decoder.layers.{i}."
            keys |= attention_keys(layer + "self_attn")
            keys |= attention_keys(layer + "multihead_attn")
            keys |= both(*(layer + part for part in parts))
        return keys
    keys = both("output_head.0", "output_head.3")
    keys |= {"pos_embedding", "decay_mask.threshold"}
    for i in range(12):
        keys |= attention_keys(f"layers.{i}.self_attn")
        parts = ("feed_forward.0", "feed_forward.3", "norm1", "norm2")
        keys |= both(*(f"layers.{i}.{part}" for part in parts))
    return keys


@pytest.mark.parametrize("name", FIVE)
def test_state_keys_are_those_of_the_files_people_have(name):
    with torch.device("meta"):
        state = build_model(name).state_dict()
    assert set(state) == tabled_keys(name)
    if name == "transformer":
        assert state["pos_encoder.pe"].shape == (1, 100, 512)
    if name == "graphmert":
        assert state["pos_embedding"].shape == (1, 5, 768)
        assert state["decay_mask.threshold"].shape == ()


@pytest.mark.parametrize("name", FIVE)
@pytest.mark.parametrize(("dim", "context"), [(8, 1), (24, 7)])
def test_other_dims_and_contexts(name, dim, context):
    model = build_model(name, dim, context, **TINY[name])
    x = windows(2, context, dim).float()
    raw = model(x)
    assert raw.shape == (2, dim)
    raw.square().sum().backward()
    idle = {key for key, p in model.named_parameters() if p.grad is None}
    assert idle == ({"decay_mask.threshold"} if name == "graphmert" else set())


@pytest.mark.parametrize("name", FIVE)
def test_runs_under_bfloat16_autocast(name):
    model = tiny(name, dim=64).float()
    x = windows(dim=64).float() / 8
    model.eval()
    exact = model(x)
    with torch.autocast("cpu", torch.bfloat16):
        rough = model(x)
    torch.testing.assert_close(
        nn.functional.normalize(rough.float(), dim=-1),
        nn.functional.normalize(exact, dim=-1),
        atol=0.05,
        rtol=0,
    )
    model.train()
    with torch.autocast("cpu", torch.bfloat16):
        raw = model(x)
    raw.float().square().sum().backward()
    gradients = [p.grad for p in model.parameters() if p.grad is not None]
    assert all(torch.isfinite(gradient).all() for gradient in gradients)


def test_amn_without_weights_predicts_the_average():
    model = tiny("amn")
    for parameter in model.parameters():
        parameter.data.zero_()
    x = windows()
    torch.testing.assert_close(model(x), x.mean(1))
    torch.testing.assert_close(model.attention(x), torch.full_like(x[..., 0], 0.2))


@pytest.mark.parametrize("name", ["lstm", "transformer", "graphmert"])
def test_dropout_is_on_in_training_only(name):
    model, x = tiny(name, dropout=0.5), windows()
    assert not torch.equal(model(x), model(x))
    model.eval()
    assert torch.equal(model(x), model(x))


# --- graphmert's mask and initial weights ---


def test_band_mask_by_hand():
    far, farther = -1e9 * (1 - 0.216), -1e9 * (1 - 0.1296)
    expected = [
        [0, 0, 0, far, farther],
        [0, 0, 0, 0, far],
        [0, 0, 0, 0, 0],
        [far, 0, 0, 0, 0],
        [farther, far, 0, 0, 0],
    ]
    mask = build_model("graphmert", 8, **TINY["graphmert"]).decay_mask(5)
    torch.testing.assert_close(mask, torch.tensor(expected))


def test_smooth_mask_multiplies_attention_by_the_papers_factor():
    model = tiny("graphmert", mask="smooth", layers=1)
    model.decay_mask.threshold.data.fill_(1.0)
    factor = model.decay_mask(5).exp().detach()
    # √4 − 1 = 1 and GELU(1) = 0.8413447; √1 − 1 = 0, so neighbours keep their weight
    assert factor[0, 4].item() == pytest.approx(0.6**0.8413447)
    assert factor[0, 1].item() == pytest.approx(1)

    x = windows()
    masked = model.attention_maps(x)
    plain_model = tiny("graphmert", mask="band", layers=1)
    plain_model.decay_mask.threshold.data.fill_(9.0)  # a band that hides nothing
    product = plain_model.attention_maps(x) * factor
    expected = product / product.sum(-1, keepdim=True)
    torch.testing.assert_close(masked, expected, atol=1e-6, rtol=0)


def test_course_tells_what_each_layer_changes_and_how_alike_windows_get():
    model = tiny("graphmert", layers=2).train()
    seen = []
    for layer in model.layers:
        layer.register_forward_hook(
            lambda _, given, out: seen.append((given[0].numpy(), out.numpy()))
        )
    change, alike = model.course(windows())
    assert model.training  # as it was, though the course is without dropout
    by_hand = [
        np.mean(
            np.linalg.norm(after - before, axis=-1) / np.linalg.norm(before, axis=-1)
        )
        for before, after in seen
    ]
    np.testing.assert_allclose(change, by_hand, rtol=1e-5)

    def neighbours(x):  # cosine of each window's mean with the next window's
        mean = x.mean(axis=1)
        unit = mean / np.linalg.norm(mean, axis=1, keepdims=True)
        return (unit[1:] * unit[:-1]).sum(axis=1).mean()

    states = [seen[0][0], *(after for _, after in seen)]
    np.testing.assert_allclose(alike, [neighbours(x) for x in states], atol=1e-6)

    same = windows()[:1].expand(3, -1, -1)
    np.testing.assert_allclose(model.course(same)[1], 1, rtol=1e-6)


def test_threshold_learns_with_the_smooth_mask_only():
    gradients = {}
    for mask in ("band", "smooth"):
        model = tiny("graphmert", mask=mask)
        model(windows()).square().sum().backward()
        gradients[mask] = model.decay_mask.threshold.grad
    assert gradients["band"] is None
    assert gradients["smooth"].abs() > 1e-6


def test_both_masks_have_the_same_keys():
    band, smooth = (tiny("graphmert", mask=mask) for mask in ("band", "smooth"))
    smooth.load_state_dict(band.state_dict())


def test_graphmert_starts_as_reported():
    torch.manual_seed(0)
    model = build_model("graphmert", 256, layers=1, feedforward=512)
    state = model.state_dict()
    for key in ("layers.0.self_attn.out_proj", "layers.0.feed_forward.0"):
        assert state[key + ".weight"].std().item() == pytest.approx(0.02, rel=0.02)
        assert not state[key + ".bias"].any()
    assert state["pos_embedding"].std().item() == pytest.approx(0.02, rel=0.1)
    assert state["decay_mask.threshold"] == 2
    in_proj = state["layers.0.self_attn.in_proj_weight"]  # xavier: ±√(6 / (256 + 768))
    assert in_proj.abs().max().item() == pytest.approx((6 / 1024) ** 0.5, rel=0.01)


# --- found by name ---


def test_the_five_are_found():
    assert set(FIVE) <= set(ARCHITECTURES)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("transfomer", {}, ["transfomer", "Did you mean 'transformer'", "amn", "gru"]),
        ("", {}, ["Unknown architecture: ''", "lstm"]),
        ("graphmert", {"maks": "band"}, ["maks", "Did you mean 'mask'", "layers"]),
        ("graphmert", {"mask": "smoth"}, ["smoth", "Did you mean 'smooth'", "band"]),
        ("gru", {"dropout": 0.1}, ["option of gru", "dropout", "hidden"]),
        ("graphmert", {"dim": 100}, ["divisible by heads", "dim=100", "heads=8"]),
        ("transformer", {"hidden": 100}, ["hidden=100", "heads=8"]),
        ("transformer", {"hidden": 9, "heads": 3}, ["even", "hidden=9"]),
        ("transformer", {"context": 101}, ["at most 100", "101"]),
        ("lstm", {"dim": 0}, ["dim", "above 0", "0"]),
        ("amn", {"context": 2.5}, ["context", "2.5"]),
    ],
)
def test_errors_name_what_is_wrong_and_what_is_right(name, options, words):
    with pytest.raises(ValueError) as error:  # noqa: PT011, the words are below
        build_model(name, **options)
    for word in words:
        assert word in str(error.value)


def test_graphmert_refuses_another_number_of_vectors():
    model = tiny("graphmert")
    with pytest.raises(ValueError, match="built for 5 context vectors, got 1"):
        model(windows(context=1))


SIXTH = """
from torch import nn

class Scaled(nn.Module):

    def __init__(self, dim=768, context=5):
        super().__init__()
        self.scale = nn.Linear(dim, 1)

    @staticmethod
    def sizes_of(state):
        return {"dim": state["scale.weight"].shape[1]}

    def forward(self, context):
        return self.scale(context.mean(1)) * context.mean(1)

Model = Scaled
"""
USE_SIXTH = """
import torch
from lvmlib.models import ARCHITECTURES, build_model
from lvmlib.weights import load_weights
assert "scaled" in ARCHITECTURES, ARCHITECTURES
model = build_model("scaled", dim=8)
torch.save(model.state_dict(), "sixth.pt")
loaded = load_weights("sixth.pt")
assert loaded.architecture == "scaled" and loaded.options["dim"] == 8
assert torch.equal(loaded.scale.weight, model.scale.weight)
"""


def test_a_sixth_architecture_takes_one_file(tmp_path):
    package = Path(lvmlib.models.__file__).parents[1]
    leave = shutil.ignore_patterns("__pycache__", "sample", "pretrained")
    shutil.copytree(package, tmp_path / "lvmlib", ignore=leave)
    (tmp_path / "lvmlib/models/scaled.py").write_text(SIXTH)
    command = [sys.executable, "-c", USE_SIXTH]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


# --- sensitivity to each position ---


class LastButTwo(nn.Module):
    def forward(self, context):
        return context[:, 2]


def test_sensitivity_by_hand():
    x = windows(dim=16)
    found = position_sensitivity(LastButTwo(), x, projections=600)
    # u = x/|x| has the Jacobian (I − uu')/|x|, whose Frobenius norm is √(D−1)/|x|
    by_hand = np.sqrt(15) / x[:, 2].norm(dim=-1)
    torch.testing.assert_close(found[:, 2].double(), by_hand, rtol=0.05, atol=0)
    assert not found[:, [0, 1, 3, 4]].any()


@pytest.mark.parametrize("name", ["lstm", "gru"])
def test_sensitivity_equals_the_jacobians_norm(name):
    model, x = tiny(name), windows(batch=1)
    found = position_sensitivity(model, x, projections=600)
    assert model.training
    assert all(parameter.grad is None for parameter in model.parameters())
    assert torch.equal(found, position_sensitivity(model, x, projections=600))

    def unit(context):
        return nn.functional.normalize(model.eval()(context), dim=-1)

    jacobian = torch.autograd.functional.jacobian(unit, x)[0, :, 0]  # (D, T, D)
    exact = jacobian.square().sum((0, 2)).sqrt()
    torch.testing.assert_close(found[0].double(), exact, rtol=0.06, atol=0)
