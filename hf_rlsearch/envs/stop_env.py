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
from hf_rlsearch.observation.curve_features import (
    FORECAST_FEATURES,
    STOP_FEATURES,
    chance_to_go_on,
    curve_features,
    is_due,
    leads,
    may_still_rise,
    stands_still,
)
from hf_rlsearch.observation.history import COMPLETE
from hf_rlsearch.observation.observation import has_learnt, log_price_factor
from hf_rlsearch.tasks.histories import draw_among, index_batch
from hf_rlsearch.tasks.mix import TaskMix

STOP = 1  # the other action, 0, continues the running trial
# Full trainings of an episode and evaluations of each training; both are drawn for each batch of searches.
BUDGETS = (2, 4, 8, 16)
EVALUATIONS = (4, 6, 8, 12, 24)
N_CANDIDATES = 768
"""Candidates per task, where its space has so many: several times as many as the longest search tries. A search that
runs out of good candidates would teach to stop every late trial."""
_MAX_COMPARED = 64  # candidates that the strongest simulated searcher compares before it proposes one
_PRICED, _PRICES = 0.5, (0.25, 4.0)
"""Share of the searches on real curves whose trainings differ in price, and the range of prices over their mean."""
# Evaluations of an episode over those of the budget at mean prices: cheap trainings have more.
_MORE_EVALUATIONS = 1.5
# A long episode holds hundreds of trials, and each forecast attends to all of them at every evaluation.
_MAX_WITH_FORECASTS = 128
# Shares of the searches with forecasts, and of those that the agent proposes for: the rule must also work without
# forecasts, as in a space that the predictor cannot read, and with other samplers.
_FORECAST, _OWN_PROPOSALS = 0.85, 0.65

N_TRUTH = 4
"""Columns of what only the critic sees, see `StopSearch.truth`."""

Forecasts = Callable[["StopSearch", BoolArray], tuple[FloatArray, IntArray]]
"""(B searches, B flags: forecast this one?) -> B x len(FORECAST_FEATURES) and B candidates, see `Forecaster`."""


class StopSearch(BatchedSearch):
    """B searches whose candidates are proposed by simulated searchers or the agent; only stopping is to be decided.

    A search has a budget in the time of mean full trainings. Where prices differ, a candidate is paid for by its price;
    an evaluation that the rest of the budget cannot pay for ends the search before it.

    Args:
        n_envs: B.
        seed: Of tasks, lengths, prices and luck.
        tasks: Draws the tasks; the prior where not given.
        group: Searches in a row that share all that is drawn.
        forecasts: Forecasts running trials and picks candidates; None for searches without predictors.
        priced: Share of the searches on real curves whose trainings differ in price.
        agent_only: The agent forecasts and proposes in all searches, not in a part of them.
    """

    def __init__(
        self,
        n_envs: int,
        seed: int,
        tasks: Tasks | None = None,
        group: int = 1,
        forecasts: Forecasts | None = None,
        priced: float = _PRICED,
        agent_only: bool = False,
    ) -> None:
        self.group, self.forecasts, self.share_priced = group, forecasts, priced
        self.share_forecast, self.share_own = (1.0, 1.0) if agent_only else (_FORECAST, _OWN_PROPOSALS)
        super().__init__(repeated(tasks or TaskMix().of(N_CANDIDATES), group), n_envs, BUDGETS[0], EVALUATIONS[0], seed)

    def reset(self) -> None:
        """Starts B searches with a new budget and a new number of evaluations."""
        self.budget, self.evaluations = self.draw_length()
        more = _MORE_EVALUATIONS if self.share_priced else 1.0
        self.max_trials = round(self.budget * self.evaluations * more)
        super().reset()
        first = np.arange(self.n_envs) // self.group * self.group  # a group shares all that is drawn
        self.family = index_batch(self.family, first)
        self.searcher_strength = (self.rng.uniform(0, 1, self.n_envs) * (self.rng.random(self.n_envs) < 0.75))[first]
        self.error = self.rng.uniform(0.05, 0.5, self.n_envs)[first]
        self.fix_noise(int(self.rng.integers(2**31)), self.group)
        self.spent, self.over = np.zeros(self.n_envs), np.zeros(self.n_envs, bool)
        self.prices = np.ones_like(self.tasks.prices)
        if self.tasks.curves.shape[2]:
            priced = (self.rng.random(self.n_envs) < self.share_priced)[first]
            self.prices = np.where(priced[:, None], np.clip(self.tasks.prices, *_PRICES), 1.0)
        if self.forecasts is not None:
            self.forecast = (self.rng.random(self.n_envs) < self.share_forecast)[first]
            self.by_agent = (self.forecast & (self.rng.random(self.n_envs) < self.share_own))[first]
            self.picks = np.zeros(self.n_envs, int)  # of the agent, set by `describe` for the next `propose`

    def draw_length(self) -> tuple[int, int]:
        """Budget in full trainings and evaluations of a training, for the searches that start now."""
        budget, evaluations = int(self.rng.choice(BUDGETS)), int(self.rng.choice(EVALUATIONS))
        while self.forecasts is not None and budget * evaluations > _MAX_WITH_FORECASTS:
            budget, evaluations = int(self.rng.choice(BUDGETS)), int(self.rng.choice(EVALUATIONS))
        return budget, evaluations

    @property
    def done(self) -> bool:
        """True once all searches are over."""
        return bool(self.over.all()) or self.used >= self.max_trials

    @property
    def left(self) -> FloatArray:
        """B full trainings that the budget still pays for."""
        return np.asarray(self.budget - self.spent)

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

    def weights(self, rows: IntArray, targets: IntArray) -> FloatArray:
        """N x K logarithms of the factors on expected improvement, -inf for candidates that do not fit the time left.

        As `CostCooling` weighs candidates in live searches.
        """
        prices = np.take_along_axis(self.prices[rows], targets, axis=1)
        left = self.left[rows, None]
        fits = (prices <= left) | (prices <= prices.min(1, keepdims=True))
        return np.where(fits, log_price_factor(prices, left / self.budget), -np.inf)

    def decide(self, stop: BoolArray) -> FloatArray:
        """Stops or continues the running trials and trains one evaluation further.

        Returns:
            B rewards: improvement of the incumbent, half of it weighted by the share of the budget that is left: an
            episode's sum counts the area under the regret curve and the final regret alike.
        """
        b = np.arange(self.n_envs)
        fresh = stop | (self.running < 0)
        target = np.where(fresh, self.propose(), self.chosen[b, np.maximum(self.running, 0)])
        price = self.prices[b, target] / self.evaluations
        self.over |= price > self.left + 1e-9
        before, left = np.clip(self.incumbent, 0, 1), self.left / self.budget
        self.step(np.where(fresh, target, self.n_candidates), ~self.over)
        self.spent += price * ~self.over
        return np.asarray((np.clip(self.incumbent, 0, 1) - before) * (0.5 + 0.5 * left))

    def describe(self) -> tuple[FloatArray, BoolArray]:
        """The input of the stop rule.

        Returns:
            B x len(CURVE_FEATURES), with a forecaster B x len(STOP_FEATURES), zero where nothing runs; and B flags of
            trials that may be stopped.
        """
        b, n = np.arange(self.n_envs), max(int(self.count.max()), 1)
        at = np.maximum(self.running, 0)
        idle = (self.running < 0) | self.over
        steps = self.steps[b, at]
        here = self.observed(np.broadcast_to(np.maximum(steps, 1)[:, None], (self.n_envs, n)))
        best = self.observed(self.steps[:, :n])
        own, half = here[b, at], self.observed(np.maximum(steps // 2, 1)[:, None].repeat(n, 1))[b, at]
        half = np.where(steps >= 2, half, np.nan)
        own_column = np.arange(n) == at[:, None]
        others_here, others_best = np.where(own_column, np.nan, here), np.where(own_column, np.nan, best)
        complete = (self.status[:, :n] == COMPLETE) & ~np.isnan(others_best)
        value = np.where(idle, 0.0, np.nan_to_num(own))
        features = curve_features(
            fidelity=np.maximum(steps, 1) / self.evaluations,
            value=value,
            value_at_half=half,
            others_here=others_here,
            others_best=others_best,
            others_complete=complete,
            budget=np.stack([self.left, np.full(self.n_envs, float(self.budget))], 1),
            price=self._relative_prices(n, at),
            learnt=self._learnt(value, others_best),
        )
        may_stop = ~idle & ~leads(value, others_here) & is_due((steps - 1) / self.evaluations, steps / self.evaluations)
        may_stop &= ~may_still_rise(features, self.stands_still())
        features = features * ~idle[:, None]
        if self.forecasts is not None:
            waits = (self.running < 0) & self.by_agent & ~self.over
            known, self.picks = self.forecasts(self, self.forecast & (may_stop | waits))
            features = np.concatenate([features, known * (may_stop & self.forecast)[:, None]], axis=1)
            chance = (known[:, FORECAST_FEATURES.index("forecast_chance")] + 1) / 2
            may_stop &= ~self.forecast | (chance < chance_to_go_on(self.spent, self.left))
        return features, may_stop

    def stands_still(self) -> BoolArray:
        """B, True where the running trial stands still, see `curve_features.stands_still`.

        Simulated trials show their best value so far, so a trial that only falls stands still too.
        """
        b, n = np.arange(self.n_envs), max(int(self.count.max()), 1)
        shown = np.where(np.arange(self.evaluations) < self.steps[:, :n, None], self.curves[:, :n], np.nan)
        at = np.maximum(self.running, 0)
        own, others = shown[b, at], np.where((np.arange(n) == at[:, None])[..., None], np.nan, shown)
        return stands_still(own, others) & (self.running >= 0)

    def truth(self) -> FloatArray:
        """B x N_TRUTH numbers that only the critic sees: the incumbent, what the running trial gains, what is left."""
        b, best = np.arange(self.n_envs), np.clip(self.incumbent, -1.0, 1.0)
        final = self.curves[b, np.maximum(self.running, 0), -1]
        gain = np.where(self.running >= 0, np.clip(final - self.incumbent, -1.0, 1.0), 0.0)
        left = np.clip(self.left / self.budget, 0, 1)
        return np.stack([best, gain, np.log10(self.share_better() + 1e-3), left], 1)

    def _relative_prices(self, n: int, running: IntArray) -> FloatArray:
        """B prices of the running trials over the mean of the other ones."""
        prices = np.take_along_axis(self.prices, self.chosen[:, :n], axis=1)
        others = (np.arange(n) < self.count[:, None]) & (np.arange(n) != running[:, None])
        mean = np.where(others, prices, 0.0).sum(1) / np.maximum(others.sum(1), 1)
        return np.where(others.any(1), prices[np.arange(self.n_envs), running] / np.where(mean > 0, mean, 1.0), 1.0)

    def _learnt(self, value: FloatArray, others_best: FloatArray) -> FloatArray:
        median, unit = self.tasks.median, self.tasks.spread
        best = np.fmax(np.nanmax(np.concatenate([others_best, value[:, None]], 1), axis=1), value)
        return has_learnt(self.tasks.facts, value * unit + median, best * unit + median)


class StopVecEnv(BatchVecEnv):
    """B `StopSearch` episodes for stable-baselines3. Actions: 0 continue, 1 stop."""

    search: StopSearch

    def __init__(
        self,
        *,
        forecasts: Forecasts,
        n_envs: int = 128,
        seed: int = 0,
        group: int = 1,
        tasks: Tasks | None = None,
        priced: float = _PRICED,
        agent_only: bool = False,
    ) -> None:
        space = spaces.Box(-3.0, 3.0, (len(STOP_FEATURES) + 1 + N_TRUTH,), np.float32)
        super().__init__(StopSearch(n_envs, seed, tasks, group, forecasts, priced, agent_only), space, 2, group)

    def observe(self) -> FloatArray:
        """B x (F + 1 + N_TRUTH): the F features of the stop rule, whether the trial may be stopped, and the truth."""
        features, self._may_stop = self.search.describe()
        seen = [features, self._may_stop[:, None], self.search.truth()]
        return np.concatenate(seen, axis=1).astype(np.float32)

    def advance(self, actions: IntArray) -> FloatArray:
        """Stops or continues each running trial and returns B rewards."""
        return self.search.decide((actions == STOP) & self._may_stop)
