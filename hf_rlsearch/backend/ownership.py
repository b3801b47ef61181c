"""Which process runs a search: a living one is left alone, what a dead one left behind is taken up again."""

import os
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import StorageError

OWNER = "owner"
# Seconds that a search waits for the end of another process that runs it.
_PATIENCE = 20


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
