"""Chooses the sampler and the pruner where the user gives none."""

from collections.abc import Mapping, Sequence

import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.agent import META_TRAINED
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.trial_attributes import FULL_TRAINING
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.trainer.setup.config import SearchConfig


def default_sampler(
    settings: SearchConfig, space: SearchSpace, *, seed: int, known: Sequence[Params] = ()
) -> optuna.samplers.BaseSampler:
    """Returns the user's sampler, else ``RLSampler`` with the pretrained agent.

    If the user gave none, a script that runs again with the same ``seed`` repeats its search, and ``known`` are the
    published settings to consider.

    Raises:
        ArgumentsError: ``published`` names no hyperparameter of the space.
        WeightsError: The weights cannot be used.
    """
    if settings.sampler is not None:
        return settings.sampler
    _check_published(settings.published, space)
    from hf_rlsearch.agent.agent import load_agent
    from hf_rlsearch.optuna import RLSampler

    load_agent(settings.weights)  # weights that cannot be used raise now, and not after the first training
    published = settings.published or [setting for setting in known if set(setting) & set(space.names)]
    return RLSampler(
        seed=seed if settings.seed is None else settings.seed,
        n_trials=settings.max_trials,
        weights=settings.weights if settings.agent == META_TRAINED else None,
        agent=settings.agent,
        learn=settings.learn,
        search_space=space.with_levels(_exact_levels(settings, published)),
        published=published,
        max_resource=FULL_TRAINING,
    )


def default_pruner(settings: SearchConfig, n_objectives: int, space: SearchSpace) -> optuna.pruners.BasePruner:
    """Returns the user's pruner, else ``RLPruner`` if there is one objective and the weights have a stop rule."""
    if not isinstance(settings.pruner, str):
        return settings.pruner or optuna.pruners.NopPruner()
    from hf_rlsearch.agent.checkpoint import load_weights
    from hf_rlsearch.agent.stop_rule import StopRule
    from hf_rlsearch.optuna.pruner import RLPruner

    tensors = load_weights(settings.weights)[0]
    if n_objectives > 1 or not any(name.startswith("stop.") for name in tensors):
        return optuna.pruners.NopPruner()
    StopRule(tensors)  # a damaged rule raises now, and not after the first training
    return RLPruner(max_resource=FULL_TRAINING, budget=settings.budget, weights=settings.weights, search_space=space)


def _exact_levels(settings: SearchConfig, published: Sequence[Params]) -> Sequence[Params]:
    """Published settings to add as exact levels, without names for which the user gave ``n_points``."""
    if settings.published or settings.n_points is None:
        return published
    if not isinstance(settings.n_points, Mapping):
        return []
    n_points = settings.n_points
    return [{name: value for name, value in setting.items() if name not in n_points} for setting in published]


def _check_published(published: Sequence[Params], space: SearchSpace) -> None:
    """Refuses settings in which no name is searched; further names are allowed."""
    named = sorted({name for setting in published for name in setting})
    if not named or set(named) & set(space.names):
        return
    hint = max((did_you_mean(name, space.names) for name in named), key=len)
    raise ArgumentsError(
        f"published names {', '.join(named)}, none of which is searched; expected some of "
        f"{', '.join(space.names)}.{hint}"
    )
