"""Trains the decision head by PPO on the frozen predictors, the fourth stage of meta-training, and tests it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3 import PPO

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.agent.acquisition import CANDIDATE_FEATURES
from hf_rlsearch.agent.learners import SearchPolicy, feature_space
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.envs.vec_env import SearchVecEnv
from hf_rlsearch.meta_training.finished import digest, load_finished, save_finished
from hf_rlsearch.meta_training.sb3_policy import FeatureEncoder
from hf_rlsearch.meta_training.stop_rule import difference
from hf_rlsearch.tasks.mix import TaskMix

Policy = Callable[[dict[str, FloatArray]], IntArray]

# The acceptance test: seed of the first block of tasks, far from those of the training, and tasks per block.
_TEST_SEED, _BLOCK = 10_000, 128


@dataclass(frozen=True)
class DecisionHeadTraining:
    """Settings of stage four.

    Attributes:
        steps: Decisions in all.
        n_envs: Searches side by side.
        group: Searches that share task and noise; the rewards of each count relative to their mean.
        n_candidates: Candidates per task.
        budget: Trials per search.
        learning_rate: At the start; falls linearly to zero.
        seed: Of everything.
        test_tasks: Fresh tasks of the acceptance test, a multiple of 128.
    """

    steps: int = 72_000
    n_envs: int = 128
    group: int = 4
    n_candidates: int = 128
    budget: int = 20
    learning_rate: float = 1e-3
    seed: int = 2
    test_tasks: int = 1536


def train_decision_head(
    settings: DecisionHeadTraining, mixture: Mixture, mix: TaskMix, folder: Path, device: str
) -> PPO:
    """Trains the head on tasks of `mix`, or loads it from `folder`.

    An episode has `n_steps` decisions, so nothing is bootstrapped.
    """
    model = PPO(
        SearchPolicy,
        _env(settings, mixture, mix, settings.n_envs, settings.seed, device, settings.group),
        n_steps=settings.budget,
        batch_size=512,
        n_epochs=6,
        gamma=1.0,
        learning_rate=lambda left: settings.learning_rate * left + 1e-5,
        ent_coef=0.001,
        device="cpu",
        seed=settings.seed,
    )
    path = folder / "decision_head.safetensors"
    made_from = {**asdict(settings), "tables": mix.seeds, "predictors": digest(mixture.state_dict())}
    if path.exists():
        model.policy.head.load_state_dict(load_finished(path, made_from)[0])  # type: ignore[union-attr]
        return model
    model.learn(settings.steps)
    save_finished(path, model.policy.head.state_dict(), made_from)  # type: ignore[union-attr]
    return model


def _env(
    settings: DecisionHeadTraining,
    mixture: Mixture,
    mix: TaskMix,
    n_envs: int,
    seed: int,
    device: str,
    group: int = 1,
) -> SearchVecEnv:
    return SearchVecEnv(
        tasks=mix.of(settings.n_candidates),
        n_envs=n_envs,
        budget=settings.budget,
        seed=seed,
        group=group,
        encode=FeatureEncoder(mixture, device, group),
        space=feature_space(settings.n_candidates),
    )


def acquisition(observations: dict[str, FloatArray]) -> IntArray:
    """The predictors' own choice: the allowed candidate of the largest expected improvement."""
    log_ei = observations["candidates"][..., CANDIDATE_FEATURES.index("log_ei")]
    return np.asarray(np.where(observations["mask"][:, :-1] > 0, log_ei, -np.inf).argmax(1))


def area_under_regret(search: BatchedSearch, encode: Callable[[BatchedSearch], Any], policy: Policy) -> FloatArray:
    """Plays one episode per task: B means over the budget of the regret in [0, 1], 1 = median of the task."""
    regrets: list[FloatArray] = []
    while not search.done:
        search.step(policy(encode(search)))
        regrets.append(1 - np.clip(search.incumbent, 0, 1))
    return np.asarray(np.mean(regrets, axis=0))


def acceptance_test(
    settings: DecisionHeadTraining, mixture: Mixture, mix: TaskMix, model: PPO, device: str
) -> dict[str, Any]:
    """Compares the head with the acquisition in pairs: same tasks, which nothing learnt from, same noise.

    A searcher that knows all values and picks the best candidate first has an area of zero on every task, so the area
    of the acquisition is its gap to the clairvoyant.

    Returns:
        Both means, the difference (negative = PPO is better) with its 95% interval, and whether the head ships.
    """

    def head(observations: dict[str, FloatArray]) -> IntArray:
        return np.asarray(model.predict(observations, deterministic=True)[0])

    areas: dict[str, list[FloatArray]] = {"head": [], "acquisition": []}
    for block in range(settings.test_tasks // _BLOCK):
        for name, policy in (("head", head), ("acquisition", acquisition)):
            env = _env(settings, mixture, mix, _BLOCK, _TEST_SEED + block, device)
            env.search.fix_noise(_TEST_SEED + block)
            areas[name].append(area_under_regret(env.search, env.encode, policy))
    by_head, by_acquisition = (np.concatenate(area) for area in areas.values())
    return {
        "tasks": len(by_head),
        "budget": settings.budget,
        "area_head": float(by_head.mean()),
        "area_acquisition": float(by_acquisition.mean()),
        **difference(by_head, by_acquisition),
    }
