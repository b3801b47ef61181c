"""Histories of searches that a policy made itself: what it will have in front of it when it is used.

Histories drawn by the truth (`simulate.draw_history`) betray it: that a candidate was trained late says that it is
good. A policy that has learnt this takes its own choices for better than they are; its own histories say nothing but
their values.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation import Observation, task_space_arrays
from hf_rlsearch.tasks.prior import TaskBatch
from hf_rlsearch.tasks.simulate import Trained, draw_among, observe_tasks, train_partly

Score = Callable[[Observation], FloatArray]
"""An observation -> B x C log scores of its candidates."""

N_ASKED = 192
"""Candidates at most that a policy is asked about at once; it may be asked about others the next time."""
# Searches that begin with trials at random, and how many at most; sharpness of what follows, 0 the best at once.
_BEGIN_AT_RANDOM, _MOST_AT_RANDOM = 0.4, 6
_TEMPERATURES, _TEMPERATURE_SHARES = (0.0, 0.3, 1.0), (0.6, 0.2, 0.2)
# Share of the steps on played searches that see final values only, and how much shorter than the longest they may be.
_COMPLETE, _SHORTER = 0.6, 6


@dataclass(frozen=True)
class Played:
    """B searches as they were played.

    Attributes:
        chosen: B x T candidate indices in order of training.
        values: B x T what the trainings gave, in the metric's units, larger is better.
    """

    chosen: IntArray
    values: FloatArray


@dataclass(frozen=True)
class Manner:
    """How B searches follow a policy, so that its histories differ.

    Attributes:
        n_random: B, trials at random before the policy is followed.
        temperature: B, sharpness of what follows, 0 the best at once.
    """

    n_random: IntArray
    temperature: FloatArray

    @classmethod
    def draw(cls, rng: np.random.Generator, n_searches: int) -> Manner:
        """Most searches follow the policy from the first trial to the last."""
        B = n_searches
        n_random = np.where(rng.random(B) < _BEGIN_AT_RANDOM, rng.integers(1, _MOST_AT_RANDOM + 1, B), 0)
        return cls(n_random, rng.choice(_TEMPERATURES, size=B, p=_TEMPERATURE_SHARES))

    def perturb(self, rng: np.random.Generator, scores: FloatArray, count: IntArray | int) -> FloatArray:
        """B x C scores to take the largest of, in searches of `count` trials so far."""
        by_chance = (self.n_random > count)[:, None]
        scale = np.where(by_chance, 1.0, self.temperature[:, None])
        return np.asarray(np.where(by_chance, 0.0, scores) + scale * rng.gumbel(size=scores.shape))


def play(rng: np.random.Generator, tasks: TaskBatch, n_trials: int, score: Score) -> Played:
    """Searches each task, most of them by the best score, some by chance at first or throughout.

    Args:
        rng: Source of randomness.
        tasks: B tasks.
        n_trials: T; a task with fewer candidates repeats some at the end.
        score: The policy.
    """
    B, C = tasks.candidate_mask.shape
    space = task_space_arrays(tasks)
    outcome = tasks.values + tasks.noise * tasks.spread[:, None] * rng.standard_normal((B, C))
    manner = Manner.draw(rng, B)
    chosen = np.zeros((B, 0), int)
    for t in range(n_trials):
        values = np.take_along_axis(outcome, chosen, axis=1)
        untried = tasks.candidate_mask.copy()
        np.put_along_axis(untried, chosen, False, axis=1)
        untried = np.where(untried.any(1, keepdims=True), untried, tasks.candidate_mask)
        asked, allowed = draw_among(rng.random(untried.shape), untried, N_ASKED)
        seen = observe_tasks(space, tasks, Trained.complete(chosen, values, np.ones((B, t), bool)), asked)
        best = np.where(allowed, manner.perturb(rng, score(seen), t), -np.inf).argmax(1)
        chosen = np.concatenate([chosen, asked[np.arange(B), best][:, None]], axis=1)
    return Played(chosen, np.take_along_axis(outcome, chosen, axis=1))


def part_of(rng: np.random.Generator, tasks: TaskBatch, played: Played) -> Trained:
    """The beginnings of played searches, of similar length; in some steps a part of the trials was stopped."""
    B, T = played.chosen.shape
    longest = int(rng.integers(min(2, T), T + 1))
    chosen, values = played.chosen[:, :longest], played.values[:, :longest]
    count = rng.integers(max(0, longest - _SHORTER), longest + 1, B)
    mask: BoolArray = np.arange(longest) < np.minimum(count, tasks.candidate_mask.sum(1) - 1)[:, None]
    if rng.random() < _COMPLETE:
        return Trained.complete(chosen, values, mask)
    return train_partly(rng, tasks, chosen, mask, values)
