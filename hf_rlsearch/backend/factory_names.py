"""Names that a function which makes trainers does not know, found before the first training.

It may read whatever it likes, so its answer is the only way to know: it makes one trainer more, with the names that are
no fields of the arguments among the values. A search of fields alone asks nothing.
"""

import logging
from collections.abc import Callable, Iterable, Iterator, Set
from difflib import get_close_matches
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.drawing import Drawer
from hf_rlsearch.backend.identity import keep_randomness
from hf_rlsearch.backend.plain_data import plain
from hf_rlsearch.backend.watching import WatchedValues
from hf_rlsearch.errors import SearchSpaceError

logger = logging.getLogger(__name__)


def check_names(make_trainer: Callable[[Params], Any], drawer: Drawer, read: Set[str]) -> None:
    """Refuses names that ``make_trainer`` cannot take, and those that it leaves unread and that look misspelt.

    Any other name that it leaves unread is a warning: a loss may read it later, in the training.

    Args:
        make_trainer: The user's; its other errors are left to the trials that meet them.
        drawer: Of the space.
        read: Names that it has read of an empty dict.

    Raises:
        SearchSpaceError: With the nearest name that it does take.
    """
    unknown = drawer.searched - drawer.frozen.names
    names = set(read)
    for values in _showing(drawer, unknown):
        try:
            with keep_randomness():
                make_trainer(WatchedValues(values, names))
        except TypeError as error:
            _refuse_unexpected(error, unknown & values.keys(), _others(drawer, names))
            return
        except Exception:
            return
    for name in sorted(unknown - names):
        _refuse_misspelt(name, _others(drawer, names))


def _showing(drawer: Drawer, names: Set[str]) -> Iterator[Params]:
    """The values of as few configurations as show each of the names, conditional ones too."""
    left = set(names)
    for _, values, _ in drawer.examples() if left else ():
        if left & values.keys():
            left -= values.keys()
            yield {name: plain(value) for name, value in values.items()}
        if not left:
            return


def _others(drawer: Drawer, read: Iterable[str]) -> list[str]:
    """What an unknown name may have meant: fields of the arguments and names that are read, if not searched already."""
    return sorted((drawer.frozen.names | set(read)) - drawer.searched)


def _refuse_unexpected(error: TypeError, unknown: Set[str], known: list[str]) -> None:
    for name in sorted(unknown, key=len, reverse=True):
        if repr(name) in str(error):
            close = get_close_matches(name, known, n=1)
            hint = f"Did you mean {close[0]!r}?" if close else f"Take it out there: values.pop({name!r}, ...)."
            raise SearchSpaceError(
                f"hp_space sets {name!r}, which make_trainer does not take (TypeError: {error}). {hint}"
            ) from error


def _refuse_misspelt(name: str, known: list[str]) -> None:
    close = get_close_matches(name, known, n=1, cutoff=0.8)
    if close:
        raise SearchSpaceError(
            f"hp_space sets {name!r}, which make_trainer does not read, so it would have no effect. Did you mean "
            f"{close[0]!r}?"
        )
    logger.warning("hp_space sets %r, which make_trainer has not read: without effect if nothing reads it later.", name)
