"""The control: a training loop as such loops usually are, and the levers on top of it.

The control materialises its windows in float32, loads them with a DataLoader in
batches of 32, updates with torch's default AdamW and reads the loss after each step.
The plain models are the same modules as ours, with the same weights, computed by
torch's own layers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset
from torch.utils.flop_counter import FlopCounterMode

from lvmlib.gpu import resolve_precision
from lvmlib.layers import Dropout
from lvmlib.models import build_model
from lvmlib.models.transformer import causal_mask
from lvmlib.records import GRADIENT_NORM_LIMIT
from lvmlib.study import HUGE_PAGES
from lvmlib.training import clip_gradients
from lvmlib.vectors import Dataset


@dataclass(frozen=True)
class Variant:
    """A loop of the usual kind, with the levers that are pulled; none: the control."""

    batch_size: int = 32
    fused: bool = False  # AdamW in one kernel
    gather: bool = False  # from the memory map, no DataLoader and no .item()
    bf16: bool = False  # autocast
    layers: bool = False  # ours, in place of torch's plain ones; and clipping
    tunables: str = ""  # GLIBC_TUNABLES of the process


USUAL = Variant(256, fused=True, gather=True, bf16=True)
VARIANTS = {
    "control": Variant(),
    "fused": Variant(fused=True),
    "gather": Variant(gather=True),
    "batch128": Variant(128),
    "batch256": Variant(256),
    "bf16": Variant(bf16=True),
    "layers": Variant(layers=True),
    "usual": USUAL,
    "bare": replace(USUAL, layers=True),
    "all": replace(USUAL, layers=True),  # not this loop but `training.train`
    "malloc": replace(USUAL, layers=True, tunables=HUGE_PAGES),  # the same, and this
}
REPORTED_RATE, REPORTED_DECAY = 5e-4, 0.01
REPORTED_RATES = {"graphmert": 1e-4}  # where it is another one


def plain_amn(model: nn.Module, context: Tensor) -> Tensor:
    """Score with a key a position, as the description has it."""
    keys = model.context_encoder(context)  # (B, T, H)
    average = context.mean(1)
    scores = keys @ model.query_encoder(average)[..., None]  # (B, T, 1)
    weights = torch.softmax(scores / keys.shape[-1] ** 0.5, dim=1)
    mixture = (weights * context).sum(1)
    return average + model.residual_net(torch.cat([average, mixture], dim=-1))


def plain_lstm(model: nn.Module, context: Tensor) -> Tensor:
    """Run torch's LSTM."""
    return model.output_proj(model.lstm(context)[0][:, -1])


def plain_gru(model: nn.Module, context: Tensor) -> Tensor:
    """Run torch's GRU block by block."""
    x = model.input_proj(context)
    for block in model.blocks:
        states, _ = block.gru(x.transpose(0, 1))
        x = block.norm(x + states.transpose(0, 1))
    return model.output_proj(x[:, -1])


def plain_transformer(model: nn.Module, context: Tensor) -> Tensor:
    """Compute every position in every layer."""
    x = model.pos_encoder(model.input_proj(context))
    mask = causal_mask(x)
    decoded = model.transformer_decoder(x, x, tgt_mask=mask, memory_mask=mask)
    return model.head(decoded[:, -1])


PLAIN = {
    "amn": plain_amn,
    "lstm": plain_lstm,
    "gru": plain_gru,
    "transformer": plain_transformer,
}


def use_torch_dropout(model: nn.Module) -> nn.Module:
    """Put `nn.Dropout` where the fast one is, in place."""
    for parent in list(model.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, Dropout):
                setattr(parent, name, nn.Dropout(child.p))
    return model


def flops_per_window(architecture: str, dim: int = 768) -> int:
    """Count the operations of matrix products in training one window, by torch.

    Those that our layers execute on a CPU: forward and backward, two operations a
    multiplication. The counter knows products by name; the one that the LSTM adds in
    place is told to it.

    Raises
    ------
    ValueError
        If nothing was counted: the model multiplies in a way that torch cannot name.
    """
    model = build_model(architecture, dim=dim).train()
    in_place = {torch.ops.aten.addmm_: lambda c, a, b, **_: 2 * a[0] * a[1] * b[1]}
    counter = FlopCounterMode(display=False, custom_mapping=in_place)
    with counter:
        model(torch.randn(4, 5, dim)).sum().backward()
    if not counter.get_total_flops():
        raise ValueError(f"torch counts no matrix product in {architecture}.")
    return counter.get_total_flops() // 4


def batches(
    dataset: Dataset, windows: np.ndarray, variant: Variant, seed: int
) -> Callable[[], Iterable[tuple[Tensor, Tensor]]]:
    """Return what gives one pass of shuffled (B, T, D) contexts and (B, D) targets."""
    size = variant.batch_size
    if not variant.gather:
        context = torch.from_numpy(dataset.gather(windows[:, :-1]))  # (W, T, D)
        pairs = TensorDataset(context, torch.from_numpy(dataset.gather(windows[:, -1])))
        order = torch.Generator().manual_seed(seed)
        loader = DataLoader(pairs, size, shuffle=True, generator=order)
        return lambda: loader
    random = np.random.default_rng(seed)

    def gathered() -> Iterator[tuple[Tensor, Tensor]]:
        shuffled = windows[random.permutation(len(windows))]
        for start in range(0, len(shuffled), size):
            batch = torch.from_numpy(dataset.gather(shuffled[start : start + size]))
            yield batch[:, :-1], batch[:, -1]

    return gathered


def plain_model(
    architecture: str, variant: Variant, dim: int = 768
) -> tuple[nn.Module, Callable[[Tensor], Tensor]]:
    """Return a model and its forward pass: torch's plain layers, or ours."""
    model = build_model(architecture, dim=dim)
    if variant.layers:
        return model, model
    use_torch_dropout(model)
    plain = PLAIN.get(architecture)  # without one: as it is, with torch's dropout
    return model, (lambda context: plain(model, context)) if plain else model


def plain_optimizer(
    architecture: str, model: nn.Module, variant: Variant
) -> torch.optim.Optimizer:
    """Return AdamW with the reported rate."""
    rate = REPORTED_RATES.get(architecture, REPORTED_RATE)
    fused = {"fused": True} if variant.fused else {}  # else torch's default
    return torch.optim.AdamW(
        model.parameters(), rate, weight_decay=REPORTED_DECAY, **fused
    )


def one_pass(
    forward: Callable[[Tensor], Tensor],
    optimizer: torch.optim.Optimizer,
    pairs: Iterable[tuple[Tensor, Tensor]],
    variant: Variant,
    turn: Callable[[int], None] = lambda windows: None,
) -> list[float]:
    """Train on the batches as a plain loop does; return the loss of each batch."""
    parameters = optimizer.param_groups[0]["params"]
    bf16 = variant.bf16 and has_bf16()
    losses, sums = [], torch.zeros(3)
    for context, target in pairs:
        turn(len(target))
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            raw = forward(context)
        loss = F.mse_loss(raw.to(target.dtype), target)
        optimizer.zero_grad()
        loss.backward()
        if variant.layers:
            norm = clip_gradients(parameters, GRADIENT_NORM_LIMIT)
        else:
            norm = nn.utils.clip_grad_norm_(parameters, GRADIENT_NORM_LIMIT)
        optimizer.step()
        if variant.gather:  # the same sums as `train` keeps, never read here
            with torch.no_grad():
                near = F.cosine_similarity(raw.float(), target).sum()
                sums += torch.stack([loss * len(target), near, norm])
        else:
            losses.append(loss.item())
    return losses


def has_bf16() -> bool:
    """Say whether this processor multiplies bfloat16 natively."""
    return resolve_precision("auto", torch.device("cpu")) == "bf16-mixed"
