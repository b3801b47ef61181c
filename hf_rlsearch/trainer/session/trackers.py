"""Gives each trial its own run in TensorBoard and Weights & Biases, with its final objective.

The Trainer's callbacks do the logging. Here they are created again for each trial, since they remember their first run,
the runs of Weights & Biases form one group, and hyperparameters are logged together with the final objective.
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
    """A new callback like the given one if a copy would continue its run; None if a copy is enough.

    The callbacks of the Trainer's integrations hold modules, open files and the run that they started, which cannot be
    copied. A TensorBoard callback with a writer of the user's is kept as it is.
    """
    kind = type(callback)
    if kind.__module__ != "transformers.integrations.integration_utils" or kind.__name__ not in (_TENSORBOARD, _WANDB):
        return None
    if kind.__name__ == _TENSORBOARD and callback.tb_writer is not None:
        return None
    return kind()


def start_run(trainer: Any, *, name: str, group: str) -> None:
    """Starts a trial's run of Weights & Biases if the Trainer logs there: its callback would name no group."""
    callback = _find(trainer, _WANDB)
    if callback is None or not trainer.is_world_process_zero():
        return
    import wandb

    # The callback's own setup would make the trial's run name the name of the group.
    real = callback.setup

    def setup(args: Any, state: Any, model: Any, **kwargs: Any) -> None:
        if wandb.run is None:
            wandb.init(project=os.getenv("WANDB_PROJECT", "huggingface"), name=name, group=group)
        real(args, state, model, **kwargs)

    wandb.finish()
    callback.setup = setup


def finish_run(trainer: Any, *, hyperparameters: Params, objective: Mapping[str, float]) -> None:
    """Logs a trial's hyperparameters with its final objective, if any, and ends its runs; an error is only logged."""
    with _errors_as_warnings():
        callback = _find(trainer, _TENSORBOARD)
        if callback is not None and callback._SummaryWriter is not None and callback.logging_dir is not None:
            values = {n: v if isinstance(v, bool | int | float | str) else str(v) for n, v in hyperparameters.items()}
            with callback._SummaryWriter(log_dir=callback.logging_dir) as writer:
                writer.add_hparams(values, {f"hparam/{n}": v for n, v in objective.items()}, run_name=os.curdir)
    with _errors_as_warnings():
        if _find(trainer, _WANDB) is not None:
            import wandb

            if wandb.run is not None:
                wandb.run.config.update({"hyperparameters": dict(hyperparameters)}, allow_val_change=True)
                wandb.run.summary.update({f"objective/{name}": value for name, value in objective.items()})
                wandb.finish()


def _find(trainer: Any, name: str) -> Any | None:
    handler = getattr(trainer, "callback_handler", None)
    return next((c for c in getattr(handler, "callbacks", ()) if type(c).__name__ == name), None)


@contextmanager
def _errors_as_warnings() -> Iterator[None]:
    """Logs an exception instead of raising it: a logger that breaks is no reason to lose a trial."""
    try:
        yield
    except Exception as error:
        logger.warning("The trial's final objective could not be logged: %s: %s", type(error).__name__, error)
