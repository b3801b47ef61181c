"""Starts a search: ``hf_rlsearch.search``, and the function that ``hyperparameter_search(backend="rl")`` calls."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Unpack

from hf_rlsearch._typing import Params
from hf_rlsearch.trainer.search.loop import run_search
from hf_rlsearch.trainer.search.providers import FactoryProvider, trainer_provider
from hf_rlsearch.trainer.search.result import SearchResult, best_runs
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.default_space import default_hp_space, space_for
from hf_rlsearch.trainer.setup.options import SearchOptions, with_options

if TYPE_CHECKING:
    from transformers import Trainer
    from transformers.trainer_utils import BestRun


def search(
    trainer: "Trainer | Callable[[Params], Any]",
    hp_space: Callable[[Any], Params] | None = None,
    **options: Unpack[SearchOptions],
) -> SearchResult:
    """Searches the hyperparameters of a Trainer.

    The same as ``trainer.hyperparameter_search(backend="rl", ...)``, but it returns the ``SearchResult`` that is
    ``best.run_summary`` there. Afterwards the Trainer has the best arguments and the best model. After an exception the
    Trainer is what it was before.

    Args:
        trainer: A ``transformers.Trainer`` with a ``model_init``, or with a model that each trial gets a copy of; or a
            function ``make_trainer(values)`` that returns a fresh trainer, for those that build their model themselves.
            Called with ``{}`` it returns the baseline configuration.
        hp_space: Suggests values on a trial and returns them by name: a training argument, or a field of the model, its
            adapter, generation or training as ``model.*``, ``peft.*``, ``gen.*`` and ``train.*``. Left out, the space
            that was published for the Trainer's kind of model.
        **options: Keyword arguments, see ``hf_rlsearch.trainer.setup.options.SearchOptions``.

    Returns:
        Every trial, the best one, and the gain over the baseline.

    Raises:
        SearchSpaceError, ObjectiveError, ArgumentsError, StorageError, WeightsError: Raised before the first training.
        TypeError: An unknown option, with the nearest name.
        SearchFailed: Too many trials failed, or one of several ranks failed alone and the job has to be started again.
    """
    return _run(trainer, _settings({**options, "hp_space": hp_space or default_hp_space}))


search.__doc__ = with_options(search.__doc__, "Options:")


def search_from_trainer(
    trainer: "Trainer", *, n_trials: int | None, direction: str | Sequence[str], options: Mapping[str, Any]
) -> "BestRun | list[BestRun]":
    """Runs the search of ``trainer.hyperparameter_search(backend="rl")``, which has set attributes of the Trainer."""
    given: Any = trainer
    is_default = getattr(given.hp_space, "__module__", None) == f"{__package__}.register"
    from_method = {
        "hp_space": default_hp_space if is_default else given.hp_space,
        "compute_objective": given.compute_objective,
        "n_trials": n_trials,
        "direction": direction,
        "hp_name": given.hp_name,
    }
    settings = _settings({**from_method, **options})
    return best_runs(_run(trainer, settings), multi=not isinstance(settings.direction, str))


def _settings(options: dict[str, Any]) -> SearchConfig:
    from transformers.trainer_utils import default_compute_objective

    if options.get("compute_objective") is default_compute_objective:
        options["compute_objective"] = None  # the Trainer's default, a sum of all metrics, is no objective
    return SearchConfig.from_options(options)


def _run(trainer: "Trainer | Callable[[Params], Any]", settings: SearchConfig) -> SearchResult:
    provider = trainer_provider(trainer)
    if settings.hp_space is default_hp_space:
        is_factory = isinstance(provider, FactoryProvider)
        space = space_for(provider.reference, is_factory=is_factory, metric=settings.metric)
        settings = dataclasses.replace(settings, hp_space=space)
    return run_search(provider, settings)
