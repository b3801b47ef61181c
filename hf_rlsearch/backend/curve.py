"""The learning curve of the running trial: its points go into the storage, and the pruner is asked about them."""

import optuna

from hf_rlsearch.backend.paused import STOPPED
from hf_rlsearch.backend.trial import FULL_TRAINING
from hf_rlsearch.history import CONTINUES


class Curve:
    """Points may come a second time after a kill: they are stored once, and the trial is not asked about twice.

    Args:
        trial: The running one, with what it reported before it was interrupted.
        judged: The pruner may stop it; the user's own configuration and confirmations are trained to their end: they
            are what others are compared to.
    """

    def __init__(self, trial: optuna.Trial, *, judged: bool) -> None:
        self._trial, self._judged = trial, judged
        known = trial.study._storage.get_trial(trial._trial_id)
        self._reported = dict(known.intermediate_values)
        earlier = known.user_attrs.get(CONTINUES)
        trials = trial.study.get_trials(deepcopy=False)
        # Where the trial was told to go on that this one goes on with.
        self._passed = 0 if earlier is None else max(trials[earlier].intermediate_values, default=0)

    def add(self, step: int, value: float) -> bool:
        """Stores a point; True if the pruner stops the trial.

        Args:
            step: Share of the trial's own training, in 1..FULL_TRAINING.
            value: Objective.
        """
        if step <= self._passed:
            return False
        furthest = max(self._reported, default=0)
        self._store(step, value)
        if step < furthest:
            # A resumed trial passed here before, and was told to go on.
            return False
        if not self._judged or step >= FULL_TRAINING:
            return False
        if self._trial.user_attrs.get(STOPPED) == step:
            return True  # killed before the stop was recorded
        stops = bool(self._trial.should_prune())
        if stops:
            self._trial.set_user_attr(STOPPED, step)
        return stops

    def _store(self, step: int, value: float) -> None:
        """A trial that is repeated, not continued, may come to another value than before."""
        if step not in self._reported:
            self._trial.report(value, step)
        elif self._reported[step] != value:
            self._trial.study._storage.set_trial_intermediate_value(self._trial._trial_id, step, value)
        self._reported[step] = value
