"""Which trials a prediction looked at."""

import numpy as np
import pytest
import torch

from hf_rlsearch.agent.layers import BiasedAttention, Block
from hf_rlsearch.agent.mixture import EncodedReadings, Mixture
from hf_rlsearch.agent.network import Arrays, bin_values
from hf_rlsearch.agent.shapley import AttendedMean, PredictedMean, mean_and_spread
from hf_rlsearch.observation.observation import live_observation
from tests.helpers.searches import SPACE, history_of, random_history, random_predictor, random_rows

ROW = random_rows(1, 7)[0]


def encode_history(n_trials: int) -> tuple[Arrays, EncodedReadings]:
    observation = live_observation(SPACE, random_history(n_trials), ROW[None], np.ones(1, bool), {})
    arrays = Arrays.of(observation)
    return arrays, mixture().encode_history(arrays)


def mixture() -> Mixture:
    return Mixture([random_predictor()])


def test_the_weights_are_those_that_the_values_are_mixed_with() -> None:
    torch.manual_seed(0)
    attention = BiasedAttention(8, 1)
    x, trials, bias = torch.randn(2, 3, 8), torch.randn(2, 5, 8), torch.randn(2, 1, 3, 6)
    memory = attention.remember(trials)
    weights = attention.weights(x, memory, bias)
    value = torch.cat([attention.null_value.expand(2, 1, 8), attention.key_value(trials)[..., 8:]], 1)
    torch.testing.assert_close(attention.out(weights @ value), attention(x, memory, bias), atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("n_trials", [0, 6])
@torch.inference_mode()
def test_attention_is_a_share_of_each_trial_and_of_none(n_trials: int) -> None:
    arrays, encoded = encode_history(n_trials)
    shares = mixture().explain(encoded, arrays.candidates)[1]
    assert shares.shape == (1, 1, 1 + n_trials)
    assert (shares >= 0).all()
    assert float(shares.sum()) == pytest.approx(1, abs=1e-5)


@torch.inference_mode()
def test_trials_are_named_by_their_numbers_largest_share_first() -> None:
    arrays, encoded = encode_history(6)
    shares = mixture().explain(encoded, arrays.candidates)[1][0, 0, 1:].numpy()
    explained = AttendedMean(mixture(), encoded, ROW)
    rows = np.concatenate([random_rows(3, 8), ROW[None]])
    np.testing.assert_allclose(explained(rows), PredictedMean(mixture(), encoded)(rows), atol=1e-5)
    found = explained.most_attended(np.arange(100, 106))
    assert 1 <= len(found) <= 5
    assert [number for number, _ in found] == [100 + i for i in np.argsort(-shares)[: len(found)]]
    assert [weight for _, weight in found] == pytest.approx(sorted(shares, reverse=True)[: len(found)], rel=1e-4)


@torch.inference_mode()
def test_the_mean_is_that_of_the_predicted_distribution() -> None:
    rows = random_rows(4, 3)
    arrays = Arrays.of(live_observation(SPACE, random_history(5), rows, np.ones(4, bool), {}))
    p = mixture()(arrays)[0]
    found = PredictedMean(mixture(), mixture().encode_history(arrays))(rows)
    np.testing.assert_allclose(found, (p * bin_values()).sum(-1), atol=1e-4)


def test_mean_and_spread_of_a_coin() -> None:
    mean, spread = mean_and_spread(torch.tensor([0.5, 0.5]), torch.tensor([-1.0, 3.0]))
    assert (float(mean), float(spread)) == (1.0, 2.0)


def test_a_block_of_weights_takes_what_the_block_takes() -> None:
    block, x = Block(8, 2), torch.randn(1, 3, 8)
    memory, bias = block.remember(torch.randn(1, 4, 8)), torch.zeros(1, 2, 3, 5)
    assert block(x, memory, bias).shape == x.shape
    assert block.weights(x, memory, bias).shape == (1, 3, 5)


def test_a_trial_like_the_candidate_gets_more_attention_than_one_unlike_it() -> None:
    """With the shipped weights: the closest of many trials is among those that are named."""
    from hf_rlsearch.agent.agent import load_agent

    rows = random_rows(30, 11)
    history = history_of(rows, np.random.default_rng(0).normal(size=30), numbers=np.arange(30) + 50)
    same = np.ones(len(rows), bool)
    decision = load_agent().decide(
        SPACE, history, rows[:1], mask=same[:1], n_remaining=None, facts={}, rng=np.random.default_rng(0)
    )
    assert 50 in [number for number, _ in decision.attention]
