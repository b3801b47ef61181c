"""Ends a search that is interrupted in one line, with the Trainer restored and the storage consistent."""

import functools
import logging
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

logger = logging.getLogger(__name__)

# Attribute of an exception that has been said in one line.
_SAID = "_hf_rlsearch_said"


@contextmanager
def sigterm_as_exit() -> Iterator[None]:
    """Lets SIGTERM end a search as Ctrl-C does, so that the Trainer is restored and the storage stays consistent."""
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


@contextmanager
def interrupts_in_one_line(say: Callable[[], str]) -> Iterator[None]:
    """Says in one line that Ctrl-C or SIGTERM ended a search; a script then ends without a traceback.

    The exception stays what it is, so code that catches KeyboardInterrupt goes on. Where nothing does, the exit code is
    that of an interrupted program: 130, or 143 after SIGTERM. At a Python prompt the next prompt follows. The traceback
    is logged at level DEBUG. An excepthook of the user's is called as for any exception.

    Args:
        say: Prints the line, and returns it; called after the interruption.
    """
    try:
        yield
    except (KeyboardInterrupt, SystemExit) as interrupt:
        logger.debug("The search was interrupted here:", exc_info=True)
        line = "Interrupted."
        with suppress(Exception):  # such as a storage that does not answer: the interruption goes on
            line = say()
        vars(interrupt)[_SAID] = True
        if isinstance(interrupt, KeyboardInterrupt):
            vars(interrupt)["_render_traceback_"] = functools.partial(list, [line])  # IPython and notebooks show that
            _hide_traceback()
        raise


def _hide_traceback() -> None:
    before = sys.excepthook
    if getattr(before, "func", None) is not _unless_said:
        sys.excepthook = functools.partial(_unless_said, before)


def _unless_said(otherwise: Callable[..., Any], kind: type[BaseException], value: BaseException, trace: Any) -> None:
    if not getattr(value, _SAID, False):
        otherwise(kind, value, trace)
        return
    if otherwise is not sys.__excepthook__:
        otherwise(kind, value, trace)
    if not hasattr(sys, "ps1"):  # a prompt calls the hook for each exception, and goes on
        # Python's own exit code is 1 where a library runs code while the interpreter ends.
        raise SystemExit(128 + signal.SIGINT)
