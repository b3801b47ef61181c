"""What a search can still afford, and telling it to those who plan with it."""

import math
import time
from functools import lru_cache, partial

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import FloatArray, IntArray, Params
from hf_rlsearch.observation.trial_attributes import CONFIRM, HYPERPARAMETERS, SEARCH, SECONDS, finished, role, spent_on
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.optuna.sampler import CostCooling
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.trainer.session.arguments import training_cost
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state
from hf_rlsearch.trainer.setup.config import RL_PRUNER, SearchConfig
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler


class CostModel:
    """Prices of candidates, in trainings with the user's own arguments.

    Args:
        configurations: Knows the arguments of a configuration.
        n_rows: Of the training data, None where they have no length.
        world_size: Number of processes.
    """

    def __init__(self, configurations: ConfigurationSampler, n_rows: int | None, world_size: int) -> None:
        self._configurations, self._n_rows, self._world_size = configurations, n_rows, world_size
        self._own = configurations.frozen.original()
        # Thousands of candidates differ in few of the values that the amount depends on.
        self._amount_of = lru_cache(maxsize=4096)(self._amount)
        self._that_matter = lru_cache(maxsize=8)(self._names_that_matter)

    def amounts(self, space: SearchSpace, rows: IntArray) -> FloatArray:
        """C prices by the planned samples of C x H candidates."""
        columns = [space.names.index(name) for name in self._that_matter(space)]
        kept = np.zeros_like(rows)
        kept[:, columns] = rows[:, columns]
        unique, inverse = np.unique(kept, axis=0, return_inverse=True)
        found = [self._amount_of(space, tuple(row)) for row in unique.tolist()]
        return np.array(found, dtype=np.float64)[inverse.reshape(-1)]

    def by_the_clock(self, space: SearchSpace, rows: IntArray, study: optuna.Study) -> FloatArray:
        """As ``amounts``, times how much longer a sample takes than in the finished trials on average.

        Small batches and large models take longer for a sample. How much is read from the trials by ridge regression
        of the logarithm of their seconds on their levels, which says nothing while there are few of them.
        """
        from sklearn.linear_model import Ridge

        trials = [t for t in study.get_trials(deepcopy=False) if is_timed(t)]
        spent = np.array([spent_on(trial) for trial in trials])
        seconds = np.array([float(trial.user_attrs[SECONDS]) for trial in trials])
        levels = np.array([space.nearest_levels(_values(trial)) for trial in trials])
        slowness = np.log(seconds / spent) - np.log(seconds.sum() / spent.sum())
        model = Ridge(alpha=1.0).fit(_features(space, levels), slowness, sample_weight=spent / spent.mean())
        return np.asarray(self.amounts(space, rows) * np.exp(model.predict(_features(space, rows))))

    def _amount(self, space: SearchSpace, row: tuple[int, ...]) -> float:
        try:
            with preserve_random_state():
                args = self._configurations.arguments(self._configurations.values_of(space.decode(row)))
        except Exception:  # a combination that is refused, or a part of the space; if it is drawn the trial tells why
            return 1.0
        return training_cost(args, self._own, self._n_rows, self._world_size)

    def _names_that_matter(self, space: SearchSpace) -> tuple[str, ...]:
        """The names that change the amount, seen from the lowest and from the highest levels of the others."""
        bases = (np.zeros_like(space.n_levels), space.n_levels - 1)
        return tuple(name for h, name in enumerate(space.names) if any(self._varies(space, base, h) for base in bases))

    def _varies(self, space: SearchSpace, base: IntArray, h: int) -> bool:
        axis = np.tile(base, (space.n_levels[h], 1))
        axis[:, h] = np.arange(space.n_levels[h])
        return len({self._amount_of(space, tuple(row)) for row in axis.tolist()}) > 1


def is_timed(trial: FrozenTrial) -> bool:
    """Whether a trial was trained, and tells how long that takes."""
    trained = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return trained and bool(trial.user_attrs.get(SECONDS)) and spent_on(trial) > 0


def _values(trial: FrozenTrial) -> Params:
    """The exact values, also those of the user's own arguments outside of the space."""
    return {**trial.params, **trial.user_attrs.get(HYPERPARAMETERS, {})}


def _features(space: SearchSpace, levels: IntArray) -> FloatArray:
    """N x F: the place of each ordered level in [0, 1], an indicator for each other one; 0 where there is none."""
    columns = []
    for h, hyperparameter in enumerate(space.hyperparameters):
        column, n = levels[:, h], len(hyperparameter.levels)
        if hyperparameter.ordered:
            columns.append(np.maximum(column, 0)[:, None] / max(n - 1, 1))
        else:
            columns.append((column[:, None] == np.arange(n)).astype(np.float64))
    return np.concatenate(columns, axis=1)


class RemainingBudget:
    """What budget and time leave, in trainings with the user's own arguments; the number of trials is the sampler's.

    Args:
        study: Of the search.
        settings: Of the search.
        deadline: ``time.monotonic()`` at which the time is up; infinity without one.
        prices: Of candidates.
    """

    def __init__(self, study: optuna.Study, settings: SearchConfig, deadline: float, prices: CostModel) -> None:
        self._study, self._settings, self._deadline, self._prices = study, settings, deadline, prices

    def tell(self) -> None:
        """Lets our own sampler and pruner plan for what is left; those of the user are his own business."""
        left = self.trainings_left()
        sampler, pruner = self._study.sampler, self._study.pruner
        if self._settings.sampler is None and isinstance(sampler, RLSampler):
            sampler.plan_for(None if left is None else self.trials_left(left), self.spending())
        if self._settings.pruner == RL_PRUNER and isinstance(pruner, RLPruner):
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

    def spending(self) -> CostCooling | None:
        """What is left of the limit that ends the search, with prices; None where the number of trials ends it."""
        first, n_done = self._first_limit(), len(self._finished())
        if first is None or self.trials_left(first.left) >= self._settings.max_trials - n_done:
            return None
        return first

    def _first_limit(self) -> CostCooling | None:
        limits = [limit for limit in (self._budget(), self._time()) if limit is not None]
        return min(limits, key=lambda limit: limit.left, default=None)

    def _budget(self) -> CostCooling | None:
        total = self._settings.budget
        if total is None:
            return None
        spent = sum(spent_on(trial) for trial in self._finished())
        return CostCooling(price=self._prices.amounts, left=max(0.0, total - spent), total=total)

    def _time(self) -> CostCooling | None:
        seconds, timeout = self._seconds_per_training(), self._settings.timeout
        if timeout is None or seconds is None:
            return None
        left = max(0.0, self._deadline - time.monotonic())
        price = partial(self._prices.by_the_clock, study=self._study)
        return CostCooling(price=price, left=left / seconds, total=timeout / seconds)

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
        return sum(float(trial.user_attrs[SECONDS]) for trial in timed) / total if total else None

    def _finished(self) -> list[optuna.trial.FrozenTrial]:
        return [trial for trial in finished(self._study) if role(trial) != CONFIRM]
