import itertools
import warnings

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from hf_rlsearch.report import SearchRecord, analysis, to_dataframe
from hf_rlsearch.report.analysis import (
    MIN_FOR_IMPORTANCE,
    expected_best,
    front,
    importances,
    knee,
    shown_trials,
    summarize,
    value_range,
)
from hf_rlsearch.report.chart_data import datasets
from hf_rlsearch.report.html import to_html


@pytest.mark.parametrize("minimize", [True, False])
def test_expected_best_is_the_mean_over_all_draws(minimize: bool) -> None:
    values = [0.3, 0.9, 0.5]
    choose = min if minimize else max
    by_hand = [np.mean([choose(draw) for draw in itertools.product(values, repeat=n)]) for n in (1, 2, 3)]
    np.testing.assert_allclose(expected_best(values, minimize=minimize, draws=np.arange(1.0, 4.0)), by_hand)


def test_incumbents_never_get_worse_and_count_every_training(study: optuna.Study) -> None:
    search = SearchRecord.from_study(study)
    rows = datasets(search, {}, [])["incumbents"]
    best = [row["value"] for row in rows]
    assert best == sorted(best, reverse=True)
    assert rows[-1]["spent"] == pytest.approx(sum(t.fidelity for t in search.trials))
    assert best[-1] == study.best_value


def test_summary_gain_is_over_the_users_own_arguments(study: optuna.Study) -> None:
    summary = summarize(SearchRecord.from_study(study))
    assert summary.gain == pytest.approx(study.trials[0].value - study.best_value)
    assert summary.spent < summary.full == 22 + 2 * 0.125  # 22 that ran or were stopped, 2 that failed after an eighth
    assert summary.counts == {"complete": 17, "pruned": 5, "failed": 2}


def test_confirmations_decide_the_best_and_the_gain_has_an_interval() -> None:
    study = optuna.create_study(direction="maximize")
    for value, attrs in (
        (0.5, {"rl:role": "baseline"}),
        (0.9, {"rl:role": "search"}),
        (0.8, {"rl:role": "search"}),
        *((v, {"rl:role": "confirm", "rl:reevaluates": 0, "rl:seed": s}) for s, v in ((1, 0.5), (2, 0.52))),
        *((v, {"rl:role": "confirm", "rl:reevaluates": 1, "rl:seed": s}) for s, v in ((1, 0.6), (2, 0.61))),
        *((v, {"rl:role": "confirm", "rl:reevaluates": 2, "rl:seed": s}) for s, v in ((1, 0.79), (2, 0.8))),
    ):
        study.add_trial(create_trial(value=value, user_attrs=attrs))
    search = SearchRecord.from_study(study)
    summary = summarize(search)
    best = search.best()
    assert best is not None
    assert best.number == 2  # trial 1 was luck
    assert summary.confirmed is not None
    assert summary.confirmed.mean == pytest.approx(0.285)
    assert summary.confirmed.low < 0.285 < summary.confirmed.high
    marks = [(row["trial"], row["mark"]) for row in datasets(search, {}, [])["confirmations"]]
    assert marks == [(n, mark) for n in (0, 1, 2) for mark in ("seed", "seed", "mean", "in the search")]


def test_the_baseline_comes_first_in_the_expected_best() -> None:
    values, first = [0.3, 0.9, 0.5], 0.6
    by_hand = [np.mean([min(first, *draw) for draw in itertools.product(values, repeat=n)]) for n in (1, 2, 3)]
    np.testing.assert_allclose(expected_best(values, minimize=True, draws=np.arange(1.0, 4.0), first=first), by_hand)


def test_importances_name_the_one_that_matters(make_study: "type[optuna.Study]") -> None:
    study = make_study(60)
    found = importances(study, SearchRecord.from_study(study))
    assert next(iter(found)) == "learning_rate"
    assert list(found.values()) == sorted(found.values(), reverse=True)
    assert sum(found.values()) == pytest.approx(1)


@pytest.mark.parametrize("n_complete", [MIN_FOR_IMPORTANCE - 1, MIN_FOR_IMPORTANCE])
def test_importances_of_fewer_than_ten_complete_trials_are_empty(n_complete: int) -> None:
    study = optuna.create_study(sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=n_complete)
    for _ in range(3):
        study.add_trial(create_trial(state=optuna.trial.TrialState.PRUNED))
    assert bool(importances(study, SearchRecord.from_study(study))) == (n_complete == MIN_FOR_IMPORTANCE)


def test_importances_of_equal_trials_are_no_error() -> None:
    study = optuna.create_study()
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1) * 0, n_trials=12)
    assert set(importances(study, SearchRecord.from_study(study))) <= {"x"}
    assert importances(optuna.create_study(), SearchRecord.from_study(optuna.create_study())) == {}


def test_charts_of_many_trials_show_the_best_and_an_even_sample(
    make_study: "type[optuna.Study]", monkeypatch: pytest.MonkeyPatch
) -> None:
    search = SearchRecord.from_study(make_study(n_trials=60))
    assert shown_trials(search) == {*range(60)}
    whole = datasets(search, {}, [])
    monkeypatch.setattr(analysis, "MOST_SHOWN", 20)
    shown = shown_trials(search)
    scores = search.scores()
    assert len(shown) == 20
    assert {0, *sorted(scores, key=lambda n: scores[n])[:10]} <= shown  # the baseline, and the smallest losses
    others = sorted(shown - {0, *sorted(scores, key=lambda n: scores[n])[:10]})
    assert max(b - a for a, b in itertools.pairwise([0, *others, 59])) <= 15
    part = datasets(search, {}, [])
    assert part["trials"] == [row for row in whole["trials"] if row["trial"] in shown]
    assert {row["trial"] for row in part["curves"]} <= shown
    assert part["incumbents"] == whole["incumbents"]
    assert part["expected"] == whole["expected"]


def test_importances_of_many_trials_are_those_of_an_even_sample(
    make_study: "type[optuna.Study]", monkeypatch: pytest.MonkeyPatch
) -> None:
    study = make_study(n_trials=120)
    monkeypatch.setattr(analysis, "MOST_FOR_IMPORTANCE", 30)
    seen: list[int] = []
    evaluate = optuna.importance.FanovaImportanceEvaluator.evaluate

    def count(evaluator: object, study: optuna.Study, *args: object, **kwargs: object) -> object:
        seen.append(len(study.trials))
        return evaluate(evaluator, study, *args, **kwargs)

    monkeypatch.setattr(optuna.importance.FanovaImportanceEvaluator, "evaluate", count)
    assert (
        max(importances(study, SearchRecord.from_study(study)).items(), key=lambda item: item[1])[0] == "learning_rate"
    )
    assert seen == [30]


def test_the_front_of_many_points_is_that_of_comparing_all_pairs() -> None:
    rng = np.random.default_rng(0)
    study = optuna.create_study(directions=["minimize", "maximize"])
    study.add_trials([create_trial(values=pair) for pair in rng.integers(0, 12, (80, 2)).tolist()])
    points = [(a, b) for a, b in (trial.values for trial in study.trials)]
    best = [p for p in points if not any(q != p and q[0] <= p[0] and q[1] >= p[1] for q in points)]
    assert front(SearchRecord.from_study(study)) == sorted(best)
    assert front(SearchRecord.from_study(optuna.create_study(directions=["minimize", "maximize"]))) == []


def test_a_range_cuts_only_the_bad_side() -> None:
    low, high = value_range([0.3, 0.31, 0.32, 0.33, 0.35, 0.4, 90.0], minimize=True)
    assert low < 0.3
    assert high < 1
    low, high = value_range([0.9, 0.89, 0.88, 0.87, 0.86, 0.85, 0.01], minimize=False)
    assert low > 0.5
    assert high > 0.9
    assert sum(value_range([1.0], minimize=True)) / 2 == pytest.approx(1)
    low, high = value_range([1e308, -1e308, 1e308], minimize=True)
    assert high - low < 1e200


def test_importances_leave_optunas_settings_alone(study: optuna.Study) -> None:
    optuna.logging.set_verbosity(optuna.logging.INFO)
    with warnings.catch_warnings():
        importances(study, SearchRecord.from_study(study))
    assert optuna.logging.get_verbosity() == optuna.logging.INFO


def limited_study(*trials: tuple[list[float], list[float]], directions: list[str]) -> optuna.Study:
    """A study of (values, constraint values)."""
    study = optuna.create_study(directions=directions)
    for values, excess in trials:
        study.add_trial(create_trial(values=values, system_attrs={"constraints": excess}))
    return study


def test_trials_that_violate_a_constraint_are_not_the_best_and_say_what_they_exceed() -> None:
    study = limited_study(([0.5], [-1.0]), ([0.9], [0.25]), ([0.6], [0.0]), directions=["maximize"])
    search = SearchRecord.from_study(study)
    best = search.best()
    assert best is not None
    assert best.number == study.best_trial.number == 2
    assert [trial.exceeds for trial in search.trials] == [None, "0 by 0.25", None]
    assert to_dataframe(study)["exceeds"].tolist()[1] == "0 by 0.25"
    assert [row["value"] for row in datasets(search, {}, [])["incumbents"]] == [0.5, 0.6]
    assert [row["kind"] for row in datasets(search, {}, [])["trials"]] == ["complete", "infeasible", "best"]
    assert "no complete trial" not in to_html(study).lower()


def test_what_was_measured_is_named_where_the_search_stored_it() -> None:
    study = optuna.create_study()
    study.set_user_attr("rl:constraints", {"peak_memory_gb": 16.0, "seconds": 600})
    measured = {"peak_memory_gb": 17.25, "seconds": 500.0}
    attributes = {"constraints:peak_memory_gb": 0.078, "constraints:seconds": -0.2}
    study.add_trial(create_trial(value=1.0, user_attrs={"rl:measured": measured}, system_attrs=attributes))
    assert SearchRecord.from_study(study).trials[0].exceeds == "peak_memory_gb 17.25 of 16"
    assert SearchRecord.from_study(study).best() is None
    assert "No complete trial keeps to the constraints" in to_html(study)


def test_the_knee_of_a_front_is_farthest_from_the_line_between_its_ends() -> None:
    """Accuracy against seconds: giving up little accuracy saves most of the time. A better trial is infeasible."""
    points = [
        ([0.9, 100.0], [0.0]),
        ([0.88, 20.0], [0.0]),
        ([0.5, 10.0], [0.0]),
        ([0.85, 60.0], [0.0]),
        ([0.95, 5.0], [1.0]),
    ]
    search = SearchRecord.from_study(limited_study(*points, directions=["maximize", "minimize"]))
    assert front(search) == [(0.5, 10.0), (0.88, 20.0), (0.9, 100.0)]
    found = knee(search)
    assert found is not None
    assert found.number == 1
    assert [row["knee"] for row in datasets(search, {}, [])["front"]] == [False, True, False]
    assert knee(SearchRecord.from_study(limited_study(*points[:2], directions=["maximize", "minimize"]))) is None
    assert "Knee" in to_html(limited_study(*points, directions=["maximize", "minimize"]))


@pytest.mark.parametrize("state", [None, TrialState.RUNNING, TrialState.FAIL, TrialState.COMPLETE])
def test_a_report_of_several_objectives_needs_no_front(state: TrialState | None) -> None:
    """No trial at all, none that has ended, none that completed, and none that keeps to its constraint."""
    study = optuna.create_study(directions=["maximize", "minimize"])
    if state is not None:
        values = [0.9, 1.0] if state == TrialState.COMPLETE else None
        study.add_trial(create_trial(state=state, values=values, system_attrs={"constraints": [1.0]}))
    assert knee(SearchRecord.from_study(study)) is None
    assert "Knee" not in to_html(study)
