"""Adapts FLAML's searchers to the interface of the benchmarked samplers."""

from __future__ import annotations

import logging
import warnings
from typing import Any

import numpy as np

from hf_rlsearch._typing import IntArray
from recorded_tasks import RecordedTask

_MAX_REFUSALS = 100
"""FLAML's own loop ends a search when it has got no configuration so many times in a row."""


class FlamlSearch:
    """BlendSearch or CFO on level numbers.

    FLAML refuses to propose a configuration that it knows. Where it finds no other one, it is drawn at random.

    Args:
        searcher: "BlendSearch" or "CFO".
        task: To be tuned.
        seed: Of the searcher.
        n_trials: That will be asked for.
    """

    def __init__(self, searcher: str, task: RecordedTask, seed: int, n_trials: int) -> None:
        self.task = task
        self._class, self._seed, self._n_trials = searcher, seed, n_trials
        self._rng = np.random.default_rng(seed)
        self._begin([])

    def _begin(self, points: list[dict[str, Any]]) -> None:
        """Begins a search that proposes these configurations first."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that its AutoML is not installed
            from flaml import tune
            from flaml.tune import searcher
        logging.getLogger("flaml").setLevel(logging.ERROR)
        sizes = {h.name: (len(h.levels), h.ordered) for h in self.task.hyperparameters}
        self._searcher = getattr(searcher, self._class)(
            metric="objective",
            mode="max" if self.task.maximize else "min",
            space={
                n: tune.randint(0, k) if o else tune.choice([str(i) for i in range(k)]) for n, (k, o) in sizes.items()
            },
            points_to_evaluate=points,
            num_samples=self._n_trials,
            seed=self._seed,
        )
        self._n_asked = 0

    def ask(self) -> list[int]:
        """Levels of the next configuration."""
        for _ in range(_MAX_REFUSALS):
            if self._propose():
                return [int(self._config[h.name]) for h in self.task.hyperparameters]
        self._config = {}
        return [int(level) for level in self._rng.integers(self.task.n_levels)]

    def _propose(self) -> bool:
        """Whether FLAML proposed a configuration."""
        self._n_asked += 1
        self._config = self._searcher.suggest(str(self._n_asked))
        return self._config is not None

    def tell(self, value: float) -> None:
        """Objective of the configuration asked for last."""
        if self._config:
            # The flat form: CFO reads no other one when it starts anew from the best configuration that it was given.
            config = {f"config/{name}": level for name, level in self._config.items()}
            self._searcher.on_trial_complete(str(self._n_asked), {"objective": value, **config})

    def preload(self, levels: IntArray) -> None:
        """Begins anew with configurations that FLAML is told to evaluate first; it refuses repeated ones."""
        named = [zip(self.task.hyperparameters, row.tolist(), strict=True) for row in levels]
        self._begin([{h.name: i if h.ordered else str(i) for h, i in row} for row in named])
        for row in levels:
            if self._propose():
                self.tell(self.task.value(row))
