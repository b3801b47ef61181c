"""Why the network scored a candidate as it did: what moved its prediction, and which trials it looked at."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.policy.features import mean_and_spread
from hf_rlsearch.policy.network import Predictor, Reading

_MAX_ATTENDED = 5
_LEAST_ATTENDED = 0.02


def predicted_mean(predictor: Predictor, reading: Reading) -> Callable[[IntArray], FloatArray]:
    """N x H level indices -> N predicted means, of one search."""

    def predict(rows: IntArray) -> FloatArray:
        logits = predictor.score(reading, torch.as_tensor(rows)[None])[0]
        return np.asarray(mean_and_spread(logits.softmax(-1), predictor.bins)[0].double().numpy())

    return predict


def most_attended(
    predictor: Predictor, reading: Reading, row: IntArray, numbers: IntArray
) -> tuple[tuple[int, float], ...]:
    """The trials that a candidate's prediction attends to most.

    Args:
        predictor: The network.
        reading: What it made of one search of T trials.
        row: H level indices of the candidate.
        numbers: T trial numbers.

    Returns:
        At most five (number, weight) pairs, the largest weight first; together at most 1.
    """
    weights = predictor.attention(reading, torch.as_tensor(row)[None, None])[0, 0, 1:].double().numpy()
    order = np.argsort(-weights, kind="stable")[:_MAX_ATTENDED]
    return tuple((int(numbers[i]), float(weights[i])) for i in order if weights[i] >= _LEAST_ATTENDED)
