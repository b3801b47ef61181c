"""Scores stopping a running trial with a small network, which PPO trained and numpy evaluates at every report."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from torch import Tensor

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.curve_features import CURVE_FEATURES, STOP_FEATURES


class StopRule:
    """Features -> log-odds of stopping, from the tensors "stop.0.weight" to "stop.2.bias" that meta-training writes.

    Raises:
        WeightsError: A tensor is missing, or the rule reads other features.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        stop_rule_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self._layers = [(tensors[f"stop.{i}.weight"].numpy(), tensors[f"stop.{i}.bias"].numpy()) for i in range(3)]
        self.reads_forecasts = self._layers[0][0].shape[1] - 1 == len(STOP_FEATURES)
        """True if the rule reads `STOP_FEATURES`, False if `CURVE_FEATURES` only."""

    def log_odds(self, features: FloatArray) -> FloatArray:
        """B x features -> B log-odds of stopping trials that may be stopped; extra columns are ignored."""
        seen = features[:, : self._layers[0][0].shape[1] - 1]
        x = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self._layers[-1]
        logits = x @ weight.T + bias
        return np.asarray(logits[:, 1] - logits[:, 0])


def stop_rule_shapes(shapes: Mapping[str, tuple[int, ...]]) -> dict[str, tuple[int, ...]]:
    """Returns the shapes that a stop rule's tensors must have by name, given the number of features and the biases.

    Raises:
        WeightsError: A tensor is missing, or the rule reads other features.
    """
    for name in (f"stop.{i}.{part}" for i in range(3) for part in ("weight", "bias")):
        if name not in shapes:
            raise WeightsError(
                f"the weights hold no stop rule: {name!r} is missing. Use weights that were trained with one."
            )
    got, known = (0, *shapes["stop.0.weight"])[-1] - 1, (len(CURVE_FEATURES), len(STOP_FEATURES))
    if got not in known:
        raise WeightsError(f"the stop rule reads {got} features, expected one of {known}: use the bundled weights.")
    # Two actions, continue and stop.
    sizes = [got + 1, *((*shapes[f"stop.{i}.bias"], 0)[0] for i in (0, 1)), 2]
    expected: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        expected |= {f"stop.{i}.weight": (n_out, n_in), f"stop.{i}.bias": (n_out,)}
    return expected
