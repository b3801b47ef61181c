"""Runs meta-training, which makes the weights that ship, in stages that share the time by fixed parts.

1. The bank: tables of miniature trainings, from which the tasks of all later stages are drawn, beside the formulas.
2. The predictors learn the outcomes of candidates from histories, by likelihood.
3. PPO trains the stop rule on learning curves of the bank, with the predictors' forecasts.
4. PPO trains the decision head on the frozen predictors; it ships only if it beats their expected improvement.

Run ``python -m hf_rlsearch.meta_training``; every stage continues from what its folder holds.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, replace
from importlib.metadata import version
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch

from hf_rlsearch.agent.agent import Agent
from hf_rlsearch.agent.checkpoint import Card, load_weights, save_weights
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import NetworkConfig
from hf_rlsearch.meta_training.plan import Bank, Plan, train_and_test_stop_rule, train_by_ppo, train_predictors
from hf_rlsearch.observation.observation import OBSERVATION_FORMAT
from hf_rlsearch.tasks.prior import PRIOR_VERSION

_STAGES = ("bank", "predictors", "all")


def parse(arguments: list[str] | None) -> argparse.Namespace:
    """Reads the command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path("runs/meta_train"), help="bank, checkpoints and logs")
    parser.add_argument("--out", type=Path, default=Path("runs/meta_train/rl-v5.safetensors"), help="weights to write")
    parser.add_argument("--hours", type=float, default=2.0, help="by the clock, divided among the stages")
    parser.add_argument("--jobs", type=int, default=2, help="processes, one thread each")
    parser.add_argument("--until", choices=_STAGES, default="all", help="end after this stage")
    earlier = parser.add_mutually_exclusive_group()
    earlier.add_argument(
        "--predictors-of", metavar="WEIGHTS", help="continue the training of these weights' predictors"
    )
    earlier.add_argument("--stop-rule-of", metavar="WEIGHTS", help="train only the stop rule of these weights anew")
    parser.add_argument("--test-tasks", type=int, default=Plan.test_tasks, help="fresh tasks of each gate")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None, plan: Plan | None = None) -> None:
    """Runs all stages and writes weights and card; `plan` replaces that of the hours."""
    args = parse(arguments)
    torch.set_num_threads(1)
    device = "cuda" if torch.cuda.is_available() else "cpu"
    plan = plan or replace(Plan.for_hours(args.hours, args.jobs), test_tasks=args.test_tasks)
    continued = Agent(*load_weights(args.predictors_of, without="stop")) if args.predictors_of else None
    if continued:
        plan = replace(plan.continuing(continued.card), n_predictors=len(continued.mixture.members))
    if args.stop_rule_of:
        renew_stop_rule(args, plan, device)
        return
    print(plan, flush=True)
    bank = Bank.of(plan, args.folder / "bank", args.jobs, device)
    if args.until == "bank":
        return
    start_from = continued.mixture.members if continued else []
    config = start_from[0].config if start_from else NetworkConfig()
    predictors = train_predictors(plan, config, bank, args.folder, args.jobs, device, start_from)
    if args.until == "predictors":
        return
    mixture = Mixture(predictors)
    tensors = {f"predictor.{i}.{k}": v.cpu() for i, p in enumerate(predictors) for k, v in p.state_dict().items()}
    stop_rule, decision_head = train_by_ppo(plan, mixture, bank, args.folder, args.jobs, device)
    print(json.dumps(decision_head.verdict, indent=2))
    tensors |= stop_rule.tensors
    if decision_head.verdict["ships"]:
        tensors |= decision_head.tensors
    card = Card(
        name=args.out.stem,
        observation_format=OBSERVATION_FORMAT,
        network=asdict(config),
        prior=PRIOR_VERSION,
        training={
            "hours": args.hours,
            "bank": {"tables": plan.n_tables, "seeds": _ranges(plan.seeds())},
            "predictors": {"members": plan.n_predictors, **asdict(plan.predictor)},
            "stop_rule": stop_rule.settings,
            "decision_head": decision_head.settings,
            "device": device,
            **({"continues": {"weights": continued.card.name, **_earlier(continued.card)}} if continued else {}),
        },
        gates={"decision_head": decision_head.verdict, "stop_rule": stop_rule.verdict},
        versions={name: version(name) for name in ("torch", "stable-baselines3", "gymnasium", "numpy")},
        limits="Trained on spaces of 1-12 hyperparameters and searches of up to 40 trials, or 160 evaluations where "
        "trials are stopped; beyond, see docs/background/meta_training.md.",
    )
    save_weights(args.out, tensors, card)


def renew_stop_rule(args: argparse.Namespace, plan: Plan, device: str) -> None:
    """Trains the stop rule anew for predictors that exist; all else of the weights and of their card stays.

    Its tables are others than those of the weights, so that nobody has looked at those of the gate.
    """
    tensors, card = load_weights(args.stop_rule_of, without="stop")
    plan = plan.continuing(card)
    print(plan, flush=True)
    bank = Bank.of(plan, args.folder / "bank", args.jobs, device, for_predictors=False)
    stop_rule = train_and_test_stop_rule(plan, Agent(tensors, card).mixture, bank, args.folder, device)
    print(json.dumps(stop_rule.verdict, indent=2))
    renewed = replace(
        card,
        name=args.out.stem,
        training={
            **card.training,
            "stop_rule": {**stop_rule.settings, "prior": PRIOR_VERSION},
            "stop_rule_bank": _with_earlier(card, plan),
            "other_parts": f"of {card.name}",
        },
        gates={**card.gates, "stop_rule": stop_rule.verdict},
    )
    save_weights(args.out, tensors | stop_rule.tensors, renewed)


def _with_earlier(card: Card, plan: Plan) -> dict[str, Any]:
    """The tables of a stop rule that is trained anew, with those of earlier ones: no part may learn from these."""
    before = card.training.get("stop_rule_bank", {"tables": 0, "seeds": ""})
    seeds = ", ".join(filter(None, (before["seeds"], _ranges(plan.seeds()))))
    return {"tables": before["tables"] + plan.n_tables, "seeds": seeds}


def _earlier(card: Card) -> dict[str, Any]:
    """How the predictors of some weights were trained."""
    kept = ("hours", "bank", "stop_rule_bank", "predictors", "continues")
    return {name: card.training[name] for name in kept if name in card.training}


def _ranges(numbers: Sequence[int]) -> str:
    """Ascending numbers for people to read: "0-399, 750-1149"."""
    breaks = [0, *(i for i in range(1, len(numbers)) if numbers[i] != numbers[i - 1] + 1), len(numbers)]
    return ", ".join(f"{numbers[a]}-{numbers[b - 1]}" for a, b in pairwise(breaks))


if __name__ == "__main__":
    main()
