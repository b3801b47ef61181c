"""Simulates learning curves: the evaluations of a training on the way to its final value.

All trainings of a task start near the same value (chance, or the loss of an untrained model) and approach their own
final value by a power law. On top: late bloomers, curves that cross, plateaus of warm-up, over-fitting after a peak,
divergence, and noise of evaluation. The axis is the fraction of the trial's own training, so trials of any length
compare.

Letters: B tasks, N trainings, S evaluations.

Sources: power laws of learning curves, Domhan et al. 2015 (IJCAI) and Adriaensen et al. 2023 (LC-PFN, NeurIPS), whose
prior also mixes parametric families with noise; the mixture weights here are ours.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import FloatArray


@dataclass(frozen=True)
class CurveFamily:
    """Shapes of the curves of B tasks; drawn once per task, so that its curves resemble each other.

    Attributes:
        depth: B, distance of the start below the median of the task, in units of (best - median).
        alpha: B, exponent of the power law; larger is earlier.
        alpha_spread: B, log standard deviation of the exponent between trainings; makes curves cross.
        linked: B in [-1, 1], how far better trainings are also faster ones.
        offset: B, fraction of a training that counts as done at its start.
        overfit: B, chance that a training peaks before its end.
        late: B, chance that a training stays on a plateau first.
        jitter: B, standard deviation of evaluation noise in units of (best - median).
    """

    depth: FloatArray
    alpha: FloatArray
    alpha_spread: FloatArray
    linked: FloatArray
    offset: FloatArray
    overfit: FloatArray
    late: FloatArray
    jitter: FloatArray


def draw_family(rng: np.random.Generator, n_tasks: int) -> CurveFamily:
    """Draws the shape of the curves of each task."""
    n = n_tasks
    return CurveFamily(
        depth=np.exp(rng.normal(1.3, 0.9, n)),
        alpha=np.exp(rng.normal(-0.3, 0.6, n)),
        alpha_spread=rng.uniform(0.05, 0.7, n) * (rng.random(n) < 0.8),
        linked=rng.uniform(-0.5, 1.0, n),
        offset=10 ** rng.uniform(-3, -1, n),
        overfit=rng.choice([0.0, 0.1, 0.5], n, p=[0.6, 0.25, 0.15]),
        late=rng.choice([0.0, 0.1, 0.4], n, p=[0.6, 0.25, 0.15]),
        jitter=np.exp(rng.normal(-4.0, 1.0, n)),
    )


def curves(rng: np.random.Generator, family: CurveFamily, final: FloatArray, at: FloatArray) -> FloatArray:
    """Draws B x N x S evaluations of trainings whose best evaluations are about `final`.

    Args:
        rng: Source of randomness.
        family: Of B tasks.
        final: B x N, in units where 0 = median and 1 = best of the task, as the evaluations.
        at: S or B x N x S fractions of the training in (0, 1].
    """
    shape = final.shape
    column = {name: getattr(family, name)[:, None] for name in family.__dataclass_fields__}
    start = np.minimum(-column["depth"] + 0.05 * rng.standard_normal(shape), final - 0.02)
    quality = np.clip(final, -2, 1) * column["linked"] * 0.3
    alpha = column["alpha"] * np.exp(column["alpha_spread"] * rng.standard_normal(shape) + quality)
    late = rng.random(shape) < column["late"]
    wait = np.where(late, rng.uniform(0.05, 0.5, shape), rng.uniform(0, 0.02, shape))
    peak = np.where(rng.random(shape) < column["overfit"], rng.uniform(0.3, 1.0, shape), 1.0)
    drop = rng.uniform(0.0, 0.8, shape)
    t = np.broadcast_to(np.asarray(at, float), (*shape, np.shape(at)[-1]))
    progress = np.clip((t - wait[..., None]) / np.maximum(peak - wait, 0.05)[..., None], 0, 1)
    offset, power = column["offset"][..., None], -alpha[..., None]
    remaining = ((progress + offset) ** power - (1 + offset) ** power) / (offset**power - (1 + offset) ** power)
    value = final[..., None] - (final - start)[..., None] * remaining
    value = value - drop[..., None] * np.maximum(t - peak[..., None], 0)
    noise = column["jitter"][..., None] * rng.standard_normal(t.shape)
    # Beyond the peak noise only lowers a value, so that `final` stays the best evaluation.
    return np.asarray(value - np.where(t >= peak[..., None], np.abs(noise), -noise))
