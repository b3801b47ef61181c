"""Predicts a distribution of the outcome of each candidate, by attention to the trials and Gaussian processes.

The network is permutation-invariant over trials and equivariant over candidates and hyperparameters, and takes any
number of them. A configuration is the sum of the embeddings of its levels. A level is embedded once per search from its
role and absolute value, from the outcomes near it, and from the other hyperparameters of the space. Attention is biased
by a learned distance between configurations, so that it starts as kernel regression and learns what a kernel cannot.

Letters: B searches, T trials, C candidates, H hyperparameters, L levels, W width, R readings of one search.

Sources: in-context prediction from a prior, Müller et al. 2023 (PFNs4BO, ICML); attention over trials for
hyperparameter search, Maraval et al. 2023 (NAP, NeurIPS); outcome bins, Müller et al. 2022 (arXiv:2112.10510).
"""

from __future__ import annotations

import reprlib
from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from hf_rlsearch._validation import is_integer
from hf_rlsearch.agent.layers import Block, GaussianProcesses, Memory, Posterior, mlp, weigh
from hf_rlsearch.observation.observation import (
    LEVEL_REAL,
    N_CONTEXT_FEATURES,
    N_LEVEL_FEATURES,
    N_STATIC_FEATURES,
    N_TRIAL_FEATURES,
    TRIAL_KNOWN,
    TRIAL_RANK,
    TRIAL_VALUE,
    Observation,
)

# Edges of the outcome bins: improvement over the incumbent on the compressed scale of `compress`. Finest around zero,
# where the choice is made; not symmetric, as losing much and losing very much are the same to a searcher.
BIN_EDGES = (
    -1.4, -1.0, -0.75, -0.55, -0.4, -0.3, -0.22, -0.16, -0.11, -0.075, -0.05, -0.03, -0.015, -0.005,
    0.0005, 0.005, 0.015, 0.03, 0.05, 0.075, 0.11, 0.16, 0.22, 0.3, 0.4, 0.55, 0.75, 1.0, 1.4,
)  # fmt: skip
N_BINS = len(BIN_EDGES) + 1
_OUTER = (-1.9, 1.8)  # representative values of the two open bins
N_MARGINALS = 10
_PADDING_IS_FAR = 1e4  # finite, since attention over padding alone would become NaN
# Largest sizes that a card may name, far above the shipped ones: a card cannot make a process use all of its memory.
_MOST_BLOCKS, _WIDEST = 64, 4096


def bin_values() -> Tensor:
    """N_BINS improvements, one standing for each bin."""
    # On the CPU also where the shapes of a network are made without memory: adding there would import torch's compiler.
    edges, outer = torch.tensor(BIN_EDGES, device="cpu"), torch.tensor(_OUTER, device="cpu")
    return torch.cat([outer[:1], (edges[1:] + edges[:-1]) / 2, outer[1:]])


def compress(utility: Tensor) -> Tensor:
    """Utility (0 = median, 1 = best of the task) with its lower tail compressed: all bad trials are alike."""
    return torch.where(utility >= 0, utility, -0.5 * torch.log1p(-utility.clamp(max=0)))


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of the network, stored with the weights.

    Attributes:
        width: W.
        heads: Attention heads, a divisor of the width.
        history_blocks: Self-attention blocks over trials.
        candidate_blocks: Cross-attention blocks from candidates to trials.

    Raises:
        ValueError: A size is no whole number, or out of range.
    """

    width: int = 64
    heads: int = 4
    history_blocks: int = 2
    candidate_blocks: int = 2

    def __post_init__(self) -> None:
        for name, size in vars(self).items():
            largest = _MOST_BLOCKS if name.endswith("blocks") else _WIDEST
            if not (is_integer(size) and 1 <= size <= largest):
                raise ValueError(f"{name} is {reprlib.repr(size)}, expected a whole number from 1 to {largest}")
        if self.width % self.heads:
            raise ValueError(f"width {self.width} cannot be divided among {self.heads} heads")


@dataclass(frozen=True)
class Arrays:
    """An `Observation` as tensors on one device; same shapes and meaning."""

    static: Tensor
    level_features: Tensor
    positions: Tensor
    ordered: Tensor
    trials: Tensor
    trial_features: Tensor
    trial_mask: Tensor
    incumbent: Tensor
    candidates: Tensor
    context: Tensor

    @classmethod
    def of(cls, observation: Observation, device: torch.device | str = "cpu") -> Arrays:
        """Moves an observation to a device."""
        arrays = vars(observation.space) | vars(observation)
        return cls(**{f.name: torch.as_tensor(arrays[f.name], device=device) for f in fields(cls)})


@dataclass(frozen=True)
class Distances:
    """From levels or from N rows to the trials of B searches. All are kept by level, as there are fewer than rows.

    Attributes:
        attention: B x (H + 1) x (L + 1) x (1 + T), or with N for L + 1. The first trial is "no such trial", which is
            near to all; the last hyperparameter is 1 for trials that are padding and 0 for others.
        processes: B x 2H x (L + 1) x T, or with N for L + 1, of the Gaussian processes: squared, then plain.
    """

    attention: Tensor
    processes: Tensor

    @classmethod
    def of(cls, arrays: Arrays) -> Distances:
        """From the levels of B searches."""
        attention, processes = level_distances(arrays)
        padding = (~arrays.trial_mask).to(attention.dtype)[:, None, None].expand(-1, -1, attention.shape[2], -1)
        attention = torch.cat([attention**2 + 0.3 * attention, padding], dim=1)
        return cls(F.pad(attention, (1, 0)), torch.cat([processes**2, processes], dim=1))

    def rows(self, rows: Tensor) -> Distances:
        """From B x N x H level indices, given those from levels."""
        attention = gather_levels(self.attention, F.pad(rows, (0, 1)))
        return Distances(attention, gather_levels(self.processes, rows.repeat(1, 1, 2)))


@dataclass(frozen=True)
class Shared:
    """What does not depend on the weights, so that predictors and readings share it.

    Attributes:
        distances: From levels to trials.
        between: From trials to trials.
        marginals: N x N_MARGINALS of all real levels of B searches.
    """

    distances: Distances
    between: Distances
    marginals: Tensor

    @classmethod
    def of(cls, arrays: Arrays) -> Shared:
        """Of B searches."""
        distances = Distances.of(arrays)
        return cls(distances, distances.rows(arrays.trials), _marginals(arrays))


@dataclass(frozen=True)
class EncodedHistory:
    """R * B encoded histories, from which any candidates can be scored.

    Attributes:
        context: R * B x W, of the whole search.
        levels: R * B x H x L x W embeddings of the levels.
        memories: Of the trials, one per cross-attention block.
        distances: From the levels to the trials of B searches.
        scales: R * B x (blocks * heads) x (H + 1), minus the learned weights of the distance to trials.
        posterior: Of the Gaussian processes.
    """

    context: Tensor
    levels: Tensor
    memories: tuple[Memory, ...]
    distances: Distances
    scales: Tensor
    posterior: Posterior


class Predictor(nn.Module):
    """Observation -> distribution of each candidate's improvement over the incumbent."""

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        W, heads = config.width, config.heads
        self.context = mlp(N_CONTEXT_FEATURES, W, W)
        self.level_in = mlp(N_STATIC_FEATURES + N_LEVEL_FEATURES, W, W)
        self.level_marginal = mlp(W + N_MARGINALS, W, W)
        self.space_block = Block(W, heads)
        self.level_out = mlp(2 * W, W, W)
        self.scales = nn.Linear(W, config.history_blocks * heads + config.candidate_blocks * heads)
        self.trial_in = mlp(N_TRIAL_FEATURES, W, W)
        self.candidate_in = mlp(2 * W, W, W)
        self.history = nn.ModuleList(Block(W, heads) for _ in range(config.history_blocks))
        self.cross = nn.ModuleList(Block(W, heads) for _ in range(config.candidate_blocks))
        self.processes = GaussianProcesses(W, heads)
        self.head = nn.Sequential(nn.LayerNorm(W), mlp(W, 2 * W, N_BINS))
        self.bins: Tensor
        self.register_buffer("bins", bin_values(), persistent=False)

    def forward(self, arrays: Arrays) -> Tensor:
        """B x C x N_BINS logits of the improvement over the incumbent (over the median while there is none)."""
        return self.score(self.encode_history(arrays), arrays.candidates)

    def encode_history(self, arrays: Arrays, shared: Shared | None = None) -> EncodedHistory:
        """Computes all that does not depend on the candidates, which is most of the work.

        The arrays may be R readings of B searches, one after the other, with what the B searches share.
        """
        shared = Shared.of(arrays) if shared is None else shared
        context = self.context(arrays.context)
        levels, per_hyperparameter = self._levels(arrays, context, shared.marginals)
        scales = -F.softplus(self.scales(per_hyperparameter) + 1.0) * arrays.static[..., :1]
        scales = F.pad(scales, (0, 0, 0, 1), value=-_PADDING_IS_FAR).transpose(1, 2)  # R * B x blocks*heads x (H + 1)
        trials = self._sum_levels(levels, arrays.trials) + self.trial_in(arrays.trial_features) + context[:, None]
        split = self.config.history_blocks * self.config.heads
        for block, bias in zip(self.history, self._bias(scales[:, :split], shared.between), strict=True):
            assert isinstance(block, Block)  # a ModuleList is typed as holding any module
            trials = block(trials, block.remember(trials), bias)
        known = arrays.trial_mask & (arrays.trial_features[..., TRIAL_KNOWN] > 0)
        value = arrays.trial_features[..., TRIAL_VALUE]
        posterior = self.processes.fit(per_hyperparameter, shared.between.processes, trials, value, known)
        memories = tuple(block.remember(trials) for block in self.cross if isinstance(block, Block))
        return EncodedHistory(context, levels, memories, shared.distances, scales[:, split:], posterior)

    def score(self, encoded: EncodedHistory, candidates: Tensor, distances: Distances | None = None) -> Tensor:
        """R * B x C x N_BINS logits of R * B x C x H level indices; -1 for a hyperparameter that a candidate lacks.

        Of several readings the candidates have to be the same; their distances of B searches can be given.
        """
        x, biases = self._candidates(encoded, candidates, distances)
        for block, memory, bias in zip(self.cross, encoded.memories, biases, strict=True):
            x = block(x, memory, bias)
        return torch.as_tensor(self.head(x))

    def explain(
        self, encoded: EncodedHistory, candidates: Tensor, distances: Distances | None = None
    ) -> tuple[Tensor, Tensor]:
        """The logits of `score`, and R * B x C x (1 + T) attention weights on "no such trial" and on each trial.

        The weights are in [0, 1], sum to one, and are means over heads and cross-attention blocks; the Gaussian
        processes are not part of them.
        """
        (x, biases), found = self._candidates(encoded, candidates, distances), []
        for block, memory, bias in zip(self.cross, encoded.memories, biases, strict=True):
            assert isinstance(block, Block)
            found.append(block.weights(x, memory, bias))
            x = block(x, memory, bias)
        return torch.as_tensor(self.head(x)), torch.stack(found).mean(0)

    def _candidates(
        self, encoded: EncodedHistory, candidates: Tensor, distances: Distances | None
    ) -> tuple[Tensor, tuple[Tensor, ...]]:
        """R * B x C x W embeddings before they attend to the trials, and a bias per cross-attention block."""
        if distances is None:
            distances = encoded.distances.rows(candidates[: len(encoded.distances.attention)])
        x = self._sum_levels(encoded.levels, candidates)
        x = x + self.candidate_in(torch.cat([x, encoded.context[:, None].expand(-1, x.shape[1], -1)], -1))
        x = x + self.processes(encoded.posterior, distances.processes)
        return x, self._bias(encoded.scales, distances)

    def _bias(self, scales: Tensor, distances: Distances) -> tuple[Tensor, ...]:
        """Per block R * B x heads x N x (1 + T), minus the learned distance from rows to trials; padding is far."""
        return torch.split(weigh(scales, distances.attention), self.config.heads, dim=1)

    def _levels(self, arrays: Arrays, context: Tensor, marginals: Tensor) -> tuple[Tensor, Tensor]:
        """B x H x L x W embeddings of all levels, and B x H x W of the hyperparameters.

        Padding outweighs real levels several times, so the layers run over the N real ones only.
        """
        real = arrays.level_features[..., LEVEL_REAL] > 0
        b, h, level = _real_levels(arrays)
        marginals = marginals.repeat(len(b) // len(marginals), 1)
        features = [arrays.static[b, h], arrays.level_features[b, h, level]]
        embedded = self.level_in(torch.cat(features, -1)) + context[b]
        embedded = embedded + self.level_marginal(torch.cat([embedded, marginals], -1))
        B, H, L = real.shape
        total = embedded.new_zeros(B * H, embedded.shape[1]).index_add(0, b * H + h, embedded)
        pooled = total.view(B, H, -1) / real.sum(2, keepdim=True).clamp(min=1)
        absent = (arrays.static[..., 0] == 0)[:, None, None, :]
        bias = torch.zeros_like(absent, dtype=pooled.dtype).masked_fill(absent, -_PADDING_IS_FAR)
        bias = F.pad(bias, (1, 0)).expand(-1, self.config.heads, H, -1)
        pooled = self.space_block(pooled, self.space_block.remember(pooled), bias)
        embedded = embedded + self.level_out(torch.cat([embedded, pooled[b, h]], -1))
        dense = embedded.new_zeros(B, H, L, embedded.shape[1]).index_put((b, h, level), embedded)
        return dense, pooled

    @staticmethod
    def _sum_levels(levels: Tensor, rows: Tensor) -> Tensor:
        """Sums the embeddings of each row's levels: B x H x L x W, B x N x H -> B x N x W."""
        B, H, L, W = levels.shape
        # The last row of the table is for missing hyperparameters.
        table = torch.cat([levels.reshape(B * H * L, W), levels.new_zeros(1, W)])
        index = rows + torch.arange(B * H, device=rows.device).view(B, 1, H) * L
        index = torch.where(rows < 0, B * H * L, index)
        return F.embedding_bag(index.flatten(0, 1), table, mode="sum").view(B, rows.shape[1], W)


def level_distances(arrays: Arrays) -> tuple[Tensor, Tensor]:
    """Distances of levels to trials for the attention and for the Gaussian processes, each B x H x (L + 1) x T.

    The last level is "missing". Distances are kept by level, as there are far fewer levels than candidates. For the
    attention a missing hyperparameter is half of the range from everything. For the Gaussian processes, whose
    kernels have to be positive, it is the whole range from every level and 0 from another trial that lacks it.
    """
    index = arrays.trials.transpose(1, 2)  # B x H x T
    other = torch.gather(arrays.positions, 2, index.clamp(min=0))
    gap = (arrays.positions[..., None] - other[:, :, None]).abs()
    level = torch.arange(arrays.positions.shape[2], device=index.device)
    gap = torch.where(arrays.ordered[..., None, None], gap, (level[:, None] != index[:, :, None]).float())
    lacking, present = (index < 0)[:, :, None], arrays.static[..., :1, None]
    attention_distances = F.pad(gap.masked_fill(lacking, 0.5), (0, 0, 0, 1), value=0.5)
    gp_distances = torch.cat([gap.masked_fill(lacking, 1.0), (~lacking).to(gap.dtype)], dim=2)
    return attention_distances * present, gp_distances * present


def gather_levels(table: Tensor, rows: Tensor) -> Tensor:
    """Looks each row's levels up in a table: B x H x (L + 1) x T, B x N x H -> B x H x N x T."""
    B, H, L, T = table.shape
    level = torch.where(rows < 0, L - 1, rows).transpose(1, 2) + torch.arange(H, device=rows.device)[:, None] * L
    index = (level + torch.arange(B, device=rows.device)[:, None, None] * (H * L)).flatten()
    return table.reshape(B * H * L, T).index_select(0, index).view(B, H, rows.shape[1], T)


def _real_levels(arrays: Arrays) -> tuple[Tensor, ...]:
    """Indices of the N levels that are not padding: N searches, N hyperparameters, N levels."""
    return (arrays.level_features[..., LEVEL_REAL] > 0).nonzero(as_tuple=True)


def _marginals(arrays: Arrays) -> Tensor:
    """N x N_MARGINALS of all real levels: kernel means of the outcomes near each, at two widths, and the incumbent."""
    b, h, level = _real_levels(arrays)
    index = arrays.trials.transpose(1, 2)[b, h]  # N x T
    known = (index >= 0) & (arrays.trial_mask & (arrays.trial_features[..., TRIAL_KNOWN] > 0))[b]
    value = arrays.trial_features[b, :, TRIAL_VALUE]  # 0 for the best trial, negative below
    rank = arrays.trial_features[b, :, TRIAL_RANK]  # in [0, 1]
    ordered, own = arrays.ordered[b, h], arrays.positions[b, h, level]
    places = arrays.positions[b, h]
    gap = (own[:, None] - torch.gather(places, 1, index.clamp(min=0))).abs()
    gap = torch.where(ordered[:, None], gap, (index != level[:, None]).float())
    features = []
    for width in (0.08, 0.3):
        weight = torch.exp(-0.5 * (gap / width) ** 2) * known
        mass = weight.sum(-1)
        features += [(weight * column).sum(-1) / (mass + 0.3) for column in (value, rank)] + [torch.log1p(mass)]
    if not index.shape[1]:
        return torch.stack([*features, *[torch.zeros_like(own)] * 4], dim=-1)
    best = torch.gather(index, 1, arrays.incumbent[b].clamp(min=0)[:, None])[:, 0]
    has = ((arrays.incumbent[b] >= 0) & (best >= 0)).float()
    signed = (own - torch.gather(places, 1, best.clamp(min=0)[:, None])[:, 0]) * ordered * has
    features += [signed, signed.abs(), (best == level) * has, has]
    return torch.stack(features, dim=-1)
