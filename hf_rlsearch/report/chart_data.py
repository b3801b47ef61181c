"""Turns the trials of a search into the rows that the charts show: JSON values, one row a trial or a mark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from datetime import datetime
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch.report.analysis import expected_best, front, incumbents, value_range
from hf_rlsearch.report.format import choice_labels, number, printable, show
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.space import Hyperparameter, infer_role

Rows = list[dict[str, Any]]

N_DIGITS = 6  # of a learning curve's values: more than a screen shows, and half of the file


def datasets(search: SearchRecord, pair: Sequence[str]) -> dict[str, Rows]:
    """All rows that charts show, by the name of the data.

    Args:
        search: The search.
        pair: The two hyperparameters of the heat map; with fewer, it has no cells.
    """
    lines, ticks, axes = coordinate_rows(search)
    return {
        "trials": trial_rows(search),
        "incumbents": incumbent_rows(search),
        "expected": expected_rows(search),
        "confirmations": confirmation_rows(search),
        "front": front_rows(search),
        "curves": curve_rows(search),
        "coordinates": lines,
        "ticks": ticks,
        "axes": [{"name": name} for name in axes],
        "cells": cell_rows(search, pair) if len(pair) > 1 else [],
    }


def kind_of(search: SearchRecord, trial: TrialRecord) -> str:
    """What decides the colour and shape of a trial in every chart: best, baseline, or how the trial ended."""
    if trial is search.best():
        return "best"
    return "baseline" if trial.role == "baseline" and trial.status == "complete" else trial.status


def trial_rows(search: SearchRecord) -> Rows:
    """One row per trial: its values, costs and times, with `params` in the order of `search.distributions`."""
    spent = {entry.trial.number: entry.spent for entry in incumbents(search)}
    ranks = _ranks(search)
    places = {name: parameter_values(search, name) for name in search.distributions}
    lanes = _lanes(search.trials)
    begun = min((t.begun for t in search.trials if t.begun), default=None)
    rows = []
    for trial in _best_last(search):
        row = {
            "trial": trial.number,
            "kind": kind_of(search, trial),
            "status": trial.status,
            "value": trial.score(),
            "objectives": list(trial.values or ()),
            "rank": ranks.get(trial.number),
            "fidelity": trial.fidelity,
            "begun_at": trial.begun_at,
            "seconds": trial.seconds,
            "memory": trial.memory,
            "resident": trial.resident,
            "params": [places[name].get(trial.number) for name in search.distributions],
            "numbers": numbers_of(search, trial),
            "spent": spent.get(trial.number),  # by the whole search when the trial ended; None while it runs
        }
        if begun is not None and trial.begun is not None:
            row["start"] = (trial.begun - begun).total_seconds()
            row["end"] = (_end(trial, search.trials) - begun).total_seconds()
            row["lane"] = lanes[trial.number]
        rows.append(row)
    return rows


def incumbent_rows(search: SearchRecord) -> Rows:
    """The best objective after every ended trial against what the search had spent until then."""
    return [{"spent": entry.spent, "value": entry.best} for entry in incumbents(search) if entry.best is not None]


def numbers_of(search: SearchRecord, trial: TrialRecord) -> dict[str, float]:
    """Every number that is known of a trial by its name: objectives, metrics, hyperparameters, costs."""
    found: dict[str, float | None] = {"trial": trial.number, "share of its training": trial.fidelity}
    found |= {"seconds": trial.seconds, "peak memory (MB)": trial.memory and trial.memory / 1e6}
    found |= {name: v for name, v in trial.params.items() if is_number(v)}
    found |= trial.metrics
    found |= dict(
        zip(search.metrics, trial.values or ((trial.score(),) if trial.score() is not None else ()), strict=False)
    )
    return {printable(name): value for name, value in found.items() if value is not None}


def curve_rows(search: SearchRecord) -> Rows:
    """One row per trial with evaluations: `steps` in percent of the trial's own training where that is known."""
    unit = 100 / search.max_step if search.fractions else 1.0
    return [
        {
            "trial": trial.number,
            "kind": kind_of(search, trial),
            "status": trial.status,
            "steps": [_rounded(step * unit) for step, _ in trial.curve],
            "values": [_rounded(value) for _, value in trial.curve],
        }
        for trial in _best_last(search)
        if trial.curve
    ]


def expected_rows(search: SearchRecord) -> Rows:
    """The expected best of random order against the same cost as the incumbent's, the baseline first in both."""
    entries = incumbents(search)
    baseline = next((t for t in search.scored() if t.role == "baseline"), None)
    drawn = [t for t in search.scored() if t is not baseline]
    rows = []
    first = None
    spent = 0.0
    if baseline is not None and baseline.values:
        first, spent = baseline.values[0], baseline.cost
        rows.append({"spent": spent, "value": first})
    if drawn and entries:
        price = sum(t.cost for t in drawn) / len(drawn)
        n_draws = max(int((entries[-1].spent - spent) / price), 1)
        values = [t.values[0] for t in drawn if t.values]
        curve = expected_best(values, minimize=search.minimize[0], n_draws=n_draws, first=first)
        rows += [{"spent": spent + (n + 1) * price, "value": value} for n, value in enumerate(curve.tolist())]
    return rows


def confirmation_rows(search: SearchRecord) -> Rows:
    """One row per mark: each new seed, their mean, and the score that the search had seen."""
    seen = {t.number: t for t in search.scored() if t.values}
    rows: Rows = []
    for confirmation in search.confirmations:
        trial = seen.get(confirmation.number)
        if trial is None or not trial.values:
            continue
        own = {"trial": trial.number, "kind": kind_of(search, trial)}
        own["label"] = "baseline" if trial.role == "baseline" else f"trial {trial.number}"
        rows += [{**own, "mark": "seed", "seed": seed, "value": v} for seed, v in confirmation.values.items()]
        rows.append({**own, "mark": "mean", "value": confirmation.mean})
        rows.append({**own, "mark": "in the search", "value": trial.values[0]})
    return rows


def front_rows(search: SearchRecord) -> Rows:
    """The trials that no other beats, for the line of the first two objectives."""
    if len(search.minimize) < 2:
        return []
    best = front(search)
    pairs = sorted(t.values[:2] for t in search.scored() if t.values and t.number in best)
    return [{"x": x, "y": y} for x, y in pairs]


def parameter_values(search: SearchRecord, name: str) -> dict[int, float | str]:
    """Trial number -> value of a hyperparameter as charts place it: a number, or the label of a choice.

    A trial without the hyperparameter, or with a value that has no place on its axis (a baseline of another kind, or
    zero on a logarithmic axis), is left out.
    """
    distribution = search.distributions[name]
    given = {t.number: t.params[name] for t in search.trials if name in t.params}
    if not isinstance(distribution, CategoricalDistribution):
        is_log = getattr(distribution, "log", False)
        return {n: float(v) for n, v in given.items() if is_number(v) and (v > 0 or not is_log)}
    choices = _choices(distribution, list(given.values()))
    labels = choice_labels(choices)
    return {n: labels[_index(choices, v)] for n, v in given.items()}


def parameter_domain(search: SearchRecord, name: str) -> list[Any]:
    """The axis of a hyperparameter: [low, high], or the labels of all choices in their order."""
    distribution = search.distributions[name]
    if isinstance(distribution, CategoricalDistribution):
        return choice_labels(_choices(distribution, [t.params[name] for t in search.trials if name in t.params]))
    assert isinstance(distribution, FloatDistribution | IntDistribution)  # Optuna has no others
    values = [v for v in parameter_values(search, name).values() if isinstance(v, float)]
    low, high = min([distribution.low, *values]), max([distribution.high, *values])
    if low == high:
        return (
            [low * 0.9, high * 1.1]
            if distribution.log
            else [low - (abs(low) * 0.1 or 0.5), high + (abs(high) * 0.1 or 0.5)]
        )
    return [low, high]


def coordinate_rows(search: SearchRecord) -> tuple[Rows, Rows, list[str]]:
    """The lines of the parallel coordinates, one row per trial and axis, the ticks of the axes, and their names."""
    ranks = _ranks(search)
    scored = [t for t in search.trials if t.number in ranks]
    if not scored:
        return [], [], []
    names = [n for n in search.distributions if set(parameter_values(search, n)) & set(ranks)]
    lines: Rows = []
    ticks: Rows = []
    for i, name in enumerate(names):
        place = _placing(search.distributions[name], parameter_domain(search, name))
        values = parameter_values(search, name)
        lines += [_vertex(search, t, ranks, i, place(values[t.number])) for t in scored if t.number in values]
        ticks += [{"axis": i, "place": at, "text": text} for at, text in _axis_ticks(search, name, place)]
    low, high = value_range([t.score() or 0.0 for t in scored], minimize=search.minimize[0])
    for trial in scored:
        at = ((trial.score() or 0.0) - low) / (high - low)
        lines.append(_vertex(search, trial, ranks, len(names), at))
    ticks += [
        {"axis": len(names), "place": at, "text": number(low + at * (high - low), 3)} for at in (0, 0.25, 0.5, 0.75, 1)
    ]
    return lines, ticks, names


def _vertex(
    search: SearchRecord, trial: TrialRecord, ranks: dict[int, float], axis: int, place: float
) -> dict[str, Any]:
    row = {"trial": trial.number, "kind": kind_of(search, trial), "status": trial.status, "rank": ranks[trial.number]}
    return {**row, "axis": axis, "place": round(min(max(place, 0.0), 1.0), 4), "outside": not 0 <= place <= 1}


def _placing(distribution: BaseDistribution, domain: list[Any]) -> Any:
    """A function from a value as in `parameter_values` to its place in [0, 1]."""
    if isinstance(distribution, CategoricalDistribution):
        return lambda label: (domain.index(label) + 0.5) / len(domain)
    low, high = domain
    if getattr(distribution, "log", False):  # differences of logarithms: a ratio may be too large for a float
        return lambda value: (math.log(value) - math.log(low)) / (math.log(high) - math.log(low))
    return lambda value: (value - low) / (high - low)


def _axis_ticks(search: SearchRecord, name: str, place: Any) -> list[tuple[float, str]]:
    distribution, domain = search.distributions[name], parameter_domain(search, name)
    if isinstance(distribution, CategoricalDistribution):
        return [(place(label), label) for label in domain]
    low, high = domain
    if isinstance(distribution, IntDistribution) and high - low <= 8:
        return [(place(v), show(v)) for v in range(int(low), int(high) + 1)]
    if getattr(distribution, "log", False):
        powers = [10.0**p for p in range(math.ceil(math.log10(low)), math.floor(math.log10(high)) + 1)]
        values = (
            powers[:: max(len(powers) // 8, 1)] if len(powers) > 1 else [low, math.sqrt(low) * math.sqrt(high), high]
        )
        return [(place(v), number(v, 2)) for v in values]
    return [(at, number(low + at * (high - low), 3)) for at in (0, 0.25, 0.5, 0.75, 1)]


def hyperparameter(search: SearchRecord, name: str) -> Hyperparameter:
    """A hyperparameter of the search, discretised."""
    distribution = search.distributions[name]
    return Hyperparameter.from_distribution(name, distribution, role=infer_role(name, distribution))


def level_labels(axis: Hyperparameter) -> list[str]:
    """One short text per level."""
    return choice_labels(axis.levels, 10)


def cell_rows(search: SearchRecord, names: Sequence[str]) -> Rows:
    """The best objective per cell of the levels of two hyperparameters."""
    axes = [hyperparameter(search, name) for name in names]
    labels = [level_labels(axis) for axis in axes]
    cells: dict[tuple[int, int], list[TrialRecord]] = {}
    for trial in search.trials:
        if trial.score() is None or not all(trial.number in parameter_values(search, n) for n in names):
            continue
        cell = (axes[0].nearest_level(trial.params[names[0]]), axes[1].nearest_level(trial.params[names[1]]))
        if min(cell) >= 0:  # a choice that is none of the levels is the user's own
            cells.setdefault(cell, []).append(trial)
    sign = 1 if search.minimize[0] else -1
    best = {cell: min(trials, key=lambda t: sign * (t.score() or 0.0)) for cell, trials in cells.items()}
    ordered = sorted({t.score() or 0.0 for t in best.values()}, reverse=search.minimize[0])
    rows = []
    for (i, j), trial in best.items():
        value = trial.score() or 0.0
        row = {
            "column": labels[0][i],
            "row": labels[1][j],
            "best": number(value, 3),
            "of": f"trial {trial.number}, {trial.status}",
            "share": ordered.index(value) / max(len(ordered) - 1, 1),
            "pruned": trial.status != "complete",
            "trials": [t.number for t in cells[i, j]],
        }
        rows.append(row)
    return rows


def is_number(value: Any) -> bool:
    """Whether a value of a hyperparameter can stand on an axis of numbers."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _best_last(search: SearchRecord) -> list[TrialRecord]:
    """All trials, the baseline and the best one last: their marks are drawn over all others."""
    best = search.best()
    return sorted(search.trials, key=lambda t: (t is best, t.role == "baseline"))


def _ranks(search: SearchRecord) -> dict[int, float]:
    """Trial number -> rank of its objective in [0, 1], 1 is best; trials without any value are left out."""
    scores = {t.number: s for t in search.trials if (s := t.score()) is not None}
    ordered = sorted(scores, key=lambda n: scores[n], reverse=search.minimize[0])
    return {n: i / max(len(ordered) - 1, 1) for i, n in enumerate(ordered)}


def _choices(distribution: CategoricalDistribution, values: list[Any]) -> list[Any]:
    """The choices, and any tried values outside of them."""
    choices = list(distribution.choices)
    for value in values:  # one at a time: a value may be of a kind that no set can hold
        choices += [] if any(_same(c, value) for c in choices) else [value]
    return choices


def _index(choices: list[Any], value: Any) -> int:
    return next(i for i, choice in enumerate(choices) if _same(choice, value))


def _same(a: Any, b: Any) -> bool:
    """8 and 8.0 are the same choice, 1 and True are not."""
    both_nan = a != a and b != b
    return both_nan or (bool(a == b) and isinstance(a, bool) == isinstance(b, bool))


def _end(trial: TrialRecord, trials: tuple[TrialRecord, ...]) -> datetime:
    """A trial that still runs is drawn up to the last thing that is known to have happened."""
    return trial.ended or max(m for t in trials for m in (t.begun, t.ended) if m)


def _lanes(trials: tuple[TrialRecord, ...]) -> dict[int, int]:
    """Trial number -> the first lane that is free when the trial begins."""
    free: list[datetime] = []  # when each lane is free again
    lanes = {}
    for trial in sorted((t for t in trials if t.begun), key=lambda t: t.begun or datetime.max):
        lane = next((i for i, moment in enumerate(free) if trial.begun and moment <= trial.begun), len(free))
        free[lane : lane + 1] = [_end(trial, trials)]
        lanes[trial.number] = lane
    return lanes


def _rounded(value: float) -> float:
    return float(f"{value:.{N_DIGITS}g}")
