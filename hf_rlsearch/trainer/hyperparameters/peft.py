"""Searches ``peft.*``: fields of a peft configuration, such as ``peft.r`` of a ``LoraConfig``.

``model_init`` returns a peft model with the user's adapter. Each trial replaces this adapter on the base model by a new
one with the values of the trial.
"""

from collections.abc import Mapping
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import words
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.scope import ParameterGroup, with_fields
from hf_rlsearch.trainer.session.arguments import cast_to, type_hints

# Fields that say what the adapter is for and where it comes from.
_NOT_SEARCHABLE = words("task_type peft_type auto_mapping peft_version base_model_name_or_path revision inference_mode")
_ADAPTER = "default"


def is_adapted(model: Any) -> bool:
    """Returns whether a model is a peft model."""
    return hasattr(model, "peft_config") and hasattr(model, "get_base_model")


def peft_group(model: Any) -> ParameterGroup:
    """Returns the fields of a model's adapter configuration.

    Raises:
        SearchSpaceError: The model has no adapter, or several.
    """
    given = "hp_space sets names that begin with 'peft.', but"
    if not is_adapted(model):
        raise SearchSpaceError(
            f"{given} model_init returns a {type(model).__name__} without an adapter. Return get_peft_model(model, "
            "LoraConfig(...)): trial 0 takes its values."
        )
    if list(model.peft_config) != [_ADAPTER]:
        found = list(model.peft_config)
        raise SearchSpaceError(f"{given} the model has the adapters {found}, expected one, named {_ADAPTER!r}.")
    config = model.peft_config[_ADAPTER]
    searchable = (name for name in vars(config) if name not in _NOT_SEARCHABLE and not name.startswith("_"))
    hints = type_hints(type(config))

    def validate(fields: Params) -> Params:
        cast = {name: cast_to(hints.get(name, Any), value) for name, value in fields.items()}
        rank = cast.get("r")
        if isinstance(rank, int) and rank < 1:
            raise ValueError("expected a rank of at least 1")
        return cast

    return ParameterGroup(type(config).__name__, {name: getattr(config, name) for name in searchable}, validate)


def base_of(model: Any) -> Any:
    """Takes the adapter off a model and returns the model below it."""
    base = model.unload()
    if hasattr(base, "peft_config"):  # get_peft_model would warn of a second adapter
        del base.peft_config
    return base


def with_adapter(base: Any, config: Any, fields: Mapping[str, Any]) -> Any:
    """Returns a base model with a new adapter, of a copy of the user's configuration with some fields changed."""
    from peft import get_peft_model

    return get_peft_model(base, with_fields(config, fields))
