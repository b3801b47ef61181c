"""Draws tasks of the prior: simulated trainings of language models, in batches.

A task is a search space (roles, levels in real units) and a value for every candidate. Most tasks are built from what
is known about such trainings: a valley of learning rates whose place depends on model size, batch size, optimizer and
adapters, a cliff of divergence beyond it, saturation and over-fitting in epochs and capacity, dominant backbones, weak
regularisers. A share of tasks are generic functions, and a share carries roles that mislead, so that the policy doubts
a hint which the data contradict. `docs/prior.md` says what is drawn and from which source the numbers come.

Letters: B tasks, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation.observation import SpaceTables
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior_effects import EffectDraw
from hf_rlsearch.tasks.prior_space import GENERIC, LORA, SCRATCH, SGD, lognormal

PRIOR_VERSION = "4"
"""Raised with every change of the prior; the card of the weights names the version."""
_WRONG_HINTS = 0.08  # share of tasks whose roles mislead


@dataclass(frozen=True)
class TaskBatch(SpaceTables):
    """B simulated tasks, padded to the same shapes.

    Attributes:
        candidates: B x C x H level indices.
        candidate_mask: B x C, False for padding.
        present: B x C x H, False for padding and where a conditional hyperparameter is not part of the candidate.
        utility: B x C noiseless value on the task's scale: 0 = median, 1 = best candidate.
        values: B x C the same in the metric's own units, larger is better.
        noise: B x C standard deviation of one training's value, in units of `utility`.
        spread: B, (best - median) in the metric's own units.
        median: B, median value in the metric's own units.
        facts: B x len(FACTS), NaN where unknown.
    """

    candidates: IntArray
    candidate_mask: BoolArray
    present: BoolArray
    utility: FloatArray
    values: FloatArray
    noise: FloatArray
    spread: FloatArray
    median: FloatArray
    facts: FloatArray

    def __len__(self) -> int:
        """Number of tasks."""
        return len(self.roles)


def draw(rng: np.random.Generator, n_tasks: int, n_candidates: int = 256) -> TaskBatch:
    """Draws simulated tasks; the same state of `rng` gives the same tasks.

    A grid with fewer cells than `n_candidates` is enumerated and padded, a larger one is sampled.
    """
    return _TaskDraw(rng, n_tasks, n_candidates).draw()


class _TaskDraw(EffectDraw):
    """One batch of tasks being drawn."""

    def draw(self) -> TaskBatch:
        self._draw_roles()
        self._draw_levels()
        self._draw_candidates()
        structured, generic = self.structured_loss(), self.generic_loss()
        misled = (self.domain == GENERIC) | (self.rng.random(self.n_tasks) < _WRONG_HINTS)
        return self._finish(np.where(misled[:, None], generic, structured))

    def _finish(self, loss: FloatArray) -> TaskBatch:
        """Turns B x C losses into the values of a metric, and adds noise, scale and facts of each task."""
        rng, B = self.rng, self.n_tasks
        loss = loss * lognormal(rng, 1.0, 0.5, (B, 1))
        best = np.where(self.mask, loss, np.inf).min(1, keepdims=True)
        # Scores saturate at a floor (chance), losses do not; the power bends the bowl of either.
        bent = (loss - best) ** rng.uniform(0.75, 1.35, (B, 1))
        score = np.exp(-rng.uniform(0.3, 1.5, (B, 1)) * bent)
        floor, ceiling = rng.uniform(0, 0.6, (B, 1)), rng.uniform(0.5, 1.0, (B, 1))
        bounded = floor + np.maximum(ceiling - floor, 0.08) * score
        unbounded = -lognormal(rng, 2.0, 0.7, (B, 1)) * (1 + lognormal(rng, 0.1, 1.0, (B, 1)) * np.minimum(bent, 12))
        value = np.where(self.maximize[:, None], bounded, unbounded)
        ties = (rng.random(B) < 0.15) & self.maximize
        resolution = 1 / np.round(lognormal(rng, 400.0, 0.8, (B, 1)))
        value = np.where(ties[:, None], np.round(value / resolution) * resolution, value)
        masked = np.where(self.mask, value, np.nan)
        best, median = np.nanmax(masked, 1, keepdims=True), np.nanmedian(masked, 1, keepdims=True)
        spread = np.maximum(best - median, 1e-3 * np.maximum(np.abs(best), 1e-3))
        utility = np.where(self.mask, (value - median) / spread, -10.0)
        noise = lognormal(rng, 0.05, 0.9, (B, 1)) * (1 + rng.uniform(0, 6, (B, 1)) * self.near_edge)
        noise = noise * (1 + rng.uniform(0, 0.4, (B, 1)) * np.maximum(1 - utility, 0).clip(0, 5))
        return TaskBatch(
            self.roles, self.ordered & (self.roles >= 0), self.log & (self.roles >= 0), self.levels, self.sizes,
            self.kinds, self.n_levels, self.candidates, self.mask, self.present, utility, value, noise.clip(0, 1.5),
            spread[:, 0], median[:, 0], self._facts(),
        )  # fmt: skip

    def _facts(self) -> FloatArray:
        """B x len(FACTS), mostly unknown, as few users give them; the direction is nearly always known."""
        searched = (self.roles == ROLES.index("model")).any(1)
        size = np.where(searched | (self.domain == GENERIC), np.nan, self.size)
        facts = np.stack(
            [size, self.data, self.maximize, self.domain == LORA, np.isin(self.domain, (SCRATCH, SGD))], axis=1
        ).astype(float)
        facts[self.domain == GENERIC, 3:] = 0.0
        unknown = self.rng.random(facts.shape) < np.array([0.6, 0.6, 0.05, 0.6, 0.6])
        unknown |= self.rng.random((self.n_tasks, 1)) < 0.3
        unknown[:, 2] &= self.rng.random(self.n_tasks) < 0.1
        return np.where(unknown, np.nan, facts)
