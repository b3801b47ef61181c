"""The re-parameterised update: scale the gradient by lambda first, then apply it with rate eta.

With gradient descent a step is ``w <- w - eta * (lambda * gradient)``; by default lambda is ``1 / sqrt(T)`` for ``T``
planned steps, the scale at which the regret bound of online gradient descent is met (Zinkevich 2003). An optimizer that
divides by the size of the gradients, such as Adam, takes the same steps for every lambda; one that adds weight decay or
clips does not.
"""

import math
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch.optim import Optimizer

from hf_rlsearch.errors import ArgumentsError

TrainerT = TypeVar("TrainerT")


class ReparameterizedUpdate(Optimizer):
    """Wraps an optimizer so that it sees every gradient scaled by lambda.

    Learning rate schedules, parameter groups and saved states are those of the wrapped optimizer. Clip gradients before
    the step, as the Trainer does: the scale is applied inside of it.

    Args:
        optimizer: the optimizer that applies the scaled gradients.
        gradient_scale: lambda, greater than 0.
        n_steps: planned number of steps T, at least 1; lambda is then ``1 / sqrt(T)``.

    Raises:
        ArgumentsError: neither or both of ``gradient_scale`` and ``n_steps`` are given, or out of range.
    """

    def __init__(
        self, optimizer: Optimizer, *, gradient_scale: float | None = None, n_steps: int | None = None
    ) -> None:
        self.gradient_scale = _scale(gradient_scale, n_steps)
        self.optimizer: Optimizer | None = None  # while the base class registers the groups
        super().__init__(optimizer.param_groups, optimizer.defaults)
        self.optimizer = optimizer
        self._share()

    def step(self, closure: Callable[[], float] | None = None) -> Any:
        """Scales the gradients in place and takes a step of the wrapped optimizer.

        Args:
            closure: computes the gradients anew and returns the loss, for optimizers that need it.

        Returns:
            The loss, if there is a closure.
        """
        assert self.optimizer is not None
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
        if self.optimizer is None:
            super().add_param_group(param_group)
        else:
            self.optimizer.add_param_group(param_group)

    def train(self) -> None:
        """Tells the wrapped optimizer that a training begins, if it cares: a schedule-free one does."""
        self._tell("train")

    def eval(self) -> None:
        """Tells the wrapped optimizer that an evaluation begins, if it cares."""
        self._tell("eval")

    def state_dict(self) -> dict[str, Any]:
        """Returns the state of the wrapped optimizer: a checkpoint can be loaded with or without this wrapper."""
        assert self.optimizer is not None
        return self.optimizer.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state of the wrapped optimizer."""
        assert self.optimizer is not None
        self.optimizer.load_state_dict(state_dict)
        self._share()

    def __getstate__(self) -> dict[str, Any]:
        """What a copy has; the base class would leave out what it does not know."""
        return {**super().__getstate__(), "gradient_scale": self.gradient_scale, "optimizer": self.optimizer}

    def _tell(self, method: str) -> None:
        if callable(tell := getattr(self.optimizer, method, None)):
            tell()

    def _share(self) -> None:
        """Schedules write into the groups, the Trainer reads them: both must be the wrapped optimizer's own objects."""
        assert self.optimizer is not None
        self.param_groups, self.state = self.optimizer.param_groups, self.optimizer.state

    def _scale_gradients(self) -> None:
        with torch.no_grad():
            for group in self.param_groups:
                for parameter in group["params"]:
                    if parameter.grad is not None:
                        parameter.grad.mul_(self.gradient_scale)


def reparameterize(trainer: TrainerT, *, gradient_scale: float | None = None) -> TrainerT:
    """Makes a Trainer take re-parameterised updates in every training from now on, whatever optimizer it creates.

    Args:
        trainer: a ``transformers.Trainer`` or a subclass; it is changed in place.
        gradient_scale: lambda, greater than 0; if left out ``1 / sqrt(T)`` for the ``T`` steps of each training.

    Returns:
        The same Trainer.

    Raises:
        ArgumentsError: ``gradient_scale`` is out of range.
    """
    if gradient_scale is not None:
        _scale(gradient_scale, None)
    make_optimizer: Callable[..., Optimizer] = trainer.create_optimizer  # type: ignore[attr-defined]
    make_scheduler: Callable[..., Any] = trainer.create_scheduler  # type: ignore[attr-defined]
    current: list[ReparameterizedUpdate] = []

    def create_optimizer(*model: Any) -> Optimizer:
        optimizer = make_optimizer(*model)
        if not current or not _is_inside(current[-1], optimizer):
            optimizer = ReparameterizedUpdate(optimizer, gradient_scale=gradient_scale or 1.0)
            current[:] = [optimizer]
            trainer.optimizer = optimizer  # type: ignore[attr-defined]
        return optimizer

    def create_scheduler(num_training_steps: int, optimizer: Optimizer | None = None) -> Any:
        if gradient_scale is None and current:  # only now is it known how many steps there will be
            current[-1].gradient_scale = _scale(None, num_training_steps)
        return make_scheduler(num_training_steps, optimizer)

    trainer.create_optimizer = create_optimizer  # type: ignore[attr-defined]
    trainer.create_scheduler = create_scheduler  # type: ignore[attr-defined]
    return trainer


def _is_inside(wanted: Optimizer, optimizer: Any) -> bool:
    """Whether an optimizer is the wanted one, or wraps it, as accelerate's does from the first training on."""
    while optimizer is not None and optimizer is not wanted:
        optimizer = getattr(optimizer, "optimizer", None)
    return optimizer is wanted


def _scale(gradient_scale: float | None, n_steps: int | None) -> float:
    if (gradient_scale is None) == (n_steps is None):
        raise ArgumentsError(
            f"gradient_scale={gradient_scale!r} and n_steps={n_steps!r}: give one of them, the scale itself or the "
            "number of steps that it follows from."
        )
    if gradient_scale is not None and not (gradient_scale > 0 and math.isfinite(gradient_scale)):
        raise ArgumentsError(f"gradient_scale={gradient_scale!r}: expected a finite number greater than 0.")
    if n_steps is not None and n_steps < 1:
        raise ArgumentsError(f"n_steps={n_steps!r}: expected at least 1.")
    return float(gradient_scale) if gradient_scale is not None else 1.0 / math.sqrt(n_steps or 1)
