"""Ranks the finished trials of a search and decides which checkpoints stay on disk."""

from datetime import datetime
from pathlib import Path

import numpy as np
import optuna
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import FloatArray, Params
from hf_rlsearch.observation import trial_attributes as attr
from hf_rlsearch.observation.trial_attributes import counted, finished, role
from hf_rlsearch.optuna import confirmation as confirm
from hf_rlsearch.trainer.search.trial import TrialOutcome
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.checkpoints import stored_path
from hf_rlsearch.trainer.storage.paused import PausedTrials, folder_size


def ranking(study: optuna.Study, *, confirmed: bool = False) -> list[FrozenTrial]:
    """Returns the trials that can be the best of a single objective, best first, earlier ones first among equals.

    Args:
        study: With several objectives it has no ranking, and the list is empty.
        confirmed: The trial that is best under new seeds comes first, if there is one.
    """
    if len(study.directions) > 1:
        return []
    trials, maximize = rankable(study), study.direction == StudyDirection.MAXIMIZE
    winner = None
    if confirmed:
        numbers = {trial.number for trial in trials}
        found = [each for each in confirm.confirmations(study.get_trials(deepcopy=False)) if each.number in numbers]
        winner = confirm.winner(found, maximize=maximize)
    first, sign = None if winner is None else winner.number, -1 if maximize else 1
    return sorted(trials, key=lambda trial: (trial.number != first, sign * trial.values[0], trial.number))


def rankable(study: optuna.Study) -> list[FrozenTrial]:
    """Returns the trials that can be the best: complete and within the constraints, without confirmations."""
    complete = [t for t in finished(study) if t.state == TrialState.COMPLETE and role(t) != attr.CONFIRM]
    return [trial for trial in complete if attr.is_feasible(trial)]


def trials_without_improvement(study: optuna.Study) -> float:
    """Returns how many trials have ended since one last improved the search; 0 before the first complete one.

    A trial improves it if no trial that ended earlier is at least as good in all objectives. Trials count as they do
    for ``n_trials``.
    """
    signs = _signs(study)
    values = {trial.number: signs * trial.values for trial in rankable(study)}
    front: list[FloatArray] = []
    n_trials = 0.0
    for trial in sorted(finished(study), key=lambda t: (t.datetime_complete or datetime.max, t.number)):
        own = values.get(trial.number)
        if own is not None and not any((other >= own).all() for other in front):
            front = [other for other in front if not (own >= other).all()] + [own]
            n_trials = 0.0
        elif front and role(trial) != attr.CONFIRM:
            n_trials += counted(trial)
    return n_trials


def _signs(study: optuna.Study) -> FloatArray:
    """1 for each objective of which larger values are better, -1 for the others."""
    return np.array([1.0 if direction == StudyDirection.MAXIMIZE else -1.0 for direction in study.directions])


class Leaderboard:
    """Decides which checkpoints to keep.

    Everything is read from the study, so a restarted search keeps the same ones.

    Args:
        study: Of the search.
        folder: Of the search; nothing outside of it is deleted.
        objective: Of the search.
        settings: Of the search.
        paused: The stopped trials.
    """

    def __init__(
        self, study: optuna.Study, folder: str, objective: Objective, settings: SearchConfig, paused: PausedTrials
    ) -> None:
        self._study, self._folder = study, folder
        self._objective, self._settings, self._paused = objective, settings, paused
        # True once all confirmations are made: then only as many models stay as the user wants.
        self._confirmed = False

    def keeps(self, trial_role: str, outcome: TrialOutcome, *, feasible: bool) -> Params:
        """Returns where the model of a complete trial, which is not recorded yet, is to be kept.

        Args:
            trial_role: As in ``TrialPlan``.
            outcome: Of the trial.
            feasible: It exceeds no constraint.

        Returns:
            "disk": the model is to be saved. "memory": it may be the best at the end, so that it stays in memory where
            it is not saved. "beside": the numbers of the earlier trials whose models stay in memory with it. With
            several objectives the models of the Pareto front stay, else the best one and those that may win when the
            best are confirmed.
        """
        if trial_role == attr.CONFIRM or not feasible:
            return {"disk": False, "memory": False, "beside": []}
        n_retained = self._n_retained()
        if len(self._study.directions) > 1:
            signs, front = _signs(self._study), self._study.best_trials
            gains = [signs * outcome.values - signs * other.values for other in front]
            is_best = not any((gain <= 0).all() and (gain < 0).any() for gain in gains)
            beside = [trial.number for trial in front]
            return {"disk": is_best and n_retained > 0, "memory": is_best, "beside": beside}
        confirms = self._settings.confirm > 0
        may_win_later = confirms and trial_role == attr.BASELINE
        ranked = ranking(self._study)
        rank = sum(not self._objective.better(outcome.values[0], trial.values[0]) for trial in ranked)
        n_in_memory = 1 if n_retained else max(1, self._settings.confirm)
        n_beside = n_in_memory - (rank < n_in_memory)
        kept = ranked[:n_beside] + [t for t in ranked[n_beside:] if confirms and role(t) == attr.BASELINE]
        return {
            "disk": n_retained > 0 and (may_win_later or rank < n_retained),
            "memory": may_win_later or rank < n_in_memory,
            "beside": [trial.number for trial in kept],
        }

    def discard_checkpoints(self, *, confirmed: bool = False) -> None:
        """Deletes all checkpoints but those of the best k trials and those of stopped trials that may be resumed.

        Once the confirmations are made the search has ended: no trial is resumed, and the ranking no longer changes.
        """
        self._confirmed = self._confirmed or confirmed
        trials = self._study.get_trials(deepcopy=False)
        # The last trial of each folder: a trial that resumes another one takes over its folder.
        owners = {path: trial for trial in trials if (path := stored_path(trial, attr.FOLDER, self._folder))}
        retained = self._retained_trials()
        best = [trial for trial in trials if trial.number in retained]
        models = {path for trial in best if (path := stored_path(trial, attr.CHECKPOINT, self._folder))}
        paused = [] if self._confirmed else self._paused.retained(sum(folder_size(path) for path in models))
        resumable = {trial.number for trial in paused}
        # Another process may just be starting to resume these.
        in_use = {trial.user_attrs.get(attr.CONTINUES) for trial in trials if not trial.state.is_finished()}
        for folder, trial in owners.items():
            if trial.state.is_finished() and trial.number not in in_use and Path(folder).is_dir():
                kept = self._paused.folders_of(trial) if trial.number in resumable else []
                checkpoints.discard(folder, keep=[*kept, *models])

    def _retained_trials(self) -> set[int]:
        """The numbers of the trials whose models stay."""
        if len(self._study.directions) > 1:
            return {trial.number for trial in self._study.best_trials}
        best = ranking(self._study, confirmed=self._confirmed)[: self._n_retained()]
        may_win_later = self._settings.confirm > 0 and not self._confirmed
        baseline = [t for t in rankable(self._study) if role(t) == attr.BASELINE] if may_win_later else []
        return {trial.number for trial in [*best, *baseline]}

    def _n_retained(self) -> int:
        """Number of models on disk; until the confirmations are made, all models that may win them."""
        n_kept = self._settings.keep_best_models
        return n_kept if self._confirmed or n_kept == 0 else max(n_kept, self._settings.confirm)
