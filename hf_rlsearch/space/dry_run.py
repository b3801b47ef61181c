"""Dry runs of ``hp_space(trial)`` and ``model_init(trial)``: which hyperparameters would they suggest?"""

import datetime
import functools
import inspect
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.exceptions import TrialPruned
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


# A dry run of hp_space costs microseconds, so many are made; one of model_init may load a checkpoint, so after this
# time (in seconds) it is called no more and its rarer branches are left to be found during the search.
_MODEL_INIT_SECONDS = 5.0
_MIN_RUNS, _MAX_RUNS, _QUIET_RUNS = 8, 64, 4


@dataclass(frozen=True)
class Recording:
    """What the dry runs saw.

    Attributes:
        distributions: Every hyperparameter suggested in any run, in order of appearance. A range that moved between
            runs is recorded as the range that holds all of them.
        conditional: Names that some complete run did without.
        returned: Keys of the dicts that ``hp_space`` returned, that is the training arguments it sets.
        from_model_init: Names suggested by ``model_init``.
        user_attributes: Keys that the functions gave to ``trial.set_user_attr``.
    """

    distributions: dict[str, BaseDistribution]
    conditional: frozenset[str]
    returned: frozenset[str]
    from_model_init: frozenset[str]
    user_attributes: frozenset[str] = frozenset()


def record(hp_space: Callable[[Any], Any], model_init: Callable[..., Any] | None = None) -> Recording:
    """Runs both functions with made-up choices until every choice was made once and nothing new appears.

    The first run takes the first choices and lowest values, the second the last and highest, the others prefer choices
    not made so far. The same functions always give the same recording.

    Args:
        hp_space: Suggests hyperparameters on a trial and returns a dict of training arguments.
        model_init: The Trainer's; called only if it takes a trial.

    Raises:
        SearchSpaceError: A function raised, ``hp_space`` did not return a dict, or a range or choice is not valid.
    """
    recorder = _Recorder(hp_space, model_init if model_init is not None and _takes_trial(model_init) else None)
    while not recorder.done():
        recorder.run()
    return recorder.result()


class _Recorder:
    """The runs of one recording."""

    def __init__(self, hp_space: Callable[[Any], Any], model_init: Callable[..., Any] | None) -> None:
        self.hp_space, self.model_init = hp_space, model_init
        self.rng = np.random.default_rng(0)
        self.seen: dict[str, dict[int, int]] = {}
        self.distributions: dict[str, BaseDistribution] = {}
        self.complete_runs: list[frozenset[str]] = []
        self.returned: set[str] = set()
        self.from_model_init: set[str] = set()
        self.user_attributes: set[str] = set()
        self.n_runs = self.quiet_runs = 0
        self.model_init_seconds = 0.0

    def done(self) -> bool:
        if self.n_runs < _MIN_RUNS:
            return False
        all_seen = all(min(counts.values()) > 0 for counts in self.seen.values())
        return self.n_runs >= _MAX_RUNS or (all_seen and self.quiet_runs >= _QUIET_RUNS)

    def run(self) -> None:
        trial = RecordingTrial(number=self.n_runs, rng=self.rng, seen=self.seen)
        with_model = self.model_init is not None and self.model_init_seconds <= _MODEL_INIT_SECONDS
        try:
            self._run_hp_space(trial)
            if with_model:
                self._run_model_init(trial)
            if with_model or self.model_init is None:
                self.complete_runs.append(frozenset(trial.distributions))
        except TrialPruned:
            pass  # a way to refuse a combination; what was suggested before still counts
        self.user_attributes.update(trial.user_attrs)
        self._merge(trial.distributions)
        self.n_runs += 1

    def result(self) -> Recording:
        missing = {name for name in self.distributions for run in self.complete_runs if name not in run}
        returned, from_model_init = frozenset(self.returned), frozenset(self.from_model_init)
        attributes = frozenset(self.user_attributes)
        return Recording(self.distributions, frozenset(missing), returned, from_model_init, attributes)

    def _run_hp_space(self, trial: RecordingTrial) -> None:
        returned = _call("hp_space", self.hp_space, trial)
        if not isinstance(returned, Mapping):
            raise SearchSpaceError(
                f"hp_space returned {returned!r} of type {type(returned).__name__}, expected a dict of training "
                "arguments such as {'learning_rate': trial.suggest_float('learning_rate', 1e-6, 1e-4, log=True)}."
            )
        self.returned.update(str(key) for key in returned)

    def _run_model_init(self, trial: RecordingTrial) -> None:
        assert self.model_init is not None
        before, start = set(trial.distributions), time.monotonic()
        _call("model_init", self.model_init, trial)
        self.model_init_seconds += time.monotonic() - start
        self.from_model_init.update(set(trial.distributions) - before)

    def _merge(self, distributions: dict[str, BaseDistribution]) -> None:
        self.quiet_runs += 1
        for name, distribution in distributions.items():
            known = self.distributions.get(name)
            if known is None:
                self.quiet_runs = 0
            self.distributions[name] = distribution if known is None else _hull(name, known, distribution)


def _call(name: str, function: Callable[..., Any], trial: RecordingTrial) -> Any:
    try:
        return function(trial)
    except (TrialPruned, SearchSpaceError):
        raise
    except Exception as error:
        raise SearchSpaceError(
            f"{name} raised {type(error).__name__}: {error}, called before the search with the values {trial.params}. "
            "It must accept every value that it suggests; raise optuna.TrialPruned to refuse a combination."
        ) from error


def _takes_trial(model_init: Callable[..., Any]) -> bool:
    """As the Trainer decides it: by the number of parameters."""
    return len(inspect.signature(model_init).parameters) > 0


def _hull(name: str, first: BaseDistribution, second: BaseDistribution) -> BaseDistribution:
    """The smallest range that holds both, where the range of one hyperparameter depends on another's value."""
    if first == second:
        return first
    try:
        check_distribution_compatibility(first, second)
    except ValueError as error:
        raise SearchSpaceError(
            f"{name!r} is suggested as {first} and as {second}; one name must keep its kind and choices: {error} "
            "Give the two cases two names."
        ) from error
    if isinstance(first, IntDistribution) and isinstance(second, IntDistribution):
        step = first.step if (first.step, first.low) == (second.step, second.low) else 1
        return IntDistribution(min(first.low, second.low), max(first.high, second.high), log=first.log, step=step)
    assert isinstance(first, FloatDistribution)
    assert isinstance(second, FloatDistribution)
    float_step = first.step if (first.step, first.low) == (second.step, second.low) else None
    return FloatDistribution(min(first.low, second.low), max(first.high, second.high), log=first.log, step=float_step)
