"""Meta-training: makes the weights that ship, in three stages and with a gate.

1. The predictor learns the outcome of candidates from histories, by likelihood on tasks of the prior.
2. PPO trains the stop rule on simulated learning curves.
3. PPO trains the decision head on the frozen predictor; it ships only if it beats the predictor's own acquisition.

Run it as ``python -m hf_rlsearch.meta_train``; every stage continues from its checkpoint in the folder.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from stable_baselines3 import PPO
from torch import Tensor

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.curve_features import CURVE_FEATURES
from hf_rlsearch.env import BatchedSearch, prior_tasks
from hf_rlsearch.observation import OBSERVATION_FORMAT
from hf_rlsearch.policy.features import CANDIDATE_FEATURES
from hf_rlsearch.policy.network import NetworkConfig, Predictor
from hf_rlsearch.policy.sb3 import FeatureEncoder, SearchPolicy, feature_space
from hf_rlsearch.policy.stop import StopRule
from hf_rlsearch.predictor_training import PredictorTraining, train_predictor
from hf_rlsearch.stop_env import StopVecEnv
from hf_rlsearch.tasks.prior import PRIOR_VERSION
from hf_rlsearch.vec_env import SearchVecEnv
from hf_rlsearch.weights.load import Card, save_weights

_STOP_LAYERS = ("mlp_extractor.policy_net.0", "mlp_extractor.policy_net.2", "action_net")
GROUP = 8
"""Searches that share a task during PPO, see `SearchVecEnv`."""

Policy = Callable[[dict[str, FloatArray]], IntArray]


@dataclass(frozen=True)
class StopTraining:
    """Settings of stage two.

    Attributes:
        steps: Decisions in all.
        n_envs: Searches side by side.
        n_steps: Decisions per search between two updates.
        learning_rate: At the start; falls linearly to zero.
        seed: Of everything.
    """

    steps: int = 3_000_000
    n_envs: int = 128
    n_steps: int = 64
    learning_rate: float = 7e-4
    seed: int = 1


@dataclass(frozen=True)
class ChoiceTraining:
    """Settings of stage three.

    Attributes:
        steps: Decisions in all.
        n_envs: Searches side by side.
        n_candidates: Candidates per task.
        budget: Trials per search.
        learning_rate: At the start; falls linearly to zero.
        seed: Of everything.
        gate_tasks: Fresh tasks on which the gate compares.
    """

    steps: int = 120_000
    n_envs: int = 64
    n_candidates: int = 64
    budget: int = 16
    learning_rate: float = 2e-3
    seed: int = 2
    gate_tasks: int = 2048


def train_stop_rule(settings: StopTraining, folder: Path) -> dict[str, Tensor]:
    """PPO on the stop rule's environment; returns the tensors of `policy.stop.StopRule`."""
    path = folder / "stop.safetensors"
    if path.exists():
        return load_file(path)
    model = PPO(
        "MlpPolicy",
        StopVecEnv(n_envs=settings.n_envs, seed=settings.seed, group=GROUP),
        n_steps=settings.n_steps,
        batch_size=2048,
        n_epochs=5,
        gamma=1.0,  # an episode's sum of rewards is what is wanted; it is finite
        gae_lambda=0.97,
        learning_rate=lambda left: settings.learning_rate * left + 1e-5,
        ent_coef=0.004,
        policy_kwargs={"net_arch": [64, 64]},
        device="cpu",
        seed=settings.seed,
    )
    _clone_halving(model, settings)
    model.learn(settings.steps)
    state = model.policy.state_dict()
    tensors = {
        f"stop.{i}.{part}": state[f"{layer}.{part}"].detach().cpu().clone()
        for i, layer in enumerate(_STOP_LAYERS)
        for part in ("weight", "bias")
    }
    save_file(tensors, path)
    return tensors


def _clone_halving(model: PPO, settings: StopTraining, steps: int = 300) -> None:
    """Starts the stop rule as "keep the better third at every evaluation".

    A policy that stops at random ends all trials early, never sees that patience pays, and collapses to that.
    """
    env = StopVecEnv(n_envs=settings.n_envs, seed=settings.seed + 1000)
    rng, observations = np.random.default_rng(settings.seed), env.reset()
    for _ in range(steps):
        stop = torch.as_tensor(1 / (1 + np.exp(-halving(observations))))
        chance = model.policy.get_distribution(torch.as_tensor(observations)).distribution.probs[:, 1]  # type: ignore[union-attr]
        loss = torch.nn.functional.binary_cross_entropy(chance, stop.float())
        model.policy.optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        model.policy.optimizer.step()
        env.step_async((rng.random(len(stop)) < stop.numpy()).astype(int))
        observations = env.step_wait()[0]


def halving(observations: FloatArray) -> FloatArray:
    """B log-odds of stopping under the rule that the stop rule starts from: keep the better third."""
    return np.asarray(8.0 * (0.6 - observations[:, CURVE_FEATURES.index("rank_here")]) - 1.0)


def stop_gate(tensors: dict[str, Tensor], n_tasks: int, seed: int = 20_000) -> dict[str, Any]:
    """Compares the trained stop rule with the rule that it started from and with never stopping, on fresh tasks.

    Returns:
        Mean areas under the regret curve, and the difference to `halving` (negative = trained is better) with its 95%
        interval over tasks.
    """
    trained = StopRule(tensors)
    rules: dict[str, Callable[[FloatArray], FloatArray]] = {
        "trained": lambda seen: trained.log_odds(seen[:, :-1]),
        "halving": halving,
        "never": lambda seen: np.full(len(seen), -1.0),
    }
    areas = {
        name: np.concatenate([_stop_area(rule, seed + block) for block in range(n_tasks // 128)])
        for name, rule in rules.items()
    }
    verdict = {f"area_{name}": float(area.mean()) for name, area in areas.items()}
    return {"tasks": len(areas["trained"]), **verdict, **_difference(areas["trained"], areas["halving"])}


def _stop_area(rule: Callable[[FloatArray], FloatArray], seed: int) -> FloatArray:
    env = StopVecEnv(n_envs=128, seed=seed)
    regrets, observations, ended = [], env.reset(), False
    while not ended:
        env.step_async((rule(observations) > 0).astype(int))
        regrets.append(1 - np.clip(env.search.incumbent, 0, 1))
        observations, _, done, _ = env.step_wait()
        ended = bool(done[0])
    return np.asarray(np.mean(regrets, axis=0))


def _difference(ours: FloatArray, theirs: FloatArray) -> dict[str, Any]:
    """Mean paired difference with its normal 95% interval; negative is better for us, who then ship."""
    difference = ours - theirs
    mean, half = float(difference.mean()), float(1.96 * difference.std(ddof=1) / np.sqrt(len(difference)))
    return {"difference": mean, "interval": [mean - half, mean + half], "ships": mean + half < 0}


def train_choice(settings: ChoiceTraining, predictor: Predictor, folder: Path, device: str) -> PPO:
    """PPO on the decision head, the predictor frozen; episodes are as long as `n_steps`: nothing is bootstrapped."""
    model = PPO(
        SearchPolicy,
        _choice_env(settings, predictor, settings.n_envs, settings.seed, device, GROUP),
        n_steps=settings.budget,
        batch_size=256,
        n_epochs=8,
        gamma=1.0,
        learning_rate=lambda left: settings.learning_rate * left + 1e-5,
        ent_coef=0.001,
        device="cpu",
        seed=settings.seed,
    )
    path = folder / "choice.safetensors"
    if path.exists():
        model.policy.head.load_state_dict(load_file(path))  # type: ignore[union-attr]
        return model
    model.learn(settings.steps)
    save_file(model.policy.head.state_dict(), path)  # type: ignore[union-attr]
    return model


def _choice_env(
    settings: ChoiceTraining, predictor: Predictor, n_envs: int, seed: int, device: str, group: int = 1
) -> SearchVecEnv:
    return SearchVecEnv(
        group=group,
        tasks=prior_tasks(settings.n_candidates),
        n_envs=n_envs,
        budget=settings.budget,
        seed=seed,
        encode=FeatureEncoder(predictor, device),
        space=feature_space(settings.n_candidates),
    )


def acquisition(observations: dict[str, FloatArray]) -> IntArray:
    """The predictor's own choice: the allowed candidate of the largest expected improvement."""
    log_ei = observations["candidates"][..., CANDIDATE_FEATURES.index("log_ei")]
    return np.asarray(np.where(observations["mask"][:, :-1] > 0, log_ei, -np.inf).argmax(1))


def area_under_regret(search: BatchedSearch, encode: Callable[[BatchedSearch], Any], policy: Policy) -> FloatArray:
    """Plays one episode per task; B means over the budget of the regret, clipped to [0, 1], 1 = median."""
    regrets = []
    while not search.done:
        search.step(policy(encode(search)))
        regrets.append(1 - np.clip(search.incumbent, 0, 1))
    return np.asarray(np.mean(regrets, axis=0))


def gate(settings: ChoiceTraining, predictor: Predictor, model: PPO, device: str, seed: int = 10_000) -> dict[str, Any]:
    """Compares the head with the acquisition in pairs: same fresh tasks, same luck of every training.

    Returns:
        Both means, the difference (negative = PPO is better) with its 95% interval, and whether PPO ships.
    """

    def head(observations: dict[str, FloatArray]) -> IntArray:
        return np.asarray(model.predict(observations, deterministic=True)[0])

    areas: dict[str, list[FloatArray]] = {"head": [], "acquisition": []}
    for block in range(settings.gate_tasks // 128):
        for name, policy in (("head", head), ("acquisition", acquisition)):
            env = _choice_env(settings, predictor, 128, seed + block, device)
            env.search.fix_luck(seed + block)
            areas[name].append(area_under_regret(env.search, env.encode, policy))
    ours, theirs = (np.concatenate(areas[name]) for name in ("head", "acquisition"))
    return {
        "tasks": len(ours),
        "budget": settings.budget,
        "area_head": float(ours.mean()),
        "area_acquisition": float(theirs.mean()),
        **_difference(ours, theirs),
    }


def main(arguments: list[str] | None = None) -> None:
    """Runs all stages and writes weights and card."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/meta_train"), help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=Path("runs/meta_train/rl-v1.safetensors"), help="weights to write")
    parser.add_argument("--predictor-steps", type=int, default=PredictorTraining.steps)
    parser.add_argument("--stop-steps", type=int, default=StopTraining.steps)
    parser.add_argument("--choice-steps", type=int, default=ChoiceTraining.steps)
    parser.add_argument("--gate-tasks", type=int, default=ChoiceTraining.gate_tasks)
    args = parser.parse_args(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predicting = PredictorTraining(steps=args.predictor_steps)
    stopping = StopTraining(steps=args.stop_steps)
    choosing = ChoiceTraining(steps=args.choice_steps, gate_tasks=args.gate_tasks)
    config = NetworkConfig()
    predictor = train_predictor(predicting, config, args.folder, device=device)
    tensors = {f"predictor.{k}": v.cpu() for k, v in predictor.state_dict().items()}
    tensors |= train_stop_rule(stopping, args.folder)
    model = train_choice(choosing, predictor, args.folder, device)
    verdict = gate(choosing, predictor, model, device)
    print(json.dumps(verdict, indent=2))
    if verdict["ships"]:
        tensors |= {f"head.{k}": v for k, v in model.policy.head.state_dict().items()}  # type: ignore[union-attr]
    card = Card(
        name=args.out.stem,
        observation_format=OBSERVATION_FORMAT,
        network=config.to_dict(),
        prior=PRIOR_VERSION,
        training={
            "predictor": asdict(predicting),
            "stop": asdict(stopping),
            "choice": asdict(choosing),
            "device": device,
        },
        gates={"choice": verdict, "stop": stop_gate(tensors, args.gate_tasks)},
        versions={name: version(name) for name in ("torch", "stable-baselines3", "gymnasium", "numpy")},
        limits="Trained on spaces of 1-12 hyperparameters and searches of up to 40 trials; beyond, see "
        "docs/meta_training.md.",
    )
    save_weights(args.out, tensors, card)


if __name__ == "__main__":
    main()
