"""GraphMERT-LVM: an encoder whose attention fades with distance."""

from __future__ import annotations

import math

import torch
from torch import nn
from torch.nn import functional

from lvmlib.layers import Dropout
from lvmlib.models import evaluation_mode
from lvmlib.names import unknown_name

DECAY = 0.6
MASKS = ("band", "smooth")


class DecayMask(nn.Module):
    """The additive attention mask, shared by all layers and heads.

    ``band``, as reported: −1e9 · (1 − 0.6^|i−j|) where |i−j| exceeds the threshold,
    in effect a hard band. The threshold only enters a comparison, so it receives no
    gradient and stays at 2.

    ``smooth``, as in the paper (GraphMERT, Princeton 2025): attention weights are
    multiplied by 0.6^GELU(√|i−j| − p), and p, the threshold, learns. Done by adding
    the logarithm of that factor to the scores, so the products are renormalised
    and each row still sums to one.
    """

    def __init__(self, kind: str):
        super().__init__()
        if kind not in MASKS:
            raise unknown_name("mask of graphmert", kind, MASKS)
        self.kind = kind
        self.threshold = nn.Parameter(torch.tensor(2.0))

    def forward(self, length: int) -> torch.Tensor:
        """Return the (length, length) mask to be added to the attention scores."""
        like = {"device": self.threshold.device, "dtype": self.threshold.dtype}
        position = torch.arange(length, **like)  # made there: nothing is copied
        distance = (position[:, None] - position).abs()  # (T, T)
        if self.kind == "smooth":
            fade = functional.gelu(distance.sqrt() - self.threshold)
            return math.log(DECAY) * fade
        far = distance > self.threshold
        return torch.where(far, -1e9 * (1 - DECAY**distance), 0.0)


class EncoderLayer(nn.Module):
    """A post-norm encoder layer: attention, then a feed-forward net."""

    def __init__(self, dim: int, heads: int, feedforward: int, dropout: float):
        super().__init__()
        self.self_attn = nn.MultiheadAttention(
            dim, heads, dropout=dropout, batch_first=True
        )
        self.feed_forward = nn.Sequential(
            nn.Linear(dim, feedforward),
            nn.GELU(),
            Dropout(dropout),
            nn.Linear(feedforward, dim),
            Dropout(dropout),
        )
        self.norm1 = nn.LayerNorm(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.dropout = Dropout(dropout)

    def forward(self, x: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Map (B, T, D) to (B, T, D)."""
        found, _ = self.self_attn(x, x, x, attn_mask=mask, need_weights=False)
        x = self.norm1(x + self.dropout(found))
        return self.norm2(x + self.feed_forward(x))


class GraphMERT(nn.Module):
    """Twelve encoder layers on the vectors themselves, averaged over the positions.

    Parameters
    ----------
    dim : int
        Dimension of the vectors and of the layers, divisible by `heads`.
    context : int
        Number of context vectors, each with a learned position embedding.
    mask : {"band", "smooth"}
        How attention fades with distance, see `DecayMask`.
    layers, heads : int
        Number of layers, and of attention heads in each.
    feedforward : int
        Width of the layers' feed-forward part.
    dropout : float
        Dropout in and after attention, in the feed-forward part and in the head.
    """

    def __init__(
        self,
        dim: int = 768,
        context: int = 5,
        mask: str = "band",
        layers: int = 12,
        heads: int = 8,
        feedforward: int = 2048,
        dropout: float = 0.1,
    ):
        super().__init__()
        if dim % heads:
            raise ValueError(
                f"graphmert: dim must be divisible by heads, got dim={dim} and "
                f"heads={heads}."
            )
        self.decay_mask = DecayMask(mask)
        self.pos_embedding = nn.Parameter(0.02 * torch.randn(1, context, dim))
        self.layers = nn.ModuleList(
            EncoderLayer(dim, heads, feedforward, dropout) for _ in range(layers)
        )
        self.output_head = nn.Sequential(
            nn.Linear(dim, dim), nn.GELU(), Dropout(dropout), nn.Linear(dim, dim)
        )
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=0.02)
                nn.init.zeros_(module.bias)

    @staticmethod
    def sizes_of(state: dict[str, torch.Tensor]) -> dict[str, int]:
        """Return the sizes that a weight file's shapes tell."""
        _, context, dim = state["pos_embedding"].shape
        return {"dim": dim, "context": context}

    def embed(self, context: torch.Tensor) -> torch.Tensor:
        """Add the position embedding, (B, T, D) to (B, T, D)."""
        positions = self.pos_embedding.shape[1]
        if context.shape[1] != positions:
            raise ValueError(
                f"graphmert: this model was built for {positions} context vectors, "
                f"got {context.shape[1]}."
            )
        return context + self.pos_embedding

    def forward(self, context: torch.Tensor) -> torch.Tensor:
        """Map context (B, T, D) to raw predictions (B, D)."""
        x = self.embed(context)
        mask = self.decay_mask(x.shape[1])  # (T, T)
        for layer in self.layers:
            x = layer(x, mask)
        return self.output_head(x.mean(1))  # (B, D)

    @torch.inference_mode()
    def course(self, context: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Return what the layers do to some windows, without dropout.

        Returns
        -------
        change : (layers,)
            How much each layer changes its input: the mean of |layer(x) − x| / |x|.
        alike : (layers + 1,)
            Before the first layer and after each: the mean cosine of one window's mean
            over the positions and the next one's, as `context` has them. At one, all
            windows look the same from there on.
        """
        states = [self.embed(context)]
        with evaluation_mode(self):
            mask = self.decay_mask(context.shape[1])
            for layer in self.layers:
                states.append(layer(states[-1], mask))
        x = torch.stack(states)  # (layers + 1, B, T, D)
        change = (x[1:] - x[:-1]).norm(dim=-1) / x[:-1].norm(dim=-1)
        pooled = x.mean(2)  # (layers + 1, B, D)
        alike = functional.cosine_similarity(pooled[:, 1:], pooled[:, :-1], dim=-1)
        return change.mean((1, 2)), alike.mean(1)

    @torch.inference_mode()
    def attention_maps(self, context: torch.Tensor) -> torch.Tensor:
        """Return who attends to whom, without dropout.

        Returns
        -------
        torch.Tensor
            (B, layers, heads, T, T); the last axis (attended positions) sums to
            one.
        """
        maps = []
        with evaluation_mode(self):
            x = self.embed(context)
            mask = self.decay_mask(x.shape[1])
            for layer in self.layers:
                _, weights = layer.self_attn(
                    x, x, x, attn_mask=mask, average_attn_weights=False
                )
                maps.append(weights)  # (B, heads, T, T)
                x = layer(x, mask)
        return torch.stack(maps, dim=1)


Model = GraphMERT
