"""Draws every chart of a search with Altair, and writes charts as SVG or PNG files through vl-convert."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from string import Template
from typing import Any

import optuna
from optuna.distributions import BaseDistribution

from hf_rlsearch.errors import ArgumentsError, MissingExtraError, SearchSpaceError
from hf_rlsearch.optuna.storage import open_study
from hf_rlsearch.report.analysis import importances, value_range
from hf_rlsearch.report.chart_data import LABEL_WIDTH, Axis, Rows, datasets
from hf_rlsearch.report.format import choice_labels, printable, shorten_name
from hf_rlsearch.report.records import SearchRecord
from hf_rlsearch.space import Hyperparameter, infer_role

try:
    import altair as alt
    import vl_convert
except ImportError as error:
    raise MissingExtraError(f"Reports and charts need {error.name}: pip install 'hf-rlsearch[report]'.") from error

# One line for each section of the page.
PLOTS: tuple[str, ...] = (
    *("best-so-far", "trade-off", "confirmations", "metrics"),
    *("allocation", "gantt", "learning-curves"),
    *("parallel", "importance", "heat-map", "slice-<hyperparameter>"),
    *("time", "memory"),
)
VEGA_LITE = ".".join(alt.SCHEMA_VERSION.lstrip("v").split(".")[:2])
"""The version of Vega-Lite that Altair writes for."""
_THEME = json.loads(files("hf_rlsearch.report").joinpath("theme.json").read_text(encoding="utf-8"))
# Scheme -> role -> colour; the page has both schemes, exported files the light one.
PALETTES: dict[str, dict[str, str]] = _THEME["palettes"]
# Kind -> role of its colour, and shape; the same in every chart. Shapes help readers who cannot tell red from green.
KINDS: dict[str, tuple[str, str]] = _THEME["kinds"]
# Pixels of an exported chart by how much of a page's width it takes; on the page the width follows the window.
_WIDTHS = {"wide": 1160, "half": 560, "small": 370}
_MAX_SLICES = 12  # the most important hyperparameters; more would bury the rest of the page
_MAX_BARS = 14
_NARROWEST = 112  # pixels per axis of the parallel coordinates, so that the names of the axes can be read
# Numbers of the trials that the reader of the page picked; the marks of all others fade. Files have none picked.
_PICKED = alt.param(name="picked", value=[])
_IS_PICKED = "(!length(picked) || indexof(picked, datum.trial) >= 0)"
# Vega expression that is true for the marks that stand out.
_IS_STRONG = "(datum.kind == 'best' || datum.kind == 'baseline')"
_TIP = [alt.Tooltip("trial:Q")]  # the page shows all values of the trial with this number


@dataclass(frozen=True)
class Chart:
    """One chart.

    Attributes:
        name: Name in files and links.
        title: Heading above the chart.
        kind: How much of the page's width it takes: wide, half or small.
        spec: Vega-Lite without data and theme.
        min_width: Pixels that its marks need to be readable; narrower screens scroll.
    """

    name: str
    title: str
    kind: str
    spec: dict[str, Any]
    min_width: int = 0


def theme(scheme: str) -> dict[str, Any]:
    """Returns the Vega-Lite config of a colour scheme, "light" or "dark"."""
    colors = PALETTES[scheme]
    config: dict[str, Any] = json.loads(Template(json.dumps(_THEME["config"])).substitute(colors))
    config["range"]["category"] = [colors[color] for color, _ in KINDS.values()]
    return config


def all_charts(search: SearchRecord, shares: dict[str, float]) -> tuple[dict[str, Chart], dict[str, Rows]]:
    """Draws every chart that a search has the data for.

    Args:
        search: The search.
        shares: Hyperparameter -> importance, see `analysis.importances`; may be empty.

    Returns:
        Name -> chart, and name -> rows of the data that the charts name.
    """
    ranked = list(dict.fromkeys([*shares, *search.distributions]))
    axes = {name: Axis.of_hyperparameter(search, name) for name in search.distributions}
    grid = _grid([(name, search.distributions[name]) for name in ranked[:2]])
    data = datasets(search, axes, grid)
    data["importances"] = [{"name": printable(n), "share": share} for n, share in list(shares.items())[:_MAX_BARS]]
    charts = [
        _best_so_far(search, data),
        _trade_off(search, data),
        _confirmations(search, data),
        _metrics(search, data),
        _allocation(data),
        _gantt(data),
        _learning_curves(search, data),
        _parallel(data),
        _importance(data),
        _heat_map(grid, data),
        *(_slices(search, axes, ranked[:_MAX_SLICES], data) if search.scored() else []),
        _time_per_trial(data),
        _memory_per_trial(data),
    ]
    return {chart.name: chart for chart in charts if chart is not None}, data


def _grid(pair: Sequence[tuple[str, BaseDistribution]]) -> list[Hyperparameter]:
    """The hyperparameters of the heat map; none where the range of one is too wide for levels."""
    try:
        return [Hyperparameter.from_distribution(*named, role=infer_role(*named)) for named in pair]
    except SearchSpaceError:
        return []


def _best_so_far(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """Incumbent against full trainings spent, with every trial and the expected best of random order."""
    if not data["incumbents"]:
        return None
    kind = _kind(data["trials"], "best", "expected best")
    color = kind["color"]
    baseline = [row["value"] for row in data["trials"] if row["kind"] == "baseline"]
    room = alt.Scale(domain=[0, data["incumbents"][-1]["spent"] * 1.02 or 1], nice=False)
    x = alt.X("spent:Q", title="full trainings spent", scale=room)
    y = _objective(search, "value:Q", search.scores().values(), keep=baseline)
    trials = _rows("trials").transform_filter("isValid(datum.spent)")
    expected = _rows("expected", "expected best").mark_line(strokeDash=[5, 4], strokeWidth=1.8, clip=True)
    incumbents = _rows("incumbents", "best").mark_line(interpolate="step-after", strokeWidth=2.6, clip=True)
    layers = [
        _points(trials.transform_filter("isValid(datum.value)"), x, y, kind),
        _outside(trials, x, color),
        expected.encode(x, y, color=color),
        incumbents.encode(x, y, color=color),
    ]
    if baseline:
        rule = trials.transform_filter("datum.kind == 'baseline'")
        rule = rule.mark_rule(strokeDash=[2, 3], strokeWidth=1.5, clip=True)
        layers.append(rule.encode(y=y, color=color, opacity=_faded(1), tooltip=_TIP))
    if any(row["value"] is None and row["spent"] is not None for row in data["trials"]):
        lost = trials.transform_filter("!isValid(datum.value)").mark_point(filled=True, y=alt.expr("height - 5"))
        layers.append(lost.encode(x, **kind, opacity=_faded(0.9), tooltip=_TIP))
    return _chart("best-so-far", "Best so far against budget", "wide", alt.layer(*layers), height=300)


def _trade_off(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
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
        _rows("front")
        .transform_filter("datum.knee")
        .mark_text(text="knee", dx=8, dy=-8, align="left")
        .encode(alt.X("x:Q"), alt.Y("y:Q")),
    )
    return _chart("trade-off", f"{search.metrics[0]} against {search.metrics[1]}", "half", chart, height=320)


def _confirmations(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
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
    chart, height = alt.layer(*layers), 34 * len(labels)
    return _chart("confirmations", "The best under new seeds", "wide", chart, height=height, zoom="")


def _metrics(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
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
    return _chart("metrics", "Any metric", "wide", points.add_params(vertical, horizontal), height=240)


def _allocation(data: dict[str, Rows]) -> Chart | None:
    """How much training each trial got, one bar per trial."""
    if not data["trials"]:
        return None
    y = alt.Y("to:Q", title="share of its training", axis=alt.Axis(format="%"), scale=alt.Scale(domain=[0, 1]))
    color = _kind(data["trials"])["color"]
    layers = [_bars("datum.started_at", "datum.fidelity", y, color)]
    if any(row["started_at"] for row in data["trials"]):
        layers.append(_bars("0", "datum.started_at", y, color, opacity=0.35))
    return _chart("allocation", "How much training each trial got", "wide", alt.layer(*layers), height=190)


def _gantt(data: dict[str, Rows]) -> Chart | None:
    """When each trial ran."""
    if not data["trials"]:
        return None
    unit, name = _time_unit(max(row["end"] for row in data["trials"]))
    ends = {"left": f"datum.start / {unit}", "right": f"datum.end / {unit}", "middle": "(datum.left + datum.right) / 2"}
    spans = _rows("trials").transform_calculate(**ends)
    x = alt.X("left:Q", title=f"{name} since the start", scale=alt.Scale(nice=False), axis=alt.Axis(grid=True))
    y = alt.Y("lane:O", title=None, axis=None, scale=alt.Scale(paddingInner=0.15))
    fits = "scale('x', datum.right) - scale('x', datum.left) > 8 * length(toString(datum.trial)) + 4"
    numbers = spans.mark_text(style="on-bar", opacity=alt.expr(f"{fits} ? ({_IS_PICKED} ? 1 : 0.12) : 0"), clip=True)
    bars = spans.mark_bar(cornerRadius=2, minBandSize=2, clip=True)
    chart = alt.layer(
        bars.encode(x, y, x2="right", color=_kind(data["trials"])["color"], opacity=_faded(1), tooltip=_TIP),
        numbers.encode(alt.X("middle:Q"), y, text="trial:Q"),
    )
    height = 28 * (max(row["lane"] for row in data["trials"]) + 1)
    return _chart("gantt", "When each trial ran", "wide", chart, height=height, zoom="x")


def _learning_curves(search: SearchRecord, data: dict[str, Rows]) -> Chart | None:
    """All learning curves on one axis, with the places where trainings were stopped."""
    rows = data["curves"]
    if not rows:
        return None
    values = [value for row in rows for value in row["values"]]
    own = [value for row in rows if row["kind"] == "baseline" for value in row["values"]]
    kind = _kind(rows)
    x = alt.X("steps:Q", title="% of the trial's training" if search.fractions else "step", scale=alt.Scale(zero=True))
    y = _objective(search, "values:Q", values, keep=own, share=0.9)
    opacity = alt.condition(
        f"{_IS_PICKED} && (length(picked) || {_IS_STRONG})",
        alt.value(1),
        alt.value(alt.expr("length(picked) ? 0.1 : 0.5")),
    )
    width = alt.condition(_IS_STRONG, alt.value(2.8), alt.value(1.3))
    lines = _rows("curves").transform_flatten(["steps", "values"]).mark_line(clip=True)
    ends = _rows("curves").transform_calculate(steps="peek(datum.steps)", value="peek(datum.values)")
    layers = [
        lines.encode(x, y, kind["color"], detail="trial:N", strokeWidth=width, opacity=opacity, tooltip=_TIP),
        _outside(ends, x, kind["color"]),
    ]
    if any(row["status"] != "complete" for row in rows):
        early = ends.transform_filter("datum.status != 'complete'").transform_calculate(values="datum.value")
        layers.append(_points(early, x, y, kind))
    chart = alt.layer(*layers)
    return _chart("learning-curves", "Learning curves and stop decisions", "wide", chart, height=340)


def _parallel(data: dict[str, Rows]) -> Chart | None:
    """One line per trial through all hyperparameters, coloured by the rank of its objective."""
    names = list({row["axis"]: row["name"] for row in data["ticks"]}.values())
    if len(names) < 2:
        return None
    labels: dict[str, Any] = {
        "labelExpr": f"{json.dumps([shorten_name(name, 14) for name in names])}[datum.value]",
        "labelAngle": 0,
        "labelFontWeight": "bold",
        "labelPadding": 10,
        "labelOverlap": False,
    }
    axis = alt.Axis(orient="top", domain=False, ticks=False, **labels)
    x = alt.X("axis:O", title=None, scale=alt.Scale(type="point", padding=0.35), axis=axis)
    y = alt.Y("place:Q", axis=None, scale=alt.Scale(domain=[0, 1]))
    rank = alt.Color("rank:Q", scale=alt.Scale(range="ramp", domain=[0, 1]), legend=None)
    color = _kind([row for row in data["coordinates"] if row["kind"] in {"best", "baseline"}])["color"]
    dash = alt.condition("datum.status == 'pruned'", alt.value([4, 3]), alt.value([1, 0]))
    vertices, ticks = _rows("coordinates"), _rows("ticks")
    lines = vertices.encode(x, y, detail="trial:N", strokeDash=dash, tooltip=_TIP)
    edge = vertices.transform_filter("datum.outside").mark_point(
        filled=True, size=45, shape=alt.expr("datum.place > 0.5 ? 'triangle-up' : 'triangle-down'")
    )
    others, strong = lines.transform_filter(f"!{_IS_STRONG}"), lines.transform_filter(_IS_STRONG)
    chart = alt.layer(
        others.mark_line(strokeWidth=1.4).encode(color=rank, opacity=_faded(0.75)),
        strong.mark_line(strokeWidth=3).encode(color=color, opacity=_faded(1)),
        edge.encode(x, y, color=color.legend(None), opacity=_faded(0.9), tooltip=_TIP),
        ticks.mark_rule(style="axis").encode(x),
        *(ticks.mark_text(style=s, align="right", dx=-6).encode(x, y, text="text:N") for s in ("halo", "label")),
    ).resolve_scale(color="independent")
    title, width = "All hyperparameters at once", _NARROWEST * len(names)
    return _chart("parallel", title, "wide", chart, height=340, zoom="", min_width=width)


def _importance(data: dict[str, Rows]) -> Chart | None:
    """Bars per hyperparameter, the most important on top."""
    rows = data["importances"]
    if not rows:
        return None
    room = alt.Scale(domain=[0, 1.2 * max(row["share"] for row in rows) or 1], nice=False)  # for the numbers
    x = alt.X("share:Q", title="share of variance", axis=alt.Axis(format="%"), scale=room)
    y = alt.Y("name:N", title=None, sort=[row["name"] for row in rows], axis=alt.Axis(labelLimit=190))
    tip = [alt.Tooltip("name:N", title="hyperparameter"), alt.Tooltip("share:Q", format=".1%")]
    bars = _rows("importances").encode(x, y)
    numbers = bars.mark_text(style="label", align="left", dx=4).encode(text=alt.Text("share:Q", format=".0%"))
    chart = alt.layer(bars.mark_bar(cornerRadius=2).encode(tooltip=tip), numbers)
    height = max(26 * len(rows), 200)
    return _chart("importance", "Which hyperparameters mattered", "half", chart, height=height, linked=False)


def _heat_map(grid: Sequence[Hyperparameter], data: dict[str, Rows]) -> Chart | None:
    """The best objective per cell of the discretised space of two hyperparameters."""
    if not data["cells"]:
        return None
    columns, lines = (choice_labels(hyperparameter.levels, LABEL_WIDTH) for hyperparameter in grid)
    names = [printable(hyperparameter.name) for hyperparameter in grid]
    across, up = alt.Scale(domain=columns, padding=0.04), alt.Scale(domain=lines, padding=0.04, reverse=True)
    x = alt.X("column:O", title=names[0], scale=across, axis=alt.Axis(labelAngle=0))
    y = alt.Y("row:O", title=names[1], scale=up)
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
    title = " × ".join(shorten_name(name, 30) for name in names)
    width = "half" if data["importances"] else "wide"  # whichever leaves no hole
    return _chart("heat-map", title, width, chart, height=320, zoom="")


def _slices(search: SearchRecord, axes: Mapping[str, Axis], names: Sequence[str], data: dict[str, Rows]) -> list[Chart]:
    """Objective against each of the hyperparameters `names`, one chart each."""
    kind = {channel: encoding.legend(None) for channel, encoding in _kind(data["trials"]).items()}
    y = _objective(search, "value:Q", search.scores().values())
    width = "half" if len(names) in (1, 2, 4) else "small"  # two or three to a row, whichever leaves no hole
    charts: list[Chart] = []
    for name in names:
        axis = axes[name]
        if axis.scale == "point":
            scale = alt.Scale(type="point", domain=axis.domain, padding=0.5)
            x, zoom = alt.X("place:O", title=None, scale=scale, axis=alt.Axis(labelAngle=0)), ""
        else:
            scale = alt.Scale(type=axis.scale, domain=axis.domain, nice=False, padding=8)
            ticks = alt.Axis(format="~g", tickMinStep=int(axis.is_whole))
            x, zoom = alt.X("place:Q", title=None, scale=scale, axis=ticks), "xy"
        trials = _rows("trials").transform_calculate(place=f"datum.params[{list(axes).index(name)}]")
        trials = trials.transform_filter("isValid(datum.place) && isValid(datum.value)")
        chart = alt.layer(_points(trials, x, y, kind), _outside(trials, x, kind["color"]))
        charts.append(_chart(f"slice-{name}", name, width, chart, height=190, zoom=zoom))
    return charts


def _time_per_trial(data: dict[str, Rows]) -> Chart | None:
    """Wall-clock time of each trial."""
    seconds = [row["seconds"] for row in data["trials"] if row["seconds"] is not None]
    if not seconds:
        return None
    unit, name = _time_unit(max(seconds))
    y = alt.Y("to:Q", title=name, scale=alt.Scale(zero=True))
    bars = _bars("0", f"datum.seconds / {unit}", y, _kind(data["trials"])["color"])
    return _chart("time", "Time per trial", "half", bars, height=220)


def _memory_per_trial(data: dict[str, Rows]) -> Chart | None:
    """Peak memory of each trial, and memory of the process after the trial."""
    peaks, held = ([row[key] for row in data["trials"] if row[key] is not None] for key in ("memory", "resident"))
    if not peaks:
        return None
    unit, name = (1e9, "GB") if max([*peaks, *held]) >= 1e9 else (1e6, "MB")
    y = alt.Y("to:Q", title=name, scale=alt.Scale(zero=True))
    chart = _bars("0", f"datum.memory / {unit}", y, _kind(data["trials"])["color"])
    if held:
        after = _spans("0", f"datum.resident / {unit}").transform_filter("isValid(datum.resident)")
        after = after.mark_rule(strokeWidth=2, clip=True)
        chart = alt.layer(chart, after.encode(_bar_x(), alt.Y("to:Q"), x2="right"))
    return _chart("memory", "Peak memory per trial", "half", chart, height=220)


def _bars(low: str, high: str, y: Any, color: Any, *, opacity: float = 1) -> Any:
    """One bar per trial between the values of two expressions."""
    bars = _spans(low, high).mark_bar(clip=True)
    return bars.encode(_bar_x(), y, x2="right", y2="from", color=color, opacity=_faded(opacity), tooltip=_TIP)


def _spans(low: str, high: str) -> Any:
    """Trials, 0.8 wide on an axis of trial numbers, which can be zoomed where bands cannot."""
    ends = {"left": "datum.trial - 0.4", "right": "datum.trial + 0.4", "from": low, "to": high}
    return _rows("trials").transform_calculate(**ends).transform_filter("isValid(datum.to)")


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


def _faded(opacity: float) -> Any:
    """The opacity of a mark: faint where other trials are picked."""
    return alt.condition(_IS_PICKED, alt.value(opacity), alt.value(0.12))


def _objective(search: SearchRecord, field: str, values: Iterable[float], **options: Any) -> Any:
    """The axis of the first objective, in a range that diverged trials do not flatten; see `value_range`."""
    domain = value_range(list(values), minimize=search.minimize[0], **options)
    title = f"{printable(search.metrics[0])} ({'smaller' if search.minimize[0] else 'larger'} is better)"
    return alt.Y(field, title=title, scale=alt.Scale(domain=domain, nice=False, zero=False))


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if seconds < 10_800 else (3600.0, "hours")


def _chart(
    name: str,
    title: str,
    kind: str,
    drawn: Any,
    *,
    height: int,
    zoom: str = "xy",
    linked: bool = True,
    min_width: int = 0,
) -> Chart:
    """Adds the common parts of all charts: brush, zoom, the picked trials, and a width that follows the page.

    See `Chart` for its other parts. `height` is that of the data area in pixels, `zoom` names the axes that can be
    zoomed, and `linked` is False where the marks are no trials.
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
    return Chart(name, printable(title), kind, spec, min_width)


def named_data(spec: dict[str, Any]) -> set[str]:
    """The names of the data that a chart reads."""
    return set(re.findall(r'"data": {"name": "([a-z]+)"', json.dumps(spec)))


def javascript() -> str:
    """Vega, Vega-Lite and vega-embed as one script that sets ``vegaEmbed``; about 0.9 MB."""
    return vl_convert.javascript_bundle(vl_version=VEGA_LITE)  # type: ignore[call-arg]  # the stub lacks a default


def write_plots(
    source: optuna.Study | str | Path, folder: str | Path, *, study_name: str | None = None, format: str = "svg"
) -> list[Path]:
    """Writes every chart of a search as a file of its own; no browser is needed.

    Args:
        source: A study, the ``output_dir`` of a search, a storage URL or the file of a storage.
        folder: Where to write; made if it is not there.
        study_name: Which study of the storage; the newest one if left out.
        format: "svg", or "png" with two pixels of the file per pixel of the chart.

    Returns:
        The files, named after the plots in PLOTS.

    Raises:
        ArgumentsError: `format` is neither.
        StorageError: There is no such storage or study.
        MissingExtraError: The extra ``report`` is not installed; raised when this function is imported.
    """
    if format not in {"svg", "png"}:
        raise ArgumentsError(f"format is {format!r}; plots can be written as 'svg' or 'png'.")
    study = open_study(source, study_name=study_name)
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    search = SearchRecord.from_study(study)
    charts, data = all_charts(search, importances(study, search))
    config = {**theme("light"), "background": PALETTES["light"]["paper"], "font": "sans-serif", "padding": 12}
    paths = []
    for chart in charts.values():
        name = "".join(c if c.isalnum() or c in "-_." else "_" for c in chart.name)
        paths.append(folder / f"{name}.{format}")
        spec = {**chart.spec, "title": chart.title, "autosize": {"type": "fit-x", "contains": "padding"}}
        spec["width"] = max(_WIDTHS[chart.kind], chart.min_width)
        spec["datasets"] = {key: data[key] for key in named_data(chart.spec)}
        if format == "png":
            paths[-1].write_bytes(vl_convert.vegalite_to_png(spec, vl_version=VEGA_LITE, config=config, scale=2))
        else:
            text = vl_convert.vegalite_to_svg(spec, vl_version=VEGA_LITE, config=config)
            paths[-1].write_text(text, encoding="utf-8")
    return paths
