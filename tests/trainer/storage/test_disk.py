"""Storage and disk that do not work: clear errors, and nothing is lost."""

import os
import resource
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from pathlib import Path
from typing import Any

import pytest
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import StorageError
from tests.trainer.conftest import Scripted, run, states, tiny_model

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
    monkeypatch.setattr("hf_rlsearch.optuna.storage._TIMEOUT", 0.2)
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
    monkeypatch.setattr("hf_rlsearch.optuna.storage._TIMEOUT", 0.2)
    holders: list[sqlite3.Connection] = []

    def score(args: Any, state: Any) -> float:
        if state.global_step and Path(args.output_dir).name == "run-1":
            holders.append(sqlite3.connect(tmp_path / "out" / "hf_rlsearch.db", isolation_level=None))
            holders[0].execute("BEGIN EXCLUSIVE")
        return 0.5

    trainer = make_trainer(score=score)
    with pytest.raises(StorageError, match="Trial 1 cannot continue"):
        run(trainer, "rl", n_trials=3)
    holders[0].close()
    assert trainer.args.output_dir == str(tmp_path / "out")
    best = run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=3)
    assert states(best.run_summary.study) == [TrialState.COMPLETE] * 3


@contextmanager
def no_file_longer_than(n_bytes: int) -> Iterator[None]:
    """What the system does on a full disk, for every library that writes: each longer file is an error."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (n_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def large_model() -> Any:
    """One whose weights are a longer file than the storage's."""
    return tiny_model(hidden_size=128, intermediate_size=1024)


class FullInTrial1(Trainer):
    """The disk is full for as long as a checkpoint of trial 1 is written."""

    limit = 500_000

    def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
        here = Path(self.args.output_dir).name == "run-1" and self.state.global_step == 4
        with no_file_longer_than(self.limit) if here else nullcontext():
            super()._save_checkpoint(*args, **kwargs)


@pytest.mark.parametrize("limit", [500_000, 2_000_000])
def test_a_disk_that_is_full_ends_the_search_and_loses_nothing(
    make_trainer: MakeTrainer, tmp_path: Path, limit: int
) -> None:
    """The weights do not fit, or the weights do and the optimizer does not."""
    given: dict[str, Any] = {
        "model_init": large_model,
        "save_strategy": "steps",
        "save_steps": 2,
        "num_train_epochs": 2,
    }
    trainer = make_trainer(cls=type("Full", (FullInTrial1,), {"limit": limit}), **given)
    with pytest.raises(StorageError, match=r"Trial 1 cannot continue.*start the same command again"):
        run(trainer, "rl", n_trials=3)
    assert trainer.args.output_dir == str(tmp_path / "out")
    resumed = run(make_trainer(**given), "rl", n_trials=3).run_summary
    whole = run(make_trainer(output_dir=str(tmp_path / "other"), **given), "rl", n_trials=3).run_summary
    assert states(resumed.study) == [TrialState.COMPLETE] * 3
    assert [trial.value for trial in resumed.trials] == [trial.value for trial in whole.trials]


def test_a_disk_that_is_full_for_the_storage(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def full(args: Any, state: Any) -> float:
        if state.global_step and Path(args.output_dir).name == "run-1":
            limits.enter_context(no_file_longer_than(4096))
        return 0.5

    with ExitStack() as limits, pytest.raises(StorageError, match=r"Trial 1 cannot continue|cannot be used"):
        run(make_trainer(score=full), "rl", n_trials=3)
    result = run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=3).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 3


def test_a_full_disk_does_not_lose_the_best_model(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Nothing but the best model has to be written: it is kept in main memory, and half a file is not left behind."""
    sampler = Scripted(learning_rate=[1e-3, 1e-2, 1e-4])
    trainer = make_trainer(model_init=large_model)
    with no_file_longer_than(500_000):
        best = run(trainer, "rl", n_trials=3, sampler=sampler)
    assert states(best.run_summary.study) == [TrialState.COMPLETE] * 3
    assert trainer.evaluate()["eval_loss"] == best.objective
    assert list((tmp_path / "out").rglob("*.safetensors")) == []


@contextmanager
def nobody() -> Iterator[None]:
    """Root may write everywhere."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@contextmanager
def read_only(folder: Path) -> Iterator[None]:
    """Nobody may write to anything in a folder."""
    paths = [folder, *folder.rglob("*")]
    modes = [path.stat().st_mode for path in paths]
    for path in paths:
        path.chmod(0o555 if path.is_dir() else 0o444)
    try:
        yield
    finally:
        for path, mode in zip(paths, modes, strict=True):
            if path.exists():
                path.chmod(mode)


def test_a_read_only_folder(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Of a search that is to be continued: an error before anything is trained, and nothing is lost."""
    with_one = run(make_trainer(), "rl", n_trials=1).run_summary
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)
    trainer = make_trainer()
    with read_only(tmp_path / "out"), nobody(), pytest.raises(StorageError, match="cannot be used"):
        run(trainer, "rl", n_trials=3)
    assert trainer.hp_search_backend is None
    result = run(make_trainer(), "rl", n_trials=3).run_summary
    assert result.trials[0].value == with_one.trials[0].value
    assert states(result.study) == [TrialState.COMPLETE] * 3


def test_a_folder_that_becomes_read_only(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o055)

    def score(args: Any, state: Any) -> float:
        if state.global_step and Path(args.output_dir).name == "run-1":
            limits.enter_context(read_only(tmp_path / "out"))
            limits.enter_context(nobody())
        return 0.5

    with ExitStack() as limits, pytest.raises(StorageError, match=r"Trial 1 cannot continue|cannot be used"):
        run(make_trainer(score=score), "rl", n_trials=3)
    result = run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=3).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 3
