"""The report: one HTML file that holds everything, plots, table, style and script, and asks no network for anything."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from importlib.resources import files
from pathlib import Path

import optuna

from hf_rlsearch._version import __version__
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.report import html_head, html_trials
from hf_rlsearch.report.analysis import importances, summarize
from hf_rlsearch.report.drawing import NARROW, PALETTE, WIDTHS, Drawing
from hf_rlsearch.report.plots import draw_all
from hf_rlsearch.report.records import SearchRecord
from hf_rlsearch.report.svg import palette_css, to_svg
from hf_rlsearch.storage import open_study

# Anchor, title and plots of each section; a name that ends with a dash stands for all that begin so.
_SECTIONS: tuple[tuple[str, str, tuple[str, ...]], ...] = (
    ("progress", "Progress", ("best-so-far", "trade-off", "confirmations")),
    ("allocation", "Where the compute went", ("allocation", "gantt", "learning-curves")),
    ("space", "What was searched", ("parallel", "importance", "heat-map", "slice-")),
    ("cost", "What it cost", ("time", "memory")),
)
# Those of single trials; before the first trial there are no reasons.
_TRIALS = (("why", "Why"), ("trials", "Trials"))
_PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">{refresh}<link rel="icon" href="data:,">
<title>{title} · search report</title>
<style>:root{{{colors}}}
{style}
{classes}</style></head>
<body>
<main>
{body}
</main>
<footer>Made by hf_rlsearch {version} on {made}.{trained}</footer>
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

    It can be made at any time, also while the search runs; then it shows what is known so far.

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
    partial.replace(path)  # whoever looks at the page never sees half of it
    return path


def to_html(study: optuna.Study, *, refresh: int | None = None) -> str:
    """The report of `study` as text; see `write_report`."""
    search = SearchRecord.from_study(study)
    summary = summarize(search)
    shares = importances(study, search)
    desk, phone = draw_all(search, shares), draw_all(search, shares, narrow=True)
    sections = {key: _plots(key, title, wanted, desk, phone) for key, title, wanted in _SECTIONS}
    links = [(key, title) for key, title, _ in _SECTIONS if sections[key]]
    parts = [
        html_head.head(search, summary, [*links, *_TRIALS[0 if search.trials else 1 :]]),
        html_head.configuration(search, summary),
        *sections.values(),
        html_trials.why(search),
        html_trials.failures(search),
        html_trials.table(search),
    ]
    return _page(search.name, "\n".join(part for part in parts if part), search.versions, refresh)


def _page(title: str, body: str, versions: dict[str, str], refresh: int | None) -> str:
    folder = files("hf_rlsearch.report")
    told = ", ".join(f"{name} {version}" for name, version in versions.items())
    return _PAGE.format(
        trained=escape(f" The last trial ran with {told}." if told else ""),
        refresh="" if refresh is None else f'<meta http-equiv="refresh" content="{refresh}">',
        title=escape(title),
        body=body,
        colors=";".join(f"--{name}:{value}" for name, value in PALETTE.items()),
        classes=palette_css({name: f"var(--{name})" for name in PALETTE}),
        style=folder.joinpath("page.css").read_text(encoding="utf-8"),
        script=folder.joinpath("page.js").read_text(encoding="utf-8"),
        version=__version__,
        made=f"{datetime.now():%Y-%m-%d %H:%M}",
    )


def _plots(key: str, title: str, wanted: Sequence[str], desk: dict[str, Drawing], phone: dict[str, Drawing]) -> str:
    names = [n for w in wanted for n in desk if n == w or (w.endswith("-") and n.startswith(w))]
    if not names:
        return ""
    figures = "\n".join(_figure(desk[n], phone[n]) for n in names)
    return f'<section id="{key}"><h2>{escape(title)}</h2><div class="plots">\n{figures}\n</div></section>'


def _figure(desk: Drawing, phone: Drawing) -> str:
    """Both widths of a plot; the style shows one."""
    svg = "".join(
        f'<div class="scroll {device}" style="--least:{drawing.width if drawing.width > usual else 0:g}px">'
        f"{to_svg(drawing)}</div>"
        for device, drawing, usual in (("desk", desk, WIDTHS[desk.kind]), ("phone", phone, NARROW))
    )
    caption = f"<figcaption>{escape(desk.caption)}</figcaption>" if desk.caption else ""
    head = f'<figure class="{desk.kind}" id="plot-{escape(desk.name)}"><h3>{escape(desk.title)}</h3>'
    return f"{head}{svg}{caption}</figure>"
