"""The search space for users who give none: the published fine-tuning settings, and nothing that selects luck.

The ranges hold every setting in BERT's, RoBERTa's, ELECTRA's, ALBERT's, DeBERTa's and LoRA's own tables:

* learning_rate: from 5e-6 (DeBERTa-large) to 1e-3 (LoRA needs about ten times the rate of full fine-tuning),
logarithmic.
* per_device_train_batch_size: 8, 16, 32, 64; smaller ones are a matter of memory, not of quality.
* num_train_epochs: 1 to 5, left out where ``max_steps`` is set.
* weight_decay: 0, 0.01, 0.1, the three published values.
* warmup_steps: a fraction of training: 0, 0.06 (RoBERTa), 0.1 (ELECTRA), 0.2.

The seed is not searched: choosing one selects the luckiest run, not a better configuration (Dodge et al. 2020,
arXiv:2002.06305).
"""

from typing import Any

from hf_rlsearch._typing import Params


def default_hp_space(trial: Any) -> Params:
    """Suggests learning rate, batch size, epochs, weight decay and warm-up.

    Args:
        trial: An Optuna trial, or anything that answers its ``suggest_*``.

    Returns:
        Values by name of a training argument.
    """
    return {**without_epochs(trial), "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 5)}


def without_epochs(trial: Any) -> Params:
    """The same for arguments with ``max_steps``, which make the number of epochs meaningless."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 5e-6, 1e-3, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 0.01, 0.1]),
        "warmup_steps": trial.suggest_categorical("warmup_steps", [0.0, 0.06, 0.1, 0.2]),
    }
