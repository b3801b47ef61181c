"""Plays searches as Markov decision processes: `SearchEnv` one search, `BatchedSearch` B searches as arrays.

Letters: B searches, T evaluations of an episode (each may start a trial), C candidates, H hyperparameters, L levels,
N searches of a part of the batch, K candidates asked for.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import gymnasium as gym
import numpy as np
from gymnasium import spaces

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.errors import ObservationError
from hf_rlsearch.observation.history import COMPLETE, PRUNED, RUNNING
from hf_rlsearch.observation.observation import Observation, space_arrays
from hf_rlsearch.tasks.curves import curves, draw_family
from hf_rlsearch.tasks.histories import Trained, draw_among, index_batch, observe_tasks, shown_at
from hf_rlsearch.tasks.mix import TaskMix
from hf_rlsearch.tasks.prior import TaskBatch
from hf_rlsearch.tasks.prior_space import MAX_LEVELS

Tasks = Callable[[np.random.Generator, int], TaskBatch]
"""Draws B tasks, all with the same number of candidates."""
DEFAULT_CANDIDATES = 64
"""Candidates of a task where no tasks are given: it is drawn from the formulas of the prior."""

# Lowest and highest value per key of an observation; features are scaled, and clipped to their range.
_LEVEL_RANGE = (-1.0, float(MAX_LEVELS))
_RANGES = {"trials": _LEVEL_RANGE, "candidates": _LEVEL_RANGE, "budget": (0.0, 1.0), "action_mask": (0.0, 1.0)}
_FEATURE_RANGE = (-10.0, 10.0)


class SearchEnv(gym.Env[dict[str, Any], np.int64]):
    """One episode is one search on a simulated task.

    ## Description
    A budget of full trainings is spent on a task with C candidates. Each step trains the chosen candidate, or the
    running trial, for one evaluation.

    ## Action Space
    `Discrete(C + 1)`: a candidate's index, or C to continue the running trial. `action_masks()` gives the allowed ones.
    A masked action has a defined outcome (see `BatchedSearch.step`), so that agents without masks can be trained too.

    ## Observation Space
    `Dict` of float32 boxes, each flattened row by row:

    | key | shape | meaning |
    |---|---|---|
    | `static` | H x features | role, range and number of levels of each hyperparameter |
    | `level_features` | H x L x features | position, absolute value and kind of each level |
    | `trials` | T x H | level indices of what was trained, -1 for padding |
    | `trial_features` | T x features | value on the history's own scale, rank, fidelity, status, earlier values |
    | `candidates` | C x H | level indices of what can be trained |
    | `context` | features | known facts, scale of the history |
    | `budget` | 2 | share left in [0, 1]; budget / 50 full trainings |
    | `action_mask` | C + 1 | 1 where the action is allowed |

    ## Rewards
    Improvement of the incumbent on the task's scale (0 = median, 1 = best), times the share of the budget that is left.

    ## Starting State
    A task drawn by `tasks`, nothing trained.

    ## Episode End
    Terminated when the budget is used up; never truncated.

    ## Information
    `step` returns `{"regret": ...}`: one minus the noiseless utility of the incumbent.

    ## Arguments
    `tasks` draws the task of each episode (the prior by default), `budget` counts full trainings, `evaluations` per
    training, `seed` of tasks and noise. `ObservationError` is raised where a count is below one.

    ## Version History
    Observation format 1: first version. Format 2: more facts in `context`, and in `trial_features` how far each trial
    is above the untrained model.
    """

    metadata = {"render_modes": []}

    def __init__(self, *, tasks: Tasks | None = None, budget: int = 20, evaluations: int = 1, seed: int = 0) -> None:
        self._search = BatchedSearch(tasks or TaskMix().of(DEFAULT_CANDIDATES), 1, budget, evaluations, seed)
        self.observation_space = observation_space(self._search)
        self.action_space = spaces.Discrete(self._search.n_candidates + 1)

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[dict[str, FloatArray], dict[str, Any]]:
        """Starts a search; `seed` makes this and all following tasks reproducible."""
        super().reset(seed=seed)
        if seed is not None:
            self._search.rng = np.random.default_rng(seed)
        self._search.reset()
        return self._observation(), {}

    def step(self, action: int | np.integer[Any]) -> tuple[dict[str, FloatArray], float, bool, bool, dict[str, Any]]:
        """Trains one evaluation further; see the class."""
        reward = float(self._search.step(np.array([int(action)]))[0])
        return self._observation(), reward, self._search.done, False, {"regret": 1 - float(self._search.incumbent[0])}

    def action_masks(self) -> BoolArray:
        """C + 1, True where the action may be chosen (the method that sb3-contrib's MaskablePPO asks for)."""
        return np.asarray(self._search.action_masks()[0])

    def _observation(self) -> dict[str, FloatArray]:
        return {key: value[0] for key, value in flatten(self._search).items()}


class BatchedSearch:
    """B searches on B tasks, advanced together.

    An action is a candidate's index (train it next, which prunes the running trial) or C (continue the running trial).
    Where `evaluations` is 1 a trial is trained to its end at once, and *continue* is never allowed.
    """

    def __init__(self, tasks: Tasks, n_envs: int, budget: int, evaluations: int, seed: int) -> None:
        """Starts `n_envs` searches; the budget counts full trainings, `evaluations` those of each training.

        Raises:
            ObservationError: `budget` or `evaluations` is below one.
        """
        if budget < 1 or evaluations < 1:
            raise ObservationError(
                f"budget={budget} and evaluations={evaluations}: expected at least 1 full training of 1 evaluation."
            )
        self.draw_tasks, self.n_envs, self.budget, self.evaluations = tasks, n_envs, budget, evaluations
        self.max_trials = budget * evaluations
        self.rng = np.random.default_rng(seed)
        self._fixed_noise: FloatArray | None = None
        self._noise_seed, self._repeats = seed, 1
        self.reset()

    def reset(self) -> None:
        """Starts B new searches on new tasks."""
        B, T = self.n_envs, self.max_trials
        self.tasks = self.draw_tasks(self.rng, B)
        self.space = space_arrays(self.tasks)
        self.family = draw_family(self.rng, B)
        self.n_candidates = self.tasks.candidates.shape[1]
        self.chosen, self.steps = np.zeros((B, T), int), np.zeros((B, T), int)
        # What the search reads at each evaluation, 0 = median and 1 = best of the task.
        self.curves = np.zeros((B, T, self.evaluations))
        self.noise = np.zeros((B, T))
        self.status = np.full((B, T), PRUNED)
        self.count, self.running = np.zeros(B, int), np.full(B, -1)
        self.used = 0
        self.incumbent: FloatArray = np.zeros(B)

    def fix_noise(self, seed: int, repeats: int = 1) -> None:
        """Draws the noise of every (task, candidate) now, so that policies on these tasks can be compared in pairs.

        `repeats` searches in a row share their noise; see `repeated`.
        """
        self._noise_seed, self._repeats = seed, repeats
        noise = np.random.default_rng(seed).standard_normal((self.n_envs // repeats, self.n_candidates))
        self._fixed_noise = np.repeat(noise, repeats, axis=0)

    @property
    def done(self) -> bool:
        """True once the budget is used up; all B searches end together."""
        return self.used >= self.max_trials

    def action_masks(self) -> BoolArray:
        """B x (C + 1), True where the action may be chosen; once all candidates were tried, all are allowed again."""
        mask = self.tasks.candidate_mask.copy()
        b, t = np.nonzero(np.arange(self.max_trials) < self.count[:, None])
        mask[b, self.chosen[b, t]] = False
        # A search longer than its space repeats candidates, since an agent always needs one allowed action.
        mask = np.where(mask.any(1, keepdims=True), mask, self.tasks.candidate_mask)
        return np.concatenate([mask, (self.running >= 0)[:, None]], axis=1)

    def draw_untried(self, rows: IntArray, count: int) -> tuple[IntArray, BoolArray]:
        """Draws `count` candidates of N searches as `draw_among`; searches that share their noise draw the same."""
        rng = np.random.default_rng([self._noise_seed, self.used])
        chance = np.repeat(rng.random((self.n_envs // self._repeats, self.n_candidates)), self._repeats, axis=0)
        return draw_among(chance[rows], self.action_masks()[rows, :-1], count)

    def step(self, actions: IntArray, active: BoolArray | None = None) -> FloatArray:
        """Trains one evaluation further.

        Args:
            actions: B indices in [0, C]. A masked one has a defined outcome: *continue* with nothing running trains the
                first allowed candidate, a candidate that was tried is trained again.
            active: B, False for searches that have ended and stay as they are; all True where not given.

        Returns:
            B rewards: improvement of the incumbent, weighted by the share of the budget that is left to enjoy it. The
            sum over an episode is one minus the area under the regret curve, up to a constant of the task.
        """
        actions = np.asarray(actions)
        masks = self.action_masks()
        # Agents that know no masks may continue although nothing runs.
        idle = (actions == self.n_candidates) & (self.running < 0)
        actions = np.where(idle, masks[:, : self.n_candidates].argmax(1), actions)
        active = np.ones(self.n_envs, bool) if active is None else active
        started = np.nonzero((actions < self.n_candidates) & active)[0]
        self._start(started, actions[started])
        b = np.flatnonzero(active)
        at = self.running[b]
        self.steps[b, at] += 1
        ended = self.steps[b, at] == self.evaluations
        self.status[b[ended], at[ended]] = COMPLETE
        self.running[b[ended]] = -1
        self.used += 1
        before, self.incumbent = self.incumbent, self._incumbent()
        left = (self.max_trials - self.used + 1) / self.max_trials
        return np.asarray((np.clip(self.incumbent, 0, 1) - np.clip(before, 0, 1)) * left)

    def _start(self, b: IntArray, candidates: IntArray) -> None:
        """Prunes the running trials of searches b and starts new ones there."""
        if not len(b):
            return
        stopped = b[self.running[b] >= 0]
        self.status[stopped, self.running[stopped]] = PRUNED
        at = self.count[b]
        self.chosen[b, at], self.status[b, at], self.running[b] = candidates, RUNNING, at
        self.count[b] += 1
        utility, noise = self.tasks.utility[b, candidates], self.tasks.noise[b, candidates]
        drawn = self._fixed_noise[b, candidates] if self._fixed_noise is not None else self.rng.standard_normal(len(b))
        self.noise[b, at] = noise * drawn
        final = utility + self.noise[b, at]
        fractions = np.arange(1, self.evaluations + 1) / self.evaluations
        if self.tasks.curves.shape[2]:  # real ones, with the noise of their evaluations
            at_fractions = shown_at(self.tasks.curves[b, candidates], np.tile(fractions, (len(b), 1)))
            shown: FloatArray = (at_fractions - self.tasks.median[b, None]) / self.tasks.spread[b, None]
        elif self.evaluations > 1:
            drawn_curves = curves(self.rng, index_batch(self.family, b), final[:, None], fractions)[:, 0]
            shown = np.maximum.accumulate(drawn_curves, axis=1)  # a trial counts by its best value so far
        else:
            shown = final[:, None]
        self.curves[b, at] = shown

    def observed(self, steps: IntArray) -> FloatArray:
        """B x n values that are read on the task's scale after `steps` (B x n) evaluations of the first n trials.

        NaN where a trial did not get that far.
        """
        n = steps.shape[1]
        at = np.clip(steps - 1, 0, self.evaluations - 1)[..., None]
        value = np.take_along_axis(self.curves[:, :n], at, axis=2)[..., 0]
        return np.where((steps >= 1) & (steps <= self.steps[:, :n]), value, np.nan)

    def _incumbent(self) -> FloatArray:
        """B, noiseless utility of the best trial as observed."""
        # Noise may make a worse trial win, but it must not be rewarded.
        value = np.nan_to_num(self.observed(self.steps[:, : max(int(self.count.max()), 1)]), nan=-np.inf)
        best = value.argmax(1)
        b = np.arange(self.n_envs)
        return np.asarray(value[b, best] - self.noise[b, best])

    def share_better(self) -> FloatArray:
        """B shares of the candidates that are truly better than the incumbent, which no search can know."""
        better = (self.tasks.utility > self.incumbent[:, None]) & self.tasks.candidate_mask
        return np.asarray(better.sum(1) / self.tasks.candidate_mask.sum(1))

    def observe(self, rows: IntArray | slice = slice(None), targets: IntArray | None = None) -> Observation:
        """The observation of N searches, all B by default, and of all C candidates or the N x K in `targets`.

        Candidates that were tried are not masked where targets are given.
        """
        return observe_tasks(
            index_batch(self.space, rows), index_batch(self.tasks, rows), index_batch(self.trained(), rows), targets
        )

    def trained(self) -> Trained:
        """Copies the trials of all B searches so far."""
        n = max(int(self.count.max()), 1)
        median, unit = self.tasks.median[:, None], self.tasks.spread[:, None]
        steps = self.steps[:, :n]

        def shown(at: IntArray) -> FloatArray:
            return self.observed(at) * unit + median

        values, idle = shown(steps), (self.running < 0)[:, None]
        reference = np.take_along_axis(self.steps, np.maximum(self.running, 0)[:, None], axis=1)
        return Trained(
            chosen=self.chosen[:, :n].copy(),
            values=values,
            fidelity=steps / self.evaluations,
            status=self.status[:, :n].copy(),
            mask=np.arange(n) < self.count[:, None],
            at_reference=np.where(idle, values, shown(np.broadcast_to(reference, steps.shape))),
            at_half=shown(steps // 2),
        )


def observation_space(search: BatchedSearch) -> spaces.Dict:
    """Gymnasium's description of one flat observation of a batch: float32 boxes of one dimension."""
    boxes: dict[str, spaces.Space[Any]] = {
        key: spaces.Box(*_RANGES.get(key, _FEATURE_RANGE), value.shape[1:], np.float32)
        for key, value in flatten(search).items()
    }
    return spaces.Dict(boxes)


def flatten(search: BatchedSearch) -> dict[str, FloatArray]:
    """The observations of a batch, each array B x features, with trials padded to those of a whole episode."""
    seen = search.observe()
    B, n = seen.trial_mask.shape

    def pad(array: FloatArray | IntArray, fill: float) -> FloatArray:
        out = np.full((B, search.max_trials, array.shape[2]), fill, np.float32)
        out[:, :n] = np.where(seen.trial_mask[..., None], array, fill)
        return out

    left = 1 - search.used / search.max_trials
    arrays = {
        "static": seen.space.static,
        "level_features": seen.space.level_features,
        "trials": pad(seen.trials, -1.0),
        "trial_features": pad(seen.trial_features, 0.0),
        "candidates": seen.candidates,
        "context": seen.context,
        "budget": np.broadcast_to(np.array([left, min(1.0, search.budget / 50)]), (B, 2)),
        "action_mask": search.action_masks(),
    }
    return {
        key: np.clip(value.reshape(B, -1), *_RANGES.get(key, _FEATURE_RANGE)).astype(np.float32)
        for key, value in arrays.items()
    }


def repeated(tasks: Tasks, times: int) -> Tasks:
    """Every task `times` times in a row: searches on the same task, to compare a policy with itself.

    Raises:
        ObservationError: When drawing a number of tasks that is no multiple of `times`.
    """

    def draw_repeated(rng: np.random.Generator, n_tasks: int) -> TaskBatch:
        if n_tasks % times:
            raise ObservationError(
                f"{n_tasks} searches cannot be put in groups of {times}: give a multiple of {times}."
            )
        return index_batch(tasks(rng, n_tasks // times), np.repeat(np.arange(n_tasks // times), times))

    return draw_repeated
