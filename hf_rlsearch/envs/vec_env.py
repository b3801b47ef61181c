"""Many searches at once as a stable-baselines3 `VecEnv`, for meta-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.envs.search_env import (
    BatchedSearch,
    Tasks,
    check_budget,
    flatten,
    observation_space,
    prior_tasks,
    relative,
    repeated,
)


class BatchVecEnv(VecEnv):
    """The part of a stable-baselines3 `VecEnv` that is the same for every batch of searches.

    All searches of a batch are arrays of one object, so there are no single environments: an attribute belongs to the
    whole batch, and all episodes end together.
    """

    def restart(self) -> None:
        """Starts B searches."""
        raise NotImplementedError

    def observe(self) -> Any:
        """The observation of all searches: an array with a leading B, or a dict of such arrays."""
        raise NotImplementedError

    def advance(self, actions: IntArray) -> FloatArray:
        """Applies one action to each search and returns B rewards."""
        raise NotImplementedError

    @property
    def ended(self) -> bool:
        """Whether the episodes are over."""
        raise NotImplementedError

    def reset(self) -> Any:
        """Starts B searches and returns their observation."""
        self.restart()
        return self.observe()

    def step_async(self, actions: IntArray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[Any, FloatArray, BoolArray, list[dict[str, Any]]]:
        """Advances all searches; ended ones start anew, their last observation is in the infos."""
        rewards = self.advance(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = self.ended
        if ended:
            last = self.observe()
            for i, info in enumerate(infos):
                one = {key: value[i] for key, value in last.items()} if isinstance(last, dict) else last[i]
                info["terminal_observation"] = one
            self.restart()
        return self.observe(), rewards.astype(np.float32), np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Nothing to free."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every search asked for."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the whole batch."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """Refuses: nothing can be called on one search of a batch."""
        raise AttributeError(f"{type(self).__name__} has no method {method_name!r} for one search.")

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never: the batch holds no single environments."""
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
        """Makes B searches.

        Args:
            tasks: Draws the tasks of each episode; the prior where not given.
            n_envs: B.
            budget: Full trainings per search.
            evaluations: Evaluations per full training.
            seed: Of tasks and noise.
            group: So many searches in a row share task and luck, and their rewards are relative to the group's mean at
                the same step: most of the variance of a return is the task's, not the policy's.
            encode: Makes observations, each with a leading B; those of `SearchEnv` where not given.
            space: What `encode` returns, without the leading B.
        """
        check_budget(budget, evaluations)
        self.search = BatchedSearch(repeated(tasks or prior_tasks(), group), n_envs, budget, evaluations, seed)
        self.group, self._noise_seeds = group, np.random.default_rng([seed, 1])
        self.encode, self.render_mode = encode, None
        space = space or observation_space(self.search.n_candidates, self.search.max_trials)
        super().__init__(n_envs, space, spaces.Discrete(self.search.n_candidates + 1))

    def restart(self) -> None:
        """Starts B searches, those of a group with the same luck."""
        self.search.reset()
        if self.group > 1:
            self.search.fix_noise(int(self._noise_seeds.integers(2**31)), self.group)

    def observe(self) -> dict[str, FloatArray]:
        """The observations that `encode` makes."""
        return self.encode(self.search)

    def advance(self, actions: IntArray) -> FloatArray:
        """Trains one evaluation of each search and returns B rewards, relative to the group's mean."""
        return relative(self.search.step(actions), self.group)

    @property
    def ended(self) -> bool:
        """Whether the budget of the searches is spent."""
        return self.search.done

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """`action_masks` per search; nothing else can be called on one search of a batch."""
        if method_name != "action_masks":
            raise AttributeError(f"SearchVecEnv has no method {method_name!r} for one search; only 'action_masks'.")
        masks = self.search.action_masks()
        return [masks[i] for i in self._get_indices(indices)]
