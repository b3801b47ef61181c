"""The bank of miniature trainings: tables, files, and the tasks that are drawn from them."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
import torch

from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.observation import FACTS, space_arrays
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.bank import list_tables, main, make_bank, read_tables
from hf_rlsearch.tasks.bank_tasks import MAX_EVALUATIONS, draw_from_bank, early_values_tell
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.miniature.table import MiniatureSize, make_table
from hf_rlsearch.tasks.prior import TaskBatch

SMALL = MiniatureSize(
    n_configurations=(30, 40),
    n_rows=(64, 96),
    n_validation=(40,),
    n_evaluations=(3, 5),
    pretraining_steps=(10, 20),
    max_steps=(30, 20),
    max_work=2e8,
)
N = 8
C = 36


@pytest.fixture(scope="module")
def bank(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bank")
    assert make_bank(folder, range(N), SMALL) == N
    return folder


@pytest.fixture(scope="module")
def tables(bank: Path) -> list[Table]:
    return read_tables(list_tables(bank))


@pytest.fixture(scope="module")
def batch(tables: list[Table]) -> TaskBatch:
    return draw_from_bank(np.random.default_rng(0), tables, 150, C)


def equal(first: Table, second: Table) -> bool:
    return first.keys() == second.keys() and all(
        np.array_equal(first[name], second[name], equal_nan=first[name].dtype.kind == "f") for name in first
    )


def test_the_same_seed_makes_the_same_table_to_the_last_bit(tables: list[Table]) -> None:
    again = make_table(3, SMALL)
    assert equal(again, {name: values for name, values in tables[3].items() if name != "format"})
    assert not equal(again, make_table(4, SMALL))


def test_tables_are_whole(tables: list[Table]) -> None:
    for table in tables:
        n, n_scores, n_evaluations = len(table["cells"]), len(table["score_names"]), table["train_loss"].shape[1]
        assert SMALL.n_configurations[0] <= n <= SMALL.n_configurations[1]
        assert table["scores"].shape == (n, n_evaluations + 1, n_scores)
        assert table["repeated_scores"].shape[1:] == (n_evaluations + 1, n_scores)
        assert len({tuple(cell) for cell in table["cells"]}) == n
        assert np.isfinite(table["scores"][:, 0]).all()
        for name in ("steps", "trainable", "seconds"):
            assert (table[name] > 0).all()
        for h in range(len(table["names"])):
            levels = table[f"levels_{h}"]
            assert len(levels) >= 2 or table["settings"][h] == "max_steps"
            assert table["cells"][:, h].max() < len(levels)
            assert levels.dtype.kind == "U" or (np.diff(levels) > 0).all()


def test_a_killed_run_continues_where_it_stood(bank: Path, tmp_path: Path) -> None:
    code = (
        "from pathlib import Path; from hf_rlsearch.tasks.bank import make_bank; import torch; "
        "from hf_rlsearch.tasks.miniature.table import MiniatureSize; "
        f"torch.set_num_threads({torch.get_num_threads()}); "
        f"make_bank(Path({str(tmp_path)!r}), range({N}), {SMALL!r})"
    )
    process = subprocess.Popen([sys.executable, "-c", code], start_new_session=True)
    deadline = time.monotonic() + 60
    while len(list_tables(tmp_path)) < 2 and time.monotonic() < deadline:
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    kept = {path: path.stat().st_mtime_ns for path in list_tables(tmp_path)}
    assert 2 <= len(kept) < N
    (tmp_path / f"{N - 1:08d}.partial").write_bytes(b"half a table")
    assert make_bank(tmp_path, range(N), SMALL) == N
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert not list(tmp_path.glob("*.partial"))
    for ours, theirs in zip(read_tables(list_tables(tmp_path)), read_tables(list_tables(bank)), strict=True):
        assert equal(ours, theirs)


def test_no_table_is_begun_after_the_time(tmp_path: Path) -> None:
    assert make_bank(tmp_path, range(1), SMALL) == 1
    assert make_bank(tmp_path, range(3), SMALL, seconds=0.0) == 1
    assert len((tmp_path / "log.txt").read_text().splitlines()) == 3  # two runs and a table


def test_a_bank_holds_tables_of_one_size(bank: Path) -> None:
    with pytest.raises(StorageError, match="choose another folder"):
        make_bank(bank, range(N), MiniatureSize())


def test_files_that_are_no_tables_are_named(tables: list[Table], tmp_path: Path) -> None:
    (tmp_path / "broken.npz").write_bytes(b"nothing")
    with pytest.raises(StorageError, match=r"broken\.npz is no table"):
        read_tables(list_tables(tmp_path))
    np.savez(tmp_path / "broken.npz", **(tables[0] | {"format": np.array(0)}))  # type: ignore[arg-type]
    with pytest.raises(StorageError, match="bank format 0, this version of hf_rlsearch reads 1"):
        read_tables(list_tables(tmp_path))


def test_the_command_says_how_many_tables_there_are(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    main(["--out", str(tmp_path), "--first", "5", "--n", "0", "--threads", "1"])
    assert "0 of 0 tables" in capsys.readouterr().out


def test_the_same_state_draws_the_same_tasks(tables: list[Table]) -> None:
    first, second, other = (draw_from_bank(np.random.default_rng(s), tables, 6, C) for s in (3, 3, 4))
    for field in fields(TaskBatch):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(second, field.name))
    assert not np.array_equal(first.utility, other.utility)


def test_tasks_are_valid(batch: TaskBatch) -> None:
    tasks, mask = batch, batch.candidate_mask
    assert (mask.sum(1) >= 30).all()
    for name in ("utility", "values", "noise"):
        assert np.isfinite(getattr(tasks, name)).all(), name
    shown = np.where(mask, tasks.utility, np.nan)
    assert np.nanmedian(shown, axis=1) == pytest.approx(0, abs=1e-9)
    assert np.nanmax(shown, axis=1) == pytest.approx(1)
    rebuilt = tasks.utility * tasks.spread[:, None] + tasks.median[:, None]
    np.testing.assert_allclose(rebuilt[mask], tasks.values[mask], rtol=1e-6, atol=1e-9)
    real = tasks.roles >= 0
    assert ((tasks.n_levels >= 2) == real).all()
    assert (tasks.candidates < np.maximum(tasks.n_levels, 1)[:, None]).all()
    assert (tasks.present == (mask[..., None] & real[:, None])).all()
    steps = np.diff(tasks.levels[real & tasks.ordered], axis=1)
    assert (steps[~np.isnan(steps)] > 0).all()
    assert np.isnan(tasks.levels[~tasks.ordered]).all()
    assert np.isfinite(space_arrays(tasks).level_features).all()


def test_curves_are_simulated_unless_they_are_asked_for(batch: TaskBatch) -> None:
    assert batch.curves.shape == (150, C, 0)
    assert (batch.prices == 1).all()


def test_a_task_has_the_curves_and_prices_of_its_trainings(tables: list[Table]) -> None:
    tasks = draw_from_bank(np.random.default_rng(0), tables, 60, C, curves=True)
    mask = tasks.candidate_mask
    assert tasks.curves.shape == (60, C, MAX_EVALUATIONS)
    np.testing.assert_allclose(tasks.curves[..., -1][mask], tasks.values[mask])  # nothing is added to the measurement
    assert (tasks.noise == 0).all()
    assert (tasks.prices[mask] > 0).all()
    assert np.where(mask, tasks.prices, 0).sum(1) / mask.sum(1) == pytest.approx(1)
    assert tasks.prices[mask].std() > 0


@pytest.mark.parametrize("best_counts", [0.0, 1.0])
def test_curves_show_the_best_value_so_far_where_it_counts(tables: list[Table], best_counts: float) -> None:
    tasks = draw_from_bank(np.random.default_rng(1), tables, 40, C, curves=True, best_counts=best_counts)
    falls = (np.diff(tasks.curves, axis=2) < 0).any(2) & tasks.candidate_mask
    assert falls.any() == (best_counts == 0)


def test_the_untrained_model_is_no_evaluation(tables: list[Table]) -> None:
    """Tables have fewer evaluations than tasks: the first fractions show the first evaluation."""
    tasks = draw_from_bank(np.random.default_rng(2), tables, 60, C, curves=True, best_counts=0.0)
    known = ~np.isnan(tasks.facts[:, FACTS.index("untrained")])
    first = tasks.curves[..., 0][known]
    untrained = tasks.facts[known, FACTS.index("untrained")][:, None]
    shown = np.isclose(first, untrained, rtol=1e-6) & tasks.candidate_mask[known]
    assert shown.sum() < 0.2 * tasks.candidate_mask[known].sum()


def test_more_tasks_have_early_values_that_tell_where_these_are_wanted(tables: list[Table]) -> None:
    few, many = (
        draw_from_bank(np.random.default_rng(3), tables, 60, C, curves=True, telling=share) for share in (0.0, 1.0)
    )

    def share(tasks: TaskBatch) -> float:
        pairs = zip(tasks.curves, tasks.candidate_mask, strict=True)
        return float(np.mean([early_values_tell(curves[mask]) for curves, mask in pairs]))

    assert share(few) < 0.6
    assert share(many) > 0.9


def test_one_factor_moves_all_rates_of_a_task(batch: TaskBatch, tables: list[Table]) -> None:
    grids = [
        np.diff(np.log10(table[f"levels_{list(table['settings']).index('learning_rate')}"]))[0]
        for table in tables
        if "learning_rate" in table["settings"]
    ]
    levels = batch.levels[batch.roles == ROLES.index("learning_rate")]
    assert len(levels) > 30
    for row in levels:
        steps = np.diff(np.log10(row[np.isfinite(row)]))
        assert any(np.allclose(steps, grid) for grid in grids)
    assert -7 < np.nanmedian(np.log10(levels)) < -2


def test_names_objectives_and_facts_vary(batch: TaskBatch) -> None:
    tasks = batch
    generic = np.isin(tasks.roles, [ROLES.index("generic_numeric"), ROLES.index("generic_categorical"), -1]).all(1)
    assert 0 < generic.mean() < 0.4
    assert len(np.unique(tasks.roles[tasks.roles >= 0])) >= 6
    for name in FACTS:
        column = tasks.facts[:, FACTS.index(name)]
        assert 0 < np.isnan(column).mean() < 1
    assert {0.0, 1.0} <= set(tasks.facts[:, FACTS.index("maximize")])


def test_tables_in_which_nothing_differs_are_refused(tables: list[Table]) -> None:
    flat = tables[0] | {"scores": np.ones_like(tables[0]["scores"])}
    for given in ([], [flat]):
        with pytest.raises(StorageError, match="nothing to search"):
            draw_from_bank(np.random.default_rng(0), given, 1, C)
