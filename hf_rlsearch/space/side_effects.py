"""Finds what a call of ``hp_space``, or a training, changes in the objects of a script, to undo or repeat it.

Scripts set an attribute of their Trainer, of its collator, or a global in ``hp_space``. A dry run must leave no trace
of that, and a trial has to be trained with it.
"""

import functools
import inspect
import math
import os
import sys
import types
from collections.abc import Callable, Iterable, Iterator, Mapping, MutableMapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

# Larger containers are watched, but not what they hold, which is data. Neither are further objects.
_MAX_ITEMS, _MAX_PLACES, _MAX_FUNCTIONS = 100, 20_000, 100
_SIMPLE = (bool, int, float, complex, str, bytes, types.NoneType)
_NEVER = (*_SIMPLE, type, types.ModuleType, types.FunctionType, types.BuiltinFunctionType, types.MethodType)
_ABSENT: Any = object()
# Parts of a Trainer that it changes itself while it is asked for anything.
_MACHINERY = frozenset({"accelerator", "state", "control", "hp_space", "hp_name", "compute_objective"})


@dataclass(frozen=True)
class Change:
    """One thing that a call has changed.

    Attributes:
        name: As in a script: "trainer.gamma" or "settings['weight']".
        is_record: The call only added to a list, a set or a table of its own, as scripts do to keep a record.
    """

    name: str
    before: Any
    after: Any
    is_record: bool
    write: Callable[[Any], None]

    @property
    def is_new(self) -> bool:
        """Whether there was nothing before."""
        return self.before is _ABSENT

    @property
    def is_simple(self) -> bool:
        """Whether a number, a text or a truth value changed: a setting, and nothing that is loaded once."""
        return all(value is _ABSENT or isinstance(value, _SIMPLE) for value in (self.before, self.after))

    def undo(self) -> None:
        """Writes the value from before the call."""
        self.write(self.before)

    def redo(self) -> None:
        """Writes the value that the call had written."""
        self.write(self.after)

    def reversed(self) -> "Change":
        """The change back to the value from before the call."""
        return replace(self, before=self.after, after=self.before)


class Watch:
    """Remembers what functions and objects can reach, as it is now: attributes, their variables, globals they name.

    Args:
        functions: Functions of the user's, such as ``hp_space``.
        objects: Objects by name, such as "trainer"; None stands for no object.
        without: Objects that are not followed.
    """

    def __init__(
        self,
        *functions: Callable[..., Any],
        objects: Mapping[str, Any] = types.MappingProxyType({}),
        without: Iterable[Any] = (),
    ) -> None:
        self._without = list(without)
        self._seen: dict[int, Any] = {id(each): each for each in self._without}
        self._places: list[_Place] = [_Items("os.environ", os.environ)]
        found: list[tuple[str, Any]] = [*objects.items()]
        for place, values in _variables(functions):
            self._places.append(place)
            # Only the Trainer itself is called "trainer", so that a change of another one is not taken for one of it.
            found += [(f"variable {name}" if name == "trainer" else name, value) for name, value in values]
        while found and len(self._places) < _MAX_PLACES:
            deeper: list[tuple[str, Any]] = []
            for name, value in found:
                deeper += self._add(name, value)
            found = deeper

    def changes(self, trial: Any = None) -> list[Change]:
        """Returns what has changed since this object was made; ``trial`` is what the function was called with."""
        return [change for place in self._places for change in place.changes(trial)]

    def changes_in(self, objects: Mapping[int, Any]) -> list[Change]:
        """Returns what has changed in some of the objects, which are given by their ids."""
        return [change for place in self._places if id(place.owner) in objects for change in place.changes(None)]

    def reached(self) -> dict[int, Any]:
        """Returns all objects that were reached, by their ids."""
        left_out = {id(each) for each in self._without}
        return {key: value for key, value in self._seen.items() if key not in left_out}

    def _add(self, name: str, value: Any) -> Iterator[tuple[str, Any]]:
        """Watches an object, and returns the objects that it holds with their names."""
        if isinstance(value, _NEVER) or id(value) in self._seen:
            return
        self._seen[id(value)] = value  # also keeps the object, so that no other gets its id
        place = _place_of(name, value)
        if place is not None:
            self._places.append(place)
            yield from place.held()
        elif isinstance(value, tuple) and len(value) <= _MAX_ITEMS:
            yield from ((f"{name}[{i}]", item) for i, item in enumerate(value))


class _Place:
    """A container or object, with what it held at first."""

    def __init__(self, name: str, owner: Any) -> None:
        self.name, self.owner = name, owner
        self.before = self.read()

    def read(self) -> Any:
        raise NotImplementedError

    def changes(self, trial: Any) -> Iterator[Change]:
        raise NotImplementedError

    def held(self) -> Iterator[tuple[str, Any]]:
        """The objects inside, with their names."""
        return iter(())


class _Items(_Place):
    """A dict, or another mapping such as ``os.environ``."""

    def read(self) -> dict[Any, Any]:
        return dict(self.owner)

    def write(self, key: Any, value: Any) -> None:
        if value is _ABSENT:
            self.owner.pop(key, None)
        else:
            self.owner[key] = value

    def full_name(self, key: Any) -> str:
        return f"{self.name}[{key!r}]"

    def is_watched(self, key: Any, *, is_new: bool) -> bool:
        return True

    def changes(self, trial: Any) -> Iterator[Change]:
        now = self.read()
        for key in dict.fromkeys((*self.before, *now)):
            before, after = self.before.get(key, _ABSENT), now.get(key, _ABSENT)
            if not _is_same(before, after) and self.is_watched(key, is_new=before is _ABSENT):
                # A table by number, or one that holds the trial, is a record.
                is_record = (trial is not None and after is trial) or (before is _ABSENT and not isinstance(key, str))
                yield Change(self.full_name(key), before, after, is_record, functools.partial(self.write, key))

    def held(self) -> Iterator[tuple[str, Any]]:
        if len(self.before) <= _MAX_ITEMS or type(self) is not _Items:
            yield from ((self.full_name(key), value) for key, value in self.before.items())


class _Attributes(_Items):
    """The attributes of an object, without what the object itself or its class keeps there."""

    def read(self) -> dict[Any, Any]:
        is_module = _is_torch_module(self.owner)
        hidden = _MACHINERY if self.name == "trainer" else frozenset({"training"} if is_module else ())
        attributes = dict(vars(self.owner)).items()  # a thread of the object's own may add one meanwhile
        # Of a torch module the layers, and what its class does not manage.
        return {
            key: value
            for key, value in attributes
            if key not in hidden and not (is_module and key.startswith("_") and key != "_modules")
        }

    def write(self, key: Any, value: Any) -> None:
        if value is _ABSENT:
            vars(self.owner).pop(key, None)
        else:
            vars(self.owner)[key] = value

    def full_name(self, key: Any) -> str:
        return f"{self.name}.{key}"

    def is_watched(self, key: Any, *, is_new: bool) -> bool:
        default = inspect.getattr_static(type(self.owner), key, None)
        is_computed = hasattr(default, "__get__") and not isinstance(default, types.FunctionType)
        return not (is_new and (key.startswith("_") or is_computed))  # a cache


class _Names(_Items):
    """Variables by name: globals that a function names, or of a module."""

    def __init__(self, variables: MutableMapping[str, Any], names: frozenset[str]) -> None:
        self._names = names
        super().__init__("", variables)

    def read(self) -> dict[Any, Any]:
        return {name: self.owner[name] for name in sorted(self._names) if name in self.owner}

    def full_name(self, key: Any) -> str:
        return str(key)

    def is_watched(self, key: Any, *, is_new: bool) -> bool:
        return not isinstance(self.owner.get(key), types.ModuleType)  # an import


class _Cell(_Names):
    """A variable of an enclosing function."""

    def __init__(self, name: str, cell: types.CellType) -> None:
        self._cell = cell
        super().__init__({}, frozenset({name}))

    def read(self) -> dict[Any, Any]:
        try:
            return dict.fromkeys(self._names, self._cell.cell_contents)
        except ValueError:
            return {}  # a variable that is assigned later

    def write(self, key: Any, value: Any) -> None:
        if value is _ABSENT:
            del self._cell.cell_contents
        else:
            self._cell.cell_contents = value


class _Whole(_Place):
    """A list, a set or a small array, whose contents count as one."""

    def read(self) -> Any:
        return self.owner.clone() if hasattr(self.owner, "clone") else self.owner.copy()

    def write(self, value: Any) -> None:
        if isinstance(self.owner, set):
            self.owner.clear()
            self.owner.update(value)
        elif isinstance(self.owner, list):
            self.owner[:] = value
        else:
            self.owner[...] = value

    def changes(self, trial: Any) -> Iterator[Change]:
        before, now = self.before, self.read()
        is_longer = False
        if isinstance(now, list):
            same = len(before) == len(now) and all(map(_is_same, before, now))
            is_longer = len(before) < len(now) and all(map(_is_same, before, now))
        elif isinstance(now, set):
            same, is_longer = before == now, before < now
        elif (before.shape, getattr(before, "device", None)) != (now.shape, getattr(now, "device", None)):
            same = True  # what has another shape or place cannot be written back
        else:
            same = bool(((before == now) | ((before != before) & (now != now))).all())  # nan equals nan  # noqa: PLR0124
        if not same:
            is_record = is_longer and not self.name.startswith("trainer.")
            yield Change(self.name, before, now, is_record, self.write)

    def held(self) -> Iterator[tuple[str, Any]]:
        if isinstance(self.before, list) and len(self.before) <= _MAX_ITEMS:
            yield from ((f"{self.name}[{i}]", item) for i, item in enumerate(self.before))


def _place_of(name: str, value: Any) -> _Place | None:
    if isinstance(value, dict):  # to read another mapping may be to read a database
        return _Items(name, value)
    if isinstance(value, list | set) or _is_small_array(value):
        return _Whole(name, value)
    library = type(value).__module__.partition(".")[0]
    is_library = library in sys.stdlib_module_names or library == "optuna"
    plain_object = isinstance(value, types.SimpleNamespace) or type(value).__name__ == "Namespace"
    if isinstance(getattr(value, "__dict__", None), dict) and (library == "__main__" or plain_object or not is_library):
        return _Attributes(name, value)
    return None


def is_array(value: Any) -> bool:
    """Whether a value is an array of numpy or a tensor of torch; asks no object of the user's for an attribute."""
    kinds = (("numpy", "ndarray"), ("torch", "Tensor"))
    return any((cls.__module__, cls.__name__) in kinds for cls in type(value).__mro__)


def _is_small_array(value: Any) -> bool:
    if not is_array(value) or getattr(value, "requires_grad", False):
        return False
    if str(getattr(value, "layout", "torch.strided")) != "torch.strided":
        return False  # sparse or nested: not every entry can be set
    if any(getattr(value, f"is_{kind}", False) for kind in ("meta", "nested", "quantized")):
        return False  # it has no values, or none that can be compared
    return bool(math.prod(value.shape) <= _MAX_ITEMS)


def _is_torch_module(value: Any) -> bool:
    return "_modules" in vars(value) and "_parameters" in vars(value)


def _is_same(first: Any, second: Any) -> bool:
    return first is second or (type(first) is type(second) and isinstance(first, _SIMPLE) and first == second)


def _variables(functions: Sequence[Callable[..., Any]]) -> Iterator[tuple[_Place, list[tuple[str, Any]]]]:
    """Yields the places of the variables that functions, and the user's functions that they call, can change."""
    given = {id(function) for function in functions}
    waiting: list[Any] = [*functions]
    seen: set[int] = set()
    while waiting and len(seen) < _MAX_FUNCTIONS:
        function = waiting.pop(0)
        if id(function) in seen:
            continue
        seen.add(id(function))
        if isinstance(function, functools.partial):
            waiting += [function.func, *function.args, *function.keywords.values()]
        elif isinstance(function, types.MethodType):
            waiting.append(function.__func__)
            yield _Names({"self": function.__self__}, frozenset({"self"})), [("self", function.__self__)]
        elif isinstance(function, types.FunctionType) and (id(function) in given or is_of_user(function.__globals__)):
            for place in _places_of_function(function):
                yield place, list(place.held())
                waiting += place.before.values()
        elif isinstance(function, types.ModuleType) and is_of_user(vars(function)):
            yield _Names(vars(function), frozenset(vars(function))), []
        elif id(function) in given:
            yield _Names({"hp_space": function}, frozenset({"hp_space"})), [("hp_space", function)]
            waiting.append(vars(type(function)).get("__call__"))


def _places_of_function(function: types.FunctionType) -> list[_Names]:
    cells = zip(function.__code__.co_freevars, function.__closure__ or (), strict=True)
    places: list[_Names] = [_Names(function.__globals__, frozenset(_names_in(function.__code__)))]
    return places + [_Cell(name, cell) for name, cell in cells]


def _names_in(code: types.CodeType) -> Iterator[str]:
    """The names that code uses which are not local to it; some are those of attributes."""
    yield from code.co_names
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _names_in(constant)


def is_of_user(variables: MutableMapping[str, Any]) -> bool:
    """Whether the variables are those of a module that is not installed."""
    name, path = str(variables.get("__name__", "")), str(variables.get("__file__", ""))
    is_installed = "site-packages" in path or "dist-packages" in path
    is_library = name.partition(".")[0] in {*sys.stdlib_module_names, "hf_rlsearch", "torch", "transformers"}
    return not is_installed and not is_library
