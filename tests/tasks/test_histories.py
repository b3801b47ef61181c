"""Histories of simulated searches."""

from dataclasses import replace

import numpy as np
import pytest

from hf_rlsearch.observation.history import STATUS
from hf_rlsearch.observation.observation import space_arrays
from hf_rlsearch.tasks.histories import (
    Trained,
    draw_among,
    draw_history,
    hide_hyperparameters,
    measure,
    observe_tasks,
    shown_at,
    train_partly,
)
from hf_rlsearch.tasks.prior import TaskBatch, draw

TASKS = draw(np.random.default_rng(0), 60, 40)
ROWS = np.arange(60)[:, None]


@pytest.mark.parametrize("count", [1, 5, 40, 99])
def test_a_part_of_the_candidates_is_drawn_those_allowed_first(count: int) -> None:
    allowed = np.random.default_rng(2).random((50, 40)) < np.linspace(0, 1, 50)[:, None]
    drawn, flags = draw_among(np.random.default_rng(3).random(allowed.shape), allowed, count)
    assert drawn.shape == flags.shape == (50, min(count, 40))
    assert all(len(set(row.tolist())) == len(row) for row in drawn)
    np.testing.assert_array_equal(flags, np.take_along_axis(allowed, drawn, 1))
    np.testing.assert_array_equal(flags.sum(1), np.minimum(allowed.sum(1), count))
    assert (np.diff(flags.astype(int), axis=1) <= 0).all()


def test_every_allowed_candidate_is_as_likely() -> None:
    allowed = np.broadcast_to(np.arange(8) < 6, (4000, 8))
    drawn, _ = draw_among(np.random.default_rng(0).random(allowed.shape), allowed, 2)
    shares = np.bincount(drawn.ravel(), minlength=8) / drawn.size
    np.testing.assert_allclose(shares[:6], 1 / 6, atol=0.02)
    assert (shares[6:] == 0).all()


def test_histories_hold_different_allowed_candidates() -> None:
    chosen, mask = draw_history(np.random.default_rng(1), TASKS, 12)
    for b in range(60):
        trials = chosen[b, mask[b]]
        assert len(set(trials.tolist())) == len(trials)
        assert TASKS.candidate_mask[b, trials].all()


def test_histories_have_all_lengths_and_leave_something_to_choose() -> None:
    chosen, mask = draw_history(np.random.default_rng(1), TASKS, 12)
    assert chosen.shape == mask.shape == (60, 12)
    assert {0, 12} <= set(mask.sum(1).tolist())
    assert (mask.sum(1) < TASKS.candidate_mask.sum(1)).all()
    assert (mask == (np.arange(12) < mask.sum(1, keepdims=True))).all()


def test_some_histories_are_greedy() -> None:
    tasks = draw(np.random.default_rng(0), 300, 60)
    chosen, mask = draw_history(np.random.default_rng(1), tasks, 20)
    utility = np.clip(np.take_along_axis(tasks.utility, chosen, 1), -3, 1)
    early, late = utility[:, :3][mask[:, :3]].mean(), utility[:, 10:][mask[:, 10:]].mean()
    assert late > early + 0.1


def test_a_measurement_is_the_value_and_its_noise() -> None:
    chosen = np.zeros((60, 400), int)
    chosen[:] = TASKS.candidate_mask.argmax(1)[:, None]
    values = measure(np.random.default_rng(0), TASKS, chosen)
    truth = np.take_along_axis(TASKS.values, chosen[:, :1], 1)[:, 0]
    sigma = np.take_along_axis(TASKS.noise, chosen[:, :1], 1)[:, 0] * TASKS.spread
    assert (np.abs(values.mean(1) - truth) < 5 * sigma / 20).all()
    np.testing.assert_allclose(values.std(1), sigma, rtol=0.25)


@pytest.mark.parametrize("length", [0, 1, 15])
def test_partly_trained_histories_are_consistent(length: int) -> None:
    rng = np.random.default_rng(3)
    chosen, mask = draw_history(rng, TASKS, length)
    trained = train_partly(rng, TASKS, chosen, mask, measure(rng, TASKS, chosen))
    names = np.array(STATUS)[trained.status]
    pending = (names == "running") & (trained.fidelity == 0)
    assert (np.isnan(trained.values) == ((names == "failed") | pending)).all()
    assert (trained.fidelity[names == "complete"] == 1).all()
    assert ((trained.fidelity > 0) & (trained.fidelity <= 1) | pending).all()
    assert (trained.fidelity[names == "running"] < 1).all()
    at_reference, at_half = trained.at_reference, trained.at_half
    value = np.where(np.isnan(trained.values), np.inf, trained.values)
    assert (at_reference[~np.isnan(at_reference)] <= value[~np.isnan(at_reference)] + 1e-9).all()
    assert (at_half[~np.isnan(at_half)] <= value[~np.isnan(at_half)] + 1e-9).all()


def test_all_states_of_trials_occur() -> None:
    rng = np.random.default_rng(3)
    chosen, mask = draw_history(rng, TASKS, 15)
    trained = train_partly(rng, TASKS, chosen, mask, measure(rng, TASKS, chosen))
    assert set(trained.status[mask].tolist()) == set(range(len(STATUS)))
    running = (trained.status == STATUS.index("running")) & mask
    pending = running & np.isnan(trained.values)
    assert pending.any()
    b, t = np.nonzero(running & ~pending)
    assert (t == mask.sum(1)[b] - 1).all()
    b, t = np.nonzero(pending)
    assert (t >= mask.sum(1)[b] - 3).all()


def late(rng: np.random.Generator, n_tasks: int) -> TaskBatch:
    """Tasks whose trainings show nothing until two thirds of their time, at twelve evaluations."""
    tasks = draw(rng, n_tasks, 40)
    gained = np.where(np.arange(12) < 8, -1.0, 0.0)
    return replace(tasks, curves=tasks.values[..., None] + gained * tasks.spread[:, None, None])


def test_trials_show_the_curves_that_their_tasks_have() -> None:
    rng = np.random.default_rng(3)
    tasks = late(rng, 300)
    chosen, mask = draw_history(rng, tasks, 15)
    trained = train_partly(rng, tasks, chosen, mask, np.take_along_axis(tasks.values, chosen, 1))
    partial = np.isin(trained.status, [STATUS.index("running"), STATUS.index("pruned")]) & (trained.fidelity > 0)
    steps = np.round(trained.fidelity * 12).astype(int)
    assert set(steps[partial].tolist()) == set(range(1, 12))
    b, t = np.nonzero(partial)
    for at, shown in ((steps, trained.values), (steps // 2, trained.at_half)):
        known = at[b, t] > 0
        expected = tasks.curves[b, chosen[b, t], np.maximum(at[b, t], 1) - 1]
        np.testing.assert_allclose(shown[b, t][known], expected[known])
        assert np.isnan(shown[b, t][~known]).all()


@pytest.mark.parametrize(("fraction", "expected"), [(1 / 24, 1), (1 / 12, 1), (0.5, 6), (13 / 24, 7), (1.0, 12)])
def test_what_a_training_has_shown_at_a_fraction(fraction: float, expected: int) -> None:
    rising = np.arange(1.0, 13.0)
    assert shown_at(rising, np.array([fraction])).tolist() == [expected]
    assert shown_at(-rising, np.array([fraction])).tolist() == [-expected]


def test_hiding_keeps_something_and_changes_only_what_is_untried() -> None:
    untried = np.arange(len(TASKS)) % 2 == 0
    seen = hide_hyperparameters(np.random.default_rng(0), TASKS, untried)
    fewer = (seen.roles >= 0).sum(1) < (TASKS.roles >= 0).sum(1)
    assert fewer[untried].any()
    assert not fewer[~untried].any()
    assert ((seen.roles >= 0).any(1)).all()
    kept = seen.roles >= 0
    assert (seen.roles[kept] == TASKS.roles[kept]).all()
    assert not seen.present[np.broadcast_to(~kept[:, None], seen.present.shape)].any()
    assert np.isfinite(space_arrays(seen).level_features).all()


def test_what_was_tried_is_masked_and_targets_are_not() -> None:
    chosen, mask = draw_history(np.random.default_rng(1), TASKS, 5)
    trained = Trained.complete(chosen, measure(np.random.default_rng(2), TASKS, chosen), mask)
    space = space_arrays(TASKS)
    allowed = observe_tasks(space, TASKS, trained).candidate_mask
    b, t = np.nonzero(mask)
    assert not allowed[b, chosen[b, t]].any()
    assert allowed.sum() == TASKS.candidate_mask.sum() - len(b)
    targets = np.tile(np.arange(7), (60, 1))
    scored = observe_tasks(space, TASKS, trained, targets)
    np.testing.assert_array_equal(scored.candidate_mask, TASKS.candidate_mask[:, :7])


def test_trials_are_rows_of_the_candidates_that_were_chosen() -> None:
    chosen, mask = draw_history(np.random.default_rng(1), TASKS, 5)
    trained = Trained.complete(chosen, np.zeros(chosen.shape), mask)
    observation = observe_tasks(space_arrays(TASKS), TASKS, trained)
    np.testing.assert_array_equal(observation.trials, observation.candidates[ROWS, chosen])
    assert (observation.candidates[~np.broadcast_to(TASKS.present, observation.candidates.shape)] == -1).all()
