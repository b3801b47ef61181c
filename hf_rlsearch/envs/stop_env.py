"""Plays searches in which only stopping is to be decided: after each evaluation, continue the running trial or stop it.

A simulated searcher of random strength proposes the next candidate, so that the rule works with any sampler; where a
forecaster is given, the agent proposes in half of the searches, so that the rule works best with the agent. The numbers
of trainings and of evaluations differ from episode to episode.

Letters: B searches, T evaluations of an episode, C candidates.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from gymnasium import spaces

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.envs.search_env import BatchedSearch, Tasks, repeated
from hf_rlsearch.envs.vec_env import BatchVecEnv
from hf_rlsearch.observation.curve_features import CURVE_FEATURES, STOP_FEATURES, curve_features, is_due, leads
from hf_rlsearch.observation.history import COMPLETE
from hf_rlsearch.tasks.histories import draw_among, index_batch
from hf_rlsearch.tasks.mix import TaskMix

STOP = 1  # the other action, 0, continues the running trial
# Full trainings of an episode and evaluations of each training; both are drawn for each batch of searches.
BUDGETS = (2, 4, 8, 16)
EVALUATIONS = (4, 8, 16, 24)
N_CANDIDATES = 768
"""Candidates per task, where its space has so many: several times as many as the longest search tries. A search that
runs out of good candidates would teach to stop every late trial."""
_MAX_COMPARED = 64  # candidates that the strongest simulated searcher compares before it proposes one
# A long episode holds hundreds of trials, and each forecast attends to all of them at every evaluation.
_MAX_WITH_FORECASTS = 192
# Shares of the searches with forecasts, and of those that the agent proposes for: the rule must also work without
# forecasts, as in a space that the predictor cannot read, and with other samplers.
_FORECAST, _OWN_PROPOSALS = 0.85, 0.65

Forecasts = Callable[[BatchedSearch, BoolArray], tuple[FloatArray, IntArray]]
"""(B searches, B flags: forecast this one?) -> B x len(FORECAST_FEATURES) and B candidates, see `Forecaster`."""


class StopSearch(BatchedSearch):
    """B searches whose candidates are proposed by simulated searchers or the agent; only stopping is to be decided."""

    def __init__(
        self, n_envs: int, seed: int, tasks: Tasks | None = None, group: int = 1, forecasts: Forecasts | None = None
    ) -> None:
        self.group, self.forecasts = group, forecasts
        super().__init__(repeated(tasks or TaskMix().of(N_CANDIDATES), group), n_envs, BUDGETS[0], EVALUATIONS[0], seed)

    def reset(self) -> None:
        """Starts B searches with a new budget and a new number of evaluations."""
        self.budget, self.evaluations = self.draw_length()
        self.max_trials = self.budget * self.evaluations
        super().reset()
        first = np.arange(self.n_envs) // self.group * self.group  # a group shares all that is drawn
        self.family = index_batch(self.family, first)
        self.searcher_strength = (self.rng.uniform(0, 1, self.n_envs) * (self.rng.random(self.n_envs) < 0.75))[first]
        self.error = self.rng.uniform(0.05, 0.5, self.n_envs)[first]
        self.fix_noise(int(self.rng.integers(2**31)), self.group)
        if self.forecasts is not None:
            self.forecast = (self.rng.random(self.n_envs) < _FORECAST)[first]
            self.by_agent = (self.forecast & (self.rng.random(self.n_envs) < _OWN_PROPOSALS))[first]
            self.picks = np.zeros(self.n_envs, int)  # of the agent, set by `describe` for the next `propose`

    def draw_length(self) -> tuple[int, int]:
        """Budget in full trainings and evaluations of a training, for the searches that start now."""
        budget, evaluations = int(self.rng.choice(BUDGETS)), int(self.rng.choice(EVALUATIONS))
        while self.forecasts is not None and budget * evaluations > _MAX_WITH_FORECASTS:
            budget, evaluations = int(self.rng.choice(BUDGETS)), int(self.rng.choice(EVALUATIONS))
        return budget, evaluations

    def propose(self) -> IntArray:
        """B candidates, the best of some draws by a noisy guess; strong searchers compare more of them."""
        allowed = self.action_masks()[:, :-1]
        order, valid = draw_among(self.rng.random(allowed.shape), allowed, _MAX_COMPARED)
        error = self.error[:, None] * self.rng.standard_normal(order.shape)
        guess = np.take_along_axis(self.tasks.utility, order, 1) + error
        n_compared = 1 + np.floor(self.searcher_strength * 4 * self.count).astype(int)
        valid &= np.arange(order.shape[1]) < n_compared[:, None]
        valid[:, 0] = True
        proposed = order[np.arange(self.n_envs), np.where(valid, guess, -np.inf).argmax(1)]
        return np.asarray(proposed if self.forecasts is None else np.where(self.by_agent, self.picks, proposed))

    def decide(self, stop: BoolArray) -> FloatArray:
        """Stops or continues the running trials and trains one evaluation further.

        Returns:
            B rewards: improvement of the incumbent, half of it weighted by the share of the budget that is left: an
            episode's sum counts the area under the regret curve and the final regret alike.
        """
        fresh = stop | (self.running < 0)
        before = np.clip(self.incumbent, 0, 1)
        area = self.step(np.where(fresh, self.propose(), self.n_candidates))
        return np.asarray(0.5 * (area + np.clip(self.incumbent, 0, 1) - before))

    def describe(self) -> tuple[FloatArray, BoolArray]:
        """The input of the stop rule.

        Returns:
            B x len(CURVE_FEATURES), with a forecaster B x len(STOP_FEATURES), zero where nothing runs; and B flags of
            trials that may be stopped.
        """
        b, n = np.arange(self.n_envs), max(int(self.count.max()), 1)
        at = np.maximum(self.running, 0)
        idle = self.running < 0
        steps = self.steps[b, at]
        here = self.observed(np.broadcast_to(np.maximum(steps, 1)[:, None], (self.n_envs, n)))
        best = self.observed(self.steps[:, :n])
        own, half = here[b, at], self.observed(np.maximum(steps // 2, 1)[:, None].repeat(n, 1))[b, at]
        half = np.where(steps >= 2, half, np.nan)
        own_column = np.arange(n) == at[:, None]
        others_here, others_best = np.where(own_column, np.nan, here), np.where(own_column, np.nan, best)
        complete = (self.status[:, :n] == COMPLETE) & ~np.isnan(others_best)
        left = np.full(self.n_envs, (self.max_trials - self.used) / self.evaluations)
        value = np.where(idle, 0.0, np.nan_to_num(own))
        features = curve_features(
            np.maximum(steps, 1) / self.evaluations, value, half, others_here, others_best, complete, left,
            np.full(self.n_envs, float(self.budget)),
        )  # fmt: skip
        may_stop = ~idle & ~leads(value, others_here) & is_due((steps - 1) / self.evaluations, steps / self.evaluations)
        features = features * ~idle[:, None]
        if self.forecasts is not None:
            known, self.picks = self.forecasts(self, self.forecast & (may_stop | (idle & self.by_agent)))
            features = np.concatenate([features, known * (may_stop & self.forecast)[:, None]], axis=1)
        return features, may_stop


class StopVecEnv(BatchVecEnv):
    """B `StopSearch` episodes for stable-baselines3. Actions: 0 continue, 1 stop; observation: features and mask."""

    search: StopSearch

    def __init__(
        self,
        *,
        n_envs: int = 128,
        seed: int = 0,
        group: int = 1,
        tasks: Tasks | None = None,
        forecasts: Forecasts | None = None,
    ) -> None:
        n_features = len(CURVE_FEATURES if forecasts is None else STOP_FEATURES)
        space = spaces.Box(-3.0, 3.0, (n_features + 1,), np.float32)
        super().__init__(StopSearch(n_envs, seed, tasks, group, forecasts), space, 2, group)

    def observe(self) -> FloatArray:
        """B x (features + 1): the features of the stop rule, and whether the running trial may be stopped."""
        features, self._may_stop = self.search.describe()
        return np.concatenate([features, self._may_stop[:, None]], axis=1).astype(np.float32)

    def advance(self, actions: IntArray) -> FloatArray:
        """Stops or continues each running trial and returns B rewards."""
        return self.search.decide((actions == STOP) & self._may_stop)
