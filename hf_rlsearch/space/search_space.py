"""Describes each hyperparameter of a search by its levels, and makes candidates of the levels of all."""

import math
from bisect import bisect_left
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray, Params
from hf_rlsearch._validation import did_you_mean, is_finite_number
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space.candidates import draw_pool, full_grid, unique_rows
from hf_rlsearch.space.discretize import is_logarithmic, make_levels, middle, storable
from hf_rlsearch.space.dry_run import record
from hf_rlsearch.space.roles import check_role, infer_role


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

    def refined(self, tried: Iterable[Any], centres: Iterable[Any]) -> "Hyperparameter":
        """A copy with more levels: the centres, the values nearest to each that were tried, and those halfway to them.

        Choices stay as they are. The centres have been tried.
        """
        if not isinstance(self.distribution, FloatDistribution | IntDistribution):
            return self
        known = storable(self.distribution, filter(is_finite_number, {*self.levels, *tried}))
        new: set[float] = set()
        for centre in storable(self.distribution, filter(is_finite_number, centres)):
            at = bisect_left(known, centre)
            near = known[max(at - 1, 0) : at + 2]
            new.update(near, (middle(self.distribution, low, high) for low, high in pairwise(near)))
        return replace(self, levels=storable(self.distribution, {*self.levels, *new}))

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


@dataclass(frozen=True)
class SearchSpace:
    """The H hyperparameters of a search, with their levels.

    Attributes:
        hyperparameters: At least one, names unique.
    """

    hyperparameters: tuple[Hyperparameter, ...]

    def __post_init__(self) -> None:
        if not self.hyperparameters:
            raise SearchSpaceError(
                "The search space is empty: no hyperparameter was suggested. Let hp_space(trial) or model_init(trial) "
                "call trial.suggest_float, trial.suggest_int or trial.suggest_categorical."
            )
        if len(set(self.names)) < len(self.names):
            raise SearchSpaceError(f"The search space has a name twice: {', '.join(self.names)}.")

    @classmethod
    def from_distributions(
        cls,
        distributions: Mapping[str, BaseDistribution],
        *,
        roles: Mapping[str, str] | None = None,
        n_points: Mapping[str, int] | int | None = None,
        conditional: Collection[str] = (),
    ) -> "SearchSpace":
        """Discretises Optuna distributions.

        Args:
            distributions: By name; the order is kept.
            roles: Overrides roles inferred from names.
            n_points: Number of levels wanted, of all numeric hyperparameters or by name.
            conditional: Names that some configurations do not have.

        Raises:
            SearchSpaceError: No hyperparameter, an unknown name or role, or a distribution without usable values.
        """
        roles, by_name = roles or {}, n_points if isinstance(n_points, Mapping) else {}
        for argument, keys in (("roles", roles), ("n_points", by_name), ("conditional", conditional)):
            _check_names(argument, keys, distributions)
        for name in by_name:
            if isinstance(distributions[name], CategoricalDistribution):
                raise SearchSpaceError(
                    f"n_points names {name!r}, whose levels are its choices: leave it out of n_points."
                )
        n_points_of_all = None if isinstance(n_points, Mapping) else n_points
        return cls(
            tuple(
                Hyperparameter.from_distribution(
                    name,
                    distribution,
                    role=check_role(name, roles.get(name) or infer_role(name, distribution)),
                    n_points=by_name.get(name, n_points_of_all),
                    conditional=name in conditional,
                )
                for name, distribution in distributions.items()
            )
        )

    @classmethod
    def from_functions(
        cls,
        hp_space: Callable[[Any], Any],
        model_init: Callable[..., Any] | None = None,
        *,
        roles: Mapping[str, str] | None = None,
        n_points: Mapping[str, int] | int | None = None,
    ) -> "SearchSpace":
        """Finds the space by dry runs of the two functions, which reach conditional branches too.

        Args:
            hp_space: The Trainer's ``hp_space(trial)``; must return a dict.
            model_init: The Trainer's ``model_init``; called only if it takes a trial, and no longer after some seconds.
            roles: As in ``from_distributions``.
            n_points: As in ``from_distributions``.

        Raises:
            SearchSpaceError: As ``from_distributions``; or a function raised, or ``hp_space`` returned no dict.
        """
        recording = record(hp_space, model_init)
        return cls.from_distributions(
            recording.distributions, roles=roles, n_points=n_points, conditional=recording.conditional
        )

    def with_levels(self, settings: Sequence[Params]) -> "SearchSpace":
        """A copy that has the numbers of some settings among its levels, so that each setting is a candidate.

        Names and values outside of the space are ignored.
        """
        return SearchSpace(
            tuple(
                h.with_levels([setting[h.name] for setting in settings if h.name in setting])
                for h in self.hyperparameters
            )
        )

    def refined(self, tried: Sequence[Params], best: Sequence[Params]) -> "SearchSpace":
        """A copy with more levels near the best of the settings that were tried, see ``Hyperparameter.refined``."""

        def values(settings: Sequence[Params], name: str) -> list[Any]:
            return [setting[name] for setting in settings if name in setting]

        return SearchSpace(tuple(h.refined(values(tried, h.name), values(best, h.name)) for h in self.hyperparameters))

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The H names."""
        return tuple(h.name for h in self.hyperparameters)

    @cached_property
    def n_levels(self) -> IntArray:
        """(H,) number of levels of each hyperparameter."""
        return np.array([len(h.levels) for h in self.hyperparameters], dtype=np.int64)

    @cached_property
    def ordered(self) -> BoolArray:
        """(H,) True where the levels are numbers."""
        return np.array([h.ordered for h in self.hyperparameters], dtype=bool)

    @cached_property
    def n_candidates(self) -> int:
        """How many configurations the levels make, exactly."""
        return math.prod(self.n_levels.tolist())

    @cached_property
    def distributions(self) -> dict[str, BaseDistribution]:
        """Optuna distribution by name."""
        return {h.name: h.distribution for h in self.hyperparameters}

    def decode(self, levels: IntArray | Sequence[int]) -> Params:
        """The params of one candidate, given by (H,) level indices.

        Raises:
            SearchSpaceError: Not H indices, or one out of range.
        """
        row = np.asarray(levels)
        if row.shape != self.n_levels.shape or np.any(row < 0) or np.any(row >= self.n_levels):
            raise SearchSpaceError(f"Levels {row.tolist()} given, expected one below each of {self.n_levels.tolist()}.")
        return {h.name: h.levels[int(level)] for h, level in zip(self.hyperparameters, row.tolist(), strict=True)}

    def nearest_levels(self, params: Params) -> IntArray:
        """(H,) level indices closest to ``params``; -1 where a name is missing or a choice is unknown."""
        return np.array(
            [h.nearest_level(params[h.name]) if h.name in params else -1 for h in self.hyperparameters], dtype=np.int64
        )

    def encode(self, rows: IntArray) -> FloatArray:
        """(N, D) of (N, H) level indices: numbers in [0, 1] by position, a column per category, 0 where missing."""
        columns = []
        for h, levels in zip(self.hyperparameters, rows.T, strict=True):
            if h.ordered:
                positions = np.array([*(h.position(level) for level in h.levels), 0.0])  # -1 takes the last
                columns.append(positions[levels][:, None])
            else:
                columns.append((levels[:, None] == np.arange(len(h.levels))).astype(float))
        return np.concatenate(columns, axis=1)

    def grid(self, limit: int) -> IntArray:
        """(C, H), every candidate.

        Raises:
            SearchSpaceError: There are more than ``limit``.
        """
        if self.n_candidates > limit:
            largest = max(self.hyperparameters, key=lambda h: len(h.levels))
            raise SearchSpaceError(
                f"This space has {self.n_candidates:,} candidates, expected at most {limit:,}. {largest.name!r} alone "
                f"has {len(largest.levels)} levels: pass n_points={{{largest.name!r}: 3}}, or search fewer names."
            )
        return full_grid(self.n_levels)

    def candidates(
        self,
        rng: np.random.Generator,
        *,
        limit: int,
        incumbents: Sequence[Params] = (),
        published: Sequence[Params] = (),
    ) -> IntArray:
        """The candidates to choose from: all, or a pool where there are too many.

        Args:
            rng: Source of all chance: the same state gives the same pool. Not used for a full grid.
            limit: C at most, at least 1.
            incumbents: Params of the best trials so far; a third of a pool are their neighbours.
            published: Params of settings that are known to work; at most a third of a pool.

        Returns:
            (C, H) level indices, no row twice.
        """
        if self.n_candidates <= limit:
            return full_grid(self.n_levels)
        near, known = (self._rows(settings) for settings in (incumbents, published))
        return draw_pool(rng, self.n_levels, ordered=self.ordered, limit=limit, incumbents=near, published=known)

    def _rows(self, settings: Sequence[Params]) -> IntArray:
        rows = [self.nearest_levels(params) for params in settings]
        return unique_rows(np.array(rows, dtype=np.int64).reshape(-1, len(self.names)))


def _check_names(argument: str, given: Collection[str], known: Mapping[str, object]) -> None:
    for name in given:
        if name not in known:
            hint = did_you_mean(name, known) or f" The space has {', '.join(map(repr, known)) or 'no name'}."
            raise SearchSpaceError(f"{argument} names {name!r}, which the search space does not suggest.{hint}")
