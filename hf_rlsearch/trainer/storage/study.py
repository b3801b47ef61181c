"""Finds or creates the study of a search.

By default the study is in an SQLite file in ``output_dir``, and belongs to the search with its fingerprint: space,
objective, direction, arguments that are not searched, data and model. The same script run again opens the newest study
of that fingerprint and continues its search, or returns the result if that is finished. If anything differs, a new
search starts. A study in a storage that the user names follows Optuna's ``load_if_exists``.

The folder of a search is in the ``output_dir`` of whoever opens it, never where the storage says: a copied or moved
``output_dir`` works by itself, and what others write to a shared storage moves no search. The first search in an
``output_dir`` uses that itself, each other one a folder in it, whatever storages they are in.
"""

import itertools
import os
import re
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import optuna
from optuna.storages import BaseStorage
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.trial_attributes import FOLDER, IDENTITY, N_TRIALS, PLACE, SUMMARY, n_trials_used
from hf_rlsearch.optuna.storage import FILE, open_sqlite, open_storage, storage_errors
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.identity import NEW_WEIGHTS, SCORING, SETTINGS, check_same_search, decisive, diff, listed
from hf_rlsearch.trainer.storage.checkpoints import discard, holds_any, stored_path
from hf_rlsearch.trainer.storage.paused import folder_size
from hf_rlsearch.trainer.storage.resume import Lease, is_held, key_of

# The file in the folder of a search that tells which search that is, see ``KEY``.
_MARK = "hf_rlsearch.search"
# ``Trainer.push_to_hub`` uploads all of ``output_dir`` but what the Hub finds in this file.
_GITIGNORE = f"""\
# Written by hf_rlsearch. git, and Trainer.push_to_hub with it, leave out the trials and their database.
{FILE}*
{_MARK}
run-*/
checkpoint-*/
"""

# What is said where a search goes on although this differs.
_CHANGED = {
    NEW_WEIGHTS: " The head or the adapter of the model has other weights than before (model.new_weights): new trials "
    "start from these. A seed that is set before the model is made keeps them the same.",
    f"{SCORING}.": " The code of compute_metrics or preprocess_logits_for_metrics has changed: values of earlier "
    "trials are those of the code before. resume=False starts a new search, which measures all of them anew.",
    f"{SETTINGS}.": " Values that the Trainer has as attributes have changed, and earlier trials were trained with "
    "those before. If that matters, resume=False starts a new search.",
}


@dataclass(frozen=True)
class OpenedStudy:
    """A study whose trials can start or continue.

    Attributes:
        resumed: Whether it holds trials of an earlier run.
        note: Lines for the user, may be empty.
        folder: Where its trials write.
    """

    study: optuna.Study
    resumed: bool
    note: str
    folder: str = ""


def open_study(
    settings: SearchConfig,
    *,
    output_dir: str,
    identity: Params,
    directions: tuple[str, ...],
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
) -> OpenedStudy:
    """Finds or creates the study of the search with this identity; called on rank 0 only.

    In the default storage the first search with a ``study_name`` gets that name, later ones a number behind it, and
    ``resume=False`` always starts a new search.

    Raises:
        StorageError: It cannot be read or written, or holds another search under that name.
        optuna.exceptions.DuplicatedStudyError: The study exists and ``load_if_exists`` is False.
    """
    # Absolute, since a callback of the user may change the working directory.
    output_dir = str(Path(output_dir).resolve())
    file = Path(output_dir, FILE)
    with storage_errors(settings.storage or file, opening=True):
        storage = open_sqlite(file) if settings.storage is None else open_storage(settings.storage)
        create = partial(
            optuna.create_study,
            storage=storage,
            sampler=sampler,
            pruner=pruner,
            directions=[StudyDirection[direction.upper()] for direction in directions],
        )
        if settings.storage is not None or (settings.study_name is not None and settings.load_if_exists):
            opened = _open_by_name(create, settings, identity, directions)
        else:
            try:
                opened = _open_by_identity(create, storage, settings, identity, output_dir)
            except optuna.exceptions.DuplicatedStudyError:
                # Another process has just created the study; whether that process runs the search is checked later.
                opened = _open_by_identity(create, storage, settings, identity, output_dir)
        study, is_shared = opened.study, settings.storage is not None
        if IDENTITY not in study.user_attrs:
            _write_gitignore(output_dir)
            study.set_user_attr(IDENTITY, identity)
        if is_shared or FOLDER not in study.user_attrs:
            folder = _free_folder(study, output_dir, is_shared=is_shared)
        else:
            folder = _folder_of(study, output_dir)
            _mark(Path(folder), key_of(study, alone=True))  # earlier versions wrote no such file
        if FOLDER not in study.user_attrs:
            study.set_user_attr(FOLDER, os.path.relpath(folder, output_dir))
        study.set_user_attr(N_TRIALS, settings.displayed_n_trials)
        beside = ""
        if is_shared and folder != output_dir:
            beside = f"Another search has written to {output_dir}: this one writes to {folder}."
        moved = _moved(study, output_dir, is_shared=is_shared)
        left = "" if is_shared else _left_over(storage, output_dir, study.study_name)
        return replace(opened, folder=folder, note="\n".join(filter(None, (opened.note, beside, moved, left))))


def _free_folder(study: optuna.Study, output_dir: str, *, is_shared: bool) -> str:
    """The folder of a study: ``output_dir``, or one in it with the name of the study where another search works there.

    All processes that share the search find the same one.
    """
    key = key_of(study, alone=not is_shared)
    name = re.sub(r"[^\w. -]", "_", study.study_name).strip(". ") or "search"  # a name may hold separators
    if re.fullmatch(r"(run|checkpoint)-\d+", name):
        name = f"search-{name}"  # trials and checkpoints have folders of these names
    # The first search of an earlier version wrote no file that says whose the folder is.
    others = [] if is_shared else [s for s in study._storage.get_all_studies() if s.study_name != study.study_name]
    own: list[tuple[str, ...]] = [] if any(other.user_attrs.get(FOLDER) == "." for other in others) else [()]
    for parts in itertools.chain(own, [(name,)], ((f"{name}-{i}",) for i in itertools.count(2))):
        folder = Path(output_dir, *parts)
        if _mark(folder, key) == key:
            break
    return str(folder)


def _mark(folder: Path, key: str) -> str:
    """Writes the key of a search into a folder, unless that is another search's; returns the key that stands there."""
    mark = folder / _MARK
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile("w", dir=folder, prefix=_MARK, encoding="utf-8") as draft:
            draft.write(key)
            draft.flush()
            with suppress(FileExistsError):
                os.link(draft.name, mark)  # all of it or nothing, whenever the process is killed
        return mark.read_text(encoding="utf-8", errors="replace")
    except OSError:  # the first trial will say that nothing can be written there
        return key


def _write_gitignore(output_dir: str) -> None:
    """Writes the file where there is none: a file of the user's stays as it is."""
    with suppress(OSError), open(Path(output_dir, ".gitignore"), "x", encoding="utf-8") as file:
        file.write(_GITIGNORE)


@dataclass(frozen=True)
class Leftover:
    """What is left of an interrupted search in the default storage that no process works on.

    Attributes:
        folder: Of the search.
        running: Trials that were being trained.
        folders: Folders of trials with checkpoints or a model.
    """

    study: optuna.Study
    folder: str
    running: list[FrozenTrial]
    folders: list[str]

    def __str__(self) -> str:
        numbers = ", ".join(str(trial.number) for trial in self.running)
        size = sum(map(folder_size, self.folders)) / 1e6
        parts = [f"trial {numbers} unfinished"] if numbers else []
        parts += [f"{size:.1f} MB of checkpoints"] if self.folders else []
        return f"{self.study.study_name} ({', '.join(parts)})"

    def clean(self) -> None:
        """Deletes the checkpoints and models, and marks the running trials as failed.

        Raises:
            StorageError: A process works on the search.
        """
        lease = Lease.take(self.study, alone=True)
        try:
            for trial in self.running:
                self.study._storage.set_trial_state_values(trial._trial_id, TrialState.FAIL)
            for folder in self.folders:
                discard(folder)
        finally:
            lease.release()


def leftovers(storage: BaseStorage, output_dir: str, *, but: str | None = None) -> list[Leftover]:
    """Finds what is left of interrupted searches in the default storage of a folder, oldest first.

    Args:
        storage: Of the folder.
        output_dir: The folder.
        but: Name of a study that is left out.
    """
    found = []
    for name in optuna.get_all_study_names(storage):
        study = optuna.load_study(study_name=name, storage=storage)
        if name == but or IDENTITY not in study.user_attrs or not _is_interrupted(study) or is_held(study):
            continue
        folder = _folder_of(study, output_dir)
        trials = study.get_trials(deepcopy=False)
        paths = {stored_path(trial, FOLDER, folder) for trial in trials}
        folders = sorted(path for path in paths if path is not None and holds_any(path))
        running = [trial for trial in trials if trial.state == TrialState.RUNNING]
        if running or folders:
            found.append(Leftover(study, folder, running, folders))
    return found


def _left_over(storage: BaseStorage, output_dir: str, name: str) -> str:
    """Says which other searches of the folder were interrupted; empty where none was."""
    left: list[str] = []
    with suppress(StorageError):  # a path that another study stores must not end this search
        left = [str(each) for each in leftovers(storage, output_dir, but=name)]
    if not left:
        return ""
    return (
        f"Interrupted earlier, and left as it is: {'; '.join(left)}. `hf-rlsearch clean {output_dir}` deletes such "
        "checkpoints."
    )


def _open_by_name(
    create: Callable[..., optuna.Study],
    settings: SearchConfig,
    identity: Params,
    directions: tuple[str, ...],
) -> OpenedStudy:
    """Opens a study that the user names by Optuna's rules, and checks that it is a study of this search."""
    name = settings.study_name
    # In one step, since another process may be creating the study at the same time.
    study = create(study_name=name, load_if_exists=settings.load_if_exists and name is not None)
    check_same_search(study, identity, list(directions))
    n_before = len(study.get_trials(deepcopy=False))
    note = f"Study {study.study_name!r} is continued: it has {n_before} trials." if n_before else ""
    changed = diff(study.user_attrs.get(IDENTITY, identity), identity)
    if n_before and changed:
        note += f" This script differs from the one that started the study: {listed(changed)}."
    return OpenedStudy(study, bool(n_before), note)


def _open_by_identity(
    create: Callable[..., optuna.Study],
    storage: BaseStorage,
    settings: SearchConfig,
    identity: Params,
    output_dir: str,
) -> OpenedStudy:
    """Opens the newest interrupted study with this fingerprint, else the newest one, or creates the next study."""
    name = settings.study_name
    prefix, first = ("search", "search-1") if name is None else (name, name)
    numbers = {each: _number_of(each, prefix, first) for each in optuna.get_all_study_names(storage)}
    names = sorted((each for each in numbers if numbers[each]), key=lambda each: numbers[each])
    note, found = "", None
    for each in reversed(names if settings.resume else []):
        study = create(study_name=each, load_if_exists=True)
        changed = diff(study.user_attrs.get(IDENTITY, {}), identity)
        if not decisive(changed):
            found = found or (study, changed)
            if _is_interrupted(study):
                found = study, changed
                break
        elif each == names[-1]:
            # The differences to the newest search are the ones that matter.
            note = _why_new(output_dir, study, decisive(changed))
    if found is not None:
        study, changed = found
        is_resumed = bool(study.get_trials(deepcopy=False))
        note = _continued(output_dir, n_trials_used(study), settings.displayed_n_trials) if is_resumed else ""
        if is_resumed:
            note += "".join(text for name, text in _CHANGED.items() if any(line.startswith(name) for line in changed))
        return OpenedStudy(study, is_resumed, note.strip())
    number = 1 + (numbers[names[-1]] if names else 0)
    return OpenedStudy(create(study_name=first if number == 1 else f"{prefix}-{number}"), False, note)


def _is_interrupted(study: optuna.Study) -> bool:
    """Whether a search has not come to its end: a trial runs, or no summary was made."""
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return bool(running) or SUMMARY not in study.user_attrs


def _why_new(output_dir: str, study: optuna.Study, changed: list[str]) -> str:
    """Says what differs from the last search, and how to continue that search all the same if its trials compare."""
    note = f"A new search starts, because the last one in {output_dir} differs: {listed(changed)}."
    if any(line.startswith(("space", "objective", "follows", "directions")) for line in changed):
        return note
    return f"{note} To continue that one, pass study_name={study.study_name!r} and load_if_exists=True."


def opened_folder(study: optuna.Study, source: BaseStorage | str | Path) -> str:
    """The folder of a search whose study was opened from its ``output_dir``, from the file there, or from a storage.

    Of a storage elsewhere only the ``output_dir`` is known in which the search ran last.
    """
    path = None if isinstance(source, BaseStorage) or "://" in str(source) else Path(source)
    if path is not None and path.name == FILE:
        path = path.parent
    elif path is None or not path.is_dir():
        path = Path(str(study.user_attrs.get(PLACE, os.curdir)))
    return _folder_of(study, str(path.resolve()))


def _folder_of(study: optuna.Study, output_dir: str) -> str:
    """The folder of a study in the default storage, which stores it relative to ``output_dir``.

    Raises:
        StorageError: The folder is outside of ``output_dir``.
    """
    folder = Path(output_dir, str(study.user_attrs.get(FOLDER, os.curdir))).resolve()
    if not folder.is_relative_to(output_dir):
        raise StorageError(
            f"Study {study.study_name!r} stores {FOLDER}={study.user_attrs[FOLDER]!r}, which is outside of "
            f"{output_dir}. No search writes such a path: start a new search with resume=False or another output_dir."
        )
    return str(folder)


def _moved(study: optuna.Study, output_dir: str, *, is_shared: bool) -> str:
    """Says in one line that a study was opened elsewhere before, and stores where it is now; empty if it was not."""
    before = study.user_attrs.get(PLACE)
    if before is None or not is_shared:
        study.set_user_attr(PLACE, output_dir)
    if before in (None, output_dir):
        return ""
    if is_shared:
        return (
            f"Study {study.study_name!r} was started in {before}, this process works in {output_dir}: neither uses the "
            "models and checkpoints of the other. Give all processes the same output_dir to share them."
        )
    return (
        f"The search was copied or moved here from {before}: it continues in {output_dir}, and nothing there is used."
    )


def _continued(output_dir: str, n_done: float, n_trials: int | None) -> str:
    if n_trials is not None and n_done >= n_trials:
        return ""  # whether confirmations are left is known when the next trial is asked for
    of_all = "" if n_trials is None else f" of {n_trials}"
    return f"The search in {output_dir} is continued: {round(n_done, 1):g}{of_all} trials are finished."


def _number_of(name: str, prefix: str, first: str) -> int:
    """The number of a search in the name of its study, from 1; 0 for a study of another name."""
    if name == first:
        return 1
    end = name.removeprefix(f"{prefix}-")
    return int(end) if end != name and end.isdecimal() else 0
