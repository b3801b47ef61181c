"""What a search can still afford, and telling it to those who plan with it."""

import math
import time
from functools import partial

import optuna
from optuna.trial import TrialState

from hf_rlsearch.backend.checked import OURS
from hf_rlsearch.backend.prices import Prices, is_timed
from hf_rlsearch.backend.result import CONFIRM, SEARCH, role
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.standing import spent_on
from hf_rlsearch.backend.storage import finished
from hf_rlsearch.pruner import RLPruner
from hf_rlsearch.sampler import RLSampler
from hf_rlsearch.sampler.spending import Spending


class Allowance:
    """What budget and time leave, in trainings with the user's own arguments; the number of trials is the sampler's.

    Args:
        study: Of the search.
        settings: Of the search.
        deadline: ``time.monotonic()`` at which the time is up; infinity without one.
        prices: Of candidates.
    """

    def __init__(self, study: optuna.Study, settings: Settings, deadline: float, prices: Prices) -> None:
        self._study, self._settings, self._deadline, self._prices = study, settings, deadline, prices

    def tell(self) -> None:
        """Lets our own sampler and pruner plan for what is left; those of the user are his own business."""
        left = self.trainings_left()
        sampler, pruner = self._study.sampler, self._study.pruner
        if self._settings.sampler is None and isinstance(sampler, RLSampler):
            sampler.plan_for(None if left is None else self.trials_left(left), self.spending())
        if self._settings.pruner == OURS and isinstance(pruner, RLPruner):
            # The pruner does not count failed trials.
            seen = sum(spent_on(trial) for trial in self._finished() if trial.state != TrialState.FAIL)
            pruner.plan_for(None if left is None else seen + left)

    def trainings_left(self) -> float | None:
        """What the first of budget and time leaves; None where neither is given, or no training has been timed yet."""
        first = self._first_limit()
        return None if first is None else first.left

    def seconds_left(self) -> float:
        """How long the search can go on; infinity where neither is given, or no training has been timed yet."""
        left, seconds = self.trainings_left(), self._seconds_per_training()
        return math.inf if left is None or seconds is None else left * seconds

    def spending(self) -> Spending | None:
        """What is left of the limit that ends the search, with prices; None where the number of trials ends it."""
        first, n_done = self._first_limit(), len(self._finished())
        if first is None or self.trials_left(first.left) >= self._settings.most_trials - n_done:
            return None
        return first

    def _first_limit(self) -> Spending | None:
        limits = [limit for limit in (self._budget(), self._time()) if limit is not None]
        return min(limits, key=lambda limit: limit.left, default=None)

    def _budget(self) -> Spending | None:
        total = self._settings.budget
        if total is None:
            return None
        spent = sum(spent_on(trial) for trial in self._finished())
        return Spending(price=self._prices.amounts, left=max(0.0, total - spent), total=total)

    def _time(self) -> Spending | None:
        seconds, timeout = self._seconds_per_training(), self._settings.timeout
        if timeout is None or seconds is None:
            return None
        left = max(0.0, self._deadline - time.monotonic())
        price = partial(self._prices.by_the_clock, study=self._study)
        return Spending(price=price, left=left / seconds, total=timeout / seconds)

    def trials_left(self, trainings: float) -> int:
        """How many trials that is if they take as much as those before them, one at least.

        Args:
            trainings: That are left.
        """
        costs = [spent_on(trial) for trial in self._finished() if role(trial) == SEARCH]
        usual = sum(costs) / len(costs) if costs else 1.0
        return max(1, math.ceil(trainings / usual)) if usual > 0 else max(1, math.ceil(trainings))

    def _seconds_per_training(self) -> float | None:
        timed = [trial for trial in finished(self._study) if is_timed(trial)]
        total = sum(spent_on(trial) for trial in timed)
        return sum(float(trial.user_attrs["seconds"]) for trial in timed) / total if total else None

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in finished(self._study) if role(trial) != CONFIRM]
