"""What a search gives its user: results, the Trainer afterwards, names, callbacks, several objectives, factories."""

import copy
import dataclasses
import inspect
import json
import logging
import math
import pickle
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, ClassVar

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import (
    EarlyStoppingCallback,
    Seq2SeqTrainer,
    Seq2SeqTrainingArguments,
    Trainer,
    TrainerCallback,
    TrainingArguments,
)
from transformers.trainer_utils import BestRun

from hf_rlsearch import RLPruner, SearchResult, search
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from tests.trainer.conftest import Rows, Scripted, rates, run, states, tiny_model

MakeTrainer = Callable[..., Trainer]


def by_rate(args: Any, state: Any) -> float:
    """Best at 1e-3, and known for the defaults."""
    return 1 - 0.1 * abs(math.log10(args.learning_rate) + 3)


def test_trial_0_is_the_baseline(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=by_rate, learning_rate=5e-5)
    best = run(trainer, "rl", n_trials=2, baseline=True, sampler=Scripted(learning_rate=[1e-3]))
    result = best.run_summary
    assert isinstance(best, BestRun)
    assert isinstance(result, SearchResult)
    assert result.baseline.number == 0
    assert result.baseline.params == {"learning_rate": 5e-5}
    assert result.baseline.value == pytest.approx(by_rate(trainer.args, None) - result.gain)
    assert best[:3] == ("1", pytest.approx(1.0), {"learning_rate": 1e-3})
    assert result.gain == pytest.approx(0.1 * abs(math.log10(5e-5) + 3))
    assert trainer.args.learning_rate == 1e-3
    assert Path(trainer.args.output_dir).name == "out"


def test_the_summary_says_that_there_is_no_gain(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=by_rate, learning_rate=1e-3)
    best = run(trainer, "rl", n_trials=2, baseline=True, sampler=Scripted(learning_rate=[1e-5]))
    assert (best.run_id, best.run_summary.gain) == ("0", 0.0)
    assert "no gain found" in best.run_summary.summary()
    assert trainer.args.learning_rate == 1e-3


def test_a_value_outside_of_the_space_is_no_param_and_masks_nothing(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        given = {"optim": trial.suggest_categorical("optim", ["adamw_torch", "sgd"])}
        if given["optim"] == "adamw_torch":
            given["adam_beta1"] = trial.suggest_categorical("adam_beta1", [0.5, 0.8])
        return given

    trainer = make_trainer(score=by_rate, optim="adamw_torch", adam_beta1=0.9)
    result = run(trainer, "rl", space, n_trials=4, baseline=True).run_summary
    assert result.baseline.params == {"optim": "adamw_torch"}
    assert result.hyperparameters(result.baseline) == {"optim": "adamw_torch", "adam_beta1": 0.9}
    assert result.trials_dataframe()["adam_beta1"][0] == 0.9
    trained = {(t.params["optim"], t.params.get("adam_beta1")) for t in result.trials[1:]}
    assert trained == {("adamw_torch", 0.5), ("adamw_torch", 0.8), ("sgd", None)}


def test_a_baseline_with_a_list_is_no_category_of_the_space(make_trainer: MakeTrainer) -> None:
    """Nor is it a configuration that its confirmation masks."""

    def space(trial: Any) -> dict[str, Any]:
        return {"optim_target_modules": trial.suggest_categorical("optim_target_modules", ["all-linear", "attention"])}

    trainer = make_trainer(score=by_rate, optim_target_modules=["query", "value"])
    result = run(trainer, "rl", space, n_trials=3, baseline=True, confirm=1).run_summary
    assert result.baseline.user_attrs["rl:outside"] == {"optim_target_modules": ["query", "value"]}
    searched = [t.params["optim_target_modules"] for t in result.trials if t.user_attrs["rl:role"] == "search"]
    assert sorted(searched) == ["all-linear", "attention"]
    again = [t for t in result.trials if t.user_attrs["rl:role"] == "confirm" and t.user_attrs["rl:reevaluates"] == 0]
    assert again
    assert all(t.user_attrs["rl:outside"] == result.baseline.user_attrs["rl:outside"] for t in again)


def test_constants_and_attributes_of_model_init_are_stored(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"learning_rate": 10 ** trial.suggest_int("exponent", -5, -2), "weight_decay": 0.25}

    def model_init(trial: Any = None) -> Any:
        if trial is not None:
            trial.suggest_categorical("layers", [1, 2])
            trial.set_user_attr("n_parameters", 7)
        return tiny_model()

    best = run(make_trainer(score=by_rate, model_init=model_init), "rl", space, n_trials=2)
    trial = best.run_summary.best_trial
    returned = {"learning_rate": 10 ** trial.params["exponent"], "weight_decay": 0.25}
    assert best.hyperparameters == {**trial.params, **returned}
    assert trial.user_attrs["n_parameters"] == 7


def test_result_as_table_and_json(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(score=by_rate), "rl", n_trials=2, baseline=True).run_summary
    table = result.trials_dataframe()
    assert list(table["role"]) == ["baseline", "search"]
    assert list(table.columns[:5]) == ["number", "state", "role", "eval_accuracy", "learning_rate"]
    assert list(table["eval_accuracy"]) == [trial.value for trial in result.trials]
    again = SearchResult.from_json(json.loads(json.dumps(result.to_json())))
    assert again.to_json() == result.to_json()
    assert again.best_trial.params == result.best_trial.params


def test_each_trial_stores_its_attributes(make_trainer: MakeTrainer) -> None:
    trial = run(make_trainer(score=by_rate, seed=7), "rl", n_trials=1).run_summary.trials[0]
    attributes = trial.user_attrs
    assert attributes["rl:arguments"]["learning_rate"] == trial.params["learning_rate"]
    assert (attributes["rl:seed"], attributes["rl:world_size"], attributes["rl:role"]) == (7, 1, "search")
    assert attributes["rl:metrics"]["eval_accuracy"] == trial.value
    assert attributes["rl:seconds"] > 0
    assert attributes["rl:peak_memory"] > 0
    assert "hub_token" not in attributes["rl:arguments"]


def test_model_hyperparameters_reach_the_model_and_stay(make_trainer: MakeTrainer) -> None:
    def model_init(trial: Any = None) -> Any:
        return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.2, 0.5))

    trainer = make_trainer(model_init=model_init)
    best = run(trainer, "rl", n_trials=1)
    dropout = best.hyperparameters["dropout"]
    assert trainer.model.config.hidden_dropout_prob == dropout >= 0.2
    trainer.train()
    assert trainer.model.config.hidden_dropout_prob == dropout
    assert trainer.evaluate()["eval_loss"] == best.objective


@pytest.mark.parametrize("read", [lambda params: params["dropout"], lambda params: {**params}["dropout"]])
def test_a_name_that_only_model_init_reads(make_trainer: MakeTrainer, read: Any) -> None:
    def model_init(trial: Any = None) -> Any:
        return tiny_model(0.1 if trial is None else read(trial.params))

    trainer = make_trainer(model_init=model_init)
    best = run(trainer, "rl", lambda trial: {"dropout": trial.suggest_float("dropout", 0.2, 0.5)}, n_trials=1)
    assert trainer.model.config.hidden_dropout_prob == best.hyperparameters["dropout"]


class MakesModels:
    """A ``model_init`` with attributes of any name."""

    def __init__(self, params: dict[str, float]) -> None:
        self.params, self.scoped, self.original, self.copies_of = params, True, "a checkpoint", "a model"

    def __call__(self, trial: Any = None) -> Any:
        return tiny_model(self.params["dropout"] if trial is None else trial.suggest_float("rate", 0.3, 0.5))


def test_attributes_of_model_init_are_the_users(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(model_init=MakesModels({"dropout": 0.25}))
    options = {"metric": "loss", "sampler": Scripted(learning_rate=[1e-2], rate=[0.5])}
    first, second = run(trainer, "rl", n_trials=2, baseline=True, **options).run_summary.trials
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.COMPLETE)
    assert trainer.model.config.hidden_dropout_prob == (0.5 if second.value < first.value else 0.25)


def test_conditional_hyperparameters_of_the_model(make_trainer: MakeTrainer) -> None:
    def model_init(trial: Any = None) -> Any:
        if trial is None or trial.suggest_categorical("regularise", [True, False]) is False:
            return tiny_model(0.0)
        return tiny_model(trial.suggest_float("dropout", 0.2, 0.5))

    result = run(make_trainer(model_init=model_init), "rl", n_trials=4).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 4
    assert all(("dropout" in t.params) == t.params["regularise"] for t in result.trials)


def test_fields_that_only_the_constructor_reads_have_an_effect(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"label_smoothing_factor": trial.suggest_categorical("label_smoothing_factor", [0.0, 0.5])}

    trainer = make_trainer()
    run(trainer, "rl", space, n_trials=1, sampler=Scripted(label_smoothing_factor=[0.5]))
    searched = trainer.evaluate()["eval_loss"]
    by_hand = make_trainer(label_smoothing_factor=0.5)
    by_hand.train()
    assert searched == by_hand.evaluate()["eval_loss"]


def test_gradient_checkpointing_by_its_old_name(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"gradient_checkpointing": trial.suggest_categorical("gradient_checkpointing", [True])}

    trainer = make_trainer()
    run(trainer, "rl", space, n_trials=1)
    assert trainer.args.gradient_checkpointing is True


def test_apply_retrains_the_best_trial_exactly(make_trainer: MakeTrainer) -> None:
    best = run(make_trainer(), "rl", n_trials=3)
    fresh = best.run_summary.apply(make_trainer())
    fresh.train()
    assert fresh.evaluate()["eval_loss"] == best.objective


def test_search_needs_no_patch(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=by_rate)
    result = search(trainer, rates, n_trials=2, metric="accuracy")
    assert result.best_value == trainer.evaluate()["eval_accuracy"]
    assert result.metric == "eval_accuracy"
    number, value, params, summary = result.best_run
    assert (int(number), value, params) == (result.best_trial.number, result.best_value, result.hyperparameters())
    assert summary is result


def test_the_default_space(make_trainer: MakeTrainer) -> None:
    result = search(make_trainer(score=by_rate, max_steps=2), n_trials=2)
    assert set(result.trials[1].params) == {
        "learning_rate",
        "per_device_train_batch_size",
        "weight_decay",
        "warmup_steps",
    }


def test_a_space_of_any_object_is_the_users(make_trainer: MakeTrainer) -> None:
    class Experiment:
        name = "rl"  # as our backend is called

        def space(self, trial: Any) -> dict[str, Any]:
            return {"weight_decay": trial.suggest_float("weight_decay", 0.0, 0.3)}

    best = run(make_trainer(), "rl", Experiment().space, n_trials=1, metric="loss")
    assert set(best.hyperparameters) == {"weight_decay"}


def test_a_list_of_directions_gives_a_list_of_runs(make_trainer: MakeTrainer) -> None:
    runs = run(
        make_trainer(score=by_rate),
        "rl",
        n_trials=3,
        direction=["minimize", "maximize"],
        compute_objective=lambda metrics: [metrics["eval_loss"], metrics["eval_accuracy"]],
    )
    assert isinstance(runs, list)
    assert all(len(best.objective) == 2 for best in runs)
    assert {best.run_id for best in runs} == {str(t.number) for t in runs[0].run_summary.study.best_trials}


def test_metrics_by_name_for_several_directions(make_trainer: MakeTrainer) -> None:
    runs = run(
        make_trainer(score=by_rate), "rl", n_trials=2, direction=["minimize", "maximize"], metric=["loss", "accuracy"]
    )
    result = runs[0].run_summary
    assert result.metric == "eval_loss, eval_accuracy"
    again = result.replay(make_trainer(score=by_rate), 1)
    assert again.values == (again, again.metrics["eval_accuracy"]) == tuple(result.trials[1].values)


def test_seq2seq_trainer(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    reference = make_trainer()
    args = Seq2SeqTrainingArguments(**{**reference.args.to_dict(), "output_dir": str(tmp_path / "s2s")})
    trainer = Seq2SeqTrainer(
        args=args,
        model_init=lambda: tiny_model(),
        train_dataset=reference.train_dataset,
        eval_dataset=reference.eval_dataset,
    )
    best = run(trainer, "rl", n_trials=1)
    assert best.objective == trainer.evaluate()["eval_loss"]


def test_several_evaluation_sets(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=by_rate)
    trainer.eval_dataset = {"seen": Rows(16, 1), "unseen": Rows(16, 2)}
    best = run(trainer, "rl", n_trials=1, metric="unseen_accuracy")
    assert best.run_summary.metric == "eval_unseen_accuracy"
    assert len(best.run_summary.trials[0].intermediate_values) == 1


def test_a_model_that_is_made_once_is_copied_for_each_trial(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_model()
    before = copy.deepcopy(model.state_dict())
    trainer = make_trainer(model_init=lambda: model)
    options = {"n_trials": 2, "metric": "loss", "sampler": Scripted(learning_rate=[1e-2, 1e-2])}
    for _ in range(2):  # the second search finds that the first is finished
        best = run(trainer, "rl", **options)
    assert "each trial trains a copy" in caplog.text
    first, second = best.run_summary.trials
    assert first.value == second.value == trainer.evaluate()["eval_loss"]
    assert all(torch.equal(tensor, before[name]) for name, tensor in model.state_dict().items())


def test_no_evaluation_during_training(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_strategy="no")
    best = run(trainer, "rl", n_trials=1)
    assert best.objective == trainer.evaluate()["eval_loss"]


def test_names_of_folders(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(score=by_rate, save_strategy="epoch")
    best = run(
        trainer, "rl", n_trials=2, keep_best_models=2, hp_name=lambda trial: f"rate-{trial.params['learning_rate']:.0e}"
    )
    folders = {path.name for path in (tmp_path / "out").iterdir() if path.is_dir()}
    assert folders == {f"rate-{trial.params['learning_rate']:.0e}" for trial in best.run_summary.trials}


def test_equal_names_of_folders_get_a_number(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(score=by_rate, save_strategy="epoch")
    best = run(
        trainer, "rl", n_trials=3, sampler=Scripted(learning_rate=[1e-3, 1e-4, 1e-5]), hp_name=lambda trial: "same"
    )
    assert [Path(t.user_attrs["rl:folder"]).name for t in best.run_summary.trials] == ["same", "same-2", "same-3"]
    assert (tmp_path / "out" / "same" / "checkpoint-4").is_dir()
    assert best.run_summary.best_trial.number == 0
    expected = best.run_summary.best_trial.user_attrs["rl:metrics"]["eval_loss"]
    assert trainer.evaluate()["eval_loss"] == pytest.approx(expected)


@pytest.mark.parametrize("name", ["", "..", "../elsewhere", "/tmp"])
def test_a_name_outside_of_the_folder_is_ignored(make_trainer: MakeTrainer, tmp_path: Path, name: str) -> None:
    result = run(make_trainer(), "rl", n_trials=1, hp_name=lambda trial: name).run_summary
    assert result.trials[0].user_attrs["rl:folder"] == "run-0"


def test_hp_name_may_use_params_that_the_baseline_lacks(make_trainer: MakeTrainer) -> None:
    def model_init(trial: Any = None) -> Any:
        return tiny_model(0.1 if trial is None else trial.suggest_float("drop", 0.2, 0.5))

    trainer = make_trainer(model_init=model_init)
    result = run(
        trainer, "rl", n_trials=2, baseline=True, hp_name=lambda trial: f"drop-{trial.params['drop']:.1f}"
    ).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert Path(result.trials[0].user_attrs["rl:folder"]).name == "run-0"


def test_after_a_search_of_another_backend(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=by_rate)
    run(trainer, "optuna", n_trials=1, direction="maximize")
    assert trainer.model is None
    assert run(trainer, "rl", n_trials=1).objective > 0
    assert trainer.model is not None


def test_precision_can_be_searched(make_trainer: MakeTrainer) -> None:
    used = []

    class Notes(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            used.append((self.args.bf16, self.accelerator.mixed_precision))
            return super().training_step(*args, **kwargs)

    trainer = make_trainer(cls=Notes)
    before = trainer.accelerator.mixed_precision
    space = lambda trial: {"bf16": trial.suggest_categorical("bf16", [True, False])}  # noqa: E731
    result = run(trainer, "rl", space, n_trials=2, sampler=Scripted(bf16=[True, False])).run_summary
    assert states(result.study) == [TrialState.COMPLETE] * 2
    assert list(dict.fromkeys(used)) == [(True, "bf16"), (False, "no")]

    def interrupts(args: Any, state: Any) -> float:
        if state.global_step:
            raise KeyboardInterrupt
        return 0.5

    trainer = make_trainer(score=interrupts, bf16=False)
    with pytest.raises(KeyboardInterrupt):
        run(trainer, "rl", space, n_trials=1, sampler=Scripted(bf16=[True]))
    assert trainer.accelerator.mixed_precision == before == "no"


def test_transformed_values_of_the_baseline_are_known(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"learning_rate": 10 ** trial.suggest_float("exponent", -5, -1), "num_train_epochs": 1}

    best = run(make_trainer(learning_rate=1e-3), "rl", space, n_trials=1, baseline=True)
    assert best.hyperparameters == {"learning_rate": 1e-3}


def test_n_trials_none_ends_by_timeout(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(), "rl", n_trials=None, timeout=0.01).run_summary
    assert result.stopped_by == "timeout"


@dataclasses.dataclass
class Derived(TrainingArguments):
    """Derives fields from others, one from the field itself, and one only where the user leaves it out."""

    total_batch: int = 32
    half_rate: float | None = None

    def __post_init__(self) -> None:
        self.gradient_accumulation_steps = self.total_batch // self.per_device_train_batch_size
        self.learning_rate *= self.total_batch / 16
        if self.half_rate is None:
            self.half_rate = self.learning_rate / 2
        super().__post_init__()


def test_derived_arguments_are_made_from_what_the_user_gave(tmp_path: Path) -> None:
    """The constructor doubles the rate once, not once more in every trial and search."""
    args = Derived(str(tmp_path), use_cpu=True, per_device_train_batch_size=16, learning_rate=1e-3)
    args.weight_decay = 0.5  # set after the constructor, which no trial may lose
    frozen = FrozenArguments(args)
    assert (args.learning_rate, frozen.given("learning_rate"), frozen.given("weight_decay")) == (2e-3, 1e-3, 0.5)
    for again in (frozen, FrozenArguments(frozen.with_values({"learning_rate": 3e-3}))):
        trial = again.with_values({"learning_rate": 1e-2, "per_device_train_batch_size": 8})
        assert (trial.learning_rate, trial.half_rate) == (2e-2, 1e-2)
        assert (trial.gradient_accumulation_steps, trial.weight_decay) == (4, 0.5)
        other = again.with_values({"adam_beta1": 0.8})
        assert other.learning_rate == 2 * again.given("learning_rate")
        assert again.restored({}, again.to_json(trial)).half_rate == 1e-2
    assert "total_batch" in inspect.signature(Derived).parameters
    assert "learning_rate" in inspect.signature(TrainingArguments).parameters
    assert pickle.loads(pickle.dumps(args)) == copy.copy(args) == args


class Distillation(TrainingArguments):
    """Values of its own that are no fields, as in many scripts that distil a model."""

    def __init__(self, *args: Any, alpha: float = 0.5, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.alpha = alpha


class Distiller(Trainer):
    def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
        loss: Any = super().compute_loss(*args, **kwargs)
        return (loss[0] * self.args.alpha, *loss[1:]) if isinstance(loss, tuple) else loss * self.args.alpha


@pytest.mark.parametrize("by_script", [False, True])
def test_values_that_arguments_hold_beside_their_fields(make_trainer: MakeTrainer, by_script: bool) -> None:
    trainer = make_trainer(cls=Distiller, eval_strategy="no")
    trainer.args = Distillation(**trainer.args.to_dict(), alpha=1)
    if by_script:
        trainer = make_trainer(cls=Distiller)
        trainer.args.alpha = 1
    space = lambda trial: {"alpha": trial.suggest_float("alpha", 0.1, 1)}  # noqa: E731
    options = {"n_trials": 3, "baseline": True, "sampler": Scripted(alpha=[0.25, 0.5]), "metric": "loss"}
    result = run(trainer, "rl", space, **options).run_summary
    assert [trial.params["alpha"] for trial in result.trials] == [1, 0.25, 0.5]
    assert result.trials[1].value < result.trials[0].value / 3
    assert trainer.args.alpha == result.hyperparameters()["alpha"] == 0.25
    # Not with the value that the best trial has left in the arguments.
    assert result.replay(trainer, 0) == result.trials[0].value


def test_a_constructor_with_arguments_of_its_own(tmp_path: Path) -> None:
    class Own(TrainingArguments):
        def __init__(self, rate: float) -> None:
            super().__init__(str(tmp_path), use_cpu=True, learning_rate=rate)

    made = FrozenArguments(Own(0.25)).with_values({"weight_decay": 0.5})
    assert (made.output_dir, made.learning_rate, made.weight_decay) == (str(tmp_path), 0.25, 0.5)


def test_eval_steps_follow_logging_steps_as_the_arguments_say(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(eval_strategy="steps", logging_steps=4)
    space = lambda trial: {"logging_steps": trial.suggest_int("logging_steps", 1, 2)}  # noqa: E731
    result = run(trainer, "rl", space, n_trials=1, sampler=Scripted(logging_steps=[2])).run_summary
    assert result.trials[0].user_attrs["rl:arguments"]["eval_steps"] == 2


def test_hp_space_can_read_the_study(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"learning_rate": trial.suggest_float("learning_rate", 1e-5, 1e-3 + len(trial.study.trials) * 0)}

    assert states(run(make_trainer(), "rl", space, n_trials=1).run_summary.study) == [TrialState.COMPLETE]


def test_a_pruner_without_evaluations_is_reported(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        run(make_trainer(eval_strategy="no"), "rl", n_trials=1, pruner=optuna.pruners.MedianPruner())
    assert "The pruner stops no trial, because eval_strategy='no'" in caplog.text


@pytest.mark.parametrize(("chosen", "kind"), [({}, RLPruner), ({"pruner": None}, optuna.pruners.NopPruner)])
def test_the_rl_pruner_is_the_default_and_none_switches_it_off(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, chosen: dict[str, Any], kind: type
) -> None:
    with caplog.at_level(logging.INFO, logger="hf_rlsearch"):
        found = search(make_trainer(eval_strategy="epoch"), rates, n_trials=1, **chosen)
    assert isinstance(found.study.pruner, kind)
    assert ("The agent may stop trials at their evaluations" in caplog.text) == (kind is RLPruner)


class Counting(TrainerCallback):
    """Stops a training after three steps; a callback that trials shared would stop the second one at once."""

    seen: list[int] = []

    def __init__(self) -> None:
        self.n_calls = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.n_calls += 1
        if self.n_calls == 3:
            control.should_training_stop = True
            Counting.seen.append(state.global_step)


def test_callbacks_are_fresh_in_each_trial(make_trainer: MakeTrainer) -> None:
    Counting.seen = []
    trainer = make_trainer(score=by_rate, callbacks=[Counting()])
    callbacks = list(trainer.callback_handler.callbacks)
    run(trainer, "rl", n_trials=2)
    assert Counting.seen == [3, 3]
    assert trainer.callback_handler.callbacks == callbacks


def test_early_stopping_by_the_users_callback(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(
        score=lambda args, state: 1 - (state.epoch or 0) / 10,
        callbacks=[EarlyStoppingCallback(1)],
        num_train_epochs=5,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    best = run(trainer, "rl", n_trials=2)
    assert best.objective == pytest.approx(0.9)
    assert [trial.user_attrs["rl:steps"] for trial in best.run_summary.trials] == [8, 8]


def test_a_pruner_stops_trials(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: 0.2 if args.learning_rate < 1e-3 else 0.8, num_train_epochs=3)
    pruner = optuna.pruners.ThresholdPruner(lower=0.5)
    best = run(trainer, "rl", n_trials=2, pruner=pruner, sampler=Scripted(learning_rate=[1e-2, 1e-4]))
    first, second = best.run_summary.trials
    assert (first.state, second.state) == (TrialState.COMPLETE, TrialState.PRUNED)
    assert list(first.intermediate_values) == [3333, 6667, 10000]
    assert list(second.intermediate_values) == [3333]
    assert second.user_attrs["rl:steps"] == 4
    assert best.run_id == "0"


def test_a_factory_makes_a_fresh_trainer_for_each_trial(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    made: list[dict[str, Any]] = []

    def factory(values: dict[str, Any]) -> Trainer:
        made.append(values)
        reference = make_trainer(learning_rate=values.get("rate", 5e-5))
        torch.manual_seed(0)
        model = tiny_model(values.get("dropout", 0.1))
        return Trainer(
            model=model, args=reference.args, train_dataset=reference.train_dataset, eval_dataset=reference.eval_dataset
        )

    def space(trial: Any) -> dict[str, Any]:
        return {
            "rate": trial.suggest_float("rate", 1e-5, 1e-1, log=True),
            "dropout": trial.suggest_float("dropout", 0, 0.5),
        }

    result = search(factory, space, n_trials=3)
    # One trainer whose arguments are read, and one for the baseline.
    assert made[:2] == [{}, {}]
    assert [set(values) for values in made[2:]] == [{"rate", "dropout"}] * 2
    assert states(result.study) == [TrialState.COMPLETE] * 3
    assert (tmp_path / "out" / f"run-{result.best_trial.number}" / "model" / "model.safetensors").exists()


def test_best_models_without_disk(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer()
    best = run(trainer, "rl", n_trials=2, keep_best_models=0)
    assert trainer.evaluate()["eval_loss"] == best.objective
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_the_best_of_several_objectives_without_disk(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    """The knee is neither the first nor the last that was trained, and trials came onto the front and left it again."""
    points = {1e-5: (0.4, 30.0), 2e-5: (0.5, 10.0), 3e-5: (0.9, 100.0), 4e-5: (0.88, 20.0), 6e-5: (0.3, 90.0)}

    def metrics(_: Any) -> dict[str, float]:
        accuracy, seconds = points.get(round(made[0].args.learning_rate, 6), (0.1, 200.0))
        return {"accuracy": accuracy, "seconds": seconds}

    made = [make_trainer(metrics=metrics)]
    options: dict[str, Any] = {"metric": ["accuracy", "seconds"], "direction": ["maximize", "minimize"]}
    sampler = Scripted(learning_rate=list(points))
    runs = run(made[0], "rl", n_trials=5, keep_best_models=0, sampler=sampler, **options)
    best = runs[0].run_summary.best_trial
    assert best.number == 3
    assert made[0].evaluate()["eval_loss"] == best.user_attrs["rl:metrics"]["eval_loss"]
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_the_best_k_stay_on_disk(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(score=by_rate, save_strategy="epoch", num_train_epochs=2)
    run(trainer, "rl", n_trials=4, keep_best_models=2, sampler=Scripted(learning_rate=[1e-5, 1e-4, 1e-3, 1e-2]))
    kept = [path.parent.parent.name for path in sorted((tmp_path / "out").rglob("model.safetensors"))]
    assert kept == ["run-1", "run-2"]


def test_progress_is_one_line_for_each_trial(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    run(make_trainer(score=by_rate, disable_tqdm=False), "rl", n_trials=2, baseline=True)
    shown = capsys.readouterr()
    lines = [line for line in shown.err.replace("\r", "\n").splitlines() if line.strip().startswith("Trial ")]
    assert len(lines) == 2
    assert lines[0].split(" | ")[-1].strip() == "baseline"
    assert lines[1].split(" | ")[-1].startswith("learning_rate=")
    assert " | best " in lines[1]
    assert " | 100% trained in " in lines[1]
    assert "about" in lines[0]
    assert "left" not in lines[1]
    assert "{'eval" not in shown.out


def test_a_summary_says_that_all_trials_score_the_same(make_trainer: MakeTrainer) -> None:
    alike = run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=3, metric="accuracy", pruner=None)
    assert "\nAll 3 trials score 0.5. Usually the model learns nothing " in alike.run_summary.summary()
    other = run(make_trainer(score=by_rate), "rl", n_trials=3, metric="accuracy", pruner=None, resume=False)
    assert "trials score" not in other.run_summary.summary()


def test_disable_tqdm_is_quiet(make_trainer: MakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    run(make_trainer(score=by_rate), "rl", n_trials=1)
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")


@pytest.mark.parametrize(
    ("limits", "bar"),
    [({"budget": 2.0}, " trials ["), ({"n_trials": None, "timeout": 60, "target": -1.0}, " trials [")],
)
def test_progress_shows_no_total_without_n_trials(
    make_trainer: MakeTrainer,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    limits: dict[str, Any],
    bar: str,
) -> None:
    """Neither the most trials that a budget allows nor the limit of 1000 trials is a number to wait for."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    result = run(make_trainer(score=by_rate, disable_tqdm=False), "rl", direction="maximize", **limits).run_summary
    shown = capsys.readouterr().err
    assert f"search: {len(result.trials)} trials [" in shown
    assert result.study.user_attrs["rl:n_trials"] is None
    report = result.report(Path(result.output_dir, "report.html")).read_text()
    assert f"{len(result.trials)} trials: " in report


def by_epoch(args: Any, state: Any) -> float:
    """Best after the first epoch, whatever the loss does."""
    return -float(state.epoch or 0)


@pytest.mark.parametrize("of_the_search", [True, False])
def test_a_plain_training_keeps_the_checkpoint_that_the_trial_kept(
    make_trainer: MakeTrainer, of_the_search: bool
) -> None:
    """With load_best_model_at_end a trial ends with the model that is best by the objective, not by the loss."""
    args = {"num_train_epochs": 3, "load_best_model_at_end": True, "save_strategy": "epoch", "learning_rate": 1e-3}
    searched = make_trainer(score=by_epoch, **args)
    result = run(searched, "rl", n_trials=1, baseline=True, metric="accuracy", direction="maximize").run_summary
    metrics = result.best_trial.user_attrs["rl:metrics"]
    assert metrics["epoch"] == 1
    trainer = searched if of_the_search else result.apply(make_trainer(score=by_epoch, **args))
    trainer.train()
    assert trainer.evaluate()["eval_loss"] == metrics["eval_loss"]


def test_trials_keep_the_checkpoint_that_the_arguments_name(make_trainer: MakeTrainer) -> None:
    args = {"num_train_epochs": 3, "load_best_model_at_end": True, "save_strategy": "epoch", "learning_rate": 1e-3}
    trainer = make_trainer(score=by_epoch, metric_for_best_model="eval_loss", **args)
    result = run(trainer, "rl", n_trials=1, baseline=True, metric="accuracy", direction="maximize").run_summary
    trainer.train()
    assert trainer.args.metric_for_best_model == "eval_loss"
    assert trainer.evaluate()["eval_loss"] == result.best_trial.user_attrs["rl:metrics"]["eval_loss"]


class Rates(TrainerCallback):
    """Keeps the learning rate of each epoch, by the folder of the training."""

    seen: ClassVar[dict[str, list[float]]] = {}

    def on_epoch_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        self.seen.setdefault(args.output_dir, []).append(optimizer.param_groups[0]["lr"])


@pytest.mark.parametrize("is_searched", [True, False])
@pytest.mark.parametrize("schedule", ["reduce_lr_on_plateau", "greedy"])
def test_a_schedule_watches_the_metric_that_it_watches_in_a_plain_training(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, schedule: str, is_searched: bool
) -> None:
    monkeypatch.setattr(Rates, "seen", {})
    args = {
        "num_train_epochs": 4,
        "load_best_model_at_end": True,
        "save_strategy": "epoch",
        "lr_scheduler_kwargs": {"patience": 0, "factor": 0.5, "threshold": 0.0},
    }
    plain = make_trainer(score=by_epoch, callbacks=[Rates], lr_scheduler_type=schedule, **args)
    plain.train()
    plain_rates = Rates.seen.pop(plain.args.output_dir)

    def space(trial: Any) -> dict[str, Any]:
        name = "lr_scheduler_type" if is_searched else "weight_decay"
        return {name: trial.suggest_categorical(name, [schedule] if is_searched else [0.0])}

    own = {} if is_searched else {"lr_scheduler_type": schedule}
    trainer = make_trainer(score=by_epoch, callbacks=[Rates], **own, **args)
    run(trainer, "rl", space, n_trials=1, metric="accuracy", direction="maximize")
    assert list(Rates.seen.values()) == [plain_rates]
    assert trainer.args.metric_for_best_model == "loss"


def test_the_best_checkpoint_follows_the_metric_of_the_latest_search(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=by_epoch, num_train_epochs=2, load_best_model_at_end=True, save_strategy="epoch")
    run(trainer, "rl", n_trials=1, metric="accuracy", direction="maximize")
    assert trainer.args.metric_for_best_model == "eval_accuracy"
    run(trainer, "rl", n_trials=1, metric="loss")
    assert (trainer.args.metric_for_best_model, trainer.args.greater_is_better) == ("eval_loss", False)


def test_an_agent_that_starts_untrained_searches_too(make_trainer: MakeTrainer) -> None:
    best = run(make_trainer(score=by_rate), "rl", n_trials=4, agent="dqn", seed=1)
    chosen = [trial.system_attrs["rl:decision"]["source"] for trial in best.run_summary.study.trials if trial.params]
    assert set(chosen) == {"dqn"}
