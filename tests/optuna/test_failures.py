"""Configurations like those that failed are tried less: rates that diverge, a value that never works."""

from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState

from hf_rlsearch import RLSampler
from hf_rlsearch._typing import BoolArray, IntArray, Params
from hf_rlsearch.observation.history import COMPLETE, FAILED, History
from hf_rlsearch.optuna.failures import chance_of_success
from hf_rlsearch.space import SearchSpace

KNOWN: dict[str, Any] = {
    "learning_rate": FloatDistribution(1e-5, 1e-2, log=True),
    "weight_decay": FloatDistribution(0.0, 0.3),
    "per_device_train_batch_size": CategoricalDistribution([8, 16, 32, 64]),
    "optim": CategoricalDistribution(["adamw_torch", "adafactor", "adamw_bnb_8bit"]),
}
UNKNOWN: dict[str, Any] = {
    "alpha": FloatDistribution(1e-5, 1e-2, log=True),
    "gamma": IntDistribution(1, 20),
    "delta": CategoricalDistribution(["a", "b", "c", "d"]),
}
SPACE = SearchSpace.from_distributions(KNOWN)


def history_of(trials: IntArray, failed: BoolArray) -> History:
    """Trials at these levels, a level of -1 for a hyperparameter that is missing, which failed or completed."""
    params = [SPACE.decode(np.maximum(row, 0)) for row in trials]
    known = [
        {n: v for n, v, i in zip(SPACE.names, p.values(), row, strict=True) if i >= 0}
        for p, row in zip(params, trials, strict=True)
    ]
    return History(
        numbers=np.arange(len(trials)),
        params=tuple(known),
        values=np.where(failed, np.nan, 0.5),
        fidelity=np.where(failed, 0.0, 1.0),
        status=np.where(failed, FAILED, COMPLETE),
        curves=(np.empty((0, 2)),) * len(trials),
    )


def n_failed(distributions: dict[str, Any], fails: Callable[[Params], bool]) -> int:
    """How many of 25 trials fail."""
    study, count = optuna.create_study(sampler=RLSampler(seed=0), direction="maximize"), 0
    for _ in range(25):
        trial = study.ask(distributions)
        if fails(trial.params):
            study.tell(trial, state=TrialState.FAIL)
            count += 1
        else:
            study.tell(trial, -sum(abs(np.log10(v)) for v in trial.params.values() if isinstance(v, float) and v > 0))
    return count


@pytest.mark.parametrize(
    ("distributions", "fails", "most"),
    [
        (KNOWN, lambda p: p["optim"] != "adamw_torch", 10),
        (KNOWN, lambda p: p["per_device_train_batch_size"] > 8, 10),
        (KNOWN, lambda p: p["learning_rate"] > 1e-3, 12),
        (UNKNOWN, lambda p: p["gamma"] > 5, 12),
        (UNKNOWN, lambda p: p["delta"] != "d", 10),
    ],
    ids=["two of three optimizers", "large batches", "high rates", "an unknown integer", "an unknown choice"],
)
def test_a_search_leaves_what_fails(distributions: dict[str, Any], fails: Callable[[Params], bool], most: int) -> None:
    assert n_failed(distributions, fails) <= most


def test_without_a_failure_every_chance_is_one() -> None:
    rows = SPACE.grid(10_000)
    assert (chance_of_success(SPACE, history_of(rows[:5], np.zeros(5, bool)), rows) == 1).all()


def test_a_value_that_fails_beside_others_that_work_is_the_reason() -> None:
    rows = SPACE.grid(100_000)
    rng = np.random.default_rng(0)
    trials = rows[rng.choice(len(rows), 12, replace=False)]
    bad = SPACE.names.index("optim")
    chances = chance_of_success(SPACE, history_of(trials, trials[:, bad] == 2), rows)
    assert chances[rows[:, bad] == 2].mean() < 0.3
    assert chances[rows[:, bad] != 2].mean() > 0.8


def test_failures_beside_successes_tell_little_of_other_candidates() -> None:
    rows = SPACE.grid(100_000)
    rng = np.random.default_rng(0)
    trials, failed = rows[rng.choice(len(rows), 25, replace=False)], rng.permutation(25) < 7
    chances = chance_of_success(SPACE, history_of(trials, failed), rows)
    assert chances.min() > 0.5


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 40))
def test_chances_are_probabilities_and_lowest_beside_failures(seed: int, n_trials: int) -> None:
    rng = np.random.default_rng(seed)
    trials = np.stack([rng.integers(-1, n, n_trials) for n in SPACE.n_levels], axis=1)
    failed = rng.random(n_trials) < 0.3
    rows = np.maximum(trials, 0)
    chances = chance_of_success(SPACE, history_of(trials, failed), rows)
    assert ((chances >= 0.01) & (chances <= 1)).all()
    if failed.any() and not (trials < 0).any():
        assert chances[failed].max() < 0.5


def test_of_a_long_history_a_part_is_read() -> None:
    rows = SPACE.grid(10_000)
    trials = np.resize(rows, (10_000, rows.shape[1]))
    chances = chance_of_success(SPACE, history_of(trials, np.arange(10_000) % 2 == 0), rows)
    assert chances.shape == (len(rows),)


def test_a_conditional_hyperparameter_hides_no_failure() -> None:
    def objective(trial: optuna.Trial) -> float:
        if trial.suggest_categorical("k", ["a", "b"]) == "b":
            return trial.suggest_int("y", 1, 5) / 10
        x = trial.suggest_float("x", 1e-5, 1, log=True)
        if x > 1e-2:
            raise ValueError
        return x

    study = optuna.create_study(direction="maximize", sampler=RLSampler(seed=0))
    study.optimize(objective, n_trials=25, catch=(ValueError,))
    failed = [trial.params["x"] for trial in study.trials if trial.state == TrialState.FAIL]
    assert len(failed) <= 8
    assert len(set(failed)) == len(failed)
