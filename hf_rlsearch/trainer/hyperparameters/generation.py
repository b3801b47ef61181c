"""Searches ``gen.*``: fields of ``GenerationConfig`` that an evaluation generates text with, such as ``gen.num_beams``.

These settings change no weight. ``SearchResult.tune_generation`` searches them alone on the best model, without
training.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.scope import ParameterGroup, with_fields
from hf_rlsearch.trainer.session.arguments import cast_to

if TYPE_CHECKING:
    from transformers import GenerationConfig, Trainer

_WHOLE = ("num_beams", "max_length", "max_new_tokens", "min_length", "min_new_tokens", "no_repeat_ngram_size", "top_k")
_NUMBERS = ("length_penalty", "repetition_penalty", "encoder_repetition_penalty", "temperature", "top_p", "min_p")
_HINTS: dict[str, Any] = {
    **dict.fromkeys(_WHOLE, int),
    **dict.fromkeys(_NUMBERS, float),
    "do_sample": bool,
    "early_stopping": bool | str,
}
# Arguments of the Seq2SeqTrainer that override the model's generation configuration.
_ARGUMENTS = {"num_beams": "generation_num_beams", "max_length": "generation_max_length"}
# transformers refuses to save a configuration with settings that its decoding method does not read.
_OF_BEAMS = ("early_stopping", "length_penalty")
_OF_SAMPLING = ("temperature", "top_p", "min_p", "top_h", "typical_p", "top_k", "epsilon_cutoff", "eta_cutoff")


def generation_group(trainer: "Trainer", model: Any) -> ParameterGroup:
    """Returns the fields of a model's generation configuration.

    Raises:
        SearchSpaceError: Evaluation generates nothing.
    """
    if not getattr(trainer.args, "predict_with_generate", False):
        raise SearchSpaceError(
            "hp_space searches generation settings, which have no effect, because evaluation generates nothing. Use a "
            "Seq2SeqTrainer with Seq2SeqTrainingArguments(predict_with_generate=True)."
        )
    config = model.generation_config
    defaults = {name: value for name, value in config.to_dict().items() if not name.startswith(("_", "transformers_"))}
    defaults |= {name: getattr(config, name) for name in _HINTS if hasattr(config, name)}
    for name, argument in _ARGUMENTS.items():
        defaults[name] = getattr(trainer.args, argument, None) or defaults.get(name)

    def validate(fields: Params) -> Params:
        cast = {name: cast_to(_HINTS.get(name, Any), value) for name, value in fields.items()}
        if cast.get("num_beams", 1) < 1:
            raise ValueError("expected at least 1 beam")
        updated_config(config, cast).validate()
        return cast

    return ParameterGroup(type(config).__name__, defaults, validate)


def cleared_arguments(fields: Mapping[str, Any], known: frozenset[str]) -> Params:
    """Returns the known training arguments that must be empty, so that a trial's generation configuration decides."""
    names = {*fields, *(["max_length"] if "max_new_tokens" in fields else [])}
    return {argument: None for name, argument in _ARGUMENTS.items() if name in names and argument in known}


def updated_config(config: "GenerationConfig", fields: Mapping[str, Any]) -> "GenerationConfig":
    """Returns a copy of a configuration with some fields changed, and settings that then have no effect reset."""
    result: GenerationConfig = with_fields(config, fields)
    without = (_OF_BEAMS if result.num_beams in (None, 1) else ()) + (() if result.do_sample else _OF_SAMPLING)
    default = type(config)()
    for name in without:
        if hasattr(result, name):
            setattr(result, name, getattr(default, name, None))
    return result
