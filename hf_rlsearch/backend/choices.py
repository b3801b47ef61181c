"""The one place where the default sampler and pruner are chosen."""

import optuna

from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.space import SearchSpace


def choose_sampler(settings: Settings, space: SearchSpace, n_objectives: int) -> optuna.samplers.BaseSampler:
    """The user's sampler, else ours with the pretrained agent.

    Args:
        settings: Of the search.
        space: Every hyperparameter of it.
        n_objectives: Number of directions.
    """
    if settings.sampler is not None:
        return settings.sampler
    from hf_rlsearch.sampler import RLSampler

    return RLSampler(
        seed=settings.seed,
        n_trials=settings.n_trials,
        weights=settings.weights,
        search_space=space,
        published=settings.published,
    )


def choose_pruner(settings: Settings, n_objectives: int) -> optuna.pruners.BasePruner:
    """The user's pruner, else none: every trial is trained to its end."""
    return settings.pruner if settings.pruner is not None else optuna.pruners.NopPruner()
