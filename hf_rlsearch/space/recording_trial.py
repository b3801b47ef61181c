"""A trial without a study, which answers suggestions with made-up values and remembers what was asked."""

import datetime
import functools
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.study import Study, create_study
from optuna.trial import BaseTrial

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import SearchSpaceError


class RecordingTrial(BaseTrial):
    """A trial without study: answers each suggestion with a valid value and remembers the distribution.

    Args:
        number: What ``trial.number`` answers; run 0 takes lowest values, run 1 highest, others any.
        rng: For the choices.
        seen: Choices made so far by name and index, counted over runs; updated here.
    """

    def __init__(self, *, number: int, rng: np.random.Generator, seen: dict[str, dict[int, int]]) -> None:
        self._number, self._rng, self._seen = number, rng, seen
        self._params: Params = {}
        self._distributions: dict[str, BaseDistribution] = {}
        self._user_attrs: dict[str, Any] = {}
        self._constraints: dict[str, float] = {}
        self._start = datetime.datetime.now()

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        """Records a float range; arguments and result as ``optuna.Trial.suggest_float``."""
        _check_range(name, low, high, step)
        return float(self._suggest(name, lambda: FloatDistribution(low, high, log=log, step=step)))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        """Records a range of whole numbers; arguments and result as ``optuna.Trial.suggest_int``."""
        _check_range(name, low, high, step)
        return int(self._suggest(name, lambda: IntDistribution(low, high, log=log, step=step)))

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        """Records choices; arguments and result as ``optuna.Trial.suggest_categorical``."""
        return self._suggest(name, lambda: CategoricalDistribution(choices))

    def suggest_uniform(self, name: str, low: float, high: float) -> float:
        """Old spelling of ``suggest_float``."""
        return self.suggest_float(name, low, high)

    def suggest_loguniform(self, name: str, low: float, high: float) -> float:
        """Old spelling of ``suggest_float(log=True)``."""
        return self.suggest_float(name, low, high, log=True)

    def suggest_discrete_uniform(self, name: str, low: float, high: float, q: float) -> float:
        """Old spelling of ``suggest_float(step=q)``."""
        return self.suggest_float(name, low, high, step=q)

    def report(self, value: float, step: int) -> None:
        """Accepted and dropped: nothing is trained in a dry run."""

    def should_prune(self) -> bool:
        """Never."""
        return False

    def set_user_attr(self, key: str, value: Any) -> None:
        """Kept for this run only."""
        self._user_attrs[key] = value

    def set_system_attr(self, key: str, value: Any) -> None:
        """Accepted and dropped; Optuna 4 asks every trial for it."""

    def set_constraint(self, key: str, value: float) -> None:
        """Kept for this run only."""
        self._constraints[key] = value

    @property
    def params(self) -> Params:
        """The values answered so far."""
        return dict(self._params)

    @property
    def distributions(self) -> dict[str, BaseDistribution]:
        """The distributions asked for so far."""
        return dict(self._distributions)

    @property
    def user_attrs(self) -> dict[str, Any]:
        """What ``set_user_attr`` got."""
        return dict(self._user_attrs)

    @property
    def system_attrs(self) -> dict[str, Any]:
        """Always empty; Optuna 4 asks every trial for it."""
        return {}

    @property
    def constraints(self) -> dict[str, float]:
        """What ``set_constraint`` got."""
        return dict(self._constraints)

    @functools.cached_property
    def study(self) -> Study:
        """A study without trials, as the first trial of a search would find it."""
        return create_study()

    @property
    def datetime_start(self) -> datetime.datetime | None:
        """When this dry run began."""
        return self._start

    @property
    def number(self) -> int:
        """The number of this dry run."""
        return self._number

    def _suggest(self, name: str, make: Callable[[], BaseDistribution]) -> Any:
        if not isinstance(name, str):
            raise SearchSpaceError(f"A hyperparameter is named {name!r}, expected a string.")
        try:
            with warnings.catch_warnings():  # Optuna says it again when a real trial suggests
                warnings.simplefilter("ignore")
                distribution = make()
            if isinstance(distribution, IntDistribution):
                float(distribution.low), float(distribution.high)  # a storage keeps every value as a float
            if name in self._distributions:
                check_distribution_compatibility(self._distributions[name], distribution)
        except (TypeError, ValueError, OverflowError) as error:
            raise SearchSpaceError(f"The range of {name!r} is not valid: {error}") from error
        if name not in self._distributions:
            self._distributions[name] = distribution
            self._params[name] = self._choose(name, distribution)
        return self._params[name]

    def _choose(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[self._next_choice(name, len(distribution.choices))]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step
        if self._number < 2:
            return (low, high)[self._number]
        if isinstance(distribution, IntDistribution):
            return low + distribution.step * int(self._rng.random() * ((high - low) // distribution.step + 1))
        share = self._rng.random()
        if step is not None:
            return low + step * int(share * ((high - low) / step))
        return min(max((1 - share) * low + share * high, low), high)

    def _next_choice(self, name: str, n_choices: int) -> int:
        counts = self._seen.setdefault(name, dict.fromkeys(range(n_choices), 0))
        if self._number < 2:
            index = (0, n_choices - 1)[self._number]
        else:
            fewest = min(counts.get(i, 0) for i in range(n_choices))
            index = int(self._rng.choice([i for i in range(n_choices) if counts.get(i, 0) == fewest]))
        counts[index] = counts.get(index, 0) + 1
        return index


def _check_range(name: str, low: object, high: object, step: object) -> None:
    for value in (low, high) if step is None else (low, high, step):
        if not is_number(value):
            raise SearchSpaceError(
                f"The range of {name!r} holds {value!r} of type {type(value).__name__}, expected a number."
            )
