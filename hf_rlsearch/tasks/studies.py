"""Makes tasks of finished studies, so that an agent can learn from the searches of its user.

A study is a sample of what can be trained. Its recorded trials keep their values; the values of other configurations
are drawn from a Gaussian process that is fitted to the recorded ones, another draw for every task.

Letters: B tasks, C candidates, H hyperparameters, L levels, N recorded configurations.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
from sklearn.exceptions import ConvergenceWarning
from sklearn.gaussian_process import GaussianProcessRegressor
from sklearn.gaussian_process.kernels import ConstantKernel, Matern, WhiteKernel

from hf_rlsearch._typing import FloatArray, IntArray
from hf_rlsearch.observation.history import COMPLETE, History
from hf_rlsearch.observation.observation import FACTS, SpaceTables, space_tables
from hf_rlsearch.space import SearchSpace
from hf_rlsearch.space.candidates import count_matches, unique_rows
from hf_rlsearch.tasks.prior import TaskBatch

_NOTHING_KNOWN = 0.35  # share of the tasks without facts: RLSampler in a plain study is told the direction alone
_NOISE = 1e-3  # the values are single trainings: their noise is in them already
_N_INCUMBENTS = 5
_WORST = -3.0  # on the logarithmic scale: 20 times as far from the best as the median is


@dataclass(frozen=True)
class RecordedStudy:
    """The complete trials of one study on the grid of its space.

    Attributes:
        name: Of the study.
        space: Of the hyperparameters that kept their range.
        rows: N x H level indices, no row twice; -1 where trials lacked the hyperparameter.
        values: N objectives, larger is better; the mean where several trials had the same levels.
        facts: What is known of the task by name, see `FACTS`.
    """

    name: str
    space: SearchSpace
    rows: IntArray
    values: FloatArray
    facts: Mapping[str, float]

    @classmethod
    def of(cls, name: str, space: SearchSpace, history: History, facts: Mapping[str, float]) -> RecordedStudy:
        """Reads the complete trials of a history; values between levels count for the nearest level."""
        complete = history.select(history.status == COMPLETE)
        levels = np.array([space.nearest_levels(params) for params in complete.params], dtype=np.int64)
        levels = levels.reshape(-1, len(space.names))
        rows = unique_rows(levels)
        same = (levels == rows[:, None]).all(2)  # N x trials
        return cls(name, space, rows, (same @ complete.values) / same.sum(1), facts)

    def equals(self, other: RecordedStudy) -> bool:
        """Whether both hold the same configurations and values of the same space, whatever their names."""
        same_rows = self.space == other.space and np.array_equal(self.rows, other.rows)
        return same_rows and np.array_equal(self.values, other.values)

    @property
    def can_teach(self) -> bool:
        """Whether the values differ, so that there is something to learn."""
        return len(self.rows) > 1 and float(np.ptp(self.values)) > 1e-9 * float(np.abs(self.values).max())

    def draw(self, rng: np.random.Generator, n_candidates: int, recorded_share: float) -> dict[str, npt.NDArray[Any]]:
        """One task by the names of `TaskBatch`: the recorded configurations first, then others.

        The share of the tasks is given that have no other candidates than the recorded ones; their scale is the same.
        """
        rows = np.concatenate([self.rows, self._others(rng, n_candidates)])[:n_candidates]
        n_recorded = min(len(self.rows), n_candidates)
        utility = self._sample(rng, rows)
        utility[:n_recorded] = self._utility[:n_recorded]
        median = float(np.median(utility))
        spread = max(float(utility.max()) - median, 1e-3)
        n_shown = n_recorded if rng.random() < recorded_share else len(rows)
        centre, unit = self._scale
        nothing = rng.random() < _NOTHING_KNOWN
        known = [np.nan if nothing and name != "maximize" else self.facts.get(name, np.nan) for name in FACTS]
        return {
            "candidates": np.maximum(rows, 0),
            "candidate_mask": np.arange(len(rows)) < n_shown,
            "present": rows >= 0,
            "utility": (utility - median) / spread,
            "values": centre + unit * utility,
            "noise": np.full(len(rows), _NOISE),
            "spread": np.array(unit * spread),
            "median": np.array(centre + unit * median),
            "facts": np.array(known, dtype=float),
            "curves": np.zeros((len(rows), 0)),
            "prices": np.ones(len(rows)),
        }

    def _others(self, rng: np.random.Generator, n_candidates: int) -> IntArray:
        """Configurations that were not recorded, some of them near the best ones."""
        best = [self.space.decode(row) for row in self._best_rows if (row >= 0).all()]
        rows = self.space.candidates(rng, limit=n_candidates, incumbents=best)
        rows = rng.permutation(rows[count_matches(rows, self.rows) == 0])
        return np.asarray(rows[: max(n_candidates - len(self.rows), 0)])

    @property
    def _best_rows(self) -> IntArray:
        return self.rows[np.argsort(-self.values)[:_N_INCUMBENTS]]

    @cached_property
    def _scale(self) -> tuple[float, float]:
        """Median of the values, and the distance from it to the best; to the worst where most are equal to the best."""
        median, best = float(np.median(self.values)), float(self.values.max())
        return median, best - median if best > median else best - float(self.values.min())

    @cached_property
    def _utility(self) -> FloatArray:
        """N values of which 0 is the median and 1 the best."""
        centre, unit = self._scale
        return np.asarray((self.values - centre) / unit)

    def _sample(self, rng: np.random.Generator, rows: IntArray) -> FloatArray:
        """Utilities of C x H rows from the process; their lower tail, where trainings diverge, is logarithmic in it."""
        low = _compressed(self._utility).min()
        sampled = self._process.sample_y(self._encoded(rows), random_state=int(rng.integers(2**31)))[:, 0]
        sampled = np.clip(sampled, low - 1.0, 1.5)
        return np.asarray(np.where(sampled < 0, -np.expm1(-np.minimum(sampled, 0)), sampled))

    @cached_property
    def _process(self) -> GaussianProcessRegressor:
        """A process with a length scale for each column, fitted by its marginal likelihood."""
        x = self._encoded(self.rows)
        kernel = ConstantKernel(1.0, (0.1, 30.0)) * Matern(np.ones(x.shape[1]), (0.1, 20.0), nu=2.5)
        process = GaussianProcessRegressor(kernel + WhiteKernel(0.01, (1e-4, 0.3)), normalize_y=True)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)  # a length scale at its bound: that column is inert
            return process.fit(x, _compressed(self._utility))

    def _encoded(self, rows: IntArray) -> FloatArray:
        """As the space encodes them, so scaled that two categories are as far apart as the ends of a range."""
        return np.asarray(self.space.encode(rows) * self._scales)

    @cached_property
    def _scales(self) -> FloatArray:
        widths = [(1, 1.0) if h.ordered else (len(h.levels), 1 / np.sqrt(2.0)) for h in self.space.hyperparameters]
        return np.concatenate([np.full(width, scale) for width, scale in widths])


def _compressed(utility: FloatArray) -> FloatArray:
    """Utilities whose part below the median is logarithmic, at least `_WORST`: no diverged training is an outlier."""
    return np.asarray(np.where(utility < 0, np.maximum(-np.log1p(np.maximum(-utility, 0)), _WORST), utility))


@dataclass(frozen=True)
class StudyTasks:
    """Draws batches of tasks from studies, each study as often as any other.

    Attributes:
        studies: At least one; all of them `can_teach`.
        recorded_share: Share of the tasks that have no other candidates than the recorded ones.
    """

    studies: Sequence[RecordedStudy]
    recorded_share: float = 0.5

    def draw(self, rng: np.random.Generator, n_tasks: int, n_candidates: int) -> TaskBatch:
        """Draws `n_tasks` tasks of up to `n_candidates` candidates; the same state of `rng` gives the same tasks."""
        chosen = [self.studies[int(i)] for i in rng.integers(len(self.studies), size=n_tasks)]
        return _stacked([(study, study.draw(rng, n_candidates, self.recorded_share)) for study in chosen], n_candidates)


def _stacked(drawn: Sequence[tuple[RecordedStudy, dict[str, npt.NDArray[Any]]]], n_candidates: int) -> TaskBatch:
    """A batch of tasks of different spaces, padded to the same shapes."""
    tables = [space_tables(study.space) for study, _ in drawn]
    H, L = (max(table.levels.shape[axis] for table in tables) for axis in (1, 2))
    sizes = {"H": H, "L": L, "C": n_candidates}
    arrays: dict[str, list[npt.NDArray[Any]]] = {field.name: [] for field in fields(TaskBatch)}
    for (_, task), table in zip(drawn, tables, strict=True):
        for field in fields(SpaceTables):
            arrays[field.name].append(_padded(getattr(table, field.name)[0], field.name, sizes))
        for name, array in task.items():
            arrays[name].append(_padded(array, name, sizes))
    return TaskBatch(**{name: np.stack(parts) for name, parts in arrays.items()})


# Axes of the arrays of a task that are padded, and what fills them.
_AXES = {
    "roles": "H", "ordered": "H", "log": "H", "n_levels": "H", "levels": "HL", "sizes": "HL", "kinds": "HL",
    "candidates": "CH", "present": "CH", "candidate_mask": "C", "utility": "C", "values": "C", "noise": "C",
    "curves": "C", "prices": "C",
}  # fmt: skip
_FILLERS: dict[str, float] = {"roles": -1, "levels": np.nan, "sizes": np.nan, "utility": -10.0, "prices": 1.0}


def _padded(array: npt.NDArray[Any], name: str, sizes: Mapping[str, int]) -> npt.NDArray[Any]:
    axes = _AXES.get(name, "")
    width = [(0, sizes[axis] - n) for axis, n in zip(axes, array.shape, strict=False)]
    width += [(0, 0)] * (array.ndim - len(width))
    return np.pad(array, width, constant_values=_FILLERS.get(name, 0)) if array.ndim else array
