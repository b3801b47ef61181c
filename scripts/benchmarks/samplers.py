"""Compares RLSampler with its peers on recorded tables: the same tasks, the same seeds, one run.

    python scripts/benchmarks/samplers.py --tables TABLES --out runs.json --report table.md --figure regret.svg

See docs/background/benchmark.md for what is measured. An interrupted benchmark continues; finished searches are not
repeated.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import hashlib
import tempfile
import time
from collections.abc import Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import numpy as np

import _benchmarking as bench
from _first_trials import at_random, middle
from _peers import PEERS, prepare, variants
from hf_rlsearch.agent.checkpoint import resolve
from recorded_tasks import RecordedTask, load_tasks

POINTS = (1, 3, 5, 10, 20, 50)
COMPARED_AT = 20
_AT_CHANCE = 0.6  # share of a table's trainings at chance level from which on leaving it is a task of its own
FIRST = {"middle": middle, "random": at_random}
"""First configurations that all methods can be given."""


def run_cell(
    cell: bench.Cell, *, tables: Path, n_trials: int, weights: dict[str, str | None], first: str
) -> dict[str, Any]:
    """One search: regret of the best so far after each trial, and milliseconds on the processor per choice."""
    method, name, seed = cell
    return search(method, _task(tables, name), seed, n_trials, weights.get(method), first)


@lru_cache(maxsize=64)
def _task(tables: Path, name: str) -> RecordedTask:
    return load_tasks(tables, names=[name])[0]


def search(
    method: str, task: RecordedTask, seed: int, n_trials: int, weights: str | None, first: str = "own"
) -> dict[str, Any]:
    """Asking for a configuration again costs a trial like any other, and so does a first one that is given."""
    own = bench.seed_of(task.name, seed)
    prepare(own)
    peer = PEERS[method].start(task, own, n_trials, weights)
    values, seconds = [], 0.0
    choose_first = FIRST.get(first, PEERS[method].first)
    if choose_first is not None:
        given = choose_first(task, own)
        values.append(task.value(given))
        peer.preload(given[None])
    n_asked = n_trials - len(values)
    for _ in range(n_asked):
        began = time.process_time()
        levels = peer.ask()
        seconds += time.process_time() - began
        values.append(task.value(levels))
        peer.tell(values[-1])
    regret = np.minimum.accumulate(task.regret(np.array(values)))
    return {"regret": regret.round(6).tolist(), "ms": round(1e3 * seconds / max(n_asked, 1), 2)}


def milliseconds(method: str, task: RecordedTask, n_trials: int, weights: str | None, repeats: int) -> float:
    """Median time of a choice on the processor after `n_trials` random trials; the first is not counted."""
    prepare(0)
    peer = PEERS[method].start(task, 0, n_trials + repeats + 1, weights)
    peer.preload(np.random.default_rng(0).integers(0, task.n_levels, size=(n_trials, len(task.n_levels))))
    times: list[float] = []
    for _ in range(repeats + 1):
        began = time.process_time()
        levels = peer.ask()
        times.append(time.process_time() - began)
        peer.tell(task.value(levels))
    return round(1e3 * float(np.median(times[1:])), 2)


def measure_times(
    results: bench.Results,
    methods: Sequence[str],
    tasks: Sequence[RecordedTask],
    sizes: Sequence[int],
    weights: dict[str, str | None],
    made: dict[str, str],
) -> None:
    """Times that are not known yet, on the task with the most hyperparameters; few repeats of slow choices."""
    task = max(tasks, key=lambda t: len(t.hyperparameters))
    known = results.extra.setdefault("ms", {})
    for method in methods:
        for size in sizes:
            key = f"{method}|{size}"
            if known.get(key, {}).get("made_by") == made[method]:
                continue
            took = milliseconds(method, task, size, weights.get(method), 5 if size <= 100 else 2)
            known[key] = {"ms": took, "made_by": made[method]}
            print(f"{method}: {took:.1f} ms per choice after {size} trials", flush=True)
            results.write()


def times_table(results: bench.Results) -> str:
    """Milliseconds by method and number of trials."""
    known: dict[str, dict[str, Any]] = results.extra.get("ms", {})
    sizes = sorted({int(key.split("|")[1]) for key in known})
    rows = [[m, *(f"{known[k]['ms']:.1f}" if (k := f"{m}|{n}") in known else "" for n in sizes)] for m in PEERS]
    table = bench.table(["ms per choice after", *(f"{n} trials" for n in sizes)], [r for r in rows if any(r[1:])])
    return f"\n### Time of a choice, on the processor, one thread\n\n{table}" if known else ""


def chance_table(results: bench.Results, tasks: Sequence[RecordedTask]) -> str:
    """Trials until the first that is above the untrained model, where most trainings of a table are not."""
    hard = [t for t in tasks if 0 < t.above_chance.mean() <= 1 - _AT_CHANCE]
    rows = []
    for method in PEERS:
        found = [
            [
                bench.first_below(np.array(cell["regret"]), round(float(t.regret(t.values[t.above_chance]).max()), 6))
                for cell in c
            ]
            for t in hard
            if (c := [v for k, v in results.cells.items() if k.startswith(f"{method}|{t.name}|")])
        ]
        if len(found) == len(hard) > 0:
            by_task = [f"{np.mean(trials):.1f}" for trials in found]
            rows.append([method, f"{np.mean([np.mean(trials) for trials in found]):.1f}", *by_task])
    head = f"### Trials until the first above chance level, {len(hard)} tables\n\n"
    table = bench.table(["", "mean", *(t.name for t in hard)], rows)
    return f"\n{head}{table}" if rows else ""


def made_by(weights: dict[str, str | None]) -> dict[str, str]:
    """What a method's results depend on besides the settings: the weights it uses, if any."""
    return {
        m: hashlib.sha256(resolve(weights[m]).read_bytes()).hexdigest()[:12] if m in weights else "peer" for m in PEERS
    }


def available(wanted: Sequence[str] | None, weights: dict[str, str | None], first: str = "own") -> list[str]:
    """The methods to run: those asked for, or all that can be run; says which are left out and why."""
    if unknown := sorted(set(wanted or ()) - set(PEERS)):
        raise SystemExit(f"there are no samplers {unknown}: choose from {list(PEERS)}.")
    found = []
    for name in wanted or PEERS:
        if PEERS[name].missing() and wanted:
            needs, install = PEERS[name].needs, PEERS[name].install
            raise SystemExit(
                f"{name!r} cannot be run: its module {needs} is not installed: pip install {install or needs}."
            )
        if PEERS[name].missing():
            print(f"{name}: left out, the module {PEERS[name].needs} is not installed")
        elif PEERS[name].ours and name not in weights:
            print(f"{name}: left out, PPO has trained nothing in these weights, so it equals ours")
        elif first != "own" and PEERS[name].same_as is not None:
            print(f"{name}: left out, with the same first trial it equals {PEERS[name].same_as}")
        else:
            found.append(name)
    return found


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs what is missing, then prints the tables."""
    parser = bench.parser(__doc__, "samplers")
    parser.add_argument("--trials", type=int, default=50, help="of each search")
    parser.add_argument(
        "--first",
        choices=("own", *FIRST),
        default="own",
        help="where every method starts: its own choice, the middle of the space, or a configuration drawn by the seed",
    )
    parser.add_argument("--times", type=int, nargs="*", default=[20, 100, 1000], help="trials before a timed choice")
    args = parser.parse_args(arguments)
    tasks = load_tasks(args.tables, families=args.families, names=args.tasks)
    with tempfile.TemporaryDirectory() as folder:
        weights = variants(args.weights, Path(folder))
        methods = available(args.samplers, weights, args.first)
        settings = {"trials": args.trials} | ({} if args.first == "own" else {"first": args.first})
        results = bench.Results(args.out, settings)
        results.drop_stale(made := made_by(weights))
        run = partial(run_cell, tables=args.tables, n_trials=args.trials, weights=weights, first=args.first)
        cells = [(m, t.name, s) for s in range(args.seeds) for m in methods for t in tasks]
        bench.run_cells(results, cells, run, made, args.jobs)
        measure_times(results, methods, tasks, args.times, weights, made)
    curves = bench.collect(results, PEERS, tasks)
    text = bench.report(curves, POINTS, ours="ours", reference="TPE", point=COMPARED_AT)
    text += times_table(results) + chance_table(results, tasks)
    if args.first != "own":
        text = f"The first trial of every method: {args.first}.\n\n{text}"
    bench.finish(text, curves, report=args.report, figure=args.figure, label="trials")


if __name__ == "__main__":
    main()
