"""Searches that a policy plays while trials are stopped."""

from itertools import pairwise

import numpy as np
import pytest

from hf_rlsearch import predictor_training
from hf_rlsearch._typing import FloatArray
from hf_rlsearch.history import COMPLETE, PRUNED, RUNNING
from hf_rlsearch.observation import Observation
from hf_rlsearch.stopped_play import LENGTHS, play_stopped
from hf_rlsearch.tasks.prior import draw
from hf_rlsearch.tasks.simulate import Trained

N_LOOKS = 6
TASKS = draw(np.random.default_rng(0), 20, 180)
LONG = draw(np.random.default_rng(0), 6, 100)


def anything(seen: Observation) -> FloatArray:
    return np.zeros(seen.candidate_mask.shape)


@pytest.fixture(scope="module", params=range(3))
def looks(request: pytest.FixtureRequest) -> list[Trained]:
    return play_stopped(np.random.default_rng(request.param), TASKS, N_LOOKS, anything)


def test_the_searches_grow_from_look_to_look(looks: list[Trained]) -> None:
    assert len(looks) == N_LOOKS
    for earlier, later in pairwise(looks):
        n = earlier.mask.shape[1]
        assert (later.mask.sum(1) >= earlier.mask.sum(1)).all()
        np.testing.assert_array_equal(np.where(earlier.mask, later.chosen[:, :n] - earlier.chosen, 0), 0)


def test_trials_are_stopped_or_complete_and_one_at_most_runs(looks: list[Trained]) -> None:
    for trained in looks:
        status = np.where(trained.mask, trained.status, -1)
        assert set(np.unique(status)) <= {-1, COMPLETE, PRUNED, RUNNING}
        assert ((status == RUNNING).sum(1) <= 1).all()
        np.testing.assert_array_equal((trained.fidelity == 1)[trained.mask], (status == COMPLETE)[trained.mask])
        assert (trained.fidelity[trained.mask] > 0).all()
    assert (looks[-1].status[looks[-1].mask] == PRUNED).mean() > 0.3


def test_the_best_trial_was_not_stopped(looks: list[Trained]) -> None:
    """But where the look itself shows the running one as just stopped, the best is left to run as well."""
    for trained in looks:
        values = np.where(trained.mask, np.nan_to_num(trained.values, nan=-np.inf), -np.inf)
        best = values.argmax(1)
        alone = (values == values.max(1, keepdims=True)).sum(1) == 1
        status = trained.status[np.arange(len(best)), best]
        assert (status[alone & trained.mask.any(1)] != PRUNED).all()


def test_no_candidate_is_trained_twice_while_there_are_others(looks: list[Trained]) -> None:
    last = looks[-1]
    for chosen, mask, allowed in zip(last.chosen, last.mask, TASKS.candidate_mask, strict=True):
        tried = chosen[mask]
        assert allowed[tried].all()
        if len(tried) <= allowed.sum():
            assert len(set(tried.tolist())) == len(tried)


def test_a_stopped_trial_says_nothing_of_what_it_would_have_become() -> None:
    """Where the last trial was just stopped, values at the reference are the values themselves, as nothing runs."""
    looks = play_stopped(np.random.default_rng(5), TASKS, 30, anything)
    ended = [(t, b) for t in looks for b in range(len(TASKS)) if not (t.status[b][t.mask[b]] == RUNNING).any()]
    assert ended
    for trained, b in ended:
        known = trained.mask[b]
        np.testing.assert_array_equal(trained.at_reference[b][known], trained.values[b][known])


def test_searches_follow_the_policy() -> None:
    found = play_stopped(np.random.default_rng(1), LONG, 4, lambda seen: by_truth(seen) * 1e3)[-1]
    best = LONG.utility.argmax(1)
    assert np.mean([best[b] in found.chosen[b][found.mask[b]] for b in range(len(LONG))]) > 0.8


def by_truth(seen: Observation) -> FloatArray:
    """Utilities of the tasks that these observations are of, told apart by their candidates."""
    rows = [next(b for b in range(len(LONG)) if np.array_equal(LONG_CANDIDATES[b], c)) for c in seen.candidates]
    return LONG.utility[rows]


LONG_CANDIDATES = np.where(LONG.present, LONG.candidates, -1)


def test_the_same_state_of_chance_gives_the_same_searches() -> None:
    first, again = (play_stopped(np.random.default_rng(3), LONG, 4, anything) for _ in range(2))
    for one, other in zip(first, again, strict=True):
        np.testing.assert_array_equal(one.chosen, other.chosen)
        np.testing.assert_array_equal(one.values, other.values)


def test_every_length_has_room_for_the_looks_of_a_training() -> None:
    reuse = predictor_training.PredictorTraining().reuse
    assert all(budget * evaluations > reuse // 2 for budget, evaluations in LENGTHS)


def test_long_searches_are_learnt_from_in_halves() -> None:
    trained = play_stopped(np.random.default_rng(2), LONG, 8, anything)[-1]
    tasks, some = predictor_training._shortened(np.random.default_rng(0), LONG, trained)
    assert trained.mask.shape[1] > predictor_training.LENGTHS[-1]
    assert len(tasks) == len(some.chosen) == 3
