"""How many failed trials a search puts up with."""

import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.backend.storage import finished
from hf_rlsearch.errors import SearchFailed


class Tolerance:
    """Counts the trials that have failed since the search was started or continued.

    Who starts a search again after too many failures has mended something. Diverged trials do not count, they are an
    answer.

    Args:
        study: Of the search.
        settings: Of the search.
    """

    def __init__(self, study: optuna.Study, settings: Settings) -> None:
        self._study, self._settings = study, settings
        self._n_before = len(self._failed())

    def check(self, error: BaseException | None) -> None:
        """Ends the search if there are too many.

        Raises:
            SearchFailed: With the last reason, from ``error``.
        """
        failed = self._failed()[self._n_before :]
        if len(failed) < self._settings.failures_allowed:
            return
        last = (failed[-1].user_attrs.get("failure") or {}).get("reason", "unknown")
        raise SearchFailed(
            f"{len(failed)} of {self._settings.most_trials} trials have failed, the last one with: {last}. The search "
            f"stops at {self._settings.failures_allowed} (max_failed_trials). The finished trials are kept in study "
            f"{self._study.study_name!r}; see the attribute 'failure' of each trial for its traceback."
        ) from error

    def _failed(self) -> list[FrozenTrial]:
        return [t for t in finished(self._study) if t.state == TrialState.FAIL and _kind(t) != "nan"]


def _kind(trial: FrozenTrial) -> str:
    return str((trial.user_attrs.get("failure") or {}).get("kind", "error"))
