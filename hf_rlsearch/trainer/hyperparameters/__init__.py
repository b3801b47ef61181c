"""Searches settings beyond ``TrainingArguments`` by scoped names: ``model.*``, ``peft.*``, ``gen.*``, ``train.*``."""

from hf_rlsearch.trainer.hyperparameters.scope import prefix_of, scoped_roles
from hf_rlsearch.trainer.hyperparameters.scoped_names import (
    ScopedNames,
    trial_arguments,
    trial_model_init,
    without_scoped_values,
)
from hf_rlsearch.trainer.hyperparameters.training import attach_optimizer

__all__ = [
    "ScopedNames",
    "attach_optimizer",
    "prefix_of",
    "scoped_roles",
    "trial_arguments",
    "trial_model_init",
    "without_scoped_values",
]
