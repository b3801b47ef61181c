"""Trains the stop rule by PPO, the third stage of meta-training.

The predictors forecast the running trials and propose the next ones. The policy starts from `gain_per_price`, the best
of the simple rules, and PPO learns where another decision is better.
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
from hf_rlsearch.agent.stop_rule import StopRule, before_learning, few_made_it_up, gain_per_price
from hf_rlsearch.envs.stop_env import N_CANDIDATES, N_TRUTH, StopSearch, StopVecEnv
from hf_rlsearch.meta_training.finished import digest, load_finished, save_finished
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES, N_ALTERNATIVES
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
_STEEPNESS = 2.0  # factor on the log-odds of `before_learning` at the start: PPO decides rarely against them by chance


@dataclass(frozen=True)
class StopTraining:
    """Settings of stage three.

    Attributes:
        steps: Evaluations in all; at most of them there is nothing to decide.
        n_envs: Searches side by side.
        n_steps: Decisions per search between two updates.
        batch_size: Decisions per gradient step.
        learning_rate: At the start; falls linearly to zero.
        n_candidates: Candidates per task, where the space has so many.
        seed: Of everything.
    """

    steps: int = 245_760
    n_envs: int = 64
    n_steps: int = 64
    batch_size: int = 256
    learning_rate: float = 3e-4
    n_candidates: int = N_CANDIDATES
    seed: int = 1


def train_stop_rule(
    settings: StopTraining, mixture: Mixture, mix: TaskMix, folder: Path, device: str
) -> dict[str, Tensor]:
    """Trains the tensors of `StopRule` by PPO on tasks of `mix`, with forecasts of the mixture.

    The folder holds the tensors once they are finished; the training is then not repeated.
    """
    path, made_from = folder / "stop.safetensors", {**asdict(settings), "tables": mix.seeds}
    made_from |= {"best_counts": mix.best_counts, "telling": mix.telling, "predictors": digest(mixture.state_dict())}
    if not path.exists():
        env = StopVecEnv(
            n_envs=settings.n_envs,
            seed=settings.seed,
            group=GROUP,
            tasks=mix.of(settings.n_candidates),
            forecasts=Forecaster(mixture, device),
        )
        model = make_ppo(settings, env)
        model.learn(settings.steps)
        save_finished(path, tensors_of(model), made_from)
    return load_finished(path, made_from)[0]


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
    """The hidden layers of actor and critic, under the names that stable-baselines3 gives them.

    The last number of the actor's is `before_learning`, as in `StopRule`.
    """

    def __init__(self, n_seen: int, n_all: int, width: int = 64) -> None:
        super().__init__()
        self.n_seen, self.latent_dim_pi, self.latent_dim_vf = n_seen, width + 1, width
        self.policy_net, self.value_net = (
            nn.Sequential(nn.Linear(n, width), nn.Tanh(), nn.Linear(width, width), nn.Tanh()) for n in (n_seen, n_all)
        )

    def forward(self, features: Tensor) -> tuple[Tensor, Tensor]:
        return self.forward_actor(features), self.forward_critic(features)

    def forward_actor(self, features: Tensor) -> Tensor:
        seen = features[:, : self.n_seen]
        start = torch.as_tensor(before_learning(seen.cpu().numpy()), dtype=seen.dtype, device=seen.device)
        return torch.cat([self.policy_net(seen), start[:, None]], 1)

    def forward_critic(self, features: Tensor) -> Tensor:
        return self.value_net(features)  # type: ignore[no-any-return]


def make_ppo(settings: StopTraining, env: StopVecEnv) -> PPO:
    """PPO whose policy decides as `before_learning`, with some chance against it where that is unsure."""
    rate = settings.learning_rate
    model = PPO(
        _Policy,
        env,
        n_steps=settings.n_steps,
        batch_size=settings.batch_size,
        n_epochs=5,
        gamma=1.0,  # the objective is the sum of an episode's rewards, which is finite
        gae_lambda=0.97,
        learning_rate=lambda left: rate * left + 1e-5,
        device="cpu",
        seed=settings.seed,
    )
    last = model.policy.action_net
    assert isinstance(last, nn.Linear)
    with torch.no_grad():
        last.weight.zero_()
        last.bias.zero_()
        last.weight[:, -1] = _STEEPNESS * torch.tensor([-0.5, 0.5])
    return model


def tensors_of(model: PPO) -> dict[str, Tensor]:
    """The tensors of `StopRule`."""
    state = model.policy.state_dict()
    return {name: state[sb3_name].detach().cpu().clone() for name, sb3_name in _NAMES.items()}


def _never_stop(seen: FloatArray, search: StopSearch) -> BoolArray:
    return np.zeros(len(seen), bool)


def compare_stop_rules(
    tensors: dict[str, Tensor], mixture: Mixture, mix: TaskMix, n_tasks: int, device: str
) -> dict[str, Any]:
    """Compares the trained stop rule with three rules, on tasks that nothing learnt from.

    The rules are: never stop, `few_made_it_up`, and `gain_per_price`, from which PPO started; all within the limits
    that RLPruner sets. The regimes are equal prices, unequal prices with a hard end, and trainings that are flat first
    (at equal prices). Searches know the forecasts and choose by them.

    Returns:
        By regime the mean areas under the regret curve of each rule and of a clairvoyant one, which stops at once all
        that will not improve; over all regimes the difference to the best rule (negative = trained is better) with its
        95% interval over blocks of tasks, which share a budget and a number of evaluations.
    """
    forecasts, rule = Forecaster(mixture, device), StopRule(tensors)
    rules: dict[str, Rule] = {
        "trained": lambda seen, search: rule.log_odds(seen) > 0,
        "never": _never_stop,
        "few_made_it_up": lambda seen, search: few_made_it_up(seen) > 0,
        "gain_per_price": lambda seen, search: gain_per_price(seen) > 0,
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
            by: np.array([_stop_area(decide, forecasts, tasks, priced, _TEST_SEED + i) for i in range(n_blocks)])
            for by, decide in rules.items()
        }
        for name, (tasks, priced) in regimes.items()
    }
    overall = {by: np.concatenate([found[by] for found in areas.values()]) for by in rules}
    best = min(list(rules)[1:-1], key=lambda by: float(overall[by].mean()))
    return {
        "tasks": n_blocks * _BLOCK * len(regimes),
        "blocks": n_blocks * len(regimes),
        "areas": {
            name: {by: float(area.mean()) for by, area in found.items()}
            | {"difference": difference(found["trained"], found[best])}
            for name, found in areas.items()
        },
        "best_rule": best,
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
