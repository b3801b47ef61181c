"""Searches that a policy made itself."""

import numpy as np
import pytest

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.observation.observation import Observation
from hf_rlsearch.tasks import histories
from hf_rlsearch.tasks.histories import Rollout, random_prefix, rollout
from hf_rlsearch.tasks.prior import draw
from tests.helpers.searches import asked, truths

TASKS = draw(np.random.default_rng(6), 40, 30)

TRUTHS = truths(TASKS)


def knowing(seen: Observation) -> FloatArray:
    """Scores by the truth: whoever follows them trains the best first."""
    return 1e3 * np.array([[t.get(c, 0.0) for c in row] for t, row in zip(TRUTHS, asked(seen), strict=True)])


def played(seed: int = 1, n_trials: int = 10) -> Rollout:
    return rollout(np.random.default_rng(seed), TASKS, n_trials, knowing)


def test_searches_follow_the_scores_after_a_random_start() -> None:
    best = np.take_along_axis(TASKS.utility, played().chosen, 1) == TASKS.utility.max(1, keepdims=True)
    assert 0.4 < best[:, 0].mean() < 0.85  # the others begin at random
    assert best.any(1).all()


def test_no_candidate_is_trained_twice_nor_a_padded_one_at_all() -> None:
    chosen = played(n_trials=5).chosen
    enough = TASKS.candidate_mask.sum(1) > 5
    assert 0 < enough.mean() < 1
    assert all(len(set(row.tolist())) == 5 for row in chosen[enough])
    assert np.take_along_axis(TASKS.candidate_mask, chosen, 1).all()


def test_of_many_candidates_a_part_is_scored_and_another_part_next_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(histories, "N_ASKED", 7)
    sizes: list[int] = []

    def watching(observation: Observation) -> FloatArray:
        sizes.append(observation.candidates.shape[1])
        return knowing(observation)

    chosen = rollout(np.random.default_rng(1), TASKS, 10, watching).chosen
    assert sizes == [7] * 10
    order = np.argsort(np.argsort(-TASKS.utility, axis=1), axis=1)
    ranks = np.take_along_axis(order, chosen, 1)
    assert 0 < (ranks[:, 0] == 0).mean() < 0.5
    assert (ranks == 0).any(1).mean() > 0.7


def test_the_policy_sees_the_values_that_the_search_keeps() -> None:
    seen: list[FloatArray] = []

    def watching(observation: Observation) -> FloatArray:
        seen.append(observation.trial_features[..., 0])
        return knowing(observation)

    values = rollout(np.random.default_rng(1), TASKS, 4, watching).values
    assert [features.shape[1] for features in seen] == [0, 1, 2, 3]
    best = values[:, :3].argmax(1)
    np.testing.assert_allclose(seen[3][np.arange(40), best], 0.0, atol=1e-6)


def test_the_same_state_of_chance_gives_the_same_searches() -> None:
    np.testing.assert_array_equal(played(3).chosen, played(3).chosen)
    assert (played(3).chosen != played(4).chosen).any()


@pytest.mark.parametrize("seed", range(4))
def test_a_part_is_a_beginning_and_leaves_something_to_choose(seed: int) -> None:
    whole = played()
    trained = random_prefix(np.random.default_rng(seed), TASKS, whole)
    length = trained.chosen.shape[1]
    np.testing.assert_array_equal(trained.chosen, whole.chosen[:, :length])
    assert (trained.mask == (np.arange(length) < trained.mask.sum(1, keepdims=True))).all()
    assert (trained.mask.sum(1) < TASKS.candidate_mask.sum(1)).all()
    final = trained.mask & (trained.status == 0) & (trained.fidelity == 1)
    np.testing.assert_array_equal(trained.values[final], whole.values[:, :length][final])


def test_parts_are_complete_or_stopped_in_part() -> None:
    parts = [random_prefix(np.random.default_rng(seed), TASKS, played()) for seed in range(12)]
    complete = [(part.status == 0).all() for part in parts]
    assert any(complete)
    assert not all(complete)
