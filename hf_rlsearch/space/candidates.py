"""Builds rows of levels to choose from: the whole grid, or a pool of rows where the grid is too large."""

import math
from collections.abc import Sequence

import numpy as np

from hf_rlsearch._typing import BoolArray, IntArray

# Below this many candidates rows are drawn without replacement by their flat index; above it two equal rows are rare.
_FLAT_LIMIT = 1 << 20


def full_grid(n_levels: IntArray) -> IntArray:
    """The (C, H) rows of all combinations of (H,) numbers of levels, the last hyperparameter moving fastest."""
    return _unravel(np.arange(math.prod(n_levels.tolist())), n_levels)


def draw_pool(
    rng: np.random.Generator,
    n_levels: IntArray,
    *,
    ordered: BoolArray,
    limit: int,
    incumbents: IntArray,
    published: IntArray,
) -> IntArray:
    """A pool of ``limit`` different rows, (C, H): published settings, neighbours of the incumbents, and random ones.

    Published settings and neighbours may fill up to a third each; random rows fill the rest, so that every row of the
    grid keeps a chance. The grid must have more than ``limit`` rows; the same state of ``rng`` gives the same pool.
    Incumbents (I, H) and published settings (P, H) may be missing; a hyperparameter that was not set is -1. The next
    level is a neighbour where ``ordered``, (H,), says that levels are ascending numbers.
    """
    third, total = limit // 3, math.prod(n_levels.tolist())
    near = neighbours(rng, n_levels, incumbents, ordered=ordered, count=third)
    pool = unique_rows(np.concatenate([_fill_missing(rng, n_levels, published[:third]), near]))[:limit]
    while len(pool) < limit:
        rows: IntArray
        if total > _FLAT_LIMIT:
            rows = rng.integers(0, n_levels, size=(limit, len(n_levels)))
        else:
            rows = _unravel(rng.choice(total, size=min(limit, total), replace=False), n_levels)
        pool = unique_rows(np.concatenate([pool, rows]))[:limit]
    return pool


def neighbours(
    rng: np.random.Generator, n_levels: IntArray, centres: IntArray, *, ordered: BoolArray, count: int
) -> IntArray:
    """At most ``count`` different rows, in random order, that differ from a centre in one or two hyperparameters.

    Levels of the (I, H) centres that are not set, -1, are filled at random; there may be no centre. Fewer rows come
    back when drawn ones coincide. (H,) ``ordered`` is True where a step up or down means something.
    """
    movable = np.flatnonzero(n_levels > 1)
    if len(centres) == 0 or len(movable) == 0 or count <= 0:
        return np.empty((0, len(n_levels)), dtype=np.int64)
    drawn = 2 * count  # about half of them are different
    rows = _fill_missing(rng, n_levels, centres)[rng.integers(len(centres), size=drawn)]
    here = np.arange(drawn)
    first, second = rng.choice(movable, size=(2, drawn))
    rows[here, first] = _moved(rng, n_levels[first], rows[here, first], ordered[first])
    moved = _moved(rng, n_levels[second], rows[here, second], ordered[second])
    twice = (rng.random(drawn) < 0.5) & (second != first)
    rows[here, second] = np.where(twice, moved, rows[here, second])
    return unique_rows(rows)[:count]


def unique_rows(rows: IntArray) -> IntArray:
    """The rows of an (N, H) array without repetitions, in order of first appearance."""
    if len(rows) == 0:
        return rows
    _, first = np.unique(_keys(rows), axis=0, return_index=True)
    return rows[np.sort(first)]


def count_matches(rows: IntArray, tried: Sequence[IntArray] | IntArray) -> IntArray:
    """(C,) how often each of (C, H) ``rows`` occurs in (T, H) ``tried``, which may be empty."""
    tried = np.asarray(tried, dtype=np.int64).reshape(-1, rows.shape[1])
    if len(tried) == 0:
        return np.zeros(len(rows), dtype=np.int64)
    _, group = np.unique(_keys(np.concatenate([rows, tried])), axis=0, return_inverse=True)
    group = group.reshape(-1)
    return np.bincount(group[len(rows) :], minlength=len(rows) + len(tried))[group[: len(rows)]]


def _unravel(flat: IntArray, n_levels: IntArray) -> IntArray:
    """(N, H) levels of (N,) flat indices into the grid."""
    return np.stack(np.unravel_index(flat, n_levels.tolist()), axis=1)


def _fill_missing(rng: np.random.Generator, n_levels: IntArray, rows: IntArray) -> IntArray:
    """A copy of (N, H) rows in which each -1 is a random level."""
    return np.where(rows < 0, rng.integers(0, n_levels, size=(len(rows), len(n_levels))), rows)


def _keys(rows: IntArray) -> IntArray:
    """(N,) one number per (N, H) row where 64 bits suffice, which sorts ten times as fast; else the rows."""
    low = rows.min(axis=0)
    sizes = [int(size) for size in rows.max(axis=0) - low + 1]
    if math.prod(sizes) >= 1 << 62:
        return rows
    return np.ravel_multi_index(tuple((rows - low).T), tuple(sizes)) if sizes else np.zeros(len(rows), dtype=np.int64)


def _moved(rng: np.random.Generator, n_levels: IntArray, level: IntArray, ordered: BoolArray) -> IntArray:
    """Another level of each row: half the time the next one up or down where levels are ordered, else any other."""
    anywhere = (level + rng.integers(1, n_levels)) % n_levels
    step = rng.choice(np.array([-1, 1]), size=len(level))
    inside = (level + step >= 0) & (level + step < n_levels)
    beside = np.where(inside, level + step, level - step)
    return np.where(ordered & (rng.random(len(level)) < 0.5), beside, anywhere)
