"""Defects of the built-in "optuna" backend: each test fails there and passes with "rl" (see both.py)."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.samplers import RandomSampler
from transformers import Trainer, TrainerCallback, TrainingArguments

from hf_rlsearch import SearchSpaceError
from tests.helpers.both import NOT_REFUSED, on_both
from tests.helpers.versions import IS_OLDEST
from tests.trainer.conftest import Scripted, finished, run, stored, tiny_model

MakeTrainer = Callable[..., Trainer]


@on_both()
def test_the_seed_of_a_trial_makes_its_weights(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer()

    def space(trial: Any) -> dict[str, Any]:
        return {"seed": trial.suggest_int("seed", 1, 40)}

    best = run(trainer, backend, space, n_trials=3, sampler=Scripted(seed=[13, 29, 16]))
    again = make_trainer(**best.hyperparameters)
    again.train()
    assert again.evaluate()["eval_loss"] == best.objective


@on_both()
def test_each_trial_starts_from_the_same_weights(make_trainer: MakeTrainer, backend: str) -> None:
    model, starts = tiny_model(), []

    class Keeps(TrainerCallback):
        def on_train_begin(self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any) -> None:
            starts.append([parameter.sum().item() for parameter in model.parameters()])

    run(make_trainer(model_init=lambda: model, callbacks=[Keeps()]), backend, n_trials=2, sampler=RandomSampler(0))
    assert starts[0] == starts[1]


@on_both()
def test_the_usual_recipe_retrains_with_the_best_batch_size(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(score=lambda args, state: 1 / args.per_device_train_batch_size)

    def space(trial: Any) -> dict[str, Any]:
        name = "per_device_train_batch_size"
        return {name: trial.suggest_categorical(name, [4, 16, 32])}

    sampler = Scripted(per_device_train_batch_size=[4, 32])
    best = run(trainer, backend, space, n_trials=2, direction="maximize", sampler=sampler)
    for name, value in best.hyperparameters.items():
        setattr(trainer.args, name, value)
    trainer.train()
    assert trainer.state.global_step == 64 // 4


@on_both()
def test_an_earlier_evaluation_does_not_change_the_objective(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer()
    trainer.evaluate()
    best = run(trainer, backend, n_trials=1)
    assert best.objective > 0.1


@on_both()
def test_a_trial_is_scored_by_the_best_epoch_that_it_keeps(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(
        score=lambda args, state: 1.0 - 0.4 * (state.epoch or 0) / 2,
        num_train_epochs=2,
        save_strategy="epoch",
        load_best_model_at_end=True,
        metric_for_best_model="accuracy",
    )
    best = run(trainer, backend, n_trials=1, direction="maximize")
    assert best.objective == pytest.approx(0.8)


@on_both()
def test_accuracy_is_maximised_by_default(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(
        score=lambda args, state: {1e-4: 0.875, 1e-3: 0.9375, 1e-2: 0.90625}.get(args.learning_rate, 0.5)
    )
    best = run(trainer, backend, n_trials=3, sampler=Scripted(learning_rate=[1e-4, 1e-3, 1e-2]))
    assert best.objective == 0.9375


@on_both(raises=TypeError)
def test_a_metric_may_be_a_list(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(metrics=lambda p: {"bleu": 0.25, "precisions": [0.5, 0.125]}, metric_for_best_model="bleu")
    best = run(trainer, backend, n_trials=1, direction="maximize")
    assert best.objective == 0.25


@on_both()
def test_a_conditional_value_does_not_leak_into_later_trials(make_trainer: MakeTrainer, backend: str) -> None:
    seen: list[tuple[str, float]] = []

    def score(args: TrainingArguments, state: Any) -> float:
        if state.global_step:
            seen.append((str(args.lr_scheduler_type.value), args.weight_decay))
        return 0.5

    def space(trial: Any) -> dict[str, Any]:
        values = {"lr_scheduler_type": trial.suggest_categorical("lr_scheduler_type", ["linear", "cosine"])}
        if values["lr_scheduler_type"] == "linear":
            values["weight_decay"] = trial.suggest_float("weight_decay", 0.01, 0.3)
        return values

    sampler = Scripted(lr_scheduler_type=["linear", "cosine"], weight_decay=[0.2])
    run(make_trainer(score=score), backend, space, n_trials=2, direction="maximize", sampler=sampler)
    assert seen == [("linear", 0.2), ("cosine", 0.0)]


@on_both()
def test_a_warmup_fraction_stays_a_fraction(make_trainer: MakeTrainer, backend: str) -> None:
    seen: list[float] = []

    def score(args: TrainingArguments, state: Any) -> float:
        seen.append(args.warmup_steps)
        return 0.5

    def space(trial: Any) -> dict[str, Any]:
        return {"warmup_steps": trial.suggest_float("warmup_steps", 0.05, 0.2)}

    run(
        make_trainer(score=score),
        backend,
        space,
        n_trials=1,
        direction="maximize",
        sampler=Scripted(warmup_steps=[0.117]),
    )
    assert seen[-1] == 0.117


@on_both()
def test_the_text_false_is_false(make_trainer: MakeTrainer, backend: str) -> None:
    seen: list[bool] = []

    def score(args: TrainingArguments, state: Any) -> float:
        seen.append(args.dataloader_drop_last)
        return 0.5

    def space(trial: Any) -> dict[str, Any]:
        return {"dataloader_drop_last": trial.suggest_categorical("dataloader_drop_last", ["False", "True"])}

    sampler = Scripted(dataloader_drop_last=["False"])
    run(make_trainer(score=score), backend, space, n_trials=1, direction="maximize", sampler=sampler)
    assert seen[-1] is False


@on_both(raises=AttributeError)
def test_the_trainer_has_the_best_model_afterwards(make_trainer: MakeTrainer, backend: str, tmp_path: Path) -> None:
    trainer = make_trainer()
    best = run(trainer, backend, n_trials=3, sampler=Scripted(learning_rate=[1e-2, 1e-4, 1e-5]))
    assert trainer.evaluate()["eval_loss"] == best.objective
    trainer.save_model(str(tmp_path / "best"))
    assert (tmp_path / "best" / "model.safetensors").exists()


@on_both()
def test_one_checkpoint_is_left_on_disk(make_trainer: MakeTrainer, backend: str, tmp_path: Path) -> None:
    run(make_trainer(save_strategy="epoch", save_total_limit=1), backend, n_trials=3)
    assert len(list((tmp_path / "out").rglob("model.safetensors"))) == 1


@on_both()
def test_an_interrupted_search_continues_to_the_total(make_trainer: MakeTrainer, backend: str, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"
    n_trained = 0

    def killed(args: TrainingArguments, state: Any) -> float:
        nonlocal n_trained
        n_trained += state.global_step > 0
        if n_trained == 2:
            raise SystemExit
        return 0.5

    options: Any = {"n_trials": 3, "direction": "maximize", "storage": url, "study_name": "s", "load_if_exists": True}
    with pytest.raises(SystemExit):
        run(make_trainer(score=killed), backend, **options)
    run(make_trainer(score=lambda args, state: 0.5), backend, **options)
    assert len(finished(stored(url))) == len(stored(url).trials) == 3


@on_both()
def test_learning_curves_have_one_axis_for_all_batch_sizes(
    make_trainer: MakeTrainer, backend: str, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path / 'studies.db'}"

    def space(trial: Any) -> dict[str, Any]:
        name = "per_device_train_batch_size"
        return {name: trial.suggest_categorical(name, [16, 32])}

    sampler = Scripted(per_device_train_batch_size=[16, 32])
    options: Any = {"storage": url, "study_name": "s", "pruner": optuna.pruners.NopPruner()}
    run(make_trainer(num_train_epochs=2), backend, space, n_trials=2, sampler=sampler, **options)
    first, second = (trial.intermediate_values for trial in stored(url).trials)
    assert list(first) == list(second)


@on_both()
def test_several_metrics_are_not_summed(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(metrics=lambda p: {"accuracy": 0.5, "f1": 0.25}, metric_for_best_model="f1")
    assert run(trainer, backend, n_trials=1, direction="maximize").objective == 0.25


@on_both()
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("label_smoothing_factor", 0.5),
        pytest.param(
            *("neftune_noise_alpha", 50.0),
            marks=pytest.mark.skipif(
                IS_OLDEST, reason="with it and a model_init transformers 5.0 cannot train by hand"
            ),
        ),
    ],
)
def test_fields_that_only_the_constructor_reads_have_an_effect(
    make_trainer: MakeTrainer, backend: str, name: str, value: float
) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {name: trial.suggest_categorical(name, [0.0, value])}

    best = run(make_trainer(learning_rate=1e-2), backend, space, n_trials=1, sampler=Scripted(**{name: [value]}))
    by_hand = make_trainer(learning_rate=1e-2, **{name: value})
    by_hand.train()
    assert best.objective == by_hand.evaluate()["eval_loss"]


@on_both()
def test_precision_has_an_effect(make_trainer: MakeTrainer, backend: str) -> None:
    used: list[str] = []

    class Notes(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            used.append(self.accelerator.mixed_precision)
            return super().training_step(*args, **kwargs)

    space = lambda trial: {"bf16": trial.suggest_categorical("bf16", [True, False])}  # noqa: E731
    run(make_trainer(cls=Notes, max_steps=1), backend, space, n_trials=1, sampler=Scripted(bf16=[True]))
    assert used == ["bf16"]


@on_both(raises=NOT_REFUSED)
def test_a_misspelt_name_is_refused(make_trainer: MakeTrainer, backend: str) -> None:
    def space(trial: Any) -> dict[str, Any]:
        return {"learnig_rate": trial.suggest_float("learnig_rate", 1e-5, 1e-1)}

    with pytest.raises(SearchSpaceError, match="Did you mean 'learning_rate'"):
        run(make_trainer(), backend, space, n_trials=1)


class Counting(TrainerCallback):
    """Stops a training after three steps. An instance shared by all trials stops only the first trial."""

    def __init__(self) -> None:
        self.n_calls = 0

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.n_calls += 1
        control.should_training_stop = self.n_calls == 3


@on_both()
def test_callbacks_are_fresh_in_each_trial(make_trainer: MakeTrainer, backend: str) -> None:
    ended: list[int] = []

    def score(args: Any, state: Any) -> float:
        ended.extend([state.global_step] * (state.global_step > 0))
        return 0.5

    run(make_trainer(score=score, callbacks=[Counting()]), backend, n_trials=2, direction="maximize")
    assert ended == [3, 3]


@on_both()
def test_a_lucky_seed_does_not_win(make_trainer: MakeTrainer, backend: str) -> None:
    def lucky(args: Any, state: Any) -> float:
        if args.learning_rate == 1e-2:
            return 2.0 if args.seed == 42 else 0.1
        return 1 - 0.1 * abs(math.log10(args.learning_rate) + 3)

    given: dict[str, Any] = {"confirm": 2, "baseline": True} if backend == "rl" else {}
    sampler = Scripted(learning_rate=[1e-2, 1e-3, 1e-3])
    best = run(make_trainer(score=lucky), backend, n_trials=3, direction="maximize", sampler=sampler, **given)
    assert best.hyperparameters["learning_rate"] == 1e-3


@on_both(raises=AttributeError)
def test_no_gain_over_the_baseline_is_reported(make_trainer: MakeTrainer, backend: str) -> None:
    trainer = make_trainer(score=lambda args, state: 1.0 - args.learning_rate, learning_rate=1e-6)
    given: dict[str, Any] = {"baseline": True} if backend == "rl" else {}
    best = run(trainer, backend, n_trials=2, direction="maximize", **given)
    assert "no gain found" in best.run_summary.summary()
