"""Schedules of the learning rate that transformers does not have: exponential and step decay, with warm-up."""

from functools import partial
from typing import Any

OURS = ("exponential", "step")
# Step decay holds the rate for a third of the training each: 1, then the root of the end, then the end.
_N_STEPS = 3


def make_schedule(name: str, optimizer: Any, *, n_warmup: int, n_steps: int, end: float) -> Any:
    """A schedule for the whole of a training.

    Args:
        name: One of ``OURS``.
        optimizer: Whose groups it drives.
        n_warmup: Training steps of linear warm-up.
        n_steps: Training steps in all.
        end: Share of the full rate at the end, in (0, 1].
    """
    from torch.optim.lr_scheduler import LambdaLR

    return LambdaLR(optimizer, partial(share, name=name, n_warmup=n_warmup, n_steps=n_steps, end=end))


def share(step: int, *, name: str, n_warmup: int, n_steps: int, end: float) -> float:
    """The share of the full rate at one training step, in [0, 1]; arguments as ``make_schedule``."""
    if step < n_warmup:
        return step / n_warmup
    progress = min(1.0, (step - n_warmup) / max(1, n_steps - n_warmup))
    if name == "exponential":
        return float(end**progress)
    return float(end ** (min(int(_N_STEPS * progress), _N_STEPS - 1) / (_N_STEPS - 1)))
