"""Builds the observation of the policy, by the same code for simulated and live searches, so that both always agree.

Everything is batched: arrays carry a leading B, the number of searches side by side (1 in a live search).
Configurations are rows of level indices into a table of levels, so a level is described once, however many candidates
use it; values that a history has off the grid are appended to the table as further levels.

Letters: B searches, T trials, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import ObservationError
from hf_rlsearch.observation.history import STATUS, History
from hf_rlsearch.observation.trial_attributes import ROUNDING
from hf_rlsearch.observation.value_features import KINDS, absolute, size_hint
from hf_rlsearch.space import ROLES, SearchSpace

FACTS = (
    "n_parameters", "n_examples", "maximize", "lora", "from_scratch",
    "n_steps", "n_evaluated", "n_classes", "trainable", "untrained",
)  # fmt: skip
"""What may be known of a task before its first trial, NaN where unknown.

log10 of the parameters, of the rows to train on, of the planned optimizer steps, of the rows to evaluate on, of the
classes, and of the share of the parameters that is trained; 0 or 1 for a maximised metric, for adapters, and for
training from scratch; the value of the model before its first step, in the metric's units, larger is better."""
OBSERVATION_FORMAT = 2
"""Number of this format. The weights carry it; any change of an array's meaning raises it."""
# Columns that `space_arrays`, `observe` and `_context` stack.
LEVEL_FEATURES = ("position", "axis", "is_zero", "size", "has_size", "real", *KINDS)
STATIC_FEATURES = ("present", "ordered", "log", "n_levels", "lowest", "highest", *ROLES)
TRIAL_FEATURES = (
    "value", "clipped", "rank", "is_best", "known", "fidelity", "at_reference", "at_half", "at_half_known",
    "gain", "learnt", *STATUS,
)  # fmt: skip
CONTEXT_FEATURES = (
    *FACTS, *(f"{name}_known" for name in FACTS), "n_known", "log_relative_spread", "bounded_best", "bounded",
    "any_complete", "best_gain", "share_learnt", "log_error", "error_known",
)  # fmt: skip
N_LEVEL_FEATURES, N_STATIC_FEATURES = len(LEVEL_FEATURES), len(STATIC_FEATURES)
N_TRIAL_FEATURES, N_CONTEXT_FEATURES = len(TRIAL_FEATURES), len(CONTEXT_FEATURES)
# Columns by what they tell, for code that reads or hides them.
LEVEL_AXIS, LEVEL_REAL = LEVEL_FEATURES.index("axis"), LEVEL_FEATURES.index("real")
LEVEL_SIZE = slice(LEVEL_FEATURES.index("size"), LEVEL_FEATURES.index("has_size") + 1)
LEVEL_KIND = slice(LEVEL_FEATURES.index(KINDS[0]), N_LEVEL_FEATURES)
STATIC_PRESENT = STATIC_FEATURES.index("present")
STATIC_RANGE = slice(STATIC_FEATURES.index("lowest"), STATIC_FEATURES.index("highest") + 1)
STATIC_ROLE = slice(STATIC_FEATURES.index(ROLES[0]), N_STATIC_FEATURES)
TRIAL_VALUE, TRIAL_RANK, TRIAL_KNOWN = (TRIAL_FEATURES.index(name) for name in ("value", "rank", "known"))
CONTEXT_FACTS, CONTEXT_GIVEN = slice(0, len(FACTS)), slice(len(FACTS), 2 * len(FACTS))

# Centre and width of the facts in the order of FACTS. The value of the untrained model has no usual size: the values of
# the trials are compared with it.
_FACT_SCALE = np.array(
    [[8.0, 1.0], [4.3, 1.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5], [3.0, 1.0], [3.0, 1.0], [0.6, 0.6], [-1.0, 1.0]]
)
# How much the price of a candidate counts while a budget is whole: 0 not at all, 1 as much as its improvement. With 1 a
# search trains what is cheap and learns little: see docs/background/log/2026-11-30-prices-and-chance-level.md.
PRICE_EXPONENT = 0.25
# Standard errors by which a score has to exceed the untrained model's before something counts as learnt.
_LEARNT = 2.0
# Least variance of a row's score: where all rows are right, the next model may still err.
_LEAST_VARIANCE = 0.01
# Units below the best at which values are cut off: a diverged loss of 1e290 is no worse than one of 1e5.
_FARTHEST = 1e5
# Distance from best to median, as a share of the best, where the unit of the values is left out.
_USUAL_SPREAD = 0.1


@dataclass(frozen=True)
class SpaceTables:
    """The hyperparameters and levels of B search spaces, padded to the same shapes.

    Attributes:
        roles: B x H index into `ROLES`, -1 for padding.
        ordered: B x H, True where levels are numbers.
        log: B x H, True where positions are logarithmic.
        levels: B x H x L numbers in real units, NaN for padding and for categories.
        sizes: B x H x L log10 of parameters of categorical backbones, NaN elsewhere.
        kinds: B x H x L index into `KINDS`.
        n_levels: B x H levels in use, 0 for padding.
    """

    roles: IntArray
    ordered: BoolArray
    log: BoolArray
    levels: FloatArray
    sizes: FloatArray
    kinds: IntArray
    n_levels: IntArray


@dataclass(frozen=True)
class SpaceArrays:
    """B search spaces as arrays, which do not change while a search runs.

    Attributes:
        static: B x H x N_STATIC_FEATURES, of the hyperparameter itself; all zero for padding.
        level_features: B x H x L x N_LEVEL_FEATURES, of each of its levels; all zero for padding.
        positions: B x H x L in [0, 1]; for categories the index, so that only equality counts.
        ordered: B x H, True where positions have distances.
    """

    static: FloatArray
    level_features: FloatArray
    positions: FloatArray
    ordered: BoolArray


@dataclass(frozen=True)
class TrialArrays:
    """The outcomes of the trials of B searches as arrays.

    Attributes:
        values: B x T objective, larger is better, NaN where a trial has none.
        fidelity: B x T in [0, 1].
        status: B x T index into `STATUS`.
        mask: B x T, False for padding.
        at_reference: B x T value at the fidelity of the trial that is running now, NaN where the trial has no curve
            that far; where nothing runs, the value itself.
        at_half: B x T value at half of the trial's own fidelity, NaN where unknown.
    """

    values: FloatArray
    fidelity: FloatArray
    status: IntArray
    mask: BoolArray
    at_reference: FloatArray
    at_half: FloatArray


@dataclass(frozen=True)
class Observation:
    """The arrays from which one decision of B searches is made.

    Attributes:
        space: The search spaces.
        trials: B x T x H level indices, -1 where a trial lacks the hyperparameter.
        trial_features: B x T x N_TRIAL_FEATURES.
        trial_mask: B x T, False for padding.
        incumbent: B, index of the best trial, -1 where nothing has a value yet.
        candidates: B x C x H level indices.
        candidate_mask: B x C, True where the candidate may be chosen.
        context: B x N_CONTEXT_FEATURES, of the whole search.
    """

    space: SpaceArrays
    trials: IntArray
    trial_features: FloatArray
    trial_mask: BoolArray
    incumbent: IntArray
    candidates: IntArray
    candidate_mask: BoolArray
    context: FloatArray


def observe(
    space: SpaceArrays,
    facts: FloatArray,
    levels: IntArray,
    trials: TrialArrays,
    candidates: IntArray,
    candidate_mask: BoolArray,
) -> Observation:
    """Builds the observation of B searches from B x len(FACTS) facts, NaN where unknown, and B x C x H candidates.

    Returns:
        The observation; it does not depend on the order of the trials, nor on the unit or sign convention of the values
        beyond what the facts and the context say.

    Raises:
        ObservationError: The arrays disagree in B, T, C or H.
    """
    _check_shapes(space, facts, levels, trials, candidates, candidate_mask)
    values, mask = trials.values, trials.mask
    known = mask & np.isfinite(values)
    complete = known & (trials.status == STATUS.index("complete"))
    # The scale comes from finished trials; values on the way count only while nothing has finished.
    scale = _Scale(values, np.where(complete.any(1, keepdims=True), complete, known))
    untrained = _Untrained(facts, scale, values, known)
    columns = [
        scale.compressed(values, known),
        scale.clipped(values, known),
        scale.rank(values, known),
        scale.is_best,
        known,
        trials.fidelity * known,
        scale.compressed(trials.at_reference, known & np.isfinite(trials.at_reference)),
        scale.compressed(trials.at_half, known & np.isfinite(trials.at_half)),
        known & np.isfinite(trials.at_half),
        untrained.gain,
        untrained.learnt,
    ]
    features = np.concatenate([np.stack(columns, axis=-1), np.eye(len(STATUS))[trials.status]], axis=-1)
    return Observation(
        space=space,
        trials=levels,
        trial_features=(features * mask[..., None]).astype(np.float32),
        trial_mask=mask,
        incumbent=np.where(known.any(1), scale.is_best.argmax(1) if mask.shape[1] else 0, -1),
        candidates=candidates,
        candidate_mask=candidate_mask,
        context=_context(facts, scale, untrained, known, complete),
    )


def _context(
    facts: FloatArray, scale: _Scale, untrained: _Untrained, known: BoolArray, complete: BoolArray
) -> FloatArray:
    """B x N_CONTEXT_FEATURES: of each fact its scaled value and whether it is known; then the search as a whole."""
    given, n = ~np.isnan(facts), len(_FACT_SCALE)
    scaled = np.clip((np.nan_to_num(facts[:, :n]) - _FACT_SCALE[:, 0]) / _FACT_SCALE[:, 1], -4, 4)
    # How far a maximised metric is from 1 is worth knowing; of a loss the value says nothing.
    columns = [
        np.log1p(known.sum(1)) / 3.0,
        scale.log_relative_spread,
        np.where(untrained.bounded, scale.best, 0.0),
        untrained.bounded,
        complete.any(1),
        untrained.best_gain,
        (untrained.learnt & known).sum(1) / np.maximum(known.sum(1), 1),
        untrained.log_error,
        untrained.error_known,
    ]
    unscaled = np.zeros((len(facts), facts.shape[1] - n))
    parts = [np.where(given[:, :n], scaled, 0.0), unscaled, given, np.stack(columns, axis=1)]
    return np.concatenate(parts, axis=1).astype(np.float32)


def _check_shapes(
    space: SpaceArrays,
    facts: FloatArray,
    levels: IntArray,
    trials: TrialArrays,
    candidates: IntArray,
    candidate_mask: BoolArray,
) -> None:
    B, T, H = levels.shape
    per_trial = (trials.values, trials.fidelity, trials.status, trials.mask, trials.at_reference, trials.at_half)
    for name, array, expected in (
        ("hyperparameters of the space", space.ordered, (B, H)),
        ("facts", facts, (B, len(FACTS))),
        ("candidates", candidates, (B, *candidates.shape[1:2], H)),
        ("candidate_mask", candidate_mask, (B, *candidates.shape[1:2])),
        *(("values of trials", array, (B, T)) for array in per_trial),
    ):
        if array.shape != expected:
            raise ObservationError(
                f"{name} have shape {array.shape}, expected {expected}: the trials have shape {(B, T, H)} (B x T x H)."
            )


class _Scale:
    """A history's own scale: best 0, median -1. Without a spread of values it is not usable.

    The basis are the B x T trials that the scale is made from, ``is_best`` marks one best trial among them.
    """

    @np.errstate(over="ignore")  # a share beyond 1e308 is clipped
    def __init__(self, values: FloatArray, basis: BoolArray) -> None:
        self.basis, self.basis_values = basis, np.where(basis, values, -np.inf)
        some = basis.any(1)
        self.best = np.where(some, self.basis_values.max(1, initial=-np.inf), 0.0)
        worst = np.where(some, np.where(basis, values, np.inf).min(1, initial=np.inf), 0.0)
        median = _masked_median(values, basis)
        unit = np.where(self.best > median, self.best - median, self.best - worst)
        self.usable = unit > 1e-12 * np.abs(self.best)  # B, False while all values are equal
        self.unit = np.where(self.usable, unit, 1.0)
        relative = np.where(self.usable, unit / np.maximum(np.abs(self.best), 1e-12), 1e-3)
        self.log_relative_spread = np.log10(np.clip(relative, 1e-3, 1e3))
        self.is_best = np.zeros(values.shape, bool)
        if values.shape[1]:
            self.is_best[np.arange(len(values)), self.basis_values.argmax(1)] = some

    def compressed(self, values: FloatArray, known: BoolArray) -> FloatArray:
        """0 for the best, -log(2) for the median, logarithmic below; values above the best stay linear up to 2."""
        below = self._below(values, known)
        return np.where(below > 0, np.minimum(below, 2.0), -np.log1p(np.maximum(-below, 0)))

    def clipped(self, values: FloatArray, known: BoolArray) -> FloatArray:
        """Linear in [-1, 1/3]: 0 for the best, -1/3 for the median."""
        return np.clip(self._below(values, known), -3.0, 1.0) / 3.0

    def rank(self, values: FloatArray, known: BoolArray) -> FloatArray:
        """Share of the trials of the basis that each trial beats."""
        beaten = (values[:, :, None] > self.basis_values[:, None, :]) & self.basis[:, None, :]
        return np.where(known, beaten.sum(2) / np.maximum(self.basis.sum(1, keepdims=True) - 1, 1), 0.0)

    def _below(self, values: FloatArray, known: BoolArray) -> FloatArray:
        shown = known & self.usable[:, None]
        return np.where(shown, self.in_units(np.where(shown, values, 0.0) - self.best[:, None]), 0.0)

    @np.errstate(over="ignore")
    def in_units(self, differences: FloatArray) -> FloatArray:
        """B x T differences of values, in units of the scale and no farther than ``_FARTHEST``."""
        return np.clip(differences / self.unit[:, None], -_FARTHEST, _FARTHEST)


class _Untrained:
    """Compares B x T trials with the model before its first step: a score at chance is noise, however it ranks.

    The standard error is that of a proportion over the rows of the evaluation, so it is known for scores only. ``gain``
    is the value above the untrained model's in units of the scale, its logarithm with the sign kept; ``learnt`` marks
    the trials that exceed it by more than noise. Both are zero where the untrained model's value is unknown.
    """

    @np.errstate(over="ignore")  # a share beyond 1e308 is clipped
    def __init__(self, facts: FloatArray, scale: _Scale, values: FloatArray, known: BoolArray) -> None:
        column = {name: facts[:, i] for i, name in enumerate(FACTS)}
        self.bounded = (column["maximize"] == 1) & (np.abs(scale.best) <= 1.0)  # B
        start, given = np.nan_to_num(column["untrained"]), np.isfinite(column["untrained"])
        n_rows = _rows_of_evaluation(facts)
        error = _standard_error(start, n_rows) * self.bounded
        above = np.where(known, values, 0.0) - start[:, None]
        shown = known & given[:, None]
        self.learnt = shown & (above > _LEARNT * error[:, None])
        self.gain = np.where(shown & scale.usable[:, None], self._compressed(scale.in_units(above)), 0.0)
        self.best_gain = np.where(shown.any(1), self.gain.max(1, initial=-np.inf, where=shown), 0.0)
        self.error_known = self.bounded & np.isfinite(n_rows) & scale.usable
        relative = _standard_error(scale.best, n_rows) / scale.unit
        self.log_error = np.where(self.error_known, np.log10(np.clip(relative, 1e-2, 1e2)), 0.0)

    @staticmethod
    def _compressed(units: FloatArray) -> FloatArray:
        return np.asarray(np.sign(units) * np.log1p(np.abs(units)) / 2.0)


def has_learnt(facts: FloatArray, values: FloatArray, best: FloatArray) -> FloatArray:
    """Compares B values with the untrained model's: 1 above by more than noise, -1 not above, 0 unknown.

    Args:
        facts: B x len(FACTS).
        values: B, larger is better.
        best: B, of the search; scores from 0 to 1 have a standard error, losses and their negatives have none.
    """
    start = facts[:, FACTS.index("untrained")]
    bounded = (facts[:, FACTS.index("maximize")] == 1) & (best >= 0.0) & (best <= 1.0)
    error = _standard_error(np.nan_to_num(start), _rows_of_evaluation(facts)) * bounded
    above = np.where(values > np.nan_to_num(start) + _LEARNT * error, 1.0, -1.0)
    return np.where(np.isfinite(start), above, 0.0)


def log_price_factor(prices: FloatArray, share_left: FloatArray) -> FloatArray:
    """Logarithms of factors on expected improvement: the price to the power of `-PRICE_EXPONENT * share_left`.

    While much is left a cheap trial is preferred to one that promises little more; near the end of the budget only the
    improvement counts.

    Args:
        prices: Above 0, in any unit.
        share_left: Of the budget, cut to [0, 1]; its shape fits that of the prices.

    Source:
        Cost-cooling, Lee et al. 2020 (arXiv:2003.10870), equation 3, which has an exponent of 1.
    """
    return np.asarray(-PRICE_EXPONENT * np.clip(share_left, 0.0, 1.0) * np.log(prices))


def is_at_chance(facts: Mapping[str, float], history: History) -> bool:
    """Whether no trial is above the untrained model by more than noise; False where that model's value is unknown.

    Args:
        facts: As the agent is told.
        history: Of one search.
    """
    values = history.values[np.isfinite(history.values)]
    best = values.max(initial=-np.inf, keepdims=True)
    told = np.array([[facts.get(name, np.nan) for name in FACTS]], float)
    return len(values) > 0 and bool(has_learnt(told, best, best)[0] < 0)


def _rows_of_evaluation(facts: FloatArray) -> FloatArray:
    """B rows, infinity where unknown."""
    n_evaluated = facts[:, FACTS.index("n_evaluated")]
    return np.asarray(10.0 ** np.where(np.isfinite(n_evaluated), np.clip(n_evaluated, 0, 300), np.inf))


def _standard_error(score: FloatArray, n_rows: FloatArray) -> FloatArray:
    """Of B proportions over so many rows."""
    share = np.clip(np.abs(score), 0.0, 1.0)
    return np.asarray(np.sqrt(np.maximum(share * (1 - share), _LEAST_VARIANCE) / n_rows))


def _masked_median(values: FloatArray, known: BoolArray) -> FloatArray:
    """Median of each row's known values, 0 for a row without any."""
    if not values.shape[1]:
        return np.zeros(len(values))
    ordered = np.sort(np.where(known, values, np.inf), axis=1)
    count, rows = known.sum(1), np.arange(len(values))
    lower = ordered[rows, np.maximum(count - 1, 0) // 2]
    upper = ordered[rows, np.minimum(count // 2, np.maximum(count - 1, 0))]
    return np.where(count > 0, (lower + upper) / 2, 0.0)


def space_arrays(tables: SpaceTables, n_grid: IntArray | None = None) -> SpaceArrays:
    """Describes search spaces.

    Args:
        tables: Roles and levels of B search spaces.
        n_grid: B x H levels that span the axis, the first of each row; the rest were appended from a history and say
            where trials were, not how fine the grid is. All levels where not given.
    """
    n_grid = tables.n_levels if n_grid is None else n_grid
    roles, ordered, log, levels, sizes = tables.roles, tables.ordered, tables.log, tables.levels, tables.sizes
    index, present = np.arange(levels.shape[2]), roles >= 0
    real = (index < tables.n_levels[..., None]) & present[..., None]
    on_grid = index < n_grid[..., None]
    positions = _positions(levels, log, ordered, real, on_grid)
    axis = np.zeros_like(levels)
    for role in np.unique(roles[present]):
        axis[roles == role] = absolute(ROLES[role], levels[roles == role])
    numeric = real & ordered[..., None]
    axis = np.where(numeric, axis, 0.0)
    has_size = real & ~np.isnan(sizes)
    size = np.where(has_size, np.nan_to_num(sizes) - 8.0, 0.0)
    features = np.stack([positions, axis, numeric & (levels == 0), size, has_size, real], axis=-1)
    features = np.concatenate([features, np.eye(len(KINDS))[tables.kinds]], axis=-1) * real[..., None]
    lowest = np.where(present, np.where(on_grid & real, axis, np.inf).min(2), 0)
    highest = np.where(present, np.where(on_grid & real, axis, -np.inf).max(2), 0)
    static = np.stack([present, ordered, log, n_grid / 8.0, lowest, highest], axis=-1)
    static = np.concatenate([static, np.eye(len(ROLES) + 1)[roles][..., :-1]], axis=-1) * present[..., None]
    return SpaceArrays(static.astype(np.float32), features.astype(np.float32), positions.astype(np.float32), ordered)


def _positions(
    levels: FloatArray, log: BoolArray, ordered: BoolArray, real: BoolArray, on_grid: BoolArray
) -> FloatArray:
    """Level -> [0, 1] between the lowest and the highest level of the grid; the index for categories."""
    with np.errstate(divide="ignore", invalid="ignore"):
        x = np.where(log[..., None], np.log(np.maximum(levels, 1e-30)), levels)
        inside = real & on_grid & ~np.isnan(x)
        low = np.where(inside, x, np.inf).min(2, keepdims=True)
        high = np.where(inside, x, -np.inf).max(2, keepdims=True)
        unit = np.where(high > low, (x - low) / (high - low), 0.5)
    unit = np.clip(np.nan_to_num(unit, nan=0.5, posinf=0.5, neginf=0.5), 0.0, 1.0)
    count = np.maximum(real.sum(2, keepdims=True) - 1, 1)
    return np.where(real, np.where(ordered[..., None], unit, np.arange(levels.shape[2]) / count), 0.0)


def live_observation(
    space: SearchSpace, history: History, candidates: IntArray, mask: BoolArray, facts: Mapping[str, float]
) -> Observation:
    """The observation of one live search, B = 1, of C x H candidates and a mask of those that may be chosen.

    The facts are those that are known, by name (see `FACTS`); sizes as log10.
    """
    levels, appended = _trial_levels(space, history)
    values, fidelity = np.asarray(history.values, float), np.asarray(history.fidelity, float)
    trials = TrialArrays(
        values=values[None],
        fidelity=fidelity[None],
        status=np.asarray(history.status, int)[None],
        mask=np.ones((1, len(levels)), bool),
        at_reference=_at_reference(history)[None],
        at_half=_shown_at(history, fidelity / 2)[None],
    )
    row = np.array([[facts.get(name, np.nan) for name in FACTS]], dtype=float)
    arrays = space_arrays(space_tables(space, appended), space.n_levels[None])
    return observe(arrays, row, levels[None], trials, np.asarray(candidates)[None], np.asarray(mask, bool)[None])


def unitless(history: History, facts: Mapping[str, float]) -> tuple[History, dict[str, float]]:
    """The history and the facts as they look where neither the direction nor the unit of the objective is known.

    The best of the trials that the scale is made from gets the value -1 and their median -1.1: such spreads are usual.
    Decisions that are made with the two are the same for a loss and for its negative maximised, in any unit.
    """
    values, known = history.values[None], np.isfinite(history.values)[None]
    complete = known & (history.status == STATUS.index("complete"))
    scale = _Scale(values, complete if complete.any() else known)

    def moved(numbers: FloatArray) -> FloatArray:
        return np.asarray(-1.0 + _USUAL_SPREAD * scale.in_units(numbers[None] - scale.best)[0])

    curves = tuple(np.column_stack([curve[:, 0], moved(curve[:, 1])]) for curve in history.curves)
    kept = {name: value for name, value in facts.items() if name != "maximize"}
    if "untrained" in kept:
        kept["untrained"] = float(moved(np.array([kept["untrained"]]))[0])
    return replace(history, values=moved(history.values), curves=curves), kept


def _at_reference(history: History) -> FloatArray:
    """T values at the fidelity of the running trial that is furthest; NaN for trials that have not come that far.

    Simulated searches do the same. A trial without a recorded curve is compared by its value.
    """
    running = history.status == STATUS.index("running")
    reference = float(np.max(history.fidelity, initial=0.0, where=running))
    if reference <= 0:
        return np.asarray(history.values, float)
    unrecorded = np.array([len(curve) == 0 for curve in history.curves], dtype=bool)
    reached = np.asarray(history.fidelity) >= reference * (1 - ROUNDING)
    shown = np.where(reached, _shown_at(history, np.full(len(reached), reference)), np.nan)
    return np.where(unrecorded, history.values, shown)


def _shown_at(history: History, fidelity: FloatArray) -> FloatArray:
    """T values of the curves of the trials at T fidelities, NaN for a trial without a report that early."""
    shown = np.full(len(history.params), np.nan)
    if not any(map(len, history.curves)):
        return shown
    # All curves at once: one by one a hundred trials would take longer than the network.
    owner = np.repeat(np.arange(len(shown)), [len(curve) for curve in history.curves])
    step, value = np.concatenate(history.curves).T
    last, own = np.zeros(len(shown)), np.asarray(history.fidelity, float)
    last[owner] = step  # steps ascend, so the last one stays
    # The last report covers the whole training so far, also where steps count from 0 and there is only one report.
    at = np.where(last[owner] > 0, step / np.maximum(last[owner], 1e-300), 1.0) * own[owner]
    early = (at <= fidelity[owner] * (1 + ROUNDING)) & (own[owner] > 0)
    shown[owner[early]] = value[early]  # the latest one stays
    return shown


def _trial_levels(space: SearchSpace, history: History) -> tuple[IntArray, list[list[float]]]:
    """T x H level indices, and per hyperparameter the numbers that were appended beyond its grid."""
    columns, appended = [], []
    for h in space.hyperparameters:
        known = {_key(level): i for i, level in enumerate(h.levels)}
        more: list[float] = []
        column = []
        for params in history.params:
            key = _key(params[h.name]) if h.name in params else _MISSING
            # A category that this space does not have counts as missing.
            if key not in known and h.ordered and isinstance(key, float):
                known[key] = len(h.levels) + len(more)
                more.append(key)
            column.append(known.get(key, -1))
        columns.append(column)
        appended.append(more)
    return np.array(columns, int).reshape(len(columns), len(history.params)).T, appended


_MISSING = object()


def _key(value: object) -> object:
    """A dictionary key under which 1 and 1.0 agree, but not True and "1": numbers are floats, all else has its type."""
    if type(value) is float:
        return value
    return float(value) if is_number(value) else (type(value), value)


def space_tables(space: SearchSpace, appended: Sequence[Sequence[float]] | None = None) -> SpaceTables:
    """The tables of one space, B = 1, with the numbers that a history has beyond the levels, by hyperparameter."""
    hyperparameters = space.hyperparameters
    appended = [()] * len(hyperparameters) if appended is None else appended
    n_grid = space.n_levels
    n_levels = n_grid + np.array([len(numbers) for numbers in appended])
    shape = len(hyperparameters), int(n_levels.max())
    levels, sizes, kinds = np.full(shape, np.nan), np.full(shape, np.nan), np.zeros(shape, int)
    for i, h in enumerate(hyperparameters):
        if h.ordered:
            levels[i, : n_levels[i]] = [*map(float, h.levels), *appended[i]]
        else:
            sizes[i, : n_grid[i]], kinds[i, : n_grid[i]] = size_hint(list(h.levels))
    roles = np.array([ROLES.index(h.role) for h in hyperparameters])
    log = np.array([h.log for h in hyperparameters])
    arrays: tuple[npt.NDArray[Any], ...] = (roles, space.ordered, log, levels, sizes, kinds, n_levels)
    return SpaceTables(*(array[None] for array in arrays))
