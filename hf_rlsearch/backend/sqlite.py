"""The default storage: an SQLite file, looked at before a library opens it."""

import sqlite3
from pathlib import Path
from typing import Any

import optuna

from hf_rlsearch.errors import StorageError

# Seconds that SQLite waits for another process that writes.
_PATIENCE = 30


def open_sqlite(path: Path) -> Any:
    """An Optuna storage in a file, made if it is not there.

    Raises:
        StorageError: The file is no database, or a damaged one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check(path)
    url = f"sqlite:///{path.resolve()}"
    return optuna.storages.get_storage(
        optuna.storages.RDBStorage(url, engine_kwargs={"connect_args": {"timeout": _PATIENCE}})
    )


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
