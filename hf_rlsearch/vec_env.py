"""Many searches at once as a stable-baselines3 `VecEnv`, for meta-training."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from gymnasium import spaces
from stable_baselines3.common.vec_env import VecEnv

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.env import (
    BatchedSearch,
    Tasks,
    check_budget,
    flatten,
    observation_space,
    prior_tasks,
    relative,
    repeated,
)


class SearchVecEnv(VecEnv):
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
        self.group, self._luck = group, np.random.default_rng([seed, 1])
        self.encode, self.render_mode = encode, None
        space = space or observation_space(self.search.C, self.search.T)
        super().__init__(n_envs, space, spaces.Discrete(self.search.C + 1))

    def reset(self) -> dict[str, FloatArray]:
        """Starts B searches."""
        self._restart()
        return self.encode(self.search)

    def _restart(self) -> None:
        self.search.reset()
        if self.group > 1:
            self.search.fix_luck(int(self._luck.integers(2**31)), self.group)

    def step_async(self, actions: IntArray) -> None:
        """Keeps the actions for `step_wait`."""
        self._actions = actions

    def step_wait(self) -> tuple[dict[str, FloatArray], FloatArray, BoolArray, list[dict[str, Any]]]:
        """Advances all searches; ended ones start anew, their last observation is in the infos."""
        rewards = relative(self.search.step(self._actions), self.group)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = self.search.done
        if ended:
            last = self.encode(self.search)
            for i, info in enumerate(infos):
                info["terminal_observation"] = {key: value[i] for key, value in last.items()}
            self._restart()
        return self.encode(self.search), rewards.astype(np.float32), np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Nothing to free."""

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """The same attribute for every search asked for."""
        return [getattr(self, attr_name)] * len(list(self._get_indices(indices)))

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Sets an attribute of the whole batch."""
        setattr(self, attr_name, value)

    def env_method(self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any) -> list[Any]:
        """`action_masks` per search; nothing else can be called on one search of a batch."""
        if method_name != "action_masks":
            raise AttributeError(f"SearchVecEnv has no method {method_name!r} for one search; only 'action_masks'.")
        masks = self.search.action_masks()
        return [masks[i] for i in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Never: the batch holds no single environments."""
        return [False] * len(list(self._get_indices(indices)))
