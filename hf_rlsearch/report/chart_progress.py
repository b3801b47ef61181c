"""Charts of the search as a whole: the incumbent against the budget, and where the compute went."""

from __future__ import annotations

from datetime import datetime

from hf_rlsearch.report.analysis import Incumbent, expected_best, incumbents
from hf_rlsearch.report.drawing import Dot, Drawing, Line, Rect, Text
from hf_rlsearch.report.frame import STATUS_LOOK, Frame, Key, legend, status_keys
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import Linear, duration, number


def best_so_far(search: SearchRecord) -> Drawing | None:
    """Incumbent against full trainings spent, with every trial and the expected best of random order."""
    entries = [e for e in incumbents(search)]
    values = [t.values[0] for t in search.scored() if t.values]
    if not values:
        return None
    drawing = Drawing(
        name="best-so-far",
        title="Best so far against budget",
        caption="The line is the best objective after so many full trainings of compute. The dashed curve is what the same "
        "complete trials would give on average in random order without stopping any (Dodge et al. 2019): a search that "
        "learns runs ahead of it.",
        wide=True,
        width=1160,
        height=340,
    )
    frame = Frame(drawing=drawing, x=Linear(0, max(entries[-1].spent, 1.0) * 1.02, 8), y=_value_scale(search, values))
    frame.axes("full trainings spent", _objective_label(search), grid_x=False)
    _draw_expected(frame, search, values, entries[-1].spent)
    _draw_baseline(frame, search)
    _draw_trials(frame, entries)
    known = [e for e in entries if e.best is not None]
    xs = [e.spent for e in known] + [entries[-1].spent]
    ys = [e.best for e in known if e.best is not None]
    drawing.add(Line(points=frame.step_line(xs, [*ys, ys[-1]]), color="accent", width=2.6))
    for entry in known:
        if entry.improved and entry.best is not None:
            x, y = frame.at(entry.spent, entry.best)
            tip = f"trial {entry.trial.number}: {number(entry.best)}"
            drawing.add(Dot(x=x, y=y, size=5, color="accent", trial=entry.trial.number, tip=tip))
    keys = [Key("line", "accent", "best so far"), Key("dash", "second", "expected best"), Key("circle", "mute", "trial")]
    legend(drawing, keys + ([Key("dash", "good", "your arguments")] if search.baseline() else []))
    return drawing


def _value_scale(search: SearchRecord, values: list[float]) -> Linear:
    """A range for objectives that a few diverged trials cannot flatten: the worst quarter may be clipped."""
    ordered = sorted(values, reverse=not search.minimize[0])
    best, typical, worst = ordered[0], ordered[(3 * len(ordered)) // 4], ordered[-1]
    far = abs(worst - best) > 4 * abs(typical - best) > 0
    limit = best + 2 * (typical - best) if far else worst
    return Linear.around([best, limit])


def _objective_label(search: SearchRecord) -> str:
    return f"{search.metrics[0]} ({'smaller' if search.minimize[0] else 'larger'} is better)"


def _draw_expected(frame: Frame, search: SearchRecord, values: list[float], spent: float) -> None:
    n_draws = max(int(spent), 1)
    curve = expected_best(values, minimize=search.minimize[0], n_draws=n_draws)
    points = tuple(frame.at(n + 1, value) for n, value in enumerate(curve.tolist()))
    frame.drawing.add(Line(points=points, color="second", width=1.8, dash="5 4"))


def _draw_baseline(frame: Frame, search: SearchRecord) -> None:
    own = search.baseline()
    if own is None or own.values is None:
        return
    y = frame.at_y(own.values[0])
    line = Line(points=((frame.left, y), (frame.left + frame.width, y)), color="good", width=1.5, dash="2 3")
    frame.drawing.add(line)


def _draw_trials(frame: Frame, entries: list[Incumbent]) -> None:
    for entry in entries:
        value = entry.trial.score()
        if value is None:
            continue
        color, kind = STATUS_LOOK[entry.trial.status]
        x, y = frame.at(entry.spent, value)
        color = "mute" if entry.trial.status == "complete" else color
        tip = f"trial {entry.trial.number} ({entry.trial.status}): {number(value)}"
        frame.drawing.add(Dot(x=x, y=y, kind=kind, color=color, trial=entry.trial.number, tip=tip, opacity=0.85))


def allocation(search: SearchRecord) -> Drawing | None:
    """How much training each trial got, one bar per trial."""
    trials = list(search.trials)
    if not trials:
        return None
    drawing = Drawing(
        name="allocation",
        title="How much training each trial got",
        caption="One bar per trial, in the order of the search; a full bar is a complete training. Bars that end early are "
        "trainings that were not worth their price.",
        wide=True,
        width=1160,
        height=230,
    )
    first, last = trials[0].number, trials[-1].number
    frame = Frame(drawing=drawing, x=Linear(first - 0.5, last + 0.5, 12), y=Linear(0, 1, 4), bottom=42)
    frame.axes("trial", "share of a full training")
    share = frame.width / (last - first + 1)
    best = search.best()
    for trial in trials:
        x, y = frame.at(trial.number, trial.fidelity)
        color = "good" if trial is best else STATUS_LOOK[trial.status][0]
        tip = f"trial {trial.number} ({trial.status}): {trial.fidelity:.0%} of a full training"
        bar = max(share * 0.72, 1.0)
        drawing.add(
            Rect(x=x - bar / 2, y=y - 1, width=bar, height=frame.floor - y + 1, color=color, round=min(2.0, bar / 4), trial=trial.number, tip=tip)
        )
    blocks = [Key("block", key.color, key.text) for key in status_keys([t.status for t in trials])]
    legend(drawing, [*blocks, Key("block", "good", "best")] if best else blocks)
    return drawing


def gantt(search: SearchRecord) -> Drawing | None:
    """When each trial ran."""
    trials = [t for t in search.trials if t.begun]
    if not trials:
        return None
    starts = [t.begun for t in trials if t.begun]
    begun = min(starts)
    ends = [_end(t, trials) for t in trials]
    total = max((max(ends) - begun).total_seconds(), 1e-3)
    lanes = _lanes(trials, ends)
    n_lanes = max(lanes) + 1
    drawing = Drawing(
        name="gantt",
        title="When each trial ran",
        caption="Wall clock from the first trial to the last; one lane per trial that ran at the same time, so several lanes "
        "mean several workers. Gaps are time without a training.",
        wide=True,
        width=1160,
        height=86 + 26 * n_lanes,
    )
    unit, name = _time_unit(total)
    frame = Frame(drawing=drawing, x=Linear(0, total / unit, 10), y=Linear(0, n_lanes), left=24, top=32)
    frame._x_ticks(grid=True)
    drawing.add(Text(x=frame.left + frame.width / 2, y=drawing.height - 8, text=name, anchor="middle", color="soft"))
    for trial, end, lane in zip(trials, ends, lanes, strict=True):
        _draw_span(frame, trial, begun, end, lane, unit)
    legend(drawing, [Key("block", key.color, key.text) for key in status_keys([t.status for t in trials])])
    return drawing


def _end(trial: TrialRecord, trials: list[TrialRecord]) -> datetime:
    """A trial that still runs is drawn up to the last thing that is known to have happened."""
    moments = [m for t in trials for m in (t.begun, t.ended) if m]
    return trial.ended or max(moments)


def _lanes(trials: list[TrialRecord], ends: list[datetime]) -> list[int]:
    free: list[datetime] = []  # when each lane is free again
    lanes = []
    for trial, end in zip(trials, ends, strict=True):
        open_lanes = [i for i, moment in enumerate(free) if trial.begun and moment <= trial.begun]
        lane = open_lanes[0] if open_lanes else len(free)
        free[lane : lane + 1] = [end]
        lanes.append(lane)
    return lanes


def _time_unit(seconds: float) -> tuple[float, str]:
    if seconds < 180:
        return 1.0, "seconds since the start"
    return (60.0, "minutes since the start") if seconds < 10_800 else (3600.0, "hours since the start")


def _draw_span(frame: Frame, trial: TrialRecord, begun: datetime, end: datetime, lane: int, unit: float) -> None:
    assert trial.begun is not None
    left = frame.at_x((trial.begun - begun).total_seconds() / unit)
    right = frame.at_x((end - begun).total_seconds() / unit)
    y = frame.top + 26 * lane + 3
    color = STATUS_LOOK[trial.status][0]
    tip = f"trial {trial.number} ({trial.status}), {duration(trial.seconds)}"
    width = max(right - left - 1, 1.5)
    frame.drawing.add(Rect(x=left, y=y, width=width, height=20, color=color, round=3, trial=trial.number, tip=tip, opacity=0.9))
    if width > 7 * len(str(trial.number)) + 6:
        frame.drawing.add(
            Text(x=left + width / 2, y=y + 14, text=str(trial.number), anchor="middle", color="paper", size=11, bold=True)
        )
