"""Which process runs a search: a living one is left alone, what a dead one left behind is taken up again."""

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.trial_attributes import OWNER, STARTED_BY

# Seconds that a search waits for the end of another process that runs it.
_PATIENCE = 20
# Seconds within which processes that are started together come to the same place.
_MOMENT = 0.5
# Seconds by which two readings of when a process began may differ.
_SAME_START = 2.0
# Seconds that choosing the values of a trial may take.
_CHOOSING = 60


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
        study.set_user_attr(OWNER, this_process())
    again = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if alone or _owner_is_gone(trial.user_attrs.get(OWNER)):
            # Ours first: between the two lines and the next ask nobody else is to find it without a living owner.
            study._storage.set_trial_user_attr(trial._trial_id, OWNER, this_process())
            # The one way back into the queue that keeps the number, the params and the learning curve.
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            again.append(trial.number)
    return again


def release_ownership(study: optuna.Study) -> None:
    """This process runs the search no longer; what cannot be written is found out when the process is gone."""
    with suppress(Exception):
        study.set_user_attr(OWNER, None)


def trials_of_other_processes(study: optuna.Study) -> list[FrozenTrial]:
    """The trials of this search that other processes are training right now.

    Args:
        study: With no running trial of this process. A trial that nobody has put his name to counts while it is new:
            its values are being chosen.
    """
    running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
    return [t for t in running if (not _owner_is_gone(t.user_attrs[OWNER]) if OWNER in t.user_attrs else _is_new(t))]


def _is_new(trial: FrozenTrial) -> bool:
    begun = trial.datetime_start
    return begun is not None and abs((datetime.now() - begun).total_seconds()) < _CHOOSING


def is_leader(study: optuna.Study) -> bool:
    """Whether, of several processes that begin a study at the same moment, this one is to do what is done once.

    Each puts its name down and looks a moment later whose was the last.
    """
    study.set_user_attr(STARTED_BY, this_process())
    time.sleep(_MOMENT)
    return bool(study.user_attrs[STARTED_BY] == this_process())


def this_process() -> Params:
    """This process, so that a later one can tell whether it still lives."""
    return {"host": platform.node(), "pid": os.getpid(), "begun": _own_begin(os.getpid())}


def _check_alone(study: optuna.Study) -> None:
    """Gives a process that is about to end, such as a rank whose launcher was killed, the time to do so."""
    deadline = time.monotonic() + _PATIENCE
    while True:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        owners = {f": it trains trial {trial.number}": trial.user_attrs.get(OWNER) for trial in running}
        # Between two trials, and before the first, only the study knows.
        owners[""] = study.user_attrs.get(OWNER)
        alive = {what: who for what, who in owners.items() if who and _on_this_host(who) and not _owner_is_gone(who)}
        if not alive:
            return
        if time.monotonic() >= deadline:
            what, who = max(alive.items(), key=lambda item: len(item[0]))
            raise StorageError(
                f"Process {who['pid']} is running this search{what} (study {study.study_name!r}). Wait for it, give "
                "another output_dir, or let several processes share a search with storage=, study_name= and "
                "load_if_exists=True."
            )
        time.sleep(0.2)


def _on_this_host(who: Any) -> bool:
    return isinstance(who, Mapping) and who.get("host") == platform.node()


def _owner_is_gone(who: Any) -> bool:
    if not _on_this_host(who):
        return False
    pid = int(who["pid"])
    if pid == os.getpid():
        return True  # this process itself has no other search running
    try:
        begun = process_start_time(pid)
    except psutil.AccessDenied:
        return False
    # A number can be given to a new process; then its start differs.
    return begun is None or abs(begun - who["begun"]) > _SAME_START


@lru_cache(maxsize=1)
def _own_begin(pid: int) -> float | None:
    return process_start_time(pid)


def process_start_time(pid: int) -> float | None:
    """When a process began, in seconds since the machine did; None if it has ended.

    Since the machine did, because a clock that is set meanwhile would make another process of a living one.
    """
    try:
        process = psutil.Process(pid)
        # A killed process is listed until its parent has asked for its end.
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return float(round(process.create_time() - psutil.boot_time(), 2))
    except psutil.NoSuchProcess:
        return None
