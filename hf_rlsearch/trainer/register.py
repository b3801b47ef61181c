"""Makes ``trainer.hyperparameter_search(backend="rl")`` known to transformers, without importing transformers.

transformers keeps its backends in a closed enum and a table, and has no entry point for others. Both are extended here,
together, when their modules are loaded: at once if they are, else by an import hook, so that ``import hf_rlsearch``
costs nothing before or after ``import transformers``. The default backend stays what it was, because ours is added
last.

Tested with transformers 5.0 to 5.23.
"""

import functools
import importlib.abc
import importlib.machinery
import importlib.util
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import Any

NAME = "rl"
_UTILS, _TABLE, _TRAINER = (
    "transformers.trainer_utils",
    "transformers.hyperparameter_search",
    "transformers.trainer",
)


def register() -> None:
    """Registers the backend now where transformers is loaded, and whenever it is loaded later. May be called again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, extend in _EXTENSIONS.items():
        module = sys.modules.get(name)
        # A module that is being imported right now is extended by the hook or by the module that needs it.
        if module is not None and _is_complete(module):
            extend(module)


def _is_complete(module: ModuleType) -> bool:
    return not getattr(getattr(module, "__spec__", None), "_initializing", False)


def _extend_enum(utils: ModuleType) -> None:
    """Adds the member ``HPSearchBackend.RL``; pickle and copy find it by value like any other."""
    enum: Any = utils.HPSearchBackend
    if NAME in enum._value2member_map_:
        return
    member = str.__new__(enum, NAME)
    member._name_, member._value_ = NAME.upper(), NAME
    member._sort_order_ = len(enum._member_names_)
    member.__objclass__ = enum
    # type.__setattr__, because the enum's own refuses members.
    type.__setattr__(enum, NAME.upper(), member)
    enum._member_names_.append(NAME.upper())
    enum._member_map_[NAME.upper()] = member
    enum._value2member_map_[NAME] = member


def _extend_table(table: ModuleType) -> None:
    """Adds the backend's class under the new member, at the end: the first available entry is the default backend."""
    utils = sys.modules[_UTILS]
    _extend_enum(utils)
    key = table.HPSearchBackend(NAME)
    if key in table.ALL_HYPERPARAMETER_SEARCH_BACKENDS:
        return
    table.ALL_HYPERPARAMETER_SEARCH_BACKENDS[key] = _make_backend(table.HyperParamSearchBackendBase)


def _make_backend(base: type) -> type:
    class RLBackend(base):  # type: ignore[misc]
        """``hf_rlsearch`` as the Trainer sees it."""

        name = NAME
        pip_package = "hf-rlsearch"

        @staticmethod
        def is_available() -> bool:
            """Always: this code would not run otherwise."""
            return True

        def run(self, trainer: Any, n_trials: int | None, direction: str | Sequence[str], **kwargs: Any) -> Any:
            """Runs the search that the Trainer was asked for.

            Args:
                trainer: As the Trainer prepared it: ``hp_space``, ``hp_name`` and ``compute_objective`` are set.
                n_trials: Total number of trials.
                direction: One direction or a list of them.
                **kwargs: Those of ``hf_rlsearch.search``; an unknown one is a ``TypeError`` there.
            """
            from hf_rlsearch.trainer.api import search_from_trainer

            return search_from_trainer(trainer, n_trials=n_trials, direction=direction, options=kwargs)

        def default_hp_space(self, trial: Any) -> dict[str, Any]:
            """The space for users who give none."""
            from hf_rlsearch.trainer.setup.default_space import default_hp_space

            return default_hp_space(trial)

    return RLBackend


def _wrap_search(trainer_module: ModuleType) -> None:
    """Marks the defaults of ``hyperparameter_search`` as not given by the user, and cleans up after its errors."""
    cls = trainer_module.Trainer
    original = cls.__dict__.get("hyperparameter_search")
    if original is None or getattr(original, "_hf_rlsearch", False):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def hyperparameter_search(self: Any, *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        if str(getattr(bound.arguments.get("backend"), "value", bound.arguments.get("backend"))) != NAME:
            return original(self, *args, **kwargs)
        from hf_rlsearch.trainer.setup.config import UNSET_TRIALS
        from hf_rlsearch.trainer.setup.objective import UNSET_DIRECTION

        bound.arguments.setdefault("direction", UNSET_DIRECTION)
        bound.arguments.setdefault("n_trials", UNSET_TRIALS)
        before = {
            name: self.__dict__.get(name) for name in ("hp_search_backend", "hp_space", "hp_name", "compute_objective")
        }
        had = before.keys() & self.__dict__.keys()
        try:
            return original(*bound.args, **bound.kwargs)
        finally:
            for name, value in before.items():
                if name in had:
                    setattr(self, name, value)
                else:
                    self.__dict__.pop(name, None)

    hyperparameter_search._hf_rlsearch = True  # type: ignore[attr-defined]
    cls.hyperparameter_search = hyperparameter_search


_EXTENSIONS: dict[str, Callable[[ModuleType], None]] = {
    _UTILS: _extend_enum,
    _TABLE: _extend_table,
    _TRAINER: _wrap_search,
}


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the three modules as usual, and extends each right after it was executed."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of one of the three modules with its loader wrapped; None for any other module."""
        if fullname not in _EXTENSIONS:
            return None
        for finder in sys.meta_path:
            if finder is self or isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _run_after(spec.loader, _EXTENSIONS[fullname])
                return spec
        return None


def _run_after(loader: Any, extend: Callable[[ModuleType], None]) -> None:
    """Replaces ``exec_module`` on this one loader object, so that it stays the kind of loader that tools expect."""
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        extend(module)

    loader.exec_module = exec_module
