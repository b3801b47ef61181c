"""Attention with a bias, and the block that is made of it."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def mlp(n_in: int, width: int, n_out: int) -> nn.Sequential:
    """Two layers."""
    return nn.Sequential(nn.Linear(n_in, width), nn.GELU(), nn.Linear(width, n_out))


class BiasedAttention(nn.Module):
    """Multi-head attention whose logits carry an additive bias; one learned key stands for "no such trial"."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value, self.out = (
            nn.Linear(width, width),
            nn.Linear(width, 2 * width),
            nn.Linear(width, width),
        )
        self.null_key, self.null_value = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Attends from x (B x N x W) to memory (B x T x W) with a bias of B x heads x N x T."""
        query, key, value = self._heads(x, memory)
        mixed = F.scaled_dot_product_attention(query, key, value, attn_mask=F.pad(bias, (1, 0)))
        return torch.as_tensor(self.out(mixed.transpose(1, 2).reshape(x.shape)))

    def weights(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """B x N x (1 + T), the mean over heads of what `forward` weighs the null and the memory with."""
        query, key, _ = self._heads(x, memory)
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + F.pad(bias, (1, 0))
        return torch.as_tensor(logits.softmax(-1).mean(1))

    def _heads(self, x: Tensor, memory: Tensor) -> list[Tensor]:
        """Query B x heads x N x W/heads; key and value B x heads x (1 + T) x W/heads."""
        B, _, W = x.shape
        key, value = self.key_value(memory).chunk(2, dim=-1)
        key = torch.cat([self.null_key.expand(B, 1, W), key], dim=1)
        value = torch.cat([self.null_value.expand(B, 1, W), value], dim=1)
        return [t.view(B, -1, self.heads, W // self.heads).transpose(1, 2) for t in (self.query(x), key, value)]


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residual connections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_x, self.norm_memory, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = BiasedAttention(width, heads)
        self.feed_forward = mlp(width, 2 * width, width)

    def forward(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """Same shapes as `BiasedAttention.forward`."""
        x = x + self.attention(self.norm_x(x), self.norm_memory(memory), bias)
        return torch.as_tensor(x + self.feed_forward(self.norm_out(x)))

    def weights(self, x: Tensor, memory: Tensor, bias: Tensor) -> Tensor:
        """As `BiasedAttention.weights`, of what this block is given."""
        return self.attention.weights(self.norm_x(x), self.norm_memory(memory), bias)
