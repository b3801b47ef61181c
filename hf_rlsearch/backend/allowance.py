"""What a search can still afford, and telling it to those who plan with it."""

import math
import time

import optuna
from optuna.trial import TrialState

from hf_rlsearch.backend.checked import OURS
from hf_rlsearch.backend.result import CONFIRM, SEARCH, role
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.standing import spent_on
from hf_rlsearch.backend.storage import finished
from hf_rlsearch.pruner import RLPruner
from hf_rlsearch.sampler import RLSampler


class Allowance:
    """What budget and time leave, in trainings with the user's own arguments; the number of trials is the sampler's.

    Args:
        study: Of the search.
        settings: Of the search.
        deadline: ``time.monotonic()`` at which the time is up; infinity without one.
    """

    def __init__(self, study: optuna.Study, settings: Settings, deadline: float) -> None:
        self._study, self._settings, self._deadline = study, settings, deadline

    def tell(self) -> None:
        """Lets our own sampler and pruner plan for what is left; those of the user are his own business."""
        left = self.trainings_left()
        sampler, pruner = self._study.sampler, self._study.pruner
        if self._settings.sampler is None and isinstance(sampler, RLSampler):
            sampler.plan_for(None if left is None else self.trials_left(left))
        if self._settings.pruner == OURS and isinstance(pruner, RLPruner):
            # The pruner does not count failed trials.
            seen = sum(spent_on(trial) for trial in self._finished() if trial.state != TrialState.FAIL)
            pruner.plan_for(None if left is None else seen + left)

    def trainings_left(self) -> float | None:
        """What the first of budget and time leaves; None where neither is given, or no training has been timed yet."""
        left = []
        if self._settings.budget is not None:
            left.append(self._settings.budget - sum(spent_on(trial) for trial in self._finished()))
        seconds = self._seconds_per_training()
        if math.isfinite(self._deadline) and seconds is not None:
            left.append((self._deadline - time.monotonic()) / seconds)
        return max(0.0, min(left)) if left else None

    def trials_left(self, trainings: float) -> int:
        """How many trials that is if they take as much as those before them, one at least.

        Args:
            trainings: That are left.
        """
        costs = [spent_on(trial) for trial in self._finished() if role(trial) == SEARCH]
        usual = sum(costs) / len(costs) if costs else 1.0
        return max(1, math.ceil(trainings / usual)) if usual > 0 else max(1, math.ceil(trainings))

    def _seconds_per_training(self) -> float | None:
        timed = [trial for trial in finished(self._study) if trial.user_attrs.get("seconds") and spent_on(trial) > 0]
        total = sum(spent_on(trial) for trial in timed)
        return sum(float(trial.user_attrs["seconds"]) for trial in timed) / total if total else None

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in finished(self._study) if role(trial) != CONFIRM]
