"""Whether a finished search is done with: its result was given back, and the script that got it ran to its end.

A search of days must not be lost because the process was killed, or the script failed, in the line after it. So a
finished search is done with only when the process that got its result ends without an error; until then the same script
gets the same result again.
"""

import atexit
import logging
import sys
from pathlib import Path
from typing import Any

import optuna

from hf_rlsearch.backend.ownership import owner

# What the study knows: False (not given back), the process that it was given to, or True (that script has ended).
RETURNED = "returned"

logger = logging.getLogger(__name__)

# By SQLite file, the last search in it whose result this process was given.
_given: dict[Path, int] = {}


def give_back(study: optuna.Study, file: Path | None) -> None:
    """Notes that this process gets the result now.

    Args:
        study: Of the search.
        file: The default storage's; None for a storage of the user's, where ``load_if_exists`` decides alone.
    """
    study.set_user_attr(RETURNED, owner())
    if file is not None:
        atexit.unregister(note_end)
        atexit.register(note_end)
        _given[file.resolve()] = study._study_id


def is_done_with(study: optuna.Study) -> bool:
    """Whether the same script begins a new search: its last one has ended, or it is this very process."""
    seen = study.user_attrs.get(RETURNED, False)
    return seen is True or seen == owner()


def note_end() -> None:
    """When the process ends: its searches are done with, unless an error ended it."""
    # Python puts an exception that nobody caught here before it ends.
    if getattr(sys, "last_value", None) is None:
        for file, study_id in _given.items():
            _mark(file, study_id)
    _given.clear()


def _mark(file: Path, study_id: int) -> None:
    if not file.exists():
        return
    try:
        storage: Any = optuna.storages.RDBStorage(f"sqlite:///{file}")
        # A forked child has inherited the list, and another process may have taken the search over.
        if storage.get_study_user_attrs(study_id).get(RETURNED) == owner():
            storage.set_study_user_attr(study_id, RETURNED, True)
        storage.remove_session()
        storage.engine.dispose()
    except Exception as error:
        # Nothing is lost: the next run gives the same result again.
        logger.warning("That the search in %s is over could not be noted: %s", file, error)
