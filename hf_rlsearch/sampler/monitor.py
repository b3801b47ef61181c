"""Compares what the agent predicted of its latest choices with what came, and says how far to trust it now.

Every choice is stored with the predicted chance that it beats the best trial. Whether it did is a coin whose odds were
announced; too many surprises in a row mean that the search is unlike what the agent was trained on.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.history import DECISION_KEY

_LATEST, _FEWEST = 10, 4
# Within so many standard deviations nothing is remarkable; each one beyond flattens the predictions by half as much
# again, up to three times. Measured on simulated searches, see docs/meta_training.md.
_TOLERATED, _PER_DEVIATION, _MOST = 2.0, 0.5, 3.0


def temperature(trials: Sequence[FrozenTrial], directions: Sequence[StudyDirection]) -> float:
    """How much flatter than it says the agent's predicted distribution should be taken.

    Args:
        trials: Of one study, in any order.
        directions: The study's; with several there is no best trial, and the answer is 1.

    Returns:
        In [1, 3]; 1 while predictions and outcomes agree, or while there are few of them.
    """
    if len(directions) != 1:
        return 1.0
    chances, outcomes = _record(trials, 1.0 if directions[0] == StudyDirection.MAXIMIZE else -1.0)
    if len(chances) < _FEWEST:
        return 1.0
    p, came = np.array(chances[-_LATEST:]), np.array(outcomes[-_LATEST:])
    # The quarter keeps a single surprise against a near certainty from counting as many.
    deviations = abs(float((came - p).sum())) / float(np.sqrt((p * (1 - p)).sum() + 0.25))
    return float(np.clip(1 + _PER_DEVIATION * (deviations - _TOLERATED), 1.0, _MOST))


def _record(trials: Sequence[FrozenTrial], sign: float) -> tuple[list[float], list[bool]]:
    """Predicted chances of improvement and whether it came, of finished trials in order of their numbers."""
    chances, outcomes, best = [], [], -np.inf
    for trial in sorted(trials, key=lambda t: t.number):
        value = -np.inf if trial.value is None or not np.isfinite(trial.value) else sign * trial.value
        if trial.state == TrialState.PRUNED:
            value = -np.inf  # stopped as no improvement; leaving it out would count lucky trials only
        elif trial.state != TrialState.COMPLETE or not np.isfinite(value):
            continue
        chance = (trial.system_attrs.get(DECISION_KEY) or {}).get("chance")
        if chance is not None and np.isfinite(best):
            chances.append(float(chance))
            outcomes.append(value > best)
        best = max(best, value)
    return chances, outcomes
