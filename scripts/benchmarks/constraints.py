"""Searches simulated trainings under a memory limit: how often it is exceeded, and how good the best within it is.

    python scripts/benchmarks/constraints.py --seeds 24

Each seed is a task: learning rate, batch size, length, layers and gradient checkpointing decide the score and, by batch
times length times layers, the memory. Longer inputs and more layers score better, so that the limit is in the way: 30
to 60 % of the configurations keep to it. All samplers get the constraint values as Optuna stores them.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

import _benchmarking as bench
from hf_rlsearch import RLSampler
from hf_rlsearch._typing import BoolArray, FloatArray, Params

BATCHES, LENGTHS, LAYERS = (4, 8, 16, 32, 64), (64, 128, 256, 512), (2, 4, 6, 8, 10, 12)
POINTS = (5, 10, 20)
_N_FIRST = 3  # trials after which violations are counted
_N_DRAWN = 2000  # configurations from which limit, best and median of a task are known

SAMPLERS: dict[str, Callable[[int], optuna.samplers.BaseSampler]] = {
    "RLSampler": lambda seed: RLSampler(seed=seed),
    "TPE": lambda seed: optuna.samplers.TPESampler(seed=seed),
    "random": lambda seed: optuna.samplers.RandomSampler(seed=seed),
}


class Task:
    """A simulated training; see the module.

    Attributes:
        limit: Of the memory.
        best: Highest score of a configuration that keeps to the limit.
        median: Of their scores.
    """

    def __init__(self, seed: int) -> None:
        rng = np.random.default_rng(seed)
        self._rate, self._narrow = rng.uniform(-4, -2.5), rng.uniform(0.02, 0.1)
        self._length, self._layers, self._batch = rng.uniform(0, 0.04), rng.uniform(0, 0.06), rng.uniform(-0.01, 0.02)
        self._weights, self._activations = rng.uniform(0.1, 1), 10 ** rng.uniform(-4.5, -3.5)
        self._noise, self._rng = rng.uniform(0, 0.005), rng
        drawn = [self._draw(rng) for _ in range(_N_DRAWN)]
        self.limit = float(np.quantile([self.memory(params) for params in drawn], rng.uniform(0.3, 0.6)))
        allowed = [self.score(params) for params in drawn if self.memory(params) <= self.limit]
        self.best, self.median = max(allowed), float(np.median(allowed))

    @staticmethod
    def _draw(rng: np.random.Generator) -> Params:
        return {
            "learning_rate": 10 ** rng.uniform(-5, -2),
            "per_device_train_batch_size": int(rng.choice(BATCHES)),
            "max_length": int(rng.choice(LENGTHS)),
            "model.num_hidden_layers": int(rng.choice(LAYERS)),
            "gradient_checkpointing": bool(rng.integers(2)),
        }

    @staticmethod
    def suggest(trial: optuna.Trial) -> Params:
        """Values for every hyperparameter."""
        return {
            "learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-2, log=True),
            "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", BATCHES),
            "max_length": trial.suggest_categorical("max_length", LENGTHS),
            "model.num_hidden_layers": trial.suggest_int("model.num_hidden_layers", LAYERS[0], LAYERS[-1], step=2),
            "gradient_checkpointing": trial.suggest_categorical("gradient_checkpointing", [False, True]),
        }

    def memory(self, params: Params) -> float:
        """GB."""
        size = params["per_device_train_batch_size"] * params["max_length"] * params["model.num_hidden_layers"]
        kept = 0.35 if params["gradient_checkpointing"] else 1.0
        return float(self._weights * params["model.num_hidden_layers"] + self._activations * size * kept)

    def score(self, params: Params) -> float:
        """Without noise, larger is better."""
        batch = math.log2(params["per_device_train_batch_size"] / 4)
        off = math.log10(params["learning_rate"]) - self._rate - 0.12 * (batch - 2)
        length, layers = math.log2(params["max_length"] / 64) / 3, math.log2(params["model.num_hidden_layers"]) / 3
        return float(
            0.8 - self._narrow * off**2 + self._length * length + self._layers * layers + self._batch * batch / 4
        )

    def observed(self, params: Params) -> float:
        """The score of one training, with noise."""
        return self.score(params) + float(self._noise * self._rng.normal())


def search(sampler: optuna.samplers.BaseSampler, task: Task, n_trials: int) -> tuple[BoolArray, FloatArray]:
    """Searches a task.

    Returns:
        n_trials flags of the trials that exceed the limit; and the regret of the best other one so far: 0 = best
        and 1 = median of those that are allowed, 1 before the first.
    """
    study = optuna.create_study(direction="maximize", sampler=sampler)
    exceeds, regrets, regret = [], [], 1.0
    for _ in range(n_trials):
        trial = study.ask()
        params = task.suggest(trial)
        excess = task.memory(params) - task.limit
        trial.set_constraint("memory", excess)
        study.tell(trial, task.observed(params))
        if excess <= 0:
            regret = min(regret, (task.best - task.score(params)) / (task.best - task.median))
        exceeds.append(excess > 0)
        regrets.append(max(regret, 0.0))
    return np.array(exceeds), np.array(regrets)


def table(found: dict[str, list[tuple[BoolArray, FloatArray]]]) -> str:
    """Shares of trials that exceed the limit, and regrets, with standard errors over tasks."""

    def cell(values: Any, text: str = "{:.3f} ± {:.3f}") -> str:
        return text.format(np.mean(values), np.std(values, ddof=1) / np.sqrt(len(values)))

    rows = []
    for name, searches in found.items():
        late = [100 * exceeds[_N_FIRST:].mean() for exceeds, _ in searches]
        regrets = np.array([regret for _, regret in searches])
        points = [p for p in POINTS if p <= regrets.shape[1]]
        rows.append([name, cell(late, "{:.1f} ± {:.1f} %"), *(cell(regrets[:, p - 1]) for p in points)])
    return bench.table(["", f"exceed, after trial {_N_FIRST}", *(f"regret @{p}" for p in points)], rows)


def main() -> None:
    """Prints the table as Markdown."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=24, help="number of tasks")
    parser.add_argument("--trials", type=int, default=20, help="of each search")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    found = {
        name: [search(make(seed), Task(seed), args.trials) for seed in range(args.seeds)]
        for name, make in SAMPLERS.items()
    }
    print(f"{args.seeds} tasks, one search of {args.trials} trials on each\n")
    print(table(found))


if __name__ == "__main__":
    main()
