"""An evaluation of the untrained model on a few rows: which metrics are there, before anything is trained?"""

import warnings
from collections.abc import Mapping
from typing import Any

from hf_rlsearch.backend.choose_objective import resolve
from hf_rlsearch.backend.identity import keep_randomness
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.errors import ObjectiveError

# Enough for every class of most data sets, few enough to cost seconds at most.
_N_ROWS = 32


def probe_metrics(source: Any, settings: Settings) -> Objective:
    """Settles the objective from the metrics that evaluation really gives; called on every rank.

    Args:
        source: Of the Trainer.
        settings: Of the search.

    Raises:
        ObjectiveError: There is nothing to evaluate on, evaluation fails, or the objective is unusable.
    """
    trainer = source.probe()
    if getattr(trainer, "eval_dataset", None) is None:
        raise ObjectiveError("The Trainer has no eval_dataset, so trials could not be compared. Pass one to it.")
    with keep_randomness(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = _evaluate(trainer)
    return resolve(
        metrics,
        args=source.frozen.original(),
        compute_objective=settings.compute_objective,
        metric=settings.metric,
        direction=settings.direction,
    )


def _evaluate(trainer: Any) -> Mapping[str, Any]:
    try:
        return dict(trainer.evaluate(_few(trainer.eval_dataset)))
    except Exception:
        # Some metrics need all rows, such as an AUC that must see both classes.
        try:
            return dict(trainer.evaluate())
        except Exception as error:
            raise ObjectiveError(
                f"Evaluating the untrained model raised {type(error).__name__}: {error}. Make trainer.evaluate() "
                f"work first."
            ) from error


def _few(data: Any) -> Any:
    if isinstance(data, dict) or (isinstance(data, Mapping) and not hasattr(data, "num_rows")):
        return {name: _few(part) for name, part in data.items()}
    if not hasattr(data, "__len__") or not hasattr(data, "__getitem__"):
        return data
    n = min(_N_ROWS, len(data))
    if hasattr(data, "select"):
        return data.select(range(n))
    from torch.utils.data import Subset

    return Subset(data, range(n))
