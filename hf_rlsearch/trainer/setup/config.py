"""Holds the options of a search and checks them before the search touches the Trainer or a storage."""

import dataclasses
import logging
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from os import PathLike
from typing import Any, Self

from optuna.pruners import BasePruner
from optuna.samplers import BaseSampler
from optuna.storages import BaseStorage

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean, is_finite_number, is_integer, is_number
from hf_rlsearch.agent import AGENTS, META_TRAINED, ONLINE
from hf_rlsearch.errors import ArgumentsError, ObjectiveError
from hf_rlsearch.optuna import RLSampler
from hf_rlsearch.report.format import shorten
from hf_rlsearch.trainer.setup.constraints import check_constraints
from hf_rlsearch.trainer.setup.default_space import default_hp_space
from hf_rlsearch.trainer.setup.objective import UNSET_DIRECTION
from hf_rlsearch.trainer.setup.options import RENAMED

logger = logging.getLogger(__name__)

RL_PRUNER = "rl"
"""The value of ``pruner`` for the stop rule of the agent."""

AUTO = "auto"
"""The value of ``patience`` that leaves the end to what the agent expects of more trials."""

DEFAULT_PAUSED = 4
"""Number of stopped trainings that may wait on disk if the user gives none."""


class UnsetTrials(int):
    """The default number of trials, as opposed to the same number written by the user."""


UNSET_TRIALS = UnsetTrials(20)

# A trial costs at least this share of a full training, so that a budget cannot be split without end.
_SMALLEST_SHARE = 1 / 8
# Characters of a wrong value in an error.
_SHOWN = 200
# Number of trials where only a timeout is given: more than a search reaches.
_MAX_TRIALS = 1000


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """The options of a search with their defaults, checked; ``SearchOptions`` documents them.

    Attributes:
        hp_space: Suggests values on a trial and returns them by name: a training argument, or a field of the model, its
            adapter, generation or training as ``model.*``, ``peft.*``, ``gen.*`` and ``train.*``. Left out, the space
            that was published for the Trainer's kind of model.

    Raises:
        ArgumentsError: An option is of a type or value that cannot work, or two options exclude each other.
        ObjectiveError: As above, for ``metric`` and ``direction``.
    """

    # the space
    hp_space: Callable[[Any], Params] = default_hp_space
    roles: Mapping[str, str] | None = None
    n_points: Mapping[str, int] | int | None = None
    baseline: bool = True
    published: Sequence[Params] = ()
    initial_trials: Sequence[Params] = ()
    # the objective
    metric: str | Sequence[str] | None = None
    direction: str | Sequence[str] = UNSET_DIRECTION
    compute_objective: Callable[[dict[str, Any]], Any] | None = None
    target: float | Sequence[float] | Mapping[str, float] | None = None
    constraints: Mapping[str, float] | None = None
    # the budget
    n_trials: int | None = UNSET_TRIALS
    budget: float | None = None
    timeout: float | None = None
    patience: int | str | None = None
    min_gain_per_hour: float | None = None
    confirm: int = 0
    catch: type[BaseException] | tuple[type[BaseException], ...] = (Exception,)
    max_failed_trials: int | None = None
    # the storage
    storage: BaseStorage | str | None = None
    study_name: str | None = None
    load_if_exists: bool = False
    resume: bool = True
    hp_name: Callable[[Any], str] | None = None
    # the disk
    keep_best_models: int = 1
    max_paused_trials: int | None = None
    disk_budget_gb: float | None = None
    # the agent
    sampler: BaseSampler | None = None
    pruner: BasePruner | str | None = RL_PRUNER
    weights: str | None = None
    agent: str = META_TRAINED
    learn: str | None = None
    seed: int | None = None
    # accepted as in Optuna
    gc_after_trial: bool = True
    n_jobs: int = 1

    def __post_init__(self) -> None:
        for name, (is_valid, expected) in _EXPECTED.items():
            value, default = getattr(self, name), getattr(SearchConfig, name)
            if not (value is None and default is None) and not is_valid(value):
                error = ObjectiveError if name in ("metric", "direction") else ArgumentsError
                shown = shorten(" ".join(repr(value).split()), _SHOWN)
                given = f"the class {value.__name__}; call it" if isinstance(value, type) else shown
                raise error(f"{name}={given} given, expected {expected}.")
        self._check_storage()
        if self.constraints is not None:
            check_constraints(self.constraints)
        if self.confirm and not isinstance(self.direction, str):
            raise ArgumentsError(
                f"confirm={self.confirm!r} given with a list of directions, expected a single one: several objectives "
                "have no best trial. Leave confirm out, or pass one direction."
            )
        self._check_agent()
        self._check_estimates()
        if self.n_trials is None and self.timeout is None and self.budget is None:
            raise ArgumentsError("n_trials=None given, expected a whole number, or a timeout or a budget as well.")
        if self.n_jobs != 1:
            raise ArgumentsError(
                f"n_jobs={self.n_jobs!r} given, expected 1: threads would train one Trainer with each other's "
                "arguments. Start several processes with the same study_name, storage and load_if_exists=True instead."
            )
        if self.load_if_exists and self.study_name is None:
            logger.warning("load_if_exists=True has no effect without study_name=.")

    def _check_storage(self) -> None:
        """Refuses the path of a file, which says neither whether the file is SQLite nor whether it is a journal."""
        if not isinstance(self.storage, str | PathLike) or "://" in str(self.storage):
            return
        path = str(self.storage).removeprefix("sqlite:")
        given = shorten(repr(str(self.storage)), _SHOWN)
        raise ArgumentsError(
            f"storage={given} given, expected a URL or an Optuna storage. For an SQLite file write "
            f"storage={f'sqlite:///{path}'!r}; for a journal file JournalStorage(JournalFileBackend({path!r})), with "
            "both names from optuna.storages and optuna.storages.journal."
        )

    def _check_agent(self) -> None:
        """Refuses options of the agent where another sampler, or no stop rule, would leave them without effect."""
        if self.sampler is None:
            return
        for name in ("agent", "learn", "weights"):
            value, is_read = getattr(self, name), name == "weights" and self.pruner == RL_PRUNER
            if value != getattr(SearchConfig, name) and not is_read:
                raise ArgumentsError(
                    f"{name}={value!r} given with sampler={type(self.sampler).__name__}, which does not read it. Leave "
                    f"one of the two out, or pass sampler=RLSampler({name}={value!r})."
                )

    def _check_estimates(self) -> None:
        """Checks that the agent can estimate what more trials bring, where an option ends the search by that."""
        for name, value in (("patience", self.patience), ("min_gain_per_hour", self.min_gain_per_hour)):
            if value is None or (name == "patience" and value != AUTO):
                continue
            if not isinstance(self.direction, str):
                raise ArgumentsError(
                    f"{name}={value!r} given with a list of directions, expected a single one: of several objectives "
                    "the agent estimates no gain. Pass patience= as a number of trials."
                )
            is_ours = isinstance(self.sampler, RLSampler | None)
            agent = self.sampler.agent if isinstance(self.sampler, RLSampler) else self.agent
            if not is_ours or agent != META_TRAINED:
                sampler = f"RLSampler(agent={agent!r})" if is_ours else type(self.sampler).__name__
                other = f"agent={agent!r}" if self.sampler is None else f"sampler={sampler}"
                raise ArgumentsError(
                    f"{name}={value!r} given with {other}, which estimates no gain as the meta-trained agent does. "
                    "Leave that out, or pass patience= as a number of trials."
                )

    @classmethod
    def from_options(cls, options: Mapping[str, Any]) -> Self:
        """Builds the configuration from keyword arguments; ``directions`` may stand for ``direction``, as in Optuna.

        Raises:
            TypeError: An unknown option, with the nearest name.
        """
        options = dict(options)
        if "directions" in options:
            options["direction"] = options.pop("directions")
        known = {field.name for field in dataclasses.fields(cls)}
        if unknown := [name for name in options if name not in known]:
            name = unknown[0]
            hint = f" Its name is {RENAMED[name]!r}." if name in RENAMED else did_you_mean(name, known)
            others = f" Nor does it know {', '.join(map(repr, unknown[1:]))}." if unknown[1:] else ""
            raise TypeError(f"The search got an unexpected keyword argument {name!r}.{hint}{others}")
        return cls(**options)

    @property
    def displayed_n_trials(self) -> int | None:
        """The number of trials that the user wants; None where only ``budget`` or ``timeout`` ends the search."""
        by_budget = self.budget is not None and isinstance(self.n_trials, UnsetTrials)
        return None if self.n_trials is None or by_budget else int(self.n_trials)

    @property
    def max_trials(self) -> int:
        """The total number of trials; where the user gives none, as many as the budget can be split into."""
        if self.displayed_n_trials is not None:
            return self.displayed_n_trials
        return _MAX_TRIALS if self.budget is None else math.ceil(self.budget / _SMALLEST_SHARE)

    @property
    def max_paused(self) -> int:
        """The number of stopped trainings that may wait on disk."""
        if self.max_paused_trials is not None:
            return self.max_paused_trials
        # Other samplers come back to a configuration only by chance.
        return DEFAULT_PAUSED if self.sampler is None else 0

    @property
    def caught(self) -> tuple[type[BaseException], ...]:
        """The exceptions after which the search continues."""
        return tuple(self.catch) if isinstance(self.catch, (tuple, list, set, frozenset)) else (self.catch,)


def _is_a(*kinds: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, kinds)


def _is_int(*, at_least: int) -> Callable[[Any], bool]:
    return lambda value: is_integer(value) and value >= at_least


def _is_positive(value: Any) -> bool:
    return is_number(value) and value > 0


def _is_list_of(kind: type) -> Callable[[Any], bool]:
    return lambda value: isinstance(value, (list, tuple)) and all(isinstance(item, kind) for item in value)


def _is_text(value: Any) -> bool:
    return isinstance(value, str) or _is_list_of(str)(value)


def _is_target(value: Any) -> bool:
    numbers = value.values() if isinstance(value, Mapping) else value if isinstance(value, (list, tuple)) else [value]
    return len(numbers) > 0 and all(map(is_finite_number, numbers))


def _is_exceptions(value: Any) -> bool:
    kinds = value if isinstance(value, (tuple, list, set, frozenset)) else (value,)
    return all(isinstance(kind, type) and issubclass(kind, BaseException) for kind in kinds)


# option -> whether a value can work, and the words for such values; None can work where None is the default
_EXPECTED: dict[str, tuple[Callable[[Any], bool], str]] = {
    "hp_space": (callable, "a function of a trial that returns a dict"),
    "roles": (_is_a(Mapping), "a dict such as {'my_lr': 'learning_rate'}, or None"),
    "published": (_is_list_of(Mapping), "a list of dicts such as [{'learning_rate': 2e-5}]"),
    "initial_trials": (
        _is_list_of(Mapping),
        "a list of dicts such as [{'learning_rate': 2e-5}], or result.best_configurations(3) of an earlier search",
    ),
    "metric": (_is_text, "the name of a metric, or a list of names"),
    "direction": (_is_text, "'minimize', 'maximize' or a list of these"),
    "compute_objective": (callable, "a function of the metrics"),
    "target": (_is_target, "a number, a list with a number for each direction, a dict by metric, or None"),
    "n_trials": (lambda value: value is None or _is_int(at_least=1)(value), "a whole number, at least 1"),
    "budget": (_is_positive, "a number of full trainings greater than 0, or None"),
    "timeout": (_is_positive, "a number of seconds greater than 0, or None"),
    "patience": (
        lambda value: value == AUTO if isinstance(value, str) else _is_int(at_least=1)(value),
        f"a whole number, at least 1, {AUTO!r}, or None",
    ),
    "min_gain_per_hour": (_is_positive, "a number greater than 0 in the unit of the objective, or None"),
    "confirm": (_is_int(at_least=0), "a whole number, at least 0"),
    "catch": (_is_exceptions, "an exception class or a tuple of them, () for none"),
    "max_failed_trials": (_is_int(at_least=1), "a whole number, at least 1"),
    "storage": (_is_a(str, PathLike, BaseStorage), "an Optuna storage, a URL such as 'sqlite:///search.db', or None"),
    "study_name": (_is_a(str), "text, or None"),
    "hp_name": (callable, "a function of a trial that returns a name"),
    "keep_best_models": (_is_int(at_least=0), "a whole number, at least 0"),
    "max_paused_trials": (_is_int(at_least=0), "a whole number, at least 0"),
    "disk_budget_gb": (
        lambda value: is_number(value) and value >= 0,
        "a number of gigabytes of at least 0, or None for half of the free space",
    ),
    "sampler": (_is_a(BaseSampler), "an Optuna sampler such as optuna.samplers.TPESampler(), or None for RLSampler"),
    "agent": (lambda value: value in AGENTS, f"one of {', '.join(AGENTS)}"),
    "learn": (lambda value: value == ONLINE, f"{ONLINE!r}, or None"),
    "pruner": (
        lambda value: value in (None, RL_PRUNER) or isinstance(value, BasePruner),
        f"an Optuna pruner such as optuna.pruners.MedianPruner(), {RL_PRUNER!r} for RLPruner, or None for none",
    ),
}
