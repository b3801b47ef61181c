"""The arguments of a search, checked before anything is touched."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean, is_integer, is_number
from hf_rlsearch.errors import ArgumentsError, ObjectiveError
from hf_rlsearch.trainer.setup.default_space import default_hp_space
from hf_rlsearch.trainer.setup.objective import UNSET_DIRECTION

RL_PRUNER = "rl"
"""The value of ``pruner`` that asks for our stop rule."""
logger = logging.getLogger(__name__)


def check_options(settings: Any) -> None:
    """Checks what the options of a search are; their ranges are the settings' own business.

    Args:
        settings: A ``SearchConfig``.

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
        if not (value is None or isinstance(value, base) or (name, value) == ("pruner", RL_PRUNER)):
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
_INSTEAD = {"sampler": "None for ours", "pruner": f"{RL_PRUNER!r} for ours, or None for none"}


def _catch(catch: Any) -> None:
    kinds = catch if isinstance(catch, (tuple, list, set, frozenset)) else (catch,)
    if not all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds):
        raise ArgumentsError(f"catch={catch!r} given, expected an exception class or a tuple of them, () for none.")


def _published(published: Any) -> None:
    if not isinstance(published, (list, tuple)) or not all(isinstance(one, Mapping) for one in published):
        raise ArgumentsError(
            f"published={published!r} given, expected a list of dicts such as [{{'learning_rate': 2e-5}}]."
        )


class UnsetTrials(int):
    """The default number of trials, told apart from the same number written by the user."""


UNSET_TRIALS = UnsetTrials(20)

# A trial costs at least this share of a full training, so a budget cannot be split without end.
_SMALLEST_SHARE = 1 / 8

# Stopped trainings that may wait on disk where the user does not say how many.
DEFAULT_PAUSED = 4

# Trials where only a timeout is given: more than any search gets to.
_MANY = 1000


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """Everything that ``hf_rlsearch.search`` takes besides the Trainer; see there for the meaning of each.

    Raises:
        ArgumentsError: A value that rules the search out.
    """

    hp_space: Callable[[Any], Any] = default_hp_space
    compute_objective: Callable[[dict[str, Any]], Any] | None = None
    n_trials: int | None = UNSET_TRIALS
    direction: str | Sequence[str] = UNSET_DIRECTION
    hp_name: Callable[[Any], str] | None = None
    metric: str | Sequence[str] | None = None
    sampler: Any = None
    pruner: Any = RL_PRUNER
    storage: Any = None
    study_name: str | None = None
    load_if_exists: bool = False
    resume: bool = True
    baseline: bool = True
    timeout: float | None = None
    target: float | None = None
    catch: Any = (Exception,)
    max_failed_trials: int | None = None
    gc_after_trial: bool = True
    n_jobs: int = 1
    keep_checkpoints: int = 1
    max_checkpoints: int | None = None
    disk_budget_gb: float | None = None
    weights: str | None = None
    roles: Mapping[str, str] | None = None
    n_points: Mapping[str, int] | int | None = None
    budget: float | None = None
    confirm: int = 0
    published: Sequence[Params] = ()
    seed: int | None = None

    def __post_init__(self) -> None:
        check_options(self)
        if self.n_trials is not None or (self.timeout is None and self.budget is None):
            _whole("n_trials", self.n_trials, at_least=1)
        _whole("keep_checkpoints", self.keep_checkpoints, at_least=0)
        _whole("confirm", self.confirm, at_least=0)
        if self.max_checkpoints is not None:
            _whole("max_checkpoints", self.max_checkpoints, at_least=0)
        if self.disk_budget_gb is not None and not self.disk_budget_gb >= 0:
            raise ArgumentsError(
                f"disk_budget_gb={self.disk_budget_gb!r} given, expected gigabytes of at least 0, or None for half of "
                "what is free."
            )
        if self.max_failed_trials is not None:
            _whole("max_failed_trials", self.max_failed_trials, at_least=1)
        if self.timeout is not None and not self.timeout > 0:
            raise ArgumentsError(f"timeout={self.timeout!r} given, expected seconds greater than 0, or None.")
        if self.budget is not None and not self.budget > 0:
            raise ArgumentsError(
                f"budget={self.budget!r} given, expected a number of full trainings greater than 0, or None."
            )
        if self.n_jobs != 1:
            raise ArgumentsError(
                f"n_jobs={self.n_jobs!r} given, expected 1: threads would train one Trainer with each other's "
                "arguments. Start several processes with the same study_name, storage and load_if_exists=True instead."
            )
        if not callable(self.hp_space):
            raise ArgumentsError(
                f"hp_space={self.hp_space!r} given, expected a function of a trial that returns a dict."
            )

    @property
    def max_trials(self) -> int:
        """The total number of trials; with a budget and no number given, as many as the budget can be split into."""
        if self.budget is not None and (self.n_trials is None or isinstance(self.n_trials, UnsetTrials)):
            return math.ceil(self.budget / _SMALLEST_SHARE)
        return _MANY if self.n_trials is None else int(self.n_trials)

    @property
    def displayed_n_trials(self) -> int | None:
        """The number of trials that the user wants; None where only ``budget`` or ``timeout`` ends the search."""
        by_budget = self.budget is not None and isinstance(self.n_trials, UnsetTrials)
        return None if self.n_trials is None or by_budget else int(self.n_trials)

    @property
    def max_paused(self) -> int:
        """How many stopped trainings may wait on disk; without a number given none where others choose the trials:
        they come back to a configuration by chance at most."""
        if self.max_checkpoints is not None:
            return self.max_checkpoints
        return DEFAULT_PAUSED if self.sampler is None else 0

    @property
    def caught(self) -> tuple[type[BaseException], ...]:
        """The exceptions after which the search goes on."""
        return tuple(self.catch) if isinstance(self.catch, (tuple, list, set, frozenset)) else (self.catch,)

    @classmethod
    def from_options(cls, options: Mapping[str, Any], **given: Any) -> "SearchConfig":
        """Settings from the Trainer's free keyword arguments.

        Raises:
            TypeError: An unknown one, with the nearest name.
        """
        options = dict(options)
        if "directions" in options:
            given["direction"] = options.pop("directions")
        known = {field.name for field in dataclasses.fields(cls)}
        for name in options:
            if name not in known:
                raise TypeError(
                    f"hyperparameter_search(backend='rl') got an unexpected keyword argument {name!r}."
                    f"{did_you_mean(name, known)}"
                )
        return cls(**{**given, **options})


def _whole(name: str, value: Any, *, at_least: int) -> None:
    if not is_integer(value) or value < at_least:
        raise ArgumentsError(f"{name}={value!r} given, expected a whole number, at least {at_least}.")
