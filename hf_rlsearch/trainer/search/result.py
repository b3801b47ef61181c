"""Defines what a search returns: every trial, the best one, the gain over the baseline, and ways to use them."""

import html
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import is_integer
from hf_rlsearch.errors import ArgumentsError, SearchFailed, StorageError
from hf_rlsearch.observation import trial_attributes as attr
from hf_rlsearch.observation.trial_attributes import role
from hf_rlsearch.optuna import confirmation as confirm
from hf_rlsearch.optuna.storage import open_study
from hf_rlsearch.report import to_dataframe, to_html_table, to_text
from hf_rlsearch.report.analysis import knee
from hf_rlsearch.report.format import ended_by, exceeded, objectives, show_params
from hf_rlsearch.report.records import SearchRecord, as_dict
from hf_rlsearch.trainer.search.leaderboard import ranking
from hf_rlsearch.trainer.setup.hp_space import SideEffects
from hf_rlsearch.trainer.setup.objective import reaches
from hf_rlsearch.trainer.storage.checkpoints import stored_path
from hf_rlsearch.trainer.storage.resume import name_of_owner
from hf_rlsearch.trainer.storage.study import opened_folder

if TYPE_CHECKING:
    import pandas
    from optuna.storages import BaseStorage
    from transformers import Trainer
    from transformers.trainer_utils import BestRun

    from hf_rlsearch.trainer.generation_tuning import GenerationResult
    from hf_rlsearch.trainer.search.replay import ReplayedObjective

# Rows of the table of trials that a SearchResult shows of itself.
_SHOWN = 20
_TIMES = ("datetime_start", "datetime_complete")

# Equal objectives of fewer trials may be chance.
_FEWEST_ALIKE = 3


@dataclass(frozen=True)
class SearchResult:
    """A finished or interrupted search; equal on every rank.

    Attributes:
        study: The Optuna study; on ranks other than 0 a copy of it in memory.
        metric: Name of the objective; of several objectives their names, separated by commas.
        output_dir: The folder that the trials wrote to.
        stopped_by: Why the search ended: "n_trials", "budget", "timeout", "target", "patience", "min_gain_per_hour",
            "study.stop", or "space" where trials have had every configuration of the space. Empty while it runs, and
            after an interruption.
        n_trials: Total number of trials asked for; None where only ``budget`` or ``timeout`` limits them.
        side_effects: Repeats what ``hp_space`` changes besides returning values, for ``replay`` and ``apply``; in the
            process of the search alone.
    """

    study: optuna.Study
    metric: str
    output_dir: str
    stopped_by: str
    n_trials: int | None
    side_effects: SideEffects = field(default_factory=SideEffects, repr=False, compare=False)

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial, in order of the numbers."""
        return self.study.get_trials(deepcopy=False)

    @property
    def directions(self) -> list[str]:
        """The direction of each objective: "minimize" or "maximize"."""
        return [direction.name.lower() for direction in self.study.directions]

    @property
    def best_trials(self) -> list[FrozenTrial]:
        """The best trial; with several objectives the Pareto front; empty if no trial completed within the constraints.

        After a search with ``confirm=`` the best trial is the one with the best mean under new seeds. On a Pareto front
        the best trial comes first: one that has reached ``target=``, else the knee, which the report marks.
        """
        if len(self.directions) == 1:
            return ranking(self.study, confirmed=True)[:1]
        front = self.study.best_trials
        best, _ = self._best_of(front)
        return sorted(front, key=lambda trial: (trial.number != best, trial.number))

    def _best_of(self, front: Sequence[FrozenTrial]) -> tuple[int, str]:
        """The number of the best trial of a Pareto front, and why it is; -1 if the front is empty."""
        targets = self._ends.get("target") or ()
        reached = [trial.number for trial in front if reaches(trial.values, targets, self.directions)]
        if reached:
            return min(reached), "has reached the target"
        middle = knee(SearchRecord.from_study(self.study))
        if middle is not None:
            return middle.number, "is the knee, with the least loss in all objectives together"
        return min((trial.number for trial in front), default=-1), "is the first"

    @property
    def _ends(self) -> Params:
        """``target`` and ``patience`` as the latest run had them; empty where it had neither."""
        return as_dict(self.study.user_attrs.get(attr.ENDS))

    @property
    def best_trial(self) -> FrozenTrial | None:
        """The first of `best_trials`; None if there is none."""
        return next(iter(self.best_trials), None)

    @property
    def best_value(self) -> float | None:
        """The objective of the best trial; None if there is none, and with several objectives."""
        best = self.best_trial
        return None if best is None or len(self.directions) > 1 else float(best.values[0])

    @property
    def best_run(self) -> "BestRun":
        """The best trial as ``Trainer.hyperparameter_search`` returns it."""
        run = best_runs(self, multi=False)
        assert not isinstance(run, list)
        return run

    @property
    def best_checkpoint(self) -> str | None:
        """The folder of the best trial's model; None if the model is not on disk.

        A Trainer that was searched holds that model already; after a search with ``make_trainer`` only the folder does.
        """
        best = self.best_trial
        folder = None if best is None else stored_path(best, attr.CHECKPOINT, self.output_dir)
        return folder if folder is not None and Path(folder).is_dir() else None

    @property
    def baseline(self) -> FrozenTrial | None:
        """The trial of the Trainer's arguments as they were before the search; None with ``baseline=False``."""
        trials = [trial for trial in self.trials if role(trial) == attr.BASELINE]
        # One that the end of the time stopped is trained again by the next run.
        return max(trials, key=lambda trial: trial.state == TrialState.COMPLETE, default=None)

    @property
    def gain(self) -> float | None:
        """Difference of the best trial's objective to the baseline's, positive for a better one; None if unknown."""
        best, baseline = self.best_trial, self.baseline
        if len(self.directions) > 1 or best is None or baseline is None or baseline.state != TrialState.COMPLETE:
            return None
        difference = float(best.values[0] - baseline.values[0])
        return difference if self._maximize else -difference

    @property
    def confirmations(self) -> list[confirm.Confirmation]:
        """The best few configurations and the baseline under new seeds; empty without ``confirm=``."""
        return confirm.confirmations(self.trials)

    @property
    def confirmed_gain(self) -> confirm.Gain | None:
        """The gain over the baseline under new seeds, with its 95 % interval; None if unknown."""
        found = {confirmation.number: confirmation for confirmation in self.confirmations}
        best, baseline = self.best_trial, self.baseline
        if best is None or baseline is None or not {best.number, baseline.number} <= found.keys():
            return None
        return confirm.gain(found[best.number], found[baseline.number], maximize=self._maximize)

    def hyperparameters(self, trial: FrozenTrial | None = None) -> Params:
        """Returns the exact values that a trial was trained with, by name; of the best trial if it is left out.

        ``trial.params`` lacks a value of the baseline that lies outside of the search space, and has the batch size
        that was asked for where ``auto_find_batch_size`` trained a smaller one.
        """
        found = trial or self.best_trial
        return {} if found is None else dict(found.user_attrs.get(attr.HYPERPARAMETERS, found.params))

    def best_configurations(self, n: int) -> list[Params]:
        """Returns the configurations of the n best complete trials, best first, for ``initial_trials`` of a new search.

        Each is there once, as params by name; with several objectives those of the Pareto front. The baseline is left
        out: its values may lie outside of the space.

        Raises:
            ArgumentsError: ``n`` is no whole number of at least 0.
        """
        if not (is_integer(n) and n >= 0):
            raise ArgumentsError(f"n={n!r} given, expected a whole number, at least 0.")
        best = ranking(self.study, confirmed=True) or self.best_trials
        found: list[Params] = []
        for trial in best:
            if role(trial) == attr.SEARCH and trial.params not in found:
                found.append(dict(trial.params))
        return found[:n]

    def __repr__(self) -> str:
        """The summary and the trials."""
        return f"SearchResult of study {self.study.study_name!r}\n{self.summary()}\n{to_text(self.study, most=_SHOWN)}"

    def _repr_html_(self) -> str:
        """The same for a notebook."""
        return f"<pre>{html.escape(self.summary())}</pre>\n{to_html_table(self.study, most=_SHOWN)}"

    def trials_dataframe(self) -> "pandas.DataFrame":
        """Returns a table of all trials, with the columns that the report and its CSV have, too.

        Returns:
            One row for each trial that has started, in order: "number", "state" ("complete", "pruned", "failed" or
            "running"), "role" ("baseline", "search" or "confirm"), each objective and each hyperparameter by its name,
            with ``constraints=`` what it "exceeds", "fidelity" (share of its training that was done, in [0, 1]),
            "duration" in seconds, peak "memory" in bytes, and "failure" with the reason of a failed trial. The
            objective of a stopped trial is that of its last evaluation. Values are NaN or None where there is none.
        """
        return to_dataframe(self.study)

    def summary(self) -> str:
        """Returns the best objective, the gain, the best hyperparameters and the end as a few lines of text."""
        best, baseline, gain = self.best_trial, self.baseline, self.gain
        if best is None:
            return "\n".join(
                filter(
                    None, [self._why_none(), self._missing(), self._waiting(), ended_by(self.stopped_by, self._ends)]
                )
            )
        lines = [f"{self.metric}: {objectives(best.values)} in trial {best.number} of {self._n_started}"]
        if len(self.directions) > 1:
            front = self.study.best_trials
            n_trials = f"{len(front)} trials" if len(front) > 1 else "1 trial"
            lines.append(f"Pareto front: {n_trials}, of which trial {best.number} {self._best_of(front)[1]}")
        if baseline is not None and gain is not None:
            before = " and exceeds ".join([objectives(baseline.values), *self.exceeded(baseline)[:1]])
            lines.append(
                f"baseline: {before}, gain {gain:.4g}" if gain > 0 else f"no gain found over the baseline ({before})"
            )
        for confirmation in self.confirmations:
            if confirmation.number == best.number:
                n_seeds, spread = len(confirmation.values), confirmation.spread
                lines.append(f"under {n_seeds} new seeds: {confirmation.mean:.4g} ± {spread:.2g}")
        confirmed = self.confirmed_gain
        if confirmed is not None and role(best) != attr.BASELINE:
            interval = f"{confirmed.mean:.4g} ({confirmed.low:.4g} to {confirmed.high:.4g})"
            lines.append(
                f"confirmed gain {interval}" if confirmed.found else f"no gain found under new seeds: {interval}"
            )
        lines += [self._all_alike(), self._missing(), self._waiting()]
        lines.append(str(self.study.user_attrs.get(attr.OUTLOOK) or ""))
        lines += [f"hyperparameters: {self.hyperparameters(best)}", ended_by(self.stopped_by, self._ends)]
        return "\n".join(filter(None, lines))

    def _all_alike(self) -> str:
        """Says that all trials have the same objective, and what that usually means; empty where they differ."""
        values = [t.values for t in self.trials if t.state == TrialState.COMPLETE]
        if len(values) < _FEWEST_ALIKE or any(each != values[0] for each in values):
            return ""
        return (
            f"All {len(values)} trials score {objectives(values[0])}. Usually the model learns nothing (too few steps, "
            "rates far too high or too low: it predicts the same for every row), or the metric does not depend on it."
        )

    def apply(self, trainer: "Trainer") -> "Trainer":
        """Gives a Trainer the best trial's arguments, so that ``train()`` repeats that trial.

        Unlike setting the fields of ``trainer.args`` one by one, this refreshes what the Trainer has derived from them,
        such as the batch size, and lets ``model_init`` build the best trial's model.

        Args:
            trainer: The Trainer that was searched, or another one with the same data and ``model_init``. Its
                ``output_dir`` is kept.

        Returns:
            The same Trainer.

        Raises:
            SearchFailed: No trial completed.
        """
        from hf_rlsearch.trainer.search.replay import apply_trial

        if self.best_trial is None:
            raise SearchFailed(f"There is no best trial to apply. {self._why_none()}")
        return apply_trial(trainer, self.study, self.best_trial, self.side_effects)

    def replay(
        self,
        trainer: Any,
        number: int,
        *,
        seed: int | None = None,
        compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    ) -> "ReplayedObjective":
        """Trains a trial again in a temporary folder, and restores the Trainer afterwards.

        On the same machine, with the same versions and the same number of processes and threads, the objective is equal
        to the last bit.

        Args:
            trainer: The Trainer that was searched, or ``make_trainer``.
            number: Number of a complete trial. A trial for which ``hp_space`` changed something besides returning
                values can be repeated in the process of the search alone, and with the Trainer that was searched.
            seed: Replaces the trial's seed.
            compute_objective: The function that the search was given; None if there was none.

        Returns:
            The objective as a float, as ``trial.value`` has it; its ``values`` has those of several objectives, its
            ``metrics`` all numbers of the evaluation.

        Raises:
            ArgumentsError: There is no complete trial with that number.
            ObjectiveError: ``compute_objective`` is missing.
            SearchFailed: The training fails this time.
        """
        from hf_rlsearch.trainer.search.replay import replay

        return replay(
            trainer, self.study, number, seed=seed, compute_objective=compute_objective, side_effects=self.side_effects
        )

    def tune_generation(
        self,
        trainer: "Trainer",
        hp_space: Callable[[Any], Params],
        *,
        n_trials: int = 20,
        compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    ) -> "GenerationResult":
        """Searches generation settings for the best model, without any training.

        The objective is that of the search. Trial 0 has the settings of the best trial. The best settings are in the
        Trainer's model afterwards, so that ``save_model()`` writes them. All processes call this method together.

        Args:
            trainer: The ``Seq2SeqTrainer`` that was searched, which has the best model, with
                ``predict_with_generate=True``.
            hp_space: Returns fields of ``GenerationConfig``, with or without the prefix "gen.".
            n_trials: Number of evaluations at most, trial 0 included; equal settings are evaluated once.
            compute_objective: The function that the search was given; None if there was none.

        Returns:
            The best settings, and the objective with them and with those of trial 0.

        Raises:
            SearchFailed: No trial of the search completed.
            ArgumentsError: The search had several objectives, or the Trainer has no model.
            ObjectiveError: The objective is the loss, which does not depend on generation, or ``compute_objective`` is
                missing.
            SearchSpaceError: Evaluation generates nothing, or a name is no field of ``GenerationConfig``.
        """
        from hf_rlsearch.trainer.generation_tuning import tune_generation

        return tune_generation(
            trainer, self.study, self.best_trial, hp_space, n_trials=n_trials, compute_objective=compute_objective
        )

    def report(self, path: str | Path) -> Path:
        """Writes a report of the search as one HTML file, and returns its path.

        Raises:
            ArgumentsError: ``path`` is a folder, or a storage.
            MissingExtraError: The extra ``report`` is not installed.
        """
        from hf_rlsearch.report import write_report

        return write_report(self.study, path)

    def to_json(self) -> Params:
        """Returns the whole result as plain data, from which ``from_json`` makes an equal result."""
        return {
            "metric": self.metric,
            "output_dir": self.output_dir,
            "stopped_by": self.stopped_by,
            "n_trials": self.n_trials,
            "study_name": self.study.study_name,
            "directions": self.directions,
            "user_attrs": json.loads(json.dumps(self.study.user_attrs)),
            "best_trial": None if self.best_trial is None else self.best_trial.number,
            "gain": self.gain,
            "trials": [_trial_to_json(trial) for trial in self.trials],
        }

    @classmethod
    def load(cls, folder_or_storage: "str | Path | BaseStorage", study_name: str | None = None) -> Self:
        """Opens a search that has ended or still runs; nothing is trained, and nothing is written.

        Args:
            folder_or_storage: The ``output_dir`` of the search; or its storage, as an Optuna storage, a URL such as
                ``sqlite:///search.db``, an SQLite file or an Optuna journal.
            study_name: Which study of the storage; the newest one if left out.

        Returns:
            The result so far. Its ``replay`` and ``apply`` repeat no trial for which ``hp_space`` changed something
            besides returning values.

        Raises:
            StorageError: There is no such folder, storage or study, or no search of a Trainer made the study.
        """
        study = open_study(folder_or_storage, study_name=study_name)
        stored = study.user_attrs
        if attr.OBJECTIVE not in stored:
            raise StorageError(
                f"Study {study.study_name!r} is no search of a Trainer, so it has no SearchResult: another program has "
                "made it, or its search has not begun. hf_rlsearch.report shows any Optuna study."
            )
        names = stored[attr.OBJECTIVE].get("names") if isinstance(stored[attr.OBJECTIVE], dict) else None
        if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
            raise StorageError(
                f"The user attribute {attr.OBJECTIVE!r} of study {study.study_name!r} is {stored[attr.OBJECTIVE]!r}, "
                "expected a dict with the names of the objectives: another program has changed it."
            )
        return cls(
            study=study,
            metric=", ".join(names),
            output_dir=opened_folder(study, folder_or_storage),
            stopped_by=stored.get(attr.STOPPED_BY) or "",
            n_trials=stored.get(attr.N_TRIALS),
        )

    @classmethod
    def from_json(cls, data: Params) -> "SearchResult":
        """Returns a result of ``to_json``, with its study in memory."""
        study = optuna.create_study(
            study_name=data["study_name"], directions=data["directions"], storage=optuna.storages.InMemoryStorage()
        )
        for name, value in data["user_attrs"].items():
            study.set_user_attr(name, value)
        # The study keeps the numbers of the trials, since they are added in order.
        study.add_trials([_trial_from_json(trial) for trial in data["trials"]])
        return cls(study, data["metric"], data["output_dir"], data["stopped_by"], data["n_trials"])

    def exceeded(self, trial: FrozenTrial) -> list[str]:
        """Returns each limit of ``constraints=`` that a trial exceeds, as text such as "peak_memory_gb 17.2 of 16"."""
        return exceeded(self.study.user_attrs.get(attr.CONSTRAINTS), trial.user_attrs.get(attr.MEASURED))

    @property
    def _n_started(self) -> int:
        return sum(trial.state != TrialState.WAITING for trial in self.trials)

    def _why_none(self) -> str:
        """Why there is no best trial."""
        trained = [trial for trial in self.trials if trial.state in (TrialState.COMPLETE, TrialState.PRUNED)]
        over = [trial for trial in trained if not attr.is_feasible(trial)]
        if not over:
            return f"No trial of {self._n_started} completed. See trials_dataframe()['failure'] for the reasons."
        nearest = min(over, key=lambda trial: sum(max(e, 0.0) for e in attr.constraints_of(trial).values()))
        return (
            f"No trial of {self._n_started} kept to the constraints, so there is no best one. Trial {nearest.number} "
            f"came nearest: {', '.join(self.exceeded(nearest))}."
        )

    def _missing(self) -> str:
        """Which trials still run, and in which process; empty if none does."""
        running = [trial for trial in self.trials if trial.state == TrialState.RUNNING]
        if not running:
            return ""
        n_done, n_trials = sum(trial.state.is_finished() for trial in self.trials), self.n_trials or len(self.trials)
        shown = [f"trial {trial.number} ({name_of_owner(trial.user_attrs.get(attr.OWNER))})" for trial in running[:3]]
        more = f" and {len(running) - 3} more" if len(running) > 3 else ""
        return f"{n_done} of {n_trials} trials are finished, still running: {', '.join(shown)}{more}"

    def _waiting(self) -> str:
        """Which of ``initial_trials`` an ended search has not begun; empty if it has begun all of them."""
        given = [t.user_attrs.get(attr.INITIAL) for t in self.trials if t.state == TrialState.WAITING]
        shown = "; ".join(show_params(params) for params in given if params)
        return (
            f"of initial_trials these still wait for a search of more trials, budget or time: {shown}" if shown else ""
        )

    @property
    def _maximize(self) -> bool:
        return self.study.directions[0] == StudyDirection.MAXIMIZE


def best_runs(result: SearchResult, multi: bool) -> "BestRun | list[BestRun]":
    """Returns what ``Trainer.hyperparameter_search`` returns.

    Args:
        result: Of the search.
        multi: The user gave a list of directions, which asks for a list of runs.

    Returns:
        The best trials, in which ``run_summary`` is ``result``. Without ``multi`` a single one, whose ``run_id`` is ""
        and whose ``objective`` is NaN if no trial completed.
    """
    from transformers.trainer_utils import BestRun

    runs = [
        BestRun(str(trial.number), trial.values if multi else trial.values[0], result.hyperparameters(trial), result)
        for trial in result.best_trials
    ]
    if multi:
        return runs
    return runs[0] if runs else BestRun("", math.nan, {}, result)


def _trial_to_json(trial: FrozenTrial) -> Params:
    names = ("number", "values", "params", "user_attrs", "system_attrs")
    times = {name: getattr(trial, name) for name in _TIMES}
    return {
        **{name: getattr(trial, name) for name in names},
        "state": trial.state.name,
        "distributions": {name: distribution_to_json(d) for name, d in trial.distributions.items()},
        "intermediate_values": {str(step): value for step, value in trial.intermediate_values.items()},
        **{name: None if time is None else time.isoformat() for name, time in times.items()},
    }


def _trial_from_json(data: Params) -> FrozenTrial:
    changed = {
        "trial_id": data["number"],
        "value": None,
        "state": TrialState[data["state"]],
        "distributions": {name: json_to_distribution(text) for name, text in data["distributions"].items()},
        "intermediate_values": {int(step): value for step, value in data["intermediate_values"].items()},
        **{name: None if data[name] is None else datetime.fromisoformat(data[name]) for name in _TIMES},
    }
    return FrozenTrial(**{**data, **changed})
