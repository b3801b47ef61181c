"""Implements the re-parameterized update: the gradient is scaled by lambda, then applied with rate eta.

With gradient descent a step is ``w <- w - eta * (lambda * gradient)``. By default lambda is ``1 / sqrt(T)`` for ``T``
planned steps, the scale at which the regret bound of online gradient descent is met (Zinkevich 2003). An optimizer that
divides by the size of the gradients, such as Adam, takes the same steps for every lambda, unless it adds weight decay
or clips.
"""

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.optim import Optimizer

from hf_rlsearch.errors import ArgumentsError


class ReparameterizedUpdate(Optimizer):
    """Wraps an optimizer so that it sees every gradient scaled by lambda.

    Learning rate schedules, parameter groups and saved states are those of the wrapped optimizer. Clip gradients before
    the step, as the Trainer does: the step itself applies the scale.

    Args:
        optimizer: Applies the scaled gradients.
        gradient_scale: lambda, greater than 0.
        n_steps: Planned number of steps T, at least 1; lambda is then ``1 / sqrt(T)``.

    Raises:
        ArgumentsError: Neither or both of ``gradient_scale`` and ``n_steps`` are given, or a value is out of range.
    """

    optimizer: Optimizer

    def __init__(
        self, optimizer: Optimizer, *, gradient_scale: float | None = None, n_steps: int | None = None
    ) -> None:
        self.gradient_scale = _scale(gradient_scale, n_steps)
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scales the gradients in place and takes a step of the wrapped optimizer.

        A ``closure``, which some optimizers need, computes the gradients again and returns the loss.
        """
        if closure is None:
            self._scale_gradients()
            return self.optimizer.step()

        def scaled() -> float:
            loss = closure()
            self._scale_gradients()
            return loss

        return self.optimizer.step(scaled)

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a group to the wrapped optimizer."""
        if hasattr(self, "optimizer"):
            self.optimizer.add_param_group(param_group)
        else:  # while the constructor of the base class registers the groups
            super().add_param_group(param_group)

    def train(self) -> None:
        """Switches a wrapped optimizer that has modes, such as a schedule-free one, to training."""
        getattr(self.optimizer, "train", lambda: None)()

    def eval(self) -> None:
        """Switches a wrapped optimizer that has modes to evaluation."""
        getattr(self.optimizer, "eval", lambda: None)()

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the wrapped optimizer: a checkpoint can be loaded with or without this wrapper."""
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of the wrapped optimizer."""
        self.optimizer.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """Returns the state of a copy; the base class would leave out the attributes of this class."""
        return {**super().__getstate__(), "gradient_scale": self.gradient_scale, "optimizer": self.optimizer}

    def _share(self) -> None:
        """Uses the wrapped optimizer's own groups and state, which schedules write and the Trainer reads."""
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def _scale_gradients(self) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(self.gradient_scale)


def _scale(gradient_scale: float | None, n_steps: int | None) -> float:
    if (gradient_scale is None) == (n_steps is None):
        raise ArgumentsError(
            f"gradient_scale={gradient_scale!r} and n_steps={n_steps!r}: give one of them, the scale itself or the "
            "number of steps that determines the scale."
        )
    if gradient_scale is not None and not (gradient_scale > 0 and math.isfinite(gradient_scale)):
        raise ArgumentsError(f"gradient_scale={gradient_scale!r}: expected a finite number greater than 0.")
    if n_steps is not None and n_steps < 1:
        raise ArgumentsError(f"n_steps={n_steps!r}: expected at least 1.")
    return float(gradient_scale) if gradient_scale is not None else 1.0 / math.sqrt(n_steps or 1)
