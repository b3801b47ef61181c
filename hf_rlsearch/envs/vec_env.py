"""Offers many searches at once as a stable-baselines3 `VecEnv`, for meta-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.envs.search_env import DEFAULT_CANDIDATES, BatchedSearch, Tasks, flatten, observation_space, repeated
from hf_rlsearch.tasks.mix import TaskMix


class BatchVecEnv(VecEnv):
    """Implements the part of a stable-baselines3 `VecEnv` that is the same for every batch of searches.

    All searches of a batch are arrays of one object, so there are no single environments: an attribute belongs to the
    whole batch, and all episodes end together. Rewards are relative to the mean of each `group` at the same step: most
    of the variance of a return is the task's, not the policy's.
    """

    def __init__(self, search: BatchedSearch, space: spaces.Space[Any], n_actions: int, group: int) -> None:
        self.search, self.group, self.render_mode = search, group, None
        super().__init__(search.n_envs, space, spaces.Discrete(n_actions))

    def observe(self) -> Any:
        """The observation of all searches: an array with a leading B, or a dict of such arrays."""
        raise NotImplementedError

    def advance(self, actions: IntArray) -> FloatArray:
        """Applies one action to each search and returns B rewards."""
        raise NotImplementedError

    def reset(self) -> Any:
        """Starts B searches and returns their observation."""
        self.search.reset()
        return self.observe()

    def step_async(self, actions: IntArray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, FloatArray, BoolArray, list[dict[str, Any]]]:
        """Advances all searches; where they end, new ones start, and the last observation is in the infos."""
        rewards = relative(self.advance(self._actions), self.group).astype(np.float32)
        ended, observation = self.search.done, self.observe()
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        if ended:
            for i, info in enumerate(infos):
                is_dict = isinstance(observation, dict)
                info["terminal_observation"] = {k: v[i] for k, v in observation.items()} if is_dict else observation[i]
            observation = self.reset()  # stable-baselines3 expects that ended environments start again themselves
        return observation, rewards, np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Does nothing: a batch holds no resources but memory."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The attribute of the batch, once for every search asked for."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the whole batch."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refuses every name: nothing can be called on one search of a batch."""
        raise AttributeError(f"{type(self).__name__} has no method {method_name!r} for one search.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """False for every search: the batch holds no single environments."""
        return [False] * len(list(self._get_indices(indices)))


class SearchVecEnv(BatchVecEnv):
    """B searches at once as a stable-baselines3 `VecEnv`; all episodes have the same length and end together."""

    def __init__(
        self,
        *,
        tasks: Tasks | None = None,
        n_envs: int = 32,
        budget: int = 20,
        evaluations: int = 1,
        seed: int = 0,
        group: int = 1,
        encode: Callable[[BatchedSearch], dict[str, FloatArray]] = flatten,
        space: spaces.Dict | None = None,
    ) -> None:
        """Makes `n_envs` searches; `group` of them in a row share task and noise.

        `encode` makes observations in `space`, each with a leading B; those of `SearchEnv` where not given.

        Raises:
            ObservationError: `budget` or `evaluations` is below one.
        """
        search = BatchedSearch(
            repeated(tasks or TaskMix().of(DEFAULT_CANDIDATES), group), n_envs, budget, evaluations, seed
        )
        self.encode, self._noise_seeds = encode, np.random.default_rng([seed, 1])
        space = space or observation_space(search)
        super().__init__(search, space, search.n_candidates + 1, group)

    def reset(self) -> dict[str, FloatArray]:
        """Starts B searches, those of a group with the same noise, and returns their observations."""
        self.search.reset()
        if self.group > 1:
            self.search.fix_noise(int(self._noise_seeds.integers(2**31)), self.group)
        return self.observe()

    def observe(self) -> dict[str, FloatArray]:
        """The observations that `encode` makes."""
        return self.encode(self.search)

    def advance(self, actions: IntArray) -> FloatArray:
        """Trains one evaluation of each search and returns B rewards."""
        return self.search.step(actions)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """`action_masks` per search; nothing else can be called on one search of a batch."""
        if method_name != "action_masks":
            raise AttributeError(f"SearchVecEnv has no method {method_name!r} for one search; only 'action_masks'.")
        masks = self.search.action_masks()
        return [masks[i] for i in self._get_indices(indices)]


def relative(rewards: FloatArray, group: int) -> FloatArray:
    """B rewards minus the mean of each `group` in a row; unchanged for groups of one."""
    if group == 1:
        return rewards
    grouped = rewards.reshape(-1, group)
    return np.asarray((grouped - grouped.mean(1, keepdims=True)).ravel())
