"""A Trainer lent to a search: set up anew for each trial, given back as it was.

A search drives ``Trainer.train()`` without making the Trainer believe that a built-in backend runs, so it must itself
do what ``Trainer._hp_search_setup`` and the constructor do with changed arguments: ``TrainerSession.prepare`` does, and
``TrainerSession.__exit__`` puts everything back.
"""

import copy
import logging
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, Protocol

from hf_rlsearch.trainer.session.compat import (
    apply_constructor_fields,
    fresh_model,
    rebuild_accelerator,
    restore_precision,
)
from hf_rlsearch.trainer.session.seeds_and_memory import release_memory
from hf_rlsearch.trainer.session.trackers import recreate

logger = logging.getLogger(__name__)

_PROGRESS = ("ProgressCallback", "PrinterCallback", "NotebookProgressCallback")


class OnMetrics(Protocol):
    """What is called with the merged metrics of each evaluation during training."""

    def __call__(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """Reacts to one evaluation; all ranks call it at the same point of training."""


class TrainerSession:
    """A Trainer lent to a search: set up anew for each trial, given back as it was.

    Use as a context manager. All of the Trainer's attributes are noted on entry and put back before each trial and on
    exit, so neither arguments nor callbacks, models or flags leak from one trial to the next.

    Args:
        trainer: Any subclass of ``transformers.Trainer`` with a ``model_init``.
    """

    def __init__(self, trainer: Any) -> None:
        self.trainer = trainer
        self._noted: dict[str, Any] = {}
        self._moved = False

    def __enter__(self) -> "TrainerSession":
        self._noted = dict(vars(self.trainer))
        # The backend's flag is already set by hyperparameter_search; before that it was None.
        self._noted["hp_search_backend"] = None
        self._moved = self._park_model()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is not None:
            self.restore()

    def restore(self) -> None:
        """Puts every attribute back and the model where it was."""
        self._reset()
        restore_precision(self.trainer.args)
        if self._moved:
            self.trainer._move_model_to_device(self.trainer.model, self.trainer.args.device)
            self._moved = False

    def prepare(
        self,
        args: Any,
        *,
        model_init: Callable[[], Any] | None = None,
        name: str | None = None,
        on_metrics: OnMetrics | None = None,
        callbacks: bool = True,
    ) -> Any:
        """Makes the Trainer what its constructor would have made of these arguments.

        Args:
            args: Resolved arguments of this trial; used as they are.
            model_init: Replaces the user's where given; takes nothing or a trial.
            name: What ``hp_name`` answers during the trial.
            on_metrics: Called at each evaluation during training.
            callbacks: False leaves the user's callbacks out.

        Returns:
            The Trainer, ready for ``train()``.
        """
        trainer = self.trainer
        self._reset()
        trainer.args = args
        trainer.hp_name = None if name is None else (lambda trial: name)
        trainer.callback_handler = self._fresh_handler(callbacks)
        trainer.control = type(trainer.control)()
        trainer.state = copy.deepcopy(trainer.state)
        trainer.is_in_train = False
        if model_init is not None:
            trainer.model_init = model_init
        apply_constructor_fields(trainer)
        rebuild_accelerator(trainer)
        if on_metrics is not None:
            trainer._report_to_hp_search = lambda trial, step, metrics: on_metrics(trainer, metrics)
        return trainer

    def release(self) -> None:
        """Drops model, optimizer, scheduler and every reference to them, on this rank."""
        trainer = self.trainer
        trainer.accelerator.free_memory()
        for owner in (trainer, trainer.callback_handler):
            for name in ("model", "model_wrapped", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader"):
                if name in vars(owner):
                    setattr(owner, name, None)
        trainer.deepspeed = None
        self._reset()
        release_memory()

    def finish(self, args: Any, *, model_init: Callable[..., Any] | None, load: Callable[[Any], None] | None) -> None:
        """Leaves the Trainer with the best arguments and model.

        Args:
            args: The best trial's arguments, with the user's own ``output_dir``.
            model_init: What the Trainer's ``model_init`` is from now on; None keeps the user's.
            load: Puts the best weights into ``trainer.model``, a fresh model of the best trial; None keeps the old
            model.
        """
        trainer = self.trainer
        self._reset()
        trainer.args = args
        if model_init is not None:
            trainer.model_init = model_init
        apply_constructor_fields(trainer)
        rebuild_accelerator(trainer)
        if load is None:
            if self._moved:
                trainer._move_model_to_device(trainer.model, args.device)
            return
        model = fresh_model(trainer)
        trainer.model = trainer.model_wrapped = trainer.callback_handler.model = model
        load(trainer)
        trainer.model.eval()

    def _reset(self) -> None:
        current = vars(self.trainer)
        for name in [name for name in current if name not in self._noted]:
            del current[name]
        current.update(self._noted)

    def _park_model(self) -> bool:
        """Moves the user's model to main memory during the search, so that trials have the device for themselves."""
        model = self.trainer.model
        movable = getattr(self.trainer, "place_model_on_device", False) and not getattr(
            model, "quantization_method", None
        )
        device = next(iter(model.parameters()), None) if model is not None else None
        if not movable or device is None or device.device.type in ("cpu", "meta"):
            return False
        model.to("cpu")
        return True

    def _fresh_handler(self, callbacks: bool) -> Any:
        """A callback handler of its own with copies of the user's callbacks, so that stateful ones start anew."""
        handler = copy.copy(self._noted["callback_handler"])
        shared = {id(value): value for value in (self.trainer, *self._noted.values()) if not isinstance(value, list)}
        handler.callbacks = [_copy_callback(callback, shared) for callback in (handler.callbacks if callbacks else [])]
        remove_progress_callbacks(handler)
        return handler


def remove_progress_callbacks(handler: Any) -> None:
    """Removes the per-training progress bars: the search has one of its own."""
    handler.callbacks = [callback for callback in handler.callbacks if type(callback).__name__ not in _PROGRESS]


def _copy_callback(callback: Any, shared: dict[int, Any]) -> Any:
    if (new := recreate(callback)) is not None:
        return new
    try:
        # The memo makes references to the Trainer, its model and data stay references.
        return copy.deepcopy(callback, dict(shared))
    except Exception as error:
        logger.warning(
            "%s cannot be copied (%s: %s), so all trials share it and its state goes from one to the next.",
            type(callback).__name__,
            type(error).__name__,
            error,
        )
        return callback
