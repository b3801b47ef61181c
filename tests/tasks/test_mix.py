"""The mix of tasks, and what makes some of them unfamiliar."""

from dataclasses import fields

import numpy as np

from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.mix import TaskMix, unfamiliar, with_failures
from hf_rlsearch.tasks.prior import TaskBatch, draw

TASKS = draw(np.random.default_rng(0), 300, 40)
PERTURBED = unfamiliar(np.random.default_rng(1), TASKS)


def test_without_tables_all_tasks_come_from_the_formulas() -> None:
    mixed = TaskMix().draw(np.random.default_rng(3), 5, 30)
    expected = draw(np.random.default_rng(3), 5, 30)
    for field in fields(TaskBatch):
        np.testing.assert_array_equal(getattr(mixed, field.name), getattr(expected, field.name))


def test_unfamiliar_tasks_keep_their_values_and_their_spaces() -> None:
    for name in ("utility", "values", "candidates", "candidate_mask", "n_levels", "ordered", "present", "kinds"):
        np.testing.assert_array_equal(getattr(PERTURBED, name), getattr(TASKS, name), err_msg=name)


def test_rates_move_as_a_whole_in_about_half_of_the_tasks() -> None:
    is_rate = TASKS.roles == ROLES.index("learning_rate")
    factors = PERTURBED.levels[is_rate] / TASKS.levels[is_rate]
    known = ~np.isnan(factors)
    first = factors[:, 0]
    assert np.allclose(np.where(known, factors, first[:, None]), first[:, None])
    assert 0.35 < (first != 1).mean() < 0.65
    others = ~is_rate
    np.testing.assert_array_equal(PERTURBED.levels[others], TASKS.levels[others])


def test_numbers_change_roles_in_some_tasks_and_categories_never() -> None:
    np.testing.assert_array_equal(PERTURBED.roles[~TASKS.ordered], TASKS.roles[~TASKS.ordered])
    np.testing.assert_array_equal(np.sort(PERTURBED.roles, 1), np.sort(TASKS.roles, 1))
    assert 0.05 < (PERTURBED.roles != TASKS.roles).any(1).mean() < 0.3


def test_wrong_facts_are_sizes_and_lengths() -> None:
    wrong = {name: (a != b) & ~np.isnan(b) for name, a, b in zip(FACTS, PERTURBED.facts.T, TASKS.facts.T, strict=True)}
    assert {name for name, flags in wrong.items() if flags.any()} == {"n_parameters", "n_examples", "n_steps"}
    np.testing.assert_array_equal(np.isnan(PERTURBED.facts), np.isnan(TASKS.facts))


# ------------------------------------------------------------------------------------------------------------ failures
FAILING = with_failures(np.random.default_rng(2), TASKS)


def test_parts_of_some_spaces_fail() -> None:
    fails = np.isnan(FAILING.values) & TASKS.candidate_mask
    share = fails.sum(1) / TASKS.candidate_mask.sum(1)
    assert 0.1 < (share > 0).mean() < 0.25
    assert (share <= 0.8).all()
    assert (FAILING.utility[fails] == -10).all()
    same = ~fails.any(1)
    for name in ("values", "utility", "noise", "spread", "median"):
        np.testing.assert_array_equal(getattr(FAILING, name)[same], getattr(TASKS, name)[same], err_msg=name)


def test_what_is_left_of_a_space_is_measured_from_its_median_to_its_best() -> None:
    runs = ~np.isnan(FAILING.values) & TASKS.candidate_mask
    changed = (np.isnan(FAILING.values) & TASKS.candidate_mask).any(1)
    left = np.where(runs, FAILING.utility, np.nan)[changed]
    np.testing.assert_allclose(np.nanmax(left, 1), 1)
    np.testing.assert_allclose(np.nanmedian(left, 1), 0, atol=1e-9)
    # In the metric's own units nothing has changed but the place of the median and the unit.
    shown = FAILING.utility * FAILING.spread[:, None] + FAILING.median[:, None]
    before = TASKS.utility * TASKS.spread[:, None] + TASKS.median[:, None]
    np.testing.assert_allclose(shown[runs], before[runs], atol=1e-9)
    np.testing.assert_allclose(FAILING.noise * FAILING.spread[:, None], TASKS.noise * TASKS.spread[:, None])


def test_a_part_that_fails_is_bounded_by_one_or_two_hyperparameters() -> None:
    """Some hyperparameter has levels at which nothing fails: the others, or none, are what fails."""
    for b in np.flatnonzero((np.isnan(FAILING.values) & TASKS.candidate_mask).any(1)):
        real = TASKS.candidate_mask[b]
        fails, levels = np.isnan(FAILING.values[b])[real], TASKS.candidates[b][real]
        assert any(set(levels[fails, h]) != set(levels[:, h]) for h in np.flatnonzero(TASKS.n_levels[b] > 1))
