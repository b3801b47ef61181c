"""The exceptions of this package.

Each says what was given, what was expected and what to do. Each also inherits the builtin that fits, so that code which
knows nothing of us catches them where it would expect to.
"""

import re

# Up to the last "@": one that a password holds itself should have been escaped, which is why the URL is refused.
_IN_URL = re.compile(r"(:/+[^\s/:@]*:)\S*@")
_IN_QUERY = re.compile(r"\b(password|passwd|pwd)=[^&\s'\"]*", re.IGNORECASE)


class HfRlSearchError(Exception):
    """Base of every exception that this package raises on purpose.

    Args:
        text: What was given, what was expected, what to do. Passwords in URLs, such as that of a storage, are hidden.
    """

    def __init__(self, text: str = "") -> None:
        super().__init__(_IN_QUERY.sub(r"\1=***", _IN_URL.sub(r"\1***@", text)))


class SearchSpaceError(HfRlSearchError, ValueError):
    """A search space cannot be searched: empty, unknown names, values of the wrong type."""


class ObjectiveError(HfRlSearchError, ValueError):
    """The objective or its direction is missing, ambiguous, constant or contradicts the metric."""


class ArgumentsError(HfRlSearchError, ValueError):
    """An argument of the search, of the Trainer to be searched or of a metric, rules out what was asked for."""


class ObservationError(HfRlSearchError, ValueError):
    """Arrays do not have the shape or range that the policy was trained for."""


class WeightsError(HfRlSearchError, ValueError):
    """A weights file is corrupted, foreign, or of another observation format."""


class StorageError(HfRlSearchError, RuntimeError):
    """A storage holds another search, or cannot be read or written."""


class SearchFailed(HfRlSearchError, RuntimeError):
    """The search had to end early: too many failed trials, or a rank was lost."""


class MissingExtraError(HfRlSearchError, ImportError):
    """An optional package is not installed; the text says which extra has it."""
