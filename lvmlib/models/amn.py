"""AMN, the Additive Memory Network (also: Attention Mixture Network)."""

from __future__ import annotations

import torch
from torch import nn


class AMN(nn.Module):
    """The context's average plus a learned correction.

    One attention head weighs the raw context vectors, asked by their average; an
    MLP reads the average and that mixture and predicts the residual. No dropout.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    context : int
        Number of context vectors; any number has the same weights.
    hidden : int
        Dimension of query and keys.
    mlp : int
        Width of the residual MLP's first layer; its second is half as wide.
    """

    adds_average = True  # to its last layer's output; a head start takes it off

    def __init__(
        self, dim: int = 768, context: int = 5, hidden: int = 256, mlp: int = 512
    ):
        super().__init__()
        self.context_encoder = nn.Linear(dim, hidden)
        self.query_encoder = nn.Linear(dim, hidden)
        self.residual_net = nn.Sequential(
            nn.Linear(2 * dim, mlp),
            nn.GELU(),
            nn.LayerNorm(mlp),
            nn.Linear(mlp, mlp // 2),
            nn.GELU(),
            nn.LayerNorm(mlp // 2),
            nn.Linear(mlp // 2, dim),
        )

    @staticmethod
    def sizes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
        """Return the sizes that a weight file's shapes tell."""
        return {"dim": state["context_encoder.weight"].shape[1]}

    def attention(self, context: torch.Tensor) -> torch.Tensor:
        """Return the weight of each context position, (B, T); rows sum to one."""
        query = self.query_encoder(context.mean(1))  # (B, H)
        keys = self.context_encoder
        # query · (W x + b) as (Wᵀ query) · x + query · b: one product with W a window
        # instead of one a position.
        folded = (query @ keys.weight).to(context)  # (B, D)
        offset = (query * keys.bias).sum(-1, keepdim=True)  # (B, 1)
        # A product and a sum: as a matmul of one row this is slow in bfloat16.
        scores = (context * folded[:, None]).sum(-1) + offset  # (B, T)
        return torch.softmax(scores / query.shape[-1] ** 0.5, dim=-1)

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        average = context.mean(1)  # (B, D)
        mixture = (self.attention(context)[..., None] * context).sum(1)  # (B, D)
        return average + self.residual_net(torch.cat([average, mixture], dim=-1))


Model = AMN
