"""The agent as an Optuna sampler, usable in any study."""

from hf_rlsearch.sampler.rl_sampler import RLSampler

__all__ = ["RLSampler"]
