"""Starts a search: ``hf_rlsearch.search``, and the function that ``hyperparameter_search(backend="rl")`` calls."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.trainer.search.loop import run_search
from hf_rlsearch.trainer.search.providers import trainer_provider
from hf_rlsearch.trainer.setup.config import RL_PRUNER, UNSET_TRIALS, SearchConfig
from hf_rlsearch.trainer.setup.default_space import default_hp_space
from hf_rlsearch.trainer.setup.objective import UNSET_DIRECTION


def search(
    trainer: Any,
    hp_space: Callable[[Any], Params] | None = None,
    *,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    n_trials: int | None = UNSET_TRIALS,
    direction: str | Sequence[str] = UNSET_DIRECTION,
    hp_name: Callable[[Any], str] | None = None,
    metric: str | Sequence[str] | None = None,
    sampler: Any = None,
    pruner: Any = RL_PRUNER,
    storage: Any = None,
    study_name: str | None = None,
    load_if_exists: bool = False,
    resume: bool = True,
    baseline: bool = True,
    timeout: float | None = None,
    target: float | None = None,
    catch: Any = (Exception,),
    max_failed_trials: int | None = None,
    gc_after_trial: bool = True,
    n_jobs: int = 1,
    keep_checkpoints: int = 1,
    max_checkpoints: int | None = None,
    disk_budget_gb: float | None = None,
    weights: str | None = None,
    roles: Mapping[str, str] | None = None,
    n_points: Mapping[str, int] | int | None = None,
    budget: float | None = None,
    confirm: int = 0,
    published: Sequence[Params] = (),
    seed: int | None = None,
) -> Any:
    """Searches the hyperparameters of a Trainer.

    The same as ``trainer.hyperparameter_search(backend="rl", ...)``, without that method. Afterwards the Trainer has
    the best arguments and the best model; after an exception it is what it was before.

    Args:
        trainer: A ``transformers.Trainer`` with a ``model_init``, or with a model that each trial gets a copy of; or a
            function ``make_trainer(values)`` that returns a fresh trainer, for those that build their model themselves.
            Called with ``{}`` it returns your own configuration.
        hp_space: Suggests values on a trial and returns them by name: a training argument, or a field of the model, its
            adapter, generation or training as ``model.*``, ``peft.*``, ``gen.*`` and ``train.*``. Left out, the space
            that was published for the Trainer's kind of model.
        compute_objective: Makes one number of the metrics, or one for each direction; needs a ``direction``. Before the
            first training it is called a few times on made-up values of the metrics, to refuse a constant one.
        n_trials: Total number of trials, those of an interrupted run and the baseline included; None for as many as
            ``timeout`` or ``budget`` allow, 1000 at most.
        direction: "minimize", "maximize" or a list of these. Left out, it follows from the metric's name; with
            ``compute_objective`` it must be given.
        hp_name: Names a trial's folder and run.
        metric: The metric to optimise, as evaluation names it, ``eval_`` may be left out.
        sampler: An Optuna sampler instead of ours.
        pruner: An Optuna pruner instead of ours, "rl"; None stops no trial.
        storage: An Optuna storage or its URL instead of an SQLite file in ``output_dir``.
        study_name: Names the study; in a ``storage`` of yours an existing one is an error unless ``load_if_exists``.
        load_if_exists: As in Optuna.
        resume: In the default storage, continue the unfinished search of the same script, or give the stored result of
            the finished one back without training. False always begins a new search.
        baseline: Trial 0 is the Trainer's own arguments.
        timeout: Seconds after which no new trial begins.
        target: Objective value at which the search ends.
        catch: Exceptions that fail a trial; after all others the search ends.
        max_failed_trials: Failed trials at which the search ends; a quarter of ``n_trials``, at least three.
        gc_after_trial: Accepted as in Optuna; memory is always freed.
        n_jobs: Only 1; start several processes with one storage instead.
        keep_checkpoints: Number of best trials whose model stays on disk.
        max_checkpoints: Number of trials that the pruner stopped whose checkpoint stays on disk, so that the search can
            resume them; 4, and none with a ``sampler`` of yours. 0 switches it off.
        disk_budget_gb: What finished trials may keep on disk while the search runs, in GB of 10**9 bytes. The best
            models count, and stay in any case; stopped trials go first, those with the worse value before those with
            the better one. Half of what is free if left out.
        weights: Weights of the agent instead of the bundled ones.
        roles: Role of a hyperparameter by name, where it does not follow from the name.
        n_points: Number of levels of numeric hyperparameters, of all or by name.
        budget: Number of trainings with your own arguments to spend, on as many trials as that gives where ``n_trials``
            is left out, eight for each training at most. A trial counts for what is newly trained in it. Of
            ``n_trials``, ``budget`` and ``timeout`` the first that is reached ends the search.
        confirm: Number of best configurations to train again under new seeds, with your own; the best mean wins.
        published: Configurations known to work, always among the candidates: their numbers become levels. Names outside
            of the space are ignored. Default: those that were published for the Trainer's kind of model. None of them
            is tried before the others for that alone.
        seed: Of the sampler.

    Returns:
        ``BestRun``, whose ``run_summary`` is a ``SearchResult``; a list of them for a list of directions.

    Raises:
        SearchSpaceError, ObjectiveError, ArgumentsError, StorageError, WeightsError: Raised before the first training;
            the Trainer is left as it was.
        SearchFailed: Too many trials failed, or one of several ranks failed alone and the job has to be started again.
    """
    given = {
        name: value for name, value in locals().items() if name not in ("trainer", "hp_space", "compute_objective")
    }
    settings = SearchConfig(
        hp_space=hp_space or default_hp_space, compute_objective=_users_objective(compute_objective), **given
    )
    return _run(trainer, settings)


def search_from_trainer(
    trainer: Any, *, n_trials: int | None, direction: str | Sequence[str], options: Mapping[str, Any]
) -> Any:
    """Runs the search of ``trainer.hyperparameter_search(backend="rl")``.

    Args:
        trainer: With ``hp_space``, ``hp_name`` and ``compute_objective`` set by ``hyperparameter_search``.
        n_trials: Total number of trials.
        direction: One, several, or the unset one.
        options: The free keyword arguments.
    """
    is_default = getattr(getattr(trainer.hp_space, "__self__", None), "name", None) == "rl"
    settings = SearchConfig.from_options(
        options,
        hp_space=default_hp_space if is_default else trainer.hp_space,
        compute_objective=_users_objective(trainer.compute_objective),
        n_trials=n_trials,
        direction=direction,
        hp_name=trainer.hp_name,
    )
    return _run(trainer, settings)


def _users_objective(compute_objective: Any) -> Any:
    """The user's function, None for the Trainer's default: a sum of all metrics is no objective."""
    from transformers.trainer_utils import default_compute_objective

    if compute_objective is not None and not callable(compute_objective):
        raise ArgumentsError(f"compute_objective={compute_objective!r} given, expected a function of the metrics.")
    return None if compute_objective is default_compute_objective else compute_objective


def _run(trainer: Any, settings: SearchConfig) -> Any:
    provider = trainer_provider(trainer)
    if settings.hp_space is default_hp_space:
        settings = dataclasses.replace(settings, hp_space=provider.default_space())
    return run_search(provider, settings)
