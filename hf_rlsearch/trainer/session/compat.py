"""Repeats steps of the Trainer's constructor and of ``_hp_search_setup``, and checks the version of the Trainer.

Tested with transformers 5.0 to 5.23 and accelerate 1.4 to 1.15. Besides this module only ``trainer_session``, which
restores all attributes, and ``storage.paused``, which guards the saving of checkpoints, touch private parts.
"""

import copy
import functools
import inspect
import types
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from hf_rlsearch._validation import is_number, words
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.trainer.session.seeds_and_memory import set_training_seed

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

TESTED_TRANSFORMERS = ("5.0.0", "5.23.0")

_NEEDED = (
    "_report_to_hp_search",
    "create_accelerator_and_postprocess",
    "call_model_init",
    "_load_best_model",
    "evaluate",
)
# Methods of the Trainer that users replace, and the fields of the arguments that nothing but these reads.
_READ_BY = {
    "create_optimizer": words("weight_decay"),
    "get_optimizer_cls_and_kwargs": words(
        "learning_rate adam_beta1 adam_beta2 adam_epsilon optim optim_args optim_target_modules"
    ),
    "create_scheduler": words("lr_scheduler_type lr_scheduler_kwargs warmup_steps warmup_ratio"),
    "compute_loss": words("label_smoothing_factor"),
    "get_train_dataloader": words("per_device_train_batch_size"),
}
# Further methods by which a Trainer trains and evaluates.
_TRAINING = words(
    """
    training_step prediction_step create_optimizer_and_scheduler get_decay_parameter_names get_eval_dataloader
    """
)
# What else tells the value of a field.
_SAME_AS = {
    "label_smoother": "label_smoothing_factor",
    "train_batch_size": "per_device_train_batch_size",
    "_train_batch_size": "per_device_train_batch_size",
}
# A function that mentions one of these names may read every field.
_READ_ALL = words("vars asdict to_dict __dict__")


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


def check_optimizers(trainer: Any) -> None:
    """Refuses a Trainer with an optimizer or a schedule of the user's, which hold the parameters of one model.

    Raises:
        ArgumentsError: With the names of their classes.
    """
    from accelerate.optimizer import AcceleratedOptimizer

    given = [each for each in (trainer.optimizer, trainer.lr_scheduler) if each is not None]
    if not given or isinstance(trainer.optimizer, AcceleratedOptimizer):  # the Trainer's own, of an earlier training
        return
    raise ArgumentsError(
        f"The Trainer has the optimizer or schedule {', '.join(type(each).__name__ for each in given)} already "
        "(optimizers=...). They hold the parameters of one model, but each trial trains a fresh model. Give "
        "optimizer_cls_and_kwargs=(cls, kwargs) to the Trainer, set optim= and lr_scheduler_type= in its arguments, or "
        "override create_optimizer and create_scheduler."
    )


def arguments_in_use(trainer: Any) -> "TrainingArguments":
    """The Trainer's arguments, with the learning rate of ``optimizer_cls_and_kwargs`` where the optimizer takes that.

    So the baseline is what the user's optimizer trains with, and a searched learning rate can replace that value.
    """
    args: TrainingArguments = trainer.args
    own = getattr(trainer, "optimizer_cls_and_kwargs", None)
    if own is not None and is_number(own[1].get("lr")):
        args = copy.copy(args)
        args.learning_rate = float(own[1]["lr"])
    return args


def optimizer_function(trainer: Any) -> Callable[..., Any] | None:
    """What makes the optimizer by ``optimizer_cls_and_kwargs``, without the learning rate, which is an argument."""
    own = getattr(trainer, "optimizer_cls_and_kwargs", None)
    if own is None:
        return None
    return functools.partial(own[0], **{name: value for name, value in own[1].items() if name != "lr"})


def without_effect(trainer: Any, args: "TrainingArguments", searched: Iterable[str]) -> Iterator[tuple[str, str]]:
    """Yields the searched fields of the arguments that nothing in the training depends on, each with the reason."""
    searched = frozenset(searched)
    read, own = _fields_read(trainer), getattr(trainer, "optimizer_cls_and_kwargs", None)
    if own is not None and is_number(own[1].get("lr")):
        read |= {"learning_rate"}
    schedule = getattr(args.lr_scheduler_type, "value", args.lr_scheduler_type)
    schedules = {"lr_scheduler_type", "train.lr_schedule"}
    for name in sorted(searched):
        method = next((method for method, fields in _READ_BY.items() if name in fields), None)
        if name == "num_train_epochs" and args.max_steps > 0 and "max_steps" not in searched:
            yield name, f"max_steps={args.max_steps} sets the length of the training"
        elif method is not None and name not in read:
            if method in ("create_optimizer", "get_optimizer_cls_and_kwargs"):
                method = "create_optimizer" if own is None else "optimizer_cls_and_kwargs"
            if method == "compute_loss" and getattr(trainer, "compute_loss_func", None) is not None:
                method = "compute_loss_func"
            yield name, f"{method} of your {type(trainer).__name__} does not read that argument"
        elif name in ("warmup_steps", "warmup_ratio") and schedule == "constant" and not schedules & searched:
            yield name, "lr_scheduler_type='constant' has no warm-up, 'constant_with_warmup' has one"


def is_smoothed(trainer: Any, metric: str) -> bool:
    """Whether a metric is a loss that the Trainer computes, with the label smoothing of its arguments."""
    data = getattr(trainer, "eval_dataset", None)
    parts = [f"{part}_loss" for part in data] if isinstance(data, dict) else []
    return metric.removeprefix("eval_") in ("loss", *parts)


def _fields_read(trainer: Any) -> frozenset[str]:
    """All names that may be read by what users replace in a Trainer, or by the functions that it calls."""
    names: set[str] = set()
    seen: set[Any] = set()
    replaced = ("create_optimizer_and_scheduler", "compute_loss", "get_train_dataloader")
    waiting = [_function(trainer, method) for method in replaced]
    while waiting:
        function = waiting.pop()
        if function in seen:
            continue
        seen.add(function)
        if not inspect.isfunction(function):  # what another callable reads is not known
            return frozenset().union(*_READ_BY.values())
        if str(function.__module__).split(".")[0] in ("transformers", "hf_rlsearch"):
            name = function.__name__
            if name != "compute_loss" or getattr(trainer, "compute_loss_func", None) is None:
                names |= _READ_BY.get(name, frozenset())
            called = ["create_optimizer", "create_scheduler"] if name == "create_optimizer_and_scheduler" else []
            if name == "create_optimizer" and getattr(trainer, "optimizer_cls_and_kwargs", None) is None:
                called = ["get_optimizer_cls_and_kwargs"]
            waiting += [_function(trainer, method) for method in called]
            continue
        mentioned = _names_in(function.__code__)
        if mentioned & _READ_ALL:
            return frozenset().union(*_READ_BY.values())
        names |= mentioned | {_SAME_AS[name] for name in mentioned & _SAME_AS.keys()}
        waiting += _called_by(trainer, function, mentioned)
    return frozenset(names)


def names_read_in_training(trainer: Any) -> set[str]:
    """All names in the methods of a subclass of the user's by which it trains and evaluates, as it calls them."""
    waiting, names = [*_READ_BY, *_TRAINING], set[str]()
    while waiting:
        name = waiting.pop()
        for cls in type(trainer).__mro__:
            method = inspect.unwrap(vars(cls).get(name))  # type: ignore[arg-type]
            if inspect.isfunction(method) and str(method.__module__).partition(".")[0] != "transformers":
                found = _names_in(method.__code__) - names
                names |= found
                waiting += found
    return names


def _function(trainer: Any, method: str) -> Any:
    """What a Trainer calls as one of its methods, without what an earlier search has attached."""
    found: Any = getattr(trainer, method, None)
    if isinstance(found, types.MethodType) and str(found.__func__.__module__).startswith("hf_rlsearch."):
        found = getattr(type(trainer), method)
    return inspect.unwrap(getattr(found, "__func__", found))


def _called_by(trainer: Any, function: types.FunctionType, names: set[str]) -> list[Any]:
    """The functions that a function may call: methods of the Trainer's classes, and those it knows by name."""
    known = {**function.__globals__, **inspect.getclosurevars(function).nonlocals}
    direct = [known[name] for name in names if name in known]
    found = [*direct, *(getattr(owner, name, None) for owner in type(trainer).__mro__ for name in names)]
    # By vars, because getattr may import a part of a package.
    found += [vars(module).get(name) for module in direct if inspect.ismodule(module) for name in names]
    found = [each.__init__ if inspect.isclass(each) else each for each in found]
    return [each for each in found if inspect.isfunction(each) and str(each.__module__).split(".")[0] != "torch"]


def _names_in(code: types.CodeType) -> set[str]:
    """The names and texts in the code of a function and of the functions within."""
    inner = [_names_in(each) for each in code.co_consts if isinstance(each, types.CodeType)]
    return {*code.co_names, *(each for each in code.co_consts if isinstance(each, str)), *code.co_freevars}.union(
        *inner
    )


def takes_trial(model_init: Callable[..., Any] | None) -> bool:
    """Whether ``model_init`` has an argument for the trial, by the Trainer's own rule."""
    return model_init is not None and len(inspect.signature(model_init).parameters) == 1


def given_generation_config(trainer: Any) -> Any:
    """The ``generation_config`` of a Seq2SeqTrainer's arguments, which its constructor gives to its first model alone.

    None where there is none.
    """
    given = getattr(trainer.args, "generation_config", None)
    load = getattr(trainer, "load_generation_config", None)
    return None if given is None or load is None else load(given)


def fresh_model(trainer: "Trainer") -> Any:
    """A model from ``model_init`` under the seed of the arguments, on its device, as ``train()`` starts from."""
    set_training_seed(trainer.args)
    model = trainer.call_model_init()
    if trainer.place_model_on_device:
        trainer._move_model_to_device(model, trainer.args.device)
    return model


def may_change_weights_at_the_end(trainer: Any) -> bool:
    """Whether code of the user's runs between the last evaluation and the end of ``train()``."""
    callbacks = trainer.callback_handler.callbacks
    functions = [type(trainer).train, *(type(each).on_train_end for each in callbacks)]
    libraries = ("transformers", "hf_rlsearch")
    return any(str(each.__module__).partition(".")[0] not in libraries for each in functions)


def load_checkpoint(trainer: Any, folder: str) -> None:
    """Loads a folder's weights into ``trainer.model`` as the Trainer does: plain, adapters, FSDP or DeepSpeed.

    Raises:
        RuntimeError: The folder lacks weights that are trained, or has weights of other shapes.
    """
    state = trainer.state
    before, say = state.best_model_checkpoint, trainer._issue_warnings_after_load
    missing: set[str] = set()

    def noted(loaded: Any) -> None:
        missing.update(loaded.missing_keys)
        say(loaded)

    state.best_model_checkpoint, trainer._issue_warnings_after_load = folder, noted
    try:
        trainer._load_best_model()
    finally:
        state.best_model_checkpoint = before
        del trainer._issue_warnings_after_load
    lost = [] if is_sharded(trainer) else _lost_weights(trainer.model, missing)
    if lost:
        raise RuntimeError(f"{folder} lacks {len(lost)} trained weights, such as {lost[0]}")


def _lost_weights(model: Any, missing: set[str]) -> list[str]:
    """The missing names of weights that are trained and not tied to one that is there."""
    parameters = dict(model.named_parameters(remove_duplicate=False))
    there = {id(parameter) for name, parameter in parameters.items() if name not in missing}
    trained = {name: each for name, each in parameters.items() if each.requires_grad}  # the others are made anew
    return [name for name in sorted(missing & trained.keys()) if id(trained[name]) not in there]


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
    own = getattr(trainer, "optimizer_cls_and_kwargs", None)
    if own is not None and is_number(own[1].get("lr")):
        trainer.optimizer_cls_and_kwargs = (own[0], {**own[1], "lr": args.learning_rate})


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
