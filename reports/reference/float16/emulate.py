"""Does float16 explain what lstm lost on the GPU? The same training, emulated on a CPU.

lstm at 80,634 vectors, seed 0, by the registered recipe, stopped after two epochs. Only
what goes into the two recurrent layers and comes out of them, gradients too, is rounded
to float16, as torch's autocast has cuDNN do. Run it from the project's folder with the
dataset's as argument; reports/reference/PLAN.md says what came of it.

It watches the insides of the library as they were at commit e5ee744: run it there.
"""

import sys
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from lvmlib import layers, make_split, open_dataset, training
from lvmlib.models import build_model
from lvmlib.study import read_study

vanished = []  # shares of the gates' gradients that round to zero
plain_forward = layers.LSTMLayer.forward


def half(x: Tensor) -> Tensor:
    """Round to float16."""
    return x.half().float()


def forward(ctx, *given: Tensor) -> Tensor:
    """Round what the layer gets."""
    return plain_forward(ctx, *map(half, given))


def backward(ctx, grad: Tensor) -> tuple[Tensor | None, ...]:
    """Do what `layers.LSTMLayer.backward` does, and round at each product."""
    x, w_ih, w_hh, gates, cells, squashed, states = ctx.saved_tensors
    grad = half(grad)
    i, f, g, o = gates.unbind(2)
    before = torch.cat([torch.zeros_like(cells[:1]), cells[:-1]])
    slopes = torch.stack(
        [i * g * (1 - i), before * f * (1 - f), i * (1 - g * g)], dim=2
    )
    slope_o, cell_by_state = squashed * o * (1 - o), o * (1 - squashed**2)
    d_gates = torch.empty_like(gates)
    d_state, d_cell = grad[-1], 0.0
    for t in reversed(range(len(x))):
        d_cell = d_cell + d_state * cell_by_state[t]
        torch.mul(d_cell[:, None], slopes[t], out=d_gates[t, :, :3])
        torch.mul(d_state, slope_o[t], out=d_gates[t, :, 3])
        if t:
            d_state = torch.addmm(grad[t - 1], half(d_gates[t].flatten(1)), w_hh)
            d_cell = d_cell * f[t]
    d_gates = half(d_gates).flatten(2)
    vanished.append((d_gates == 0).float().mean().item())
    d_bias = half(d_gates.sum((0, 1)))
    d_w_ih = half(layers._weight_gradient(d_gates, x))
    d_w_hh = half(layers._weight_gradient(d_gates[1:], states[:-1]))
    d_x = half(d_gates @ w_ih) if ctx.needs_input_grad[0] else None
    return d_x, d_w_ih, d_w_hh, d_bias, d_bias


layers.LSTMLayer.forward = staticmethod(forward)
layers.LSTMLayer.backward = staticmethod(backward)
runs = read_study("reference", sys.argv[1]).runs
settings = next(
    run.settings
    for run in runs
    if run.entry == "lstm" and (run.settings.size, run.settings.seed) == (80634, 0)
)
recipe = replace(settings.recipe, precision="32-true", device="cpu")
dataset = open_dataset(settings.dataset)
split = make_split(dataset, settings.protocol, settings.size, settings.seed)
torch.manual_seed(settings.seed)
model = build_model("lstm")
fabric = training.make_fabric(recipe)
optimizer = training._make_optimizer(model, recipe, torch.device("cpu"))
total = training.total_steps(recipe, len(split.train))
scheduler = training._make_scheduler(recipe, optimizer, total)
for epoch in range(2):
    state, order = training.State(), np.random.default_rng([settings.seed, 2, epoch])
    windows = torch.from_numpy(split.train[order.permutation(len(split.train))])
    model.train()
    for batch in windows.split(recipe.batch_size):
        vectors = torch.from_numpy(dataset.gather(batch.numpy()))
        training._update(fabric, model, optimizer, vectors, len(batch), state)
        scheduler.step()
    cosine = training._validate(fabric, model, dataset, split.validation)
    print(
        f"epoch {epoch + 1}: training cosine {state.totals[1] / state.windows:.4f}, "
        f"validation {cosine['validation_cosine']:.4f}; {np.mean(vanished):.1%} of the "
        "gates' gradients rounded to zero",
        flush=True,
    )
