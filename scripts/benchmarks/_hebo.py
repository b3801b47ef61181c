"""Adapts HEBO to the interface of the benchmarked samplers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from hf_rlsearch._typing import BoolArray, IntArray
from recorded_tasks import RecordedTask


class HeboSearch:
    """HEBO on level numbers, with its own acquisition search."""

    def __init__(self, task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> None:
        from hebo.design_space.design_space import DesignSpace
        from hebo.optimizers.hebo import HEBO

        _settle_pymoo()
        self.task = task
        space = [
            {"name": h.name, "type": "int", "lb": 0, "ub": len(h.levels) - 1}
            if h.ordered
            else {"name": h.name, "type": "cat", "categories": [str(i) for i in range(len(h.levels))]}
            for h in task.hyperparameters
        ]
        self.optimizer = HEBO(DesignSpace().parse(space), scramble_seed=seed)

    def ask(self) -> list[int]:
        """Levels of the next configuration."""
        self.suggestion = self.optimizer.suggest(n_suggestions=1)
        return [int(self.suggestion.iloc[0][h.name]) for h in self.task.hyperparameters]

    def tell(self, value: float) -> None:
        """Objective of the configuration asked for last; HEBO minimises."""
        self.optimizer.observe(self.suggestion, np.array([[-value if self.task.maximize else value]]))

    def preload(self, levels: IntArray) -> None:
        """Observes configurations."""
        import pandas as pd

        frame = {
            h.name: levels[:, i] if h.ordered else levels[:, i].astype(str)
            for i, h in enumerate(self.task.hyperparameters)
        }
        sign = -1 if self.task.maximize else 1
        self.optimizer.observe(pd.DataFrame(frame), sign * np.array([[self.task.value(row)] for row in levels]))


def _settle_pymoo() -> None:
    """Makes pymoo, which HEBO maximises its acquisition with, repeatable and quicker; what it computes stays the same.

    It would seed itself anew for every choice. And it would look for duplicates pair by pair: on small grids, where
    most offspring are duplicates, a choice takes three quarters of the time with a set.
    """
    from hebo.acq_optimizers import evolution_optimizer
    from pymoo.core.mixed import MixedVariableDuplicateElimination
    from pymoo.optimize import minimize

    def seeded(*args: Any, **settings: Any) -> Any:
        return minimize(*args, seed=int(np.random.randint(2**31)), **settings)

    evolution_optimizer.minimize = seeded
    MixedVariableDuplicateElimination._do = _duplicates


def _duplicates(self: Any, pop: Sequence[Any], other: Sequence[Any] | None, is_duplicate: BoolArray) -> BoolArray:
    """Marks those of `pop` that are in `other`, or come again later in `pop` where there is no `other`."""
    known = {_key(one) for one in (() if other is None else other)}
    for i in reversed(range(len(pop))):
        key = _key(pop[i])
        is_duplicate[i] |= key in known
        if other is None:
            known.add(key)
    return is_duplicate


def _key(one: Any) -> tuple[Any, ...]:
    return tuple(sorted(one.X.items()))
