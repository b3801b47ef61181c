"""Builds the ``TrainingArguments`` of each trial: casts values by the fields' annotations and checks their ranges.

The Trainer itself casts a searched value by the type of the current one (``int(0.1) == 0`` for a warm-up fraction,
``bool("False") is True``) and changes one shared object, so that values leak from trial to trial.
"""

import copy
import dataclasses
import enum
import functools
import hashlib
import inspect
import json
import math
import types
import typing
import warnings
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any, Literal, Union, get_args, get_origin

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import closest, is_number, words
from hf_rlsearch.errors import SearchSpaceError

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments


# Fields that the search itself sets, or that the Trainer's constructor has already acted on. Which checkpoint a trial
# keeps is settled once, by the objective: trials that differ in it cannot be compared.
_NOT_SEARCHABLE = words(
    """
    output_dir run_name report_to push_to_hub hub_model_id do_train do_eval resume_from_checkpoint
    metric_for_best_model greater_is_better
    """
)
# Fields that say where a run writes and logs: a search with other values of them is the same search.
_NOT_IDENTITY = words(
    """
    output_dir logging_dir run_name report_to disable_tqdm log_level log_level_replica log_on_each_node
    hub_token hub_model_id hub_strategy hub_private_repo hub_always_push hub_revision push_to_hub local_rank
    ddp_timeout
    ddp_backend save_total_limit logging_steps logging_strategy logging_first_step logging_nan_inf_filter
    project trackio_space_id dataloader_num_workers dataloader_pin_memory dataloader_persistent_workers
    dataloader_prefetch_factor resume_from_checkpoint use_cpu do_train do_eval do_predict
    """
)
# Of these the fields that may change the last bits of a training: one that is resumed has the same.
_NOT_TO_THE_BIT = words("use_cpu dataloader_num_workers")
# Attribute of arguments: the positional and the named arguments of their constructor.
GIVEN = "_hf_rlsearch_given"
_TRUTH = {"true": True, "yes": True, "on": True, "1": True, "false": False, "no": False, "off": False, "0": False}
_AT_LEAST_ONE = words("per_device_train_batch_size per_device_eval_batch_size gradient_accumulation_steps")
_NOT_NEGATIVE = words("learning_rate weight_decay max_grad_norm adam_epsilon label_smoothing_factor")
# Deprecated names, whose value ``TrainingArguments.__post_init__`` would override with that of the new name.
_ALIASES = {
    "gradient_checkpointing": "activation_checkpointing",
    "gradient_checkpointing_kwargs": "activation_checkpointing_kwargs",
}


class FrozenArguments:
    """Copies the user's arguments, ``TrainingArguments`` or a similar dataclass, and makes those of each trial.

    ``__post_init__`` derives fields from others, and a subclass may derive a field from the field itself. So the
    arguments of a trial are made from what the user gave to the constructor, and not from what was derived from that.
    """

    def __init__(self, args: "TrainingArguments") -> None:
        self._args = _copy(args)
        hints = type_hints(type(args))
        fields = dataclasses.fields(args) if dataclasses.is_dataclass(args) else ()
        self._hints: dict[str, Any] = {field.name: hints.get(field.name, Any) for field in fields if field.init}
        self._given = _given_to_constructor(args, {field.name: field for field in fields if field.init})
        self._by_hand = frozenset(_set_by_hand(args) if fields else ())
        for name in self._by_hand:
            self._hints[name], self._given[name] = Any, getattr(args, name)

    @property
    def names(self) -> frozenset[str]:
        """The fields of the arguments' class, and what a script or a constructor of its own has put beside them."""
        return frozenset(self._hints)

    def value(self, name: str) -> Any:
        """The user's value of a field."""
        return getattr(self._args, name)

    def given(self, name: str) -> Any:
        """What the user gave for a field, before a subclass derived another value; the value of a field left out."""
        value = self._given[name]
        return self.value(name) if value is None or name in self._set_later else value

    def original(self) -> "TrainingArguments":
        """A copy of the user's arguments, nothing changed."""
        return _copy(self._args)

    def with_values(self, values: Mapping[str, Any]) -> "TrainingArguments":
        """A fresh copy with values by field name, cast to the annotated types and checked by the arguments' own class.

        Raises:
            SearchSpaceError: Unknown field, value of the wrong type or out of range, or refused by the class.
        """
        cast = {name: self.cast(name, value) for name, value in values.items()}
        if not cast or not hasattr(self._args, "__post_init__"):
            fresh = _copy(self._args)
            for name, value in cast.items():
                setattr(fresh, name, value)
            return fresh
        try:
            return self._rebuilt(cast, set_later=self._set_later)
        except (TypeError, ValueError, KeyError, NotImplementedError) as error:
            shown = ", ".join(f"{name}={value!r}" for name, value in cast.items())
            raise SearchSpaceError(f"hp_space gives {shown}, which TrainingArguments refuses: {error}") from error

    def restored(self, values: Mapping[str, Any], stored: Mapping[str, Any]) -> "TrainingArguments":
        """The arguments that a trial was trained with.

        Fields that say where a run writes and logs are the user's of now, unless the trial sets them.

        Args:
            values: What the trial sets.
            stored: All arguments of the trial, as ``to_json`` wrote them.
        """
        args = self.with_values(values)
        others = stored.keys() & self._hints.keys() - (_NOT_IDENTITY - values.keys())
        if different := {n: stored[n] for n in sorted(others) if plain(getattr(args, n)) != stored[n]}:
            known = {name: _cast_if_possible(self._hints[name], value) for name, value in different.items()}
            args = self._rebuilt({**values, **known}, set_later={**self._set_later, **known})
        return args

    @functools.cached_property
    def _set_later(self) -> Params:
        """Fields that the user has changed after the constructor, by name."""
        if not hasattr(self._args, "__post_init__"):
            return {}
        rebuilt = self._rebuilt({}, set_later={})
        now = {name: getattr(self._args, name) for name in self._hints}
        return {name: value for name, value in now.items() if plain(getattr(rebuilt, name)) != plain(value)}

    def _rebuilt(self, values: Mapping[str, Any], set_later: Mapping[str, Any]) -> "TrainingArguments":
        """What the constructor makes of the user's and the given values, with further fields set after it."""
        fresh: Any = _copy(self._args)
        given = {**copy.deepcopy(self._given), **values}
        given |= {_ALIASES[name]: value for name, value in values.items() if _ALIASES.get(name) in self._hints}
        for name, value in given.items():
            setattr(fresh, name, value)
        with warnings.catch_warnings():  # the user's own constructor has shown them
            warnings.simplefilter("ignore")
            fresh.__post_init__()
        for name, value in set_later.items():
            if name not in values or values[name] is value:
                setattr(fresh, name, value)
        setattr(fresh, GIVEN, ((), given))
        return typing.cast("TrainingArguments", fresh)

    def cast(self, name: str, value: Any) -> Any:
        """The value with the type of the field's annotation.

        Raises:
            SearchSpaceError: There is no such field, or the value does not fit its type or range.
        """
        if name not in self._hints:
            raise unknown_name(name, self._hints)
        hint = self._hints[name]
        try:
            result = cast_to(hint, value)
        except (TypeError, ValueError) as error:
            type_name = hint.__name__ if isinstance(hint, type) else str(hint).replace("typing.", "")
            raise SearchSpaceError(
                f"hp_space gives {name}={value!r}, but TrainingArguments.{name} is {type_name}: {error}. Suggest "
                "values of that type."
            ) from error
        expected = _expected_range(name, result) if is_number(result) else None
        if expected is not None:
            raise SearchSpaceError(
                f"hp_space gives {name}={result!r}, expected {expected}. Change the range of {name!r}."
            )
        return result

    def to_json(self, args: Any) -> Params:
        """The arguments of a trial as plain data, without secrets."""
        return {
            name: plain(getattr(args, name, None))
            for name in sorted(self._hints)
            if not name.endswith(("_token", "_key"))
        }

    def identity(self, searched: Iterable[str]) -> Params:
        """The fields that are not searched and influence training, as plain data.

        What a script has put beside them may be a time or the name of a run, so it tells no searches apart.
        """
        left_out = _NOT_IDENTITY | self._by_hand | set(searched)
        return {name: value for name, value in self.to_json(self._args).items() if name not in left_out}


def chosen_best_metric(args: Any) -> str | None:
    """The user's ``metric_for_best_model``; None where ``TrainingArguments`` has filled in "loss"."""
    name: str | None = getattr(args, "metric_for_best_model", None)
    given: Params = getattr(args, GIVEN, ((), {}))[1]
    return None if name == "loss" != given.get("metric_for_best_model") else name


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


def unknown_name(
    name: str, known: Iterable[str], model_init_takes_trial: bool = False, other: str | None = None
) -> SearchSpaceError:
    """Makes the error for a name that nothing reads, with the nearest known name, or else a near scoped name."""
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


def training_cost(
    args: "TrainingArguments", baseline: "TrainingArguments", n_rows: int | None, world_size: int
) -> float:
    """Samples that a trial's whole training sees, as a multiple of those of the baseline's.

    Returns:
        1.0 where neither ``max_steps`` nor the number of rows of the training data is known.
    """

    def samples(each: "TrainingArguments") -> float | None:
        if getattr(each, "max_steps", -1) > 0:
            return float(each.max_steps * each.train_batch_size * each.gradient_accumulation_steps * world_size)
        return None if n_rows is None else float(each.num_train_epochs * n_rows)

    of_trial, of_baseline = samples(args), samples(baseline)
    return of_trial / of_baseline if of_trial and of_baseline else 1.0


def planned_steps(args: "TrainingArguments", n_rows: int | None, world_size: int) -> int | None:
    """Optimizer steps of a whole training, by the arithmetic of ``Trainer.set_initial_training_values``.

    Returns:
        None where neither ``max_steps`` nor the number of rows of the training data is known.
    """
    if getattr(args, "max_steps", -1) > 0:
        return int(args.max_steps)
    if not n_rows:
        return None
    batches = n_rows / (args.train_batch_size * world_size)
    n_batches = math.floor(batches) if getattr(args, "dataloader_drop_last", False) else math.ceil(batches)
    steps_per_epoch = max(math.ceil(n_batches / args.gradient_accumulation_steps), 1)
    return math.ceil(args.num_train_epochs * steps_per_epoch)


def n_train_rows(trainer: "Trainer") -> int | None:
    """Number of rows of a Trainer's training data, None where they have no length."""
    return count_rows(getattr(trainer, "train_dataset", None))


def count_rows(data: Any) -> int | None:
    """Number of rows of data, of all parts where it is a dict; None where one of them has no length."""
    if isinstance(data, Mapping):
        counts = [count_rows(part) for part in data.values()]
        return None if None in counts else sum(n for n in counts if n is not None)
    try:
        return len(data)
    except TypeError:
        return None


def type_hints(cls: type) -> dict[str, Any]:
    """Returns the annotations of a class, empty if one of them names a class that is not installed."""
    try:
        return typing.get_type_hints(cls)
    except (NameError, TypeError):
        return {}


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
    others = [m for m in members if m is not type(None) and m not in enums]
    if type(value) in others:
        return value
    # Text fits a str member only as a last resort: ``float | str`` and "0.1" mean the number.
    for member in sorted(others, key=lambda m: m is str):
        if get_origin(member) is Literal and type(value) in map(type, get_args(member)):
            return value  # the owner of the field checks which literal: peft names patterns there
        if member in _CASTERS:
            try:
                return _CASTERS[member](value)
            except (TypeError, ValueError):
                continue
        origin = get_origin(member) or member
        if isinstance(origin, type) and isinstance(value, origin):
            return value
    raise TypeError(f"{type(value).__name__} does not fit")


def _to_bool(value: Any) -> bool:
    if isinstance(value, str) and value.strip().lower() in _TRUTH:
        return _TRUTH[value.strip().lower()]
    if isinstance(value, bool) or (is_number(value) and value in (0, 1)):
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
    # An int stays an int: warmup_steps=50 are steps, 0.5 is a fraction.
    return value if isinstance(value, int) else float(value)


def _to_str(value: Any) -> str:
    if isinstance(value, str):
        return value
    raise TypeError("expected text")


_CASTERS: dict[Any, Any] = {bool: _to_bool, int: _to_int, float: _to_float, str: _to_str}


def _expected_range(name: str, value: float) -> str | None:
    """The range that a value is outside of, in words; None where the value is fine."""
    if not math.isfinite(value):
        return "a finite number"
    if name in _AT_LEAST_ONE and value < 1:
        return "at least 1"
    if name == "num_train_epochs" and value <= 0:
        return "greater than 0"
    return "not negative" if name in _NOT_NEGATIVE and value < 0 else None


def _set_by_hand(args: Any) -> list[str]:
    """The attributes of arguments that are none of their fields, and that ``__post_init__`` does not make anew."""
    fields = {field.name for field in dataclasses.fields(args)}
    own = [vars(cls)["__post_init__"] for cls in type(args).__mro__ if "__post_init__" in vars(cls)]
    codes = [getattr(inspect.unwrap(each), "__code__", None) for each in own]
    made_anew = {name for code in codes if code is not None for name in code.co_names}
    return [
        name
        for name, value in vars(args).items()
        if not name.startswith("_") and name not in fields | made_anew and isinstance(value, bool | int | float | str)
    ]


def _given_to_constructor(args: Any, fields: Mapping[str, "dataclasses.Field[Any]"]) -> Params:
    """The value that the constructor of arguments got for each field; the present one where that is not known."""
    positional, named = getattr(args, GIVEN, ((), {}))
    given = {**dict(zip(fields, positional, strict=False)), **named}
    is_generated = list(inspect.signature(type(args).__init__).parameters)[1:] == list(fields)
    if given and given.keys() <= fields.keys() and is_generated:
        left_out = {name: field for name, field in fields.items() if name not in given}
        defaults = {
            name: field.default if field.default_factory is dataclasses.MISSING else field.default_factory()
            for name, field in left_out.items()
        }
        return {**defaults, **given}
    given = {name: getattr(args, name) for name in fields}
    if given.get("eval_steps") is not None and given["eval_steps"] == given.get("logging_steps"):
        given["eval_steps"] = None  # TrainingArguments fills it in from logging_steps
    if "metric_for_best_model" in given:
        given["metric_for_best_model"] = chosen_best_metric(args)
    return given


def _cast_if_possible(hint: Any, value: Any) -> Any:
    try:
        return cast_to(hint, value)
    except (TypeError, ValueError):
        return value


def same_to_the_bit(stored: Params) -> Params:
    """Those of the arguments of a trial, as plain data, that have to be equal where one training resumes another."""
    return {name: value for name, value in stored.items() if name not in _NOT_IDENTITY - _NOT_TO_THE_BIT}


def _copy(args: "TrainingArguments") -> "TrainingArguments":
    """A copy whose containers can be changed; it keeps the device set-up, so that copying touches no global state."""
    fresh = copy.copy(args)
    for name, value in vars(args).items():
        if isinstance(value, (dict, list)) or type(value).__name__ == "AcceleratorConfig":
            setattr(fresh, name, copy.deepcopy(value))
    return fresh


def plain(value: Any) -> Any:
    """The value as JSON can hold it: enums by value, functions by name, numpy scalars as numbers, the rest as text."""
    if isinstance(value, enum.Enum):
        value = value.value
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, (type, types.FunctionType)):
        return f"{value.__module__}.{value.__qualname__}"  # the text of a function would hold its address
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (set, frozenset)):
        value = sorted(value, key=repr)  # their order differs from process to process
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if hasattr(value, "item") and getattr(value, "size", 1) == 1:
        return plain(value.item())
    if dataclasses.is_dataclass(value):
        value = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    elif hasattr(value, "to_dict"):
        value = value.to_dict()
    return plain(value) if isinstance(value, Mapping) else str(value)


def hash_of(value: Any) -> str:
    """A short hash of a value as plain data."""
    return hashlib.sha256(json.dumps(plain(value), sort_keys=True).encode()).hexdigest()[:16]
