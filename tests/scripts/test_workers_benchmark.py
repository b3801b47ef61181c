"""The benchmark of several workers: the simulated clock on known seconds, what stops trials, and a small run."""

import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import optuna
import pytest

import workers
from recorded_tasks import RecordedTask, load_tasks

TABLES = Path(workers.__file__).parent / "tables" / "validation"


class InOrder:
    """Asks for one level after the other."""

    def __init__(self, task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> None:
        self.trial: Any = None
        self.n_asked = 0
        self.told: list[float] = []
        self.study = SimpleNamespace(tell=lambda trial, state: self.told.append(np.nan))

    def ask(self) -> list[int]:
        self.trial = SimpleNamespace(number=self.n_asked)
        self.n_asked += 1
        return [(self.n_asked - 1) % 4]

    def tell(self, value: float) -> None:
        self.told.append(value)


def task_of(folder: Path, lines: list[str]) -> RecordedTask:
    """A table of one hyperparameter, to be minimised."""
    (folder / "table.csv").write_text("\n".join(["hp:a,objective,seconds,curve", *lines]))
    meta = {
        "path": "table.csv",
        "family": "f",
        "direction": "minimize",
        "hyperparameters": [{"name": "a", "levels": list(range(7)), "ordered": True, "log": False}],
    }
    return RecordedTask("t", folder / "table.csv", meta)


@pytest.mark.parametrize(
    ("n_workers", "deadline", "ended"),
    [
        (1, np.inf, [3, 2, 1, 0]),
        (2, np.inf, [2, 1, 0, 3]),  # three short trainings on one worker end before the long one on the other
        (2, 2.5, [2, 1]),
        (4, 1.5, [2, 1, 0]),
        (1, 4.5, [3]),
        (1, 3.5, [4]),  # nothing has ended: the median of the table
    ],
)
def test_a_worker_asks_while_others_still_train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, n_workers: int, deadline: float, ended: list[float]
) -> None:
    lines = ["0,3,4,", "1,2,1,", "2,1,1,", "3,0,1,", "4,20,1,", "5,20,1,", "6,5,1,"]
    task = task_of(tmp_path, lines)
    task.median = 4.0
    monkeypatch.setitem(workers.METHODS, "in order", workers.Method(InOrder))
    assert workers.simulate("in order", task, 0, n_workers, 4, deadline, None) == ended


@pytest.mark.parametrize("n_workers", [1, 2])
def test_what_is_stopped_makes_room_for_others(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, n_workers: int) -> None:
    """Two full trainings of two checkpoints each: every trial but the first is stopped at its first checkpoint."""
    task = task_of(tmp_path, [f"{level},{level},2,{level + 4} {level}" for level in range(7)])
    method = workers.Method(InOrder, lambda *given: lambda trial, value, step: trial.number > 0)
    monkeypatch.setitem(workers.METHODS, "stopping", method)
    seen = workers.simulate("stopping", task, 0, n_workers, 2, np.inf, None)
    assert sorted(seen) == [0, 4, 5, 6]  # both of the first trial, one each of the next two
    plain = workers.Method(InOrder)
    monkeypatch.setitem(workers.METHODS, "plain", plain)
    assert sorted(workers.simulate("plain", task, 0, n_workers, 2, np.inf, None)) == [0, 1, 4, 5]


def test_our_pruner_and_rays_scheduler_are_told_of_every_checkpoint(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    told: list[tuple[str, float, int]] = []

    class Scheduler:
        STOP = "STOP"

        def __init__(self, **options: Any) -> None:
            assert options == {"metric": "objective", "mode": "min", "max_t": 2}

        def on_trial_add(self, controller: None, trial: Any) -> None:
            told.append((trial.trial_id, 0.0, 0))

        def on_trial_result(self, controller: None, trial: Any, result: dict[str, Any]) -> str:
            told.append((trial.trial_id, result["objective"], result["training_iteration"]))
            return self.STOP if trial.trial_id == "1" else "CONTINUE"

    ray = ModuleType("ray.tune.schedulers")
    ray.ASHAScheduler = Scheduler  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "ray.tune.schedulers", ray)
    task = task_of(tmp_path, [f"{level},{level},2,{level + 4} {level}" for level in range(7)])
    stops = workers._by_ray(task, 4, None, None)
    trials: list[Any] = [SimpleNamespace(number=0), SimpleNamespace(number=1)]
    assert [stops(trials[0], 4.0, 1), stops(trials[1], 5.0, 1), stops(trials[0], 1.0, 2)] == [False, True, False]
    assert told == [("0", 0.0, 0), ("0", 4.0, 1), ("1", 0.0, 0), ("1", 5.0, 1), ("0", 1.0, 2)]
    study = optuna.create_study()
    stops = workers._by_pruner(task, 4, None, SimpleNamespace(study=study))
    assert not stops(study.ask(), 5.0, 1)
    assert study.trials[0].intermediate_values == {1: 5.0}


def test_regret_at_equal_budget_and_at_equal_time_on_a_recorded_table(tmp_path: Path) -> None:
    task = load_tasks(TABLES, names=["vit_digits_adamw"])[0]
    assert task.mean_seconds > 0
    out = ["--out", str(tmp_path / "out.json"), "--report", str(tmp_path / "report.md")]
    figure = ["--figure", str(tmp_path / "workers.svg")]
    methods = ["--samplers", "random", "TPE", "ours"]
    options = ["--tables", str(TABLES), *out, *figure, *methods, "--seeds", "1", "--tasks", task.name, "--workers", "4"]
    workers.main(options)
    report = (tmp_path / "report.md").read_text()
    assert report.count("| TPE minus ours |") == 2
    assert "after 16 full trainings in all" in report
    assert "after the time of 2 mean trainings" in report
    assert (tmp_path / "workers.svg").read_text().startswith("<svg")
