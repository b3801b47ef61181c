"""Plays searches on miniature trainings that no predictor learnt from, and says what hints and readings are worth.

    python scripts/benchmarks/simulated.py --bank runs/meta_train/bank --weights runs/meta_train/rl-v5.safetensors

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
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import torch

import _benchmarking as bench
from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.agent.acquisition import log_expected_improvement
from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.agent.mixture import Mixture, hide_names
from hf_rlsearch.agent.network import Arrays
from hf_rlsearch.envs.search_env import BatchedSearch
from hf_rlsearch.meta_training.plan import FOR_GATES, MODULUS
from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.tasks.bank import list_tables, read_tables
from hf_rlsearch.tasks.bank_tasks import draw_from_bank
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.prior import TaskBatch

POINTS = (1, 3, 5, 10, 20)
_USES, _N_CANDIDATES = 8, 256  # uses of each table, candidates of a task
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
def search(tasks: TaskBatch, score: Score | None, n_trials: int, seed: int) -> tuple[IntArray, FloatArray]:
    """Searches each task; of equal scores, or without a score, one candidate at random is next.

    Returns:
        B x n_trials candidates in order of training, and their clipped regret: 0 = best of the task, 1 = its median.
    """
    searches = BatchedSearch(lambda _, __: tasks, len(tasks), n_trials, evaluations=1, seed=seed)
    searches.fix_noise(seed)
    rng, regrets = np.random.default_rng(seed), []
    while not searches.done:
        allowed = searches.action_masks()[:, :-1]
        scores = np.zeros(allowed.shape) if score is None else score(Arrays.of(searches.observe()))
        searches.step(np.where(allowed, scores + 1e-9 * rng.random(allowed.shape), -np.inf).argmax(1))
        regrets.append(1 - np.clip(searches.incumbent, 0, 1))
    return searches.chosen, np.stack(regrets, axis=1)


def above_chance(tasks: TaskBatch) -> BoolArray:
    """B x C flags of candidates above chance, in tasks where at least `_AT_CHANCE` of the others are not; else False.

    Above chance is what exceeds the median by a tenth of (best - median): with so many at chance the median is one.
    """
    above = (tasks.utility > _ABOVE) & tasks.candidate_mask
    hard = above.sum(1) <= (1 - _AT_CHANCE) * tasks.candidate_mask.sum(1)
    return np.asarray(above & hard[:, None])


def first_above(flags: BoolArray, chosen: IntArray) -> IntArray:
    """B trials until the first above chance; one more than were made where none is."""
    above = np.take_along_axis(flags, chosen, axis=1)
    return np.where(above.any(1), above.argmax(1) + 1, chosen.shape[1] + 1)


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
    args = parser.parse_args()
    torch.set_num_threads(1)
    kept = [path for path in list_tables(args.bank) if int(path.stem) % MODULUS == FOR_GATES][: args.tables]
    tables: list[Table] = read_tables(kept)
    uses = [draw_from_bank(np.random.default_rng([1, i]), [t], _USES, _N_CANDIDATES) for i, t in enumerate(tables)]
    tasks = TaskBatch(**{f.name: np.concatenate([getattr(use, f.name) for use in uses]) for f in fields(TaskBatch)})
    mixture = load_agent(args.weights).mixture
    print(f"{len(tables)} tables, {_USES} uses of each\n")
    mixed = mixture_score(mixture)
    searches: dict[str, tuple[TaskBatch, Score | None]] = {"random": (tasks, None), "mixture": (tasks, mixed)}
    for i in range(len(mixture.predictors)):
        searches[f"predictor {i}, names"] = (tasks, reading_score(mixture, 2 * i))
        searches[f"predictor {i}, names hidden"] = (tasks, reading_score(mixture, 2 * i + 1))
    searches["mixture, all names hidden"] = (tasks, lambda arrays: mixed(hide_names(arrays)))
    searches["mixture, wrong sizes and lengths"] = (_wrong(tasks), mixed)
    found = {name: search(seen, score, POINTS[-1], 0) for name, (seen, score) in searches.items()}
    rows = [_row(name, regrets) for name, (_, regrets) in found.items()]
    print(bench.table(["", *(f"@{p}" for p in POINTS)], rows))
    flags = above_chance(tasks)
    hard = flags.any(1)
    print(f"\n{hard.sum()} tasks with at least {_AT_CHANCE:.0%} of the configurations at chance\n")
    first = [[n, f"{first_above(flags, found[n][0])[hard].mean():.2f}"] for n in ("random", "mixture")]
    print(bench.table(["", "trials until the first above chance"], first))


if __name__ == "__main__":
    main()
