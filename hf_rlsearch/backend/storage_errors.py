"""A storage that cannot be used is told in one line, with what to do, not in a database's pages of text."""

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import optuna

from hf_rlsearch.errors import StorageError


@contextmanager
def storage_errors(where: Any) -> Iterator[None]:
    """Tells of a storage that stops working during a search, instead of the database's own pages of text.

    Raises:
        StorageError: From the database's error.
    """
    try:
        yield
    except Exception as error:
        if _is_storage_error(error):
            raise _cannot_be_used(where, error) from error
        raise


@contextmanager
def opening_errors(where: Any) -> Iterator[None]:
    """As ``storage_errors``, and a storage of an unknown kind or in a place that cannot be written to.

    Raises:
        StorageError: From the error.
    """
    try:
        yield
    except (StorageError, optuna.exceptions.DuplicatedStudyError):
        raise
    except Exception as error:
        if isinstance(error, (OSError, RuntimeError)) or _is_storage_error(error):
            raise _cannot_be_used(where, error) from error
        raise


def _is_storage_error(error: Exception) -> bool:
    return isinstance(error, (sqlite3.Error, optuna.exceptions.StorageInternalError)) or type(
        error
    ).__module__.startswith("sqlalchemy")


def _cannot_be_used(where: Any, error: Exception) -> StorageError:
    return StorageError(
        f"The storage {where} cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}. Finished trials "
        f"are "
        "kept. Check that the folder can be written to and that no other program holds the file, or pass storage=."
    )
