"""Repeats steps of the Trainer's constructor and of ``_hp_search_setup``, and checks the version of the Trainer.

Tested with transformers 5.0 to 5.23 and accelerate 1.4 to 1.15. Besides this module only ``trainer_session``, which
restores all attributes, and ``storage.paused``, which guards the saving of checkpoints, touch private parts.
"""

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.trainer.session.seeds_and_memory import set_training_seed

if TYPE_CHECKING:
    from transformers import Trainer

TESTED_TRANSFORMERS = ("5.0.0", "5.23.0")

_NEEDED = (
    "_report_to_hp_search",
    "create_accelerator_and_postprocess",
    "call_model_init",
    "_load_best_model",
    "evaluate",
)


def check_trainer(trainer: Any) -> None:
    """Refuses an object that is no Trainer, or a Trainer of an unknown version.

    Raises:
        ArgumentsError: With the names of the missing methods.
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
    """Whether ``model_init`` has an argument for the trial, by the Trainer's own rule."""
    return model_init is not None and len(inspect.signature(model_init).parameters) == 1


def fresh_model(trainer: "Trainer") -> Any:
    """A model from ``model_init`` under the seed of the arguments, on its device, as ``train()`` starts from."""
    set_training_seed(trainer.args)
    model = trainer.call_model_init()
    if trainer.place_model_on_device:
        trainer._move_model_to_device(model, trainer.args.device)
    return model


def load_checkpoint(trainer: "Trainer", folder: str) -> None:
    """Loads a folder's weights into ``trainer.model`` as the Trainer does: plain, adapters, FSDP or DeepSpeed."""
    state = trainer.state
    before = state.best_model_checkpoint
    state.best_model_checkpoint = folder
    try:
        trainer._load_best_model()
    finally:
        state.best_model_checkpoint = before


def found_arguments(trainer: Any) -> dict[str, Any]:
    """The arguments that a Trainer changed while it trained: the batch size that ``auto_find_batch_size`` found."""
    args = trainer.args
    used = getattr(trainer, "_train_batch_size", None)
    if not getattr(args, "auto_find_batch_size", False) or used in (None, args.train_batch_size):
        return {}
    return {"per_device_train_batch_size": used // max(1, args.n_gpu)}


def allow_shared_weights(trainer: Any) -> None:
    """Lets a Trainer save plain modules in which tensors share memory, such as tied weights: safetensors refuses."""
    save = getattr(trainer, "_save", None)
    if save is None:
        return

    def save_with_copies(output_dir: str | None = None, state_dict: dict[str, Any] | None = None) -> None:
        if not hasattr(trainer.model, "save_pretrained"):
            state_dict = _with_copies(trainer.model.state_dict() if state_dict is None else state_dict)
        save(output_dir, **({} if state_dict is None else {"state_dict": state_dict}))

    trainer._save = save_with_copies


def _with_copies(state: dict[str, Any]) -> dict[str, Any]:
    """Returns a state in which tensors that share memory are copies: whoever loads it finds every name."""
    seen: set[int] = set()
    copies = {}
    for name, tensor in state.items():
        memory = tensor.untyped_storage().data_ptr()
        copies[name] = tensor.clone() if memory in seen else tensor.contiguous()
        seen.add(memory)
    return copies


def is_sharded(trainer: "Trainer") -> bool:
    """Whether no rank holds the whole model, so that its state cannot simply be copied."""
    return bool(getattr(trainer, "is_fsdp_enabled", False) or getattr(trainer, "is_deepspeed_enabled", False))


def apply_constructor_fields(trainer: Any) -> None:
    """Sets the attributes that otherwise only the Trainer's constructor derives from its arguments."""
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
    """Creates the accelerator again: gradient accumulation, precision and DeepSpeed are read only at its creation.

    Raises:
        ArgumentsError: DeepSpeed is configured by the launcher alone, so its configuration cannot be rebuilt.
    """
    from accelerate.state import AcceleratorState

    if getattr(trainer, "is_deepspeed_enabled", False):
        if trainer.args.deepspeed is None:
            raise ArgumentsError(
                "DeepSpeed is enabled by the launcher alone. Set TrainingArguments(deepspeed=...), so that its "
                "configuration can be rebuilt for each trial."
            )
        trainer.accelerator.free_memory()
        AcceleratorState()._reset_state()
    # Accelerate holds one precision for the whole process, and refuses a Trainer with another precision.
    wanted = getattr(trainer.args, "mixed_precision", None)
    if wanted is not None and AcceleratorState._shared_state.get("_mixed_precision", wanted) != wanted:
        AcceleratorState._reset_state()  # the processes and the device stay
    trainer.create_accelerator_and_postprocess()


def restore_precision(args: Any) -> None:
    """Writes the arguments' precision into Accelerate's process-wide state, which a restored accelerator reads."""
    from accelerate.state import AcceleratorState

    if "_mixed_precision" in AcceleratorState._shared_state and hasattr(args, "mixed_precision"):
        AcceleratorState._shared_state["_mixed_precision"] = args.mixed_precision
