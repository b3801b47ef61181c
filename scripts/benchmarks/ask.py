"""Measures how long RLSampler takes to choose: `study.ask()` and all suggestions, on one thread.

    python scripts/benchmarks/ask.py [--trials 20 100 10000] [--repeats 15] [--weights FILE] [--profile]

Two search spaces of six hyperparameters: one whose grid has 256 candidates, and one that is far too large to enumerate,
so that the sampler scores a pool of candidates. Half of the trials have a learning curve. Times are medians of the
whole call, storage included: by the clock, and on the processor, which is the same on an idle machine.
"""

from __future__ import annotations

import os

# Before numpy and torch are loaded: they read the number of threads once.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import argparse
import cProfile
import pstats
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna

from hf_rlsearch import RLSampler
from hf_rlsearch.space import SearchSpace


def small(trial: optuna.Trial) -> dict[str, Any]:
    """4 x 4 x 2 x 2 x 2 x 2 = 256 candidates."""
    return {
        "learning_rate": trial.suggest_categorical("learning_rate", [1e-5, 3e-5, 1e-4, 3e-4]),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [8, 16, 32, 64]),
        "num_train_epochs": trial.suggest_categorical("num_train_epochs", [2, 4]),
        "weight_decay": trial.suggest_categorical("weight_decay", [0.0, 0.1]),
        "warmup_ratio": trial.suggest_categorical("warmup_ratio", [0.0, 0.1]),
        "lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine"]),
    }


def large(trial: optuna.Trial) -> dict[str, Any]:
    """Tens of thousands of candidates."""
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-6, 1e-3, log=True),
        "per_device_train_batch_size": trial.suggest_categorical("per_device_train_batch_size", [4, 8, 16, 32, 64]),
        "num_train_epochs": trial.suggest_int("num_train_epochs", 1, 10),
        "weight_decay": trial.suggest_float("weight_decay", 0.0, 0.3),
        "warmup_ratio": trial.suggest_float("warmup_ratio", 0.0, 0.2),
        "lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine", "constant"]),
    }


Suggest = Callable[[optuna.Trial], dict[str, Any]]
# Milliseconds that an ask may take, by number of trials; of the small space, as promised in the documentation.
BUDGET = {20: 20.0, 100: 40.0, 10_000: 100.0}


def study_with(suggest: Suggest, n_trials: int, seed: int = 0, weights: str | None = None) -> optuna.Study:
    """A study with random trials of a space, half of them with a learning curve."""
    rng = np.random.default_rng(seed)
    space = SearchSpace.from_functions(suggest)
    study = optuna.create_study(direction="maximize", sampler=RLSampler(seed=seed, search_space=space, weights=weights))
    for _ in range(n_trials):
        params = space.decode(rng.integers(0, space.n_levels))
        value = float(rng.normal())
        curve = {step: value - 1 / step for step in range(1, 6)} if rng.random() < 0.5 else {}
        study.add_trial(
            optuna.trial.create_trial(
                params=params, distributions=space.distributions, value=value, intermediate_values=curve
            )
        )
    return study


def times(study: optuna.Study, suggest: Suggest, repeats: int) -> tuple[list[float], list[float]]:
    """Milliseconds of `repeats` choices by the clock and on the processor; the history grows by one with each."""
    wall, cpu = [], []
    for _ in range(repeats):
        began, began_cpu = time.perf_counter(), time.process_time()
        trial = study.ask()
        suggest(trial)
        wall.append((time.perf_counter() - began) * 1e3)
        cpu.append((time.process_time() - began_cpu) * 1e3)
        study.tell(trial, 0.0)
    return wall, cpu


def profile(function: Callable[[], object], lines: int = 30) -> None:
    """Prints where a call spends its time."""
    profiler = cProfile.Profile()
    profiler.runcall(function)
    pstats.Stats(profiler).sort_stats("cumulative").print_stats(lines)


def main() -> None:
    """Prints one line per space and number of trials."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, nargs="+", default=sorted(BUDGET))
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--weights", help="name or path; the bundled ones where not given")
    parser.add_argument("--profile", action="store_true", help="also print where the time goes")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    first = times(study_with(small, 1, weights=args.weights), small, 1)[0][0]
    print(f"first ask of a process, with torch and the weights to load: {first:.0f} ms")
    for name, suggest in (("256 candidates", small), ("too large to enumerate", large)):
        for n_trials in args.trials:
            study = study_with(suggest, n_trials, weights=args.weights)
            times(study, suggest, 2)
            wall, cpu = times(study, suggest, args.repeats)
            limit = f"  (at most {BUDGET[n_trials]:.0f})" if n_trials in BUDGET and suggest is small else ""
            took = f"{np.median(wall):6.1f} ms, on the processor {np.median(cpu):6.1f} ms"
            print(f"{name:24} {n_trials:5} trials {took}{limit}", flush=True)
            if args.profile:
                profile(lambda study=study, suggest=suggest: times(study, suggest, args.repeats))  # type: ignore[misc]


if __name__ == "__main__":
    main()
