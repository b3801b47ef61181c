"""Scores stopping a running trial: by expected gains and the price of the rest, and by what PPO has changed in that."""

from __future__ import annotations

from collections.abc import Mapping
from itertools import pairwise

import numpy as np
from torch import Tensor

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.curve_features import CURVE_FEATURES, STOP_FEATURES

_LARGEST = 3.0  # log-odds of `before_learning`: larger ones could not be outweighed by what PPO learns


class StopRule:
    """Features -> log-odds of stopping, from the tensors "stop.0.weight" to "stop.2.bias" that meta-training writes.

    A small network whose last layer also reads `before_learning`, so that PPO starts from that rule.

    Raises:
        WeightsError: A tensor is missing, or the rule reads other features.
    """

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        stop_rule_shapes({name: tuple(tensor.shape) for name, tensor in tensors.items()})
        self._layers = [(tensors[f"stop.{i}.weight"].numpy(), tensors[f"stop.{i}.bias"].numpy()) for i in range(3)]

    def log_odds(self, features: FloatArray) -> FloatArray:
        """B x features -> B log-odds of stopping trials that may be stopped; extra columns are ignored."""
        seen = features[:, : len(STOP_FEATURES)]
        x = np.concatenate([seen, np.ones((len(seen), 1))], axis=1)
        for weight, bias in self._layers[:-1]:
            x = np.tanh(x @ weight.T + bias)
        weight, bias = self._layers[-1]
        logits = np.concatenate([x, before_learning(seen)[:, None]], axis=1) @ weight.T + bias
        return np.asarray(logits[:, 1] - logits[:, 0])


def before_learning(features: FloatArray) -> FloatArray:
    """B log-odds of stopping from which PPO starts, in [-3, 3].

    Those of `gain_per_price` where the predictors forecast, else those of `few_made_it_up`.
    """
    known = features[:, STOP_FEATURES.index("forecast_known")] > 0
    return np.clip(np.where(known, gain_per_price(features), few_made_it_up(features)), -_LARGEST, _LARGEST)


def gain_per_price(features: FloatArray) -> FloatArray:
    """B log-odds of stopping where a fresh candidate promises more per price than the rest of the running trial.

    The predictors say what a candidate promises. The fresh one is taken to cost as much as the mean of the others.
    Source: expected improvement per cost, Snoek et al. 2012, section 3.2.
    """
    fidelity, log_price, own, fresh = (
        features[:, STOP_FEATURES.index(name)] for name in ("fidelity", "price", "forecast_log_ei", "fresh_log_ei")
    )
    log_rest = np.log(np.maximum(1 - fidelity, 1e-3)) + log_price
    return np.asarray(3 * (fresh - own) + log_rest)  # the features are log expected improvements over three


def few_made_it_up(features: FloatArray) -> FloatArray:
    """B log-odds of stopping where hardly any complete trial has gained as much, from here on, as the trial lacks.

    Without complete trials it goes on.
    """
    return np.asarray(14.0 * (0.28 - (features[:, CURVE_FEATURES.index("made_up")] + 1) / 2))


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
    got, known = (0, *shapes["stop.0.weight"])[-1] - 1, len(STOP_FEATURES)
    if got != known:
        raise WeightsError(f"the stop rule reads {got} features, expected {known}: use the bundled weights.")
    # The last layer also reads `before_learning`, and scores two actions, continue and stop.
    sizes = [got + 1, *((*shapes[f"stop.{i}.bias"], 0)[0] for i in (0, 1)), 2]
    expected: dict[str, tuple[int, ...]] = {}
    for i, (n_in, n_out) in enumerate(pairwise(sizes)):
        expected |= {f"stop.{i}.weight": (n_out, n_in + (i == 2)), f"stop.{i}.bias": (n_out,)}
    return expected
