"""Divides the time of a meta-training among its stages, and runs each stage in several processes."""

from __future__ import annotations

import multiprocessing
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from hf_rlsearch.agent.checkpoint import Card
from hf_rlsearch.agent.mixture import Mixture
from hf_rlsearch.agent.network import NetworkConfig, Predictor
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.meta_training.decision_head import DecisionHeadTraining, acceptance_test, train_decision_head
from hf_rlsearch.meta_training.finished import compare_once, digest
from hf_rlsearch.meta_training.predictor import PredictorTraining, train_predictor
from hf_rlsearch.meta_training.stop_rule import StopTraining, compare_stop_rules, train_stop_rule
from hf_rlsearch.tasks.bank import make_bank, read_tables, table_path
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.miniature.table import MiniatureSize
from hf_rlsearch.tasks.mix import TaskMix

# Shares of the wall time, and seconds that one processor needs for a table, for a step of the predictor, and for a
# decision of the stop rule and of the head (measured on two busy cores).
_SHARES = {"bank": 0.3333, "predictors": 0.4, "stop": 0.14, "head": 0.08}
_SECONDS = {"table": 6.0, "step": 0.3, "stop": 6e-3, "head": 8e-3}
# The seeds of the bank: blocks, so that two processes fill the first two.
_BLOCK, _N_BLOCKS = 750, 2
# Tables whose seed has one of these remainders are kept from the predictors: PPO trains the head on the first kind, and
# the gates are decided on the second.
MODULUS, FOR_HEAD, FOR_GATES = 12, 5, 11
_CONTINUED_RATE = 1e-3  # peak learning rate of predictors that have learnt before
_REAL_CURVES = 0.8  # share of the batches from which the stop rule learns that have real learning curves


@dataclass(frozen=True)
class Plan:
    """How much of everything a meta-training makes.

    Attributes:
        n_tables: Tables of the bank.
        n_before: Tables that an earlier training had; this one has others.
        n_predictors: Members of the ensemble.
        predictor: Settings of each, which differ in the seed.
        stop_steps: Decisions of the stop rule.
        head_steps: Decisions of the decision head.
        test_tasks: Fresh tasks of each gate.
        size: Of the trainings of the bank.
    """

    n_tables: int
    n_predictors: int
    predictor: PredictorTraining
    stop_steps: int
    head_steps: int
    test_tasks: int = 1536
    n_before: int = 0
    size: MiniatureSize = field(default_factory=MiniatureSize)

    @classmethod
    def for_hours(cls, hours: float, jobs: int) -> Plan:
        """Fixed shares of some hours by the clock; more jobs, each on a processor of its own, make more tables.

        The numbers follow from both arguments alone, not from how fast the machine is.
        """
        seconds = {stage: 3600 * hours * share for stage, share in _SHARES.items()}
        n_predictors = 2
        waves = -(-n_predictors // jobs)
        return cls(
            n_tables=round(seconds["bank"] * jobs / _SECONDS["table"]),
            n_predictors=n_predictors,
            predictor=PredictorTraining(steps=round(seconds["predictors"] / waves / _SECONDS["step"])),
            stop_steps=round(seconds["stop"] / _SECONDS["stop"]),
            head_steps=round(seconds["head"] / _SECONDS["head"]),
        )

    def continuing(self, card: Card) -> Plan:
        """The plan of a training that continues parts of some weights, on tables that no part of those has seen.

        Raises:
            WeightsError: The card does not say how many tables the earlier training had.
        """
        n_before = 0
        training: Any = card.training
        while training:
            bank = training.get("bank")
            if not isinstance(bank, dict) or not isinstance(bank.get("tables"), int):
                raise WeightsError(f"The card of {card.name!r} does not say its number of tables; continue others.")
            n_before += bank["tables"] + training.get("stop_rule_bank", {"tables": 0})["tables"]
            training = training.get("continues")
        gentler = replace(self.predictor, learning_rate=_CONTINUED_RATE)
        return replace(self, n_before=n_before, predictor=gentler)

    def seeds(self) -> list[int]:
        """Seeds of the tables."""
        each, rest = divmod(self.n_tables, _N_BLOCKS)
        first = -(-self.n_before // _N_BLOCKS)
        if first + each + (rest > 0) > _BLOCK:
            begin = _N_BLOCKS * _BLOCK + self.n_before if self.n_before else 0
            return list(range(begin, begin + self.n_tables))
        return [block * _BLOCK + first + i for block in range(_N_BLOCKS) for i in range(each + (block < rest))]


@dataclass(frozen=True)
class Bank:
    """The tables of a meta-training, by what may learn from them.

    Attributes:
        learnt: The predictors do.
        for_head: What PPO trains does, the stop rule and the decision head.
        for_gates: Nothing does: the gates are decided on these.
    """

    learnt: Sequence[Table]
    for_head: Sequence[Table]
    for_gates: Sequence[Table]

    @classmethod
    def of(cls, plan: Plan, folder: Path, jobs: int, device: str, *, for_predictors: bool = True) -> Bank:
        """Makes the tables that the folder lacks and reads them: all, or only those that no predictor learns from."""
        kept = range(MODULUS) if for_predictors else (FOR_HEAD, FOR_GATES)
        seeds = [seed for seed in plan.seeds() if seed % MODULUS in kept]
        with _pool(jobs) as pool:
            made = [pool.submit(_make_tables, folder, seeds[j::jobs], plan.size, device) for j in range(jobs)]
            for future in made:
                future.result()

        def tables_of(*remainders: int) -> list[Table]:
            return read_tables([table_path(folder, seed) for seed in seeds if seed % MODULUS in remainders])

        others = set(range(MODULUS)) - {FOR_HEAD, FOR_GATES}
        return cls(tables_of(*others), tables_of(FOR_HEAD), tables_of(FOR_GATES))


def _make_tables(folder: Path, seeds: Sequence[int], size: MiniatureSize, device: str) -> None:
    torch.set_num_threads(1)  # another number gives other digits
    make_bank(folder, seeds, size, device=device)


def train_predictors(
    plan: Plan,
    config: NetworkConfig,
    bank: Bank,
    folder: Path,
    jobs: int,
    device: str,
    start_from: Sequence[Predictor] = (),
) -> list[Predictor]:
    """Trains the members of the ensemble, up to `jobs` of them at a time; each continues from its checkpoint.

    New trainings start from the weights of `start_from`, one for each member, where it is given.
    """
    settings = [replace(plan.predictor, seed=plan.predictor.seed + i) for i in range(plan.n_predictors)]
    folders = [folder / f"predictor-{i}" for i in range(plan.n_predictors)]
    mix = TaskMix(bank.learnt)
    starts = [start.state_dict() for start in start_from] if start_from else [None] * plan.n_predictors
    work = [(s, config, mix, f, device, start) for s, f, start in zip(settings, folders, starts, strict=True)]
    with _pool(jobs) as pool:
        list(pool.map(_train, *zip(*work, strict=True)))
    return [_train(*member).eval() for member in work]


def _train(
    settings: PredictorTraining,
    config: NetworkConfig,
    mix: TaskMix,
    folder: Path,
    device: str,
    start_from: Mapping[str, torch.Tensor] | None,
) -> Predictor:
    torch.set_num_threads(1)
    return train_predictor(settings, config, mix, folder, device=device, start_from=start_from)


@dataclass(frozen=True)
class Tested:
    """A part that PPO trained, and its comparison with what it has to beat.

    Attributes:
        settings: Of the training.
        tensors: By the names under which they ship.
        verdict: Figures of the comparison, ``"ships"`` among them.
    """

    settings: dict[str, Any]
    tensors: dict[str, torch.Tensor]
    verdict: dict[str, Any]


def train_by_ppo(
    plan: Plan, mixture: Mixture, bank: Bank, folder: Path, jobs: int, device: str
) -> tuple[Tested, Tested]:
    """Trains and tests the stop rule and the decision head, side by side where there are two jobs."""
    with _pool(min(jobs, 2)) as pool:
        parts = [
            pool.submit(part, plan, mixture, bank, folder, device)
            for part in (train_and_test_stop_rule, _decision_head)
        ]
        stop_rule, decision_head = (part.result() for part in parts)
    return stop_rule, decision_head


def train_and_test_stop_rule(plan: Plan, mixture: Mixture, bank: Bank, folder: Path, device: str) -> Tested:
    """Trains the stop rule on real curves that no predictor learnt from, and compares it on others."""
    torch.set_num_threads(1)
    settings = StopTraining(steps=plan.stop_steps)
    # In these searches a stopped trial counts by its best value, so they need tasks in which the best counts.
    mix = TaskMix(bank.for_head, bank_share=_REAL_CURVES, perturbed=True, curves=True, best_counts=1.0)
    tensors = train_stop_rule(settings, mixture, mix, folder, device)
    unlearnt = replace(mix, tables=bank.for_gates, bank_share=1.0)
    n_tasks = plan.test_tasks
    made_from = {"rule": digest(tensors), "predictors": digest(mixture.state_dict()), "tables": unlearnt.seeds}
    verdict = compare_once(
        folder / "stop_rule.json",
        made_from | {"tasks": n_tasks},
        lambda: compare_stop_rules(tensors, mixture, unlearnt, n_tasks, device),
    )
    return Tested(asdict(settings), tensors, verdict)


def _decision_head(plan: Plan, mixture: Mixture, bank: Bank, folder: Path, device: str) -> Tested:
    torch.set_num_threads(1)
    settings = DecisionHeadTraining(steps=plan.head_steps, test_tasks=plan.test_tasks)
    model = train_decision_head(settings, mixture, TaskMix(bank.for_head, perturbed=True), folder, device)
    unlearnt = TaskMix(bank.for_gates, perturbed=True)
    head = model.policy.head.state_dict()  # type: ignore[union-attr]
    made_from = {"head": digest(head), "predictors": digest(mixture.state_dict()), "tables": unlearnt.seeds}
    verdict = compare_once(
        folder / "decision_head.json",
        made_from | {"tasks": plan.test_tasks},
        lambda: acceptance_test(settings, mixture, unlearnt, model, device),
    )
    return Tested(asdict(settings), {f"head.{k}": v for k, v in head.items()}, verdict)


def _pool(jobs: int) -> ProcessPoolExecutor:
    return ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn"))
