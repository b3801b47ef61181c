"""Histories of searches that the predictor plays while trials are stopped: a few long trainings among many short ones.

The stop rule asks the predictor in such searches, late ones above all, where nearly everything was stopped. Why a trial
was stopped matters little to what its history says, as the reason is the curve that the history shows: a simple rule of
random severity does it here, so that the predictor can be trained before the stop rule, which needs it.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from hf_rlsearch._typing import BoolArray, IntArray
from hf_rlsearch.envs.stop_env import StopSearch
from hf_rlsearch.observation.curve_features import CURVE_FEATURES
from hf_rlsearch.observation.history import PRUNED, RUNNING
from hf_rlsearch.tasks.histories import N_ASKED, BehaviorPolicy, Score, Trained, index_batch, observe_tasks
from hf_rlsearch.tasks.prior import TaskBatch

BUDGETS = ((4, 8), (8, 8), (8, 16), (8, 20), (12, 12), (16, 8), (16, 10), (20, 8))
"""(full trainings, evaluations of each) of a search; any of its up to 160 evaluations may be the last of a trial."""
# Log-odds of stopping at an evaluation: offset less slope times rank among all trials that got as far, and how much the
# offset differs from search to search. The mean rule keeps the better 40 %.
_SLOPE, _OFFSET, _SEVERITY = 16.0, 10.0, 4.0
# Trials begun in a row, at most, on one answer of the predictor; as if they ran side by side. Asking takes most time.
_AHEAD = 3


def pruned_rollouts(rng: np.random.Generator, tasks: TaskBatch, n_looks: int, score: Score) -> list[Trained]:
    """Searches each task, most trials by the best score, and stops those that lag.

    Args:
        rng: Source of randomness.
        tasks: B tasks.
        n_looks: How often to look at the searches, at evaluations drawn at random.
        score: The policy.

    Returns:
        The trainings as they stood at each look. Half of the running trials that may be stopped are shown as if they
        just were, and the next were to be chosen; the search itself goes on. What follows when everything but one
        candidate was tried is left out.
    """
    search = _PolicyRollout(rng, tasks, score)
    severity = rng.normal(_OFFSET, _SEVERITY, search.n_envs)
    looks = set(
        rng.choice(np.arange(1, search.max_trials), min(n_looks, search.max_trials - 1), replace=False).tolist()
    )
    seen = []
    for evaluation in range(max(looks) + 1):
        features, may_stop = search.describe()
        odds = severity - _SLOPE * features[:, CURVE_FEATURES.index("rank_here")]
        stop = may_stop & (odds + rng.logistic(size=search.n_envs) > 0)
        if evaluation in looks:
            seen.append(_cut(tasks, _ended(search.trained(), may_stop & (rng.random(search.n_envs) < 0.5))))
        search.train(stop)
    return seen


def _ended(trained: Trained, rows: BoolArray) -> Trained:
    """The running trials of these searches were stopped a moment ago."""
    status = np.where(rows[:, None] & (trained.status == RUNNING), PRUNED, trained.status)
    return replace(trained, status=status, at_reference=np.where(rows[:, None], trained.values, trained.at_reference))


def _cut(tasks: TaskBatch, trained: Trained) -> Trained:
    """Without the trials that come after everything but one candidate was tried."""
    mask = trained.mask & (np.arange(trained.mask.shape[1]) < tasks.candidate_mask.sum(1, keepdims=True) - 1)
    return _ended(replace(trained, mask=mask), mask.sum(1) < trained.mask.sum(1))


class _PolicyRollout(StopSearch):
    """B searches of one length whose candidates the policy proposes; its curves and ranks are the stop rule's."""

    def __init__(self, rng: np.random.Generator, tasks: TaskBatch, score: Score) -> None:
        self.length = BUDGETS[rng.integers(len(BUDGETS))]  # the searches begin in what follows
        super().__init__(len(tasks), int(rng.integers(2**31)), tasks=lambda _, __: tasks)
        self.score, self.manner = score, BehaviorPolicy.draw(rng, self.n_envs)
        self.ahead, self.left = np.zeros((self.n_envs, min(_AHEAD, self.n_candidates)), int), np.zeros(self.n_envs, int)

    def draw_length(self) -> tuple[int, int]:
        """The one that was drawn for all."""
        return self.length

    def train(self, stop: BoolArray) -> None:
        """Stops these trials and trains one evaluation further, new candidates where nothing runs."""
        fresh = np.flatnonzero(stop | (self.running < 0))
        actions = np.full(self.n_envs, self.n_candidates)
        actions[fresh] = self._next(fresh)
        self.step(actions)

    def _next(self, rows: IntArray) -> IntArray:
        """The best candidates of these searches, as far as the policy was asked."""
        if len(ask := rows[self.left[rows] == 0]):
            now = _ended(self.trained(), np.ones(self.n_envs, bool))
            asked, allowed = self.draw_untried(ask, N_ASKED)
            seen = observe_tasks(
                index_batch(self.space, ask), index_batch(self.tasks, ask), index_batch(now, ask), asked
            )
            scores = index_batch(self.manner, ask).perturb(self.rng, self.score(seen), self.count[ask])
            scores = np.where(allowed, scores, -np.inf)
            self.ahead[ask] = np.take_along_axis(asked, np.argsort(-scores, axis=1)[:, :_AHEAD], axis=1)
            self.left[ask] = np.minimum(self.rng.integers(1, _AHEAD + 1, len(ask)), np.isfinite(scores).sum(1))
        first: IntArray = self.ahead[rows, 0]
        self.ahead[rows], self.left[rows] = np.roll(self.ahead[rows], -1, axis=1), self.left[rows] - 1
        return first
