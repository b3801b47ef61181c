"""Trains a finished trial again, exactly."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import ArgumentsError, SearchFailed
from hf_rlsearch.observation.trial_attributes import BASELINE, CONFIRM, OBJECTIVE, REEVALUATES, ROLE, VALUES, role
from hf_rlsearch.trainer.hyperparameters import attach_optimizer, trial_arguments
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.search.providers import (
    TrainerProvider,
    copies_of,
    final_model_init,
    following,
    trainer_provider,
)
from hf_rlsearch.trainer.search.trial import EvaluationMonitor, TrialOutcome, TrialPlan, run_trial
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.session.compat import check_trainer
from hf_rlsearch.trainer.session.progress import quiet_transformers
from hf_rlsearch.trainer.session.trainer_session import TrainerSession
from hf_rlsearch.trainer.setup.objective import Objective


def model_params(study: optuna.Study, trial: FrozenTrial) -> Params:
    """What ``model_init(trial)`` is asked with; empty for the user's own configuration, under whatever seed."""
    confirmed = trial.user_attrs[REEVALUATES] if role(trial) == CONFIRM else trial.number
    return {} if role(study.get_trials(deepcopy=False)[confirmed]) == BASELINE else dict(trial.params)


def apply_trial(trainer: Any, study: optuna.Study, trial: FrozenTrial) -> Any:
    """Sets arguments and ``model_init``, and refreshes what the Trainer derives from them.

    Args:
        trainer: To be trained with the trial's hyperparameters; its ``output_dir`` is kept.
        study: Of a search with a Trainer.
        trial: Of this study.

    Returns:
        The same Trainer.
    """
    check_trainer(trainer)
    frozen = FrozenArguments(trainer.args)
    values = dict(trial.user_attrs.get(VALUES, {}))
    model_init = final_model_init(trainer.model_init or copies_of(trainer.model), model_params(study, trial), values)
    args = following(trial_arguments(frozen, values), study.user_attrs.get(OBJECTIVE, {}).get("follows"))
    with TrainerSession(trainer) as seat:
        seat.finish(args, model_init=model_init, load=None)
    attach_optimizer(trainer, values)
    return trainer


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
    with quiet_transformers(), tempfile.TemporaryDirectory() as folder, source:
        try:
            return _train(source, _plan(study, number, folder, seed), objective).values
        finally:
            source.restore()


def _plan(study: optuna.Study, number: int, folder: str, seed: int | None) -> TrialPlan:
    trial = study.get_trials(deepcopy=False)[number]
    values = dict(trial.user_attrs.get(VALUES, {}))
    if seed is not None:
        values["seed"] = seed
    return TrialPlan(
        number=trial.number,
        params=model_params(study, trial),
        values=values,
        folder=str(Path(folder, f"run-{trial.number}")),
        name=f"run-{trial.number}",
        role=str(trial.user_attrs.get(ROLE, "search")),
    )


def _train(source: TrainerProvider, plan: TrialPlan, objective: Objective) -> TrialOutcome:
    monitor = EvaluationMonitor(objective, ProcessGroup())
    trainer = source.trainer_for(plan, objective, monitor)
    outcome, error = run_trial(trainer, plan, monitor)
    del trainer
    source.release()
    if outcome.state != TrialState.COMPLETE:
        reason = outcome.failure.reason if outcome.failure is not None else outcome.state.name
        raise SearchFailed(f"Trial {plan.number} fails this time: {reason}") from error
    return outcome
