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
        if is_storage_error(error):
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
        if isinstance(error, (OSError, RuntimeError)) or is_storage_error(error):
            raise _cannot_be_used(where, error) from error
        raise


def is_storage_error(error: BaseException) -> bool:
    """Whether an exception comes from the database or from Optuna's storage."""
    own = (sqlite3.Error, optuna.exceptions.StorageInternalError)
    return isinstance(error, own) or type(error).__module__.startswith("sqlalchemy")


def _cannot_be_used(where: Any, error: Exception) -> StorageError:
    return StorageError(
        f"The storage {where} cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}. Finished trials "
        "are kept. Check that the folder can be written to and that no other program holds the file, or pass storage=."
    )


def cannot_go_on(number: int, reason: str, where: Any) -> StorageError:
    """The error that ends a search when a trial cannot write; the trial is as if the process had been killed.

    Args:
        number: Of the trial.
        reason: What was raised.
        where: The folder.
    """
    return StorageError(
        f"Trial {number} cannot go on, because {where} or the storage cannot be written to: {reason}. Nothing is lost: "
        "make room or wait for the disk, then start the same command again, and it continues with this trial."
    )
