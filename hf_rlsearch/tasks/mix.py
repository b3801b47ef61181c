"""Draws the tasks of meta-training: parts of miniature trainings, and tasks of the formulas, in fixed shares."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray
from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.space import ROLES
from hf_rlsearch.tasks.bank_tasks import BEST_COUNTS, TELLING, draw_from_bank
from hf_rlsearch.tasks.histories import index_batch
from hf_rlsearch.tasks.miniature import Table
from hf_rlsearch.tasks.prior import TaskBatch, draw

_MOST_FROM_BANK = 256  # candidates of a task from the bank; its tables have no more configurations
# Perturbations of `unfamiliar`: shares of the tasks, and standard deviations in decades.
_MOVED_RATES, _MOVE = 0.5, 0.7
_MOST_DRAWS = 10
_WRONG_NAMES, _WRONG_FACTS, _WRONG_BY = 0.2, 0.3, 1.5
# Share of the tasks in which a part of the space fails, share of these parts that two hyperparameters bound together,
# chance that a part lies at the upper end of a range (memory, divergence), and the largest part.
_FAILING, _BY_TWO, _UPPER, _MOST_FAIL = 0.2, 0.3, 0.75, 0.8
_WORST = -10.0  # utility of a training that fails
_LEAST_SPREAD = 0.05  # from median to best of what is left, in that of the whole task


@dataclass(frozen=True)
class TaskMix:
    """Draws batches of tasks, each from the bank or from the formulas; without tables from the formulas alone.

    Attributes:
        tables: Tables of miniature trainings.
        bank_share: Share of the batches that come from them.
        perturbed: The tasks are made unfamiliar to a predictor that learnt from the others, see `unfamiliar`.
        curves: Tasks from the bank have the learning curves and the prices of their trainings.
        best_counts: Share of the tasks from the bank in which the best evaluation counts, not the last.
        telling: Share of the tasks with curves that are chosen because their early values tell much of the end.
        flat_first: Only tasks in which many good trainings stay where they began for a third of their time, as far as
            the tables have such tasks.
    """

    tables: Sequence[Table] = ()
    bank_share: float = 0.6
    perturbed: bool = False
    curves: bool = False
    best_counts: float = BEST_COUNTS
    telling: float = TELLING
    flat_first: bool = False

    def draw(self, rng: np.random.Generator, n_tasks: int, n_candidates: int) -> TaskBatch:
        """Draws `n_tasks` tasks of up to `n_candidates` candidates; the same state of `rng` gives the same tasks."""
        if self.flat_first:
            return self._draw_flat(rng, n_tasks, n_candidates)
        if self.tables and rng.random() < self.bank_share:
            tasks = draw_from_bank(
                rng,
                self.tables,
                n_tasks,
                min(n_candidates, _MOST_FROM_BANK),
                curves=self.curves,
                best_counts=self.best_counts,
                telling=self.telling,
            )
        else:
            tasks = draw(rng, n_tasks, n_candidates)
        return unfamiliar(rng, tasks) if self.perturbed else tasks

    def _draw_flat(self, rng: np.random.Generator, n_tasks: int, n_candidates: int) -> TaskBatch:
        """Draws tasks until there are enough with flat beginnings, about one in twenty; the rest from few tables."""
        others = replace(self, flat_first=False, telling=0.0)
        found: list[TaskBatch] = []
        while sum(map(len, found)) < n_tasks:
            drawn = others.draw(rng, 8 * n_tasks, n_candidates)
            enough = len(found) >= _MOST_DRAWS  # a few tables may have none: then any task is taken
            found.append(drawn if enough else index_batch(drawn, np.flatnonzero(begins_flat(drawn))))
        stacked = {f.name: np.concatenate([getattr(part, f.name) for part in found]) for f in fields(TaskBatch)}
        return index_batch(TaskBatch(**stacked), slice(n_tasks))

    @property
    def seeds(self) -> list[int]:
        """Seeds of the tables, which say what they hold."""
        return [int(table["seed"]) for table in self.tables]

    def of(self, n_candidates: int) -> Callable[[np.random.Generator, int], TaskBatch]:
        """A function that draws tasks of up to `n_candidates` candidates, as the environments ask for."""
        return lambda rng, n_tasks: self.draw(rng, n_tasks, n_candidates)


def begins_flat(tasks: TaskBatch) -> BoolArray:
    """B, True where at least 30 % of the good trainings had come less than 30 % of their way after a third of it.

    A training is good that ends above the middle between median and best of its task. Tasks need real curves.
    """
    low = np.minimum(tasks.curves[..., 0].min(1), tasks.median)[:, None]
    third, end = tasks.curves[..., tasks.curves.shape[2] // 3 - 1], tasks.curves[..., -1]
    way = (third - low) / np.maximum(end - low, 1e-9)
    good = (tasks.utility >= 0.5) & tasks.candidate_mask
    return np.asarray((good & (way < 0.3)).sum(1) >= 0.3 * good.sum(1))


def unfamiliar(rng: np.random.Generator, tasks: TaskBatch) -> TaskBatch:
    """Perturbs what a predictor believes to know: rates moved as a whole, names permuted, wrong sizes and lengths.

    The values of the candidates stay the same, so a searcher that reads its trials loses nothing in the end.
    """
    B, H = tasks.roles.shape
    moved = _MOVE * rng.standard_normal(B) * (rng.random(B) < _MOVED_RATES)
    is_rate = tasks.roles == ROLES.index("learning_rate")
    levels = np.where(is_rate[..., None], tasks.levels * np.power(10.0, moved)[:, None, None], tasks.levels)
    # Roles change places among the numbers of a task, and categories keep theirs.
    random_order = np.where(tasks.ordered, rng.random((B, H)), np.inf).argsort(1)
    own_order = np.where(tasks.ordered, np.arange(H), np.inf).argsort(1)
    permuted = tasks.roles.copy()
    np.put_along_axis(permuted, own_order, np.take_along_axis(tasks.roles, random_order, 1), 1)
    wrong = (rng.random((B, 1)) < _WRONG_NAMES) & tasks.ordered
    return replace(
        tasks, levels=levels, roles=np.where(wrong, permuted, tasks.roles), facts=_wrong_facts(rng, tasks.facts)
    )


def with_failures(rng: np.random.Generator, tasks: TaskBatch) -> TaskBatch:
    """Lets all trainings of a part of the space fail in some tasks, as out of memory or by an invalid combination.

    Their values are NaN, and their utility is that of padding. The utility of the others is measured anew, from their
    median to their best.
    """
    B = len(tasks)
    first, second = _random_part(rng, tasks), _random_part(rng, tasks)
    fails = first & (second | (rng.random((B, 1)) >= _BY_TWO)) & (rng.random((B, 1)) < _FAILING)
    runs = tasks.candidate_mask & ~fails
    left = np.where(runs, tasks.utility, np.nan)
    enough = runs.sum(1) >= (1 - _MOST_FAIL) * tasks.candidate_mask.sum(1)
    left = np.where(enough[:, None], left, np.where(tasks.candidate_mask, tasks.utility, np.nan))
    median, best = np.nanmedian(left, 1), np.nanmax(left, 1)
    changed = enough & (best - median > _LEAST_SPREAD) & fails.any(1)
    median, unit = np.where(changed, median, 0.0), np.where(changed, best - median, 1.0)
    fails &= changed[:, None]
    gone = fails | ~tasks.candidate_mask
    return replace(
        tasks,
        utility=np.where(gone, _WORST, (tasks.utility - median[:, None]) / unit[:, None]),
        values=np.where(fails, np.nan, tasks.values),
        noise=tasks.noise / unit[:, None],
        spread=tasks.spread * unit,
        median=tasks.median + median * tasks.spread,
    )


def _random_part(rng: np.random.Generator, tasks: TaskBatch) -> BoolArray:
    """B x C, True on one side of a random level of one hyperparameter, or for random categories of it."""
    B, H = tasks.roles.shape
    h = np.where(tasks.n_levels > 1, rng.random((B, H)), -1.0).argmax(1)
    b = np.arange(B)
    n, level = tasks.n_levels[b, h][:, None], tasks.candidates[b, :, h]
    first = np.ceil(rng.random((B, 1)) * (n - 1))  # 1 .. n - 1
    upper = rng.random((B, 1)) < _UPPER
    beyond = np.where(upper, level >= first, level < first)
    category = rng.random((B, tasks.levels.shape[2])).argsort(1).argsort(1)  # a random order of the levels
    drawn = np.take_along_axis(category, level, 1) % np.maximum(n, 1) == 0
    return np.asarray(np.where(tasks.ordered[b, h][:, None], beyond, drawn) & tasks.present[b, :, h])


def _wrong_facts(rng: np.random.Generator, facts: FloatArray) -> FloatArray:
    """Moves sizes and lengths of some tasks by a factor; what is unknown stays unknown."""
    column = np.isin(np.array(FACTS), ("n_parameters", "n_examples", "n_steps"))
    wrong = (rng.random((len(facts), 1)) < _WRONG_FACTS) & column
    return np.asarray(facts + np.where(wrong, _WRONG_BY * rng.standard_normal(facts.shape), 0.0))
