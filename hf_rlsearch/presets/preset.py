"""What a preset is: the ranges of a default space, published settings, their sources."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from hf_rlsearch._typing import Params

EPOCHS, SMOOTHING = "num_train_epochs", "label_smoothing_factor"


@dataclass(frozen=True)
class Box:
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
        """Suggests a value for each name; to be given to ``hyperparameter_search`` as ``hp_space``."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", *self.learning_rate, log=True),
            "per_device_train_batch_size": trial.suggest_categorical(
                "per_device_train_batch_size", list(self.batch_sizes)
            ),
            **({} if self.epochs is None else {EPOCHS: trial.suggest_int(EPOCHS, *self.epochs)}),
            "weight_decay": trial.suggest_categorical("weight_decay", list(self.weight_decays)),
            "warmup_steps": trial.suggest_categorical("warmup_steps", list(self.warmups)),
            **{name: trial.suggest_categorical(name, list(choices)) for name, choices in self.others.items()},
        }

    def without(self, names: Collection[str]) -> "Box":
        """The same ranges of fewer names.

        Args:
            names: ``num_train_epochs``, or among ``others``.
        """
        others = {name: choices for name, choices in self.others.items() if name not in names}
        return replace(self, epochs=None if EPOCHS in names else self.epochs, others=others)


@dataclass(frozen=True)
class Preset:
    """What is known about fine-tuning one family of models before anything has been trained.

    Attributes:
        name: the family.
        hp_space: suggests training arguments to an Optuna trial; may be given to ``hyperparameter_search``.
        published: recommended settings, the ones for the task first. They leave out what the source does not tell.
        sources: where the settings were published.
    """

    name: str
    hp_space: Box
    published: tuple[Params, ...]
    sources: tuple[str, ...]
