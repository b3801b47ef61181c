"""The head of the report: what was searched, what came out, and the best configuration beside the user's own."""

from __future__ import annotations

import keyword
from collections.abc import Iterable, Sequence
from html import escape

from hf_rlsearch.report.analysis import Summary, front
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import duration, number, show, size


def head(search: SearchRecord, summary: Summary, links: Sequence[tuple[str, str]]) -> str:
    """Title, links to the sections (anchor, name), and tiles with the numbers that matter most."""
    arrow = [("smaller" if m else "larger") + " is better" for m in search.minimize]
    objective = " and ".join(f"<b>{escape(n)}</b>, {a}" for n, a in zip(search.metrics, arrow, strict=True))
    total = search.attributes.get("n_trials")
    n_trials = f"{len(search.trials)} of {total}" if isinstance(total, int) else str(len(search.trials))
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items()) or "none yet"
    nav = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in links)
    tiles = "".join(_tile(*tile) for tile in _tiles(search, summary))
    return (
        f'<header><p class="kind">Hyperparameter search</p><h1>{escape(search.name)}</h1>'
        f"<p>{objective} · {n_trials} trials: {counts}</p></header>"
        f'\n<nav>{nav}</nav>\n<div class="tiles">{tiles}</div>'
    )


def _tiles(search: SearchRecord, summary: Summary) -> Iterable[tuple[str, str, str]]:
    """(name, value, note) of each tile."""
    best, own = summary.best, summary.baseline
    value = number(best.values[0]) if best and best.values else "–"
    several = len(search.metrics) > 1
    yield (
        f"Best {search.metrics[0]}" if several else "Best objective",
        value,
        f"trial {best.number}" if best else "no trial is complete yet",
    )
    if several:
        yield "Not beaten", str(len(front(search))), "trials that no other beats in every objective"
    if own is not None:
        yield "Your own arguments", number(own.values[0]) if own.values else own.status, f"trial {own.number}"
    if summary.gain is not None:
        note = "over your own arguments" if summary.gain > 0 else "nothing better was found"
        yield "Gain", f"+{number(summary.gain)}" if summary.gain > 0 else "0", note
    if summary.confirmed is not None:
        c = summary.confirmed
        sign = "+" if c.mean > 0 else ""
        note = f"{number(c.low, 3)} to {number(c.high, 3)} under new seeds"
        yield "Confirmed gain", f"{sign}{number(c.mean)}", note if c.found else f"not certain: {note}"
    saved = 1 - summary.spent / summary.full if summary.full else 0.0
    note = f"full trainings; {saved:.0%} saved by stopping" if saved > 0.005 else "full trainings; none was stopped"
    yield "Compute", f"{summary.spent:.3g} of {summary.full:.3g}", note
    yield "Wall clock", duration(summary.seconds), "first trial to last"
    if summary.memory:
        yield "Peak memory", size(summary.memory), "largest trial"


def _tile(name: str, value: str, note: str) -> str:
    good = " good" if name.endswith(("Gain", "gain")) and value.startswith("+") else ""
    text = f"<span>{escape(name)}</span><strong>{escape(value)}</strong><small>{escape(note)}</small>"
    return f'<div class="tile{good}">{text}</div>'


def configuration(search: SearchRecord, summary: Summary) -> str:
    """The best values beside the user's own, differences marked, and once more for copying."""
    best, own = summary.best, summary.baseline
    if best is None:
        return '<section class="card">No trial is complete yet: the plots show what is known so far.</section>'
    lines = "".join(_setting(name, best, own) for name in search.distributions if name in best.params)
    own_head = "<th>your own</th>" if own else ""
    names = f"<tr><th>hyperparameter</th><th>best, trial {best.number}</th>{own_head}</tr>"
    title = "Best configuration" + (f" by {escape(search.metrics[0])}" if len(search.metrics) > 1 else "")
    return (
        f'<section class="card pair"><div><h2>{title}</h2><div class="scroll">'
        f'<table class="plain"><thead>{names}</thead><tbody>{lines}</tbody></table></div></div>'
        f"<div><h2>To copy</h2><pre>{escape(_code(best))}</pre></div></section>"
    )


def _code(best: TrialRecord) -> str:
    """The hyperparameters as Python: keywords, or a dict where a name such as ``model.dropout`` cannot be one."""
    if all(name.isidentifier() and not keyword.iskeyword(name) for name in best.params):
        return "dict(\n" + "".join(f"    {name}={value!r},\n" for name, value in best.params.items()) + ")"
    return "{\n" + "".join(f"    {name!r}: {value!r},\n" for name, value in best.params.items()) + "}"


def _setting(name: str, best: TrialRecord, own: TrialRecord | None) -> str:
    value = show(best.params[name])
    cells = f"<td>{escape(name)}</td><td><b>{escape(value)}</b></td>"
    if own is not None:
        before = show(own.params[name] if name in own.params else own.arguments.get(name, "–"))
        cells += f'<td class="{"same" if before == value else "other"}">{escape(before)}</td>'
    return f"<tr>{cells}</tr>"
