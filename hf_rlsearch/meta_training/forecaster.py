"""What the predictor says of a running trial: where it will end, and whether another candidate is worth more.

The stop rule reads these numbers beside the curves. They are what makes stopping and choosing one decision: training is
stopped when the rest of it is expected to bring less than a fresh start.
"""

from __future__ import annotations

import numpy as np
import torch

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.acquisition import (
    forecast_features,
)
from hf_rlsearch.agent.network import Arrays, Predictor
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES, N_ALTERNATIVES


class Forecaster:
    """Asks a predictor about searches of a batch.

    Args:
        predictor: Frozen.
        device: Where it runs.
    """

    def __init__(self, predictor: Predictor, device: str = "cpu") -> None:
        self.predictor, self.device = predictor.eval(), device

    @torch.inference_mode()
    def __call__(self, search: BatchedSearch, wanted: BoolArray) -> tuple[FloatArray, IntArray]:
        """Forecasts of the searches that are wanted.

        Args:
            search: B searches.
            wanted: B.

        Returns:
            B x len(FORECAST_FEATURES) and B candidates to train next, the best of `N_ALTERNATIVES` drawn at
            each evaluation; zero where not wanted.
        """
        features, picks = np.zeros((search.n_envs, len(FORECAST_FEATURES)), np.float32), np.zeros(search.n_envs, int)
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return features, picks
        others, allowed = search.draw_untried(rows, N_ALTERNATIVES)
        running = search.chosen[rows, np.maximum(search.running[rows], 0)]
        targets = np.concatenate([others, running[:, None]], axis=1)
        last = torch.full((len(rows),), others.shape[1], device=self.device)
        choosable = torch.as_tensor(np.pad(allowed, ((0, 0), (0, 1))), device=self.device)
        probabilities = self.predictor(Arrays.of(search.observe(rows, targets), self.device)).softmax(-1)
        made, pick = forecast_features(probabilities, self.predictor.bins, last, choosable)
        features[rows], picks[rows] = made.cpu().numpy(), targets[np.arange(len(rows)), pick.cpu().numpy()]
        return features, picks
