"""Looks up published fine-tuning settings by model family: a default space, first candidates and their sources.

The settings are those of papers and of their authors' scripts; ``presets.toml`` lists them and describes its format.
The seed is in no space: choosing a seed selects the luckiest run, not a better configuration (Dodge et al. 2020,
arXiv:2002.06305).
"""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError

EPOCHS, SMOOTHING = "num_train_epochs", "label_smoothing_factor"
_BATCH = "per_device_train_batch_size"


@dataclass(frozen=True)
class PresetSpace:
    """The ranges of a default space; every published setting of its family is one of its configurations.

    Attributes:
        learning_rate: Lowest and highest rate, searched on a logarithmic scale.
        batch_sizes: Per device.
        epochs: Fewest and most; None leaves them out.
        weight_decays: Choices.
        warmups: Choices, as a share of the training.
        others: Choices of further names that the settings of this family have.
    """

    learning_rate: tuple[float, float]
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    epochs: tuple[int, int] | None = (1, 5)
    weight_decays: tuple[float, ...] = (0.0, 0.01, 0.1)
    warmups: tuple[float, ...] = (0.0, 0.06, 0.1, 0.2)
    others: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    def __call__(self, trial: Any) -> Params:
        """Suggests a value for each name; may be given to ``hyperparameter_search`` as ``hp_space``."""
        choices = {"weight_decay": self.weight_decays, "warmup_steps": self.warmups, **self.others}
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            _BATCH: trial.suggest_categorical(_BATCH, list(self.batch_sizes)),
            **({} if self.epochs is None else {EPOCHS: trial.suggest_int(EPOCHS, *self.epochs)}),
            **{name: trial.suggest_categorical(name, list(values)) for name, values in choices.items()},
        }

    def without(self, names: Collection[str]) -> PresetSpace:
        """The same ranges without some of ``num_train_epochs`` and ``others``."""
        others = {name: choices for name, choices in self.others.items() if name not in names}
        return replace(self, epochs=None if EPOCHS in names else self.epochs, others=others)


@dataclass(frozen=True)
class Preset:
    """Published settings of one family of models, and a space around them.

    Attributes:
        name: The family.
        hp_space: Suggests training arguments to an Optuna trial; may be given to ``hyperparameter_search``.
        published: Recommended settings, those for the task first. Names that the source does not mention are left out.
        sources: Where the settings were published.
    """

    name: str
    hp_space: PresetSpace
    published: tuple[Params, ...]
    sources: tuple[str, ...]


def preset(model_type: str, task: str | None = None) -> Preset:
    """Looks up the published settings for fine-tuning a family of models.

    Args:
        model_type: ``config.model_type`` of a transformers model, or ``"lora"`` for a model with adapters. A type that
            the tables do not know gets the ``"generic"`` preset.
        task: A task of GLUE such as ``"rte"``, or ``"squad"``, ``"squad_v2"``, ``"swag"``. Settings that were published
            for it come first; a task that the tables do not know changes nothing.

    Returns:
        The preset, whose settings are copies: changing them does not change the tables.

    Raises:
        ArgumentsError: ``model_type`` is no string, or the name of a family in upper case.
    """
    if not isinstance(model_type, str) or not model_type:
        raise ArgumentsError(f"model_type={model_type!r}: expected config.model_type, such as 'bert', or 'lora'.")
    relatives: dict[str, str] = _DATA["relatives"]
    family = relatives.get(model_type, model_type)
    if family not in _PRESETS:
        # "BERT" must not silently become the generic preset; "modernbert" may.
        if model_type.lower() in (*MODEL_TYPES, *relatives):
            raise ArgumentsError(f"model_type={model_type!r}: transformers writes it {model_type.lower()!r}.")
        family = "generic"
    found = _PRESETS[family]
    task = (task or "").lower().replace("-", "")
    for_task = FOR_TASK.get((family, _DATA["task_names"].get(task, task)), [])
    published: list[Params] = []
    for setting in (*for_task, *found.published):
        if setting not in published:
            published.append(dict(setting))
    return replace(found, published=tuple(published))


def _combinations(setting: dict[str, Any]) -> list[Params]:
    """Every combination of the values of a setting, the last name varying fastest; a list holds several values."""
    values = [value if isinstance(value, list) else [value] for value in setting.values()]
    return [dict(zip(setting, combination, strict=True)) for combination in itertools.product(*values)]


def _load(name: str, family: dict[str, Any]) -> Preset:
    others = {key: tuple(choices) for key, choices in family["space"].pop("others", {}).items()}
    ranges = {key: tuple(values) for key, values in family["space"].items()}
    published = family.get("published") or itertools.chain(*family["for_task"].values())
    return Preset(
        name=name,
        hp_space=PresetSpace(**ranges, others=others),
        published=tuple(itertools.chain(*map(_combinations, published))),
        sources=tuple(family["sources"]),
    )


_DATA = tomllib.loads(Path(__file__).with_suffix(".toml").read_text(encoding="utf-8"))
_PRESETS = {name: _load(name, family) for name, family in _DATA["families"].items()}
MODEL_TYPES: tuple[str, ...] = tuple(_PRESETS)
FOR_TASK: dict[tuple[str, str], list[Params]] = {
    (name, task): settings
    for name, family in _DATA["families"].items()
    for task, settings in family.get("for_task", {}).items()
}
"""(family, task) -> settings that were published for that very task."""
