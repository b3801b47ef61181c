"""Plays searches on miniature trainings that no predictor learnt from, and says what hints and readings are worth.

    python scripts/benchmarks/simulated.py --bank runs/meta_train/bank --weights runs/meta_train/rl-v2.safetensors

One table per question, clipped regret after 1, 3, 5, 10 and 20 trials with the standard error over tables of the bank:

- the agent's mixture, each of its readings alone, and random search: a clairvoyant searcher has 0 everywhere;
- the same agent with all names hidden, and with sizes and lengths that are wrong by a factor of 100;
- trials until the first one above chance, on tasks where at least 60 % of the configurations score at chance.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import _benchmarking as bench
from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.acquisition import log_expected_improvement
from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.agent.mixture import Mixture, hide_names
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.meta_training.plan import FOR_GATES, MODULUS
from hf_rlsearch.observation.observation import FACTS, space_arrays
from hf_rlsearch.tasks.bank import list_tables, read_tables
from hf_rlsearch.tasks.bank_tasks import draw_from_bank
from hf_rlsearch.tasks.histories import Trained, draw_among, observe_tasks
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.prior import TaskBatch

POINTS = (1, 3, 5, 10, 20)
_USES, _N_CANDIDATES, _ASKED = 8, 256, 256  # uses of each table, candidates of a task, and of one choice
_AT_CHANCE = 0.6  # share of the configurations at chance that makes a task hard to begin
_ABOVE = 0.1  # of (best - median) over the median, from which a score is above chance
_WRONG = 2.0  # decades

Score = Callable[[Arrays], FloatArray]


def mixture_score(mixture: Mixture) -> Score:
    """Log expected improvement of the mixture, B x C."""
    return lambda arrays: np.asarray(log_expected_improvement(mixture(arrays), mixture.bins))


def reading_score(mixture: Mixture, reading: int) -> Score:
    """Log expected improvement of one reading, B x C."""

    def score(arrays: Arrays) -> FloatArray:
        readings = mixture.readings(mixture.encode_history(arrays), arrays.candidates)
        return np.asarray(log_expected_improvement(readings[reading], mixture.bins))

    return score


@torch.inference_mode()
def search(tasks: TaskBatch, score: Score | None, n_trials: int, seed: int) -> IntArray:
    """B x n_trials candidates in order of training; of equal scores, or without a score, one at random."""
    rng, (B, C) = np.random.default_rng(seed), tasks.candidate_mask.shape
    space, chosen = space_arrays(tasks), np.zeros((B, 0), int)
    for trial in range(n_trials):
        untried = tasks.candidate_mask.copy()
        np.put_along_axis(untried, chosen, False, axis=1)
        untried = np.where(untried.any(1, keepdims=True), untried, tasks.candidate_mask)
        asked, allowed = draw_among(rng.random((B, C)), untried, _ASKED)
        scores = np.zeros(asked.shape)
        if score is not None:
            values = np.take_along_axis(tasks.values, chosen, axis=1)
            history = Trained.complete(chosen, values, np.ones((B, trial), bool))
            scores = score(Arrays.of(observe_tasks(space, tasks, history, asked)))
        best = np.where(allowed, scores + 1e-9 * rng.random(asked.shape), -np.inf).argmax(1)
        chosen = np.concatenate([chosen, asked[np.arange(B), best][:, None]], axis=1)
    return chosen


def regret(tasks: TaskBatch, chosen: IntArray) -> FloatArray:
    """B x n_trials clipped regret of the best so far: 0 = best of the task, 1 = its median."""
    utility = np.take_along_axis(tasks.utility, chosen, axis=1)
    return np.asarray(np.clip(1 - np.maximum.accumulate(utility, axis=1), 0, 1))


def above_chance(tasks: TaskBatch) -> BoolArray:
    """B x C flags of candidates above chance, in tasks where at least `_AT_CHANCE` of the others are not; else False.

    Above chance is what exceeds the median by a tenth of (best - median): with so many at chance the median is one.
    """
    above = (tasks.utility > _ABOVE) & tasks.candidate_mask
    hard = above.sum(1) <= (1 - _AT_CHANCE) * tasks.candidate_mask.sum(1)
    return np.asarray(above & hard[:, None])


def first_above(flags: BoolArray, chosen: IntArray) -> FloatArray:
    """B trials until the first above chance; one more than were made where none is."""
    found = np.take_along_axis(flags, chosen, axis=1)
    return np.where(found.any(1), found.argmax(1) + 1, chosen.shape[1] + 1).astype(float)


def _row(name: str, regrets: FloatArray) -> list[str]:
    """Means at the points, with the standard error over tables, whose uses stand in a row."""
    tables = regrets.reshape(-1, _USES, regrets.shape[1]).mean(1)
    error = tables.std(0, ddof=1) / np.sqrt(len(tables))
    return [name, *(f"{tables[:, p - 1].mean():.3f} ± {error[p - 1]:.3f}" for p in POINTS)]


def _wrong(tasks: TaskBatch) -> TaskBatch:
    """All known sizes and lengths wrong by a factor of 100, up or down."""
    moved = np.isin(np.array(FACTS), ("n_parameters", "n_examples", "n_steps"))
    sign = np.random.default_rng(7).choice([-1.0, 1.0], (len(tasks), 1))
    return replace(tasks, facts=tasks.facts + np.where(moved, _WRONG * sign, 0.0))


def main() -> None:
    """Prints the tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bank", type=Path, required=True, help="folder of the bank")
    parser.add_argument("--weights", help="name or path; the bundled ones where not given")
    parser.add_argument("--tables", type=int, default=48, help="how many tables of those kept for the gates")
    parser.add_argument("--all", action="store_true", help="also tables that the predictors learnt from")
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = [p for p in list_tables(args.bank) if args.all or int(p.stem) % MODULUS == FOR_GATES][: args.tables]
    tables: list[Table] = read_tables(kept)
    uses = [
        draw_from_bank(np.random.default_rng([1, i]), [t], _USES, _N_CANDIDATES).tasks for i, t in enumerate(tables)
    ]
    names = [f.name for f in uses[0].__dataclass_fields__.values()]
    tasks = TaskBatch(**{name: np.concatenate([getattr(use, name) for use in uses]) for name in names})
    mixture = load_agent(args.weights).mixture
    print(f"{len(tables)} tables, {_USES} uses of each\n")
    mixed = mixture_score(mixture)
    searches: dict[str, tuple[TaskBatch, Score | None]] = {"random": (tasks, None), "mixture": (tasks, mixed)}
    for i in range(len(mixture.predictors)):
        searches[f"predictor {i}, names"] = (tasks, reading_score(mixture, 2 * i))
        searches[f"predictor {i}, names hidden"] = (tasks, reading_score(mixture, 2 * i + 1))
    searches["mixture, all names hidden"] = (tasks, lambda arrays: mixed(hide_names(arrays)))
    searches["mixture, wrong sizes and lengths"] = (_wrong(tasks), mixed)
    chosen = {name: search(seen, score, POINTS[-1], 0) for name, (seen, score) in searches.items()}
    rows = [_row(name, regret(tasks, found)) for name, found in chosen.items()]
    print(bench.table(["", *(f"@{p}" for p in POINTS)], rows))
    flags = above_chance(tasks)
    hard = flags.any(1)
    print(f"\n{hard.sum()} tasks with at least {_AT_CHANCE:.0%} of the configurations at chance\n")
    first = [[n, f"{first_above(flags, chosen[n])[hard].mean():.2f}"] for n in ("random", "mixture")]
    print(bench.table(["", "trials until the first above chance"], first))


if __name__ == "__main__":
    main()
