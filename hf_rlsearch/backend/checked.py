"""The kinds of the search's options, told before anything is touched and not in the middle of a training."""

import logging
from collections.abc import Mapping
from typing import Any

from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import ArgumentsError, ObjectiveError

OURS = "rl"
"""The value of ``pruner`` that asks for our stop rule."""

logger = logging.getLogger(__name__)


def check_options(settings: Any) -> None:
    """Checks what the options of a search are; their ranges are the settings' own business.

    Args:
        settings: A ``Settings``.

    Raises:
        ArgumentsError: An option is of a kind that cannot work, or two of them exclude each other.
        ObjectiveError: As above, of ``metric`` and ``direction``.
    """
    for name in ("timeout", "budget", "target", "disk_budget_gb"):
        _number(name, getattr(settings, name))
    _objective(settings)
    _study(settings)
    _catch(settings.catch)
    if settings.hp_name is not None and not callable(settings.hp_name):
        raise ArgumentsError(f"hp_name={settings.hp_name!r} given, expected a function of a trial that returns a name.")
    _published(settings.published)
    if not isinstance(settings.direction, str):
        for name, value in (("confirm", settings.confirm or None), ("target", settings.target)):
            if value is not None:
                raise ArgumentsError(
                    f"{name}={value!r} given with a list of directions, expected a single one: several objectives have "
                    f"no best trial. Leave {name} out, or pass one direction."
                )


def _number(name: str, value: Any) -> None:
    if value is not None and not is_number(value):
        raise ArgumentsError(f"{name}={value!r} given, expected a number, or None.")


def _objective(settings: Any) -> None:
    metric, direction = settings.metric, settings.direction
    if metric is not None and not _is_texts(metric):
        raise ObjectiveError(f"metric={metric!r} given, expected the name of a metric, or a list of names.")
    if not _is_texts(direction):
        raise ObjectiveError(f"direction={direction!r} given, expected 'minimize', 'maximize' or a list of these.")


def _is_texts(value: Any) -> bool:
    return isinstance(value, str) or (isinstance(value, (list, tuple)) and all(isinstance(v, str) for v in value))


def _study(settings: Any) -> None:
    from optuna.pruners import BasePruner
    from optuna.samplers import BaseSampler
    from optuna.storages import BaseStorage

    for name, base in (("sampler", BaseSampler), ("pruner", BasePruner)):
        value = getattr(settings, name)
        if not (value is None or isinstance(value, base) or (name, value) == ("pruner", OURS)):
            what = f"the class {value.__name__}; call it" if isinstance(value, type) else repr(value)
            raise ArgumentsError(
                f"{name}={what} given, expected an Optuna {name} such as optuna.{name}s.{_EXAMPLES[name]}, or "
                f"{_INSTEAD[name]}."
            )
    if settings.storage is not None and not isinstance(settings.storage, (str, BaseStorage)):
        raise ArgumentsError(
            f"storage={settings.storage!r} given, expected an Optuna storage, a URL such as 'sqlite:///search.db', or "
            "None."
        )
    if settings.study_name is not None and not isinstance(settings.study_name, str):
        raise ArgumentsError(f"study_name={settings.study_name!r} given, expected text, or None.")
    if settings.load_if_exists and settings.study_name is None:
        logger.warning("load_if_exists=True has no effect without study_name=.")


_EXAMPLES = {"sampler": "TPESampler()", "pruner": "MedianPruner()"}
_INSTEAD = {"sampler": "None for ours", "pruner": f"{OURS!r} for ours, or None for none"}


def _catch(catch: Any) -> None:
    kinds = catch if isinstance(catch, (tuple, list, set, frozenset)) else (catch,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise ArgumentsError(f"catch={catch!r} given, expected an exception class or a tuple of them, () for none.")


def _published(published: Any) -> None:
    if not isinstance(published, (list, tuple)) or not all(isinstance(one, Mapping) for one in published):
        raise ArgumentsError(
            f"published={published!r} given, expected a list of dicts such as [{{'learning_rate': 2e-5}}]."
        )
