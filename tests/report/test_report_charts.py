import json
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import optuna
import pytest
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState, create_trial

from hf_rlsearch.errors import ArgumentsError, MissingExtraError
from hf_rlsearch.report import PLOTS, SearchRecord, write_plots
from hf_rlsearch.report.analysis import importances
from hf_rlsearch.report.chart_data import Axis, Rows
from hf_rlsearch.report.charts import KINDS, PALETTES, Chart, all_charts, named_data, theme

ALWAYS = {name for name in PLOTS if "<" not in name} - {"trade-off", "confirmations"}


@pytest.fixture(scope="module")
def drawn(study: optuna.Study) -> tuple[dict[str, Chart], dict[str, Rows]]:
    search = SearchRecord.from_study(study)
    return all_charts(search, importances(study, search))


def draw(study: optuna.Study) -> tuple[dict[str, Chart], dict[str, Rows]]:
    return all_charts(SearchRecord.from_study(study), {})


def parts(spec: Any) -> list[dict[str, Any]]:
    """Every dict in a specification."""
    if isinstance(spec, list):
        return [found for part in spec for found in parts(part)]
    return [spec, *(found for part in spec.values() for found in parts(part))] if isinstance(spec, dict) else []


def test_every_chart_is_drawn(drawn: tuple[dict[str, Chart], dict[str, Rows]], study: optuna.Study) -> None:
    charts, _ = drawn
    assert set(charts) == ALWAYS | {f"slice-{name}" for name in study.best_params}


def test_charts_name_data_that_is_there(drawn: tuple[dict[str, Chart], dict[str, Rows]]) -> None:
    charts, data = drawn
    for chart in charts.values():
        assert named_data(chart.spec) <= {name for name, rows in data.items() if rows}, chart.name


def test_every_chart_of_trials_has_tooltips_brush_and_the_one_selection(
    drawn: tuple[dict[str, Chart], dict[str, Rows]],
) -> None:
    charts, _ = drawn
    for chart in charts.values():
        params = {
            part["name"] for part in parts(chart.spec) if "name" in part and ("select" in part or "value" in part)
        }
        assert "tooltip" in json.dumps(chart.spec), chart.name
        if chart.name == "importance":  # its bars are hyperparameters
            continue
        assert {"picked", "brush"} <= params, chart.name
        assert "indexof(picked" in json.dumps(chart.spec) or "join(picked" in json.dumps(chart.spec), chart.name


def test_one_colour_and_shape_for_each_kind_in_every_chart(drawn: tuple[dict[str, Chart], dict[str, Rows]]) -> None:
    charts, _ = drawn
    for channel in ("color", "shape"):
        scales = [
            json.dumps(part[channel]["scale"])
            for chart in charts.values()
            for part in parts(chart.spec)
            if isinstance(part.get(channel), dict) and part[channel].get("field") == "kind"
        ]
        assert len(scales) > 5
        assert len(set(scales)) == 1
    for scheme, colors in PALETTES.items():
        assert len(set(theme(scheme)["range"]["category"])) == len(KINDS)
        assert set(theme(scheme)["range"]["category"]) <= set(colors.values())


def test_pruned_trials_stand_at_their_last_value_not_on_the_floor(
    drawn: tuple[dict[str, Chart], dict[str, Rows]],
) -> None:
    charts, data = drawn
    pruned = [row for row in data["trials"] if row["status"] == "pruned"]
    curves = {row["trial"]: row["values"] for row in data["curves"]}
    assert pruned
    for row in pruned:
        assert row["value"] == pytest.approx(curves[row["trial"]][-1], rel=1e-5)
    assert "height - 5" not in json.dumps(charts["best-so-far"].spec).replace(
        "clamp(scale('y', datum.value), 5, height - 5)", ""
    )


def test_failed_trials_without_a_value_lie_at_the_bottom(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(5)
    study.add_trial(create_trial(state=TrialState.FAIL))
    charts, _ = draw(study)
    assert any(part.get("y") == {"expr": "height - 5"} for part in parts(charts["best-so-far"].spec))


def test_expected_best_and_incumbent_begin_with_trial_0_at_its_cost() -> None:
    study = optuna.create_study(direction="maximize")
    for number, (value, cost) in enumerate([(0.5, 1.0), (0.6, 3.0), (0.4, 1.0), (0.8, 2.0)]):
        attrs = {"rl:role": "baseline" if number == 0 else "search", "rl:cost": cost, "rl:spent": cost}
        study.add_trial(create_trial(value=value, user_attrs=attrs))
    _, data = draw(study)
    expected = data["expected"]
    incumbent = [(row["spent"], row["value"]) for row in data["incumbents"]]
    assert (expected[0]["spent"], expected[0]["value"]) == incumbent[0] == (1.0, 0.5)
    assert [row["spent"] for row in expected] == [1.0, 3.0, 5.0, 7.0]  # a drawn trial costs 2 on average
    assert expected[1]["value"] == pytest.approx((0.6 + 0.5 + 0.8) / 3)  # the baseline is better than the worst draw
    assert incumbent[-1][0] == expected[-1]["spent"]


@pytest.mark.parametrize("name", ["best-so-far", "learning-curves", "slice-learning_rate"])
def test_values_outside_of_the_range_are_marked(drawn: tuple[dict[str, Chart], dict[str, Rows]], name: str) -> None:
    charts, _ = drawn
    assert any("triangle-up" in str(part.get("shape")) for part in parts(charts[name].spec))


def test_values_outside_of_the_range_are_marked_in_parallel_coordinates() -> None:
    study = optuna.create_study()
    for x in (1.0, 1.1, 1.2, 1.3, 90.0):
        study.add_trial(create_trial(value=x, params={"x": x / 100}, distributions={"x": FloatDistribution(0, 1)}))
    charts, data = draw(study)
    assert [row["trial"] for row in data["coordinates"] if row["outside"]] == [4]
    assert "datum.outside" in json.dumps(charts["parallel"].spec)


def test_a_pruned_value_is_marked_in_the_heat_map_and_numbers_that_do_not_fit_are_hidden(
    drawn: tuple[dict[str, Chart], dict[str, Rows]],
) -> None:
    charts, data = drawn
    status = {row["trial"]: row["status"] for row in data["trials"]}
    best = {row["column"] + row["row"]: int(re.findall(r"trial (\d+)", row["of"])[0]) for row in data["cells"]}
    assert {row["pruned"] for row in data["cells"]} == {True, False}
    assert all(row["pruned"] == (status[best[row["column"] + row["row"]]] != "complete") for row in data["cells"])
    (texts,) = [part for part in parts(charts["heat-map"].spec) if part.get("type") == "text"]
    assert "bandwidth('x')" in texts["opacity"]["expr"]


def test_any_logged_metric_can_be_chosen() -> None:
    study = optuna.create_study(direction="maximize")
    study.set_user_attr("rl:objective", {"names": ["eval_f1"]})
    for value in (0.1, 0.2):
        metrics = {"eval_f1": value, "eval_loss": 1 - value, "eval_recall": value / 2}
        study.add_trial(create_trial(value=value, user_attrs={"rl:metrics": metrics}))
    charts, data = draw(study)
    params = {p["name"]: p for p in parts(charts["metrics"].spec) if "bind" in p}
    assert {"eval_f1", "eval_loss", "eval_recall", "trial"} <= set(params["vertical"]["bind"]["options"])
    assert params["vertical"]["value"] == "eval_loss"
    assert [row["numbers"]["eval_recall"] for row in data["trials"]] == [0.05, 0.1]


def test_files_are_written(study: optuna.Study, tmp_path: Path) -> None:
    paths = write_plots(study, tmp_path / "new", format="svg")
    assert {p.stem for p in paths} >= ALWAYS
    assert all(p.read_text(encoding="utf-8").startswith("<svg") for p in paths)


def test_png_files_are_pictures(make_study: Callable[..., optuna.Study], tmp_path: Path) -> None:
    image = pytest.importorskip("PIL.Image")
    paths = write_plots(make_study(5), tmp_path, format="png")
    gantt = image.open(next(p for p in paths if p.stem == "gantt"))
    assert gantt.width == pytest.approx(2 * 1160, abs=60)
    assert len(gantt.convert("RGB").getcolors(100_000)) > 5


def test_unknown_format_is_refused(study: optuna.Study, tmp_path: Path) -> None:
    with pytest.raises(ArgumentsError, match="'bmp'; plots can be written as 'svg' or 'png'"):
        write_plots(study, tmp_path, format="bmp")
    assert list(tmp_path.iterdir()) == []


def test_several_objectives_are_traded_off() -> None:
    study = optuna.create_study(directions=["minimize", "maximize"], sampler=optuna.samplers.RandomSampler(seed=0))
    study.optimize(lambda t: (t.suggest_float("x", 0, 1) ** 2, t.params["x"]), n_trials=8)
    charts, data = draw(study)
    assert {"trade-off", "best-so-far", "slice-x"} <= set(charts)
    assert len(data["front"]) == 8  # more x is worse in one and better in the other: nothing is beaten


def test_workers_get_lanes(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(6)
    assert {row["lane"] for row in draw(study)[1]["trials"]} == {0}
    trials = study.get_trials()
    for trial in trials[1:]:
        trial.datetime_start = trials[0].datetime_start
    both = optuna.create_study()
    both.add_trials(trials)
    charts, data = draw(both)
    assert max(row["lane"] for row in data["trials"]) > 0
    assert charts["gantt"].spec["height"] > draw(study)[0]["gantt"].spec["height"]


def test_memory_that_is_still_held_after_each_trial_is_a_line(drawn: tuple[dict[str, Chart], dict[str, Rows]]) -> None:
    charts, data = drawn
    assert "datum.resident" in json.dumps(charts["memory"].spec)
    assert {row["resident"] for row in data["trials"]} == {3.9e8}
    _, lines = charts["memory"].spec["layer"]
    assert {"filter": "isValid(datum.resident)"} in lines["transform"]  # no line at zero for an unmeasured trial


def test_a_resumed_training_is_paler_where_an_earlier_trial_trained_it(make_study: Callable[..., optuna.Study]) -> None:
    study = make_study(3)
    assert len(draw(study)[0]["allocation"].spec["layer"]) == 1
    study.add_trial(create_trial(value=0.7, user_attrs={"rl:started_at": 2500, "rl:continues": 1, "rl:role": "search"}))
    charts, data = draw(study)
    assert {row["trial"]: row["started_at"] for row in data["trials"]}[3] == 0.25
    strong, pale = charts["allocation"].spec["layer"]
    assert "datum.started_at" in json.dumps(strong["transform"])
    assert pale["encoding"]["opacity"]["condition"]["value"] == 0.35


def test_axes_hold_values_outside_of_the_distribution() -> None:
    study = optuna.create_study()
    rate, kind = FloatDistribution(1e-4, 1e-2, log=True), CategoricalDistribution([True, False])
    for given in ({"rate": 1e-5, "kind": 1}, {"rate": 0.0, "kind": [2]}):
        trial = create_trial(
            value=1.0,
            params={"rate": 1e-3, "kind": True, "n": 2},
            distributions={"rate": rate, "kind": kind, "n": IntDistribution(2, 2)},
            user_attrs={"rl:hyperparameters": given},
        )
        study.add_trial(trial)
    search = SearchRecord.from_study(study)
    axes = {name: Axis.of_hyperparameter(search, name) for name in search.distributions}
    assert axes["rate"].domain == [1e-5, 1e-2]
    assert axes["rate"].values == {0: 1e-5}  # zero has no place on a logarithmic axis
    assert axes["kind"].domain == ["True", "False", "1", "[2]"]
    assert axes["kind"].values == {0: "1", 1: "[2]"}
    low, high = axes["n"].domain
    assert low < 2 < high


def test_without_the_extra_the_report_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, study: optuna.Study
) -> None:
    import hf_rlsearch.report as report

    for name in ("charts", "html"):
        monkeypatch.delitem(sys.modules, f"hf_rlsearch.report.{name}", raising=False)
    monkeypatch.setitem(sys.modules, "altair", None)
    with pytest.raises(MissingExtraError, match=r"need altair: pip install 'hf-rlsearch\[report\]'"):
        _ = report.write_report
    assert report.to_text(study)
    assert report.explain(study, 0).to_text()
