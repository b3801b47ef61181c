"""Trials that the search itself puts into the study's queue: the user's own configuration, and confirmations."""

from typing import Any

import optuna
from optuna.trial import TrialState

from hf_rlsearch.backend import confirm
from hf_rlsearch.backend.drawing import ConfigurationSampler
from hf_rlsearch.backend.result import BASELINE, CONFIRM, role
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.standing import Standing


def enqueue_baseline(study: optuna.Study, configurations: ConfigurationSampler, config: Any) -> None:
    """Puts the user's own configuration into the queue, unless another process just has.

    Args:
        study: Of the search.
        configurations: Knows the user's arguments.
        config: Of the user's model.
    """
    if any(role(trial) == BASELINE for trial in study.get_trials(deepcopy=False)):
        return
    recorded, _ = configurations.baseline_params(config)
    study.enqueue_trial(recorded, user_attrs={"role": BASELINE})


def enqueue_confirmation(
    study: optuna.Study, standing: Standing, configurations: ConfigurationSampler, settings: Settings
) -> bool:
    """Puts the next confirmation into the queue; False when there is none to make.

    Args:
        study: Of the search.
        standing: What was found so far.
        configurations: Knows the user's arguments.
        settings: Of the search.
    """
    if settings.confirm == 0 or standing.is_multi:
        return False
    trials = study.get_trials(deepcopy=False)
    if any(t.state == TrialState.WAITING and role(t) == CONFIRM for t in trials):
        return True
    own = next((t for t in trials if role(t) == BASELINE and t.state == TrialState.COMPLETE), None)
    numbers = confirm.candidates(standing.ranking(), own, settings.confirm)
    maximize = study.direction == optuna.study.StudyDirection.MAXIMIZE
    run = confirm.next_run(numbers, trials, seed=int(configurations.frozen.value("seed")), maximize=maximize)
    if run is None:
        return False
    number, seed = run
    attributes = {"role": CONFIRM, confirm.OF: number, confirm.SEED: seed}
    study.enqueue_trial(trials[number].params, user_attrs=attributes)
    return True
