"""Why a search ends: it has all its trials, or ``study.stop``, time, budget, target; and the signals that end it."""

import signal
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna
from optuna.trial import TrialState

from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.ownership import OWNER, in_other_hands
from hf_rlsearch.backend.result import CONFIRM, role
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.standing import Standing
from hf_rlsearch.backend.storage import finished


def reason_to_stop(
    study: optuna.Study, settings: Settings, objective: Objective, standing: Standing, deadline: float
) -> str | None:
    """Why no further trial is to begin, None if one is.

    Args:
        study: Of the search.
        settings: Of the search.
        objective: What is optimised.
        standing: What was found so far.
        deadline: ``time.monotonic()`` at which the time is up.
    """
    waiting = study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
    n_done = len([t for t in [*finished(study), *in_other_hands(study)] if role(t) != CONFIRM])
    # What was begun by this search and interrupted is finished; what others have put into the queue may wait.
    if n_done >= settings.most_trials and not any(OWNER in t.user_attrs for t in waiting):
        return "n_trials"
    if getattr(study, "_stop_flag", False):
        return "study.stop"
    if time.monotonic() >= deadline:
        return "timeout"
    if settings.budget is not None and standing.spent() >= settings.budget:
        return "budget"
    target, ranking = settings.target, standing.ranking()
    if target is not None and ranking and not objective.better(target, float(ranking[0].values[0])):
        return "target"
    return None


@contextmanager
def optimize_loop(study: optuna.Study) -> Iterator[None]:
    """Lets samplers and callbacks call ``study.stop()``, as inside ``study.optimize``."""
    inner: Any = study
    inner._stop_flag, inner._thread_local.in_optimize_loop = False, True
    try:
        yield
    finally:
        inner._thread_local.in_optimize_loop = False


@contextmanager
def stop_signals() -> Iterator[None]:
    """Lets SIGTERM end a search as Ctrl-C does: the Trainer is put back and the storage stays consistent."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def stop(number: int, frame: Any) -> None:
        raise SystemExit(128 + number)

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
