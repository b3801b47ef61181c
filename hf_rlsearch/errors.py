"""Defines the exceptions of this package.

Each message says what was given, what was expected and what to do. Each class also inherits from the builtin exception
that fits, so that code without knowledge of this package catches it.
"""

import re
import traceback

# Up to the last "@": a password may hold an unescaped "@", which is a common reason for the error that shows the URL.
_IN_URL = re.compile(r"(:/+[^\s/:@]*:)\S*@")
_IN_QUERY = re.compile(r"\b(password|passwd|pwd)=[^&\s'\"]*", re.IGNORECASE)


def describe(error: BaseException) -> str:
    """Returns the type of an exception and the first line of its text that says something.

    Of an exception without a text, such as that of ``assert``, it returns the place and the line of code instead.
    """
    try:
        lines = [line.strip() for line in str(error).splitlines() if any(map(str.isalnum, line))]
    except Exception:  # the class of a user may have a broken __str__
        lines = []
    name, text = type(error).__name__, next(iter(lines), "")
    if text.endswith(":") and len(lines) > 1:
        text = f"{text} {lines[1]}"
    frames = traceback.extract_tb(error.__traceback__)
    if not text and frames:
        last = frames[-1]
        return f"{name} in {last.name} ({last.filename}, line {last.lineno}): {last.line}".removesuffix(": ")
    return f"{name}: {text}" if text else name


class HfRlSearchError(Exception):
    """Base of every exception that this package raises on purpose.

    Args:
        text: Says what was given, what was expected and what to do. Passwords in URLs of storages are hidden.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(_IN_QUERY.sub(r"\1=***", _IN_URL.sub(r"\1***@", text)))


class SearchSpaceError(HfRlSearchError, ValueError):
    """A search space cannot be searched: it is empty, or has unknown names or values of the wrong type."""


class ObjectiveError(HfRlSearchError, ValueError):
    """The objective or its direction is missing, ambiguous, constant or contradicts the metric."""


class ArgumentsError(HfRlSearchError, ValueError):
    """An argument of the search, of the Trainer or of a metric cannot work."""


class ObservationError(HfRlSearchError, ValueError):
    """Arrays do not have the shape or range that the agent was trained for."""


class WeightsError(HfRlSearchError, ValueError):
    """A weights file is corrupted, of another package, or of another observation format."""


class StorageError(HfRlSearchError, RuntimeError):
    """A storage holds another search, or cannot be read or written."""


class SearchFailed(HfRlSearchError, RuntimeError):
    """Too many trials failed, a rank was lost, or a result has no complete trial to use."""


class MissingExtraError(HfRlSearchError, ImportError):
    """An optional package is not installed; the message names the extra that has it."""
