"""Where trials are kept, and which study a search belongs to.

By default an SQLite file in ``output_dir``. There a search is identified by what it is: space, objective, direction,
arguments that are not searched, data and model. The same script run again opens the newest study of that identity: an
unfinished search continues, a finished one has its result already. If anything differs, a new search begins. A study in
a storage that the user names follows Optuna's ``load_if_exists``.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch.observation.trial_attributes import FOLDER, IDENTITY, N_TRIALS, finished
from hf_rlsearch.optuna.storage import open_sqlite, open_storage, opening_errors
from hf_rlsearch.trainer.setup.identity import check_same_search, diff

FILE = "hf_rlsearch.db"


@dataclass(frozen=True)
class OpenedStudy:
    """A study ready to be continued.

    Attributes:
        study: Rank 0's.
        folder: Where its trials write.
        resumed: It holds trials of an earlier run.
        note: One line for people, may be empty.
    """

    study: optuna.Study
    folder: str
    resumed: bool
    note: str


def open_study(
    *,
    output_dir: str,
    identity: Params,
    directions: tuple[str, ...],
    n_trials: int | None,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    storage: Any = None,
    study_name: str | None = None,
    load_if_exists: bool = False,
    resume: bool = True,
) -> OpenedStudy:
    """Finds or creates the study of this search; called on rank 0 only.

    Args:
        output_dir: The Trainer's.
        identity: What the search is; plain data.
        directions: Of the objective(s).
        n_trials: Total number of trials; None where only time or a budget ends the search.
        sampler: Given to the study.
        pruner: Given to the study.
        storage: The user's, None for SQLite in ``output_dir``.
        study_name: The user's; in the default storage the first search of that name has it as it is, later ones a
            number behind it.
        load_if_exists: As in Optuna, for a study that the user names.
        resume: False always begins anew in the default storage.

    Raises:
        StorageError: It cannot be read or written, or holds another search under that name.
        optuna.exceptions.DuplicatedStudyError: The study exists and ``load_if_exists`` is False.
    """
    make = {"sampler": sampler, "pruner": pruner, "directions": list(directions)}
    file = Path(output_dir, FILE)
    with opening_errors(storage or file):
        opened_storage = open_sqlite(file) if storage is None else open_storage(storage)
        if storage is not None or (study_name is not None and load_if_exists):
            return _named(opened_storage, study_name, load_if_exists, identity, output_dir, n_trials, make)
        given = (opened_storage, study_name, identity, output_dir, n_trials, resume, make)
        try:
            return _by_identity(*given)
        except optuna.exceptions.DuplicatedStudyError:
            # Another process has just made it; whether it runs there is found out next.
            return _by_identity(*given)


def _named(
    storage: Any,
    study_name: str | None,
    load_if_exists: bool,
    identity: Params,
    output_dir: str,
    n_trials: int | None,
    make: dict[str, Any],
) -> OpenedStudy:
    """A study that the user names: Optuna's rules, and the check that it is a study of this search."""
    # In one step: another process may be creating it at the same time.
    study = optuna.create_study(
        study_name=study_name, storage=storage, load_if_exists=load_if_exists and study_name is not None, **make
    )
    check_same_search(study, identity, make["directions"])
    n_before = len(study.get_trials(deepcopy=False))
    changed = diff(study.user_attrs.get(IDENTITY, identity), identity)
    _describe(study, identity, output_dir, n_trials)
    note = f"Study {study.study_name!r} is continued: it has {n_before} trials." if n_before else ""
    if n_before and changed:
        note += f" This script differs from the one that began it: {'; '.join(changed[:3])}."
    return OpenedStudy(study, str(study.user_attrs.get(FOLDER, output_dir)), bool(n_before), note)


def _by_identity(
    storage: Any,
    study_name: str | None,
    identity: Params,
    output_dir: str,
    n_trials: int | None,
    resume: bool,
    make: dict[str, Any],
) -> OpenedStudy:
    prefix, first = ("search", "search-1") if study_name is None else (study_name, study_name)
    numbers = {name: _number_of(name, prefix, first) for name in optuna.get_all_study_names(storage)}
    names = sorted((name for name in numbers if numbers[name]), key=lambda name: numbers[name])
    note = ""
    for name in reversed(names if resume else []):
        study = optuna.load_study(study_name=name, storage=storage, sampler=make["sampler"], pruner=make["pruner"])
        changed = diff(study.user_attrs.get(IDENTITY, {}), identity)
        if not changed:
            _describe(study, identity, output_dir, n_trials)
            n_begun = len(study.get_trials(deepcopy=False))
            note = _of_continued(output_dir, len(finished(study)), n_trials) if n_begun else ""
            return OpenedStudy(study, str(study.user_attrs[FOLDER]), bool(n_begun), note)
        # What differs is said of the newest search.
        note = note or f"A new search begins, because the last one in {output_dir} differs: {'; '.join(changed[:3])}."
    number = 1 + (numbers[names[-1]] if names else 0)
    study = optuna.create_study(study_name=first if number == 1 else f"{prefix}-{number}", storage=storage, **make)
    folder = output_dir if number == 1 else str(Path(output_dir, study.study_name))
    _describe(study, identity, folder, n_trials)
    return OpenedStudy(study, folder, False, note)


def _of_continued(output_dir: str, n_done: int, n_trials: int | None) -> str:
    if n_trials is None:
        return f"The search in {output_dir} is continued: {n_done} trials are finished."
    if n_done < n_trials:
        return f"The search in {output_dir} is continued: {n_done} of {n_trials} trials are finished."
    return ""  # whether confirmations are left is known when the next trial is asked for


def _number_of(name: str, prefix: str, first: str) -> int:
    """Which search of a name a study is, from 1; 0 for a study of another name."""
    if name == first:
        return 1
    end = name.removeprefix(f"{prefix}-")
    return int(end) if end != name and end.isdecimal() else 0


def _describe(study: optuna.Study, identity: Params, folder: str, n_trials: int | None) -> None:
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, identity)
        study.set_user_attr(FOLDER, folder)
    study.set_user_attr(N_TRIALS, n_trials)
