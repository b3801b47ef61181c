"""Resumes a search after a kill: requeues the trials of dead processes, and refuses to disturb a live process.

A study and each of its running trials store their owner: the process that runs them, and its last sign of life, which
that process renews. A process of the same machine is looked up by its id, so its end is noticed at once. Of any other
process only the signs of life are known: without a new one for a minute the process is dead. That minute is measured by
the clock of the process that waits, since the clocks of two machines may differ. It begins anew when a database server
answers again, as nobody could give a sign before. In a study that several processes share the same minute holds for a
trial that was begun but has no owner yet: its process may have died first, or lost the server while it asked.
"""

import logging
import math
import os
import platform
import threading
import time
import uuid
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple, Self

import optuna
import psutil
from optuna.exceptions import UpdateFinishedTrialError
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import is_integer, is_number
from hf_rlsearch.errors import StorageError
from hf_rlsearch.observation.trial_attributes import (
    ATTEMPTS,
    COUNTS_FROM,
    FAILURE,
    KEY,
    OWNER,
    STARTED_BY,
    finished_within_limits,
)
from hf_rlsearch.trainer.session.failures import NAN, OTHER

logger = logging.getLogger(__name__)

# Seconds between two signs of life of a process, and without a new one after which the process counts as dead.
_INTERVAL, _GRACE = 10.0, 60.0
# Seconds between two looks at other processes that this one waits for.
_LOOK = 0.2
# Seconds that a search waits for the end of another process that runs it, such as a rank whose launcher was killed.
_PATIENCE = 20
# Seconds within which processes that start together elect their leader, and that take over a trial find the others.
_MOMENT = 0.5
# Seconds by which two readings of a process's start time may differ.
_SAME_START = 2.0
# Seconds during which a running trial without an owner counts: its params are being sampled.
_SAMPLING = 60
# A trial during which the process dies this often, without any new evaluation, has failed.
MAX_ATTEMPTS = 10
# What names a process among all others.
_IDENTITY = ("table", "pid", "begun")


class Lease:
    """Holds a study, or only the running trial of a study that several processes share, for this process.

    Gives signs of life from a thread of its own for as long as it is held. A process that was suspended, or cut off
    from the storage, may find that another one has taken over.

    Attributes:
        alone: This process works alone on the study.
    """

    def __init__(self, study: optuna.Study, *, alone: bool) -> None:
        self.alone = alone
        self._study, self._storage = study, study._storage
        self._owner = {**this_process(), "since": _now()}
        self._trial_id: int | None = None
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._give_signs, name="hf_rlsearch signs of life", daemon=True)

    @classmethod
    def take(cls, study: optuna.Study, *, alone: bool) -> Self:
        """Takes a study, where this process works alone on it, and begins to give signs of life.

        Raises:
            StorageError: Another process is running this very search.
        """
        lease = cls(study, alone=alone)
        while alone:
            _wait_for_owners(study)
            lease._write_to_study(lease._sign())
            # Another process that started at the same moment has found the study without an owner, too.
            if all(owned.is_gone() for owned in _owned_trials(study, _running_trials(study))):
                break
        lease._thread.start()
        return lease

    def hold(self, trial: optuna.Trial) -> None:
        """Makes this process the owner of the trial that it trains from now on.

        Raises:
            StorageError: Another process has taken over the search.
        """
        self._trial_id = None
        trial.set_user_attr(OWNER, self._sign())
        self._trial_id = trial._trial_id
        self.check()

    def check(self) -> None:
        """Checks that this process still holds what it works on.

        Raises:
            StorageError: Another process has taken over, since it saw no sign of life of this one.
        """
        owners = [self._study.user_attrs.get(OWNER)] if self.alone else []
        if self._trial_id is not None:
            owners.append(self._storage.get_trial(self._trial_id).user_attrs.get(OWNER))
        for owner in owners:
            if not _is_same(owner, self._owner):
                raise StorageError(
                    f"Another process has taken over this search (study {self._study.study_name!r}), as it saw no sign "
                    f"of life of this process for {_GRACE:g} s: a suspended machine gives none, nor does a machine "
                    f"without its storage.{_described(owner)} What this process was training is lost. When the other "
                    "process has ended, the same command continues."
                )

    def requeue(self) -> list[FrozenTrial]:
        """Requeues the running trials whose process is gone, so that the next ``ask`` resumes them; returns them.

        Where this process works alone on the study, every running trial was interrupted.
        """
        running = _running_trials(self._study)
        begun = () if self.alone else _begun_trials(self._study, running)
        gone = {each.where for each in begun if each.is_gone()}
        requeued = []
        for trial in running:
            if self.alone or trial._trial_id in gone:
                with suppress(UpdateFinishedTrialError):  # its process has ended it in this very moment
                    if self._claim(trial):
                        # A trial that nobody has trained counts as a new one again.
                        queued = {**self._sign(), "queued": True} if _is_owner(trial.user_attrs.get(OWNER)) else None
                        self._storage.set_trial_user_attr(trial._trial_id, OWNER, queued)
                        # The only way back into the queue that keeps number, params and learning curve.
                        self._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)
                        requeued.append(trial)
        return requeued

    def wait_for_signs_of_others(self) -> bool:
        """Waits until it is known of all trials of other processes whether their process is alive.

        Returns:
            Whether some process is gone, so that its trial can be requeued.
        """
        watch = _Watch()
        while True:
            others = _begun_trials(self._study, _running_trials(self._study))
            if any(other.is_gone() for other in others):
                return True
            if not watch.unknown(others):
                return False
            time.sleep(_LOOK)

    def release(self) -> None:
        """Ends the signs of life and frees the study; errors are ignored, since a dead owner is noticed anyway."""
        self._ended.set()
        if self._thread.is_alive():
            self._thread.join(timeout=5)
        with suppress(Exception):
            if self.alone and _is_same(self._study.user_attrs.get(OWNER), self._owner):
                self._write_to_study(None)

    def _claim(self, trial: FrozenTrial) -> bool:
        """Makes this process the owner of an interrupted trial; False if another one was quicker."""
        # First the owner: until the next ask no other process may find the trial with a dead one.
        self._storage.set_trial_user_attr(trial._trial_id, OWNER, self._sign())
        if self.alone:
            return True
        time.sleep(_MOMENT)  # the last writer gets the trial
        stored = self._storage.get_trial(trial._trial_id)
        return stored.state == TrialState.RUNNING and _is_same(stored.user_attrs.get(OWNER), self._owner)

    def _give_signs(self) -> None:
        while not self._ended.wait(_INTERVAL):
            with suppress(Exception):  # a storage that cannot be reached now may be reached next time
                if self.alone and _is_same(self._study.user_attrs.get(OWNER), self._owner):
                    self._write_to_study(self._sign())
                trial_id = self._trial_id
                stored = {} if trial_id is None else self._storage.get_trial(trial_id).user_attrs
                if trial_id is not None and _is_same(stored.get(OWNER), self._owner):
                    self._storage.set_trial_user_attr(trial_id, OWNER, self._sign())
        with suppress(Exception):  # the connection of this thread
            self._storage.remove_session()

    def _sign(self) -> Params:
        return {**self._owner, "alive": _now()}

    def _write_to_study(self, owner: Params | None) -> None:
        self._storage.set_study_user_attr(self._study._study_id, OWNER, owner)


def trials_of_other_processes(study: optuna.Study) -> list[FrozenTrial]:
    """Trials that other live processes are running, to be called while this process runs none.

    A running trial without an owner counts for 60 s, while its params are sampled.
    """
    running = _running_trials(study)
    owned = {each.where: each for each in _begun_trials(study, running)}

    def is_alive(trial: FrozenTrial) -> bool:
        if trial._trial_id in owned:
            return not owned[trial._trial_id].is_gone()
        started = trial.datetime_start
        return started is not None and abs((datetime.now() - started).total_seconds()) < _SAMPLING

    return [trial for trial in running if is_alive(trial)]


def is_leader(study: optuna.Study) -> bool:
    """Elects one of the processes that start a study together: each writes its id, and the last writer wins."""
    study.set_user_attr(STARTED_BY, this_process())
    time.sleep(_MOMENT)
    return bool(study.user_attrs[STARTED_BY] == this_process())


def may_be_mended(trial: FrozenTrial) -> bool:
    """Whether a trial has failed for a reason that may have been in the script, which may have been corrected since.

    A lack of memory, a lost device and a trial that ended the process again and again are no such reasons.
    """
    kind = (trial.user_attrs.get(FAILURE) or {}).get("kind")
    attempts = (trial.user_attrs.get(ATTEMPTS) or {}).get("n", 0)
    return trial.state == TrialState.FAIL and kind in (NAN, OTHER) and attempts <= MAX_ATTEMPTS


def discount_failures(study: optuna.Study, *, alone: bool) -> str:
    """Lets the failures of earlier starts count towards no limit if no trial came to another end, and says so.

    A search that has completed nothing is not finished.

    Args:
        study: Of the search, held by this process.
        alone: This process works alone on the study.
    """
    before = finished_within_limits(study)
    if not before or not all(map(may_be_mended, before)) or trials_of_other_processes(study):
        return ""
    if not (alone or is_leader(study)):
        return ""
    study.set_user_attr(COUNTS_FROM, before[-1].number + 1)
    return "All trials of earlier starts have failed, so they count towards no limit of the search."


def key_of(study: optuna.Study, *, alone: bool) -> str:
    """A random text that names a search among all others; of processes that start it together the last writer's."""
    if KEY not in study.user_attrs:
        study.set_user_attr(KEY, uuid.uuid4().hex)
        if not alone:
            time.sleep(_MOMENT)
    return str(study.user_attrs[KEY])[:100]


def this_process() -> Params:
    """What this process stores of itself: host, table of processes, process id and start time."""
    pid = os.getpid()
    return {"host": platform.node(), "table": _process_table(), "pid": pid, "begun": _own_start_time(pid)}


def name_of_owner(owner: Any) -> str:
    """Names the process that owns a study or a trial, for a line that people read."""
    known = owner if isinstance(owner, Mapping) else {}
    return f"process {str(known.get('pid', '?'))[:20]} on {str(known.get('host', '?'))[:60]}"


class _Owned(NamedTuple):
    """A study or a running trial, and the process that runs it.

    Attributes:
        owner: What that process has written.
        where: Tells the study and its trials apart.
        what: What the process runs, as the end of a clause; a sentence where the process is not known.
        back_since: When the storage answered again after it was lost, by ``time.monotonic()``.
    """

    owner: Mapping[str, Any]
    where: Any
    what: str = ""
    back_since: float = -math.inf

    @property
    def key(self) -> tuple[Any, ...]:
        """Tells apart the signs of life of all processes, in all places where these are written."""
        return (self.where, *(str(self.owner.get(name)) for name in _IDENTITY))

    def is_here(self) -> bool:
        """Whether the process is in the same table of processes as this one."""
        return bool(self.owner.get("table") == _process_table())

    def is_gone(self) -> bool:
        """Whether the process has ended, or has given no new sign of life for long enough; True for this process."""
        if self.is_here():
            return _process_is_gone(self.owner)
        sign, now = self.owner.get("alive"), time.monotonic()
        last, since = _last_signs.setdefault(self.key, (sign, now))
        if last != sign:
            _last_signs[self.key] = (sign, now)
            return False
        return now - max(since, self.back_since) > _GRACE


# The last sign of life of each process of another table, and when this process saw it first, by its own clock.
_last_signs: dict[tuple[Any, ...], tuple[Any, float]] = {}


class _Watch:
    """Watches other processes, none of which is known to be gone, until each has given a sign of life."""

    def __init__(self) -> None:
        self._first: dict[tuple[Any, ...], Any] = {}
        self._has_told = False

    def unknown(self, others: list[_Owned]) -> list[_Owned]:
        """Those that have given no sign since the watch began; the first time that there are any it is said."""
        signs = [(other, other.owner.get("alive")) for other in others if not other.is_here()]
        unknown = [other for other, sign in signs if self._first.setdefault(other.key, sign) == sign]
        if unknown and not self._has_told:
            self._has_told = True
            one = unknown[0]
            said = _described(one.owner, one.what).strip() or one.what
            logger.warning("%s Waiting up to %g s for a new one.", said, _GRACE)
        return unknown


def _wait_for_owners(study: optuna.Study) -> None:
    """Waits for the end of another process that runs the search.

    Raises:
        StorageError: The process is still alive after some seconds.
    """
    watch, begun = _Watch(), time.monotonic()
    while True:
        owned = _owned_trials(study, _running_trials(study))
        # Between two trials, and before the first, only the study has an owner.
        if _is_owner(study.user_attrs.get(OWNER)):
            owned.append(_Owned(study.user_attrs[OWNER], "study"))
        others = [each for each in owned if not each.is_gone()]
        if not others:
            return
        unknown = watch.unknown(others)
        alive = [other for other in others if other not in unknown]
        if alive and time.monotonic() - begun >= _PATIENCE:
            said = _described(alive[0].owner, alive[0].what).strip()
            raise StorageError(
                f"{said} Wait for the end of that process, give another output_dir, or let several processes share a "
                f"search with storage=, study_name= and load_if_exists=True (study {study.study_name!r})."
            )
        time.sleep(_LOOK)


def is_held(study: optuna.Study) -> bool:
    """Whether a process works on a study, or may do so on another machine."""
    owner = study.user_attrs.get(OWNER, {})
    owned = [*_owned_trials(study, _running_trials(study)), *([_Owned(owner, "study")] if _is_owner(owner) else [])]
    return not all(each.is_gone() for each in owned)


def _described(owner: Any, what: str = "") -> str:
    """Says who runs a search and since when; a sentence after a space, or empty."""
    if not _is_owner(owner):
        return ""
    who, since = name_of_owner(owner), str(owner.get("since", "an unknown time"))[:40]
    signs = f" Its last sign of life was at {str(owner['alive'])[:40]}." if "alive" in owner else ""
    return f" {who[0].upper()}{who[1:]} has been running this search since {since}{what}.{signs}"


def _running_trials(study: optuna.Study) -> list[FrozenTrial]:
    return study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))


def _owned_trials(study: optuna.Study, running: Sequence[FrozenTrial]) -> list[_Owned]:
    """Those of the running trials that have an owner; to be called while this process runs none."""
    back_since = getattr(study._storage, "back_since", -math.inf)
    return [
        _Owned(trial.user_attrs[OWNER], trial._trial_id, f": it trains trial {trial.number}", back_since)
        for trial in running
        if _is_owner(trial.user_attrs.get(OWNER))
    ]


def _begun_trials(study: optuna.Study, running: Sequence[FrozenTrial]) -> list[_Owned]:
    """Those of the running trials of a shared study that have an owner, or will have one in a moment.

    Trials without an owner yet have no params, unlike the trials of other programs, or were requeued. The moment when
    they began is their only sign of life.
    """
    owned = {each.where: each for each in _owned_trials(study, running)}
    back_since = getattr(study._storage, "back_since", -math.inf)
    for trial in running:
        owner = trial.user_attrs.get(OWNER)
        is_queued = isinstance(owner, Mapping) and "queued" in owner
        if is_queued or not (_is_owner(owner) or trial.params):
            sign = {"alive": str(trial.datetime_start)}
            what = f"Trial {trial.number} was begun by a process that has not given its name."
            owned[trial._trial_id] = _Owned(sign, trial._trial_id, what, back_since)
    return [*owned.values()]


def _is_owner(owner: Any) -> bool:
    """Whether an attribute, which anybody with the storage can write, names a process."""
    pid = owner.get("pid") if isinstance(owner, Mapping) else None
    return is_integer(pid) and 0 < pid < 2**31


def _is_same(owner: Any, other: Mapping[str, Any]) -> bool:
    """Whether an attribute names the same process as an owner."""
    return isinstance(owner, Mapping) and all(owner.get(name) == other.get(name) for name in _IDENTITY)


def _process_is_gone(owner: Mapping[str, Any]) -> bool:
    """Whether a process of this process's table has ended."""
    pid = int(owner["pid"])
    if pid == os.getpid():
        return True
    try:
        started = process_start_time(pid)
    except psutil.AccessDenied:
        return False
    if started is None or not is_number(owner.get("begun")):
        return started is None
    # The system may have given the id to a new process, which then has another start time.
    return bool(abs(started - owner["begun"]) > _SAME_START)


@lru_cache(maxsize=1)
def _process_table() -> str:
    """Names the table in which process ids mean the same process, whatever the name of the host.

    Containers on one machine have tables of their own, some with the same host name.
    """
    try:
        boot, table = Path("/proc/sys/kernel/random/boot_id").read_text().strip(), os.readlink("/proc/self/ns/pid")
        if os.readlink("/proc/self") == str(os.getpid()):
            return f"{boot} {table}"
        return str(uuid.uuid4())  # /proc shows the processes of another table
    except OSError:  # not on Linux
        return f"{platform.node()} {uuid.getnode()}"


def _now() -> str:
    return datetime.now().astimezone().isoformat(sep=" ", timespec="milliseconds")


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
