"""Compares the best few configurations under new seeds, to tell a good configuration from a lucky seed.

The best of many noisy values overstates its configuration. So the best few configurations and the baseline are trained
under the same new seeds, and a configuration that is clearly worse after two seeds is dropped. Only values under new
seeds are reported.
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


@dataclass(frozen=True)
class Confirmation:
    """One configuration under new seeds: the number of the trial that is confirmed, and the objective by seed."""

    number: int
    values: dict[int, float]

    @property
    def mean(self) -> float:
        """Mean objective."""
        return statistics.fmean(self.values.values())

    @property
    def spread(self) -> float:
        """Standard deviation of the objective over seeds; 0 for a single seed."""
        return statistics.stdev(self.values.values()) if len(self.values) > 1 else 0.0


@dataclass(frozen=True)
class Gain:
    """A mean paired difference with its 95 % interval; positive where the first of two things is better.

    The interval of a single difference is from minus infinity to infinity.
    """

    mean: float
    low: float
    high: float

    @classmethod
    def of(cls, differences: Sequence[float]) -> "Gain":
        """The gain by paired differences of independent things, with Student's interval."""
        from scipy.stats import t  # slow to import, and searches without confirmations do not need it

        mean = statistics.fmean(differences) if differences else math.nan
        if len(differences) < 2:
            return cls(mean, -math.inf, math.inf)
        half = float(t.ppf(0.975, len(differences) - 1)) * _standard_error(differences)
        return cls(mean, mean - half, mean + half)

    @property
    def found(self) -> bool:
        """Whether the whole interval is above 0."""
        return self.low > 0

    def __str__(self) -> str:
        return f"{self.mean:+.3f} [{self.low:+.3f}, {self.high:+.3f}]"


def trials_to_confirm(ranking: Sequence[FrozenTrial], baseline: FrozenTrial | None, k: int) -> list[int]:
    """Numbers of the trials to confirm: the best k of the ranking, and the baseline if it completed.

    Empty where no trial can be the best: there is nothing to compare with the baseline.
    """
    numbers = [trial.number for trial in ranking[:k]]
    if not numbers or baseline is None or baseline.number in numbers:
        return numbers
    return [*numbers, baseline.number]


def next_seed(
    numbers: Sequence[int], trials: Sequence[FrozenTrial], *, seed: int, maximize: bool
) -> tuple[int, int] | None:
    """The number of the configuration to train next, and its seed; None when no training is left.

    The new seeds are the numbers after ``seed``, the user's.
    """
    done = {(t.user_attrs[REEVALUATES], t.user_attrs[SEED]) for t in _reevaluations(trials) if t.state.is_finished()}
    for turn in range(1, N_SEEDS + 1):
        racing = numbers if turn <= 2 else _still_racing(numbers, confirmations(trials), maximize)
        for number in racing:
            if (number, seed + turn) not in done:
                return number, seed + turn
    return None


def confirmations(trials: Sequence[FrozenTrial]) -> list[Confirmation]:
    """The values under new seeds so far, in order of the confirmed trials."""
    found: dict[int, dict[int, float]] = {}
    for trial in _reevaluations(trials):
        if trial.state == TrialState.COMPLETE:
            values = found.setdefault(int(trial.user_attrs[REEVALUATES]), {})
            values[int(trial.user_attrs[SEED])] = float(trial.values[0])
    return [Confirmation(number, values) for number, values in sorted(found.items())]


def winner(found: Sequence[Confirmation], *, maximize: bool) -> Confirmation | None:
    """The configuration with the best mean among those that were not dropped; of equal ones the earliest trial."""
    most = max((len(confirmation.values) for confirmation in found), default=0)
    sign = 1 if maximize else -1
    racing = [confirmation for confirmation in found if len(confirmation.values) == most]
    return max(racing, key=lambda confirmation: (sign * confirmation.mean, -confirmation.number), default=None)


def gain(better: Confirmation, other: Confirmation, *, maximize: bool) -> Gain:
    """How much one configuration is better than another, by the seeds that both were trained under."""
    return Gain.of(_differences(better, other, maximize))


def _reevaluations(trials: Sequence[FrozenTrial]) -> list[FrozenTrial]:
    return [trial for trial in trials if trial.user_attrs.get(ROLE) == CONFIRM]


def _still_racing(numbers: Sequence[int], found: Sequence[Confirmation], maximize: bool) -> list[int]:
    known = {confirmation.number: confirmation for confirmation in found}
    best = winner(found, maximize=maximize)
    return [n for n in numbers if n in known and best is not None and not _clearly_worse(known[n], best, maximize)]


def _clearly_worse(other: Confirmation, best: Confirmation, maximize: bool) -> bool:
    if other.number == best.number:
        return False
    differences = _differences(best, other, maximize)
    if len(differences) < 2:
        return len(other.values) < len(best.values)
    return statistics.fmean(differences) > _CLEARLY * _standard_error(differences)


def _differences(better: Confirmation, other: Confirmation, maximize: bool) -> list[float]:
    sign = 1 if maximize else -1
    return [sign * (better.values[s] - other.values[s]) for s in sorted(better.values.keys() & other.values.keys())]


def _standard_error(differences: Sequence[float]) -> float:
    return statistics.stdev(differences) / math.sqrt(len(differences))
