"""Predicts by a Gaussian process, averaged over its hyperparameters: a reading of a history that no training shaped.

Nothing is fitted. A fixed set of draws from the prior of the length scales, the noise and the signal is weighed by how
well each explains the values, so the answer is a mixture of normal distributions that changes smoothly from trial to
trial. Every trial with a value counts alike, however long it was trained.

The bins of the predictor are improvements on the task's scale, 1 = from its median to its best. That scale is unknown:
the history's own one, from its median to its best, stands for it. Early in a search it is usually too small, so that
improvements look larger than they are; the order of candidates does not depend on it.

Letters: B searches, T trials, N rows, H hyperparameters, L levels, M draws, K draws that are kept.

Sources: prior of the length scales that grows with the root of H, and of the noise, Hvarfner et al. 2024
(arXiv:2402.02229); averaging over hyperparameters, Snoek et al. 2012 (arXiv:1206.2944), section 3.2; kernel of
categories, Ru et al. 2020 (arXiv:1906.08878).
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.quasirandom import SobolEngine

from hf_rlsearch.agent.network import BIN_EDGES, Arrays, gather_levels, level_distances
from hf_rlsearch.observation.observation import STATIC_PRESENT, TRIAL_KNOWN, TRIAL_VALUE

N_DRAWS = 48
N_KEPT, LEAST_SHARE = 16, 0.01
"""Draws that predict: so many of those that explain the values best, and none with less than this share of the best
one's posterior probability. After twenty trials few are left."""
LEAST_VALUES = 3
"""With fewer values nothing is predicted: any line fits two of them."""
# Mean and standard deviation of logarithms: length scales (the mean grows with H), variances of noise and signal.
_LENGTH, _NOISE, _SIGNAL = (math.sqrt(2), math.sqrt(3)), (-4.0, 1.0), (0.0, 0.5)
_LEAST_DEVIATION = 1e-4  # on the history's scale: well inside of the bin around zero
# Numbers in the kernels of one pass, 2 MiB in double precision: more would not stay in a processor's cache.
_MOST_NUMBERS = 1 << 18


@dataclass(frozen=True)
class AveragedGaussianProcess:
    """Gaussian processes fitted to the trials of B searches, K for each, in double precision.

    Attributes:
        distances: B x H x (L + 1) x T, see `level_distances`.
        ordered: B x H, True where distances are those of numbers.
        known: B x T, True for trials with a value.
        incumbent: B index of the best trial; any where nothing is usable.
        incumbent_levels: B x 1 x H levels of that trial.
        rates: B x K x H, one over the length scales; 0 for padding.
        signal: B x K variances.
        weights: B x K x T, the solution of (K + noise) weights = standardised values.
        inverse: B x K x T x T of (K + noise).
        shares: B x K posterior probabilities of the draws, which sum to 1; 0 for draws that are left out.
        unit: B, standard deviation of the values on the history's scale.
        usable: B, False for searches with fewer than `LEAST_VALUES`; their prediction is the prior, the same for all
            rows.
    """

    distances: Tensor
    ordered: Tensor
    known: Tensor
    incumbent: Tensor
    incumbent_levels: Tensor
    rates: Tensor
    signal: Tensor
    weights: Tensor
    inverse: Tensor
    shares: Tensor
    unit: Tensor
    usable: Tensor


def fit(arrays: Arrays) -> AveragedGaussianProcess:
    """Fits the processes to the trials of B searches that have a value."""
    if not arrays.trial_mask.shape[1]:
        arrays = _with_padding(arrays)
    known = arrays.trial_mask & (arrays.trial_features[..., TRIAL_KNOWN] > 0)
    usable = known.sum(1) >= LEAST_VALUES
    known = known & usable[:, None]
    values, unit = _standardised(arrays.trial_features[..., TRIAL_VALUE].double(), known)
    distances = level_distances(arrays)[1].double()
    between, draws = gather_levels(distances, arrays.trials), _draws(arrays.static[..., STATIC_PRESENT].double())
    step = max(1, _MOST_NUMBERS // known.numel() // known.shape[1])
    evidence = []
    for rates, noise, signal in zip(*(torch.split(column, step, dim=1) for column in draws), strict=True):
        evidence.append(_log_evidence(_factor(rates, noise, signal, between, arrays.ordered, known), values))
    kept, which = torch.cat(evidence, dim=1).topk(N_KEPT, dim=1)
    shares = kept.masked_fill(kept < kept[:, :1] + math.log(LEAST_SHARE), -torch.inf).softmax(1)
    n_kept = int((shares > 0).sum(1).max())
    row = torch.arange(len(known), device=known.device)
    rates, noise, signal = (column[row[:, None], which[:, :n_kept]] for column in draws)
    inverse = torch.cholesky_inverse(_factor(rates, noise, signal, between, arrays.ordered, known))
    incumbent = arrays.incumbent.clamp(min=0)
    levels = arrays.trials[row, incumbent][:, None]
    return AveragedGaussianProcess(
        distances=distances,
        ordered=arrays.ordered,
        known=known,
        incumbent=incumbent,
        incumbent_levels=levels,
        rates=rates,
        signal=signal,
        weights=(inverse @ values[:, None, :, None])[..., 0],
        inverse=inverse,
        shares=shares[:, :n_kept],
        unit=unit,
        usable=usable,
    )


def predict(process: AveragedGaussianProcess, rows: Tensor) -> Tensor:
    """B x N x N_BINS probabilities of the improvement over the incumbent, of B x N x H level indices."""
    mean, deviation = improvement(process, rows)
    edges = _own_scale(torch.tensor(BIN_EDGES, device=mean.device))
    z = (edges - mean.float()[..., None]) / deviation.float()[..., None]
    below = (process.shares.float()[..., None, None] * torch.special.ndtr(z)).sum(1)
    return F.pad(below, (0, 1), value=1.0) - F.pad(below, (1, 0))


def improvement(process: AveragedGaussianProcess, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Each process's improvement of B x N x H rows over the incumbent, both without noise, on the history's scale.

    Returns:
        B x K x N means and standard deviations. Of a search without enough values those of the prior, of a row itself.
    """
    rows = torch.cat([rows, process.incumbent_levels], dim=1)
    distances = gather_levels(process.distances, rows)
    kernel = _kernel(process.rates, process.signal, distances, process.ordered).mul_(process.known[:, None, None])
    mean, solved = (kernel @ process.weights[..., None])[..., 0], kernel @ process.inverse
    variance = process.signal[..., None] - (solved * kernel).sum(-1)
    at = process.incumbent[:, None, None, None].expand(*kernel.shape[:3], 1)
    shared = torch.gather(kernel, 3, at)[..., 0] - (solved @ kernel[:, :, -1:].transpose(2, 3))[..., 0]
    relative = variance[..., -1:] - 2 * shared
    variance = (variance + relative * process.usable[:, None, None])[..., :-1]
    unit = process.unit[:, None, None]
    return (mean[..., :-1] - mean[..., -1:]) * unit, variance.clamp(min=0).sqrt() * unit + _LEAST_DEVIATION


def _with_padding(arrays: Arrays) -> Arrays:
    """The same searches without trials, with room for one."""
    B, _, H = arrays.trials.shape
    return replace(
        arrays,
        trials=arrays.trials.new_zeros(B, 1, H),
        trial_features=arrays.trial_features.new_zeros(B, 1, arrays.trial_features.shape[2]),
        trial_mask=arrays.trial_mask.new_zeros(B, 1),
    )


def _standardised(values: Tensor, known: Tensor) -> tuple[Tensor, Tensor]:
    """B x T values with mean 0 and standard deviation 1 in each search, 0 where unknown; and the B deviations."""
    count = known.sum(1, keepdim=True).clamp(min=1)
    centred = (values - (values * known).sum(1, keepdim=True) / count) * known
    deviation = (centred**2).sum(1, keepdim=True).div(count).sqrt()
    deviation = deviation.where(deviation > 1e-6, torch.ones_like(deviation))  # all values are equal, or none is known
    return centred / deviation, deviation[:, 0]


@lru_cache(maxsize=32)
def _normal_draws(n_columns: int) -> Tensor:
    """N_DRAWS x n_columns numbers that cover the standard normal distribution evenly, always the same."""
    with torch.inference_mode(False):
        engine = SobolEngine(n_columns, scramble=True, seed=0)  # type: ignore[no-untyped-call]
        uniform = engine.draw(N_DRAWS, dtype=torch.float64)
        return torch.as_tensor(torch.special.ndtri(uniform.clamp(1e-4, 1 - 1e-4)))


def _draws(present: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Rates B x M x H, variances of the noise B x M and of the signal B x M, of B x H hyperparameters or padding."""
    B, H = present.shape
    normal = _normal_draws(H + 2).to(present.device).expand(B, -1, -1)
    root = present.sum(1).clamp(min=1).sqrt()[:, None, None]
    rates = torch.exp(-_LENGTH[0] - _LENGTH[1] * normal[..., :H]) / root * present[:, None]
    noise, signal = ((mean + width * normal[..., H + i]).exp() for i, (mean, width) in enumerate((_NOISE, _SIGNAL)))
    return rates, noise, signal


def _factor(rates: Tensor, noise: Tensor, signal: Tensor, between: Tensor, ordered: Tensor, known: Tensor) -> Tensor:
    """Cholesky factors B x M x T x T of (K + noise), from B x H x T x T distances between trials."""
    both = (known[:, None] & known[:, :, None])[:, None]
    # A trial without a value gets a row of the identity, which changes no other row of the inverse.
    kernel = _kernel(rates, signal, between, ordered).mul_(both)
    kernel.diagonal(dim1=2, dim2=3).add_(torch.where(known[:, None], noise[..., None], 1.0))
    return torch.as_tensor(torch.linalg.cholesky(kernel))


def _log_evidence(factor: Tensor, values: Tensor) -> Tensor:
    """B x M logarithms of the marginal likelihood of B x T values, up to a constant."""
    whitened = torch.linalg.solve_triangular(factor, values[:, None, :, None], upper=False)[..., 0]
    log_determinant = 2 * torch.diagonal(factor, dim1=2, dim2=3).log().sum(-1)
    return torch.as_tensor(-0.5 * ((whitened**2).sum(-1) + log_determinant))


def _kernel(rates: Tensor, signal: Tensor, distances: Tensor, ordered: Tensor) -> Tensor:
    """B x M x N x T covariances from B x H x N x T distances: Matern 5/2 of numbers, times a kernel of categories."""
    B, H, N, T = distances.shape
    flat, is_number = distances.view(B, H, N * T), ordered[:, None]
    squared = (5 * rates**2 * is_number) @ flat**2
    root = squared.sqrt()
    # In place, as new memory for each step would take several times as long as the arithmetic.
    decay = ((rates * ~is_number) @ flat).add_(root).neg_().exp_()
    return squared.div_(3).add_(root).add_(1).mul_(decay).mul_(signal[..., None]).view(B, -1, N, T)


def _own_scale(edges: Tensor) -> Tensor:
    """Improvements on the compressed scale of the task -> of the history, whose best is 0 and whose median -log(2)."""
    utility = torch.where(edges >= -1, 1 + edges, -torch.expm1(-2 * (1 + edges)))  # the inverse of `network.compress`
    above = utility - 1
    return torch.where(above > 0, above, -torch.log1p(-above.clamp(max=0)))
