"""Adds the backend "rl" to ``Trainer.hyperparameter_search`` without importing transformers.

transformers keeps its backends in a closed enum and a table, and has no entry point for others. Both are extended when
their modules are loaded: at once if they are loaded already, else by an import hook, so that ``import hf_rlsearch`` is
fast before and after ``import transformers``. The new backend comes last, since the first available one is the default.

Tested with transformers 5.0 to 5.23.
"""

import functools
import importlib.abc
import importlib.machinery
import inspect
import sys
from collections.abc import Callable, Sequence
from types import ModuleType
from typing import TYPE_CHECKING, Any

from hf_rlsearch.trainer.setup.options import with_options

if TYPE_CHECKING:
    from transformers import Trainer

NAME = "rl"
# Between transformers' documentation of ``hyperparameter_search`` and ours.
_HEADING = """\
With ``backend="rl"`` hf_rlsearch runs the search. ``run_summary`` of a returned run is an
``hf_rlsearch.SearchResult``. ``hp_space`` may be left out, and may return ``model.*``, ``peft.*``, ``gen.*`` and
``train.*`` too. The other arguments are these; those named above as well mean what is said here:"""
_UTILS, _TABLE, _TRAINER, _ARGUMENTS = (
    "transformers.trainer_utils",
    "transformers.hyperparameter_search",
    "transformers.trainer",
    "transformers.training_args",
)


def register() -> None:
    """Registers the backend now if transformers is loaded, and otherwise once it is; may be called again."""
    if not any(isinstance(finder, _Finder) for finder in sys.meta_path):
        sys.meta_path.insert(0, _Finder())
    for name, extend in _EXTENSIONS.items():
        module = sys.modules.get(name)
        # The hook extends a module whose import is still running.
        is_importing = getattr(getattr(module, "__spec__", None), "_initializing", False)
        if module is not None and not is_importing:
            extend(module)


class _Finder(importlib.abc.MetaPathFinder):
    """Finds the four modules as usual, and extends each of them right after its execution."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """The usual spec of one of the four modules, with its loader wrapped; None for any other module."""
        if fullname not in _EXTENSIONS:
            return None
        for finder in sys.meta_path:
            if isinstance(finder, _Finder) or not hasattr(finder, "find_spec"):
                continue
            spec = finder.find_spec(fullname, path, target)
            if spec is not None:
                if spec.loader is not None:
                    _run_after(spec.loader, _EXTENSIONS[fullname])
                return spec
        return None


def _run_after(loader: Any, extend: Callable[[ModuleType], None]) -> None:
    """Replaces ``exec_module`` on this loader object alone, which so stays the kind of loader that tools expect."""
    execute = loader.exec_module

    def exec_module(module: ModuleType) -> None:
        execute(module)
        extend(module)

    loader.exec_module = exec_module


def _extend_enum(utils: ModuleType) -> None:
    """Adds the member ``HPSearchBackend.RL``; pickle and copy find it by its value like any other member."""
    enum: Any = utils.HPSearchBackend
    if NAME in enum._value2member_map_:
        return
    member = str.__new__(enum, NAME)
    member._name_, member._value_ = NAME.upper(), NAME
    member._sort_order_ = len(enum._member_names_)
    member.__objclass__ = enum
    # The enum's own __setattr__ refuses new members.
    type.__setattr__(enum, NAME.upper(), member)
    enum._member_names_.append(NAME.upper())
    enum._member_map_[NAME.upper()] = member
    enum._value2member_map_[NAME] = member


def _extend_table(table: ModuleType) -> None:
    """Adds the backend's class under the new member."""
    _extend_enum(sys.modules[_UTILS])

    class RLBackend(table.HyperParamSearchBackendBase):  # type: ignore[misc, name-defined]
        """``hf_rlsearch`` as a backend of the Trainer."""

        name = NAME
        pip_package = "hf-rlsearch"

        @staticmethod
        def is_available() -> bool:
            """True, since this code is installed."""
            return True

        def run(self, trainer: "Trainer", n_trials: int | None, direction: str | Sequence[str], **kwargs: Any) -> Any:
            """Runs the search that the Trainer asks for, with options of ``hf_rlsearch.search``."""
            from hf_rlsearch.trainer.api import search_from_trainer

            return search_from_trainer(trainer, n_trials=n_trials, direction=direction, options=kwargs)

        def default_hp_space(self, trial: Any) -> dict[str, Any]:
            """The space for users who give none."""
            from hf_rlsearch.trainer.setup.default_space import default_hp_space

            return default_hp_space(trial)

    table.ALL_HYPERPARAMETER_SEARCH_BACKENDS.setdefault(table.HPSearchBackend(NAME), RLBackend)


def _wrap_search(trainer_module: ModuleType) -> None:
    """Makes ``hyperparameter_search`` distinguish its defaults from values of the user, and clean up after errors.

    Its documentation gets ours after transformers'.
    """
    cls = trainer_module.Trainer
    original = cls.__dict__.get("hyperparameter_search")
    if original is None or getattr(original, "_hf_rlsearch", False):
        return
    signature = inspect.signature(original)

    @functools.wraps(original)
    def hyperparameter_search(self: "Trainer", *args: Any, **kwargs: Any) -> Any:
        bound = signature.bind(self, *args, **kwargs)
        backend = bound.arguments.get("backend")
        if str(getattr(backend, "value", backend)) != NAME:
            return original(self, *args, **kwargs)
        from hf_rlsearch.trainer.setup.config import UNSET_TRIALS
        from hf_rlsearch.trainer.setup.objective import UNSET_DIRECTION

        bound.arguments.setdefault("direction", UNSET_DIRECTION)
        bound.arguments.setdefault("n_trials", UNSET_TRIALS)
        attributes = vars(self)
        names = ("hp_search_backend", "hp_space", "hp_name", "compute_objective")
        before = {name: attributes[name] for name in names if name in attributes}
        try:
            return original(*bound.args, **bound.kwargs)
        finally:
            for name in names:
                attributes.pop(name, None)
            attributes.update(before)

    hyperparameter_search._hf_rlsearch = True  # type: ignore[attr-defined]
    hyperparameter_search.__doc__ = with_options(original.__doc__, _HEADING)
    cls.hyperparameter_search = hyperparameter_search


def _keep_given(arguments_module: ModuleType) -> None:
    """Makes ``TrainingArguments`` keep what its constructor is given, which ``__post_init__`` may replace.

    A subclass may change fields before it calls the constructor of its base class, so only ``__new__`` sees them all.
    """
    cls = arguments_module.TrainingArguments
    if "__new__" in vars(cls):
        return

    @functools.wraps(cls.__init__)  # inspect.signature(TrainingArguments) stays that of the constructor
    def make(this: type, *args: Any, **kwargs: Any) -> Any:
        made: Any = object.__new__(this)
        if args or kwargs:  # copies and pickles are made without arguments
            from hf_rlsearch.trainer.session.arguments import GIVEN

            vars(made)[GIVEN] = (args, kwargs)
        return made

    cls.__new__ = make


_EXTENSIONS: dict[str, Callable[[ModuleType], None]] = {
    _UTILS: _extend_enum,
    _TABLE: _extend_table,
    _TRAINER: _wrap_search,
    _ARGUMENTS: _keep_given,
}
