"""What a search returns: every trial, the best one, the gain over the user's own arguments, ways to use it."""

import datetime
import json
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import optuna
from optuna.distributions import distribution_to_json, json_to_distribution
from optuna.study import StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.observation.trial_attributes import (
    BASELINE,
    CHECKPOINT,
    CONFIRM,
    FAILURE,
    HYPERPARAMETERS,
    SECONDS,
    role,
)
from hf_rlsearch.optuna import confirmation as confirm


def trial_to_json(trial: FrozenTrial) -> Params:
    """A trial as plain data."""
    return {
        "number": trial.number,
        "state": trial.state.name,
        "values": trial.values,
        "params": trial.params,
        "distributions": {name: distribution_to_json(d) for name, d in trial.distributions.items()},
        "intermediate_values": {str(step): value for step, value in trial.intermediate_values.items()},
        "user_attrs": trial.user_attrs,
        "system_attrs": trial.system_attrs,
        "start": _stamp(trial.datetime_start),
        "complete": _stamp(trial.datetime_complete),
    }


def trial_from_json(data: Params) -> FrozenTrial:
    """The inverse of ``trial_to_json``."""
    return FrozenTrial(
        number=data["number"],
        trial_id=data["number"],
        state=TrialState[data["state"]],
        value=None,
        values=data["values"],
        params=data["params"],
        distributions={name: json_to_distribution(text) for name, text in data["distributions"].items()},
        intermediate_values={int(step): value for step, value in data["intermediate_values"].items()},
        user_attrs=data["user_attrs"],
        system_attrs=data["system_attrs"],
        datetime_start=_time(data["start"]),
        datetime_complete=_time(data["complete"]),
    )


def trial_to_row(trial: FrozenTrial, role: str, hyperparameters: Params, n_objectives: int) -> Params:
    """A trial as a row of a table; values are NaN where it has none.

    Args:
        trial: Of a search.
        role: What it was for.
        hyperparameters: The exact values that it was trained with.
        n_objectives: Number of directions of the search.
    """
    values = list(trial.values or [math.nan] * n_objectives)
    return {
        "number": trial.number,
        "role": role,
        "state": trial.state.name.lower(),
        **{("value" if len(values) == 1 else f"value_{i}"): value for i, value in enumerate(values)},
        **{f"params_{name}": value for name, value in hyperparameters.items()},
        "seconds": trial.user_attrs.get(SECONDS),
        "failure": (trial.user_attrs.get(FAILURE) or {}).get("reason"),
    }


def _stamp(when: datetime.datetime | None) -> str | None:
    return None if when is None else when.isoformat()


def _time(text: str | None) -> datetime.datetime | None:
    return None if text is None else datetime.datetime.fromisoformat(text)


if TYPE_CHECKING:
    from hf_rlsearch.trainer.generation_tuning import GenerationResult


@dataclass(frozen=True)
class SearchResult:
    """A finished or interrupted search; equal on every rank.

    Attributes:
        study: The Optuna study; on ranks other than 0 a copy of it in memory.
        metric: Name of the objective.
        output_dir: Where the trials wrote.
        stopped_by: Why the search ended: "n_trials", "budget", "timeout", "target" or "study.stop".
        n_trials: Total number of trials asked for; None where only ``budget`` or ``timeout`` bounds them.
    """

    study: optuna.Study
    metric: str
    output_dir: str
    stopped_by: str
    n_trials: int | None

    @property
    def trials(self) -> list[FrozenTrial]:
        """Every trial, in order."""
        return self.study.get_trials(deepcopy=False)

    @property
    def directions(self) -> list[str]:
        """ "minimize" or "maximize" for each objective."""
        return [direction.name.lower() for direction in self.study.directions]

    @property
    def best_trials(self) -> list[FrozenTrial]:
        """The best trial; with several directions those that none beats in all of them; empty if none completed."""
        complete = [t for t in self.trials if t.state == TrialState.COMPLETE and role(t) != CONFIRM]
        if not complete:
            return []
        if len(self.directions) > 1:
            numbers = {trial.number for trial in complete}
            return [trial for trial in self.study.best_trials if trial.number in numbers]
        confirmed = confirm.winner(self.confirmations, maximize=self._maximize)
        if confirmed is not None:
            return [trial for trial in complete if trial.number == confirmed.number]
        return [min(complete, key=lambda t: (-self._gain_sign() * float(t.values[0]), t.number))]

    @property
    def best_trial(self) -> FrozenTrial | None:
        """The best trial; with several directions the first of the best; None if none completed."""
        best = self.best_trials
        return best[0] if best else None

    @property
    def best_checkpoint(self) -> str | None:
        """The folder of the best trial's model; None where none was kept on disk.

        A Trainer that was searched holds that model already. Of trainers that a function has made this is the place.
        """
        best = self.best_trial
        return None if best is None else best.user_attrs.get(CHECKPOINT)

    @property
    def baseline(self) -> FrozenTrial | None:
        """The trial of the user's own arguments, None if it was switched off."""
        return next((trial for trial in self.trials if role(trial) == BASELINE), None)

    @property
    def gain(self) -> float | None:
        """How much better the best trial scored than the user's own arguments; None if that is not known."""
        best, baseline = self.best_trial, self.baseline
        if len(self.directions) > 1 or best is None or baseline is None or baseline.state != TrialState.COMPLETE:
            return None
        return self._gain_sign() * (float(best.values[0]) - float(baseline.values[0]))

    @property
    def confirmations(self) -> list[confirm.Confirmation]:
        """The best few and the user's own configuration under new seeds; empty without ``confirm=``."""
        return confirm.confirmations(self.trials)

    @property
    def confirmed_gain(self) -> confirm.Gain | None:
        """The gain over the user's own arguments under new seeds, with its interval; None if that is not known."""
        found = {confirmation.number: confirmation for confirmation in self.confirmations}
        best, own = self.best_trial, self.baseline
        if best is None or own is None or best.number not in found or own.number not in found:
            return None
        return confirm.gain(found[best.number], found[own.number], maximize=self._maximize)

    def hyperparameters(self, trial: FrozenTrial) -> Params:
        """A trial's hyperparameters, the exact values that it was trained with."""
        return dict(trial.user_attrs.get(HYPERPARAMETERS, trial.params))

    def trials_dataframe(self) -> Any:
        """One row for each trial: number, role, state, values, hyperparameters, seconds, and how it failed."""
        import pandas as pd

        n = len(self.directions)
        return pd.DataFrame([trial_to_row(t, role(t), self.hyperparameters(t), n) for t in self.trials])

    def summary(self) -> str:
        """Two or three lines for people."""
        best = self.best_trial
        if best is None:
            return f"No trial of {len(self.trials)} completed. See trials_dataframe()['failure'] for the reasons."
        lines = [f"{self.metric}: {_numbers(best.values)} in trial {best.number} of {len(self.trials)}"]
        if self.gain is not None and self.baseline is not None:
            yours = _numbers(self.baseline.values)
            lines.append(
                f"your own arguments: {yours}, gain {self.gain:.4g}"
                if self.gain > 0
                else f"no gain found over your own arguments ({yours})"
            )
        lines += self._confirmed_lines()
        lines.append(f"hyperparameters: {self.hyperparameters(best)}")
        return "\n".join(lines)

    def apply(self, trainer: Any) -> Any:
        """Gives a Trainer the best trial's arguments, so that ``train()`` repeats that trial.

        Unlike setting ``trainer.args`` fields one by one, this refreshes what the Trainer has derived from them, such
        as the batch size, and lets ``model_init`` build the best trial's model.

        Args:
            trainer: The one that was searched or another of the same kind; its ``output_dir`` is kept.

        Returns:
            The same Trainer.

        Raises:
            SearchFailed: No trial completed.
        """
        from hf_rlsearch.errors import SearchFailed
        from hf_rlsearch.trainer.search.replay import apply_trial

        if self.best_trial is None:
            raise SearchFailed("There is no best trial to apply: none completed.")
        return apply_trial(trainer, self.study, self.best_trial)

    def replay(
        self,
        trainer: Any,
        number: int,
        *,
        seed: int | None = None,
        compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    ) -> tuple[float, ...]:
        """Trains one trial again, in a temporary folder; the Trainer is what it was afterwards.

        On the same machine with the same versions, number of processes and threads the objective is equal to the last
        bit.

        Args:
            trainer: As it was given to the search.
            number: Of the trial; not one that was pruned or failed.
            seed: A new one instead of the trial's.
            compute_objective: Needed where the search had one.

        Returns:
            The objective value(s).

        Raises:
            ArgumentsError: There is no such complete trial, or ``compute_objective`` is missing.
            SearchFailed: The training fails this time.
        """
        from hf_rlsearch.trainer.search.replay import replay

        return replay(trainer, self.study, number, seed=seed, compute_objective=compute_objective)

    def tune_generation(
        self,
        trainer: Any,
        hp_space: Callable[[Any], Params],
        *,
        n_trials: int = 20,
        compute_objective: Callable[[dict[str, Any]], Any] | None = None,
    ) -> "GenerationResult":
        """Searches how the best model generates, without training it again.

        The objective is the search's own. Trial 0 has the settings of the best trial. The best settings are in the
        Trainer's model afterwards, so that ``save_model()`` writes them. With several processes all call it together.

        Args:
            trainer: The ``Seq2SeqTrainer`` that was searched, with ``predict_with_generate=True``: it has the best
                model.
            hp_space: Returns fields of ``GenerationConfig``, with or without the prefix "gen.".
            n_trials: Number of evaluations at most, trial 0 included; equal settings are evaluated once.
            compute_objective: Needed where the search had one.

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
        """Writes a report of the search as one HTML file.

        Args:
            path: Of the file.

        Returns:
            Its path.
        """
        from hf_rlsearch.report import write_report

        return write_report(self.study, path)

    def to_json(self) -> Params:
        """The whole result as plain data: what ``from_json`` reads."""
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
            "trials": [trial_to_json(trial) for trial in self.trials],
        }

    @classmethod
    def from_json(cls, data: Params) -> "SearchResult":
        """A result from ``to_json``, its study in memory."""
        study = optuna.create_study(
            study_name=data["study_name"], directions=data["directions"], storage=optuna.storages.InMemoryStorage()
        )
        for name, value in data["user_attrs"].items():
            study.set_user_attr(name, value)
        study.add_trials([trial_from_json(trial) for trial in data["trials"]])
        return cls(
            study=study,
            metric=data["metric"],
            output_dir=data["output_dir"],
            stopped_by=data["stopped_by"],
            n_trials=data["n_trials"],
        )

    def _confirmed_lines(self) -> list[str]:
        found = {confirmation.number: confirmation for confirmation in self.confirmations}
        best, gained = self.best_trial, self.confirmed_gain
        if best is None or best.number not in found:
            return []
        new = found[best.number]
        lines = [f"under {len(new.values)} new seeds: {new.mean:.4g} ± {new.spread:.2g}"]
        if gained is not None and best is not self.baseline:
            interval = f"{gained.mean:.4g} ({gained.low:.4g} to {gained.high:.4g})"
            lines.append(f"confirmed gain {interval}" if gained.found else f"no gain found under new seeds: {interval}")
        return lines

    @property
    def _maximize(self) -> bool:
        return self.study.directions[0] == StudyDirection.MAXIMIZE

    def _gain_sign(self) -> float:
        return 1.0 if self._maximize else -1.0


def _numbers(values: Sequence[float]) -> str:
    return ", ".join(f"{value:.4g}" for value in values)


def best_runs(result: SearchResult, multi: bool) -> Any:
    """What the Trainer returns: a ``BestRun``, or a list of them for several directions."""
    runs = [_run(result, trial, multi) for trial in result.best_trials]
    if multi:
        return runs
    return runs[0] if runs else _bestrun_class()("", math.nan, {}, result)


def _run(result: SearchResult, trial: FrozenTrial, multi: bool) -> Any:
    values: Sequence[float] = list(trial.values)
    objective = values if multi else values[0]
    return _bestrun_class()(str(trial.number), objective, result.hyperparameters(trial), result)


def _bestrun_class() -> Any:
    from transformers.trainer_utils import BestRun

    return BestRun
