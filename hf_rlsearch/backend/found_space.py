"""The search space of the user's functions, found by dry runs and checked before anything is trained."""

from collections.abc import Callable, Collection, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import replace
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.backend.arguments import FrozenArguments, check_searchable, unknown_name
from hf_rlsearch.backend.compat import takes_trial
from hf_rlsearch.backend.drawing import Drawer
from hf_rlsearch.backend.identity import hash_of, keep_randomness
from hf_rlsearch.backend.plain_data import plain, words
from hf_rlsearch.backend.scopes import ScopedNames, prefix_of, scoped_roles
from hf_rlsearch.errors import SearchSpaceError
from hf_rlsearch.space import SearchSpace, record

# User attributes of a trial that the search writes.
_OWN_ATTRIBUTES = words(
    """
    role owner attempts hyperparameters values arguments seed world_size folder versions seconds peak_memory steps
    metrics checkpoint failure confirms cost continues stopped paused begun_at trained spent
    """
)


def make_drawer(
    hp_space: Callable[[Any], Any],
    model_init: Callable[..., Any] | None,
    frozen: FrozenArguments,
    *,
    roles: Mapping[str, str] | None,
    n_points: Mapping[str, int] | int | None,
    scopes: ScopedNames | None = None,
) -> Drawer:
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
    with keep_randomness():
        seen = record(hp_space, _recording_access(model_init, read_by_model) if takes_trial(model_init) else None)
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
                raise unknown_name(name, frozen.names, takes_trial(model_init), scopes.nearest(name))
    drawer = Drawer(
        space=space,
        hp_space=hp_space,
        model_init=model_init,
        frozen=frozen,
        from_model=frozenset(seen.from_model_init) - frozenset(seen.returned),
        searched=frozenset(seen.returned),
        scopes=scopes,
    )
    made = _check_values(drawer)
    computed = _computed(made)
    changing = {n for n in computed if any(v[n] != computed[n] for _, v in made if n in v)}
    return replace(drawer, computed=computed, transformed=frozenset(changing))


def _check_attributes(names: Collection[str]) -> None:
    taken = sorted(set(names) & _OWN_ATTRIBUTES)
    if taken:
        raise SearchSpaceError(
            f"hp_space sets the user attribute {taken[0]!r}, which the search itself writes. Give yours another name, "
            f"such as 'my_{taken[0]}'."
        )


def _check_values(drawer: Drawer) -> list[tuple[Params, Params]]:
    """Tries configurations that show every level at least once on the arguments' own rules.

    Returns:
        Each with what ``hp_space`` made of it.
    """
    made = []
    for params, values, again in drawer.examples():
        drawer.arguments(drawer.fitting(values))
        made.append((params, {name: plain(v) for name, v in values.items() if plain(again.get(name)) == plain(v)}))
    return made


def _computed(made: Sequence[tuple[Params, Params]]) -> Params:
    """By name what is returned besides suggested values; see ``Drawer.computed``."""
    found = {}
    for name in sorted({name for _, values in made for name in values}):
        pairs = [(values[name], plain(params.get(name))) for params, values in made if name in values]
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


def _recording_access(model_init: Any, names: set[str]) -> Callable[[Any], Any]:
    return lambda trial: model_init(_ObservedTrial(trial, names))
