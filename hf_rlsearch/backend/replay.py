"""Trains a finished trial again, exactly."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from hf_rlsearch.backend.calm import calm
from hf_rlsearch.backend.distributed import ProcessGroup
from hf_rlsearch.backend.factory import trainer_provider
from hf_rlsearch.backend.finish import model_params
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.plan import Plan
from hf_rlsearch.backend.sources import TrainerProvider
from hf_rlsearch.backend.storage import OBJECTIVE
from hf_rlsearch.backend.trial import COMPLETE, Monitor, Outcome, run_trial
from hf_rlsearch.errors import ArgumentsError, SearchFailed


def replay(
    trainer: Any,
    study: optuna.Study,
    number: int,
    *,
    seed: int | None = None,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
) -> tuple[float, ...]:
    """Trains one trial of a study again; see ``SearchResult.replay``.

    Args:
        trainer: A Trainer, or the factory of the search.
        study: With the trials of a search.
        number: Of the trial.
        seed: A new one instead of the trial's.
        compute_objective: Needed where the search had one.
    """
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials) or trials[number].state != TrialState.COMPLETE:
        complete = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        raise ArgumentsError(f"Trial {number} is not a complete trial of this study; those are {complete}.")
    objective = Objective.from_json(study.user_attrs[OBJECTIVE], compute_objective)
    source = trainer_provider(trainer)
    with calm(), tempfile.TemporaryDirectory() as folder, source:
        try:
            return _train(source, _plan(study, number, folder, seed), objective).values
        finally:
            source.restore()


def _plan(study: optuna.Study, number: int, folder: str, seed: int | None) -> Plan:
    trial = study.get_trials(deepcopy=False)[number]
    values = dict(trial.user_attrs.get("values", {}))
    if seed is not None:
        values["seed"] = seed
    return Plan(
        number=trial.number,
        params=model_params(study, trial),
        values=values,
        folder=str(Path(folder, f"run-{trial.number}")),
        name=f"run-{trial.number}",
        role=str(trial.user_attrs.get("role", "search")),
    )


def _train(source: TrainerProvider, plan: Plan, objective: Objective) -> Outcome:
    monitor = Monitor(plan, objective, ProcessGroup(), lambda step, value: False)
    trainer = source.trainer_for(plan, objective, monitor)
    outcome, error = run_trial(trainer, plan, monitor, objective)
    del trainer
    source.release()
    if outcome.status != COMPLETE:
        reason = outcome.failure.reason if outcome.failure is not None else outcome.status
        raise SearchFailed(f"Trial {plan.number} fails this time: {reason}") from error
    return outcome
