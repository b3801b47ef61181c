"""From a name on the command line to a Python object: ``package.module:name`` or ``folder/file.py:name``."""

from __future__ import annotations

import difflib
import importlib
import runpy
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from hf_rlsearch.errors import ArgumentsError, HfRlSearchError


def load_object(target: str) -> Any:
    """Imports `target`.

    Args:
        target: ``module:name``, or ``file.py:name``; a file is run, but not as ``__main__``.

    Raises:
        ArgumentsError: It has no colon, or module, file or name do not exist.
    """
    place, colon, name = target.rpartition(":")
    if not colon or not name:
        raise ArgumentsError(f"{target!r} is neither module:name nor file.py:name, for example train.py:hp_space.")
    names = _run_file(Path(place)) if place.endswith(".py") else _import(place)
    if name in names:
        return names[name]
    near = difflib.get_close_matches(name, [n for n in names if not n.startswith("__")], n=1)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    raise ArgumentsError(f"{place!r} has no {name!r}.{hint}")


def load_function(target: str) -> Any:
    """As `load_object`, for something that can be called."""
    found = load_object(target)
    if not callable(found):
        raise ArgumentsError(f"{target!r} is a {type(found).__name__}, expected a function.")
    return found


def _run_file(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise ArgumentsError(f"There is no file {str(path)!r}.")
    sys.path.insert(0, str(path.resolve().parent))  # so that it finds its neighbours, as it would as a script
    try:
        with told(str(path)):
            return runpy.run_path(str(path), run_name=path.stem)
    finally:
        sys.path.pop(0)


@contextmanager
def told(target: str) -> Iterator[None]:
    """An exception of a user's code ends in one line that says where, not in our own calls."""
    try:
        yield
    except (HfRlSearchError, ImportError):
        raise
    except Exception as error:
        frame = traceback.extract_tb(error.__traceback__)[-1]
        # A syntax error says itself where it is.
        where = "" if isinstance(error, SyntaxError) else f" (line {frame.lineno} of {frame.filename})"
        raise ArgumentsError(f"{target!r} raised {type(error).__name__}: {error}{where}.") from error


def _import(module: str) -> dict[str, Any]:
    sys.path.insert(0, "")  # the current folder, as with python -m
    try:
        with told(module):
            return vars(importlib.import_module(module))
    except ModuleNotFoundError as error:
        raise ArgumentsError(
            f"There is no module {module!r} ({error}). A file is named with its ending: file.py:name."
        ) from error
    finally:
        sys.path.pop(0)
