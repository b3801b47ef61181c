"""Turns the trials of a search into the rows that the charts show: JSON values, one row a trial or a mark."""

from __future__ import annotations

import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import pairwise
from typing import Any, Literal

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.observation.trial_attributes import BASELINE, CONFIRM
from hf_rlsearch.report.analysis import expected_best, front, knee, shown_trials, value_range
from hf_rlsearch.report.format import choice_labels, number, printable, show
from hf_rlsearch.report.records import SearchRecord, TrialRecord, finite
from hf_rlsearch.space import Hyperparameter

Rows = list[dict[str, Any]]
Marks = dict[int, dict[str, Any]]

LABEL_WIDTH = 10  # characters of a level of the heat map
_LARGEST = sys.float_info.max
N_DIGITS = 6  # of a learning curve's values: more than a screen shows, and half of the file
_MOST_DRAWS = 2000
_QUARTERS = (0, 0.25, 0.5, 0.75, 1)
_COSTS = ("fidelity", "started_at", "seconds", "memory", "resident")  # of a trial's record, shown as they are


@dataclass(frozen=True)
class Axis:
    """Places the values of a hyperparameter or of the objective in charts.

    Attributes:
        scale: "linear", "log", or "point" for choices.
        domain: [low, high], or the labels of all choices in their order.
        values: Trial number -> a number, or the label of a choice. Trials without a value are left out, and those whose
            value has no place on the axis: a baseline of another kind, or zero on a logarithmic axis.
        is_whole: Whether all values are whole numbers.
    """

    scale: Literal["linear", "log", "point"]
    domain: list[Any]
    values: dict[int, Any]
    is_whole: bool = False

    @classmethod
    def of_hyperparameter(cls, search: SearchRecord, name: str) -> Axis:
        """Makes the axis of the whole distribution, extended by values that were tried outside of that range."""
        distribution = search.distributions[name]
        given = {t.number: t.params[name] for t in search.trials if name in t.params}
        if isinstance(distribution, CategoricalDistribution):
            return cls._of_choices(distribution, given)
        assert isinstance(distribution, FloatDistribution | IntDistribution)  # Optuna has no others
        found = {n: number for n, value in given.items() if (number := finite(value)) is not None}
        values = {n: v for n, v in found.items() if v > 0 or not distribution.log}
        # The bounds of whole numbers may be beyond float.
        lowest, highest = (max(-_LARGEST, min(bound, _LARGEST)) for bound in (distribution.low, distribution.high))
        low, high = min([lowest, *values.values()]), max([highest, *values.values()])
        if low == high:
            room = abs(low) * 0.1 or 0.5
            low, high = low - room, high + room
        is_whole = isinstance(distribution, IntDistribution)
        return cls("log" if distribution.log else "linear", [low, high], values, is_whole=is_whole)

    @classmethod
    def _of_choices(cls, distribution: CategoricalDistribution, given: dict[int, Any]) -> Axis:
        choices = list(distribution.choices)
        for value in given.values():  # one at a time: a value may be of a kind that no set can hold
            choices += [] if any(_same(choice, value) for choice in choices) else [value]
        labels = choice_labels(choices)
        places = {n: next(i for i, c in enumerate(choices) if _same(c, value)) for n, value in given.items()}
        return cls("point", labels, {n: labels[place] for n, place in places.items()})

    def place(self, value: Any) -> float:
        """The place of one of `values`, in [0, 1] if it is in the domain."""
        if self.scale == "point":
            return (self.domain.index(value) + 0.5) / len(self.domain)
        low, high = self.domain
        if self.scale == "log":  # differences of logarithms: a ratio may be too large for a float
            value, low, high = math.log(value), math.log(low), math.log(high)
        return float((value / 2 - low / 2) / (high / 2 - low / 2))  # the range may be twice as wide as a float

    def ticks(self) -> list[tuple[float, str]]:
        """(place, text) of the ticks."""
        if self.scale == "point":
            return [(self.place(label), label) for label in self.domain]
        low, high = self.domain
        if self.is_whole and high - low <= 8:
            return [(self.place(v), show(v)) for v in range(int(low), int(high) + 1)]
        if self.scale == "linear":
            return [(at, number(low * (1 - at) + high * at, 3)) for at in _QUARTERS]
        powers = [10.0**p for p in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        ends = [low, math.sqrt(low) * math.sqrt(high), high]
        return [(self.place(v), number(v, 2)) for v in (powers[:: len(powers) // 8 or 1] if powers[1:] else ends)]


def datasets(search: SearchRecord, axes: Mapping[str, Axis], grid: Sequence[Hyperparameter]) -> dict[str, Rows]:
    """All rows that charts show, by the name of the data; what is summed up or ranked is so over all trials.

    Args:
        search: The search.
        axes: Hyperparameter -> axis, of all in `search.distributions` and in their order.
        grid: The two hyperparameters of the heat map; with fewer, it has no cells.
    """
    marks = _marks(search)
    incumbents = _incumbent_rows(search)
    lines, ticks = _coordinate_rows(search, axes, marks)
    shown = shown_trials(search)

    def of_shown(rows: Rows) -> Rows:
        return [row for row in rows if row["trial"] in shown]

    return {
        "trials": of_shown(_trial_rows(search, axes, marks, incumbents)),
        "incumbents": _steps(incumbents),
        "expected": _expected_rows(search, incumbents),
        "confirmations": _confirmation_rows(search, marks),
        "front": _front_rows(search),
        "curves": of_shown(_curve_rows(search, marks)),
        "coordinates": of_shown(lines),
        "ticks": ticks,
        "cells": _cell_rows(search, axes, grid) if len(grid) > 1 else [],
    }


def _front_rows(search: SearchRecord) -> Rows:
    """The first two objectives of the points on the Pareto front; none for a single objective."""
    if len(search.minimize) < 2:
        return []
    best = knee(search)
    marked = None if best is None else best.values
    return [{"x": values[0], "y": values[1], "knee": values == marked} for values in front(search)]


def _marks(search: SearchRecord) -> Marks:
    """Trial number -> kind, status and rank of its marks; the baseline and the best last, to be drawn over all others.

    The kind is the colour and shape of a trial: best, baseline, infeasible, or how the trial ended. The rank is that of
    its objective in [0, 1], where 1 is best; None without any value.
    """
    best = search.best()
    scores = search.scores()
    ordered = sorted(scores, key=lambda n: scores[n], reverse=search.minimize[0])
    ranks = {n: i / max(len(ordered) - 1, 1) for i, n in enumerate(ordered)}
    marks = {}
    for trial in sorted(search.trials, key=lambda t: (t is best, t.role == BASELINE)):
        n, status = trial.number, trial.status
        kind = "infeasible" if status == "complete" and trial.exceeds is not None else status
        kind = "best" if trial is best else BASELINE if (trial.role, kind) == (BASELINE, "complete") else kind
        marks[n] = {"trial": n, "kind": kind, "status": status, "rank": ranks.get(n)}
    return marks


def _trial_rows(search: SearchRecord, axes: Mapping[str, Axis], marks: Marks, incumbents: Rows) -> Rows:
    """One row per trial: its values, costs and times, with `params` in the order of `axes`."""
    trials = {t.number: t for t in search.trials}
    spent = {row["trial"]: row["spent"] for row in incumbents}
    spans = _spans(search)
    rows = []
    for n, mark in marks.items():
        row = {**mark, "value": trials[n].score, "objectives": list(trials[n].values or ())}
        row |= {name: getattr(trials[n], name) for name in _COSTS}
        row["params"] = [axis.values.get(n) for axis in axes.values()]
        row["numbers"] = _numbers(search, trials[n])
        row["spent"] = spent.get(n)  # cost of the whole search when the trial ended; None while the trial runs
        rows.append({**row, **spans[n]})
    return rows


def _numbers(search: SearchRecord, trial: TrialRecord) -> dict[str, float]:
    """Every number that is known of a trial by its name: objectives, metrics, hyperparameters, costs."""
    found: dict[str, float | None] = {"trial": trial.number, "share of its training": trial.fidelity}
    found |= {"seconds": trial.seconds, "peak memory (MB)": trial.memory and trial.memory / 1e6}
    found |= {name: value for name, value in trial.params.items() if finite(value) is not None}
    found |= trial.metrics
    found |= dict(zip(search.metrics, trial.values or (trial.score,), strict=False))
    return {printable(name): value for name, value in found.items() if value is not None}


def _spans(search: SearchRecord) -> dict[int, dict[str, Any]]:
    """Trial number -> start and end in seconds since the first start, and the first lane that is free at the start."""
    trials = sorted(search.trials, key=lambda t: t.started)
    # A trial that still runs is drawn up to the last thing that is known to have happened.
    last = max((t.ended or t.started for t in trials), default=datetime.max)
    free: list[datetime] = []  # when each lane is free again
    spans = {}
    for trial in trials:
        end = trial.ended or last
        lane = next((i for i, moment in enumerate(free) if moment <= trial.started), len(free))
        free[lane : lane + 1] = [end]
        start, stop = ((moment - trials[0].started).total_seconds() for moment in (trial.started, end))
        spans[trial.number] = {"start": start, "end": stop, "lane": lane}
    return spans


def _incumbent_rows(search: SearchRecord) -> Rows:
    """One row per ended search trial in the order of their ends: cost and best value of the search at that time.

    The value is None before the first complete trial.
    """
    ended = [t for t in search.trials if t.status != "running" and t.role != CONFIRM]
    choose = min if search.minimize[0] else max
    best: float | None = None
    spent, rows = 0.0, []
    for trial in sorted(ended, key=lambda t: (t.ended or datetime.max, t.number)):
        spent += trial.spent
        if trial.values and trial.exceeds is None:
            best = trial.values[0] if best is None else choose(best, trial.values[0])
        rows.append({"trial": trial.number, "spent": spent, "value": best})
    return rows


def _steps(incumbents: Rows) -> Rows:
    """The corners of the line of the best value so far, and its end.

    Without the numbers of trials: the line belongs to the whole search and must not fade when a trial is picked.
    """
    known = [{"spent": row["spent"], "value": row["value"]} for row in incumbents if row["value"] is not None]
    corners = [row for before, row in pairwise([{"value": None}, *known]) if row["value"] != before["value"]]
    return corners if known[-1:] == corners[-1:] else [*corners, known[-1]]


def _expected_rows(search: SearchRecord, incumbents: Rows) -> Rows:
    """The expected best of random order against the same cost as the incumbent's, the baseline first in both."""
    baseline = next((t for t in search.rankable() if t.role == BASELINE), None)
    drawn = [t for t in search.rankable() if t is not baseline]
    first = baseline.values[0] if baseline and baseline.values else None
    spent = baseline.cost if baseline else 0.0
    rows = [] if first is None else [{"spent": spent, "value": first}]
    if drawn:
        price = sum(t.cost for t in drawn) / len(drawn)
        n_draws = max((incumbents[-1]["spent"] - spent) // price, 1.0)
        # Of more draws than a screen has pixels only some are shown.
        draws = np.arange(1, min(n_draws, _MOST_DRAWS) + 1) * max(n_draws / _MOST_DRAWS, 1.0)
        values = [t.values[0] for t in drawn if t.values]
        curve = expected_best(values, minimize=search.minimize[0], draws=draws, first=first)
        rows += [{"spent": spent + n * price, "value": v} for n, v in zip(draws.tolist(), curve.tolist(), strict=True)]
    return rows


def _confirmation_rows(search: SearchRecord, marks: Marks) -> Rows:
    """One row per mark: each new seed, their mean, and the score that the search had seen."""
    seen = {t.number: t for t in search.scored()}
    rows: Rows = []
    for confirmation in search.confirmations:
        trial = seen.get(confirmation.number)
        if trial is None:
            continue
        own = {**marks[trial.number], "label": BASELINE if trial.role == BASELINE else f"trial {trial.number}"}
        rows += [{**own, "mark": "seed", "seed": seed, "value": v} for seed, v in confirmation.values.items()]
        rows.append({**own, "mark": "mean", "value": confirmation.mean})
        rows.append({**own, "mark": "in the search", "value": trial.score})
    return rows


def _curve_rows(search: SearchRecord, marks: Marks) -> Rows:
    """One row per trial with evaluations: `steps` in percent of the trial's own training where that is known."""
    unit = 100 / search.max_step if search.fractions else 1.0
    curves = {t.number: t.curve for t in search.trials if t.curve}
    return [
        {
            **mark,
            "steps": [_rounded(step * unit) for step, _ in curves[n]],
            "values": [_rounded(value) for _, value in curves[n]],
        }
        for n, mark in marks.items()
        if n in curves
    ]


def _rounded(value: float) -> float:
    return float(f"{value:.{N_DIGITS}g}")


def _coordinate_rows(search: SearchRecord, axes: Mapping[str, Axis], marks: Marks) -> tuple[Rows, Rows]:
    """The lines of the parallel coordinates, one row per trial and axis, and the ticks of the axes with their names."""
    scores = search.scores()
    if not scores:
        return [], []
    domain = value_range(list(scores.values()), minimize=search.minimize[0])
    shown = [(name, axis) for name, axis in axes.items() if axis.values.keys() & scores.keys()]
    lines: Rows = []
    ticks: Rows = []
    for i, (name, axis) in enumerate([*shown, (search.metrics[0], Axis("linear", list(domain), scores))]):
        places = {n: axis.place(value) for n, value in axis.values.items() if n in scores}
        for n, place in places.items():
            at = {"axis": i, "place": round(min(max(place, 0.0), 1.0), 4), "outside": not 0 <= place <= 1}
            lines.append({**marks[n], **at})
        ticks += [{"axis": i, "name": printable(name), "place": place, "text": text} for place, text in axis.ticks()]
    return lines, ticks


def _cell_rows(search: SearchRecord, axes: Mapping[str, Axis], grid: Sequence[Hyperparameter]) -> Rows:
    """The best objective per cell of the levels of two hyperparameters."""
    cells: dict[tuple[int, ...], list[TrialRecord]] = {}
    for trial in search.trials:
        if trial.score is not None and all(trial.number in axes[levels.name].values for levels in grid):
            cell = tuple(levels.nearest_level(trial.params[levels.name]) for levels in grid)
            if min(cell) >= 0:  # a choice that is none of the levels is the user's own
                cells.setdefault(cell, []).append(trial)
    sign = 1 if search.minimize[0] else -1
    best = {cell: min(trials, key=lambda t: sign * (t.score or 0.0)) for cell, trials in cells.items()}
    ordered = sorted({t.score or 0.0 for t in best.values()}, reverse=search.minimize[0])
    columns, lines = (choice_labels(levels.levels, LABEL_WIDTH) for levels in grid)
    return [
        {
            "column": columns[cell[0]],
            "row": lines[cell[1]],
            "best": number(trial.score or 0.0, 3),
            "of": f"trial {trial.number}, {trial.status}",
            "share": ordered.index(trial.score or 0.0) / max(len(ordered) - 1, 1),
            "pruned": trial.status != "complete",
            "trials": [t.number for t in cells[cell]],
        }
        for cell, trial in best.items()
    ]


def _same(a: Any, b: Any) -> bool:
    """8 and 8.0 are the same choice, 1 and True are not."""
    return repr(a) == repr(b) == "nan" or (bool(a == b) and isinstance(a, bool) == isinstance(b, bool))
