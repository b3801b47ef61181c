"""The one place where the default sampler and pruner are chosen."""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.trial_attributes import FULL_TRAINING
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.trainer.session.arguments import n_train_rows
from hf_rlsearch.trainer.setup.config import RL_PRUNER, SearchConfig


def task_features(trainer: Any, roles: Collection[str]) -> dict[str, float]:
    """Facts about a task, by names of ``hf_rlsearch.tasks.prior.FACTS``; what is not known is left out.

    Args:
        trainer: With its model and data.
        roles: Roles of the searched hyperparameters: where the model itself is searched, its size is no fact.

    Returns:
        ``n_parameters`` and ``n_examples`` as log10, ``lora`` as 0 or 1.
    """
    facts: dict[str, float] = {}
    rows = n_train_rows(trainer)
    if rows:
        facts["n_examples"] = math.log10(rows)
    model = getattr(trainer, "model", None)
    if model is not None and "model" not in roles:
        count = sum(parameter.numel() for parameter in model.parameters())
        if count:
            facts["n_parameters"] = math.log10(count)
        facts["lora"] = float(getattr(model, "peft_config", None) is not None)
    return facts


def default_sampler(
    settings: SearchConfig, space: SearchSpace, *, seed: int, facts: Mapping[str, float], known: Sequence[Params] = ()
) -> optuna.samplers.BaseSampler:
    """The user's sampler, else ours with the pretrained agent.

    Args:
        settings: Of the search.
        space: Every hyperparameter of it.
        seed: Of ours where the user gave none, so that a script run again searches in the same way.
        facts: What the Trainer tells about the task, see ``task_features``.
        known: Published settings to consider where the user gave none.
    """
    if settings.sampler is not None:
        chosen: optuna.samplers.BaseSampler = settings.sampler
        return chosen
    _check_published(settings.published, space)
    from hf_rlsearch.agent.agent import load_agent
    from hf_rlsearch.optuna import RLSampler

    # Weights that cannot be used are told before the first training, not in its place.
    load_agent(settings.weights)
    published = settings.published or [setting for setting in known if set(setting) & set(space.names)]
    return RLSampler(
        seed=seed if settings.seed is None else settings.seed,
        n_trials=settings.max_trials,
        weights=settings.weights,
        search_space=space.with_levels(_exact(settings, published)),
        published=published,
        facts=facts,
        max_resource=FULL_TRAINING,
    )


def _exact(settings: SearchConfig, published: Sequence[Params]) -> Sequence[Params]:
    """What of the published settings are levels exactly; the user's own ``n_points`` go before settings not of his."""
    if settings.published or settings.n_points is None:
        return published
    counted = settings.n_points if isinstance(settings.n_points, Mapping) else None
    if counted is None:
        return []
    return [{name: value for name, value in setting.items() if name not in counted} for setting in published]


def _check_published(published: Sequence[Params], space: SearchSpace) -> None:
    """Settings may name more than is searched, but not nothing of it."""
    named = sorted({name for setting in published for name in setting})
    if not named or set(named) & set(space.names):
        return
    hints = [did_you_mean(name, space.names) for name in named]
    raise ArgumentsError(
        f"published names {', '.join(named)}, none of which is searched; expected some of "
        f"{', '.join(space.names)}.{max(hints, key=len)}"
    )


def default_pruner(
    settings: SearchConfig, n_objectives: int, space: SearchSpace, facts: Mapping[str, float]
) -> optuna.pruners.BasePruner:
    """The user's pruner, none for None, else our stop rule where there is one objective and the weights hold a rule.

    Args:
        settings: Of the search.
        n_objectives: Number of directions.
        space: Every hyperparameter of the search.
        facts: What the Trainer tells about the task, see ``task_features``.
    """
    if settings.pruner != RL_PRUNER:
        chosen: optuna.pruners.BasePruner = settings.pruner or optuna.pruners.NopPruner()
        return chosen
    from hf_rlsearch.agent.checkpoint import load_weights
    from hf_rlsearch.agent.stop_rule import StopRule
    from hf_rlsearch.optuna.pruner import RLPruner

    tensors = load_weights(settings.weights)[0]
    if n_objectives > 1 or not any(name.startswith("stop.") for name in tensors):
        return optuna.pruners.NopPruner()
    StopRule(tensors)
    return RLPruner(
        max_resource=FULL_TRAINING, budget=settings.budget, weights=settings.weights, search_space=space, facts=facts
    )
