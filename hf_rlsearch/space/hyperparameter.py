"""Describes one hyperparameter of a search space: its levels, and where other values lie between them."""

import math
from bisect import bisect_left
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

from optuna.distributions import BaseDistribution, FloatDistribution, IntDistribution

from hf_rlsearch._validation import is_finite_number
from hf_rlsearch.space.discretize import is_logarithmic, make_levels, storable


@dataclass(frozen=True)
class Hyperparameter:
    """One name being tuned, discretised.

    Attributes:
        name: As suggested.
        distribution: Optuna's; every level lies in it.
        role: One of ``ROLES``.
        levels: Plain values, ascending where all are numbers.
        log: Distances between levels are factors, not differences.
        conditional: Not every configuration has it.
    """

    name: str
    distribution: BaseDistribution
    role: str
    levels: tuple[Any, ...]
    log: bool
    conditional: bool = False

    @classmethod
    def from_distribution(
        cls,
        name: str,
        distribution: BaseDistribution,
        *,
        role: str,
        n_points: int | None = None,
        conditional: bool = False,
    ) -> "Hyperparameter":
        """Discretises an Optuna distribution of floats, whole numbers or choices.

        Raises:
            SearchSpaceError: The distribution has no usable values, or ``n_points`` is below 2.
        """
        levels = make_levels(name, distribution, role=role, n_points=n_points)
        log = is_logarithmic(levels, distribution)
        return cls(name=name, distribution=distribution, role=role, levels=levels, log=log, conditional=conditional)

    def with_levels(self, values: Iterable[Any]) -> "Hyperparameter":
        """A copy in which further numbers are levels too; values that are no numbers, or out of range, are ignored.

        Levels nearer to a new level than half the mean distance between levels are dropped, so that their number stays
        about the same; the first and the last level stay.
        """
        if not isinstance(self.distribution, FloatDistribution | IntDistribution):
            return self
        wanted = storable(self.distribution, [value for value in values if is_finite_number(value)])
        new = [value for value in wanted if value not in self.levels]
        if not new:
            return self
        close = 0.5 / max(1, len(self.levels) - 1)
        positions = [self.position(value) for value in new]
        kept = [
            level
            for level in self.levels
            if level in (*wanted, self.levels[0], self.levels[-1])
            or min(abs(self.position(level) - position) for position in positions) >= close
        ]
        return replace(self, levels=tuple(sorted([*kept, *new])))

    @cached_property
    def ordered(self) -> bool:
        """True if all levels are finite numbers, so that some lie between others."""
        return all(is_finite_number(level) for level in self.levels)

    @cached_property
    def has_all_values(self) -> bool:
        """True if the levels are all values of the distribution."""
        d = self.distribution
        if not isinstance(d, FloatDistribution | IntDistribution):
            return True
        return d.single() or (d.step is not None and len(self.levels) > round((d.high - d.low) / d.step))

    def position(self, value: Any) -> float:
        """The place of a value between the first and the last level; numbers outside of the levels are clipped.

        Returns:
            In [0, 1]: (log-)linear for numbers, index / (n - 1) else; 0.5 for a single level or an unknown choice.
        """
        if len(self.levels) == 1:
            return 0.5
        if self.ordered and is_finite_number(value):
            return self._number_position(value)
        index = self.nearest_level(value)
        return 0.5 if index < 0 else index / (len(self.levels) - 1)

    def nearest_level(self, value: Any) -> int:
        """The index of the level closest to a value by ``position``, the lower of two; -1 for an unknown choice."""
        if not (self.ordered and is_finite_number(value)):
            return next((i for i, level in enumerate(self.levels) if _same(level, value)), -1)
        above = bisect_left(self.levels, value)
        if above == 0 or above == len(self.levels):
            return min(above, len(self.levels) - 1)
        if self.levels[above] == value:
            return above
        here, lower, upper = map(self._number_position, (value, self.levels[above - 1], self.levels[above]))
        return above - 1 if here - lower <= upper - here else above

    def _number_position(self, value: float) -> float:
        first, last = self.levels[0], self.levels[-1]
        if value <= first or value >= last:
            return float(value >= last)
        if self.log:
            return (math.log(value) - math.log(first)) / (math.log(last) - math.log(first))
        if last - first < math.inf:
            return float((value - first) / (last - first))
        return float((value / 2 - first / 2) / (last / 2 - first / 2))  # the difference itself would overflow


def _same(level: Any, value: Any) -> bool:
    """Equal and not a bool against a number; nan equals nan."""
    if isinstance(level, bool) != isinstance(value, bool):
        return False
    return bool(level == value) or all(isinstance(v, float) and math.isnan(v) for v in (level, value))
