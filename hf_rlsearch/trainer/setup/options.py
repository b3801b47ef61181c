"""Documents and types every option of a search; loads no library, so that ``help()`` of the Trainer can show it."""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypedDict

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

    from hf_rlsearch._typing import Params


class SearchOptions(TypedDict, total=False):
    """The options of a search beside ``hp_space``; their defaults are those of ``SearchConfig``.

    Space:
        roles: Role by name of hyperparameters whose name does not tell it, such as {"my_lr": "learning_rate"}.
        n_points: Number of levels of numeric hyperparameters, of all or by name.
        baseline: Whether trial 0 trains the baseline: the Trainer's arguments, unchanged.
        published: Configurations known to work, always among the candidates: their numbers become levels. Names outside
            of the space are ignored. Default: those that were published for the Trainer's kind of model. They are
            not trained first.
        initial_trials: Configurations to train first, in this order, right after trial 0; names that are left out are
            chosen as in any trial. ``SearchResult.best_configurations`` has those of an earlier search.

    Objective:
        metric: The metric to optimize, as evaluation names it, ``eval_`` may be left out; for several objectives a
            list, beside a list of directions.
        direction: "minimize", "maximize" or a list of these. It may be left out where the name of the metric tells the
            direction, or where ``compute_objective`` rises or falls with metrics of known directions.
        compute_objective: Makes one number of the metrics, or one for each direction. Before the first training the
            function is called a few times with made-up metrics, to refuse a constant objective.
        target: Objective value at which the search ends, once a trial is at least as good. With several directions a
            number for each of them in a list, or a dict by metric; one trial has to reach all of them.
        constraints: Largest value by name of what a trial may need: "peak_memory_gb" (GB of 10**9 bytes, of the CUDA
            device, else of the process), "seconds" (of its whole training), "trainable_params" and "eval_latency_ms"
            (of the scored evaluation, for each row). Only trials that exceed none can be the best; running out of
            memory exceeds the memory. The agent avoids configurations that are likely to exceed one.

    Budget:
        n_trials: Total number of trials, those of an interrupted run and the baseline included; None for as many as
            ``timeout`` or ``budget`` allow: 1000 at most, with ``budget`` eight for each training of it. A trial that
            RLPruner stops counts by the share that was trained, so several stops pay for a further trial. Of
            ``n_trials``, ``budget`` and ``timeout`` the first that is reached ends the search.
        budget: Largest cost of the search, in trainings of the baseline. If ``n_trials`` is left out, the search has as
            many trials as the budget pays for, eight for each training at most. A trial costs what it newly trains.
        patience: Number of trials in a row without an improvement of the best after which the search ends; they count
            as for ``n_trials``, from the first complete trial on. With several directions a trial improves the search
            if it adds to the Pareto front. "auto" ends the search when the agent expects the next ten trials to
            improve the best one by less than 5 % of the distance from the median to the best configuration.
        min_gain_per_hour: Ends the search when the agent expects less improvement of the objective in an hour; in the
            unit of the objective, positive in either direction.
        timeout: Seconds after which the search ends: no new trial starts, and the running one stops at its next
            evaluation, the baseline included.
        confirm: Number of best configurations to train again, together with the baseline, under up to three new seeds
            each; the best mean wins. These trainings come on top of ``n_trials`` and ``budget``. A search that
            ``timeout`` ends makes none.
        catch: Exceptions that fail a trial; any other exception ends the search.
        max_failed_trials: Number of failed trials at which the search ends, without those that diverged (NaN) or failed
            before a restart. Default: a quarter of ``n_trials``, at least three.

    Storage:
        storage: An Optuna storage or its URL instead of an SQLite file in ``output_dir``.
        study_name: Names the study; in a given ``storage`` an existing study is an error unless ``load_if_exists``.
        load_if_exists: Continue the study with ``study_name`` if there is one, as in Optuna.
        resume: In the default storage, continue the unfinished search of the same script, or return the stored result
            of the finished one without training. False always starts a new search.
        hp_name: Returns the name of a trial's folder and run.

    Disk:
        keep_best_models: Number of best trials whose model stays on disk; with 0 the best model, or those that
            ``confirm`` may choose, stay in memory. With several objectives all models of the Pareto front stay.
        max_paused_trials: Number of trials stopped by the pruner whose checkpoint stays on disk while the search runs,
            so that the search can resume them. Default: 4, or 0 with a given ``sampler``. 0 switches resuming off.
        disk_budget_gb: Disk space for the checkpoints of finished trials while the search runs, in GB of 10**9 bytes.
            The best models count and always stay. Stopped trials are deleted first, those with the worst values before
            the others. Default: half of the free space.

    Agent:
        sampler: An Optuna sampler instead of ``RLSampler``.
        pruner: An Optuna pruner instead of ``RLPruner``; None stops no trial.
        weights: Weights of the agent instead of the bundled ones: a file, the folder of an agent that ``learn`` has
            written, or a repository of the Hub. With a given ``sampler`` the stop rule alone reads them.
        agent: Who chooses the trials: "meta-trained", the agent of the weights, or an agent that starts untrained,
            "ppo-scratch" or "dqn", to compare with. Not with a given ``sampler``.
        learn: "online" trains the decision head of the meta-trained agent on within the search. Not with a given
            ``sampler``.
        seed: Seed of the agent's choices. Default: the seed of the Trainer's arguments.

    Accepted as in Optuna:
        directions: Another name of ``direction``.
        gc_after_trial: True or False; memory is always freed.
        n_jobs: Only 1; start several processes with one storage instead.
    """

    roles: Mapping[str, str] | None
    n_points: Mapping[str, int] | int | None
    baseline: bool
    published: Sequence[Params]
    initial_trials: Sequence[Params]
    metric: str | Sequence[str] | None
    direction: str | Sequence[str]
    compute_objective: Callable[[dict[str, Any]], Any] | None
    target: float | Sequence[float] | Mapping[str, float] | None
    constraints: Mapping[str, float] | None
    n_trials: int | None
    budget: float | None
    timeout: float | None
    patience: int | str | None
    min_gain_per_hour: float | None
    confirm: int
    catch: type[BaseException] | tuple[type[BaseException], ...]
    max_failed_trials: int | None
    storage: BaseStorage | str | None
    study_name: str | None
    load_if_exists: bool
    resume: bool
    hp_name: Callable[[Any], str] | None
    keep_best_models: int
    max_paused_trials: int | None
    disk_budget_gb: float | None
    sampler: BaseSampler | None
    pruner: BasePruner | str | None
    weights: str | None
    agent: str
    learn: str | None
    seed: int | None
    directions: str | Sequence[str]
    gc_after_trial: bool
    n_jobs: int


RENAMED = {"keep_checkpoints": "keep_best_models", "max_checkpoints": "max_paused_trials"}
"""Name that says too little -> its name today, for the error of a script that uses the former."""


def with_options(doc: str | None, heading: str) -> str:
    """Returns a docstring with the documentation of all options after it, in groups.

    Args:
        doc: Of a function that takes the options; None where Python runs without docstrings.
        heading: A sentence between the two.
    """
    groups = (inspect.getdoc(SearchOptions) or "").partition("\n\n")[2]
    return f"{inspect.cleandoc(doc or '')}\n\n{heading}\n\n{groups}\n"
