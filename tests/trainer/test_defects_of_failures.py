"""Defects of the built-in "optuna" backend when a trial fails: each test passes with "rl"."""

import gc
import math
import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
import torch
from optuna.trial import TrialState
from transformers import Trainer

from tests.helpers.both import on_both
from tests.trainer.conftest import Scripted, SmallOnly, batches, rates, run, states, stored, tiny_model

MakeTrainer = Callable[..., Trainer]
COMPLETE, FAIL, PRUNED = TrialState.COMPLETE, TrialState.FAIL, TrialState.PRUNED


class Breaks(Trainer):
    """Raises ``error`` in the second training step of trial 1."""

    error: Exception = ValueError("boom")

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        # The learning rate identifies the trial; with "optuna" the folder does not.
        if self.state.global_step == 1 and round(math.log10(self.args.learning_rate)) == -2:
            raise self.error
        return super().training_step(*args, **kwargs)


def breaks(error: Exception) -> type[Trainer]:
    return type("BreaksHere", (Breaks,), {"error": error})


def three() -> Scripted:
    """Learning rates of three trials, of which the second one fails."""
    return Scripted(learning_rate=[1e-3, 1e-2, 1e-4])


@pytest.fixture
def url(tmp_path: Path) -> str:
    """URL of a storage."""
    return f"sqlite:///{tmp_path / 'studies.db'}"


@on_both(raises=ValueError)
def test_an_exception_does_not_end_the_search(make_trainer: MakeTrainer, backend: str, url: str) -> None:
    run(make_trainer(cls=breaks(ValueError("boom"))), backend, n_trials=3, sampler=three(), storage=url)
    assert states(stored(url)) == [COMPLETE, FAIL, COMPLETE]


@on_both(raises=torch.OutOfMemoryError)
def test_out_of_memory_does_not_end_the_search(make_trainer: MakeTrainer, backend: str, url: str) -> None:
    error = torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB.")
    run(make_trainer(cls=breaks(error)), backend, n_trials=3, sampler=three(), storage=url)
    assert states(stored(url)) == [COMPLETE, FAIL, COMPLETE]


@on_both()
def test_a_batch_size_out_of_memory_is_not_tried_again(make_trainer: MakeTrainer, backend: str, url: str) -> None:
    trainer = make_trainer(cls=SmallOnly, max_steps=2, per_device_train_batch_size=8)
    given: dict[str, Any] = {"max_failed_trials": 9, "catch": (Exception,)}
    if backend == "optuna":
        given = {"sampler": optuna.samplers.TPESampler(seed=0), "catch": (Exception,)}
    run(trainer, backend, batches, n_trials=8, storage=url, **given)
    failed = [t.params["per_device_train_batch_size"] for t in stored(url).trials if t.state == FAIL]
    assert failed == sorted(set(failed), reverse=True)


@on_both()
def test_memory_of_a_failed_trial_is_freed(make_trainer: MakeTrainer, backend: str) -> None:
    models: list[weakref.ref[Any]] = []
    alive: list[int] = []

    def model_init() -> Any:
        gc.collect()
        # The first model was made with the user's Trainer.
        alive.append(sum(reference() is not None for reference in models[1:]))
        model = tiny_model()
        models.append(weakref.ref(model))
        return model

    trainer = make_trainer(model_init=model_init, cls=breaks(ValueError("boom")))
    run(trainer, backend, n_trials=3, sampler=three(), catch=(ValueError,))
    assert max(alive) == 0


@on_both(raises=ValueError)
def test_a_search_without_complete_trials_raises_nothing(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(score=lambda args, state: math.nan if state.global_step else 0.5)
    assert run(trainer, backend, n_trials=3).hyperparameters == {}


@on_both()
def test_a_nan_loss_fails_the_trial_though_the_metric_is_a_number(
    make_trainer: MakeTrainer, backend: str, url: str
) -> None:
    class Diverges(Trainer):
        def compute_loss(self, *args: Any, **kwargs: Any) -> Any:
            loss = super().compute_loss(*args, **kwargs)
            factor = math.nan if self.args.learning_rate == 1e-2 else 1.0
            return (loss[0] * factor, loss[1]) if isinstance(loss, tuple) else loss * factor

    trainer = make_trainer(score=lambda args, state: 0.5, cls=Diverges)
    run(trainer, backend, n_trials=3, direction="maximize", sampler=three(), storage=url)
    assert states(stored(url)) == [COMPLETE, FAIL, COMPLETE]


@on_both(raises=LookupError)
def test_hp_space_raising_does_not_end_the_search(make_trainer: MakeTrainer, backend: str, url: str) -> None:
    def space(trial: Any) -> dict[str, Any]:
        if isinstance(trial, optuna.Trial) and trial.number == 1:
            raise LookupError("boom")
        return rates(trial)

    run(make_trainer(), backend, space, n_trials=3, storage=url)
    assert states(stored(url)) == [COMPLETE, FAIL, COMPLETE]


@on_both(raises=LookupError)
def test_compute_objective_raising_does_not_end_the_search(make_trainer: MakeTrainer, backend: str, url: str) -> None:
    trainer = make_trainer()

    def objective(metrics: dict[str, float]) -> float:
        if trainer.args.learning_rate == 1e-2:
            raise LookupError("boom")
        return metrics["eval_loss"]

    options: Any = {"compute_objective": objective, "direction": "minimize", "sampler": three(), "storage": url}
    run(trainer, backend, n_trials=3, **options)
    assert states(stored(url)) == [COMPLETE, FAIL, COMPLETE]


@pytest.mark.parametrize("backend", ["optuna", "rl"])
def test_a_refused_combination_is_pruned(make_trainer: MakeTrainer, backend: str, url: str) -> None:
    """Not a defect: both backends do the same."""

    def space(trial: Any) -> dict[str, Any]:
        values = rates(trial)
        if isinstance(trial, optuna.Trial) and values["learning_rate"] == 1e-2:
            raise optuna.TrialPruned
        return values

    run(make_trainer(), backend, space, n_trials=3, sampler=three(), storage=url)
    assert states(stored(url)) == [COMPLETE, PRUNED, COMPLETE]


@on_both()
def test_a_bad_value_is_refused_before_the_first_training(make_trainer: MakeTrainer, backend: str) -> None:
    trained: list[int] = []

    def score(args: Any, state: Any) -> float:
        trained.extend([state.global_step] * (state.global_step > 0))
        return 0.5

    def space(trial: Any) -> dict[str, Any]:
        return {"lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosin"])}

    sampler = Scripted(lr_scheduler_type=["linear", "cosin"])
    with pytest.raises(ValueError, match="cosin"):
        run(make_trainer(score=score), backend, space, n_trials=2, direction="maximize", sampler=sampler)
    assert trained == []


@on_both()
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, ValueError])
def test_the_trainer_is_restored_after_an_exception(
    make_trainer: MakeTrainer, backend: str, error: type[BaseException]
) -> None:
    def score(args: Any, state: Any) -> float:
        if state.global_step:
            raise error
        return 0.5

    trainer = make_trainer(score=score)
    arguments, flag, model = trainer.args.to_dict(), trainer.hp_search_backend, trainer.model
    with pytest.raises(error):
        run(trainer, backend, n_trials=3, direction="maximize", catch=())
    assert (trainer.args.to_dict(), trainer.hp_search_backend) == (arguments, flag)
    assert trainer.model is model


@on_both()
def test_memory_does_not_grow_with_failures(make_trainer: MakeTrainer, backend: str) -> None:
    """Counts tensors whenever a trial starts; all trials after the second one fail."""
    alive: list[int] = []

    class Counts(Scripted):
        def before_trial(self, study: Any, trial: Any) -> None:
            gc.collect()
            alive.append(sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor)))

    sampler = Counts(learning_rate=[1e-3, 1e-3, *[1e-2] * 6])
    options = {"max_failed_trials": 9} if backend == "rl" else {}
    run(
        make_trainer(cls=breaks(ValueError("boom"))),
        backend,
        n_trials=8,
        sampler=sampler,
        catch=(ValueError,),
        **options,
    )
    assert max(alive[2:]) <= alive[1]
