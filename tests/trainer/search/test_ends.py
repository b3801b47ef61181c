"""A target and patience end a search; the same command trains nothing more, a larger patience goes on."""

import math
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import optuna
import pytest
from optuna.trial import TrialState, create_trial
from transformers import Trainer

from hf_rlsearch import RLSampler
from hf_rlsearch.report.html import to_html
from hf_rlsearch.trainer.search.budget import Outlook
from hf_rlsearch.trainer.search.leaderboard import trials_without_improvement
from hf_rlsearch.trainer.setup.config import SearchConfig
from tests.trainer.conftest import Scripted, rates, run

MakeTrainer = Callable[..., Trainer]
RATES = [1e-3, 2e-2, 1e-4, 2e-4, 2e-2, 3e-4, 5e-2, 1e-5]


def study_of(*values: Any, directions: tuple[str, ...] = ("maximize",), order: Any = None) -> optuna.Study:
    """A study of these trials, None for a failed one, which ended in the given order of their numbers."""
    study = optuna.create_study(directions=directions)
    for i, value in enumerate(values):
        state = TrialState.FAIL if value is None else TrialState.COMPLETE
        given = None if value is None else [value] if isinstance(value, float) else list(value)
        trial = create_trial(state=state, values=given)
        trial.datetime_complete = datetime(2026, 1, 1) + timedelta(minutes=i if order is None else order.index(i))
        study.add_trial(trial)
    return study


@pytest.mark.parametrize(
    ("values", "n"),
    [([], 0), ([None, None], 0), ([0.5], 0), ([0.5, 0.5], 1), ([0.5, 0.4, None], 2), ([0.5, 0.4, 0.6, 0.1], 1)],
)
def test_trials_since_the_best_one_improved(values: list[Any], n: int) -> None:
    assert trials_without_improvement(study_of(*values)) == n
    mirrored = [None if value is None else -value for value in values]
    assert trials_without_improvement(study_of(*mirrored, directions=("minimize",))) == n


def test_the_order_of_the_ends_counts() -> None:
    """With two workers trial 0 ended after trials 1 and 2: neither of them came after the best one."""
    assert trials_without_improvement(study_of(0.9, 0.5, 0.6, 0.7)) == 3
    assert trials_without_improvement(study_of(0.9, 0.5, 0.6, 0.7, order=[1, 2, 0, 3])) == 1


@pytest.mark.parametrize(
    ("last", "n"), [((0.9, 30.0), 1), ((0.8, 20.0), 1), ((0.85, 25.0), 0), ((0.1, 5.0), 0), ((0.7, 40.0), 1)]
)
def test_with_several_objectives_the_front_has_to_grow(last: tuple[float, float], n: int) -> None:
    study = study_of((0.9, 30.0), (0.8, 20.0), last, directions=("maximize", "minimize"))
    assert trials_without_improvement(study) == n


def test_a_stopped_trial_counts_the_share_that_was_trained() -> None:
    study = study_of(0.5)
    stop = {"rl:stop": {"fidelity": 0.25, "probability": 0.9}}
    study.add_trial(create_trial(state=TrialState.PRUNED, intermediate_values={2500: 0.1}, system_attrs=stop))
    assert trials_without_improvement(study) == 0.25


def learning_rate(args: Any, state: Any) -> float:
    return float(args.learning_rate)


def test_patience_ends_a_search_and_a_larger_one_continues_it(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    def result_with(patience: int, drawn: list[float]) -> Any:
        sampler = Scripted(learning_rate=drawn)
        trainer = make_trainer(score=learning_rate)
        return run(trainer, "rl", n_trials=9, patience=patience, sampler=sampler).run_summary

    with caplog.at_level("INFO"):
        first = result_with(3, RATES)
    # 0.02 in trial 1, then 0.0001, 0.0002 and 0.02 again.
    assert (first.stopped_by, len(first.trials)) == ("patience", 5)
    assert (
        first.summary().splitlines()[-1]
        == "ended by patience: too many trials in a row brought no improvement, or none is expected"
    )
    assert caplog.records[-1].getMessage().endswith(first.summary().splitlines()[-1])
    assert "ended by patience: too many trials" in to_html(first.study)
    with caplog.at_level("INFO"):
        again = result_with(3, [])
    assert (again.stopped_by, len(again.trials)) == ("patience", 5)
    assert "is finished (patience)" in caplog.text
    assert "A larger patience continues it" in caplog.text
    more = result_with(4, RATES[5:])
    assert (more.stopped_by, len(more.trials)) == ("patience", 6)


def two_objectives(metrics: dict[str, float]) -> tuple[float, float]:
    return metrics["eval_accuracy"], metrics["eval_loss"]


@pytest.mark.parametrize(
    ("options", "n_trials"),
    [
        ({"metric": ["accuracy", "loss"], "target": {"accuracy": 0.015}}, 2),
        ({"metric": ["accuracy", "loss"], "target": [0.015, 100.0]}, 2),
        ({"metric": ["accuracy", "loss"], "target": {"eval_accuracy": 0.015, "loss": 1e-9}}, 4),
        ({"compute_objective": two_objectives, "target": {"two_objectives[0]": 0.015}}, 2),
    ],
)
def test_one_trial_has_to_reach_all_targets(make_trainer: MakeTrainer, options: Any, n_trials: int) -> None:
    trainer = make_trainer(score=learning_rate)
    sampler = Scripted(learning_rate=RATES)
    options = {"direction": ["maximize", "minimize"], "n_trials": 4, "sampler": sampler, **options}
    runs = run(trainer, "rl", rates, **options)
    assert len(runs[0].run_summary.trials) == n_trials
    assert runs[0].run_summary.stopped_by == ("target" if n_trials == 2 else "n_trials")


@pytest.mark.parametrize(("least", "n_trials", "reason"), [(1e9, 3, "min_gain_per_hour"), (1e-9, 5, "n_trials")])
def test_a_search_ends_where_an_hour_is_expected_to_bring_little(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, least: float, n_trials: int, reason: str
) -> None:
    options = {"n_trials": 5, "min_gain_per_hour": least, "baseline": True}
    with caplog.at_level("INFO"):
        result = run(make_trainer(score=learning_rate), "rl", **options).run_summary
    assert (result.stopped_by, len(result.trials)) == (reason, n_trials)
    assert "| expected gain " in caplog.text
    again = run(make_trainer(score=learning_rate), "rl", **options).run_summary
    assert (again.stopped_by, len(again.trials)) == (reason, n_trials)


def test_auto_ends_a_search_that_has_found_the_best_of_its_space() -> None:
    """A bowl over 48 x 6 levels: the search ends long before it has tried them all, next to the lowest point."""
    study, outlook = optuna.create_study(sampler=RLSampler(seed=0)), None
    while outlook is None or outlook.reached() is None:
        trial = study.ask()
        rate = trial.suggest_float("learning_rate", 1e-5, 1e-1, log=True)
        decay = trial.suggest_categorical("weight_decay", [0.0, 1e-3, 1e-2, 0.05, 0.1, 0.2])
        study.tell(trial, (math.log10(rate) + 3) ** 2 + decay)
        outlook = Outlook(study, SearchConfig(hp_space=rates, patience="auto"))
        assert len(study.trials) < 60
    assert outlook.reached() == "patience"
    assert len(study.trials) > 10
    assert study.best_value < 0.05
