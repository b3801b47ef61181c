"""The same script run again continues an unfinished search, and only that."""

import logging
import os
import platform
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import StorageError
from hf_rlsearch.backend import returned
from hf_rlsearch.backend.ownership import _begun
from hf_rlsearch.backend.plain_data import plain
from tests.backend.conftest import Rows, rates, run, states, stored, tiny_model

MakeTrainer = Callable[..., Trainer]


def stops_in(number: int, at_step: int = 1) -> type[Trainer]:
    """A Trainer whose process ends in one trial."""

    class Stops(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == at_step and Path(self.args.output_dir).name == f"run-{number}":
                raise SystemExit
            return super().training_step(*args, **kwargs)

    return Stops


def epochs(n: int) -> Any:
    return lambda trial: {**rates(trial), "num_train_epochs": n}


def times(factor: float) -> Any:
    return lambda metrics: metrics["eval_f1"] * factor


def owner_of(pid: int) -> dict[str, Any]:
    return {"host": platform.node(), "pid": pid, "begun": _begun(pid)}


def interrupted(make_trainer: MakeTrainer, number: int, at_step: int = 1, hp_space: Any = rates, **args: Any) -> None:
    with pytest.raises(SystemExit):
        run(make_trainer(cls=stops_in(number, at_step), **args), "rl", hp_space, n_trials=4)


def test_the_rest_is_as_if_nothing_had_happened(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    interrupted(make_trainer, 2)
    resumed = run(make_trainer(), "rl", n_trials=4).run_summary
    whole = run(make_trainer(output_dir=str(tmp_path / "other")), "rl", n_trials=4).run_summary
    assert states(resumed.study) == [TrialState.COMPLETE] * 4
    assert [trial.params for trial in resumed.trials] == [trial.params for trial in whole.trials]
    assert [trial.value for trial in resumed.trials] == [trial.value for trial in whole.trials]


def test_an_interrupted_trial_continues_from_its_checkpoint(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    args: dict[str, Any] = {"save_strategy": "epoch", "num_train_epochs": 3}
    interrupted(make_trainer, 1, at_step=10, **args)
    steps: list[int] = []

    class Counts(Trainer):
        def training_step(self, *given: Any, **kwargs: Any) -> Any:
            if Path(self.args.output_dir).name == "run-1":
                steps.append(self.state.global_step)
            return super().training_step(*given, **kwargs)

    resumed = run(make_trainer(cls=Counts, **args), "rl", n_trials=4).run_summary
    whole = run(make_trainer(output_dir=str(tmp_path / "other"), **args), "rl", n_trials=4).run_summary
    assert steps[0] == 8
    assert [trial.value for trial in resumed.trials] == [trial.value for trial in whole.trials]
    assert resumed.trials[1].intermediate_values == whole.trials[1].intermediate_values


@pytest.mark.parametrize("name", ["trainer_state.json", "model.safetensors", "optimizer.pt"])
def test_half_a_checkpoint_is_not_used(make_trainer: MakeTrainer, tmp_path: Path, name: str) -> None:
    args: dict[str, Any] = {"save_strategy": "epoch", "num_train_epochs": 2}
    with pytest.raises(SystemExit):
        run(make_trainer(cls=stops_in(0, at_step=6), **args), "rl", n_trials=1)
    file = tmp_path / "out" / "run-0" / "checkpoint-4" / name
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    resumed = run(make_trainer(**args), "rl", n_trials=1).run_summary
    whole = run(make_trainer(output_dir=str(tmp_path / "other"), **args), "rl", n_trials=1).run_summary
    assert states(resumed.study) == [TrialState.COMPLETE]
    assert resumed.trials[0].value == whole.trials[0].value


def test_a_checkpoint_from_just_before_an_evaluation_is_not_used(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """With saving by steps and evaluation by epochs, the last step of an epoch is saved first and evaluated then."""
    args: dict[str, Any] = {"save_strategy": "steps", "save_steps": 2, "num_train_epochs": 2}

    class StopsBeforeEvaluation(Trainer):
        def evaluate(self, *given: Any, **kwargs: Any) -> Any:
            if Path(self.args.output_dir).name == "run-1" and self.state.global_step == 4:
                raise SystemExit
            return super().evaluate(*given, **kwargs)

    with pytest.raises(SystemExit):
        run(make_trainer(cls=StopsBeforeEvaluation, **args), "rl", n_trials=2)
    resumed = run(make_trainer(**args), "rl", n_trials=2).run_summary
    whole = run(make_trainer(output_dir=str(tmp_path / "other"), **args), "rl", n_trials=2).run_summary
    assert resumed.trials[1].intermediate_values == whole.trials[1].intermediate_values
    assert resumed.trials[1].value == whole.trials[1].value


def test_a_trial_killed_before_the_pruner_was_asked_is_pruned_then(make_trainer: MakeTrainer) -> None:
    class Dies(optuna.pruners.ThresholdPruner):
        def prune(self, study: Any, trial: Any) -> bool:
            raise SystemExit

    def low(args: Any, state: Any) -> float:
        return 0.2

    with pytest.raises(SystemExit):
        run(make_trainer(score=low, num_train_epochs=3), "rl", n_trials=1, pruner=Dies(lower=0.5))
    pruner = optuna.pruners.ThresholdPruner(lower=0.5)
    result = run(make_trainer(score=low, num_train_epochs=3), "rl", n_trials=1, pruner=pruner).run_summary
    assert states(result.study) == [TrialState.PRUNED]
    assert list(result.trials[0].intermediate_values) == [3333]


def test_a_trial_that_is_repeated_has_the_curve_of_its_repetition(make_trainer: MakeTrainer) -> None:
    """On another number of processes, or another machine, it is another one."""
    args: dict[str, Any] = {"num_train_epochs": 3}
    with pytest.raises(SystemExit):
        run(make_trainer(cls=stops_in(0, at_step=6), score=lambda args, state: 0.2, **args), "rl", n_trials=1)
    result = run(make_trainer(score=lambda args, state: 0.7, **args), "rl", n_trials=1).run_summary
    assert result.trials[0].intermediate_values == {3333: 0.7, 6667: 0.7, 10000: 0.7}


def test_it_is_said_in_one_line(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(make_trainer, 2)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        run(make_trainer(), "rl", n_trials=4)
    assert "is continued: 2 of 4 trials are finished" in caplog.text
    assert "Trial 2 was interrupted and is taken up again" in caplog.text


def test_a_finished_search_is_followed_by_a_new_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    first = run(make_trainer(), "rl", n_trials=1)
    second = run(make_trainer(), "rl", n_trials=1)
    assert [b.run_summary.study.study_name for b in (first, second)] == ["search-1", "search-2"]
    assert second.run_summary.output_dir == str(tmp_path / "out" / "search-2")
    assert (tmp_path / "out" / "run-0").is_dir()


def test_more_trials_extend_a_search(make_trainer: MakeTrainer) -> None:
    run(make_trainer(), "rl", n_trials=1)
    assert len(run(make_trainer(), "rl", n_trials=3).run_summary.trials) == 3


def test_fewer_trials_end_a_search_when_what_was_begun_is_finished(make_trainer: MakeTrainer) -> None:
    interrupted(make_trainer, 2)
    result = run(make_trainer(), "rl", n_trials=2).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 3


def test_resume_false_begins_anew(make_trainer: MakeTrainer) -> None:
    interrupted(make_trainer, 2)
    best = run(make_trainer(), "rl", n_trials=2, resume=False)
    assert best.run_summary.study.study_name == "search-2"


def test_arguments_that_are_functions_are_known_by_name() -> None:
    """As text a function has its address in it, and no search would ever be continued."""
    assert plain([tiny_model, Rows]) == ["tests.backend.conftest.tiny_model", "tests.backend.conftest.Rows"]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"weight_decay": 0.1}, "arguments.weight_decay: 0.0 -> 0.1"),
        (
            {"hp_space": lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1)}},
            "space.learning_rate",
        ),
        ({"model_init": lambda: tiny_model(0.3)}, "model: "),
        ({"metric": "loss"}, "objective: "),
        ({"rows": 48}, "train_data: "),
    ],
)
def test_another_search_is_not_continued(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], match: str
) -> None:
    score = lambda args, state: 0.5  # noqa: E731
    interrupted(make_trainer, 1, score=score)
    space, metric, rows = changed.pop("hp_space", rates), changed.pop("metric", "accuracy"), changed.pop("rows", 64)
    trainer = make_trainer(score=score, **changed)
    trainer.train_dataset = Rows(rows, 0)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        best = run(trainer, "rl", space, n_trials=2, metric=metric)
    assert best.run_summary.study.study_name == "search-2"
    assert match in caplog.text


def test_a_named_study_follows_load_if_exists(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    options: Any = {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "mine"}
    run(make_trainer(), "rl", n_trials=1, **options)
    with pytest.raises(optuna.exceptions.DuplicatedStudyError):
        run(make_trainer(), "rl", n_trials=2, **options)
    run(make_trainer(), "rl", n_trials=2, load_if_exists=True, **options)
    assert len(stored(options["storage"]).trials) == 2


def test_a_journal_storage(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def storage() -> Any:
        backend = optuna.storages.journal.JournalFileBackend(str(tmp_path / "journal.log"))
        return optuna.storages.JournalStorage(backend)

    options: Any = {"study_name": "mine", "load_if_exists": True}
    with pytest.raises(SystemExit):
        run(make_trainer(cls=stops_in(1)), "rl", n_trials=2, storage=storage(), **options)
    best = run(make_trainer(), "rl", n_trials=2, storage=storage(), **options)
    assert states(best.run_summary.study) == [TrialState.COMPLETE] * 2


def test_trials_of_a_living_process_are_left_alone(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 's.db'}"
    options: Any = {"storage": url, "study_name": "mine", "load_if_exists": True}
    run(make_trainer(), "rl", n_trials=1, **options)
    stored(url).ask().suggest_float("learning_rate", 1e-5, 1e-1, log=True)
    best = run(make_trainer(), "rl", n_trials=3, **options)
    assert states(best.run_summary.study) == [TrialState.COMPLETE, TrialState.RUNNING, TrialState.COMPLETE]


def test_a_trial_that_always_ends_the_process_is_given_up(make_trainer: MakeTrainer) -> None:
    for _ in range(10):
        interrupted(make_trainer, 1)
    best = run(make_trainer(), "rl", n_trials=4)
    assert states(best.run_summary.study)[1] == TrialState.FAIL
    assert "ended 10 times" in best.run_summary.trials[1].user_attrs["failure"]["reason"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ({"hp_space": epochs(1)}, {"hp_space": epochs(2)}),
        (
            {"compute_objective": lambda m: m["eval_f1"], "direction": "maximize"},
            {"compute_objective": lambda m: m["eval_accuracy"], "direction": "maximize"},
        ),
        (
            {"compute_objective": times(1), "direction": "maximize"},
            {"compute_objective": times(2), "direction": "maximize"},
        ),
    ],
)
def test_what_functions_return_is_part_of_the_identity(
    make_trainer: MakeTrainer, first: dict[str, Any], second: dict[str, Any]
) -> None:
    given: dict[str, Any] = {"metrics": lambda prediction: {"f1": 0.9, "accuracy": 0.1}}
    first, second = ({"metric": None if "compute_objective" in o else "f1", **o} for o in (first, second))
    for _ in range(2):
        with pytest.raises(SystemExit):
            run(make_trainer(cls=stops_in(1), **given), "rl", n_trials=2, **first)
    # The first of these was continued by the second: two interrupted runs, one study.
    assert run(make_trainer(**given), "rl", n_trials=1, **second).run_summary.study.study_name == "search-2"


def test_a_name_alone_is_resumed_as_a_search_without_name(make_trainer: MakeTrainer) -> None:
    with pytest.raises(SystemExit):
        run(make_trainer(cls=stops_in(1)), "rl", n_trials=2, study_name="mine")
    names = [run(make_trainer(), "rl", n_trials=2, study_name="mine").run_summary.study.study_name for _ in range(2)]
    assert names == ["mine", "mine-2"]


def test_the_same_script_in_a_second_process_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.backend.ownership._PATIENCE", 0.5)
    interrupted(make_trainer, 1)
    study = stored(f"sqlite:///{tmp_path / 'out' / 'hf_rlsearch.db'}")
    study._storage.set_trial_user_attr(study.trials[1]._trial_id, "owner", owner_of(os.getppid()))
    with pytest.raises(StorageError, match=f"Process {os.getppid()} is running this search: it trains trial 1"):
        run(make_trainer(), "rl", n_trials=4)
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]


def test_between_two_trials_a_second_process_is_refused_too(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.backend.ownership._PATIENCE", 0.5)
    interrupted(make_trainer, 1)
    study = stored(f"sqlite:///{tmp_path / 'out' / 'hf_rlsearch.db'}")
    assert study.user_attrs["owner"] is None
    study.set_user_attr("owner", owner_of(os.getppid()))
    with pytest.raises(StorageError, match=f"Process {os.getppid()} is running this search \\(study"):
        run(make_trainer(), "rl", n_trials=4)
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]


def test_a_process_that_is_ending_is_waited_for(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    interrupted(make_trainer, 1)
    study = stored(f"sqlite:///{tmp_path / 'out' / 'hf_rlsearch.db'}")
    with subprocess.Popen(["sleep", "2"]) as process:
        study._storage.set_trial_user_attr(study.trials[1]._trial_id, "owner", owner_of(process.pid))
        result = run(make_trainer(), "rl", n_trials=4).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 4


def test_checkpoints_of_another_training_are_neither_used_nor_deleted(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    args: dict[str, Any] = {"save_strategy": "epoch", "output_dir": str(tmp_path / "out" / "run-0")}
    make_trainer(**args).train()
    result = run(make_trainer(save_strategy="epoch", num_train_epochs=2), "rl", n_trials=1).run_summary
    assert (tmp_path / "out" / "run-0" / "checkpoint-4").is_dir()
    assert result.trials[0].user_attrs["folder"] == str(tmp_path / "out" / "run-0-2")
    assert len(result.trials[0].intermediate_values) == 2


def test_a_result_that_was_never_returned_is_returned(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Any, result: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("hf_rlsearch.backend.run.Search.finish", killed)
        with pytest.raises(SystemExit):
            run(make_trainer(), "rl", n_trials=1)
    best = run(make_trainer(), "rl", n_trials=1)
    assert best.run_summary.study.study_name == "search-1"
    assert len(best.run_summary.trials) == 1


def ends(error: BaseException | None, monkeypatch: pytest.MonkeyPatch) -> None:
    """The end of this process, and what Python leaves of an exception that nobody caught."""
    monkeypatch.setattr(sys, "last_value", error, raising=False)
    returned.note_end()


@pytest.mark.parametrize(("error", "name"), [(None, "search-2"), (NameError("typo"), "search-1")])
def test_a_search_is_done_with_when_its_script_ends_without_an_error(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, error: Any, name: str
) -> None:
    first = run(make_trainer(), "rl", n_trials=1)
    ends(error, monkeypatch)
    monkeypatch.setattr("hf_rlsearch.backend.returned.owner", lambda: {"host": "here", "pid": 0, "begun": None})
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        again = run(make_trainer(), "rl", n_trials=1)
    assert again.run_summary.study.study_name == name
    if error is not None:
        assert (again.run_id, again.objective) == (first.run_id, first.objective)
        assert "given back again. resume=False begins a new search" in caplog.text


def test_the_end_of_a_child_says_nothing_about_its_parent(make_trainer: MakeTrainer) -> None:
    study = run(make_trainer(), "rl", n_trials=1).run_summary.study
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rlsearch.backend.returned.owner", lambda: {"host": "here", "pid": 0, "begun": None})
        returned.note_end()
    assert study.user_attrs["returned"]["pid"] == os.getpid()


def test_a_folder_that_is_gone_at_the_end_is_no_error(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    run(make_trainer(), "rl", n_trials=1)
    shutil.rmtree(tmp_path / "out")
    returned.note_end()
    assert not (tmp_path / "out").exists()
