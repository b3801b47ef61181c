"""Trains the best few configurations again under new seeds: was it the configuration, or the seed?

The best of many noisy scores looks better than it is. So the best few, and the user's own configuration, are trained
under the same new seeds; one that is clearly worse after two of them is dropped. What is reported comes from the new
seeds alone.
"""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.observation.trial_attributes import CONFIRM, REEVALUATES, ROLE, SEED

# New seeds for each configuration: three give a spread, and cost three trainings.
N_SEEDS = 3
# Standard errors of the paired difference at which a configuration is clearly worse.
_CLEARLY = 2.0
# 97.5 % quantiles of Student's t for 1 to 10 degrees of freedom, from any table; the normal one beyond.
_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262, 2.228)


@dataclass(frozen=True)
class Confirmation:
    """One configuration under new seeds.

    Attributes:
        number: Of the trial that is confirmed.
        values: Objective by seed.
        mean: Of the values.
        spread: Their standard deviation; 0 for a single one.
    """

    number: int
    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean objective."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float:
        """Standard deviation of the objective over seeds."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Gain:
    """A difference with its 95 % interval, positive where it is better.

    Attributes:
        mean: Mean over seeds of the paired differences.
        low: Lower end; minus infinity for a single seed.
        high: Upper end.
    """

    mean: float
    low: float
    high: float

    @property
    def found(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0


def candidates(ranking: Sequence[FrozenTrial], baseline: FrozenTrial | None, k: int) -> list[int]:
    """Numbers of the trials to confirm: the best k, and the user's own.

    Args:
        ranking: Complete trials, best first.
        baseline: The user's own configuration, if it completed.
        k: How many of the best.
    """
    numbers = [trial.number for trial in ranking[:k]]
    own = [] if baseline is None or baseline.number in numbers else [baseline.number]
    return numbers + own


def next_seed(
    numbers: Sequence[int], trials: Sequence[FrozenTrial], *, seed: int, maximize: bool
) -> tuple[int, int] | None:
    """Which configuration to train next under which seed.

    Args:
        numbers: Of the trials to confirm.
        trials: All trials of the study.
        seed: The user's; the new ones follow it.
        maximize: The direction.

    Returns:
        Number and seed, None when all is done.
    """
    done = {
        (t.user_attrs[REEVALUATES], t.user_attrs[SEED]) for t in trials if _is_confirmation(t) and t.state.is_finished()
    }
    for turn in range(1, N_SEEDS + 1):
        racing = numbers if turn <= 2 else _still_racing(numbers, confirmations(trials), maximize)
        for number in racing:
            if (number, seed + turn) not in done:
                return number, seed + turn
    return None


def confirmations(trials: Sequence[FrozenTrial]) -> list[Confirmation]:
    """What has been confirmed so far, in order of the confirmed trials."""
    found: dict[int, dict[int, float]] = {}
    for trial in trials:
        if _is_confirmation(trial) and trial.state == TrialState.COMPLETE:
            found.setdefault(int(trial.user_attrs[REEVALUATES]), {})[int(trial.user_attrs[SEED])] = float(
                trial.values[0]
            )
    return [Confirmation(number, values) for number, values in sorted(found.items())]


def winner(found: Sequence[Confirmation], *, maximize: bool) -> Confirmation | None:
    """The configuration with the best mean among those that were not dropped."""
    if not found:
        return None
    most = max(len(confirmation.values) for confirmation in found)
    sign = 1 if maximize else -1
    return max((c for c in found if len(c.values) == most), key=lambda c: (sign * c.mean, -c.number))


def gain(better: Confirmation, other: Confirmation, *, maximize: bool) -> Gain:
    """How much one configuration is better than another, from the seeds that both were trained under."""
    sign = 1 if maximize else -1
    seeds = sorted(better.values.keys() & other.values.keys())
    differences = [sign * (better.values[s] - other.values[s]) for s in seeds]
    mean = statistics.fmean(differences) if differences else math.nan
    if len(differences) < 2:
        return Gain(mean, -math.inf, math.inf)
    degrees = len(differences) - 1
    quantile = _T[degrees - 1] if degrees <= len(_T) else statistics.NormalDist().inv_cdf(0.975)
    half = quantile * statistics.stdev(differences) / math.sqrt(len(differences))
    return Gain(mean, mean - half, mean + half)


def _still_racing(numbers: Sequence[int], found: Sequence[Confirmation], maximize: bool) -> list[int]:
    known = {confirmation.number: confirmation for confirmation in found}
    best = winner(found, maximize=maximize)
    return [n for n in numbers if n in known and best is not None and not _clearly_worse(known[n], best, maximize)]


def _clearly_worse(one: Confirmation, best: Confirmation, maximize: bool) -> bool:
    if one.number == best.number:
        return False
    sign = 1 if maximize else -1
    differences = [sign * (best.values[s] - one.values[s]) for s in sorted(one.values.keys() & best.values.keys())]
    if len(differences) < 2:
        return len(one.values) < len(best.values)
    error = statistics.stdev(differences) / math.sqrt(len(differences))
    return statistics.fmean(differences) > _CLEARLY * error


def _is_confirmation(trial: FrozenTrial) -> bool:
    return trial.user_attrs.get(ROLE) == CONFIRM
