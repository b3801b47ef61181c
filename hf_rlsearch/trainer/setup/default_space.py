"""Builds the search space of a Trainer whose user gives none, from the published settings of its kind of model.

Ranges and settings are those of ``hf_rlsearch.space.presets``. The seed is not searched: choosing one selects the
luckiest run, not a better configuration (Dodge et al. 2020, arXiv:2002.06305).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.space.presets import EPOCHS, SMOOTHING, Preset, PresetSpace, preset
from hf_rlsearch.trainer.hyperparameters.peft import is_adapted
from hf_rlsearch.trainer.hyperparameters.scope import GEN, PEFT, TRAIN, prefix_of
from hf_rlsearch.trainer.session.compat import is_sharded

# Data sets whose name is the task, where others have it as the name of a configuration.
_TASKS = ("squad", "squad_v2", "swag")


@dataclass(frozen=True)
class DefaultSpace:
    """A preset's space as ``hp_space``.

    Attributes:
        box: Suggests the values.
        name: Of the preset.
        task: That its first settings were published for, None if that is not known.
    """

    box: PresetSpace
    name: str
    task: str | None

    def __call__(self, trial: Any) -> Params:
        """Suggests a configuration."""
        return self.box(trial)

    def __str__(self) -> str:
        """For people."""
        return f"{self.name}, {self.task}" if self.task else self.name


def default_hp_space(trial: Any) -> Params:
    """The space for any model, where the Trainer's own is not known.

    Args:
        trial: An Optuna trial, or anything that answers its ``suggest_*``.

    Returns:
        Values by name of a training argument.
    """
    return preset("generic").hp_space(trial)


def space_for(trainer: Any, *, is_factory: bool) -> DefaultSpace:
    """The default space of a Trainer.

    Args:
        trainer: Its model and its arguments count.
        is_factory: It was made by the user's function, which reads training arguments and no scoped names.
    """
    found = _known(trainer)
    names = (EPOCHS, *found.hp_space.others)
    box = found.hp_space.without([name for name in names if not _is_of_use(name, trainer, is_factory)])
    return DefaultSpace(box, found.name, _task_of(trainer.train_dataset))


def published_for(trainer: Any) -> Sequence[Params]:
    """Settings that were published for a Trainer's kind of model, those for its task first."""
    return _known(trainer).published


def _known(trainer: Any) -> Preset:
    model = getattr(trainer, "model", None)
    if model is not None and is_adapted(model):
        return preset("lora")
    config = getattr(model, "config", None)
    kind = getattr(config, "model_type", None) or "generic"
    # What was published for encoders and decoders is their fine-tuning; from scratch they want larger rates.
    if not getattr(config, "name_or_path", "") and not getattr(config, "is_encoder_decoder", False):
        kind = "generic"
    return preset(kind, _task_of(getattr(trainer, "train_dataset", None)))


def _is_of_use(name: str, trainer: Any, is_factory: bool) -> bool:
    """Whether a name has an effect with this Trainer, and trials that differ in it can be compared."""
    prefix, field = prefix_of(name), name.rpartition(".")[2]
    if is_factory and prefix is not None:
        return False
    if prefix == PEFT:
        return is_adapted(trainer.model) and all(hasattr(c, field) for c in trainer.model.peft_config.values())
    if prefix == GEN:
        return bool(getattr(trainer.args, "predict_with_generate", False))
    if prefix == TRAIN:
        return not is_sharded(trainer)
    if name == EPOCHS:
        return not getattr(trainer.args, "max_steps", -1) > 0
    # Smoothing changes the loss, which is all there is to compare without metrics.
    return name != SMOOTHING or getattr(trainer, "compute_metrics", None) is not None


def _task_of(data: Any) -> str | None:
    """The task that a data set of the Hub says it is, such as GLUE's "rte"."""
    info: Any = getattr(data, "info", None)
    name = str(getattr(info, "dataset_name", None) or getattr(info, "builder_name", None) or "")
    if name in _TASKS:
        return name
    return str(info.config_name) if name == "glue" and getattr(info, "config_name", None) else None
