"""Resumes a search after a kill: requeues the trials of dead processes, and refuses to disturb a live process.

A study and each of its running trials store their owner: host, process id and start time of the process that runs them.
"""

import os
import platform
import time
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from typing import Any, TypeGuard

import optuna
import psutil
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.trial_attributes import OWNER, STARTED_BY

# Seconds that a search waits for the end of another process that runs it, such as a rank whose launcher was killed.
_PATIENCE = 20
# Seconds within which processes that start together elect their leader.
_MOMENT = 0.5
# Seconds by which two readings of a process's start time may differ.
_SAME_START = 2.0
# Seconds during which a running trial without an owner counts: its params are being sampled.
_SAMPLING = 60


def requeue_interrupted(study: optuna.Study, *, alone: bool) -> list[int]:
    """Requeues the running trials whose process is gone, so that the next ``ask`` resumes them; returns their numbers.

    Where this process works alone on the study, every running trial was interrupted.

    Raises:
        StorageError: Another process is running this very search.
    """
    if alone:
        _check_alone(study)
        study.set_user_attr(OWNER, this_process())
    requeued = []
    for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
        if alone or _owner_is_gone(trial.user_attrs.get(OWNER)):
            # First the owner: until the next ask no other process may find the trial with a dead owner.
            study._storage.set_trial_user_attr(trial._trial_id, OWNER, this_process())
            # The only way back into the queue that keeps number, params and learning curve.
            study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
            requeued.append(trial.number)
    return requeued


def release_ownership(study: optuna.Study) -> None:
    """Releases ownership of the study; errors are ignored, since a dead owner is detected anyway."""
    with suppress(Exception):
        study.set_user_attr(OWNER, None)


def trials_of_other_processes(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that other live processes are running, to be called while this process runs none.

    A running trial without an owner counts for its first 60 s, while its params are sampled.
    """

    def is_alive(trial: FrozenTrial) -> bool:
        if OWNER in trial.user_attrs:
            return not _owner_is_gone(trial.user_attrs[OWNER])
        started = trial.datetime_start
        return started is not None and abs((datetime.now() - started).total_seconds()) < _SAMPLING

    return [trial for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)) if is_alive(trial)]


def is_leader(study: optuna.Study) -> bool:
    """Elects one of the processes that start a study together: each writes its id, and the last writer wins."""
    study.set_user_attr(STARTED_BY, this_process())
    time.sleep(_MOMENT)
    return bool(study.user_attrs[STARTED_BY] == this_process())


def this_process() -> Params:
    """The owner that this process stores: host, process id and start time."""
    return {"host": platform.node(), "pid": os.getpid(), "begun": _own_start_time(os.getpid())}


def _check_alone(study: optuna.Study) -> None:
    """Waits for the end of another process that runs the search.

    Raises:
        StorageError: The process is still alive after some seconds.
    """
    deadline = time.monotonic() + _PATIENCE
    while True:
        running = study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        owners = {f": it trains trial {trial.number}": trial.user_attrs.get(OWNER) for trial in running}
        # Between two trials, and before the first, only the study has an owner.
        owners[""] = study.user_attrs.get(OWNER)
        alive = {what: who for what, who in owners.items() if _on_this_host(who) and not _owner_is_gone(who)}
        if not alive:
            return
        if time.monotonic() >= deadline:
            what, who = next(iter(alive.items()))
            raise StorageError(
                f"Process {who['pid']} is running this search{what} (study {study.study_name!r}). Wait for its end, "
                "give another output_dir, or let several processes share a search with storage=, study_name= and "
                "load_if_exists=True."
            )
        time.sleep(0.2)


def _on_this_host(owner: Any) -> TypeGuard[Mapping[str, Any]]:
    """Whether an owner is a process of this machine; False for None."""
    return isinstance(owner, Mapping) and owner.get("host") == platform.node()


def _owner_is_gone(owner: Any) -> bool:
    """Whether an owner is known to have ended; a process of another machine may still be alive."""
    if not _on_this_host(owner):
        return False
    pid = int(owner["pid"])
    if pid == os.getpid():
        return True  # this process has no other search running
    try:
        started = process_start_time(pid)
    except psutil.AccessDenied:
        return False
    # The system may have given the id to a new process, which then has another start time.
    return started is None or abs(started - owner["begun"]) > _SAME_START


# Cached, because two readings may differ a little and this process has to write the same owner each time.
@lru_cache(maxsize=1)
def _own_start_time(pid: int) -> float | None:
    return process_start_time(pid)


def process_start_time(pid: int) -> float | None:
    """Start time of a process in seconds since the boot of the machine; None if the process has ended.

    Since the boot, because after a change of the clock a live process would look like another one.
    """
    try:
        process = psutil.Process(pid)
        # A killed process is listed until its parent has waited for it.
        if process.status() in (psutil.STATUS_ZOMBIE, psutil.STATUS_DEAD):
            return None
        return float(round(process.create_time() - psutil.boot_time(), 2))
    except psutil.NoSuchProcess:
        return None
