"""What the policy sees: one builder for the environments and for the live sampler, so that the two cannot drift apart.

Everything is batched: arrays carry a leading B, the number of searches side by side (1 in a live search).
Configurations are rows of level indices into a table of levels, so a level is described once, however many candidates
use it; values that a history has off the grid are appended to the table as further levels.

Letters: B searches, T trials, C candidates, H hyperparameters, L levels.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import ObservationError
from hf_rlsearch.observation.history import STATUS, History
from hf_rlsearch.observation.value_features import KINDS, absolute, size_hint
from hf_rlsearch.space import ROLES, SearchSpace

FACTS = ("n_parameters", "n_examples", "maximize", "lora", "from_scratch")
OBSERVATION_FORMAT = 1
"""Number of this format. The weights carry it; any change of an array's meaning raises it."""
N_LEVEL_FEATURES = 6 + len(KINDS)
N_STATIC_FEATURES = 6 + len(ROLES)
N_TRIAL_FEATURES = 9 + len(STATUS)
N_CONTEXT_FEATURES = 2 * len(FACTS) + 5

# Centre and width of the facts, in the order of FACTS: log10 of parameters and examples, three switches.
_FACT_SCALE = np.array([[8.0, 1.0], [4.3, 1.0], [0.5, 0.5], [0.5, 0.5], [0.5, 0.5]])
_FARTHEST = 1e5
"""Units below the best at which values are cut off: a diverged loss of 1e290 is no worse than one of 1e5."""


@dataclass(frozen=True)
class SpaceArrays:
    """B search spaces as arrays; what does not change while a search runs.

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
class Observation:
    """What one decision of B searches is made from.

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


def space_arrays(
    roles: IntArray,
    ordered: BoolArray,
    log: BoolArray,
    levels: FloatArray,
    sizes: FloatArray,
    kinds: IntArray,
    n_levels: IntArray,
    n_grid: IntArray | None = None,
) -> SpaceArrays:
    """Describes search spaces.

    Args:
        roles: B x H index into `ROLES`, -1 for padding.
        ordered: B x H, True where levels are numbers.
        log: B x H, True where positions are logarithmic.
        levels: B x H x L numbers in real units, NaN for padding and categories.
        sizes: B x H x L log10 of parameters named by a category, NaN elsewhere.
        kinds: B x H x L index into `KINDS`.
        n_levels: B x H levels in use; the first `n_grid` of them span the axis.
        n_grid: B x H levels of the grid itself; the rest were appended from a history.
    """
    n_grid = n_levels if n_grid is None else n_grid
    L = levels.shape[2]
    index = np.arange(L)
    real = (index < n_levels[..., None]) & (roles >= 0)[..., None]
    on_grid = index < n_grid[..., None]
    positions = _positions(levels, log, ordered, real, on_grid)
    axis = np.zeros_like(levels)
    for role in np.unique(roles[roles >= 0]):
        where = roles == role
        axis[where] = absolute(ROLES[role], levels[where])
    axis = np.where(real & ordered[..., None], axis, 0.0)
    has_size = real & ~np.isnan(sizes)
    zero = real & ordered[..., None] & (levels == 0)
    features = np.stack(
        [positions, axis, zero, np.where(has_size, (np.nan_to_num(sizes) - 8.0), 0.0), has_size, real], -1
    )
    features = np.concatenate([features, np.eye(len(KINDS))[kinds]], axis=-1) * real[..., None]
    lowest = np.where(on_grid & real, axis, np.inf).min(2)
    highest = np.where(on_grid & real, axis, -np.inf).max(2)
    present = roles >= 0
    static = np.stack(
        [present, ordered, log, n_levels / 8.0, np.where(present, lowest, 0), np.where(present, highest, 0)], axis=-1
    )
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
    with np.errstate(divide="ignore", invalid="ignore"):
        unit = np.where(high > low, (x - low) / (high - low), 0.5)
    unit = np.clip(np.nan_to_num(unit, nan=0.5, posinf=0.5, neginf=0.5), 0.0, 1.0)
    count = np.maximum(real.sum(2, keepdims=True) - 1, 1)
    return np.where(real, np.where(ordered[..., None], unit, np.arange(levels.shape[2]) / count), 0.0)


def encode_facts(facts: FloatArray) -> FloatArray:
    """B x len(FACTS) with NaN for unknown -> B x 2 len(FACTS): scaled value, known."""
    known = ~np.isnan(facts)
    scaled = np.clip((np.nan_to_num(facts) - _FACT_SCALE[:, 0]) / _FACT_SCALE[:, 1], -4, 4)
    return np.concatenate([np.where(known, scaled, 0.0), known], axis=1)


def observe(
    space: SpaceArrays,
    facts: FloatArray,
    trials: IntArray,
    values: FloatArray,
    fidelity: FloatArray,
    status: IntArray,
    trial_mask: BoolArray,
    candidates: IntArray,
    candidate_mask: BoolArray,
    at_reference: FloatArray,
    at_half: FloatArray,
) -> Observation:
    """Builds the observation of B searches.

    Args:
        space: The B search spaces.
        facts: B x len(FACTS), NaN where unknown.
        trials: B x T x H level indices, -1 where missing.
        values: B x T objective, larger is better, NaN where a trial has none.
        fidelity: B x T in [0, 1].
        status: B x T index into `STATUS`.
        trial_mask: B x T, False for padding.
        candidates: B x C x H level indices.
        candidate_mask: B x C, True where the candidate may be chosen.
        at_reference: B x T best value up to the fidelity of the trial that is running now, NaN where the trial has no
            curve that far; where nothing runs, the value itself.
        at_half: B x T best value up to half of the trial's own fidelity, NaN where unknown.

    Returns:
        The observation; it does not depend on the order of the trials, nor on the unit or sign convention of the values
        beyond what the facts and the context say.

    Raises:
        ObservationError: The arrays disagree in B, T, C or H.
    """
    _check_shapes(
        space.ordered.shape,
        trials.shape,
        candidates.shape,
        per_trial=(values, fidelity, status, trial_mask, at_reference, at_half),
        candidate_mask=candidate_mask,
        facts=facts,
    )
    known = trial_mask & np.isfinite(values)
    complete = known & (status == STATUS.index("complete"))
    # The scale comes from finished trials; values on the way count only while nothing has finished.
    basis = np.where(complete.any(1, keepdims=True), complete, known)
    scale = _Scale.of(values, basis)
    columns: list[FloatArray | BoolArray]
    columns = [scale.compressed(values, known), scale.clipped(values, known), scale.rank(values, known)]
    columns += [scale.is_best, known, fidelity * known]
    columns += [scale.compressed(v, known & np.isfinite(v)) for v in (at_reference, at_half)]
    columns += [known & np.isfinite(at_half)]
    features = (
        np.concatenate([np.stack(columns, axis=-1), np.eye(len(STATUS))[status]], axis=-1) * trial_mask[..., None]
    )
    maximize = facts[:, FACTS.index("maximize")]
    bounded = np.nan_to_num(maximize) * (np.abs(scale.best) <= 1.0)
    context = np.stack(
        [
            np.log1p(known.sum(1)) / 3.0,
            scale.log_relative_spread,
            np.where(bounded > 0, scale.best, 0.0),
            bounded,
            complete.any(1),
        ],
        axis=1,
    )
    context = np.concatenate([encode_facts(facts), context], axis=1)
    incumbent = np.where(known.any(1), scale.is_best.argmax(1) if trials.shape[1] else 0, -1)
    return Observation(
        space, trials, features.astype(np.float32), trial_mask, incumbent, candidates, candidate_mask,
        context.astype(np.float32),
    )  # fmt: skip


def _check_shapes(
    space: tuple[int, ...],
    trials: tuple[int, ...],
    candidates: tuple[int, ...],
    *,
    per_trial: Sequence[FloatArray | IntArray | BoolArray],
    candidate_mask: BoolArray,
    facts: FloatArray,
) -> None:
    """Raises where the arrays of `observe` do not belong together."""
    if len(trials) != 3 or len(candidates) != 3 or not space == (trials[0], trials[2]) == candidates[::2]:
        raise ObservationError(
            f"trials {trials}, candidates {candidates} and a space of {space} hyperparameters disagree; expected "
            "B x T x H, B x C x H and B x H."
        )
    wrong = sorted({array.shape for array in per_trial} - {trials[:2]})
    if wrong:
        raise ObservationError(f"there are {trials[:2]} trials, but values of them have shape {wrong}; expected B x T.")
    if candidate_mask.shape != candidates[:2]:
        raise ObservationError(f"the mask {candidate_mask.shape} is not one of {candidates[:2]} candidates (B x C).")
    if facts.shape != (trials[0], len(FACTS)):
        raise ObservationError(f"facts have shape {facts.shape}, expected {(trials[0], len(FACTS))}: {FACTS}.")


@dataclass(frozen=True)
class _Scale:
    """A history's own scale: best 0, median -1.

    Attributes:
        best: B, value of the best trial, 0 without one.
        unit: B, distance from best to median, 1 where it is not known.
        usable: B, False while all values are equal.
        basis: B x T trials that the scale was made from.
        is_best: B x T, True for one best trial of the basis.
        log_relative_spread: B, log10 of unit / |best| in [-3, 3].
        basis_values: B x T values of the basis, -inf elsewhere.
    """

    best: FloatArray
    unit: FloatArray
    usable: BoolArray
    is_best: BoolArray
    log_relative_spread: FloatArray
    basis: BoolArray
    basis_values: FloatArray

    @classmethod
    def of(cls, values: FloatArray, basis: BoolArray) -> _Scale:
        B, T = values.shape
        is_best = np.zeros((B, T), bool)
        if not T:
            zero = np.zeros(B)
            return cls(zero, zero + 1, zero > 0, is_best, zero - 3, basis, values)
        some = basis.any(1)
        low = np.where(basis, values, -np.inf)
        best = np.where(some, low.max(1), 0.0)
        worst = np.where(some, np.where(basis, values, np.inf).min(1), 0.0)
        median = _masked_median(values, basis)
        unit = np.where(best > median, best - median, best - worst)
        usable = unit > 1e-12 * np.maximum(np.abs(best), 1e-12)
        unit = np.where(usable, unit, 1.0)
        is_best[np.arange(B), low.argmax(1)] = some
        relative = np.where(usable, unit / np.maximum(np.abs(best), 1e-12), 1e-3)
        return cls(best, unit, usable, is_best, np.log10(np.clip(relative, 1e-3, 1e3)), basis, low)

    def _below(self, values: FloatArray, known: BoolArray) -> FloatArray:
        shown = known & self.usable[:, None]
        return np.where(shown, (np.where(shown, values, 0.0) - self.best[:, None]) / self.unit[:, None], 0.0)

    def compressed(self, values: FloatArray, known: BoolArray) -> FloatArray:
        """0 for the best, -log(2) for the median, logarithmic below; values above the best stay linear up to 2."""
        below = self._below(values, known)
        return np.where(below > 0, np.minimum(below, 2.0), -np.log1p(np.clip(-below, 0, _FARTHEST)))

    def clipped(self, values: FloatArray, known: BoolArray) -> FloatArray:
        """Linear in [-1, 1/3]: 0 for the best, -1/3 for the median."""
        return np.clip(self._below(values, known), -3.0, 1.0) / 3.0

    def rank(self, values: FloatArray, known: BoolArray) -> FloatArray:
        """Share of the finished trials that each one beats."""
        beaten = (values[:, :, None] > self.basis_values[:, None, :]) & self.basis[:, None, :]
        return np.where(known, beaten.sum(2) / np.maximum(self.basis.sum(1, keepdims=True) - 1, 1), 0.0)


def _masked_median(values: FloatArray, known: BoolArray) -> FloatArray:
    """Median of each row's known values, 0 for a row without any."""
    ordered = np.sort(np.where(known, values, np.inf), axis=1)
    count, rows = known.sum(1), np.arange(len(values))
    lower = ordered[rows, np.maximum(count - 1, 0) // 2]
    upper = ordered[rows, np.minimum(count // 2, np.maximum(count - 1, 0))]
    return np.where(count > 0, (lower + upper) / 2, 0.0)


def live_observation(
    space: SearchSpace,
    history: History,
    candidates: IntArray,
    mask: BoolArray,
    facts: Mapping[str, float],
) -> Observation:
    """The observation of one live search, B = 1.

    Args:
        space: The search space; at least one hyperparameter.
        history: What has been trained so far; may be empty.
        candidates: C x H level indices.
        mask: C, True where the candidate may be chosen.
        facts: Known facts by name (see `FACTS`); sizes as log10.
    """
    trials, extra = _trial_levels(space, history)
    arrays = _live_space_arrays(space, extra)
    row = np.array([[facts.get(name, np.nan) for name in FACTS]], dtype=float)
    values, fidelity = np.asarray(history.values, float), np.asarray(history.fidelity, float)
    return observe(
        arrays,
        row,
        trials[None],
        values[None],
        fidelity[None],
        np.asarray(history.status, int)[None],
        np.ones((1, len(trials)), bool),
        np.asarray(candidates)[None],
        np.asarray(mask, bool)[None],
        _at_reference(history)[None],
        _best_up_to(history, fidelity / 2)[None],
    )


def _at_reference(history: History) -> FloatArray:
    """T values at the fidelity of the running trial that is furthest; NaN for trials that have not come that far.

    As in simulated searches; a trial whose curve nobody recorded is compared by what it reached.
    """
    running = history.status == STATUS.index("running")
    reference = float(np.max(history.fidelity, initial=0.0, where=running))
    if reference <= 0:
        return np.asarray(history.values, float)
    unrecorded = np.array([len(curve) == 0 for curve in history.curves], dtype=bool)
    there = np.asarray(history.fidelity) >= reference - 1e-9
    seen = np.where(there, _best_up_to(history, np.full(len(there), reference)), np.nan)
    return np.where(unrecorded, history.values, seen)


def _best_up_to(history: History, fidelity: FloatArray) -> FloatArray:
    """T best values that each trial had reported by a fidelity, NaN where it has no report that early."""
    best = np.full(len(history.params), -np.inf)
    if not any(map(len, history.curves)):
        return np.full(len(best), np.nan)
    # All curves at once: one by one a hundred trials would take longer than the network.
    owner = np.repeat(np.arange(len(best)), [len(curve) for curve in history.curves])
    step, value = np.concatenate(history.curves).T
    last, own = np.zeros(len(best)), np.asarray(history.fidelity, float)
    last[owner] = step  # steps ascend, so the last one stays
    # The last report is of all that was trained, also where steps count from 0 and there is only one.
    at = np.where(last[owner] > 0, step / np.maximum(last[owner], 1e-300), 1.0) * own[owner]
    seen = (at <= fidelity[owner] + 1e-9) & (own[owner] > 0)
    np.maximum.at(best, owner[seen], value[seen])
    return np.where(np.isneginf(best), np.nan, best)


def _trial_levels(space: SearchSpace, history: History) -> tuple[IntArray, list[list[float]]]:
    """T x H level indices, and per hyperparameter the numbers that were appended beyond its grid."""
    columns, extra = [], []
    for hyperparameter in space.hyperparameters:
        known = {_key(level): i for i, level in enumerate(hyperparameter.levels)}
        added: list[float] = []
        column = []
        for params in history.params:
            key = _key(params[hyperparameter.name]) if hyperparameter.name in params else _MISSING
            # A category that this space does not have is as good as missing.
            if key not in known and hyperparameter.ordered and isinstance(key, float):
                known[key] = len(hyperparameter.levels) + len(added)
                added.append(key)
            column.append(known.get(key, -1))
        columns.append(column)
        extra.append(added)
    return np.array(columns, int).reshape(len(columns), len(history.params)).T, extra


_MISSING = object()


def _key(value: object) -> object:
    """A dictionary key under which 1 and 1.0 agree, but not True and "1": numbers are floats, all else has its type."""
    if type(value) is float:
        return value
    return float(value) if is_number(value) else (type(value), value)


def _live_space_arrays(space: SearchSpace, extra: Sequence[Sequence[float]]) -> SpaceArrays:
    hyperparameters = space.hyperparameters
    H = len(hyperparameters)
    n_grid = np.array([len(h.levels) for h in hyperparameters])
    n_levels = n_grid + np.array([len(e) for e in extra])
    L = int(n_levels.max())
    levels, sizes, kinds = np.full((H, L), np.nan), np.full((H, L), np.nan), np.zeros((H, L), int)
    for h, hyperparameter in enumerate(hyperparameters):
        if hyperparameter.ordered:
            levels[h, : n_levels[h]] = [*map(float, hyperparameter.levels), *extra[h]]
        else:
            sizes[h, : n_grid[h]], kinds[h, : n_grid[h]] = size_hint(list(hyperparameter.levels))
    roles = np.array([ROLES.index(h.role) for h in hyperparameters])
    ordered = np.array([h.ordered for h in hyperparameters])
    log = np.array([h.log for h in hyperparameters])
    # Appended levels describe where trials were, not how fine the grid is: only grid levels count as such.
    arrays = space_arrays(
        roles[None], ordered[None], log[None], levels[None], sizes[None], kinds[None], n_levels[None], n_grid[None]
    )
    arrays.static[..., 3] = n_grid / 8.0
    return arrays
