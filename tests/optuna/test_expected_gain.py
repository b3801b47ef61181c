"""What more trials are expected to bring: in the unit of the objective, more by more trials, less late in a search."""

import math
from collections.abc import Sequence
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hf_rlsearch import ArgumentsError, RLSampler


def spent_on_a_bowl(n_trials: int, *, times: float = 1.0, directions: Sequence[str] = ("minimize",)) -> optuna.Study:
    """A study of a bowl in the logarithm of a learning rate."""
    study = optuna.create_study(directions=directions, sampler=RLSampler(seed=0))
    for _ in range(n_trials):
        trial = study.ask()
        value = times * (math.log10(trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)) + 3.2) ** 2
        study.tell(trial, [value] * len(directions))
    return study


def expected(study: optuna.Study, n_trials: int) -> Any:
    assert isinstance(study.sampler, RLSampler)
    return study.sampler.expected_gain(study, n_trials)


def test_an_expected_gain_is_in_the_unit_of_the_objective() -> None:
    """Losses of 1 to 40 expect what losses of 1000 to 40,000 expect, a thousandth of it."""
    one, thousand = (expected(spent_on_a_bowl(6, times=times), 5) for times in (1.0, 1024.0))
    assert thousand.share == pytest.approx(one.share, rel=1e-3)
    assert thousand.value == pytest.approx(1024 * one.value, rel=1e-3)
    assert one.value > 0


def test_more_trials_are_expected_to_gain_more_and_a_longer_search_less() -> None:
    short, long = spent_on_a_bowl(4), spent_on_a_bowl(16)
    gains = [expected(short, n).value for n in (1, 3, 9)]
    assert gains == sorted(gains)
    assert expected(long, 5).share < expected(short, 5).share


def test_where_trainings_fail_less_is_expected() -> None:
    study = spent_on_a_bowl(5)
    before = expected(study, 10).value
    for rate in (1.1e-5, 3e-5, 1.2e-4, 3.3e-4, 1.3e-3, 3.7e-3, 1.1e-2, 4e-2):
        failed = {"params": {"learning_rate": rate}, "distributions": study.trials[0].distributions}
        study.add_trial(create_trial(state=TrialState.FAIL, **failed))
    assert expected(study, 10).value < 0.7 * before


def test_where_nothing_can_be_predicted_no_gain_is_expected() -> None:
    assert expected(spent_on_a_bowl(0), 5) is None
    assert expected(spent_on_a_bowl(2), 5) is None
    assert expected(spent_on_a_bowl(5, times=0.0), 5) is None
    assert expected(spent_on_a_bowl(5, directions=("minimize", "minimize")), 5) is None


@pytest.mark.parametrize("n_trials", [0, -3, 2.5, True])
def test_a_number_of_trials_that_is_none(n_trials: Any) -> None:
    with pytest.raises(ArgumentsError, match=f"n_trials={n_trials} given, expected a whole number, at least 1"):
        expected(optuna.create_study(sampler=RLSampler(seed=0)), n_trials)
