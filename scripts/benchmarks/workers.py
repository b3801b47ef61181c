"""Compares samplers with 1 to 64 workers at once on recorded tables: regret at equal budget and at equal wall time.

    python scripts/benchmarks/workers.py --tables scripts/benchmarks/tables/validation --out workers.json --seeds 2

The clock is simulated: a worker is busy for the seconds that the table has for its training, then it asks for the next
configuration at once, while the others are still training. The samplers are real; the time of their choices does not
count. See docs/background/benchmark.md for what is measured.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import heapq
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import optuna

import _benchmarking as bench
from _peers import PEERS, OptunaSearch, prepare
from recorded_tasks import RecordedTask, load_tasks

WORKERS = (1, 2, 4, 8, 16, 64)
N_TRIALS = 16
"""Trials of the whole search, at equal budget."""
N_TRAININGS = 2
"""Mean trainings of the table that one worker has time for, at equal wall time."""

Start = Callable[[RecordedTask, int, int, str | None], Any]
METHODS: dict[str, Start] = {
    "random": PEERS["random"].start,
    "TPE": lambda task, seed, n_trials, weights: OptunaSearch(
        task, optuna.samplers.TPESampler(seed=seed, constant_liar=True), values=False
    ),
    "ours": PEERS["ours, facts"].start,
}
"""By name. TPE counts what is being trained as bad (`constant_liar=True`), as Optuna advises for several workers."""


def search(method: str, task: RecordedTask, seed: int, n_workers: int, weights: str | None) -> list[float]:
    """Regret of the best of `N_TRIALS` trials, and of all trials that have ended after `N_TRAININGS` mean trainings."""
    own = bench.seed_of(task.name, seed)
    prepare(own)
    deadline = N_TRAININGS * task.mean_seconds
    # At equal wall time the search has no number of trials: it is told how many it can expect.
    at_equal_time = simulate(method, task, own, n_workers, N_TRAININGS * n_workers, deadline, weights)
    at_equal_budget = simulate(method, task, own, n_workers, N_TRIALS, np.inf, weights)
    return [float(task.regret(np.array(values)).min()) for values in (at_equal_budget, at_equal_time)]


def simulate(
    method: str, task: RecordedTask, seed: int, n_workers: int, n_trials: int, deadline: float, weights: str | None
) -> list[float]:
    """The objectives of the trials that end before the deadline, in seconds; of `n_trials` where there is none."""
    peer = METHODS[method](task, seed, n_trials, weights)
    clock, n_asked, values = 0.0, 0, []
    running: list[tuple[float, int, Any, list[int]]] = []
    while True:
        while len(running) < n_workers and (n_asked < n_trials or np.isfinite(deadline)):
            levels = peer.ask()
            heapq.heappush(running, (clock + task.seconds(levels), n_asked, peer.trial, levels))
            n_asked += 1
        if not running:
            return values
        clock, _, peer.trial, levels = heapq.heappop(running)
        if clock > deadline:
            return values or [task.median]  # nothing has ended yet
        values.append(task.value(levels))
        peer.tell(values[-1])


def run_cell(cell: bench.Cell, *, tables: Path, weights: str | None) -> dict[str, Any]:
    """One search, of a cell whose method is "name, workers"."""
    name, task, seed = cell
    method, _, n_workers = name.rpartition(", ")
    return {"regret": search(method, load_tasks(tables, names=[task])[0], seed, int(n_workers), weights)}


def tables_of(curves: dict[str, bench.Curves]) -> str:
    """Regret by method and number of workers, and the paired differences to ours, at equal budget and wall time."""
    text = ""
    titles = (f"after {N_TRIALS} trials in all", f"after the time of {N_TRAININGS} mean trainings")
    for point, title in enumerate(titles):
        rows = []
        for method in METHODS:
            found = [curves.get(f"{method}, {n}") for n in WORKERS]
            rows.append([method, *("" if c is None else f"{c.mean()[point]:.3f}" for c in found)])
            if method != "ours":
                ours = [curves.get(f"ours, {n}") for n in WORKERS]
                rows.append(
                    [f"{method} minus ours", *(_difference(*pair, point) for pair in zip(found, ours, strict=True))]
                )
        seeds = [min((c.n_seeds for m in METHODS if (c := curves.get(f"{m}, {n}"))), default=0) for n in WORKERS]
        rows.append(["seeds", *(str(n or "") for n in seeds)])
        text += f"\n### Regret {title}\n\n{bench.table(['', *(f'{n} at once' for n in WORKERS)], rows)}"
    return text


def _difference(other: bench.Curves | None, own: bench.Curves | None, point: int) -> str:
    """Regret of the first minus that of the second, with its interval; empty where one of them has not finished."""
    if other is None or own is None:
        return ""
    first, second = bench.common(other, own)
    low, high = bench.interval(first.resampled()[:, point] - second.resampled()[:, point])
    return f"{first.mean()[point] - second.mean()[point]:+.3f} [{low:+.3f}, {high:+.3f}]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    parser = bench.parser(__doc__, "samplers")
    parser.add_argument("--workers", type=int, nargs="+", choices=WORKERS, default=WORKERS, help="numbers of workers")
    args = parser.parse_args(arguments)
    tasks = load_tasks(args.tables, families=args.families, names=args.tasks)
    results = bench.Results(args.out, {"trials": N_TRIALS, "trainings": N_TRAININGS, "weights": args.weights or ""})
    names = [f"{method}, {n}" for n in args.workers for method in args.samplers or METHODS]
    cells = [(name, task.name, seed) for seed in range(args.seeds) for name in names for task in tasks]
    run = partial(run_cell, tables=args.tables, weights=args.weights)
    bench.run_cells(results, cells, run, dict.fromkeys(names, "one run"), args.jobs)
    curves = bench.collect(results, [f"{method}, {n}" for method in METHODS for n in WORKERS], tasks)
    bench.finish(tables_of(curves), {}, report=args.report, figure=None, label="workers")


if __name__ == "__main__":
    main()
