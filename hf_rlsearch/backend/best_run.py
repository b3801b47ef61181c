"""What ``Trainer.hyperparameter_search`` returns: transformers' own ``BestRun``, with our result in it."""

import math
from collections.abc import Sequence
from typing import Any

from optuna.trial import FrozenTrial

from hf_rlsearch.backend.result import SearchResult


def best_runs(result: SearchResult, multi: bool) -> Any:
    """What the Trainer returns: a ``BestRun``, or a list of them for several directions."""
    runs = [_run(result, trial, multi) for trial in result.best_trials]
    if multi:
        return runs
    return runs[0] if runs else _bestrun_class()("", math.nan, {}, result)


def _run(result: SearchResult, trial: FrozenTrial, multi: bool) -> Any:
    values: Sequence[float] = list(trial.values)
    objective = values if multi else values[0]
    return _bestrun_class()(str(trial.number), objective, result.hyperparameters(trial), result)


def _bestrun_class() -> Any:
    from transformers.trainer_utils import BestRun

    return BestRun
