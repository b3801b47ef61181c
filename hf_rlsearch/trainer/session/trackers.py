"""Gives each trial its own run in every tracker, in four of them with its study, hyperparameters and final objective.

The Trainer's callbacks do the logging. Here they are created again for each trial, since they remember their first run.
In TensorBoard, Weights & Biases, MLflow and Trackio hyperparameters are logged together with the final objective, and
the runs of a search form one group (in MLflow they have one tag; TensorBoard compares folders).
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
_TRACKIO = "TrackioCallback"
_NESTED = "MLFLOW_NESTED_RUN"
# Tag of MLflow's runs, and the attribute of a callback that has the id of its run.
_STUDY_TAG, _RUN_ID = "hf_rlsearch.study", "_hf_rlsearch_run_id"


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

    Weights & Biases and Trackio: the callback would name no group. MLflow: in an open run of the user's, which cannot
    have the parameters of all trials, each trial gets a nested run.
    """
    for tracker in _all(trainer, _MLFLOW):
        if trainer.is_world_process_zero():
            tracker.setup = functools.partial(_set_up_mlflow, tracker, tracker.setup, group)
    for tracker in _all(trainer, _TRACKIO):
        tracker._trackio = _TrackioGroup(tracker._trackio, group)
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
    final = {f"objective/{name}": value for name, value in objective.items()}
    with _errors_as_warnings():
        for tracker in _all(trainer, _MLFLOW):
            _finish_mlflow(trainer, tracker, hyperparameters, final)
    with _errors_as_warnings():
        for tracker in _all(trainer, _TRACKIO):
            _finish_trackio(trainer, tracker._trackio, hyperparameters, final)
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
                wandb.run.summary.update(final)
                wandb.finish()


def _set_up_mlflow(tracker: Any, setup: Any, study: str, *args: Any, **kwargs: Any) -> None:
    """Opens a trial's run, nested in an open run of the user's, and tags it with the study."""
    before = os.environ.get(_NESTED)
    if tracker._ml_flow.active_run() is not None:
        os.environ[_NESTED] = "TRUE"
    try:
        setup(*args, **kwargs)
    finally:
        os.environ.pop(_NESTED, None)
        if before is not None:
            os.environ[_NESTED] = before
    if (run := tracker._ml_flow.active_run()) is not None:
        setattr(tracker, _RUN_ID, run.info.run_id)
        tracker._ml_flow.set_tag(_STUDY_TAG, study)


def _finish_mlflow(trainer: Any, tracker: Any, hyperparameters: Params, final: Mapping[str, float]) -> None:
    # A training that failed leaves its run open, and the callback ends any open run when it is deleted.
    run, tracker._auto_end_run = tracker._ml_flow.active_run(), False
    if run is not None and run.info.run_name == trainer.args.run_name:
        tracker._ml_flow.end_run("FAILED")
    run_id = vars(tracker).get(_RUN_ID)
    if run_id is None:
        return
    client = tracker._ml_flow.MlflowClient()
    known = client.get_run(run_id).data.params
    for name, value in hyperparameters.items():
        if name not in known:  # fields of the model, its adapter and generation; MLflow allows no parameter to change
            client.log_param(run_id, name, value)
    for name, value in final.items():
        client.log_metric(run_id, name, value)


class _TrackioGroup:
    """The module ``trackio``, whose runs belong to a group."""

    def __init__(self, module: Any, group: str) -> None:
        self._module, self._group = module, group

    def __getattr__(self, name: str) -> Any:
        return getattr(self._module, name)

    def init(self, **settings: Any) -> Any:
        """Opens a run."""
        return self._module.init(**settings, group=self._group)


def _finish_trackio(trainer: Any, trackio: Any, hyperparameters: Params, final: Mapping[str, float]) -> None:
    """Adds to the run of a trial, which its callback has ended if the training did not fail."""
    if not trainer.is_world_process_zero():
        return
    if trackio.context_vars.current_run.get() is None:
        args = trainer.args
        trackio.init(
            project=args.project,
            name=args.run_name,
            space_id=args.trackio_space_id,
            resume="allow",
            private=args.hub_private_repo,
            embed=False,
        )
    trackio.config.update({"hyperparameters": dict(hyperparameters)}, allow_val_change=True)
    if final:
        trackio.log(dict(final))
    trackio.finish()


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
