"""Optimizers of many trainings side by side; every training has settings of its own.

The weights of N trainings are N x D vectors. Trainings that have ended are the last rows and are left out of the
gradient: the first rows of weights and states, as many as the gradient has, are updated.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping

import torch
from torch import Tensor

from hf_rlsearch.tasks.miniature.network import Layout


class Optimizer(ABC):
    """An optimizer of N trainings, with states as large as the weights.

    Args:
        weights: N x D, changed in place.
        layout: Of the D entries.
        settings: N x 1 each: ``weight_decay``, ``adam_beta1``, ``adam_beta2``, ``adam_epsilon``, ``momentum``.
    """

    N_STATES = 0

    def __init__(self, weights: Tensor, layout: Layout, settings: Mapping[str, Tensor]) -> None:
        self.weights, self.layout, self.settings = weights, layout, settings
        self.states = [torch.zeros_like(weights) for _ in range(self.N_STATES)]
        decay = settings["weight_decay"]
        decayed = torch.as_tensor(layout.decays, dtype=weights.dtype, device=weights.device)
        self.decay = decay * decayed if bool((decay > 0).any()) else None

    @abstractmethod
    def step(self, gradient: Tensor, rate: Tensor, count: int) -> None:
        """Takes one step.

        Args:
            gradient: n x D of the trainings that still run, n at most N.
            rate: n x 1 or n x D learning rates.
            count: Number of this step, from 1.
        """

    def _shrink(self, weights: Tensor, rate: Tensor) -> None:
        """Weight decay apart from the gradient (Loshchilov and Hutter 2019)."""
        if self.decay is not None:
            weights.mul_(1 - rate * self.decay[: len(weights)])


class AdamW(Optimizer):
    """Loshchilov and Hutter 2019 (arXiv:1711.05101)."""

    N_STATES = 2

    def step(self, gradient: Tensor, rate: Tensor, count: int) -> None:  # noqa: D102
        n = len(gradient)
        weights, mean, square = (x[:n] for x in (self.weights, *self.states))
        beta1, beta2, epsilon = (self.settings[name][:n] for name in ("adam_beta1", "adam_beta2", "adam_epsilon"))
        mean.lerp_(gradient, 1 - beta1)
        square.lerp_(gradient.square(), 1 - beta2)
        self._shrink(weights, rate)
        root = (square / (1 - beta2**count)).sqrt_().add_(epsilon)
        weights.sub_((mean / root).mul_(rate / (1 - beta1**count)))


class Sgd(Optimizer):
    """Stochastic gradient descent with momentum; decay is part of the gradient, as in torch."""

    N_STATES = 1

    def step(self, gradient: Tensor, rate: Tensor, count: int) -> None:  # noqa: D102
        n = len(gradient)
        weights, velocity = (x[:n] for x in (self.weights, *self.states))
        if self.decay is not None:
            gradient = gradient + self.decay[:n] * weights
        velocity.mul_(self.settings["momentum"][:n]).add_(gradient)
        weights.sub_(velocity * rate)


class Lion(Optimizer):
    """Chen et al. 2023 (arXiv:2302.06675)."""

    N_STATES = 1

    def step(self, gradient: Tensor, rate: Tensor, count: int) -> None:  # noqa: D102
        n = len(gradient)
        weights, mean = (x[:n] for x in (self.weights, *self.states))
        beta1, beta2 = self.settings["adam_beta1"][:n], self.settings["adam_beta2"][:n]
        self._shrink(weights, rate)
        weights.sub_(torch.lerp(mean, gradient, 1 - beta1).sign_().mul_(rate))
        mean.lerp_(gradient, 1 - beta2)


class Adafactor(Optimizer):
    """Shazeer and Stern 2018 (arXiv:1804.04235) with an external rate and no momentum, as the Trainer uses it."""

    def __init__(self, weights: Tensor, layout: Layout, settings: Mapping[str, Tensor]) -> None:
        super().__init__(weights, layout, settings)
        self.squares = {
            name: [square.mean(dim) for dim in ((-1, -2) if square.dim() == 3 else ())] or [square.clone()]
            for name, square in layout.unpack(torch.zeros_like(weights)).items()
        }

    def step(self, gradient: Tensor, rate: Tensor, count: int) -> None:  # noqa: D102
        n, forget = len(gradient), count**-0.8
        updates = []
        for name, part in self.layout.unpack(gradient).items():
            square = part.square() + 1e-30
            states = [state[:n] for state in self.squares[name]]
            for state, dim in zip(states, (-1, -2), strict=False):
                state.lerp_(square.mean(dim) if len(states) == 2 else square, forget)
            update = (part * _inverse_root(states)).flatten(1)
            size = update.square().mean(1, keepdim=True).sqrt()
            updates.append(update / size.clamp(min=1.0))
        weights = self.weights[:n]
        self._shrink(weights, rate)
        weights.sub_(torch.cat(updates, 1).mul_(rate))


def _inverse_root(states: list[Tensor]) -> Tensor:
    """One over the root of a running mean of squares, which is kept as means over rows and columns, or as it is."""
    if len(states) == 1:
        return states[0].rsqrt()
    rows, columns = states
    return (rows / rows.mean(-1, keepdim=True)).rsqrt()[..., None] * columns.rsqrt()[..., None, :]


OPTIMIZERS: dict[str, type[Optimizer]] = {
    "adamw_torch": AdamW,
    "sgd": Sgd,
    "lion_32bit": Lion,
    "adafactor": Adafactor,
}
"""By the names of ``TrainingArguments.optim``."""
