"""An evaluation of the untrained model on a few rows: which metrics are there, before anything is trained?"""

import warnings
from collections.abc import Callable, Mapping
from typing import Any

from hf_rlsearch.backend.choose_objective import choose_objective
from hf_rlsearch.backend.distributed import ProcessGroup
from hf_rlsearch.backend.failures import RankLost
from hf_rlsearch.backend.identity import keep_randomness
from hf_rlsearch.backend.objective import Objective
from hf_rlsearch.backend.settings import Settings
from hf_rlsearch.errors import ObjectiveError

# Enough for every class of most data sets, few enough to cost seconds at most.
_N_ROWS = 32


def probe_metrics(source: Any, settings: Settings, group: ProcessGroup) -> Objective:
    """Settles the objective from the metrics that evaluation really gives; called on every rank.

    Args:
        source: Of the Trainer.
        settings: Of the search.
        group: The processes, which evaluate together.

    Raises:
        ObjectiveError: There is nothing to evaluate on, evaluation fails, or the objective is unusable.
        RankLost: It fails on one rank while the others wait for this rank.
    """
    with keep_randomness(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        metrics = _evaluate(source, group)

    def settle() -> Objective:
        return choose_objective(
            metrics,
            args=source.frozen.original(),
            compute_objective=settings.compute_objective,
            metric=settings.metric,
            direction=settings.direction,
        )

    return group.run_on_all(settle)


def _evaluate(source: Any, group: ProcessGroup) -> Mapping[str, Any]:
    """The metrics; all ranks take the second way if the first one fails on any of them."""
    try:
        return group.run_on_all(lambda: _metrics(source.probe(), _few))
    except RankLost:
        raise
    except Exception:
        # Some metrics need all rows, such as an AUC that must see both classes.
        try:
            return group.run_on_all(lambda: _metrics(source.probe(), lambda data: data))
        except (ObjectiveError, RankLost):
            raise
        except Exception as error:
            raise ObjectiveError(
                f"Evaluating the untrained model raised {type(error).__name__}: {error}. Make trainer.evaluate() "
                f"work first."
            ) from error


def _metrics(trainer: Any, rows: Callable[[Any], Any]) -> Mapping[str, Any]:
    data = getattr(trainer, "eval_dataset", None)
    if data is None:
        raise ObjectiveError("The Trainer has no eval_dataset, so trials could not be compared. Pass one to it.")
    return dict(trainer.evaluate(rows(data)))


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
