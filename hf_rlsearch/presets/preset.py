"""What a preset is: the ranges of a default space, published settings, their sources."""

from dataclasses import dataclass
from typing import Any

from hf_rlsearch._typing import Params

EPOCHS, RANK = "num_train_epochs", "peft.r"


@dataclass(frozen=True)
class Box:
    """The ranges of a default space; every published value of what it searches is one of the choices, or in the range.

    Attributes:
        learning_rate: Lowest and highest rate, searched on a logarithmic scale.
        batch_sizes: Per device.
        epochs: Fewest and most; None leaves them out, where a number of steps is given.
        weight_decays: Choices.
        warmups: Choices, as a share of the training.
        ranks: Choices of ``peft.r``; none leaves it out.
    """

    learning_rate: tuple[float, float]
    batch_sizes: tuple[int, ...] = (8, 16, 32, 64)
    epochs: tuple[int, int] | None = (1, 5)
    weight_decays: tuple[float, ...] = (0.0, 0.01, 0.1)
    warmups: tuple[float, ...] = (0.0, 0.06, 0.1, 0.2)
    ranks: tuple[int, ...] = ()

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
            **({RANK: trial.suggest_categorical(RANK, list(self.ranks))} if self.ranks else {}),
        }


@dataclass(frozen=True)
class Preset:
    """What is known about fine-tuning one family of models before anything has been trained.

    Attributes:
        name: the family.
        hp_space: suggests training arguments to an Optuna trial; may be given to ``hyperparameter_search``.
        published: recommended settings, the ones for the task first. They may name hyperparameters outside of
            ``hp_space`` (``train.layer_decay``, ``label_smoothing_factor``), for spaces that search them, and leave out
            what the source does not tell.
        sources: where the settings were published.
    """

    name: str
    hp_space: Box
    published: tuple[Params, ...]
    sources: tuple[str, ...]
