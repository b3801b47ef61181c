"""Discretises an Optuna distribution to its levels, the few values that are worth training.

A level is a plain Python value that the distribution contains and that a storage gives back unchanged.
"""

import math
import sys
from collections.abc import Iterable
from decimal import Decimal
from itertools import pairwise
from typing import Any

from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch._validation import is_finite_number, is_integer
from hf_rlsearch.errors import SearchSpaceError

# Levels per factor of ten, fewest and most. Objectives hardly differ between learning rates closer than a factor
# 10^(1/4), other logarithmic hyperparameters matter less; the bounds keep a narrow range resolved and a wide one small.
_PER_DECADE = {"learning_rate": (4, 5, 17)}
_PER_DECADE_DEFAULT = (3, 5, 13)
# A range of at most 12 whole numbers has all of them as levels, a longer range has 9 evenly spread ones.
_MAX_ALL_INTS = 12
_SPREAD_INTS = 9
# Numbers of points of a linear range, the first preferred.
_LINEAR_POINTS = (9, 8, 7, 6, 5)
# Digits of distances between linear points: the first group is preferred.
_ROUND_STEPS = (((1,), (2,), (5,), (2, 5)), ((3,), (4,), (6,), (8,)))


def make_levels(
    name: str, distribution: BaseDistribution, *, role: str, n_points: int | None = None
) -> tuple[Any, ...]:
    """Discretises one distribution; ``n_points`` is the number of levels wanted of a number, at least 2.

    Fewer levels come back where the range holds fewer. The role decides the density of a logarithmic range.

    Returns:
        Distinct plain values, ascending where all are numbers, else in the order of the choices.

    Raises:
        SearchSpaceError: The range is not finite, ``n_points`` is below 2, or a choice cannot be stored.
    """
    if n_points is not None and (not is_integer(n_points) or n_points < 2):
        raise SearchSpaceError(f"n_points for {name!r} is {n_points!r}, expected a whole number of at least 2.")
    if isinstance(distribution, CategoricalDistribution):
        return _categorical_levels(name, distribution)
    if not isinstance(distribution, FloatDistribution | IntDistribution):
        raise SearchSpaceError(
            f"{name!r} has a {type(distribution).__name__}, expected Optuna's float, int or categorical distribution."
        )
    # Compared and not tested by isfinite, which fails for whole numbers beyond the largest float.
    if not (-sys.float_info.max <= distribution.low and distribution.high <= sys.float_info.max):
        bounds = (distribution.low, distribution.high)
        low, high = (
            b if isinstance(b, float) or abs(b) < sys.float_info.max else "an integer of over 308 digits"
            for b in bounds
        )
        raise SearchSpaceError(f"{name!r} ranges from {low} to {high}, expected finite numbers of at most 1e308.")
    if isinstance(distribution, IntDistribution):
        levels = storable(distribution, _int_levels(distribution, role, n_points))
    else:
        levels = storable(distribution, _float_levels(distribution, role, n_points))
    if not levels:
        raise SearchSpaceError(
            f"{name!r} has the range {distribution}, but Optuna stores numbers as floats, and none of these whole "
            "numbers is one. Use numbers of at most 2**53, or suggest the number as text."
        )
    return levels


def is_logarithmic(levels: tuple[Any, ...], distribution: BaseDistribution) -> bool:
    """True if distances between levels, ascending if numbers, are measured in factors.

    The distribution's ``log`` decides; numeric choices are logarithmic when they span a factor of 8 or grow by a nearly
    constant factor.
    """
    if not isinstance(distribution, CategoricalDistribution):
        return bool(getattr(distribution, "log", False))
    if len(levels) < 3 or not all(is_finite_number(level) and level > 0 for level in levels):
        return False
    growth = [math.log(after) - math.log(before) for before, after in pairwise(levels)]
    return bool(levels[-1] >= 8 * levels[0] or max(growth) <= 1.25 * min(growth))


def storable(distribution: FloatDistribution | IntDistribution, values: Iterable[Any]) -> tuple[Any, ...]:
    """The values that lie in a distribution, as Optuna's float storage gives them back; ascending, none twice."""
    kept = set()
    for value in values:
        internal = float(distribution.to_internal_repr(value))
        if not distribution._contains(internal):  # whole numbers above 2^53 may round out of the range
            internal = math.nextafter(internal, float(distribution.low) / 2 + float(distribution.high) / 2)
        if distribution._contains(internal):
            stored = distribution.to_external_repr(internal)
            kept.add(int(stored) if isinstance(distribution, IntDistribution) else _on_step(distribution, stored))
    return tuple(sorted(kept))


def middle(distribution: FloatDistribution | IntDistribution, low: float, high: float) -> float:
    """The value halfway between two values, by factors in a logarithmic range; one of them where none lies between."""
    point = (_log_point if distribution.log else _linear_point)(low, high, 1, 3)
    if distribution.step is None:
        return point
    return low + round((point - low) / distribution.step) * distribution.step


def _on_step(distribution: FloatDistribution, value: float) -> float:
    """The value without the error of adding up steps; as it is where the range has no step."""
    if distribution.step is None:
        return float(value)
    first, step = Decimal(str(distribution.low)), Decimal(str(distribution.step))
    return float(first + round((Decimal(str(value)) - first) / step) * step)


def _categorical_levels(name: str, distribution: CategoricalDistribution) -> tuple[Any, ...]:
    for choice in distribution.choices:
        if choice is not None and not isinstance(choice, bool | int | float | str):
            raise SearchSpaceError(
                f"{name!r} has the choice {choice!r} of type {type(choice).__name__}, expected None, bool, int, float "
                "or str: only these survive a storage. Suggest a name and look the object up in your function."
            )
    # Optuna knows a choice by its first equal one, so True and 1 (or a repeated choice) are one level.
    unique = {distribution.to_internal_repr(choice): _plain(choice) for choice in reversed(distribution.choices)}
    levels = [unique[index] for index in sorted(unique)]
    return tuple(sorted(levels)) if all(is_finite_number(level) for level in levels) else tuple(levels)


def _plain(value: Any) -> Any:
    """The value in Python's own type; subclasses, as numpy's float64 and an Enum of texts, show in JSON and logs."""
    if isinstance(value, str):
        return str.__str__(value)  # ``str`` of an Enum's member is the name of the member
    return next((kind(value) for kind in (bool, int, float) if isinstance(value, kind)), value)


def _float_levels(distribution: FloatDistribution, role: str, n_points: int | None) -> list[float]:
    low, high = distribution.low, distribution.high
    if distribution.single():
        return [low]
    if distribution.step is not None:
        first, step = Decimal(str(low)), Decimal(str(distribution.step))
        n_steps = int((Decimal(str(high)) - first) / step)
        return [float(first + k * step) for k in _spread(n_steps + 1, n_points or _LINEAR_POINTS[0])]
    if distribution.log:
        count = n_points or _log_count(low, high, role)
        return [low, *(_log_point(low, high, i, count) for i in range(1, count - 1)), high]
    count = n_points or _linear_count(low, high)
    return [low, *(_linear_point(low, high, i, count) for i in range(1, count - 1)), high]


def _int_levels(distribution: IntDistribution, role: str, n_points: int | None) -> list[int]:
    low, high, step = distribution.low, distribution.high, distribution.step
    count = (high - low) // step + 1
    if count <= (n_points or _MAX_ALL_INTS):
        return list(range(low, high + 1, step))
    if not distribution.log:
        return [low + k * step for k in _spread(count, n_points or _SPREAD_INTS)]
    if n_points is None and low.bit_count() == high.bit_count() == 1:
        powers = [1 << k for k in range(low.bit_length() - 1, high.bit_length())]
        return [powers[k] for k in _spread(len(powers), _PER_DECADE_DEFAULT[2])]
    wanted = n_points or max(_log_count(low, high, role), _SPREAD_INTS)
    factor = (math.log(high) - math.log(low)) / (wanted - 1)
    return [low, *(min(round(low * math.exp(factor * i)), high) for i in range(1, wanted - 1)), high]


def _log_count(low: float, high: float, role: str) -> int:
    per_decade, fewest, most = _PER_DECADE.get(role, _PER_DECADE_DEFAULT)
    return min(max(round(per_decade * (math.log10(high) - math.log10(low))) + 1, fewest), most)


def _log_point(low: float, high: float, i: int, count: int) -> float:
    """The i-th of ``count`` points a constant factor apart, to two or three digits where that changes little."""
    share = i / (count - 1)
    exact = math.exp((1 - share) * math.log(low) + share * math.log(high))
    spacing = (math.log(high) - math.log(low)) / (count - 1)
    rounded = float(f"{exact:.{1 if spacing > 0.2 else 2}e}")
    return rounded if low < rounded < high and spacing > 0.02 else min(max(exact, low), high)


def _linear_count(low: float, high: float) -> int:
    """The number of points that lie a round distance apart: 0.0 to 0.3 in steps of 0.05, not 0.0375."""
    width = Decimal(str(high)) - Decimal(str(low))
    for digits in _ROUND_STEPS:
        for count in _LINEAR_POINTS:
            if (width / (count - 1)).normalize().as_tuple().digits in digits:
                return count
    return 7  # no distance is round


def _linear_point(low: float, high: float, i: int, count: int) -> float:
    """The i-th of ``count`` evenly spaced points, without the digits that only binary fractions add."""
    first, last = Decimal(str(low)), Decimal(str(high))
    value = float(first + (last - first) * i / (count - 1))
    spacing = high / (count - 1) - low / (count - 1)
    rounded = float(f"{value:.{max(0, 2 - math.floor(math.log10(spacing)))}f}") if spacing > 1e-12 else value
    return rounded if low < rounded < high else min(max(value, low), high)


def _spread(count: int, wanted: int) -> list[int]:
    """At most ``wanted`` of the indices 0 to ``count`` - 1, evenly spread, both ends among them."""
    if count <= wanted:
        return list(range(count))
    return [(2 * i * (count - 1) + wanted - 1) // (2 * (wanted - 1)) for i in range(wanted)]
