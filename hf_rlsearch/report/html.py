"""The report: one HTML file that holds everything, plots, table, style and script, and asks no network for anything."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path

import optuna

from hf_rlsearch._version import __version__
from hf_rlsearch.report.analysis import Summary, summarize
from hf_rlsearch.report.decisions import Explanation, explain
from hf_rlsearch.report.drawing import PALETTE, Drawing
from hf_rlsearch.report.plots import draw_all
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.scales import duration, number, show, size
from hf_rlsearch.report.source import open_study
from hf_rlsearch.report.svg import palette_css, to_svg
from hf_rlsearch.report.tables import columns, rows

_SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("progress", "Progress", ("best-so-far", "trade-off")),
    ("allocation", "Where the compute went", ("allocation", "gantt", "learning-curves")),
    ("space", "What was searched", ("parallel", "importance", "heat-map", "slice-")),
    ("cost", "What it cost", ("time", "memory")),
)


def write_report(source: optuna.Study | str | Path, path: str | Path, *, study_name: str | None = None) -> Path:
    """Writes the report of a search as one self-contained HTML file.

    It can be made at any time, also while the search runs; then it shows what is known so far.

    Args:
        source: A study, a storage URL such as ``sqlite:///search.db``, or the file of a storage.
        path: The file to write; its folder is made if it is not there.
        study_name: Which study of the storage; may be left out when there is one.

    Returns:
        The path of the file.

    Raises:
        StorageError: There is no such storage or study.
    """
    study = open_study(source, study_name=study_name)
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(to_html(study), encoding="utf-8")
    return path


def to_html(study: optuna.Study) -> str:
    """The report of `study` as text."""
    search = SearchRecord.from_study(study)
    summary = summarize(search)
    drawings = draw_all(study, search)
    parts = [_head(search, summary), _configuration(search, summary)]
    parts += [_plots(key, title, wanted, drawings) for key, title, wanted in _SECTIONS]
    parts += [_why(search), _failures(search), _table(search)]
    body = "\n".join(part for part in parts if part)
    return _page(search.name, body)


def _page(title: str, body: str) -> str:
    folder = files("hf_rlsearch.report")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    script = folder.joinpath("page.js").read_text(encoding="utf-8")
    colors = ";".join(f"--{name}:{value}" for name, value in PALETTE.items())
    classes = palette_css({name: f"var(--{name})" for name in PALETTE})
    made = f"{datetime.now():%Y-%m-%d %H:%M}"
    return (
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><link rel="icon" href="data:,">'
        f"<title>{escape(title)} · search report</title>\n<style>:root{{{colors}}}\n{style}\n{classes}</style></head>\n"
        f"<body>\n<main>\n{body}\n</main>\n<footer>Made by hf_rlsearch {__version__} on {made}. "
        f"Expected best: Dodge et al. 2019, arXiv:1909.03004.</footer>\n<script>{script}</script>\n</body></html>\n"
    )


def _head(search: SearchRecord, summary: Summary) -> str:
    arrow = [("smaller" if m else "larger") + " is better" for m in search.minimize]
    objective = " and ".join(f"<b>{escape(n)}</b>, {a}" for n, a in zip(search.metrics, arrow, strict=True))
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items()) or "none yet"
    links = [(key, title) for key, title, _ in _SECTIONS] + [("why", "Why"), ("trials", "Trials")]
    nav = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in links)
    tiles = "".join(_tile(*tile) for tile in _tiles(summary))
    return (
        f'<header><p class="kind">Hyperparameter search</p><h1>{escape(search.name)}</h1>'
        f"<p>{objective} · {len(search.trials)} trials: {counts}</p></header>"
        f'\n<nav>{nav}</nav>\n<div class="tiles">{tiles}</div>'
    )


def _tiles(summary: Summary) -> Iterable[tuple[str, str, str]]:
    best, own = summary.best, summary.baseline
    yield ("Best objective", number(best.values[0]) if best and best.values else "–", f"trial {best.number}" if best else "")
    if own is not None:
        yield ("Your own arguments", number(own.values[0]) if own.values else own.status, f"trial {own.number}")
    if summary.gain is not None:
        yield ("Gain", f"{summary.gain:+.4g}", "over your own arguments" if summary.gain > 0 else "nothing better was found")
    saved = 1 - summary.spent / summary.full if summary.full else 0.0
    yield ("Compute", f"{summary.spent:.3g} trainings", f"{saved:.0%} saved by stopping early" if saved > 0.005 else "none stopped early")
    yield ("Wall clock", duration(summary.seconds), "first trial to last")
    if summary.memory:
        yield ("Peak memory", size(summary.memory), "largest trial")


def _tile(name: str, value: str, note: str) -> str:
    good = " good" if name == "Gain" and value.startswith("+") else ""
    return f'<div class="tile{good}"><span>{escape(name)}</span><strong>{escape(value)}</strong><small>{escape(note)}</small></div>'


def _configuration(search: SearchRecord, summary: Summary) -> str:
    """The best values beside the user's own, differences marked."""
    best, own = summary.best, summary.baseline
    if best is None:
        return '<section class="card"><p>No trial is complete yet: the plots below show what is known so far.</p></section>'
    lines = "".join(_setting(name, best, own) for name in search.distributions if name in best.params)
    own_head = "<th>your own</th>" if own else ""
    return (
        f'<section class="card"><h2>Best configuration</h2><div class="scroll"><table class="plain"><thead><tr>'
        f"<th>hyperparameter</th><th>best, trial {best.number}</th>{own_head}</tr></thead><tbody>{lines}</tbody></table></div></section>"
    )


def _setting(name: str, best: TrialRecord, own: TrialRecord | None) -> str:
    value = show(best.params[name])
    cells = f"<td>{escape(name)}</td><td><b>{escape(value)}</b></td>"
    if own is not None:
        before = show(own.params[name]) if name in own.params else show(own.arguments.get(name, "–"))
        cells += f'<td class="{"same" if before == value else "other"}">{escape(before)}</td>'
    return f"<tr>{cells}</tr>"


def _plots(key: str, title: str, wanted: Sequence[str], drawings: dict[str, Drawing]) -> str:
    chosen = [d for w in wanted for name, d in drawings.items() if name == w or (w.endswith("-") and name.startswith(w))]
    if not chosen:
        return ""
    figures = "\n".join(_figure(d) for d in chosen)
    return f'<section id="{key}"><h2>{escape(title)}</h2><div class="plots">\n{figures}\n</div></section>'


def _figure(drawing: Drawing) -> str:
    kind = "wide" if drawing.wide else "small" if drawing.width < 500 else "half"
    caption = f"<figcaption>{escape(drawing.caption)}</figcaption>" if drawing.caption else ""
    return (
        f'<figure class="{kind}" id="plot-{escape(drawing.name)}"><h3>{escape(drawing.title)}</h3>'
        f'<div class="scroll">{to_svg(drawing)}</div>{caption}</figure>'
    )


def _why(search: SearchRecord) -> str:
    reasons = [explain(search, t.number) for t in search.trials]
    if not any(t.decision for t in search.trials):
        note = "The sampler of this study stored no reasons; hf_rlsearch.RLSampler does."
        return f'<section id="why"><h2>Why each trial</h2><p class="card">{note}</p></section>'
    items = "\n".join(_reason(reason) for reason in reasons)
    return f'<section id="why"><h2>Why each trial</h2><div class="card reasons">{items}</div></section>'


def _reason(reason: Explanation) -> str:
    trial = reason.trial
    text = " ".join(escape(s) for s in reason.sentences)
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in reason.facts)
    parts = f"<dl>{facts}</dl>" if facts else ""
    parts += _contribution_bars(reason)
    if reason.attended:
        parts += f"<p>Looked at most: {', '.join(f'trial {n} ({w:.0%})' for n, w in reason.attended[:5])}.</p>"
    head = f'<summary><span class="chip {trial.status}">{trial.number}</span> {text}</summary>'
    return f'<details data-row="{trial.number}">{head}{parts}</details>'


def _contribution_bars(reason: Explanation) -> str:
    if not reason.contributions:
        return ""
    top = max(abs(v) for _, v in reason.contributions) or 1.0
    bars = "".join(
        f'<div class="bar"><span>{escape(name)}</span><i class="{"plus" if v >= 0 else "minus"}" '
        f'style="width:{abs(v) / top * 45:.1f}%"></i><em>{v:+.3f}</em></div>'
        for name, v in reason.contributions
    )
    return f'<div class="bars"><p>How much each hyperparameter spoke for the choice:</p>{bars}</div>'


def _failures(search: SearchRecord) -> str:
    failed = search.with_status("failed")
    if not failed:
        return ""
    items = "\n".join(_failed(t) for t in failed)
    return f'<section id="failures"><h2>Failed trials</h2><div class="card reasons">{items}</div></section>'


def _failed(trial: TrialRecord) -> str:
    text = (trial.failure or "").strip()
    lines = text.splitlines() or [""]
    # A traceback says what happened in its last line, our own reasons in their first.
    reason = lines[-1] if lines[0].startswith("Traceback") else lines[0]
    params = ", ".join(f"{k}={show(v)}" for k, v in trial.params.items())
    head = f'<summary><span class="chip failed">{trial.number}</span> {escape(reason)}</summary>'
    return f"<details>{head}<p>{escape(params)}</p><pre>{escape(text)}</pre></details>"


def _table(search: SearchRecord) -> str:
    head = "".join(f'<th><button type="button">{escape(name)}</button></th>' for name in columns(search))
    best = search.best()
    lines = "\n".join(_table_row(t, row, is_best=t is best) for t, row in zip(search.trials, rows(search), strict=True))
    return (
        f'<section id="trials"><h2>All trials</h2><div class="card"><input type="search" placeholder="Filter, e.g. pruned" '
        f'aria-label="Filter the table"><div class="scroll"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>\n{lines}\n</tbody></table></div></div></section>"
    )


def _table_row(trial: TrialRecord, cells: list[str], *, is_best: bool) -> str:
    raw = {0: trial.number, 2: trial.score(), len(cells) - 3: trial.fidelity, len(cells) - 2: trial.seconds, len(cells) - 1: trial.memory}
    texts = []
    for i, cell in enumerate(cells):
        key = f' data-k="{raw[i]}"' if raw.get(i) is not None else ""
        inner = f'<span class="chip {trial.status}">{escape(cell)}</span>' if i == 1 else escape(cell)
        texts.append(f"<td{key}>{inner}</td>")
    return f'<tr data-row="{trial.number}"{" class=best" if is_best else ""}>{"".join(texts)}</tr>'
