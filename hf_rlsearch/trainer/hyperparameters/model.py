"""``model.*``: fields of the model's configuration, such as ``model.hidden_dropout_prob``.

A model cannot be given another configuration after it was built: modules read theirs when they are made. So the model
that ``model_init`` returns is built a second time by its class with the changed configuration, and takes over every
weight of the first that still fits, as ``from_pretrained(..., hidden_dropout_prob=0.2)`` does.
"""

import copy
from collections.abc import Mapping
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.scope import MODEL, ParameterGroup
from hf_rlsearch.trainer.session.arguments import words

# What the model is and what it answers; none of it is a hyperparameter.
_NOT_SEARCHABLE = words(
    """
    _name_or_path architectures dtype torch_dtype id2label label2id model_type problem_type return_dict
    transformers_version is_decoder is_encoder_decoder add_cross_attention output_attentions output_hidden_states
    bos_token_id eos_token_id pad_token_id decoder_start_token_id sep_token_id vocab_size quantization_config
    """
)


def model_group(model: Any) -> ParameterGroup:
    """The fields of a model's configuration.

    Args:
        model: The user's, without an adapter around it.

    Raises:
        SearchSpaceError: The model is none that its class can build again.
    """
    _check_rebuildable(model)
    config = model.config
    defaults = {name: value for name, value in config.to_dict().items() if name not in _NOT_SEARCHABLE}
    defaults |= {name: defaults[other] for name, other in (config.attribute_map or {}).items() if other in defaults}
    defaults = {name: value for name, value in defaults.items() if not isinstance(value, Mapping)}

    def validate(fields: Params) -> Params:
        cast = {name: _of_its_kind(defaults[name], value) for name, value in fields.items()}
        updated_config(config, cast)
        return cast

    return ParameterGroup(MODEL, type(config).__name__, defaults, validate)


def updated_config(config: Any, fields: Mapping[str, Any]) -> Any:
    """A copy of a configuration with some fields changed.

    Raises:
        ValueError: The configuration's own checks refuse a value.
    """
    changed = copy.deepcopy(config)
    for name, value in fields.items():
        try:
            setattr(changed, name, value)
        except Exception as error:  # huggingface_hub's strict dataclasses raise an exception of their own
            raise ValueError(str(error).replace("\n", " ")) from error
    return changed


def rebuild_model(model: Any, fields: Mapping[str, Any]) -> Any:
    """The model with some fields of its configuration changed.

    Args:
        model: Fresh from ``model_init``, without an adapter around it.
        fields: By name; where all are what the model has already, the model itself is returned.

    Returns:
        A model of the same class. Weights of the same name and shape are those of ``model``; others, such as all of
        them where a width was changed, are as the class initialises them.
    """
    import torch

    if all(getattr(model.config, name) == value for name, value in fields.items()):
        return model
    built = type(model)._from_config(updated_config(model.config, fields), dtype=model.dtype)
    target, source = built.state_dict(), model.state_dict()
    same = {name: value for name, value in source.items() if name in target and target[name].shape == value.shape}
    with torch.no_grad():
        built.load_state_dict(same, strict=False)
    trained = {name: parameter.requires_grad for name, parameter in model.named_parameters()}
    for name, parameter in built.named_parameters():
        parameter.requires_grad_(trained.get(name, True))
    if getattr(model, "generation_config", None) is not None:
        built.generation_config = model.generation_config
    return built


def _check_rebuildable(model: Any) -> None:
    """Refuses a model that is more than what its class makes of its configuration."""
    import torch
    from transformers import PreTrainedModel

    advice = "Suggest such values in model_init(trial) itself, under names without 'model.' in front."
    if not isinstance(model, PreTrainedModel):
        raise SearchSpaceError(
            f"hp_space sets names that begin with 'model.', but model_init returns a {type(model).__name__}, expected "
            f"a transformers model, whose configuration they are fields of. {advice}"
        )
    if getattr(model, "quantization_method", None) is not None:
        raise SearchSpaceError(
            f"hp_space sets names that begin with 'model.', but the model is quantized and cannot be built again. "
            f"{advice}"
        )
    with torch.device("meta"):
        built = type(model)._from_config(copy.deepcopy(model.config))  # type: ignore[no-untyped-call]
    ours, theirs = ({name: value.shape for name, value in m.state_dict().items()} for m in (model, built))
    if ours != theirs:
        different = sorted(name for name in ours.keys() | theirs.keys() if ours.get(name) != theirs.get(name))
        raise SearchSpaceError(
            f"hp_space sets names that begin with 'model.', but model_init changes the model after "
            f"{type(model).__name__} has built it ({', '.join(different[:3])}), so it cannot be built again. {advice}"
        )


def _of_its_kind(own: Any, value: Any) -> Any:
    """The value, if it is of the kind of the user's own one; configurations of older versions check nothing."""
    if own is None or value is None:
        return value
    for kind in (bool, (int, float), str):
        if isinstance(own, kind) and (kind is bool or not isinstance(own, bool)):
            if isinstance(value, kind) and (kind is bool or not isinstance(value, bool)):
                return value
            raise TypeError(f"expected a value like {own!r}")
    return value
