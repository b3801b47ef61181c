"""The same script run again resumes an unfinished search, and returns the result of a finished one."""

import logging
import math
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import AutoTokenizer, EarlyStoppingCallback, Trainer, TrainerCallback, default_data_collator

from hf_rlsearch import StorageError, embedded, search
from hf_rlsearch.cli import main
from hf_rlsearch.observation.trial_attributes import role
from hf_rlsearch.trainer.session.arguments import plain
from hf_rlsearch.trainer.storage.resume import process_start_time, this_process
from tests.trainer.conftest import Rows, rates, run, states, stored, tiny_model

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
    return {**this_process(), "pid": pid, "begun": process_start_time(pid), "since": "9 o'clock"}


def interrupted(make_trainer: MakeTrainer, number: int, at_step: int = 1, hp_space: Any = rates, **args: Any) -> None:
    with pytest.raises(SystemExit):
        run(make_trainer(cls=stops_in(number, at_step), **args), "rl", hp_space, n_trials=4)


def test_a_resumed_search_equals_an_uninterrupted_one(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    interrupted(make_trainer, 2)
    resumed = run(make_trainer(), "rl", n_trials=4).run_summary
    whole = run(make_trainer(output_dir=str(tmp_path / "other")), "rl", n_trials=4).run_summary
    assert states(resumed.study) == [TrialState.COMPLETE] * 4
    assert [trial.params for trial in resumed.trials] == [trial.params for trial in whole.trials]
    assert [trial.value for trial in resumed.trials] == [trial.value for trial in whole.trials]


def test_an_interrupted_trial_resumes_from_its_checkpoint(make_trainer: MakeTrainer, tmp_path: Path) -> None:
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


def test_resuming_is_reported_in_one_line(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    interrupted(make_trainer, 2)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        run(make_trainer(), "rl", n_trials=4)
    assert "is continued: 2 of 4 trials are finished" in caplog.text
    assert "Trial 2 was interrupted and runs again" in caplog.text


class Trainings(Trainer):
    """Counts the trainings of all its instances."""

    n = 0

    def train(self, *args: Any, **kwargs: Any) -> Any:
        Trainings.n += 1
        return super().train(*args, **kwargs)


@pytest.fixture
def n_trainings(monkeypatch: pytest.MonkeyPatch) -> Callable[[], int]:
    monkeypatch.setattr(Trainings, "n", 0)
    return lambda: Trainings.n


def test_a_finished_search_returns_its_stored_result(
    make_trainer: MakeTrainer, n_trainings: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    first = run(make_trainer(cls=Trainings), "rl", n_trials=2)
    trainer = make_trainer(cls=Trainings)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        second = run(trainer, "rl", n_trials=2)
    assert n_trainings() == 2
    expected = "This search is finished (n_trials): its stored result is returned and nothing is trained."
    assert caplog.text.count(expected) == 1
    assert "is continued" not in caplog.text
    assert (second.run_id, second.objective, second.hyperparameters) == (
        first.run_id,
        first.objective,
        first.hyperparameters,
    )
    assert second.run_summary.study.study_name == "search-1"
    assert second.run_summary.stopped_by == "n_trials"
    assert trainer.args.learning_rate == first.hyperparameters["learning_rate"]
    assert trainer.evaluate()["eval_loss"] == first.objective


@pytest.mark.parametrize("options", [{"budget": 1.5, "n_trials": None}, {"target": 1e3, "n_trials": 9}])
def test_a_search_that_budget_or_target_ended_is_finished(
    make_trainer: MakeTrainer,
    n_trainings: Callable[[], int],
    caplog: pytest.LogCaptureFixture,
    options: dict[str, Any],
) -> None:
    first = run(make_trainer(cls=Trainings), "rl", **options)
    n = n_trainings()
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        second = run(make_trainer(cls=Trainings), "rl", **options)
    assert n_trainings() == n
    assert (second.run_id, second.objective) == (first.run_id, first.objective)
    assert f"This search is finished ({first.run_summary.stopped_by})" in caplog.text


def test_more_trials_continue_a_finished_search(make_trainer: MakeTrainer, n_trainings: Callable[[], int]) -> None:
    run(make_trainer(cls=Trainings), "rl", n_trials=1)
    result = run(make_trainer(cls=Trainings), "rl", n_trials=3).run_summary
    assert (result.study.study_name, len(result.trials), n_trainings()) == ("search-1", 3, 3)


def test_a_corrected_script_starts_where_every_trial_has_failed(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """The code of ``compute_metrics`` is no part of the identity, so that a search goes on with a corrected one."""
    options: dict[str, Any] = {"n_trials": 2, "baseline": True}
    run(make_trainer(score=lambda args, state: math.nan), "rl", **options)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        best = run(make_trainer(score=lambda args, state: 0.5), "rl", **options)
    trials = best.run_summary.trials
    assert best.objective == 0.5
    assert states(best.run_summary.study) == [TrialState.FAIL] * 2 + [TrialState.COMPLETE] * 2
    assert [role(trial) for trial in trials] == ["baseline", "search"] * 2
    assert caplog.text.count("All trials of earlier starts have failed") == 1
    again = run(make_trainer(score=lambda args, state: 0.5), "rl", **options).run_summary
    assert len(again.trials) == 4


def test_failures_do_not_use_up_a_budget_either(make_trainer: MakeTrainer) -> None:
    options: dict[str, Any] = {"budget": 1, "n_trials": None}
    run(make_trainer(score=lambda args, state: math.nan), "rl", **options)
    best = run(make_trainer(score=lambda args, state: 0.5), "rl", **options)
    assert states(best.run_summary.study) == [TrialState.FAIL, TrialState.COMPLETE]


class BrokenBaseline(Trainer):
    """Has a mistake that breaks the first training."""

    error: Exception = NameError("typo")

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if Path(self.args.output_dir).name == "run-0":
            raise self.error
        return super().train(*args, **kwargs)


class DivergingBaseline(Trainer):
    """Raises the same error whenever the user's own arguments are trained."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        if self.args.learning_rate == 5e-5:
            raise ValueError("too small a rate")
        return super().train(*args, **kwargs)


class LargeBaseline(BrokenBaseline):
    """Has no memory for the first training."""

    error = torch.OutOfMemoryError("CUDA out of memory.")


@pytest.mark.parametrize(
    ("cls", "roles"),
    [
        (BrokenBaseline, ["baseline", "search", "baseline", "search"]),
        (DivergingBaseline, ["baseline", "search", "baseline", "search"]),
        (LargeBaseline, ["baseline", "search", "search", "search"]),
    ],
)
def test_a_baseline_that_the_script_broke_is_trained_again(
    make_trainer: MakeTrainer, cls: type[Trainer], roles: list[str]
) -> None:
    for n_trials, n_expected in ((2, 2), (2, 2), (3, 3), (4, 4)):
        result = run(make_trainer(cls=cls), "rl", n_trials=n_trials, baseline=True).run_summary
        assert len(result.trials) == n_expected
    assert [role(trial) for trial in result.trials] == roles


def test_a_finished_search_is_found_behind_another_one(
    make_trainer: MakeTrainer, n_trainings: Callable[[], int], caplog: pytest.LogCaptureFixture
) -> None:
    run(make_trainer(cls=Trainings), "rl", n_trials=1)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        other = run(make_trainer(cls=Trainings, weight_decay=0.1), "rl", n_trials=1).run_summary
    assert other.study.study_name == "search-2"
    assert "the last one in" in caplog.text
    assert "differs: arguments.weight_decay: 0.0 -> 0.1" in caplog.text
    names = [
        run(make_trainer(cls=Trainings, weight_decay=decay), "rl", n_trials=1).run_summary.study.study_name
        for decay in (0.0, 0.1)
    ]
    assert names == ["search-1", "search-2"]
    assert n_trainings() == 2


def test_confirmations_that_are_left_are_made_first(make_trainer: MakeTrainer, n_trainings: Callable[[], int]) -> None:
    run(make_trainer(cls=Trainings), "rl", n_trials=1)
    result = run(make_trainer(cls=Trainings), "rl", n_trials=1, confirm=1, baseline=True).run_summary
    n = n_trainings()
    assert n == len(result.trials) > 1
    run(make_trainer(cls=Trainings), "rl", n_trials=1, confirm=1, baseline=True)
    assert n_trainings() == n


SCRIPT = """
import sys
import hf_rlsearch
from transformers import Trainer
from tests.trainer.conftest import Rows, rates, run, tiny_arguments, tiny_model

class Tells(Trainer):
    def train(self, *args, **kwargs):
        print("trains")
        return super().train(*args, **kwargs)

trainer = Tells(
    args=tiny_arguments(sys.argv[1]),
    model_init=lambda: tiny_model(),
    train_dataset=Rows(64, 0),
    eval_dataset=Rows(32, 1),
)
best = run(trainer, "rl", n_trials=int(sys.argv[2]))
print("best", best.run_id, best.objective, trainer.evaluate()["eval_loss"] == best.objective)
"""


def test_the_same_script_in_another_process(tmp_path: Path) -> None:
    """Each is a process of its own, as when a command is typed again."""

    def script(n_trials: int) -> tuple[int, str]:
        command = [sys.executable, "-c", SCRIPT, str(tmp_path), str(n_trials)]
        done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120)
        (best,) = [line for line in done.stdout.splitlines() if line.startswith("best ")]
        return done.stdout.count("trains\n"), best

    n_first, first = script(2)
    n_second, second = script(2)
    n_third, _ = script(3)
    assert (n_first, n_second, n_third) == (2, 0, 1)
    assert first == second
    assert first.endswith(" True")


def test_with_fewer_trials_only_the_started_ones_are_finished(make_trainer: MakeTrainer) -> None:
    interrupted(make_trainer, 2)
    result = run(make_trainer(), "rl", n_trials=2).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 3


def test_resume_false_starts_a_new_search(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    interrupted(make_trainer, 2)
    best = run(make_trainer(), "rl", n_trials=2, resume=False)
    assert best.run_summary.study.study_name == "search-2"
    assert best.run_summary.output_dir == str(tmp_path / "out" / "search-2")
    assert list((tmp_path / "out").glob("run-*"))  # the interrupted one is left as it is
    again = run(make_trainer(), "rl", n_trials=2, resume=False)  # after a finished one, too
    assert again.run_summary.study.study_name == "search-3"
    # Without the option the interrupted one is continued, and after its end the newest is the one that counts.
    names = [run(make_trainer(), "rl", n_trials=2).run_summary.study.study_name for _ in range(2)]
    assert names == ["search-1", "search-3"]


def test_arguments_that_are_functions_are_compared_by_name() -> None:
    """As text a function has its address in it, and no search would ever be continued."""
    assert plain([tiny_model, Rows]) == ["tests.trainer.conftest.tiny_model", "tests.trainer.conftest.Rows"]


@pytest.mark.parametrize(
    ("changed", "match"),
    [
        ({"weight_decay": 0.1}, "arguments.weight_decay: 0.0 -> 0.1"),
        (
            {"hp_space": lambda trial: {"learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-1)}},
            "space.learning_rate",
        ),
        ({"model_init": lambda: tiny_model(0.3)}, "model.config.hidden_dropout_prob: 0.1 -> 0.3"),
        ({"model_init": lambda: same(tiny_model())}, "model_init: other content"),
        ({"metric": "loss"}, "objective: "),
        ({"rows": 48}, "train_data.rows: 64 -> 48"),
        ({"row": 33}, "train_data.content: other content"),
        ({"collator": lambda rows: default_data_collator(rows)}, "collator: other content"),
        ({"tokenizer": "left"}, 'tokenizer: "none" -> '),
        ({"trainer": {"compute_loss_func": lambda *given, **kwargs: torch.tensor(1.0)}}, "compute_loss: null -> "),
        ({"trainer": {"optimizer_cls_and_kwargs": (torch.optim.SGD, {"lr": 0.1})}}, "optimizer: null -> "),
        ({"trainer": {"eval_dataset": Rows(32, 2)}}, "eval_data.content: other content"),
        ({"callbacks": [EarlyStoppingCallback(3)]}, "early_stopping: null -> "),
    ],
)
def test_another_search_is_not_continued(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, changed: dict[str, Any], match: str
) -> None:
    score = lambda args, state: 0.5  # noqa: E731
    interrupted(make_trainer, 1, score=score)
    changed = {"hp_space": rates, "metric": "accuracy", "rows": 64, "row": None, **changed}
    space, metric, rows, row = (changed.pop(name) for name in ("hp_space", "metric", "rows", "row"))
    collator, tokenizer = changed.pop("collator", None), changed.pop("tokenizer", None)
    attributes = changed.pop("trainer", {})
    trainer = make_trainer(score=score, **changed)
    vars(trainer).update(attributes)
    trainer.train_dataset = Rows(rows, 0)
    if row is not None:
        trainer.train_dataset.ids[row, 0] += 1
    if collator is not None:
        trainer.data_collator = collator
    if tokenizer is not None:
        trainer.processing_class = AutoTokenizer.from_pretrained(embedded.path("bert-tiny"), padding_side=tokenizer)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        best = run(trainer, "rl", space, n_trials=2, metric=metric)
    assert best.run_summary.study.study_name == "search-2"
    assert match in caplog.text


class Focal(Trainer):
    """Weighs its loss by values of its own, and knows when it was made."""

    made, gamma, weights = 0.0, 0.0, None

    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        self.record.append(self.gamma)
        return self.weighed(super().compute_loss(*args, **kwargs))

    def weighed(self, loss: Any) -> Any:
        factor = 1.0 if self.weights is None else float(self.weights.sum())
        return (loss[0] * factor, *loss[1:]) if isinstance(loss, tuple) else loss * factor


@pytest.mark.parametrize(
    ("value", "is_said"),
    [
        ({}, False),
        ({"made": 2.0}, False),
        ({"gamma": 5.0}, True),
        ({"weights": torch.tensor([1.0, 50.0])}, True),
    ],
)
def test_other_values_that_the_trainer_trains_with_are_said(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, value: dict[str, Any], is_said: bool
) -> None:
    """They are no other search: a time or a folder of the subclass may differ each time the script runs."""

    def focal(values: dict[str, Any]) -> Trainer:
        trainer: Any = make_trainer(cls=Focal)
        given = {"made": 1.0, "gamma": 0.0, "weights": torch.ones(2), "record": [], **values}
        vars(trainer).update(given)
        return trainer

    run(focal({}), "rl", n_trials=1)
    with caplog.at_level(logging.INFO):
        again = run(focal(value), "rl", n_trials=2).run_summary
    assert again.study.study_name == "search-1"
    assert ("earlier trials were trained with those before" in caplog.text) == is_said


def test_a_value_that_hp_space_sets_is_none_of_the_users(make_trainer: MakeTrainer) -> None:
    trainer: Any = make_trainer(cls=Focal)
    trainer.gamma, trainer.record = 0.0, []

    def space(trial: Any) -> dict[str, Any]:
        trainer.gamma = trial.suggest_float("gamma", 1.0, 2.0)
        return rates(trial)

    run(trainer, "rl", space, n_trials=1)
    assert trainer.gamma > 0.0
    assert run(trainer, "rl", space, n_trials=2).run_summary.study.study_name == "search-1"


@pytest.mark.parametrize("name", ["compute_metrics", "preprocess_logits_for_metrics"])
def test_other_code_of_metrics_continues_the_search_and_is_said(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, name: str
) -> None:
    def trainer(function: Any) -> Trainer:
        made = make_trainer(score=lambda args, state: 0.5)
        setattr(made, name, function or getattr(made, name))
        return made

    changed = {"compute_metrics": lambda prediction: {"accuracy": 1.0}, "preprocess_logits_for_metrics": lambda x, y: x}
    caplog.set_level(logging.INFO)
    for function, is_said in [(None, False), (None, False), (changed[name], True)]:
        caplog.clear()
        assert run(trainer(function), "rl", n_trials=1, metric="accuracy").run_summary.study.study_name == "search-1"
        assert ("resume=False starts a new search, which measures all of them anew" in caplog.text) == is_said


def same(model: torch.nn.Module) -> torch.nn.Module:
    return model


def test_other_weights_of_the_same_shape_are_another_search(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The interrupted trial's checkpoint holds a training of the first weights."""

    def model_init() -> Any:
        model = tiny_model()
        model.load_state_dict(torch.load(tmp_path / "weights"))
        return model

    torch.save(tiny_model().state_dict(), tmp_path / "weights")
    interrupted(make_trainer, 1, model_init=model_init)
    torch.save(tiny_model().state_dict(), tmp_path / "weights")
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        other = run(make_trainer(model_init=model_init), "rl", n_trials=2).run_summary
    assert other.study.study_name == "search-2"
    assert "differs: model.weights: other content." in caplog.text
    assert "To continue that one, pass study_name='search-1' and load_if_exists=True." in caplog.text
    first = run(
        make_trainer(model_init=model_init), "rl", n_trials=2, study_name="search-1", load_if_exists=True
    ).run_summary
    assert (first.study.study_name, states(first.study)) == ("search-1", [TrialState.COMPLETE] * 2)


def test_a_model_with_a_head_made_anew_continues_its_search(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """A script without a seed gives the pretrained model another head each time."""
    torch.manual_seed(0)
    pretrained = tiny_model().state_dict()

    def trainer(seed: int, cls: type[Trainer] = Trainer) -> Trainer:
        made = make_trainer(cls=cls)
        made.model_init, made.model = None, tiny_model()
        made.model.load_state_dict(pretrained)
        torch.manual_seed(seed)
        torch.nn.init.normal_(made.model.classifier.weight)
        made.model_wrapped = made.callback_handler.model = made.model
        return made

    with pytest.raises(SystemExit):
        search(trainer(1, stops_in(1)), rates, n_trials=2, baseline=False)
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        result = search(trainer(2), rates, n_trials=2, baseline=False)
    assert (result.study.study_name, states(result.study)) == ("search-1", [TrialState.COMPLETE] * 2)
    assert "other weights than before (model.new_weights)" in caplog.text


def test_an_interrupted_search_is_found_behind_another_one(make_trainer: MakeTrainer) -> None:
    interrupted(make_trainer, 1)
    other = run(make_trainer(weight_decay=0.1), "rl", n_trials=1).run_summary
    result = run(make_trainer(), "rl", n_trials=2).run_summary
    assert (other.study.study_name, result.study.study_name) == ("search-2", "search-1")
    assert states(result.study) == [TrialState.COMPLETE] * 2


def test_what_an_interrupted_search_left_is_said_and_cleaned(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: pytest.CaptureFixture[str]
) -> None:
    out, args = tmp_path / "out", {"save_strategy": "epoch", "num_train_epochs": 2}
    interrupted(make_trainer, 1, at_step=5, **args)
    left = {path.parent.name for path in out.glob("run-*/checkpoint-*")}
    assert left == {"run-0", "run-1"}
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        other = run(make_trainer(weight_decay=0.1, **args), "rl", n_trials=1).run_summary
    assert "left as it is: search-1 (trial 1 unfinished, " in caplog.text
    assert f"MB of checkpoints). `hf-rlsearch clean {out}` deletes such checkpoints." in caplog.text
    assert main(["clean", str(out), "--yes"]) == 0
    assert f"  {out / 'run-0'}\n  {out / 'run-1'}\nCleaned: search-1." in capsys.readouterr().out
    assert not list(out.glob("run-*/checkpoint-*"))
    study = optuna.load_study(study_name="search-1", storage=f"sqlite:///{out / 'hf_rlsearch.db'}")
    assert states(study) == [TrialState.COMPLETE, TrialState.FAIL]
    assert other.best_checkpoint is not None
    assert Path(other.best_checkpoint).is_dir()
    assert main(["clean", str(out), "--yes"]) == 0
    assert "Nothing to clean" in capsys.readouterr().out
    assert main(["clean", str(tmp_path)]) == 1


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
    assert "ended 10 times" in best.run_summary.trials[1].user_attrs["rl:failure"]["reason"]


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
    best = run(make_trainer(), "rl", n_trials=2, study_name="mine")
    again = run(make_trainer(), "rl", n_trials=2, study_name="mine", resume=False)
    assert [each.run_summary.study.study_name for each in (best, again)] == ["mine", "mine-2"]


def test_the_same_script_in_a_second_process_is_refused(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.trainer.storage.resume._PATIENCE", 0.5)
    interrupted(make_trainer, 1)
    study = stored(f"sqlite:///{tmp_path / 'out' / 'hf_rlsearch.db'}")
    study._storage.set_trial_user_attr(study.trials[1]._trial_id, "rl:owner", owner_of(os.getppid()))
    with pytest.raises(
        StorageError,
        match=f"Process {os.getppid()} on .* has been running this search since 9 o'clock: it trains trial 1",
    ):
        run(make_trainer(), "rl", n_trials=4)
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]


def test_between_two_trials_a_second_process_is_refused_too(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.trainer.storage.resume._PATIENCE", 0.5)
    interrupted(make_trainer, 1)
    study = stored(f"sqlite:///{tmp_path / 'out' / 'hf_rlsearch.db'}")
    assert study.user_attrs["rl:owner"] is None
    study.set_user_attr("rl:owner", owner_of(os.getppid()))
    with pytest.raises(
        StorageError, match=f"Process {os.getppid()} on .* has been running this search since 9 o'clock\\. Wait"
    ):
        run(make_trainer(), "rl", n_trials=4)
    assert states(study) == [TrialState.COMPLETE, TrialState.RUNNING]


def test_a_process_that_is_ending_is_waited_for(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    interrupted(make_trainer, 1)
    study = stored(f"sqlite:///{tmp_path / 'out' / 'hf_rlsearch.db'}")
    with subprocess.Popen(["sleep", "2"]) as process:
        study._storage.set_trial_user_attr(study.trials[1]._trial_id, "rl:owner", owner_of(process.pid))
        result = run(make_trainer(), "rl", n_trials=4).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 4


def test_checkpoints_of_another_training_are_neither_used_nor_deleted(
    make_trainer: MakeTrainer, tmp_path: Path
) -> None:
    args: dict[str, Any] = {"save_strategy": "epoch", "output_dir": str(tmp_path / "out" / "run-0")}
    make_trainer(**args).train()
    result = run(make_trainer(save_strategy="epoch", num_train_epochs=2), "rl", n_trials=1).run_summary
    assert (tmp_path / "out" / "run-0" / "checkpoint-4").is_dir()
    assert result.trials[0].user_attrs["rl:folder"] == "run-0-2"
    assert len(result.trials[0].intermediate_values) == 2


def test_a_result_is_there_after_a_kill_that_came_before_it_was_returned(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(self: Any, result: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch:
        patch.setattr("hf_rlsearch.trainer.search.loop.Search.finish", killed)
        with pytest.raises(SystemExit):
            run(make_trainer(), "rl", n_trials=1)
    best = run(make_trainer(), "rl", n_trials=1)
    assert best.run_summary.study.study_name == "search-1"
    assert len(best.run_summary.trials) == 1


def test_a_callback_may_change_the_working_directory(
    make_trainer: MakeTrainer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A relative output_dir is where the search was started."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "elsewhere").mkdir()

    class Moves(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            os.chdir(tmp_path / "elsewhere")

    trainer = make_trainer(output_dir="what?x=1{b}%20", callbacks=[Moves()])
    best = run(trainer, "rl", n_trials=2)
    assert trainer.evaluate()["eval_loss"] == best.objective
    assert Path(best.run_summary.best_checkpoint).is_relative_to(tmp_path / "what?x=1{b}%20")
    assert list((tmp_path / "elsewhere").iterdir()) == []
