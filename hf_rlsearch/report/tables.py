"""Writes the trials of a search as a table: for a terminal, a page, a notebook, pandas, and CSV for everything else.

All have the same columns under the same names. What people read has short numbers with units; pandas and CSV have raw
numbers, the duration in seconds and the memory in bytes.
"""

from __future__ import annotations

import csv
import html
import io
import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import optuna

from hf_rlsearch.report.format import duration, number, printable, shorten, show, size
from hf_rlsearch.report.records import SearchRecord, TrialRecord

if TYPE_CHECKING:
    import pandas

_FIRST, _LAST = ("number", "state", "role"), ("fidelity", "duration", "memory", "failure")
_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?")
# Characters of a failure in a table for people.
_REASON = 60


def columns(search: SearchRecord) -> list[str]:
    """The names of the columns: fixed ones around the objectives and the hyperparameters, each name once.

    An objective or hyperparameter whose name is taken gets "metric_" or "params_" before it.
    """
    names = [*_FIRST]
    taken = {*_FIRST, *_last(search)}
    for prefix, more in (("metric_", search.metrics), ("params_", _hyperparameters(search))):
        for name in more:
            unique = name
            while unique in taken:
                unique = prefix + unique
            names.append(unique)
            taken.add(unique)
    return [*names, *_last(search)]


def _last(search: SearchRecord) -> tuple[str, ...]:
    return ("exceeds", *_LAST) if search.constrained else _LAST


def _hyperparameters(search: SearchRecord) -> list[str]:
    """Those that trials suggested, then what else they were trained with, such as values that were computed."""
    others = (name for trial in search.trials for name in trial.params)
    return list(dict.fromkeys([*search.distributions, *others]))


def _scores(search: SearchRecord, trial: TrialRecord) -> Sequence[float | None]:
    """One number per objective; of a trial that is not complete its last evaluation, for the first one alone."""
    return trial.values or [trial.score, *[None] * (len(search.metrics) - 1)]


def rows(search: SearchRecord) -> list[list[tuple[str, float | None]]]:
    """One row per trial, of cells as they are shown and the numbers to sort them by where the text is none."""
    names, table = _hyperparameters(search), []
    for trial in search.trials:
        row: list[tuple[str, float | None]] = [
            *((text, None) for text in (str(trial.number), trial.status, trial.role)),
            *(("–" if score is None else number(score), score) for score in _scores(search, trial)),
            *((show(trial.params[name]) if name in trial.params else "–", None) for name in names),
            *([(trial.exceeds or "", None)] if search.constrained else []),
            (f"{trial.fidelity:.0%}", trial.fidelity),
            (duration(trial.seconds), trial.seconds),
            (size(trial.memory), trial.memory),
            (shorten(trial.failure or "", _REASON), None),
        ]
        table.append(row)
    return table


def _raw_rows(search: SearchRecord) -> list[list[Any]]:
    """One row per trial of values as they were measured, None where there is none."""
    names = _hyperparameters(search)
    return [
        [
            *(t.number, t.status, t.role, *_scores(search, t)),
            *(t.params.get(name) for name in names),
            *([t.exceeds] if search.constrained else []),
            *(t.fidelity, t.seconds, t.memory, t.failure),
        ]
        for t in search.trials
    ]


def to_text(source: optuna.Study | SearchRecord, *, most: int | None = None) -> str:
    """The trials as an aligned text table, the best one marked with a star.

    Args:
        source: The study, or its record.
        most: Number of rows at most, the first and the last ones; None for all.
    """
    search = _record(source)
    best = search.best()
    table = [columns(search), *([text for text, _ in row] for row in rows(search))]
    table = [[printable(cell) for cell in row] for row in table]  # a row is a line, whatever names and values hold
    for trial, row in zip(search.trials, table[1:], strict=True):
        row[0] = f"{'*' if trial is best else ' '}{row[0]}"
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    head, *lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n".join([head, *_ends(lines, most, " …")])


def to_html_table(source: optuna.Study | SearchRecord, *, most: int | None = None) -> str:
    """The trials as an HTML table for a notebook, the best one in bold; the arguments are those of `to_text`."""
    search = _record(source)
    best = search.best()
    head = "".join(f"<th>{html.escape(name)}</th>" for name in columns(search))
    lines = []
    for trial, row in zip(search.trials, rows(search), strict=True):
        cells = "".join(f"<td>{html.escape(text)}</td>" for text, _ in row)
        style = ' style="font-weight: bold"' if trial is best else ""
        lines.append(f"<tr{style}>{cells}</tr>")
    gap = f'<tr><td colspan="{len(columns(search))}">…</td></tr>'
    body = "\n".join(_ends(lines, most, gap))
    return f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody>\n</table>"


def to_dataframe(source: optuna.Study | SearchRecord) -> pandas.DataFrame:
    """All trials as a pandas table of raw numbers: fidelity in [0, 1], duration in seconds, memory in bytes.

    Args:
        source: The study, or its record.
    """
    import pandas as pd

    search = _record(source)
    return pd.DataFrame(_raw_rows(search), columns=columns(search))


def to_csv(source: optuna.Study | SearchRecord) -> str:
    """All trials as CSV of the same raw numbers as `to_dataframe`; unknown cells are empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe.

    Args:
        source: The study, or its record.
    """
    search = _record(source)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    for row in [columns(search), *_raw_rows(search)]:
        writer.writerow(map(_inert, row))
    return text.getvalue()


def _record(source: optuna.Study | SearchRecord) -> SearchRecord:
    return source if isinstance(source, SearchRecord) else SearchRecord.from_study(source)


def _ends(lines: list[str], most: int | None, gap: str) -> list[str]:
    """The lines, those in the middle replaced by one where there are too many."""
    if most is None or len(lines) <= most:
        return lines
    n_last = most // 2
    return [*lines[: most - n_last], gap, *lines[len(lines) - n_last :]]


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet runs as a formula; numbers stay numbers."""
    text = cell if isinstance(cell, int | float) or cell is None else str(cell)
    if not isinstance(text, str) or not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    return cell if _NUMBER.fullmatch(text) else f"'{text}"
