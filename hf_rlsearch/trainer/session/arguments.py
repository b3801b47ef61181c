"""Training arguments of one trial: a fresh copy of the user's, typed by the fields' annotations, checked.

The Trainer casts a searched value by the type of the *current* value (``int(0.1) == 0`` for a warm-up fraction,
``bool("False") is True``) and changes one shared object, so that values leak from trial to trial. Here each trial gets
its own object, made from a copy that nothing changes.
"""

import copy
import dataclasses
import enum
import hashlib
import json
import math
import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, Literal, Union, get_args, get_origin

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import closest, is_number
from hf_rlsearch.errors import SearchSpaceError


def words(text: str) -> frozenset[str]:
    """The words of a text as a set: a literal of forty names would take forty lines."""
    return frozenset(text.split())


def cast_to(hint: Any, value: Any) -> Any:
    """Casts a value to a type annotation without guessing.

    Args:
        hint: bool, int, float, str, an Enum, a union of these, or anything else (then the value is taken as it is).
        value: A plain value or a numpy scalar; text is parsed where a number or truth value is wanted.

    Raises:
        TypeError, ValueError: The value does not fit, with the reason.
    """
    if hasattr(value, "item") and not isinstance(value, (str, bytes)) and getattr(value, "size", 1) == 1:
        value = value.item()
    if get_origin(hint) in (Union, types.UnionType):
        return _cast_to_union(get_args(hint), value)
    if isinstance(hint, type) and issubclass(hint, enum.Enum):
        return value if isinstance(value, hint) else hint(value)
    caster = _CASTERS.get(hint)
    return value if caster is None else caster(value)


def _cast_to_union(members: tuple[Any, ...], value: Any) -> Any:
    if value is None:
        if type(None) in members:
            return None
        raise TypeError("None is not allowed")
    enums = [m for m in members if isinstance(m, type) and issubclass(m, enum.Enum)]
    if enums and isinstance(value, (str, *enums)):
        return enums[0](value)
    plain_members = [m for m in members if m is not type(None) and m not in enums]
    for member in plain_members:
        if isinstance(member, type) and type(value) is member:
            return value
    # Text fits a str member only as a last resort: ``float | str`` and "0.1" mean the number.
    for member in sorted(plain_members, key=lambda m: m is str):
        if get_origin(member) is Literal and type(value) in map(type, get_args(member)):
            return value  # which of them, its owner checks: peft names patterns there
        if member not in _CASTERS:
            origin = get_origin(member) or member
            if isinstance(origin, type) and isinstance(value, origin):
                return value
            continue
        try:
            return _CASTERS[member](value)
        except (TypeError, ValueError):
            continue
    raise TypeError(f"{type(value).__name__} does not fit")


def _to_bool(value: Any) -> bool:
    if isinstance(value, bool):
        return value
    if isinstance(value, str) and value.strip().lower() in ("true", "yes", "on", "1"):
        return True
    if isinstance(value, str) and value.strip().lower() in ("false", "no", "off", "0"):
        return False
    if is_number(value) and value in (0, 1):
        return bool(value)
    raise ValueError("expected True or False")


def _to_int(value: Any) -> int:
    if isinstance(value, bool):
        raise TypeError("expected a whole number, not a truth value")
    if isinstance(value, str):
        return int(value)
    if is_number(value) and float(value).is_integer():
        return int(value)
    raise ValueError("expected a whole number")


def _to_float(value: Any) -> float | int:
    if not (is_number(value) or isinstance(value, str)):
        raise TypeError("expected a number")
    # An int stays one: warmup_steps=50 are steps, 0.5 is a fraction.
    return value if isinstance(value, int) else float(value)


def _to_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError("expected text")


_CASTERS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}


def describe(hint: Any) -> str:
    """A type annotation as people write it."""
    text = getattr(hint, "__name__", None) if isinstance(hint, type) else None
    return text or str(hint).replace("typing.", "")


# Deprecated names whose value the new name's would override in ``TrainingArguments.__post_init__``.
_ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}

# Fields that are the search's own business, or that the Trainer's constructor has already acted on.
_NOT_SEARCHABLE = frozenset(
    {
        "output_dir",
        "run_name",
        "report_to",
        "push_to_hub",
        "hub_model_id",
        "do_train",
        "do_eval",
        "resume_from_checkpoint",
        # Which checkpoint a trial keeps is settled once, by the objective; trials that differ in it cannot be compared.
        "metric_for_best_model",
        "greater_is_better",
    }
)
_POSITIVE = frozenset({"per_device_train_batch_size", "per_device_eval_batch_size", "num_train_epochs"})
_AT_LEAST_ONE = frozenset({"per_device_train_batch_size", "per_device_eval_batch_size", "gradient_accumulation_steps"})
_NOT_NEGATIVE = frozenset({"learning_rate", "weight_decay", "max_grad_norm", "adam_epsilon", "label_smoothing_factor"})

# Where a run writes and how it talks; neither changes what is trained.
_NOT_IDENTITY = words(
    """
    output_dir logging_dir run_name report_to disable_tqdm log_level log_level_replica log_on_each_node
    hub_token hub_model_id hub_strategy hub_private_repo hub_always_push push_to_hub local_rank ddp_timeout
    ddp_backend save_total_limit logging_steps logging_strategy logging_first_step logging_nan_inf_filter
    project trackio_space_id dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor resume_from_checkpoint use_cpu do_train do_eval do_predict
    """
)


class FrozenArguments:
    """The user's arguments as they were when the search began; makes each trial's own copy.

    Args:
        args: ``TrainingArguments`` or any dataclass like it. Not kept: a copy is.
    """

    def __init__(self, args: Any) -> None:
        self._args = _copy(args)
        self._hints = _annotations(type(args))

    @property
    def names(self) -> frozenset[str]:
        """The fields that a search space may set."""
        return frozenset(self._hints)

    def value(self, name: str) -> Any:
        """What the user gave for a field."""
        return getattr(self._args, name)

    def original(self) -> Any:
        """A copy of the user's arguments, nothing changed."""
        return _copy(self._args)

    def with_values(self, values: Mapping[str, Any]) -> Any:
        """A fresh copy with some fields changed, checked by the arguments' own rules.

        Args:
            values: By field name; cast to the field's annotated type.

        Raises:
            SearchSpaceError: Unknown field, value of the wrong type or out of range, or refused by the arguments'
            class.
        """
        cast = {name: self.cast(name, value) for name, value in values.items()}
        fresh = _copy(self._args)
        if "logging_steps" in cast and "eval_steps" not in cast and _is_derived(fresh):
            fresh.eval_steps = None
        for name, value in cast.items():
            setattr(fresh, name, value)
            if _ALIASES.get(name) in self._hints:
                setattr(fresh, _ALIASES[name], value)
        _normalise(fresh, cast)
        return fresh

    def cast(self, name: str, value: Any) -> Any:
        """The value as the field's annotation wants it.

        Raises:
            SearchSpaceError: There is no such field, or the value does not fit its type or range.
        """
        if name not in self._hints:
            raise unknown_name(name, self._hints)
        try:
            result = cast_to(self._hints[name], value)
        except (TypeError, ValueError) as error:
            raise SearchSpaceError(
                f"hp_space gives {name}={value!r}, but TrainingArguments.{name} is {describe(self._hints[name])}: "
                f"{error}. Suggest values of that type."
            ) from error
        _check_range(name, result)
        return result

    def to_json(self, args: Any) -> Params:
        """The resolved arguments of a trial as plain data, secrets left out."""
        return {
            name: plain(getattr(args, name, None))
            for name in sorted(self._hints)
            if not name.endswith(("_token", "_key"))
        }

    def identity(self, searched: Iterable[str]) -> Params:
        """The arguments that decide what is trained and are not searched."""
        left_out = _NOT_IDENTITY | set(searched)
        return {name: value for name, value in self.to_json(self._args).items() if name not in left_out}


def unknown_name(
    name: str, known: Iterable[str], model_init_takes_trial: bool = False, other: str | None = None
) -> SearchSpaceError:
    """The error for a name that nothing would read, with the nearest field.

    Args:
        name: The unknown name.
        known: Fields of the training arguments.
        model_init_takes_trial: Why it does not help.
        other: A name in a scope that is near, if there is one.
    """
    near = closest(name, known, cutoff=0.6 if other is None else 0.8) or other
    if name == "warmup_ratio":
        hint = "Since transformers 5, warmup_steps takes a fraction: suggest_float('warmup_steps', 0.0, 0.2)."
    else:
        hint = f"Did you mean {near!r}?" if near else "Rename it, or read it in model_init(trial)."
    why = "does not read it" if model_init_takes_trial else "takes no trial"
    return SearchSpaceError(
        f"hp_space sets {name!r}, which is not a field of TrainingArguments, and model_init {why}, so it would have no "
        f"effect. {hint}"
    )


def check_searchable(names: Iterable[str]) -> None:
    """Refuses fields that belong to the search itself.

    Raises:
        SearchSpaceError: One of the names is such a field.
    """
    for name in names:
        if name in _NOT_SEARCHABLE:
            raise SearchSpaceError(
                f"hp_space sets {name!r}, which the search itself sets or the Trainer has already read. Leave it out."
            )


def _copy(args: Any) -> Any:
    """A copy that shares only what cannot change; the device set-up is kept, so making one touches no global state."""
    fresh = copy.copy(args)
    for name, value in vars(args).items():
        if isinstance(value, (dict, list)) or type(value).__name__ == "AcceleratorConfig":
            setattr(fresh, name, copy.deepcopy(value))
    return fresh


def _is_derived(args: Any) -> bool:
    """Whether ``eval_steps`` is what TrainingArguments fills in from ``logging_steps`` where it is left out."""
    return getattr(args, "eval_steps", None) is not None and args.eval_steps == getattr(args, "logging_steps", None)


def _annotations(cls: type) -> dict[str, Any]:
    try:
        hints = typing.get_type_hints(cls)
    except (NameError, TypeError):
        hints = {}
    fields = dataclasses.fields(cls) if dataclasses.is_dataclass(cls) else ()
    return {f.name: hints.get(f.name, Any) for f in fields if f.init}


def _normalise(fresh: Any, values: Mapping[str, Any]) -> None:
    """Runs the class's own checks and derivations again, as if the user had typed the values."""
    check = getattr(fresh, "__post_init__", None)
    if check is None or not values:
        return
    try:
        check()
    except (TypeError, ValueError, KeyError, NotImplementedError) as error:
        shown = ", ".join(f"{name}={value!r}" for name, value in values.items())
        raise SearchSpaceError(f"hp_space gives {shown}, which TrainingArguments refuses: {error}") from error


def _check_range(name: str, value: Any) -> None:
    if not is_number(value):
        return
    wanted = None
    if not math.isfinite(value):
        wanted = "a finite number"
    elif name in _AT_LEAST_ONE and value < 1:
        wanted = "at least 1"
    elif name in _POSITIVE and value <= 0:
        wanted = "greater than 0"
    elif name in _NOT_NEGATIVE and value < 0:
        wanted = "not negative"
    if wanted:
        raise SearchSpaceError(f"hp_space gives {name}={value!r}, expected {wanted}. Change the range of {name!r}.")


def planned_samples(args: Any, n_rows: int | None, world_size: int) -> float | None:
    """Samples that a training sees from its first step to its last.

    Args:
        args: Resolved ``TrainingArguments``.
        n_rows: Of the training data; None where they have no length.
        world_size: Number of processes.

    Returns:
        None where nothing tells: neither ``max_steps`` nor the length of the data.
    """
    if getattr(args, "max_steps", -1) > 0:
        return float(args.max_steps * args.train_batch_size * args.gradient_accumulation_steps * world_size)
    return None if n_rows is None else float(args.num_train_epochs * n_rows)


def training_cost(args: Any, own: Any, n_rows: int | None, world_size: int) -> float:
    """What the whole training of a trial costs, in trainings with the user's own arguments; 1 where nothing tells.

    Args:
        args: Of the trial, resolved.
        own: The user's.
        n_rows: Of the training data.
        world_size: Number of processes.
    """
    one, other = (planned_samples(each, n_rows, world_size) for each in (args, own))
    return one / other if one and other else 1.0


def n_train_rows(trainer: Any) -> int | None:
    """Rows of a Trainer's training data, None where they have no length."""
    try:
        return len(trainer.train_dataset)
    except (AttributeError, TypeError):
        return None


def plain(value: Any) -> Any:
    """The value as JSON can hold it: enums by value, functions by name, numpy scalars as numbers, the rest as text."""
    if isinstance(value, enum.Enum):
        return plain(value.value)
    if isinstance(value, (type, types.FunctionType)):
        return f"{value.__module__}.{value.__qualname__}"  # as text a function has its address
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return plain(value.item())
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return plain({f.name: getattr(value, f.name) for f in dataclasses.fields(value)})
    if hasattr(value, "to_dict"):
        return plain(value.to_dict())
    return str(value)


def hash_of(value: Any) -> str:
    """A short hash of a value as plain data."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]
