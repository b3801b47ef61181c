"""Adapts Syne Tune's schedulers to the benchmark of pruners: they choose, stop, pause and resume.

Every scheduler has its own defaults: ASHA, BOHB and MOBSTER stop, DyHPO pauses and resumes. There is one worker.
"""

from __future__ import annotations

import contextlib
import datetime
import importlib.util
import io
import logging
from collections.abc import Callable, Sequence
from importlib import metadata
from typing import Any

import numpy as np

from hf_rlsearch._typing import FloatArray
from recorded_tasks import RecordedTask

Price = Callable[[Sequence[int]], float]
"""The levels of a configuration -> what one of its checkpoints costs, in full trainings."""

VERSION = "0.13.0"
NEEDS = ("autograd", "dill", "sortedcontainers", "statsmodels")
"""Modules that it uses here; it asks for a numpy before 2 as well, but runs with a later one."""
METHODS = {f"Syne Tune {name}": name for name in ("ASHA", "BOHB", "MOBSTER", "DyHPO")}
MAX_RUNGS = 26
"""DyHPO decides at every second checkpoint and fits a Gaussian process each time: on tables with more checkpoints than
twice this it decides at so many of them, evenly spaced, or one search would take hours."""


def why_missing() -> str | None:
    """What is in the way of using Syne Tune and what to do; None where it can be used."""
    try:
        found = metadata.version("syne-tune")
    except metadata.PackageNotFoundError:
        found = "no version"
    if found == VERSION and all(importlib.util.find_spec(module) for module in NEEDS):
        return None
    return (
        f"it needs Syne Tune {VERSION}, the last version with MOBSTER and DyHPO, and {', '.join(NEEDS)}; {found} of "
        f"Syne Tune is installed: pip install --no-deps syne-tune=={VERSION} && pip install {' '.join(NEEDS)}"
    )


class SyneTuneSearch:
    """A search on a task with one of the schedulers, on level numbers.

    Args:
        method: One of `METHODS`.
        task: To be tuned.
        seed: Of the scheduler.
        price: Levels -> what a checkpoint costs, in full trainings.

    Attributes:
        trials: Trainings begun or resumed.
        continued: How many of them were resumed.
        price: Of a checkpoint of the latest training.
    """

    def __init__(self, method: str, task: RecordedTask, seed: int, price: Price) -> None:
        scheduler = _baselines(METHODS[method])
        from syne_tune.config_space import choice, randint

        sizes = {h.name: (len(h.levels), h.ordered) for h in task.hyperparameters}
        space = {n: randint(0, k - 1) if o else choice([str(i) for i in range(k)]) for n, (k, o) in sizes.items()}
        increment = max(2, -(-task.max_resource // MAX_RUNGS))
        self.scheduler = scheduler(
            space,
            metric="objective",
            mode="max" if task.maximize else "min",
            resource_attr="checkpoint",
            max_t=task.max_resource,
            random_seed=seed,
            **({"rung_increment": increment} if METHODS[method] == "DyHPO" else {}),
        )
        self.task = task
        self.trials = self.continued = 0
        self._price_of, self.price = price, 0.0
        self._begun: dict[int, tuple[Any, int]] = {}

    def train(self, left: float) -> FloatArray:
        """Trains what the scheduler suggests: a new trial, or a paused one from where it was paused.

        Args:
            left: In full trainings; no more checkpoints are trained than it pays for.

        Returns:
            The objective at the new checkpoints; none where nothing is left or the scheduler has nothing to suggest.
        """
        while (suggestion := self.scheduler.suggest(trial_id=len(self._begun))) is not None:
            trial, begun = self._trial(suggestion)
            levels = [int(trial.config[h.name]) for h in self.task.hyperparameters]
            curve, self.price = self.task.curve(levels), self._price_of(levels)
            if (n_left := round(left / self.price)) < 1:
                break
            if begun < len(curve):
                self.trials, self.continued = self.trials + 1, self.continued + (begun > 0)
                new = self._report(trial, curve, begun, min(len(curve), begun + n_left))
                self._begun[trial.trial_id] = trial, begun + len(new)
                return new
            # It was paused at what happens to be its last checkpoint: a resumed training would end at once.
            self.scheduler.on_trial_complete(trial, _result(curve, begun))
        return np.empty(0)

    def _trial(self, suggestion: Any) -> tuple[Any, int]:
        """The trial that is suggested, and the checkpoints that it has seen."""
        from syne_tune.backend.trial_status import Trial

        if not suggestion.spawn_new_trial_id:
            return self._begun[suggestion.checkpoint_trial_id]
        trial = Trial(len(self._begun), suggestion.config, datetime.datetime.now())
        self.scheduler.on_trial_add(trial)
        return trial, 0

    def _report(self, trial: Any, curve: FloatArray, begun: int, end: int) -> FloatArray:
        """Reports the checkpoints after `begun` until the scheduler ends it, the training ends, or `end`."""
        for step in range(begun + 1, end + 1):
            if self.scheduler.on_trial_result(trial, _result(curve, step)) != "CONTINUE":
                return curve[begun:step]
        if end == len(curve):
            self.scheduler.on_trial_complete(trial, _result(curve, end))
        return curve[begun:end]


def _result(curve: FloatArray, step: int) -> dict[str, Any]:
    """What a training reports at its checkpoint `step`, the first is 1."""
    return {"objective": float(curve[step - 1]), "checkpoint": step}


def _baselines(name: str) -> Any:
    """The class of a scheduler; Syne Tune prints on import which of its extras are missing, and logs every choice."""
    with contextlib.redirect_stdout(io.StringIO()):
        from syne_tune.optimizer import baselines

    logging.getLogger("syne_tune").setLevel(logging.ERROR)
    return getattr(baselines, name)
