"""Charts of the search space: each hyperparameter alone, and all of them at once."""

from __future__ import annotations

import math
from collections.abc import Sequence

from optuna.distributions import CategoricalDistribution

from hf_rlsearch.report.drawing import LINE_RAMP, Dot, Drawing, Line, Rect, Text, blend, sheet
from hf_rlsearch.report.frame import STATUS_LOOK, Frame, thinned
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import Category, Linear, Log, number, robust, scale_of, shorten_name, show

_SLICES = "Diamonds are trials that were stopped, arrow heads lie outside of the range, the best trial is green."
_NARROWEST = 104.0  # pixels per column of the parallel coordinates, so that their names can be read


def hyperparameter_scale(search: SearchRecord, name: str) -> Linear | Log | Category:
    """The scale of hyperparameter `name` over everything that was tried."""
    return scale_of(search.distributions[name], [t.params[name] for t in search.trials if has(search, t, name)])


def has(search: SearchRecord, trial: TrialRecord, name: str) -> bool:
    """Whether `trial` has a value of hyperparameter `name` that can be placed; a user's own may be of another kind."""
    if name not in trial.params:
        return False
    value = trial.params[name]
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return is_number or isinstance(search.distributions[name], CategoricalDistribution)


def goodness(search: SearchRecord) -> dict[int, float]:
    """Trial number -> rank of its objective in [0, 1], 1 is best; trials without any value are left out."""
    scores = {t.number: s for t in search.trials if (s := t.score()) is not None}
    ordered = sorted(scores, key=lambda n: scores[n], reverse=search.minimize[0])
    return {n: i / max(len(ordered) - 1, 1) for i, n in enumerate(ordered)}


def slices(search: SearchRecord, names: Sequence[str], *, narrow: bool = False) -> list[Drawing]:
    """Objective against each of the hyperparameters `names`, one drawing each."""
    values = [t.values[0] for t in search.scored() if t.values]
    if not (values and names):
        return []
    y = robust(values, minimize=search.minimize[0])
    kind = "half" if len(names) in (1, 2, 4) else "small"  # two or three to a row, whichever leaves no hole
    drawings = [_slice(search, name, y, kind=kind, narrow=narrow) for name in names]
    drawings[0].caption = _SLICES  # once is enough
    return drawings


def _slice(search: SearchRecord, name: str, y: Linear, *, kind: str, narrow: bool) -> Drawing:
    drawing = sheet(f"slice-{name}", name, "", kind=kind, height=240, narrow=narrow)
    frame = Frame(drawing=drawing, x=hyperparameter_scale(search, name), y=y, left=52, bottom=28)
    frame.axes("", search.metrics[0])
    best = search.best()
    for trial in sorted(search.trials, key=lambda t: t is best):
        value = trial.score()
        if value is None or not has(search, trial, name):
            continue
        color, kind = STATUS_LOOK[trial.status]
        px, py = frame.at(trial.params[name], value)
        dot = Dot(
            x=px,
            y=py,
            kind=frame.marker(value, kind),
            color="good" if trial is best else color,
            size=6 if trial is best else 4,
            opacity=1.0 if trial is best else 0.6,
            trial=trial.number,
            tip=f"trial {trial.number} ({trial.status}): {name}={show(trial.params[name])}, {number(value)}",
        )
        drawing.add(dot)
    return drawing


def parallel_coordinates(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """One line per trial through all hyperparameters, coloured by its rank."""
    ranks = goodness(search)
    names = [n for n in search.distributions if any(has(search, t, n) and t.number in ranks for t in search.trials)]
    if not names:
        return None
    drawing = sheet(
        "parallel",
        "All hyperparameters at once",
        "One line per trial, the stronger the better its objective; the best is green, trials that were stopped are "
        "dashed. Rest the pointer on a line, or on a row of the table, to follow one trial through all plots.",
        kind="wide",
        height=400,
        narrow=narrow,
    )
    drawing.width = max(drawing.width, _NARROWEST * len(names) + 110)
    values = [s for t in search.trials if (s := t.score()) is not None]
    scales: list[Linear | Log | Category] = [hyperparameter_scale(search, n) for n in names]
    scales.append(robust(values, minimize=search.minimize[0]))
    room = (drawing.width - 110) / len(names)
    columns = [60 + i * room for i in range(len(scales))]
    best = search.best()
    for trial in sorted((t for t in search.trials if t.number in ranks), key=lambda t: ranks[t.number]):
        places = [
            (x, s.place(trial.params[n]))
            for x, s, n in zip(columns, scales, names, strict=False)
            if has(search, trial, n)
        ]
        places.append((columns[-1], scales[-1].place(trial.score())))
        drawing.add(_trial_line(drawing, trial, places, ranks[trial.number], is_best=trial is best))
    for x, scale, label in zip(columns, scales, [*names, search.metrics[0]], strict=True):
        _column(drawing, x, scale, shorten_name(label, max(int(room / 8.8), 6)))
    return drawing


def _column_y(drawing: Drawing, place: float) -> float:
    """Pixel row of a place in [0, 1] on a column; outside ones lie at its ends."""
    return 44.0 + (drawing.height - 64.0) * (1 - min(max(place, 0.0), 1.0))


def _trial_line(
    drawing: Drawing, trial: TrialRecord, places: list[tuple[float, float]], rank: float, *, is_best: bool
) -> Line:
    told = ", ".join(f"{k}={show(v)}" for k, v in trial.params.items())
    return Line(
        points=tuple((x, _column_y(drawing, place)) for x, place in places),
        color="good" if is_best else blend(rank, LINE_RAMP),
        width=3.0 if is_best else 1.1 + 0.9 * rank,
        opacity=1.0 if is_best else 0.45 + 0.4 * rank,
        dash="" if trial.status == "complete" else "5 3",
        trial=trial.number,
        tip=f"trial {trial.number} ({trial.status}): {told}",
    )


def _column(drawing: Drawing, x: float, scale: Linear | Log | Category, label: str) -> None:
    drawing.add(Line(points=((x, _column_y(drawing, 0)), (x, _column_y(drawing, 1))), color="soft", width=1.2))
    drawing.add(Text(x=x, y=26, text=label, anchor="middle", bold=True))
    for place, text in thinned(scale.ticks(), int(drawing.height / 18)):
        if 0 <= place <= 1:
            y = _column_y(drawing, place)
            width = 6.4 * len(text) + 2  # lines pass behind the label
            drawing.add(Rect(x=x - 7 - width, y=y - 6, width=width, height=12, color="paper", opacity=0.75, round=2))
            drawing.add(Line(points=((x - 4, y), (x, y)), color="soft", width=1))
            drawing.add(Text(x=x - 7, y=y + 4, text=text, anchor="end", size=10.5))
