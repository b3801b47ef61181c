"""``initial_trials``: given configurations are trained right after trial 0, in order, each once."""

import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState
from transformers import Trainer

from hf_rlsearch import ArgumentsError
from hf_rlsearch.report import explain
from tests.trainer.conftest import SmallOnly, batches, rates, run, states

MakeTrainer = Callable[..., Trainer]
GIVEN = [{"learning_rate": 3.3e-4}, {"learning_rate": 7.7e-5}]


def learning_rates(result: Any) -> list[float]:
    return [trial.params["learning_rate"] for trial in result.trials]


@pytest.mark.parametrize("options", [{}, {"sampler": optuna.samplers.RandomSampler(seed=0)}, {"baseline": False}])
def test_given_configurations_come_right_after_trial_0(make_trainer: MakeTrainer, options: dict[str, Any]) -> None:
    """To the last digit, between the levels of the agent as well."""
    trainer = make_trainer(learning_rate=1e-3)
    result = run(trainer, "rl", n_trials=4, initial_trials=GIVEN, **{"baseline": True, **options}).run_summary
    first = [1e-3] * options.get("baseline", True)
    assert learning_rates(result)[: len(first) + 2] == [*first, 3.3e-4, 7.7e-5]
    assert states(result.study) == [TrialState.COMPLETE] * 4
    assert [t.user_attrs["rl:arguments"]["learning_rate"] for t in result.trials] == learning_rates(result)


def test_names_that_are_left_out_are_chosen(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(), "rl", batches, n_trials=2, initial_trials=[{"learning_rate": 1e-3}]).run_summary
    assert result.trials[0].params["learning_rate"] == 1e-3
    assert result.trials[0].params["per_device_train_batch_size"] in (4, 8, 16, 32)
    sentences = explain(result.study, 0).sentences
    assert sentences[0] == "You gave learning_rate=0.001 to be trained first (initial_trials)."
    assert sentences[1].startswith("The agent chose")


def test_the_agent_gives_no_reason_for_what_it_has_not_chosen(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(), "rl", n_trials=3, initial_trials=GIVEN).run_summary
    for number in (0, 1):
        reason = explain(result.study, number)
        assert (len(reason.sentences), reason.facts, reason.attended) == (1, (), ())
    assert explain(result.study, 2).attended


def test_configurations_of_an_earlier_search(make_trainer: MakeTrainer) -> None:
    score = lambda args, state: args.learning_rate  # noqa: E731
    earlier = run(make_trainer(score=score), "rl", n_trials=4, baseline=True).run_summary
    best = earlier.best_configurations(2)
    assert [each["learning_rate"] for each in best] == sorted(learning_rates(earlier)[1:], reverse=True)[:2]
    trainer = make_trainer(score=score, weight_decay=0.1)
    later = run(trainer, "rl", n_trials=2, initial_trials=best).run_summary
    assert later.study.study_name == "search-2"
    assert learning_rates(later) == [each["learning_rate"] for each in best]
    assert later.trials[0].value == earlier.best_value
    with pytest.raises(ArgumentsError, match=r"expected a list of dicts .* or result.best_configurations\(3\)"):
        run(trainer, "rl", initial_trials=earlier)


@pytest.mark.parametrize("between", [0, 1, 2])
def test_a_kill_while_they_are_queued_or_trained_doubles_none(
    make_trainer: MakeTrainer, monkeypatch: pytest.MonkeyPatch, between: int
) -> None:
    """Whenever the process ends, the same command queues what is missing, and continues what was interrupted."""
    enqueue, n_queued = optuna.Study.enqueue_trial, 0

    def counted(study: optuna.Study, *args: Any, **kwargs: Any) -> None:
        nonlocal n_queued
        if n_queued == between:
            raise KeyboardInterrupt
        n_queued += 1
        enqueue(study, *args, **kwargs)

    options: dict[str, Any] = {"n_trials": 4, "baseline": True, "initial_trials": GIVEN}
    with monkeypatch.context() as patch:
        patch.setattr(optuna.Study, "enqueue_trial", counted)
        with pytest.raises(KeyboardInterrupt):
            run(make_trainer(), "rl", **options)

    class Dies(Trainer):
        def training_step(self, *args: Any, **kwargs: Any) -> Any:
            if self.args.learning_rate == 3.3e-4:
                raise KeyboardInterrupt
            return super().training_step(*args, **kwargs)

    with pytest.raises(KeyboardInterrupt):
        run(make_trainer(cls=Dies), "rl", **options)
    result = run(make_trainer(), "rl", **options).run_summary
    assert learning_rates(result)[:3] == [5e-5, 3.3e-4, 7.7e-5]
    assert states(result.study) == [TrialState.COMPLETE] * 4
    more = [*GIVEN, GIVEN[0], {"learning_rate": 5.5e-4}]
    result = run(make_trainer(), "rl", **{**options, "n_trials": 5, "initial_trials": more}).run_summary
    assert learning_rates(result)[4:] == [5.5e-4]


def test_a_second_worker_queues_nothing_again(make_trainer: MakeTrainer, tmp_path: Path) -> None:
    shared = {"storage": f"sqlite:///{tmp_path / 's.db'}", "study_name": "s", "load_if_exists": True}
    for n_trials in (2, 4):
        result = run(make_trainer(), "rl", n_trials=n_trials, initial_trials=GIVEN, baseline=True, **shared).run_summary
    assert learning_rates(result)[1:3] == [3.3e-4, 7.7e-5]
    assert len(set(learning_rates(result))) == len(result.trials) == 4


def test_those_beyond_n_trials_wait_for_more(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"baseline": True, "initial_trials": GIVEN}
    result = run(make_trainer(), "rl", n_trials=2, **options).run_summary
    assert "n_trials=2 has room for 1 of 2 initial_trials: the others wait for a larger n_trials." in caplog.text
    assert states(result.study) == [TrialState.COMPLETE] * 2 + [TrialState.WAITING]
    assert " of 2\n" in result.summary()
    assert (
        "initial_trials these still wait for a search of more trials, budget or time: learning_rate="
        in result.summary()
    )
    assert len(result.trials_dataframe()) == 2
    assert learning_rates(run(make_trainer(), "rl", n_trials=3, **options).run_summary)[2] == 7.7e-5


def test_what_is_trained_already_is_not_trained_again(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    """Neither the baseline's values, which trial 0 has, nor those of the search that is continued."""
    caplog.set_level(logging.INFO)
    options: dict[str, Any] = {"baseline": True, "initial_trials": [{"learning_rate": 5e-5}, GIVEN[0]]}
    result = run(make_trainer(), "rl", n_trials=4, **options).run_summary
    assert learning_rates(result)[:2] == [5e-5, 3.3e-4]
    assert learning_rates(result).count(5e-5) == 1
    assert "learning_rate=5e-5 of initial_trials is trial 0, and is not trained twice." in caplog.text
    best = result.best_configurations(3)
    later = run(make_trainer(), "rl", n_trials=6, baseline=True, initial_trials=best).run_summary
    assert later.study.study_name == result.study.study_name
    assert len(set(learning_rates(later))) == len(later.trials) == 6


def test_other_values_of_hp_space_make_another_training(make_trainer: MakeTrainer) -> None:
    space = lambda trial: {**rates(trial), "weight_decay": 0.1}  # noqa: E731
    options: dict[str, Any] = {"baseline": True, "initial_trials": [{"learning_rate": 5e-5}]}
    assert learning_rates(run(make_trainer(), "rl", space, n_trials=2, **options).run_summary) == [5e-5, 5e-5]


def test_one_that_fails_is_a_failed_trial(make_trainer: MakeTrainer) -> None:
    given = [{"learning_rate": 1e-3, "per_device_train_batch_size": 32}]
    options: dict[str, Any] = {"n_trials": 2, "initial_trials": given, "baseline": True}
    result = run(make_trainer(cls=SmallOnly, per_device_train_batch_size=4), "rl", batches, **options).run_summary
    assert states(result.study) == [TrialState.COMPLETE, TrialState.FAIL]


def optimizers(trial: optuna.Trial) -> dict[str, Any]:
    """A space in which one hyperparameter depends on another one, and a range too."""
    values: dict[str, Any] = {"optim": trial.suggest_categorical("optim", ["adamw_torch", "sgd"])}
    if values["optim"] == "adamw_torch":
        values["adam_beta1"] = trial.suggest_float("adam_beta1", 0.8, 0.95)
    values["learning_rate"] = trial.suggest_float("learning_rate", 1e-5, 1e-3 if "adam_beta1" in values else 1e-1)
    if values["optim"] == "sgd" and values["learning_rate"] > 0.05:
        raise optuna.TrialPruned
    return values


def test_what_depends_on_other_values(make_trainer: MakeTrainer) -> None:
    given = [{"optim": "sgd", "learning_rate": 1e-2}, {"optim": "adamw_torch", "adam_beta1": 0.85}]
    result = run(make_trainer(), "rl", optimizers, n_trials=2, initial_trials=given).run_summary
    assert result.trials[0].params == given[0]
    assert given[1].items() <= result.trials[1].params.items()


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ([{"learnig_rate": 1e-3}], r"initial_trials\[0\] names 'learnig_rate'.*optim.*Did you mean 'learning_rate'"),
        ([{"optim": "sgd"}, {}], r"initial_trials\[1\] names nothing, expected some of the names"),
        ([{"optim": "adam"}], r"initial_trials\[0\] has optim='adam', expected one of 'adamw_torch', 'sgd'"),
        ([{"learning_rate": 0.2}], r"has learning_rate=0.2, expected a number from 1e-05 to"),
        ([{"learning_rate": "1e-3"}], r"has learning_rate='1e-3', expected a number"),
        (
            [{"optim": "adamw_torch", "learning_rate": 0.01}],
            r"learning_rate=0.01, expected a number from 1e-05 to 0.001",
        ),
        (
            [{"optim": "sgd", "adam_beta1": 0.9}],
            r"has a value for adam_beta1, which hp_space does not suggest together",
        ),
        ({"learning_rate": 1e-3}, "initial_trials=.* given, expected a list of dicts"),
        ([1e-3], "expected a list of dicts"),
    ],
)
def test_what_is_not_in_the_space_is_refused_before_any_work(
    make_trainer: MakeTrainer, tmp_path: Path, given: Any, match: str
) -> None:
    evaluated: list[Any] = []
    trainer = make_trainer(score=lambda args, state: evaluated.append(args) or 0.5)
    with pytest.raises(ArgumentsError, match=match):
        run(trainer, "rl", optimizers, initial_trials=given)
    assert evaluated == []
    assert not (tmp_path / "out" / "hf_rlsearch.db").exists()


def test_a_refused_combination_is_an_error_and_a_value_gets_the_type_of_the_range(make_trainer: MakeTrainer) -> None:
    def space(trial: optuna.Trial) -> dict[str, Any]:
        decay, epochs = trial.suggest_float("weight_decay", 0, 1), trial.suggest_int("num_train_epochs", 1, 2)
        if decay > 0.5:
            raise optuna.TrialPruned
        return {"weight_decay": decay, "num_train_epochs": epochs}

    with pytest.raises(ArgumentsError, match=r"initial_trials\[0\] is .*, a combination that hp_space refuses"):
        run(make_trainer(), "rl", space, initial_trials=[{"weight_decay": 1, "num_train_epochs": 1}])
    with pytest.raises(ArgumentsError, match=r"num_train_epochs=1\.5, expected a whole number from 1 to 2"):
        run(make_trainer(), "rl", space, initial_trials=[{"num_train_epochs": 1.5}])
    given = [{"weight_decay": 0, "num_train_epochs": 1.0}]
    trial = run(make_trainer(), "rl", space, n_trials=1, initial_trials=given).run_summary.trials[0]
    assert repr(trial.params) == "{'weight_decay': 0.0, 'num_train_epochs': 1}"


def test_rates_are_searched_afterwards(make_trainer: MakeTrainer) -> None:
    result = run(make_trainer(), "rl", rates, n_trials=3, initial_trials=GIVEN[:1], published=GIVEN).run_summary
    assert learning_rates(result)[0] == 3.3e-4
    assert "rl:decision" not in result.trials[0].system_attrs
    assert all("rl:decision" in trial.system_attrs for trial in result.trials[1:])
