"""Where trials are kept, which study a search belongs to, and what is left over from an interrupted one.

By default an SQLite file in ``output_dir``. There a search is identified by what it is: space, objective, direction,
arguments that are not searched, data and model. The same script run again continues an unfinished search of that
identity,
and begins a new one if the last is finished or anything differs. A study in a storage that the user names follows
Optuna's ``load_if_exists``.
"""

import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError

FILE = "hf_rlsearch.db"
IDENTITY, FOLDER, N_TRIALS, OWNER, OBJECTIVE = "identity", "folder", "n_trials", "owner", "objective"
# Set when the call that ran the search has given its result back.
RETURNED = "returned"
# Seconds that SQLite waits for another process that writes.
_SQLITE_PATIENCE = 30
# Seconds that a search waits for the end of another process that runs it.
_PATIENCE = 20

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Opened:
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


@contextmanager
def quiet_optuna() -> Any:
    """Keeps Optuna's own progress lines out: the search prints its own."""
    before = optuna.logging.get_verbosity()
    optuna.logging.set_verbosity(max(before, optuna.logging.WARNING))
    try:
        yield
    finally:
        optuna.logging.set_verbosity(before)


def open_study(
    *,
    output_dir: str,
    identity: Params,
    directions: tuple[str, ...],
    n_trials: int,
    sampler: optuna.samplers.BaseSampler,
    pruner: optuna.pruners.BasePruner,
    storage: Any = None,
    study_name: str | None = None,
    load_if_exists: bool = False,
    resume: bool = True,
) -> Opened:
    """Finds or creates the study of this search; called on rank 0 only.

    Args:
        output_dir: The Trainer's.
        identity: What the search is; plain data.
        directions: Of the objective(s).
        n_trials: Total number of trials.
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
    with _clear_errors(storage or Path(output_dir, FILE)):
        opened_storage = _open_storage(storage, output_dir)
        if storage is not None or (study_name is not None and load_if_exists):
            return _named(opened_storage, study_name, load_if_exists, identity, output_dir, n_trials, make)
        return _by_identity(opened_storage, study_name, identity, output_dir, n_trials, resume, make)


@contextmanager
def storage_errors(where: Any) -> Iterator[None]:
    """Tells of a storage that stops working during a search, instead of the database's own pages of text.

    Raises:
        StorageError: From the database's error.
    """
    try:
        yield
    except Exception as error:
        if _is_storage_error(error):
            raise _cannot_be_used(where, error) from error
        raise


def finished(study: optuna.Study) -> list[FrozenTrial]:
    """The trials that count towards ``n_trials``: complete, pruned and failed."""
    return [trial for trial in study.get_trials(deepcopy=False) if trial.state.is_finished()]


def requeue_interrupted(study: optuna.Study, *, alone: bool) -> list[int]:
    """Puts trials back into the queue whose process is gone, so that the next ``ask`` continues them.

    Args:
        study: The study.
        alone: Only one process may work on it, so every running trial is a left-over unless its process is alive.

    Returns:
        Their numbers.

    Raises:
        StorageError: Another process is running this very search.
    """
    if alone:
        _check_alone(study)
    again = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if alone or _owner_is_gone(trial.user_attrs.get(OWNER)):
            # The one way back into the queue that keeps the number, the params and the learning curve.
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            again.append(trial.number)
    return again


def owner() -> Params:
    """This process, so that a later one can tell whether it still lives."""
    return {"host": os.uname().nodename, "pid": os.getpid(), "begun": _begun(os.getpid())}


def differences(old: Mapping[str, Any], new: Mapping[str, Any], prefix: str = "") -> list[str]:
    """What differs between two identities, one short line each."""
    lines = []
    for key in sorted({*old, *new}):
        before, after = old.get(key), new.get(key)
        if before == after:
            continue
        if isinstance(before, Mapping) and isinstance(after, Mapping):
            lines += differences(before, after, f"{prefix}{key}.")
        else:
            lines.append(f"{prefix}{key}: {_short(before)} -> {_short(after)}")
    return lines


def _open_storage(storage: Any, output_dir: str) -> Any:
    if storage is not None:
        return optuna.storages.get_storage(storage)
    path = Path(output_dir, FILE)
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_sqlite(path)
    url = f"sqlite:///{path.resolve()}"
    return optuna.storages.get_storage(
        optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _SQLITE_PATIENCE}})
    )


def _check_sqlite(path: Path) -> None:
    """A truncated or foreign file is told here, before a library dresses the error in pages of SQL."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise StorageError(f"{path} is not an SQLite file. Move it away, or pass another storage=.")
    connection = sqlite3.connect(path, timeout=_SQLITE_PATIENCE)
    try:
        answer = connection.execute("PRAGMA quick_check").fetchone()
    finally:
        connection.close()
    if answer != ("ok",):
        raise StorageError(
            f"{path} is damaged ({answer[0] if answer else 'no answer'}). Move it away to begin a new search, or "
            f"put a copy back."
        )


@contextmanager
def _clear_errors(where: Any) -> Iterator[None]:
    try:
        yield
    except (StorageError, optuna.exceptions.DuplicatedStudyError):
        raise
    except Exception as error:
        if isinstance(error, (OSError, RuntimeError)) or _is_storage_error(error):
            raise _cannot_be_used(where, error) from error
        raise


def _is_storage_error(error: Exception) -> bool:
    return isinstance(error, (sqlite3.Error, optuna.exceptions.StorageInternalError)) or type(
        error
    ).__module__.startswith("sqlalchemy")


def _cannot_be_used(where: Any, error: Exception) -> StorageError:
    return StorageError(
        f"The storage {where} cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}. Finished trials "
        f"are "
        "kept. Check that the folder can be written to and that no other program holds the file, or pass storage=."
    )


def _named(
    storage: Any,
    study_name: str | None,
    load_if_exists: bool,
    identity: Params,
    output_dir: str,
    n_trials: int,
    make: dict[str, Any],
) -> Opened:
    """A study that the user names: Optuna's rules, and the check that it is a study of this search."""
    study = None
    if load_if_exists and study_name is not None and study_name in optuna.get_all_study_names(storage):
        study = optuna.load_study(
            study_name=study_name, storage=storage, sampler=make["sampler"], pruner=make["pruner"]
        )
        _check_same_search(study, identity, make["directions"])
    if study is None:
        study = optuna.create_study(study_name=study_name, storage=storage, load_if_exists=False, **make)
    n_before = len(study.get_trials(deepcopy=False))
    changed = differences(study.user_attrs.get(IDENTITY, identity), identity)
    _describe(study, identity, output_dir, n_trials)
    note = f"Study {study.study_name!r} is continued: it has {n_before} trials." if n_before else ""
    if n_before and changed:
        note += f" This script differs from the one that began it: {'; '.join(changed[:3])}."
    return Opened(study, str(study.user_attrs.get(FOLDER, output_dir)), bool(n_before), note)


def _by_identity(
    storage: Any,
    study_name: str | None,
    identity: Params,
    output_dir: str,
    n_trials: int,
    resume: bool,
    make: dict[str, Any],
) -> Opened:
    prefix, first = ("search", "search-1") if study_name is None else (study_name, study_name)
    numbers = {name: _number_of(name, prefix, first) for name in optuna.get_all_study_names(storage)}
    names = sorted((name for name in numbers if numbers[name]), key=lambda name: numbers[name])
    note = ""
    if resume and names:
        last = optuna.load_study(study_name=names[-1], storage=storage, sampler=make["sampler"], pruner=make["pruner"])
        n_done, changed = len(finished(last)), differences(last.user_attrs.get(IDENTITY, {}), identity)
        # Killed after the last trial and before the call returned, a search has a result that nobody has seen.
        open_end = n_done < n_trials or not last.user_attrs.get(RETURNED, False)
        if open_end and not changed:
            _describe(last, identity, output_dir, n_trials)
            n_begun = len(last.get_trials(deepcopy=False))
            note = (
                f"The search in {output_dir} is continued: {n_done} of {n_trials} trials are finished."
                if n_begun
                else ""
            )
            return Opened(last, str(last.user_attrs[FOLDER]), bool(n_begun), note)
        if open_end:
            note = f"A new search begins, because the unfinished one in {output_dir} differs: {'; '.join(changed[:3])}."
        else:
            note = f"A new search begins, because the last one in {output_dir} is finished."
    number = 1 + (numbers[names[-1]] if names else 0)
    study = optuna.create_study(study_name=first if number == 1 else f"{prefix}-{number}", storage=storage, **make)
    folder = output_dir if number == 1 else str(Path(output_dir, study.study_name))
    _describe(study, identity, folder, n_trials)
    return Opened(study, folder, False, note)


def _number_of(name: str, prefix: str, first: str) -> int:
    """Which search of a name a study is, from 1; 0 for a study of another name."""
    if name == first:
        return 1
    end = name.removeprefix(f"{prefix}-")
    return int(end) if end != name and end.isdecimal() else 0


def _describe(study: optuna.Study, identity: Params, folder: str, n_trials: int) -> None:
    if IDENTITY not in study.user_attrs:
        study.set_user_attr(IDENTITY, identity)
        study.set_user_attr(FOLDER, folder)
    study.set_user_attr(N_TRIALS, n_trials)
    study.set_user_attr(RETURNED, False)


def _check_same_search(study: optuna.Study, identity: Params, directions: list[str]) -> None:
    """A study with trials of another space or objective would mix what cannot be compared."""
    have = [direction.name.lower() for direction in study.directions]
    if have != directions:
        raise StorageError(
            f"Study {study.study_name!r} has directions {have}, this search has {directions}. Use another study_name."
        )
    old = study.user_attrs.get(IDENTITY)
    if old is None:
        known: dict[str, Any] = {}
        for trial in study.get_trials(deepcopy=False):
            known.update(trial.distributions)
        changed = differences(
            {
                name: optuna.distributions.distribution_to_json(d)
                for name, d in known.items()
                if name in identity["space"]
            },
            {name: text for name, text in identity["space"].items() if name in known},
        )
    else:
        changed = differences({"space": old["space"]}, {"space": identity["space"]})
        keys = old.keys() & {"objective", "follows"}
        before, now = ({key: each[key] for key in keys} for each in (old, identity))
        optimised = differences(before, now)
        if optimised:
            raise StorageError(
                f"Study {study.study_name!r} has another objective: {'; '.join(optimised)}. Its values cannot be "
                "compared with this search's. Use another study_name or storage, or optimise what it optimises."
            )
    if changed:
        raise StorageError(
            f"Study {study.study_name!r} is of another search space: {'; '.join(changed[:3])}. Use another "
            f"study_name or storage."
        )


def _check_alone(study: optuna.Study) -> None:
    """Gives a process that is about to end, such as a rank whose launcher was killed, the time to do so."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        owners = {trial.number: trial.user_attrs.get(OWNER) for trial in running}
        alive = {n: who for n, who in owners.items() if who and _is_here(who) and not _owner_is_gone(who)}
        if not alive:
            return
        if time.monotonic() >= deadline:
            number, who = min(alive.items())
            raise StorageError(
                f"Process {who['pid']} is running this search: it trains trial {number} of study "
                f"{study.study_name!r}. Wait for it, give another output_dir, or let several processes share a search "
                "with storage=, study_name= and load_if_exists=True."
            )
        time.sleep(0.2)


def _is_here(who: Any) -> bool:
    return isinstance(who, Mapping) and who.get("host") == os.uname().nodename


def _owner_is_gone(who: Any) -> bool:
    if not _is_here(who):
        return False
    pid = int(who["pid"])
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return True
    except PermissionError:
        return False
    # A number can be given to a new process; then its start differs. This process itself has no other search running.
    return pid == os.getpid() or _begun(pid) != who.get("begun")


def _begun(pid: int) -> str | None:
    """When a process began, in ticks since the machine did; None if it has ended or the system does not tell."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
        # A killed process is listed until its parent has asked for its end.
        return None if fields[0] in "ZX" else fields[19]
    except (OSError, IndexError):
        return None


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
