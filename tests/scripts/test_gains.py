"""The benchmark of expected gains: what came is measured, and a fixed patience ends as in a search."""

from pathlib import Path

import numpy as np
import pytest

import gains
from recorded_tasks import load_tasks

TABLES = Path(gains.__file__).parent / "tables" / "validation"


@pytest.mark.parametrize(("patience", "ended"), [(2, 4), (3, 7), (9, 7)])
def test_a_number_ends_after_so_many_trials_without_an_improvement(patience: int, ended: int) -> None:
    regret = np.array([0.9, 0.5, 0.5, 0.5, 0.4, 0.4, 0.4])
    assert gains.Search(regret, {}, 7).ended_by(patience) == ended


def test_gains_are_expected_and_realised_on_a_recorded_table() -> None:
    task = load_tasks(TABLES, names=["vit_digits_adamw"])[0]
    found = gains.search(task, 0, 9)
    assert set(found.expected) == {(3, 5)}
    assert found.expected[3, 5] >= 0
    assert found.realised(3, 5) == found.regret[2] - found.regret[7]
    assert "| 3 |" in gains.calibration_table([found])
    assert '| "auto" |' in gains.ends_table([found])
