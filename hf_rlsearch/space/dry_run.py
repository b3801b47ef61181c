"""Finds the hyperparameters that ``hp_space(trial)`` and ``model_init(trial)`` suggest, by dry runs of both."""

from __future__ import annotations

import inspect
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
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
from optuna.trial import FixedTrial

from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import SearchSpaceError, describe

# A dry run of hp_space costs microseconds, so many are made. One of model_init may load a checkpoint: after this time
# (in seconds) it is no longer called, and its rarer branches are found during the search.
_MODEL_INIT_SECONDS = 5.0
# The runs end when this many in a row have found nothing new, within these bounds.
_QUIET_RUNS, _MIN_RUNS, _MAX_RUNS = 4, 8, 64


@dataclass
class Recording:
    """The hyperparameters that the dry runs found.

    Attributes:
        distributions: Every hyperparameter suggested in any run, in order of appearance. A range that differs between
            runs is recorded as the smallest range that holds all of them.
        returned: Keys of the dicts that ``hp_space`` returned, that is the training arguments it sets.
        from_model_init: Names suggested by ``model_init``.
        user_attributes: Keys that the functions gave to ``trial.set_user_attr``.
        complete_runs: Names that were suggested, by run of both functions to their end.
    """

    distributions: dict[str, BaseDistribution] = field(default_factory=dict)
    returned: set[str] = field(default_factory=set)
    from_model_init: set[str] = field(default_factory=set)
    user_attributes: set[str] = field(default_factory=set)
    complete_runs: list[set[str]] = field(default_factory=list)

    @property
    def conditional(self) -> frozenset[str]:
        """Names that some complete run did not suggest."""
        return frozenset(name for name in self.distributions for run in self.complete_runs if name not in run)


def record(
    hp_space: Callable[[Any], Any],
    model_init: Callable[..., Any] | None = None,
    *,
    after_run: Callable[[], None] = lambda: None,
) -> Recording:
    """Runs both functions with made-up values until every choice was made and nothing new appears, 64 times at most.

    The first run takes the first choices and lowest values, the second the last and highest, the others prefer choices
    not made so far. The same functions always give the same recording.

    Args:
        hp_space: Takes a trial and returns a dict.
        model_init: Called only if it takes a trial, and no longer after some seconds.
        after_run: Called after each run, whatever happened in it.

    Raises:
        SearchSpaceError: A function raised, ``hp_space`` did not return a dict, or a range or choice is not valid.
    """
    # The Trainer, too, passes the trial to a model_init with any parameter.
    takes_trial = model_init is not None and len(inspect.signature(model_init).parameters) > 0
    recorder = _Recorder(hp_space, model_init if takes_trial else None)
    while not recorder.done():
        try:
            recorder.run()
        finally:
            after_run()
    return recorder.found


class _Recorder:
    """Makes the runs of one recording and collects their findings."""

    def __init__(self, hp_space: Callable[[Any], Any], model_init: Callable[..., Any] | None) -> None:
        self.hp_space, self.model_init = hp_space, model_init
        self.rng = np.random.default_rng(0)
        self.choice_counts: dict[tuple[str, int], list[int]] = {}
        self.found = Recording()
        self.n_runs = self.quiet_runs = 0
        self.model_init_seconds = 0.0

    def done(self) -> bool:
        if self.n_runs < _MIN_RUNS:
            return False
        all_chosen = all(min(counts) > 0 for counts in self.choice_counts.values())
        return self.n_runs >= _MAX_RUNS or (all_chosen and self.quiet_runs >= _QUIET_RUNS)

    def run(self) -> None:
        trial = _RecordingTrial(number=self.n_runs, rng=self.rng, choice_counts=self.choice_counts)
        with_model = self.model_init is not None and self.model_init_seconds <= _MODEL_INIT_SECONDS
        try:
            self._run_hp_space(trial)
            if with_model:
                self._run_model_init(trial)
            if with_model or self.model_init is None:
                self.found.complete_runs.append(set(trial.distributions))
        except TrialPruned:
            pass  # the function refuses this combination; the hyperparameters that it suggested before still count
        self.found.user_attributes.update(trial.user_attrs)
        known = self.found.distributions
        self.quiet_runs = self.quiet_runs + 1 if trial.distributions.keys() <= known.keys() else 0
        for name, distribution in trial.distributions.items():
            known[name] = _hull(name, known.get(name, distribution), distribution)
        self.n_runs += 1

    def _run_hp_space(self, trial: _RecordingTrial) -> None:
        returned = _call("hp_space", self.hp_space, trial)
        if not isinstance(returned, Mapping):
            raise SearchSpaceError(
                f"hp_space returned {returned!r} of type {type(returned).__name__}, expected a dict of training "
                "arguments such as {'learning_rate': trial.suggest_float('learning_rate', 1e-6, 1e-4, log=True)}."
            )
        _check_no_other_library(returned)
        self.found.returned.update(str(key) for key in returned)

    def _run_model_init(self, trial: _RecordingTrial) -> None:
        assert self.model_init is not None
        before, start = set(trial.distributions), time.monotonic()
        _call("model_init", self.model_init, trial)
        self.model_init_seconds += time.monotonic() - start
        self.found.from_model_init.update(set(trial.distributions) - before)


class _RecordingTrial(FixedTrial):
    """A trial without a study, which answers each suggestion with a valid value and records the distribution.

    Run number 0 takes the lowest values, run 1 the highest, later runs random ones and the choices made least often:
    ``choice_counts`` counts them over all runs, by name and number of choices.
    """

    def __init__(
        self, *, number: int, rng: np.random.Generator, choice_counts: dict[tuple[str, int], list[int]]
    ) -> None:
        super().__init__({}, number)
        self._rng, self._choice_counts = rng, choice_counts

    def suggest_float(
        self, name: str, low: float, high: float, *, step: float | None = None, log: bool = False
    ) -> float:
        with _range_errors(name, low, high, *([] if step is None else [step])):
            return float(super().suggest_float(name, low, high, step=step, log=log))

    def suggest_int(self, name: str, low: int, high: int, *, step: int = 1, log: bool = False) -> int:
        with _range_errors(name, low, high, step):
            return super().suggest_int(name, low, high, step=step, log=log)

    def suggest_categorical(self, name: str, choices: Sequence[Any]) -> Any:
        with _range_errors(name):
            return super().suggest_categorical(name, choices)

    @cached_property
    def study(self) -> Study:
        """A study without trials, as the first trial of a search finds it."""
        return create_study()

    # All suggest methods of FixedTrial end in this private one.
    def _suggest(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, IntDistribution):
            # Raises OverflowError for numbers that do not fit into a float, as which a storage keeps every value.
            float(distribution.low), float(distribution.high)
        if name in self._distributions:
            check_distribution_compatibility(self._distributions[name], distribution)
        else:
            self._distributions[name] = distribution
            self._suggested_params[name] = self._choose(name, distribution)
        return self._suggested_params[name]

    def _choose(self, name: str, distribution: BaseDistribution) -> Any:
        if isinstance(distribution, CategoricalDistribution):
            return distribution.choices[self._next_choice(name, len(distribution.choices))]
        assert isinstance(distribution, FloatDistribution | IntDistribution)
        low, high, step = distribution.low, distribution.high, distribution.step
        if self.number < 2:
            return (low, high)[self.number]
        share = self._rng.random()
        if isinstance(distribution, IntDistribution):
            return low + distribution.step * int(share * ((high - low) // distribution.step + 1))
        if step is not None:
            return low + step * int(share * ((high - low) / step))
        return min(max((1 - share) * low + share * high, low), high)

    def _next_choice(self, name: str, n_choices: int) -> int:
        counts = self._choice_counts.setdefault((name, n_choices), [0] * n_choices)
        if self.number < 2:
            index = (0, n_choices - 1)[self.number]
        else:
            index = int(self._rng.choice([i for i, count in enumerate(counts) if count == min(counts)]))
        counts[index] += 1
        return index


@contextmanager
def _range_errors(name: str, *numbers: object) -> Iterator[None]:
    """Names the hyperparameter in errors of its range, which Optuna's own messages do not."""
    if not isinstance(name, str):
        raise SearchSpaceError(f"A hyperparameter is named {name!r}, expected a string.")
    for value in numbers:
        if not is_number(value):
            raise SearchSpaceError(
                f"The range of {name!r} holds {value!r} of type {type(value).__name__}, expected a number."
            )
    try:
        yield
    except (TypeError, ValueError, OverflowError) as error:
        raise SearchSpaceError(f"The range of {name!r} is not valid: {error}") from error


def _call(name: str, function: Callable[..., Any], trial: _RecordingTrial) -> Any:
    try:
        with warnings.catch_warnings():  # a real trial that calls the function shows its warnings
            warnings.simplefilter("ignore")
            return function(trial)
    except (TrialPruned, SearchSpaceError):
        raise
    except Exception as error:
        raise SearchSpaceError(
            f"{name} raised {describe(error)}, called before the search with the values {trial.params}. "
            "It must accept every value that it suggests; raise optuna.TrialPruned to refuse a combination."
        ) from error


def _check_no_other_library(returned: Mapping[Any, Any]) -> None:
    """Refuses a space that is written for the backends "ray" and "wandb", which describe ranges in the dict."""
    of_ray = [key for key, value in returned.items() if type(value).__module__.partition(".")[0] == "ray"]
    is_sweep = {"method", "parameters"} <= returned.keys() and isinstance(returned["parameters"], Mapping)
    if not of_ray and not is_sweep:
        return
    name = of_ray[0] if of_ray else next(iter(returned["parameters"]), "learning_rate")
    raise SearchSpaceError(
        f"hp_space returns a space that is written for {'Ray Tune' if of_ray else 'Weights & Biases'}. This search "
        f"asks a trial for values: return {{{name!r}: trial.suggest_float({name!r}, low, high)}}, or suggest_int and "
        "suggest_categorical."
    )


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
    assert isinstance(first, FloatDistribution | IntDistribution)
    assert isinstance(second, type(first))
    low, high = min(first.low, second.low), max(first.high, second.high)
    same_steps = (first.step, first.low) == (second.step, second.low)
    if isinstance(first, IntDistribution):
        return IntDistribution(int(low), int(high), log=first.log, step=first.step if same_steps else 1)
    return FloatDistribution(low, high, log=first.log, step=first.step if same_steps else None)
