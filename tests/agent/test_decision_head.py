"""The decision head: masks, and the rule that it starts from."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from stable_baselines3.common.distributions import CategoricalDistribution

from hf_rlsearch.agent.acquisition import (
    CANDIDATE_FEATURES,
    MIXTURE_FEATURES,
    READING_FEATURES,
    SEARCH_FEATURES,
    log_expected_improvement,
    mixture_features,
    reading_features,
    search_features,
)
from hf_rlsearch.agent.decision_head import DecisionHead
from hf_rlsearch.agent.network import N_BINS, bin_values

B, C = 5, 7
LOG_EI, FIDELITY = CANDIDATE_FEATURES.index("log_ei"), SEARCH_FEATURES.index("running_fidelity")


def inputs(seed: int = 0) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(seed)
    search = torch.randn(B, len(SEARCH_FEATURES), generator=generator)
    search[:, FIDELITY] = torch.rand(B, generator=generator)
    return torch.randn(B, C, len(CANDIDATE_FEATURES), generator=generator), search


def trained_head(seed: int = 0) -> DecisionHead:
    """A head whose last layers are not zero any more."""
    torch.manual_seed(seed)
    head = DecisionHead(width=8)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    return head.eval()


@settings(max_examples=20, deadline=None)
@given(st.lists(st.lists(st.booleans(), min_size=C + 1, max_size=C + 1), min_size=B, max_size=B), st.integers(0, 99))
def test_masked_actions_have_probability_zero_and_no_entropy(flags: list[list[bool]], seed: int) -> None:
    mask = torch.tensor(flags)
    mask[~mask.any(1), 0] = True
    with torch.no_grad():
        logits = trained_head(seed)(*inputs(seed), mask)
    distribution = CategoricalDistribution(C + 1).proba_distribution(logits)
    probabilities = distribution.distribution.probs
    assert (probabilities[~mask] == 0).all()
    assert (probabilities[mask] > 0).all()
    allowed = torch.where(mask, probabilities, torch.ones(()))
    np.testing.assert_allclose(distribution.entropy(), -(allowed * allowed.log()).sum(1), atol=1e-5)
    assert mask.gather(1, distribution.sample()[:, None]).all()
    assert mask.gather(1, distribution.mode()[:, None]).all()


def test_a_single_allowed_action_has_no_entropy() -> None:
    mask = torch.zeros(B, C + 1, dtype=torch.bool)
    mask[:, 2] = True
    logits = trained_head()(*inputs(), mask)
    assert CategoricalDistribution(C + 1).proba_distribution(logits).entropy().abs().max() == 0


def test_continuing_can_be_the_only_allowed_action() -> None:
    mask = torch.zeros(B, C + 1, dtype=torch.bool)
    mask[:, -1] = True
    logits = trained_head()(*inputs(), mask)
    assert logits.softmax(1)[:, -1].tolist() == [1.0] * B


def test_the_probabilities_of_candidates_and_continuing_add_up() -> None:
    logits = trained_head()(*inputs(), torch.ones(B, C + 1, dtype=torch.bool))
    np.testing.assert_allclose(logits.exp().sum(1).detach(), 1, rtol=1e-5)


def test_an_untrained_head_prefers_the_largest_expected_improvement() -> None:
    candidates, search = inputs()
    mask = torch.ones(B, C + 1, dtype=torch.bool)
    mask[:, -1] = False
    logits = DecisionHead()(candidates, search, mask)
    assert logits.argmax(1).tolist() == candidates[..., LOG_EI].argmax(1).tolist()
    ratio = (logits[:, 0] - logits[:, 1]) / (candidates[:, 0, LOG_EI] - candidates[:, 1, LOG_EI])
    np.testing.assert_allclose(
        ratio.detach(), 9.0, rtol=1e-3
    )  # three logits per unit of log EI, which is shown in thirds


def test_an_untrained_head_continues_what_is_promising_or_nearly_done() -> None:
    def log_odds(**columns: float) -> float:
        search = torch.zeros(1, len(SEARCH_FEATURES))
        for name, value in columns.items():
            search[0, SEARCH_FEATURES.index(name)] = value
        return DecisionHead().continue_logit(search).item()

    assert log_odds(running_log_ei=1.0, best_log_ei=-1.0) > 0 > log_odds(running_log_ei=-1.0, best_log_ei=1.0)
    assert log_odds(running_fidelity=0.95) > log_odds(running_fidelity=0.05)


def test_reordering_candidates_reorders_the_logits() -> None:
    candidates, search = inputs()
    mask = torch.ones(B, C + 1, dtype=torch.bool)
    order = torch.randperm(C, generator=torch.Generator().manual_seed(1))
    logits = trained_head()(candidates, search, mask)
    moved = trained_head()(candidates[:, order], search, mask)
    torch.testing.assert_close(moved, logits[:, [*order.tolist(), C]])


# ------------------------------------------------------------------------------------------------------------- features
def test_candidates_are_summarised_by_their_distribution() -> None:
    bins = bin_values()
    logits = torch.full((1, 3, N_BINS), -50.0)
    slight, sure = (int((bins > least).nonzero()[0]) for least in (0.001, 0.2))
    logits[0, 0, slight], logits[0, 1, sure], logits[0, 2, :] = 50.0, 50.0, 0.0
    mask = torch.tensor([[True, True, False]])
    features = mixture_features(logits.softmax(-1), bins, mask)[0]
    column = {name: features[:, i] for i, name in enumerate(MIXTURE_FEATURES)}
    assert column["mean"][:2].tolist() == pytest.approx([bins[slight].item(), bins[sure].item()])
    assert column["large_gain"][:2].tolist() == pytest.approx([-1, 1])
    assert column["gap_to_best_ei"][1] == 0
    assert column["rank"][1] == 0
    assert column["rank"][0] == pytest.approx(np.log1p(1) / 3)
    assert column["spread"][2] > column["spread"][1]
    assert column["upper"][2] > column["mean"][2]


def test_log_expected_improvement_has_a_floor() -> None:
    bins = bin_values()
    hopeless = torch.zeros(N_BINS)
    hopeless[0] = 1
    assert log_expected_improvement(hopeless, bins) == pytest.approx(-12, abs=0.05)


def test_readings_are_shown_apart() -> None:
    bins = bin_values()
    good, bad = torch.zeros(N_BINS), torch.zeros(N_BINS)
    good[-5], bad[3] = 1.0, 1.0
    # With names the first candidate is the better one, without them the second.
    readings = torch.stack([torch.stack([good, bad]), torch.stack([bad, good])])[:, None]
    mask, near, middle = torch.ones(1, 2, dtype=torch.bool), torch.tensor([[0.0, 0.4]]), torch.tensor([[0.5, 0.1]])
    features = reading_features(readings, bins, mask, near, middle)[0]
    column = {name: features[:, i].tolist() for i, name in enumerate(READING_FEATURES)}
    assert column["named_gap"] == [0.0, -3.0]
    assert column["hidden_gap"] == [-3.0, 0.0]
    assert column["disagreement"][0] == pytest.approx(column["disagreement"][1])
    assert column["disagreement"][0] > 0
    assert column["from_trials"] == pytest.approx([0.0, 0.4])
    assert column["from_middle"] == pytest.approx([1.0, 0.2])


def test_an_unknown_budget_has_its_own_feature() -> None:
    candidates, _ = inputs()
    mask = torch.ones(B, C, dtype=torch.bool)
    running = torch.tensor([-1, 2, 0, -1, 6])
    fidelity, left = torch.full((B,), 0.5), torch.full((B,), 3.0)
    total = torch.tensor([10.0, 10.0, torch.nan, torch.nan, 10.0])
    features = search_features(candidates, mask, running, fidelity, left, total, torch.full((B,), 7.0))
    column = {name: features[:, i] for i, name in enumerate(SEARCH_FEATURES)}
    assert column["budget_known"].tolist() == [1, 1, 0, 0, 1]
    assert column["log_done"].tolist() == pytest.approx([np.log(8) / 3] * B)
    assert column["left"].tolist() == pytest.approx([0.3, 0.3, 0, 0, 0.3])
    assert column["running"].tolist() == [0, 1, 1, 0, 1]
    assert column["running_fidelity"].tolist() == [0, 0.5, 0.5, 0, 0.5]
    assert column["running_log_ei"][1] == candidates[1, 2, LOG_EI]
    assert torch.isfinite(features).all()
