"""A search space: hyperparameters with their levels, and the candidates made of them.

A candidate is a row of level indices, one per hyperparameter. Values handed out are plain Python values that lie in the
Optuna distribution they come from.
"""

from hf_rlsearch.space.dry_run import Recording, record
from hf_rlsearch.space.hyperparameter import Hyperparameter
from hf_rlsearch.space.roles import ROLES, generic_role, infer_role
from hf_rlsearch.space.search_space import SearchSpace

__all__ = ["ROLES", "Hyperparameter", "Recording", "SearchSpace", "generic_role", "infer_role", "record"]
