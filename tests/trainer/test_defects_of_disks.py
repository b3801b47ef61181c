"""Defects of the built-in "optuna" backend when the process ends or the disk fails: each test passes with "rl"."""

import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack, nullcontext
from pathlib import Path
from typing import Any

import optuna
import pytest
import sqlalchemy
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import StorageError
from tests.helpers.both import NOT_REFUSED, on_both
from tests.trainer.conftest import Scripted, finished, run, states, stored
from tests.trainer.storage.test_disk import large_model, no_file_longer_than, nobody, read_only

MakeTrainer = Callable[..., Trainer]
ROOT = Path(__file__).resolve().parents[2]
COMPLETE = TrialState.COMPLETE
SQL_ERRORS = (optuna.exceptions.StorageInternalError, sqlalchemy.exc.SQLAlchemyError)
# In the middle of a search what Optuna raises at last is "AssertionError: Should not reach.", after pages of SQL.
IN_THE_MIDDLE = (*SQL_ERRORS, AssertionError)


def three() -> Scripted:
    """Learning rates that identify three trials, and more of them for a backend that runs too many trials."""
    return Scripted(learning_rate=[1e-3, 1e-2, 1e-4, *[1e-5] * 6])


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Options of a search that is continued in its storage, which stands in the folder of its trials."""
    (tmp_path / "out").mkdir()
    url = f"sqlite:///{tmp_path / 'out' / 'studies.db'}"
    return {"n_trials": 3, "storage": url, "study_name": "s", "load_if_exists": True}


def in_trial_1(args: Any, state: Any) -> bool:
    return bool(state.global_step) and args.learning_rate == 1e-2


@on_both()
def test_a_finished_search_trains_no_more_trials(make_trainer: MakeTrainer, backend: str, options: Any) -> None:
    for _ in range(2):
        run(make_trainer(), backend, **options)
    assert len(stored(options["storage"]).trials) == 3


@on_both()
def test_a_trial_that_ctrl_c_ended_runs_again(make_trainer: MakeTrainer, backend: str, options: Any) -> None:
    def score(args: Any, state: Any) -> float:
        if in_trial_1(args, state):
            raise KeyboardInterrupt
        return 0.5

    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(score=score), backend, direction="maximize", sampler=three(), **options)
    run(make_trainer(score=lambda args, state: 0.5), backend, direction="maximize", **options)
    assert states(stored(options["storage"])) == [COMPLETE] * 3


@on_both()
def test_an_interrupted_trial_resumes_from_its_checkpoint(
    make_trainer: MakeTrainer, backend: str, options: Any
) -> None:
    steps: list[int] = []
    given: dict[str, Any] = {"save_strategy": "epoch", "num_train_epochs": 3}

    class Stops(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 10 and self.args.learning_rate == 1e-2:
                raise SystemExit
            return super().training_step(*args, **kwargs)

    class Counts(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            steps.append(self.state.global_step)
            return super().training_step(*args, **kwargs)

    with pytest.raises(SystemExit):
        run(make_trainer(cls=Stops, **given), backend, sampler=three(), **options)
    run(make_trainer(cls=Counts, **given), backend, **options)
    assert steps[0] == 8


@on_both(raises=SQL_ERRORS)
def test_a_damaged_storage_is_reported(make_trainer: MakeTrainer, backend: str, options: Any) -> None:
    run(make_trainer(), backend, **{**options, "n_trials": 1})
    file = Path(options["storage"].removeprefix("sqlite:///"))
    file.write_bytes(file.read_bytes()[:20_000])
    with pytest.raises(StorageError, match="is damaged"):
        run(make_trainer(), backend, **options)


@on_both(raises=NOT_REFUSED)
def test_trials_of_another_space_are_not_mixed_in(make_trainer: MakeTrainer, backend: str, options: Any) -> None:
    run(make_trainer(), backend, **{**options, "n_trials": 1})

    def other(trial: Any) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_float("learning_rate", 1, 2, log=True)}

    with pytest.raises(StorageError, match="another search space"):
        run(make_trainer(), backend, other, **options)


def test_optuna_runs_two_searches_into_the_same_folders(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """The second search starts while the first one trains; "rl" refuses it, see test_resume.py."""
    states_on_disk: list[str] = []
    args: dict[str, Any] = {"save_strategy": "epoch", "num_train_epochs": 2}

    def score(args: Any, state: Any) -> float:
        if state.global_step == 8 and not states_on_disk:
            states_on_disk.append((tmp_path / "out" / "run-0" / "checkpoint-4" / "trainer_state.json").read_text())
            run(make_trainer(score=lambda args, state: 0.25, **second), "optuna", n_trials=1)
            states_on_disk.append((tmp_path / "out" / "run-0" / "checkpoint-4" / "trainer_state.json").read_text())
        return 0.5

    second = {**args, "learning_rate": 1e-1}
    run(make_trainer(score=score, **args), "optuna", n_trials=1)
    assert states_on_disk[0] != states_on_disk[1]


@on_both()
def test_each_trial_has_a_folder_of_its_own(make_trainer: MakeTrainer, backend: str, tmp_path: Path) -> None:
    given: dict[str, Any] = {"keep_best_models": 3} if backend == "rl" else {}
    run(make_trainer(save_strategy="epoch"), backend, n_trials=3, hp_name=lambda trial: "same", **given)
    assert len(list((tmp_path / "out").glob("same*/checkpoint-*"))) == 3


@on_both(raises=SQL_ERRORS)
def test_a_locked_storage_is_reported(
    make_trainer: MakeTrainer, backend: str, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.optuna.storage._TIMEOUT", 0.2)
    url = (
        options["storage"]
        if backend == "rl"
        else optuna.storages.RDBStorage(options["storage"], engine_kwargs={"connect_args": {"timeout": 0.2}})
    )
    run(make_trainer(), backend, **{**options, "n_trials": 1, "storage": url})
    holder = sqlite3.connect(options["storage"].removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    try:
        with pytest.raises(StorageError, match="cannot be used"):
            run(make_trainer(), backend, **{**options, "storage": url})
    finally:
        holder.close()


@on_both(raises=IN_THE_MIDDLE)
@pytest.mark.parametrize("when", ["from the start", "in the middle"])
def test_a_read_only_folder_is_reported(
    make_trainer: MakeTrainer, backend: str, options: Any, tmp_path: Path, when: str
) -> None:
    run(make_trainer(score=lambda args, state: 0.5), backend, **{**options, "n_trials": 1}, direction="maximize")
    for above in tmp_path.parents[:3]:
        above.chmod(above.stat().st_mode | 0o055)
    tmp_path.chmod(0o755)

    with ExitStack() as limits:

        def closes() -> None:
            limits.enter_context(read_only(tmp_path / "out"))
            limits.enter_context(nobody())

        def score(args: Any, state: Any) -> float:
            if state.global_step and when == "in the middle":
                closes()
            return 0.5

        trainer = make_trainer(score=score)
        if when == "from the start":
            closes()
        with pytest.raises(StorageError, match=r"cannot be used|cannot continue"):
            run(trainer, backend, direction="maximize", **options)


@on_both()
def test_a_full_disk_for_a_checkpoint_loses_nothing(make_trainer: MakeTrainer, backend: str, options: Any) -> None:
    class Full(Trainer):
        def _save_checkpoint(self, *args: Any, **kwargs: Any) -> None:
            with no_file_longer_than(500_000) if self.args.learning_rate == 1e-2 else nullcontext():
                super()._save_checkpoint(*args, **kwargs)

    given: dict[str, Any] = {"model_init": large_model, "save_strategy": "epoch"}
    with pytest.raises(Exception, match=r"(?i)file too large|os error 27|unexpected pos"):
        run(make_trainer(cls=Full, **given), backend, sampler=three(), **options)
    run(make_trainer(**given), backend, **options)
    assert states(stored(options["storage"])) == [COMPLETE] * 3


@on_both(raises=IN_THE_MIDDLE)
def test_a_full_disk_for_the_storage_is_reported(make_trainer: MakeTrainer, backend: str, options: Any) -> None:
    def full(args: Any, state: Any) -> float:
        if in_trial_1(args, state):
            limits.enter_context(no_file_longer_than(4096))
        return 0.5

    with ExitStack() as limits, pytest.raises(StorageError, match=r"cannot continue|cannot be used"):
        run(make_trainer(score=full), backend, direction="maximize", sampler=three(), **options)


SCRIPT = """
import os, signal, sys
from pathlib import Path
from transformers import Trainer, TrainingArguments
import hf_rlsearch
from tests.trainer.conftest import Rows, rates, tiny_model

class Ends(Trainer):
    def training_step(self, *args, **kwargs):
        if self.state.global_step == 2 and sys.argv[3] == "first":
            os.kill(os.getpid(), signal.SIGTERM)
        return super().training_step(*args, **kwargs)

args = TrainingArguments(
    sys.argv[2], report_to="none", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, num_train_epochs=1,
    eval_strategy="epoch", save_strategy="no",
)
trainer = Ends(args=args, model_init=lambda: tiny_model(), train_dataset=Rows(64, 0), eval_dataset=Rows(32, 1))
trainer.hyperparameter_search(
    rates, backend=sys.argv[1], n_trials=1, storage=f"sqlite:///{sys.argv[2]}/s.db", study_name="s", load_if_exists=True
)
"""


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@on_both()
def test_a_trial_that_sigterm_ended_runs_again(backend: str, tmp_path: Path) -> None:
    """SIGTERM ends a process at once by default; with "optuna" its trial stays RUNNING forever."""
    codes = []
    for turn in ("first", "second"):
        command = [sys.executable, "-c", SCRIPT, backend, str(tmp_path), turn]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        codes.append(subprocess.run(command, env=environment, cwd=ROOT, timeout=300, check=False).returncode)
    assert codes[1] == 0
    assert codes[0] in (-signal.SIGTERM, 128 + signal.SIGTERM)
    study = stored(f"sqlite:///{tmp_path / 's.db'}")
    assert states(study) == [COMPLETE]
    assert finished(study) == study.trials
