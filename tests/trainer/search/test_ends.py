"""A target and patience end a search; the same command trains nothing more, a larger patience goes on."""

import math
import re
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.trial import TrialState, create_trial
from transformers import Trainer

from hf_rlsearch import RLSampler
from hf_rlsearch.report.format import ended_by, objectives
from hf_rlsearch.report.html import to_html
from hf_rlsearch.trainer.search.budget import Outlook
from hf_rlsearch.trainer.search.leaderboard import trials_without_improvement
from hf_rlsearch.trainer.search.result import SearchResult
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
    assert first.summary().splitlines()[-1] == "ended by patience: too many trials in a row brought no improvement"
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
    result = runs[0].run_summary
    assert result.stopped_by == ("target" if n_trials == 2 else "n_trials")
    if n_trials == 2:
        assert result.best_trial.number == int(runs[0].run_id) == 1
        assert trainer.args.learning_rate == result.hyperparameters()["learning_rate"] == 0.02
        assert "of which trial 1 has reached the target" in result.summary()


def front_of(*points: tuple[float, float], **attributes: Any) -> SearchResult:
    study = study_of(*points, directions=("maximize", "minimize"))
    for name, value in attributes.items():
        study.set_user_attr(f"rl:{name}", value)
    return SearchResult(study, "accuracy, seconds", "", "n_trials", len(points))


def test_the_best_of_a_front_is_its_knee_where_no_target_is_reached() -> None:
    points = [(0.5, 10.0), (0.9, 100.0), (0.88, 20.0), (0.4, 90.0)]
    result = front_of(*points)
    assert [trial.number for trial in result.best_trials] == [2, 0, 1]
    assert result.best_run.run_id == "2"
    assert "Pareto front: 3 trials, of which trial 2 is the knee" in result.summary()
    assert front_of(*points, ends={"target": [0.89, None]}).best_trials[0].number == 1
    assert front_of(*points, ends={"target": [0.95, None]}).best_trials[0].number == 2
    assert "Pareto front: 2 trials, of which trial 0 is the first" in front_of(*points[:2]).summary()
    assert front_of().best_trial is None


@pytest.mark.parametrize(("least", "n_trials", "reason"), [(1e9, 3, "min_gain_per_hour"), (1e-9, 5, "n_trials")])
def test_a_search_ends_where_an_hour_is_expected_to_bring_little(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, least: float, n_trials: int, reason: str
) -> None:
    options = {"n_trials": 5, "min_gain_per_hour": least, "baseline": True}
    with caplog.at_level("INFO"):
        result = run(make_trainer(score=learning_rate), "rl", **options).run_summary
    assert (result.stopped_by, len(result.trials)) == (reason, n_trials)
    assert re.search(r"\| \d+ more trials \(.*\) may improve the best by \d", caplog.text)
    if reason == "min_gain_per_hour":
        assert result.summary().endswith("less than that is expected of another hour")
    again = run(make_trainer(score=learning_rate), "rl", **options).run_summary
    assert (again.stopped_by, len(again.trials)) == (reason, n_trials)


def test_what_more_trials_may_bring_is_shown_without_being_asked_for(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        result = run(make_trainer(score=learning_rate), "rl", n_trials=5, baseline=True).run_summary
    promise = r"10 more trials \([^)]*\) may improve the best by [\d.e-]+"
    record = r" \(so far [\d.e-]+ came, [\d.e-]+ was expected\)"
    assert len(re.findall(rf"\| {promise} \|", caplog.text)) == 1  # after three trials, of which none can be judged
    assert len(re.findall(rf"\| {promise}{record} \|", caplog.text)) == 2
    assert re.search(promise + record, result.summary())
    assert re.search(promise + record, to_html(result.study))


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


def bowl(n_trials: int, *, seconds: float, excess: float = 0.0, sign: int = 1) -> optuna.Study:
    """A study of trials that took so long, each of which exceeds a constraint by so much."""
    study = optuna.create_study(sampler=RLSampler(seed=0))
    for x in np.linspace(0, 1, n_trials):
        attributes = {"user_attrs": {"rl:seconds": seconds}, "system_attrs": {"constraints": [excess]}}
        space = {"x": FloatDistribution(0, 2)}
        study.add_trial(create_trial(value=sign * x**2, params={"x": x}, distributions=space, **attributes))
    return study


@pytest.mark.parametrize("options", [{"min_gain_per_hour": 1e9}, {"min_gain_per_hour": 1e9, "patience": "auto"}])
def test_no_estimate_ends_a_search_before_a_trial_is_feasible(options: Any) -> None:
    settings = SearchConfig(hp_space=rates, **options)
    assert Outlook(bowl(6, seconds=60), settings).reached() in ("patience", "min_gain_per_hour")
    outlook = Outlook(bowl(6, seconds=60, excess=1.0), settings)
    assert (outlook.reached(), outlook.to_text()) == (None, "")


def test_the_gain_of_an_hour_is_that_of_its_trials_beside_patience_auto(monkeypatch: pytest.MonkeyPatch) -> None:
    """An hour has 360 trials, and they do not gain 36 times what ten do."""
    monkeypatch.setattr("hf_rlsearch.trainer.search.budget.LEAST_SHARE", 0.0)  # "auto" does not end it
    study = bowl(6, seconds=10, sign=-1)
    of_ten, of_an_hour = (RLSampler(seed=0).expected_gain(study, n) for n in (10, 360))
    assert of_ten is not None
    assert of_an_hour is not None
    assert of_an_hour.value < of_ten.value * 36
    least = math.sqrt(of_an_hour.value * of_ten.value * 36)
    both = Outlook(study, SearchConfig(hp_space=rates, patience="auto", min_gain_per_hour=least))
    assert both.reached() == "min_gain_per_hour"
    assert both.to_text().startswith("10 more trials (")


def test_the_same_command_says_what_continues_a_search_that_auto_has_ended(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.trainer.search.budget.LEAST_SHARE", 1e9)
    options = {"n_trials": 6, "patience": "auto", "baseline": True}
    with caplog.at_level("INFO"):
        first, again = (run(make_trainer(score=learning_rate), "rl", **options).run_summary for _ in range(2))
    assert first.stopped_by == again.stopped_by == "patience"
    assert first.summary().endswith("ten more trials are expected to improve the best by too little")
    assert "ten more trials are expected" in to_html(first.study)
    assert "patience=None or a number of trials continues it" in caplog.text


def test_a_rest_is_the_reason_where_time_or_budget_has_ended_the_search() -> None:
    """Another process may have stored it, of a search that ends for another reason in the end."""
    assert ended_by("budget", {"rest": "0.2 of the budget is left"}) == "ended by budget: 0.2 of the budget is left"
    assert ended_by("target", {"rest": "0.2 of the budget is left"}) == "ended by target: a trial has reached it"
    assert ended_by("timeout", {}) == "ended by timeout: the time is over"


def test_minus_zero_is_zero() -> None:
    assert objectives([-0.0, -0.5, 1e-5]) == "0, -0.5, 1e-05"
