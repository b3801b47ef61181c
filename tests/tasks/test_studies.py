"""Tasks of finished studies: recorded values stay, others are drawn around them, and shapes fit the networks."""

import numpy as np
import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.observation.history import FAILED, History
from hf_rlsearch.observation.observation import FACTS, space_arrays
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.tasks.histories import Trained, observe_tasks
from hf_rlsearch.tasks.studies import RecordedStudy, StudyTasks
from tests.helpers.searches import SPACE, history_of, random_rows

pytestmark = pytest.mark.usefixtures("quiet")

NARROW = SearchSpace.from_distributions({"x": FloatDistribution(0.0, 1.0), "n": IntDistribution(0, 3)})


def study(space: SearchSpace = SPACE, n_trials: int = 12, seed: int = 0) -> RecordedStudy:
    rows = np.unique(random_rows(n_trials, seed, space), axis=0)
    values = 3.0 - np.abs(rows[:, 0] - 2.0) + 0.1 * rows[:, 1]
    return RecordedStudy.of("mine", space, history_of(rows, values, space=space), {"maximize": 1.0, "n_examples": 3.0})


def test_recorded_configurations_keep_their_values_in_the_unit_of_the_metric() -> None:
    recorded = study()
    tasks = StudyTasks([recorded], recorded_share=1.0).draw(np.random.default_rng(0), 3, 40)
    n = len(recorded.rows)
    np.testing.assert_allclose(tasks.values[:, :n], np.tile(recorded.values, (3, 1)), atol=1e-9)
    np.testing.assert_array_equal(tasks.candidates[0, :n, : len(SPACE.names)], recorded.rows)
    np.testing.assert_allclose(tasks.values, tasks.median[:, None] + tasks.spread[:, None] * tasks.utility, atol=1e-9)
    assert tasks.candidate_mask.sum(1).tolist() == [n] * 3


def test_other_configurations_are_drawn_anew_for_every_task_and_follow_the_recorded_ones() -> None:
    recorded = study(NARROW, 24)
    tasks = StudyTasks([recorded], recorded_share=0.0).draw(np.random.default_rng(0), 40, 64)
    n = len(recorded.rows)
    others = np.flatnonzero(tasks.candidate_mask[0])[n:]
    assert len(others) == NARROW.n_candidates - n
    levels = tasks.candidates[:, others, 0]
    away = np.abs(levels - 2)
    good, bad = tasks.values[:, others][away <= 1], tasks.values[:, others][away >= 3]
    assert good.mean() > bad.mean() + 0.8
    assert len(np.unique(tasks.values[:, others])) == 40 * len(others)


def test_the_best_candidate_has_utility_one_and_the_median_zero() -> None:
    tasks = StudyTasks([study()], recorded_share=0.0).draw(np.random.default_rng(1), 4, 50)
    np.testing.assert_allclose(tasks.utility.max(1), 1.0)
    np.testing.assert_allclose(np.median(tasks.utility, axis=1), 0.0, atol=1e-9)


def test_studies_of_different_spaces_share_a_batch_that_the_agent_can_observe() -> None:
    mix = StudyTasks([study(), study(NARROW)])
    tasks = mix.draw(np.random.default_rng(3), 8, 30)
    assert len({int((roles >= 0).sum()) for roles in tasks.roles}) == 2
    chosen, mask = np.zeros((8, 2), int), np.ones((8, 2), bool)
    values = np.take_along_axis(tasks.values, chosen, axis=1)
    seen = observe_tasks(space_arrays(tasks), tasks, Trained.complete(chosen, values, mask))
    assert seen.candidates.shape == (8, 30, len(SPACE.names))
    assert np.isfinite(seen.trial_features).all()


def test_the_same_state_of_chance_gives_the_same_tasks() -> None:
    first, second = (StudyTasks([study()]).draw(np.random.default_rng(5), 4, 30) for _ in range(2))
    np.testing.assert_array_equal(first.values, second.values)


def test_facts_are_told_or_all_but_the_direction_are_hidden() -> None:
    tasks = StudyTasks([study()]).draw(np.random.default_rng(0), 40, 30)
    known = np.isfinite(tasks.facts)
    assert known[:, FACTS.index("maximize")].all()
    assert 0.4 < known[:, FACTS.index("n_examples")].mean() < 0.9


def test_trials_on_the_same_levels_are_one_configuration_with_their_mean() -> None:
    history = history_of(np.array([[0, 1], [2, 1], [0, 1]]), [1.0, 5.0, 2.0], space=NARROW)
    recorded = RecordedStudy.of("mine", NARROW, history, {})
    assert recorded.rows.tolist() == [[0, 1], [2, 1]]
    assert recorded.values.tolist() == [1.5, 5.0]


def test_only_complete_trials_are_recorded() -> None:
    rows, status = np.array([[0, 1], [2, 1], [3, 3]]), np.array([0, FAILED, 0])
    history = history_of(rows, [1.0, np.nan, 2.0], space=NARROW, status=status)
    assert RecordedStudy.of("mine", NARROW, history, {}).rows.tolist() == [[0, 1], [3, 3]]


def test_equal_values_teach_nothing() -> None:
    rows = np.array([[0, 1], [2, 1], [3, 3]])
    assert not RecordedStudy.of("mine", NARROW, history_of(rows, [2.0] * 3, space=NARROW), {}).can_teach
    assert RecordedStudy.of("mine", NARROW, history_of(rows, [2.0, 2.0, 2.1], space=NARROW), {}).can_teach


def test_a_diverged_training_does_not_hide_what_the_others_say() -> None:
    rows = np.array([[level, n] for level in range(6) for n in (0, 2)])
    values = -np.abs(rows[:, 0] - 3.0)
    values[0] = -1e6
    recorded = RecordedStudy.of("mine", NARROW, history_of(rows, values, space=NARROW), {})
    tasks = StudyTasks([recorded], recorded_share=0.0).draw(np.random.default_rng(0), 20, 24)
    middle = tasks.candidates[..., 0] == 3
    assert np.median(tasks.utility[middle]) > 0.5 > np.median(tasks.utility[~middle])
    assert tasks.utility.min() < -1e5


def test_conditional_hyperparameters_and_values_between_levels_are_read() -> None:
    read = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))

    def objective(trial: optuna.Trial) -> float:
        kind = trial.suggest_categorical("kind", ["a", "b"])
        x = trial.suggest_float("x", 0, 1)
        return x + (trial.suggest_int("depth", 1, 3) if kind == "b" else 0)

    read.optimize(objective, n_trials=15)
    space = SearchSpace.from_distributions(
        {"kind": CategoricalDistribution(["a", "b"]), "x": FloatDistribution(0, 1), "depth": IntDistribution(1, 3)},
        conditional=["depth"],
    )
    recorded = RecordedStudy.of("mine", space, History.from_trials(read.trials, read.directions), {})
    tasks = StudyTasks([recorded]).draw(np.random.default_rng(0), 2, 40)
    is_b = recorded.rows[:, 0] == 1
    assert tasks.present[0, : len(is_b), 2].tolist() == is_b.tolist()
