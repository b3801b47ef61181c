"""Draws every chart of a search with Altair, and writes charts as SVG or PNG files through vl-convert."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, IntDistribution

from hf_rlsearch.errors import ArgumentsError, MissingExtraError
from hf_rlsearch.optuna.storage import open_study
from hf_rlsearch.report import chart_data
from hf_rlsearch.report.analysis import importances, value_range
from hf_rlsearch.report.chart_data import Rows
from hf_rlsearch.report.chart_theme import KINDS, PALETTES, theme
from hf_rlsearch.report.format import printable, shorten_name
from hf_rlsearch.report.records import SearchRecord

try:
    import altair as alt
    import vl_convert
except ImportError as error:
    raise MissingExtraError(f"Reports and charts need {error.name}: pip install 'hf-rlsearch[report]'.") from error

PLOTS: tuple[str, ...] = (
    *("best-so-far", "trade-off", "confirmations", "metrics"),
    *("allocation", "gantt", "learning-curves"),
    *("parallel", "importance", "heat-map", "slice-<hyperparameter>"),
    *("time", "memory"),
)
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes for."""
# Pixels of an exported chart by how much of a page's width it takes; on the page the width follows the window.
_WIDTHS = {"wide": 1160, "half": 560, "small": 370}
_MAX_SLICES = 12  # the most important hyperparameters; more would bury the rest of the page
_MAX_BARS = 14
_NARROWEST = 112  # pixels per axis of the parallel coordinates, so that the names of the axes can be read
# Numbers of the trials that the reader of the page picked; the marks of all others fade. Files have none picked.
_PICKED = alt.param(name="picked", value=[])
_IS_PICKED = "(!length(picked) || indexof(picked, datum.trial) >= 0)"
_IS_STRONG = "(datum.kind == 'best' || datum.kind == 'baseline')"
_TIP = [alt.Tooltip("trial:Q")]  # the page shows all values of the trial with this number


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Name in files and links.
        title: Heading above the chart.
        caption: Text below it, may be empty.
        kind: How much of the page's width it takes: wide, half or small.
        spec: Vega-Lite without data and theme.
        min_width: Pixels that its marks need to be readable; narrower screens scroll.
    """

    name: str
    title: str
    caption: str
    kind: str
    spec: dict[str, Any]
    min_width: int = 0


def all_charts(search: SearchRecord, shares: dict[str, float]) -> tuple[dict[str, Chart], dict[str, Rows]]:
    """Draws every chart that a search has the data for.

    Args:
        search: The search.
        shares: Hyperparameter -> importance, see `analysis.importances`; may be empty.

    Returns:
        Name -> chart, and name -> rows of the data that the charts name.
    """
    ranked = list(dict.fromkeys([*shares, *search.distributions]))
    data = chart_data.datasets(search, ranked[:2])
    data["importances"] = [{"name": printable(n), "share": share} for n, share in list(shares.items())[:_MAX_BARS]]
    charts = [
        best_so_far(search, data),
        trade_off(search, data),
        confirmations(search, data),
        metrics(search, data),
        allocation(data),
        gantt(data),
        learning_curves(search, data),
        parallel(search, data),
        importance(data),
        heat_map(search, ranked[:2], data),
        *slices(search, ranked[:_MAX_SLICES], data),
        time_per_trial(data),
        memory_per_trial(data),
    ]
    return {chart.name: chart for chart in charts if chart is not None}, data


def best_so_far(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Incumbent against full trainings spent, with every trial and the expected best of random order."""
    if not data["incumbents"]:
        return None
    kind = _kind(data["trials"], "best", "expected best")
    color = kind["color"]
    baseline = [row["value"] for row in data["trials"] if row["kind"] == "baseline"]
    ended = [row for row in data["trials"] if row["spent"] is not None]
    room = alt.Scale(domain=[0, max(row["spent"] for row in ended) * 1.02 or 1], nice=False)
    x, y = alt.X("spent:Q", title="full trainings spent", scale=room), _objective(search, keep=baseline)
    trials = _rows("trials").transform_filter("isValid(datum.spent)")
    expected, incumbents = _rows("expected", "expected best"), _rows("incumbents", "best")
    rule = trials.transform_filter("datum.kind == 'baseline'").mark_rule(strokeDash=[2, 3], strokeWidth=1.5, clip=True)
    layers = [
        _points(trials.transform_filter("isValid(datum.value)"), x, y, kind),
        _outside(trials, x, color),
        expected.mark_line(strokeDash=[5, 4], strokeWidth=1.8, clip=True).encode(x, y, color=color),
        incumbents.mark_line(interpolate="step-after", strokeWidth=2.6, clip=True).encode(x, y, color=color),
    ]
    if baseline:
        layers.append(rule.encode(y=y, color=color, opacity=_faded(1), tooltip=_TIP))
    if any(row["value"] is None for row in ended):
        lost = trials.transform_filter("!isValid(datum.value)").mark_point(filled=True, y=alt.expr("height - 5"))
        layers.append(lost.encode(x, **kind, opacity=_faded(0.9), tooltip=_TIP))
    caption = (
        "The line is the best objective after so many full trainings of compute. The dashed curve is what the same "
        "complete trials would give on average in random order, after the baseline, at their mean cost and without "
        "stopping (Dodge et al. 2019, arXiv:1909.03004). Trials that were stopped stand at their last value. Triangles "
        "lie outside of the range, failed trials without a value at the bottom."
    )
    return _chart("best-so-far", "Best so far against budget", caption, "wide", alt.layer(*layers), height=300)


def trade_off(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """The first two objectives against each other; only where there are several."""
    if not data["front"]:
        return None
    kind = _kind(data["trials"])
    x = alt.X("objectives[0]:Q", title=search.metrics[0], scale=alt.Scale(zero=False))
    y = alt.Y("objectives[1]:Q", title=search.metrics[1], scale=alt.Scale(zero=False))
    line = _rows("front", "best").mark_line(interpolate="step-after", strokeWidth=1.2)
    chart = alt.layer(
        _points(_rows("trials").transform_filter("length(datum.objectives) > 1"), x, y, kind),
        line.encode(alt.X("x:Q"), alt.Y("y:Q"), color=kind["color"]),
    )
    caption = "Every complete trial; no other trial is better on both objectives than those on the line."
    return _chart("trade-off", f"{search.metrics[0]} against {search.metrics[1]}", caption, "half", chart, height=320)


def confirmations(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """The configurations that were trained again under new seeds."""
    rows = data["confirmations"]
    if not rows:
        return None
    labels = list(dict.fromkeys(row["label"] for row in rows))
    marks = {
        "seed": _rows("confirmations").mark_circle(size=80),
        "mean": _rows("confirmations").mark_tick(thickness=3, size=22),
        "in the search": _rows("confirmations").mark_point(shape="cross", angle=45, size=60, filled=True),
    }
    x = alt.X("value:Q", title=search.metrics[0], scale=alt.Scale(zero=False))
    y = alt.Y("label:N", title=None, sort=labels)
    color = _kind(rows)["color"]
    tip = [alt.Tooltip("mark:N"), alt.Tooltip("seed:Q"), alt.Tooltip("value:Q", format=".4~g"), *_TIP]
    layers = [
        chart.transform_filter(f"datum.mark == '{mark}'").encode(x, y, color=color, opacity=_faded(0.8), tooltip=tip)
        for mark, chart in marks.items()
    ]
    caption = (
        "The best of many noisy scores looks better than it is, so the best few and the baseline were trained again. "
        "Dots are new seeds, the bar is their mean, the cross is the score that the search had seen."
    )
    title, height = "The best under new seeds", 34 * len(labels)
    return _chart("confirmations", title, caption, "wide", alt.layer(*layers), height=height, zoom=())


def metrics(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Any two numbers of the trials against each other, chosen by the reader."""
    names = list(dict.fromkeys(name for row in data["trials"] for name in row["numbers"]))
    if not names:
        return None
    objectives = [name for name in map(printable, search.metrics) if name in names]
    others = [name for trial in search.trials for name in map(printable, trial.metrics) if name not in objectives]
    first = next(iter([*others, *objectives, *names]))
    vertical = alt.param(name="vertical", value=first, bind=alt.binding_select(options=names, name="vertical "))
    horizontal = alt.param(name="horizontal", value="trial", bind=alt.binding_select(options=names, name="horizontal "))
    trials = _rows("trials").transform_calculate(right="datum.numbers[horizontal]", up="datum.numbers[vertical]")
    scale = alt.Scale(zero=False, nice=False, padding=12)
    points = _points(
        trials.transform_filter("isValid(datum.right) && isValid(datum.up)"),
        alt.X("right:Q", title=None, scale=scale),
        alt.Y("up:Q", title=None, scale=scale),
        _kind(data["trials"]),
    )
    caption = "Choose any two numbers: metrics of the evaluation, objectives, hyperparameters, time, memory."
    return _chart("metrics", "Any metric", caption, "wide", points.add_params(vertical, horizontal), height=240)


def allocation(data: dict[str, Rows]) -> Chart | None:
    """How much training each trial got, one bar per trial."""
    if not data["trials"]:
        return None
    axis = alt.Axis(format="%")
    y = alt.Y("to:Q", title="share of its training", axis=axis, scale=alt.Scale(domain=[0, 1]))
    common: dict[str, Any] = {"x2": "right", "color": _kind(data["trials"])["color"], "tooltip": _TIP}
    bars = _bars("datum.begun_at", "datum.fidelity")
    layers = [bars.mark_bar(clip=True).encode(_bar_x(), y, y2="from", opacity=_faded(1), **common)]
    if any(row["begun_at"] for row in data["trials"]):
        resumed = bars.transform_filter("datum.begun_at > 0").mark_bar(clip=True)
        layers.append(resumed.encode(_bar_x(), y="from:Q", y2=alt.datum(0), opacity=_faded(0.35), **common))
    caption = (
        "One bar per trial, in the order of the search; a full bar is a complete training. Bars that end early are "
        "trainings that were not worth their price; the pale part of a bar was trained by an earlier trial, which this "
        "one resumed."
    )
    return _chart("allocation", "How much training each trial got", caption, "wide", alt.layer(*layers), height=190)


def gantt(data: dict[str, Rows]) -> Chart | None:
    """When each trial ran."""
    timed = [row for row in data["trials"] if "start" in row]
    if not timed:
        return None
    unit, name = _time_unit(max(row["end"] for row in timed))
    ends = {"left": f"datum.start / {unit}", "right": f"datum.end / {unit}", "middle": "(datum.left + datum.right) / 2"}
    spans = _rows("trials").transform_filter("isValid(datum.start)").transform_calculate(**ends)
    x = alt.X("left:Q", title=f"{name} since the start", scale=alt.Scale(nice=False), axis=alt.Axis(grid=True))
    y = alt.Y("lane:O", title=None, axis=None, scale=alt.Scale(paddingInner=0.15))
    fits = "scale('x', datum.right) - scale('x', datum.left) > 8 * length(toString(datum.trial)) + 4"
    numbers = spans.mark_text(style="on-bar", opacity=alt.expr(f"{fits} ? ({_IS_PICKED} ? 1 : 0.12) : 0"), clip=True)
    bars = spans.mark_bar(cornerRadius=2, minBandSize=2, clip=True)
    chart = alt.layer(
        bars.encode(x, y, x2="right", color=_kind(timed)["color"], opacity=_faded(1), tooltip=_TIP),
        numbers.encode(alt.X("middle:Q"), y, text="trial:Q"),
    )
    caption = (
        "Wall clock from the first trial to the last; trials that ran at the same time lie in lanes of their own, so "
        "several lanes mean several workers. Gaps are time without a training."
    )
    height = 28 * (max(row["lane"] for row in timed) + 1)
    return _chart("gantt", "When each trial ran", caption, "wide", chart, height=height, zoom=("x",))


def learning_curves(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """All learning curves on one axis, with the places where trainings were stopped."""
    rows = data["curves"]
    if not rows:
        return None
    values = [value for row in rows for value in row["values"]]
    own = [value for row in rows if row["kind"] == "baseline" for value in row["values"]]
    domain = value_range(values, minimize=search.minimize[0], keep=own, share=0.9)
    kind = _kind(rows)
    x = alt.X("steps:Q", title="% of the trial's training" if search.fractions else "step", scale=alt.Scale(zero=True))
    y = alt.Y("values:Q", title=_objective_title(search), scale=alt.Scale(domain=domain, nice=False))
    ends = _rows("curves").transform_calculate(steps="peek(datum.steps)", value="peek(datum.values)")
    lines = _rows("curves").transform_flatten(["steps", "values"]).mark_line(clip=True)
    layers = [
        lines.encode(
            *(x, y, kind["color"]),
            detail="trial:N",
            strokeWidth=alt.condition(_IS_STRONG, alt.value(2.8), alt.value(1.3)),
            opacity=alt.condition(
                f"{_IS_PICKED} && (length(picked) || {_IS_STRONG})",
                alt.value(1),
                alt.value(alt.expr("length(picked) ? 0.1 : 0.5")),
            ),
            tooltip=_TIP,
        ),
        _outside(ends, x, kind["color"]),
    ]
    if any(row["status"] != "complete" for row in rows):
        early = ends.transform_filter("datum.status != 'complete'").transform_calculate(values="datum.value")
        layers.append(_points(early, x, y, kind))
    caption = (
        "Every evaluation of every trial. A diamond is where a training was stopped on purpose; the best trial and the "
        "baseline are drawn strong. Triangles are trials that ended outside of the range."
    )
    title = "Learning curves and stop decisions"
    return _chart("learning-curves", title, caption, "wide", alt.layer(*layers), height=340)


def parallel(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """One line per trial through all hyperparameters, coloured by the rank of its objective."""
    names = [*(row["name"] for row in data["axes"]), search.metrics[0]]
    if len(names) < 2:
        return None
    labels = json.dumps([shorten_name(printable(name), 14) for name in names])
    text: dict[str, Any] = {
        "labelExpr": f"{labels}[datum.value]",
        "labelAngle": 0,
        "labelFontWeight": "bold",
        "labelPadding": 10,
    }
    axis = alt.Axis(orient="top", domain=False, ticks=False, labelOverlap=False, **text)
    x = alt.X("axis:O", title=None, scale=alt.Scale(type="point", padding=0.35), axis=axis)
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    rank = alt.Color("rank:Q", scale=alt.Scale(range="ramp", domain=[0, 1]), legend=None)
    kind = _kind([row for row in data["coordinates"] if row["kind"] in {"best", "baseline"}])
    dash = alt.condition("datum.status == 'pruned'", alt.value([4, 3]), alt.value([1, 0]))
    vertices, ticks = _rows("coordinates"), _rows("ticks")
    lines = vertices.encode(x, y, detail="trial:N", strokeDash=dash, tooltip=_TIP)
    edge = vertices.transform_filter("datum.outside").mark_point(
        filled=True, size=45, shape=alt.expr("datum.place > 0.5 ? 'triangle-up' : 'triangle-down'")
    )
    others, strong = lines.transform_filter(f"!{_IS_STRONG}"), lines.transform_filter(_IS_STRONG)
    chart = alt.layer(
        others.mark_line(strokeWidth=1.4).encode(color=rank, opacity=_faded(0.75)),
        strong.mark_line(strokeWidth=3).encode(color=kind["color"], opacity=_faded(1)),
        edge.encode(x, y, color=_silent(kind)["color"], opacity=_faded(0.9), tooltip=_TIP),
        ticks.mark_rule(style="axis").encode(x),
        *(ticks.mark_text(style=s, align="right", dx=-6).encode(x, y, text="text:N") for s in ("halo", "label")),
    ).resolve_scale(color="independent")
    caption = (
        "One line per trial, the stronger its colour the better its objective; trials that were stopped are dashed, "
        "triangles lie outside of the range. Drag over an axis to pick the trials in that part of it."
    )
    title, width = "All hyperparameters at once", _NARROWEST * len(names)
    return _chart("parallel", title, caption, "wide", chart, height=340, zoom=(), min_width=width)


def importance(data: dict[str, Rows]) -> Chart | None:
    """Bars per hyperparameter, the most important on top."""
    rows = data["importances"]
    if not rows:
        return None
    room = alt.Scale(domain=[0, 1.2 * max(row["share"] for row in rows) or 1], nice=False)  # for the numbers
    x = alt.X("share:Q", title="share of variance", axis=alt.Axis(format="%"), scale=room)
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=alt.Axis(labelLimit=190))
    tip = [alt.Tooltip("name:N", title="hyperparameter"), alt.Tooltip("share:Q", format=".1%")]
    bars = _rows("importances").encode(x, y)
    numbers = bars.mark_text(style="label", align="left", dx=4)
    chart = alt.layer(
        bars.mark_bar(cornerRadius=2).encode(tooltip=tip), numbers.encode(text=alt.Text("share:Q", format=".0%"))
    )
    caption = (
        "How much of the objective each hyperparameter explains on its own over all complete trials, by Optuna's "
        "fANOVA. With few trials this is a rough answer."
    )
    height = max(26 * len(rows), 200)
    return _chart("importance", "Which hyperparameters mattered", caption, "half", chart, height=height, linked=False)


def heat_map(search: SearchRecord, names: Sequence[str], data: dict[str, Rows]) -> Chart | None:
    """The best objective per cell of the discretised space of two hyperparameters."""
    if not data["cells"]:
        return None
    columns, lines = (chart_data.level_labels(chart_data.hyperparameter(search, name)) for name in names)
    across, up = alt.Scale(domain=columns, padding=0.04), alt.Scale(domain=lines, padding=0.04, reverse=True)
    x = alt.X("column:O", title=printable(names[0]), scale=across, axis=alt.Axis(labelAngle=0))
    y = alt.Y("row:O", title=printable(names[1]), scale=up)
    rank = alt.Color("share:Q", scale=alt.Scale(range="heatmap", domain=[0, 1]), legend=None)
    ink = alt.condition("datum.share < 0.6", alt.value("#ffffff"), alt.value("#1b2330"))
    # A regular expression, as the language of Vega cannot intersect two lists.
    has_picked = "!length(picked) || test(regexp(',(' + join(picked, '|') + '),'), ',' + join(datum.trials, ',') + ',')"
    faded = alt.condition(has_picked, alt.value(1), alt.value(0.15))
    longest = max(len(row["best"]) for row in data["cells"])
    fits = alt.expr(f"bandwidth('x') > {6.5 * longest} && bandwidth('y') > 13 ? 1 : 0")
    corner: dict[str, Any] = {
        "xOffset": alt.expr("bandwidth('x') / 2 - 7"),
        "yOffset": alt.expr("7 - bandwidth('y') / 2"),
    }
    cells = _rows("cells").encode(x, y, tooltip=[alt.Tooltip(f"{name}:N") for name in ("best", "of", "trials")])
    pruned = cells.transform_filter("datum.pruned").mark_point(shape="diamond", filled=True, size=30, **corner)
    chart = alt.layer(
        cells.mark_rect(cornerRadius=3).encode(color=rank, opacity=faded),
        cells.mark_text(opacity=fits, fontSize=10.5).encode(text="best:N", color=ink),
        pruned.encode(color=ink),
    )
    caption = (
        "The levels of the two hyperparameters that mattered most: the best objective found per cell, light is good. A "
        "diamond marks the value of a training that was stopped. Cells that were never tried are empty."
    )
    title = " × ".join(shorten_name(printable(name), 30) for name in names)
    width = "half" if data["importances"] else "wide"  # whichever leaves no hole
    return _chart("heat-map", title, caption, width, chart, height=320, zoom=())


def slices(search: SearchRecord, names: Sequence[str], data: dict[str, Rows]) -> list[Chart]:
    """Objective against each of the hyperparameters `names`, one chart each."""
    if not search.scored():
        return []
    width = "half" if len(names) in (1, 2, 4) else "small"  # two or three to a row, whichever leaves no hole
    caption = "Diamonds are trials that were stopped, at their last value; triangles lie outside of the range."
    return [_slice(search, name, "" if i else caption, width, data) for i, name in enumerate(names)]


def _slice(search: SearchRecord, name: str, caption: str, width: str, data: dict[str, Rows]) -> Chart:
    distribution, domain = search.distributions[name], chart_data.parameter_domain(search, name)
    if isinstance(distribution, CategoricalDistribution):
        scale = alt.Scale(type="point", domain=domain, padding=0.5)
        x = alt.X("place:O", title=None, scale=scale, axis=alt.Axis(labelAngle=0))
        zoom: tuple[str, ...] = ()
    else:
        is_log = getattr(distribution, "log", False)
        scale = alt.Scale(type="log" if is_log else "linear", domain=domain, nice=False, padding=8)
        step = 1 if isinstance(distribution, IntDistribution) else 0
        x, zoom = alt.X("place:Q", title=None, scale=scale, axis=alt.Axis(format="~g", tickMinStep=step)), ("x", "y")
    kind = _silent(_kind(data["trials"]))
    place = f"datum.params[{list(search.distributions).index(name)}]"
    trials = _rows("trials").transform_calculate(place=place)
    trials = trials.transform_filter("isValid(datum.place) && isValid(datum.value)")
    chart = alt.layer(_points(trials, x, _objective(search), kind), _outside(trials, x, kind["color"]))
    return _chart(f"slice-{name}", name, caption, width, chart, height=190, zoom=zoom)


def time_per_trial(data: dict[str, Rows]) -> Chart | None:
    """Wall-clock time of each trial."""
    seconds = [row["seconds"] for row in data["trials"] if row["seconds"] is not None]
    if not seconds:
        return None
    unit, name = _time_unit(max(seconds))
    bars = _cost_bars(f"datum.seconds / {unit}", name, data)
    return _chart("time", "Time per trial", "Wall-clock time, evaluations included.", "half", bars, height=220)


def memory_per_trial(data: dict[str, Rows]) -> Chart | None:
    """Peak memory of each trial, and what the process held after it."""
    peaks, held = ([row[key] for row in data["trials"] if row[key] is not None] for key in ("memory", "resident"))
    if not peaks:
        return None
    unit, name = (1e9, "GB") if max([*peaks, *held]) >= 1e9 else (1e6, "MB")
    chart = _cost_bars(f"datum.memory / {unit}", name, data)
    caption = "The most that the process or the accelerator held while the trial ran."
    if held:
        caption += " Lines: what the process still held after it; level lines mean that nothing grows."
        after = _bars("0", f"datum.resident / {unit}").transform_filter("isValid(datum.resident)")
        chart = alt.layer(chart, after.mark_rule(strokeWidth=2, clip=True).encode(_bar_x(), alt.Y("to:Q"), x2="right"))
    return _chart("memory", "Peak memory per trial", caption, "half", chart, height=220)


def _cost_bars(height: str, title: str, data: dict[str, Rows]) -> Any:
    """One bar per trial from 0 to the expression `height`."""
    bars = _bars("0", height).transform_filter("isValid(datum.to)").mark_bar(clip=True)
    y = alt.Y("to:Q", title=title, scale=alt.Scale(zero=True))
    common: dict[str, Any] = {"color": _kind(data["trials"])["color"], "opacity": _faded(1), "tooltip": _TIP}
    return bars.encode(_bar_x(), y, x2="right", y2=alt.datum(0), **common)


def _bars(low: str, high: str) -> Any:
    """Trials as bars that are 0.8 wide on an axis of trial numbers, which can be zoomed where bands cannot."""
    ends = {"left": "datum.trial - 0.4", "right": "datum.trial + 0.4", "from": low, "to": high}
    return _rows("trials").transform_calculate(**ends)


def _bar_x() -> Any:
    axis = alt.Axis(tickMinStep=1, format="d")
    return alt.X("left:Q", title="trial", scale=alt.Scale(nice=False, zero=False), axis=axis)


def _points(trials: Any, x: Any, y: Any, kind: dict[str, Any]) -> Any:
    """One mark per trial, larger for the best."""
    size = alt.condition("datum.kind == 'best'", alt.value(130), alt.value(60))
    points = trials.mark_point(filled=True, clip=True)
    return points.encode(x, y, **kind, size=size, opacity=_faded(0.85), tooltip=_TIP)


def _outside(trials: Any, x: Any, color: Any) -> Any:
    """Triangles at the edge for a `value` outside of the axis as it is zoomed now."""
    place = "scale('y', datum.value)"
    edge = trials.transform_filter("isValid(datum.value)").mark_point(
        filled=True,
        size=60,
        clip=True,
        y=alt.expr(f"clamp({place}, 5, height - 5)"),
        shape=alt.expr(f"{place} < 0 ? 'triangle-up' : 'triangle-down'"),
        opacity=alt.expr(f"{place} >= 0 && {place} <= height ? 0 : {_IS_PICKED} ? 1 : 0.12"),
    )
    return edge.encode(x, color=color, tooltip=_TIP)


def _rows(name: str, kind: str = "") -> Any:
    """A chart of some rows of the data, in the colour of `kind` where they stand for no single trial."""
    rows = alt.Chart(alt.NamedData(name))
    return rows.transform_calculate(kind=f"'{kind}'") if kind else rows


def _kind(rows: Rows, *more: str) -> dict[str, Any]:
    """Colour and shape of the kinds of trials, with a legend of those that occur in `rows` and `more`."""
    present = {row["kind"] for row in rows} | set(more)
    legend = alt.Legend(values=[kind for kind in KINDS if kind in present], symbolOpacity=1)
    shapes = alt.Scale(domain=list(KINDS), range=[shape for _, shape in KINDS.values()])
    return {
        "color": alt.Color("kind:N", scale=alt.Scale(domain=list(KINDS)), legend=legend),
        "shape": alt.Shape("kind:N", scale=shapes, legend=legend),
    }


def _silent(kind: dict[str, Any]) -> dict[str, Any]:
    """The same colour and shape without a legend, where another chart or layer has it."""
    return {channel: encoding.copy(deep=False).legend(None) for channel, encoding in kind.items()}


def _faded(opacity: float) -> Any:
    """The opacity of a mark: faint where other trials are picked."""
    return alt.condition(_IS_PICKED, alt.value(opacity), alt.value(0.12))


def _objective_title(search: SearchRecord) -> str:
    return f"{printable(search.metrics[0])} ({'smaller' if search.minimize[0] else 'larger'} is better)"


def _objective(search: SearchRecord, keep: Sequence[float] = ()) -> Any:
    """The axis of the first objective, in a range that diverged trials do not flatten."""
    values = [score for trial in search.trials if (score := trial.score()) is not None]
    domain = value_range(values, minimize=search.minimize[0], keep=keep)
    return alt.Y("value:Q", title=_objective_title(search), scale=alt.Scale(domain=domain, nice=False, zero=False))


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 10_800 else (3600.0, "hours")


def _chart(
    name: str,
    title: str,
    caption: str,
    kind: str,
    drawn: Any,
    *,
    height: int,
    zoom: Sequence[str] = ("x", "y"),
    linked: bool = True,
    min_width: int = 0,
) -> Chart:
    """Adds what all charts have: brush, zoom, the picked trials, and a width that follows the page.

    Args:
        name: See `Chart`.
        title: See `Chart`.
        caption: See `Chart`.
        kind: See `Chart`.
        drawn: An Altair chart.
        height: Height of the data area, in pixels.
        zoom: The axes that can be zoomed.
        linked: Whether its marks are trials.
        min_width: See `Chart`.
    """
    if linked:
        # The page reads the signals brush_x and brush_y, in pixels; a field named x would take the place of one.
        drag, move = (f"[pointerdown[{key}event.shiftKey], window:pointerup] > window:pointermove!" for key in "! ")
        brush = alt.selection_interval(name="brush", on=drag, translate=drag, zoom=False)
        drawn = drawn.add_params(_PICKED, brush)
        if zoom:
            wheel: dict[str, Any] = {"bind": "scales", "zoom": "wheel![event.ctrlKey]", "encodings": list(zoom)}
            drawn = drawn.add_params(alt.selection_interval(name="zoom", on=move, translate=move, **wheel))
    spec = drawn.properties(width="container", height=height).to_dict()
    spec = {key: value for key, value in spec.items() if key not in {"$schema", "config", "datasets"}}
    return Chart(name, printable(title), printable(caption), kind, spec, min_width)


def named_data(spec: Any) -> set[str]:
    """The names of the data that a chart reads."""
    if isinstance(spec, list):
        return {name for part in spec for name in named_data(part)}
    if not isinstance(spec, dict):
        return set()
    own = {spec["data"]["name"]} if isinstance(spec.get("data"), dict) and "name" in spec["data"] else set()
    return own.union(*(named_data(part) for part in spec.values()))


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that sets ``vegaEmbed``; about 0.9 MB."""
    return vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # the stub lacks a default


def write_plots(
    source: optuna.Study | str | Path, folder: str | Path, *, study_name: str | None = None, format: str = "svg"
) -> list[Path]:
    """Writes every chart of a search as a file of its own; no browser is needed.

    Args:
        source: A study, a storage URL or the file of a storage.
        folder: Where to write; made if it is not there.
        study_name: Which study of the storage; may be left out when there is one.
        format: "svg", or "png" with two pixels of the file per pixel of the chart.

    Returns:
        The files, named after the plots in PLOTS.

    Raises:
        ArgumentsError: `format` is neither.
        StorageError: There is no such storage or study.
    """
    if format not in {"svg", "png"}:
        raise ArgumentsError(f"format is {format!r}; plots can be written as 'svg' or 'png'.")
    study = open_study(source, study_name=study_name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    search = SearchRecord.from_study(study)
    charts, data = all_charts(search, importances(study, search))
    paths = []
    for chart in charts.values():
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in chart.name)
        paths.append(_write(chart, data, folder / f"{name}.{format}"))
    return paths


def _write(chart: Chart, data: dict[str, Rows], path: Path) -> Path:
    width = max(_WIDTHS[chart.kind], chart.min_width)
    spec = {**chart.spec, "width": width, "autosize": {"type": "fit-x", "contains": "padding"}, "title": chart.title}
    spec["datasets"] = {name: data[name] for name in named_data(chart.spec)}
    config = {**theme("light"), "background": PALETTES["light"]["paper"], "font": "sans-serif", "padding": 12}
    if path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, config=config, scale=2))
    else:
        path.write_text(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=config), encoding="utf-8")
    return path
