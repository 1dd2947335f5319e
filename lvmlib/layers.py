"""Layers that compute what torch's own do, faster in training on a CPU.

`Dropout` draws 16 random bits a number instead of a Bernoulli variable. The recurrent
layers write their backward pass out: all that does not wait for the next time step is
one matrix product a layer, where torch's autograd makes one a step, and the derivatives
of the gates are computed for all steps at once.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.amp import custom_bwd, custom_fwd
from torch.autograd.function import FunctionCtx, once_differentiable

autocast_forward = custom_fwd(device_type="cpu", cast_inputs=torch.bfloat16)
autocast_backward = custom_bwd(device_type="cpu")


class Dropout(nn.Dropout):
    """`nn.Dropout`, five times faster on a CPU; p is rounded to 16 bits."""

    def forward(self, x: Tensor) -> Tensor:
        """Zero a share p of x, of any shape, in training, and scale up the rest."""
        if not (self.training and 0 < self.p < 1 and x.device.type == "cpu"):
            return super().forward(x)
        return x * keep_mask(x, self.p) * (1 / (1 - self.p))


def keep_mask(x: Tensor, p: float) -> Tensor:
    """Draw zeros with probability p, ones otherwise, in the shape and dtype of x."""
    words = torch.empty(-(-x.numel() // 4), dtype=torch.int64)
    bits = words.random_(-(2**63), None).view(torch.int16)[: x.numel()]
    lowest_kept = min(max(round(p * 2**16), 1), 2**16 - 1) - 2**15
    # A comparison would go by way of booleans, which take four times as long.
    kept = bits.clamp_(lowest_kept - 1, lowest_kept).sub_(lowest_kept - 1)
    return kept.to(x.dtype).view(x.shape)


def trains_on_cpu(x: Tensor) -> bool:
    """Say whether the layers below are the faster choice for x."""
    return torch.is_grad_enabled() and x.device.type == "cpu"


def run_recurrent(layer: nn.LSTM | nn.GRU, x: Tensor) -> Tensor:
    """Return the states of one of torch's own layers, in the type of its weights.

    On a GPU, autocast would have cuDNN compute them in float16, whatever type was asked
    for (pytorch/pytorch#42385), and gradients of a mean over all dimensions are too
    small for that.
    """
    with torch.autocast(x.device.type, enabled=False):
        states, _ = layer(x.to(layer.weight_hh_l0.dtype))
    return states


class LSTMLayer(torch.autograd.Function):
    """One layer of `nn.LSTM`, time first: x (T, B, I) to states (T, B, H)."""

    @staticmethod
    @autocast_forward
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        w_ih: Tensor,  # (4H, I), gates in the order i, f, g, o
        w_hh: Tensor,  # (4H, H)
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        """Compute all states; autocast casts the arguments."""
        gates = F.linear(x, w_ih, b_ih + b_hh).unflatten(-1, (4, -1))  # (T, B, 4, H)
        states = torch.empty_like(gates[:, :, 0])  # (T, B, H)
        cells, squashed = torch.empty_like(states), torch.empty_like(states)
        for t in range(len(x)):
            if t:  # before the first step, state and cell are zero
                gates[t].flatten(1).addmm_(states[t - 1], w_hh.T)
            i_f, g, o = gates[t, :, :2].sigmoid_(), gates[t, :, 2], gates[t, :, 3]
            torch.mul(i_f[:, 0], g.tanh_(), out=cells[t])
            if t:
                cells[t].addcmul_(i_f[:, 1], cells[t - 1])
            torch.tanh(cells[t], out=squashed[t])
            torch.mul(o.sigmoid_(), squashed[t], out=states[t])
        ctx.save_for_backward(x, w_ih, w_hh, gates, cells, squashed, states)
        return states

    @staticmethod
    @once_differentiable
    @autocast_backward
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of forward's arguments from that of the states."""
        x, w_ih, w_hh, gates, cells, squashed, states = ctx.saved_tensors
        i, f, g, o = gates.unbind(2)
        before = torch.cat([torch.zeros_like(cells[:1]), cells[:-1]])  # (T, B, H)
        # What a change of the cell, or (for o) of the state, does to each gate's sum.
        slopes = torch.stack(
            [i * g * (1 - i), before * f * (1 - f), i * (1 - g * g)], dim=2
        )  # (T, B, 3, H)
        slope_o, cell_by_state = squashed * o * (1 - o), o * (1 - squashed**2)
        d_gates = torch.empty_like(gates)
        d_state, d_cell = grad[-1], 0.0
        for t in reversed(range(len(x))):
            d_cell = d_cell + d_state * cell_by_state[t]
            torch.mul(d_cell[:, None], slopes[t], out=d_gates[t, :, :3])
            torch.mul(d_state, slope_o[t], out=d_gates[t, :, 3])
            if t:
                d_state = torch.addmm(grad[t - 1], d_gates[t].flatten(1), w_hh)
                d_cell = d_cell * f[t]
        d_gates = d_gates.flatten(2)  # (T, B, 4H)
        d_bias = d_gates.sum((0, 1))
        d_w_ih = _weight_gradient(d_gates, x)
        d_w_hh = _weight_gradient(d_gates[1:], states[:-1])
        # The context vectors, which the first layer reads, need no gradient.
        d_x = d_gates @ w_ih if ctx.needs_input_grad[0] else None
        return d_x, d_w_ih, d_w_hh, d_bias, d_bias


class GRULayer(torch.autograd.Function):
    """One layer of `nn.GRU`, time first: x (T, B, I) to states (T, B, H)."""

    @staticmethod
    @autocast_forward
    def forward(
        ctx: FunctionCtx,
        x: Tensor,
        w_ih: Tensor,  # (3H, I), gates in the order r, z, n
        w_hh: Tensor,  # (3H, H)
        b_ih: Tensor,
        b_hh: Tensor,
    ) -> Tensor:
        """Compute all states; autocast casts the arguments."""
        gates = F.linear(x, w_ih, b_ih).unflatten(-1, (3, -1))  # (T, B, 3, H)
        states = torch.empty_like(gates[:, :, 0])  # (T, B, H)
        recalled = torch.empty_like(states)  # what n takes from the state, before r
        for t in range(len(x)):
            if t:
                own = torch.addmm(b_hh, states[t - 1], w_hh.T).view_as(gates[t])
            else:  # before the first step, the state is zero
                own = b_hh.view(1, 3, -1).expand_as(gates[t])
            r_z = gates[t, :, :2].add_(own[:, :2]).sigmoid_()
            recalled[t] = own[:, 2]
            n = gates[t, :, 2].addcmul_(r_z[:, 0], own[:, 2]).tanh_()
            state = states[t - 1] if t else torch.zeros_like(n)
            torch.lerp(n, state, r_z[:, 1], out=states[t])
        ctx.save_for_backward(x, w_ih, w_hh, gates, recalled, states)
        return states

    @staticmethod
    @once_differentiable
    @autocast_backward
    def backward(ctx: FunctionCtx, grad: Tensor) -> tuple[Tensor, ...]:
        """Return the gradients of forward's arguments from that of the states."""
        x, w_ih, w_hh, gates, recalled, states = ctx.saved_tensors
        r, z, n = gates.unbind(2)
        before = torch.cat([torch.zeros_like(states[:1]), states[:-1]])  # (T, B, H)
        # What a change of the state does to the sums of: n's own part, r, z, n. The
        # first three came by way of w_hh, the last three by way of w_ih.
        slope_n = (1 - z) * (1 - n * n)
        slope_r = slope_n * recalled * r * (1 - r)
        slope_z = (before - n) * z * (1 - z)
        slopes = torch.stack([slope_n * r, slope_r, slope_z, slope_n], dim=2)
        d_sums = torch.empty_like(slopes)  # (T, B, 4, H)
        w_own = w_hh.roll(n.shape[-1], 0)  # rows in the order n, r, z
        d_state = grad[-1]
        for t in reversed(range(len(x))):
            torch.mul(d_state[:, None], slopes[t], out=d_sums[t])
            if t:
                d_own = d_sums[t].flatten(1)[:, : len(w_own)]
                passed = torch.addcmul(grad[t - 1], d_state, z[t])
                d_state = torch.addmm(passed, d_own, w_own)
        d_own, d_gates = d_sums[:, :, :3].flatten(2), d_sums[:, :, 1:].flatten(2)
        back = -n.shape[-1]  # to the order r, z, n
        d_w_hh = _weight_gradient(d_own[1:], states[:-1]).roll(back, 0)
        d_b_hh = d_own.sum((0, 1)).roll(back, 0)
        d_b_ih = d_gates.sum((0, 1))
        return d_gates @ w_ih, _weight_gradient(d_gates, x), d_w_hh, d_b_ih, d_b_hh


def _weight_gradient(outer: Tensor, inner: Tensor) -> Tensor:
    """Sum outer products over steps and windows: (T, B, O), (T, B, I) to (O, I)."""
    return outer.flatten(0, 1).T @ inner.flatten(0, 1)
