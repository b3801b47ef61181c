"""Connects the sampler and the stop rule with Ray Tune as a search algorithm and a scheduler (tested with Ray 2.60)."""

import math
from typing import Any
from uuid import uuid4

import optuna
from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.trial import FrozenTrial, TrialState
from ray.tune.result import TRAINING_ITERATION
from ray.tune.schedulers import FIFOScheduler
from ray.tune.search.optuna import OptunaSearch

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.trial_attributes import RAY_SEARCH
from hf_rlsearch.optuna import RLPruner, RLSampler


class RLSearch(OptunaSearch):  # type: ignore[misc]
    """Ray's ``OptunaSearch`` with ``RLSampler``, which records how each training ended.

    A training that ``RLScheduler`` stops is pruned in the study, and a training that ends with an objective that is no
    finite number has failed. ``OptunaSearch`` alone counts the first as complete and never ends the second.

    Args:
        space: As for ``OptunaSearch``: Optuna distributions by name or a function of a trial. Tune's ``param_space`` is
            searched where not given.
        sampler: ``RLSampler`` where not given.
        **options: Those of ``OptunaSearch``: ``metric``, ``mode``, ``storage``, ``study_name``,
            ``points_to_evaluate``.
    """

    def __init__(self, space: Any = None, *, sampler: BaseSampler | None = None, **options: Any) -> None:
        super().__init__(space, sampler=RLSampler() if sampler is None else sampler, **options)
        self._id = uuid4().hex
        self._stopped: set[str] = set()

    def suggest(self, trial_id: str) -> Any:
        """The configuration of a new trial; one that was interrupted, and that Ray has forgotten, is trained first."""
        config = super().suggest(trial_id)
        self._ot_trials[trial_id].set_user_attr(RAY_SEARCH, self._id)
        return config

    def should_stop(self, trial_id: str, result: dict[str, Any], pruner: BasePruner) -> bool:
        """Adds a report to a trial's learning curve, and asks the pruner whether the trial should stop.

        The pruner is an argument, since the study of ``OptunaSearch`` has none. The result has to hold the metric. A
        training that Ray repeats after a restart stops where it was stopped before.
        """
        self.on_trial_result(trial_id, result)
        stored = self._stored(trial_id)
        if stored is None:
            return False
        if stored.state.is_finished():
            return stored.state == TrialState.PRUNED and result[TRAINING_ITERATION] >= (stored.last_step or 0)
        if pruner.prune(self._ot_study, stored):
            self._stopped.add(trial_id)
        return trial_id in self._stopped

    def on_trial_result(self, trial_id: str, result: dict[str, Any]) -> None:
        """Adds a report to a trial's learning curve, unless a restarted training repeats it."""
        stored = self._stored(trial_id)
        if stored is None or stored.state.is_finished() or result[TRAINING_ITERATION] <= (stored.last_step or 0):
            return
        super().on_trial_result(trial_id, result)

    def on_trial_complete(self, trial_id: str, result: dict[str, Any] | None = None, error: bool = False) -> None:
        """Records in the study how a trial ended: complete, pruned or failed; what is recorded stays."""
        stored = self._stored(trial_id)
        if stored is None or stored.state.is_finished():
            return
        metrics = self.metric if isinstance(self.metric, list) else [self.metric]
        if trial_id in self._stopped:
            result = None  # without a value it is pruned
        elif result and not all(math.isfinite(result.get(name, 0.0)) for name in metrics):
            result, error = None, True
        super().on_trial_complete(trial_id, result, error)

    def restore(self, checkpoint_path: str) -> None:
        """Continues after ``Tuner.restore``; the study may be ahead of Ray's checkpoint, which is some seconds old.

        Trials that the checkpoint does not know go back into the queue if they had not ended.
        """
        super().restore(checkpoint_path)
        study: optuna.Study = self._ot_study
        known = {trial._trial_id for trial in self._ot_trials.values()}
        for trial in study.get_trials(deepcopy=False, states=(TrialState.RUNNING,)):
            if trial.user_attrs.get(RAY_SEARCH) == self._id and trial._trial_id not in known:
                study._storage.set_trial_state_values(trial._trial_id, TrialState.WAITING)

    def _stored(self, trial_id: str) -> FrozenTrial | None:
        """The trial as the study has it; None if Ray has a trial that this search did not suggest."""
        # OptunaSearch gives no public access to its study and trials.
        trial = self._ot_trials.get(trial_id)
        return None if trial is None else self._ot_study._storage.get_trial(trial._trial_id)


class RLScheduler(FIFOScheduler):  # type: ignore[misc]
    """Stops trainings that are not worth their remaining cost when they report to Tune, as ``RLPruner`` does.

    Takes the place of ``ASHAScheduler`` beside ``search_alg=RLSearch(...)``.

    Args:
        max_resource: Reports of a full training, above 0; all trainings should report equally often, such as after
            each tenth. The most that a finished training made where not given.
        pruner: In place of ``RLPruner(max_resource=max_resource)``.

    Raises:
        ArgumentsError: An argument is out of range.
    """

    def __init__(self, *, max_resource: float | None = None, pruner: BasePruner | None = None) -> None:
        super().__init__()
        self._pruner = RLPruner(max_resource=max_resource) if pruner is None else pruner

    def on_trial_result(self, tune_controller: Any, trial: Any, result: dict[str, Any]) -> str:
        """STOP or CONTINUE, after a report.

        Raises:
            ArgumentsError: The search algorithm is not ``RLSearch``, which holds the other learning curves.
        """
        search = tune_controller.search_alg
        while not isinstance(search, RLSearch):  # Tune wraps it to limit how many trainings run at once
            if not hasattr(search, "searcher"):
                raise ArgumentsError(
                    f"RLScheduler needs search_alg=RLSearch(...), but search_alg is {type(search).__name__}."
                )
            search = search.searcher
        decision: str = self.STOP if search.should_stop(trial.trial_id, result, self._pruner) else self.CONTINUE
        return decision
