"""TensorBoard and Weights & Biases during a search: a run of its own for each trial, with its final objective.

The Trainer's own callbacks do the logging; what they lack is done here. They are made anew for each trial, as they
remember their first run; runs of Weights & Biases are put into one group; hyperparameters are logged with the objective
that came of them.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hf_rlsearch._typing import Params

logger = logging.getLogger(__name__)

_TENSORBOARD, _WANDB = "TensorBoardCallback", "WandbCallback"


def recreate(callback: Any) -> Any | None:
    """A new callback like this one of the Trainer's integrations; None for all others, and those with a user's writer.

    A copy will not do: they hold modules, open files and the run that they began.
    """
    kind = type(callback)
    if kind.__module__ != "transformers.integrations.integration_utils" or kind.__name__ not in (_TENSORBOARD, _WANDB):
        return None
    if kind.__name__ == _TENSORBOARD and callback.tb_writer is not None:
        return None
    return kind()


def start_run(trainer: Any, *, name: str, group: str) -> None:
    """Opens a run of Weights & Biases for a trial, if the Trainer logs there; the callback would name no common group.

    Args:
        trainer: Prepared for the trial.
        name: Of the trial.
        group: Of the search.
    """
    callback = _find(trainer, _WANDB)
    if callback is None or not trainer.is_world_process_zero():
        return
    import wandb

    real = callback.setup

    def setup(args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        if wandb.run is None:
            wandb.init(project=os.getenv("WANDB_PROJECT", "huggingface"), name=name, group=group)
        real(args, state, model, **kwargs)

    wandb.finish()
    callback.setup = setup


def finish_run(trainer: Any, *, hyperparameters: Params, objective: Mapping[str, float]) -> None:
    """Logs a trial's hyperparameters with its final objective, and ends its runs; a failure to do so is only told.

    Args:
        trainer: That has trained the trial, on rank 0.
        hyperparameters: The exact values of the trial.
        objective: Final value by name; empty for a trial that has none.
    """
    with _told():
        callback = _find(trainer, _TENSORBOARD)
        if callback is not None and callback._SummaryWriter is not None and callback.logging_dir is not None:
            _log_hparams(callback, hyperparameters, objective)
    with _told():
        if _find(trainer, _WANDB) is not None:
            _finish_wandb(hyperparameters, objective)


def _log_hparams(callback: Any, hyperparameters: Params, objective: Mapping[str, float]) -> None:
    """One row of TensorBoard's hparams table, beside the curves of the trial."""
    values = {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in hyperparameters.items()}
    with callback._SummaryWriter(log_dir=callback.logging_dir) as writer:
        writer.add_hparams(values, {f"hparam/{n}": v for n, v in objective.items()}, run_name=os.curdir)


def _finish_wandb(hyperparameters: Params, objective: Mapping[str, float]) -> None:
    import wandb

    if wandb.run is None:
        return
    wandb.run.config.update({"hyperparameters": dict(hyperparameters)}, allow_val_change=True)
    wandb.run.summary.update({f"objective/{name}": value for name, value in objective.items()})
    wandb.finish()


def _find(trainer: Any, name: str) -> Any | None:
    handler = getattr(trainer, "callback_handler", None)
    return next((c for c in getattr(handler, "callbacks", ()) if type(c).__name__ == name), None)


@contextmanager
def _told() -> Iterator[None]:
    """A logger that breaks is no reason to lose a trial."""
    try:
        yield
    except Exception as error:
        logger.warning("The trial's final objective could not be logged: %s: %s", type(error).__name__, error)
