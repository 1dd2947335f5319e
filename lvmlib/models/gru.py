"""GRU: a stack of recurrent blocks with residual connections."""

from __future__ import annotations

import torch
from torch import nn

from lvmlib.layers import GRULayer, run_recurrent, trains_on_cpu


class GRUBlock(nn.Module):
    """``x ← LayerNorm(x + GRU(x))``."""

    def __init__(self, hidden: int):
        super().__init__()
        self.gru = nn.GRU(hidden, hidden)
        self.norm = nn.LayerNorm(hidden)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (T, B, H) to (T, B, H)."""
        if trains_on_cpu(x):
            states = GRULayer.apply(x, *self.gru.parameters())
        else:
            states = run_recurrent(self.gru, x)
        return self.norm(x + states)


class GRU(nn.Module):
    """Four residual GRU blocks, read at the last time step. No dropout.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    context : int
        Number of context vectors; any number has the same weights.
    hidden : int
        Dimension of the recurrent state.
    layers : int
        Number of blocks.
    """

    def __init__(
        self, dim: int = 768, context: int = 5, hidden: int = 512, layers: int = 4
    ):
        super().__init__()
        self.input_proj = nn.Linear(dim, hidden)
        self.blocks = nn.ModuleList(GRUBlock(hidden) for _ in range(layers))
        self.output_proj = nn.Linear(hidden, dim)

    @staticmethod
    def sizes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
        """Return the sizes that a weight file's shapes tell."""
        return {"dim": state["input_proj.weight"].shape[1]}

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        return self.output_proj(self.states(context)[-1])

    def at_every_position(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to what follows each of its positions, (B, T, D)."""
        return self.output_proj(self.states(context).transpose(0, 1))

    def states(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to the last block's states (T, B, H)."""
        x = self.input_proj(context).transpose(0, 1).contiguous()  # (T, B, H)
        for block in self.blocks:
            x = block(x)
        return x


Model = GRU
