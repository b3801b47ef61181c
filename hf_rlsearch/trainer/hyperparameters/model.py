"""Searches ``model.*``: fields of the model's configuration, such as ``model.hidden_dropout_prob``.

Modules read their configuration when they are made, so that a finished model cannot take another one. Therefore the
class of the model that ``model_init`` returns builds a second model with the changed configuration. The second model
takes over every weight that still fits, as in ``from_pretrained(..., hidden_dropout_prob=0.2)``.
"""

import copy
from collections.abc import Mapping
from numbers import Real
from typing import TYPE_CHECKING, Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import words
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.scope import ParameterGroup, with_fields

if TYPE_CHECKING:
    from transformers import PretrainedConfig

# Fields that say what the model is and what it returns.
_NOT_SEARCHABLE = words(
    """
    _name_or_path architectures dtype torch_dtype id2label label2id model_type problem_type return_dict
    transformers_version is_decoder is_encoder_decoder add_cross_attention output_attentions output_hidden_states
    bos_token_id eos_token_id pad_token_id decoder_start_token_id sep_token_id vocab_size quantization_config
    """
)


def model_group(model: Any) -> ParameterGroup:
    """Returns the fields of the configuration of a model, which has no adapter around it.

    Raises:
        SearchSpaceError: The class of the model cannot build it again.
    """
    _check_rebuildable(model)
    config = model.config
    defaults = {name: value for name, value in config.to_dict().items() if name not in _NOT_SEARCHABLE}
    defaults |= {name: defaults[other] for name, other in (config.attribute_map or {}).items() if other in defaults}
    defaults = {name: value for name, value in defaults.items() if not isinstance(value, Mapping)}

    def validate(fields: Params) -> Params:
        for name, value in fields.items():
            _check_kind(defaults[name], value)
        updated_config(config, fields)
        return fields

    return ParameterGroup(type(config).__name__, defaults, validate)


def updated_config(config: "PretrainedConfig", fields: Mapping[str, Any]) -> "PretrainedConfig":
    """Returns a copy of a configuration with some fields changed.

    Raises:
        ValueError: The configuration's own checks refuse a value.
    """
    try:
        return with_fields(config, fields)  # type: ignore[no-any-return]
    except Exception as error:  # huggingface_hub's strict dataclasses raise an exception of their own
        raise ValueError(str(error).replace("\n", " ")) from error


def rebuild_model(model: Any, fields: Mapping[str, Any]) -> Any:
    """Builds a model again with some fields of its configuration changed; returns the given model if none changes.

    Args:
        model: Fresh from ``model_init``, without an adapter around it.
        fields: By name.

    Returns:
        A model of the same class. Weights of the same name and shape are those of ``model``. The class initializes the
        others: all weights, if a width was changed.
    """
    import torch

    if all(getattr(model.config, name) == value for name, value in fields.items()):
        return model
    built = type(model)._from_config(updated_config(model.config, fields), dtype=model.dtype)
    target, source = built.state_dict(), model.state_dict()
    same = {name: value for name, value in source.items() if name in target and target[name].shape == value.shape}
    # Missing weights are those that no longer fit; they keep the values of the class.
    with torch.no_grad():
        built.load_state_dict(same, strict=False)
    # A parameter that model_init froze stays frozen.
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    if getattr(model, "generation_config", None) is not None:
        built.generation_config = model.generation_config
    return built


def _check_rebuildable(model: Any) -> None:
    """Refuses a model that its class cannot build from the configuration alone."""
    import torch
    from transformers import PreTrainedModel

    kind = type(model).__name__
    if not isinstance(model, PreTrainedModel):
        why = f"model_init returns a {kind}, expected a transformers model, whose configuration has these fields"
    elif getattr(model, "quantization_method", None) is not None:
        why = "the model is quantized and cannot be built again"
    else:
        with torch.device("meta"):  # shapes without memory for weights
            built = type(model)._from_config(copy.deepcopy(model.config))  # type: ignore[no-untyped-call]
        given, again = ({(name, value.shape) for name, value in m.state_dict().items()} for m in (model, built))
        if given == again:
            return
        names = ", ".join(sorted({name for name, _ in given ^ again})[:3])
        why = f"model_init changes the model after {kind} has built it ({names}), so it cannot be built again"
    raise SearchSpaceError(
        f"hp_space sets names that begin with 'model.', but {why}. Suggest such values in model_init(trial) itself, "
        "under names without 'model.' in front."
    )


def _check_kind(default: Any, value: Any) -> None:
    """Refuses a value of another kind than the default; configurations of older transformers versions check nothing."""
    if default is None or value is None:
        return
    for kind in (bool, Real, str):
        if isinstance(default, kind):
            if not isinstance(value, kind) or isinstance(value, bool) != isinstance(default, bool):
                raise TypeError(f"expected a value like {default!r}")
            return
