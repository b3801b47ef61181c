"""The agents that learn within a search: what they learn, and that a search can be continued."""

from typing import Any

import numpy as np
import optuna
import pytest
import torch
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.agent import AGENTS, META_TRAINED
from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.agent.learners import (
    _LEARNERS,
    OnlineAgent,
    ScratchAgent,
    _HeadLearner,
    _reward,
    online_agent,
    scratch_agent,
)
from hf_rlsearch.observation.history import FAILED, RUNNING, History
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna.sampler import CostCooling
from hf_rlsearch.space import SearchSpace
from tests.helpers.searches import history_of

pytestmark = pytest.mark.usefixtures("quiet")

UNTRAINED = [name for name in AGENTS if name != META_TRAINED]
SPACE = SearchSpace.from_distributions(
    {
        "kind": CategoricalDistribution(["good", "bad", "worse"]),
        "rate": FloatDistribution(0.0, 1.0),
        "other": FloatDistribution(0.0, 1.0),
    },
    n_points=4,
)
CANDIDATES = SPACE.grid(1000)
QUALITY = np.array([1.0, 0.0, -1.0])


def decide(
    agent: ScratchAgent,
    history: History,
    *,
    n_remaining: int | None = 1,
    mask: Any = None,
    seed: int = 0,
    weight: Any = None,
) -> Any:
    return agent.decide(
        SPACE,
        history,
        CANDIDATES,
        mask=np.ones(len(CANDIDATES), bool) if mask is None else mask,
        n_remaining=n_remaining,
        facts={},
        rng=np.random.default_rng(seed),
        acquisition_weight=weight,
    )


def history(n_trials: int, **columns: Any) -> History:
    rows = CANDIDATES[np.random.default_rng(0).permutation(len(CANDIDATES))[:n_trials]]
    return history_of(rows, QUALITY[rows[:, 0]] + 0.01 * rows[:, 1], space=SPACE, **columns)


@pytest.mark.parametrize("name", UNTRAINED)
def test_it_learns_within_the_search(name: str) -> None:
    agent, seen = ScratchAgent(name, 0), history(30)
    chosen = [CANDIDATES[decide(agent, seen, seed=seed).index, 0] for seed in range(40)]
    agent = ScratchAgent(name, 0)
    untrained = [CANDIDATES[decide(agent, history(0), n_remaining=30, seed=seed).index, 0] for seed in range(40)]
    assert np.mean(QUALITY[chosen]) > 0.6  # 0 at random
    assert abs(np.mean(QUALITY[untrained])) < 0.4


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_new_agent_that_is_taught_the_trials_decides_as_the_one_that_made_them(name: str) -> None:
    steady, seen = ScratchAgent(name, 3), history(11)
    for n in range(11):
        before = seen.select(np.arange(11) < n)
        one_by_one = decide(steady, before, n_remaining=11 - n)
    assert one_by_one == decide(ScratchAgent(name, 3), before)
    assert decide(steady, history(4)) == decide(ScratchAgent(name, 3), history(4))  # of a search that it has not seen


@pytest.mark.parametrize("name", UNTRAINED)
def test_the_random_numbers_of_the_process_stay_as_they_are(name: str) -> None:
    np.random.seed(1)
    torch.manual_seed(1)
    expected = np.random.random(), torch.rand(1)
    np.random.seed(1)
    torch.manual_seed(1)
    decide(ScratchAgent(name, 0), history(9))
    assert (np.random.random(), torch.rand(1)) == expected


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_masked_candidate_is_never_chosen(name: str) -> None:
    mask = np.zeros(len(CANDIDATES), bool)
    mask[[3, 40]] = True
    agent = ScratchAgent(name, 0)
    assert {decide(agent, history(9), mask=mask, n_remaining=20, seed=seed).index for seed in range(30)} <= {3, 40}


@pytest.mark.parametrize("name", UNTRAINED)
@pytest.mark.parametrize("n_trials", [0, 9])
def test_what_costs_less_or_is_likelier_to_be_allowed_is_chosen_more_often(name: str, n_trials: int) -> None:
    """By the factors that the meta-trained agent gets, in random choices too; without any all is as with equal ones."""
    agent, seen, half = ScratchAgent(name, 0), history(n_trials), np.arange(len(CANDIDATES)) % 2 == 0

    def chosen(weight: Any) -> list[int]:
        return [decide(agent, seen, n_remaining=40, seed=seed, weight=weight).index for seed in range(60)]

    assert np.mean(half[chosen(np.where(half, 1.0, 0.01))]) > 0.9
    assert np.mean(half[chosen(np.where(half, 0.01, 1.0))]) < 0.1
    assert chosen(None) == chosen(np.full(len(CANDIDATES), 0.25))


@pytest.mark.parametrize("name", UNTRAINED)
def test_factors_as_small_as_numbers_can_be_do_no_harm(name: str) -> None:
    weight = np.full(len(CANDIDATES), 1e-300)
    decision = decide(ScratchAgent(name, 0), history(9), weight=weight)
    assert np.isfinite(decision.probability)


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_search_weighs_prices_and_keeps_to_constraints(name: str) -> None:
    """Half of the values of `n` cost next to nothing, and half of those of `x` are not allowed."""

    def objective(trial: optuna.Trial) -> float:
        x = trial.suggest_float("x", -1, 1)
        trial.set_user_attr("excess", x)
        return x**2 + trial.suggest_int("n", 0, 7)

    space = SearchSpace.from_distributions({"x": FloatDistribution(-1, 1), "n": IntDistribution(0, 7)}, n_points=8)

    def price(space: SearchSpace, rows: Any) -> Any:
        return np.where(rows[:, space.names.index("n")] < 4, 1.0, 1e8)

    sampler = RLSampler(
        seed=1, n_trials=24, agent=name, search_space=space, constraints_func=lambda trial: [trial.user_attrs["excess"]]
    )
    sampler.plan_for(24, CostCooling(price=price, left=24e8, total=24e8))
    study = optuna.create_study(sampler=sampler)
    study.optimize(objective, n_trials=12)
    late = study.trials[3:]
    assert np.mean([trial.params["n"] < 4 for trial in late]) > 0.8
    assert np.mean([trial.params["x"] <= 0 for trial in late]) > 0.6
    assert study.trials[0].system_attrs["rl:decision"]["price"] in (1.0, 1e8)


def test_dqn_explores_less_the_less_of_the_search_is_left() -> None:
    agent, seen = ScratchAgent("dqn", 0), history(20)

    def greedy(n_remaining: int) -> float:
        return max(decide(agent, seen, n_remaining=n_remaining, seed=seed).probability for seed in range(30))

    assert greedy(1) == greedy(20) == pytest.approx(0.95, abs=0.01)  # half of the search is over
    assert greedy(60) == pytest.approx(0.475, abs=0.02)  # a quarter of it


def test_the_reward_is_the_share_of_the_other_trials_that_are_worse() -> None:
    assert _reward(np.array([5.0])) == 0.0
    assert _reward(np.array([1.0, 2.0, 3.0, 2.5])) == pytest.approx(1 / 3)
    assert _reward(np.array([1.0, 1.0])) == 0.0
    assert _reward(np.array([np.nan, -1e300, 1e300])) == 1.0
    assert _reward(np.array([1.0, np.nan])) == -1.0


@pytest.mark.parametrize("name", UNTRAINED)
def test_running_trials_teach_nothing_and_failed_ones_do(name: str) -> None:
    status = np.array([0] * 9 + [RUNNING])
    assert decide(ScratchAgent(name, 0), history(10, status=status)) == decide(ScratchAgent(name, 0), history(9))
    values = np.array([*history(9).values, np.nan])
    failed = history_of(CANDIDATES[:10], values, space=SPACE, status=np.array([0] * 9 + [FAILED]))
    learner = _LEARNERS[name](SPACE, CANDIDATES, {}, 0)
    learner.learn(failed)
    assert learner.left.sum() == len(CANDIDATES) - 10


@pytest.mark.parametrize("name", UNTRAINED)
def test_a_search_that_is_continued_is_equal_to_one_that_never_stopped(name: str) -> None:
    def objective(trial: optuna.Trial) -> float:
        return trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_int("n", 0, 3)

    def params(*lengths: int) -> list[dict[str, Any]]:
        study = optuna.create_study()
        for length in lengths:
            scratch_agent.cache_clear()
            study.sampler = RLSampler(seed=5, n_trials=12, agent=name)
            study.optimize(objective, n_trials=length)
        return [trial.params for trial in study.trials]

    assert params(12) == params(5, 7)


# ------------------------------------------------------------------------------------------- the meta-trained agent
def test_the_head_starts_as_expected_improvement_and_learns_after_eight_trials() -> None:
    agent = online_agent(load_agent(), 0)
    seen = history(17)

    def head(n: int) -> dict[str, torch.Tensor]:
        learner = _HeadLearner(SPACE, agent.agent, {}, 0)
        learner.learn(seen.select(np.arange(17) < n))
        return {name: tensor.clone() for name, tensor in learner.head.state_dict().items()}

    untrained, once, twice = head(7), head(8), head(17)
    last = [name for name in untrained if name.startswith("residual.4")]
    assert all((untrained[name] == 0).all() for name in last)
    assert any((once[name] != 0).any() for name in last)
    assert any(not torch.equal(once[name], twice[name]) for name in last)


def test_an_online_agent_decides_by_its_head_and_leaves_the_shipped_agent_as_it_is() -> None:
    online = OnlineAgent(load_agent(), 0)
    decision = decide(online, history(9))
    assert (decision.source, load_agent().head) == ("policy", None)
    assert decide(online, history(7)).index == decide(load_agent(), history(7), n_remaining=None).index


def test_an_online_search_that_is_continued_is_equal_to_one_that_never_stopped() -> None:
    def params(*lengths: int) -> list[dict[str, Any]]:
        study = optuna.create_study()
        for length in lengths:
            online_agent.cache_clear()
            study.sampler = RLSampler(seed=2, n_trials=20, learn="online")
            study.optimize(lambda trial: trial.suggest_float("x", -1, 1) ** 2 + trial.suggest_int("n", 0, 3), length)
        return [trial.params for trial in study.trials]

    assert params(11) == params(5, 6)
