"""Holds all hyperparameters of a search, and makes candidates of their levels."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from optuna.distributions import BaseDistribution, CategoricalDistribution

from hf_rlsearch._typing import BoolArray, IntArray, Params
from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space.candidates import draw_pool, full_grid, unique_rows
from hf_rlsearch.space.dry_run import record
from hf_rlsearch.space.hyperparameter import Hyperparameter
from hf_rlsearch.space.roles import check_role, infer_role


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
