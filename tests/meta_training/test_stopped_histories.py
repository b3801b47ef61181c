"""Searches that a policy plays while trials are stopped."""

from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.envs.stop_env import StopSearch
from hf_rlsearch.meta_training import stopped_histories
from hf_rlsearch.meta_training.stopped_histories import pruned_rollouts
from hf_rlsearch.observation.curve_features import CURVE_FEATURES
from hf_rlsearch.observation.history import COMPLETE, PRUNED, RUNNING
from hf_rlsearch.observation.observation import Observation, space_arrays
from hf_rlsearch.tasks.histories import Trained, observe_tasks
from hf_rlsearch.tasks.prior import TaskBatch, draw
from tests.helpers.searches import asked, truths

N_LOOKS = 6
TASKS = draw(np.random.default_rng(0), 20, 40)
FEW = draw(np.random.default_rng(0), 12, 2)


@pytest.fixture(autouse=True)
def short_searches(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 24 evaluations."""
    monkeypatch.setattr(stopped_histories, "BUDGETS", ((4, 6), (6, 4)))


def anything(seen: Observation) -> FloatArray:
    return np.zeros(seen.candidate_mask.shape)


@pytest.fixture(params=range(3))
def snapshots(request: pytest.FixtureRequest, short_searches: None) -> list[Trained]:
    return pruned_rollouts(np.random.default_rng(request.param), TASKS, N_LOOKS, anything)


def last_status(trained: Trained) -> list[int]:
    """Of the latest trial of each search that has one."""
    count = trained.mask.sum(1)
    return [int(row[n - 1]) for row, n in zip(trained.status, count, strict=True) if n]


def test_the_searches_grow_from_snapshot_to_snapshot(snapshots: list[Trained]) -> None:
    assert len(snapshots) == N_LOOKS
    for earlier, later in pairwise(snapshots):
        n = earlier.mask.shape[1]
        assert (later.mask.sum(1) >= earlier.mask.sum(1)).all()
        np.testing.assert_array_equal(np.where(earlier.mask, later.chosen[:, :n] - earlier.chosen, 0), 0)


def test_trials_are_stopped_or_complete_and_one_at_most_runs(snapshots: list[Trained]) -> None:
    for trained in snapshots:
        status = np.where(trained.mask, trained.status, -1)
        assert set(np.unique(status)) <= {-1, COMPLETE, PRUNED, RUNNING}
        assert ((status == RUNNING).sum(1) <= 1).all()
        np.testing.assert_array_equal((trained.fidelity == 1)[trained.mask], (status == COMPLETE)[trained.mask])
        assert (trained.fidelity[trained.mask] > 0).all()
    assert 0.3 < (snapshots[-1].status[snapshots[-1].mask] == PRUNED).mean() < 0.95


def test_what_is_best_so_far_was_not_stopped(snapshots: list[Trained]) -> None:
    for trained in snapshots:
        values = np.where(trained.mask, np.nan_to_num(trained.values, nan=-np.inf), -np.inf)
        best = values.argmax(1)
        alone = (values == values.max(1, keepdims=True)).sum(1) == 1
        status = trained.status[np.arange(len(best)), best]
        assert (status[alone & trained.mask.any(1)] != PRUNED).all()


def test_the_latest_trial_runs_or_was_just_stopped() -> None:
    seen = [
        s for trained in pruned_rollouts(np.random.default_rng(5), TASKS, 30, anything) for s in last_status(trained)
    ]
    shares = {status: np.mean(np.array(seen) == status) for status in (RUNNING, PRUNED)}
    assert 0.3 < shares[RUNNING] < 0.8
    assert 0.15 < shares[PRUNED] < 0.5


def test_where_nothing_runs_trials_compare_by_all_they_have(snapshots: list[Trained]) -> None:
    for trained in snapshots:
        idle = ~(trained.mask & (trained.status == RUNNING)).any(1)
        known = trained.mask & idle[:, None]
        np.testing.assert_array_equal(trained.at_reference[known], trained.values[known])


def test_the_lower_the_rank_the_sooner_a_trial_is_stopped(monkeypatch: pytest.MonkeyPatch) -> None:
    ranks: dict[bool, list[float]] = {True: [], False: []}
    real = stopped_histories._PolicyRollout.train

    def train(self: stopped_histories._PolicyRollout, stop: np.ndarray) -> None:
        features, may_stop = StopSearch.describe(self)
        for rank, stopped in zip(features[may_stop, CURVE_FEATURES.index("rank_here")], stop[may_stop], strict=True):
            ranks[bool(stopped)].append(float(rank))
        real(self, stop)

    monkeypatch.setattr(stopped_histories._PolicyRollout, "train", train)
    pruned_rollouts(np.random.default_rng(0), TASKS, 1, anything)
    assert min(len(r) for r in ranks.values()) > 20
    assert np.mean(ranks[True]) < np.mean(ranks[False]) - 0.1


def test_the_policy_chooses_when_nothing_runs_as_a_sampler_does() -> None:
    """What it is shown is a search whose latest trial has just ended: all compare by all they have."""
    features: list[FloatArray] = []

    def watching(seen: Observation) -> FloatArray:
        features.append(seen.trial_features[seen.trial_mask])
        return anything(seen)

    trained = pruned_rollouts(np.random.default_rng(0), TASKS, 23, watching)
    running, ended = (shown_as(status, trained[-1]) for status in (RUNNING, PRUNED))
    (runs,) = np.flatnonzero((running != ended).all(0) & (running == 1).all(0))
    assert not np.concatenate(features)[:, runs].any()


def shown_as(status: int, trained: Trained) -> FloatArray:
    """Features of all trials if each of them had that status."""
    trained = replace(trained, status=np.full_like(trained.status, status))
    return observe_tasks(space_arrays(TASKS), TASKS, trained).trial_features[trained.mask]


@pytest.mark.parametrize("tasks", [TASKS, FEW], ids=["many", "two"])
def test_no_candidate_is_shown_twice_and_one_is_left(tasks: TaskBatch) -> None:
    for trained in pruned_rollouts(np.random.default_rng(4), tasks, 23, anything):
        for chosen, mask, allowed in zip(trained.chosen, trained.mask, tasks.candidate_mask, strict=True):
            tried = chosen[mask]
            assert allowed[tried].all()
            assert len(set(tried.tolist())) == len(tried) < max(allowed.sum(), 1)


def test_searches_follow_the_policy() -> None:
    tables = truths(TASKS)

    def knowing(seen: Observation) -> FloatArray:
        """The task is the one whose table holds all that is asked about; what is padded repeats rows of its own."""
        rows = asked(seen)
        known = [next(t for t in tables if all(c in t for c in row)) for row in rows]
        return 1e3 * np.array([[t[c] for c in row] for t, row in zip(known, rows, strict=True)])

    found = pruned_rollouts(np.random.default_rng(1), TASKS, 23, knowing)[-1]
    best = np.where(TASKS.candidate_mask, TASKS.utility, -np.inf).argmax(1)
    several = TASKS.candidate_mask.sum(1) > 15
    assert np.mean([best[b] in found.chosen[b][found.mask[b]] for b in np.flatnonzero(several)]) > 0.8


def test_the_same_state_of_chance_gives_the_same_searches() -> None:
    first, again = (pruned_rollouts(np.random.default_rng(3), TASKS, 4, anything) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.chosen, other.chosen)
        np.testing.assert_array_equal(one.values, other.values)
