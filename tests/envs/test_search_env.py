"""The search as a Markov decision process: gymnasium's and stable-baselines3's checks, rewards, masks, seeds."""

import warnings
from typing import Any

import numpy as np
import pytest
from gymnasium.utils.env_checker import check_env as gymnasium_check_env
from stable_baselines3 import A2C, DQN, PPO
from stable_baselines3.common.env_checker import check_env as sb3_check_env

from hf_rlsearch.envs.search_env import BatchedSearch, SearchEnv, observation_space
from hf_rlsearch.errors import ObservationError
from hf_rlsearch.tasks.mix import TaskMix

TASKS = TaskMix().of(12)


def small_env(evaluations: int = 1, budget: int = 5, seed: int = 0) -> SearchEnv:
    return SearchEnv(tasks=TASKS, budget=budget, evaluations=evaluations, seed=seed)


def play(env: SearchEnv, seed: int) -> tuple[list[dict[str, Any]], list[float], list[float]]:
    """Observations, rewards and regrets of one episode of random allowed actions."""
    rng = np.random.default_rng(1)
    observations, rewards, regrets, done = [env.reset(seed=seed)[0]], [], [], False
    while not done:
        observation, reward, done, truncated, info = env.step(int(rng.choice(np.flatnonzero(env.action_masks()))))
        assert not truncated
        observations.append(observation)
        rewards.append(reward)
        regrets.append(info["regret"])
    return observations, rewards, regrets


# ------------------------------------------------------------------------------------------------------ the contracts
@pytest.mark.parametrize("evaluations", [1, 3])
def test_the_checks_of_stable_baselines3_are_silent(evaluations: int) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        sb3_check_env(small_env(evaluations), warn=True)


@pytest.mark.parametrize("evaluations", [1, 3])
def test_the_checks_of_gymnasium_are_silent(evaluations: int, caplog: pytest.LogCaptureFixture) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        # The one thing that it wants of every environment and a search has not: a registered name to make it again.
        warnings.filterwarnings("ignore", message=".*not initialised with `gymnasium.make`.*")
        warnings.filterwarnings("ignore", message=".*Not able to test alternative render modes.*")
        gymnasium_check_env(small_env(evaluations), skip_render_check=True)
    assert caplog.records == []


@pytest.mark.parametrize(
    ("algorithm", "settings"),
    [
        (PPO, {"n_steps": 8, "batch_size": 8, "n_epochs": 1}),
        (A2C, {"n_steps": 4}),
        (DQN, {"learning_starts": 4, "buffer_size": 32, "batch_size": 4, "train_freq": 4}),
    ],
)
def test_the_algorithms_of_stable_baselines3_train_unchanged(algorithm: Any, settings: dict[str, Any]) -> None:
    env = small_env(evaluations=2, budget=3)
    model = algorithm("MultiInputPolicy", env, seed=0, device="cpu", policy_kwargs={"net_arch": [8]}, **settings)
    before = [p.detach().clone() for p in model.policy.parameters()]
    model.learn(16)
    assert any((a != b).any() for a, b in zip(before, model.policy.parameters(), strict=True))
    action, _ = model.predict(env.reset(seed=0)[0], deterministic=True)
    assert env.action_space.contains(np.int64(action))


def test_observations_fit_their_space_to_the_last_step() -> None:
    env = small_env(evaluations=3)
    for observation in play(env, seed=3)[0]:
        assert env.observation_space.contains(observation)


# -------------------------------------------------------------------------------------------------------------- seeds
def test_a_seed_decides_the_episode() -> None:
    first, second, other = (play(small_env(3, seed=s), seed=e) for s, e in ((0, 7), (5, 7), (0, 8)))
    assert first[1:] == second[1:]
    for a, b in zip(first[0], second[0], strict=True):
        for key in a:
            np.testing.assert_array_equal(a[key], b[key])
    assert first[1] != other[1]


def test_episodes_of_one_environment_differ() -> None:
    env = small_env()
    first = env.reset(seed=0)[0]
    second = env.reset()[0]
    assert any(not np.array_equal(first[key], second[key]) for key in first)


# -------------------------------------------------------------------------------------------------- masks and outcomes
def test_a_candidate_is_allowed_once_and_continuing_needs_something_running() -> None:
    env = small_env(evaluations=1)
    env.reset(seed=0)
    allowed = np.flatnonzero(env.action_masks())
    assert not env.action_masks()[-1]
    env.step(int(allowed[0]))
    assert np.flatnonzero(env.action_masks()).tolist() == allowed[1:].tolist()


def test_a_running_trial_may_be_continued_until_it_is_complete() -> None:
    env = small_env(evaluations=2)
    env.reset(seed=0)
    env.step(int(np.flatnonzero(env.action_masks())[0]))
    assert env.action_masks()[-1]
    env.step(env.action_space.n - 1)
    assert not env.action_masks()[-1]
    assert env._search.status[0, 0] == 0


def test_continuing_nothing_trains_the_first_allowed_candidate() -> None:
    continuing, choosing = small_env(2), small_env(2)
    for env in (continuing, choosing):
        env.reset(seed=4)
    a = continuing.step(continuing.action_space.n - 1)
    b = choosing.step(int(np.flatnonzero(choosing.action_masks())[0]))
    assert a[1] == b[1]
    np.testing.assert_array_equal(a[0]["trials"], b[0]["trials"])


def test_a_candidate_that_was_tried_is_trained_again() -> None:
    env = small_env()
    env.reset(seed=0)
    first = int(np.flatnonzero(env.action_masks())[0])
    env.step(first)
    env.step(first)
    assert env._search.chosen[0, :2].tolist() == [first, first]


def test_starting_another_candidate_prunes_the_running_trial() -> None:
    search = BatchedSearch(TASKS, n_envs=3, budget=4, evaluations=3, seed=0)
    search.step(np.array([0, 0, 0]))
    search.step(np.array([1, search.n_candidates, 1]))
    assert search.status[:, 0].tolist() == [1, 3, 1]
    assert search.steps[:, 0].tolist() == [1, 2, 1]
    assert search.running.tolist() == [1, 0, 1]
    seen = search.observe()
    assert seen.trial_mask.sum(1).tolist() == [2, 1, 2]


def test_when_everything_was_tried_everything_is_allowed_again() -> None:
    search = BatchedSearch(TaskMix().of(2), n_envs=2, budget=3, evaluations=1, seed=0)
    for action in (0, 1):
        search.step(np.full(2, action))
    assert search.action_masks()[:, :2].tolist() == search.tasks.candidate_mask.tolist()


# ------------------------------------------------------------------------------------------------------------ rewards
@pytest.mark.parametrize("evaluations", [1, 4])
def test_rewards_add_up_to_the_area_above_the_regret_curve(evaluations: int) -> None:
    env = small_env(evaluations, budget=6)
    for seed in range(5):
        _, rewards, regrets = play(env, seed)
        assert len(rewards) == 6 * evaluations
        # The incumbent starts at the median (0); what a step wins is kept until the end.
        assert sum(rewards) == pytest.approx(np.mean(1 - np.clip(regrets, 0, 1)))


def test_the_best_candidate_first_earns_everything() -> None:
    def noiseless(rng: np.random.Generator, n_tasks: int) -> Any:
        tasks = TASKS(rng, n_tasks)
        tasks.noise[:] = 0
        return tasks

    search = BatchedSearch(noiseless, n_envs=4, budget=3, evaluations=1, seed=0)
    best = np.where(search.tasks.candidate_mask, search.tasks.utility, -np.inf).argmax(1)
    most = search.tasks.utility[np.arange(4), best]  # 1, less only where all candidates are nearly equal
    np.testing.assert_allclose(search.step(best), most)
    assert (most > 0.999).sum() >= 3


def test_the_incumbent_is_what_was_observed_best_and_counts_without_its_noise() -> None:
    search = BatchedSearch(TASKS, n_envs=40, budget=3, evaluations=1, seed=1)
    for action in (0, 1):
        search.step(np.full(40, action))
    observed = search.curves[:, :2, 0]
    best = observed.argmax(1)
    np.testing.assert_allclose(search.incumbent, search.tasks.utility[np.arange(40), best])
    assert np.abs(search.incumbent - observed.max(1)).max() > 1e-3


def test_fixed_noise_pairs_policies() -> None:
    rewards = []
    for first in (0, 1):
        search = BatchedSearch(TASKS, n_envs=8, budget=4, evaluations=1, seed=3)
        search.fix_noise(5)
        for action in (first, 1 - first):
            search.step(np.full(8, action))
        rewards.append(np.sort(search.curves[:, :2, 0], axis=1))
    np.testing.assert_array_equal(*rewards)


@pytest.mark.parametrize("arguments", [{"budget": 0}, {"evaluations": 0}, {"budget": -3}])
def test_counts_below_one_are_refused(arguments: dict[str, int]) -> None:
    with pytest.raises(ObservationError, match="at least 1 full training"):
        SearchEnv(tasks=TASKS, **arguments)  # type: ignore[arg-type]


def test_the_space_grows_with_what_it_holds() -> None:
    small, large = (observation_space(BatchedSearch(TaskMix().of(n), 1, n, 1, 0)) for n in (4, 8))
    for key, factor in (("candidates", 2), ("trials", 2), ("static", 1), ("context", 1)):
        assert large[key].shape == (small[key].shape[0] * factor,)  # type: ignore[index]
    assert small["action_mask"].shape == (5,)
