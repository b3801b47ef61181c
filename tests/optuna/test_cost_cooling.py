"""Improvement against price, as a budget runs out."""

import numpy as np
import pytest

from hf_rlsearch.optuna.sampler import CostCooling


def cost_cooling(left: float, total: float = 10.0) -> CostCooling:
    return CostCooling(price=lambda space, rows: np.ones(len(rows)), left=left, total=total)


def test_prices_count_at_the_beginning_and_not_at_the_end() -> None:
    prices = np.array([0.5, 1.0, 16.0])
    np.testing.assert_allclose(cost_cooling(10).acquisition_weight(prices), [2**0.25, 1.0, 0.5])
    np.testing.assert_allclose(cost_cooling(5).acquisition_weight(prices), [2**0.125, 1.0, 0.5**0.5])
    np.testing.assert_allclose(cost_cooling(0).acquisition_weight(prices), 1.0)


@pytest.mark.parametrize("left", [20.0, 10.0])
def test_more_than_everything_left_is_everything(left: float) -> None:
    np.testing.assert_allclose(cost_cooling(left).acquisition_weight(np.array([16.0])), 0.5)


def test_what_costs_nothing_is_not_worth_infinitely_much() -> None:
    assert np.isfinite(cost_cooling(10).acquisition_weight(np.array([0.0, 1.0]))).all()


def test_only_what_fits_is_affordable_or_else_the_cheapest() -> None:
    prices = np.array([0.5, 1.0, 4.0, 0.5])
    assert cost_cooling(1).affordable(prices).tolist() == [True, True, False, True]
    assert cost_cooling(0.1).affordable(prices).tolist() == [True, False, False, True]
