"""Attributes predictions to hyperparameters by Shapley values, and lists the trials with the most attention.

Source: Lundberg and Lee 2017 (arXiv:1705.07874); a permutation together with its reverse is exact for interactions of
two (Mitchell et al. 2022, "Sampling permutations for Shapley value estimation", JMLR 23).

Letters: H hyperparameters, N rows, P permutations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

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


class PredictedMean:
    """Predicts the means of the mixture, which are means over its readings, of one search."""

    def __init__(self, mixture: Mixture, encoded: EncodedReadings) -> None:
        self.mixture, self.encoded = mixture, encoded

    def __call__(self, rows: IntArray) -> FloatArray:
        """N x H level indices -> N means."""
        return self._mean(self.mixture.score(self.encoded, torch.as_tensor(rows)[None]))

    def _mean(self, probabilities: Tensor) -> FloatArray:
        return np.asarray(mean_and_spread(probabilities[0], self.mixture.bins)[0].double().numpy())


class AttendedMean(PredictedMean):
    """The same, which keeps the attention to T trials that the prediction of one row came from.

    To predict the row once more would take as long as all rows of an explanation.
    """

    def __init__(self, mixture: Mixture, encoded: EncodedReadings, row: IntArray) -> None:
        super().__init__(mixture, encoded)
        self._row, self._weights = row, np.zeros(0)

    def __call__(self, rows: IntArray) -> FloatArray:
        """N x H level indices -> N means."""
        probabilities, attention = self.mixture.explain(self.encoded, torch.as_tensor(rows)[None])
        at = int(np.flatnonzero((rows == self._row).all(axis=1))[0])
        self._weights = attention[0, at, 1:].double().numpy()
        return self._mean(probabilities)

    def most_attended(self, numbers: IntArray) -> tuple[tuple[int, float], ...]:
        """At most five (trial number, weight) pairs, the largest weight first; together at most 1.

        The weights are means over the readings of the predictors. The numbers of the T trials are given; the rows that
        were predicted before must have held the one to be explained.
        """
        order = np.argsort(-self._weights, kind="stable")[:_MAX_ATTENDED]
        return tuple((int(numbers[i]), float(self._weights[i])) for i in order if self._weights[i] >= _MIN_ATTENTION)
