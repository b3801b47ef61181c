"""Charts of single trials: their learning curves, and what they cost."""

from __future__ import annotations

from hf_rlsearch.report.drawing import Dot, Drawing, Line, Rect
from hf_rlsearch.report.frame import STATUS_LOOK, Frame, Key, legend, status_keys
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import Linear, duration, number
from hf_rlsearch.report.scales import size as show_size


def learning_curves(search: SearchRecord) -> Drawing | None:
    """All learning curves on one axis, with the places where trainings were stopped."""
    trials = [t for t in search.trials if t.curve]
    if not trials:
        return None
    drawing = Drawing(
        name="learning-curves",
        title="Learning curves and stop decisions",
        caption="Every evaluation of every trial against the share of its own training. A diamond is where a training was "
        "stopped on purpose; the best trial is drawn strong, your own arguments dashed.",
        wide=True,
        width=1160,
        height=400,
    )
    unit = 100 / search.max_step if search.fractions else 1.0
    steps = [s * unit for t in trials for s, _ in t.curve]
    high = 100.0 if search.fractions else max(steps)
    frame = Frame(drawing=drawing, x=Linear(0, high * 1.01 or 1.0, 10), y=_curve_scale(search, trials))
    frame.axes("% of the trial's training" if search.fractions else "step", search.metrics[0])
    best, own = search.best(), search.baseline()
    for trial in sorted(trials, key=lambda t: (t is best, t is own)):  # the two that matter last, on top
        _draw_curve(frame, trial, unit, is_best=trial is best, is_own=trial is own)
    keys = [Key("line", "good", "best")] if best else []
    keys += [Key("dash", "ink", "your arguments")] if own else []
    ends = [k for k in status_keys([t.status for t in trials]) if k.text in {"pruned", "failed"}]
    legend(drawing, [*keys, *(Key(k.kind, k.color, "stopped" if k.text == "pruned" else k.text) for k in ends)])
    return drawing


def _curve_scale(search: SearchRecord, trials: list[TrialRecord]) -> Linear:
    """From the best value seen to the 90th percentile of the others, so that one diverged run does not flatten the rest."""
    values = sorted((v for t in trials for _, v in t.curve), reverse=not search.minimize[0])
    best, most, worst = values[0], values[int(0.9 * (len(values) - 1))], values[-1]
    far = abs(worst - best) > 3 * abs(most - best) > 0
    return Linear.around([best, most + 0.2 * (most - best) if far else worst])


def _draw_curve(frame: Frame, trial: TrialRecord, unit: float, *, is_best: bool, is_own: bool) -> None:
    points = tuple(frame.at(step * unit, value) for step, value in trial.curve)
    status_color, kind = STATUS_LOOK[trial.status]
    color = "good" if is_best else "ink" if is_own else status_color
    strong = is_best or is_own
    tip = f"trial {trial.number} ({trial.status})"
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
        why = trial.decision.get("stop_reason") or trial.status
        value = number(trial.curve[-1][1])
        frame.drawing.add(Dot(x=x, y=y, kind=kind, color=status_color, trial=trial.number, tip=f"{tip}: {why} at {value}"))
    elif len(points) == 1:  # one evaluation makes no line
        frame.drawing.add(Dot(x=x, y=y, size=2.6, color=color, trial=trial.number, tip=tip))


def time_per_trial(search: SearchRecord) -> Drawing | None:
    """Seconds of each trial."""
    trials = [t for t in search.trials if t.seconds is not None]
    drawing = Drawing(
        name="time",
        title="Time per trial",
        caption="Wall-clock time of each trial, evaluations included.",
        height=260,
    )
    return _bars(drawing, search, [(t, t.seconds or 0.0, duration(t.seconds)) for t in trials], *_seconds_unit(trials))


def _seconds_unit(trials: list[TrialRecord]) -> tuple[float, str]:
    longest = max((t.seconds or 0.0 for t in trials), default=0.0)
    if longest < 180:
        return 1.0, "seconds"
    return (60.0, "minutes") if longest < 10_800 else (3600.0, "hours")


def memory_per_trial(search: SearchRecord) -> Drawing | None:
    """Peak memory of each trial."""
    trials = [t for t in search.trials if t.memory is not None]
    drawing = Drawing(
        name="memory",
        title="Peak memory per trial",
        caption="The most memory that the process or the accelerator held while the trial ran.",
        height=260,
    )
    most = max((t.memory or 0.0 for t in trials), default=0.0)
    unit, name = (1e9, "GB") if most >= 1e9 else (1e6, "MB")
    return _bars(drawing, search, [(t, t.memory or 0.0, show_size(t.memory)) for t in trials], unit, name)


def _bars(
    drawing: Drawing, search: SearchRecord, bars: list[tuple[TrialRecord, float, str]], unit: float, name: str
) -> Drawing | None:
    if not bars:
        return None
    first, last = search.trials[0].number, search.trials[-1].number
    top = max(height for _, height, _ in bars) / unit
    frame = Frame(drawing=drawing, x=Linear(first - 0.5, last + 0.5, 8), y=Linear(0, top * 1.08 or 1.0, 4))
    frame.axes("trial", name)
    width = max(frame.width / (last - first + 1) * 0.72, 1.0)
    for trial, height, text in bars:
        x, y = frame.at(trial.number, height / unit)
        color = STATUS_LOOK[trial.status][0]
        tip = f"trial {trial.number} ({trial.status}): {text}"
        drawing.add(
            Rect(x=x - width / 2, y=y, width=width, height=frame.floor - y, color=color, round=min(2.0, width / 4), trial=trial.number, tip=tip)
        )
    return drawing
