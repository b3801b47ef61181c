"""Lets the meta-trained stop rule decide whether an Optuna trial deserves more training (RLPruner)."""

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
from hf_rlsearch.observation.curve_features import (
    CURVE_FEATURES,
    FORECAST_FEATURES,
    N_ALTERNATIVES,
    chance_to_go_on,
    curve_features,
    is_due,
    leads,
    may_still_rise,
    stands_still,
)
from hf_rlsearch.observation.history import COMPLETE, FAILED, History, continued, newest_counts, stable_distributions
from hf_rlsearch.observation.observation import FACTS, has_learnt, unitless
from hf_rlsearch.observation.trial_attributes import AHEAD, AT_CHANCE, COST, LEADS, ROUNDING, STOP, is_feasible
from hf_rlsearch.optuna.filters import is_duplicate
from hf_rlsearch.optuna.sampler import checked_facts, facts_for_agent
from hf_rlsearch.space import SearchSpace

if TYPE_CHECKING:
    from hf_rlsearch.agent.stop_rule import StopRule

# A configuration that is trained again after it was stopped gets at least this many times the training it had before.
_RETRY_FACTOR = 4
_N_INCUMBENTS = 5  # their neighbours are among the candidates to train instead
_NO_FORECAST = np.zeros((1, len(FORECAST_FEATURES)))


class RLPruner(BasePruner):
    """Stops trials that are not worth their remaining training.

    A policy trained by PPO reads the running curve, all other curves of the study and the remaining budget. Three kinds
    of trials are never stopped: the one that leads at its fidelity, so a study never stops everything; one that is
    better now than all complete trials were at their last report; and one at ``max_resource``, which has ended. After n
    full trainings a trial also goes on if its chance to become the best is at least 1 / (1 + n), that of each of 1 + n
    equal trials, and at least 5 %. Once the budget pays for less than one more training, only trials with a chance
    below 5 % are stopped. Trials are judged at their reports, but at most once in each twelfth of a training, and not
    within the first. At chance level a trial goes on until at least three complete trials have shown that its lag
    behind the best is not made up: where it is not above the untrained model, whose objective the facts may name, or
    where all of its reports are one value at which another trial has begun and stayed, as models do that give every row
    the most frequent class. Neither the direction nor the unit of the objective matters: a loss and its negative
    maximised are stopped at the same reports.

    All trials must report on one axis. Their best reports so far are compared, or their newest ones where the last
    report of every complete trial is its objective. Works with any sampler. Two user attributes of a trial are read
    where they are set:

    - "rl:cost": the cost of its whole training, in full trainings, where trials are of different lengths (epochs are
      searched). Then each trial has its own axis, up to ``max_resource`` for all, and curves are compared after the
      same amount of training: the first third of three epochs with the whole of one epoch.
    - "rl:continues": the number of a pruned trial whose training it continues, and whose reports it repeats. The two
      are one curve, and are paid for once.

    Example:
        >>> import optuna
        >>> from hf_rlsearch import RLPruner
        >>> study = optuna.create_study(direction="maximize", pruner=RLPruner(max_resource=10))

    Args:
        max_resource: Step of the last report of a full training, above 0; or the number of epochs, also where they are
            counted from 0. Where not given it is the largest step of a complete trial. Then the first trial is never
            stopped, nor a trial at a step at which a complete one ended.
        budget: Full trainings that the study will spend in all, above 0, where that is known; the rule is bolder with
            much left. Without a budget the number of trials is taken to end the study, and only trials that have next
            to no chance to become the best are stopped.
        weights: Name or path of the agent's weights; the bundled ones where not given.
        search_space: The space that is searched, for forecasts; read from the study's trials where not given.
        facts: What is known of the task, as for ``RLSampler``.

    Raises:
        ArgumentsError: An argument is out of range, or a fact is unknown.
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
        self._search_space, self._facts = search_space, checked_facts(facts)
        self._planned_budget: float | None = None
        self._finished: dict[tuple[str, int, datetime | None, bool], _Curve | None] = {}

    def plan_for(self, budget: float | None) -> None:
        """Sets how many full trainings the study is going to get, where time or something else ends it.

        Args:
            budget: In all, including those made so far; None where unknown. The pruner's own ``budget`` stays an upper
                bound.
        """
        self._planned_budget = budget

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """True if the trial should stop now; never in a study with several directions, where Optuna has no reports.

        Raises:
            WeightsError: The weights are missing or hold no stop rule.
        """
        # Not from the cache, which has the trials as they were when this one was asked for.
        trials = study._get_trials(deepcopy=False)
        others = [t for t in trials if t.number != trial.number]
        resource = self._max_resource or _longest(others)
        if resource is None or not self._may_judge(trial, others, resource):
            return False
        newest = newest_counts(others, study.directions)
        curve = _Curve.of(trial, study, newest=newest)
        if curve is None:
            return False
        earlier_parts = continued([*others, trial])
        curves = [self._curve(t, study, newest=newest) for t in others if t.number not in earlier_parts]
        rest = [c for c in curves if c is not None]
        here = np.array([[c.shown_after(curve.steps[-1] * curve.cost) for c in rest]])
        ended = [c.last for c in rest if c.complete]
        fidelity = min(float(curve.steps[-1]) / resource, 1.0)
        if leads(curve.shown[-1:], here)[0]:
            return self._goes_on(study, trial, fidelity, LEADS)
        if ended and curve.last > max(ended):
            return self._goes_on(study, trial, fidelity, AHEAD)
        spent = sum(c.spent(resource) for c in rest) + curve.spent(resource)
        total = min((b for b in (self._budget, self._planned_budget) if b is not None), default=np.nan)
        budget = np.array([[max(total - spent, 0.0), total]])
        features = self._features(study, curve, rest, here, resource, budget)
        began = np.array([c.first_two for c in rest]).reshape(1, len(rest), 2)
        if may_still_rise(features, stands_still(curve.reports[None], began))[0]:
            return self._goes_on(study, trial, fidelity, AT_CHANCE)
        limit = float(chance_to_go_on(spent, budget[0, 0]))
        return self._stops(study, trial, others, resource, features, limit)

    def _may_judge(self, trial: FrozenTrial, others: list[FrozenTrial], resource: float) -> bool:
        """Whether trials are judged at the latest report, and a stop would save some training."""
        steps = sorted(trial.intermediate_values)
        if not steps or not is_due(*np.array([0, *steps][-2:]) / resource):
            return False
        complete = [t.last_step for t in others if t.state == TrialState.COMPLETE and t.last_step is not None]
        ends: set[float] = set(complete)
        if self._max_resource is not None:
            # Of n epochs that are counted from 0 the last is n - 1, unless a complete trial shows another end.
            ends = {max(complete, default=resource - 1)} if steps[0] == 0 else set()
        if steps[-1] >= resource or steps[-1] in ends:
            return False  # trained to its end: a stop would save nothing and lose the objective
        stopped = [t.last_step or 0 for t in others if t.state == TrialState.PRUNED and t.params == trial.params]
        return steps[-1] >= _RETRY_FACTOR * max(stopped, default=0)

    def _curve(self, trial: FrozenTrial, study: Study, *, newest: bool) -> _Curve | None:
        """The curve of another trial; those of finished trials, which cannot change, are read once."""
        if not trial.state.is_finished():
            return _Curve.of(trial, study, newest=newest)
        # With the time, since a study in another storage may have the same name.
        key = (study.study_name, trial.number, trial.datetime_complete, newest)
        if key not in self._finished:
            self._finished[key] = _Curve.of(trial, study, newest=newest)
        return self._finished[key]

    def _features(
        self, study: Study, curve: _Curve, rest: list[_Curve], here: FloatArray, resource: float, budget: FloatArray
    ) -> FloatArray:
        """1 x len(CURVE_FEATURES), of a running trial against the rest; the budget as for `curve_features`."""
        best = np.array([max((c.shown[-1] for c in rest), default=curve.shown[-1])])
        facts = {**facts_for_agent(study, self._facts), "maximize": study.directions[0] == StudyDirection.MAXIMIZE}
        return curve_features(
            fidelity=np.array([min(curve.steps[-1] / resource, 1.0)]),
            value=curve.shown[-1:],
            value_at_half=np.array([curve.shown_by(curve.steps[-1] / 2)]),
            others_here=here,
            others_best=np.array([[c.shown[-1] for c in rest]]),
            others_complete=np.array([[c.complete for c in rest]]),
            budget=budget,
            price=np.array([curve.cost / np.mean([c.cost for c in rest]) if rest else 1.0]),
            learnt=has_learnt(
                np.array([[facts.get(name, np.nan) for name in FACTS]], float),
                curve.shown[-1:],
                np.maximum(best, curve.shown[-1:]),
            ),
        )

    def _goes_on(self, study: Study, trial: FrozenTrial, fidelity: float, why: str) -> bool:
        """Stores why a trial goes on whatever the stop rule says; returns False."""
        study._storage.set_trial_system_attr(trial._trial_id, STOP, {"fidelity": round(fidelity, 4), "goes_on": why})
        return False

    def _stops(
        self,
        study: Study,
        trial: FrozenTrial,
        others: list[FrozenTrial],
        resource: float,
        features: FloatArray,
        limit: float,
    ) -> bool:
        """Asks the stop rule about a trial whose chance is below a limit, and stores its reason with the trial."""
        rule, _ = _stop_rule(self._weights)
        forecast = self._forecast(study, trial, others, resource)
        log_odds = float(
            rule.log_odds(np.concatenate([features, _NO_FORECAST if forecast is None else forecast], 1))[0]
        )
        chance = None if forecast is None else float(forecast[0, FORECAST_FEATURES.index("forecast_chance")] + 1) / 2
        reason = {
            "fidelity": round(float(features[0, CURVE_FEATURES.index("fidelity")]), 4),
            "probability": round(float(1 / (1 + np.exp(-log_odds))), 4),
        }
        stops = log_odds > 0 and (chance is None or chance < limit)
        if log_odds > 0 and chance is not None:
            reason |= {"chance": round(chance, 4), **({} if stops else {"limit": round(limit, 4)})}
        study._storage.set_trial_system_attr(trial._trial_id, STOP, reason)
        return stops

    def _forecast(
        self, study: Study, trial: FrozenTrial, others: list[FrozenTrial], resource: float
    ) -> FloatArray | None:
        """1 x len(FORECAST_FEATURES), of the trial and of the best alternative; None where nothing can be predicted."""
        from hf_rlsearch.agent.agent import agent_for

        trials = [*others, trial]
        distributions = stable_distributions(trials)
        if not distributions or not _stop_rule(self._weights)[1]:
            return None
        history = History.from_trials(trials, study.directions, max_resource=resource)
        history, facts = unitless(history.select(history.decided), facts_for_agent(study, self._facts))
        known = self._search_space is not None and set(distributions) == set(self._search_space.names)
        space = self._search_space if known else SearchSpace.from_distributions(distributions)
        assert space is not None
        rng = np.random.default_rng([trial.number, trial.last_step or 0])
        rows = space.candidates(rng, limit=N_ALTERNATIVES, incumbents=history.best(_N_INCUMBENTS))
        fresh = ~is_duplicate(space, history, rows)
        fresh = fresh if fresh.any() else np.ones_like(fresh)  # the simulated searches repeat candidates at that point
        agent = agent_for(self._weights, space)
        return agent.forecast(space, history, trial.number, rows, mask=fresh, facts=facts)


@dataclass(frozen=True)
class _Curve:
    """What one trial is worth at each of its S reports, larger is better.

    Attributes:
        steps: S, ascending, above 0.
        shown: S, the best value so far, or the newest one where the last report of a trial is its objective.
        reports: S, as they are.
        complete: The trial was trained to its end.
        cost: Of the trial's whole training, in full trainings.
    """

    steps: FloatArray
    shown: FloatArray
    reports: FloatArray
    complete: bool
    cost: float

    @classmethod
    def of(cls, trial: FrozenTrial, study: Study, *, newest: bool) -> _Curve | None:
        """None for a trial that violates a constraint or lacks a usable report: failed at once, waiting, only NaN."""
        history = History.from_trials([trial], study.directions, newest=True)
        if not is_feasible(trial):
            return None  # no trial has to be better than one that violates a constraint
        if not len(history) or history.status[0] == FAILED or not len(history.curves[0]):
            return None
        curve = history.curves[0][history.curves[0][:, 0] > 0]
        if not len(curve):
            return None
        stored = trial.user_attrs.get(COST)
        cost = float(stored) if is_number(stored) and 0 < stored < math.inf else 1.0
        shown = curve[:, 1] if newest else np.maximum.accumulate(curve[:, 1])
        return cls(curve[:, 0], shown, curve[:, 1], bool(history.status[0] == COMPLETE), cost)

    @property
    def first_two(self) -> tuple[float, float]:
        """The first two reports; the second is NaN where there is one."""
        return float(self.reports[0]), float(self.reports[1]) if len(self.reports) > 1 else math.nan

    @property
    def last(self) -> float:
        """The last report."""
        return float(self.reports[-1])

    def shown_by(self, step: float) -> float:
        """The value at a step, NaN where nothing was reported so early.

        A third of one training is as much as the whole of one a third as long, though their steps are rounded.
        """
        at = int(np.searchsorted(self.steps, step * (1 + ROUNDING), side="right"))
        return float(self.shown[at - 1]) if at else float("nan")

    def shown_after(self, amount: float) -> float:
        """The value after an amount of training, in steps of a trial of cost 1; NaN where the trial is shorter.

        A complete trial keeps its last value at any later amount.
        """
        step = amount / self.cost
        return self.shown_by(step) if self.complete or self.steps[-1] * (1 + ROUNDING) >= step else float("nan")

    def spent(self, resource: float) -> float:
        """Full trainings that the trial took."""
        return self.cost * (1.0 if self.complete else min(float(self.steps[-1]) / resource, 1.0))


def _longest(trials: list[FrozenTrial]) -> float | None:
    """The largest step that a complete trial reported, None where none did."""
    steps = [t.last_step for t in trials if t.state == TrialState.COMPLETE and t.last_step is not None]
    return float(max(steps)) if steps and max(steps) > 0 else None


@lru_cache(maxsize=4)
def _stop_rule(weights: str | Path | None) -> tuple[StopRule, bool]:
    """The stop rule of some weights, and whether they have a predictor too."""
    from hf_rlsearch.agent.checkpoint import load_weights
    from hf_rlsearch.agent.stop_rule import StopRule

    tensors, _ = load_weights(weights)
    return StopRule(tensors), any(name.startswith("predictor.") for name in tensors)
