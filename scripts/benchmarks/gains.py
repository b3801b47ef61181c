"""Compares the gain that RLSampler expects of more trials with what they bring, on recorded tables.

    python scripts/benchmarks/gains.py --tables scripts/benchmarks/tables/validation --seeds 3

Two tables, on the scale of each recorded task (0 = its best, 1 = its median): gains of the next 5 and 10 trials,
expected and realised, by the number of trials before; and where ``patience="auto"`` ends a search, beside two numbers.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import optuna

import _benchmarking as bench
from _peers import PEERS, OptunaSearch, prepare
from hf_rlsearch import RLSampler
from hf_rlsearch._typing import FloatArray
from hf_rlsearch.trainer.search.budget import HORIZON, LEAST_SHARE
from recorded_tasks import RecordedTask, load_tasks

AT = (3, 5, 8, 12, 16, 20, 30)
AHEAD = (5, 10)
_FIXED = (5, 10)  # values of patience to compare with


@dataclass(frozen=True)
class Search:
    """One search of N trials.

    Attributes:
        regret: N, of the best so far, clipped to at most 1.
        expected: (trials before, trials ahead) -> expected gain in units of the recorded task, where one was expected.
        ended: Trials after which ``patience="auto"`` ends the search; N where it does not.
    """

    regret: FloatArray
    expected: dict[tuple[int, int], float]
    ended: int

    def realised(self, n_before: int, n_ahead: int) -> float:
        """By how much those trials have improved the best one."""
        return float(self.regret[n_before - 1] - self.regret[n_before + n_ahead - 1])

    def ended_by(self, patience: int) -> int:
        """Trials after which a whole number ends the search."""
        improved = np.flatnonzero(np.diff(self.regret, prepend=np.inf) < 0)
        waited = np.diff([*improved, len(self.regret)])
        late = np.flatnonzero(waited > patience)
        return int(improved[late[0]] + 1 + patience) if len(late) else len(self.regret)


def search(task: RecordedTask, seed: int, n_trials: int) -> Search:
    """Searches a recorded task with RLSampler, and asks for expected gains on the way."""
    prepare(bench.seed_of(task.name, seed))
    own = PEERS["ours"].start(task, bench.seed_of(task.name, seed), n_trials, None)
    assert isinstance(own, OptunaSearch)
    sampler, unit = own.study.sampler, abs(task.best - task.median)
    assert isinstance(sampler, RLSampler)
    values: list[float] = []
    expected: dict[tuple[int, int], float] = {}
    ended = n_trials
    for n in range(n_trials):
        ahead = [k for k in AHEAD if n in AT and n + k <= n_trials]
        for k in ahead:
            gain = sampler.expected_gain(own.study, k)
            if gain is not None:
                expected[n, k] = gain.value / unit
        if n and ended == n_trials:
            gain = sampler.expected_gain(own.study, HORIZON)
            ended = n if gain is not None and gain.share < LEAST_SHARE else ended
        values.append(task.value(own.ask()))
        own.tell(values[-1])
    regret = np.minimum.accumulate(np.clip(task.regret(np.array(values)), 0, 1))
    return Search(regret, expected, ended)


def calibration_table(searches: list[Search]) -> str:
    """Expected and realised gains, with the standard error of their difference."""
    rows = []
    for n in AT:
        row = [str(n)]
        for k in AHEAD:
            pairs = np.array([(s.expected[n, k], s.realised(n, k)) for s in searches if (n, k) in s.expected])
            if not len(pairs):
                row += ["", ""]
                continue
            error = (pairs[:, 0] - pairs[:, 1]).std() / np.sqrt(len(pairs))
            row += [f"{np.minimum(pairs[:, 0], 1).mean():.3f}", f"{pairs[:, 1].mean():.3f} ± {error:.3f}"]
        rows.append(row)
    header = [text for k in AHEAD for text in (f"next {k}: expected", "realised")]
    return bench.table(["after", *header], rows)


def ends_table(searches: list[Search]) -> str:
    """Trials at the end, and the regret there and after all trials."""
    ends = {'"auto"': [s.ended for s in searches]}
    ends |= {str(k): [s.ended_by(k) for s in searches] for k in _FIXED}
    ends["none"] = [len(s.regret) for s in searches]
    rows = []
    for name, numbers in ends.items():
        regret = np.mean([s.regret[n - 1] for s, n in zip(searches, numbers, strict=True)])
        low, high = np.quantile(numbers, [0.1, 0.9])
        rows.append([name, f"{np.mean(numbers):.1f} ({low:.0f} to {high:.0f})", f"{regret:.3f}"])
    return bench.table(["patience", "trials at the end, mean (80 % of searches)", "regret there"], rows)


def main() -> None:
    """Prints both tables as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tables", type=Path, required=True, help="folder of recorded tables")
    parser.add_argument("--seeds", type=int, default=3, help="searches on each task")
    parser.add_argument("--trials", type=int, default=40, help="of each search")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    tasks = [task for task in load_tasks(args.tables) if task.best != task.median]
    searches = [search(task, seed, args.trials) for task in tasks for seed in range(args.seeds)]
    print(f"{len(tasks)} tasks, {args.seeds} searches of {args.trials} trials on each\n")
    print(calibration_table(searches))
    print(ends_table(searches))


if __name__ == "__main__":
    main()
