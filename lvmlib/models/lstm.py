"""LSTM: two recurrent layers, read at the last time step."""

from __future__ import annotations

import torch
from torch import nn

from lvmlib.layers import Dropout, LSTMLayer, run_recurrent, trains_on_cpu


class LSTM(nn.Module):
    """A two-layer LSTM whose last state is projected to the prediction.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    context : int
        Number of context vectors; any number has the same weights.
    hidden : int
        Dimension of the recurrent state.
    layers : int
        Number of recurrent layers.
    dropout : float
        Dropout between the layers.
    """

    def __init__(
        self,
        dim: int = 768,
        context: int = 5,
        hidden: int = 512,
        layers: int = 2,
        dropout: float = 0.2,
    ):
        super().__init__()
        self.lstm = nn.LSTM(dim, hidden, layers, batch_first=True, dropout=dropout)
        self.dropout = Dropout(dropout)
        self.output_proj = nn.Linear(hidden, dim)

    @staticmethod
    def sizes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
        """Return the sizes that a weight file's shapes tell."""
        return {"dim": state["lstm.weight_ih_l0"].shape[1]}

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        return self.output_proj(self.states(context)[:, -1])

    def at_every_position(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to what follows each of its positions, (B, T, D)."""
        return self.output_proj(self.states(context))

    def states(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to the last layer's states (B, T, H)."""
        if trains_on_cpu(context):
            return self.layer_by_layer(context)
        return run_recurrent(self.lstm, context)

    def layer_by_layer(self, context: torch.Tensor) -> torch.Tensor:
        """Compute what `self.lstm` does, faster in training on a CPU."""
        x = context.transpose(0, 1).contiguous()  # (T, B, D)
        for number, weights in enumerate(self.lstm.all_weights):
            x = LSTMLayer.apply(self.dropout(x) if number else x, *weights)
        return x.transpose(0, 1)


Model = LSTM
