"""The agent: what it may choose, what it must not depend on, and what it does where it was not trained."""

import json
import time
from dataclasses import asdict, replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import FloatDistribution, IntDistribution

from hf_rlsearch.agent.acquisition import chance_above, expected_improvement, improvement_beside, joint_improvement
from hf_rlsearch.agent.agent import MAX_HYPERPARAMETERS, MAX_TRIALS, Agent, load_agent, shorten
from hf_rlsearch.agent.checkpoint import load_weights
from hf_rlsearch.agent.decision import Decision
from hf_rlsearch.agent.decision_head import DecisionHead
from hf_rlsearch.agent.network import Arrays, NetworkConfig, bin_values
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.history import COMPLETE, RUNNING, History
from hf_rlsearch.observation.observation import live_observation
from hf_rlsearch.space import SearchSpace
from tests.helpers.searches import SPACE, history_of, random_history, random_predictor, random_rows

GRID = SPACE.grid(10_000)


def decide(
    history: History,
    rows: np.ndarray = GRID,
    mask: np.ndarray | None = None,
    *,
    space: SearchSpace = SPACE,
    agent: Agent | None = None,
    seed: int = 0,
    n_remaining: int | None = None,
    acquisition_weight: np.ndarray | None = None,
    **facts: float,
) -> Decision:
    mask = np.ones(len(rows), bool) if mask is None else mask
    rng = np.random.default_rng(seed)
    return (agent or load_agent()).decide(
        space,
        history,
        rows,
        mask=mask,
        n_remaining=n_remaining,
        facts=facts,
        rng=rng,
        acquisition_weight=acquisition_weight,
    )


# ------------------------------------------------------------------------------------------------- what it may choose
@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(0, 10**6), st.data())
def test_a_masked_candidate_is_never_chosen(n_trials: int, seed: int, data: st.DataObject) -> None:
    mask = np.array(data.draw(st.lists(st.booleans(), min_size=12, max_size=12)))
    mask[data.draw(st.integers(0, 11))] = True
    decision = decide(random_history(n_trials, seed), GRID[:12], mask)
    assert mask[decision.index]


def test_the_only_candidate_is_chosen_for_sure() -> None:
    mask = np.zeros(len(GRID), bool)
    mask[17] = True
    decision = decide(random_history(5), mask=mask)
    assert decision.index == 17
    assert decision.probability == pytest.approx(1)


@settings(max_examples=15, deadline=None)
@given(st.integers(0, 10), st.integers(0, 10**6), st.permutations(range(20)))
def test_the_order_of_candidates_does_not_matter(n_trials: int, seed: int, order: list[int]) -> None:
    rows, history = np.unique(random_rows(60, seed), axis=0)[:20], random_history(n_trials, seed)
    order = [i for i in order if i < len(rows)]
    first, second = decide(history, rows), decide(history, rows[order])
    if order[second.index] != first.index:  # a tie: both are equally good
        assert second.improvement == pytest.approx(first.improvement, rel=1e-3, abs=1e-6)


def test_improvement_counts_as_much_as_it_is_worth() -> None:
    history = random_history(5)
    usual = decide(history)
    other = next(i for i in range(len(GRID)) if i != usual.index)
    cheap = np.where(np.arange(len(GRID)) == other, 1e9, 1.0)
    bought = decide(history, acquisition_weight=cheap)
    assert bought.index == other
    assert bought.alternative is not None
    assert usual.alternative is not None
    assert bought.alternative.improvement == pytest.approx(usual.improvement)
    assert decide(history, acquisition_weight=np.full(len(GRID), 3.0)).index == usual.index


@settings(max_examples=10, deadline=None)
@given(st.integers(1, 10), st.integers(0, 10**6), st.randoms())
def test_the_order_of_trials_does_not_matter(n_trials: int, seed: int, random: Any) -> None:
    history, order = random_history(n_trials, seed), list(range(n_trials))
    random.shuffle(order)
    moved = History(
        history.numbers[order],
        tuple(history.params[i] for i in order),
        history.values[order],
        history.fidelity[order],
        history.status[order],
        tuple(history.curves[i] for i in order),
    )
    assert decide(moved).improvement == pytest.approx(decide(history).improvement, rel=1e-3, abs=1e-6)


def test_the_same_state_gives_the_same_decision() -> None:
    assert decide(random_history(6), seed=4) == decide(random_history(6), seed=4)


def test_a_decision_explains_itself() -> None:
    for n_trials in (0, 7):
        decision = decide(random_history(n_trials), maximize=1.0)
        assert decision.source == "predictor"
        assert 0 < decision.probability <= 1
        assert 0 <= decision.chance <= 1
        assert decision.improvement >= max(decision.mean, 0)
        assert decision.spread > 0
        assert decision.n_candidates == len(GRID)
        assert set(decision.contributions) == set(decision.prior_contributions) == set(SPACE.names)
        assert json.loads(json.dumps(decision.to_json()))["index"] == decision.index
        assert {number for number, _ in decision.attention} <= set(range(n_trials))


def test_the_status_of_a_trial_changes_the_decision() -> None:
    rows, values = random_rows(6), np.arange(6.0)
    finished = decide(history_of(rows, values))
    running = decide(history_of(rows, values, status=np.array([COMPLETE] * 3 + [RUNNING] * 3)))
    assert finished.to_json() != running.to_json()


# ------------------------------------------------------------------------------------------- beside trials that run
def batch(n: int, history: History) -> list[int]:
    """Candidates that so many workers choose one after the other, before any of them has a result."""
    chosen: list[int] = []
    for number in range(n):
        rows = np.concatenate([np.array([SPACE.nearest_levels(p) for p in history.params]), GRID[chosen]]).astype(int)
        status = np.array([*history.status, *[RUNNING] * number])
        values = np.array([*history.values, *[np.nan] * number])
        mask = np.ones(len(GRID), bool)
        mask[chosen] = False
        chosen.append(decide(history_of(rows, values, status=status), mask=mask, seed=number).index)
    return chosen


def test_what_workers_choose_at_the_same_time_is_spread_out() -> None:
    """Without regard for the running trials they would choose neighbours of one promising candidate."""
    histories = [history_of(random_rows(4, seed), np.arange(4.0)) for seed in range(6)]
    place = GRID / np.maximum(SPACE.n_levels - 1, 1)

    def apart(rows: np.ndarray) -> float:
        return float(np.abs(place[rows][:, None] - place[rows][None]).sum(2).mean())

    with_regard = [apart(np.array(batch(6, history))) for history in histories]
    promising = [apart(np.argsort(-chances_of(history))[:6]) for history in histories]
    assert np.mean(with_regard) > 1.15 * np.mean(promising)


def chances_of(history: History) -> np.ndarray:
    """Of each candidate the expected improvement that is predicted, whatever runs."""
    agent, mask = load_agent(), np.ones(len(GRID), bool)
    with torch.inference_mode():
        arrays = Arrays.of(live_observation(SPACE, history, GRID, mask, {}))
        return np.asarray(expected_improvement(agent.mixture(arrays)[0], agent.mixture.bins))


def test_improvement_beside_a_running_trial() -> None:
    bins = bin_values()
    generator = torch.Generator().manual_seed(0)
    candidates = torch.softmax(torch.randn(5, len(bins), generator=generator), -1)
    alone = expected_improvement(candidates, bins)

    def beside(correlation: float) -> torch.Tensor:
        columns = torch.full((6, 1), correlation)
        columns[-1] = 1.0
        draws = [
            improvement_beside(candidates, bins, candidates[:1], columns, torch.Generator().manual_seed(seed))
            for seed in range(20)
        ]
        return torch.stack(draws).mean(0)

    # Of independent outcomes the joint improvement is known: that of the best of both, less that of the running one.
    both = torch.stack([joint_improvement(candidates[[0, i]], bins, 2, torch.ones(2)) for i in range(1, 5)]) - alone[0]
    assert torch.allclose(beside(0.0)[1:], both, rtol=0.05)
    assert (beside(0.0) < alone).all()
    assert (beside(0.999)[0] < 0.1 * alone[0]).all()  # as good as the same configuration again
    assert (beside(0.5)[0] < beside(0.0)[0]).all()


def test_running_trials_whose_correlation_is_no_correlation_do_no_harm() -> None:
    bins = bin_values()
    flat = torch.full((3, len(bins)), 1 / len(bins))
    broken = torch.tensor([[0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [1.0, 2.0], [2.0, 1.0]])
    found = improvement_beside(flat, bins, flat[:2], broken, torch.Generator().manual_seed(0))
    assert found.isfinite().all()


@pytest.mark.parametrize("best", [1, 4, 7])
def test_it_finds_the_best_learning_rate(best: int) -> None:
    """A bowl over nine learning rates: half of them are enough."""
    space = SearchSpace.from_distributions({"learning_rate": FloatDistribution(1e-5, 1e-3, log=True)}, n_points=9)
    grid = space.grid(100)
    chosen: list[int] = []
    for number in range(5):
        history = history_of(grid[chosen], -((np.array(chosen) - best) ** 2.0), space=space)
        mask = ~np.isin(np.arange(9), chosen)
        chosen.append(decide(history, grid, mask, space=space, seed=number).index)
    assert best in chosen


# ------------------------------------------------------------------------------------------ where it was not trained
def wide(n: int) -> SearchSpace:
    return SearchSpace.from_distributions({f"x{i}": IntDistribution(0, 4) for i in range(n)})


def test_more_hyperparameters_than_it_knows_are_spread_evenly(caplog: pytest.LogCaptureFixture) -> None:
    space = wide(MAX_HYPERPARAMETERS + 1)
    H = MAX_HYPERPARAMETERS + 1
    rows = np.array([[0] * H, [4] * H, [1] * H, [3] * H])
    first = decide(history_of(rows[:0], np.empty(0), space=space), rows, space=space)
    assert first.source == "design"
    after = history_of(rows[:1], np.zeros(1), space=space)
    assert decide(after, rows, space=space).index == 1
    blocked = np.array([True, False, True, True])
    assert decide(after, rows, blocked, space=space).index == 3
    both = history_of(rows[:2], np.zeros(2), space=space)
    assert decide(both, rows, space=space).index in (2, 3)
    (said,) = [record.getMessage() for record in caplog.records]  # once
    assert "25 hyperparameters, and the agent predicts nothing for more than 24" in said


def test_as_many_hyperparameters_as_it_knows_are_scored() -> None:
    space = wide(MAX_HYPERPARAMETERS)
    rows = random_rows(10, space=space)
    assert decide(random_history(4, space=space), rows, space=space).source == "predictor"


def test_a_history_of_thousands_is_fine() -> None:
    history = random_history(3000)
    decide(random_history(1))
    began = time.process_time()
    decision = decide(history)
    assert time.process_time() - began < 2
    assert np.isfinite([decision.improvement, decision.mean, decision.spread]).all()


def test_a_long_history_keeps_the_best_and_the_latest() -> None:
    values = np.random.default_rng(0).permutation(np.arange(500.0))
    values[7] = np.nan
    short = shorten(history_of(random_rows(500), values))
    assert len(short) == MAX_TRIALS
    assert (np.diff(short.numbers) > 0).all()
    assert set(range(499, 499 - MAX_TRIALS // 2, -1)) <= set(short.values[~np.isnan(short.values)].astype(int).tolist())
    assert short.numbers[-1] == 499
    assert short.params[-1] == SPACE.decode(random_rows(500)[499])
    assert 7 not in short.numbers
    same = random_history(MAX_TRIALS)
    assert shorten(same) is same


@pytest.mark.parametrize("value", [0.0, 1e30, -1e30, 1e-30])
def test_absurd_values_are_survived(value: float) -> None:
    values = np.array([value, -value, 3 * value, value])
    decision = decide(history_of(random_rows(4), values))
    assert np.isfinite([decision.improvement, decision.probability]).all()


@pytest.mark.parametrize("with_price", [False, True])
def test_scores_that_are_no_numbers_leave_the_choice_to_the_design(with_price: bool) -> None:
    """Finite weights of 1e30 overflow within the network."""
    tensors, card = load_weights()
    agent = Agent({k: v * 1e30 if k.startswith("predictor.") else v for k, v in tensors.items()}, card)
    history, mask = random_history(6), np.arange(12) >= 9
    weight = np.ones(12) if with_price else None
    decision = decide(history, GRID[:12], mask, agent=agent, acquisition_weight=weight)
    assert (decision.source, decision.n_candidates) == ("design", 3)
    assert decision.index >= 9
    assert "nan" not in json.dumps(decision.to_json()).lower()
    running = replace(history, status=np.where(history.numbers == 5, RUNNING, COMPLETE))
    assert agent.forecast(SPACE, running, 5, GRID[:12], mask=mask, facts={}) is None


# -------------------------------------------------------------------------------------------------- threads, weights
def test_it_decides_on_one_thread_whoever_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    agent, before, during = load_agent(), torch.get_num_threads(), []
    score = agent.mixture.score

    def watched(*arguments: Any) -> Any:
        during.append(torch.get_num_threads())
        return score(*arguments)

    monkeypatch.setattr(agent.mixture, "score", watched)
    torch.set_num_threads(2)
    try:
        decide(random_history(3), agent=agent)
        assert set(during) == {1}
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_weights_are_loaded_once() -> None:
    assert load_agent() is load_agent()


def test_tensors_that_do_not_fit_their_card_are_refused() -> None:
    tensors, card = load_weights()
    missing = {k: v for k, v in tensors.items() if k != "predictor.0.scales.weight"}
    with pytest.raises(WeightsError, match=r"(?s)do not fit the network .*scales\.weight"):
        Agent(missing, card)


def test_a_network_that_this_version_does_not_know_is_refused() -> None:
    tensors, card = load_weights()
    with pytest.raises(WeightsError, match=r"do not fit the network .*depth"):
        Agent(tensors, replace(card, network={**card.network, "depth": 3}))


def test_weights_of_another_size_work() -> None:
    predictor = random_predictor()
    tensors = {f"predictor.{i}.{k}": v for i in range(3) for k, v in predictor.state_dict().items()}
    config = NetworkConfig(width=16, heads=2, history_blocks=1, candidate_blocks=1)
    agent = Agent(tensors, replace(load_weights()[1], network=asdict(config)))
    assert len(agent.mixture.predictors) == 3
    assert decide(random_history(3), agent=agent).source == "predictor"


# ------------------------------------------------------------------------------------------------- the decision head
def with_head(scale: float, seed: int = 0) -> Agent:
    """The bundled predictor with a head of random weights; with scale 0 an untrained one."""
    tensors, card = load_weights()
    generator = torch.Generator().manual_seed(seed)
    own = {k: v for k, v in tensors.items() if not k.startswith("head.")}
    for name, value in DecisionHead().state_dict().items():
        own[f"head.{name}"] = torch.randn(value.shape, generator=generator) * scale
    return Agent(own, card)


def test_the_head_decides_whether_or_not_the_budget_is_known() -> None:
    agent, history = with_head(0.5), random_history(4)
    mask = np.zeros(len(GRID), bool)
    mask[::5] = True
    for n_remaining in (None, 6, 1):
        decision = decide(history, mask=mask, agent=agent, n_remaining=n_remaining)
        assert decision.source == "policy"
        assert mask[decision.index]
        assert 0 < decision.probability <= 1


def test_an_untrained_head_chooses_what_the_predictor_chooses() -> None:
    for seed in range(5):
        history = random_history(5, seed)
        blind = decide(history, agent=with_head(0.0))
        planned = decide(history, agent=with_head(0.0), n_remaining=4)
        assert planned.improvement == pytest.approx(blind.improvement, rel=1e-3)


def test_the_head_may_plan_otherwise_near_the_end() -> None:
    agents = [with_head(1.0, seed) for seed in range(4)]
    histories = [random_history(5, seed) for seed in range(4)]
    early = [decide(h, agent=a, n_remaining=40).index for a in agents for h in histories]
    late = [decide(h, agent=a, n_remaining=1).index for a in agents for h in histories]
    assert early != late


def test_a_head_that_does_not_fit_is_refused() -> None:
    tensors, card = load_weights()
    with pytest.raises(WeightsError, match="do not fit the network"):
        Agent({**tensors, "head.residual.0.weight": torch.zeros(2, 2)}, card)


def test_chances_are_read_from_the_bins() -> None:
    """A certain outcome in the bin around 0 is above -0.5 and not above 0.5; far below 0 the scale is compressed."""
    bins = bin_values()
    certain = torch.zeros(1, len(bins))
    certain[0, bins.abs().argmin()] = 1.0
    assert chance_above(certain, bins, -0.5).item() == 1
    assert chance_above(certain, bins, 0.5).item() == 0
    even = torch.full((1, len(bins)), 1 / len(bins))
    chances = [chance_above(even, bins, at).item() for at in (-1e6, -3.0, -1.0, 0.0, 1.0, 9.0)]
    assert chances == sorted(chances, reverse=True)
    assert (chances[0], chances[-1]) == (pytest.approx(1), 0)
    assert 0.9 < chances[1] < 1
