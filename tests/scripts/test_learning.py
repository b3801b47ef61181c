"""The benchmark of learning from own studies: what is held out, and what its table says."""

import importlib
import json
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest

pytestmark = pytest.mark.usefixtures("quiet")


@pytest.fixture
def learning() -> ModuleType:
    return importlib.import_module("learning")


@pytest.fixture
def tasks(tmp_path: Path) -> list:
    rates = [1e-5, 1e-4, 1e-3]
    lines = ["hp:learning_rate,objective", *(f"{rate},{i}" for i, rate in enumerate(rates))]
    (tmp_path / "table.csv").write_text("\n".join(lines))
    space = [{"name": "learning_rate", "levels": rates, "ordered": True, "log": True}]
    meta = {"path": "table.csv", "family": "f", "direction": "minimize", "hyperparameters": space}
    (tmp_path / "tasks.json").write_text(json.dumps({f"task-{i}": meta for i in range(7)}))
    return importlib.import_module("recorded_tasks").load_tasks(tmp_path)


def test_no_study_is_drawn_from_a_table_that_is_held_out(learning: ModuleType, tasks: list) -> None:
    taught, held_out = learning.split(tasks, 0)
    assert (len(taught), len(held_out)) == (5, 2)
    assert {t.name for t in taught}.isdisjoint(t.name for t in held_out)
    studies = learning.draw_studies(taught, 12, 0)
    assert {study.study_name for study in studies} == {t.name for t in taught}
    assert all(20 <= len(study.trials) <= 40 for study in studies)


def test_the_row_compares_in_pairs(learning: ModuleType) -> None:
    before = np.random.default_rng(0).random((3, 2, 10)) / 2 + 0.25
    before[..., 4] = 0.5
    after = before.copy()
    after[..., 4] = 0.25
    name, n_tables, _, means, change, difference = learning.row("f", before, after)
    assert (name, n_tables, change, difference) == ("f", "3", "-50%", "[-0.250, -0.250]")
    assert means.split(" / ")[2] == "0.250"
