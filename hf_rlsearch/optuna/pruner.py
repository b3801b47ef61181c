"""RLPruner: asks the meta-trained stop rule whether an Optuna trial deserves more training."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from optuna.pruners import BasePruner
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import FloatArray
from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.observation.curve_features import FORECAST_FEATURES, N_ALTERNATIVES, curve_features, is_due, leads
from hf_rlsearch.observation.history import COMPLETE, FAILED, History, continued, stable_distributions
from hf_rlsearch.observation.trial_attributes import COST, STOP
from hf_rlsearch.optuna.filters import is_duplicate
from hf_rlsearch.space import SearchSpace

if TYPE_CHECKING:
    from hf_rlsearch.agent.stop_rule import StopRule

_LONGER_LOOK = 4
"""A configuration that is trained again after it was stopped gets at least so many times the training it had then."""

_HOPELESS = 0.05
"""Where nobody counts trainings, the number of trials ends the study. A stopped one is one of them, so stopping saves
time and costs a trial: only those are stopped whose forecast chance to become the best is below this."""
_N_INCUMBENTS = 5  # whose neighbours are among what else could be trained
_NO_FORECAST = np.zeros((1, len(FORECAST_FEATURES)))


class RLPruner(BasePruner):
    """Stops trials that are not worth their remaining training.

    A policy trained by PPO looks at the running curve, at all other curves of the study and at what is left of the
    budget. The trial that leads at its fidelity is never stopped, so a study never stops everything; nor is one that is
    better now than all complete ones were at their last report, or one at ``max_resource``, where it has ended. Trials
    are judged at their reports, but at most once in each twelfth of a training, and not within the first.

    Reports must be on one axis for all trials, and of the best value or of the value as it is: both work. Works alone,
    with any sampler. Two user attributes of a trial are read where they are set:

    - "rl:cost": what its whole training takes, in full trainings, where trials are of different lengths (epochs are
      searched). Then the axis is each trial's own, up to ``max_resource`` for all, and curves are compared after the
      same amount of training: the first third of three epochs with the whole of one.
    - "rl:continues": the number of a pruned trial whose training it goes on with, and whose reports it repeats. The two
      are one curve, and are paid for once.

    Example:
        >>> import optuna
        >>> from hf_rlsearch import RLPruner
        >>> study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=10))

    Args:
        max_resource: Step of a full training, as reported, above 0; the largest step of a finished trial where not
            given, and then the first trial is never stopped.
        budget: Full trainings that the study will spend in all, above 0, where that is known; the rule is bolder with
            much left. Without it the number of trials is taken to end the study, and only trials that have next to no
            chance to become the best are stopped.
        weights: Name or path of the agent's weights; the bundled ones where not given.
        search_space: What is searched, for forecasts; read from the study's trials where not given.
        facts: What is known about the task, as for ``RLSampler``.

    Raises:
        ArgumentsError: An argument is out of range.
    """

    def __init__(
        self,
        *,
        max_resource: float | None = None,
        budget: float | None = None,
        weights: str | Path | None = None,
        search_space: SearchSpace | None = None,
        facts: Mapping[str, float] | None = None,
    ) -> None:
        for name, value in (("max_resource", max_resource), ("budget", budget)):
            if value is not None and not (is_number(value) and 0 < value < math.inf):
                raise ArgumentsError(
                    f"{name}={value!r}: expected a finite number above 0, or None where it is not known."
                )
        self._max_resource, self._budget, self._weights = max_resource, budget, weights
        self._search_space, self._facts = search_space, dict(facts or {})
        self._plan_for: float | None = None
        self._finished: dict[tuple[str, int, datetime | None], _Curve | None] = {}

    def plan_for(self, budget: float | None) -> None:
        """Tells how many full trainings the study is going to get, where time or something else ends it.

        Args:
            budget: In all, those made so far included; None where nobody knows. A ``budget`` given before is the most.
        """
        self._plan_for = budget

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """True if the trial should stop now; never in a study with several directions, where Optuna has no reports.

        Raises:
            WeightsError: The weights are missing or hold no stop rule.
        """
        if not trial.intermediate_values:
            return False
        trials = study._get_trials(deepcopy=False, use_cache=True)
        others = [t for t in trials if t.number != trial.number]
        resource = self._max_resource or _longest(others)
        steps = sorted(trial.intermediate_values)
        if resource is None or not is_due(*np.array([0, *steps][-2:]) / resource):
            return False
        if self._max_resource is not None and steps[-1] >= self._max_resource:
            return False  # trained to its end: a stop would save nothing and lose the objective
        stopped = [t.last_step or 0 for t in others if t.state == TrialState.PRUNED and t.params == trial.params]
        if steps[-1] < _LONGER_LOOK * max(stopped, default=0):
            return False
        own = _Curve.of(trial, study)
        gone = continued([*others, trial])
        rest = [c for t in others if t.number not in gone and (c := self._curve(t, study)) is not None]
        return own is not None and self._stops(study, trial, own, rest, resource)

    def _curve(self, trial: FrozenTrial, study: Study) -> _Curve | None:
        """The curve of another trial; those of finished trials, which cannot change, are read once."""
        if not trial.state.is_finished():
            return _Curve.of(trial, study)
        key = (study.study_name, trial.number, trial.datetime_complete)  # names may come again in another storage
        if key not in self._finished:
            self._finished[key] = _Curve.of(trial, study)
        return self._finished[key]

    def _stops(self, study: Study, trial: FrozenTrial, own: _Curve, rest: list[_Curve], resource: float) -> bool:
        step = own.steps[-1]
        fidelity = min(step / resource, 1.0)
        here = np.array([[c.best_after(step * own.cost) for c in rest]])
        value = own.best[-1:]
        ended = [c.last for c in rest if c.complete]
        if leads(value, here)[0] or (ended and own.last > max(ended)):
            return False
        budgets = [b for b in (self._budget, self._plan_for) if b is not None]
        total = min(budgets, default=np.nan)
        used = sum(c.spent(resource) for c in rest) + own.spent(resource)
        features = curve_features(
            np.array([fidelity]),
            value,
            np.array([own.best_by(step / 2)]),
            here,
            np.array([[c.best[-1] for c in rest]]),
            np.array([[c.complete for c in rest]]),
            np.array([max(total - used, 0.0)]),
            np.array([total]),
        )
        rule = _stop_rule(self._weights)
        forecast = self._forecast(study, trial, resource) if rule.reads_forecasts else None
        features = np.concatenate([features, _NO_FORECAST if forecast is None else forecast], axis=1)
        odds = float(rule.log_odds(features)[0])
        if odds > 0 and not rule.reads_forecasts:  # for the reader of a report
            forecast = self._forecast(study, trial, resource)
        reason = {"fidelity": round(float(fidelity), 4), "probability": round(float(1 / (1 + np.exp(-odds))), 4)}
        chance = None if forecast is None else float(forecast[0, FORECAST_FEATURES.index("forecast_chance")] + 1) / 2
        if odds > 0 and chance is not None:
            reason["chance"] = round(chance, 4)
        study._storage.set_trial_system_attr(trial._trial_id, STOP, reason)
        return odds > 0 and (bool(budgets) or chance is None or chance < _HOPELESS)

    def _forecast(self, study: Study, trial: FrozenTrial, resource: float) -> FloatArray | None:
        """1 x len(FORECAST_FEATURES), beside what else could be trained; None where nothing can be predicted."""
        from hf_rlsearch.agent.agent import load_agent

        trials = [*(t for t in study._get_trials(deepcopy=False, use_cache=True) if t.number != trial.number), trial]
        distributions = stable_distributions(trials)
        if not distributions or not _has_predictor(self._weights):
            return None
        history = History.from_trials(trials, study.directions, max_resource=resource)
        history = history.select(history.decided)
        facts = {"maximize": float(study.direction == StudyDirection.MAXIMIZE), **self._facts}
        known = self._search_space is not None and set(distributions) == set(self._search_space.names)
        space = self._search_space if known else SearchSpace.from_distributions(distributions)
        assert space is not None
        rng = np.random.default_rng([trial.number, trial.last_step or 0])
        rows = space.candidates(rng, limit=N_ALTERNATIVES, incumbents=history.best(_N_INCUMBENTS))
        fresh = ~is_duplicate(space, history, rows)
        fresh = fresh if fresh.any() else np.ones_like(fresh)  # as in the simulated searches
        return load_agent(self._weights).forecast(space, history, trial.number, rows, mask=fresh, facts=facts)


@dataclass(frozen=True)
class _Curve:
    """The best value so far of one trial at each of its reports, larger is better.

    Attributes:
        steps: S, ascending, above 0.
        best: S, running maximum.
        last: What it reported last.
        complete: The trial was trained to its end.
        cost: Of the trial's whole training, in full trainings.
    """

    steps: FloatArray
    best: FloatArray
    last: float
    complete: bool
    cost: float

    @classmethod
    def of(cls, trial: FrozenTrial, study: Study) -> _Curve | None:
        """None for a trial without a usable report: failed at once, waiting, or reporting NaN."""
        history = History.from_trials([trial], study.directions)
        if not len(history) or history.status[0] == FAILED or not len(history.curves[0]):
            return None
        curve = history.curves[0][history.curves[0][:, 0] > 0]
        if not len(curve):
            return None
        told = trial.user_attrs.get(COST)
        cost = float(told) if is_number(told) and 0 < told < math.inf else 1.0
        best, complete = np.maximum.accumulate(curve[:, 1]), bool(history.status[0] == COMPLETE)
        return cls(curve[:, 0], best, float(curve[-1, 1]), complete, cost)

    def best_by(self, step: float) -> float:
        """The best value up to a step, NaN where nothing was reported so early."""
        at = int(np.searchsorted(self.steps, step * (1 + 1e-9), side="right"))
        return float(self.best[at - 1]) if at else float("nan")

    def best_after(self, amount: float) -> float:
        """The best value after an amount of training, in steps of a trial of cost 1; NaN where it did not get there.

        A complete trial has the value that it ended with at any later amount, too.
        """
        step = amount / self.cost
        return self.best_by(step) if self.complete or self.steps[-1] * (1 + 1e-9) >= step else float("nan")

    def spent(self, resource: float) -> float:
        """Full trainings that it took."""
        return self.cost * (1.0 if self.complete else min(float(self.steps[-1]) / resource, 1.0))


def _longest(trials: list[FrozenTrial]) -> float | None:
    """The largest step that a finished trial reported, None where none did."""
    steps = [t.last_step for t in trials if t.state == TrialState.COMPLETE and t.last_step is not None]
    return float(max(steps)) if steps and max(steps) > 0 else None


@lru_cache(maxsize=4)
def _stop_rule(weights: str | Path | None) -> StopRule:
    from hf_rlsearch.agent.checkpoint import load_weights
    from hf_rlsearch.agent.stop_rule import StopRule

    return StopRule(load_weights(weights)[0])


@lru_cache(maxsize=4)
def _has_predictor(weights: str | Path | None) -> bool:
    from hf_rlsearch.agent.checkpoint import load_weights

    return any(name.startswith("predictor.") for name in load_weights(weights)[0])
