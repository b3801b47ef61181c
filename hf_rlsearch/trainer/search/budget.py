"""Checks the limits of a search; computes the budget that is left, costs of trainings, and what more would bring."""

import math
import time
from collections.abc import Sequence
from dataclasses import replace
from functools import lru_cache, partial
from typing import TYPE_CHECKING

import numpy as np
import optuna
from optuna.trial import FrozenTrial, TrialState

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.observation.curve_features import HOPELESS
from hf_rlsearch.observation.trial_attributes import (
    CONFIRM,
    COST,
    HYPERPARAMETERS,
    OWNER,
    ROLE,
    ROUNDING,
    SEARCH,
    SECONDS,
    counted,
    finished,
    finished_within_limits,
    is_feasible,
    is_hopeless,
    n_trials_used,
    newly_spent,
    role,
    share_trained,
    spent_on,
)
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.optuna.pruner import RLPruner
from hf_rlsearch.optuna.sampler import CostCooling, ExpectedGain
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.trainer.search.leaderboard import rankable
from hf_rlsearch.trainer.session.arguments import training_cost
from hf_rlsearch.trainer.session.progress import as_time
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state
from hf_rlsearch.trainer.setup.config import AUTO, RL_PRUNER, SearchConfig
from hf_rlsearch.trainer.setup.hp_space import ConfigurationSampler
from hf_rlsearch.trainer.storage.resume import trials_of_other_processes

if TYPE_CHECKING:
    from transformers import TrainingArguments


HORIZON, LEAST_SHARE = 10, 0.05
"""``patience="auto"`` ends a search when so many more trials are expected to gain less than this share.

It is a share of the distance from the median to the best configuration, chosen on recorded tables for validation, see
docs/background/benchmark.md."""
# Trials in an hour of which a gain is predicted: more than there are candidates.
_MAX_AHEAD = 1000
# Candidates among which the shortest training is looked for, and the share of its estimated time that must be left: the
# estimate is not exact.
_N_PRICED, _MAY_FIT = 512, 0.8


class CostModel:
    """Estimates what trainings cost, in trainings of the baseline."""

    def __init__(self, configurations: ConfigurationSampler, n_rows: int | None, world_size: int) -> None:
        self._configurations, self._n_rows, self._world_size = configurations, n_rows, world_size
        self._baseline = configurations.frozen.original()
        # Thousands of candidates differ in few of the values that the cost depends on.
        self._cached_cost = lru_cache(maxsize=4096)(self._planned_cost)
        self._cached_columns = lru_cache(maxsize=8)(self._relevant_columns)

    @property
    def space(self) -> SearchSpace:
        """The space that is searched."""
        return self._configurations.space

    def cost_of(self, args: "TrainingArguments") -> float:
        """Returns the cost of a whole training, by the number of samples that it trains on."""
        return training_cost(args, self._baseline, self._n_rows, self._world_size)

    def planned_costs(self, space: SearchSpace, candidates: IntArray) -> FloatArray:
        """Returns C costs of C x H candidates, by the number of samples that they train on."""
        columns = self._cached_columns(space)
        relevant = np.zeros_like(candidates)
        relevant[:, columns] = candidates[:, columns]
        unique, inverse = np.unique(relevant, axis=0, return_inverse=True)
        costs = [self._cached_cost(space, tuple(row)) for row in unique.tolist()]
        return np.array(costs, dtype=np.float64)[inverse.reshape(-1)]

    def timed_costs(self, space: SearchSpace, candidates: IntArray, study: optuna.Study) -> FloatArray:
        """Returns the planned costs, times how much longer a sample takes than in the finished trials on average.

        Small batches and large models take longer for a sample. How much longer is estimated by ridge regression of the
        log seconds of the finished trials on their levels; the fewer trials, the closer the estimate stays to 1. At
        least one trial must have been timed.
        """
        from sklearn.linear_model import Ridge

        trials = [trial for trial in study.get_trials(deepcopy=False) if _is_timed(trial)]
        spent = np.array([spent_on(trial) for trial in trials])
        seconds = np.array([float(trial.user_attrs[SECONDS]) for trial in trials])
        # Values of the baseline that lie outside of the space are none of its params.
        exact = [{**trial.params, **trial.user_attrs.get(HYPERPARAMETERS, {})} for trial in trials]
        levels = np.array([space.nearest_levels(params) for params in exact])
        slowness = np.log(seconds / spent) - np.log(seconds.sum() / spent.sum())
        model = Ridge(alpha=1.0).fit(_features(space, levels), slowness, sample_weight=spent / spent.mean())
        factors = np.exp(model.predict(_features(space, candidates)))
        return np.asarray(self.planned_costs(space, candidates) * factors)

    def _planned_cost(self, space: SearchSpace, candidate: tuple[int, ...]) -> float:
        try:
            with preserve_random_state():
                args = self._configurations.arguments(self._configurations.values_of(space.decode(candidate)))
        except Exception:  # a refused combination; the trial fails with the reason if this candidate is sampled
            return 1.0
        return self.cost_of(args)

    def _relevant_columns(self, space: SearchSpace) -> list[int]:
        """The hyperparameters that change the cost, with all others at their lowest or at their highest levels."""
        relevant = set()
        for base in (np.zeros_like(space.n_levels), space.n_levels - 1):
            for h, n in enumerate(space.n_levels):
                axis = np.tile(base, (n, 1))
                axis[:, h] = np.arange(n)
                if len({self._cached_cost(space, tuple(row)) for row in axis.tolist()}) > 1:
                    relevant.add(h)
        return sorted(relevant)


class RemainingBudget:
    """Checks the limits of a search (``n_trials``, ``budget``, ``timeout``) and computes how much of them is left.

    Attributes:
        deadline: ``time.monotonic()`` at which ``timeout`` ends the search; infinity without one.
    """

    def __init__(self, study: optuna.Study, settings: SearchConfig, cost_model: CostModel, started: float) -> None:
        self._study, self._settings, self._cost_model = study, settings, cost_model
        self.deadline = math.inf if settings.timeout is None else started + settings.timeout

    def reached(self) -> str | None:
        """Returns which of "n_trials", "timeout" and "budget" is used up; None where another trial may start."""
        waiting = self._study.get_trials(deepcopy=False, states=(TrialState.WAITING,))
        # Interrupted trials of this search, which have an owner, run again; trials that the user has queued may wait.
        is_interrupted = any(trial.user_attrs.get(OWNER) for trial in waiting)
        if not self._fits_another(self._started()) and not is_interrupted:
            return "n_trials"
        if self.is_out_of_time():
            return "timeout"
        return "budget" if self._settings.budget is not None and self._committed() >= self._settings.budget else None

    def too_little_left(self) -> tuple[str, str] | None:
        """Returns which of "timeout" and "budget" leaves too little for any training, and what is left of it as text.

        None where a training fits, or the rest of a stopped one that can be resumed; also where none was timed yet, and
        where an interrupted or queued trial is to run. To be called after ``update_sampler_and_pruner``.
        """
        limits = self._limits()
        waiting = self._study.get_trials(states=(TrialState.WAITING,), deepcopy=False)
        if not limits or not self._finished() or waiting:
            return None
        name = min(limits, key=lambda each: limits[each].left)
        left, sampler = limits[name].left, self._study.sampler
        shortest = sampler.lowest_price(self._study) if isinstance(sampler, RLSampler) else None
        if shortest is None:  # another sampler, which resumes nothing
            space = self._cost_model.space
            rows = space.candidates(np.random.default_rng(0), limit=_N_PRICED)
            shortest = float(limits[name].price(space, rows).min())
        if left >= shortest * (_MAY_FIT if name == "timeout" else 1 - ROUNDING):
            return None
        if name == "budget":
            rest = f"{left:.2g} of the budget is left, and the shortest training costs {shortest:.2g}"
        else:
            seconds = self._seconds_per_training() or 0.0
            needed = as_time(shortest * seconds)
            rest = f"{as_time(left * seconds)} are left, and the shortest training takes about {needed}"
        return name, rest + self._not_resumed(left)

    def _not_resumed(self, left: float) -> str:
        """Says which trials that were stopped without a chance would have fitted what is left; empty without any."""
        if not self._settings.max_paused or not isinstance(self._study.sampler, RLSampler):
            return ""  # no trial is ever resumed
        stopped = [t for t in self._finished() if t.state == TrialState.PRUNED and is_hopeless(t)]
        fitting = [t.number for t in stopped if t.user_attrs.get(COST, 1.0) * (1 - share_trained(t)) <= left]
        if not fitting:
            return ""
        named = f"trial {fitting[0]} is" if len(fitting) == 1 else f"{len(fitting)} stopped trials are"
        return f"; {named} not resumed, with a chance below {HOPELESS:.0%} to become the best"

    def is_out_of_time(self) -> bool:
        """Returns whether ``timeout`` is over."""
        return time.monotonic() >= self.deadline

    def is_surplus(self, trial: optuna.Trial) -> bool:
        """Returns whether other processes have started the last of ``n_trials`` before a new trial."""
        if trial.user_attrs.get(OWNER) or trial.user_attrs.get(ROLE) == CONFIRM:
            return False
        return not self._fits_another([t for t in self._started() if t.number < trial.number])

    def update_sampler_and_pruner(self, resumable: Sequence[int]) -> None:
        """Passes the remaining budget to RLSampler and RLPruner; user-supplied ones are left alone.

        The sampler also gets the numbers of the pruned trials that can be resumed.
        """
        limit, whole = self._first_limit(), self._by_number()
        sampler, pruner = self._study.sampler, self._study.pruner
        by_number = self._settings.max_trials - n_trials_used(self._study)
        if self._settings.sampler is None and isinstance(sampler, RLSampler):
            left = math.ceil(by_number) if limit is None else self._trials_left(limit.left)
            sampler.plan_for(max(left, 1), self.cost_cooling(), resumable)
        if self._settings.pruner == RL_PRUNER and isinstance(pruner, RLPruner):
            # The pruner counts neither failed trials nor those that violate a constraint.
            judged = [t for t in self._finished() if t.state != TrialState.FAIL and is_feasible(t)]
            seen = sum(map(spent_on, judged))
            if limit is not None:  # what other processes are training is part of the budget, and the pruner sees it
                elsewhere = 0.0 if self._settings.budget is None else self._expected_elsewhere()
                whole = min(whole, limit.left + elsewhere)
            pruner.plan_for(seen + max(whole, 0.0))

    def cost_cooling(self) -> CostCooling | None:
        """Returns what is left of the limit that is reached first, with costs; None without one.

        Where ``n_trials`` ends the search before, its total is infinite.
        """
        limit = self._first_limit()
        if limit is None:
            return None
        return replace(limit, total=math.inf) if limit.left >= self._by_number() else limit

    def _by_number(self) -> float:
        """Full trainings that ``n_trials`` leaves, at the mean cost of the trials so far."""
        trials = [t for t in self._finished() if role(t) == SEARCH and t.state != TrialState.FAIL]
        spent, n_counted = sum(map(spent_on, trials)), sum(map(counted, trials))
        usual = spent / n_counted if spent and n_counted else 1.0
        return (self._settings.max_trials - n_trials_used(self._study)) * usual

    def seconds_left(self) -> float:
        """Returns how long the search may still take; infinity without a limit, or before a training was timed."""
        limit, seconds = self._first_limit(), self._seconds_per_training()
        return math.inf if limit is None or seconds is None else limit.left * seconds

    def _fits_another(self, started: Sequence[FrozenTrial]) -> bool:
        """Whether a whole training more stays within ``n_trials``: what early stops have saved pays for more trials."""
        return sum(map(counted, started)) + 1 <= self._settings.max_trials + 1e-6

    def _started(self) -> list[FrozenTrial]:
        """The trials that count towards ``n_trials``, apart from the one that this process of several is running."""
        elsewhere = [trial for trial in self._running_elsewhere() if role(trial) != CONFIRM]
        return [*self._finished(), *elsewhere]

    def _running_elsewhere(self) -> list[FrozenTrial]:
        if self._settings.storage is None:  # all are of this process, which asks for more while some run on a cluster
            return self._study.get_trials(deepcopy=False, states=(TrialState.RUNNING,))
        return trials_of_other_processes(self._study)

    def _first_limit(self) -> CostCooling | None:
        """Of budget and timeout the one that leaves fewer trainings; None without a limit that can be computed yet."""
        return min(self._limits().values(), key=lambda limit: limit.left, default=None)

    def _limits(self) -> dict[str, CostCooling]:
        """What is left of "budget" and "timeout", as far as they are given and can be computed yet."""
        limits = {}
        budget, timeout, seconds = self._settings.budget, self._settings.timeout, self._seconds_per_training()
        if budget is not None:
            left = max(0.0, budget - self._committed())
            limits["budget"] = CostCooling(price=self._cost_model.planned_costs, left=left, total=budget)
        if timeout is not None and seconds is not None:
            left = max(0.0, self.deadline - time.monotonic()) / seconds
            costs = partial(self._cost_model.timed_costs, study=self._study)
            limits["timeout"] = CostCooling(price=costs, left=left, total=timeout / seconds)
        return limits

    def _trials_left(self, trainings: float) -> int:
        """How many trials, at least one, a number of trainings pays for at the mean cost of the trials so far."""
        costs = [spent_on(trial) for trial in self._finished() if role(trial) == SEARCH]
        usual = sum(costs) / len(costs) if costs else 1.0
        return max(1, math.ceil(trainings / usual if usual > 0 else trainings))

    def _seconds_per_training(self) -> float | None:
        timed = [trial for trial in finished(self._study) if _is_timed(trial)]
        trainings = sum(spent_on(trial) for trial in timed)
        return sum(float(trial.user_attrs[SECONDS]) for trial in timed) / trainings if trainings else None

    def _committed(self) -> float:
        """Full trainings that the finished trials took, and that those of other processes will take."""
        return sum(map(spent_on, self._finished())) + self._expected_elsewhere()

    def _expected_elsewhere(self) -> float:
        """Full trainings that the trials of other processes will have taken at their ends."""
        return sum(newly_spent(trial, 1.0) for trial in self._running_elsewhere() if role(trial) != CONFIRM)

    def trains_alone(self) -> bool:
        """Whether no other process trains a trial, whose end may leave more than it was expected to."""
        return not self._running_elsewhere()

    def _finished(self) -> list[FrozenTrial]:
        """The finished trials that count."""
        return finished_within_limits(self._study)


class Outlook:
    """What more trials are expected to bring, and whether ``patience="auto"`` or ``min_gain_per_hour`` ends a search.

    Args:
        study: Of the search; only an ``RLSampler`` predicts.
        settings: Of the search.
    """

    def __init__(self, study: optuna.Study, settings: SearchConfig) -> None:
        self._study, self._settings = study, settings
        # The number of finished trials, and by the number of trials ahead what they are expected to gain.
        self._known: tuple[int, dict[int, ExpectedGain | None]] = (0, {})

    def reached(self) -> str | None:
        """Returns which option ends the search; None where none does, or nothing can be predicted yet."""
        if self._settings.patience == AUTO:
            gain = self._expected_gain(HORIZON)
            if gain is not None and gain.share < LEAST_SHARE:
                return "patience"
        least = self._settings.min_gain_per_hour
        if least is None or (hours := self._hours_per_trial()) == 0:
            return None
        gain = self._expected_gain(_n_in_an_hour(hours))
        return "min_gain_per_hour" if gain is not None and gain.value / (hours * gain.n_trials) < least else None

    def to_text(self) -> str:
        """Returns the expected gain as a column of a trial's line, beside what came of the gains expected before.

        Of the trials of an hour, at most `HORIZON`; of exactly `HORIZON` with ``patience="auto"``, and of all trials of
        an hour with ``min_gain_per_hour``, as these options decide. Empty where nothing can be predicted.
        """
        hours = self._hours_per_trial()
        if self._settings.patience == AUTO:
            n_trials = HORIZON
        elif self._settings.min_gain_per_hour is not None:
            n_trials = _n_in_an_hour(hours)
        elif hours:
            n_trials = min(_n_in_an_hour(hours), HORIZON)
        else:
            return ""  # no trial was timed
        gain = self._expected_gain(n_trials)
        if gain is None:
            return ""
        more = f"{gain.n_trials} more trials" if gain.n_trials > 1 else "1 more trial"
        text = f"{more} ({as_time(3600 * hours * gain.n_trials)}) may improve the best by {gain.value:.2g}"
        record = f" (so far {gain.realised:.2g} came, {gain.promised:.2g} was expected)" if gain.promised else ""
        return text + record

    def _expected_gain(self, n_trials: int) -> ExpectedGain | None:
        """What so many more trials are expected to gain, computed once for each trial that ends; None if unknown.

        Unknown also before a trial can be the best: there is nothing to improve on, and much to find.
        """
        sampler = self._study.sampler
        if not isinstance(sampler, RLSampler) or not rankable(self._study):
            return None
        n_ended = len(self._ended())
        if self._known[0] != n_ended:
            self._known = n_ended, {}
        if n_trials not in self._known[1]:
            self._known[1][n_trials] = sampler.expected_gain(self._study, n_trials)
        return self._known[1][n_trials]

    def _hours_per_trial(self) -> float:
        """The mean so far, shared among the workers; 0 before a trial was timed."""
        timed = [float(trial.user_attrs[SECONDS]) for trial in self._ended() if trial.user_attrs.get(SECONDS)]
        n_workers = 1 + len(trials_of_other_processes(self._study))
        return sum(timed) / max(len(timed), 1) / n_workers / 3600

    def _ended(self) -> list[FrozenTrial]:
        return [trial for trial in finished(self._study) if role(trial) != CONFIRM]


def _n_in_an_hour(hours_per_trial: float) -> int:
    return max(int(min(1 / hours_per_trial, _MAX_AHEAD)), 1) if hours_per_trial else 1


def _is_timed(trial: FrozenTrial) -> bool:
    """Whether a trial was trained, so that its seconds show how long a training takes."""
    has_trained = trial.state in (TrialState.COMPLETE, TrialState.PRUNED)
    return has_trained and bool(trial.user_attrs.get(SECONDS)) and spent_on(trial) > 0


def _features(space: SearchSpace, levels: IntArray) -> FloatArray:
    """C x F: ordered levels scaled to [0, 1], one indicator for each unordered level; 0 where there is no level."""
    columns = []
    for h, hyperparameter in enumerate(space.hyperparameters):
        column, n = levels[:, h], len(hyperparameter.levels)
        if hyperparameter.ordered:
            columns.append(np.maximum(column, 0)[:, None] / max(n - 1, 1))
        else:
            columns.append((column[:, None] == np.arange(n)).astype(np.float64))
    return np.concatenate(columns, axis=1)
