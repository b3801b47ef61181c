"""A failed trial is recorded with its reason, its memory is freed, and the search continues or ends by its options."""

import gc
import math
import os
import signal
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import BertForMaskedLM, Trainer, TrainerCallback, TrainingArguments

from hf_rlsearch import SearchFailed
from hf_rlsearch.trainer.session.failures import (
    DEVICE,
    LEFT,
    LOST,
    STORAGE,
    Failure,
    failure_kind,
    read_report,
    write_report,
)
from tests.trainer.conftest import Scripted, SmallOnly, batches, rates, run, states, stored, tiny_model

MakeTrainer = Callable[..., Trainer]
COMPLETE, FAIL, PRUNED = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED


class Breaks(Trainer):
    """Raises ``error`` at the second training step of the trials in ``numbers``."""

    error: Exception = ValueError("boom")
    numbers: tuple[int, ...] = (1,)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 1 and Path(self.args.output_dir).name in {f"run-{n}" for n in self.numbers}:
            raise self.error
        return super().training_step(*args, **kwargs)


def breaks(error: Exception, *numbers: int) -> type[Trainer]:
    return type("BreaksHere", (Breaks,), {"error": error, "numbers": numbers})


def accelerator_error(text: str) -> Exception:
    """What torch raises for an error of the device; before torch 2.8 a plain RuntimeError."""
    return getattr(torch, "AcceleratorError", RuntimeError)(text)


def test_an_exception_fails_one_trial(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(cls=breaks(ValueError("boom"), 1)), "rl", n_trials=3).run_summary
    assert states(result.study) == [COMPLETE, FAIL, COMPLETE]
    failure = result.trials[1].user_attrs["rl:failure"]
    assert (failure["kind"], failure["reason"], failure["step"]) == ("error", "ValueError: boom", 1)
    assert "in training_step" in failure["traceback"]
    assert result.trials_dataframe()["failure"][1] == "ValueError: boom"


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB."),
        RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 1 bytes"),
        MemoryError(),
        accelerator_error("CUDA error: out of memory"),
        RuntimeError("CUDA error: CUBLAS_STATUS_ALLOC_FAILED when calling `cublasCreate(handle)`"),
    ],
)
def test_out_of_memory_is_recognized(make_trainer: MakeTrainer, error: Exception) -> None:
    result = run(make_trainer(cls=breaks(error, 1)), "rl", n_trials=3).run_summary
    assert states(result.study) == [COMPLETE, FAIL, COMPLETE]
    assert result.trials[1].user_attrs["rl:failure"]["kind"] == "oom"


ASSERT = "CUDA error: device-side assert triggered\nCUDA kernel errors might be asynchronously reported."
LOST_DEVICES = [
    accelerator_error(ASSERT),
    RuntimeError("CUDA error: an illegal memory access was encountered"),
    RuntimeError("Triton Error [CUDA]: misaligned address"),
]


class LosesItsDevice(Breaks):
    """From the error on, memory of the device cannot be freed."""

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        try:
            return super().training_step(*args, **kwargs)
        except RuntimeError:
            self.accelerator.free_memory = self.fail
            raise

    def fail(self) -> None:
        raise self.error


@pytest.mark.parametrize("error", LOST_DEVICES)
def test_a_lost_device_costs_one_trial_and_the_next_start_goes_on(make_trainer: MakeTrainer, error: Exception) -> None:
    cls = type("Here", (LosesItsDevice,), {"error": error})
    trainer = make_trainer(cls=cls)
    before = dict(vars(trainer))
    with pytest.raises(SearchFailed, match=r"Trial 1 failed.*CUDA.*start the same command again"):
        run(trainer, "rl", n_trials=4)
    assert {name for name, value in before.items() if vars(trainer)[name] is not value} == set()
    result = run(make_trainer(cls=cls), "rl", n_trials=4).run_summary
    assert states(result.study) == [COMPLETE, FAIL, COMPLETE, COMPLETE]
    failure = result.trials[1].user_attrs["rl:failure"]
    assert (failure["kind"], failure["step"]) == ("device", 1)


@pytest.mark.parametrize("where", ["evaluation", "hp_space"])
def test_a_lost_device_outside_of_a_training_fails_no_trial_after_it(make_trainer: MakeTrainer, where: str) -> None:
    """The evaluation of the untrained model, or a space that builds something on the device."""
    seen: list[int] = []

    class Here(Trainer):
        def evaluate(self, *args: Any, **kwargs: Any) -> Any:
            seen.append(1)
            if where == "evaluation" and len(seen) == 2:
                raise LOST_DEVICES[0]
            return super().evaluate(*args, **kwargs)

    def space(trial: Any) -> dict[str, Any]:
        if where == "hp_space" and isinstance(trial, optuna.Trial):
            raise LOST_DEVICES[0]
        return rates(trial)

    trainer = make_trainer(cls=Here)
    with pytest.raises(SearchFailed, match=r"device-side assert triggered.*start the same command again"):
        run(trainer, "rl", space, n_trials=4)
    study = stored(f"sqlite:///{Path(trainer.args.output_dir, 'hf_rlsearch.db')}")
    assert [trial.state for trial in study.trials if trial.state.is_finished()] == [FAIL] * (where == "hp_space")


def test_the_reason_of_a_failure_says_something(make_trainer: MakeTrainer) -> None:
    for error, reason in (
        (RuntimeError("\n\nbroken\n"), "RuntimeError: broken"),
        (AssertionError(), "AssertionError in"),
    ):
        result = run(make_trainer(cls=breaks(error, 0), seed=len(reason)), "rl", n_trials=1).run_summary
        assert result.trials_dataframe()["failure"][0].startswith(reason)


class Tied(torch.nn.Module):
    """A plain module whose output weights are its embedding, with a view of the same memory as a buffer."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = torch.nn.Embedding(50, 16)
        self.head = torch.nn.Linear(16, 50, bias=False)
        self.head.weight = self.embedding.weight
        self.register_buffer("part", self.embedding.weight.data[:2])

    def forward(self, input_ids: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        logits = self.head(self.embedding(input_ids[:, 0]))
        return {"loss": torch.nn.functional.cross_entropy(logits, labels), "logits": logits}


@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_a_plain_module_with_tied_weights_is_saved(make_trainer: MakeTrainer, strategy: str) -> None:
    trainer = make_trainer(model_init=Tied, save_strategy=strategy, learning_rate=0.1)
    best = run(trainer, "rl", n_trials=2, metric="loss")
    assert states(best.run_summary.study) == [COMPLETE, COMPLETE]
    assert Path(best.run_summary.best_checkpoint, "model.safetensors").exists()
    model: Any = trainer.model
    assert model.head.weight is model.embedding.weight
    assert trainer.evaluate()["eval_loss"] == pytest.approx(best.objective)


class OwnFormat(Trainer):
    """Saves the model in a file that the Trainer does not load."""

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        assert output_dir is not None
        os.makedirs(output_dir, exist_ok=True)
        torch.save(self.model.state_dict(), Path(output_dir, "model.pt"))


class EncoderAlone(Trainer):
    """Saves a part of the model."""

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        model: Any = self.model
        model.bert.save_pretrained(output_dir)


class Grows(TrainerCallback):
    """Changes the shape of a weight in the training."""

    def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
        model.resize_token_embeddings(60, mean_resizing=False)


@pytest.mark.parametrize("strategy", ["no", "epoch"])
def test_a_model_that_is_saved_in_a_format_of_its_own_stays_in_memory(
    make_trainer: MakeTrainer, strategy: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(cls=OwnFormat, save_strategy=strategy)
    best = run(trainer, "rl", n_trials=2)
    assert trainer.evaluate()["eval_loss"] == best.objective
    assert Path(best.run_summary.best_checkpoint, "model.pt").exists()
    assert "no trained model" not in caplog.text
    run(make_trainer(cls=OwnFormat, save_strategy=strategy), "rl", n_trials=2)
    assert "no file in its folder is one that the Trainer loads" in caplog.text
    assert f"Its files are in {best.run_summary.best_checkpoint}." in caplog.text


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({"cls": EncoderAlone}, "model lacks 25 trained weights, such as bert.embeddings.LayerNorm.bias"),
        ({"callbacks": [Grows]}, "size mismatch for bert.embeddings.word_embeddings.weight"),
    ],
)
def test_a_best_model_that_does_not_fit_is_said_and_the_result_returned(
    make_trainer: MakeTrainer, options: dict[str, Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = make_trainer(**options)
    model = trainer.model
    best = run(trainer, "rl", n_trials=1)
    assert states(best.run_summary.study) == [COMPLETE]
    assert "The Trainer has no trained model, since that of trial 0 cannot be loaded" in caplog.text
    assert reason in caplog.text
    assert trainer.model is model
    assert trainer.args.learning_rate == best.hyperparameters["learning_rate"]


def tied_model() -> Any:
    return BertForMaskedLM(tiny_model().config)


def test_weights_that_are_tied_or_made_anew_are_not_missed(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Tied weights are saved once, and a Trainer need not save what it does not train."""

    class TrainedAlone(Trainer):
        def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
            trained = {name: each for name, each in self.model.named_parameters() if each.requires_grad}
            super()._save(output_dir, state_dict=trained)

    def frozen_model() -> Any:
        model: Any = tied_model()
        model.bert.encoder.requires_grad_(False)
        return model

    trainer = make_trainer(cls=TrainedAlone, model_init=frozen_model)
    for data in (trainer.train_dataset, trainer.eval_dataset):
        data.labels = data.ids
    best = run(trainer, "rl", n_trials=1)
    assert trainer.evaluate()["eval_loss"] == best.objective
    assert "no trained model" not in caplog.text


def test_memory_of_a_failed_trial_is_freed(make_trainer: MakeTrainer) -> None:
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def model_init() -> Any:
        gc.collect()
        alive.append(sum(reference() is not None for reference in models))
        models.append(weakref.ref(tiny_model()))
        model = tiny_model()
        models[-1] = weakref.ref(model)
        return model

    trainer = make_trainer(model_init=model_init, cls=breaks(ValueError("boom"), 0, 1))
    run(trainer, "rl", n_trials=4)
    # The user's own model, made with the Trainer, lives on; that of the trial before never does.
    assert max(alive) == 1


def scaled_loss(scale: Callable[[TrainingArguments], float]) -> type[Trainer]:
    """A Trainer whose loss is multiplied by ``scale(args)``."""

    class Scaled(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss, factor = super().compute_loss(*args, **kwargs), scale(self.args)
            return (loss[0] * factor, loss[1]) if isinstance(loss, tuple) else loss * factor

    return Scaled


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_a_diverged_trial_stops_at_its_first_evaluation(make_trainer: MakeTrainer, bad: float) -> None:
    cls = scaled_loss(lambda args: bad if args.learning_rate > 1e-2 else 1.0)
    trainer = make_trainer(score=lambda args, state: 0.5, cls=cls, num_train_epochs=3)
    result = run(trainer, "rl", n_trials=2, sampler=Scripted(learning_rate=[5e-2, 1e-3])).run_summary
    assert states(result.study) == [FAIL, COMPLETE]
    assert result.trials[0].user_attrs["rl:failure"]["kind"] == "nan"
    assert result.trials[0].user_attrs["rl:steps"] == 4


def test_a_nan_loss_fails_the_trial_though_the_metric_is_a_number(make_trainer: MakeTrainer) -> None:
    cls = scaled_loss(lambda args: math.nan if args.learning_rate > 1e-2 else 1.0)
    trainer = make_trainer(score=lambda args, state: 0.5, cls=cls)
    result = run(trainer, "rl", n_trials=2, sampler=Scripted(learning_rate=[5e-2, 1e-3])).run_summary
    assert states(result.study) == [FAIL, COMPLETE]
    assert "Diverged: eval_loss is nan" in result.trials[0].user_attrs["rl:failure"]["reason"]


def test_the_loss_of_one_of_several_evaluation_sets_fails_the_trial(make_trainer: MakeTrainer) -> None:
    cls = scaled_loss(lambda args: math.nan if args.learning_rate > 1e-2 else 1.0)
    trainer = make_trainer(score=lambda args, state: 0.5, cls=cls)
    trainer.eval_dataset = {"easy": trainer.eval_dataset, "hard": trainer.eval_dataset}
    options: dict[str, Any] = {"n_trials": 1, "metric": "easy_accuracy", "sampler": Scripted(learning_rate=[5e-2])}
    result = run(trainer, "rl", **options).run_summary
    assert "Diverged: eval_easy_loss is nan" in result.trials[0].user_attrs["rl:failure"]["reason"]


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("on_start", [False, True])
def test_a_metric_without_a_value_at_first_is_waited_for(make_trainer: MakeTrainer, bad: float, on_start: bool) -> None:
    def score(args: Any, state: Any) -> float:
        return bad if state.global_step <= 4 else 0.5

    trainer = make_trainer(score=score, num_train_epochs=3, eval_on_start=on_start)
    trial = run(trainer, "rl", n_trials=1).run_summary.trials[0]
    assert (trial.state, trial.value) == (COMPLETE, 0.5)
    assert len(trial.intermediate_values) == 2


def test_the_best_checkpoint_is_one_whose_metric_has_a_value(make_trainer: MakeTrainer) -> None:
    by_step = {4: math.nan, 8: 0.75, 12: 0.5}

    def score(args: Any, state: Any) -> float:
        return by_step.get(state.global_step, 0.5)

    options: dict[str, Any] = {"save_strategy": "epoch", "load_best_model_at_end": True, "num_train_epochs": 3}
    assert run(make_trainer(score=score, **options), "rl", n_trials=1).objective == 0.75


def test_a_training_that_ends_without_an_objective_has_failed(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: math.nan if state.global_step > 4 else 0.5, num_train_epochs=3)
    trial = run(trainer, "rl", n_trials=1).run_summary.trials[0]
    assert trial.state == FAIL
    assert trial.user_attrs["rl:steps"] == 12
    failure = trial.user_attrs["rl:failure"]
    assert (failure["kind"], failure["reason"]) == ("nan", "the objective is nan at the end")


def test_a_loss_that_is_not_the_trainers_own_ends_no_training(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(metrics=lambda prediction: {"accuracy": 0.5, "rare_class_loss": math.nan})
    assert run(trainer, "rl", n_trials=1, metric="accuracy").objective == 0.5


def test_a_loss_that_the_untrained_model_lacks_too_ends_no_training(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    def make() -> Trainer:
        class NanOnLastRows(Trainer):
            def prediction_step(self, *args: Any, **kwargs: Any) -> Any:
                loss, *rest = super().prediction_step(*args, **kwargs)
                is_last = bool((args[1]["labels"] == trainer.eval_dataset[-1]["labels"]).all())
                return (loss * math.nan if is_last else loss, *rest)

        options: dict[str, Any] = {"per_device_eval_batch_size": 1, "logging_nan_inf_filter": False}
        trainer = make_trainer(cls=NanOnLastRows, score=lambda args, state: 0.5, **options)
        rows: Any = trainer.eval_dataset
        rows.labels[:] = 0
        # More rows than the first evaluation reads, which finds nothing wrong.
        rows.ids, rows.labels = torch.cat([rows.ids] * 2), torch.cat([rows.labels, rows.labels + 1])
        return trainer

    assert run(make(), "rl", n_trials=1).objective == 0.5
    assert states(run(make(), "rl", n_trials=2).run_summary.study) == [COMPLETE, COMPLETE]


def test_without_a_complete_trial_there_is_a_result_and_the_trainer_is_restored(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: math.nan if state.global_step else 0.5)
    args, model = trainer.args, trainer.model
    best = run(trainer, "rl", n_trials=4)
    assert (best.run_id, best.hyperparameters, best.run_summary.best_trial) == ("", {}, None)
    assert math.isnan(best.objective)
    assert trainer.args is args
    assert trainer.model is model
    assert "No trial of 4 completed" in best.run_summary.summary()


def test_hp_space_raising_in_the_middle(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        if isinstance(trial, optuna.Trial) and trial.number == 1:
            raise LookupError("no such place")
        return rates(trial)

    result = run(make_trainer(), "rl", space, n_trials=3).run_summary
    assert states(result.study) == [COMPLETE, FAIL, COMPLETE]
    assert result.trials[1].user_attrs["rl:failure"]["reason"] == "LookupError: no such place"


def test_a_refused_combination_is_pruned_and_no_failure(make_trainer: MakeTrainer) -> None:
    def space(trial: Any) -> dict[str, Any]:
        values = rates(trial)
        if values["learning_rate"] > 1e-2:
            raise optuna.TrialPruned
        return values

    sampler = Scripted(learning_rate=[1e-4, 5e-2, 6e-2, 7e-2, 1e-3])
    result = run(make_trainer(), "rl", space, n_trials=5, max_failed_trials=1, sampler=sampler).run_summary
    assert states(result.study) == [COMPLETE, PRUNED, PRUNED, PRUNED, COMPLETE]


def test_model_init_may_refuse_a_combination(make_trainer: MakeTrainer) -> None:
    def model_init(trial: Any = None) -> Any:
        if trial is not None and trial.suggest_int("heads", 1, 2) == 2:
            raise optuna.TrialPruned
        return tiny_model()

    sampler = Scripted(heads=[1, 2], learning_rate=[1e-4, 1e-4])
    result = run(make_trainer(model_init=model_init), "rl", n_trials=2, sampler=sampler).run_summary
    assert states(result.study) == [COMPLETE, PRUNED]


def test_compute_objective_raising_in_the_middle(make_trainer: MakeTrainer) -> None:
    def objective(metrics: dict[str, float]) -> float:
        if metrics.get("epoch") and metrics["eval_accuracy"] > 0.7:
            raise ZeroDivisionError("too good")
        return metrics["eval_accuracy"]

    trainer = make_trainer(score=lambda args, state: 0.8 if args.learning_rate > 1e-2 else 0.5, num_train_epochs=2)
    sampler = Scripted(learning_rate=[1e-3, 5e-2, 1e-3])
    result = run(
        trainer, "rl", n_trials=3, compute_objective=objective, direction="maximize", sampler=sampler
    ).run_summary
    assert states(result.study) == [COMPLETE, FAIL, COMPLETE]
    assert result.trials[1].user_attrs["rl:steps"] == 4
    assert "too good" in result.trials[1].user_attrs["rl:failure"]["reason"]


def test_catch_lets_other_exceptions_end_the_search(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=breaks(ValueError("boom"), 1))
    before = dict(vars(trainer))
    with pytest.raises(ValueError, match="boom") as caught:
        run(trainer, "rl", n_trials=3, catch=(KeyError,))
    assert "in training_step" in "".join(caught.value.__notes__)
    assert {name for name, value in before.items() if vars(trainer)[name] is not value} == set()
    assert states(stored(f"sqlite:///{Path(trainer.args.output_dir, 'hf_rlsearch.db')}")) == [COMPLETE, FAIL]


def test_too_many_failures_end_the_search(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=breaks(ValueError("boom"), 1, 2))
    with pytest.raises(SearchFailed, match=r"2 of 8 trials have failed.*ValueError: boom.*stops at 2"):
        run(trainer, "rl", n_trials=8, max_failed_trials=2)
    assert trainer.hp_search_backend is None


def test_after_too_many_failures_the_fixed_script_continues(make_trainer: MakeTrainer) -> None:
    with pytest.raises(SearchFailed):
        run(make_trainer(cls=breaks(ValueError("boom"), 1, 2)), "rl", n_trials=5, max_failed_trials=2)
    best = run(make_trainer(), "rl", n_trials=5, max_failed_trials=2)
    assert states(best.run_summary.study) == [COMPLETE, FAIL, FAIL, COMPLETE, COMPLETE]


def test_timeout_starts_no_new_trial(make_trainer: MakeTrainer) -> None:
    best = run(make_trainer(), "rl", n_trials=100, timeout=0.001)
    assert best.run_summary.stopped_by == "timeout"
    assert len(best.run_summary.trials) == 0


def test_target_ends_the_search(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: args.learning_rate)
    best = run(trainer, "rl", n_trials=9, target=0.01, sampler=Scripted(learning_rate=[1e-3, 2e-2, 1e-4]))
    assert (best.run_summary.stopped_by, len(best.run_summary.trials)) == ("target", 2)


def test_a_sampler_may_stop_the_study(make_trainer: MakeTrainer) -> None:
    sampler = optuna.samplers.GridSampler({"learning_rate": [1e-4, 1e-3]})
    best = run(make_trainer(), "rl", n_trials=9, sampler=sampler)
    assert (best.run_summary.stopped_by, len(best.run_summary.trials)) == ("study.stop", 2)


@pytest.mark.skipif(os.name == "nt", reason="needs POSIX signals")
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_leaves_storage_and_trainer_whole(make_trainer: MakeTrainer, number: signal.Signals) -> None:
    if number == signal.SIGINT and signal.getsignal(number) is signal.SIG_IGN:
        pytest.skip("started in the background: SIGINT is ignored from the start")

    def score(args: Any, state: Any) -> float:
        if state.global_step and Path(args.output_dir).name == "run-1":
            os.kill(os.getpid(), number)
        return 0.5

    handler = signal.getsignal(signal.SIGTERM)
    trainer = make_trainer(score=score)
    with pytest.raises(SystemExit if number == signal.SIGTERM else KeyboardInterrupt):
        run(trainer, "rl", n_trials=3)
    assert signal.getsignal(signal.SIGTERM) is handler
    assert trainer.args.output_dir.endswith("out")
    best = run(make_trainer(score=lambda args, state: 0.5), "rl", n_trials=3)
    assert states(best.run_summary.study) == [COMPLETE] * 3


def test_what_ran_out_of_memory_is_not_tried_again(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=SmallOnly, max_steps=2, per_device_train_batch_size=8)
    result = run(trainer, "rl", batches, n_trials=5, baseline=True).run_summary
    assert result.trials[0].user_attrs["rl:failure"]["kind"] == "oom"
    assert [trial.params["per_device_train_batch_size"] for trial in result.trials[1:]] == [4] * 4


def test_a_smaller_batch_is_found_by_the_trainer(make_trainer: MakeTrainer) -> None:
    """``auto_find_batch_size`` belongs to transformers; the next trial starts with its own batch size again."""
    seen: list[tuple[str, int]] = []

    class Small(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            step = (Path(self.args.output_dir).name, self._train_batch_size)
            if step not in seen:
                seen.append(step)
            if self._train_batch_size > 8:
                raise torch.OutOfMemoryError("CUDA out of memory.")
            return super().training_step(*args, **kwargs)

    trainer = make_trainer(cls=Small, auto_find_batch_size=True)
    best = run(trainer, "rl", n_trials=2)
    assert states(best.run_summary.study) == [COMPLETE] * 2
    batches_used = [min(batch for name, batch in seen if name == f"run-{number}") for number in (0, 1)]
    names = [best.run_summary.hyperparameters(trial) for trial in best.run_summary.trials]
    assert [found["per_device_train_batch_size"] for found in names] == batches_used
    assert best.hyperparameters["per_device_train_batch_size"] == batches_used[int(best.run_id)]
    assert best.run_summary.replay(trainer, int(best.run_id)) == best.objective
    seen = [each for each in seen if "run" in each[0]]
    assert [name for name, batch in seen if batch == 16] == ["run-0", "run-1"]
    assert {name for name, batch in seen if batch <= 8} == {"run-0", "run-1"}


def test_a_report_of_a_rank_is_read_by_the_next_start(tmp_path: Path) -> None:
    folder, failure = str(tmp_path / "run-1"), Failure("error", "ValueError: boom", "a traceback", rank=1, step=3)
    assert read_report(folder, 1) is None
    write_report(folder, 1, failure)
    assert read_report(folder, 1) == failure
    assert read_report(folder, 2) is None  # which continues in the same folder
    (tmp_path / "run-1" / "failed_on_rank_0.json").write_text('{"trial": 1, "kin')
    assert read_report(folder, 1) == failure


@pytest.mark.parametrize(
    "error",
    [
        torch.distributed.DistBackendError("communicator was aborted"),
        RuntimeError("[1] HCCL error in: ProcessGroupHCCL.cpp:70"),
        RuntimeError("oneCCL: connection closed"),
        RuntimeError("Connection closed by peer [127.0.0.1]:1234"),
    ],
)
def test_a_lost_connection_is_recognized_whatever_backend_trains(error: Exception) -> None:
    assert failure_kind(error) == LOST


@pytest.mark.skipif(torch.cuda.is_available(), reason="a device that answers is not lost")
@pytest.mark.parametrize(
    "text",
    [
        "HIP error: an illegal memory access was encountered",
        "XPU error: device lost",
        "NPU error, error code is 507015",
        "CUDA driver error: unspecified launch failure",
    ],
)
def test_a_lost_device_is_recognized_whoever_made_it(text: str) -> None:
    assert failure_kind(RuntimeError(text)) == DEVICE
    assert failure_kind(ValueError(text)) != DEVICE


@pytest.mark.parametrize("kind", [LOST, LEFT, STORAGE])
def test_a_failure_unrelated_to_the_configuration_is_not_reported(kind: str, tmp_path: Path) -> None:
    write_report(str(tmp_path), 1, Failure(kind, "RuntimeError: Connection closed by peer"))
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("allowed", "ends"), [(None, False), (1, True)])
def test_a_trial_that_a_rank_has_reported_is_not_trained_again(
    make_trainer: MakeTrainer, allowed: int | None, ends: bool
) -> None:
    def interrupt(args: Any, state: Any) -> float:
        if state.global_step and Path(args.output_dir).name == "run-1":
            raise KeyboardInterrupt
        return 0.5

    trainer = make_trainer(score=interrupt)
    folder = str(Path(trainer.args.output_dir, "run-1"))
    with pytest.raises(KeyboardInterrupt):
        run(trainer, "rl", n_trials=3)
    write_report(folder, 1, Failure("error", "ValueError: boom", rank=1))
    if ends:
        with pytest.raises(SearchFailed, match="1 of 3 trials have failed, the last one with: ValueError: boom"):
            run(make_trainer(score=interrupt), "rl", n_trials=3, max_failed_trials=allowed)
        return
    trials = run(make_trainer(score=interrupt), "rl", n_trials=3).run_summary.trials
    assert [trial.state for trial in trials] == [COMPLETE, FAIL, COMPLETE]
    assert trials[1].user_attrs["rl:failure"]["reason"] == "ValueError: boom"
    assert read_report(folder, 1) is None
