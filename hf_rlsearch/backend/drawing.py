"""Configurations drawn from the user's functions, on rank 0, and the user's own one in the terms of the space."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.identity import keep_randomness
from hf_rlsearch.backend.plain_data import plain
from hf_rlsearch.backend.scopes import ScopedNames, prefix_of, trial_arguments
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space import SearchSpace

# Most example configurations.
_N_EXAMPLES = 64


@dataclass(frozen=True)
class Drawer:
    """Draws configurations from the user's functions.

    Attributes:
        space: Every hyperparameter, those of ``model_init`` included.
        hp_space: The user's.
        model_init: The user's, None where the trainer is made by a factory.
        frozen: The user's arguments.
        from_model: Names that ``model_init`` suggests.
        searched: Argument names that ``hp_space`` sets.
        computed: What it sets them to where that is not simply the suggested value of that name: a constant, or a hash
            of what it makes of example configurations.
        transformed: The names among these whose value is no constant.
        scopes: Of the user's Trainer, None where the trainer is made by a factory.
    """

    space: SearchSpace
    hp_space: Callable[[Any], Any]
    model_init: Callable[..., Any] | None
    frozen: FrozenArguments
    from_model: frozenset[str]
    searched: frozenset[str]
    computed: Params = field(default_factory=dict)
    transformed: frozenset[str] = frozenset()
    scopes: ScopedNames | None = None

    def draw(self, trial: optuna.Trial) -> tuple[Params, Params]:
        """Draws the whole configuration, so that it can be sent to other ranks before any of them builds a model.

        Args:
            trial: A running trial; params that it already has are kept.

        Returns:
            All params by name, and the values that ``hp_space`` returned, both plain data; scoped values in their
            types, in which they are sent, stored and applied.

        Raises:
            SearchSpaceError: ``hp_space`` returned something else than a dict, or a scoped value that does not fit.
        """
        values = _returned(self.hp_space(trial))
        conditional = {h.name for h in self.space.hyperparameters if h.conditional}
        for name in sorted(self.from_model - conditional):
            suggest(trial, name, self.space.distributions[name])
        if self.from_model & conditional and self.model_init is not None:
            with keep_randomness():
                self.model_init(trial)
        return dict(trial.params), plain(self.fitting(values))

    def fitting(self, values: Params) -> Params:
        """The values with the scoped ones checked and in their types; a factory's are its own business."""
        return values if self.scopes is None else self.scopes.fit(values)

    def values_of(self, params: Params) -> Params:
        """What ``hp_space`` makes of given params, by a dry run; raises what it raises."""
        return _returned(self.hp_space(_Example(params)))

    def examples(self) -> Iterator[tuple[Params, Params, Params]]:
        """Params of example configurations, each with what ``hp_space`` makes of them when it is asked twice.

        They show every level of each hyperparameter that has no more than 64.
        """
        for params in _examples(self.space):
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    values, again = self.values_of(params), self.values_of(params)
                except optuna.TrialPruned:
                    continue  # a combination that hp_space refuses is never trained
            yield params, values, again

    def arguments(self, values: Mapping[str, Any]) -> Any:
        """The training arguments of a configuration; values that only ``model_init`` reads are left out."""
        return trial_arguments(self.frozen, values if self.scopes is not None else _unscoped(values))

    def of_the_user(self, config: Any) -> tuple[Params, Params]:
        """The user's own configuration in the terms of the space.

        Args:
            config: Of the Trainer's model; it may name what ``model_init`` suggests.

        Returns:
            Params to record, each in its distribution, the nearest value where the user's own lies outside; and the
            exact
            values by name. Names whose value is not known are in neither.
        """
        recorded, exact = {}, {}
        for hyperparameter in self.space.hyperparameters:
            name = hyperparameter.name
            value = plain(self._own(name, config))
            if value is None:
                continue
            exact[name] = value
            inside = _inside(hyperparameter.distribution, value)
            level = -1 if inside else hyperparameter.nearest_level(value)
            if inside or level >= 0:
                recorded[name] = value if inside else hyperparameter.levels[level]
        for name in sorted(self.transformed):
            if (value := plain(self._own(name, None))) is not None:
                exact[name] = value
        return recorded, exact

    def _own(self, name: str, config: Any) -> Any:
        """The user's own value of a name, None where it is not known."""
        if name in self.frozen.names:
            return self.frozen.value(name)
        if self.scopes is not None and prefix_of(name) is not None:
            return self.scopes.own(name)
        return getattr(config, name, None)


def suggest(trial: Any, name: str, distribution: BaseDistribution) -> Any:
    """Lets a trial suggest a value of a known distribution."""
    if isinstance(distribution, FloatDistribution):
        return trial.suggest_float(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, IntDistribution):
        return trial.suggest_int(
            name, distribution.low, distribution.high, step=distribution.step, log=distribution.log
        )
    if isinstance(distribution, CategoricalDistribution):
        return trial.suggest_categorical(name, distribution.choices)
    raise SearchSpaceError(f"{name!r} has a {type(distribution).__name__}, expected a float, int or categorical one.")


class _Example(FixedTrial):
    """A trial of an example configuration."""

    @functools.cached_property
    def study(self) -> optuna.Study:
        """A study without trials."""
        return optuna.create_study()


def _returned(values: Any) -> Params:
    if not isinstance(values, Mapping):
        raise SearchSpaceError(
            f"hp_space returned {values!r}, expected a dict of training arguments such as {{'learning_rate': 5e-5}}."
        )
    return dict(values)


def _unscoped(values: Mapping[str, Any]) -> Params:
    return {name: value for name, value in values.items() if prefix_of(name) is None}


def _examples(space: SearchSpace) -> Sequence[Params]:
    rng = np.random.default_rng(0)
    n_rows = min(_N_EXAMPLES, max(int(space.n_levels.max()), 8))
    columns = [[level for _ in range(-(-n_rows // n)) for level in rng.permutation(n)][:n_rows] for n in space.n_levels]
    return [space.decode(row) for row in zip(*columns, strict=True)]


def _inside(distribution: BaseDistribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return any(
            choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in distribution.choices
        )
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return False
    return bool(distribution._contains(distribution.to_internal_repr(value)))
