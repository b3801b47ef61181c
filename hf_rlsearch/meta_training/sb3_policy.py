"""Makes observations of simulated searches for the decision head: features of the frozen predictors."""

from __future__ import annotations

import numpy as np
import torch

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.agent.acquisition import search_features
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.envs.search_env import BatchedSearch


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
