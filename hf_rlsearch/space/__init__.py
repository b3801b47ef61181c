"""Turns Optuna distributions, or ``hp_space(trial)``, into a discretised search space.

A candidate is a row of level indices, one per hyperparameter. Its values are plain Python values that lie in
their Optuna distributions.
"""

from hf_rlsearch.space.dry_run import Recording, record
from hf_rlsearch.space.roles import ROLES, generic_role, infer_role
from hf_rlsearch.space.search_space import Hyperparameter, SearchSpace

__all__ = [
    "ROLES",
    "Hyperparameter",
    "Recording",
    "SearchSpace",
    "generic_role",
    "infer_role",
    "record",
]
