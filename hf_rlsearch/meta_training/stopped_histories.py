"""Rolls out searches in which a policy chooses and lagging trials are pruned: few long trainings among many short ones.

The stop rule asks the predictor in such searches, mostly in late ones, where nearly every trial was pruned. Here a
simple rule of random severity prunes, so that the predictor can be trained before the stop rule, which needs the
predictor: the reason for pruning is in the curves, which the history shows.
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
"""(full trainings, evaluations of each) of a search; each of its up to 160 evaluations may be the last of a trial."""
# Log-odds of stopping at an evaluation: offset less slope times rank among all trials that got as far, and how much the
# offset differs from search to search. The mean rule keeps the better 40 %.
_SLOPE, _OFFSET, _SEVERITY = 16.0, 10.0, 4.0
# Trials started in a row, at most, on one prediction, as if they ran side by side; predictions take most of the time.
_MAX_PROPOSALS = 3


def pruned_rollouts(rng: np.random.Generator, tasks: TaskBatch, n_snapshots: int, score: Score) -> list[Trained]:
    """Searches each task, most trials by the best score, and prunes trials that lag.

    Returns:
        The trials at `n_snapshots` evaluations, drawn at random. Half of the running trials that may be stopped are
        recorded as pruned, as if the next trial were to be chosen; the search itself continues with them. Trials that
        start after all but one candidate were tried are left out.
    """
    search = _PolicyRollout(rng, tasks, score)
    severity = rng.normal(_OFFSET, _SEVERITY, search.n_envs)
    recorded = set(
        rng.choice(np.arange(1, search.max_trials), min(n_snapshots, search.max_trials - 1), replace=False).tolist()
    )
    snapshots = []
    for evaluation in range(max(recorded) + 1):
        features, may_stop = search.describe()
        odds = severity - _SLOPE * features[:, CURVE_FEATURES.index("rank_here")]
        stop = may_stop & (odds + rng.logistic(size=search.n_envs) > 0)
        if evaluation in recorded:
            shown_pruned = may_stop & (rng.random(search.n_envs) < 0.5)
            snapshots.append(_drop_last_candidates(tasks, _prune_running(search.trained(), shown_pruned)))
        search.train(stop)
    return snapshots


def _prune_running(trained: Trained, rows: BoolArray) -> Trained:
    """Marks the running trials of some searches, B flags, as pruned."""
    status = np.where(rows[:, None] & (trained.status == RUNNING), PRUNED, trained.status)
    return replace(trained, status=status, at_reference=np.where(rows[:, None], trained.values, trained.at_reference))


def _drop_last_candidates(tasks: TaskBatch, trained: Trained) -> Trained:
    """Drops the trials that start after all but one candidate were tried."""
    mask = trained.mask & (np.arange(trained.mask.shape[1]) < tasks.candidate_mask.sum(1, keepdims=True) - 1)
    return _prune_running(replace(trained, mask=mask), mask.sum(1) < trained.mask.sum(1))


class _PolicyRollout(StopSearch):
    """B searches of one length whose candidates the policy proposes; curves and ranks are those of `StopSearch`."""

    def __init__(self, rng: np.random.Generator, tasks: TaskBatch, score: Score) -> None:
        self.length = BUDGETS[rng.integers(len(BUDGETS))]  # before the searches start
        super().__init__(len(tasks), int(rng.integers(2**31)), tasks=lambda _, __: tasks, priced=0.0)
        self.score, self.behavior = score, BehaviorPolicy.draw(rng, self.n_envs)
        self.proposals = np.zeros((self.n_envs, min(_MAX_PROPOSALS, self.n_candidates)), int)
        self.n_proposals = np.zeros(self.n_envs, int)

    def draw_length(self) -> tuple[int, int]:
        """The length that was drawn for all searches."""
        return self.length

    def train(self, stop: BoolArray) -> None:
        """Prunes some trials, B flags, and trains one evaluation further, new candidates where nothing runs."""
        fresh = np.flatnonzero(stop | (self.running < 0))
        actions = np.full(self.n_envs, self.n_candidates)
        actions[fresh] = self._next(fresh)
        self.step(actions)

    def _next(self, rows: IntArray) -> IntArray:
        """The next candidates of N searches; the policy makes new proposals where its last ones are used up."""
        if len(empty := rows[self.n_proposals[rows] == 0]):
            self._propose(empty)
        first: IntArray = self.proposals[rows, 0]
        self.proposals[rows] = np.roll(self.proposals[rows], -1, axis=1)
        self.n_proposals[rows] -= 1
        return first

    def _propose(self, rows: IntArray) -> None:
        now = _prune_running(self.trained(), np.ones(self.n_envs, bool))
        asked, allowed = self.draw_untried(rows, N_ASKED)
        space, tasks = index_batch(self.space, rows), index_batch(self.tasks, rows)
        seen = observe_tasks(space, tasks, index_batch(now, rows), asked)
        scores = index_batch(self.behavior, rows).perturb(self.rng, self.score(seen), self.count[rows])
        scores = np.where(allowed, scores, -np.inf)
        self.proposals[rows] = np.take_along_axis(asked, np.argsort(-scores, axis=1)[:, :_MAX_PROPOSALS], axis=1)
        drawn = self.rng.integers(1, _MAX_PROPOSALS + 1, len(rows))
        self.n_proposals[rows] = np.minimum(drawn, np.isfinite(scores).sum(1))
