"""Adapts the decision head to stable-baselines3's PPO: features of the frozen predictors, masked logits and entropy."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from gymnasium import spaces
from stable_baselines3.common.distributions import CategoricalDistribution
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.agent.acquisition import CANDIDATE_FEATURES, SEARCH_FEATURES, search_features
from hf_rlsearch.agent.decision_head import DecisionHead, zero_last
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.envs.search_env import BatchedSearch

Observations = dict[str, Tensor]
N_TRUTH = 4
"""Columns of what only the critic sees, see `FeatureEncoder`."""


def feature_space(n_candidates: int) -> spaces.Dict:
    """The observation space of `FeatureEncoder`."""

    def box(*shape: int) -> spaces.Box:
        return spaces.Box(-20.0, 20.0, shape, np.float32)

    return spaces.Dict(
        {
            "candidates": box(n_candidates, len(CANDIDATE_FEATURES)),
            "search": box(len(SEARCH_FEATURES)),
            "truth": box(N_TRUTH),
            "mask": spaces.Box(0.0, 1.0, (n_candidates + 1,), np.float32),
        }
    )


class FeatureEncoder:
    """Runs the predictors once per step, so that PPO stores and replays features only.

    Args:
        mixture: The frozen predictors.
        device: Where they run.
        group: Searches in a row that know the same: of every other group the budget is unknown.
    """

    def __init__(self, mixture: Mixture, device: str = "cpu", group: int = 1) -> None:
        self.mixture, self.device, self.group = mixture.to(device), device, group

    @torch.inference_mode()
    def __call__(self, search: BatchedSearch) -> dict[str, FloatArray]:
        """B searches as arrays of `feature_space`, with a leading B."""
        mask = torch.as_tensor(search.action_masks(), device=self.device)
        arrays = Arrays.of(search.observe(), self.device)
        candidates = self.mixture.describe(self.mixture.encode_history(arrays), arrays, mask[:, :-1])[1]
        b, at, runs = np.arange(search.n_envs), np.maximum(search.running, 0), search.running >= 0
        budget_known = b // self.group % 2 == 0
        done = search.used / search.evaluations
        columns = (  # running candidate, its fidelity, trainings left, trainings in all, trainings made
            np.where(runs, search.chosen[b, at], -1),
            np.where(runs, search.steps[b, at] / search.evaluations, 0.0).astype(np.float32),
            np.where(budget_known, search.budget - done, np.nan).astype(np.float32),
            np.where(budget_known, search.budget, np.nan).astype(np.float32),
            np.full(search.n_envs, done, np.float32),
        )
        state = (torch.as_tensor(column, device=self.device) for column in columns)
        summary = search_features(candidates, mask[:, :-1], *state)
        found = {"candidates": candidates, "search": summary, "mask": mask}
        tensors = {key: value.float().cpu().numpy() for key, value in found.items()}
        return tensors | {"truth": self._truth(search)}

    @staticmethod
    def _truth(search: BatchedSearch) -> FloatArray:
        """B x N_TRUTH numbers that only the critic sees: of the incumbent, of what is left to find, and the time."""
        best = np.clip(search.incumbent, -1.0, 1.0)
        share = search.share_better()
        left = np.full(search.n_envs, 1 - search.used / search.max_trials)
        return np.stack([best, share, np.log10(share + 1e-3), left], 1).astype(np.float32)


class SearchPolicy(ActorCriticPolicy):
    """`DecisionHead` in stable-baselines3's terms; masked actions have probability zero and add no entropy."""

    def _build(self, lr_schedule: Callable[[float], float]) -> None:
        self.head = DecisionHead()
        self.critic = zero_last(len(SEARCH_FEATURES) + N_TRUTH, 64, 1)
        self.action_dist = CategoricalDistribution(int(self.action_space.n))  # type: ignore[attr-defined]
        self.optimizer = self.optimizer_class(self.parameters(), lr=lr_schedule(1), **self.optimizer_kwargs)  # type: ignore[call-arg]

    def forward(self, obs: Observations, deterministic: bool = False) -> tuple[Tensor, Tensor, Tensor]:  # type: ignore[override]
        """Actions, values (B x 1) and log-probabilities of B observations."""
        distribution, values = self._evaluate(obs)
        actions = distribution.get_actions(deterministic=deterministic)
        return actions, values[:, None], distribution.log_prob(actions)

    def evaluate_actions(self, obs: Observations, actions: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:  # type: ignore[override]
        """Values, log-probabilities and entropies of stored actions."""
        distribution, values = self._evaluate(obs)
        return values[:, None], distribution.log_prob(actions), distribution.entropy()

    def get_distribution(self, obs: Observations) -> CategoricalDistribution:  # type: ignore[override]
        """The masked distribution over candidates and *continue*."""
        return self._evaluate(obs)[0]

    def predict_values(self, obs: Observations) -> Tensor:  # type: ignore[override]
        """B x 1 values."""
        return self._evaluate(obs)[1][:, None]

    def _predict(self, observation: Any, deterministic: bool = False) -> Tensor:
        return self.get_distribution(observation).get_actions(deterministic=deterministic)

    def _evaluate(self, obs: Observations) -> tuple[CategoricalDistribution, Tensor]:
        logits = self.head(obs["candidates"], obs["search"], obs["mask"] > 0)
        values = self.critic(torch.cat([obs["search"], obs["truth"]], -1))[:, 0]
        return CategoricalDistribution(int(logits.shape[1])).proba_distribution(logits), values
