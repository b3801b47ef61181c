"""Finds the search space by dry runs of the user's functions, and checks it before anything is trained."""

import warnings
from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments, check_searchable, unknown_name
from hf_rlsearch.backend.compat import takes_trial
from hf_rlsearch.backend.drawing import ConfigurationSampler
from hf_rlsearch.backend.identity import hash_of, keep_randomness
from hf_rlsearch.backend.plain_data import plain, words
from hf_rlsearch.backend.scopes import ScopedNames, prefix_of, scoped_roles
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space import SearchSpace, record

_MAX_EXAMPLES = 64
# User attributes of a trial that the search writes.
_OWN_ATTRIBUTES = words(
    """
    role owner attempts hyperparameters values arguments seed world_size folder versions seconds peak_memory steps
    metrics checkpoint failure confirms cost continues stopped paused begun_at trained spent
    """
)


def build_configuration_sampler(
    hp_space: Callable[[Any], Any],
    model_init: Callable[..., Any] | None,
    frozen: FrozenArguments,
    *,
    roles: Mapping[str, str] | None,
    n_points: Mapping[str, int] | int | None,
    scopes: ScopedNames | None = None,
) -> ConfigurationSampler:
    """Finds the space and checks it.

    Args:
        hp_space: The user's.
        model_init: The user's.
        frozen: The user's arguments.
        roles: Overrides of inferred roles.
        n_points: Wished number of levels.
        scopes: Of the Trainer; None for a factory, which reads the values itself, so that any name may be searched.

    Raises:
        SearchSpaceError: Empty, a name that nothing reads, or a value that the arguments refuse.
    """
    read_by_model: set[str] = set()
    observed: Callable[[Any], Any] | None = None
    if model_init is not None and takes_trial(model_init):
        observed = lambda trial: model_init(_ObservedTrial(trial, read_by_model))  # noqa: E731
    with keep_randomness():
        seen = record(hp_space, observed)
    space = SearchSpace.from_distributions(
        seen.distributions,
        roles={**scoped_roles(seen.distributions), **(roles or {})},
        n_points=n_points,
        conditional=seen.conditional,
    )
    check_searchable(seen.returned)
    _check_attributes(seen.user_attributes)
    if scopes is not None:
        scopes.check(seen.returned)
        for name in sorted(seen.returned - frozen.names - read_by_model):
            if prefix_of(name) is None:
                raise unknown_name(name, frozen.names, observed is not None, scopes.nearest(name))
    sampler = ConfigurationSampler(
        space=space,
        hp_space=hp_space,
        model_init=model_init,
        frozen=frozen,
        from_model=frozenset(seen.from_model_init) - frozenset(seen.returned),
        searched=frozenset(seen.returned),
        scopes=scopes,
    )
    examples = _checked_examples(sampler)
    computed = _computed_values(examples)
    transformed = {n for n in computed if any(values[n] != computed[n] for _, values in examples if n in values)}
    return replace(sampler, computed=computed, transformed=frozenset(transformed))


def _check_attributes(names: Collection[str]) -> None:
    taken = sorted(set(names) & _OWN_ATTRIBUTES)
    if taken:
        raise SearchSpaceError(
            f"hp_space sets the user attribute {taken[0]!r}, which the search itself writes. Give yours another name, "
            f"such as 'my_{taken[0]}'."
        )


def _checked_examples(sampler: ConfigurationSampler) -> list[tuple[Params, Params]]:
    """Checks example configurations by the arguments' own rules.

    Returns:
        Params of each example with what ``hp_space`` makes of them, as far as it is the same when asked twice.
    """
    found = []
    for params in _example_params(sampler.space):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                values, again = sampler.values_of(params), sampler.values_of(params)
            except optuna.TrialPruned:
                continue  # a combination that hp_space refuses is never trained
        sampler.arguments(sampler.validate(values))
        found.append((params, {name: plain(v) for name, v in values.items() if plain(again.get(name)) == plain(v)}))
    return found


def _example_params(space: SearchSpace) -> Sequence[Params]:
    """Configurations that show each level of every hyperparameter that has no more than 64."""
    rng = np.random.default_rng(0)
    n_rows = min(_MAX_EXAMPLES, max(int(space.n_levels.max()), 8))
    columns = [[level for _ in range(-(-n_rows // n)) for level in rng.permutation(n)][:n_rows] for n in space.n_levels]
    return [space.decode(row) for row in zip(*columns, strict=True)]


def _computed_values(examples: Sequence[tuple[Params, Params]]) -> Params:
    """What is returned besides suggested values, by name; see ``ConfigurationSampler.computed``."""
    found = {}
    for name in sorted({name for _, values in examples for name in values}):
        pairs = [(values[name], plain(params.get(name))) for params, values in examples if name in values]
        if any(value != suggested for value, suggested in pairs):
            answers = [value for value, _ in pairs]
            found[name] = answers[0] if all(answer == answers[0] for answer in answers) else hash_of(answers)
    return found


class AccessRecorder(dict[str, Any]):
    """A dict that notes which names are read; iterating over it reads all.

    Args:
        values: The items.
        names: Receives the names that are read.
    """

    def __init__(self, values: Mapping[str, Any], names: set[str]) -> None:
        super().__init__(values)
        self._names = names

    def __getitem__(self, name: str) -> Any:
        self._names.add(name)
        return super().__getitem__(name)

    def __iter__(self) -> Iterator[str]:
        self._names.update(super().keys())
        return super().__iter__()

    # The methods of dict bypass the two above, those of the abstract classes call them.
    get, pop = Mapping.get, MutableMapping.pop  # type: ignore[assignment]
    keys, values, items = Mapping.keys, Mapping.values, Mapping.items  # type: ignore[assignment]


class _ObservedTrial:
    """A trial that notes the names which ``model_init`` suggests or reads from ``params``."""

    def __init__(self, trial: Any, names: set[str]) -> None:
        self._trial, self._names = trial, names

    def __getattr__(self, attribute: str) -> Any:
        value = getattr(self._trial, attribute)
        if attribute == "params":
            return AccessRecorder(value, self._names)
        if not attribute.startswith("suggest_"):
            return value

        def suggest(name: str, *args: Any, **kwargs: Any) -> Any:
            self._names.add(name)
            return value(name, *args, **kwargs)

        return suggest
