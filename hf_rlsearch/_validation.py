"""Checks plain values that users give, and finds the known name that a misspelt name meant."""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import Any, TypeGuard


def words(text: str) -> frozenset[str]:
    """Returns the words of a text as a set; a set literal of forty names would take forty lines."""
    return frozenset(text.split())


def is_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a real number of Python or numpy: NaN and infinity count, True and False do not."""
    return isinstance(value, Real) and not isinstance(value, bool)


def is_integer(value: Any) -> TypeGuard[int]:
    """Returns whether a value is an integer of Python or numpy, True and False excluded."""
    return isinstance(value, Integral) and not isinstance(value, bool)


def is_finite_number(value: Any) -> TypeGuard[float]:
    """Returns whether a value is a finite real number that a float can hold, True and False excluded."""
    try:
        return is_number(value) and math.isfinite(value)
    except OverflowError:  # an integer of more than 308 digits
        return False


def closest(name: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str | None:
    """Returns the known name that is most like a given name, None if none is similar.

    Args:
        name: As the user wrote it.
        known: All valid names.
        cutoff: Least similarity of the two, in [0, 1].
    """
    from difflib import get_close_matches  # needed only where something is wrong

    return next(iter(get_close_matches(str(name), list(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: Any, known: Iterable[str], *, cutoff: float = 0.6) -> str:
    """Returns the end of an error message: `` Did you mean 'x'?`` with a leading space, or "" if none is similar."""
    near = closest(name, known, cutoff=cutoff)
    return f" Did you mean {near!r}?" if near else ""
