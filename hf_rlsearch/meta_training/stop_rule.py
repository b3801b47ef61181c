"""Trains the stop rule by PPO, the second stage of meta-training.

The rule is first trained on curves alone, where an episode costs next to nothing. Then the predictors forecast the
running trials and propose the next ones. The policy is fitted to how such trials ended, so that it reads the forecasts
before PPO goes on with it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.acquisition import forecast_features
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.envs.search_env import Tasks
from hf_rlsearch.envs.stop_env import N_CANDIDATES, N_TRUTH, StopSearch, StopVecEnv
from hf_rlsearch.meta_training.finished import digest, load_finished, save_finished
from hf_rlsearch.observation.curve_features import (
    CURVE_FEATURES,
    FORECAST_FEATURES,
    N_ALTERNATIVES,
    STOP_FEATURES,
    chance_of_a_record,
    may_still_rise,
)
from hf_rlsearch.tasks.mix import TaskMix

# Tensor of the stop rule -> tensor of stable-baselines3's policy.
_NAMES = {
    f"stop.{i}.{part}": f"{layer}.{part}"
    for i, layer in enumerate(("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"))
    for part in ("weight", "bias")
}
GROUP = 8
"""Searches that share a task during PPO, see `SearchVecEnv`."""
Rule = Callable[[FloatArray, StopSearch], BoolArray]
"""(observations of `StopVecEnv`, the searches) -> B flags: stop the running trial."""
# The comparison: seed of the first block, and tasks per block, which share a budget and a number of evaluations.
_TEST_SEED, _BLOCK = 20_000, 32
_PASSES, _FITTED_AT_ONCE, _FIT_RATE = 20, 256, 1e-3  # of the fit to how trials ended
_LOSS_OF_A_WINNER = 8.0  # trainings in vain that stopping one that would have become the best outweighs


@dataclass(frozen=True)
class StopTraining:
    """Settings of stage two.

    Attributes:
        steps: Decisions in all.
        n_envs: Searches side by side.
        n_steps: Decisions per search between two updates.
        learning_rate: At the start; falls linearly to zero.
        n_candidates: Candidates per task, where the space has so many.
        fit_steps: Decisions with forecasts of the predictor to whose outcomes the policy is fitted.
        joint_steps: Decisions with forecasts of the predictor, after those without.
        joint_envs: Searches side by side in the joint part.
        joint_learning_rate: Learning rate at the start of the joint part.
        entropy: Weight of the policy's entropy.
        seed: Of everything.
    """

    steps: int = 3_000_000
    n_envs: int = 128
    n_steps: int = 64
    learning_rate: float = 7e-4
    n_candidates: int = N_CANDIDATES
    fit_steps: int = 81_920
    joint_steps: int = 245_760
    joint_envs: int = 64
    joint_learning_rate: float = 3e-4
    entropy: float = 0.004
    seed: int = 1


def train_stop_rule(
    settings: StopTraining, mixture: Mixture, mix: TaskMix, folder: Path, device: str
) -> dict[str, Tensor]:
    """Trains the tensors of `StopRule` by PPO on tasks of `mix`, first without and then with forecasts of the mixture.

    The folder holds the tensors of each finished part, which is then not repeated.
    """
    tasks = mix.of(settings.n_candidates)
    on_curves = {**asdict(settings), "tables": mix.seeds, "best_counts": mix.best_counts, "telling": mix.telling}
    jointly = {**on_curves, "predictors": digest(mixture.state_dict())}
    first, second = folder / "stop_curves.safetensors", folder / "stop.safetensors"
    if not first.exists():
        env = StopVecEnv(n_envs=settings.n_envs, seed=settings.seed, group=GROUP, tasks=tasks)
        model = _ppo(settings, env, settings.learning_rate)
        _clone_few_made_it_up(model, settings, tasks)
        model.learn(settings.steps)
        save_finished(first, _tensors(model), on_curves)
    if not second.exists():
        forecasts = Forecaster(mixture, device)
        env = StopVecEnv(
            n_envs=settings.joint_envs, seed=settings.seed + 1, group=GROUP, tasks=tasks, forecasts=forecasts
        )
        model = _ppo(settings, env, settings.joint_learning_rate, batch_size=256)
        _start_from(model, load_finished(first, on_curves)[0])
        _fit_outcomes(model, env, settings)
        model.learn(settings.joint_steps)
        save_finished(second, _tensors(model), jointly)
    return load_finished(second, jointly)[0]


class Forecaster:
    """Forecasts running trials with frozen predictors: where each will end, and whether another candidate is better.

    The stop rule reads these numbers beside the curves. They make stopping and choosing one decision: a training is
    stopped when the rest of it is expected to bring less than a new trial.
    """

    def __init__(self, mixture: Mixture, device: str = "cpu") -> None:
        self.mixture, self.device = mixture.to(device), device

    @torch.inference_mode()
    def __call__(self, search: StopSearch, wanted: BoolArray) -> tuple[FloatArray, IntArray]:
        """Forecasts the searches of a batch where `wanted`, B flags, is True.

        Returns:
            B x len(FORECAST_FEATURES), and B candidates to train next: the best of `N_ALTERNATIVES` that are drawn at
            each evaluation. Zero where not wanted.
        """
        features, picks = np.zeros((search.n_envs, len(FORECAST_FEATURES)), np.float32), np.zeros(search.n_envs, int)
        rows = np.flatnonzero(wanted)
        if not len(rows):
            return features, picks
        others, allowed = search.draw_untried(rows, N_ALTERNATIVES)
        running = search.chosen[rows, np.maximum(search.running[rows], 0)]
        targets = np.concatenate([others, running[:, None]], axis=1)
        last = torch.full((len(rows),), others.shape[1], device=self.device)
        choosable = torch.as_tensor(np.pad(allowed, ((0, 0), (0, 1))), device=self.device)
        probabilities = self.mixture(Arrays.of(search.observe(rows, targets), self.device))
        weights = torch.as_tensor(search.weights(rows, targets), dtype=torch.float32, device=self.device)
        made, pick = forecast_features(probabilities, self.mixture.bins, last, choosable, weights)
        features[rows], picks[rows] = made.cpu().numpy(), targets[np.arange(len(rows)), pick.cpu().numpy()]
        return features, picks


class _Policy(ActorCriticPolicy):
    """Two networks: the actor sees the features of the stop rule, the critic sees the truth beside them."""

    def _build_mlp_extractor(self) -> None:
        self.mlp_extractor = _Networks(self.features_dim - N_TRUTH, self.features_dim)  # type: ignore[assignment]


class _Networks(nn.Module):
    """The hidden layers of actor and critic, under the names that stable-baselines3 gives them."""

    def __init__(self, n_seen: int, n_all: int, width: int = 64) -> None:
        super().__init__()
        self.n_seen, self.latent_dim_pi, self.latent_dim_vf = n_seen, width, width
        self.policy_net, self.value_net = (
            nn.Sequential(nn.Linear(n, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()) for n in (n_seen, n_all)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        return self.policy_net(features[:, : self.n_seen])  # type: ignore[no-any-return]

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.value_net(features)  # type: ignore[no-any-return]


def _ppo(settings: StopTraining, env: StopVecEnv, rate: float, batch_size: int = 2048) -> PPO:
    return PPO(
        _Policy,
        env,
        n_steps=settings.n_steps,
        batch_size=batch_size,
        n_epochs=5,
        gamma=1.0,  # the objective is the sum of an episode's rewards, which is finite
        gae_lambda=0.97,
        learning_rate=lambda left: rate * left + 1e-5,
        ent_coef=settings.entropy,
        device="cpu",
        seed=settings.seed,
    )


def _tensors(model: PPO) -> dict[str, Tensor]:
    state = model.policy.state_dict()
    return {name: state[sb3_name].detach().cpu().clone() for name, sb3_name in _NAMES.items()}


def _start_from(model: PPO, tensors: dict[str, Tensor]) -> None:
    """Gives a policy with forecasts the weights of one without; the weights of the forecasts start at zero."""
    weight, n = tensors["stop.0.weight"], len(CURVE_FEATURES)
    unseen = torch.zeros(len(weight), len(FORECAST_FEATURES))
    wider = {**tensors, "stop.0.weight": torch.cat([weight[:, :n], unseen, weight[:, n:]], dim=1)}
    model.policy.load_state_dict({sb3_name: wider[name] for name, sb3_name in _NAMES.items()}, strict=False)


def _clone_few_made_it_up(model: PPO, settings: StopTraining, tasks: Tasks, steps: int = 300) -> None:
    """Fits the policy to `few_made_it_up`, before PPO starts.

    A policy that stops at random ends all trials early, never sees that patience pays, and collapses to stopping.
    """
    env = StopVecEnv(n_envs=settings.n_envs, seed=settings.seed + 1000, tasks=tasks)
    rng, observations = np.random.default_rng(settings.seed), env.reset()
    for _ in range(steps):
        stop = torch.as_tensor(1 / (1 + np.exp(-few_made_it_up(observations))))
        chance = model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs[:, 1]  # type: ignore[union-attr]
        loss = torch.nn.functional.binary_cross_entropy(chance, stop.float())
        model.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        model.policy.optimizer.step()
        env.step_async((rng.random(len(stop)) < stop.numpy()).astype(int))
        observations = env.step_wait()[0]


def _fit_outcomes(model: PPO, env: StopVecEnv, settings: StopTraining) -> None:
    """Fits the policy to whether running trials will become the best, by weighted cross-entropy, before PPO goes on.

    The searches are decided by the policy as it comes. The weights of the forecasts start at zero, and the rewards of
    PPO are too noisy to move them: by far most of their variance is the luck of what is trained next.
    """
    found, observations = [], env.reset()
    for _ in range(max(1, settings.fit_steps // env.num_envs)):
        with torch.no_grad():
            actions = model.policy.get_distribution(torch.as_tensor(observations)).sample().numpy()
        found.append(observations[observations[:, -N_TRUTH - 1] > 0])  # trials that may be stopped
        env.step_async(actions)
        observations = env.step_wait()[0]
    seen = torch.as_tensor(np.concatenate(found))
    if not len(seen):  # in a short training all trials may have led
        return
    wins = seen[:, -N_TRUTH + 1] > 0
    weights = torch.where(wins, _LOSS_OF_A_WINNER, 1.0)
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=_FIT_RATE)
    generator = torch.Generator().manual_seed(settings.seed)
    for _ in range(_PASSES):
        for rows in torch.split(torch.randperm(len(seen), generator=generator), _FITTED_AT_ONCE):
            logits = model.policy.get_distribution(seen[rows]).distribution.logits  # type: ignore[union-attr]
            losses = torch.nn.functional.cross_entropy(logits, (~wins[rows]).long(), reduction="none")
            loss = (losses * weights[rows]).sum() / weights[rows].sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()


def _stops_as_pruner(tensors: dict[str, Tensor]) -> Rule:
    """The rule, within the limits that RLPruner sets it.

    No trial is stopped that is more likely to become the best than `chance_of_a_record`, nor one that `may_still_rise`.
    """
    rule, chance = StopRule(tensors), STOP_FEATURES.index("forecast_chance")

    def stops(seen: FloatArray, search: StopSearch) -> BoolArray:
        unlikely = (seen[:, chance] + 1) / 2 < chance_of_a_record(search.spent)
        return np.asarray((rule.log_odds(seen) > 0) & unlikely & ~may_still_rise(seen, search.stands_still()))

    return stops


def _never_stop(seen: FloatArray, search: StopSearch) -> BoolArray:
    return np.zeros(len(seen), bool)


def _share_changed_without_forecasts(
    rule: StopRule, forecasts: Forecaster, mix: TaskMix, n_blocks: int, seed: int
) -> float:
    """Share of the decisions in the agent's searches that would be others if the rule did not see the forecasts."""
    changed: list[BoolArray] = []

    def decide(seen: FloatArray, search: StopSearch) -> BoolArray:
        stops, without = rule.log_odds(seen) > 0, seen.copy()
        without[:, len(CURVE_FEATURES) : len(STOP_FEATURES)] = 0
        judged = seen[:, len(STOP_FEATURES)] > 0  # the trials that may be stopped
        changed.append((stops != (rule.log_odds(without) > 0))[judged])
        return stops

    for block in range(n_blocks):
        _stop_area(decide, forecasts, mix, 0.0, seed + block)
    return float(np.concatenate(changed).mean())


def few_made_it_up(observations: FloatArray) -> FloatArray:
    """B log-odds of stopping under the rule that PPO starts from.

    A trial is stopped where hardly any complete trial has gained as much, from here on, as it lacks. Without complete
    trials it goes on.
    """
    return np.asarray(14.0 * (0.28 - (observations[:, CURVE_FEATURES.index("made_up")] + 1) / 2))


def expected_gain_per_price(observations: FloatArray) -> FloatArray:
    """B log-odds of stopping where a fresh candidate promises more for its price than the rest of the running trial.

    The predictors say what a candidate promises. Source: expected improvement per cost, Snoek et al. 2012, section 3.2.
    """
    column = {name: observations[:, STOP_FEATURES.index(name)] for name in STOP_FEATURES}
    rest = np.log(np.maximum(1 - column["fidelity"], 1e-3)) + column["price"]
    own = 3 * column["forecast_log_ei"] - rest  # the features are log expected improvements over three
    return np.where(column["forecast_known"] > 0, 3 * column["fresh_log_ei"] - own, -1.0)


def compare_stop_rules(
    tensors: dict[str, Tensor], mixture: Mixture, mix: TaskMix, n_tasks: int, device: str
) -> dict[str, Any]:
    """Compares the trained stop rule, as RLPruner uses it, with three rules, on tasks that nothing learnt from.

    The rules are: never stop, `few_made_it_up`, from which PPO started, and `expected_gain_per_price`. The regimes are
    equal prices, unequal prices with a hard end, and trainings that are flat first (at equal prices). Searches know the
    forecasts and choose by them.

    Returns:
        By regime the mean areas under the regret curve of each rule and of a clairvoyant one, which stops at once all
        that will not improve; over all regimes the difference to the best rule (negative = trained is better) with its
        95% interval over blocks of tasks, which share a budget and a number of evaluations; and the share of the
        decisions of the trained rule that would be others without forecasts.
    """
    forecasts = Forecaster(mixture, device)
    rules: dict[str, Rule] = {
        "trained": _stops_as_pruner(tensors),
        "never": _never_stop,
        "few_made_it_up": lambda seen, search: few_made_it_up(seen) > 0,
        "expected_gain_per_price": lambda seen, search: expected_gain_per_price(seen) > 0,
        "clairvoyant": lambda seen, search: search.truth()[:, 1] <= 0,
    }
    regimes = {
        "equal_prices": (mix, 0.0),
        "unequal_prices": (mix, 1.0),
        "flat_first": (replace(mix, flat_first=True, bank_share=1.0), 0.0),
    }
    n_blocks = n_tasks // _BLOCK // len(regimes)
    areas = {
        name: {
            rule: np.array([_stop_area(decide, forecasts, tasks, priced, _TEST_SEED + i) for i in range(n_blocks)])
            for rule, decide in rules.items()
        }
        for name, (tasks, priced) in regimes.items()
    }
    overall = {rule: np.concatenate([found[rule] for found in areas.values()]) for rule in rules}
    best = min(list(rules)[1:-1], key=lambda rule: float(overall[rule].mean()))
    return {
        "tasks": n_blocks * _BLOCK * len(regimes),
        "blocks": n_blocks * len(regimes),
        "areas": {
            name: {rule: float(area.mean()) for rule, area in found.items()}
            | {"difference": difference(found["trained"], found[best])}
            for name, found in areas.items()
        },
        "best_rule": best,
        "changed_without_forecasts": _share_changed_without_forecasts(StopRule(tensors), forecasts, mix, 2, _TEST_SEED),
        **difference(overall["trained"], overall[best]),
    }


def _stop_area(decide: Rule, forecasts: Forecaster, mix: TaskMix, priced: float, seed: int) -> float:
    """Mean regret over the budget, in [0, 1], of searches that the agent proposes for."""
    env = StopVecEnv(
        n_envs=_BLOCK, seed=seed, tasks=mix.of(N_CANDIDATES), forecasts=forecasts, priced=priced, agent_only=True
    )
    search, observations = env.search, env.reset()
    area = np.zeros(_BLOCK)
    while True:
        before, spent = np.clip(search.incumbent, 0, 1), search.spent.copy()
        env.advance(decide(observations, search).astype(int))
        area += (1 - before) * (search.spent - spent)
        if search.done:
            return float(np.mean((area + (1 - np.clip(search.incumbent, 0, 1)) * search.left) / search.budget))
        observations = env.observe()


def difference(trained: FloatArray, baseline: FloatArray) -> dict[str, Any]:
    """Mean paired difference of regrets, and its normal 95% interval; the trained part ships if that is negative."""
    pairs = trained - baseline
    mean, half = float(pairs.mean()), float(1.96 * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    return {"difference": mean, "interval": [mean - half, mean + half], "ships": mean + half < 0}
