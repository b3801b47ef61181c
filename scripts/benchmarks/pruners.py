"""Compares samplers with pruners on recorded learning curves, by the compute they need.

    python scripts/benchmarks/pruners.py --tables TABLES --out runs.json --report table.md --figure regret.svg
    python scripts/benchmarks/pruners.py --tables TABLES --out runs.json --ablation --report ablation.md
    python scripts/benchmarks/pruners.py --tables TABLES --out prices.json --seconds --pairs "ours + none + prices"

"ours, facts" is told what a Trainer's search knows: the whole space, the facts of the table, and how long each training
is beside the others; each training has its own axis. The second line compares selection only, stopping only, both, and
both with trainings that go on where they were stopped ("thaw"): a configuration proposed again after it was pruned pays
the rest of its curve only. The third line tells the sampler the seconds of each candidate, and what is left of the
budget.

Only tasks with curves are used. The budget is counted in average trainings: in checkpoints, or with `--seconds` in
seconds of the processor, where a checkpoint of a long training costs more than one of a short training.
The best checkpoint seen counts, of pruned trials as well. Syne Tune's schedulers are compared where it is installed.
See docs/background/benchmark.md.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import hashlib
import math
from collections.abc import Callable, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

import _benchmarking as bench
from _peers import OptunaSearch, known_of, prepare
from _syne_tune import METHODS as SYNE_TUNE
from _syne_tune import Price, SyneTuneSearch, why_missing
from hf_rlsearch import RLPruner, RLSampler
from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.agent.checkpoint import load_weights, resolve
from hf_rlsearch.agent.stop_rule import StopRule
from hf_rlsearch.errors import WeightsError
from hf_rlsearch.observation.trial_attributes import CONTINUES, COST, FULL_TRAINING
from hf_rlsearch.optuna.sampler import CostCooling
from hf_rlsearch.space import SearchSpace
from recorded_tasks import RecordedTask, load_tasks

POINTS = (1, 3, 5, 10, 20)
COMPARED_AT = 10

SAMPLERS: dict[str, Callable[[RecordedTask, int, str | None], optuna.samplers.BaseSampler]] = {
    "random": lambda task, seed, weights: optuna.samplers.RandomSampler(seed=seed),
    "TPE": lambda task, seed, weights: optuna.samplers.TPESampler(seed=seed),
    "ours": lambda task, seed, weights: RLSampler(seed=seed, weights=weights, max_resource=task.max_resource),
    "ours, facts": lambda task, seed, weights: RLSampler(
        seed=seed, weights=weights, max_resource=FULL_TRAINING, **known_of(task)
    ),
}
PRUNERS: dict[str, Callable[[RecordedTask, int, str | None], optuna.pruners.BasePruner]] = {
    "none": lambda task, budget, weights: optuna.pruners.NopPruner(),
    "median": lambda task, budget, weights: optuna.pruners.MedianPruner(),
    "hyperband": lambda task, budget, weights: optuna.pruners.HyperbandPruner(
        min_resource=1, max_resource=task.max_resource, reduction_factor=3
    ),
    "halving": lambda task, budget, weights: optuna.pruners.SuccessiveHalvingPruner(min_resource=1, reduction_factor=3),
    "ours": lambda task, budget, weights: RLPruner(max_resource=task.max_resource, budget=budget, weights=weights),
    "ours, facts": lambda task, budget, weights: RLPruner(
        max_resource=FULL_TRAINING, budget=budget, weights=weights, **known_of(task)
    ),
}
OURS, THAW, PRICED = "ours + ours", "ours + ours + thaw", "ours + none + prices"
TOLD = ("ours, facts + none", "ours, facts + ours, facts")
PAIRS = (
    *(f"{sampler} + {pruner}" for sampler in SAMPLERS for pruner in PRUNERS if "facts" not in sampler + pruner),
    *TOLD,
    THAW,
    PRICED,
    *SYNE_TUNE,
)
ABLATION = {
    "selection only": "ours + none",
    "stopping only": "random + ours",
    "both": OURS,
    "both, and trainings go on": THAW,
}


def run_cell(cell: bench.Cell, *, tables: Path, budget: int, weights: str | None, in_seconds: bool) -> dict[str, Any]:
    """One search: regret of the best checkpoint seen after each full training, and the number of trials."""
    pair, name, seed = cell
    return search(pair, _task(tables, name), seed, budget, weights, in_seconds=in_seconds)


@lru_cache(maxsize=64)
def _task(tables: Path, name: str) -> RecordedTask:
    return load_tasks(tables, names=[name])[0]


def search(
    pair: str, task: RecordedTask, seed: int, budget: int, weights: str | None, *, in_seconds: bool = False
) -> dict[str, Any]:
    """Trains until the budget is spent; the last trial may end in the middle."""
    own = bench.seed_of(task.name, seed)
    prepare(own)
    price = partial(task.price, in_seconds=in_seconds)
    run: SyneTuneSearch | PairSearch
    if pair in SYNE_TUNE:
        run = SyneTuneSearch(pair, task, own, price)
    else:
        run = PairSearch(pair, task, own, budget, weights, price)
    seen, spent = np.empty(0), np.empty(0)
    while len(new := run.train(budget - spent[-1] if len(spent) else budget)):
        seen = np.concatenate([seen, new])
        spent = np.concatenate([spent, (spent[-1] if len(spent) else 0) + run.price * np.arange(1, len(new) + 1)])
    # A checkpoint belongs to the training at whose end it is half paid for. A method that has tried everything proposes
    # nothing any more, and stays with what it has.
    half = np.diff(spent, prepend=0) / 2
    ends = np.maximum(np.searchsorted(spent - half, np.arange(1, budget + 1), side="right") - 1, 0)
    best = np.minimum.accumulate(task.regret(seen))
    return {"regret": best[ends].round(6).tolist(), "trials": run.trials, "continued": run.continued}


class PairSearch:
    """A search on a task with a sampler and a pruner of Optuna's kind.

    Args:
        pair: One of `PAIRS`.
        task: To be tuned.
        seed: Of the sampler.
        budget: Full trainings.
        weights: Of ours.
        price: Levels -> what a checkpoint costs, in full trainings.

    Attributes:
        trials: Trainings begun or resumed.
        continued: How many of them were resumed.
        price: Of a checkpoint of the latest training.
    """

    def __init__(
        self, pair: str, task: RecordedTask, seed: int, budget: int, weights: str | None, price: Price
    ) -> None:
        sampler, pruner, *more = pair.split(" + ")
        self.study = OptunaSearch(
            task,
            SAMPLERS[sampler](task, seed, weights),
            PRUNERS[pruner](task, budget, weights),
            values=sampler.startswith("ours"),
        )
        self.is_told = pair in TOLD
        self.task, self.budget, self.paused = task, budget, Paused()
        self.thaw, self.is_priced = "thaw" in more, "prices" in more
        self.trials = self.continued = 0
        self._price_of, self.price = price, 0.0

    def train(self, left: float) -> FloatArray:
        """Trains one trial with what is left, in full trainings; returns the objective at the new checkpoints."""
        if isinstance(sampler := self.study.study.sampler, RLSampler) and self.thaw:
            sampler.plan_for(None, resumable=self.paused.numbers())
        elif isinstance(sampler, RLSampler) and self.is_priced and self.trials:  # the first trial makes the space known
            sampler.plan_for(math.ceil(left), CostCooling(price=self._prices, left=left, total=self.budget))
        levels = self.study.ask()
        self.price = self._price_of(levels)
        if (n_left := round(left / self.price)) < 1:
            return np.empty(0)
        begun = self.paused.take(self.study, levels) if self.thaw else 0
        whole = self.task.curve(levels)
        curve = whole[: begun + n_left]
        if self.is_told:
            self.study.trial.set_user_attr(COST, self.price * len(whole))
        new = train(self.study, self.task, curve, begun, FULL_TRAINING / len(whole) if self.is_told else 1)
        if begun + len(new) < len(curve):
            self.paused.put(self.study, levels, begun + len(new))
        self.trials, self.continued = self.trials + 1, self.continued + (begun > 0)
        return new

    def _prices(self, space: SearchSpace, rows: IntArray) -> FloatArray:
        """Of whole trainings, as `CostCooling` takes them."""
        levels = [self.study.levels(space.decode(row)) for row in rows]
        return np.array([self._price_of(each) * len(self.task.curve(each)) for each in levels])


class Paused:
    """Trainings that were stopped: by configuration the trial and the checkpoints that it has seen."""

    def __init__(self) -> None:
        self._waiting: dict[tuple[int, ...], tuple[int, int]] = {}

    def put(self, study: OptunaSearch, levels: Sequence[int], n_seen: int) -> None:
        """The trial asked for last was stopped."""
        self._waiting[tuple(levels)] = (study.trial.number, n_seen)

    def numbers(self) -> list[int]:
        """The trials that wait."""
        return [number for number, _ in self._waiting.values()]

    def take(self, study: OptunaSearch, levels: Sequence[int]) -> int:
        """Lets the trial asked for last go on with a stopped one of the same configuration.

        Returns:
            Checkpoints that the stopped one has seen, 0 if there is none.
        """
        number, n_seen = self._waiting.pop(tuple(levels), (None, 0))
        if number is not None:
            study.trial.set_user_attr(CONTINUES, number)
        return n_seen


def train(study: OptunaSearch, task: RecordedTask, curve: FloatArray, begun: int = 0, unit: float = 1) -> FloatArray:
    """Trains the trial asked for last, to its end or until it is pruned.

    Args:
        study: It belongs to.
        task: It is tuned on.
        curve: Its objective at every checkpoint.
        begun: Checkpoints that an earlier trial has paid for: they are repeated, and nothing is decided there.
        unit: Of a checkpoint on the axis of the study.

    Returns:
        The new checkpoints.
    """
    for step, value in enumerate(curve, 1):
        study.trial.report(float(value), round(step * unit))
        if begun < step < len(curve) and study.trial.should_prune():
            study.study.tell(study.trial, state=optuna.trial.TrialState.PRUNED)
            return curve[begun:step]
    study.tell(float(curve.max() if task.maximize else curve.min()))
    return curve[begun:]


def available(wanted: Sequence[str] | None, weights: str | None) -> list[str]:
    """The pairs to run; says which are left out and why."""
    if unknown := sorted(set(wanted or ()) - set(PAIRS)):
        raise SystemExit(f"there are no pairs {unknown}: choose from {list(PAIRS)}.")
    pairs = list(wanted or [pair for pair in PAIRS if pair != PRICED])  # that one is for `--seconds`
    if reason := why_missing():
        if asked := [pair for pair in wanted or () if pair in SYNE_TUNE]:
            raise SystemExit(f"{asked[0]!r} cannot be run: {reason}.")
        if not wanted:
            print(f"Syne Tune's: left out, {reason}")
        pairs = [pair for pair in pairs if pair not in SYNE_TUNE]
    try:
        StopRule(load_weights(weights)[0])
    except WeightsError as error:
        print(f"pairs with our pruner: left out, {error}")
        pairs = [pair for pair in pairs if "+ ours" not in pair]
    return pairs


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    parser = bench.parser(__doc__, "pairs")
    parser.add_argument("--budget", type=int, default=20, help="full trainings of each search")
    parser.add_argument("--seconds", action="store_true", help="count the budget in seconds of the processor")
    parser.add_argument("--ablation", action="store_true", help="only the pairs of the ablation, in a table of it")
    args = parser.parse_args(arguments)
    tasks = [t for t in load_tasks(args.tables, families=args.families, names=args.tasks) if t.has_curves]
    if not tasks:
        raise SystemExit(f"none of the chosen tasks of {args.tables} has learning curves.")
    pairs = available(list(ABLATION.values()) if args.ablation else args.pairs, args.weights)
    digest = hashlib.sha256(resolve(args.weights).read_bytes()).hexdigest()[:12]
    made = {pair: digest if "ours" in pair else "peer" for pair in PAIRS}
    settings = {"budget": args.budget} | ({"seconds": True} if args.seconds else {})
    results = bench.Results(args.out, settings)
    results.drop_stale(made)
    run = partial(run_cell, tables=args.tables, budget=args.budget, weights=args.weights, in_seconds=args.seconds)
    bench.run_cells(
        results, [(p, t.name, s) for s in range(args.seeds) for p in pairs for t in tasks], run, made, args.jobs
    )
    curves = bench.collect(results, PAIRS, tasks)
    if args.ablation:
        curves = {name: curves[pair] for name, pair in ABLATION.items() if pair in curves}
        text = bench.report(curves, POINTS, ours=list(curves)[-1], reference=next(iter(curves)), point=COMPARED_AT)
        bench.finish(text, curves, report=args.report, figure=args.figure, label="compute, full trainings")
        return
    ours = OURS if OURS in curves else "ours + none"
    text = bench.report(curves, POINTS, ours=ours, reference="TPE + none", point=COMPARED_AT)
    bench.finish(text, curves, report=args.report, figure=args.figure, label="compute, full trainings")


if __name__ == "__main__":
    main()
