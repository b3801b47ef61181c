"""Several processes share one search: together they do its trials, and no more."""

import multiprocessing
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import Trainer

import hf_rlsearch  # noqa: F401
from hf_rlsearch.optuna.storage import open_storage
from hf_rlsearch.trainer.search.coordinator import SearchCoordinator
from hf_rlsearch.trainer.storage import resume
from tests.trainer.conftest import Rows, rates, run, states, stored, tiny_arguments, tiny_model
from tests.trainer.storage.test_resume import owner_of

MakeTrainer = Callable[..., Trainer]
_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.trainer.storage.test_workers", "hf_rlsearch.trainer.search.loop"])


@pytest.fixture
def options(tmp_path: Path) -> dict[str, Any]:
    """Of a search that others may work on."""
    return {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "s", "load_if_exists": True}


def running(options: dict[str, Any], pid: int, **attributes: Any) -> None:
    """A trial that a process trains."""
    trial = stored(options["storage"]).ask()
    trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    for name, value in {"rl:owner": owner_of(pid), **attributes}.items():
        trial.set_user_attr(name, value)


def test_what_another_process_trains_counts_towards_the_total(make_trainer: MakeTrainer, options: Any) -> None:
    run(make_trainer(), "rl", n_trials=1, **options)
    running(options, os.getppid())
    result = run(make_trainer(), "rl", n_trials=3, **options).run_summary
    assert states(result.study) == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE]


def test_a_worker_that_is_too_late_for_the_last_trial_starts_none(
    make_trainer: MakeTrainer, options: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Another process begins it between the look at what is left and the next trial."""
    reason_to_stop = SearchCoordinator.reason_to_stop

    def slow(coordinator: SearchCoordinator) -> str | None:
        reason = reason_to_stop(coordinator)
        if len(coordinator.study.trials) == 2:
            running(options, os.getppid())
        return reason

    monkeypatch.setattr(SearchCoordinator, "reason_to_stop", slow)
    result = run(make_trainer(), "rl", n_trials=3, **options).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2 + [TrialState.RUNNING, TrialState.WAITING]
    assert result.stopped_by == "n_trials"


def test_a_confirmation_of_another_process_does_not_count_towards_the_total(
    make_trainer: MakeTrainer, options: Any
) -> None:
    run(make_trainer(), "rl", n_trials=1, **options)
    running(options, os.getppid(), **{"rl:role": "confirm"})
    assert len(run(make_trainer(), "rl", n_trials=2, **options).run_summary.trials) == 3


def test_a_trial_whose_process_dies_meanwhile_is_requeued(make_trainer: MakeTrainer, options: Any) -> None:
    with_child: list[Any] = []

    def score(args: Any, state: Any) -> float:
        if state.global_step and not with_child:
            child = _context.Process(target=time.sleep, args=(60,), daemon=True)
            child.start()
            running(options, child.pid)
            child.kill()
            child.join()
            with_child.append(child)
        return 0.5

    run(make_trainer(score=score), "rl", n_trials=3, **options)
    assert states(stored(options["storage"])) == [TrialState.COMPLETE] * 3


def test_the_last_writer_is_the_leader(options: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resume, "_MOMENT", 0.0)
    study = optuna.create_study(study_name="s", storage=options["storage"])
    assert resume.is_leader(study)
    other = {"host": "other", "pid": 1, "begun": None}
    monkeypatch.setattr(resume.time, "sleep", lambda seconds: study.set_user_attr("rl:started_by", other))
    assert not resume.is_leader(study)


@pytest.mark.slow
def test_a_storage_of_the_users_that_is_locked_for_a_while(make_trainer: MakeTrainer, options: Any) -> None:
    """Longer than SQLite waits by itself, which is five seconds."""
    holders: list[Any] = []

    def score(args: Any, state: Any) -> float:
        if state.global_step and not holders:
            ready = _context.Event()
            holders.append(_context.Process(target=_hold, args=(options["storage"], ready, 7.0), daemon=True))
            holders[0].start()
            assert ready.wait(60)
        return 0.5

    run(make_trainer(score=score), "rl", n_trials=2, **options)
    assert states(stored(options["storage"])) == [TrialState.COMPLETE] * 2


def test_the_users_file_is_waited_for_like_the_default_one(options: Any) -> None:
    storage = open_storage(options["storage"])
    assert storage._backend.engine_kwargs["connect_args"]["timeout"] == 30


def _hold(url: str, ready: Any, seconds: float) -> None:
    import sqlite3

    holder = sqlite3.connect(url.removeprefix("sqlite:///"), isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    ready.set()
    time.sleep(seconds)
    holder.rollback()


def worker(folder: str, options: dict[str, Any], n_trials: int, gate: Any, what: str = "") -> None:
    """One of the processes: waits at the gate before its search, or in its first training; may die in a training."""
    torch.set_num_threads(1)
    resume._PATIENCE = 0

    class Dies(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if what == "waits in training" and self.state.global_step == 0 and self.args.output_dir.endswith("run-0"):
                gate.wait(120)
            if what == "dies" and self.state.global_step == 6:
                os.kill(os.getpid(), signal.SIGKILL)
            return super().training_step(*args, **kwargs)

    args = tiny_arguments(folder, save_strategy="epoch", per_device_train_batch_size=16)
    trainer = Dies(args=args, model_init=lambda: tiny_model(), train_dataset=Rows(64, 0), eval_dataset=Rows(32, 1))
    if what != "waits in training":
        gate.wait(120)
    trainer.hyperparameter_search(rates, backend="rl", n_trials=n_trials, **options)


@pytest.mark.slow
@pytest.mark.timeout(400)
@pytest.mark.parametrize("dies", [False, True])
def test_three_processes_at_once(tmp_path: Path, options: Any, dies: bool) -> None:
    """They make the database together, and do n_trials in all, also if one is killed in its trial."""
    gate = _context.Barrier(3)
    first = [{"learning_rate": 3.3e-4}, {"learning_rate": 7.7e-5}]
    given = (str(tmp_path / "out"), {**options, "initial_trials": first, "pruner": None}, 7, gate)
    workers = [
        _context.Process(target=worker, args=(*given, "dies" * (dies and i == 0)), daemon=True) for i in range(3)
    ]
    for each in workers:
        each.start()
    for each in workers:
        each.join(300)
    assert [each.exitcode for each in workers] == [-signal.SIGKILL if dies else 0, 0, 0]
    study = stored(options["storage"])
    started = [t for t in study.trials if t.state != TrialState.WAITING]
    assert [t.state for t in started] == [TrialState.COMPLETE] * 7
    assert [t.user_attrs["rl:role"] for t in started].count("baseline") == 1
    assert [t.params for t in study.trials if t.params in first] == first
    folders = [t.user_attrs["rl:folder"] for t in started]
    assert len(set(folders)) == len(folders)


@pytest.mark.slow
@pytest.mark.timeout(400)
def test_the_same_script_twice_at_once(tmp_path: Path) -> None:
    """Without a storage of its own: one of the two does all trials, the other ends with an error."""
    gate = _context.Barrier(2)
    folder = tmp_path / "out"
    given = (str(folder), {}, 4, gate)
    workers = [_context.Process(target=worker, args=(*given, w), daemon=True) for w in ("waits in training", "")]
    for each in workers:
        each.start()
    for each in workers:
        each.join(300)
    assert [each.exitcode for each in workers] == [0, 1]
    study = stored(f"sqlite:///{folder / 'hf_rlsearch.db'}")
    assert len(study.trials) == 4
    assert {t.state for t in study.trials} <= {TrialState.COMPLETE, TrialState.PRUNED}


@pytest.mark.timeout(60)
def test_queued_trials_beyond_the_last_one_do_not_hide_a_confirmation(make_trainer: MakeTrainer, options: Any) -> None:
    study = optuna.create_study(
        storage=options["storage"], study_name="s", directions=["minimize"], sampler=optuna.samplers.RandomSampler()
    )
    for rate in (1e-4, 1e-3, 1e-2):
        study.enqueue_trial({"learning_rate": rate})
    result = run(make_trainer(), "rl", n_trials=2, confirm=1, **options).run_summary
    confirmations = [trial for trial in result.study.trials if trial.user_attrs.get("rl:role") == "confirm"]
    assert [trial.state for trial in result.study.trials[:3]] == [TrialState.COMPLETE] * 2 + [TrialState.WAITING]
    assert confirmations
    assert all(trial.state == TrialState.COMPLETE for trial in confirmations)
