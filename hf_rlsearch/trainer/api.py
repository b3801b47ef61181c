"""Starts a search: ``hf_rlsearch.search``, and the function that ``hyperparameter_search(backend="rl")`` calls."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.trainer.search.loop import run_search
from hf_rlsearch.trainer.search.providers import FactoryProvider, trainer_provider
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.default_space import default_hp_space, space_for


def search(trainer: Any, hp_space: Callable[[Any], Params] | None = None, **options: Any) -> Any:
    """Searches the hyperparameters of a Trainer.

    The same as ``trainer.hyperparameter_search(backend="rl", ...)``, without that method. Afterwards the Trainer has
    the best arguments and the best model. After an exception the Trainer is what it was before.

    Args:
        trainer: A ``transformers.Trainer`` with a ``model_init``, or with a model that each trial gets a copy of; or a
            function ``make_trainer(values)`` that returns a fresh trainer, for those that build their model themselves.
            Called with ``{}`` it returns the baseline configuration.
        hp_space: Suggests values on a trial and returns them by name. Left out, the space that was published for the
            Trainer's kind of model.
        **options: Any field of ``hf_rlsearch.trainer.setup.config.SearchConfig``, which documents them all:

            - space: ``roles``, ``n_points``, ``baseline``, ``published``
            - objective: ``metric``, ``direction``, ``compute_objective``, ``target``
            - budget: ``n_trials``, ``budget``, ``timeout``, ``patience``, ``confirm``, ``catch``, ``max_failed_trials``
            - storage: ``storage``, ``study_name``, ``load_if_exists``, ``resume``, ``hp_name``
            - checkpoints: ``keep_checkpoints``, ``max_checkpoints``, ``disk_budget_gb``
            - agent: ``sampler``, ``pruner``, ``weights``, ``seed``

    Returns:
        ``BestRun``, whose ``run_summary`` is a ``SearchResult``; a list of them for a list of directions.

    Raises:
        SearchSpaceError, ObjectiveError, ArgumentsError, StorageError, WeightsError: Raised before the first training.
        TypeError: An unknown option, with the nearest name.
        SearchFailed: Too many trials failed, or one of several ranks failed alone and the job has to be started again.
    """
    return _run(trainer, {**options, "hp_space": hp_space or default_hp_space})


def search_from_trainer(
    trainer: Any, *, n_trials: int | None, direction: str | Sequence[str], options: Mapping[str, Any]
) -> Any:
    """Runs the search of ``trainer.hyperparameter_search(backend="rl")``, which has set attributes of the Trainer."""
    is_default = getattr(getattr(trainer.hp_space, "__self__", None), "name", None) == "rl"
    from_method = {
        "hp_space": default_hp_space if is_default else trainer.hp_space,
        "compute_objective": trainer.compute_objective,
        "n_trials": n_trials,
        "direction": direction,
        "hp_name": trainer.hp_name,
    }
    return _run(trainer, {**from_method, **options})


def _run(trainer: Any, options: dict[str, Any]) -> Any:
    from transformers.trainer_utils import default_compute_objective

    if options.get("compute_objective") is default_compute_objective:
        options["compute_objective"] = None  # the Trainer's default, a sum of all metrics, is no objective
    settings = SearchConfig.from_options(options)
    provider = trainer_provider(trainer)
    if settings.hp_space is default_hp_space:
        space = space_for(provider.reference, is_factory=isinstance(provider, FactoryProvider))
        settings = dataclasses.replace(settings, hp_space=space)
    return run_search(provider, settings)
