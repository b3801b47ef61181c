"""The measure of how much early values of learning curves tell."""

import importlib
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

from hf_rlsearch.tasks.bank import make_bank
from hf_rlsearch.tasks.miniature.table import MiniatureSize

TABLES = Path(__file__).parents[2] / "scripts" / "benchmarks" / "tables" / "validation"


@pytest.fixture
def early_values() -> ModuleType:
    return importlib.import_module("early_values")


def test_curves_that_keep_their_order_tell_everything_and_crossing_ones_the_opposite(early_values: ModuleType) -> None:
    ends = np.arange(5.0)
    parallel = np.linspace(0, 1, 12) + ends[:, None]
    assert early_values.early_and_late(parallel) == pytest.approx([1.0] * 7)
    crossing = np.where(np.arange(12) < 11, -ends[:, None], ends[:, None])
    assert early_values.early_and_late(crossing) == pytest.approx([-1.0, 0.0] * 3 + [0.0])


def test_recorded_curves_are_the_best_so_far_on_one_axis(early_values: ModuleType) -> None:
    for task in early_values.load_tasks(TABLES):
        curves = early_values.recorded_curves(task)
        assert curves.shape == (len(task.rows), 12)
        assert (np.diff(curves, axis=1) >= 0).all()


def test_the_command_prints_a_row_for_each_family_and_for_the_bank(
    early_values: ModuleType, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    size = MiniatureSize(n_configurations=(40, 48), n_rows=(64, 64), pretraining_steps=(5, 10), max_work=1e8)
    make_bank(tmp_path / "bank", [1, 2], size)
    monkeypatch.setattr(early_values, "_N_USES", 6)
    monkeypatch.setattr(sys, "argv", ["early_values.py", "--tables", str(TABLES), "--bank", str(tmp_path / "bank")])
    early_values.main()
    rows = [line.split("|")[1].strip() for line in capsys.readouterr().out.splitlines() if line.startswith("|")]
    assert {"bert_tiny", "seq2seq", "vit", "bank, as it comes", "bank, as drawn"} <= set(rows)
