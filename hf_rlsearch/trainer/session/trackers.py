"""Gives each trial its own run in every tracker, in TensorBoard and Weights & Biases with its final objective.

The Trainer's callbacks do the logging. Here they are created again for each trial, since they remember their first run,
the runs of Weights & Biases form one group, and hyperparameters are logged together with the final objective.
"""

import functools
import inspect
import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from hf_rlsearch._typing import Params

logger = logging.getLogger(__name__)

_TENSORBOARD, _WANDB, _MLFLOW = "TensorBoardCallback", "WandbCallback", "MLflowCallback"
_NESTED = "MLFLOW_NESTED_RUN"


def recreate(callback: Any) -> Any | None:
    """A new callback like the given one if it is one of transformers' integrations; None if a copy is enough.

    These callbacks hold modules, open files and the run that they started, which cannot be copied, and remember that
    their parameters are logged. A TensorBoard callback with a writer of the user's is kept as it is.
    """
    kind = type(callback)
    if kind.__module__ != "transformers.integrations.integration_utils":
        return None
    if kind.__name__ == _TENSORBOARD and callback.tb_writer is not None:
        return None
    names = list(inspect.signature(kind).parameters)
    known = {name: value for name in names for value in _settings(callback, name)}
    with _errors_as_warnings(f"{kind.__name__} cannot be made anew for each trial"):
        return kind(**known)
    return None


def _settings(callback: Any, name: str) -> list[Any]:
    """The value that the constructor of a callback got under a name, if the callback keeps it under that name."""
    return [vars(callback)[key] for key in (name, f"_{name}") if key in vars(callback)][:1]


def start_run(trainer: Any, *, name: str, group: str) -> None:
    """Prepares a trial's run where the Trainer logs.

    Weights & Biases: the callback would name no group. MLflow: in an open run of the user's, which cannot have the
    parameters of all trials, each trial gets a nested run.
    """
    for tracker in _all(trainer, _MLFLOW):
        if trainer.is_world_process_zero() and tracker._ml_flow.active_run() is not None:
            tracker.setup = functools.partial(_with_nested_run, tracker.setup)
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
        for tracker in _all(trainer, _MLFLOW):
            # A training that failed leaves its run open, and the callback ends any open run when it is deleted.
            run, tracker._auto_end_run = tracker._ml_flow.active_run(), False
            if run is not None and run.info.run_name == trainer.args.run_name:
                tracker._ml_flow.end_run("FAILED")
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


def _with_nested_run(setup: Any, *args: Any, **kwargs: Any) -> None:
    before = os.environ.get(_NESTED)
    os.environ[_NESTED] = "TRUE"
    try:
        setup(*args, **kwargs)
    finally:
        os.environ.pop(_NESTED)
        if before is not None:
            os.environ[_NESTED] = before


def _all(trainer: Any, name: str) -> list[Any]:
    callbacks = getattr(getattr(trainer, "callback_handler", None), "callbacks", ())
    return [c for c in callbacks if name in (cls.__name__ for cls in type(c).__mro__)]


def _find(trainer: Any, name: str) -> Any | None:
    return next(iter(_all(trainer, name)), None)


@contextmanager
def _errors_as_warnings(what: str = "The trial's final objective could not be logged") -> Iterator[None]:
    """Logs an exception instead of raising it: a logger that breaks is no reason to lose a trial."""
    try:
        yield
    except Exception as error:
        logger.warning("%s: %s: %s", what, type(error).__name__, error)
