"""Charts of the search space: one hyperparameter, two, and all of them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from hf_rlsearch.report.drawing import Dot, Drawing, Line, Rect, Text, blend
from hf_rlsearch.report.frame import STATUS_LOOK, Frame, Key, legend, status_keys
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import Category, Linear, Log, number, scale_of, shorten, show


def hyperparameter_scale(search: SearchRecord, name: str) -> Linear | Log | Category:
    """The scale of hyperparameter `name` over everything that was tried."""
    return scale_of(search.distributions[name], [t.params[name] for t in search.trials if name in t.params])


def goodness(search: SearchRecord) -> dict[int, float]:
    """Trial number -> rank of its objective in [0, 1], 1 is best; trials without any value are left out."""
    scores = {t.number: s for t in search.trials if (s := t.score()) is not None}
    ordered = sorted(scores, key=lambda n: scores[n], reverse=search.minimize[0])
    return {n: i / max(len(ordered) - 1, 1) for i, n in enumerate(ordered)}


def slices(search: SearchRecord, *, limit: int = 12) -> list[Drawing]:
    """Objective against each hyperparameter, one drawing each, at most `limit`."""
    values = [t.values[0] for t in search.scored() if t.values]
    if not values:
        return []
    y = _clipped(search, values)
    return [_slice(search, name, y) for name in list(search.distributions)[:limit]]


def _clipped(search: SearchRecord, values: Sequence[float]) -> Linear:
    ordered = sorted(values, reverse=not search.minimize[0])
    best, most, worst = ordered[0], ordered[int(0.8 * (len(ordered) - 1))], ordered[-1]
    far = abs(worst - best) > 4 * abs(most - best) > 0
    return Linear.around([best, most + 0.5 * (most - best) if far else worst], margin=0.07)


def _slice(search: SearchRecord, name: str, y: Linear) -> Drawing:
    drawing = Drawing(
        name=f"slice-{name}",
        title=name,
        caption="",
        width=380,
        height=250,
    )
    frame = Frame(drawing=drawing, x=hyperparameter_scale(search, name), y=y, left=54)
    frame.axes(shorten(name, 40), search.metrics[0])
    best = search.best()
    for trial in sorted(search.trials, key=lambda t: t is best):
        value = trial.score()
        if value is None or name not in trial.params:
            continue
        color, kind = STATUS_LOOK[trial.status]
        px, py = frame.at(trial.params[name], value)
        tip = f"trial {trial.number}: {name}={show(trial.params[name])}, {number(value)}"
        is_best = trial is best
        drawing.add(
            Dot(
                x=px,
                y=py,
                kind=kind,
                color="good" if is_best else color,
                size=6 if is_best else 4,
                opacity=1.0 if is_best else 0.6,
                trial=trial.number,
                tip=tip,
            )
        )
    return drawing


def parallel_coordinates(search: SearchRecord) -> Drawing | None:
    """One line per trial through all hyperparameters, coloured by its rank."""
    ranks = goodness(search)
    names = [n for n in search.distributions if any(n in t.params and t.number in ranks for t in search.trials)]
    values = [s for t in search.trials if (s := t.score()) is not None]
    if not names or not values:
        return None
    drawing = Drawing(
        name="parallel",
        title="All hyperparameters at once",
        caption="One line per trial; yellow is the best objective, violet the worst, by rank. Rest the pointer on a line, or on "
        "a row of the table, to follow one trial through all plots.",
        wide=True,
        width=1160,
        height=400,
    )
    scales: list[Linear | Log | Category] = [hyperparameter_scale(search, n) for n in names]
    scales.append(_clipped(search, values))
    labels = [*names, search.metrics[0]]
    left, right, top, bottom = 70.0, 70.0, 44.0, 24.0
    columns = [left + i * (drawing.width - left - right) / len(names) for i in range(len(labels))]
    height = drawing.height - top - bottom
    for trial in sorted((t for t in search.trials if t.number in ranks), key=lambda t: ranks[t.number]):
        row = [*(trial.params.get(n) for n in names), trial.score()]
        points = [
            (x, top + height - min(max(s.place(v), 0.0), 1.0) * height)
            for x, s, v in zip(columns, scales, row, strict=True)
            if v is not None
        ]
        rank = ranks[trial.number]
        tip = f"trial {trial.number} ({trial.status}): " + ", ".join(f"{k}={show(v)}" for k, v in trial.params.items())
        drawing.add(
            Line(
                points=tuple(points),
                color=blend(rank),
                width=1.2 + 1.6 * rank**3,
                opacity=0.35 + 0.6 * rank,
                dash="" if trial.status == "complete" else "5 3",
                trial=trial.number,
                tip=tip,
            )
        )
    for x, scale, label in zip(columns, scales, labels, strict=True):
        _column(drawing, x, scale, label, top, height, room=columns[1] - columns[0])
    return drawing


def _column(drawing: Drawing, x: float, scale: Any, label: str, top: float, height: float, *, room: float) -> None:
    drawing.add(Line(points=((x, top), (x, top + height)), color="soft", width=1.2))
    drawing.add(Text(x=x, y=top - 14, text=shorten(label, max(int(room / 7), 6)), anchor="middle", bold=True))
    for place, text in scale.ticks():
        y = top + height - place * height
        if 0 <= place <= 1:
            drawing.add(Line(points=((x - 4, y), (x, y)), color="soft", width=1))
            drawing.add(Text(x=x - 7, y=y + 4, text=text, anchor="end", color="soft", size=10.5))


def importance_bars(shares: dict[str, dict[str, float]]) -> Drawing | None:
    """Bars per hyperparameter and evaluator."""
    if not shares:
        return None
    colors = ("accent", "second", "mute")
    first = next(iter(shares.values()))
    names = sorted({n for found in shares.values() for n in found}, key=lambda n: -first.get(n, 0.0))[:14]
    thick, gap = 11.0, 12.0
    block = thick * len(shares) + gap
    drawing = Drawing(
        name="importance",
        title="Which hyperparameters mattered",
        caption="Share of the objective's variation that each hyperparameter explains on its own, by Optuna's evaluators. With "
        "few trials the two may disagree; then neither is sure.",
        height=60 + block * len(names),
    )
    room = min(max((len(n) for n in names), default=4), 26) * 6.6 + 18
    top = max((v for found in shares.values() for v in found.values()), default=1.0) or 1.0
    frame = Frame(drawing=drawing, x=Linear(0, top * 1.15), y=Linear(0, 1), left=room, top=30, bottom=22)
    for i, name in enumerate(names):
        y = frame.top + i * block
        middle = y + thick * len(shares) / 2 + 4
        drawing.add(Text(x=room - 8, y=middle, text=shorten(name, 26), anchor="end"))
        for j, (evaluator, found) in enumerate(shares.items()):
            share = found.get(name, 0.0)
            width = max(frame.at_x(share) - frame.left, 1.0)
            tip = f"{name}, {evaluator}: {share:.0%}"
            bar_y = y + j * thick
            drawing.add(Rect(x=frame.left, y=bar_y, width=width, height=thick - 1.5, color=colors[j % 3], round=2, tip=tip))
            drawing.add(Text(x=frame.left + width + 5, y=bar_y + 8.5, text=f"{share:.0%}", size=9.5, color="soft"))
    legend(drawing, [Key("block", colors[j % 3], name) for j, name in enumerate(shares)])
    return drawing


def heat_map(search: SearchRecord, names: tuple[str, str], *, cells: int = 9) -> Drawing | None:
    """The best objective found per cell of two hyperparameters; an empty cell was never tried."""
    found = [t for t in search.trials if t.score() is not None and all(n in t.params for n in names)]
    if not found:
        return None
    drawing = Drawing(
        name="heat-map",
        title=f"{names[0]} × {names[1]}",
        caption="The discretised space of the two hyperparameters that mattered most: the best objective per cell, and how many "
        "trials were spent there. Empty cells were never tried.",
        height=380,
    )
    axes = [hyperparameter_scale(search, n) for n in names]
    counts = [len(a.choices) if isinstance(a, Category) else cells for a in axes]
    best, number_of = _cells(search, found, names, axes, counts)
    frame = Frame(drawing=drawing, x=axes[0], y=axes[1], left=96, bottom=46, top=30)
    ranked = sorted(set(best.values()), reverse=search.minimize[0])
    wide, high = frame.width / counts[0], frame.height / counts[1]
    for cell, value in best.items():
        share = ranked.index(value) / max(len(ranked) - 1, 1)
        x, y = frame.left + cell[0] * wide, frame.floor - (cell[1] + 1) * high
        n = number_of[cell]
        tip = f"best {number(value)}, {n} trial{'s' if n > 1 else ''}"
        drawing.add(Rect(x=x + 1, y=y + 1, width=wide - 2, height=high - 2, color=blend(share), round=3, tip=tip))
        if wide > 30 and high > 14:
            ink = "#ffffff" if share < 0.6 else "#1b2330"
            label = Text(x=x + wide / 2, y=y + high / 2 + 4, text=number(value, 3), anchor="middle", color=ink, size=10.5)
            drawing.add(label)
    frame.axes(names[0], names[1])
    return drawing


def _cells(
    search: SearchRecord,
    trials: list[TrialRecord],
    names: tuple[str, str],
    axes: Sequence[Linear | Log | Category],
    counts: Sequence[int],
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], int]]:
    best: dict[tuple[int, int], float] = {}
    number_of: dict[tuple[int, int], int] = {}
    for trial in trials:
        value = trial.score()
        assert value is not None
        places = [a.place(trial.params[n]) for a, n in zip(axes, names, strict=True)]
        cell = (_cell(places[0], counts[0]), _cell(places[1], counts[1]))
        number_of[cell] = number_of.get(cell, 0) + 1
        if cell not in best or search.better(value, best[cell]):
            best[cell] = value
    return best, number_of


def _cell(place: float, count: int) -> int:
    return min(max(int(place * count), 0), count - 1)


def trade_off(search: SearchRecord) -> Drawing | None:
    """The first two objectives against each other; only where there are several."""
    if len(search.minimize) < 2 or not search.scored():
        return None
    points = {t.number: t.values for t in search.scored() if t.values}
    drawing = Drawing(
        name="trade-off",
        title=f"{search.metrics[0]} against {search.metrics[1]}",
        caption="Every complete trial; the green ones are not beaten on both objectives by any other.",
        height=340,
    )
    xs, ys = [p[0] for p in points.values()], [p[1] for p in points.values()]
    frame = Frame(drawing=drawing, x=Linear.around(xs), y=Linear.around(ys))
    frame.axes(search.metrics[0], search.metrics[1], grid_x=True)
    for n, pair in points.items():
        x, y = frame.at(pair[0], pair[1])
        front = not any(_dominates(search, other, pair) for other in points.values())
        tip = f"trial {n}: {number(pair[0])}, {number(pair[1])}"
        drawing.add(Dot(x=x, y=y, size=5.5 if front else 3.5, color="good" if front else "mute", trial=n, tip=tip))
    legend(drawing, [Key("circle", "good", "not dominated"), *status_keys(())])
    return drawing


def _dominates(search: SearchRecord, a: Sequence[float], b: Sequence[float]) -> bool:
    signs = [1 if m else -1 for m in search.minimize]
    pairs = [(s * x, s * y) for s, x, y in zip(signs, a, b, strict=True)]
    return all(x <= y for x, y in pairs) and any(x < y for x, y in pairs)
