"""Opens the storage of a search: the default SQLite file, looked at before a library opens it, or the user's own."""

import sqlite3
import time
from pathlib import Path
from typing import Any

import optuna

from hf_rlsearch.backend.storage_errors import is_storage_error
from hf_rlsearch.errors import StorageError

# Seconds that SQLite waits for another process that writes.
_PATIENCE = 30
# How often the tables of a new database are tried for, which another process may be making at the same time.
_ATTEMPTS = 5


def open_sqlite(path: Path) -> Any:
    """An Optuna storage in a file, made if it is not there.

    Raises:
        StorageError: The file is no database, or a damaged one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check(path)
    return _open_url(f"sqlite:///{path.resolve()}")


def open_storage(storage: Any) -> Any:
    """The user's storage: an Optuna storage, or the URL of a database.

    Args:
        storage: As ``optuna.create_study`` takes it.
    """
    is_url = isinstance(storage, str) and not storage.startswith("redis")
    return _open_url(storage) if is_url else optuna.storages.get_storage(storage)


def _open_url(url: str) -> Any:
    """As ``optuna.storages.get_storage``, with patience for other processes that use the same database."""
    given = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return optuna.storages.get_storage(optuna.storages.RDBStorage(url, engine_kwargs=given))
        except Exception as error:
            made_meanwhile = "already exists" in str(error) or "unique constraint" in str(error).lower()
            if not (is_storage_error(error) and made_meanwhile) or attempt == _ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")


def _check(path: Path) -> None:
    """A truncated or foreign file is told here, before a library dresses the error in pages of SQL."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise StorageError(f"{path} is not an SQLite file. Move it away, or pass another storage=.")
    connection = sqlite3.connect(path, timeout=_PATIENCE)
    try:
        answer = connection.execute("PRAGMA quick_check").fetchone()
    finally:
        connection.close()
    if answer != ("ok",):
        raise StorageError(
            f"{path} is damaged ({answer[0] if answer else 'no answer'}). Move it away to begin a new search, or "
            f"put a copy back."
        )
