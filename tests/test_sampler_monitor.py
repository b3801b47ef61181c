"""The monitor of the agent's predictions."""

import optuna
import pytest
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hf_rlsearch.history import DECISION_KEY
from hf_rlsearch.sampler.monitor import temperature

MINIMIZE = [StudyDirection.MINIMIZE]


def trials(values: list[float], chance: float) -> list[FrozenTrial]:
    """Finished trials whose improvement was predicted with the same chance."""
    study = optuna.create_study()
    for value in values:
        study.add_trial(create_trial(value=value, system_attrs={DECISION_KEY: {"chance": chance}}))
    return study.get_trials(deepcopy=False)


def test_predictions_that_come_true_are_trusted() -> None:
    assert temperature(trials([9, 8, 9, 7, 8, 6, 7, 5, 6, 4], 0.5), MINIMIZE) == 1.0


@pytest.mark.parametrize(
    ("values", "chance"), [(range(12), 0.9), (range(12, 0, -1), 0.05)], ids=["too hopeful", "too gloomy"]
)
def test_surprises_flatten(values: range, chance: float) -> None:
    assert 1.5 < temperature(trials(list(map(float, values)), chance), MINIMIZE) <= 3.0


def test_few_trials_prove_nothing() -> None:
    assert temperature(trials([1.0, 2.0, 3.0, 4.0], 0.99), MINIMIZE) == 1.0


def test_trials_of_others_and_failures_are_passed_over() -> None:
    study = optuna.create_study()
    for value in range(12):
        study.add_trial(create_trial(value=float(value)))
    study.add_trial(create_trial(state=optuna.trial.TrialState.FAIL))
    assert temperature(study.trials, MINIMIZE) == 1.0


def test_several_directions_have_no_best_trial() -> None:
    assert temperature(trials([1.0] * 12, 0.9), [StudyDirection.MINIMIZE] * 2) == 1.0


def test_stopped_trials_count_as_no_improvement() -> None:
    study = optuna.create_study()
    study.add_trial(create_trial(value=9.0))
    for number in range(10):
        improved = number % 3 == 0
        study.add_trial(
            create_trial(
                state=TrialState.COMPLETE if improved else TrialState.PRUNED,
                value=8.0 - number,
                system_attrs={DECISION_KEY: {"chance": 0.33}},
            )
        )
    assert temperature(study.get_trials(deepcopy=False), MINIMIZE) == 1.0
