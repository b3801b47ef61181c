"""Makes histories of searches on simulated tasks: drawn trials, and searches that a policy made itself.

Histories drawn at random show what data alone say; greedy ones, in which later trials are better, resemble those of a
good policy.

Letters: B tasks or searches, T trials, C candidates, K targets, H hyperparameters, L levels.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from typing import TypeVar

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation.history import COMPLETE, FAILED, PRUNED, RUNNING
from hf_rlsearch.observation.observation import Observation, SpaceArrays, TrialArrays, observe, space_arrays
from hf_rlsearch.tasks.curves import curves, draw_family
from hf_rlsearch.tasks.prior import TaskBatch

Score = Callable[[Observation], FloatArray]
"""An observation -> B x C log scores of its candidates."""
N_ASKED = 192
"""Largest number of candidates that a policy scores for one choice; for the next choice others are drawn."""

# Shares of searches without a trial, of searches whose latest trials are running without a report (and how many of
# them at most), and of searches without a trial that know a part of their space: Optuna learns a space by suggestions.
_UNTRIED = 0.08
_PENDING, _MAX_PENDING = 0.15, 3
_PARTLY_KNOWN = 0.5
_FAILED, _FINAL_VALUES_ONLY = 0.03, 0.4  # shares of trials, and of searches without learning curves

# Share of searches that start with random trials, and how many at most; temperature afterwards, 0 for the best score.
_RANDOM_START, _MAX_RANDOM = 0.4, 6
_TEMPERATURES, _TEMPERATURE_SHARES = (0.0, 0.3, 1.0), (0.6, 0.2, 0.2)
# Share of the batches of prefixes with complete trials only, and how much shorter than the longest a prefix may be.
_COMPLETE_PREFIXES, _SHORTER = 0.6, 6

_Arrays = TypeVar("_Arrays")


@dataclass(frozen=True)
class Trained(TrialArrays):
    """The trials of B simulated searches so far; `chosen` has the B x T indices of their candidates."""

    chosen: IntArray

    @classmethod
    def complete(cls, chosen: IntArray, values: FloatArray, mask: BoolArray) -> Trained:
        """Makes trials of which only the final value is known: complete ones, and failed ones where it is NaN."""
        status, unknown = np.where(np.isnan(values), FAILED, COMPLETE), np.full_like(values, np.nan)
        return cls(values, np.ones_like(values), status, mask, values, unknown, chosen)


def draw_history(rng: np.random.Generator, tasks: TaskBatch, max_trials: int) -> tuple[IntArray, BoolArray]:
    """Draws 0 to T trials for each task, at random or the better the later.

    Returns:
        B x T candidate indices in order of training, and B x T mask of real trials.
    """
    B, C = tasks.candidate_mask.shape
    available = tasks.candidate_mask.sum(1)
    count = np.minimum(rng.integers(0, max_trials + 1, B), np.maximum(available - 1, 0))
    count = np.where(rng.random(B) < _UNTRIED, 0, count)
    greed = rng.choice([0.0, 2.0, 5.0, 12.0], size=B, p=[0.4, 0.2, 0.2, 0.2]) * rng.random(B)
    scale = np.clip(tasks.utility, -3, 1)
    keys = np.where(tasks.candidate_mask, 0.0, -np.inf)
    chosen = np.zeros((B, max_trials), int)
    for t in range(max_trials):
        # The Gumbel-max trick samples without replacement; good candidates become likelier with every trial.
        ramp = greed * min(1.0, t / 8.0)
        gumbel = rng.gumbel(size=(B, C))
        chosen[:, t] = (keys + scale * ramp[:, None] + gumbel).argmax(1)
        keys[np.arange(B), chosen[:, t]] = -np.inf
    return chosen, np.arange(max_trials) < count[:, None]


def measure(rng: np.random.Generator, tasks: TaskBatch, chosen: IntArray) -> FloatArray:
    """Trains the chosen candidates once each: B x T values in the metric's units, larger is better, with seed noise."""
    value = np.take_along_axis(tasks.values, chosen, axis=1)
    noise = np.take_along_axis(tasks.noise, chosen, axis=1) * tasks.spread[:, None]
    return np.asarray(value + noise * rng.standard_normal(chosen.shape))


def train_partly(
    rng: np.random.Generator, tasks: TaskBatch, chosen: IntArray, mask: BoolArray, final: FloatArray
) -> Trained:
    """Trains the chosen candidates, some of them not to the end: a search with a stop rule.

    Two in five searches know final values only. The others know curves, pruned the worse trials more often, and in half
    of them the last trial is still running. In some searches the latest trials run without a report yet, as those of
    other workers do. Curves are those of the tasks, and simulated where the tasks have none. All arrays are B x T;
    `final` has the values at the end of each training, NaN where it failed, see `measure`.
    """
    B, T = final.shape
    complete = Trained.complete(chosen, final, mask)
    if not T:
        return complete
    median, unit = tasks.median[:, None], tasks.spread[:, None]
    scaled = (final - median) / unit
    pruned = rng.random((B, T)) < np.clip(rng.uniform(0, 1.2, (B, 1)) * (1.1 - np.clip(scaled, -1, 1)) / 2, 0, 0.9)
    running = (np.arange(T) == mask.sum(1, keepdims=True) - 1) & (rng.random((B, 1)) < 0.5) & ~np.isnan(final)
    partial = pruned | running
    fidelity = np.where(partial, np.maximum(rng.random((B, T)) ** 1.5, 0.02), 1.0)
    half = fidelity / 2
    S = tasks.curves.shape[2]
    S = S if S > 1 else 0  # one evaluation is the end of a training, not a part of it
    if S:
        fidelity = np.where(partial, np.clip(np.ceil(fidelity * S), 1, S - 1) / S, 1.0)
        half = np.floor(fidelity * S / 2) / S
    reference = np.where(running.any(1), np.where(running, fidelity, 0).max(1), 1.0)[:, None]
    points = np.stack([fidelity, np.minimum(reference, fidelity), half], axis=-1)
    if S:
        shown = shown_at(tasks.curves[np.arange(B)[:, None], chosen], points)
    else:
        shown = curves(rng, draw_family(rng, B), scaled, points) * unit[..., None] + median[..., None]
    value = np.where(partial, shown[..., 0], final)
    if not S:  # simulated values are the best so far, which never falls
        shown = np.minimum(shown, value[..., None])
    reached = np.where(fidelity >= reference, shown[..., 1], np.nan)
    at_reference = np.where(reference >= 1, value, reached)
    at_half = np.where(half > 0, shown[..., 2], np.nan)
    status = np.select([running, pruned], [RUNNING, PRUNED], COMPLETE)
    partly = Trained(value, fidelity, status, mask, at_reference, at_half, chosen)
    failed = (rng.random((B, T)) < _FAILED) | np.isnan(final)
    final_only = rng.random((B, 1)) < _FINAL_VALUES_ONLY
    pairs = {f.name: (getattr(complete, f.name), getattr(partly, f.name)) for f in fields(Trained)}
    return _without_reports(rng, Trained(**{name: np.where(final_only, *pair) for name, pair in pairs.items()}), failed)


def shown_at(curves: FloatArray, fractions: FloatArray) -> FloatArray:
    """... x K values that trainings show at fractions of their length, from ... x S evaluations at equal distances.

    A fraction in (0, 1] between two evaluations, or before the first, has the value of the next one.
    """
    S = curves.shape[-1]
    at = np.clip(np.ceil(fractions * S - 1e-9).astype(int) - 1, 0, S - 1)
    return np.take_along_axis(curves, at, axis=-1)


def _without_reports(rng: np.random.Generator, trained: Trained, failed: BoolArray) -> Trained:
    """Removes the values of failed trials, and in some searches of the latest ones, which then run without a report."""
    B, T = failed.shape
    latest = trained.mask.sum(1, keepdims=True) - 1 - np.arange(T)
    n_pending = rng.integers(1, _MAX_PENDING + 1, (B, 1)) * (rng.random((B, 1)) < _PENDING)
    pending = (latest >= 0) & (latest < n_pending)
    values = np.where(failed | pending, np.nan, trained.values)
    return replace(
        trained,
        values=values,
        status=np.select([pending, failed], [RUNNING, FAILED], trained.status),
        fidelity=np.where(pending, 0.0, trained.fidelity),
        # A running trial without a report gives no fidelity to compare at.
        at_reference=np.where(n_pending > 0, values, trained.at_reference),
    )


def hide_hyperparameters(rng: np.random.Generator, tasks: TaskBatch, untried: BoolArray) -> TaskBatch:
    """Hides some hyperparameters of half of the searches in `untried`; the values of candidates stay the same.

    In the first trial of a study that learns its space from suggestions, the later suggestions are unknown as well.
    """
    B, H = tasks.roles.shape
    real = tasks.roles >= 0
    order = np.where(real, rng.random((B, H)), np.inf).argsort(1).argsort(1)
    known = np.maximum(np.ceil(rng.random(B) * real.sum(1)), 1)
    hidden = (order >= known[:, None]) & real & (untried & (rng.random(B) < _PARTLY_KNOWN))[:, None]
    cell = hidden[..., None]
    return replace(
        tasks,
        roles=np.where(hidden, -1, tasks.roles),
        ordered=tasks.ordered & ~hidden,
        log=tasks.log & ~hidden,
        levels=np.where(cell, np.nan, tasks.levels),
        sizes=np.where(cell, np.nan, tasks.sizes),
        kinds=np.where(cell, 0, tasks.kinds),
        n_levels=np.where(hidden, 0, tasks.n_levels),
        present=tasks.present & ~hidden[:, None],
    )


def observe_tasks(
    space: SpaceArrays, tasks: TaskBatch, trained: Trained, targets: IntArray | None = None
) -> Observation:
    """The observation of B simulated searches, whose spaces are `space_arrays(tasks)`.

    All candidates are observed, or the B x K candidates in `targets`; tried ones are masked only among all.
    """
    candidates = np.where(tasks.present, tasks.candidates, -1)
    rows = np.take_along_axis(candidates, trained.chosen[..., None], axis=1)
    mask = tasks.candidate_mask.copy()
    if targets is not None:
        candidates = np.take_along_axis(candidates, targets[..., None], axis=1)
        mask = np.take_along_axis(mask, targets, axis=1)
    else:
        b, t = np.nonzero(trained.mask)
        mask[b, trained.chosen[b, t]] = False
    return observe(space, tasks.facts, rows, trained, candidates, mask)


@dataclass(frozen=True)
class Rollout:
    """B searches that a policy made: B x T candidates in order of training, and their values in the metric's units."""

    chosen: IntArray
    values: FloatArray


@dataclass(frozen=True)
class BehaviorPolicy:
    """How B searches follow a policy, so that its histories differ.

    Attributes:
        n_random: B, random trials before the policy is followed.
        temperature: B, scale of the noise on the scores afterwards; 0 always takes the best score.
    """

    n_random: IntArray
    temperature: FloatArray

    @classmethod
    def draw(cls, rng: np.random.Generator, n_searches: int) -> BehaviorPolicy:
        """Draws the behavior of each search; most follow the policy from the first trial to the last."""
        is_random, count = rng.random(n_searches) < _RANDOM_START, rng.integers(1, _MAX_RANDOM + 1, n_searches)
        return cls(np.where(is_random, count, 0), rng.choice(_TEMPERATURES, size=n_searches, p=_TEMPERATURE_SHARES))

    def perturb(self, rng: np.random.Generator, scores: FloatArray, count: IntArray | int) -> FloatArray:
        """B x C scores of which the largest is chosen, in searches of `count` trials so far (B, or one number)."""
        is_random = (self.n_random > count)[:, None]
        scale = np.where(is_random, 1.0, self.temperature[:, None])
        return np.asarray(np.where(is_random, 0.0, scores) + scale * rng.gumbel(size=scores.shape))


def rollout(rng: np.random.Generator, tasks: TaskBatch, n_trials: int, score: Score) -> Rollout:
    """Searches each task, most of them by the best score, some at random at first or throughout.

    A task with fewer candidates than `n_trials` repeats some at the end.
    """
    B, C = tasks.candidate_mask.shape
    space = space_arrays(tasks)
    outcome = tasks.values + tasks.noise * tasks.spread[:, None] * rng.standard_normal((B, C))
    behavior = BehaviorPolicy.draw(rng, B)
    chosen = np.zeros((B, 0), int)
    for t in range(n_trials):
        values = np.take_along_axis(outcome, chosen, axis=1)
        untried = tasks.candidate_mask.copy()
        np.put_along_axis(untried, chosen, False, axis=1)
        untried = np.where(untried.any(1, keepdims=True), untried, tasks.candidate_mask)
        asked, allowed = draw_among(rng.random(untried.shape), untried, N_ASKED)
        seen = observe_tasks(space, tasks, Trained.complete(chosen, values, np.ones((B, t), bool)), asked)
        best = np.where(allowed, behavior.perturb(rng, score(seen), t), -np.inf).argmax(1)
        chosen = np.concatenate([chosen, asked[np.arange(B), best][:, None]], axis=1)
    return Rollout(chosen, np.take_along_axis(outcome, chosen, axis=1))


def random_prefix(rng: np.random.Generator, tasks: TaskBatch, searches: Rollout) -> Trained:
    """The first trials of each search, similarly many; in some batches a part of them was stopped early."""
    B, T = searches.chosen.shape
    longest = int(rng.integers(min(2, T), T + 1))
    chosen, values = searches.chosen[:, :longest], searches.values[:, :longest]
    count = rng.integers(max(0, longest - _SHORTER), longest + 1, B)
    mask: BoolArray = np.arange(longest) < np.minimum(count, tasks.candidate_mask.sum(1) - 1)[:, None]
    if rng.random() < _COMPLETE_PREFIXES:
        return Trained.complete(chosen, values, mask)
    return train_partly(rng, tasks, chosen, mask, values)


def draw_among(chance: FloatArray, allowed: BoolArray, count: int) -> tuple[IntArray, BoolArray]:
    """Draws `count` candidates of each search, for a searcher that does not compare all of them.

    The smallest of the B x C random numbers in [0, 1) are drawn, those of allowed candidates first.

    Returns:
        B x min(count, C) candidate indices in random order, those allowed first; and which of them are.
    """
    keys = chance + ~allowed
    n = min(count, allowed.shape[1])
    drawn = np.argpartition(keys, n - 1, axis=1)[:, :n]
    drawn = np.take_along_axis(drawn, np.argsort(np.take_along_axis(keys, drawn, 1), axis=1), axis=1)
    return drawn, np.take_along_axis(allowed, drawn, axis=1)


def index_batch(arrays: _Arrays, rows: IntArray | slice) -> _Arrays:
    """A dataclass of arrays with these rows of the first axis of each array; a slice copies nothing."""
    return type(arrays)(**{f.name: getattr(arrays, f.name)[rows] for f in fields(arrays)})  # type: ignore[arg-type]
