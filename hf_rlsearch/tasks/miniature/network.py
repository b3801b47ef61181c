"""Tiny networks of which many copies compute side by side, each with weights of its own.

Letters: N copies of a network, R rows, T tokens of a row.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from math import prod, sqrt

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

_TOKEN_WIDTH = 8  # of the embedding that an MLP reads its few tokens from
_NEW_HEAD = 0.02  # standard deviation of a new head's weights, as in BERT (Devlin et al. 2019) and GPT-2
ACTIVATIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "relu": F.relu,
    "gelu": F.gelu,
    "tanh": torch.tanh,
    "silu": F.silu,
}


@dataclass(frozen=True)
class NetworkShape:
    """The architecture of one network.

    Attributes:
        body: ``"mlp"`` or ``"attention"`` (causal, one head, with layer norm in front of each part).
        n_inputs: Numbers of a row; 0 where a row is tokens.
        vocabulary: Different tokens; 0 where a row is numbers.
        length: Tokens of a row.
        width: Hidden units.
        depth: Hidden layers, or blocks of attention.
        n_outputs: Outputs of the head.
        per_token: The head reads every token rather than the mean of a row's tokens; attention only.
        residual: The hidden layers of an MLP are added to their input, behind a layer norm.
        activation: One of `ACTIVATIONS`.
        common: Added to every hidden unit in front of the head: what the rows have in common, as the representations of
            pretrained transformers lie in a narrow cone (Ethayarajh 2019). The head learns more slowly.
        gain: The head reads so many times the hidden units. Below 1 small rates leave it at chance.
    """

    body: str
    n_inputs: int
    vocabulary: int
    length: int
    width: int
    depth: int
    n_outputs: int
    per_token: bool = False
    residual: bool = False
    activation: str = "relu"
    common: float = 0.0
    gain: float = 1.0


@dataclass(frozen=True)
class Parameter:
    """One weight of a network.

    Attributes:
        shape: Of one copy.
        layer: 0 for what reads the input, then the hidden layers, `NetworkShape.depth` + 1 for the head.
    """

    shape: tuple[int, ...]
    layer: int


def parameters_of(shape: NetworkShape) -> dict[str, Parameter]:
    """The weights of a network by name, from the input to the head."""
    width, found = shape.width, {}

    def linear(name: str, n_in: int, n_out: int, layer: int) -> None:
        found[f"{name}.weight"] = Parameter((n_in, n_out), layer)
        found[f"{name}.bias"] = Parameter((n_out,), layer)

    if shape.body == "attention":
        found["embedding"] = Parameter((shape.vocabulary, width), 0)
        found["positions"] = Parameter((shape.length, width), 0)
    elif shape.vocabulary:
        found["embedding"] = Parameter((shape.vocabulary, _TOKEN_WIDTH), 0)
        linear("input", shape.length * _TOKEN_WIDTH, width, 0)
    else:
        linear("input", shape.n_inputs, width, 0)
    for layer in range(1, shape.depth + 1):
        if shape.body == "attention":
            linear(f"{layer}.attend", width, 3 * width, layer)
            linear(f"{layer}.mix", width, width, layer)
            linear(f"{layer}.up", width, 2 * width, layer)
            linear(f"{layer}.down", 2 * width, width, layer)
        else:
            linear(f"{layer}.hidden", width, width, layer)
    linear("head", width, shape.n_outputs, shape.depth + 1)
    return found


def adapters_of(parameters: Mapping[str, Parameter], rank: int) -> dict[str, Parameter]:
    """The two low-rank factors of every matrix but the head and the embeddings (Hu et al. 2021)."""
    found = {}
    for name, parameter in parameters.items():
        if name.endswith(".weight") and not name.startswith("head"):
            n_in, n_out = parameter.shape
            found[f"{name}.a"] = Parameter((n_in, rank), parameter.layer)
            found[f"{name}.b"] = Parameter((rank, n_out), parameter.layer)
    return found


def draw_weights(
    parameters: Mapping[str, Parameter], n_copies: int, generator: torch.Generator, *, new_head: bool
) -> dict[str, Tensor]:
    """Random weights, N x the shape of each.

    Args:
        parameters: What to draw.
        n_copies: N.
        generator: Source of randomness; the weights are on its device.
        new_head: The head gets the small weights that a new head gets on a pretrained body.
    """
    drawn = {}
    for name, parameter in parameters.items():
        scale = 0.0 if name.endswith((".bias", ".b")) else sqrt(2 / parameter.shape[0])
        if name == "head.weight":
            scale = _NEW_HEAD if new_head else sqrt(1 / parameter.shape[0])
        elif name in ("embedding", "positions"):
            scale = 1.0 if name == "embedding" else 0.3
        drawn[name] = scale * torch.randn(n_copies, *parameter.shape, generator=generator, device=generator.device)
    return drawn


class Layout:
    """Where each weight of a network stands in one flat vector, so that an optimizer's step is a few operations.

    Attributes:
        parameters: The weights in their order.
        layers: D, the layer of each entry.
        decays: D, True where weight decay applies: to matrices, not to biases, as in the Trainer.
    """

    def __init__(self, parameters: Mapping[str, Parameter]) -> None:
        self.parameters = dict(parameters)
        sizes = [prod(p.shape) for p in parameters.values()]
        ends = np.cumsum(sizes)
        self.slices = {
            name: slice(int(end) - size, int(end)) for name, size, end in zip(parameters, sizes, ends, strict=True)
        }
        self.layers = np.repeat([p.layer for p in parameters.values()], sizes)
        self.decays = np.repeat([len(p.shape) > 1 for p in parameters.values()], sizes)

    def pack(self, weights: Mapping[str, Tensor]) -> Tensor:
        """N x D vectors of weights that have a leading N."""
        return torch.cat([weights[name].flatten(1) for name in self.parameters], 1)

    def unpack(self, flat: Tensor) -> dict[str, Tensor]:
        """The weights as views of N x D vectors."""
        return {
            name: flat[:, self.slices[name]].view(len(flat), *parameter.shape)
            for name, parameter in self.parameters.items()
        }


@dataclass
class Forward:
    """One pass of N copies of a network.

    Attributes:
        shape: Of the network.
        weights: Each N x its shape, or only its shape where all copies share it.
        scale: N x 1 x 1 factor of the adapters, None where there are none.
        dropout: N x 1 x 1 rate behind each hidden layer, None for none.
        adapter_dropout: The same in front of adapters.
        generator: Source of the dropout's randomness.
    """

    shape: NetworkShape
    weights: Mapping[str, Tensor]
    scale: Tensor | None = None
    dropout: Tensor | None = None
    adapter_dropout: Tensor | None = None
    generator: torch.Generator | None = None

    def __call__(self, rows: Tensor) -> Tensor:
        """Outputs of the head.

        Args:
            rows: N x R x n_inputs numbers, or N x R x T tokens.

        Returns:
            N x R x n_outputs; N x R x T x n_outputs where the head reads every token.
        """
        return self._attention(rows) if self.shape.body == "attention" else self._mlp(rows)

    def _mlp(self, rows: Tensor) -> Tensor:
        shape, activate = self.shape, ACTIVATIONS[self.shape.activation]
        state = activate(self._linear(self._embed(rows).flatten(2) if shape.vocabulary else rows, "input"))
        for layer in range(1, shape.depth + 1):
            state = self._drop(state, self.dropout)
            read = F.layer_norm(state, (shape.width,)) if shape.residual else state
            new = activate(self._linear(read, f"{layer}.hidden"))
            state = state + new if shape.residual else new
        return self._head(state)

    def _attention(self, rows: Tensor) -> Tensor:
        shape, activate = self.shape, ACTIVATIONS[self.shape.activation]
        (N, R, T), width = rows.shape, shape.width
        state = (self._embed(rows) + self.weights["positions"].unsqueeze(-3)).reshape(N, R * T, width)
        for layer in range(1, shape.depth + 1):
            parts = self._linear(F.layer_norm(state, (width,)), f"{layer}.attend")
            query, key, value = parts.view(N * R, 1, T, 3, width).unbind(3)
            seen = F.scaled_dot_product_attention(query, key, value, is_causal=True).view(N, R * T, width)
            state = state + self._drop(self._linear(seen, f"{layer}.mix"), self.dropout)
            hidden = activate(self._linear(F.layer_norm(state, (width,)), f"{layer}.up"))
            state = state + self._drop(self._linear(hidden, f"{layer}.down"), self.dropout)
        state = F.layer_norm(state, (width,))
        if shape.per_token:
            return self._head(state).view(N, R, T, shape.n_outputs)
        return self._head(state.view(N, R, T, width).mean(2))

    def _head(self, state: Tensor) -> Tensor:
        return self._linear(self.shape.gain * (state + self.shape.common), "head")

    def _embed(self, tokens: Tensor) -> Tensor:
        table = self.weights["embedding"]
        if table.dim() == 2:
            return F.embedding(tokens, table)
        # One table for all copies, each of which reads its own part: this is much faster than indexing by copy.
        first = torch.arange(len(table), device=tokens.device) * table.shape[1]
        return F.embedding(tokens + first[:, None, None], table.flatten(0, 1))

    def _linear(self, rows: Tensor, name: str) -> Tensor:
        weight, bias = self.weights[f"{name}.weight"], self.weights[f"{name}.bias"]
        result = rows @ weight + bias if weight.dim() == 2 else torch.baddbmm(bias[:, None], rows, weight)
        if self.scale is None or f"{name}.weight.a" not in self.weights:
            return result
        low = torch.bmm(self._drop(rows, self.adapter_dropout), self.weights[f"{name}.weight.a"])
        return result + self.scale * torch.bmm(low, self.weights[f"{name}.weight.b"])

    def _drop(self, state: Tensor, rate: Tensor | None) -> Tensor:
        if rate is None:
            return state
        kept = torch.rand(state.shape, generator=self.generator, device=state.device) >= rate
        return state * kept / (1 - rate)
