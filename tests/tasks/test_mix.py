"""The mix of tasks, and what makes some of them unfamiliar."""

from dataclasses import fields

import numpy as np

from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.mix import TaskMix, unfamiliar
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
