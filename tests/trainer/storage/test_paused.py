"""Trials that the pruner stops keep a checkpoint, and resume from it as if they had never been stopped."""

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import EarlyStoppingCallback, Trainer, TrainerCallback

from hf_rlsearch.observation.trial_attributes import counted
from hf_rlsearch.trainer.storage import paused
from tests.helpers.versions import exact_within_epochs
from tests.trainer.conftest import Scripted, run, states, tiny_model

MakeTrainer = Callable[..., Trainer]
RATES = [1e-2, 1e-3, 1e-4, 1e-3]
"""Trial 3 is of the same configuration as trial 1."""


class Stops(optuna.pruners.BasePruner):
    """Stops trials at the report of that number."""

    def __init__(self, **after: int) -> None:
        self._after = {int(name.removeprefix("trial_")): n for name, n in after.items()}

    def prune(self, study: Any, trial: Any) -> bool:
        return len(trial.intermediate_values) == self._after.get(trial.number)


class Keeps(TrainerCallback):
    """Writes the weights that each training ends with, and the steps that it starts at."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        with open(self._folder / "started", "a") as file:
            file.write(f"{state.global_step}\n")

    def on_train_end(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        torch.save(model.state_dict(), self._folder / f"{Path(args.output_dir).name}.pt")


def search(
    make_trainer: MakeTrainer, folder: Path, *, rates: list[float] | None = None, pruner: Any = None, **given: Any
) -> Any:
    """A search whose trials have these learning rates; returns its result."""
    rates = rates or RATES
    folder.mkdir(exist_ok=True)
    names = ("max_paused_trials", "disk_budget_gb", "n_trials")
    options = {"max_paused_trials": 2, "n_trials": len(rates), **{n: given.pop(n) for n in names if n in given}}
    args = {"num_train_epochs": 3, "save_strategy": "epoch", "output_dir": str(folder / "out"), **given}
    callbacks = [Keeps(folder), *args.pop("callbacks", [])]
    return run(
        make_trainer(callbacks=callbacks, **args),
        "rl",
        sampler=Scripted(learning_rate=rates),
        pruner=pruner or Stops(trial_1=1),
        **options,
    ).run_summary


class Doubts(Stops):
    """Stops trials with a stored chance to become the best, as RLPruner does."""

    def __init__(self, chance: float, **after: int) -> None:
        super().__init__(**after)
        self._chance = chance

    def prune(self, study: Any, trial: Any) -> bool:
        study._storage.set_trial_system_attr(trial._trial_id, "rl:stop", {"fidelity": 0.33, "chance": self._chance})
        return super().prune(study, trial)


@pytest.mark.parametrize(("chance", "resumes"), [(0.04, False), (0.3, True)])
def test_a_trial_that_was_called_hopeless_is_never_resumed(
    make_trainer: MakeTrainer, tmp_path: Path, chance: float, resumes: bool
) -> None:
    result = search(make_trainer, tmp_path, pruner=Doubts(chance, trial_1=1), n_trials=5)
    assert result.trials[1].state == TrialState.PRUNED
    assert any(trial.user_attrs.get("rl:continues") == 1 for trial in result.trials) == resumes


def waiting(result: Any) -> list[int]:
    """Trials whose checkpoint is on disk."""
    return [t.number for t in result.trials if Path(result.output_dir, str(t.user_attrs.get("rl:paused"))).is_dir()]


def resumable(study: Any) -> list[Any]:
    """The paused trials of a search that no trial has resumed."""
    return paused.resumable_trials(study.trials, study.user_attrs["rl:place"])


def equal_weights(first: Path, second: Path) -> bool:
    a, b = torch.load(first), torch.load(second)
    return all(torch.equal(a[name], b[name]) for name in a)


@pytest.mark.parametrize(
    ("args", "stop", "first_step"),
    [
        ({}, 1, 4),
        pytest.param(
            *({"eval_strategy": "steps", "eval_steps": 3, "save_strategy": "steps", "save_steps": 50}, 2, 6),
            marks=exact_within_epochs,
        ),
        ({"load_best_model_at_end": True, "save_total_limit": 1, "metric_for_best_model": "loss"}, 2, 8),
    ],
)
def test_a_resumed_training_equals_an_uninterrupted_one(
    make_trainer: MakeTrainer, tmp_path: Path, args: dict[str, Any], stop: int, first_step: int
) -> None:
    """Objective, learning curve and all weights to the last bit; dropout makes the random state matter."""
    pruner = Stops(trial_1=stop)
    broken = search(make_trainer, tmp_path / "broken", pruner=pruner, model_init=lambda: tiny_model(0.3), **args)
    whole = search(
        make_trainer,
        tmp_path / "whole",
        pruner=optuna.pruners.NopPruner(),
        model_init=lambda: tiny_model(0.3),
        max_paused_trials=0,
        **args,
    )
    assert [t.state.name for t in broken.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert broken.trials[3].user_attrs["rl:continues"] == 1
    assert (tmp_path / "broken" / "started").read_text().split() == ["0", "0", "0", str(first_step)]
    assert broken.trials[3].value == whole.trials[1].value
    assert broken.trials[3].intermediate_values == whole.trials[1].intermediate_values
    assert equal_weights(tmp_path / "broken" / "run-1.pt", tmp_path / "whole" / "run-1.pt")
    assert (
        broken.trials[3].user_attrs["rl:metrics"]["eval_loss"] == whole.trials[1].user_attrs["rl:metrics"]["eval_loss"]
    )


def test_a_training_may_be_stopped_several_times(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    pruner = Stops(trial_0=1, trial_1=2)
    result = search(make_trainer, tmp_path / "a", rates=[1e-3] * 3, pruner=pruner)
    whole = search(make_trainer, tmp_path / "b", rates=[1e-3], pruner=optuna.pruners.NopPruner())
    assert [t.user_attrs.get("rl:continues") for t in result.trials] == [None, 0, 1]
    assert [sorted(t.intermediate_values) for t in result.trials] == [[3333], [3333, 6667], [3333, 6667, 10000]]
    assert [t.user_attrs["rl:spent"] for t in result.trials] == pytest.approx([1 / 3] * 3, abs=1e-4)
    assert [t.user_attrs["rl:trained"] for t in result.trials] == pytest.approx([1 / 3, 2 / 3, 1], abs=1e-4)
    assert result.trials[2].value == whole.trials[0].value
    assert len({t.user_attrs["rl:folder"] for t in result.trials}) == 1


def test_early_stopping_keeps_its_state(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """Its patience runs over the stop: without its state the continued training would get one epoch more."""
    scores = {0.0: 0.5, 1.0: 0.5, 2.0: 0.4, 3.0: 0.4, 4.0: 0.4, 5.0: 0.4}
    args: dict[str, Any] = {
        "score": lambda args, state: scores[round(state.epoch or 0.0)],
        "num_train_epochs": 5,
        "load_best_model_at_end": True,
        "metric_for_best_model": "accuracy",
    }
    curves = []
    for folder, pruner in (("a", Stops(trial_0=2)), ("b", optuna.pruners.NopPruner())):
        early = [EarlyStoppingCallback(early_stopping_patience=2)]
        rates = [1e-3, 1e-3] if folder == "a" else [1e-3]
        result = search(make_trainer, tmp_path / folder, rates=rates, pruner=pruner, callbacks=early, **args)
        curves.append(result.trials[-1].intermediate_values)
    assert list(curves[0]) == [2000, 4000, 6000]
    assert curves[0] == curves[1]


def test_a_resumed_trial_is_replayed_as_a_whole(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    result = search(make_trainer, tmp_path / "a")
    trainer = make_trainer(num_train_epochs=3, save_strategy="epoch")
    assert result.replay(trainer, 3) == result.trials[3].value


@pytest.mark.parametrize("change", ["rate", "argument", "damage"])
def test_only_the_same_training_is_resumed(make_trainer: MakeTrainer, tmp_path: Path, change: str) -> None:
    class Changes(Stops):
        def prune(self, study: Any, trial: Any) -> bool:
            if trial.number == 2 and change == "damage":
                Path(study.user_attrs["rl:place"], study.trials[1].user_attrs["rl:paused"], "optimizer.pt").unlink(
                    missing_ok=True
                )
            return super().prune(study, trial)

    def space(trial: Any) -> dict[str, Any]:
        decay = 0.1 if change == "argument" and getattr(trial, "number", 0) == 3 else 0.0
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True), "weight_decay": decay}

    rates = [*RATES[:3], 2e-3 if change == "rate" else 1e-3]
    options: dict[str, Any] = {"max_paused_trials": 2, "n_trials": 4, "pruner": Changes(trial_1=1)}
    trainer = make_trainer(callbacks=[Keeps(tmp_path)], num_train_epochs=3, save_strategy="epoch")
    result = run(trainer, "rl", space, sampler=Scripted(learning_rate=rates), **options).run_summary
    assert (tmp_path / "started").read_text().split() == ["0"] * 4
    assert result.trials[3].user_attrs["rl:spent"] == 1.0
    assert result.trials[3].state == TrialState.COMPLETE


@pytest.mark.parametrize(
    "args", [{"save_strategy": "no"}, {"save_only_model": True}, {"max_paused_trials": 0}, {"disk_budget_gb": 0}]
)
def test_without_checkpoints_no_trial_is_paused(
    make_trainer: MakeTrainer, tmp_path: Path, args: dict[str, Any]
) -> None:
    result = search(make_trainer, tmp_path / "a", **args)
    assert all("rl:paused" not in t.user_attrs and "rl:continues" not in t.user_attrs for t in result.trials)
    assert states(result.study)[1] == TrialState.PRUNED


class RecordsPaused(Stops):
    """Records the paused trials at each report; when the search ends, only the best model is left."""

    def __init__(self, **after: int) -> None:
        super().__init__(**after)
        self.seen: list[list[int]] = []

    def prune(self, study: Any, trial: Any) -> bool:
        self.seen.append([t.number for t in resumable(study)])
        return super().prune(study, trial)


def by_rate(args: Any, state: Any) -> float:
    """A score that is better for larger learning rates."""
    return float(1 + args.learning_rate)


STOP_FOUR = {"trial_0": 1, "trial_1": 1, "trial_2": 1, "trial_3": 1}


def test_the_better_paused_trials_stay(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    pruner = RecordsPaused(**STOP_FOUR)
    rates = [1e-3, 1e-2, 1e-4, 5e-2, 2e-2]
    result = search(make_trainer, tmp_path / "a", rates=rates, pruner=pruner, score=by_rate)
    assert pruner.seen[:5] == [[], [0], [0, 1], [0, 1], [1, 3]]
    assert waiting(result) == []
    left = sorted(path.parent.name for path in (tmp_path / "a" / "out").glob("run-*/checkpoint-*"))
    assert left == ["run-4"]


class Sizes(RecordsPaused):
    """Records the largest size of a paused checkpoint, too."""

    size = 0

    def prune(self, study: Any, trial: Any) -> bool:
        place = study.user_attrs["rl:place"]
        sizes = [paused.folder_size(Path(place, t.user_attrs["rl:paused"])) for t in resumable(study)]
        self.size = max([self.size, *sizes])
        return super().prune(study, trial)


def test_a_disk_budget_holds(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """One checkpoint fits, two do not: the better of the two stays."""
    sizes = Sizes(trial_0=1)
    search(make_trainer, tmp_path / "a", rates=RATES[:2], pruner=sizes)
    pruner = RecordsPaused(**STOP_FOUR)
    rates = [1e-3, 1e-2, 1e-4, 5e-2, 2e-2]
    budget = {"max_paused_trials": 9, "disk_budget_gb": 1.6 * sizes.size / 1e9}
    search(make_trainer, tmp_path / "b", rates=rates, pruner=pruner, score=by_rate, **budget)
    assert sizes.size > 0
    assert pruner.seen[:5] == [[], [0], [1], [1], [3]]


def test_the_best_models_count_towards_the_disk_budget_and_are_never_deleted(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    sizes = Sizes(trial_0=1)
    search(make_trainer, tmp_path / "a", rates=RATES[:2], pruner=sizes)
    pruner = RecordsPaused(trial_1=1)
    budget = {"max_paused_trials": 9, "disk_budget_gb": 1.2 * sizes.size / 1e9}
    result = search(make_trainer, tmp_path / "b", rates=[1e-2, 1e-3, 1e-4], pruner=pruner, score=by_rate, **budget)
    assert pruner.seen[-1] == []
    assert (tmp_path / "b" / "out" / "run-0").is_dir()
    assert states(result.study) == [TrialState.COMPLETE, TrialState.PRUNED, TrialState.COMPLETE]


@pytest.mark.parametrize(
    "where", ["save_model", "_save_optimizer_and_scheduler", "_save_rng_state", "_save_checkpoint"]
)
def test_on_a_full_disk_a_stopped_trial_is_pruned_but_not_paused(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture, where: str
) -> None:
    class Full(Trainer):
        pass

    def full(self: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(self.args.output_dir).name == "run-1":
            raise OSError(28, "No space left on device")
        return getattr(Trainer, where)(self, *args, **kwargs)

    setattr(Full, where, full)
    args = {"cls": Full, "save_strategy": "steps", "save_steps": 500}
    with caplog.at_level(logging.WARNING, logger="hf_rlsearch"):
        result = search(make_trainer, tmp_path / "a", **args)
    assert [t.state.name for t in result.trials] == ["COMPLETE", "PRUNED", "COMPLETE", "COMPLETE"]
    assert "No space left on device" in caplog.text
    assert "rl:paused" not in result.trials[1].user_attrs
    assert "rl:continues" not in result.trials[3].user_attrs


def test_free_space_is_checked_before_a_checkpoint_is_written(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paused, "_free_bytes", lambda folder: 100.0)
    result = search(make_trainer, tmp_path / "a", save_strategy="steps", save_steps=500)
    assert "rl:paused" not in result.trials[1].user_attrs
    assert not list((tmp_path / "a" / "out" / "run-1").glob("checkpoint-*"))


@pytest.mark.parametrize("moment", ["before_saving", "while_saving", "before_telling"])
def test_killed_between_the_stop_and_its_record(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    """Run again, the trial is stopped where it was, and paused: the search continues as if nothing had happened."""
    whole = search(make_trainer, tmp_path / "whole")
    names = {"before_saving": "save_model", "while_saving": "_save_rng_state"}

    def killed(self: Any, *args: Any, **kwargs: Any) -> Any:
        if Path(self.args.output_dir).name == "run-1":
            raise SystemExit
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        if moment in names:
            original = getattr(Trainer, names[moment])
            patch.setattr(Trainer, names[moment], killed)
        else:
            tell = optuna.Study.tell

            def dies(self: Any, trial: Any, *args: Any, **kwargs: Any) -> Any:
                if trial.number == 1:
                    raise SystemExit
                return tell(self, trial, *args, **kwargs)

            patch.setattr(optuna.Study, "tell", dies)
        with pytest.raises(SystemExit):
            search(make_trainer, tmp_path / "broken")
    broken = search(make_trainer, tmp_path / "broken", rates=RATES[2:], n_trials=4)
    assert [t.state for t in broken.trials] == [t.state for t in whole.trials]
    assert [t.value for t in broken.trials] == [t.value for t in whole.trials]
    assert [t.intermediate_values for t in broken.trials] == [t.intermediate_values for t in whole.trials]
    assert broken.trials[3].user_attrs["rl:continues"] == 1
    assert broken.trials[3].user_attrs["rl:started_at"] == 3333


def test_killed_after_it_was_claimed(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The new trial has named the trial that it resumes, but not taken over its folder yet."""
    whole = search(make_trainer, tmp_path / "whole")

    def killed(checkpoint: str) -> int:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("hf_rlsearch.trainer.search.planner.checkpoint_curve_step", killed)
        patch.setattr(
            "hf_rlsearch.trainer.search.planner.Planner.checkpoint_at", lambda self, trial, point: _last(trial)
        )
        with pytest.raises(SystemExit):
            search(make_trainer, tmp_path / "broken")
    broken = search(make_trainer, tmp_path / "broken", rates=RATES[3:], n_trials=4)
    assert [t.value for t in broken.trials] == [t.value for t in whole.trials]
    assert broken.trials[3].user_attrs["rl:continues"] == 1
    assert broken.trials[3].user_attrs["rl:started_at"] == 3333


def _last(trial: Any) -> str:
    return str(next(Path(trial.study.user_attrs["rl:place"], trial.user_attrs["rl:folder"]).glob("checkpoint-4")))


def test_killed_in_a_resumed_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    whole = search(make_trainer, tmp_path / "whole")

    class Dies(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.state.global_step == 6 and json.loads((tmp_path / "n").read_text()) == 3:
                raise SystemExit
            return super().training_step(*args, **kwargs)

    class Counts(Stops):
        def prune(self, study: Any, trial: Any) -> bool:
            (tmp_path / "n").write_text(str(trial.number + (trial.number == 2)))
            return super().prune(study, trial)

    (tmp_path / "n").write_text("0")
    with pytest.raises(SystemExit):
        search(make_trainer, tmp_path / "broken", pruner=Counts(trial_1=1), cls=Dies)
    broken = search(make_trainer, tmp_path / "broken", rates=RATES[3:], n_trials=4)
    assert [t.value for t in broken.trials] == [t.value for t in whole.trials]
    assert broken.trials[3].intermediate_values == whole.trials[3].intermediate_values
    assert (
        broken.trials[3].user_attrs["rl:spent"]
        == whole.trials[3].user_attrs["rl:spent"]
        == pytest.approx(2 / 3, abs=1e-4)
    )


def test_a_search_that_continues_with_other_logging_resumes_the_stopped_trials(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    """Arguments that say how a training is logged make no other training of it."""

    class Dies(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if Path(str(self.args.output_dir)).name == "run-2":
                raise SystemExit
            return super().training_step(*args, **kwargs)

    with pytest.raises(SystemExit):
        search(make_trainer, tmp_path, cls=Dies)
    result = search(make_trainer, tmp_path, rates=RATES[3:], n_trials=4, logging_steps=1)
    assert result.trials[3].user_attrs["rl:continues"] == 1
    assert result.trials[3].user_attrs["rl:spent"] == pytest.approx(2 / 3, abs=1e-4)


def test_only_what_would_be_the_same_training_today_is_offered(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """A trial that was stopped on one rank is none that a search on two ranks can resume."""
    offered: list[list[int]] = []

    class Looks(paused.PausedTrials):
        def resumable(self) -> list[int]:
            found = super().resumable()
            self._world_size = 2
            offered.extend([found, super().resumable()])
            self._world_size = 1
            return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("hf_rlsearch.trainer.search.loop.PausedTrials", Looks)
        search(make_trainer, tmp_path)
    assert ([1] in offered[::2], [1] in offered[1::2]) == (True, False)


def test_the_rest_of_a_judged_training_uses_up_the_rest_of_a_trial(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    result = search(make_trainer, tmp_path, pruner=Doubts(0.3, trial_1=1))
    assert result.trials[3].user_attrs["rl:continues"] == 1
    assert [counted(trial) for trial in result.trials] == pytest.approx([1, 1 / 3, 1, 2 / 3, 1], abs=1e-4)  # of four


def test_two_processes_do_not_resume_the_same_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """The other process was quicker, and its trial is running: this trial starts from scratch, in its own folder."""

    class Other(Stops):
        def prune(self, study: Any, trial: Any) -> bool:
            if trial.number == 2 and len(trial.intermediate_values) == 1:
                study.add_trial(optuna.trial.create_trial(state=TrialState.RUNNING, user_attrs={"rl:continues": 1}))
            return super().prune(study, trial)

    rates = [*RATES[:3], 1e-3]
    storage = {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "s", "load_if_exists": True}
    trainer = make_trainer(num_train_epochs=3, save_strategy="epoch", callbacks=[Keeps(tmp_path)])
    sampler = Scripted(learning_rate=rates)
    # The trial of the other one is one of the five.
    options: dict[str, Any] = {"max_paused_trials": 2, "n_trials": 5, "pruner": Other(trial_1=1), **storage}
    result = run(trainer, "rl", sampler=sampler, **options).run_summary
    last = result.trials[-1]
    assert (tmp_path / "started").read_text().split() == ["0"] * 4
    assert last.user_attrs.get("rl:continues") is None
    assert last.user_attrs["rl:folder"] != result.trials[1].user_attrs["rl:folder"]
