"""Charts of single trials: their learning curves, and what they cost."""

from __future__ import annotations

from hf_rlsearch.backend.confirm import Confirmation
from hf_rlsearch.report.chart_progress import trial_bars
from hf_rlsearch.report.drawing import Dot, Drawing, Line, Rect, Text, sheet
from hf_rlsearch.report.frame import STATUS_LOOK, Frame, Key, legend, status_keys, tick_count
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import Linear, duration, number, robust
from hf_rlsearch.report.scales import size as show_size


def learning_curves(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """All learning curves on one axis, with the places where trainings were stopped."""
    trials = [t for t in search.trials if t.curve]
    if not trials:
        return None
    drawing = sheet(
        "learning-curves",
        "Learning curves and stop decisions",
        "Every evaluation of every trial against the share of its own training. A diamond is where a training was "
        "stopped on purpose; the best trial is drawn strong, your own arguments dashed.",
        kind="wide",
        height=400,
        narrow=narrow,
    )
    unit = 100 / search.max_step if search.fractions else 1.0
    high = max(step * unit for t in trials for step, _ in t.curve)
    values = [v for t in trials for _, v in t.curve]
    own = search.baseline()
    frame = Frame(
        drawing=drawing,
        x=Linear(0, (100.0 if search.fractions else high) * 1.01 or 1.0, tick_count(drawing)),
        y=robust(values, minimize=search.minimize[0], keep=[v for _, v in own.curve] if own else [], share=0.9),
        top=legend(drawing, _curve_keys(search, trials), search.metrics[0]),
    )
    frame.axes("% of the trial's training" if search.fractions else "step", search.metrics[0])
    best = search.best()
    for trial in sorted(trials, key=lambda t: (t is best, t is own)):  # the two that matter last, on top
        _draw_curve(frame, trial, unit, is_best=trial is best, is_own=trial is own)
    return drawing


def _curve_keys(search: SearchRecord, trials: list[TrialRecord]) -> list[Key]:
    keys = [Key("line", "good", "best")] if search.best() else []
    keys += [Key("dash", "ink", "your arguments")] if search.baseline() else []
    for key in status_keys([t.status for t in trials]):
        if key.text in {"pruned", "failed"}:
            keys.append(Key(key.kind, key.color, "stopped" if key.text == "pruned" else key.text))
    return keys


def _draw_curve(frame: Frame, trial: TrialRecord, unit: float, *, is_best: bool, is_own: bool) -> None:
    points = tuple(frame.at(step * unit, value) for step, value in trial.curve)
    status_color, kind = STATUS_LOOK[trial.status]
    color = "good" if is_best else "ink" if is_own else status_color
    strong = is_best or is_own
    tip = f"trial {trial.number} ({trial.status}), last {number(trial.curve[-1][1])}"
    line = Line(
        points=points,
        color=color,
        width=2.6 if strong else 1.1,
        opacity=1.0 if strong else 0.42,
        dash="5 4" if is_own and not is_best else "",
        trial=trial.number,
        tip=tip,
    )
    frame.drawing.add(line)
    x, y = points[-1]
    if trial.status in {"pruned", "failed"}:
        frame.drawing.add(Dot(x=x, y=y, kind=kind, color=status_color, trial=trial.number, tip=tip))
    elif len(points) == 1:  # one evaluation makes no line
        frame.drawing.add(Dot(x=x, y=y, size=2.6, color=color, trial=trial.number, tip=tip))


def time_per_trial(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """Seconds of each trial."""
    seconds = {t.number: t.seconds for t in search.trials if t.seconds is not None}
    if not seconds:
        return None
    caption = "Wall-clock time of each trial, evaluations included."
    drawing = sheet("time", "Time per trial", caption, kind="half", height=270, narrow=narrow)
    longest = max(seconds.values())
    unit, name = (1.0, "seconds") if longest < 180 else (60.0, "minutes") if longest < 10_800 else (3600.0, "hours")
    bars = [(t, seconds[t.number] / unit, duration(t.seconds)) for t in search.trials if t.number in seconds]
    return trial_bars(drawing, search, bars, y=Linear(0, longest / unit * 1.08 or 1.0, 4), label=name)


def memory_per_trial(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """Peak memory of each trial."""
    memory = {t.number: t.memory for t in search.trials if t.memory is not None}
    if not memory:
        return None
    caption = "The most that the process or the accelerator held while the trial ran."
    resident = {t.number: t.resident for t in search.trials if t.resident is not None}
    if resident:
        caption += " Lines: what the process still held after it; level lines mean that nothing grows."
    drawing = sheet("memory", "Peak memory per trial", caption, kind="half", height=270, narrow=narrow)
    most = max([*memory.values(), *resident.values()])
    unit, name = (1e9, "GB") if most >= 1e9 else (1e6, "MB")
    lines = {number: held / unit for number, held in resident.items()}
    bars = [(t, memory[t.number] / unit, show_size(t.memory)) for t in search.trials if t.number in memory]
    y = Linear(0, most / unit * 1.08 or 1.0, 4)
    return trial_bars(drawing, search, bars, y=y, label=name, lines=lines, line="after the trial")


def confirmations(search: SearchRecord, *, narrow: bool = False) -> Drawing | None:
    """The configurations that were trained again under new seeds."""
    seen = {t.number: t.values[0] for t in search.scored() if t.values}
    found = [c for c in search.confirmations if c.number in seen]
    if not found:
        return None
    drawing = sheet(
        "confirmations",
        "The best under new seeds",
        "The best of many noisy scores looks better than it is, so the best few and your own arguments were trained "
        "again. Dots are new seeds, the bar is their mean, the cross is the score that the search had seen.",
        kind="wide",
        height=74 + 34 * len(found),
        narrow=narrow,
    )
    values = [v for c in found for v in (*c.values.values(), seen[c.number])]
    x = Linear.around(values, count=tick_count(drawing))
    frame = Frame(drawing=drawing, x=x, y=Linear(0, len(found)), left=96, top=16)
    frame.x_ticks(grid=True)
    name = search.metrics[0]
    drawing.add(Text(x=frame.left + frame.width / 2, y=drawing.height - 8, text=name, anchor="middle", color="soft"))
    best, own = search.best(), search.baseline()
    for row, confirmation in enumerate(found):
        is_best = best is not None and confirmation.number == best.number
        is_own = own is not None and confirmation.number == own.number
        label = "your own" if is_own else f"trial {confirmation.number}"
        color = "good" if is_best else "ink" if is_own else "accent"
        y = frame.top + (row + 0.5) * frame.height / len(found)
        drawing.add(Text(x=frame.left - 10, y=y + 4, text=label, anchor="end", bold=is_best))
        _draw_seeds(frame, confirmation, seen[confirmation.number], y, color)
    return drawing


def _draw_seeds(frame: Frame, confirmation: Confirmation, seen: float, y: float, color: str) -> None:
    mean = frame.at_x(confirmation.mean)
    n = confirmation.number
    mark = Rect(
        x=mean - 1.5, y=y - 11, width=3, height=22, color=color, trial=n, tip=f"mean {number(confirmation.mean)}"
    )
    cross = Dot(x=frame.at_x(seen), y=y, kind="cross", color="soft", trial=n, tip=f"in the search: {number(seen)}")
    frame.drawing.add(cross, mark)
    for seed, value in confirmation.values.items():
        tip = f"seed {seed}: {number(value)}"
        frame.drawing.add(Dot(x=frame.at_x(value), y=y, size=4.5, color=color, opacity=0.7, trial=n, tip=tip))
