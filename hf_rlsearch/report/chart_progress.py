"""Charts of the search as a whole: the incumbent against the budget, and where the compute went."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime

from hf_rlsearch.report.analysis import Incumbent, expected_best, incumbents
from hf_rlsearch.report.drawing import Dot, Drawing, Line, Rect, Text, sheet
from hf_rlsearch.report.frame import STATUS_LOOK, Frame, Key, legend, status_keys, tick_count
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import Linear, duration, number, robust

_LANE = 26.0  # pixels per lane of the Gantt chart


def best_so_far(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """Incumbent against full trainings spent, with every trial and the expected best of random order."""
    entries = incumbents(search)
    values = [t.values[0] for t in search.scored() if t.values]
    if not values:
        return None
    drawing = sheet(
        "best-so-far",
        "Best so far against budget",
        "The line is the best objective after so many full trainings of compute. The dashed curve is what the same "
        "complete trials would give on average, drawn at random and none of them stopped (Dodge et al. 2019, "
        "arXiv:1909.03004). Arrow heads lie outside of the range.",
        kind="wide",
        height=340,
        narrow=narrow,
    )
    own = search.baseline()
    own_value = own.values[0] if own and own.values else None
    label = f"{search.metrics[0]} ({'smaller' if search.minimize[0] else 'larger'} is better)"
    frame = Frame(
        drawing=drawing,
        x=Linear(0, max(entries[-1].spent, 1.0) * 1.02, tick_count(drawing)),
        y=robust(values, minimize=search.minimize[0], keep=[own_value] if own_value is not None else []),
        top=legend(drawing, _progress_keys(entries, own_value), label),
    )
    frame.axes("full trainings spent", label)
    if own_value is not None:
        y = frame.at_y(own_value)
        drawing.add(Line(points=((frame.left, y), (frame.left + frame.width, y)), color="good", width=1.5, dash="2 3"))
    _draw_expected(frame, search, values, entries[-1].spent)
    _draw_trials(frame, entries)
    _draw_incumbent(frame, entries)
    return drawing


def _progress_keys(entries: list[Incumbent], own: float | None) -> list[Key]:
    keys = [Key("line", "accent", "best so far"), Key("dash", "second", "expected best")]
    keys += [Key("dash", "good", "your arguments")] if own is not None else []
    keys.append(Key("circle", "mute", "trial"))
    return keys + [k for k in status_keys([e.trial.status for e in entries]) if k.text in {"pruned", "failed"}]


def _draw_expected(frame: Frame, search: SearchRecord, values: list[float], spent: float) -> None:
    curve = expected_best(values, minimize=search.minimize[0], n_draws=max(int(spent), 1))
    points = tuple(frame.at(n + 1, value) for n, value in enumerate(curve.tolist()))
    frame.drawing.add(Line(points=points, color="second", width=1.8, dash="5 4"))


def _draw_trials(frame: Frame, entries: list[Incumbent]) -> None:
    """Complete trials at their objective; the others on the floor: what they had reached is not comparable."""
    for entry in entries:
        trial = entry.trial
        color, kind = STATUS_LOOK[trial.status]
        value = trial.values[0] if trial.values else None
        x = frame.at_x(entry.spent)
        y = frame.floor - 8 if value is None else frame.at_y(value)
        tip = f"trial {trial.number} ({trial.status})" + ("" if value is None else f": {number(value)}")
        kind = kind if value is None else frame.marker(value, kind)
        color = color if value is None else "mute"
        frame.drawing.add(Dot(x=x, y=y, kind=kind, color=color, trial=trial.number, tip=tip))


def _draw_incumbent(frame: Frame, entries: list[Incumbent]) -> None:
    known = [(e.spent, e.best) for e in entries if e.best is not None]
    line = frame.step_line([x for x, _ in known], [y for _, y in known])
    frame.drawing.add(Line(points=line, color="accent", width=2.6))
    for entry in entries:
        if entry.improved and entry.best is not None:
            x, y = frame.at(entry.spent, entry.best)
            tip = f"trial {entry.trial.number}: {number(entry.best)}"
            frame.drawing.add(Dot(x=x, y=y, size=5, color="accent", trial=entry.trial.number, tip=tip))


def allocation(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """How much training each trial got, one bar per trial."""
    if not search.trials:
        return None
    drawing = sheet(
        "allocation",
        "How much training each trial got",
        "One bar per trial, in the order of the search; a full bar is a complete training. Bars that end early are "
        "trainings that were not worth their price; the pale part of a bar was trained by an earlier trial, which this "
        "one went on with.",
        kind="wide",
        height=230,
        narrow=narrow,
    )
    bars = [(t, t.fidelity, _share(t)) for t in search.trials]
    return trial_bars(drawing, search, bars, y=Linear(0, 1, 4), label="share of its training", shares=True)


def _share(trial: TrialRecord) -> str:
    """What an allocation bar tells: how far the training got, what that cost, and where it began."""
    text = f"{trial.fidelity:.0%} of its training, {number(trial.spent)} full trainings spent"
    if trial.begun_at and trial.continues is not None:
        text += f"; went on with trial {trial.continues} from {trial.begun_at:.0%}"
    return text + ("; paused" if trial.paused else "")


def trial_bars(
    drawing: Drawing,
    search: SearchRecord,
    bars: list[tuple[TrialRecord, float, str]],
    *,
    y: Linear,
    label: str,
    shares: bool = False,
    lines: Mapping[int, float] | None = None,
    line: str = "",
) -> Drawing:
    """Draws one bar per (trial, height, text of its tip), the best trial in its own colour.

    Args:
        drawing: To draw on.
        search: With all trials.
        bars: Trial, height and text.
        y: The axis of heights.
        label: Of that axis.
        shares: Heights are shares of each trial's training, and what an earlier trial has trained is pale.
        lines: Heights of short lines across the bars, by number of the trial.
        line: What they are.
    """
    first, last = search.trials[0].number, search.trials[-1].number
    best = search.best()
    keys = [Key("block", key.color, key.text) for key in status_keys([t.status for t, _, _ in bars])]
    keys += [Key("block", "good", "best")] if best else []
    keys += [Key("line", "ink", line)] if lines else []
    x = Linear(first - 0.5, last + 0.5, tick_count(drawing), whole=True)
    frame = Frame(drawing=drawing, x=x, y=y, top=legend(drawing, keys, label))
    frame.axes("trial", label)
    width = max(frame.width / (last - first + 1) * 0.74, 1.0)
    for trial, height, text in bars:
        px, py = frame.at(trial.number, height)
        bar = Rect(
            x=px - width / 2,
            y=min(py, frame.floor - 1),
            width=width,
            height=max(frame.floor - py, 1),
            round=min(2.0, width / 4),
            color="good" if trial is best else STATUS_LOOK[trial.status][0],
            trial=trial.number,
            tip=f"trial {trial.number} ({trial.status}): {text}",
        )
        drawing.add(bar)
        if shares and trial.begun_at:
            top = frame.at(trial.number, trial.begun_at)[1]
            drawing.add(replace(bar, y=top, height=max(frame.floor - top, 1), color="paper", opacity=0.65))
        if lines and trial.number in lines:
            _, height_of_line = frame.at(trial.number, lines[trial.number])
            drawing.add(Rect(x=px - width / 2 - 1, y=height_of_line - 1, width=width + 2, height=2, color="ink"))
    return drawing


def gantt(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """When each trial ran."""
    trials = [t for t in search.trials if t.begun]
    if not trials:
        return None
    begun = min(t.begun for t in trials if t.begun)
    ends = [_end(t, trials) for t in trials]
    total = max((max(ends) - begun).total_seconds(), 1e-3)
    lanes = _lanes(trials, ends)
    drawing = sheet(
        "gantt",
        "When each trial ran",
        "Wall clock from the first trial to the last; trials that ran at the same time lie in lanes of their own, so "
        "several lanes mean several workers. Gaps are time without a training.",
        kind="wide",
        height=80 + _LANE * (max(lanes) + 1),
        narrow=narrow,
    )
    top = legend(drawing, [Key("block", key.color, key.text) for key in status_keys([t.status for t in trials])])
    drawing.height += top - 30
    unit, name = _time_unit(total)
    x = Linear(0, total / unit, tick_count(drawing))
    frame = Frame(drawing=drawing, x=x, y=Linear(0, max(lanes) + 1), left=24, right=24, top=top)
    frame.x_ticks(grid=True)
    drawing.add(Text(x=drawing.width / 2, y=drawing.height - 8, text=name, anchor="middle", color="soft"))
    for trial, end, lane in zip(trials, ends, lanes, strict=True):
        _draw_span(frame, trial, begun, end, lane, unit)
    return drawing


def _end(trial: TrialRecord, trials: list[TrialRecord]) -> datetime:
    """A trial that still runs is drawn up to the last thing that is known to have happened."""
    return trial.ended or max(m for t in trials for m in (t.begun, t.ended) if m)


def _lanes(trials: list[TrialRecord], ends: list[datetime]) -> list[int]:
    """The first lane that is free when a trial begins, for each trial."""
    free: list[datetime] = []  # when each lane is free again
    lanes = []
    for trial, end in sorted(zip(trials, ends, strict=True), key=lambda pair: pair[0].begun or datetime.max):
        lane = next((i for i, moment in enumerate(free) if trial.begun and moment <= trial.begun), len(free))
        free[lane : lane + 1] = [end]
        lanes.append((trial.number, lane))
    return [lane for _, lane in sorted(lanes)]


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 180:
        return 1.0, "seconds since the start"
    return (60.0, "minutes since the start") if seconds < 10_800 else (3600.0, "hours since the start")


def _draw_span(frame: Frame, trial: TrialRecord, begun: datetime, end: datetime, lane: int, unit: float) -> None:
    assert trial.begun is not None
    left = frame.at_x((trial.begun - begun).total_seconds() / unit)
    width = max(frame.at_x((end - begun).total_seconds() / unit) - left - 1, 1.5)
    y = frame.top + _LANE * lane + 3
    color = STATUS_LOOK[trial.status][0]
    tip = f"trial {trial.number} ({trial.status}), {duration(trial.seconds)}"
    bar = Rect(x=left, y=y, width=width, height=20, color=color, round=3, trial=trial.number, tip=tip)
    frame.drawing.add(bar)
    label = str(trial.number)
    if width > 7 * len(label) + 6:
        middle = left + width / 2
        frame.drawing.add(Text(x=middle, y=y + 14, text=label, anchor="middle", color="paper", size=11, bold=True))
