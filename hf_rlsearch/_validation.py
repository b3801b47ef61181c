"""Checks plain values that users give: is one a number, and which known name did a misspelt one mean."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeGuard


def is_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number, of Python or numpy; NaN and infinity are, True and False are not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: Any) -> TypeGuard[int]:
    """Whether a value is a whole number by its type, of Python or numpy; True and False are not."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Whether a value is a real number with a place on an axis: neither NaN nor infinite, neither True nor False."""
    return is_number(value) and math.isfinite(value)


def closest(name: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """The known name that is most like a given one, None if none is.

    Args:
        name: As the user wrote it.
        known: All names that would have been right.
        cutoff: How alike the two must be, in [0, 1].
    """
    from difflib import get_close_matches  # needed only where something is wrong

    return next(iter(get_close_matches(str(name), list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """The end of an error message, with a leading space: `` Did you mean 'x'?``, or nothing if no name is alike."""
    near = closest(name, known, cutoff=cutoff)
    return f" Did you mean {near!r}?" if near else ""
