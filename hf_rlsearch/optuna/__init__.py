"""Connects the agent with Optuna: offers a sampler and a pruner for any study, and opens storages."""

from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.optuna.sampler import RLSampler

__all__ = ["RLPruner", "RLSampler"]
