"""Samples configurations from the user's ``hp_space`` and ``model_init``, after checking both with dry runs."""

import functools
import warnings
from collections.abc import Callable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import optuna
from optuna.distributions import BaseDistribution, CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import FixedTrial

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import did_you_mean, is_number
from hf_rlsearch.errors import ArgumentsError, SearchSpaceError
from hf_rlsearch.observation.trial_attributes import PREFIX
from hf_rlsearch.space import SearchSpace, record
from hf_rlsearch.space.side_effects import Change, Watch
from hf_rlsearch.trainer.hyperparameters import ScopedNames, prefix_of, scoped_roles, trial_arguments
from hf_rlsearch.trainer.session.arguments import FrozenArguments, check_searchable, hash_of, plain, unknown_name
from hf_rlsearch.trainer.session.compat import takes_trial
from hf_rlsearch.trainer.session.seeds_and_memory import preserve_random_state

if TYPE_CHECKING:
    from transformers import PretrainedConfig, TrainingArguments

# Parts of a Trainer that a search makes anew for each trial.
_SET_BY_SEARCH = frozenset({"args", "model", "model_wrapped", "model_init"})
# Example configurations at most; of a hyperparameter with more levels some are left out.
_MAX_EXAMPLES = 64


class PlannedChanges(Protocol):
    """The parts of a trial's plan that say what ``hp_space`` changes in it."""

    @property
    def number(self) -> int:
        """Of the trial."""

    @property
    def params(self) -> Params:
        """Every hyperparameter."""

    @property
    def changes(self) -> Sequence[str]:
        """Names of what ``hp_space`` changes besides returning values."""


@dataclass(frozen=True)
class ConfigurationSampler:
    """Samples configurations from ``hp_space`` and ``model_init``, and knows the baseline configuration.

    Where a factory makes the Trainers, ``model_init`` and ``scoped_names`` are None.

    Attributes:
        space: All hyperparameters, those of ``model_init`` included.
        from_model: Names that only ``model_init`` suggests.
        searched: Names that ``hp_space`` returns.
        computed: Values by name where ``hp_space`` returns another value than the one suggested under that name: a
            constant, or a hash of the values for the example configurations.
        transformed: Names in ``computed`` whose value is not constant.
        earlier: Params and scoped values that an earlier search has left in the Trainer, as part of its configuration.
        trainer: The Trainer whose parts ``hp_space`` may change; None where a factory makes the Trainers.
        changed: Names of what ``hp_space`` changes besides returning values.
        initial: Configurations to train first, each once.
        sampled: What ``hp_space`` changed for each trial that this object sampled, by the number of the trial.
    """

    space: SearchSpace
    hp_space: Callable[[Any], Any]
    model_init: Callable[..., Any] | None
    frozen: FrozenArguments
    from_model: frozenset[str]
    searched: frozenset[str]
    computed: Params = field(default_factory=dict)
    transformed: frozenset[str] = frozenset()
    scoped_names: ScopedNames | None = None
    earlier: tuple[Params, Params] = field(default_factory=lambda: ({}, {}))
    trainer: Any = None
    changed: frozenset[str] = frozenset()
    initial: Sequence[Params] = ()
    sampled: dict[int, list[Change]] = field(default_factory=dict)

    @property
    def has_side_effects(self) -> bool:
        """Whether ``hp_space`` changes something besides returning values."""
        return bool(self.changed)

    def sample(self, trial: optuna.Trial) -> tuple[Params, Params, list[str]]:
        """Samples the whole configuration, so that other ranks get it before any of them builds a model.

        Returns:
            All params by name, those that the trial already has kept; the validated values that ``hp_space`` returned;
            and the names of what it changed besides, which is undone. All are plain data.

        Raises:
            SearchSpaceError: ``hp_space`` returned no dict, or a scoped value that does not fit.
            optuna.TrialPruned: ``hp_space`` or ``model_init`` refuses the combination.
        """
        watch, changes = Watch(self.hp_space, objects={"trainer": self.trainer}), []
        try:
            values = _as_dict(self.hp_space(trial))
        finally:
            changes = settings_among(watch.changes(trial))
            for change in changes:
                change.undo()
            self.sampled[trial.number] = changes
        conditional = {h.name for h in self.space.hyperparameters if h.conditional}
        for name in sorted(self.from_model - conditional):
            trial._suggest(name, self.space.distributions[name])
        if self.from_model & conditional and self.model_init is not None:
            with preserve_random_state():
                self.model_init(trial)  # only model_init knows which conditional names this configuration has
        return dict(trial.params), plain(self.validate(values)), [change.name for change in changes]

    def validate(self, values: Params) -> Params:
        """Returns the values with the scoped ones checked and cast; a factory reads its values unchecked."""
        return values if self.scoped_names is None else self.scoped_names.validate({**self.earlier[1], **values})

    def values_of(self, params: Params) -> Params:
        """Returns the values that ``hp_space`` returns for given params in a dry run; raises what it raises."""
        return self._dry_run(_DryRunTrial(params))

    def _dry_run(self, trial: "_DryRunTrial") -> Params:
        watch = Watch(self.hp_space, objects={"trainer": self.trainer}) if self.has_side_effects else None
        try:
            return _as_dict(self.hp_space(trial))
        finally:
            for change in [] if watch is None else watch.changes():
                change.undo()

    def checked_initial(self, initial_trials: Sequence[Params]) -> list[Params]:
        """Returns the configurations that are to be trained first as plain data, each once.

        Raises:
            ArgumentsError: One names nothing or what is not suggested, or has a value that is never suggested.
        """
        found: list[Params] = []
        for i, given in enumerate(initial_trials):
            params = self._checked(f"initial_trials[{i}]", {str(name): plain(value) for name, value in given.items()})
            if params not in found:
                found.append(params)
        return found

    def _checked(self, where: str, given: Params) -> Params:
        distributions = self.space.distributions
        unknown = next((name for name in given if name not in distributions), None)
        if unknown is not None or not given:
            raise ArgumentsError(
                f"{where} names {'nothing' if unknown is None else repr(unknown)}, expected some of the names that are "
                f"suggested: {', '.join(distributions)}.{did_you_mean(unknown, distributions) if unknown else ''}"
            )
        params = _in_range(where, given, distributions)
        trial = _DryRunTrial({**self.space.decode([0] * len(distributions)), **params})
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of values out of range, which are refused below
            try:
                self._dry_run(trial)
            except optuna.TrialPruned as error:
                if params.keys() == distributions.keys():
                    raise ArgumentsError(f"{where} is {params}, a combination that hp_space refuses.") from error
                return params
        unused = params.keys() - trial.distributions.keys() - self.from_model
        if unused:
            raise ArgumentsError(
                f"{where} has a value for {', '.join(sorted(unused))}, which hp_space does not suggest together with "
                "the other values. Leave it out."
            )
        # A range may depend on other values.
        return _in_range(where, params, {**distributions, **trial.distributions})

    def arguments(self, values: Mapping[str, Any]) -> "TrainingArguments":
        """Returns the training arguments of a configuration, without the values that only ``model_init`` reads."""
        if self.scoped_names is None:
            values = {name: value for name, value in values.items() if prefix_of(name) is None}
        return trial_arguments(self.frozen, values)

    def baseline_params(self, config: "PretrainedConfig | None") -> tuple[Params, Params]:
        """Returns the baseline, which is the user's own configuration, in the terms of the space.

        The configuration of the model may have fields with the names that ``model_init`` suggests.

        Returns:
            Params to record: a value outside of its distribution is left out, since Optuna would name another one that
            was never trained. And the exact values by name. Names whose value is not known are in neither.
        """
        recorded, exact = {}, {}
        for hyperparameter in self.space.hyperparameters:
            name = hyperparameter.name
            value = plain(self._baseline_value(name, config))
            if value is None:
                continue
            exact[name] = value
            if _contains(hyperparameter.distribution, value):
                recorded[name] = value
        for name in sorted(self.transformed):
            if (value := plain(self._baseline_value(name, None))) is not None:
                exact[name] = value
        return recorded, exact

    def repeats_baseline(self, params: Params, baseline: tuple[Params, Params]) -> bool:
        """Returns whether the training of given params is that of ``baseline_params``, bit for bit."""
        recorded, exact = baseline
        if self.has_side_effects or not recorded == exact == params:
            return False
        values = plain(self.values_of(params)).items()
        return all(value == params.get(name, plain(self._baseline_value(name, None))) for name, value in values)

    def _baseline_value(self, name: str, config: "PretrainedConfig | None") -> Any:
        """The value of a name in the baseline, None if the value is not known."""
        if name in self.frozen.names:
            return self.frozen.given(name)
        if self.scoped_names is not None and prefix_of(name) is not None:
            return self.earlier[1].get(name, self.scoped_names.default(name))
        return getattr(config, name, None)


def build_configuration_sampler(
    hp_space: Callable[[Any], Any],
    model_init: Callable[..., Any] | None,
    frozen: FrozenArguments,
    *,
    roles: Mapping[str, str] | None,
    n_points: Mapping[str, int] | int | None,
    scoped_names: ScopedNames | None = None,
    earlier: tuple[Params, Params] = ({}, {}),
    trainer: Any = None,
    initial_trials: Sequence[Params] = (),
) -> ConfigurationSampler:
    """Finds the space of the user's functions by dry runs, and checks example configurations and the initial ones.

    ``scoped_names`` and ``trainer`` are None for a factory, which reads all values itself: any name may be searched.
    The dry runs leave the Trainer, and all else that ``hp_space`` can reach, as it was.

    Raises:
        SearchSpaceError: The space is empty, nothing reads a name, or the arguments refuse a value.
        ArgumentsError: An initial configuration is not in the space.
    """
    read_by_model: set[str] = set()
    observed: Callable[[Any], Any] | None = None
    if model_init is not None and takes_trial(model_init):
        observed = lambda trial: model_init(_ObservedTrial(trial, read_by_model))  # noqa: E731
    dry_runs = _DryRuns(hp_space, trainer, model_init)
    with preserve_random_state():
        found = record(dry_runs.call, observed, after_run=dry_runs.undo)
    space = SearchSpace.from_distributions(
        found.distributions,
        roles={**scoped_roles(found.distributions), **(roles or {})},
        n_points=n_points,
        conditional=found.conditional,
    )
    check_searchable(found.returned)
    for name in sorted(found.user_attributes):
        if name.startswith(PREFIX):
            raise SearchSpaceError(
                f"hp_space sets the user attribute {name!r}, but names that start with {PREFIX!r} belong to the "
                "search. Use another name."
            )
    if scoped_names is not None:
        scoped_names.check(found.returned)
        for name in sorted(found.returned - frozen.names - read_by_model):
            if prefix_of(name) is None:
                raise unknown_name(name, frozen.names, observed is not None, scoped_names.nearest(name))
    sampler = ConfigurationSampler(
        space=space,
        hp_space=hp_space,
        model_init=model_init,
        frozen=frozen,
        from_model=frozenset(found.from_model_init) - frozenset(found.returned),
        searched=frozenset(found.returned),
        scoped_names=scoped_names,
        earlier=earlier,
        trainer=trainer,
        changed=frozenset(dry_runs.changed),
    )
    examples = _checked_examples(sampler)
    computed = _computed_values(examples)
    transformed = {n for n in computed if any(values[n] != computed[n] for _, values in examples if n in values)}
    initial = sampler.checked_initial(initial_trials)
    return replace(sampler, computed=computed, transformed=frozenset(transformed), initial=initial)


def settings_among(changes: Sequence[Change]) -> list[Change]:
    """The changes that matter to a training; scripts also keep records in ``hp_space``, which stay as they are."""
    return [change for change in changes if not change.is_record]


@dataclass
class SideEffects:
    """Repeats what ``hp_space`` changes in a trial besides returning values.

    Attributes:
        hp_space: The function of the search; None in a process that did not search.
        left: What the end of the search has left changed, for the best trial.
        sampled: See ``ConfigurationSampler``: in the process that sampled a trial nothing has to be found again.
    """

    hp_space: Callable[[Any], Any] | None = None
    left: list[Change] = field(default_factory=list)
    sampled: dict[int, list[Change]] = field(default_factory=dict)

    def apply(self, trainer: Any, plan: PlannedChanges) -> list[Change]:
        """Makes the changes of a trial, to a Trainer as it is between trials, and returns them.

        Raises:
            ArgumentsError: They cannot be repeated: ``hp_space`` is not known, or changes something else by now.
        """
        changes = [change.reversed() for change in reversed(self.left)]
        for change in changes:
            change.redo()
        if plan.changes and plan.number in self.sampled:
            for change in self.sampled[plan.number]:
                change.redo()
            changes += self.sampled[plan.number]
        elif plan.changes and self.hp_space is not None:
            watch = Watch(self.hp_space, objects={"trainer": trainer})
            with preserve_random_state():
                self.hp_space(_DryRunTrial(plan.params, plan.number))
            found = watch.changes()
            for change in found:
                if change.is_record:
                    change.undo()
            changes += settings_among(found)
        made = {change.name for change in changes[len(self.left) :]}
        if missing := sorted(made ^ set(plan.changes)):
            for change in reversed(changes):
                change.undo()
            raise ArgumentsError(
                f"Trial {plan.number} depends on {', '.join(missing)}, which hp_space changes. Repeat the trial in the "
                "process of the search and with the Trainer that was searched."
            )
        return changes


class _DryRuns:
    """Calls ``hp_space`` for dry runs, and undoes what these change.

    Of what ``model_init`` changes in its dry runs the settings are undone: the baseline may be trained with them. A
    model that it loads once stays.

    Attributes:
        changed: Names of what ``hp_space`` has changed; what ``model_init`` changes after it is not among them.
    """

    def __init__(self, hp_space: Callable[[Any], Any], trainer: Any, model_init: Callable[..., Any] | None) -> None:
        self._hp_space, self._watch = hp_space, Watch(hp_space, objects={"trainer": trainer})
        self._watch_of_model = None if model_init is None else Watch(model_init)
        self.changed: set[str] = set()

    def call(self, trial: Any) -> Any:
        try:
            return self._hp_space(trial)
        finally:
            self.changed.update(change.name for change in self._watch.changes())

    def undo(self) -> None:
        of_model = [] if self._watch_of_model is None else self._watch_of_model.changes()
        for change in [*self._watch.changes(), *(change for change in of_model if change.is_simple)]:
            change.undo()
        for name in sorted(self.changed):
            _check_changeable(name)


def _check_changeable(name: str) -> None:
    """Refuses a change of what the search itself sets for each trial, since the trial would lose it."""
    part = name.partition(".")[2].partition(".")[0].partition("[")[0]
    if not name.startswith("trainer.") or part not in _SET_BY_SEARCH:
        return
    field_name = name.rpartition(".")[2]
    hint = (
        f"Return {{{field_name!r}: ...}} instead; a value of your own needs a field, in a dataclass that extends "
        "TrainingArguments."
        if part == "args"
        else "Read the value in model_init(trial), or return a field of the model as 'model.<field>'."
    )
    raise SearchSpaceError(
        f"hp_space changes {name}, which the search makes anew for each trial, so the change would be lost. {hint}"
    )


def _checked_examples(sampler: ConfigurationSampler) -> list[tuple[Params, Params]]:
    """Checks example configurations by the rules of ``TrainingArguments`` and of the scoped names.

    Returns the params of each with the values that ``hp_space`` returns for them, unless two calls give different ones.
    """
    examples = []
    for params in _example_params(sampler.space):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                values, again = sampler.values_of(params), sampler.values_of(params)
            except optuna.TrialPruned:
                continue  # a combination that hp_space refuses is never trained
        sampler.arguments(sampler.validate(values))
        examples.append((params, {name: plain(v) for name, v in values.items() if plain(again.get(name)) == plain(v)}))
    return examples


def _example_params(space: SearchSpace) -> Sequence[Params]:
    """Configurations with each level of every hyperparameter that has at most 64 levels."""
    rng = np.random.default_rng(0)
    n_rows = min(_MAX_EXAMPLES, max(int(space.n_levels.max()), 8))
    columns = [[level for _ in range(-(-n_rows // n)) for level in rng.permutation(n)][:n_rows] for n in space.n_levels]
    return [space.decode(row) for row in zip(*columns, strict=True)]


def _computed_values(examples: Sequence[tuple[Params, Params]]) -> Params:
    """Returned values that differ from the suggested ones, by name; see ``ConfigurationSampler.computed``."""
    computed = {}
    for name in sorted({name for _, values in examples for name in values}):
        pairs = [(values[name], plain(params.get(name))) for params, values in examples if name in values]
        if any(value != suggested for value, suggested in pairs):
            returned = [value for value, _ in pairs]
            is_constant = all(value == returned[0] for value in returned)
            computed[name] = returned[0] if is_constant else hash_of(returned)
    return computed


class _DryRunTrial(FixedTrial):
    """A trial with given params, in a study without trials, which is made when ``hp_space`` asks for it."""

    @functools.cached_property
    def study(self) -> optuna.Study:
        return optuna.create_study()


def _as_dict(values: Any) -> Params:
    if not isinstance(values, Mapping):
        raise SearchSpaceError(
            f"hp_space returned {values!r}, expected a dict of training arguments such as {{'learning_rate': 5e-5}}."
        )
    return dict(values)


def _contains(distribution: BaseDistribution, value: Any) -> bool:
    """Returns whether a value lies in a distribution; True is not 1, and text is not a number."""
    if isinstance(distribution, CategoricalDistribution):
        return any(
            choice == value and isinstance(choice, bool) == isinstance(value, bool) for choice in distribution.choices
        )
    return is_number(value) and bool(distribution._contains(distribution.to_internal_repr(value)))


def _in_range(where: str, given: Params, distributions: Mapping[str, BaseDistribution]) -> Params:
    """Returns values in the types of their distributions.

    Raises:
        ArgumentsError: A value lies outside of its distribution.
    """
    found = {}
    for name, value in given.items():
        distribution = distributions[name]
        if not _contains(distribution, value):
            raise ArgumentsError(
                f"{where} has {name}={value!r}, expected {_range_text(distribution)}: that is what hp_space suggests."
            )
        found[name] = distribution.to_external_repr(distribution.to_internal_repr(value))
    return found


def _range_text(distribution: BaseDistribution) -> str:
    if isinstance(distribution, CategoricalDistribution):
        return f"one of {', '.join(map(repr, distribution.choices))}"
    assert isinstance(distribution, FloatDistribution | IntDistribution)
    kind = "a whole number" if isinstance(distribution, IntDistribution) else "a number"
    step = f" in steps of {distribution.step}" if distribution.step not in (None, 1) else ""
    return f"{kind} from {distribution.low} to {distribution.high}{step}"


class AccessRecorder(dict[str, Any]):
    """Adds the names that are read from a dict to a given set; iterating over the dict reads all of them."""

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(values)
        self._names = names

    def __getitem__(self, name: str) -> Any:
        self._names.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        self._names.update(super().keys())
        return super().__iter__()

    # The methods of dict bypass __getitem__ and __iter__, those of the abstract classes call them.
    get, pop = Mapping.get, MutableMapping.pop  # type: ignore[assignment]
    keys, values, items = Mapping.keys, Mapping.values, Mapping.items  # type: ignore[assignment]


class _ObservedTrial:
    """Records the names that ``model_init`` suggests on a trial or reads from its ``params``."""

    def __init__(self, trial: Any, names: set[str]) -> None:
        self._trial, self._names = trial, names

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._trial, attribute)
        if attribute == "params":
            return AccessRecorder(value, self._names)
        if not attribute.startswith("suggest_"):
            return value

        def suggest_and_record(name: str, *args: Any, **kwargs: Any) -> Any:
            self._names.add(name)
            return value(name, *args, **kwargs)

        return suggest_and_record
