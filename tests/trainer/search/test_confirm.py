"""Replays, confirmations under new seeds, and budgets, each in a whole search."""

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from transformers import Trainer

from hf_rlsearch import ArgumentsError, ObjectiveError
from hf_rlsearch.optuna.confirmation import Confirmation, confirmations, gain, winner
from hf_rlsearch.trainer.search.budget import RemainingBudget
from tests.trainer.conftest import Scripted, run, tiny_model

MakeTrainer = Callable[..., Trainer]


def model_init(trial: Any = None) -> Any:
    return tiny_model(0.1 if trial is None else trial.suggest_float("dropout", 0.0, 0.5))


def test_a_replay_is_equal_to_the_last_bit(make_trainer: MakeTrainer) -> None:
    args: dict[str, Any] = {"num_train_epochs": 2, "load_best_model_at_end": True, "save_strategy": "epoch"}
    trainer = make_trainer(model_init=model_init, **args)
    result = run(trainer, "rl", n_trials=3, baseline=True).run_summary
    before = dict(vars(trainer))
    for trial in result.trials:
        assert result.replay(make_trainer(model_init=model_init, **args), trial.number) == trial.value
    assert result.replay(make_trainer(model_init=model_init, **args), 1, seed=1) != result.trials[1].value
    assert vars(trainer) == before


def conditional(trial: Any) -> dict[str, Any]:
    """Only one of the two branches sets weight decay, epochs, and what ``train.*`` and ``model.*`` add."""
    values = {"learning_rate": trial.suggest_categorical("learning_rate", [1e-3, 1e-2])}
    if trial.suggest_categorical("more", [False, True]):
        values |= {"weight_decay": 0.3, "num_train_epochs": 2, "train.lr_schedule": "step", "model.hidden_size": 8}
    return values


def test_the_end_of_the_time_before_the_confirmations_is_said(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(RemainingBudget, "is_out_of_time", lambda self: len(self._finished()) >= 2)
    with caplog.at_level("INFO"):
        result = run(make_trainer(), "rl", n_trials=None, timeout=1000, confirm=2).run_summary
    assert (result.stopped_by, len(result.trials)) == ("timeout", 2)
    assert "No time was left for confirm=2, so the best trial is not confirmed." in caplog.text


@pytest.mark.parametrize("earlier_search", [False, True])
def test_a_replay_on_the_searched_trainer_trains_nothing_of_the_best_trial(
    make_trainer: MakeTrainer, earlier_search: bool
) -> None:
    def score(args: Any, state: Any) -> float:
        losses = [entry["loss"] for entry in state.log_history if "loss" in entry]
        return args.weight_decay + args.learning_rate + sum(losses) / 1e3

    trainer = make_trainer(score=score, model_init=model_init, logging_strategy="epoch", max_grad_norm=0.5)
    if earlier_search:
        earlier = lambda trial: {"train.layer_decay": trial.suggest_categorical("train.layer_decay", [0.5])}  # noqa: E731
        run(trainer, "rl", earlier, n_trials=1, sampler=Scripted(**{"train.layer_decay": [0.5], "dropout": [0.4]}))
    choices = {"learning_rate": [1e-2, 1e-3, 1e-3], "more": [True, False, True], "dropout": [0.3, 0.2, 0.1]}
    best = run(trainer, "rl", conditional, n_trials=4, baseline=True, sampler=Scripted(**choices), resume=False)
    result = best.run_summary
    assert (best.run_id, trainer.args.weight_decay) == ("1", 0.3)
    for trial in result.trials:
        assert result.replay(trainer, trial.number) == trial.value
    if not earlier_search:
        other: dict[str, Any] = {"max_grad_norm": 0.1, "adam_beta1": 0.5}
        fresh = make_trainer(score=score, model_init=model_init, logging_strategy="epoch", **other)
        assert [result.replay(fresh, trial.number) for trial in result.trials] == [t.value for t in result.trials]
        assert result.apply(fresh).args.adam_beta1 == 0.9


def test_a_replay_needs_a_complete_trial_and_its_objective(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    options: Any = {"compute_objective": lambda metrics: metrics["eval_loss"], "direction": "minimize"}
    result = run(trainer, "rl", n_trials=1, **options).run_summary
    with pytest.raises(ArgumentsError, match=r"Trial 7 .* those are \[0\]"):
        result.replay(trainer, 7)
    with pytest.raises(ObjectiveError, match="pass that function"):
        result.replay(trainer, 0)


def lucky(args: Any, state: Any) -> float:
    """The learning rate 1e-2 is best under the user's seed 42 and worst under every other seed."""
    value = 1 - 0.1 * abs(math.log10(args.learning_rate) + 3)
    if args.learning_rate == 1e-2:
        value = 2.0 if args.seed == 42 else 0.1
    return value + 0.001 * (args.seed % 3)


def test_confirmation_overturns_a_lucky_seed(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    trainer = make_trainer(score=lucky, learning_rate=1e-5)
    best = run(trainer, "rl", n_trials=3, baseline=True, confirm=2, sampler=Scripted(learning_rate=[1e-2, 1e-3]))
    result = best.run_summary
    assert [trial.number for trial in result.trials if trial.value == 2.0] == [1]
    assert (best.run_id, trainer.args.learning_rate, trainer.args.seed) == ("2", 1e-3, 42)
    assert {c.number: sorted(c.values) for c in result.confirmations} == {0: [43, 44], 1: [43, 44], 2: [43, 44, 45]}
    assert result.confirmed_gain.found
    assert result.confirmed_gain.mean == pytest.approx(0.2)
    assert "new seeds" in result.summary()
    assert [path.parent.parent.name for path in (tmp_path / "out").rglob("*.safetensors")] == ["run-2"]


def test_confirmations_are_resumed(make_trainer: MakeTrainer) -> None:
    n_trained = 0

    def stops(args: Any, state: Any) -> float:
        nonlocal n_trained
        n_trained += state.global_step > 0
        if n_trained == 4:
            raise SystemExit
        return lucky(args, state)

    options: dict[str, Any] = {"n_trials": 2, "baseline": True, "confirm": 1}
    with pytest.raises(SystemExit):
        run(make_trainer(score=stops), "rl", sampler=Scripted(learning_rate=[1e-3]), **options)
    result = run(make_trainer(score=lucky), "rl", **options).run_summary
    assert [len(c.values) for c in result.confirmations] in ([3, 3], [2, 3])
    roles = [trial.user_attrs["rl:role"] for trial in result.trials]
    assert roles[:2] == ["baseline", "search"]
    assert set(roles[2:]) == {"confirm"}
    assert all(trial.state.is_finished() for trial in result.trials)


@pytest.mark.parametrize(("baseline", "winner_number"), [(False, 1), (True, 0)])
def test_the_confirmed_model_is_there_without_disk(
    make_trainer: MakeTrainer, baseline: bool, winner_number: int
) -> None:
    """The trial that wins under new seeds was not the best one before, and its model is in the Trainer."""

    def score(args: Any, state: Any) -> float:
        return float(args.learning_rate if args.seed == 42 else -args.learning_rate)

    trainer, sampler = make_trainer(score=score), Scripted(learning_rate=[1e-2, 1e-3])
    options: dict[str, Any] = {"n_trials": 2 + baseline, "baseline": baseline, "confirm": 2, "keep_best_models": 0}
    best = run(trainer, "rl", sampler=sampler, **options).run_summary.best_trial
    assert best.number == winner_number
    assert trainer.evaluate()["eval_loss"] == best.user_attrs["rl:metrics"]["eval_loss"]


def test_the_arithmetic_of_confirmations() -> None:
    good = Confirmation(1, {1: 3.0, 2: 4.0, 3: 5.0})
    baseline = Confirmation(0, {1: 1.0, 2: 2.0, 3: 4.0})
    found = gain(good, baseline, maximize=True)
    assert found.mean == pytest.approx(5 / 3)
    assert (found.high - found.low) / 2 == pytest.approx(4.303 * math.sqrt(1 / 3) / math.sqrt(3), rel=1e-4)
    assert gain(good, baseline, maximize=False).mean == -found.mean
    assert winner([baseline, good], maximize=True) is good
    assert winner([baseline, good], maximize=False) is baseline
    assert winner([], maximize=True) is None
    assert confirmations([]) == []


def test_a_budget_is_spent_on_full_and_partial_trainings(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: 0.2 if args.learning_rate < 1e-3 else 0.8, num_train_epochs=4)
    rates_of = [1e-2, 1e-4, 1e-4, 1e-4, 1e-4, 1e-2, 1e-2]
    best = run(
        trainer,
        "rl",
        budget=3,
        pruner=optuna.pruners.ThresholdPruner(lower=0.5),
        sampler=Scripted(learning_rate=rates_of),
    )
    assert best.run_summary.stopped_by == "budget"
    assert [t.state.name for t in best.run_summary.trials] == ["COMPLETE", *["PRUNED"] * 4, "COMPLETE"]


def test_the_baseline_is_never_pruned(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: 0.2, num_train_epochs=2)
    result = run(trainer, "rl", n_trials=2, baseline=True, pruner=optuna.pruners.ThresholdPruner(lower=0.5)).run_summary
    assert [t.state.name for t in result.trials] == ["COMPLETE", "PRUNED"]


def test_a_replay_of_a_trial_whose_only_value_is_the_seed(make_trainer: MakeTrainer) -> None:
    """The baseline under a new seed has the same values, but another model."""

    def space(trial: Any) -> dict[str, Any]:
        return {"seed": trial.suggest_categorical("seed", [7])}

    def wide(trial: Any = None) -> Any:
        return tiny_model(hidden_size=16 if trial is None else trial.suggest_categorical("hidden_size", [32]))

    result = run(make_trainer(model_init=wide), "rl", space, n_trials=1).run_summary
    assert result.replay(make_trainer(model_init=wide), 0) == result.trials[0].value
