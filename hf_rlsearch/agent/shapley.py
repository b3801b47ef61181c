"""Attributes predictions to hyperparameters by Shapley values, and lists the trials with the most attention.

Source: Lundberg and Lee 2017 (arXiv:1705.07874); a permutation together with its reverse is exact for interactions of
two (Mitchell et al. 2022, "Sampling permutations for Shapley value estimation", JMLR 23).

Letters: H hyperparameters, N rows, P permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.agent.acquisition import mean_and_spread
from hf_rlsearch.agent.mixture import EncodedReadings, Mixture

_MAX_ROWS = 72  # predicted for one explanation, which must stay cheap; more only where two references need them
_MAX_ATTENDED, _MIN_ATTENTION = 5, 0.02
Predict = Callable[[IntArray], FloatArray]
"""N x H level indices -> N predicted means."""


def shapley_values(
    predictors: Sequence[Predict], row: IntArray, n_levels: IntArray, rng: np.random.Generator
) -> list[FloatArray]:
    """Attributes the difference between a configuration and the average one to its hyperparameters.

    All predictors are explained on the same rows. The references and permutations are drawn; references are spread
    evenly over the (H,) ``n_levels``.

    Returns:
        Per predictor H values; their sum is its prediction for `row` minus the mean of those for the references.
    """
    H = len(row)
    references = spread_rows(n_levels, max(2, _MAX_ROWS // (2 * H)), rng)
    forward = [rng.permutation(H) for _ in references]
    orders = np.stack([order for first in forward for order in (first, first[::-1])])
    # P x (H + 1) x H: from each reference to `row`, taking over one value after the other in the order.
    taken = np.argsort(orders, axis=1)[:, None, :] < np.arange(H + 1)[None, :, None]
    paths = np.where(taken, row, np.repeat(references, 2, axis=0)[:, None, :])
    # A row on several paths is predicted once.
    rows, where = np.unique(paths.reshape(-1, H), axis=0, return_inverse=True)
    values: list[FloatArray] = []
    for predict in predictors:
        steps = np.diff(predict(rows)[where.reshape(paths.shape[:2])], axis=1)
        total = np.zeros(H)
        np.add.at(total, orders, steps)
        values.append(total / len(orders))
    return values


def spread_rows(n_levels: IntArray, count: int, rng: np.random.Generator) -> IntArray:
    """`count` x H random configurations in which each hyperparameter goes through its levels evenly.

    Source: Latin hypercube sampling, McKay et al. 1979.
    """
    place = (np.arange(count)[:, None] + rng.random((count, len(n_levels)))) / count
    return rng.permuted((place * n_levels).astype(np.int64), axis=0)


def predicted_mean(mixture: Mixture, encoded: EncodedReadings) -> Predict:
    """N x H level indices -> N means of the mixture, which are means over its readings, of one search."""

    def predict(rows: IntArray) -> FloatArray:
        probabilities = mixture.score(encoded, torch.as_tensor(rows)[None])[0]
        return np.asarray(mean_and_spread(probabilities, mixture.bins)[0].double().numpy())

    return predict


def most_attended(
    mixture: Mixture, encoded: EncodedReadings, row: IntArray, numbers: IntArray
) -> tuple[tuple[int, float], ...]:
    """At most five (trial number, weight) pairs, the largest weight first; together at most 1.

    The weights are those with which the prediction of the candidate in `row`, H level indices, attends to the T trials
    of one search, whose numbers are given: means over the readings of the predictors.
    """
    weights = mixture.attention(encoded, torch.as_tensor(row)[None, None])[0, 0, 1:].double().numpy()
    order = np.argsort(-weights, kind="stable")[:_MAX_ATTENDED]
    return tuple((int(numbers[i]), float(weights[i])) for i in order if weights[i] >= _MIN_ATTENTION)
