"""Reads the trials of a study into plain values for tables and charts, in the sign in which the user measures them.

The agent reads the same trials as arrays in which larger is better. A reader of a report wants to see numbers as they
were measured, with times, memory and reasons, so this is a second view, for display alone.
"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import optuna
from optuna.distributions import BaseDistribution
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import Params
from hf_rlsearch.observation import trial_attributes as names
from hf_rlsearch.observation.trial_attributes import BASELINE, CONFIRM, FULL_TRAINING, SEARCH
from hf_rlsearch.optuna.confirmation import Confirmation, confirmations, winner
from hf_rlsearch.report.format import exceeded, number

# More than any search has: a century, an exabyte, a million full trainings.
_MOST_SECONDS, _MOST_BYTES, _MOST_TRAININGS = 3e9, 1e18, 1e6
# Python writes integers of up to 4,300 digits.
_MOST_BITS = 14_000

ONE_BY_ONE = "one_by_one"
"""Key of `TrialRecord.decision` where hyperparameters were chosen singly: name -> what was stored about each."""


@dataclass(frozen=True, kw_only=True)
class TrialRecord:
    """One trial as a report shows it.

    Attributes:
        number: As in Optuna.
        status: complete, pruned, failed or running.
        role: baseline (the user's configuration), search, or confirm (one of the best again, under a new seed).
        params: Hyperparameters by name: the exact values of the training where the search stored them.
        given: The params that the user gave to be trained first; empty otherwise.
        returned: What ``hp_space`` returned, by name; empty for the baseline and in studies of other origin.
        values: One number per objective; None unless complete with finite numbers.
        curve: (step, value) of each evaluation, ascending in step, without values that are not finite.
        fidelity: Share of the trial's own training that is done, in [0, 1].
        started_at: The share at which the trial started, above 0 where it resumed a stopped trial.
        continues: The number of that stopped trial; None for a fresh start.
        repeats: The number of the failed trial that a callback of the storage has queued again; None for any other.
        paused: Whether the trial was stopped and left a checkpoint that another trial could resume.
        spent: Amount of training that this trial added, in full trainings.
        cost: Cost of its whole training, in full trainings.
        started: Wall clock, local time.
        ended: Wall clock, local time; None while it runs.
        seconds: Wall-clock time of the trial; None where it is not known yet.
        memory: Peak memory while the trial ran, in bytes; None where it was not measured.
        resident: Main memory of the process after the trial, in bytes; None where it was not measured.
        exceeds: The constraints that the trial violates and by how much, in one line; None where it violates none.
        failure: Why the trial failed, in one line; None where it did not fail.
        traceback: Traceback of the failure; empty where there is none.
        decision: What the sampler stored about its choice; empty where another sampler chose.
        stop: What the pruner stored about its last judgement; empty without one.
        metrics: All numbers of the scored evaluation.
        arguments: The resolved training arguments; empty in studies of other origin.
    """

    number: int
    status: str
    role: str
    params: Params
    given: Params
    returned: Params
    values: tuple[float, ...] | None
    curve: tuple[tuple[float, float], ...]
    fidelity: float
    started_at: float
    continues: int | None
    repeats: int | None
    paused: bool
    spent: float
    cost: float
    started: datetime
    ended: datetime | None
    seconds: float | None
    memory: float | None
    resident: float | None
    exceeds: str | None
    failure: str | None
    traceback: str
    decision: dict[str, Any]
    stop: dict[str, Any]
    metrics: dict[str, float]
    arguments: dict[str, Any]

    @property
    def score(self) -> float | None:
        """The first objective where it is known, else the last intermediate value, else None."""
        if self.values is not None:
            return self.values[0]
        return self.curve[-1][1] if self.curve else None


@dataclass(frozen=True, kw_only=True)
class SearchRecord:
    """One search as a report shows it.

    Attributes:
        name: The name of the study.
        metrics: Name of each objective, as far as it is known.
        minimize: Per objective, True where smaller is better.
        trials: In the order of their numbers, waiting ones left out.
        distributions: Hyperparameter -> distribution, of all that any trial used; first those of the trial that used
            most, in its order.
        max_step: The step of a full training.
        constrained: Whether constraints are stored with any trial.
        fractions: Whether steps are ten-thousandths of a trial's own training.
        confirmations: The best few configurations and the baseline under new seeds, after a search with ``confirm=``.
        attributes: User attributes of the study.
        versions: Library -> version in the last trial; empty in studies of other origin.
    """

    name: str
    metrics: tuple[str, ...]
    minimize: tuple[bool, ...]
    trials: tuple[TrialRecord, ...]
    distributions: dict[str, BaseDistribution]
    max_step: float
    constrained: bool
    fractions: bool
    confirmations: tuple[Confirmation, ...]
    attributes: dict[str, Any]
    versions: dict[str, str]

    @classmethod
    def from_study(cls, study: optuna.Study) -> SearchRecord:
        """Reads every trial of `study` once."""
        frozen = [t for t in study.get_trials(deepcopy=False) if t.state != TrialState.WAITING]
        fractions = any(_role(t) for t in frozen)
        max_step = float(FULL_TRAINING) if fractions else _longest(frozen)
        # In a study of other origin these names may mean other things.
        needed = (names.REEVALUATES, names.SEED)
        repeated = [t for t in frozen if all(isinstance(t.user_attrs.get(name), int) for name in needed)]
        versions = as_dict(frozen[-1].user_attrs.get(names.VERSIONS)) if frozen else {}
        # The baseline, which is the first, lacks a hyperparameter whose own value lies outside of the space.
        widest = sorted(frozen, key=lambda t: -len(t.distributions))[:1]
        return cls(
            name=study.study_name,
            metrics=_metric_names(study),
            minimize=tuple(d == optuna.study.StudyDirection.MINIMIZE for d in study.directions),
            trials=tuple(_record(t, max_step, study.user_attrs.get(names.CONSTRAINTS)) for t in frozen),
            constrained=any(names.constraints_of(t) for t in frozen),
            distributions={name: dist for t in widest + frozen for name, dist in t.distributions.items()},
            max_step=max_step,
            fractions=fractions,
            confirmations=tuple(confirmations(repeated)),
            attributes=dict(study.user_attrs),
            versions={name: str(version) for name, version in versions.items()},
        )

    def scored(self) -> list[TrialRecord]:
        """Complete trials with an objective, confirmations left out: they repeat a trial and would count it twice."""
        return [t for t in self.trials if t.values is not None and t.role != CONFIRM]

    def rankable(self) -> list[TrialRecord]:
        """Those of `scored` that violate no constraint: the trials that can be the best."""
        return [trial for trial in self.scored() if trial.exceeds is None]

    def scores(self) -> dict[int, float]:
        """Trial number -> `TrialRecord.score`, of all trials that have any."""
        return {t.number: t.score for t in self.trials if t.score is not None}

    def best(self) -> TrialRecord | None:
        """The winner of the confirmations, else the incumbent on the first objective; None where no trial can be it."""
        trials = self.rankable()
        numbers = {trial.number for trial in trials}
        found = [each for each in self.confirmations if each.number in numbers]
        confirmed = winner(found, maximize=not self.minimize[0])
        if confirmed is not None:
            trials = [t for t in trials if t.number == confirmed.number] or trials
        choose = min if self.minimize[0] else max
        return choose(trials, key=lambda t: t.values[0]) if trials else None  # type: ignore[index]

    def baseline(self) -> TrialRecord | None:
        """The trial with the user's configuration, where there is one."""
        return next((t for t in self.trials if t.role == BASELINE), None)


def finite(value: Any) -> float | None:
    """`value` as a float if it is a finite number, else None; attributes may hold anything."""
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    try:
        return float(value) if math.isfinite(value) else None
    except OverflowError:  # an integer beyond float
        return None


def as_dict(value: Any) -> dict[str, Any]:
    """A dict that may be stored as itself or as JSON text; anything else counts as absent."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):  # no JSON, or a number of thousands of digits
            return {}
    return {str(key): _writable(item) for key, item in value.items()} if isinstance(value, dict) else {}


def _writable(value: Any) -> Any:
    """The value with a text instead of each integer that Python refuses to write because of its length."""
    if isinstance(value, dict | list):
        return as_dict(value) if isinstance(value, dict) else [_writable(item) for item in value]
    if isinstance(value, int) and value.bit_length() > _MOST_BITS:
        return f"an integer of {value.bit_length():,} bits"
    return value


def _amount(value: Any, most: float) -> float | None:
    """`value` if it is an amount that can be true, else None: a clock may have been set back while a trial ran."""
    number = finite(value)
    return number if number is not None and 0 <= number <= most else None


def _role(trial: FrozenTrial) -> str | None:
    """The purpose of a trial; None in a study of other origin."""
    role = trial.user_attrs.get(names.ROLE)
    return role if role in (BASELINE, SEARCH, CONFIRM) else None


def _longest(trials: list[FrozenTrial]) -> float:
    """The last step of the longest complete trial, or of the longest one before any is complete."""
    steps = [(t.state == TrialState.COMPLETE, finite(t.last_step) or 0.0) for t in trials]
    return max(max(steps, default=(False, 1.0))[1], 1.0)


def _metric_names(study: optuna.Study) -> tuple[str, ...]:
    """Names that Optuna has, else names that the search stored, else generic ones."""
    stored = study.metric_names or as_dict(study.user_attrs.get(names.OBJECTIVE)).get("names")
    listed = [stored] if isinstance(stored, str) else stored
    n = len(study.directions)
    if isinstance(listed, list | tuple) and len(listed) == n:
        return tuple(map(str, listed))
    return ("objective",) if n == 1 else tuple(f"objective {i}" for i in range(n))


def _record(trial: FrozenTrial, max_step: float, limits: Any) -> TrialRecord:
    attrs = trial.user_attrs
    is_complete = trial.state == TrialState.COMPLETE and all(map(math.isfinite, trial.values))
    has_failed = trial.state == TrialState.FAIL or (trial.state == TrialState.COMPLETE and not is_complete)
    failure, traceback = _failure(trial) if has_failed else (None, "")
    fidelity = 1.0 if is_complete else min(max((finite(trial.last_step) or 0.0) / max_step, 0.0), 1.0)
    spent, seconds = _amount(attrs.get(names.SPENT), _MOST_TRAININGS), _amount(attrs.get(names.SECONDS), _MOST_SECONDS)
    if seconds is None and trial.duration is not None:
        seconds = _amount(trial.duration.total_seconds(), _MOST_SECONDS)
    exact = as_dict(attrs.get(names.HYPERPARAMETERS))
    started = trial.datetime_start or datetime.min  # Optuna has a start of every trial that is not waiting
    return TrialRecord(
        number=trial.number,
        status="failed" if has_failed else trial.state.name.lower(),
        role=_role(trial) or SEARCH,
        params={**exact, **trial.params, **exact},
        given=as_dict(attrs.get(names.INITIAL)),
        returned=as_dict(attrs.get(names.VALUES)),
        values=tuple(trial.values) if is_complete else None,
        curve=tuple((s, v) for s, v in _points(trial) if math.isfinite(v)),
        fidelity=fidelity,
        started_at=(_amount(attrs.get(names.STARTED_AT), FULL_TRAINING) or 0.0) / FULL_TRAINING,
        continues=attrs[names.CONTINUES] if isinstance(attrs.get(names.CONTINUES), int) else None,
        repeats=names.repeats(trial),
        paused=names.PAUSED in attrs,
        spent=fidelity if spent is None else spent,
        cost=_amount(attrs.get(names.COST), _MOST_TRAININGS) or 1.0,
        started=started,
        ended=trial.datetime_complete and max(trial.datetime_complete, started),
        seconds=seconds,
        memory=_amount(attrs.get(names.PEAK_MEMORY), _MOST_BYTES),
        resident=_amount(attrs.get(names.RESIDENT_MEMORY), _MOST_BYTES),
        exceeds=_exceeds(trial, limits),
        failure=failure,
        traceback=traceback,
        decision=_decision(trial),
        stop=as_dict(trial.system_attrs.get(names.STOP)),
        metrics={k: float(v) for k, v in as_dict(attrs.get(names.METRICS)).items() if finite(v) is not None},
        arguments=as_dict(attrs.get(names.ARGUMENTS)),
    )


def _exceeds(trial: FrozenTrial, limits: Any) -> str | None:
    """The violated constraints, with what was measured where the search stored it."""
    violated = {name: value for name, value in names.constraints_of(trial).items() if value > 0}
    if not violated:
        return None
    texts = exceeded(limits, as_dict(trial.user_attrs.get(names.MEASURED)))
    return ", ".join(texts or [f"{name} by {number(value)}" for name, value in violated.items()])


def _points(trial: FrozenTrial) -> list[tuple[float, float]]:
    """The learning curve in the order of its steps, without steps beyond float."""
    reported = sorted(trial.intermediate_values.items())
    return [(at, value) for step, value in reported if (at := finite(step)) is not None]


def _decision(trial: FrozenTrial) -> dict[str, Any]:
    """The stored decision about the whole configuration, else those about its values one by one.

    That of a trial which repeats a failed one is a copy: nothing was decided.
    """
    if names.repeats(trial) is not None:
        return {}
    if names.DECISION in trial.system_attrs:
        return as_dict(trial.system_attrs[names.DECISION])
    prefix = f"{names.DECISION}:"
    single = {k.removeprefix(prefix): as_dict(v) for k, v in trial.system_attrs.items() if k.startswith(prefix)}
    return {ONE_BY_ONE: single} if single else {}


def _failure(trial: FrozenTrial) -> tuple[str, str]:
    """Reason of a failed trial in one line, and its traceback."""
    if trial.state == TrialState.COMPLETE:
        return f"the objective is {trial.values}, which is not a finite number", ""
    stored = trial.user_attrs.get(names.FAILURE, trial.system_attrs.get("fail_reason"))
    if isinstance(stored, dict):
        return str(stored.get("reason", "unknown")), str(stored.get("traceback", ""))
    lines = str(stored or "no reason was stored").strip().splitlines() or [""]
    # The last line of a traceback names the exception; a reason in words starts with its summary.
    return (lines[-1] if lines[0].startswith("Traceback") else lines[0]), "\n".join(lines[1:])
