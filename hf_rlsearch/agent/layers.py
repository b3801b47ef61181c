"""Implements the layers of the predictor: attention with a bias, and Gaussian processes whose kernels the network sets.

Attention averages the outcomes of near trials; from about ten trials on, solving for their weights predicts better
(docs/background/log/2026-11-22-gaussian-processes.md).

Letters: B searches, T trials, N rows, H hyperparameters, W width, R readings; D numbers are regressed per head.
Distances are of B searches; all else may be of R * B, the readings of the searches one after the other.

Sources: posterior of a Gaussian process with noise, Rasmussen and Williams 2006 (eq. 2.25 and 2.26); kernels from a
network's outputs as in deep kernel learning, Wilson et al. 2016 (AISTATS).
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

Memory = tuple[Tensor, Tensor]
"""Keys and values of T trials and of "no such trial", each B x heads x (1 + T) x W/heads."""


def mlp(n_in: int, width: int, n_out: int) -> nn.Sequential:
    """Makes a multilayer perceptron of two linear layers."""
    return nn.Sequential(nn.Linear(n_in, width), nn.GELU(), nn.Linear(width, n_out))


def weigh(weights: Tensor, distances: Tensor) -> Tensor:
    """Weighted sums over hyperparameters: (R * B) x K x H and B x H x N x T -> (R * B) x K x N x T.

    R sets of weights, one after the other, share the distances of B searches.
    """
    (B, H, N, T), (RB, K, _) = distances.shape, weights.shape
    total = weights.reshape(RB // B, B, K, H) @ distances.view(B, H, N * T)
    return total.view(RB, K, N, T)


class BiasedAttention(nn.Module):
    """Multi-head attention whose logits carry an additive bias; one learned key stands for "no such trial".

    The bias is B x heads x N x (1 + T), that of the learned key first.
    """

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.query, self.key_value = nn.Linear(width, width), nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)
        self.null_key, self.null_value = nn.Parameter(torch.zeros(1, 1, width)), nn.Parameter(torch.zeros(1, 1, width))

    def forward(self, x: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """Attends from x (B x N x W) to a memory of T trials."""
        mixed = F.scaled_dot_product_attention(self._split(self.query(x)), *memory, attn_mask=bias)
        return torch.as_tensor(self.out(mixed.transpose(1, 2).reshape(x.shape)))

    def weights(self, x: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """B x N x (1 + T) attention weights of `forward` on the learned key and on the trials, mean over heads."""
        query, key = self._split(self.query(x)), memory[0]
        logits = query @ key.transpose(2, 3) / query.shape[-1] ** 0.5 + bias
        return torch.as_tensor(logits.softmax(-1).mean(1))

    def remember(self, trials: Tensor) -> Memory:
        """Keys and values of B x T x W trials, the learned ones first."""
        B, _, W = trials.shape
        key, value = self.key_value(trials).chunk(2, dim=-1)
        key = torch.cat([self.null_key.expand(B, 1, W), key], dim=1)
        value = torch.cat([self.null_value.expand(B, 1, W), value], dim=1)
        return self._split(key), self._split(value)

    def _split(self, x: Tensor) -> Tensor:
        """B x N x W -> B x heads x N x W/heads."""
        B, N, W = x.shape
        return x.view(B, N, self.heads, W // self.heads).transpose(1, 2)


class Block(nn.Module):
    """Pre-norm attention and feed-forward with residual connections."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.norm_x, self.norm_memory, self.norm_out = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attention = BiasedAttention(width, heads)
        self.feed_forward = mlp(width, 2 * width, width)

    def forward(self, x: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """Same shapes as `BiasedAttention.forward`."""
        x = x + self.attention(self.norm_x(x), memory, bias)
        return torch.as_tensor(x + self.feed_forward(self.norm_out(x)))

    def weights(self, x: Tensor, memory: Memory, bias: Tensor) -> Tensor:
        """Same shapes as `BiasedAttention.weights`."""
        return self.attention.weights(self.norm_x(x), memory, bias)

    def remember(self, trials: Tensor) -> Memory:
        """Same shapes as `BiasedAttention.remember`."""
        return self.attention.remember(self.norm_memory(trials))


# Where training starts: a length scale of about a half of each range, and a noise of about a tenth of the spread.
_SMOOTH, _ROUGH, _NOISE = 1.5, -2.0, -4.0
_OUTCOME_NOISE = 0.02  # of trials that have not ended, of the prior variance: where the noise of training starts
_LEAST_NOISE = 2e-3  # of the prior variance; keeps the means of 160 trials within .02 in single precision

# Exponents of the kernel end here: their exponentials, and products of two, stay normal numbers. A processor is several
# times slower with subnormal ones.
_FARTHEST = -30.0

# The mean of the values weighs trials by their precision. The first number keeps one trial of little noise from having
# all the weight, the second avoids a division by zero in searches without any value.
_SHARED, _NO_VALUE = 0.1, 1e-3


@dataclass(frozen=True)
class Posterior:
    """Gaussian processes fitted to the trials of B searches.

    Attributes:
        scales: B x H x (2 * heads) weights of the squared distance, then of the plain one.
        mean: B x heads x 1 x D.
        weights: B x heads x T x D, the solution of (K + noise) weights = values - mean.
        inverse: B x heads x T x T of (K + noise); zero for trials without a value.
    """

    scales: Tensor
    mean: Tensor
    weights: Tensor
    inverse: Tensor


class GaussianProcesses(nn.Module):
    """One Gaussian process per head: length scales from the space, values and noise from the trials' embeddings."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scales = nn.Linear(width, 2 * heads)
        self.norm, self.values, self.noise = nn.LayerNorm(width), nn.Linear(width, width), nn.Linear(width, heads)
        self.out = mlp(width + 2 * heads, width, width)
        for layer in (self.scales, self.noise):
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)
        self.begin: Tensor
        begin = torch.tensor([_SMOOTH, _ROUGH]).repeat_interleave(heads)
        self.register_buffer("begin", begin, persistent=False)

    def fit(
        self, hyperparameters: Tensor, distances: Tensor, trials: Tensor, value: Tensor, known: Tensor
    ) -> Posterior:
        """Fits the processes to the B x T trials, whose value is on the history's own scale where it is known.

        The embeddings are B x H x W and B x T x W, the distances B x 2H x T x T, squared ones first.
        """
        scales, x = F.softplus(self.scales(hyperparameters) + self.begin), self.norm(trials)
        B, T, W = x.shape
        learned = self.values(x).view(B, T, self.heads, W // self.heads).transpose(1, 2)
        values = torch.cat([learned, value[:, None, :, None].expand(-1, self.heads, -1, -1)], -1)
        noise = F.softplus(self.noise(x) + _NOISE).transpose(1, 2) + _LEAST_NOISE  # B x heads x T
        weight = (known[:, None] / (noise + _SHARED))[..., None]
        mean = (weight * values).sum(2, keepdim=True) / weight.sum(2, keepdim=True).clamp(min=_NO_VALUE)
        both = (known[:, None] & known[:, :, None])[:, None]
        # A trial without a value gets a row of the identity, which changes no other row of the inverse.
        kernel = self._kernel(scales, distances) * both
        kernel.diagonal(dim1=2, dim2=3).add_(noise + ~known[:, None])
        inverse = torch.linalg.inv(kernel) * both
        return Posterior(scales, mean, inverse @ (values - mean), inverse)

    def forward(self, posterior: Posterior, distances: Tensor) -> Tensor:
        """B x N x W embeddings of the predictions of N rows, from their B x 2H x N x T distances to the trials."""
        found = torch.cat(self.predict(posterior, distances), -1)
        return torch.as_tensor(self.out(found.transpose(1, 2).flatten(2)))

    def predict(self, posterior: Posterior, distances: Tensor) -> tuple[Tensor, Tensor]:
        """Predicts N rows from their B x 2H x N x T distances to the trials.

        Returns:
            Mean, B x heads x N x D, of which the last is the trials' own value and the others are learned; and standard
            deviation without noise, B x heads x N x 1 in (0, 1].
        """
        kernel = self._kernel(posterior.scales, distances)
        mean = posterior.mean + kernel @ posterior.weights
        variance = 1 - ((kernel @ posterior.inverse) * kernel).sum(-1, keepdim=True)
        return mean, variance.clamp(1e-6, 1).sqrt()

    def correlation(self, posterior: Posterior, distances: Tensor, running: Tensor) -> Tensor:
        """B x heads x N x M correlations of the outcomes of N rows with those of M running trials, given the others.

        Args:
            posterior: Of the trials.
            distances: B x 2H x N x T from the rows to the trials; the last M rows are the running trials.
            running: M indices of the running trials among all.
        """
        kernel = self._kernel(posterior.scales, distances)
        told, m = kernel @ posterior.inverse, len(running)
        covariance = kernel[..., running] - told @ kernel[..., -m:, :].mT
        spread = ((1 - (told * kernel).sum(-1)).clamp(min=0) + _OUTCOME_NOISE).sqrt()
        correlation = covariance / spread[..., None] / spread[..., None, -m:]
        correlation[..., -m:, :].diagonal(dim1=-2, dim2=-1).fill_(1)
        return correlation.clamp(-1, 1)

    def _kernel(self, scales: Tensor, distances: Tensor) -> Tensor:
        """B x heads x N x T in (0, 1]: exp(-distance), squared and plain distances each with its own weight."""
        weights = torch.cat(scales.chunk(2, -1), 1).transpose(1, 2)  # B x heads x 2H
        # In place: new memory for it would cost more than the exponential.
        return weigh(-weights, distances).clamp_(min=_FARTHEST).exp_()
