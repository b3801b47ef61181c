"""Adapts NePS to the interface of the benchmarked samplers."""

from __future__ import annotations

import logging
import warnings

from _first_trials import middle
from hf_rlsearch._typing import IntArray
from recorded_tasks import RecordedTask


class NepsSearch:
    """PiBO of NePS on level numbers: what NePS chooses for a space with a prior and without a fidelity.

    The prior of an ordered hyperparameter is around its middle level, with medium confidence. Categories have none.

    Attributes:
        INSTALL: For `pip install`. NePS asks for older versions of pandas, networkx and portalocker and for torchvision
            and pymoo as well, which nothing here needs.
    """

    INSTALL = (
        "--no-deps neural-pipeline-search==0.17.0 ifbo==0.4.1 submitit==1.5.3 && "
        "pip install gpytorch==1.13.0 botorch==0.12.0 more-itertools matplotlib seaborn"
    )

    def __init__(self, task: RecordedTask, seed: int, n_trials: int, weights: str | None) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # libraries of NePS use parts of torch that torch discourages
            from neps import AskAndTell, algorithms
            from neps.space import HPOCategorical, HPOInteger, SearchSpace
        for name in ("neps", "botorch", "linear_operator"):
            logging.getLogger(name).setLevel(logging.ERROR)
        self.task = task
        space = {
            h.name: HPOInteger(0, len(h.levels) - 1, prior=int(i), prior_confidence="medium")
            if h.ordered
            else HPOCategorical([str(k) for k in range(len(h.levels))])
            for h, i in zip(task.hyperparameters, middle(task, seed), strict=True)
        }
        self.search = AskAndTell(algorithms.pibo(SearchSpace(space)), worker_id="benchmark")

    def ask(self) -> list[int]:
        """Levels of the next configuration."""
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # matrices that are nearly singular
            self.trial = self.search.ask()
        return [int(self.trial.config[h.name]) for h in self.task.hyperparameters]

    def tell(self, value: float) -> None:
        """Objective of the configuration asked for last; NePS minimises."""
        self.search.tell(self.trial, -value if self.task.maximize else value)

    def preload(self, levels: IntArray) -> None:
        """Tells configurations that NePS did not ask for."""
        for number, row in enumerate(levels.tolist(), 1):
            config = {h.name: i if h.ordered else str(i) for h, i in zip(self.task.hyperparameters, row, strict=True)}
            value = self.task.value(row)
            self.search.tell_custom(
                config_id=str(number), config=config, result=-value if self.task.maximize else value
            )
