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
from hf_rlsearch.report.format import printable, shorten_name
from hf_rlsearch.report.records import SearchRecord

try:
    import altair as alt
    import vl_convert
except ImportError as error:
    raise MissingExtraError(f"Reports and charts need {error.name}: pip install 'hf-rlsearch[report]'.") from error

PLOTS: tuple[str, ...] = (
    "best-so-far",
    "trade-off",
    "confirmations",
    "metrics",
    "allocation",
    "gantt",
    "learning-curves",
    "parallel",
    "importance",
    "heat-map",
    "slice-<hyperparameter>",
    "time",
    "memory",
)
# Pixels of an exported chart by how much of a page's width it takes; on the page the width follows the window.
WIDTHS: dict[str, int] = {"wide": 1160, "half": 560, "small": 370}
_MAX_SLICES = 12  # the most important hyperparameters; more would bury the rest of the page
_MAX_BARS = 14
_NARROWEST = 112  # pixels per axis of the parallel coordinates, so that the names of the axes can be read

# Colours by role; the page has both schemes, exported files the light one.
PALETTES: dict[str, dict[str, str]] = {
    "light": {
        "ink": "#1b2330",
        "soft": "#5d6878",
        "rule": "#e3e7ee",
        "paper": "#ffffff",
        "accent": "#3457d5",
        "good": "#16895f",
        "warn": "#c77700",
        "bad": "#c8373f",
        "mute": "#a9b3c2",
        "second": "#8a4fd0",
    },
    "dark": {
        "ink": "#e6ebf2",
        "soft": "#9aa7b8",
        "rule": "#2b3442",
        "paper": "#12161d",
        "accent": "#7d9bff",
        "good": "#45c08b",
        "warn": "#eba63c",
        "bad": "#f0747b",
        "mute": "#5b687a",
        "second": "#b48cf0",
    },
}
# Kind -> colour and shape, the same in every chart. Shape as well as colour: nobody has to tell red from green.
_KINDS: dict[str, tuple[str, str]] = {
    "best": ("good", "circle"),
    "baseline": ("second", "square"),
    "complete": ("accent", "circle"),
    "pruned": ("warn", "diamond"),
    "failed": ("bad", "cross"),
    "running": ("mute", "circle"),
    "expected best": ("soft", "stroke"),
}
# Numbers of the trials that the reader of the page has picked; the marks of all others fade. In files none are picked.
_PICKED = alt.param(name="picked", value=[])
_IS_PICKED = "!length(picked) || indexof(picked, datum.trial) >= 0"
_TIP = [alt.Tooltip("trial:Q")]  # the page shows all values of the trial with this number


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: In files and links.
        title: Above it.
        caption: Below it, may be empty.
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


def theme(scheme: str) -> dict[str, Any]:
    """The Vega-Lite config of a colour scheme, "light" or "dark"."""
    colors = PALETTES[scheme]
    return {
        "background": "transparent",
        "font": "system-ui, 'Segoe UI', Roboto, 'DejaVu Sans', sans-serif",
        "view": {"stroke": None},
        "axis": {
            "domainColor": colors["mute"],
            "gridColor": colors["rule"],
            "tickColor": colors["mute"],
            "labelColor": colors["soft"],
            "titleColor": colors["soft"],
            "labelFontSize": 11,
            "titleFontSize": 12,
            "titleFontWeight": "normal",
            "labelOverlap": True,
        },
        "axisX": {"grid": False, "titlePadding": 6, "tickCount": {"expr": "max(3, ceil(width / 90))"}},
        # Above the axis and level: nobody has to turn their head.
        "axisY": {
            "titleAngle": 0,
            "titleAlign": "left",
            "titleAnchor": "end",
            "titleX": -40,
            "titleY": -12,
            "domain": False,
        },
        "legend": {
            "orient": "top",
            "title": None,
            "labelColor": colors["soft"],
            "labelFontSize": 12,
            "symbolSize": 70,
            "offset": 32,
        },
        "range": {
            "category": [colors[color] for color, _ in _KINDS.values()],
            "ramp": [colors["mute"], colors["accent"]],
            "heatmap": {"scheme": "viridis"},
        },
        "rule": {"color": colors["ink"]},
        "text": {"color": colors["ink"], "fontSize": 11},
        "tick": {"color": colors["ink"]},
        "bar": {"color": colors["accent"]},
        "style": {
            "axis": {"stroke": colors["soft"]},
            "on-bar": {"color": colors["paper"], "fontWeight": "bold"},
            "label": {"color": colors["ink"], "fontSize": 10.5},
            "halo": {"color": colors["paper"], "stroke": colors["paper"], "strokeWidth": 4, "fontSize": 10.5},
        },
    }


def all_charts(search: SearchRecord, shares: dict[str, float]) -> tuple[dict[str, Chart], dict[str, Rows]]:
    """Draws every chart that a search has the data for.

    Args:
        search: The search.
        shares: Hyperparameter -> importance, see `analysis.importances`; may be empty.

    Returns:
        Name -> chart, and name -> rows of the data that the charts name.
    """
    ranked = list(dict.fromkeys([*shares, *search.distributions]))
    lines, ticks, axes = chart_data.coordinate_rows(search)
    data: dict[str, Rows] = {
        "trials": chart_data.trial_rows(search),
        "curves": chart_data.curve_rows(search),
        "incumbents": chart_data.incumbent_rows(search),
        "expected": chart_data.expected_rows(search),
        "confirmations": chart_data.confirmation_rows(search),
        "front": chart_data.front_rows(search) if len(search.minimize) > 1 else [],
        "coordinates": lines,
        "ticks": ticks,
        "importances": [{"name": printable(n), "share": share} for n, share in list(shares.items())[:_MAX_BARS]],
    }
    charts = [
        best_so_far(search, data),
        trade_off(search, data),
        confirmations(search, data),
        metrics(search, data),
        allocation(search, data),
        gantt(search, data),
        learning_curves(search, data),
        parallel(search, axes, data),
        importance(data),
    ]
    if len(ranked) > 1:
        rows, *labels = chart_data.cell_rows(search, (ranked[0], ranked[1]))
        data["cells"] = rows
        charts.append(heat_map((ranked[0], ranked[1]), labels, data))
    charts += slices(search, ranked[:_MAX_SLICES], data)
    charts += [time_per_trial(search, data), memory_per_trial(search, data)]
    return {chart.name: chart for chart in charts if chart is not None}, data


def best_so_far(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Incumbent against full trainings spent, with every trial and the expected best of random order."""
    if not data["incumbents"]:
        return None
    kind = _kind(data["trials"], "best", "expected best")
    baseline = [row["value"] for row in data["trials"] if row["kind"] == "baseline"]
    y = _objective(search, keep=baseline)
    most = max(row["spent"] for row in data["trials"] if row["spent"] is not None)
    spent = alt.X("spent:Q", title="full trainings spent", scale=alt.Scale(domain=[0, most * 1.02 or 1], nice=False))
    trials = _trials().transform_filter("isValid(datum.spent)")
    color = kind["color"]
    layers = [
        trials.transform_filter("isValid(datum.value)")
        .mark_point(filled=True, clip=True)
        .encode(spent, y, **kind, size=_size(), opacity=_faded(0.85), tooltip=_TIP),
        *_outside(trials, kind, spent),
        *_lost(data["trials"], trials, kind, spent),
        _as_kind(alt.Chart(alt.NamedData("expected")), "expected best")
        .mark_line(strokeDash=[5, 4], strokeWidth=1.8, clip=True)
        .encode(spent, y, color=color),
        _as_kind(alt.Chart(alt.NamedData("incumbents")), "best")
        .mark_line(interpolate="step-after", strokeWidth=2.6, clip=True)
        .encode(spent, y, color=color),
    ]
    if baseline:
        rule = trials.transform_filter("datum.kind == 'baseline'").mark_rule(
            strokeDash=[2, 3], strokeWidth=1.5, clip=True
        )
        layers.append(rule.encode(y=y, color=color, opacity=_faded(1), tooltip=_TIP))
    return _chart(
        "best-so-far",
        "Best so far against budget",
        "The line is the best objective after so many full trainings of compute. The dashed curve is what the same "
        "complete trials would give on average in random order, after the baseline, at their mean cost and without "
        "stopping (Dodge et al. 2019, arXiv:1909.03004). Trials that were stopped stand at their last value. Triangles "
        "lie outside of the range, failed trials without a value at the bottom.",
        "wide",
        alt.layer(*layers),
        height=300,
    )


def trade_off(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """The first two objectives against each other; only where there are several."""
    if not data["front"]:
        return None
    kind = _kind(data["trials"])
    x, y = (
        alt.X("objectives[0]:Q", title=search.metrics[0], scale=alt.Scale(zero=False)),
        alt.Y("objectives[1]:Q", title=search.metrics[1], scale=alt.Scale(zero=False)),
    )
    trials = _trials().transform_filter("length(datum.objectives) > 1")
    layers = [
        trials.mark_point(filled=True).encode(x, y, **kind, size=_size(), opacity=_faded(0.85), tooltip=_TIP),
        _as_kind(alt.Chart(alt.NamedData("front")), "best")
        .mark_line(interpolate="step-after", strokeWidth=1.2)
        .encode(alt.X("x:Q"), alt.Y("y:Q"), color=kind["color"]),
    ]
    caption = "Every complete trial; no other trial is better on both objectives than those on the line."
    title = f"{search.metrics[0]} against {search.metrics[1]}"
    return _chart("trade-off", title, caption, "half", alt.layer(*layers), height=320)


def confirmations(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """The configurations that were trained again under new seeds."""
    rows = data["confirmations"]
    if not rows:
        return None
    kind = _kind(rows)
    x = alt.X("value:Q", title=search.metrics[0], scale=alt.Scale(zero=False))
    y = alt.Y("label:N", title=None, sort=list(dict.fromkeys(row["label"] for row in rows)))
    tip = [alt.Tooltip("mark:N"), alt.Tooltip("value:Q", format=".4~g"), *_TIP]
    every = alt.Chart(alt.NamedData("confirmations"))
    common = {"color": kind["color"], "opacity": _faded(0.8), "tooltip": tip}
    layers = [
        every.transform_filter("datum.mark != 'mean' && datum.mark != 'in the search'")
        .mark_circle(size=80)
        .encode(x, y, **common),
        every.transform_filter("datum.mark == 'mean'").mark_tick(thickness=3, size=22).encode(x, y, **common),
        every.transform_filter("datum.mark == 'in the search'")
        .mark_point(shape="cross", angle=45, size=60, filled=True)
        .encode(x, y, **common),
    ]
    caption = (
        "The best of many noisy scores looks better than it is, so the best few and the baseline were trained again. "
        "Dots are new seeds, the bar is their mean, the cross is the score that the search had seen."
    )
    height = 34 * len({row["label"] for row in rows})
    title = "The best under new seeds"
    return _chart("confirmations", title, caption, "wide", alt.layer(*layers), height=height, zoom=False)


def metrics(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Any two numbers of the trials against each other, chosen by the reader."""
    names = list(dict.fromkeys(name for row in data["trials"] for name in row["numbers"]))
    if not names:
        return None
    logged = list(dict.fromkeys(name for trial in search.trials for name in trial.metrics))
    objectives = [printable(name) for name in search.metrics]
    other = next(
        (printable(n) for n in logged if n not in search.metrics), next((n for n in objectives if n in names), names[0])
    )
    vertical = alt.param(name="vertical", value=other, bind=alt.binding_select(options=names, name="vertical "))
    horizontal = alt.param(name="horizontal", value="trial", bind=alt.binding_select(options=names, name="horizontal "))
    kind = _kind(data["trials"])
    points = (
        _trials()
        .transform_calculate(right="datum.numbers[horizontal]", up="datum.numbers[vertical]")
        .transform_filter("isValid(datum.right) && isValid(datum.up)")
        .mark_point(filled=True)
        .encode(
            alt.X("right:Q", title=None, scale=alt.Scale(zero=False, nice=False, padding=12)),
            alt.Y("up:Q", title=None, scale=alt.Scale(zero=False, nice=False, padding=12)),
            **kind,
            size=_size(),
            opacity=_faded(0.85),
            tooltip=_TIP,
        )
        .add_params(vertical, horizontal)
    )
    caption = "Choose any two numbers: metrics of the evaluation, objectives, hyperparameters, time, memory."
    return _chart("metrics", "Any metric", caption, "wide", points, height=240)


def allocation(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """How much training each trial got, one bar per trial."""
    if not data["trials"]:
        return None
    bars = _bars("datum.begun_at", "datum.fidelity")
    kind = _kind(data["trials"])
    y = alt.Y("to:Q", title="share of its training", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    common = {"x2": "right", "color": kind["color"], "tooltip": _TIP}
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


def gantt(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """When each trial ran."""
    timed = [row for row in data["trials"] if "start" in row]
    if not timed:
        return None
    unit, name = _time_unit(max(row["end"] for row in timed))
    lanes = max(row["lane"] for row in timed) + 1
    kind = _kind(timed)
    spans = _trials().transform_filter("isValid(datum.start)")
    spans = spans.transform_calculate(left=f"datum.start / {unit}", right=f"datum.end / {unit}")
    x = alt.X(
        "left:Q", title=f"{name} since the start", scale=alt.Scale(nice=False, zero=True), axis=alt.Axis(grid=True)
    )
    y = alt.Y("lane:O", title=None, axis=None, scale=alt.Scale(paddingInner=0.15))
    fits = "scale('x', datum.right) - scale('x', datum.left) > 8 * length(toString(datum.trial)) + 4"
    inside = alt.expr(f"{fits} ? ({_IS_PICKED} ? 1 : 0.08) : 0")
    layers = [
        spans.mark_bar(cornerRadius=2, minBandSize=2, clip=True).encode(
            x, y, x2="right", color=kind["color"], opacity=_faded(1), tooltip=_TIP
        ),
        spans.transform_calculate(middle="(datum.left + datum.right) / 2")
        .mark_text(style="on-bar", opacity=inside, clip=True)
        .encode(alt.X("middle:Q"), y, text="trial:Q"),
    ]
    caption = (
        "Wall clock from the first trial to the last; trials that ran at the same time lie in lanes of their own, so "
        "several lanes mean several workers. Gaps are time without a training."
    )
    return _chart("gantt", "When each trial ran", caption, "wide", alt.layer(*layers), height=28 * lanes, zoom="x")


def learning_curves(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """All learning curves on one axis, with the places where trainings were stopped."""
    rows = data["curves"]
    if not rows:
        return None
    baseline = search.baseline()
    values = [v for row in rows for v in row["values"]]
    own = [v for _, v in baseline.curve] if baseline else []
    domain = value_range(values, minimize=search.minimize[0], keep=own, share=0.9)
    kind = _kind(rows)
    x = alt.X("steps:Q", title="% of the trial's training" if search.fractions else "step", scale=alt.Scale(zero=True))
    y = alt.Y("values:Q", title=_objective_title(search), scale=alt.Scale(domain=domain, nice=False, zero=False))
    curves = alt.Chart(alt.NamedData("curves"))
    lines = curves.transform_flatten(["steps", "values"])
    strong = "datum.kind == 'best' || datum.kind == 'baseline'"
    ends = curves.transform_calculate(steps="peek(datum.steps)", values="peek(datum.values)")
    ends = ends.transform_calculate(value="datum.values")
    layers = [
        lines.mark_line(clip=True).encode(
            x,
            y,
            color=kind["color"],
            detail="trial:N",
            strokeWidth=alt.condition(strong, alt.value(2.8), alt.value(1.3)),
            opacity=alt.condition(f"({_IS_PICKED}) && (length(picked) || {strong})", alt.value(1), _unless_picked(0.5)),
            tooltip=_TIP,
        ),
        *_outside(ends, kind, x),
    ]
    if any(row["status"] != "complete" for row in rows):
        early = ends.transform_filter("datum.status != 'complete'").mark_point(filled=True, clip=True, size=55)
        layers.append(early.encode(x, y, **kind, opacity=_faded(0.9), tooltip=_TIP))
    caption = (
        "Every evaluation of every trial. A diamond is where a training was stopped on purpose; the best trial and the "
        "baseline are drawn strong. Triangles are trials that ended outside of the range."
    )
    return _chart(
        "learning-curves", "Learning curves and stop decisions", caption, "wide", alt.layer(*layers), height=340
    )


def parallel(search: SearchRecord, names: Sequence[str], data: dict[str, Rows]) -> Chart | None:
    """One line per trial through all hyperparameters, coloured by the rank of its objective."""
    if not names:
        return None
    kind = _kind([row for row in data["coordinates"] if row["kind"] in {"best", "baseline"}])
    labels = json.dumps([shorten_name(printable(name), 14) for name in (*names, search.metrics[0])])
    x = alt.X(
        "axis:O",
        title=None,
        scale=alt.Scale(type="point", padding=0.35),
        axis=alt.Axis(
            orient="top",
            domain=False,
            ticks=False,
            labelAngle=0,
            labelFontWeight="bold",
            labelPadding=10,
            labelExpr=f"{labels}[datum.value]",
            labelOverlap=False,
        ),
    )
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    vertices = alt.Chart(alt.NamedData("coordinates"))
    dash = alt.condition("datum.status == 'pruned'", alt.value([4, 3]), alt.value([1, 0]))
    common = {"detail": "trial:N", "strokeDash": dash, "tooltip": _TIP}
    own = "datum.kind == 'best' || datum.kind == 'baseline'"
    ticks = alt.Chart(alt.NamedData("ticks"))
    layers = [
        vertices.transform_filter(f"!({own})")
        .mark_line(strokeWidth=1.4)
        .encode(
            x,
            y,
            color=alt.Color("rank:Q", scale=alt.Scale(range="ramp", domain=[0, 1]), legend=None),
            opacity=_faded(0.75),
            **common,
        ),
        vertices.transform_filter(own)
        .mark_line(strokeWidth=3)
        .encode(x, y, color=kind["color"], opacity=_faded(1), **common),
        vertices.transform_filter("datum.outside")
        .mark_point(filled=True, size=45, shape=alt.expr("datum.place > 0.5 ? 'triangle-up' : 'triangle-down'"))
        .encode(x, y, color=_silent(kind)["color"], opacity=_faded(0.9), tooltip=_TIP),
        ticks.mark_rule(style="axis").encode(x),
        ticks.mark_text(style="halo", align="right", dx=-6).encode(x, y, text="text:N"),
        ticks.mark_text(style="label", align="right", dx=-6).encode(x, y, text="text:N"),
    ]
    caption = (
        "One line per trial, the stronger its colour the better its objective; trials that were stopped are dashed, "
        "triangles lie outside of the range. Drag over an axis to pick the trials in that part of it."
    )
    chart = alt.layer(*layers).resolve_scale(color="independent")
    return _chart(
        "parallel",
        "All hyperparameters at once",
        caption,
        "wide",
        chart,
        height=340,
        zoom=False,
        min_width=_NARROWEST * (len(names) + 1),
    )


def importance(data: dict[str, Rows]) -> Chart | None:
    """Bars per hyperparameter, the most important on top."""
    rows = data["importances"]
    if not rows:
        return None
    bars = alt.Chart(alt.NamedData("importances"))
    room = alt.Scale(domain=[0, 1.2 * max(row["share"] for row in rows) or 1], nice=False)  # for the numbers
    x = alt.X("share:Q", title="share of variance", axis=alt.Axis(format="%"), scale=room)
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=alt.Axis(labelLimit=190))
    tip = [alt.Tooltip("name:N", title="hyperparameter"), alt.Tooltip("share:Q", format=".1%")]
    layers = [
        bars.mark_bar(cornerRadius=2).encode(x, y, tooltip=tip),
        bars.mark_text(style="label", align="left", dx=4).encode(x, y, text=alt.Text("share:Q", format=".0%")),
    ]
    caption = (
        "How much of the objective each hyperparameter explains on its own over all complete trials, by Optuna's "
        "fANOVA. With few trials this is a rough answer."
    )
    height = max(26 * len(rows), 200)
    return _chart(
        "importance", "Which hyperparameters mattered", caption, "half", alt.layer(*layers), height=height, linked=False
    )


def heat_map(names: tuple[str, str], labels: list[list[str]], data: dict[str, Rows]) -> Chart | None:
    """The best objective per cell of the discretised space of two hyperparameters."""
    if not data["cells"]:
        return None
    x = alt.X(
        "column:O",
        title=printable(names[0]),
        scale=alt.Scale(domain=labels[0], padding=0.04),
        axis=alt.Axis(labelAngle=0),
    )
    y = alt.Y("row:O", title=printable(names[1]), scale=alt.Scale(domain=labels[1], reverse=True, padding=0.04))
    tip = [alt.Tooltip(f"{name}:N") for name in ("best", "of", "trials")]
    longest = max(len(row["best"]) for row in data["cells"])
    fits = alt.expr(f"bandwidth('x') > {6.5 * longest} && bandwidth('y') > 13 ? 1 : 0")
    # A regular expression, as the language of Vega cannot intersect two lists.
    has_picked = "!length(picked) || test(regexp(',(' + join(picked, '|') + '),'), ',' + join(datum.trials, ',') + ',')"
    ink = alt.condition("datum.share < 0.6", alt.value("#ffffff"), alt.value("#1b2330"))
    cells = alt.Chart(alt.NamedData("cells"))
    layers = [
        cells.mark_rect(cornerRadius=3).encode(
            x,
            y,
            color=alt.Color("share:Q", scale=alt.Scale(range="heatmap", domain=[0, 1]), legend=None),
            opacity=alt.condition(has_picked, alt.value(1), alt.value(0.15)),
            tooltip=tip,
        ),
        cells.mark_text(opacity=fits, fontSize=10.5).encode(x, y, text="best:N", color=ink),
        cells.transform_filter("datum.pruned")
        .mark_point(
            shape="diamond",
            filled=True,
            size=30,
            xOffset=alt.expr("bandwidth('x') / 2 - 7"),
            yOffset=alt.expr("7 - bandwidth('y') / 2"),
        )
        .encode(x, y, color=ink),
    ]
    title = f"{shorten_name(printable(names[0]), 30)} × {shorten_name(printable(names[1]), 30)}"
    caption = (
        "The levels of the two hyperparameters that mattered most: the best objective found per cell, light is good. A "
        "diamond marks the value of a training that was stopped. Cells that were never tried are empty."
    )
    return _chart("heat-map", title, caption, "half", alt.layer(*layers), height=320, zoom=False)


def slices(search: SearchRecord, names: Sequence[str], data: dict[str, Rows]) -> list[Chart]:
    """Objective against each of the hyperparameters `names`, one chart each."""
    if not search.scored():
        return []
    order = list(search.distributions)
    charts = [_slice(search, name, order.index(name), data) for name in names]
    size = "half" if len(names) in (1, 2, 4) else "small"  # two or three to a row, whichever leaves no hole
    caption = "Diamonds are trials that were stopped, at their last value; triangles lie outside of the range."
    return [
        _chart(f"slice-{name}", name, "" if i else caption, size, chart, height=190, zoom=zoom)
        for i, (name, (chart, zoom)) in enumerate(zip(names, charts, strict=True))
    ]


def _slice(search: SearchRecord, name: str, index: int, data: dict[str, Rows]) -> tuple[Any, Any]:
    domain = chart_data.parameter_domain(search, name)
    distribution = search.distributions[name]
    is_choice = isinstance(distribution, CategoricalDistribution)
    axis: dict[str, Any] = {"title": None}
    if is_choice:
        axis |= {"scale": alt.Scale(type="point", domain=domain, padding=0.5), "axis": alt.Axis(labelAngle=0)}
    else:
        is_log = getattr(distribution, "log", False)
        axis |= {"scale": alt.Scale(type="log" if is_log else "linear", domain=domain, nice=False, padding=8)}
        axis |= {"axis": alt.Axis(format="~g", tickMinStep=1 if isinstance(distribution, IntDistribution) else 0)}
    x = alt.X(f"place:{'O' if is_choice else 'Q'}", **axis)
    kind = _silent(_kind(data["trials"]))
    trials = _trials().transform_calculate(place=f"datum.params[{index}]").transform_filter("isValid(datum.place)")
    points = (
        trials.transform_filter("isValid(datum.value)")
        .mark_point(filled=True, clip=True)
        .encode(x, _objective(search), **kind, size=_size(), opacity=_faded(0.7), tooltip=_TIP)
    )
    return alt.layer(points, *_outside(trials, kind, x)), not is_choice


def time_per_trial(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Wall-clock time of each trial."""
    seconds = [row["seconds"] for row in data["trials"] if row["seconds"] is not None]
    if not seconds:
        return None
    unit, name = _time_unit(max(seconds))
    chart = _trial_bars(f"datum.seconds / {unit}", name, data)
    return _chart(
        "time", "Time per trial", "Wall-clock time of each trial, evaluations included.", "half", chart, height=220
    )


def memory_per_trial(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Peak memory of each trial, and what the process held after it."""
    held = [row[key] for row in data["trials"] for key in ("memory", "resident") if row[key] is not None]
    if not any(row["memory"] is not None for row in data["trials"]):
        return None
    unit, name = (1e9, "GB") if max(held) >= 1e9 else (1e6, "MB")
    chart = _trial_bars(f"datum.memory / {unit}", name, data)
    caption = "The most that the process or the accelerator held while the trial ran."
    if any(row["resident"] is not None for row in data["trials"]):
        caption += " Lines: what the process still held after it; level lines mean that nothing grows."
        after = _bars("0", f"datum.resident / {unit}").transform_filter("isValid(datum.resident)")
        chart = alt.layer(chart, after.mark_rule(strokeWidth=2, clip=True).encode(_bar_x(), alt.Y("to:Q"), x2="right"))
    return _chart("memory", "Peak memory per trial", caption, "half", chart, height=220)


def _trial_bars(height: str, title: str, data: dict[str, Rows]) -> Any:
    """One bar per trial from 0 to the expression `height`."""
    bars = _bars("0", height).transform_filter("isValid(datum.to)")
    kind = _kind(data["trials"])
    y = alt.Y("to:Q", title=title, scale=alt.Scale(zero=True))
    return bars.mark_bar(clip=True).encode(
        _bar_x(), y, x2="right", y2=alt.datum(0), color=kind["color"], opacity=_faded(1), tooltip=_TIP
    )


def _bars(low: str, high: str) -> Any:
    """Trials as bars that are 0.8 wide on an axis of trial numbers, which can be zoomed where bands cannot."""
    return _trials().transform_calculate(
        **{"left": "datum.trial - 0.4", "right": "datum.trial + 0.4", "from": low, "to": high}
    )


def _bar_x() -> Any:
    return alt.X(
        "left:Q", title="trial", scale=alt.Scale(nice=False, zero=False), axis=alt.Axis(tickMinStep=1, format="d")
    )


def _trials() -> Any:
    return alt.Chart(alt.NamedData("trials"))


def _kind(rows: Rows, *more: str) -> dict[str, Any]:
    """Colour and shape of the kinds of trials, with a legend of those that occur in `rows` and `more`."""
    present = {row["kind"] for row in rows} | set(more)
    legend = alt.Legend(values=[kind for kind in _KINDS if kind in present], symbolOpacity=1)
    shapes = alt.Scale(domain=list(_KINDS), range=[shape for _, shape in _KINDS.values()])
    return {
        "color": alt.Color("kind:N", scale=alt.Scale(domain=list(_KINDS)), legend=legend),
        "shape": alt.Shape("kind:N", scale=shapes, legend=legend),
    }


def _silent(kind: dict[str, Any]) -> dict[str, Any]:
    """The same colour and shape without a legend, where another chart or layer has it."""
    return {channel: encoding.copy(deep=False).legend(None) for channel, encoding in kind.items()}


def _as_kind(rows: Any, kind: str) -> Any:
    """`rows` in the colour of one kind, for a line that stands for no single trial."""
    return rows.transform_calculate(kind=f"'{kind}'")


def _size() -> Any:
    return alt.condition("datum.kind == 'best'", alt.value(130), alt.value(60))


def _faded(opacity: float) -> Any:
    """The opacity of a mark: faint where other trials are picked."""
    return alt.condition(_IS_PICKED, alt.value(opacity), alt.value(0.08))


def _unless_picked(opacity: float) -> Any:
    return alt.value(alt.expr(f"length(picked) ? 0.06 : {opacity}"))


def _objective_title(search: SearchRecord) -> str:
    return f"{printable(search.metrics[0])} ({'smaller' if search.minimize[0] else 'larger'} is better)"


def _objective(search: SearchRecord, keep: Sequence[float] = ()) -> Any:
    """The axis of the first objective, in a range that diverged trials do not flatten."""
    values = [t.values[0] for t in search.scored() if t.values]
    domain = value_range(values, minimize=search.minimize[0], keep=keep)
    return alt.Y("value:Q", title=_objective_title(search), scale=alt.Scale(domain=domain, nice=False, zero=False))


def _outside(trials: Any, kind: dict[str, Any], x: Any) -> list[Any]:
    """Triangles at the edge for values outside of the axis as it is zoomed now."""
    place = "scale('y', datum.value)"
    edge = trials.transform_filter("isValid(datum.value)").mark_point(
        filled=True,
        size=60,
        clip=True,
        y=alt.expr(f"clamp({place}, 5, height - 5)"),
        shape=alt.expr(f"{place} < 0 ? 'triangle-up' : 'triangle-down'"),
        opacity=alt.expr(f"{place} >= 0 && {place} <= height ? 0 : {_IS_PICKED} ? 1 : 0.08"),
    )
    return [edge.encode(x, color=kind["color"], tooltip=_TIP)]


def _lost(rows: Rows, trials: Any, kind: dict[str, Any], x: Any) -> list[Any]:
    """Trials that ended without any value, at the bottom."""
    if all(row["value"] is not None for row in rows if row["spent"] is not None):
        return []
    points = trials.transform_filter("!isValid(datum.value)").mark_point(filled=True, size=60, y=alt.expr("height - 5"))
    return [points.encode(x, **kind, opacity=_faded(0.9), tooltip=_TIP)]


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
    zoom: bool | str = True,
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
        height: Of the data area, in pixels.
        zoom: True to zoom both axes, "x" for one, False for axes that cannot be zoomed.
        linked: Whether its marks are trials.
        min_width: See `Chart`.
    """
    if linked:
        # The page reads the signals brush_x and brush_y, in pixels; a field named x would take the place of one.
        drag = "[pointerdown[{}event.shiftKey], window:pointerup] > window:pointermove!"
        drawn = drawn.add_params(
            _PICKED, alt.selection_interval(name="brush", on=drag.format("!"), translate=drag.format("!"), zoom=False)
        )
        if zoom:
            drawn = drawn.add_params(
                alt.selection_interval(
                    name="zoom",
                    bind="scales",
                    encodings=["x"] if zoom == "x" else ["x", "y"],
                    on=drag.format(""),
                    translate=drag.format(""),
                    zoom="wheel![event.ctrlKey]",
                )
            )
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
    return [_write(chart, data, folder / f"{_file_name(chart.name)}.{format}") for chart in charts.values()]


def _write(chart: Chart, data: dict[str, Rows], path: Path) -> Path:
    width = max(WIDTHS[chart.kind], chart.min_width)
    spec = {**chart.spec, "width": width, "autosize": {"type": "fit-x", "contains": "padding"}, "title": chart.title}
    spec["datasets"] = {name: data[name] for name in named_data(chart.spec)}
    config = {**theme("light"), "background": PALETTES["light"]["paper"], "font": "sans-serif", "padding": 12}
    if path.suffix == ".png":
        path.write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, config=config, scale=2))
    else:
        path.write_text(vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=config), encoding="utf-8")
    return path


VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes for."""


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that sets ``vegaEmbed``; about 0.9 MB."""
    return vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # the stub lacks a default


def _file_name(name: str) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in name)
