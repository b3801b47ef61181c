"""Makes the tables of `backends.py`: scores along the budget, and seconds until the other backend's score."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import _benchmarking as bench
from hf_rlsearch._typing import FloatArray


@dataclass(frozen=True)
class Task:
    """A task, and what its searches are given where the command line does not say.

    Attributes:
        score: Name of what is compared, larger is better.
        budget: Processor seconds of each search. In these optuna makes at least 15 trials.
        n_train: Rows to train on.
        n_validation: Rows to validate on.
        before: Score before the first trial has ended.
    """

    score: str
    budget: float
    n_train: int
    n_validation: int
    before: float = 0.0


TASKS = {
    "sst2": Task("accuracy", 180, 128, 200),
    "cola": Task("Matthews correlation", 180, 128, 200),
    "mrpc": Task("mean of F1 and accuracy", 180, 128, 200),
    "multi30k": Task("BLEU", 360, 4000, 200),
    "german": Task("minus the loss", 140, 1500, 300, before=-math.log(2048)),  # equal chances of all tokens
    "digits": Task("accuracy", 60, 500, 300),
}
BACKENDS = ("rl", "optuna")
FRACTIONS = {"after a third": 1 / 3, "two thirds": 2 / 3, "all of the time": 1.0}


def score_at(steps: Sequence[Sequence[float]], seconds: float, before: float = 0.0) -> float:
    """The best score after so many seconds, `before` until the first trial has ended."""
    return max((score for at, score in steps if at <= seconds), default=before)


def reached(steps: Sequence[Sequence[float]], goal: float, budget: float) -> float:
    """Seconds until a score is reached, infinite where it is not within the budget."""
    return min((at for at, score in steps if score >= goal - 1e-12 and at <= budget), default=np.inf)


def interval_of_mean(values: FloatArray, digits: int = 3) -> str:
    """Mean and 95 % bootstrap interval over seeds; the mean alone of a single seed."""
    drawn = np.random.default_rng(0).integers(len(values), size=(bench.N_BOOTSTRAP, len(values)))
    numbers = [values.mean(), *bench.interval(values[drawn].mean(1))]
    mean, low, high = (f"{round(n, digits) + 0.0:.{digits}f}" for n in numbers)
    return mean if len(values) == 1 else f"{mean} [{low}, {high}]"


def cells_of(results: bench.Results, task: str) -> tuple[list[int], dict[str, list[dict[str, Any]]]]:
    """The seeds that both backends have finished on a task, and their cells."""
    have = [{int(k.split("|")[2]) for k in results.cells if k.startswith(f"{b}|{task}|")} for b in BACKENDS]
    seeds = sorted(set.intersection(*have))
    return seeds, {b: [results.cells[bench.Results.key((b, task, seed))] for seed in seeds] for b in BACKENDS}


def score_rows(task: str, budget: float, cells: dict[str, list[dict[str, Any]]]) -> list[list[str]]:
    """A row for each backend and one for their paired difference: scores along the budget, and trials."""
    times, before = [fraction * budget for fraction in FRACTIONS.values()], TASKS[task].before
    scores = {b: np.array([[score_at(c["steps"], t, before) for t in times] for c in cells[b]]) for b in BACKENDS}
    label = f"{task}, {TASKS[task].score}"
    rows = []
    for backend in BACKENDS:
        trials = [[c["trials"].get(state, 0) for state in ("complete", "pruned", "fail")] for c in cells[backend]]
        counts = " / ".join(f"{n:.1f}" for n in np.mean(trials, 0))
        rows.append([label, backend, *map(interval_of_mean, scores[backend].T), counts])
    difference = scores["rl"] - scores["optuna"]
    return [*rows, [label, "rl minus optuna", *map(interval_of_mean, difference.T), ""]]


def speed_row(task: str, budget: float, cells: dict[str, list[dict[str, Any]]]) -> list[str]:
    """Seconds until our backend holds optuna's final score, beside those that optuna took for it."""
    goals = [score_at(c["steps"], budget, TASKS[task].before) for c in cells["optuna"]]
    seconds = {
        b: np.array([reached(c["steps"], goal, budget) for c, goal in zip(cells[b], goals, strict=True)])
        for b in BACKENDS
    }
    n_reached = int(np.isfinite(seconds["rl"]).sum())
    ours, theirs = (interval_of_mean(np.minimum(seconds[b], budget), digits=0) for b in BACKENDS)
    return [task, f"{n_reached} of {len(goals)}", f"{ours} of {budget:.0f} s", theirs]


def tables(results: bench.Results, budgets: Mapping[str, float]) -> str:
    """Both tables as Markdown, of the seeds that both backends have finished; budgets in seconds, by task."""
    scores, speeds, notes = [], [], []
    for task, budget in budgets.items():
        seeds, cells = cells_of(results, task)
        if not seeds:
            continue
        scores += score_rows(task, budget, cells)
        speeds.append(speed_row(task, budget, cells))
        walls = " and ".join(f"{sum(c['wall'] for c in cells[b]):.0f} s ({b})" for b in BACKENDS)
        notes.append(f"{task}: seeds {seeds}, wall time in all {walls}.")
    if not scores:
        return "No seed is finished by both backends.\n"
    return (
        bench.table(["task", "backend", *FRACTIONS, "trials complete / pruned / failed"], scores)
        + "\n"
        + bench.table(["task", "rl holds optuna's last score", "after", "optuna after"], speeds)
        + "\nMeans over seeds with 95 % bootstrap intervals; a score that is not reached counts as the whole budget.\n"
        + "\n".join(notes)
        + "\n"
    )
