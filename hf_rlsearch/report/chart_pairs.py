"""Charts that compare: hyperparameters by importance, two of them as a map, two objectives."""

from __future__ import annotations

from collections.abc import Sequence

from hf_rlsearch.report.analysis import front
from hf_rlsearch.report.chart_space import has
from hf_rlsearch.report.drawing import Dot, Drawing, Line, Rect, Text, blend, sheet
from hf_rlsearch.report.frame import Frame, Key, legend, tick_count
from hf_rlsearch.report.records import SearchRecord
from hf_rlsearch.report.scales import Linear, number, shorten, shorten_name, show
from hf_rlsearch.space import Hyperparameter, infer_role

_HEIGHT = 380.0
_MAX_BARS = 14


def importance_bars(shares: dict[str, dict[str, float]], *, narrow: bool = False) -> Drawing | None:
    """Bars per hyperparameter and evaluator, the most important on top."""
    if not shares:
        return None
    names = by_importance(shares)[:_MAX_BARS]
    drawing = sheet(
        "importance",
        "Which hyperparameters mattered",
        "How much of the objective each hyperparameter explains on its own, by Optuna's evaluators: fANOVA looks at "
        "all complete trials, PED-ANOVA at what sets the best ones apart. With few trials neither is sure.",
        kind="half",
        height=max(_HEIGHT, 60.0 + len(names) * (12 * len(shares) + 8)),
        narrow=narrow,
    )
    colors = dict(zip(shares, ("accent", "second", "mute"), strict=False))
    top = legend(drawing, [Key("block", colors[e], e) for e in shares])
    longest = min(max(len(n) for n in names), 17 if narrow else 27)
    most = max(v for found in shares.values() for v in found.values()) or 1.0
    left = longest * 6.9 + 16
    frame = Frame(drawing=drawing, x=Linear(0, most), y=Linear(0, 1), left=left, right=44, top=top, bottom=12)
    block = frame.height / len(names)
    for i, name in enumerate(names):
        _importance_row(frame, name, shares, colors, y=top + (i + 0.5) * block, label=shorten_name(name, longest))
    return drawing


def by_importance(shares: dict[str, dict[str, float]]) -> list[str]:
    """Hyperparameters by their mean share over the evaluators, the largest first."""
    names = {n for found in shares.values() for n in found}
    return sorted(names, key=lambda n: (-sum(found.get(n, 0.0) for found in shares.values()), n))


def _importance_row(
    frame: Frame, name: str, shares: dict[str, dict[str, float]], colors: dict[str, str], *, y: float, label: str
) -> None:
    thick = 12.0
    frame.drawing.add(Text(x=frame.left - 8, y=y + 4, text=label, anchor="end", tip=name))
    for j, (evaluator, found) in enumerate(shares.items()):
        share = found.get(name, 0.0)
        top = y + (j - len(shares) / 2) * thick
        width = max(frame.at_x(share) - frame.left, 1.0)
        tip = f"{name}, {evaluator}: {share:.1%}"
        bar = Rect(x=frame.left, y=top, width=width, height=thick - 1.5, color=colors[evaluator], round=2, tip=tip)
        frame.drawing.add(bar, Text(x=frame.left + width + 5, y=top + 9, text=f"{share:.0%}", size=10, color="soft"))


def heat_map(search: SearchRecord, names: tuple[str, str], *, narrow: bool = False) -> Drawing | None:
    """The best objective per cell of the discretised space of two hyperparameters."""
    axes = [_hyperparameter(search, name) for name in names]
    best, counts = _cells(search, axes)
    if not best:
        return None
    drawing = sheet(
        "heat-map",
        f"{names[0]} × {names[1]}",
        "The levels of the two hyperparameters that mattered most: the best objective found per cell, light is good. "
        "Cells that were never tried are empty; rest the pointer on one to see how many trials were spent there.",
        kind="half",
        height=_HEIGHT,
        narrow=narrow,
    )
    n_x, n_y = len(axes[0].levels), len(axes[1].levels)
    frame = Frame(drawing=drawing, x=Linear(0, n_x), y=Linear(0, n_y), left=64)
    wide, high = frame.width / n_x, frame.height / n_y
    ranked = sorted(set(best.values()), reverse=search.minimize[0])
    for i in range(n_x):
        for j in range(n_y):
            x, y = frame.left + i * wide + 1, frame.floor - (j + 1) * high + 1
            drawing.add(_cell(x, y, wide - 2, high - 2, (i, j), best, counts, ranked))
            if (i, j) in best and wide > 34 and high > 15:
                share = ranked.index(best[i, j]) / max(len(ranked) - 1, 1)
                ink = "#ffffff" if share < 0.6 else "#1b2330"
                text = number(best[i, j], 3)
                label = Text(x=x + wide / 2 - 1, y=y + high / 2 + 3, text=text, anchor="middle", color=ink, size=10.5)
                drawing.add(label)
    _level_names(frame, axes, wide, high)
    return drawing


def _hyperparameter(search: SearchRecord, name: str) -> Hyperparameter:
    distribution = search.distributions[name]
    return Hyperparameter.from_distribution(name, distribution, role=infer_role(name, distribution))


def _cells(
    search: SearchRecord, axes: Sequence[Hyperparameter]
) -> tuple[dict[tuple[int, int], float], dict[tuple[int, int], int]]:
    """(level, level) -> best value, and -> number of trials."""
    best: dict[tuple[int, int], float] = {}
    counts: dict[tuple[int, int], int] = {}
    for trial in search.trials:
        value = trial.score()
        if value is None or not all(has(search, trial, a.name) for a in axes):
            continue
        cell = (axes[0].nearest_level(trial.params[axes[0].name]), axes[1].nearest_level(trial.params[axes[1].name]))
        if min(cell) < 0:  # a choice that is none of the levels: the user's own
            continue
        counts[cell] = counts.get(cell, 0) + 1
        if cell not in best or search.better(value, best[cell]):
            best[cell] = value
    return best, counts


def _cell(
    x: float,
    y: float,
    width: float,
    height: float,
    cell: tuple[int, int],
    best: dict[tuple[int, int], float],
    counts: dict[tuple[int, int], int],
    ranked: list[float],
) -> Rect:
    if cell not in best:
        return Rect(x=x, y=y, width=width, height=height, color="rule", opacity=0.45, round=3)
    share = ranked.index(best[cell]) / max(len(ranked) - 1, 1)
    tip = f"best {number(best[cell])}, {counts[cell]} trial{'s' if counts[cell] > 1 else ''}"
    return Rect(x=x, y=y, width=width, height=height, color=blend(share), round=3, tip=tip)


def _level_names(frame: Frame, axes: Sequence[Hyperparameter], wide: float, high: float) -> None:
    """Names of the levels, as many as have room, and of the hyperparameters."""
    labels = [shorten(show(level), 10) for level in axes[0].levels]
    every = -(-int(max(map(len, labels)) * 6.6 + 8) // max(int(wide), 1))
    for i in range(0, len(labels), every):
        x = frame.left + (i + 0.5) * wide
        frame.drawing.add(Text(x=x, y=frame.floor + 15, text=labels[i], anchor="middle", color="soft"))
    every = -(-14 // max(int(high), 1))
    for j in range(0, len(axes[1].levels), every):
        y = frame.floor - (j + 0.5) * high + 4
        text = shorten(show(axes[1].levels[j]), 8)
        frame.drawing.add(Text(x=frame.left - 6, y=y, text=text, anchor="end", color="soft"))
    middle = frame.left + frame.width / 2
    frame.drawing.add(Text(x=middle, y=frame.drawing.height - 8, text=axes[0].name, anchor="middle", color="soft"))
    frame.drawing.add(Text(x=6, y=15, text=axes[1].name, color="soft"))


def trade_off(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """The first two objectives against each other; only where there are several."""
    points = {t.number: t.values for t in search.scored() if t.values}
    if len(search.minimize) < 2 or not points:
        return None
    drawing = sheet(
        "trade-off",
        f"{search.metrics[0]} against {search.metrics[1]}",
        "Every complete trial; those on the green line are not beaten on both objectives by any other.",
        kind="half",
        height=_HEIGHT,
        narrow=narrow,
    )
    top = legend(drawing, [Key("circle", "good", "not beaten"), Key("circle", "mute", "trial")], search.metrics[1])
    xs, ys = [p[0] for p in points.values()], [p[1] for p in points.values()]
    x = Linear.around(xs, count=tick_count(drawing))
    frame = Frame(drawing=drawing, x=x, y=Linear.around(ys), top=top)
    frame.axes(search.metrics[0], search.metrics[1], grid_x=True)
    best = front(search)
    line = frame.step_line(*zip(*sorted(points[n][:2] for n in best), strict=True))
    drawing.add(Line(points=line, color="good", width=1.2, opacity=0.6))
    for n, pair in points.items():
        px, py = frame.at(pair[0], pair[1])
        color, size = ("good", 5.5) if n in best else ("mute", 3.5)
        tip = f"trial {n}: {number(pair[0])}, {number(pair[1])}"
        drawing.add(Dot(x=px, y=py, size=size, color=color, trial=n, tip=tip))
    return drawing
