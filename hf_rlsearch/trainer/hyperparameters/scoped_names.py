"""Checks scoped names and their values before the first training, and gives a trial its values."""

import copy
from collections.abc import Callable, Iterable, Mapping
from contextlib import suppress
from functools import cache
from typing import TYPE_CHECKING, Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import closest
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters import layers
from hf_rlsearch.trainer.hyperparameters.generation import cleared_arguments, generation_group, updated_config
from hf_rlsearch.trainer.hyperparameters.model import model_group, rebuild_model
from hf_rlsearch.trainer.hyperparameters.peft import base_of, is_adapted, peft_group, with_adapter
from hf_rlsearch.trainer.hyperparameters.scope import GEN, MODEL, PEFT, TRAIN, ParameterGroup, fields_of, prefix_of
from hf_rlsearch.trainer.hyperparameters.training import schedule_arguments, training_group
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.session.compat import takes_trial

if TYPE_CHECKING:
    from transformers import Trainer, TrainingArguments

# Attribute of a model_init that gives models scoped values: the one without them, and the values.
_SCOPED = "_hf_rlsearch_scoped"


class ScopedNames:
    """Checks scoped names and values against the groups of one Trainer; a group is read when a name needs it.

    ``make_model``, the user's ``model_init``, is called once if the Trainer has no model.
    """

    def __init__(self, trainer: "Trainer", make_model: Callable[[], Any]) -> None:
        self._trainer = trainer
        self._make_model = cache(make_model)
        self._group = cache(self._read_group)

    def check(self, names: Iterable[str]) -> None:
        """Refuses a scoped name without a field; names without a prefix are ignored.

        Raises:
            SearchSpaceError: With the nearest field.
        """
        for name in sorted(names):
            prefix = prefix_of(name)
            if prefix is None:
                continue
            group, field = self._group(prefix), name.partition(".")[2]
            if field not in group.defaults:
                near = closest(field, group.defaults)
                hint = f"Did you mean '{prefix}.{near}'?" if near else f"It has {', '.join(sorted(group.defaults))}."
                raise SearchSpaceError(f"hp_space sets {name!r}, but {group.owner} has no field {field!r}. {hint}")

    def validate(self, values: Mapping[str, Any]) -> Params:
        """Checks the scoped values of one configuration together.

        Returns:
            All values, the scoped ones cast to the types of their fields: 1.0 layers are 1, and "0.5" is a number.

        Raises:
            SearchSpaceError: A name without a field, a value of the wrong type or out of range, or values that do not
                fit each other.
        """
        self.check(values)
        result = dict(values)
        for prefix in sorted({prefix for prefix in map(prefix_of, values) if prefix is not None}):
            group, fields = self._group(prefix), fields_of(values, prefix)
            try:
                result |= {f"{prefix}.{name}": value for name, value in group.validate(fields).items()}
            except (TypeError, ValueError) as error:
                shown = ", ".join(f"{prefix}.{name}={value!r}" for name, value in fields.items())
                raise SearchSpaceError(f"hp_space gives {shown}, which {group.owner} refuses: {error}.") from error
        return result

    def default(self, name: str) -> Any:
        """Returns the value of a scoped name in the baseline."""
        return self._group(str(prefix_of(name))).defaults.get(name.partition(".")[2])

    def nearest(self, name: str) -> str | None:
        """Returns the scoped name that is most like an unknown name, None if none is similar."""
        known: dict[str, str] = {}
        for prefix in (TRAIN, PEFT, MODEL):
            with suppress(SearchSpaceError):  # such as a model without an adapter
                known |= {field: f"{prefix}.{field}" for field in self._group(prefix).defaults}
        known |= {full: full for full in known.values()}
        near = closest(name, known, cutoff=0.8)
        return known[near] if near else None

    def _read_group(self, prefix: str) -> ParameterGroup:
        model: Any = self._make_model() if self._trainer.model is None else self._trainer.model
        if prefix == PEFT:
            return peft_group(model)
        if prefix == GEN:
            return generation_group(self._trainer, model)
        if prefix == TRAIN:
            return training_group(self._trainer, model)
        # A copy, because taking an adapter off changes the model below it.
        return model_group(base_of(copy.deepcopy(model)) if is_adapted(model) else model)


def trial_arguments(
    frozen: FrozenArguments, values: Mapping[str, Any], stored: Mapping[str, Any] | None = None
) -> "TrainingArguments":
    """Returns the training arguments of a configuration, with those that follow from scoped values.

    Names of ``values`` that are neither arguments nor scoped are left out. ``stored`` are all arguments of a trial that
    is trained again, see ``FrozenArguments.restored``.

    Raises:
        SearchSpaceError: See ``FrozenArguments.with_values``.
    """
    arguments = {name: value for name, value in values.items() if name in frozen.names}
    if fields := fields_of(values, TRAIN):
        arguments |= schedule_arguments(fields, frozen.original())
    if fields := fields_of(values, GEN):
        arguments |= cleared_arguments(fields, frozen.names)
    return frozen.with_values(arguments) if stored is None else frozen.restored(arguments, stored)


def trial_model_init(model_init: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """Returns a ``model_init`` whose models have the validated scoped values of a configuration.

    Returns:
        ``model_init`` itself if there are no scoped values. A ``model_init`` that has scoped values of an earlier
        search keeps those that are not named now.
    """
    if not any(map(prefix_of, values)):
        return model_init
    inner, before = without_scoped_values(model_init)
    merged = {**before, **values}

    def with_trial(trial: Any = None) -> Any:
        return _with_values(inner(trial), merged)

    made: Any = with_trial if takes_trial(inner) else lambda: _with_values(inner(), merged)
    setattr(made, _SCOPED, (inner, merged))
    return made  # type: ignore[no-any-return]


def without_scoped_values(model_init: Callable[..., Any]) -> tuple[Callable[..., Any], Params]:
    """Returns the ``model_init`` that ``trial_model_init`` was given, and the values that it was given."""
    inner, values = getattr(model_init, _SCOPED, (model_init, {}))
    return inner, dict(values)


def _with_values(model: Any, values: Mapping[str, Any]) -> Any:
    """Gives a model its scoped values: configuration, adapter and new layers first, then the frozen layers."""
    config_fields, adapter_fields, training = (fields_of(values, prefix) for prefix in (MODEL, PEFT, TRAIN))
    n_new = training.get("reinit_layers", 0)
    if config_fields or adapter_fields or n_new:
        adapters = dict(model.peft_config) if is_adapted(model) else {}
        base = rebuild_model(base_of(model) if adapters else model, config_fields)
        layers.reinitialize(base, n_new)
        model = with_adapter(base, adapters["default"], adapter_fields) if adapters else base
    layers.freeze(model, training.get("frozen_layers", 0), n_new)
    if generation := fields_of(values, GEN):
        model.generation_config = updated_config(model.generation_config, generation)
    return model
