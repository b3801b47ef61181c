"""Scoped names: ``model.*``, ``peft.*``, ``gen.*`` and ``train.*`` in what ``hp_space`` returns."""

from hf_rlsearch.trainer.hyperparameters.apply import trial_arguments, trial_model_init
from hf_rlsearch.trainer.hyperparameters.names import ScopedNames
from hf_rlsearch.trainer.hyperparameters.scope import GEN, PREFIXES, fields_of, prefix_of, scoped, scoped_roles
from hf_rlsearch.trainer.hyperparameters.training import attach_optimizer

__all__ = [
    "GEN",
    "PREFIXES",
    "ScopedNames",
    "attach_optimizer",
    "fields_of",
    "prefix_of",
    "scoped",
    "scoped_roles",
    "trial_arguments",
    "trial_model_init",
]
