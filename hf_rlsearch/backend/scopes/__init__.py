"""Scoped names: ``model.*``, ``peft.*``, ``gen.*`` and ``train.*`` in what ``hp_space`` returns."""

from hf_rlsearch.backend.scopes.apply import trial_arguments, trial_model_init
from hf_rlsearch.backend.scopes.names import ScopedNames
from hf_rlsearch.backend.scopes.roles import scoped_roles
from hf_rlsearch.backend.scopes.scope import GEN, PREFIXES, fields_of, prefix_of, scoped
from hf_rlsearch.backend.scopes.training import attach

__all__ = [
    "GEN",
    "PREFIXES",
    "ScopedNames",
    "attach",
    "fields_of",
    "prefix_of",
    "scoped",
    "scoped_roles",
    "trial_arguments",
    "trial_model_init",
]
