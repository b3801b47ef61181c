"""The benchmark of several workers: the simulated clock on a table of known seconds, and a small run."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

import workers
from recorded_tasks import RecordedTask, load_tasks

TABLES = Path(workers.__file__).parent / "tables" / "validation"


class InOrder:
    """Asks for one level after the other."""

    def __init__(self, task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> None:
        self.trial: Any = None
        self.asked: list[list[int]] = []
        self.told: list[float] = []

    def ask(self) -> list[int]:
        self.asked.append([len(self.asked) % 4])
        return self.asked[-1]

    def tell(self, value: float) -> None:
        self.told.append(value)


@pytest.mark.parametrize(
    ("n_workers", "deadline", "ended"),
    [
        (1, np.inf, [3, 2, 1, 0]),
        (2, np.inf, [2, 1, 0, 3]),  # three short trainings on one worker end before the long one on the other
        (2, 2.5, [2, 1]),
        (4, 1.5, [2, 1, 0]),
        (1, 3.5, [4]),  # nothing has ended: the median of the table
    ],
)
def test_a_worker_asks_while_others_still_train(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, n_workers: int, deadline: float, ended: list[float]
) -> None:
    rows = ["hp:a,objective,seconds", "0,3,4", "1,2,1", "2,1,1", "3,0,1", "4,20,1", "5,20,1", "6,5,1"]
    (tmp_path / "table.csv").write_text("\n".join(rows))
    meta = {
        "path": "table.csv",
        "family": "f",
        "direction": "minimize",
        "hyperparameters": [{"name": "a", "levels": list(range(7)), "ordered": True, "log": False}],
    }
    task = RecordedTask("t", tmp_path / "table.csv", meta)
    task.median = 4.0
    monkeypatch.setitem(workers.METHODS, "in order", InOrder)
    assert workers.simulate("in order", task, 0, n_workers, 4, deadline, None) == ended


def test_regret_at_equal_budget_and_at_equal_time_on_a_recorded_table(tmp_path: Path) -> None:
    task = load_tasks(TABLES, names=["vit_digits_adamw"])[0]
    assert task.mean_seconds > 0
    out = ["--out", str(tmp_path / "out.json"), "--report", str(tmp_path / "report.md")]
    workers.main(["--tables", str(TABLES), *out, "--seeds", "1", "--tasks", task.name, "--workers", "4"])
    report = (tmp_path / "report.md").read_text()
    assert report.count("| TPE minus ours |") == 2
    assert "after 16 trials in all" in report
    assert "after the time of 2 mean trainings" in report
