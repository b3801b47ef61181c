"""What the decision head sees of each candidate: the predictor's distribution in a few numbers.

The predictor stays as likelihood trained it; PPO learns on top of these numbers only. Training all weights by PPO destroyed
the distribution that they are computed from (see docs/meta_training.md).
"""

from __future__ import annotations

import torch
from torch import Tensor

CANDIDATE_FEATURES = ("log_ei", "gap_to_best_ei", "chance", "mean", "spread", "upper", "rank", "large_gain")
SEARCH_FEATURES = (
    "left",
    "log_left",
    "log_done",
    "best_log_ei",
    "best_chance",
    "running",
    "running_log_ei",
    "running_chance",
    "running_mean",
    "running_spread",
    "running_fidelity",
    "budget_known",
)


def log_expected_improvement(probabilities: Tensor, bins: Tensor) -> Tensor:
    """Natural logarithm of the expected improvement, floored at exp(-12); shape of `probabilities` without its last axis."""
    return torch.log((probabilities * bins.clamp(min=0)).sum(-1) + 6e-6)


def candidate_features(logits: Tensor, bins: Tensor, mask: Tensor) -> Tensor:
    """Summarises predicted distributions.

    Args:
        logits: B x C x bins.
        bins: Value of each bin.
        mask: B x C, True where the candidate may be chosen; ranks and gaps are among those.

    Returns:
        B x C x len(CANDIDATE_FEATURES), each about in [-3, 3].
    """
    p = logits.softmax(-1)
    log_ei = log_expected_improvement(p, bins)
    best = log_ei.masked_fill(~mask, -12.0).max(1, keepdim=True).values
    mean = (p * bins).sum(-1)
    spread = ((p * (bins - mean[..., None]) ** 2).sum(-1)).clamp(min=1e-8).sqrt()
    chance = (p * (bins > 0.004)).sum(-1)
    upper = bins[(p.cumsum(-1) < 0.9).sum(-1).clamp(max=len(bins) - 1)]
    order = log_ei.masked_fill(~mask, -12.0).argsort(1, descending=True).argsort(1)
    large = (p * (bins > 0.2)).sum(-1)
    rank = torch.log1p(order.float()) / 3
    return torch.stack([(log_ei + 4) / 3, log_ei - best, chance * 2 - 1, mean, spread, upper, rank, large * 2 - 1], -1)
