"""Builds the search space of a Trainer whose user gives none, from the published settings of its kind of model.

Ranges and settings are those of ``hf_rlsearch.space.presets``. The seed is not searched: choosing a seed selects the
luckiest run, not a better configuration (Dodge et al. 2020, arXiv:2002.06305).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from hf_rlsearch._typing import Params
from hf_rlsearch.space.presets import EPOCHS, SMOOTHING, Preset, PresetSpace, preset
from hf_rlsearch.trainer.hyperparameters.peft import is_adapted
from hf_rlsearch.trainer.hyperparameters.scope import GEN, PEFT, TRAIN, prefix_of
from hf_rlsearch.trainer.session.arguments import chosen_best_metric
from hf_rlsearch.trainer.session.compat import is_sharded, is_smoothed

if TYPE_CHECKING:
    from transformers import Trainer

# Data sets whose own name is the task; in GLUE the name of a configuration is the task.
_TASKS = ("squad", "squad_v2", "swag")


@dataclass(frozen=True)
class DefaultSpace:
    """A preset's space as ``hp_space``; its text is the name of the preset, with the task of the data if known."""

    space: PresetSpace
    label: str

    def __call__(self, trial: Any) -> Params:
        """Suggests a configuration."""
        return self.space(trial)

    def __str__(self) -> str:
        return self.label


def space_for(trainer: "Trainer", *, is_factory: bool, metric: str | Sequence[str] | None = None) -> DefaultSpace:
    """Returns the default space of a Trainer; one that a factory makes reads training arguments and no scoped names.

    ``metric`` is the option of the search.
    """
    found, task = _preset_of(trainer), _task_of(trainer.train_dataset)
    names = (EPOCHS, *found.hp_space.others)
    left_out = [name for name in names if not _is_searchable(name, trainer, is_factory)]
    if _compares_losses(trainer, metric):
        left_out.append(SMOOTHING)
    space = found.hp_space.without(left_out)
    return DefaultSpace(space, f"{found.name}, {task}" if task else found.name)


def published_for(trainer: "Trainer") -> Sequence[Params]:
    """Returns the settings that were published for a Trainer's kind of model, those for its task first."""
    return _preset_of(trainer).published


def default_hp_space(trial: Any) -> Params:
    """Suggests the hyperparameters that matter for any model; used where the Trainer is not known."""
    return preset("generic").hp_space(trial)


def _preset_of(trainer: "Trainer") -> Preset:
    if any(cls.__name__ == "DPOTrainer" for cls in type(trainer).__mro__):
        return preset("dpo")
    model = getattr(trainer, "model", None)
    if model is not None and is_adapted(model):
        return preset("lora")
    config = getattr(model, "config", None)
    family = getattr(config, "model_type", None) or "generic"
    # The settings of encoders and decoders were published for fine-tuning; training from scratch wants larger rates.
    if not getattr(config, "name_or_path", "") and not getattr(config, "is_encoder_decoder", False):
        family = "generic"
    return preset(family, _task_of(getattr(trainer, "train_dataset", None)))


def _is_searchable(name: str, trainer: "Trainer", is_factory: bool) -> bool:
    """Returns whether a name changes the training of this Trainer, and trials that differ in the name compare."""
    prefix, field = prefix_of(name), name.rpartition(".")[2]
    if is_factory and prefix is not None:
        return False
    if prefix == PEFT:
        model: Any = trainer.model
        return is_adapted(model) and all(hasattr(config, field) for config in model.peft_config.values())
    if prefix == GEN:
        return bool(getattr(trainer.args, "predict_with_generate", False))
    if prefix == TRAIN:
        return not is_sharded(trainer)
    if name == EPOCHS:
        return not getattr(trainer.args, "max_steps", -1) > 0
    return True


def _compares_losses(trainer: "Trainer", metric: str | Sequence[str] | None) -> bool:
    """Returns whether trials are compared by a loss that smoothing changes; without metrics there is only the loss."""
    if getattr(trainer, "compute_metrics", None) is None:
        return True
    chosen = chosen_best_metric(trainer.args) if metric is None else metric
    names = [chosen] if isinstance(chosen, str) else chosen or ()
    return any(is_smoothed(trainer, name) for name in names)


def _task_of(data: Any) -> str | None:
    """The task that the description of a data set from the Hub names, such as GLUE's "rte"."""
    info: Any = getattr(data, "info", None)
    name = str(getattr(info, "dataset_name", None) or getattr(info, "builder_name", None) or "")
    if name in _TASKS:
        return name
    return str(info.config_name) if name == "glue" and getattr(info, "config_name", None) else None
