"""Trains the stop rule by PPO, the second stage of meta-training.

The rule is first trained on curves alone, where an episode costs next to nothing. Then the same policy continues with
the predictor, which forecasts the running trials and proposes the next ones: it learns to stop given these choices.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from stable_baselines3 import PPO
from torch import Tensor

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.acquisition import forecast_features
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.envs.stop_env import N_CANDIDATES, StopVecEnv
from hf_rlsearch.meta_training.finished import digest, load_finished, save_finished
from hf_rlsearch.observation.curve_features import CURVE_FEATURES, FORECAST_FEATURES, N_ALTERNATIVES
from hf_rlsearch.tasks.mix import TaskMix

# Tensor of the stop rule -> tensor of stable-baselines3's policy.
_NAMES = {
    f"stop.{i}.{part}": f"{layer}.{part}"
    for i, layer in enumerate(("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net"))
    for part in ("weight", "bias")
}
GROUP = 8
"""Searches that share a task during PPO, see `SearchVecEnv`."""
# The comparison: seed of the first block, and tasks per block, which share a budget and a number of evaluations.
_TEST_SEED, _BLOCK = 20_000, 32


@dataclass(frozen=True)
class StopTraining:
    """Settings of stage two.

    Attributes:
        steps: Decisions in all.
        n_envs: Searches side by side.
        n_steps: Decisions per search between two updates.
        learning_rate: At the start; falls linearly to zero.
        n_candidates: Candidates per task, where the space has so many.
        joint_steps: Decisions with forecasts of the predictor, after those without.
        joint_envs: Searches side by side in the joint part.
        joint_learning_rate: Learning rate at the start of the joint part.
        seed: Of everything.
    """

    steps: int = 3_000_000
    n_envs: int = 128
    n_steps: int = 64
    learning_rate: float = 7e-4
    n_candidates: int = N_CANDIDATES
    joint_steps: int = 245_760
    joint_envs: int = 64
    joint_learning_rate: float = 3e-4
    seed: int = 1


def train_stop_rule(
    settings: StopTraining, mixture: Mixture, mix: TaskMix, folder: Path, device: str
) -> dict[str, Tensor]:
    """Trains the tensors of `StopRule` by PPO on tasks of `mix`, first without and then with forecasts of the mixture.

    The folder holds the tensors of each finished part, which is then not repeated.
    """
    tasks = mix.of(settings.n_candidates)
    on_curves = {**asdict(settings), "tables": mix.seeds}
    jointly = {**on_curves, "predictors": digest(mixture.state_dict())}
    first, second = folder / "stop_curves.safetensors", folder / "stop.safetensors"
    if not first.exists():
        env = StopVecEnv(n_envs=settings.n_envs, seed=settings.seed, group=GROUP, tasks=tasks)
        model = _ppo(settings, env, settings.learning_rate)
        _clone_keep_better_third(model, settings)
        model.learn(settings.steps)
        save_finished(first, _tensors(model), on_curves)
    if not second.exists():
        forecasts = Forecaster(mixture, device)
        env = StopVecEnv(
            n_envs=settings.joint_envs, seed=settings.seed + 1, group=GROUP, tasks=tasks, forecasts=forecasts
        )
        model = _ppo(settings, env, settings.joint_learning_rate)
        _start_from(model, load_finished(first, on_curves)[0])
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
    def __call__(self, search: BatchedSearch, wanted: BoolArray) -> tuple[FloatArray, IntArray]:
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
        made, pick = forecast_features(probabilities, self.mixture.bins, last, choosable)
        features[rows], picks[rows] = made.cpu().numpy(), targets[np.arange(len(rows)), pick.cpu().numpy()]
        return features, picks


def _ppo(settings: StopTraining, env: StopVecEnv, rate: float) -> PPO:
    return PPO(
        "MlpPolicy",
        env,
        n_steps=settings.n_steps,
        batch_size=2048,
        n_epochs=5,
        gamma=1.0,  # the objective is the sum of an episode's rewards, which is finite
        gae_lambda=0.97,
        learning_rate=lambda left: rate * left + 1e-5,
        ent_coef=0.004,
        policy_kwargs={"net_arch": [64, 64]},
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


def _clone_keep_better_third(model: PPO, settings: StopTraining, steps: int = 300) -> None:
    """Fits the policy to the rule "keep the better third whenever a trial is judged", before PPO starts.

    A policy that stops at random ends all trials early, never sees that patience pays, and collapses to stopping.
    """
    env = StopVecEnv(n_envs=settings.n_envs, seed=settings.seed + 1000)
    rng, observations = np.random.default_rng(settings.seed), env.reset()
    for _ in range(steps):
        stop = torch.as_tensor(1 / (1 + np.exp(-keep_better_third(observations))))
        chance = model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs[:, 1]  # type: ignore[union-attr]
        loss = torch.nn.functional.binary_cross_entropy(chance, stop.float())
        model.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        model.policy.optimizer.step()
        env.step_async((rng.random(len(stop)) < stop.numpy()).astype(int))
        observations = env.step_wait()[0]


def keep_better_third(observations: FloatArray) -> FloatArray:
    """B log-odds of stopping under the rule that PPO starts from, by the rank among trials that got as far."""
    return np.asarray(8.0 * (0.6 - observations[:, CURVE_FEATURES.index("rank_here")]) - 1.0)


def compare_stop_rules(
    tensors: dict[str, Tensor], mixture: Mixture, mix: TaskMix, n_tasks: int, device: str
) -> dict[str, Any]:
    """Compares the trained stop rule with the rule that PPO started from and with never stopping, on fresh tasks.

    Returns:
        Mean areas under the regret curve, and the difference to `keep_better_third` (negative = trained is better) with
        its 95% interval over blocks of tasks, which share a budget and a number of evaluations.
    """
    forecasts, trained = Forecaster(mixture, device), StopRule(tensors)
    rules: dict[str, Callable[[FloatArray], FloatArray]] = {
        "trained": lambda seen: trained.log_odds(seen[:, :-1]),
        "keep_better_third": keep_better_third,
        "never": lambda seen: np.full(len(seen), -1.0),
    }
    areas = {
        name: np.array([_stop_area(rule, forecasts, mix, _TEST_SEED + block) for block in range(n_tasks // _BLOCK)])
        for name, rule in rules.items()
    }
    n_blocks = len(areas["trained"])
    return {
        "tasks": n_blocks * _BLOCK,
        "blocks": n_blocks,
        **{f"area_{name}": float(area.mean()) for name, area in areas.items()},
        **difference(areas["trained"], areas["keep_better_third"]),
    }


def _stop_area(rule: Callable[[FloatArray], FloatArray], forecasts: Forecaster, mix: TaskMix, seed: int) -> float:
    env = StopVecEnv(n_envs=_BLOCK, seed=seed, tasks=mix.of(N_CANDIDATES), forecasts=forecasts)
    regrets, observations, ended = [], env.reset(), False
    while not ended:
        env.step_async((rule(observations) > 0).astype(int))
        regrets.append(1 - np.clip(env.search.incumbent, 0, 1))
        observations, _, done, _ = env.step_wait()
        ended = bool(done[0])
    return float(np.mean(regrets))


def difference(trained: FloatArray, baseline: FloatArray) -> dict[str, Any]:
    """Mean paired difference of regrets, and its normal 95% interval; the trained part ships if that is negative."""
    pairs = trained - baseline
    mean, half = float(pairs.mean()), float(1.96 * pairs.std(ddof=1) / np.sqrt(len(pairs)))
    return {"difference": mean, "interval": [mean - half, mean + half], "ships": mean + half < 0}
