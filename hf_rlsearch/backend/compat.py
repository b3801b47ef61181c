"""Every touch of the Trainer's private parts.

Tested with transformers 5.0 to 5.23 and accelerate 1.4 to 1.15. A search drives ``Trainer.train()`` without making the
Trainer believe that a built-in backend runs, so it must itself do what ``Trainer._hp_search_setup`` and the
constructor do
with changed arguments: ``TrainerSeat.prepare`` does, and ``TrainerSeat.__exit__`` puts everything back.
"""

import copy
import gc
import inspect
import logging
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Protocol

from hf_rlsearch.backend.tracking import made_anew
from hf_rlsearch.errors import ArgumentsError

TESTED_TRANSFORMERS = ("5.0.0", "5.23.0")

logger = logging.getLogger(__name__)

_NEEDED = (
    "_report_to_hp_search",
    "create_accelerator_and_postprocess",
    "call_model_init",
    "_load_best_model",
    "evaluate",
)
_PROGRESS = ("ProgressCallback", "PrinterCallback", "NotebookProgressCallback")


class OnMetrics(Protocol):
    """What is called with the merged metrics of each evaluation during training."""

    def __call__(self, trainer: Any, metrics: Mapping[str, Any]) -> None:
        """Reacts to one evaluation; all ranks call it at the same point of training."""


def check_trainer(trainer: Any) -> None:
    """Refuses objects that are no Trainer, and Trainers of a version that we cannot drive.

    Raises:
        ArgumentsError: With what is missing.
    """
    missing = [name for name in _NEEDED if not callable(getattr(trainer, name, None))]
    if missing:
        import transformers

        raise ArgumentsError(
            f"{type(trainer).__name__} has no {', '.join(missing)}; expected a transformers.Trainer, versions "
            f"{TESTED_TRANSFORMERS[0]} to {TESTED_TRANSFORMERS[1]} are tested and {transformers.__version__} is "
            f"installed. "
            "For other trainers pass a factory make_trainer(params) to hf_rlsearch.search."
        )


def takes_trial(model_init: Callable[..., Any] | None) -> bool:
    """Whether ``model_init`` has an argument for the trial, as the Trainer counts it."""
    return model_init is not None and len(inspect.signature(model_init).parameters) == 1


@contextmanager
def calm() -> Iterator[None]:
    """The time of a search: no progress bars for files written, what loading a checkpoint reports is said once, and
    garbage collection looks at new objects only."""
    from transformers.utils import logging as hf_logging

    bars, once = hf_logging.is_progress_bar_enabled(), _Once()
    loggers = [hf_logging.get_logger(f"transformers.{name}") for name in _REPORT_LOADING]
    for each in loggers:
        each.addFilter(once)
    hf_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    # Thousands of modules and classes live for ever; scanning them after each trial takes longer than small trials do.
    gc.freeze()
    try:
        yield
    finally:
        gc.unfreeze()
        for each in loggers:
            each.removeFilter(once)
        if bars:
            hf_logging.enable_progress_bar()  # type: ignore[no-untyped-call]


# Modules that tell which weights a checkpoint lacks: twenty lines, the same for every trial.
_REPORT_LOADING = ("modeling_utils", "utils.loading_report")


class _Once(logging.Filter):
    """Lets each report of a loaded checkpoint pass once."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: set[str] = set()

    def filter(self, record: logging.LogRecord) -> bool:
        text = record.getMessage()
        known = "LOAD REPORT" in text and text in self._seen
        self._seen.add(text)
        return not known


def release_memory() -> None:
    """Collects garbage and hands cached device memory back."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


class TrainerSeat:
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

    def __enter__(self) -> "TrainerSeat":
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
        _set_precision(self.trainer.args)
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
        _apply_constructor_fields(trainer)
        _rebuild_accelerator(trainer)
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
        _apply_constructor_fields(trainer)
        _rebuild_accelerator(trainer)
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
        drop_progress(handler)
        return handler


def fresh_model(trainer: Any, trial: Any = None) -> Any:
    """A model from ``model_init`` under the arguments' seed, on its device: what ``train()`` would start from."""
    from transformers.trainer_utils import enable_full_determinism, set_seed

    (enable_full_determinism if trainer.args.full_determinism else set_seed)(trainer.args.seed)
    model = trainer.call_model_init(trial)
    if trainer.place_model_on_device:
        trainer._move_model_to_device(model, trainer.args.device)
    return model


def load_checkpoint(trainer: Any, folder: str) -> None:
    """Loads a folder's weights into ``trainer.model`` as the Trainer does: plain, adapters, FSDP or DeepSpeed."""
    state = trainer.state
    before = state.best_model_checkpoint
    state.best_model_checkpoint = folder
    try:
        trainer._load_best_model()
    finally:
        state.best_model_checkpoint = before


# What the Trainer writes of a checkpoint; between these steps ranks wait for each other.
_SAVING = ("save_model", "_save_optimizer_and_scheduler", "_save_scaler", "_save_rng_state", "_save_checkpoint")


def save_or_leave(trainer: Any) -> None:
    """Lets the next checkpoint of this training be given up where it cannot be written, on each rank by itself.

    Called when the training is about to stop: a full disk must not make a failed trial of one that was stopped. Each
    step of writing is guarded on its own, so that no rank leaves one of them while others wait for it there.

    Args:
        trainer: Of the running trial; its arguments are the trial's own.
    """
    # At the end of a training the Trainer deletes the last checkpoint if only the best one may stay.
    trainer.args.save_total_limit = None
    failed: list[Exception] = []
    for name in _SAVING:
        if hasattr(trainer, name):
            setattr(trainer, name, _guarded(trainer, name, failed))


def _guarded(trainer: Any, name: str, failed: list[Exception]) -> Callable[..., Any]:
    write = getattr(trainer, name)

    def attempt(*args: Any, **kwargs: Any) -> Any:
        answer = None
        try:
            answer = write(*args, **kwargs)
        except Exception as error:
            if not failed:
                logger.warning("The training that was stopped leaves no checkpoint to go on from: %s", error)
            failed.append(error)
        if failed and name == "_save_checkpoint":
            # What was written after a part that failed would make half a checkpoint look whole.
            folder = Path(trainer.args.output_dir, f"checkpoint-{trainer.state.global_step}")
            shutil.rmtree(folder, ignore_errors=True)
        return answer

    return attempt


def drop_progress(handler: Any) -> None:
    """Removes the per-training progress bars: the search has one of its own."""
    handler.callbacks = [callback for callback in handler.callbacks if type(callback).__name__ not in _PROGRESS]


def is_sharded(trainer: Any) -> bool:
    """Whether no rank holds the whole model, so that its state cannot simply be copied."""
    return bool(getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False))


def _copy_callback(callback: Any, shared: dict[int, Any]) -> Any:
    if (new := made_anew(callback)) is not None:
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


def _apply_constructor_fields(trainer: Any) -> None:
    """Repeats what the Trainer's constructor alone does with its arguments."""
    args = trainer.args
    trainer._train_batch_size = args.train_batch_size
    trainer.neftune_noise_alpha = getattr(args, "neftune_noise_alpha", None)
    if args.label_smoothing_factor == 0:
        trainer.label_smoother = None
    elif getattr(getattr(trainer.model, "config", None), "problem_type", None) != "multi_label_classification":
        from transformers.trainer_pt_utils import LabelSmoother

        trainer.label_smoother = LabelSmoother(epsilon=args.label_smoothing_factor)
    trainer._created_lr_scheduler = False


def _rebuild_accelerator(trainer: Any) -> None:
    """As the end of ``Trainer._hp_search_setup``: gradient accumulation and DeepSpeed read the arguments only here."""
    if getattr(trainer, "is_deepspeed_enabled", False):
        from accelerate.state import AcceleratorState

        if trainer.args.deepspeed is None:
            raise ArgumentsError(
                "DeepSpeed is on through the launcher alone. Set TrainingArguments(deepspeed=...), so that its "
                "configuration "
                "can be rebuilt for each trial."
            )
        trainer.accelerator.free_memory()
        AcceleratorState()._reset_state()
    _forget_precision(trainer.args)
    trainer.create_accelerator_and_postprocess()


def _forget_precision(args: Any) -> None:
    """Accelerate holds one precision for the whole process, and refuses a Trainer with another one."""
    from accelerate.state import AcceleratorState

    wanted = getattr(args, "mixed_precision", None)
    if wanted is not None and AcceleratorState._shared_state.get("_mixed_precision", wanted) != wanted:
        # The processes and the device stay as they are.
        AcceleratorState._reset_state()


def _set_precision(args: Any) -> None:
    """Tells an accelerator that is put back, and reads the process-wide state, of its own precision again."""
    from accelerate.state import AcceleratorState

    if "_mixed_precision" in AcceleratorState._shared_state and hasattr(args, "mixed_precision"):
        AcceleratorState._shared_state["_mixed_precision"] = args.mixed_precision
