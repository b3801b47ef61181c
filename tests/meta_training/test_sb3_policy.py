"""The actor-critic in stable-baselines3: it learns, and it respects masks."""

from typing import Any

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from hf_rlsearch.agent.acquisition import CANDIDATE_FEATURES, SEARCH_FEATURES
from hf_rlsearch.agent.learners import N_TRUTH, SearchPolicy, feature_space
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.envs.vec_env import SearchVecEnv
from hf_rlsearch.meta_training.sb3_policy import FeatureEncoder
from hf_rlsearch.tasks.mix import TaskMix
from tests.helpers.searches import random_predictor

C = 6
MARK = CANDIDATE_FEATURES.index("upper")


class Identity(gym.Env[dict[str, Any], np.int64]):
    """One candidate is marked, in a column that the starting rule does not read; choosing it earns one."""

    def __init__(self) -> None:
        self.observation_space, self.action_space = feature_space(C), spaces.Discrete(C + 1)

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[dict[str, Any], dict[str, Any]]:
        super().reset(seed=seed)
        self.mask = np.append(self.np_random.random(C) < 0.8, False)
        self.right = int(self.np_random.integers(C))
        self.mask[self.right] = True
        candidates = np.zeros((C, len(CANDIDATE_FEATURES)), np.float32)
        candidates[self.right, MARK] = 1.0
        search = np.zeros(len(SEARCH_FEATURES), np.float32)
        seen = {"candidates": candidates, "search": search, "mask": self.mask.astype(np.float32)}
        return seen | {"truth": np.zeros(N_TRUTH, np.float32)}, {}

    def step(self, action: Any) -> tuple[dict[str, Any], float, bool, bool, dict[str, Any]]:
        assert self.mask[action], "a masked action was chosen"
        reward = float(action == self.right)
        return self.reset()[0], reward, True, False, {}


def share_right(model: PPO, n: int = 200) -> float:
    env, rewards = Identity(), []
    observation, _ = env.reset(seed=123)
    for _ in range(n):
        observation, reward, _, _, _ = env.step(model.predict(observation, deterministic=True)[0])
        rewards.append(reward)
    return float(np.mean(rewards))


def test_ppo_solves_the_identity_task() -> None:
    model = PPO(
        SearchPolicy,
        DummyVecEnv([Identity] * 8),
        n_steps=32,
        batch_size=64,
        n_epochs=6,
        learning_rate=5e-3,
        gamma=1.0,
        device="cpu",
        seed=0,
    )
    assert share_right(model) < 0.5
    model.learn(1536)
    assert share_right(model) == 1.0


def test_the_policy_trains_on_searches_seen_through_the_predictor() -> None:
    env = SearchVecEnv(
        tasks=TaskMix().of(9),
        n_envs=4,
        budget=3,
        evaluations=2,
        encode=FeatureEncoder(Mixture([random_predictor()])),
        space=feature_space(9),
    )
    observation = env.reset()
    for i in range(4):
        assert env.observation_space.contains({key: value[i] for key, value in observation.items()})
    frozen = {k: v.clone() for k, v in random_predictor().state_dict().items()}
    model = PPO(SearchPolicy, env, n_steps=6, batch_size=12, n_epochs=2, device="cpu", seed=0)
    model.learn(24)
    assert any(p.abs().sum() > 0 for p in model.policy.head.residual[-1].parameters())  # type: ignore[union-attr, index]
    for name, value in random_predictor().state_dict().items():
        torch.testing.assert_close(value, frozen[name], rtol=0, atol=0)


def test_stored_actions_are_evaluated_as_they_were_drawn() -> None:
    env = DummyVecEnv([Identity] * 5)
    policy = SearchPolicy(env.observation_space, env.action_space, lambda left: 1e-3)
    observation, _ = policy.obs_to_tensor(env.reset())
    torch.manual_seed(0)
    actions, values, log_probability = policy(observation)
    again = policy.evaluate_actions(observation, actions)
    torch.testing.assert_close(again[0], values)
    torch.testing.assert_close(again[1], log_probability)
    torch.testing.assert_close(policy.predict_values(observation), values)
    assert again[2] is not None
    assert torch.isfinite(again[2]).all()


@pytest.mark.parametrize("evaluations", [1, 3])
def test_features_follow_the_search(evaluations: int) -> None:
    search = BatchedSearch(TaskMix().of(8), n_envs=3, budget=4, evaluations=evaluations, seed=0)
    encode = FeatureEncoder(Mixture([random_predictor()]), group=3)
    before = encode(search)
    search.step(np.zeros(3, int))
    after = encode(search)
    left, running = SEARCH_FEATURES.index("left"), SEARCH_FEATURES.index("running")
    assert before["search"][:, left] == pytest.approx(1)
    assert after["search"][:, left] == pytest.approx(1 - 1 / (4 * evaluations))
    assert after["search"][:, running].tolist() == [float(evaluations > 1)] * 3
    np.testing.assert_array_equal(after["mask"] > 0, search.action_masks())


def test_every_other_group_does_not_know_its_budget() -> None:
    search = BatchedSearch(TaskMix().of(8), n_envs=6, budget=4, evaluations=1, seed=0)
    seen = FeatureEncoder(Mixture([random_predictor()]), group=2)(search)
    assert seen["search"][:, SEARCH_FEATURES.index("budget_known")].tolist() == [1, 1, 0, 0, 1, 1]


def test_only_the_critic_sees_what_is_left_to_find() -> None:
    search = BatchedSearch(TaskMix().of(8), n_envs=3, budget=4, evaluations=1, seed=0)
    encode = FeatureEncoder(Mixture([random_predictor()]))
    search.step(search.tasks.utility.argmax(1))
    truth = encode(search)["truth"]
    assert truth[:, 1].tolist() == [0, 0, 0]  # nothing is better than the best
    assert truth[:, 3].tolist() == [0.75] * 3
