"""Stage two of meta-training: PPO on the stop rule.

First on curves alone, where an episode costs next to nothing; then the same policy goes on with the predictor in the
loop, which forecasts the running trials and proposes the next ones: stopping and choosing are learnt together.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO
from torch import Tensor

from hf_rlsearch._typing import FloatArray
from hf_rlsearch.agent.network import Predictor
from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.envs.search_env import prior_tasks
from hf_rlsearch.envs.stop_env import N_CANDIDATES, StopVecEnv
from hf_rlsearch.meta_training.forecaster import Forecaster
from hf_rlsearch.observation.curve_features import CURVE_FEATURES, FORECAST_FEATURES

_LAYERS = ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net")
GROUP = 8
"""Searches that share a task during PPO, see `SearchVecEnv`."""
_GATE_BLOCK = 32  # fresh tasks of the gate that share a budget and a number of evaluations


@dataclass(frozen=True)
class StopTraining:
    """Settings of stage two.

    Attributes:
        steps: Decisions in all.
        n_envs: Searches side by side.
        n_steps: Decisions per search between two updates.
        learning_rate: At the start; falls linearly to zero.
        n_candidates: Candidates per task, of spaces that have so many.
        joint_steps: Decisions with forecasts of the predictor, after those without.
        joint_envs: Searches side by side then.
        joint_learning_rate: The rate of these at the start.
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


def train_stop_rule(settings: StopTraining, predictor: Predictor, folder: Path, device: str) -> dict[str, Tensor]:
    """PPO on the stop rule's environment, first without and then with forecasts.

    Args:
        settings: What to do.
        predictor: Frozen; forecasts and proposes in the second part.
        folder: Each part is kept here when it is done, and taken from here if it was.
        device: Where the predictor runs.

    Returns:
        The tensors of `policy.stop.StopRule`.
    """
    tasks = prior_tasks(settings.n_candidates)
    first, second = folder / "stop_curves.safetensors", folder / "stop.safetensors"
    if not first.exists():
        env = StopVecEnv(n_envs=settings.n_envs, seed=settings.seed, group=GROUP, tasks=tasks)
        model = _ppo(settings, env)
        _clone_keep_better_third(model, settings)
        model.learn(settings.steps)
        save_file(_tensors(model), first)
    if not second.exists():
        env = StopVecEnv(
            n_envs=settings.joint_envs,
            seed=settings.seed + 1,
            group=GROUP,
            tasks=tasks,
            forecasts=Forecaster(predictor, device),
        )
        model = _ppo(settings, env, joint=True)
        _start_from(model, load_file(first))
        model.learn(settings.joint_steps)
        save_file(_tensors(model), second)
    return load_file(second)


def _ppo(settings: StopTraining, env: StopVecEnv, *, joint: bool = False) -> PPO:
    rate = settings.joint_learning_rate if joint else settings.learning_rate
    return PPO(
        "MlpPolicy",
        env,
        n_steps=settings.n_steps,
        batch_size=2048,
        n_epochs=5,
        gamma=1.0,  # an episode's sum of rewards is what is wanted; it is finite
        gae_lambda=0.97,
        learning_rate=lambda left: rate * left + 1e-5,
        ent_coef=0.004,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
        seed=settings.seed,
    )


def _tensors(model: PPO) -> dict[str, Tensor]:
    state = model.policy.state_dict()
    return {
        f"stop.{i}.{part}": state[f"{layer}.{part}"].detach().cpu().clone()
        for i, layer in enumerate(_LAYERS)
        for part in ("weight", "bias")
    }


def _start_from(model: PPO, tensors: dict[str, Tensor]) -> None:
    """Gives a policy with forecasts the weights of one without; what it sees more of counts nothing yet."""
    weight, n = tensors["stop.0.weight"], len(CURVE_FEATURES)
    unseen = torch.zeros(len(weight), len(FORECAST_FEATURES))
    wider = {**tensors, "stop.0.weight": torch.cat([weight[:, :n], unseen, weight[:, n:]], dim=1)}
    state = {
        f"{layer}.{part}": wider[f"stop.{i}.{part}"] for i, layer in enumerate(_LAYERS) for part in ("weight", "bias")
    }
    model.policy.load_state_dict(state, strict=False)


def _clone_keep_better_third(model: PPO, settings: StopTraining, steps: int = 300) -> None:
    """Starts the stop rule as "keep the better third whenever a trial is judged".

    A policy that stops at random ends all trials early, never sees that patience pays, and collapses to that.
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
    """B log-odds of stopping under the rule that the stop rule starts from: keep the better third."""
    return np.asarray(8.0 * (0.6 - observations[:, CURVE_FEATURES.index("rank_here")]) - 1.0)


def compare_stop_rules(
    tensors: dict[str, Tensor], predictor: Predictor, n_tasks: int, device: str = "cpu", seed: int = 20_000
) -> dict[str, Any]:
    """Compares the trained stop rule with the rule that it started from and with never stopping, on fresh tasks.

    Returns:
        Mean areas under the regret curve, and the difference to `keep_better_third` (negative = trained is better) with
        its 95% interval over blocks of tasks, which share a budget and a number of evaluations.
    """
    forecasts = Forecaster(predictor, device)
    trained = StopRule(tensors)
    rules: dict[str, Callable[[FloatArray], FloatArray]] = {
        "trained": lambda seen: trained.log_odds(seen[:, :-1]),
        "keep_better_third": keep_better_third,
        "never": lambda seen: np.full(len(seen), -1.0),
    }
    areas = {
        name: np.array([_stop_area(rule, forecasts, seed + block) for block in range(n_tasks // _GATE_BLOCK)])
        for name, rule in rules.items()
    }
    verdict = {f"area_{name}": float(area.mean()) for name, area in areas.items()}
    n_blocks = len(areas["trained"])
    compared = {"tasks": n_blocks * _GATE_BLOCK, "blocks": n_blocks}
    return {**compared, **verdict, **difference(areas["trained"], areas["keep_better_third"])}


def _stop_area(rule: Callable[[FloatArray], FloatArray], forecasts: Forecaster, seed: int) -> float:
    env = StopVecEnv(n_envs=_GATE_BLOCK, seed=seed, forecasts=forecasts)
    regrets, observations, ended = [], env.reset(), False
    while not ended:
        env.step_async((rule(observations) > 0).astype(int))
        regrets.append(1 - np.clip(env.search.incumbent, 0, 1))
        observations, _, done, _ = env.step_wait()
        ended = bool(done[0])
    return float(np.mean(regrets))


def difference(ours: FloatArray, theirs: FloatArray) -> dict[str, Any]:
    """Mean paired difference with its normal 95% interval; negative is better for us, who then ship."""
    difference = ours - theirs
    mean, half = float(difference.mean()), float(1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))
    return {"difference": mean, "interval": [mean - half, mean + half], "ships": mean + half < 0}
