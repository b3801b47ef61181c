"""Provides a hyperparameter search backend of the transformers Trainer.

In it meta-trained predictors choose the next trial by expected improvement, and a stop rule trained with PPO decides
whether a running trial continues.

Importing the package registers ``trainer.hyperparameter_search(backend="rl")``; torch, transformers and Optuna are
loaded on first use.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from hf_rlsearch._version import __version__
from hf_rlsearch.trainer.register import register

if TYPE_CHECKING:
    from hf_rlsearch.errors import (
        ArgumentsError,
        HfRlSearchError,
        ObjectiveError,
        ObservationError,
        SearchFailed,
        SearchSpaceError,
        StorageError,
        WeightsError,
    )
    from hf_rlsearch.meta_training.learn import learn
    from hf_rlsearch.optuna import RLSampler
    from hf_rlsearch.optuna.pruner import RLPruner
    from hf_rlsearch.trainer.api import search
    from hf_rlsearch.trainer.search.result import SearchResult

# Public name -> module that defines the name.
_HOME = {
    "ArgumentsError": "errors",
    "HfRlSearchError": "errors",
    "ObjectiveError": "errors",
    "ObservationError": "errors",
    "RLPruner": "optuna",
    "RLSampler": "optuna",
    "SearchFailed": "errors",
    "SearchResult": "trainer.search.result",
    "SearchSpaceError": "errors",
    "StorageError": "errors",
    "WeightsError": "errors",
    "learn": "meta_training.learn",
    "search": "trainer.api",
}
__all__ = [
    "ArgumentsError",
    "HfRlSearchError",
    "ObjectiveError",
    "ObservationError",
    "RLPruner",
    "RLSampler",
    "SearchFailed",
    "SearchResult",
    "SearchSpaceError",
    "StorageError",
    "WeightsError",
    "__version__",
    "learn",
    "search",
]

register()


def __getattr__(name: str) -> Any:
    """Loads a public name on first use."""
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    """The public names, loaded or not."""
    return sorted(__all__)
