"""Metrics that need no download: real ``evaluate`` modules that ship with the package.

``load_metric("bleu")`` takes the bundled module and falls through to ``evaluate.load`` for any other name. Each file
here is an ``evaluate`` script by itself, so ``evaluate.load(path_to_the_file)`` works too. The libraries that do the
counting (scikit-learn, scipy, sacrebleu, rouge-score) come with ``pip install "hf_rlsearch[recipes]"`` and load on use.
None of them scores nothing: without predictions each raises the same ``ArgumentsError``.
"""

import difflib
import importlib
from typing import TYPE_CHECKING, Any

from hf_rlsearch.errors import ArgumentsError

if TYPE_CHECKING:
    import evaluate

__all__ = ["BUNDLED", "load_metric"]

BUNDLED: tuple[str, ...] = (
    "accuracy",
    "bleu",
    "chrf",
    "exact_match",
    "f1",
    "glue",
    "matthews_correlation",
    "pearsonr",
    "perplexity",
    "rouge",
    "sacrebleu",
    "spearmanr",
)


def load_metric(name: str, config: str | None = None) -> "evaluate.EvaluationModule":
    """Loads a metric: the bundled one of that name, else whatever ``evaluate.load`` finds.

    Args:
        name: one of ``BUNDLED``; or a path to a script, or the name of a module on the Hub.
        config: the configuration, such as the task of ``"glue"``.

    Returns:
        An ``evaluate`` module. A bundled one keeps what it is given in memory, so that processes that share a cache
        folder do not wait for each other.

    Raises:
        ArgumentsError: the configuration does not exist, a library that the metric needs is missing, or the name is not
            bundled and cannot be loaded from the Hub.
    """
    try:
        if name in BUNDLED:
            return _bundled_class(name)(config_name=config, keep_in_memory=True)
        import evaluate

        return evaluate.load(name, config)
    except ImportError as error:
        raise ArgumentsError(
            f"metric {name!r} needs a library that is not installed ({error}). "
            'Install it with: pip install "hf_rlsearch[recipes]"'
        ) from error
    except KeyError as error:
        raise ArgumentsError(f"metric {name!r} cannot be loaded: {error.args[0]}") from error
    except OSError as error:  # evaluate's FileNotFoundError, and every kind of failed connection
        raise ArgumentsError(_not_found(name, error)) from error


def _bundled_class(name: str) -> Any:
    from evaluate.loading import import_main_class

    importlib.import_module(f"{__name__}.{name}")
    return import_main_class(f"{__name__}.{name}")


def _not_found(name: str, error: OSError) -> str:
    near = difflib.get_close_matches(name, BUNDLED, n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    reason = str(error).splitlines()[0] if str(error) else type(error).__name__
    return (
        f"metric {name!r} is not bundled and could not be loaded from the Hub ({reason}).{hint} Without a network "
        f"use one of {list(BUNDLED)}, or give the path of a script, such as './my_metric.py'."
    )
