"""Loads metrics that need no download: real ``evaluate`` modules that ship with the package.

``load_metric("bleu")`` loads the bundled module; any other name goes to ``evaluate.load``. The libraries that compute
the scores (scikit-learn, scipy, sacrebleu, rouge-score) come with ``pip install "hf_rlsearch[recipes]"`` and load on
use. Without predictions each metric raises the same ``ArgumentsError``.
"""

import importlib
from typing import TYPE_CHECKING

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError, describe

if TYPE_CHECKING:
    import evaluate

__all__ = ["BUNDLED", "load_metric"]

CLASSIFICATION: tuple[str, ...] = ("accuracy", "f1", "glue", "matthews_correlation", "pearsonr", "spearmanr")
# metric -> the library that computes it, if any
TEXT = {
    "bleu": "sacrebleu",
    "chrf": "sacrebleu",
    "exact_match": None,
    "perplexity": None,
    "rouge": "rouge_score",
    "sacrebleu": "sacrebleu",
}
BUNDLED: tuple[str, ...] = tuple(sorted((*CLASSIFICATION, *TEXT)))


def load_metric(name: str, config: str | None = None) -> "evaluate.EvaluationModule":
    """Loads a bundled metric by its name, or any other metric with ``evaluate.load``.

    Args:
        name: One of ``BUNDLED``; or a path to a script, or the name of a module on the Hub.
        config: The configuration, such as the task of ``"glue"``.

    Returns:
        An ``evaluate`` module. A bundled module keeps its batches in memory, so that processes that share a cache
        folder do not wait for each other.

    Raises:
        ArgumentsError: The configuration does not exist, a library that the metric needs is missing, or the name is not
            bundled and cannot be loaded from the Hub.
    """
    try:
        return _load(name, config)
    except ImportError as error:
        raise ArgumentsError(
            f"metric {name!r} needs a library that is not installed ({error}). "
            'Install it with: pip install "hf_rlsearch[recipes]"'
        ) from error
    except KeyError as error:
        raise ArgumentsError(f"metric {name!r} cannot be loaded: {error.args[0]}") from error
    except OSError as error:  # evaluate's FileNotFoundError, and every kind of failed connection
        raise ArgumentsError(
            f"metric {name!r} is not bundled and could not be loaded from the Hub ({describe(error)})."
            f"{did_you_mean(name, BUNDLED)} Without a network use one of {list(BUNDLED)}, or give the path of a "
            "script, such as './my_metric.py'."
        ) from error


def _load(name: str, config: str | None) -> "evaluate.EvaluationModule":
    if name not in BUNDLED:
        import evaluate

        return evaluate.load(name, config)
    from hf_rlsearch.metrics.base import BundledMetric

    if name in CLASSIFICATION:
        from hf_rlsearch.metrics.classification import define

        return BundledMetric(name, define(name, config), config)
    library = TEXT[name]
    if library is not None:
        importlib.import_module(library)  # a missing library raises now, not after the first training
    from hf_rlsearch.metrics.text import DEFINITIONS

    return BundledMetric(name, DEFINITIONS[name], config)
