"""Transformer: decoder layers that attend to their own input twice."""

from __future__ import annotations

import math

import torch
from torch import nn

from lvmlib.layers import Dropout
from lvmlib.models import evaluation_mode

POSITIONS = 100


class PositionTable(nn.Module):
    """Adds sinusoids of the position (Vaswani et al. 2017), a fixed table."""

    def __init__(self, hidden: int):
        super().__init__()
        position = torch.arange(POSITIONS)[:, None]  # (100, 1)
        rate = torch.exp(-math.log(10_000) / hidden * torch.arange(0, hidden, 2))
        table = torch.zeros(1, POSITIONS, hidden)
        table[..., 0::2] = torch.sin(position * rate)
        table[..., 1::2] = torch.cos(position * rate)
        self.register_buffer("pe", table)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Map (B, T, H) to (B, T, H)."""
        return x + self.pe[:, : x.shape[1]]


class Transformer(nn.Module):
    """Four post-norm decoder layers, read at the last position.

    Self-attention and cross-attention are both causal, and the memory that the
    cross-attention reads is the layers' own input sequence.

    Parameters
    ----------
    dim : int
        Dimension of the vectors.
    context : int
        Number of context vectors, at most 100.
    hidden : int
        Dimension of the layers: an even number, divisible by `heads`.
    layers, heads : int
        Number of layers, and of attention heads in each.
    feedforward : int
        Width of the layers' feed-forward part.
    dropout : float
        Dropout within the layers.
    """

    def __init__(
        self,
        dim: int = 768,
        context: int = 5,
        hidden: int = 512,
        layers: int = 4,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ):
        super().__init__()
        if hidden % heads or hidden % 2:
            raise ValueError(
                f"transformer: hidden must be even and divisible by heads, got "
                f"hidden={hidden} and heads={heads}."
            )
        if context > POSITIONS:
            raise ValueError(
                f"transformer: context must be at most {POSITIONS}, the length of "
                f"its position table, got {context}."
            )
        self.input_proj = nn.Linear(dim, hidden)
        self.pos_encoder = PositionTable(hidden)
        layer = nn.TransformerDecoderLayer(
            hidden, heads, feedforward, dropout, batch_first=True
        )
        for name in ("dropout", "dropout1", "dropout2", "dropout3"):
            setattr(layer, name, Dropout(dropout))
        self.transformer_decoder = nn.TransformerDecoder(layer, layers)
        self.head = nn.Sequential(
            nn.Linear(hidden, hidden),
            nn.GELU(),
            nn.LayerNorm(hidden),
            nn.Linear(hidden, dim),
        )

    @staticmethod
    def sizes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
        """Return the sizes that a weight file's shapes tell."""
        return {"dim": state["input_proj.weight"].shape[1]}

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        x = memory = self.pos_encoder(self.input_proj(context))  # (B, T, H)
        causal = causal_mask(x)
        *layers, last = self.transformer_decoder.layers
        for layer in layers:
            x = layer(x, memory, tgt_mask=causal, memory_mask=causal)
        return self.head(decode_last(last, x, memory))  # (B, D)

    def at_every_position(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to what follows each of its positions, (B, T, D)."""
        x = memory = self.pos_encoder(self.input_proj(context))  # (B, T, H)
        causal = causal_mask(x)
        for layer in self.transformer_decoder.layers:
            x = layer(x, memory, tgt_mask=causal, memory_mask=causal)
        return self.head(x)

    @torch.inference_mode()
    def attention_maps(self, context: torch.Tensor) -> torch.Tensor:
        """Return who attends to whom, without dropout.

        Returns
        -------
        torch.Tensor
            (B, layers, 2, heads, T, T): self-attention first, cross-attention
            second; the last axis (attended positions) sums to one.
        """
        maps = []
        with evaluation_mode(self):
            x = memory = self.pos_encoder(self.input_proj(context))  # (B, T, H)
            causal = causal_mask(x)
            ask = {"attn_mask": causal, "average_attn_weights": False}
            for layer in self.transformer_decoder.layers:
                found, looking_back = layer.self_attn(x, x, x, **ask)
                query = layer.norm1(x + found)
                _, reading = layer.multihead_attn(query, memory, memory, **ask)
                maps.append(torch.stack([looking_back, reading], dim=1))
                x = layer(x, memory, tgt_mask=causal, memory_mask=causal)
        return torch.stack(maps, dim=1)


def decode_last(
    layer: nn.TransformerDecoderLayer, x: torch.Tensor, memory: torch.Tensor
) -> torch.Tensor:
    """Return a decoder layer's output at the last position only, (B, H).

    Nothing else of the last layer is read, and the causal masks hide nothing from
    the last position.
    """
    last = x[:, -1:]  # (B, 1, H)
    found, _ = layer.self_attn(last, x, x, need_weights=False)
    last = layer.norm1(last + layer.dropout1(found))
    found, _ = layer.multihead_attn(last, memory, memory, need_weights=False)
    last = layer.norm2(last + layer.dropout2(found))
    wide = layer.dropout(layer.activation(layer.linear1(last)))  # (B, 1, F)
    return layer.norm3(last + layer.dropout3(layer.linear2(wide)))[:, 0]


def causal_mask(x: torch.Tensor) -> torch.Tensor:
    """Return the (T, T) mask for x (B, T, H): −inf where the future would show."""
    return nn.Transformer.generate_square_subsequent_mask(
        x.shape[1], device=x.device, dtype=x.dtype
    )


Model = Transformer
