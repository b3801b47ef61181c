"""Predicts which candidates violate a constraint, from the constraint values of the trials."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np
from optuna.trial import FrozenTrial

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation.history import COMPLETE, LARGEST, History
from hf_rlsearch.observation.trial_attributes import constraints_of, is_feasible
from hf_rlsearch.space import SearchSpace

# Chance to violate no constraint from which a candidate is tried: the first where none of the latest trials violated
# any, the second where one did. Where no candidate has it, those near the largest chance are tried.
_BOLD, _CAREFUL, _NEAR = 0.5, 0.9, 0.9
_N_LATEST = 10

Predict = Callable[[SearchSpace, History, IntArray, float], FloatArray | None]
"""``Agent.chance_at_least``."""


def is_unconstrained(trial: FrozenTrial) -> bool:
    """Whether no constraint value is stored with a trial."""
    return not constraints_of(trial)


def chance_of_feasibility(
    predict: Predict, space: SearchSpace, trials: Sequence[FrozenTrial], history: History, rows: IntArray
) -> FloatArray:
    """Returns C probabilities that a candidate violates no constraint, taken as independent of each other.

    Each constraint is a history of its own: its values are read as the agent reads objectives. They are compressed far
    from 0, where all that matters is the side. A trial without a value of a constraint says nothing about it.

    Args:
        predict: Returns the chances that values of a history are at least a threshold; None where it cannot tell.
        space: That is searched.
        trials: Of the study.
        history: The same trials, as far as they have started.
        rows: C x H levels.

    Source:
        Gardner et al. 2014 (Bayesian optimization with inequality constraints, ICML); Gelbart et al. 2014
        (arXiv:1403.5607).
    """
    stored = {trial.number: constraints_of(trial) for trial in trials}
    of_trial = [stored.get(number, {}) for number in history.numbers.tolist()]
    chances = np.ones(len(rows))
    for name in sorted({name for values in of_trial for name in values}):
        known = np.array([name in values for values in of_trial], dtype=bool)
        excess = np.clip([values[name] for values in of_trial if name in values], -LARGEST, LARGEST)
        found = predict(space, _slack_history(history.select(known), excess), rows, 0.0)
        chances *= 1.0 if found is None else found
    return np.maximum(chances, 1e-6)


def is_likely(feasibility: FloatArray, mask: BoolArray, trials: Sequence[FrozenTrial]) -> BoolArray:
    """C, True for candidates that are likely enough to violate no constraint, among those where the mask is True.

    How likely that is follows from the latest of the trials, so that about one in ten violates a constraint: the best
    candidates often lie at the border of what is allowed, and a search that never dares it would not find them.
    """
    known = [trial for trial in sorted(trials, key=lambda t: t.number) if not is_unconstrained(trial)][-_N_LATEST:]
    dares = len(known) == _N_LATEST and all(map(is_feasible, known))
    return feasibility >= min(_BOLD if dares else _CAREFUL, _NEAR * float(feasibility[mask].max()))


def _slack_history(history: History, excess: FloatArray) -> History:
    """The trials with how far they are from violating a constraint as their values."""
    usual = float(np.median(np.abs(excess[excess != 0]))) if (excess != 0).any() else 1.0
    n = len(history)
    return replace(
        history,
        values=-np.arcsinh(excess / usual),
        status=np.full(n, COMPLETE),
        fidelity=np.ones(n),
        curves=(np.empty((0, 2)),) * n,
    )
