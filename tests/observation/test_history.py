"""Trials as arrays: the sign is turned once, and every kind of trial has its place."""

import math
import time
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution, IntDistribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState, create_trial

from hf_rlsearch.observation.history import STATUS, History, stable_distributions
from hf_rlsearch.observation.trial_attributes import CONTINUES

MINIMIZE, MAXIMIZE = [StudyDirection.MINIMIZE], [StudyDirection.MAXIMIZE]
X = {"x": FloatDistribution(0, 1)}


def trial(
    number: int,
    value: float | None = None,
    *,
    state: TrialState = TrialState.COMPLETE,
    reports: dict[int, float] | None = None,
    values: list[float] | None = None,
    x: float = 0.5,
) -> FrozenTrial:
    """A trial as a study would hold it; invalid ones (nan) cannot be made by ``create_trial``."""
    made = create_trial(params={"x": x}, distributions=X, value=0.0, intermediate_values=reports or {})
    made.number, made.state = number, state
    made.values = values if values is not None else (None if value is None else [value])
    return made


def status(history: History) -> list[str]:
    return [STATUS[i] for i in history.status]


def test_larger_is_better_in_both_directions() -> None:
    trials = [trial(0, 1.0), trial(1, 3.0)]
    assert History.from_trials(trials, MINIMIZE).values.tolist() == [-1.0, -3.0]
    assert History.from_trials(trials, MAXIMIZE).values.tolist() == [1.0, 3.0]


def test_trials_come_in_order_without_waiting_and_excluded_ones() -> None:
    trials = [trial(3, 1.0), trial(0, 2.0), trial(1, state=TrialState.WAITING), trial(2, state=TrialState.RUNNING)]
    history = History.from_trials(trials, MINIMIZE, exclude=3)
    assert history.numbers.tolist() == [0, 2]
    assert len(history) == 2
    assert history.params == ({"x": 0.5}, {"x": 0.5})


def test_an_empty_study() -> None:
    for directions in (MINIMIZE, MINIMIZE * 2):
        history = History.from_trials([], directions)
        assert (len(history), history.values.shape, history.status.shape) == (0, (0,), (0,))
        assert history.best(3) == []


def test_no_trials_of_no_study() -> None:
    assert len(History.from_trials([], []).values) == 0


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
def test_an_objective_that_is_no_number_is_a_failure(bad: float) -> None:
    history = History.from_trials([trial(0, bad, reports={1: 0.5}), trial(1, 0.2, reports={2: 0.2})], MAXIMIZE)
    assert status(history) == ["failed", "complete"]
    assert np.isnan(history.values[0])
    assert history.fidelity.tolist() == [0.5, 1.0]


def test_huge_values_are_clipped_so_that_their_difference_is_a_number() -> None:
    trials = [
        create_trial(value=1e308, params={}, distributions={}, intermediate_values={1: -1e308, 2: 1e308}),
        create_trial(
            value=-1e308, params={}, distributions={}, intermediate_values={1: math.nan, 2: -math.inf, 3: 5.0}
        ),
    ]
    history = History.from_trials(trials, [StudyDirection.MAXIMIZE])
    assert history.values.tolist() == [1e300, -1e300]
    assert [curve[:, 1].tolist() for curve in history.curves] == [[-1e300, 1e300], [5.0]]


def test_pruned_and_running_trials_are_worth_their_best_report() -> None:
    reports = {1: 5.0, 2: 3.0, 3: 4.0}
    trials = [
        trial(0, 4.0, state=TrialState.PRUNED, reports=reports),
        trial(1, state=TrialState.RUNNING, reports=reports),
        trial(2, state=TrialState.RUNNING),
        trial(3, state=TrialState.FAIL, reports=reports),
        trial(4, 1.5, state=TrialState.PRUNED),
    ]
    history = History.from_trials(trials, MINIMIZE, max_resource=6)
    assert status(history) == ["pruned", "running", "running", "failed", "pruned"]
    np.testing.assert_array_equal(history.values, [-3.0, -3.0, np.nan, np.nan, -1.5])
    assert history.fidelity.tolist() == [0.5, 0.5, 0.0, 0.5, 0.0]
    assert history.curves[0].tolist() == [[1, -5], [2, -3], [3, -3]]


@pytest.mark.parametrize(
    ("complete", "expected"), [([2.0], -4.0), ([2.0, 2.0], -4.0), ([1.0], -3.0), ([2.0, 1.0], -3.0), ([], -3.0)]
)
def test_the_newest_report_counts_where_the_last_ones_are_the_objectives(
    complete: list[float], expected: float
) -> None:
    """Complete trials report 2 at last, and 1 as their best."""
    running = trial(9, state=TrialState.RUNNING, reports={1: 5.0, 2: 3.0, 3: 4.0})
    others = [trial(i, value, reports={1: 3.0, 2: 1.0, 3: 2.0}) for i, value in enumerate(complete)]
    history = History.from_trials([*others, running], MINIMIZE, max_resource=6)
    assert history.values[-1] == expected
    assert history.curves[-1][:, 1].tolist() == ([-5, -3, -4] if expected == -4 else [-5, -3, -3])


def test_the_best_so_far_is_that_of_each_trial() -> None:
    rng = np.random.default_rng(0)
    reports = [dict(enumerate(rng.normal(size=n).tolist(), start=1)) for n in (1, 5, 3, 8)]
    trials = [trial(i, state=TrialState.PRUNED, reports=r) for i, r in enumerate(reports)]
    for curve, reported in zip(History.from_trials(trials, MAXIMIZE).curves, reports, strict=True):
        np.testing.assert_array_equal(curve[:, 1], np.maximum.accumulate(list(reported.values())))


def test_reports_of_nan_are_left_out() -> None:
    reports = {1: 0.5, 2: float("nan"), 3: float("inf")}
    history = History.from_trials([trial(0, state=TrialState.RUNNING, reports=reports)], MAXIMIZE, max_resource=3)
    assert history.curves[0].tolist() == [[1, 0.5]]
    assert history.values.tolist() == [0.5]


def test_fidelity_without_a_known_full_training() -> None:
    steps = [dict.fromkeys(range(start, end), 0.1) for start, end in ((1, 11), (1, 6))]
    trials = [trial(0, 0.1, reports=steps[0]), trial(1, state=TrialState.PRUNED, reports=steps[1])]
    assert History.from_trials(trials, MINIMIZE).fidelity.tolist() == [1.0, 0.5]
    from_zero = [trial(0, 0.1, reports={0: 0.1, 1: 0.1}), trial(1, state=TrialState.PRUNED, reports={0: 0.1})]
    assert History.from_trials(from_zero, MINIMIZE).fidelity.tolist() == [1.0, 0.5]


def test_fidelity_is_a_share_even_where_a_trial_trained_longer() -> None:
    longer = trial(0, state=TrialState.PRUNED, reports={20: 0.1})
    assert History.from_trials([longer], MINIMIZE, max_resource=10).fidelity.tolist() == [1.0]


def test_several_directions_are_ranked() -> None:
    both = [StudyDirection.MINIMIZE, StudyDirection.MAXIMIZE]
    trials = [
        trial(0, values=[1.0, 1.0]),
        trial(1, values=[2.0, 2.0]),
        trial(2, values=[2.0, 1.0]),
        trial(3, values=[3.0, 0.5]),
        trial(4, values=[float("nan"), 9.0]),
        trial(5, state=TrialState.RUNNING),
    ]
    history = History.from_trials(trials, both)
    np.testing.assert_array_equal(history.values, [0, 0, -1, -2, np.nan, np.nan])
    assert status(history)[4:] == ["failed", "running"]
    assert all(curve.shape == (0, 2) for curve in history.curves)


def test_ranks_are_those_of_peeling_fronts_one_by_one() -> None:
    values = np.random.default_rng(0).integers(0, 6, size=(60, 3)).astype(float)
    trials = [trial(i, values=row) for i, row in enumerate(values.tolist())]
    rank = -History.from_trials(trials, [StudyDirection.MAXIMIZE] * 3).values.astype(int)
    left = np.arange(60)
    for level in range(rank.max() + 1):
        dominated = [any((values[j] >= values[i]).all() and (values[j] > values[i]).any() for j in left) for i in left]
        assert left[~np.array(dominated)].tolist() == np.flatnonzero(rank == level).tolist()
        left = left[np.array(dominated)]
    assert len(left) == 0


def test_best_leaves_out_what_did_not_finish() -> None:
    trials = [
        trial(0, 0.3, x=0.0),
        trial(1, 0.9, state=TrialState.PRUNED, reports={1: 0.9}, x=0.1),
        trial(2, 0.5, x=0.2),
        trial(3, 0.5, x=0.3),
    ]
    assert History.from_trials(trials, MAXIMIZE).best(2) == [{"x": 0.2}, {"x": 0.3}]


def test_params_are_copies() -> None:
    original = trial(0, 1.0)
    History.from_trials([original], MINIMIZE).params[0]["x"] = 0.9
    assert original.params == {"x": 0.5}


def test_a_baseline_has_the_values_that_no_param_can_hold() -> None:
    baseline = trial(0, 0.5, x=0.5)
    baseline.user_attrs = {"rl:role": "baseline", "rl:outside": {"learning_rate": 1e-7, "modules": ["q", "v"]}}
    searched = trial(1, 0.4)
    history = History.from_trials([baseline, searched], MINIMIZE)
    assert history.params == ({"x": 0.5, "learning_rate": 1e-7, "modules": "['q', 'v']"}, {"x": 0.5})


def test_a_real_study_with_failures() -> None:
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    study = optuna.create_study(pruner=optuna.pruners.ThresholdPruner(upper=0.5))

    def objective(trial: Any) -> float:
        x = float(trial.suggest_float("x", 0, 1))
        if trial.number == 1:
            raise RuntimeError
        if trial.number == 2:
            return float("nan")
        trial.report(0.9 if trial.number == 3 else 0.1, step=1)
        if trial.should_prune():
            raise optuna.TrialPruned
        return x

    study.optimize(objective, n_trials=5, catch=(RuntimeError,))
    history = History.from_trials(study.get_trials(deepcopy=False), study.directions)
    assert status(history) == ["complete", "failed", "failed", "pruned", "complete"]
    assert history.values[3] == -0.9


def test_a_thousand_trials_take_milliseconds() -> None:
    trials = [trial(i, 0.1, reports=dict.fromkeys(range(5), 0.1)) for i in range(1000)]
    History.from_trials(trials, MINIMIZE)
    times = []
    for _ in range(5):
        start = time.perf_counter()
        History.from_trials(trials, MINIMIZE)
        times.append(time.perf_counter() - start)
    assert min(times) < 0.1


def test_a_training_that_was_continued_is_one_row() -> None:
    paused = trial(0, state=TrialState.PRUNED, reports={1: 0.3, 2: 0.5})
    continuing = trial(1, state=TrialState.RUNNING, reports={1: 0.3, 2: 0.5, 3: 0.6})
    continuing.user_attrs = {CONTINUES: 0}
    history = History.from_trials([paused, continuing], MAXIMIZE, max_resource=4)
    assert history.numbers.tolist() == [1]
    assert history.fidelity.tolist() == [0.75]
    assert history.curves[0][:, 1].tolist() == [0.3, 0.5, 0.6]


@pytest.mark.parametrize("state", [TrialState.WAITING, TrialState.FAIL])
def test_a_failed_or_waiting_trial_continues_nothing(state: TrialState) -> None:
    later = trial(1, state=state)
    later.user_attrs = {CONTINUES: 0}
    history = History.from_trials([trial(0, state=TrialState.PRUNED, reports={1: 0.3}), later], MAXIMIZE)
    assert 0 in history.numbers.tolist()


@pytest.mark.parametrize(
    ("ranges", "stable"),
    [([3, 3], 3), ([3, 1], None), ([3, 1, 1], 1), ([3, 1, 1, 2, 2], 2), ([3, 1, 1, 3, 3], None), ([1, 2, 3], None)],
)
def test_the_newest_range_counts_once_it_stays(ranges: list[int], stable: int | None) -> None:
    trials = [create_trial(params={"n": 1}, distributions={"n": IntDistribution(1, n)}, value=0.0) for n in ranges]
    assert stable_distributions(trials) == ({} if stable is None else {"n": IntDistribution(1, stable)})
