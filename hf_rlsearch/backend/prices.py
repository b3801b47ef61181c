"""What the training of a candidate will cost: its planned samples, and by the clock also how long each takes."""

from functools import lru_cache

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import FloatArray, IntArray, Params
from hf_rlsearch.backend.amount import cost
from hf_rlsearch.backend.drawing import ConfigurationSampler
from hf_rlsearch.backend.identity import keep_randomness
from hf_rlsearch.backend.standing import spent_on
from hf_rlsearch.space import SearchSpace


class Prices:
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
        seconds = np.array([float(trial.user_attrs["seconds"]) for trial in trials])
        levels = np.array([space.nearest_levels(_values(trial)) for trial in trials])
        slowness = np.log(seconds / spent) - np.log(seconds.sum() / spent.sum())
        model = Ridge(alpha=1.0).fit(_features(space, levels), slowness, sample_weight=spent / spent.mean())
        return np.asarray(self.amounts(space, rows) * np.exp(model.predict(_features(space, rows))))

    def _amount(self, space: SearchSpace, row: tuple[int, ...]) -> float:
        try:
            with keep_randomness():
                args = self._configurations.arguments(self._configurations.values_of(space.decode(row)))
        except Exception:  # a combination that is refused, or a part of the space; if it is drawn the trial tells why
            return 1.0
        return cost(args, self._own, self._n_rows, self._world_size)

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
    return trained and bool(trial.user_attrs.get("seconds")) and spent_on(trial) > 0


def _values(trial: FrozenTrial) -> Params:
    """The exact values, also those of the user's own arguments outside of the space."""
    return {**trial.params, **trial.user_attrs.get("hyperparameters", {})}


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
