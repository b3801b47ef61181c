"""Writes the report of a search as one HTML file that holds all of it: charts, tables, explanations, style, script."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from functools import cache
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna

from hf_rlsearch._version import __version__
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.trial_attributes import CONFIRM, N_TRIALS
from hf_rlsearch.optuna.storage import open_study
from hf_rlsearch.report.analysis import Summary, front, importances, summarize
from hf_rlsearch.report.chart_theme import PALETTES, theme
from hf_rlsearch.report.charts import Chart, all_charts, javascript, named_data
from hf_rlsearch.report.explanation import Contribution, Explanation, explain
from hf_rlsearch.report.format import duration, number, show, size
from hf_rlsearch.report.records import SearchRecord, TrialRecord
from hf_rlsearch.report.tables import columns, rows

# Anchor, title and charts of each section; a name that ends with a dash stands for all that begin so.
_SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("progress", "Progress", ("best-so-far", "trade-off", "confirmations", "metrics")),
    ("allocation", "Where the compute went", ("allocation", "gantt", "learning-curves")),
    ("space", "What was searched", ("parallel", "importance", "heat-map", "slice-")),
    ("cost", "What it cost", ("time", "memory")),
)
# Those of single trials; before the first trial there are no explanations.
_TRIALS = (("why", "Why"), ("trials", "Trials"))
_MAX_ATTENDED = 5
_HINT = (
    "In any chart: rest the pointer on a trial to see all of it, click it or drag over several to pick them in every "
    "chart and in the table, Ctrl + wheel to zoom, Shift + drag to move, double click to reset."
)
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}<link rel="icon" href="data:,">
<title>{title} · search report</title>
<style>:root{{{light}}}
@media (prefers-color-scheme: dark) {{ :root{{{dark}}} }}
{style}</style></head>
<body>
<main>
{body}
</main>
<div id="picked" role="status" hidden><span></span><button type="button">Clear</button></div>
<footer>Made by hf_rlsearch {version} on {made}.{trained}</footer>
<script type="application/json" id="charts">{charts}</script>
<script>{library}</script>
<script>{script}</script>
</body></html>
"""


def write_report(
    source: optuna.Study | str | Path,
    path: str | Path,
    *,
    study_name: str | None = None,
    refresh: int | None = None,
) -> Path:
    """Writes the report of a search as one self-contained HTML file.

    The report can be written at any time, also while the search runs; then it shows what is known so far.

    Args:
        source: A study, a storage URL such as ``sqlite:///search.db``, or the file of a storage.
        path: The file to write; its folder is made if it is not there.
        study_name: Which study of the storage; may be left out when there is one.
        refresh: Seconds after which a browser that shows the page loads it again; None for a page that stays.

    Returns:
        The path of the file.

    Raises:
        ArgumentsError: `path` is a folder.
        StorageError: There is no such storage or study.
    """
    study = open_study(source, study_name=study_name)
    path = Path(path)
    if path.is_dir():
        raise ArgumentsError(f"{str(path)!r} is a folder; expected a file such as {str(path / 'report.html')!r}.")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = to_html(study, refresh=refresh)
    partial = path.with_name(f"{path.name}.partial")
    partial.write_text(text, encoding="utf-8", errors="replace")
    partial.replace(path)  # a browser that loads the page meanwhile never sees half of it
    return path


def to_html(study: optuna.Study, *, refresh: int | None = None) -> str:
    """The report of `study` as text; see `write_report`."""
    search = SearchRecord.from_study(study)
    summary = summarize(search)
    charts, data = all_charts(search, importances(study, search))
    sections = {key: _charts(key, title, wanted, charts) for key, title, wanted in _SECTIONS}
    links = [(key, title) for key, title, _ in _SECTIONS if sections[key]]
    parts = [
        _head(search, summary, [*links, *_TRIALS[0 if search.trials else 1 :]]),
        _configuration(search, summary),
        *sections.values(),
        _why(search),
        _failures(search),
        _table(search),
    ]
    payload = {
        "themes": {scheme: theme(scheme) for scheme in PALETTES},
        "data": data,
        "charts": {
            chart.name: {"spec": chart.spec, "data": sorted(named_data(chart.spec))} for chart in charts.values()
        },
        "numbers": {row["trial"]: row["numbers"] for row in data["trials"]},
    }
    return _page(search, "\n".join(part for part in parts if part), payload, refresh)


def _page(search: SearchRecord, body: str, payload: dict[str, Any], refresh: int | None) -> str:
    folder = files("hf_rlsearch.report")
    versions = ", ".join(f"{name} {version}" for name, version in search.versions.items())
    colors = {scheme: ";".join(f"--{n}:{v}" for n, v in palette.items()) for scheme, palette in PALETTES.items()}
    # An HTML parser ends a script at the first "</script", wherever it stands.
    data = json.dumps(payload, separators=(",", ":")).replace("<", "\\u003c")
    return _PAGE.format(
        trained=escape(f" The last trial ran with {versions}." if versions else ""),
        refresh="" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">',
        title=escape(search.name),
        body=body,
        **colors,
        style=folder.joinpath("page.css").read_text(encoding="utf-8"),
        charts=data,
        library=_library(),
        script=folder.joinpath("page.js").read_text(encoding="utf-8"),
        version=__version__,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


@cache  # bundling takes seconds, and a watched report is written many times
def _library() -> str:
    return javascript().replace("</script", "<\\/script")


def _head(search: SearchRecord, summary: Summary, links: Sequence[tuple[str, str]]) -> str:
    """Title, links to the sections (anchor, name), and tiles with the numbers that matter most."""
    arrow = [("smaller" if m else "larger") + " is better" for m in search.minimize]
    objective = " and ".join(f"<b>{escape(n)}</b>, {a}" for n, a in zip(search.metrics, arrow, strict=True))
    total, n = search.attributes.get(N_TRIALS), sum(t.role != CONFIRM for t in search.trials)
    n_trials = f"{n} of {total} trials" if isinstance(total, int) else f"{n} trials"
    n_trials += f" and {len(search.trials) - n} under new seeds" if n < len(search.trials) else ""
    counts = ", ".join(f"{n} {status}" for status, n in summary.counts.items()) or "none yet"
    nav = "".join(f'<a href="#{key}">{escape(title)}</a>' for key, title in links)
    tiles = "".join(_tile(*tile) for tile in _tiles(search, summary))
    return (
        f'<header><p class="kind">Hyperparameter search</p><h1>{escape(search.name)}</h1>'
        f"<p>{objective} · {n_trials}: {counts}</p></header>"
        f'\n<nav>{nav}</nav>\n<div class="tiles">{tiles}</div>'
    )


def _tiles(search: SearchRecord, summary: Summary) -> Iterable[tuple[str, str, str]]:
    """(name, value, note) of each tile."""
    best, baseline = summary.best, summary.baseline
    value = number(best.values[0]) if best and best.values else "–"
    several = len(search.metrics) > 1
    yield (
        f"Best {search.metrics[0]}" if several else "Best objective",
        value,
        f"trial {best.number}" if best else "no trial is complete yet",
    )
    if several:
        yield "Pareto front", str(len(front(search))), "trials that no other beats in every objective"
    if baseline is not None:
        value = number(baseline.values[0]) if baseline.values else baseline.status
        yield "Baseline", value, f"your own arguments, trial {baseline.number}"
    if summary.gain is not None:
        note = "over the baseline" if summary.gain > 0 else "nothing better was found"
        yield "Gain", f"+{number(summary.gain)}" if summary.gain > 0 else "0", note
    if summary.confirmed is not None:
        c = summary.confirmed
        sign = "+" if c.mean > 0 else ""
        note = f"{number(c.low, 3)} to {number(c.high, 3)} under new seeds"
        yield "Confirmed gain", f"{sign}{number(c.mean)}", note if c.found else f"not certain: {note}"
    yield "Compute", f"{summary.spent:.3g} of {summary.full:.3g}", f"full trainings; {_saved(summary)}"
    yield "Wall clock", duration(summary.seconds), "first trial to last"
    if summary.memory:
        yield "Peak memory", size(summary.memory), "largest trial"


def _saved(summary: Summary) -> str:
    """What stopping saved; a trial that was stopped is counted even where its share is too small to be shown."""
    n_pruned = summary.counts.get("pruned", 0)
    if not n_pruned:
        return "none was stopped"
    saved = 1 - summary.spent / summary.full if summary.full else 0.0
    return f"{saved:.0%} saved by stopping" if saved > 0.005 else f"less than 1% saved by stopping {n_pruned}"


def _tile(name: str, value: str, note: str) -> str:
    good = " good" if name.endswith(("Gain", "gain")) and value.startswith("+") else ""
    text = f"<span>{escape(name)}</span><strong>{escape(value)}</strong><small>{escape(note)}</small>"
    return f'<div class="tile{good}">{text}</div>'


def _configuration(search: SearchRecord, summary: Summary) -> str:
    """The best values beside the baseline's, differences marked, and once more for copying."""
    best, baseline = summary.best, summary.baseline
    if best is None:
        return '<section class="card">No trial is complete yet: the charts show what is known so far.</section>'
    lines = "".join(_setting(name, best, baseline) for name in search.distributions if name in best.params)
    head = (
        f"<tr><th>hyperparameter</th><th>best, trial {best.number}</th>{'<th>baseline</th>' if baseline else ''}</tr>"
    )
    title = "Best configuration" + (f" by {escape(search.metrics[0])}" if len(search.metrics) > 1 else "")
    return (
        f'<section class="card pair"><div><h2>{title}</h2><div class="scroll">'
        f'<table class="plain"><thead>{head}</thead><tbody>{lines}</tbody></table></div></div>'
        f"<div><h2>To copy</h2><pre>{escape(to_copy(best))}</pre></div></section>"
    )


def _setting(name: str, best: TrialRecord, baseline: TrialRecord | None) -> str:
    value = show(best.params[name])
    cells = f"<td>{escape(name)}</td><td><b>{escape(value)}</b></td>"
    if baseline is not None:
        before = show(baseline.params[name] if name in baseline.params else baseline.arguments.get(name, "–"))
        cells += f'<td class="{"same" if before == value else "other"}">{escape(before)}</td>'
    return f"<tr>{cells}</tr>"


# Prefix of a scoped name -> where its fields are pasted.
_OWNERS = {
    "model": "AutoConfig.from_pretrained(checkpoint, **model)",
    "peft": "LoraConfig(**peft)",
    "gen": "model.generation_config.update(**gen)",
    "train": "no TrainingArguments: returned by hp_space",
}


def to_copy(trial: TrialRecord) -> str:
    """The values of a trial as Python that can be pasted: ``TrainingArguments`` fields, and apart from them all others.

    Args:
        trial: Of a search of this package or of any other study, in which every name without a prefix counts as a field
            of ``TrainingArguments``.
    """
    groups: dict[str, dict[str, Any]] = {"args": {}}
    for name, value in {**trial.params, **trial.returned}.items():
        prefix, dot, field = name.partition(".")
        if dot and prefix in _OWNERS:
            groups.setdefault(prefix, {})[name if prefix == "train" else field] = value
        elif trial.arguments and name not in trial.arguments:
            groups.setdefault("suggested", {})[name] = value
        else:
            groups["args"][name] = value
    comments = {
        **_OWNERS,
        "args": "TrainingArguments(output_dir, **args)",
        "suggested": "no TrainingArguments: used by model_init or hp_space",
    }
    parts = [f"# {comments[key]}\n{key} = {_literal(values)}" for key, values in groups.items() if values]
    return "\n\n".join(parts) or "# no hyperparameters"


def _literal(values: Mapping[str, Any]) -> str:
    return "{\n" + "".join(f"    {name!r}: {value!r},\n" for name, value in values.items()) + "}"


def _charts(key: str, title: str, wanted: Sequence[str], charts: dict[str, Chart]) -> str:
    names = [n for w in wanted for n in charts if n == w or (w.endswith("-") and n.startswith(w))]
    if not names:
        return ""
    figures = "\n".join(_figure(charts[n]) for n in names)
    hint = f'<p class="hint">{_HINT}</p>' if key == "progress" else ""
    return f'<section id="{key}"><h2>{escape(title)}</h2>{hint}<div class="plots">\n{figures}\n</div></section>'


def _figure(chart: Chart) -> str:
    """A place that the page's script draws a chart in."""
    caption = f"<figcaption>{escape(chart.caption)}</figcaption>" if chart.caption else ""
    style = f"min-height:{chart.spec['height']}px" + (f";min-width:{chart.min_width}px" if chart.min_width else "")
    return (
        f'<figure class="{chart.kind}" id="plot-{escape(chart.name)}"><h3>{escape(chart.title)}</h3>'
        f'<div class="scroll"><div class="chart" data-chart="{escape(chart.name)}" style="{style}">'
        f"<noscript>Charts need JavaScript.</noscript></div></div>{caption}</figure>"
    )


def _why(search: SearchRecord) -> str:
    """Why each trial was chosen and, where it was, stopped."""
    if not search.trials:
        return ""
    items = "\n".join(_reason(explain(search, t.number)) for t in search.trials)
    return f'<section id="why"><h2>Why each trial</h2><div class="card reasons">{items}</div></section>'


def _reason(reason: Explanation) -> str:
    facts = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in reason.facts)
    parts = (f"<dl>{facts}</dl>" if facts else "") + _contribution_bars(reason)
    if reason.attended:
        listed = ", ".join(f"trial {n} ({w:.0%})" for n, w in reason.attended[:_MAX_ATTENDED])
        parts += f"<p>Highest attention: {listed}.</p>"
    line = _line(reason.trial, " ".join(reason.sentences))
    return f"<details><summary>{line}</summary>{parts}</details>" if parts else f'<div class="bare">{line}</div>'


def _line(trial: TrialRecord, text: str) -> str:
    chip = f'<span class="chip {trial.status}" data-trial="{trial.number}">{trial.number}</span>'
    params = ", ".join(f"{name}={show(value)}" for name, value in trial.params.items())
    return f"{chip} {escape(text)}<small>{escape(params)}</small>"


def _contribution_bars(reason: Explanation) -> str:
    """Two bars per hyperparameter: the whole contribution, and below it the part that was known beforehand."""
    if not reason.contributions:
        return ""
    top = max(max(abs(c.total), abs(c.beforehand or 0)) for c in reason.contributions) or 1.0
    bars = "".join(_bar(c, top) for c in reason.contributions)
    text = (
        "What set this candidate apart from the average one, in the agent's prediction. Thick: with all trials so far; "
        "thin: what was known before any trial. Bars to the right speak for the candidate."
    )
    return f'<div class="bars"><p>{text}</p>{bars}</div>'


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


def _failures(search: SearchRecord) -> str:
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


def _table(search: SearchRecord) -> str:
    """All trials; the page's script sorts and filters the table and links it with the charts."""
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
    return f'<tr data-trial="{trial.number}"{" class=best" if is_best else ""}>{"".join(texts)}</tr>'
