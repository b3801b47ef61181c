"""Samples configurations from the user's functions on rank 0, and knows the baseline configuration."""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import is_number
from hf_rlsearch.backend.arguments import FrozenArguments
from hf_rlsearch.backend.identity import keep_randomness
from hf_rlsearch.backend.plain_data import plain
from hf_rlsearch.backend.scopes import ScopedNames, prefix_of, trial_arguments
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space import SearchSpace


@dataclass(frozen=True)
class ConfigurationSampler:
    """Samples configurations from ``hp_space`` and ``model_init``.

    Attributes:
        space: Every hyperparameter, those of ``model_init`` included.
        hp_space: The user's.
        model_init: The user's, None where the trainer is made by a factory.
        frozen: The user's arguments.
        from_model: Names that ``model_init`` suggests.
        searched: Names that ``hp_space`` returns.
        computed: What ``hp_space`` returns for a name where that is not the suggested value of the same name: a
            constant, or a hash of what it returns for the example configurations.
        transformed: The names in ``computed`` whose value is no constant.
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

    def sample(self, trial: optuna.Trial) -> tuple[Params, Params]:
        """Samples the whole configuration, so that it can be sent to other ranks before any of them builds a model.

        Args:
            trial: A running trial; params that it already has are kept.

        Returns:
            All params by name, and the validated values that ``hp_space`` returned; both are plain data.

        Raises:
            SearchSpaceError: ``hp_space`` returned no dict, or a scoped value that does not fit.
            optuna.TrialPruned: ``hp_space`` or ``model_init`` refuses the combination.
        """
        values = _as_dict(self.hp_space(trial))
        conditional = {h.name for h in self.space.hyperparameters if h.conditional}
        for name in sorted(self.from_model - conditional):
            suggest(trial, name, self.space.distributions[name])
        if self.from_model & conditional and self.model_init is not None:
            with keep_randomness():
                self.model_init(trial)
        return dict(trial.params), plain(self.validate(values))

    def validate(self, values: Params) -> Params:
        """Returns the values with the scoped ones checked and cast; a factory reads its values unchecked."""
        return values if self.scopes is None else self.scopes.fit(values)

    def values_of(self, params: Params) -> Params:
        """Returns what ``hp_space`` makes of given params in a dry run; raises what ``hp_space`` raises."""
        return _as_dict(self.hp_space(_DryRunTrial(params)))

    def arguments(self, values: Mapping[str, Any]) -> Any:
        """Returns the training arguments of a configuration, without the values that only ``model_init`` reads."""
        if self.scopes is None:
            values = {name: value for name, value in values.items() if prefix_of(name) is None}
        return trial_arguments(self.frozen, values)

    def baseline_params(self, config: Any) -> tuple[Params, Params]:
        """Returns the user's own configuration in the terms of the space.

        Args:
            config: Of the Trainer's model; it may name what ``model_init`` suggests.

        Returns:
            Params to record, each in its distribution, the nearest level where the user's value lies outside of it;
            and the exact values by name. Names whose value is not known are in neither.
        """
        recorded, exact = {}, {}
        for hyperparameter in self.space.hyperparameters:
            name = hyperparameter.name
            value = plain(self._baseline_value(name, config))
            if value is None:
                continue
            exact[name] = value
            inside = _contains(hyperparameter.distribution, value)
            level = -1 if inside else hyperparameter.nearest_level(value)
            if inside or level >= 0:
                recorded[name] = value if inside else hyperparameter.levels[level]
        for name in sorted(self.transformed):
            if (value := plain(self._baseline_value(name, None))) is not None:
                exact[name] = value
        return recorded, exact

    def _baseline_value(self, name: str, config: Any) -> Any:
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


class _DryRunTrial(FixedTrial):
    """A trial with given params, in a study without trials."""

    @functools.cached_property
    def study(self) -> optuna.Study:
        """Made when ``hp_space`` asks for it."""
        return optuna.create_study()


def _as_dict(values: Any) -> Params:
    if not isinstance(values, Mapping):
        raise SearchSpaceError(
            f"hp_space returned {values!r}, expected a dict of training arguments such as {{'learning_rate': 5e-5}}."
        )
    return dict(values)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Returns whether a value lies in a distribution; True is not 1, and a number in text is none."""
    if isinstance(distribution, CategoricalDistribution):
        return any(
            choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in distribution.choices
        )
    return is_number(value) and bool(distribution._contains(distribution.to_internal_repr(value)))
