"""What a search has found so far: the ranking of its trials, what they cost, and whose models stay on disk."""

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
    spent_on,
)
from hf_rlsearch.optuna import confirmation as confirm
from hf_rlsearch.trainer.search.trial import TrialOutcome
from hf_rlsearch.trainer.setup.config import SearchConfig
from hf_rlsearch.trainer.setup.objective import Objective
from hf_rlsearch.trainer.storage import checkpoints
from hf_rlsearch.trainer.storage.paused import PausedTrials, folder_size, resume_folders


class Leaderboard:
    """Reads it from the study, so that an interrupted search finds it as it was.

    Args:
        study: Of the search.
        objective: What is optimised.
        settings: Of the search.
        pausing: Which trainings wait on disk.
    """

    def __init__(
        self,
        study: optuna.Study,
        objective: Objective,
        settings: SearchConfig,
        pausing: PausedTrials,
    ) -> None:
        self._study, self._objective, self._settings, self._pausing = study, objective, settings, pausing
        self._confirmed = False

    @property
    def is_multi(self) -> bool:
        """Several directions: there is no ranking, only a Pareto front."""
        return len(self._study.directions) > 1

    def ranking(self) -> list[FrozenTrial]:
        """Complete trials of a single objective, best first, earlier ones first among equals."""
        if self.is_multi:
            return []
        sign = -1 if self._objective.directions[0] == "maximize" else 1
        complete = [t for t in finished(self._study) if t.state == TrialState.COMPLETE and role(t) != CONFIRM]
        return sorted(complete, key=lambda t: (sign * float(t.values[0]), t.number))

    def spent(self) -> float:
        """Full trainings so far; a trial counts for what was newly trained in it."""
        return sum(spent_on(trial) for trial in finished(self._study) if role(trial) != CONFIRM)

    def is_best(self, trial_role: str, outcome: TrialOutcome) -> bool:
        """Whether a trial that has just ended beats all before it."""
        if outcome.state != TrialState.COMPLETE or trial_role == CONFIRM:
            return False
        ranking = self.ranking()
        return not ranking or self._objective.better(outcome.values[0], float(ranking[0].values[0]))

    def retain_checkpoint(self, trial_role: str, outcome: TrialOutcome) -> bool:
        """Whether a finished trial's model is among the best k, so that it has to be on disk."""
        if outcome.state != TrialState.COMPLETE or self._settings.keep_checkpoints == 0:
            return False
        if self.is_multi:
            return True
        if trial_role == CONFIRM:
            return False
        if trial_role == BASELINE and self._settings.confirm:
            return True
        better = [t for t in self.ranking() if not self._objective.better(outcome.values[0], float(t.values[0]))]
        return len(better) < self._n_kept()

    def discard_checkpoints(self, *, confirmed: bool = False) -> None:
        """Leaves the best k checkpoints on disk, and those of stopped trials that may go on.

        Args:
            confirmed: The search is at its end: only as many models stay as the user wants, and nothing goes on.
        """
        self._confirmed = self._confirmed or confirmed
        best = self._kept()
        trials = self._study.get_trials(deepcopy=False)
        # A trial that goes on with another one has taken over its folder.
        last = {trial.user_attrs[FOLDER]: trial for trial in trials if FOLDER in trial.user_attrs}
        models = {t.user_attrs[CHECKPOINT] for t in trials if t.number in best and CHECKPOINT in t.user_attrs}
        paused = [] if self._confirmed else self._pausing.retained(sum(folder_size(path) for path in models))
        # Another one may just be about to go on with it.
        in_use = {trial.user_attrs.get(CONTINUES) for trial in trials if not trial.state.is_finished()}
        for folder, trial in last.items():
            if trial.state.is_finished() and trial.number not in in_use and Path(folder).is_dir():
                kept = resume_folders(trial.user_attrs[PAUSED]) if trial.number in {t.number for t in paused} else []
                checkpoints.discard(folder, keep=[*kept, *models])

    def _kept(self) -> set[int]:
        """The numbers of the trials whose models stay."""
        best = self._study.best_trials if self.is_multi else self._winner_first()[: self._n_kept()]
        kept = {trial.number for trial in best}
        if self._confirmed:
            return kept
        if self._settings.confirm and not self.is_multi:
            kept |= {trial.number for trial in finished(self._study) if role(trial) == BASELINE}
        return kept

    def _n_kept(self) -> int:
        """Models on disk; until the confirmations are made, all that may win them."""
        n_kept = self._settings.keep_checkpoints
        if self._confirmed:
            return n_kept
        return max(n_kept, self._settings.confirm) if n_kept else 0

    def _winner_first(self) -> list[FrozenTrial]:
        """The ranking, the winner of the confirmations first."""
        maximize = self._objective.directions[0] == "maximize"
        best = confirm.winner(confirm.confirmations(finished(self._study)), maximize=maximize)
        first = best.number if best is not None and self._confirmed else None
        return sorted(self.ranking(), key=lambda t: t.number != first)
