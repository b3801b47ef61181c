"""The benchmark on miniature trainings: regret of searches, trials above chance, and the command."""

import importlib
import sys
from dataclasses import fields
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest

from hf_rlsearch.agent.agent import load_agent
from hf_rlsearch.meta_training.plan import FOR_GATES
from hf_rlsearch.tasks.bank import make_bank
from hf_rlsearch.tasks.miniature.table import MiniatureSize
from hf_rlsearch.tasks.prior import TaskBatch, draw

TASKS = draw(np.random.default_rng(0), 12, 30)


@pytest.fixture
def simulated() -> ModuleType:
    return importlib.import_module("simulated")


def test_regret_never_rises_and_ends_at_zero_when_all_is_tried(simulated: ModuleType) -> None:
    chosen, regrets = simulated.search(TASKS, None, 30, 0)
    assert chosen.shape == regrets.shape == (12, 30)
    # Noise may make a worse trial the incumbent; it is rare and small.
    assert (np.diff(regrets, axis=1) > 0.3).mean() < 0.02
    assert regrets[:, -1].mean() < 0.15 < regrets[:, 0].mean()


def test_only_hard_tasks_are_asked_for_their_first_trial_above_chance(simulated: ModuleType) -> None:
    flags = simulated.above_chance(TASKS)
    n = TASKS.candidate_mask.sum(1)
    assert (flags.sum(1) <= 0.4 * n).all()
    assert (TASKS.utility[flags] > 0.1).all()
    chosen = np.array([[2, 0, 1], [0, 1, 2]])
    above = np.array([[True, False, False], [False, False, False]])
    assert simulated.first_above(above, chosen).tolist() == [2, 4]


def test_a_search_at_chance_level_leaves_it_no_later_than_random_search(simulated: ModuleType) -> None:
    tasks = draw(np.random.default_rng(1), 96, 48)
    hard = simulated.above_chance(tasks).any(1)
    tasks = TaskBatch(**{f.name: getattr(tasks, f.name)[hard] for f in fields(TaskBatch)})
    flags = simulated.above_chance(tasks)

    def first(score: Any, seed: int) -> Any:
        return simulated.first_above(flags, simulated.search(tasks, score, 8, seed)[0])

    ours = first(simulated.mixture_score(load_agent().mixture), 0)
    earlier = np.mean([first(None, seed) for seed in range(4)], axis=0) - ours  # trials, of 32 tasks
    assert len(tasks) > 24
    assert earlier.mean() > 2 * earlier.std() / np.sqrt(len(tasks))


def test_wrong_facts_are_two_decades_away_and_unknown_ones_stay_unknown(simulated: ModuleType) -> None:
    wrong = simulated._wrong(TASKS)
    np.testing.assert_array_equal(np.isnan(wrong.facts), np.isnan(TASKS.facts))
    moved = np.abs(wrong.facts - TASKS.facts)
    assert set(np.unique(moved[~np.isnan(moved)]).round(6)) == {0.0, 2.0}


def test_the_command_prints_every_reading(
    simulated: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    size = MiniatureSize(n_configurations=(40, 48), n_rows=(64, 64), pretraining_steps=(5, 10), max_work=1e8)
    make_bank(tmp_path, [FOR_GATES, FOR_GATES + 1, FOR_GATES + 12], size)
    monkeypatch.setattr(simulated, "POINTS", (1, 3))
    monkeypatch.setattr(sys, "argv", ["simulated.py", "--bank", str(tmp_path)])
    simulated.main()
    printed = capsys.readouterr().out
    assert printed.startswith("2 tables, 8 uses of each")
    for row in ("random", "mixture", "predictor 0, names", "predictor 1, names hidden", "mixture, all names hidden"):
        assert f"| {row} |" in printed
