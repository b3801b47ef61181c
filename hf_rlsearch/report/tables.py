"""Writes the trials of a search as a table: rows of text, aligned text for a terminal, CSV for everything else."""

from __future__ import annotations

import csv
import io

import optuna

from hf_rlsearch.report.format import duration, number, show, size
from hf_rlsearch.report.records import SearchRecord, TrialRecord


def columns(search: SearchRecord) -> list[str]:
    """The column names, fixed ones around those of the hyperparameters."""
    return ["trial", "status", *search.metrics, *search.distributions, "training", "time", "memory"]


def rows(search: SearchRecord) -> list[list[str]]:
    """One row per trial as it is shown; an unknown cell is a dash."""
    return [_row(search, t) for t in search.trials]


def _row(search: SearchRecord, trial: TrialRecord) -> list[str]:
    label = trial.status if trial.role == "search" else f"{trial.status}, {trial.role}"
    params = [show(trial.params[n]) if n in trial.params else "–" for n in search.distributions]
    return [
        str(trial.number),
        label,
        *_scores(search, trial),
        *params,
        f"{trial.fidelity:.0%}",
        duration(trial.seconds),
        size(trial.memory),
    ]


def _scores(search: SearchRecord, trial: TrialRecord) -> list[str]:
    scores = [trial.score(i) if trial.values else None for i in range(len(search.metrics))]
    scores[0] = trial.score()
    return ["–" if s is None else number(s) for s in scores]


def to_text(source: optuna.Study | SearchRecord) -> str:
    """All trials as an aligned text table, the best one marked with a star."""
    search = source if isinstance(source, SearchRecord) else SearchRecord.from_study(source)
    best = search.best()
    body = rows(search)
    for trial, row in zip(search.trials, body, strict=True):
        row[0] = f"{'*' if trial is best else ' '}{row[0]}"
    table = [columns(search), *body]
    widths = [max(len(row[i]) for row in table) for i in range(len(table[0]))]
    lines = ("  ".join(cell.ljust(w) for cell, w in zip(row, widths, strict=True)).rstrip() for row in table)
    return "\n".join(lines)


def to_csv(source: optuna.Study | SearchRecord) -> str:
    """All trials as CSV with raw numbers: fidelity in [0, 1], seconds, bytes; unknown cells are empty."""
    search = source if isinstance(source, SearchRecord) else SearchRecord.from_study(source)
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    names = list(search.distributions)
    writer.writerow(["number", "status", "role", *search.metrics, *names, "fidelity", "seconds", "memory"])
    for t in search.trials:
        values = t.values or ("",) * len(search.metrics)
        params = [t.params.get(n, "") for n in names]
        writer.writerow([t.number, t.status, t.role, *values, *params, t.fidelity, t.seconds, t.memory])
    return text.getvalue()
