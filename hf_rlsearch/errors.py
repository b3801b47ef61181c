"""Defines the exceptions of this package.

Each message says what was given, what was expected and what to do. Each class also inherits from the builtin exception
that fits, so that code without knowledge of this package catches it.
"""

import re

# Up to the last "@": a password may hold an unescaped "@", which is a common reason for the error that shows the URL.
_IN_URL = re.compile(r"(:/+[^\s/:@]*:)\S*@")
_IN_QUERY = re.compile(r"\b(password|passwd|pwd)=[^&\s'\"]*", re.IGNORECASE)


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
    """The search ended early: too many trials failed, or a rank was lost."""


class MissingExtraError(HfRlSearchError, ImportError):
    """An optional package is not installed; the message names the extra that has it."""
