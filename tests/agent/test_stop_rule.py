"""The stop rule: from which rule PPO starts, and the network in numpy."""

import numpy as np
import pytest
import torch

from hf_rlsearch.agent.stop_rule import StopRule, before_learning, few_made_it_up, gain_per_price
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.curve_features import STOP_FEATURES

N = len(STOP_FEATURES) + 1


def tensors() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = {"stop.0": (8, N), "stop.1": (8, 8), "stop.2": (2, 9)}
    weights = {f"{name}.weight": torch.randn(shape, generator=generator) for name, shape in shapes.items()}
    return weights | {f"{name}.bias": torch.randn(shape[:1], generator=generator) for name, shape in shapes.items()}


def features(**columns: float) -> np.ndarray:
    found = np.zeros((1, len(STOP_FEATURES)))
    for name, value in columns.items():
        found[0, STOP_FEATURES.index(name)] = value
    return found


def test_the_network_reads_the_features_and_the_rule_from_which_it_started() -> None:
    seen, given = np.random.default_rng(0).normal(size=(5, N - 1)).astype(np.float32), tensors()
    x = torch.as_tensor(np.hstack([seen, np.ones((5, 1), np.float32)]))
    for i in (0, 1):
        x = torch.tanh(torch.nn.functional.linear(x, given[f"stop.{i}.weight"], given[f"stop.{i}.bias"]))
    x = torch.cat([x, torch.as_tensor(before_learning(seen), dtype=torch.float32)[:, None]], 1)
    logits = torch.nn.functional.linear(x, given["stop.2.weight"], given["stop.2.bias"]).numpy()
    np.testing.assert_allclose(StopRule(given).log_odds(seen), logits[:, 1] - logits[:, 0], atol=1e-5)


def test_a_trial_is_given_up_where_another_promises_more_for_its_price() -> None:
    """Features of expected improvements are a third of their logarithms; prices are logarithms."""
    halfway = {"forecast_known": 1.0, "fidelity": 0.5, "forecast_log_ei": 0.0}
    assert gain_per_price(features(**halfway, fresh_log_ei=np.log(2) / 3 + 0.01))[0] > 0
    assert gain_per_price(features(**halfway, fresh_log_ei=np.log(2) / 3 - 0.01))[0] < 0
    assert gain_per_price(features(**halfway, fresh_log_ei=np.log(2) / 3 - 0.01, price=0.1))[0] > 0


@pytest.mark.parametrize(("made_up", "stops"), [(0.5, False), (0.3, False), (0.25, True), (0.1, True)])
def test_without_forecasts_the_complete_trials_decide(made_up: float, *, stops: bool) -> None:
    seen = features(made_up=2 * made_up - 1, fresh_log_ei=3.0)
    assert (before_learning(seen)[0] > 0) == stops
    assert before_learning(seen)[0] == np.clip(few_made_it_up(seen)[0], -3, 3)


@pytest.mark.parametrize("name", ["stop.0.weight", "stop.1.bias", "stop.2.weight"])
def test_weights_without_a_stop_rule_are_refused(name: str) -> None:
    with pytest.raises(WeightsError, match=f"hold no stop rule.*{name}"):
        StopRule({k: v for k, v in tensors().items() if k != name})


def test_a_rule_of_other_features_is_refused() -> None:
    with pytest.raises(WeightsError, match=f"reads {N} features"):
        StopRule({**tensors(), "stop.0.weight": torch.zeros(8, N + 1)})
