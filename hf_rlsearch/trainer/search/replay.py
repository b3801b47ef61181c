"""Trains a finished trial again, exactly, or leaves its arguments in a Trainer."""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError, SearchFailed
from hf_rlsearch.observation.trial_attributes import (
    ARGUMENTS,
    BASELINE,
    CHANGES,
    CONFIRM,
    EARLIER_PARAMS,
    OBJECTIVE,
    REEVALUATES,
    VALUES,
    role,
)
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.search.providers import UserTrainerProvider, trainer_provider
from hf_rlsearch.trainer.search.trial import EvaluationMonitor, TrialOutcome, TrialPlan, run_trial
from hf_rlsearch.trainer.session.progress import quiet_libraries
from hf_rlsearch.trainer.setup.hp_space import SideEffects
from hf_rlsearch.trainer.setup.objective import Objective

if TYPE_CHECKING:
    from transformers import Trainer


class ReplayedObjective(float):
    """The objective of a trial that was trained again: a float, with what else the training gave.

    Attributes:
        values: The value of each objective; the float is the first one.
        metrics: All metrics of the scored evaluation.
        seconds: Wall-clock time of the training.
    """

    values: tuple[float, ...]
    metrics: Params
    seconds: float

    @classmethod
    def of(cls, outcome: TrialOutcome) -> Self:
        """Returns the objective of a trial that is complete."""
        made = cls(outcome.values[0])
        made.values, made.metrics, made.seconds = outcome.values, outcome.metrics, outcome.seconds
        return made


def replay_plan(study: optuna.Study, trial: FrozenTrial) -> TrialPlan:
    """Returns the plan that a trial of a search was trained with, for a fresh start in a folder to be chosen."""
    # The baseline has no params of its own, under new seeds as well.
    original = study.get_trials(deepcopy=False)[trial.user_attrs[REEVALUATES]] if role(trial) == CONFIRM else trial
    params = trial.user_attrs.get(EARLIER_PARAMS, {}) if role(original) == BASELINE else trial.params
    return TrialPlan(
        number=trial.number,
        params=dict(params),
        values=dict(trial.user_attrs.get(VALUES, {})),
        folder="",
        name=f"run-{trial.number}",
        role=role(trial),
        arguments=trial.user_attrs.get(ARGUMENTS),
        changes=list(trial.user_attrs.get(CHANGES, ())),
    )


def apply_trial(trainer: "Trainer", study: optuna.Study, trial: FrozenTrial, side_effects: SideEffects) -> "Trainer":
    """Gives a Trainer the arguments of a trial; see ``SearchResult.apply``."""
    with UserTrainerProvider(trainer) as provider:
        provider.side_effects = side_effects
        follows = study.user_attrs.get(OBJECTIVE, {}).get("follows")
        provider.finish(replay_plan(study, trial), load=None, follows=follows)
    return trainer


def replay(
    trainer: Any,
    study: optuna.Study,
    number: int,
    *,
    seed: int | None = None,
    compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    side_effects: SideEffects,
) -> ReplayedObjective:
    """Trains one trial of a study again; see ``SearchResult.replay``."""
    trials = study.get_trials(deepcopy=False)
    if not 0 <= number < len(trials) or trials[number].state != TrialState.COMPLETE:
        complete = [trial.number for trial in trials if trial.state == TrialState.COMPLETE]
        raise ArgumentsError(f"Trial {number} is not a complete trial of this study; those are {complete}.")
    objective = Objective.from_json(study.user_attrs[OBJECTIVE], compute_objective)
    plan = replay_plan(study, trials[number])
    if seed is not None:
        given = {"seed": seed}
        plan = replace(plan, values={**plan.values, **given}, arguments={**(plan.arguments or {}), **given})
    provider = trainer_provider(trainer)
    provider.side_effects = side_effects
    # In a temporary folder, where save_total_limit deletes no checkpoint of the user.
    with quiet_libraries(), tempfile.TemporaryDirectory() as folder, provider:
        try:
            monitor = EvaluationMonitor(objective, ProcessGroup())
            plan = replace(plan, folder=str(Path(folder, plan.name)))
            outcome, error = run_trial(provider.trainer_for(plan, monitor), plan, monitor)
            provider.release()
        finally:
            provider.restore()
    if outcome.state != TrialState.COMPLETE:
        reason = outcome.failure.reason if outcome.failure is not None else outcome.state.name
        raise SearchFailed(f"Trial {number} fails this time: {reason}") from error
    return ReplayedObjective.of(outcome)
