"""What the predictor says of a running trial: where it will end, and whether another candidate is worth more.

The stop rule reads these numbers beside the curves. They are what makes stopping and choosing one decision: training is
stopped when the rest of it is expected to bring less than a fresh start.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.curve_features import FORECAST_FEATURES, N_ALTERNATIVES
from hf_rlsearch.env import BatchedSearch
from hf_rlsearch.policy.features import chance_of_improvement, log_expected_improvement, mean_and_spread
from hf_rlsearch.policy.network import Arrays, Predictor


def forecast_features(probabilities: Tensor, bins: Tensor, running: Tensor, allowed: Tensor) -> tuple[Tensor, Tensor]:
    """Describes running trials by their predicted end.

    Args:
        probabilities: B x C x bins, of the improvement over the incumbent at the end of a training.
        bins: Value of each bin.
        running: B index of the candidate that is running; any index where none is.
        allowed: B x C, True for candidates that may be trained next.

    Returns:
        B x len(FORECAST_FEATURES), and B index of the allowed candidate of the largest expected improvement.
    """
    log_ei = log_expected_improvement(probabilities, bins)
    fresh, pick = log_ei.masked_fill(~allowed, -torch.inf).max(1)
    row = torch.arange(len(running), device=running.device)
    own = probabilities[row, running]
    mean, spread = mean_and_spread(own, bins)
    columns = [torch.ones_like(mean), mean, spread, 2 * chance_of_improvement(own, bins) - 1]
    columns += [(log_ei[row, running] + 4) / 3, (fresh.clamp(min=-12.0) + 4) / 3]
    return torch.stack(columns, dim=-1).clamp(-3, 3), pick


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
        features, picks = np.zeros((search.B, len(FORECAST_FEATURES)), np.float32), np.zeros(search.B, int)
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
