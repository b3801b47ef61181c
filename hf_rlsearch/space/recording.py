"""Dry runs of ``hp_space(trial)`` and ``model_init(trial)``: which hyperparameters would they suggest?"""

import inspect
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
from optuna.distributions import (
    BaseDistribution,
    FloatDistribution,
    IntDistribution,
    check_distribution_compatibility,
)
from optuna.exceptions import TrialPruned

from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space.recording_trial import RecordingTrial

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
