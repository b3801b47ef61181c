"""Shapley values: on functions whose answer is known."""

from collections.abc import Callable
from itertools import permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_rlsearch.agent.shapley import shapley_values, spread_rows

N_LEVELS = np.array([4, 3, 5, 2])
ROW = np.array([3, 0, 2, 1])
Function = Callable[[np.ndarray], np.ndarray]


def values(function: Function, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """The contributions, and the references that they were computed with."""
    found = shapley_values([function], ROW, N_LEVELS, np.random.default_rng(seed))[0]
    return found, spread_rows(N_LEVELS, 72 // (2 * len(ROW)), np.random.default_rng(seed))


def exact(function: Function, references: np.ndarray) -> np.ndarray:
    """By the definition: every order of taking over the values, for every reference."""
    total, count = np.zeros(len(ROW)), 0
    for start in references:
        for order in permutations(range(len(ROW))):
            row, before = start.copy(), function(start[None])[0]
            for h in order:
                row[h] = ROW[h]
                after = function(row[None])[0]
                total[h] += after - before
                before = after
            count += 1
    return total / count


def test_a_sum_is_taken_apart_exactly() -> None:
    found, references = values(lambda rows: 2.0 * rows[:, 0] - rows[:, 2])
    expected = [2 * (3 - references[:, 0].mean()), 0, -(2 - references[:, 2].mean()), 0]
    np.testing.assert_allclose(found, expected, atol=1e-12)


@pytest.mark.parametrize("seed", range(3))
def test_interactions_of_two_are_exact(seed: int) -> None:
    weights = np.random.default_rng(seed).normal(size=(4, 4))
    found, references = values(lambda rows: np.einsum("ni,ij,nj->n", rows, weights, rows), seed)
    np.testing.assert_allclose(found, exact(lambda r: np.einsum("ni,ij,nj->n", r, weights, r), references), atol=1e-9)


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 10**6))
def test_they_add_up_to_what_is_explained(seed: int) -> None:
    table = np.random.default_rng(seed).normal(size=tuple(N_LEVELS))
    found, references = values(lambda rows: table[tuple(rows.T)], seed)
    assert found.sum() == pytest.approx(table[tuple(ROW)] - table[tuple(references.T)].mean())


def test_all_are_explained_on_the_same_rows_and_few_of_them() -> None:
    seen: list[np.ndarray] = []

    def watched(rows: np.ndarray) -> np.ndarray:
        seen.append(rows)
        return rows[:, 0].astype(float)

    first, second = shapley_values([watched, watched], ROW, N_LEVELS, np.random.default_rng(0))
    np.testing.assert_array_equal(first, second)
    np.testing.assert_array_equal(seen[0], seen[1])
    assert len(seen[0]) <= 80


def test_references_go_through_all_levels_evenly() -> None:
    rows = spread_rows(np.array([5, 2, 1]), 10, np.random.default_rng(0))
    assert np.bincount(rows[:, 0]).tolist() == [2] * 5
    assert np.bincount(rows[:, 1]).tolist() == [5, 5]
    assert not rows[:, 2].any()
    assert len(np.unique(rows[:, :2], axis=0)) > 5
