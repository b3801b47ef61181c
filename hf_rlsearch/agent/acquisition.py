"""Summarises predicted distributions as features for the decision head and the stop rule.

The predictor stays as likelihood trained it; PPO learns on top of these numbers only. Training all weights by PPO
destroyed the distribution that they are computed from.

Letters: B searches, C candidates.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

MIXTURE_FEATURES = ("log_ei", "gap_to_best_ei", "chance", "mean", "spread", "upper", "rank", "large_gain")
READING_FEATURES = ("named_gap", "hidden_gap", "disagreement", "from_trials", "from_middle")
CANDIDATE_FEATURES = MIXTURE_FEATURES + READING_FEATURES
SEARCH_FEATURES = (
    "left", "log_left", "log_done", "best_log_ei", "best_chance", "running", "running_log_ei", "running_chance",
    "running_mean", "running_spread", "running_fidelity", "budget_known",
)  # fmt: skip

_N_DRAWN = 64  # of the outcomes of running trials, an even number


def mixture_features(probabilities: Tensor, bins: Tensor, mask: Tensor) -> Tensor:
    """Describes candidates by their predicted distributions: B x C x len(MIXTURE_FEATURES), each about in [-3, 3].

    The probabilities are B x C x bins; `bins` has the value of each bin. Ranks and gaps are among the candidates that
    may be chosen, those where the B x C mask is True.
    """
    log_ei = log_expected_improvement(probabilities, bins)
    best = log_ei.masked_fill(~mask, -12.0).max(1, keepdim=True).values
    mean, spread = mean_and_spread(probabilities, bins)
    chance = chance_of_improvement(probabilities, bins)
    # The 90 % quantile, and below the chance of a gain of more than a fifth of (best - median).
    upper = bins[(probabilities.cumsum(-1) < 0.9).sum(-1).clamp(max=len(bins) - 1)]
    order = log_ei.masked_fill(~mask, -12.0).argsort(1, descending=True).argsort(1)
    large = (probabilities * (bins > 0.2)).sum(-1)
    rank = torch.log1p(order.float()) / 3
    return torch.stack([(log_ei + 4) / 3, log_ei - best, chance * 2 - 1, mean, spread, upper, rank, large * 2 - 1], -1)


def reading_features(readings: Tensor, bins: Tensor, mask: Tensor, from_trials: Tensor, from_middle: Tensor) -> Tensor:
    """Describes candidates by what the readings say apart: B x C x len(READING_FEATURES), each about in [-3, 3].

    Args:
        readings: R x B x C x bins probabilities: of each predictor with names and with names hidden.
        bins: Value of each bin.
        mask: B x C, True where the candidate may be chosen.
        from_trials: B x C distances to the nearest trial, in [0, 1] as a mean over hyperparameters; 1 without trials.
        from_middle: B x C distances from the middle of the ranges, in [0, 1] as a mean over ordered hyperparameters.
    """
    gaps = [_gap(p, bins, mask) for p in (readings[0::2].mean(0), readings[1::2].mean(0))]
    disagreement = (readings * bins).sum(-1).std(0, correction=0)
    return torch.stack([*gaps, 3 * disagreement, from_trials, 2 * from_middle], -1)


def _gap(probabilities: Tensor, bins: Tensor, mask: Tensor) -> Tensor:
    """B x C log expected improvement below that of the best allowed candidate, at least -3."""
    log_ei = log_expected_improvement(probabilities, bins)
    return (log_ei - log_ei.masked_fill(~mask, -12.0).max(1, keepdim=True).values).clamp(-3.0, 3.0)


def search_features(
    candidates: Tensor,
    mask: Tensor,
    running: Tensor,
    fidelity: Tensor,
    n_left: Tensor,
    n_total: Tensor,
    n_done: Tensor,
) -> Tensor:
    """Describes searches by their budget, their best candidates and their running trials.

    Args:
        candidates: B x C x len(CANDIDATE_FEATURES).
        mask: B x C, True where the candidate may be chosen.
        running: B, row of the running trial among the candidates, -1 where nothing runs.
        fidelity: B, of the running trial, in [0, 1).
        n_left: B full trainings that are left; NaN where unknown.
        n_total: B full trainings of the whole budget; NaN where unknown.
        n_done: B full trainings that were made.

    Returns:
        B x len(SEARCH_FEATURES), each about in [-3, 3].
    """
    known = ~torch.isnan(n_total)
    total, left = n_total.where(known, torch.ones_like(n_total)), n_left.where(known, torch.zeros_like(n_left))
    allowed = candidates.masked_fill(~mask[..., None], -4.0)
    at = running.clamp(min=0)[:, None, None].expand(-1, 1, candidates.shape[2])
    own = torch.gather(candidates, 1, at)[:, 0] * (running >= 0)[:, None]
    zero_if_unknown = known.float()
    columns = [
        left / total,
        torch.log1p(left) / 3 * zero_if_unknown,
        torch.log1p(n_done) / 3,
        allowed[..., 0].max(1).values,
        allowed[..., 2].max(1).values,
        (running >= 0).float(),
        *(own[:, i] for i in (0, 2, 3, 4)),
        fidelity * (running >= 0),
        zero_if_unknown,
    ]
    return torch.stack(columns, dim=-1)


def forecast_features(
    probabilities: Tensor, bins: Tensor, running: Tensor, allowed: Tensor, log_weights: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Describes running trials by the predicted improvement over the incumbent at the end of their training.

    The probabilities are B x C x bins, `running` is B indices of the candidates that run; any index where none does.

    Returns:
        B x len(FORECAST_FEATURES), and B index of the allowed candidate of the largest expected improvement, times
        factors whose B x C logarithms are given where prices differ.
    """
    log_ei = log_expected_improvement(probabilities, bins)
    choosable = log_ei.masked_fill(~allowed, -torch.inf)
    fresh = choosable.max(1).values
    pick = choosable.argmax(1) if log_weights is None else (choosable + log_weights).argmax(1)
    row = torch.arange(len(running), device=running.device)
    own = probabilities[row, running]
    mean, spread = mean_and_spread(own, bins)
    columns = [torch.ones_like(mean), mean, spread, 2 * chance_of_improvement(own, bins) - 1]
    columns += [(log_ei[row, running] + 4) / 3, (fresh.clamp(min=-12.0) + 4) / 3]
    return torch.stack(columns, dim=-1).clamp(-3, 3), pick


def expected_improvement(probabilities: Tensor, bins: Tensor) -> Tensor:
    """Expected improvement over the incumbent; the shape of `probabilities` without its last axis, the bins."""
    return (probabilities * bins.clamp(min=0)).sum(-1)


def joint_improvement(probabilities: Tensor, bins: Tensor, n: int, success: Tensor) -> Tensor:
    """Expected improvement of the best of the `n` candidates of the largest expected improvement, as a scalar.

    The outcomes, C x bins probabilities, count as independent. The candidates are alike, so this is too much for one
    round; a search that learns from each trial chooses better ones, which makes up for it in part. A training that
    fails improves nothing; `success` has the C chances that it does not.
    """
    chosen = (success * expected_improvement(probabilities, bins)).argsort(descending=True)[:n]
    ends_well = success[chosen, None]
    no_better = 1 - ends_well + ends_well * probabilities[chosen].cumsum(-1)  # n x bins chances of no better value
    below = no_better.clamp(1e-12, 1.0).log().sum(0).exp()
    return expected_improvement(torch.diff(below, prepend=below.new_zeros(1)), bins)


def improvement_beside(
    probabilities: Tensor, bins: Tensor, running: Tensor, correlation: Tensor, generator: torch.Generator
) -> Tensor:
    """C expected improvements over the best of the incumbent and of the trials that are running.

    The outcomes are jointly distributed by a Gaussian copula: each has its own distribution, and what is alike ends
    alike. So a candidate is worth little beside a running trial that is like it, or better than it.

    Args:
        probabilities: C x bins, of the candidates.
        bins: Value of each bin.
        running: M x bins probabilities of the running trials.
        correlation: (C + M) x M, of the candidates and then the running trials with the running trials.
        generator: Draws the outcomes of the running trials.

    Source: the expected improvement of a batch, Ginsbourger et al. 2010 (Kriging is well-suited to parallelize
    optimization); a copula of distributions that are not Gaussian, Salinas et al. 2020 (arXiv:1909.13595).
    """
    M = len(running)
    factor, failed = torch.linalg.cholesky_ex(correlation[-M:])
    factor = torch.eye(M) if failed else factor  # by rounding: then the running trials count as independent
    half = torch.randn(_N_DRAWN // 2, M, generator=generator)
    drawn = torch.cat([half, -half])  # D x M independent ones
    levels = torch.special.ndtr(drawn @ factor.T)
    outcomes = torch.searchsorted(running.cumsum(-1), levels.T.contiguous()).clamp(max=len(bins) - 1)
    best = bins[outcomes].max(0).values.clamp(min=0)  # D
    # Given the outcomes that were drawn, the normal score of each candidate has another mean and a smaller spread.
    told = torch.linalg.solve_triangular(factor, correlation[:-M].T, upper=False)  # M x C
    mean, spread = drawn @ told, (1 - (told**2).sum(0)).clamp(min=1e-3).sqrt()
    better = bins > 0
    gains = (bins[better] - best[:, None]).clamp(min=0)  # D x bins above 0
    steps = torch.diff(gains, prepend=torch.zeros(_N_DRAWN, 1))
    at_least = probabilities.flip(-1).cumsum(-1).flip(-1)[:, better].clamp(1e-6, 1 - 1e-6)  # C x bins above 0
    chances = torch.special.ndtr((mean[..., None] + torch.special.ndtri(at_least)) / spread[:, None])
    return torch.einsum("dcb,db->c", chances, steps) / _N_DRAWN


def log_expected_improvement(probabilities: Tensor, bins: Tensor) -> Tensor:
    """Natural logarithm of the expected improvement, at least -12; shape as above."""
    return log_improvement(expected_improvement(probabilities, bins))


def log_improvement(improvement: Tensor) -> Tensor:
    """Natural logarithm of an expected improvement, at least -12; same shape."""
    return torch.log(improvement + 6e-6)  # exp(-12)


def mean_and_spread(probabilities: Tensor, bins: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and standard deviation of distributions over bins; shape as above."""
    mean = (probabilities * bins).sum(-1)
    return mean, (probabilities * (bins - mean[..., None]) ** 2).sum(-1).clamp(min=1e-8).sqrt()


def chance_above(probabilities: Tensor, bins: Tensor, improvement: float) -> Tensor:
    """Probability of more than an improvement, which may be negative; shape as above.

    Within a bin the outcomes are spread evenly. More than 1 below the incumbent, which is about the median of a task,
    the scale of the bins is compressed.
    """
    at = improvement if improvement >= -1 else -1 - 0.5 * math.log(-improvement)
    middle = (bins[1:] + bins[:-1]) / 2
    edges = torch.cat([2 * bins[:1] - middle[:1], middle, 2 * bins[-1:] - middle[-1:]])
    above = ((edges[1:] - at) / (edges[1:] - edges[:-1])).clamp(0, 1)  # share of each bin
    return (probabilities * above).sum(-1).clamp(0, 1)


def chance_of_improvement(probabilities: Tensor, bins: Tensor) -> Tensor:
    """Probability of more than 0.004 of (best - median), below which a trial is no better; shape as above."""
    return (probabilities * (bins > 0.004)).sum(-1)
