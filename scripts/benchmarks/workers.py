"""Compares searches with 1 to 64 workers at once on recorded tables: regret at equal budget and at equal wall time.

    python scripts/benchmarks/workers.py --tables TABLES --out workers.json --report workers.md --figure workers.svg

The clock is simulated: a worker is busy for the seconds that the table has for its training, then it asks for the next
configuration at once, while the others are still training. Where trials are stopped, each checkpoint takes its share of
the seconds, and what is stopped makes room for another trial. The samplers, the pruner and Ray's scheduler are real;
the time of their choices does not count. See docs/background/benchmark.md for what is measured.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import hashlib
import heapq
import importlib.util
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import lru_cache, partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import optuna

import _benchmarking as bench
from _peers import PEERS, OptunaSearch, prepare
from hf_rlsearch import RLPruner
from hf_rlsearch._typing import FloatArray
from hf_rlsearch.agent.checkpoint import resolve
from recorded_tasks import RecordedTask, load_tasks

WORKERS = (1, 2, 4, 8, 16, 64)
N_TRIALS = 16
"""Full trainings of the whole search, at equal budget; a stopped one counts by the share that was trained."""
N_TRAININGS = 2
"""Mean trainings of the table that one worker has time for, at equal wall time."""
POINTS = (f"after {N_TRIALS} full trainings in all", f"after the time of {N_TRAININGS} mean trainings")
_RAY = "Ray Tune's ASHA"

Stops = Callable[[optuna.Trial, float, int], bool]
"""A trial, its objective at a checkpoint, and which one that is, the first is 1 -> whether its training ends there."""


@dataclass(frozen=True)
class Method:
    """A way to search with several workers.

    Attributes:
        start: (task, seed, full trainings in all, weights) -> a search.
        stopping: (task, full trainings in all, weights, search) -> what stops its trials; nothing where not given.
        ours: It depends on weights.
        needs: Module that has to be installed.
    """

    start: Callable[[RecordedTask, int, int, str | None], Any]
    stopping: Callable[[RecordedTask, int, str | None, Any], Stops] | None = None
    ours: bool = False
    needs: str = "optuna"


def _tpe(task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> OptunaSearch:
    """Counts what is being trained as bad (`constant_liar=True`), as Optuna advises for several workers."""
    return OptunaSearch(task, optuna.samplers.TPESampler(seed=seed, constant_liar=True), values=False)


def _by_ray(task: RecordedTask, budget: int, weights: str | None, search: Any) -> Stops:
    """Ray Tune's scheduler with its own defaults, told of each checkpoint as by a cluster."""
    from ray.tune.schedulers import ASHAScheduler

    scheduler = ASHAScheduler(
        metric="objective", mode="max" if task.maximize else "min", max_t=max(1, task.max_resource)
    )
    begun: dict[int, Any] = {}

    def stops(trial: optuna.Trial, value: float, step: int) -> bool:
        if trial.number not in begun:
            begun[trial.number] = SimpleNamespace(trial_id=str(trial.number))
            scheduler.on_trial_add(None, begun[trial.number])
        result = {"objective": value, "training_iteration": step}
        return bool(scheduler.on_trial_result(None, begun[trial.number], result) == scheduler.STOP)

    return stops


def _by_pruner(task: RecordedTask, budget: int, weights: str | None, search: Any) -> Stops:
    """Our pruner, asked at each checkpoint."""
    search.study.pruner = RLPruner(max_resource=task.max_resource, budget=budget, weights=weights)

    def stops(trial: optuna.Trial, value: float, step: int) -> bool:
        trial.report(value, step)
        return trial.should_prune()

    return stops


METHODS: dict[str, Method] = {
    "random": Method(PEERS["random"].start),
    "TPE": Method(_tpe),
    _RAY: Method(PEERS["random"].start, _by_ray, needs="ray"),
    "ours": Method(PEERS["ours, facts"].start, ours=True),
    "ours, stopping": Method(PEERS["ours, facts"].start, _by_pruner, ours=True),
}
"""By name. Ray's ASHA chooses at random, as Ray Tune does where nothing else is asked for."""


@dataclass
class Training:
    """A trial that a worker is training: its objective at every checkpoint, the seconds of each, and how many were."""

    trial: Any
    curve: FloatArray
    seconds: float
    seen: int = 0

    @property
    def left(self) -> float:
        """The share of it that is left."""
        return 1 - self.seen / len(self.curve)


def search(method: str, task: RecordedTask, seed: int, n_workers: int, weights: str | None) -> list[float]:
    """Regret of the best checkpoint of a search of `N_TRIALS` full trainings, and of one of `N_TRAININGS` of time."""
    own = bench.seed_of(task.name, seed)
    prepare(own)
    deadline = N_TRAININGS * task.mean_seconds
    # At equal wall time the search has no number of trials: it is told how many it can expect.
    at_equal_time = simulate(method, task, own, n_workers, N_TRAININGS * n_workers, deadline, weights)
    at_equal_budget = simulate(method, task, own, n_workers, N_TRIALS, np.inf, weights)
    return [float(task.regret(np.array(values)).min()) for values in (at_equal_budget, at_equal_time)]


def simulate(
    method: str, task: RecordedTask, seed: int, n_workers: int, budget: int, deadline: float, weights: str | None
) -> list[float]:
    """The objectives of all checkpoints before the deadline, in seconds; of `budget` trainings where there is none."""
    peer = METHODS[method].start(task, seed, budget, weights)
    stopping = METHODS[method].stopping
    stops = stopping(task, budget, weights, peer) if stopping else None
    most = budget if np.isinf(deadline) else np.inf
    clock, spent, values = 0.0, 0.0, []
    running: list[tuple[float, int, Training]] = []
    while True:
        # What is being trained may go on to its end: a trial begins where the budget has room beside that.
        while len(running) < n_workers and spent + sum(t.left for *_, t in running) < most - 1e-9:
            training = _begin(task, peer)
            heapq.heappush(running, (clock + training.seconds, training.trial.number, training))
        if not running or spent >= most - 1e-9:
            break
        clock, number, training = heapq.heappop(running)
        if clock > deadline:
            break
        training.seen, spent = training.seen + 1, spent + 1 / len(training.curve)
        values.append(float(training.curve[training.seen - 1]))
        if training.seen == len(training.curve):
            peer.trial = training.trial
            peer.tell(float(training.curve.max() if task.maximize else training.curve.min()))
        elif stops and stops(training.trial, values[-1], training.seen):
            peer.study.tell(training.trial, state=optuna.trial.TrialState.PRUNED)
        else:
            heapq.heappush(running, (clock + training.seconds, number, training))
    return values or [task.median]


def _begin(task: RecordedTask, peer: Any) -> Training:
    """The training of the configuration that a search asks for."""
    levels = peer.ask()
    curve = task.curve(levels) if task.has_curves else np.array([task.value(levels)])
    return Training(peer.trial, curve, task.seconds(levels) / len(curve))


@lru_cache(maxsize=64)
def _task(tables: Path, name: str) -> RecordedTask:
    return load_tasks(tables, names=[name])[0]


def run_cell(cell: bench.Cell, *, tables: Path, weights: str | None) -> dict[str, Any]:
    """One search, of a cell whose method is "name, workers"."""
    name, task, seed = cell
    method, _, n_workers = name.rpartition(", ")
    return {"regret": search(method, _task(tables, task), seed, int(n_workers), weights)}


def tables_of(curves: dict[str, bench.Curves]) -> str:
    """Regret by method and number of workers, and the paired differences to ours, at equal budget and wall time."""
    text = "Means with 95% bootstrap intervals over tasks and seeds; each search clipped to [0, 1].\n"
    methods = [m for m in METHODS if any(f"{m}, {n}" in curves for n in WORKERS)]
    for point, title in enumerate(POINTS):
        found = {m: [curves.get(f"{m}, {n}") for n in WORKERS] for m in methods}
        rows = [[m, *(_regret(c, point) for c in found[m])] for m in methods]
        rows += [
            [f"{m} minus ours", *(_difference(*pair, point) for pair in zip(found[m], found["ours"], strict=True))]
            for m in methods
            if m != "ours" and "ours" in found
        ]
        seeds = [min((c.n_seeds for m in methods if (c := found[m][i])), default=0) for i in range(len(WORKERS))]
        rows.append(["seeds", *(str(n or "") for n in seeds)])
        text += f"\n### Regret {title}\n\n{bench.table(['', *(f'{n} at once' for n in WORKERS)], rows)}"
    return text


def _regret(curves: bench.Curves | None, point: int) -> str:
    """Mean and interval; empty where it has not finished."""
    if curves is None:
        return ""
    return "{:.3f} [{:.3f}, {:.3f}]".format(curves.mean()[point], *bench.interval(curves.resampled()[:, point]))


def _difference(other: bench.Curves | None, own: bench.Curves | None, point: int) -> str:
    """Regret of the first minus that of the second, with its interval; empty where one of them has not finished."""
    if other is None or own is None:
        return ""
    first, second = bench.common(other, own)
    low, high = bench.interval(first.resampled()[:, point] - second.resampled()[:, point])
    return f"{first.mean()[point] - second.mean()[point]:+.3f} [{low:+.3f}, {high:+.3f}]"


def draw(curves: dict[str, bench.Curves], path: Path) -> None:
    """Regret against the number of workers, at equal budget and at equal wall time side by side."""
    import altair as alt

    rows = []
    for name, own in curves.items():
        method, _, n_workers = name.rpartition(", ")
        band = np.quantile(own.resampled(), [0.025, 0.975], axis=0).T.tolist()
        for title, mean, (low, high) in zip(POINTS, own.mean().tolist(), band, strict=True):
            row = {"method": method, "workers": int(n_workers), "at": title, "mean": mean, "low": low, "high": high}
            rows.append(row)
    axis = alt.Axis(values=list(WORKERS), grid=False, format="d")
    x = alt.X("workers:Q", title="workers at once", scale=alt.Scale(type="log", base=2, nice=False), axis=axis)
    color = alt.Color("method:N", sort=list(METHODS), title=None)
    width = alt.condition("indexof(datum.method, 'ours') == 0", alt.value(2.6), alt.value(1.4))
    base = alt.Chart(alt.InlineData(rows)).properties(width=300, height=260)
    lines = base.mark_line(point=True).encode(
        x, alt.Y("mean:Q", title="normalised regret of the best"), color=color, strokeWidth=width
    )
    layers = lines + base.mark_area(opacity=0.1).encode(x, alt.Y("low:Q"), y2="high", color=color)
    layers.facet(alt.Column("at:N", sort=list(POINTS), title=None)).save(path)


def available(wanted: Sequence[str] | None) -> list[str]:
    """The methods to run; says which are left out for want of their module."""
    if unknown := sorted(set(wanted or ()) - set(METHODS)):
        raise SystemExit(f"there are no methods {unknown}: choose from {list(METHODS)}.")
    missing = [m for m in wanted or METHODS if importlib.util.find_spec(METHODS[m].needs) is None]
    for method in missing:
        print(f"{method}: left out, {METHODS[method].needs} is not installed: pip install 'ray[tune]==2.60.0'")
    return [m for m in wanted or METHODS if m not in missing]


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    parser = bench.parser(__doc__, "samplers")
    parser.add_argument("--workers", type=int, nargs="+", choices=WORKERS, default=WORKERS, help="numbers of workers")
    args = parser.parse_args(arguments)
    tasks = load_tasks(args.tables, families=args.families, names=args.tasks)
    digest = hashlib.sha256(resolve(args.weights).read_bytes()).hexdigest()[:12]
    made = {f"{m}, {n}": digest if METHODS[m].ours else "peer" for m in METHODS for n in WORKERS}
    results = bench.Results(args.out, {"trainings": N_TRIALS, "time": N_TRAININGS})
    results.drop_stale(made)
    names = [f"{method}, {n}" for n in args.workers for method in available(args.samplers)]
    cells = [(name, task.name, seed) for seed in range(args.seeds) for name in names for task in tasks]
    run = partial(run_cell, tables=args.tables, weights=args.weights)
    bench.run_cells(results, cells, run, made, args.jobs)
    curves = bench.collect(results, [f"{method}, {n}" for method in METHODS for n in WORKERS], tasks)
    bench.finish(tables_of(curves), {}, report=args.report, figure=None, label="workers")
    if args.figure is not None and curves:
        draw(curves, args.figure)


if __name__ == "__main__":
    main()
