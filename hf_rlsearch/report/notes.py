"""Notes for optuna-dashboard: why each trial was chosen and how the search ended, where its readers look for notes.

The dashboard keeps notes in the study's system attributes, in pieces that fit every database; format of
``optuna_dashboard.save_note``, version 0.21. The dashboard itself need not be installed.
"""

from __future__ import annotations

import optuna

from hf_rlsearch.report.decisions import Explanation, explain

_PIECE = 2045
"""Characters of one attribute."""


def note_trial(study: optuna.Study, number: int) -> None:
    """Writes the note of a trial, unless it has one: somebody may have written down what they think of it.

    Args:
        study: In any storage.
        number: Of a trial of it.
    """
    trial_id = study._storage.get_trial_id_from_study_id_trial_number(study._study_id, number)
    if f"dashboard:{trial_id}:note_ver" not in study._storage.get_study_system_attrs(study._study_id):
        _write(study, f"dashboard:{trial_id}:", to_markdown(explain(study, number)))


def note_study(study: optuna.Study, text: str) -> None:
    """Writes the note of the study, in place of an earlier one of ours.

    Args:
        study: In any storage.
        text: Lines, one paragraph each.
    """
    stored = study._storage.get_study_system_attrs(study._study_id)
    if stored.get("dashboard:note_ver", 1) == 1:  # whoever edits a note in the dashboard raises its version
        _write(study, "dashboard:", "\n\n".join(text.splitlines()))


def to_markdown(reason: Explanation) -> str:
    """An explanation as the dashboard shows it."""
    parts = [" ".join(reason.sentences)]
    if reason.facts:
        parts.append("\n".join(f"- {name}: {value}" for name, value in reason.facts))
    if reason.contributions:
        rows = [
            f"| {_cell(c.name)} | {c.total:+.3f} | {_known(c.beforehand)} | {c.n_values} |"
            for c in reason.contributions
        ]
        parts.append(
            "\n".join(
                ["| hyperparameter | contribution | known beforehand | values tried |", "|---|---|---|---|", *rows]
            )
        )
    if reason.attended:
        parts.append(f"Looked at most: {', '.join(f'trial {n} ({w:.0%})' for n, w in reason.attended)}.")
    return "\n\n".join(parts)


def _cell(name: str) -> str:
    """A name in a table, whose columns a bar would end."""
    return name.replace("|", "\\|")


def _known(beforehand: float | None) -> str:
    return "–" if beforehand is None else f"{beforehand:+.3f}"


def _write(study: optuna.Study, prefix: str, body: str) -> None:
    storage, study_id = study._storage, study._study_id
    storage.set_study_system_attr(study_id, f"{prefix}note_ver", 1)
    pieces = [body[i : i + _PIECE] for i in range(0, len(body), _PIECE)]
    for i, piece in enumerate(pieces):
        storage.set_study_system_attr(study_id, f"{prefix}note_str:{i}", piece)
    stale = [k for k in storage.get_study_system_attrs(study_id) if k.startswith(f"{prefix}note_str:")]
    for i in range(len(pieces), len(stale)):
        storage.set_study_system_attr(study_id, f"{prefix}note_str:{i}", "")
