"""Optuna's interfaces to the agent: a sampler and a pruner for any study, and the opening of storages."""

from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.optuna.sampler import RLSampler

__all__ = ["RLPruner", "RLSampler"]
