"""Runs meta-training, which makes the weights that ship, in three stages with an acceptance test.

1. The predictor learns the outcomes of candidates from histories, by likelihood on tasks of the prior.
2. PPO trains the stop rule on simulated learning curves, first alone, then with the predictor's forecasts.
3. PPO trains the decision head on the frozen predictor; it ships only if it beats the predictor's own acquisition.

Run ``python -m hf_rlsearch.meta_training``; every stage continues from its checkpoint in the folder.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from importlib.metadata import version
from pathlib import Path

import torch

from hf_rlsearch.agent.checkpoint import Card, save_weights
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import NetworkConfig
from hf_rlsearch.meta_training.decision_head import DecisionHeadTraining, acceptance_test, train_decision_head
from hf_rlsearch.meta_training.predictor import PredictorTraining, train_predictor
from hf_rlsearch.meta_training.stop_rule import StopTraining, compare_stop_rules, train_stop_rule
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT
from hf_rlsearch.tasks.prior import PRIOR_VERSION


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/meta_train"), help="checkpoints and logs")
    parser.add_argument("--out", type=Path, default=Path("runs/meta_train/rl-v1.safetensors"), help="weights to write")
    parser.add_argument("--predictor-steps", type=int, default=PredictorTraining.steps)
    parser.add_argument("--stop-steps", type=int, default=StopTraining.steps)
    parser.add_argument("--joint-steps", type=int, default=StopTraining.joint_steps)
    parser.add_argument("--decision-head-steps", type=int, default=DecisionHeadTraining.steps)
    parser.add_argument("--test-tasks", type=int, default=DecisionHeadTraining.test_tasks)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> None:
    """Runs all stages and writes weights and card."""
    args = parse(arguments)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    predicting = PredictorTraining(steps=args.predictor_steps)
    stopping = StopTraining(steps=args.stop_steps, joint_steps=args.joint_steps)
    choosing = DecisionHeadTraining(steps=args.decision_head_steps, test_tasks=args.test_tasks)
    config = NetworkConfig()
    predictor = train_predictor(predicting, config, args.folder, device=device)
    tensors = {f"predictor.0.{k}": v.cpu() for k, v in predictor.state_dict().items()}
    mixture = Mixture([predictor])
    tensors |= train_stop_rule(stopping, mixture, args.folder, device)
    model = train_decision_head(choosing, mixture, args.folder, device)
    verdict = acceptance_test(choosing, mixture, model, device)
    print(json.dumps(verdict, indent=2))
    if verdict["ships"]:
        tensors |= {f"head.{k}": v for k, v in model.policy.head.state_dict().items()}  # type: ignore[union-attr]
    card = Card(
        name=args.out.stem,
        observation_format=OBSERVATION_FORMAT,
        network=asdict(config),
        prior=PRIOR_VERSION,
        training={
            "predictor": asdict(predicting),
            "stop_rule": asdict(stopping),
            "decision_head": asdict(choosing),
            "device": device,
        },
        gates={"decision_head": verdict, "stop_rule": compare_stop_rules(tensors, mixture, args.test_tasks, device)},
        versions={name: version(name) for name in ("torch", "stable-baselines3", "gymnasium", "numpy")},
        limits="Trained on spaces of 1-12 hyperparameters and searches of up to 40 trials, or 160 evaluations where "
        "trials are stopped; beyond, see docs/meta_training.md.",
    )
    save_weights(args.out, tensors, card)


if __name__ == "__main__":
    main()
