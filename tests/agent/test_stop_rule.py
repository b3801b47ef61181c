"""The stop rule's network in numpy."""

import numpy as np
import pytest
import torch

from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.curve_features import CURVE_FEATURES, STOP_FEATURES

N = len(STOP_FEATURES) + 1


def network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Linear(N, 8), torch.nn.Tanh(), torch.nn.Linear(8, 8), torch.nn.Tanh(), torch.nn.Linear(8, 2)
    )


def tensors() -> dict[str, torch.Tensor]:
    layers = network()[::2]
    return {
        f"stop.{i}.{part}": getattr(layer, part).detach()
        for i, layer in enumerate(layers)
        for part in ("weight", "bias")
    }


def test_numpy_and_torch_agree() -> None:
    features = np.random.default_rng(0).normal(size=(5, N - 1)).astype(np.float32)
    may_stop = np.ones((5, 1), np.float32)
    logits = network()(torch.as_tensor(np.hstack([features, may_stop]))).detach().numpy()
    np.testing.assert_allclose(StopRule(tensors()).log_odds(features), logits[:, 1] - logits[:, 0], atol=1e-5)


@pytest.mark.parametrize("name", ["stop.0.weight", "stop.1.bias", "stop.2.weight"])
def test_weights_without_a_stop_rule_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=f"hold no stop rule.*{name}"):
        StopRule({k: v for k, v in tensors().items() if k != name})


def test_a_rule_of_other_features_is_refused() -> None:
    with pytest.raises(WeightsError, match=f"reads {N} features"):
        StopRule({**tensors(), "stop.0.weight": torch.zeros(8, N + 1)})


def test_a_rule_without_forecasts_ignores_them() -> None:
    narrow = len(CURVE_FEATURES)
    rule = StopRule({**tensors(), "stop.0.weight": tensors()["stop.0.weight"][:, : narrow + 1]})
    features = np.random.default_rng(0).normal(size=(5, N - 1)).astype(np.float32)
    assert not rule.reads_forecasts
    assert StopRule(tensors()).reads_forecasts
    np.testing.assert_array_equal(rule.log_odds(features), rule.log_odds(features[:, :narrow]))
