"""Loads a Python object by its name on the command line: ``package.module:name`` or ``folder/file.py:name``."""

from __future__ import annotations

import importlib
import runpy
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError, HfRlSearchError, describe


def load_object(target: str) -> Any:
    """Imports an object by ``module:name``, or by ``file.py:name``; a file is run, but not as ``__main__``.

    Raises:
        ArgumentsError: The target has no colon, or module, file or name do not exist.
    """
    place, _, name = target.rpartition(":")
    if not place or not name:
        raise ArgumentsError(f"{target!r} is neither module:name nor file.py:name, for example train.py:hp_space.")
    names = _names_of(place)
    if name not in names:
        hint = did_you_mean(name, [known for known in names if not known.startswith("__")])
        raise ArgumentsError(f"{place!r} has no {name!r}.{hint}")
    return names[name]


def load_function(target: str) -> Callable[..., Any]:
    """Imports a function, as `load_object`.

    Raises:
        ArgumentsError: There is no such object, or it cannot be called.
    """
    found = load_object(target)
    if not callable(found):
        raise ArgumentsError(f"{target!r} is of type {type(found).__name__}, expected a function.")
    return found  # type: ignore[no-any-return]


def _names_of(place: str) -> dict[str, Any]:
    """Runs a file or imports a module, and returns its names."""
    path = Path(place)
    is_file = path.suffix == ".py"
    if is_file and not path.is_file():
        raise ArgumentsError(f"There is no file {place!r}.")
    # A file imports its neighbours, as a script would; a module stands in the current folder, as with python -m.
    sys.path.insert(0, str(path.resolve().parent) if is_file else "")
    try:
        with user_code_errors(place):
            return runpy.run_path(place, run_name=path.stem) if is_file else vars(importlib.import_module(place))
    except ModuleNotFoundError as error:
        if is_file:
            raise
        raise ArgumentsError(
            f"There is no module {place!r} ({error}). A file is named with its ending: file.py:name."
        ) from error
    finally:
        sys.path.pop(0)


@contextmanager
def user_code_errors(target: str) -> Iterator[None]:
    """Re-raises errors of the user's code as ArgumentsError with file and line."""
    try:
        yield
    except (HfRlSearchError, ImportError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # The text of a syntax error already has the place.
        where = "" if isinstance(error, SyntaxError) else f" (line {frame.lineno} of {frame.filename})"
        raise ArgumentsError(f"{target!r} raised {describe(error)}{where}.") from error
