"""What the Trainer does in private and a search has to do as well, and which versions of it we know.

Tested with transformers 5.0 to 5.23 and accelerate 1.4 to 1.15. With ``seat``, which sets attributes and puts them
back, and ``saving`` this is every touch of the Trainer's private parts.
"""

import inspect
from collections.abc import Callable
from typing import Any

from hf_rlsearch.errors import ArgumentsError

TESTED_TRANSFORMERS = ("5.0.0", "5.23.0")

_NEEDED = (
    "_report_to_hp_search",
    "create_accelerator_and_postprocess",
    "call_model_init",
    "_load_best_model",
    "evaluate",
)


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
            "installed. For other trainers pass a factory make_trainer(params) to hf_rlsearch.search."
        )


def takes_trial(model_init: Callable[..., Any] | None) -> bool:
    """Whether ``model_init`` has an argument for the trial, as the Trainer counts it."""
    return model_init is not None and len(inspect.signature(model_init).parameters) == 1


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


def is_sharded(trainer: Any) -> bool:
    """Whether no rank holds the whole model, so that its state cannot simply be copied."""
    return bool(getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False))


def apply_constructor_fields(trainer: Any) -> None:
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


def rebuild_accelerator(trainer: Any) -> None:
    """As the end of ``Trainer._hp_search_setup``: gradient accumulation and DeepSpeed read the arguments only here."""
    if getattr(trainer, "is_deepspeed_enabled", False):
        from accelerate.state import AcceleratorState

        if trainer.args.deepspeed is None:
            raise ArgumentsError(
                "DeepSpeed is on through the launcher alone. Set TrainingArguments(deepspeed=...), so that its "
                "configuration can be rebuilt for each trial."
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


def restore_precision(args: Any) -> None:
    """Tells an accelerator that is put back, and reads the process-wide state, of its own precision again."""
    from accelerate.state import AcceleratorState

    if "_mixed_precision" in AcceleratorState._shared_state and hasattr(args, "mixed_precision"):
        AcceleratorState._shared_state["_mixed_precision"] = args.mixed_precision
