"""The benchmark of constraints: its tasks have a limit that is in the way, and what exceeds it is no result."""

import numpy as np
import optuna
import pytest

import constraints as benchmark


@pytest.mark.parametrize("seed", range(3))
def test_a_task_has_a_limit_that_is_in_the_way(seed: int) -> None:
    task = benchmark.Task(seed)
    rng = np.random.default_rng(99)
    drawn = [task._draw(rng) for _ in range(500)]
    allowed = [params for params in drawn if task.memory(params) <= task.limit]
    assert 0.25 < len(allowed) / len(drawn) < 0.65
    assert max(map(task.score, drawn)) > max(map(task.score, allowed))
    assert task.best > task.median


@pytest.mark.skipif(not hasattr(optuna.trial.Trial, "set_constraint"), reason="needs Optuna 5")
def test_only_allowed_trials_lower_the_regret() -> None:
    task = benchmark.Task(0)
    exceeds, regret = benchmark.search(benchmark.SAMPLERS["random"](0), task, 12)
    assert exceeds.any()
    improved = np.diff(regret, prepend=1.0) < 0
    assert not (improved & exceeds).any()
    assert "| random |" in benchmark.table({"random": [(exceeds, regret)] * 2})
