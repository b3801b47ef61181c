"""Measures what the agent learns from the studies of one family: on tables of it that were held out, and on others.

    python scripts/benchmarks/learning.py --tables TABLES --families lora_sft_llm --folder runs/learning
    python scripts/benchmarks/learning.py --tables TABLES --test OTHER_TABLES --folder runs/learning

For each family, studies of random search and of TPE are drawn from two thirds of its tables, and `hf_rlsearch.learn`
learns from them. Regret is then compared, in pairs, on the other tables of the family, and on tables of other families,
to which the agent must do no harm. With `--test` studies are drawn from all tables of a family, of all families
together where none is named, and those of the other folder are searched. An agent that is refused is not used: its
regret is that of the shipped one.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import optuna

import _benchmarking as bench
import hf_rlsearch
from _peers import OptunaSearch, prepare
from recorded_tasks import RecordedTask, load_tasks
from samplers import search

POINTS = (1, 3, 5, 10)
_TRIALS = (20, 40)  # of a study, at least and at most


def split(tasks: Sequence[RecordedTask], seed: int) -> tuple[list[RecordedTask], list[RecordedTask]]:
    """Tables to draw studies from, and a third of all, two at least, that are held out."""
    order = np.random.default_rng([seed, 0]).permutation(len(tasks))
    n_held_out = max(2, len(tasks) // 3)
    held_out, taught = ([tasks[i] for i in part] for part in (order[:n_held_out], order[n_held_out:]))
    return taught, held_out


def parts_of(args: argparse.Namespace, family: str | None) -> tuple[list[RecordedTask], list[RecordedTask]]:
    """Tables to draw studies from, and tables to search, of one family or of all."""
    families = family and [family]
    tasks = load_tasks(args.tables, families=families)
    return (tasks, load_tasks(args.test, families=families)) if args.test else split(tasks, args.seed)


def draw_studies(tasks: Sequence[RecordedTask], count: int, seed: int) -> list[optuna.Study]:
    """Finished studies of random search and of TPE, in turns, on the tables in turns."""
    rng = np.random.default_rng([seed, 1])
    studies = []
    for i in range(count):
        task, own = tasks[i % len(tasks)], 1000 * seed + i
        kind = optuna.samplers.TPESampler if i % 2 else optuna.samplers.RandomSampler
        drawn = OptunaSearch(task, kind(seed=own), values=True)
        for _ in range(int(rng.integers(_TRIALS[0], _TRIALS[1] + 1))):
            drawn.tell(task.value(drawn.ask()))
        studies.append(drawn.study)
    return studies


def regrets(task: RecordedTask, weights: str | None, n_seeds: int) -> np.ndarray:
    """Seeds x trials clipped regrets of searches of ours."""
    found = [search("ours", task, seed, max(POINTS), weights)["regret"] for seed in range(n_seeds)]
    return np.clip(np.array(found), 0, 1)


def row(name: str, before: np.ndarray, after: np.ndarray) -> list[str]:
    """Both regrets at the points, and the relative change after five trials with its interval over tables and seeds."""
    at = np.array(POINTS) - 1
    pair = [bench.Curves({"": found}) for found in (before, after)]
    samples = [curves.resampled()[:, 4] for curves in pair]
    change = (after.mean((0, 1)) / np.maximum(before.mean((0, 1)), 1e-9) - 1)[4]
    low, high = bench.interval(samples[1] - samples[0])
    means = [" / ".join(f"{value:.3f}" for value in curves.mean()[at]) for curves in pair]
    return [name, str(len(before)), *means, f"{change:+.0%}", f"[{low:+.3f}, {high:+.3f}]"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Learns from every family that is asked for, and prints a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of recorded tables")
    parser.add_argument("--families", nargs="+", help="to learn from, each on its own; all together if left out")
    parser.add_argument("--test", type=Path, help="folder of the tables to search, none of which is learnt from")
    parser.add_argument("--others", nargs="*", default=[], help="tasks of other families, which must not be harmed")
    parser.add_argument("--folder", type=Path, default=Path("runs/learning"), help="of the agents")
    parser.add_argument("--studies", type=int, default=20, help="of each family")
    parser.add_argument("--seeds", type=int, default=2, help="searches on each table")
    parser.add_argument("--seed", type=int, default=0, help="of the split, the studies and the training")
    args = parser.parse_args(arguments)
    prepare(args.seed)
    others, rows = load_tasks(args.tables, names=args.others) if args.others else [], []
    shipped = {task.name: regrets(task, None, args.seeds) for task in others}
    parts = {family: parts_of(args, family) for family in args.families or [None]}
    for family, (taught, held_out) in parts.items():
        name = family or args.tables.name
        out, began = args.folder / f"{name}-{args.seed}", time.process_time()
        studies = draw_studies(taught, args.studies, args.seed)
        result = hf_rlsearch.learn(studies, out, seed=args.seed, log=lambda line: print(line, flush=True))
        print(f"{result.to_text()}\n{time.process_time() - began:.0f} s on the processor", flush=True)
        weights = None if result.path is None else str(result.path)
        before, after = (np.stack([regrets(task, w, args.seeds) for task in held_out]) for w in (None, weights))
        rows.append(row(name, before, after))
        print(rows[-1], flush=True)
        if foreign := [task for task in others if task.family != family]:
            before = np.stack([shipped[task.name] for task in foreign])
            after = np.stack([regrets(task, weights, args.seeds) for task in foreign])
            rows.append(row(f"{name}, on other families", before, after))
            print(rows[-1], flush=True)
    points = " / ".join(f"@{point}" for point in POINTS)
    header = ["learnt from", "tables", f"before {points}", f"after {points}", "change @5", "difference @5"]
    print(bench.table(header, rows))


if __name__ == "__main__":
    main()
