"""Many searches at once: the same episodes as one by one, and stable-baselines3's rules for vectorised environments."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from stable_baselines3 import PPO

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.envs.search_env import BatchedSearch, SearchEnv, flatten
from hf_rlsearch.envs.stop_env import BUDGETS, EVALUATIONS, STOP, StopSearch, StopVecEnv
from hf_rlsearch.envs.vec_env import SearchVecEnv, relative
from hf_rlsearch.errors import ObservationError
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES
from hf_rlsearch.observation.observation import PRICE_EXPONENT
from hf_rlsearch.optuna.sampler import CostCooling
from hf_rlsearch.tasks.mix import TaskMix
from hf_rlsearch.tasks.prior import TaskBatch

TASKS = TaskMix().of(10)


def test_a_batch_of_one_plays_the_episodes_of_the_environment() -> None:
    env = SearchEnv(tasks=TASKS, budget=3, evaluations=2, seed=0)
    batch = SearchVecEnv(tasks=TASKS, n_envs=1, budget=3, evaluations=2, seed=0)
    env._search.rng, batch.search.rng = np.random.default_rng(1), np.random.default_rng(1)
    alone, together = env.reset()[0], batch.reset()
    for _ in range(6):
        np.testing.assert_array_equal(together["context"][0], alone["context"])
        action = int(np.flatnonzero(env.action_masks())[-1])
        alone, reward, done, _, _ = env.step(action)
        together, rewards, dones, infos = batch.step(np.array([action]))
        assert rewards[0] == pytest.approx(reward)
        assert dones[0] == done
    np.testing.assert_array_equal(infos[0]["terminal_observation"]["trials"], alone["trials"])


def test_ended_episodes_start_anew_and_show_their_end() -> None:
    env = SearchVecEnv(tasks=TASKS, n_envs=3, budget=2, seed=0)
    env.reset()
    _, _, dones, infos = env.step(np.zeros(3, int))
    assert not dones.any()
    assert infos == [{}, {}, {}]
    fresh, _, dones, infos = env.step(np.ones(3, int))
    assert dones.all()
    for i, info in enumerate(infos):
        last = {key: value[i] for key, value in fresh.items()}
        assert env.observation_space.contains(info["terminal_observation"])
        assert (last["trials"] == -1).all()
        assert (info["terminal_observation"]["trials"] != -1).any()


def test_searches_of_a_batch_do_not_disturb_each_other() -> None:
    """What one search does changes nothing for the others but their shared source of chance."""
    values = []
    for first in (0, 3):
        search = BatchedSearch(TASKS, n_envs=4, budget=3, evaluations=1, seed=2)
        search.fix_noise(0)
        search.step(np.array([first, 1, 1, 1]))
        values.append(flatten(search))
    for key in values[0]:
        np.testing.assert_array_equal(values[0][key][1:], values[1][key][1:])
    assert not np.array_equal(values[0]["trials"][0], values[1]["trials"][0])


def test_methods_that_stable_baselines3_asks_for() -> None:
    env = SearchVecEnv(tasks=TASKS, n_envs=3, budget=2, seed=0)
    assert [len(mask) for mask in env.env_method("action_masks", indices=[0, 2])] == [11, 11]
    assert env.get_attr("render_mode", indices=1) == [None]
    assert env.env_is_wrapped(object) == [False] * 3
    env.set_attr("note", 5)
    assert env.get_attr("note") == [5, 5, 5]
    with pytest.raises(AttributeError, match="no method 'fly'"):
        env.env_method("fly")
    env.close()


def test_an_encoder_of_ones_own_replaces_the_observation() -> None:
    from gymnasium import spaces

    space = spaces.Dict({"used": spaces.Box(0, 10, (1,), np.float32)})
    env = SearchVecEnv(
        tasks=TASKS,
        n_envs=2,
        budget=4,
        encode=lambda search: {"used": np.full((search.n_envs, 1), search.used, np.float32)},
        space=space,
    )
    env.reset()
    assert env.step(np.zeros(2, int))[0]["used"].tolist() == [[1], [1]]


def test_ppo_trains_on_the_batch() -> None:
    env = SearchVecEnv(tasks=TASKS, n_envs=4, budget=3, seed=0)
    policy = {"net_arch": [8]}
    PPO("MultiInputPolicy", env, n_steps=3, batch_size=6, n_epochs=1, policy_kwargs=policy, device="cpu").learn(12)


def test_counts_below_one_are_refused() -> None:
    with pytest.raises(ObservationError, match="budget=0"):
        SearchVecEnv(tasks=TASKS, budget=0)


# -------------------------------------------------------------------------------------------------------------- groups
def test_a_group_shares_its_task_and_its_noise() -> None:
    env = SearchVecEnv(tasks=TASKS, n_envs=6, budget=3, seed=0, group=3)
    observation = env.reset()
    for key, value in observation.items():
        np.testing.assert_array_equal(value[[0, 0, 3, 3]], value[[1, 2, 4, 5]], err_msg=key)
    assert not np.array_equal(observation["level_features"][0], observation["level_features"][3])
    env.step(np.array([0, 0, 1, 0, 1, 1]))
    shown = env.search.curves[:, 0, 0]
    assert shown[0] == shown[1] != shown[2]
    assert shown[3] != shown[4] == shown[5]


def test_rewards_of_a_group_are_relative_to_its_mean() -> None:
    together = SearchVecEnv(tasks=TASKS, n_envs=6, budget=3, seed=0, group=3)
    together.reset()
    actions = np.array([0, 1, 2, 2, 1, 0])
    _, rewards, _, _ = together.step(actions)
    np.testing.assert_allclose(rewards.reshape(2, 3).sum(1), 0, atol=1e-6)
    assert np.abs(rewards).max() > 0
    np.testing.assert_allclose(relative(np.array([1.0, 3.0, 5.0, 5.0]), 2), [-1, 1, 0, 0])
    np.testing.assert_array_equal(relative(np.array([1.0, 3.0]), 1), [1, 3])


def test_groups_change_task_and_noise_with_every_episode() -> None:
    env = SearchVecEnv(tasks=TASKS, n_envs=4, budget=1, seed=0, group=2)
    first = env.reset()
    noise = env.search._fixed_noise
    second = env.step(np.zeros(4, int))[0]
    assert not np.array_equal(first["level_features"], second["level_features"])
    assert not np.array_equal(noise, env.search._fixed_noise)


def test_a_group_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ObservationError, match="7 searches cannot be put in groups of 2"):
        SearchVecEnv(tasks=TASKS, n_envs=7, budget=2, group=2)


# ------------------------------------------------------------------------------------------------------ the stop rule
def hopeless(search: StopSearch, wanted: BoolArray) -> tuple[FloatArray, IntArray]:
    """Forecasts that no running trial becomes the best, so that all but the leaders may be stopped."""
    features = np.zeros((search.n_envs, len(FORECAST_FEATURES)))
    features[:, FORECAST_FEATURES.index("forecast_chance")] = -1
    return features * wanted[:, None], search.action_masks()[:, :-1].argmax(1)


def stop_env(n_envs: int = 6, seed: int = 0) -> StopVecEnv:
    return StopVecEnv(n_envs=n_envs, seed=seed, tasks=TASKS, forecasts=hopeless)


def test_features_of_the_stop_rule_stay_in_their_space() -> None:
    env = stop_env()
    observation, rng = env.reset(), np.random.default_rng(0)
    for _ in range(60):
        assert all(env.observation_space.contains(row) for row in observation)
        observation, rewards, _, _ = env.step(rng.integers(0, 2, env.num_envs))
        assert np.isfinite(rewards).all()


def test_episodes_of_the_stop_rule_have_several_lengths() -> None:
    search = StopSearch(2, 0, TASKS)
    lengths = set()
    for _ in range(20):
        search.reset()
        lengths.add((search.budget, search.evaluations))
        assert search.max_trials == round(1.5 * search.budget * search.evaluations)
    assert len(lengths) > 5
    assert lengths <= {(b, s) for b in BUDGETS for s in EVALUATIONS}


def test_the_leader_is_not_stopped_whatever_the_action() -> None:
    env = stop_env(n_envs=8)
    env.reset()
    for _ in range(30):
        leading = (env.search.running >= 0) & ~env._may_stop
        at = env.search.running.copy()
        _, _, dones, _ = env.step(np.full(8, STOP))
        if dones.any():
            continue
        # The same trial was trained on: it runs still, or it is complete.
        b = np.flatnonzero(leading)
        assert (env.search.status[b, at[b]] != 1).all()


def test_what_may_be_stopped_is_stopped() -> None:
    env = stop_env(n_envs=16)
    env.reset()
    stopped = 0
    for _ in range(40):
        may, at = env._may_stop.copy(), env.search.running.copy()
        _, _, dones, _ = env.step(np.full(16, STOP))
        if not dones.any():
            b = np.flatnonzero(may)
            assert (env.search.status[b, at[b]] == 1).all()
            stopped += len(b)
    assert stopped > 0


def test_abler_searchers_propose_better_candidates() -> None:
    def mean_utility(searcher_strength: float) -> Any:
        search = StopSearch(400, 0, TASKS)
        search.searcher_strength[:], search.count[:] = searcher_strength, 0
        search.tasks = TASKS(np.random.default_rng(0), 400)
        search.count = np.full(400, 30)
        search.chosen = np.zeros((400, search.max_trials), int)
        search.status = np.full((400, search.max_trials), 1)
        return search.tasks.utility[np.arange(400), search.propose()].clip(-2, 1).mean()

    assert mean_utility(1.0) > mean_utility(0.0) + 0.2


def test_episodes_with_forecasts_are_short_enough_to_forecast_in() -> None:
    def nothing(search: BatchedSearch, wanted: BoolArray) -> tuple[FloatArray, IntArray]:
        return np.zeros((search.n_envs, len(FORECAST_FEATURES))), np.zeros(search.n_envs, int)

    search = StopSearch(2, 0, TASKS, forecasts=nothing)
    for _ in range(20):
        search.reset()
        assert search.max_trials <= 192


@pytest.mark.parametrize(("evaluations", "judged"), [(4, {1, 2, 3}), (24, set(range(2, 24, 2)))])
def test_simulated_trials_are_judged_as_often_as_real_ones(
    monkeypatch: pytest.MonkeyPatch, evaluations: int, judged: set[int]
) -> None:
    monkeypatch.setattr(StopSearch, "draw_length", lambda self: (8, evaluations))
    search, seen = StopSearch(60, 0, TASKS), set()
    while not search.done:
        may_stop = search.describe()[1]
        at = np.take_along_axis(search.steps, np.maximum(search.running, 0)[:, None], 1)[:, 0]
        seen |= set(at[may_stop].tolist())
        search.decide(np.zeros(60, bool))
    assert seen == judged


# ------------------------------------------------------------------------------------------------- real learning curves
def with_curves(rng: np.random.Generator, n_tasks: int) -> TaskBatch:
    """Tasks whose trainings gain nothing until two thirds of their time, at prices of 0.5 and 1.5."""
    tasks = TASKS(rng, n_tasks)
    late = np.where(np.arange(12) < 8, -1.0, 1.0)
    curves = tasks.values[..., None] + np.minimum(late, 0) * tasks.spread[:, None, None]
    prices = np.where(np.arange(tasks.values.shape[1]) % 2, 1.5, 0.5)
    return replace(tasks, curves=curves, prices=np.tile(prices, (n_tasks, 1)), noise=np.zeros_like(tasks.noise))


@pytest.mark.parametrize("evaluations", EVALUATIONS)
def test_trainings_show_the_curves_of_their_table(evaluations: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """More evaluations than the table has, too: the first of them shows no more than the table's first."""
    monkeypatch.setattr("hf_rlsearch.envs.stop_env.EVALUATIONS", (evaluations,))
    search = StopSearch(4, 0, with_curves, priced=0.0)
    while not search.done:
        search.decide(np.zeros(4, bool))
    b, t = np.nonzero(search.steps == search.evaluations)
    assert len(b) > 8
    utility = search.tasks.utility[b, search.chosen[b, t]]
    np.testing.assert_allclose(search.curves[b, t, -1], utility)
    np.testing.assert_allclose(search.curves[b, t, 0], utility - 1)


@pytest.mark.parametrize("stops", [False, True])
def test_a_search_ends_before_an_evaluation_that_it_cannot_pay_for(stops: bool) -> None:
    search = StopSearch(8, 0, with_curves, priced=1.0)
    while not search.done:
        may_stop = search.describe()[1]
        spent, over = search.spent.copy(), search.over.copy()
        search.decide(may_stop & stops)
        assert (search.spent[over] == spent[over]).all()
    assert (search.spent <= search.budget + 1e-6).all()
    assert (search.left[search.over] <= 1.5 / search.evaluations + 1e-6).all()


def test_prices_lead_the_choice_while_much_is_left() -> None:
    search = StopSearch(1, 0, with_curves, priced=1.0)
    targets = np.arange(4)[None]
    early = search.weights(np.array([0]), targets)[0]
    assert early == pytest.approx([PRICE_EXPONENT * np.log(2), -PRICE_EXPONENT * np.log(1.5)] * 2)
    search.spent[:] = search.budget - 1.0
    late = search.weights(np.array([0]), targets)[0]
    assert late[0] == pytest.approx(PRICE_EXPONENT * np.log(2) / search.budget)
    assert late[1] == -np.inf


def test_simulated_searches_weigh_prices_as_live_ones() -> None:
    search = StopSearch(3, 0, with_curves, priced=1.0)
    search.spent[:] = [0.0, search.budget / 3, search.budget - 0.4]
    targets = np.tile(np.arange(6), (3, 1))
    for row, left in enumerate(search.left):
        prices = search.prices[row, targets[row]]
        live = CostCooling(price=lambda space, rows: np.ones(len(rows)), left=float(left), total=float(search.budget))
        expected = np.where(live.affordable(prices), np.log(live.acquisition_weight(prices)), -np.inf)
        np.testing.assert_allclose(search.weights(np.arange(3), targets)[row], expected)
