import math

import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial

from hf_rlsearch.report import SearchRecord, explain
from hf_rlsearch.report.analysis import summarize

X = {"x": FloatDistribution(0.0, 1.0)}


def add(study: optuna.Study, **kwargs: object) -> None:
    study.add_trial(create_trial(params={"x": 0.5}, distributions=X, **kwargs))  # type: ignore[arg-type]


@pytest.fixture
def maximizing() -> optuna.Study:
    return optuna.create_study(direction="maximize")


def test_values_keep_the_users_sign(maximizing: optuna.Study) -> None:
    add(maximizing, value=0.7)
    add(maximizing, value=0.9)
    search = SearchRecord.from_study(maximizing)
    assert search.minimize == (False,)
    best = search.best()
    assert best is not None
    assert best.values == (0.9,)


def test_a_baseline_outside_of_the_space_leaves_hyperparameters_in_their_order(maximizing: optuna.Study) -> None:
    """Its own learning rate is no point of the space, so that its trial has no such param."""
    space = {"learning_rate": X["x"], "weight_decay": X["x"]}
    for exact, names in (([2.0, 0.1], ["weight_decay"]), ([0.2, 0.1], list(space))):
        params = dict(zip(space, exact, strict=True))
        trial = {"params": {name: params[name] for name in names}, "distributions": dict.fromkeys(names, X["x"])}
        maximizing.add_trial(create_trial(value=0.5, user_attrs={"rl:hyperparameters": params}, **trial))
    search = SearchRecord.from_study(maximizing)
    assert list(search.distributions) == [*search.trials[0].params] == [*search.trials[1].params] == [*space]


def test_an_objective_that_is_no_number_is_a_failure_with_a_reason(maximizing: optuna.Study) -> None:
    add(maximizing, value=math.inf)
    (trial,) = SearchRecord.from_study(maximizing).trials
    assert (trial.status, trial.values) == ("failed", None)
    assert "inf" in (trial.failure or "")


@pytest.mark.parametrize(
    ("attrs", "reason", "traceback"),
    [
        ({"rl:failure": {"reason": "ValueError: no", "traceback": "File a"}}, "ValueError: no", "File a"),
        ({"rl:failure": "Traceback (most recent call last):\n  File a\nValueError: no"}, "ValueError: no", "File a"),
        ({"rl:failure": "gave up"}, "gave up", ""),
        ({}, "no reason was stored", ""),
    ],
)
def test_reason_of_a_failure(maximizing: optuna.Study, attrs: dict[str, object], reason: str, traceback: str) -> None:
    add(maximizing, state=TrialState.FAIL, user_attrs=attrs)
    (trial,) = SearchRecord.from_study(maximizing).trials
    assert trial.failure == reason
    assert traceback in trial.traceback


def test_fidelity_is_a_share_of_the_training(maximizing: optuna.Study) -> None:
    add(maximizing, value=1.0, intermediate_values={10: 0.5, 20: 1.0}, user_attrs={})
    add(maximizing, state=TrialState.PRUNED, value=0.4, intermediate_values={5: 0.4})
    assert [t.fidelity for t in SearchRecord.from_study(maximizing).trials] == [1.0, 0.25]


def test_steps_of_our_own_trials_are_ten_thousandths(maximizing: optuna.Study) -> None:
    add(
        maximizing,
        state=TrialState.PRUNED,
        value=0.4,
        intermediate_values={2500: 0.4},
        user_attrs={"rl:role": "search"},
    )
    search = SearchRecord.from_study(maximizing)
    assert (search.fractions, search.trials[0].fidelity) == (True, 0.25)


def test_confirmations_are_no_candidates_for_the_best(maximizing: optuna.Study) -> None:
    add(maximizing, value=0.7)
    add(maximizing, value=0.8, user_attrs={"rl:role": "confirm", "rl:reevaluates": 0, "rl:seed": 1})
    add(maximizing, value=0.9, user_attrs={"rl:role": "confirm"})  # of another origin
    best = SearchRecord.from_study(maximizing).best()
    assert best is not None
    assert best.number == 0


def test_stored_hyperparameters_go_before_the_suggested_ones(maximizing: optuna.Study) -> None:
    add(maximizing, value=0.7, user_attrs={"rl:hyperparameters": {"x": 0.51}})
    assert SearchRecord.from_study(maximizing).trials[0].params == {"x": 0.51}


def test_damaged_attributes_count_as_absent(maximizing: optuna.Study) -> None:
    add(maximizing, value=0.7, user_attrs={"rl:metrics": "{", "rl:seconds": "x"}, system_attrs={"rl:decision": "[1]"})
    (trial,) = SearchRecord.from_study(maximizing).trials
    assert (trial.metrics, trial.decision) == ({}, {})
    assert trial.seconds is not None


def test_a_resumed_training_is_named_and_counted_once() -> None:
    study = optuna.create_study(direction="maximize")
    trials = [
        (
            {"rl:spent": 1.0, "rl:cost": 1.0, "rl:started_at": 0, "rl:role": "baseline"},
            TrialState.COMPLETE,
            {10_000: 0.5},
        ),
        (
            {"rl:spent": 0.5, "rl:cost": 2.0, "rl:started_at": 0, "rl:paused": "there", "rl:role": "search"},
            TrialState.PRUNED,
            {2500: 0.6},
        ),
        (
            {"rl:spent": 1.5, "rl:cost": 2.0, "rl:started_at": 2500, "rl:continues": 1, "rl:role": "search"},
            TrialState.COMPLETE,
            {2500: 0.6},
        ),
    ]
    for attributes, state, reports in trials:
        value = 0.7 if state == TrialState.COMPLETE else None
        study.add_trial(
            optuna.trial.create_trial(state=state, value=value, intermediate_values=reports, user_attrs=attributes)
        )
    search = SearchRecord.from_study(study)
    summary = summarize(search)
    assert (summary.spent, summary.full) == (3.0, 3.0)
    assert "It left a checkpoint that another trial could resume." in explain(search, 1).sentences
    assert "It resumed trial 1 at 25%." in explain(search, 2).sentences
