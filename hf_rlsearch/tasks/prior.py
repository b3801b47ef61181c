"""Draws tasks of the prior: simulated trainings of language models, in batches.

A task is a search space (roles, levels in real units) and a value for every candidate. Most tasks are built from what
is known about such trainings: a valley of learning rates whose place depends on model size, batch size, optimizer and
adapters, a cliff of divergence beyond it, saturation and over-fitting in epochs and capacity, dominant backbones, weak
regularisers. A share of tasks are generic functions, and a share carries roles that mislead, so that the policy doubts
a hint which the data contradict. `docs/background/prior.md` says what is drawn and from which source the numbers come.

Letters: B tasks, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.observation.observation import FACTS, SpaceTables
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.prior_effects import EffectDraw
from hf_rlsearch.tasks.prior_space import GENERIC, LORA, SCRATCH, SGD, lognormal

PRIOR_VERSION = "6"
"""Raised with every change of the prior; the card of the weights names the version."""
_WRONG_HINTS = 0.08  # share of tasks whose roles mislead
_SHARED_ROWS = 0.6  # part of the error of an evaluation that trainings do not share, as all are scored on the same rows
_LEAST_CHANCE = 0.02  # score of a guess below which the metric says nothing of the number of classes


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
        curves: B x C x S values that a search reads after S evaluations at equal distances, in the metric's own units,
            larger is better: the best so far where the best counts, else the newest. S is 0 where learning curves are
            simulated when a candidate is trained.
        prices: B x C costs of a whole training, 1 on the mean of a task's candidates; all 1 where they are alike.
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
    curves: FloatArray
    prices: FloatArray

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
        score = np.exp(-lognormal(rng, 0.8, 0.6, (B, 1)) * bent)
        floor, ceiling = rng.uniform(0, 0.6, (B, 1)), rng.uniform(0.5, 1.0, (B, 1))
        bounded = floor + np.maximum(ceiling - floor, 0.08) * score
        scale, growth = lognormal(rng, 2.0, 0.7, (B, 1)), lognormal(rng, 0.1, 1.0, (B, 1))
        unbounded = -scale * (1 + growth * np.minimum(bent, 12))
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
        # Rows of the evaluation, log10, and what their number adds to the noise of a score: all trainings see the same.
        n_evaluated = np.clip(self.data + rng.normal(-0.7, 0.5, B), 1.5, 5.0)
        error = np.sqrt(value.clip(0.02, 0.98) * (1 - value.clip(0.02, 0.98)) / 10 ** n_evaluated[:, None])
        noise = np.where(self.maximize[:, None], np.hypot(noise, _SHARED_ROWS * error / spread), noise)
        far = np.nanmedian(np.where(self.mask, bent, np.nan), 1) * lognormal(rng, 2.5, 0.6, (B,))
        untrained = -scale[:, 0] * (1 + growth[:, 0] * np.minimum(far, 12))
        chance = floor[:, 0] + error.mean(1) * rng.standard_normal(B)
        untrained = np.where(self.maximize, chance, untrained)
        return TaskBatch(
            self.roles, self.ordered & (self.roles >= 0), self.log & (self.roles >= 0), self.levels, self.sizes,
            self.kinds, self.n_levels, self.candidates, self.mask, self.present, utility, value, noise.clip(0, 1.5),
            spread[:, 0], median[:, 0], self._facts(n_evaluated, floor[:, 0], untrained),
            np.zeros((*value.shape, 0)), np.ones(value.shape),
        )  # fmt: skip

    def _facts(self, n_evaluated: FloatArray, floor: FloatArray, untrained: FloatArray) -> FloatArray:
        """B x len(FACTS), about half of them unknown; the direction is nearly always known.

        The arguments are B: log10 of the rows of the evaluation, the score of a guess, the untrained model's value.
        """
        rng, B = self.rng, self.n_tasks
        searched = np.isin(self.roles, [ROLES.index(role) for role in ("model", "model_size")]).any(1)
        n_classes = np.where(
            self.maximize & (floor > _LEAST_CHANCE), -np.log10(np.maximum(floor, _LEAST_CHANCE)), np.nan
        )
        known = {
            "n_parameters": np.where(searched | (self.domain == GENERIC), np.nan, self.size),
            "n_examples": self.data,
            "maximize": self.maximize,
            "lora": self.domain == LORA,
            "from_scratch": np.isin(self.domain, (SCRATCH, SGD)),
            "n_steps": self.steps,
            "n_evaluated": n_evaluated,
            "n_classes": n_classes,
            "trainable": np.where(self.domain == LORA, rng.uniform(-3.0, -1.0, B), 0.0),
            "untrained": untrained,
        }
        facts = np.stack([known[name] for name in FACTS], axis=1).astype(float)
        generic = [name not in ("maximize", "n_evaluated", "n_classes", "untrained") for name in FACTS]
        facts[np.ix_(self.domain == GENERIC, generic)] = np.nan
        unknown = rng.random(facts.shape) < np.where(np.array(FACTS) == "maximize", 0.05, 0.45)
        nothing = rng.random((B, 1)) < 0.35
        nothing = nothing & ((np.array(FACTS) != "maximize") | (rng.random((B, 1)) < 0.1))
        return np.where(unknown | nothing, np.nan, facts)
