"""Writes the trials of a search as a table: rows of text, aligned text for a terminal, CSV for everything else."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Sequence
from typing import Any

import optuna

from hf_rlsearch.observation.trial_attributes import SEARCH
from hf_rlsearch.report.format import duration, number, show, size
from hf_rlsearch.report.records import SearchRecord

_NUMBER = re.compile(r"[+-]?\d+(\.\d*)?(e[+-]?\d+)?")


def columns(search: SearchRecord) -> list[str]:
    """The column names, fixed ones around those of the hyperparameters."""
    return ["trial", "status", *search.metrics, *search.distributions, "training", "time", "memory"]


def rows(search: SearchRecord) -> list[list[tuple[str, float | None]]]:
    """One row per trial, of cells as they are shown and the numbers to sort them by where the text is none."""
    table = []
    for trial in search.trials:
        scores: Sequence[float | None] = trial.values or [trial.score, *[None] * (len(search.metrics) - 1)]
        params = [show(trial.params[name]) if name in trial.params else "–" for name in search.distributions]
        row: list[tuple[str, float | None]] = [
            (str(trial.number), None),
            (trial.status if trial.role == SEARCH else f"{trial.status}, {trial.role}", None),
            *(("–" if score is None else number(score), score) for score in scores),
            *((text, None) for text in params),
            (f"{trial.fidelity:.0%}", trial.fidelity),
            (duration(trial.seconds), trial.seconds),
            (size(trial.memory), trial.memory),
        ]
        table.append(row)
    return table


def to_text(source: optuna.Study | SearchRecord) -> str:
    """All trials as an aligned text table, the best one marked with a star."""
    search = source if isinstance(source, SearchRecord) else SearchRecord.from_study(source)
    best = search.best()
    table = [columns(search), *([text for text, _ in row] for row in rows(search))]
    for trial, row in zip(search.trials, table[1:], strict=True):
        row[0] = f"{'*' if trial is best else ' '}{row[0]}"
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n".join(lines)


def to_csv(source: optuna.Study | SearchRecord) -> str:
    """All trials as CSV with raw numbers: fidelity in [0, 1], seconds, bytes; unknown cells are empty.

    A text that a spreadsheet would take for a formula begins with an apostrophe.
    """
    search = source if isinstance(source, SearchRecord) else SearchRecord.from_study(source)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(search.distributions)
    header = ["number", "status", "role", *search.metrics, *names, "fidelity", "seconds", "memory"]
    writer.writerow(map(_inert, header))
    for t in search.trials:
        values = t.values or ("",) * len(search.metrics)
        params = [t.params.get(n, "") for n in names]
        row = [t.number, t.status, t.role, *values, *params, t.fidelity, t.seconds, t.memory]
        writer.writerow(map(_inert, row))
    return text.getvalue()


def _inert(cell: Any) -> Any:
    """A cell that no spreadsheet runs as a formula; numbers stay numbers."""
    text = cell if isinstance(cell, int | float) or cell is None else str(cell)
    if not isinstance(text, str) or not text.startswith(("=", "+", "-", "@", "\t", "\r")):
        return cell
    return cell if _NUMBER.fullmatch(text) else f"'{text}"
