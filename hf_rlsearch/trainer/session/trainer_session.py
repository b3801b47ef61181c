"""Prepares the user's Trainer for each trial and restores all its attributes afterwards."""

import copy
import logging
import shutil
import types
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from hf_rlsearch.errors import describe
from hf_rlsearch.space.side_effects import Change
from hf_rlsearch.trainer.session import compat
from hf_rlsearch.trainer.session.failures import ignore_lost_device
from hf_rlsearch.trainer.session.seeds_and_memory import release_memory
from hf_rlsearch.trainer.session.shared_state import SharedState
from hf_rlsearch.trainer.session.trackers import recreate

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

logger = logging.getLogger(__name__)

# Begins with "_", as what ``Trainer.push_to_hub`` never uploads.
_PUBLISHED = "_push_to_hub"
_PROGRESS = ("ProgressCallback", "PrinterCallback", "NotebookProgressCallback")


class TrainerSession:
    """Context manager that prepares a Trainer for each trial and restores it.

    All attributes of the Trainer are recorded on entry and put back before each trial and on exit, so neither
    arguments nor callbacks, models or flags leak from one trial to the next. Nor does state in the objects that the
    trials share, see ``SharedState``. The Trainer has no backend set during the trials, so ``prepare`` repeats what
    ``Trainer._hp_search_setup`` and the constructor do with changed arguments.
    """

    def __init__(self, trainer: "Trainer") -> None:
        self.trainer: Any = trainer
        self._recorded: dict[str, Any] = {}
        self._shared: SharedState
        self._moved = False
        self._changes: Sequence[Change] = ()

    def __enter__(self) -> Self:
        self._recorded = dict(vars(self.trainer))
        # hyperparameter_search has set the backend's flag already; before that it was None.
        self._recorded["hp_search_backend"] = None
        self._shared = SharedState(self.trainer)
        self._moved = self._move_model_to_cpu()
        return self

    def __exit__(self, kind: type[BaseException] | None, *details: object) -> None:
        if kind is not None:
            self.restore()

    @ignore_lost_device()
    def restore(self) -> None:
        """Puts every attribute back, and the model on the device that it was on."""
        self._put_back_attributes()
        compat.restore_precision(self.trainer.args)
        moved, self._moved = self._moved, False
        if moved:
            self.trainer._move_model_to_device(self.trainer.model, self.trainer.args.device)

    def prepare(
        self,
        args: "TrainingArguments",
        *,
        model_init: Callable[[], Any] | None = None,
        name: str | None = None,
        on_metrics: Callable[[Any, Mapping[str, Any]], None] | None = None,
        callbacks: bool = True,
        change: Callable[[], Sequence[Change]] | None = None,
    ) -> Any:
        """Puts the Trainer into the state in which its constructor would create it from a trial's arguments.

        Args:
            args: Resolved arguments of the trial; used as they are.
            model_init: Replaces the user's where given; takes nothing or a trial.
            name: Returned by ``hp_name`` during the trial.
            on_metrics: Called with the Trainer and the metrics of each evaluation during training, on all ranks.
            callbacks: False leaves the user's callbacks out.
            change: Changes the Trainer as the user left it, or what it holds; undone at the end of the trial.

        Returns:
            The Trainer, ready for ``train()``.
        """
        trainer = self.trainer
        self._configure(args, model_init, change)
        trainer.hp_name = None if name is None else (lambda trial: name)
        trainer.callback_handler = self._fresh_handler(callbacks)
        trainer.control = type(trainer.control)()
        trainer.state = copy.deepcopy(trainer.state)
        trainer.is_in_train = False
        if on_metrics is not None:
            trainer._report_to_hp_search = lambda trial, step, metrics: on_metrics(trainer, metrics)
        return trainer

    @ignore_lost_device()
    def release(self) -> None:
        """Drops the trial's model, optimizer and scheduler and every reference to them, on this rank."""
        trainer = self.trainer
        trainer.accelerator.free_memory()
        for owner in (trainer, trainer.callback_handler):
            for name in ("model", "model_wrapped", "optimizer", "lr_scheduler", "train_dataloader", "eval_dataloader"):
                if name in vars(owner):
                    setattr(owner, name, None)
        trainer.deepspeed = None
        self._put_back_attributes()
        release_memory()

    def keep_best(
        self,
        args: "TrainingArguments",
        *,
        model_init: Callable[..., Any] | None,
        load: Callable[["Trainer"], None] | None,
        change: Callable[[], Sequence[Change]] | None = None,
    ) -> None:
        """Leaves the best arguments and model in the Trainer.

        Args:
            args: The best trial's arguments, with the user's ``output_dir``.
            model_init: The Trainer's ``model_init`` from now on; None keeps the user's.
            load: Loads the best weights into ``trainer.model``, a fresh model of the best trial; None keeps the
                user's model.
            change: As for ``prepare``; what it changes stays.
        """
        trainer = self.trainer
        self._configure(args, model_init, change)
        if load is None:
            if self._moved:
                trainer._move_model_to_device(trainer.model, args.device)
            return
        trainer.model = trainer.model_wrapped = trainer.callback_handler.model = compat.fresh_model(trainer)
        load(trainer)
        trainer.model.eval()

    @property
    def repository(self) -> str | None:
        """Where ``publish`` pushes to, as the arguments name it; None without ``push_to_hub=True``."""
        args = self.trainer.args
        return (args.hub_model_id or Path(args.output_dir).absolute().name) if args.push_to_hub else None

    def publish(self) -> bool:
        """Pushes the best model to the Hub, and returns whether that worked; an error is only logged.

        ``Trainer.push_to_hub`` uploads all of ``output_dir``. For the push that is a folder with this model alone.
        """
        trainer, args = self.trainer, self.trainer.args
        output_dir = args.output_dir
        name = Path(trainer.hub_model_id or args.hub_model_id or output_dir).name
        folder = Path(output_dir, _PUBLISHED)
        args.output_dir = str(folder)
        try:
            trainer.push_to_hub(commit_message="Best model of a hyperparameter search", model_name=name)
        except Exception as error:
            logger.warning(
                "The best model could not be pushed to the Hub: %s. It is kept; the same command, or "
                "trainer.push_to_hub(), tries again.",
                describe(error),
            )
            return False
        finally:
            args.output_dir = output_dir
            if trainer.is_world_process_zero():
                shutil.rmtree(folder, ignore_errors=True)
        return True

    def _configure(
        self,
        args: "TrainingArguments",
        model_init: Callable[..., Any] | None,
        change: Callable[[], Sequence[Change]] | None,
    ) -> None:
        self._put_back_attributes()
        self._changes = () if change is None else change()
        self.trainer.args = args
        if model_init is not None:
            self.trainer.model_init = model_init
        compat.apply_constructor_fields(self.trainer)
        compat.rebuild_accelerator(self.trainer)

    def _put_back_attributes(self) -> None:
        for change in reversed(self._changes):
            change.undo()
        self._changes = ()
        current = vars(self.trainer)
        for name in current.keys() - self._recorded.keys():
            del current[name]
        current.update(self._recorded)
        self._shared.restore()

    def _move_model_to_cpu(self) -> bool:
        """Moves the user's model to main memory, so that trials have the device for themselves; True if it moved."""
        model = self.trainer.model
        is_movable = getattr(self.trainer, "place_model_on_device", False) and not getattr(
            model, "quantization_method", None
        )
        parameter = next(iter(model.parameters()), None) if model is not None else None
        if not is_movable or parameter is None or parameter.device.type in ("cpu", "meta"):
            return False
        model.to("cpu")
        return True

    def _fresh_handler(self, callbacks: bool) -> Any:
        """A callback handler with copies of the user's callbacks, so that stateful ones start fresh in each trial."""
        handler = copy.copy(self._recorded["callback_handler"])
        shared = {id(value): value for value in (self.trainer, *self._recorded.values()) if not isinstance(value, list)}
        shared |= self._shared.objects
        originals = handler.callbacks if callbacks else []
        handler.callbacks = [_copy_callback(self.trainer, callback, shared) for callback in originals]
        remove_progress_callbacks(handler)
        return handler


def remove_progress_callbacks(handler: Any) -> None:
    """Removes the progress bars of single trainings: the search has its own bar."""
    handler.callbacks = [callback for callback in handler.callbacks if type(callback).__name__ not in _PROGRESS]


def _copy_callback(trainer: Any, callback: Any, shared: dict[int, Any]) -> Any:
    if (new := recreate(callback)) is not None:
        new.on_init_end(trainer.args, trainer.state, trainer.control)  # some open their run there
        return new
    modules = {id(value): value for value in vars(callback).values() if isinstance(value, types.ModuleType)}
    try:
        # With this memo, references to the Trainer, its model, its data and what these refer to stay references.
        return copy.deepcopy(callback, {**shared, **modules})
    except Exception as error:
        logger.warning(
            "%s cannot be copied (%s: %s), so all trials share this callback and its state.",
            type(callback).__name__,
            type(error).__name__,
            error,
        )
        return callback
