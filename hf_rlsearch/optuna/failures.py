"""Estimates the chance that the training of a candidate ends well, from the trials that failed and those that did not.

The predictors are trained on tasks in which any trial may fail, so they read nothing from where trials fail. Failures
of real searches mostly have reasons in the configuration: a rate that diverges, a batch too large, an optimizer not
installed. Others have not: Ctrl-C, a worker that is killed, a connection that breaks.
"""

from __future__ import annotations

import numpy as np

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.observation.history import FAILED, RUNNING, History
from hf_rlsearch.space import SearchSpace

# Share of candidates that fail before anything is known.
_PRIOR = 0.1
# Length over which a failure tells, as a share of a range.
_LENGTH = 0.4
# Shares of the variance of the label that the configuration may not explain; the smallest ones lie closest together, so
# that a few failures count as explained until others, beside successes, say that they are not.
_NOISE = np.geomspace(0.01, 0.95, 8)
# Weight of the hyperparameters one at a time in the kernel, the rest is that of all together.
_SINGLE = 0.8
# Trials that are looked at: the latest, half of them failed ones.
_N_TRIALS = 256


def chance_of_success(space: SearchSpace, history: History, rows: IntArray) -> FloatArray:
    """Returns the chance of each candidate to end well.

    A Gaussian process on the labels 0 and 1. Its kernel compares one hyperparameter at a time, since most failures have
    a single reason, and to a smaller part all of them together. How much of the labels the configuration explains is
    read from them, as an average over shares of noise by their marginal likelihoods: failures beside successes, at any
    place, say little of the next configuration.

    Args:
        space: Of the search.
        history: Trials; those that are running tell nothing.
        rows: C x H candidates.

    Returns:
        C chances in [0.01, 1]; all 1 where no trial failed.

    Source: Gardner et al. 2014, Bayesian optimization with inequality constraints, section 3.2, for the product with
    expected improvement; Duvenaud et al. 2011 (arXiv:1112.4394) for additive kernels; Rasmussen and Williams 2006,
    Gaussian Processes for Machine Learning, section 5.4.1, for the marginal likelihood.
    """
    failed, ended = history.status == FAILED, history.status != RUNNING
    if not failed.any():
        return np.ones(len(rows))
    latest = [np.flatnonzero(kind)[-_N_TRIALS // 2 :] for kind in (failed, ended & ~failed)]
    kept = np.concatenate(latest)
    trials = np.stack([space.nearest_levels(history.params[i]) for i in kept.tolist()])
    label = failed[kept].astype(float)
    explained, axes = np.linalg.eigh(_kernel(space, trials, trials))
    along = axes.T @ (label - _PRIOR)
    # Variances along the T axes, for each of N shares of noise. The unit of all of them is the one that fits best.
    variances = np.outer(1 - _NOISE, np.maximum(explained, 0)) + _NOISE[:, None]
    fit = -0.5 * (len(kept) * np.log((along**2 / variances).mean(1)) + np.log(variances).sum(1))
    probability = np.exp(fit - fit.max())
    probability /= probability.sum()
    weights = axes @ (along * ((probability * (1 - _NOISE)) @ (1 / variances)))
    failing = _PRIOR + _kernel(space, rows, trials) @ weights
    return np.asarray(np.clip(1 - failing, 0.01, 1.0))


def _kernel(space: SearchSpace, first: IntArray, second: IntArray) -> FloatArray:
    """A x B covariances of A x H and B x H levels, in [0, 1]."""
    single, joint = np.zeros((len(first), len(second))), np.ones((len(first), len(second)))
    for column, h in enumerate(space.hyperparameters):
        a, b = first[:, column, None], second[None, :, column]
        alike = (a == b).astype(float)
        if h.ordered:
            alike = np.exp(-0.5 * ((a - b) / (_LENGTH * max(len(h.levels) - 1, 1))) ** 2)
        alike = np.where((a < 0) | (b < 0), 1.0, alike)  # a conditional hyperparameter that one of them does not use
        single += alike / len(space.hyperparameters)
        joint *= alike
    return _SINGLE * single + (1 - _SINGLE) * joint
