"""The one place where the default sampler and pruner are chosen."""

import optuna

from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.space import SearchSpace


def choose_sampler(settings: Settings, space: SearchSpace, *, seed: int) -> optuna.samplers.BaseSampler:
    """The user's sampler, else ours with the pretrained agent.

    Args:
        settings: Of the search.
        space: Every hyperparameter of it.
        seed: Of ours where the user gave none, so that a script run again searches in the same way.
    """
    if settings.sampler is not None:
        chosen: optuna.samplers.BaseSampler = settings.sampler
        return chosen
    from hf_rlsearch.agent import load_agent
    from hf_rlsearch.sampler import RLSampler

    # Weights that cannot be used are told before the first training, not in its place.
    load_agent(settings.weights)
    return RLSampler(
        seed=seed if settings.seed is None else settings.seed,
        n_trials=settings.n_trials,
        weights=settings.weights,
        search_space=space,
        published=settings.published,
    )


def choose_pruner(settings: Settings) -> optuna.pruners.BasePruner:
    """The user's pruner, else none: every trial is trained to its end."""
    return settings.pruner if settings.pruner is not None else optuna.pruners.NopPruner()
