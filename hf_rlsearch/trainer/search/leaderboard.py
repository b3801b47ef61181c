"""Ranks the finished trials of a search and decides which checkpoints stay on disk."""

from pathlib import Path

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.observation.trial_attributes import (
    BASELINE,
    CHECKPOINT,
    CONFIRM,
    CONTINUES,
    FOLDER,
    PAUSED,
    finished,
    role,
)
from hf_rlsearch.optuna import confirmation as confirm
from hf_rlsearch.trainer.search.trial import TrialOutcome
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import PausedTrials, folder_size, resume_folders


class Leaderboard:
    """Ranks finished trials and decides which checkpoints to keep.

    Everything is read from the study, so a restarted search has the same ranking.

    Args:
        study: Of the search.
        objective: What is optimised.
        settings: Of the search.
        paused: Knows the stopped trainings that wait on disk.
    """

    def __init__(self, study: optuna.Study, objective: Objective, settings: SearchConfig, paused: PausedTrials) -> None:
        self._study, self._objective, self._settings, self._paused = study, objective, settings, paused
        # The confirmations are made: only as many models stay as the user wants.
        self._confirmed = False

    @property
    def is_multi(self) -> bool:
        """Whether the objective has several directions: there is no ranking then, only a Pareto front."""
        return len(self._study.directions) > 1

    def ranking(self) -> list[FrozenTrial]:
        """Returns the complete trials of a single objective, best first, earlier ones first among equals."""
        if self.is_multi:
            return []
        sign = -1 if self._objective.directions[0] == "maximize" else 1
        complete = [t for t in finished(self._study) if t.state == TrialState.COMPLETE and role(t) != CONFIRM]
        return sorted(complete, key=lambda t: (sign * float(t.values[0]), t.number))

    def is_best(self, trial_role: str, outcome: TrialOutcome) -> bool:
        """Returns whether a trial that has just ended beats all recorded ones.

        Args:
            trial_role: "baseline", "search" or "confirm".
            outcome: How the trial ended.
        """
        if outcome.state != TrialState.COMPLETE or trial_role == CONFIRM:
            return False
        ranking = self.ranking()
        return not ranking or self._objective.better(outcome.values[0], float(ranking[0].values[0]))

    def retain_checkpoint(self, trial_role: str, outcome: TrialOutcome) -> bool:
        """Returns whether a trial that has just ended is among the best k, so that its model is saved.

        Args:
            trial_role: "baseline", "search" or "confirm".
            outcome: How the trial ended.
        """
        if outcome.state != TrialState.COMPLETE or self._settings.keep_checkpoints == 0:
            return False
        if self.is_multi:
            return True
        if trial_role == CONFIRM:
            return False
        if trial_role == BASELINE and self._settings.confirm:
            return True
        better = [t for t in self.ranking() if not self._objective.better(outcome.values[0], float(t.values[0]))]
        return len(better) < self._n_retained()

    def discard_checkpoints(self, *, confirmed: bool = False) -> None:
        """Deletes all checkpoints but those of the best k trials and those of stopped trials that may be resumed.

        Args:
            confirmed: The search has ended: no trial is resumed, and no confirmation changes the ranking.
        """
        self._confirmed = self._confirmed or confirmed
        trials = self._study.get_trials(deepcopy=False)
        # The last trial of each folder: a trial that resumes another one takes over its folder.
        owners = {trial.user_attrs[FOLDER]: trial for trial in trials if FOLDER in trial.user_attrs}
        best = self._retained_trials()
        models = {t.user_attrs[CHECKPOINT] for t in trials if t.number in best and CHECKPOINT in t.user_attrs}
        paused = [] if self._confirmed else self._paused.retained(sum(folder_size(path) for path in models))
        resumable = {trial.number for trial in paused}
        # Another process may just be starting to resume these.
        in_use = {trial.user_attrs.get(CONTINUES) for trial in trials if not trial.state.is_finished()}
        for folder, trial in owners.items():
            if trial.state.is_finished() and trial.number not in in_use and Path(folder).is_dir():
                kept = resume_folders(trial.user_attrs[PAUSED]) if trial.number in resumable else []
                checkpoints.discard(folder, keep=[*kept, *models])

    def _retained_trials(self) -> set[int]:
        """The numbers of the trials whose models stay."""
        if self.is_multi:
            return {trial.number for trial in self._study.best_trials}
        ranking = self.ranking()
        if self._confirmed:
            maximize = self._objective.directions[0] == "maximize"
            winner = confirm.winner(confirm.confirmations(finished(self._study)), maximize=maximize)
            ranking.sort(key=lambda trial: winner is None or trial.number != winner.number)
        retained = {trial.number for trial in ranking[: self._n_retained()]}
        if self._settings.confirm and not self._confirmed:
            retained |= {trial.number for trial in finished(self._study) if role(trial) == BASELINE}
        return retained

    def _n_retained(self) -> int:
        """Number of models on disk; until the confirmations are made, all models that may win them."""
        n_kept = self._settings.keep_checkpoints
        return n_kept if self._confirmed or n_kept == 0 else max(n_kept, self._settings.confirm)
