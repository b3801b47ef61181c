"""Improvement against price: what to train where a budget or time ends the search, and not a number of trials."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from hf_rlsearch._typing import BoolArray, FloatArray, IntArray
from hf_rlsearch.space import SearchSpace


@dataclass(frozen=True)
class Spending:
    """What a search can still spend, and what its candidates cost; all in one unit, such as full trainings.

    Attributes:
        price: A search space and C x H candidates -> C prices greater than 0.
        left: Not negative.
        total: Of the whole search, greater than 0.
    """

    price: Callable[[SearchSpace, IntArray], FloatArray]
    left: float
    total: float

    def affordable(self, prices: FloatArray) -> BoolArray:
        """C, True where a training can end before the search does; the cheapest ones where none can."""
        fits = prices <= self.left
        return fits if fits.any() else prices <= prices.min()

    def worth(self, prices: FloatArray) -> FloatArray:
        """C factors on expected improvement: price to the power of minus the share that is left.

        While much is left an improvement has to be worth its price, as cheap trials teach the same; with the last of
        the budget only the improvement counts.

        Source: cost-cooling, Lee et al. 2020 (arXiv:2003.10870), equation 3; without cooling it is expected improvement
        per second, Snoek et al. 2012, section 3.2.
        """
        share = float(np.clip(self.left / self.total, 0.0, 1.0))
        return np.asarray(np.maximum(prices, 1e-9) ** -share)
