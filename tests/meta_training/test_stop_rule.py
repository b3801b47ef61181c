"""Forecasts of running trials."""

import numpy as np
import pytest
import torch

from hf_rlsearch.agent.acquisition import forecast_features
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import N_BINS, NetworkConfig, Predictor, bin_values
from hf_rlsearch.agent.stop_rule import StopRule, before_learning
from hf_rlsearch.envs.stop_env import STOP, StopSearch, StopVecEnv
from hf_rlsearch.meta_training import stop_rule
from hf_rlsearch.meta_training.stop_rule import Forecaster, StopTraining
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES, STOP_FEATURES
from hf_rlsearch.tasks.prior import TaskBatch, draw


def certain(bins: list[list[int]]) -> torch.Tensor:
    """B x C x N_BINS distributions that are sure of one bin each."""
    return torch.nn.functional.one_hot(torch.tensor(bins), N_BINS).float()


def column(features: torch.Tensor, name: str) -> list[float]:
    return features[:, FORECAST_FEATURES.index(name)].tolist()


def test_the_running_trial_is_described_and_the_best_allowed_candidate_is_picked() -> None:
    values = bin_values()
    features, pick = forecast_features(
        certain([[0, 20, 29], [25, 3, 3]]), values, torch.tensor([1, 0]), torch.tensor([[1, 1, 0], [1, 1, 1]]).bool()
    )
    assert pick.tolist() == [1, 0]
    np.testing.assert_allclose(column(features, "forecast_gap"), values[[20, 25]], rtol=1e-5)
    assert column(features, "forecast_chance") == [1.0, 1.0]
    assert column(features, "forecast_known") == [1.0, 1.0]
    assert max(column(features, "forecast_spread")) < 1e-3
    assert column(features, "fresh_log_ei") == column(features, "forecast_log_ei")


def large(rng: np.random.Generator, n_tasks: int) -> TaskBatch:
    return draw(rng, n_tasks, 300)


def search(forecaster: Forecaster | None = None) -> StopSearch:
    return StopSearch(12, 0, lambda rng, n: draw(rng, n, 16), forecasts=forecaster)


def forecaster() -> Forecaster:
    torch.manual_seed(0)
    predictor = Predictor(NetworkConfig(width=16, heads=2, history_blocks=1, candidate_blocks=1))
    return Forecaster(Mixture([predictor]))


def test_only_what_is_wanted_is_computed() -> None:
    searching = search()
    searching.decide(np.zeros(12, bool))
    wanted = np.arange(12) < 5
    features, picks = forecaster()(searching, wanted)
    assert (features[wanted, 0] == 1).all()
    assert (features[~wanted] == 0).all()
    allowed = searching.action_masks()[:, :-1]
    assert allowed[np.flatnonzero(wanted), picks[wanted]].all()


def test_what_runs_is_forecast_alike_whatever_it_is_set_beside(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of many candidates some are drawn, the running one is always asked about."""
    monkeypatch.setattr(stop_rule, "N_ALTERNATIVES", 3)
    searching, asking = search(), forecaster()
    searching.decide(np.zeros(12, bool))
    made = []
    for used in range(6):
        searching.used = used  # others are drawn at each evaluation
        made.append(asking(searching, np.ones(12, bool)))
    own = [FORECAST_FEATURES.index(f"forecast_{name}") for name in ("gap", "spread", "chance", "log_ei")]
    for features, _ in made[1:]:
        np.testing.assert_allclose(features[:, own], made[0][0][:, own], rtol=1e-4, atol=1e-5)
    assert len({tuple(picks.tolist()) for _, picks in made}) > 1
    allowed = searching.action_masks()[:, :-1]
    assert all(allowed[np.arange(12), picks].all() for _, picks in made)


def test_a_group_and_a_repeated_search_score_the_same_candidates(monkeypatch: pytest.MonkeyPatch) -> None:
    """What differs within a group, or between two rules on the same tasks, is what was decided."""
    monkeypatch.setattr(stop_rule, "N_ALTERNATIVES", 3)
    asking = forecaster()
    picks = [asking(StopSearch(12, 5, group=4, tasks=large), np.ones(12, bool))[1] for _ in range(2)]
    np.testing.assert_array_equal(picks[0], picks[1])
    groups = picks[0].reshape(3, 4)
    assert (groups == groups[:, :1]).all()
    assert len(set(groups[:, 0].tolist())) > 1


def test_searches_of_the_agent_train_what_it_picked() -> None:
    searching = search(forecaster())
    assert searching.by_agent.any()
    assert not searching.by_agent.all()
    features, _ = searching.describe()
    assert features.shape == (12, len(STOP_FEATURES))
    picks = searching.picks.copy()
    searching.decide(np.zeros(12, bool))
    own = searching.by_agent
    assert (searching.chosen[own, 0] == picks[own]).all()


def test_the_policy_starts_from_the_rule_that_is_known() -> None:
    settings = StopTraining(n_envs=8, n_steps=8, batch_size=16)
    env = StopVecEnv(n_envs=8, seed=1, group=4, tasks=large, forecasts=forecaster())
    model = stop_rule.make_ppo(settings, env)
    seen = np.random.default_rng(0).normal(size=(20, env.observation_space.shape[0])).astype(np.float32)
    expected = 2 * before_learning(seen)
    np.testing.assert_allclose(StopRule(stop_rule.tensors_of(model)).log_odds(seen), expected, atol=1e-5)
    logits = model.policy.get_distribution(torch.as_tensor(seen)).distribution.logits.detach().numpy()
    np.testing.assert_allclose(logits[:, 1] - logits[:, 0], expected, atol=1e-4)


def test_ppo_moves_the_policy_and_numpy_decides_as_it_does() -> None:
    settings = StopTraining(n_envs=8, n_steps=8, batch_size=16)
    env = StopVecEnv(n_envs=8, seed=1, group=4, tasks=large, forecasts=known_ends)
    model = stop_rule.make_ppo(settings, env)
    before = stop_rule.tensors_of(model)
    model.learn(128)
    after = stop_rule.tensors_of(model)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    seen = np.random.default_rng(0).normal(size=(20, env.observation_space.shape[0])).astype(np.float32)
    seen[:, len(STOP_FEATURES)] = 1  # the trial may be stopped
    logits = model.policy.get_distribution(torch.as_tensor(seen)).distribution.logits.detach().numpy()
    np.testing.assert_allclose(StopRule(after).log_odds(seen), logits[:, 1] - logits[:, 0], atol=1e-4)


@pytest.mark.parametrize("chance", [0.9, 0.01])
def test_a_likely_winner_may_not_be_stopped(chance: float) -> None:
    """Within the limit of RLPruner, 1 / (1 + n) after n full trainings."""

    def forecast(searching: StopSearch, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        features = np.zeros((searching.n_envs, len(FORECAST_FEATURES)), np.float32)
        features[:, FORECAST_FEATURES.index("forecast_chance")] = 2 * chance - 1
        return features * wanted[:, None], searching.action_masks()[:, :-1].argmax(1)

    searching = StopSearch(32, 0, large, forecasts=forecast, agent_only=True)
    allowed = 0
    while not searching.done:
        may_stop = searching.describe()[1]
        assert not (may_stop & (chance >= 1 / (1 + searching.spent))).any()
        allowed += may_stop.sum()
        searching.decide(np.zeros(32, bool))
    assert (allowed > 0) == (chance < 0.5)


def known_ends(searching: StopSearch, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Forecasts that know whether the running trial will become the best."""
    features = np.zeros((searching.n_envs, len(FORECAST_FEATURES)), np.float32)
    gain = searching.truth()[:, 1]
    features[:, FORECAST_FEATURES.index("forecast_known")] = 1
    features[:, FORECAST_FEATURES.index("forecast_chance")] = np.where(gain > 0, 1, -1)
    return features * wanted[:, None], searching.action_masks()[:, :-1].argmax(1)


def test_an_episode_with_forecasts_runs_to_its_end() -> None:
    env = StopVecEnv(n_envs=8, seed=1, group=4, forecasts=forecaster())
    observation, ended = env.reset(), False
    assert observation.shape == (8, *env.observation_space.shape)
    while not ended:
        assert env.observation_space.contains(observation[0])
        env.step_async(np.full(8, STOP))
        observation, _, done, _ = env.step_wait()
        ended = bool(done[0])
