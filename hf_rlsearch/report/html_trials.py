"""The parts of the report that go trial by trial: reasons, failures, and the table."""

from __future__ import annotations

from html import escape

from hf_rlsearch.report.decisions import Contribution, Explanation, explain
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import show
from hf_rlsearch.report.tables import columns, rows

_MAX_ATTENDED = 5


def why(search: SearchRecord) -> str:
    """Why each trial was chosen and, where it was, stopped."""
    if not search.trials:
        return ""
    items = "\n".join(_reason(explain(search, t.number)) for t in search.trials)
    return f'<section id="why"><h2>Why each trial</h2><div class="card reasons">{items}</div></section>'


def _reason(reason: Explanation) -> str:
    trial = reason.trial
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in reason.facts)
    parts = (f"<dl>{facts}</dl>" if facts else "") + _contribution_bars(reason)
    if reason.attended:
        looked = ", ".join(f"trial {n} ({w:.0%})" for n, w in reason.attended[:_MAX_ATTENDED])
        parts += f"<p>Looked at most: {looked}.</p>"
    line = _line(trial, " ".join(reason.sentences))
    return f"<details><summary>{line}</summary>{parts}</details>" if parts else f'<div class="bare">{line}</div>'


def _line(trial: TrialRecord, text: str) -> str:
    chip = f'<span class="chip {trial.status}">{trial.number}</span>'
    return f"{chip} {escape(text)}<small>{escape(_params(trial))}</small>"


def _params(trial: TrialRecord) -> str:
    return ", ".join(f"{name}={show(value)}" for name, value in trial.params.items())


def _contribution_bars(reason: Explanation) -> str:
    """Two bars per hyperparameter: the whole contribution, and below it the part that was known beforehand."""
    if not reason.contributions:
        return ""
    top = max(max(abs(c.total), abs(c.beforehand or 0)) for c in reason.contributions) or 1.0
    bars = "".join(_bar(c, top) for c in reason.contributions)
    told = (
        "What set it apart from the average candidate, in the agent's eyes. Thick: with all trials so far; "
        "thin: what was known before any trial. To the right speaks for it."
    )
    return f'<div class="bars"><p>{told}</p>{bars}</div>'


def _bar(contribution: Contribution, top: float) -> str:
    known = "" if contribution.beforehand is None else _half(contribution.beforehand, top, "known")
    tried = f"{contribution.n_values} value{'' if contribution.n_values == 1 else 's'} tried"
    return (
        f'<div class="bar" title="{escape(contribution.to_text())}"><span>{escape(contribution.name)}</span>'
        f'<div class="axis">{_half(contribution.total, top, "")}{known}</div>'
        f"<em>{contribution.total:+.3f}</em><small>{tried}</small></div>"
    )


def _half(value: float, top: float, kind: str) -> str:
    """One bar from the middle of its row to the left or right."""
    width = abs(value) / top * 50
    left = 50.0 if value >= 0 else 50 - width
    sign = "plus" if value >= 0 else "minus"
    return f'<i class="{f"{sign} {kind}".strip()}" style="left:{left:.1f}%;width:{width:.1f}%"></i>'


def failures(search: SearchRecord) -> str:
    """The failed trials with their reasons; nothing where none failed."""
    failed = search.with_status("failed")
    if not failed:
        return ""
    items = "\n".join(_failed(t) for t in failed)
    return f'<section id="failures"><h2>Failed trials</h2><div class="card reasons">{items}</div></section>'


def _failed(trial: TrialRecord) -> str:
    line = _line(trial, trial.failure or "")
    if not trial.traceback:
        return f'<div class="bare">{line}</div>'
    return f"<details><summary>{line}</summary><pre>{escape(trial.traceback.strip())}</pre></details>"


def table(search: SearchRecord) -> str:
    """All trials; the page's script sorts and filters it."""
    head = "".join(f'<th><button type="button">{escape(name)}</button></th>' for name in columns(search))
    best = search.best()
    pairs = zip(search.trials, rows(search), strict=True)
    lines = "\n".join(_table_row(trial, row, is_best=trial is best) for trial, row in pairs)
    field = '<input type="search" placeholder="Filter, e.g. pruned" aria-label="Filter the table">'
    return (
        f'<section id="trials"><h2>All trials</h2><div class="card">{field}<div class="scroll tall">'
        f'<table class="sortable"><thead><tr>{head}</tr></thead><tbody>\n{lines}\n</tbody></table>'
        "</div></div></section>"
    )


def _table_row(trial: TrialRecord, cells: list[str], *, is_best: bool) -> str:
    """Cells carry the raw number to sort by where their text is not one."""
    n = len(cells)
    raw = {2: trial.score(), n - 3: trial.fidelity, n - 2: trial.seconds, n - 1: trial.memory}
    texts = []
    for i, cell in enumerate(cells):
        key = f' data-k="{raw[i]}"' if raw.get(i) is not None else ""
        inner = f'<span class="chip {trial.status}">{escape(cell)}</span>' if i == 1 else escape(cell)
        texts.append(f"<td{key}>{inner}</td>")
    return f'<tr data-row="{trial.number}"{" class=best" if is_best else ""}>{"".join(texts)}</tr>'
