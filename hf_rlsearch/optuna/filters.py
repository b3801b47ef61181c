"""Finds candidates that were trained already, and candidates that would not fit in memory."""

import math
from collections.abc import Callable, Hashable, Sequence
from typing import Any

import numpy as np
from optuna.distributions import CategoricalDistribution, FloatDistribution
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import BoolArray, IntArray
from hf_rlsearch._validation import is_finite_number
from hf_rlsearch.observation.history import RUNNING, History
from hf_rlsearch.observation.trial_attributes import FAILURE
from hf_rlsearch.space import Hyperparameter, SearchSpace
from hf_rlsearch.space.candidates import count_matches

_MISSING, _OFF_GRID = -1, -2
# Candidates of a space whose end is looked for; a search of more trials does not come to it.
_MOST_TRIED = 1 << 13
_ABSENT, _NAN = object(), object()
# More of any of these needs more memory. Gradient accumulation is not among them: it adds steps, not memory.
_SIZES = frozenset({"batch_size", "max_length", "lora_rank", "width", "depth", "heads", "vocabulary"})
# Configurations are compared only where these are equal: another model or gradient checkpointing changes everything.
_KINDS = frozenset({"model", "optimizer", "generic_categorical"})


def is_duplicate(space: SearchSpace, history: History, rows: IntArray) -> BoolArray:
    """Finds the (C, H) candidates that would repeat a trial exactly.

    A candidate repeats a trial that has no other hyperparameters than the space, each at exactly the candidate's level.
    A conditional hyperparameter that a finished trial, a failed one included, did not have may have any level: the
    candidate would not use it either. Trials with values between levels repeat nothing.
    """
    return _n_repeated(space, history.select(~_has_further_names(space, history)), rows) > 0


def n_with_further_names(space: SearchSpace, history: History, rows: IntArray) -> IntArray:
    """Counts for each of the (C, H) candidates the trials that had it and other hyperparameters than the space besides.

    Where the other hyperparameters are chosen anew, a candidate repeats none of them. Where these are fixed, or all of
    their values were tried, it does.
    """
    return _n_repeated(space, history.select(_has_further_names(space, history)), rows)


def _has_further_names(space: SearchSpace, history: History) -> BoolArray:
    """(T,) True for trials with hyperparameters that the space does not have."""
    names = set(space.names)
    return np.array([not names.issuperset(params) for params in history.params], dtype=bool)


def _n_repeated(space: SearchSpace, history: History, rows: IntArray) -> IntArray:
    """(C,) numbers of trials that have the values of a candidate, see ``is_duplicate``; other names do not count."""
    levels = _exact_levels(space, history)
    on_grid = (levels != _OFF_GRID).all(axis=1)
    missing = levels == _MISSING
    counts = count_matches(rows, levels[on_grid & ~missing.any(axis=1)])
    optional = np.array([h.conditional for h in space.hyperparameters], dtype=bool)
    ended = history.status != RUNNING
    partial = on_grid & ended & missing.any(axis=1) & ~(missing & ~optional).any(axis=1) & ~missing.all(axis=1)
    for pattern in np.unique(missing[partial], axis=0):
        same_pattern = partial & (missing == pattern).all(axis=1)
        counts += count_matches(rows[:, ~pattern], levels[same_pattern][:, ~pattern])
    return counts


def is_exhausted(space: SearchSpace, history: History, rows: IntArray | None = None, *, exactly: bool = True) -> bool:
    """Whether every candidate would repeat a trial; False for spaces too large to be tried.

    Args:
        space: The search space.
        history: The trials.
        rows: C x H candidates; all of the space where not given.
        exactly: Trials with further hyperparameters than the space do not count.
    """
    if rows is None:
        # One trial stands for all levels of the conditional hyperparameters that it does not have.
        most = math.prod(len(h.levels) for h in space.hyperparameters if h.conditional) * len(history)
        if space.n_candidates > min(most, _MOST_TRIED):
            return False
        rows = space.grid(_MOST_TRIED)
    tried = is_duplicate(space, history, rows)
    return bool((tried if exactly else tried | (n_with_further_names(space, history, rows) > 0)).all())


def exceeds_memory(space: SearchSpace, trials: Sequence[FrozenTrial], rows: IntArray) -> BoolArray:
    """Finds the (C, H) candidates that would run out of memory, because a trial that is not larger did.

    A candidate is at least as large as a failed trial if each of its sizes is, and its model, optimizer and other
    switches are the same. Hyperparameters that the failed trial does not have are not compared. Trials count whose user
    attribute "rl:failure" is of kind "oom".
    """
    sizes = np.array([h.role in _SIZES and h.ordered for h in space.hyperparameters], dtype=bool)
    kinds = np.array([h.role in _KINDS for h in space.hyperparameters], dtype=bool)
    too_large = np.zeros(len(rows), dtype=bool)
    for trial in filter(_ran_out_of_memory, trials):
        levels = space.nearest_levels(trial.params)
        known = levels >= 0
        if not (sizes & known).any():
            continue
        larger = (rows[:, sizes & known] >= levels[sizes & known]).all(axis=1)
        too_large |= larger & (rows[:, kinds & known] == levels[kinds & known]).all(axis=1)
    return too_large


def _ran_out_of_memory(trial: FrozenTrial) -> bool:
    if trial.state != TrialState.FAIL:
        return False
    failure = trial.user_attrs.get(FAILURE)
    return isinstance(failure, dict) and failure.get("kind") == "oom"


def _exact_levels(space: SearchSpace, history: History) -> IntArray:
    """(T, H) level that each trial has exactly; -1 where the trial lacks the name, -2 where its value is no level."""
    columns = np.empty((len(history), len(space.names)), dtype=np.int64)
    for column, h in enumerate(space.hyperparameters):
        values = [params.get(h.name, _ABSENT) for params in history.params]
        if (key := _key(h)) is not None:
            values = list(map(key, values))
        level_of = {level if key is None else key(level): i for i, level in enumerate(h.levels)} | {_ABSENT: _MISSING}
        columns[:, column] = [level_of.get(value, _OFF_GRID) for value in values]
    return columns


def _key(h: Hyperparameter) -> Callable[[Any], Hashable] | None:
    """What equals for two values if they are the same level; None where that is the values themselves.

    Of a range with a step it is the number of steps: other samplers add up steps, and 0.1 + 0.2 is not 0.3. NaN, a
    choice like any other, does not equal itself.
    """
    d = h.distribution
    if isinstance(d, FloatDistribution) and d.step is not None:
        low, step = d.low, d.step
        return lambda value: round((value - low) / step, 6) if is_finite_number(value) else value
    if isinstance(d, CategoricalDistribution) and any(level != level for level in h.levels):  # noqa: PLR0124
        return lambda value: value if value == value else _NAN  # noqa: PLR0124
    return None
