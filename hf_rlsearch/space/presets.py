"""Published fine-tuning settings by model family, as plain data: a default space, first candidates, their sources.

The settings are those of the papers and of their authors' scripts; the ranges around them are ours. Where a family has
several sizes the table holds the settings of all of them: the search decides by what it measures.

The seed is in no space: choosing one selects the luckiest run, not a better configuration (Dodge et al. 2020,
arXiv:2002.06305).
"""

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.space.preset_tables import FOR_TASK, PRESETS, Preset, PresetSpace

__all__ = ["MODEL_TYPES", "Preset", "PresetSpace", "preset"]

MODEL_TYPES: tuple[str, ...] = tuple(PRESETS)

# Other values of `config.model_type` in transformers, and the family whose settings stand in for theirs.
_FAMILY = {
    "distilbert": "bert",
    "mobilebert": "electra",  # searched by its authors from 1e-5 to 1e-4 over 2 to 10 epochs (arXiv:2004.02984)
    "camembert": "roberta",
    "xlm-roberta": "roberta",
    "deberta-v2": "deberta",
    "openai-gpt": "gpt2",
    "mt5": "t5",
    "umt5": "t5",
    "mbart": "bart",
    "m2m_100": "bart",
}


def preset(model_type: str, task: str | None = None) -> Preset:
    """Looks up what was published about fine-tuning a family of models.

    Args:
        model_type: ``config.model_type`` of a transformers model, or ``"lora"`` for a model with adapters. A type that
            the tables do not know gets the ``"generic"`` preset.
        task: a task of GLUE such as ``"rte"``, or ``"squad"``, ``"squad_v2"``, ``"swag"``. Settings that were published
            for it come first; a task that the tables do not know changes nothing.

    Returns:
        The preset. Same arguments, same preset; what is returned is never changed later.

    Raises:
        ArgumentsError: ``model_type`` is no string, or an almost right spelling of a family.
    """
    if not isinstance(model_type, str) or not model_type:
        raise ArgumentsError(f"model_type={model_type!r}: expected config.model_type, such as 'bert', or 'lora'.")
    family = _FAMILY.get(model_type, model_type)
    if family not in PRESETS:
        _refuse_misspelling(model_type)
        family = "generic"
    found = PRESETS[family]
    first = FOR_TASK.get((family, _normalized(task)), [])
    published: list[Params] = []
    for setting in (*first, *found.published):
        if setting not in published:
            published.append(dict(setting))
    return Preset(found.name, found.hp_space, tuple(published), found.sources)


def _normalized(task: str | None) -> str:
    name = (task or "").lower().replace("-", "")
    return {"mnli_matched": "mnli", "mnli_mismatched": "mnli", "sts_b": "stsb", "sst_2": "sst2"}.get(name, name)


def _refuse_misspelling(model_type: str) -> None:
    """``"BERT"`` must not silently become the generic preset; ``"modernbert"`` may."""
    if model_type.lower() in (*MODEL_TYPES, *_FAMILY):
        raise ArgumentsError(f"model_type={model_type!r}: transformers writes it {model_type.lower()!r}.")
