"""Storage and disk that do not work: clear errors, and nothing is lost."""

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import StorageError
from hf_rlsearch.backend import sqlite
from tests.backend.conftest import Scripted, run, states

MakeTrainer = Callable[..., Trainer]


def test_a_storage_that_cannot_be_made(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match="cannot be used"):
        run(trainer, "rl", n_trials=1, storage=f"sqlite:///{tmp_path / 'file' / 'studies.db'}", study_name="s")


def test_a_folder_that_cannot_be_written(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    (tmp_path / "file").write_text("in the way")
    trainer.args.output_dir = str(tmp_path / "file" / "out")
    with pytest.raises(StorageError, match=r"cannot be used: NotADirectoryError"):
        run(trainer, "rl", n_trials=1)
    assert trainer.hp_search_backend is None


def test_a_locked_storage(make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.2)
    run(make_trainer(), "rl", n_trials=1)
    holder = sqlite3.connect(tmp_path / "out" / "hf_rlsearch.db", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="cannot be used"):
            run(make_trainer(), "rl", n_trials=2)
    finally:
        holder.close()
    assert states(run(make_trainer(), "rl", n_trials=2).run_summary.study) == [TrialState.COMPLETE] * 2


def test_a_storage_that_is_locked_in_the_middle(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sqlite, "_PATIENCE", 0.2)
    holders: list[sqlite3.Connection] = []

    def score(args: Any, state: Any) -> float:
        if state.global_step and Path(args.output_dir).name == "run-1":
            holders.append(sqlite3.connect(tmp_path / "out" / "hf_rlsearch.db", isolation_level=None))
            holders[0].execute("BEGIN EXCLUSIVE")
        return 0.5

    trainer = make_trainer(score=score)
    with pytest.raises(StorageError, match="cannot be used"):
        run(trainer, "rl", n_trials=3)
    holders[0].close()
    assert trainer.args.output_dir == str(tmp_path / "out")
    best = run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=3)
    assert states(best.run_summary.study) == [TrialState.COMPLETE] * 3


def test_a_full_disk_does_not_lose_the_best_model(make_trainer: MakeTrainer) -> None:
    class Full(Trainer):
        def save_model(self, *args: Any, **kwargs: Any) -> None:
            raise OSError(28, "No space left on device")

    trainer = make_trainer(cls=Full)
    best = run(trainer, "rl", n_trials=3, sampler=Scripted(learning_rate=[1e-3, 1e-2, 1e-4]))
    assert trainer.evaluate()["eval_loss"] == best.objective


def test_a_checkpoint_that_cannot_be_written_fails_the_trial(make_trainer: MakeTrainer) -> None:
    class FullOnce(Trainer):
        def save_model(self, *args: Any, **kwargs: Any) -> None:
            if Path(self.args.output_dir).name == "run-1":
                raise OSError(28, "No space left on device")
            super().save_model(*args, **kwargs)

    result = run(make_trainer(cls=FullOnce, save_strategy="epoch"), "rl", n_trials=3).run_summary
    assert states(result.study) == [TrialState.COMPLETE, TrialState.FAIL, TrialState.COMPLETE]
    assert "No space left" in result.trials[1].user_attrs["failure"]["reason"]
