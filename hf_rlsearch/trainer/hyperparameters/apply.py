"""Gives a trial its scoped values: in the arguments, in the model that ``model_init`` makes, in the Trainer."""

from collections.abc import Callable, Mapping
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.trainer.hyperparameters import layers
from hf_rlsearch.trainer.hyperparameters.generation import cleared_arguments, updated_config
from hf_rlsearch.trainer.hyperparameters.model import rebuild_model
from hf_rlsearch.trainer.hyperparameters.peft import base_of, is_adapted, with_adapter
from hf_rlsearch.trainer.hyperparameters.scope import GEN, MODEL, PEFT, TRAIN, fields_of, scoped
from hf_rlsearch.trainer.hyperparameters.training import schedule_arguments
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.session.compat import takes_trial


def trial_arguments(frozen: FrozenArguments, values: Mapping[str, Any]) -> Any:
    """The training arguments of a configuration, those that follow from scoped values included.

    Args:
        frozen: The user's own arguments.
        values: What ``hp_space`` returned; names of nothing that we know are left out.

    Raises:
        SearchSpaceError: See ``FrozenArguments.with_values``.
    """
    given = {name: value for name, value in values.items() if name in frozen.names}
    followed: Params = {}
    if fields := fields_of(values, TRAIN):
        followed |= schedule_arguments(fields, frozen.original())
    if fields := fields_of(values, GEN):
        followed |= cleared_arguments(fields, frozen.names)
    return frozen.with_values({**given, **followed})


def trial_model_init(model_init: Callable[..., Any], values: Mapping[str, Any]) -> Callable[..., Any]:
    """A ``model_init`` whose models have a configuration's scoped values.

    Args:
        model_init: The user's; takes a trial or nothing, and so does the result.
        values: What ``hp_space`` returned, scoped values in their types.

    Returns:
        ``model_init`` itself where there are no scoped values. One that has some already, from an earlier search,
        keeps those that are not named now.
    """
    if not scoped(values):
        return model_init
    inner, before = getattr(model_init, "scoped", (model_init, {}))
    merged = {**before, **values}

    def with_trial(trial: Any = None) -> Any:
        return _with_values(inner(trial), merged)

    def without_trial() -> Any:
        return _with_values(inner(), merged)

    made: Any = with_trial if takes_trial(inner) else without_trial
    made.scoped = inner, merged
    return made  # type: ignore[no-any-return]


def _with_values(model: Any, values: Mapping[str, Any]) -> Any:
    training = fields_of(values, TRAIN)
    n_new = training.get("reinit_layers", 0)
    model = _with_other_layers(model, values, n_new)
    layers.freeze(model, training.get("frozen_layers", 0), n_new)
    generation = fields_of(values, GEN)
    if generation:
        model.generation_config = updated_config(model.generation_config, generation)
    return model


def _with_other_layers(model: Any, values: Mapping[str, Any], n_new: int) -> Any:
    """Changes the configuration and the top layers below the adapter, and the adapter."""
    fields, adapter = fields_of(values, MODEL), fields_of(values, PEFT)
    if not (fields or adapter or n_new):
        return model
    adapters = dict(model.peft_config) if is_adapted(model) else {}
    base = rebuild_model(base_of(model) if adapters else model, fields)
    layers.reinitialise(base, n_new)
    return with_adapter(base, adapters["default"], adapter) if adapters else base
