"""Opens Optuna storages and studies, for a search or for reading, and says in one line why one cannot be used."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import StorageError

_SQLITE = "sqlite:///"
# Seconds that SQLite waits for another process that writes.
_PATIENCE = 30
# How often the tables of a new database are tried for, which another process may be making at the same time.
_ATTEMPTS = 5


def open_sqlite(path: Path) -> BaseStorage:
    """Opens an Optuna storage in an SQLite file, which is made if it is not there.

    Raises:
        StorageError: The file is no database, or a damaged one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_integrity(path)
    return _open_url(f"{_SQLITE}{path.resolve()}")


def open_storage(storage: str | BaseStorage) -> BaseStorage:
    """Opens the user's storage: an Optuna storage, or the URL of a database.

    Args:
        storage: As ``optuna.create_study`` takes it.
    """
    is_url = isinstance(storage, str) and not storage.startswith("redis")
    return _open_url(str(storage)) if is_url else optuna.storages.get_storage(storage)


def open_study(source: optuna.Study | str | Path, *, study_name: str | None = None) -> optuna.Study:
    """Opens a study for reading; nothing is created where nothing was.

    Args:
        source: A study (returned as it is), a storage URL such as ``sqlite:///search.db``, the path of an SQLite file
            (``.db``, ``.sqlite``, ``.sqlite3``), or the path of an Optuna journal file (any other name).
        study_name: Which study of the storage; may be left out when there is one.

    Returns:
        The study.

    Raises:
        StorageError: There is no such file or study, or the storage has several studies and none was named.
    """
    if isinstance(source, optuna.Study):
        return source
    storage = _open_existing(str(source))
    names = sorted(summary.study_name for summary in optuna.get_all_study_summaries(storage))
    listed = ", ".join(map(repr, names))
    if not names:
        raise StorageError(_no_study(str(source)))
    if study_name is None and len(names) > 1:
        raise StorageError(
            f"{str(source)!r} holds {len(names)} studies ({listed}): name one, study_name=... or --study."
        )
    if study_name is not None and study_name not in names:
        raise StorageError(
            f"{str(source)!r} has no study {study_name!r}; it has {listed}.{did_you_mean(study_name, names)}"
        )
    return optuna.load_study(study_name=study_name or names[0], storage=storage)


@contextmanager
def storage_errors(where: Any) -> Iterator[None]:
    """Turns the error of a storage that stops working during a search into one line.

    Args:
        where: The storage, as the message names it.

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
    """Does what ``storage_errors`` does, also for a storage of an unknown kind or in a place that is not writable.

    Args:
        where: The storage, as the message names it.

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


def cannot_continue(number: int, reason: str, where: Any) -> StorageError:
    """Makes the error that ends a search when a trial cannot write; the trial is as if its process had been killed.

    Args:
        number: Of the trial.
        reason: What was raised.
        where: The folder.
    """
    return StorageError(
        f"Trial {number} cannot continue, because {where} or the storage cannot be written to: {reason}. Nothing is "
        "lost: make room or wait for the disk, then start the same command again, and it continues with this trial."
    )


def _cannot_be_used(where: Any, error: Exception) -> StorageError:
    return StorageError(
        f"The storage {where} cannot be used: {type(error).__name__}: {str(error).splitlines()[0]}. Finished trials "
        "are kept. Check that the folder can be written to and that no other program holds the file, or pass storage=."
    )


def _no_study(source: str) -> str:
    return f"{source!r} holds no study: no search has begun in it, or it is no Optuna storage."


def _open_url(url: str) -> BaseStorage:
    """Opens a database as Optuna does, with patience for other processes that use it."""
    options = {"connect_args": {"timeout": _PATIENCE}} if url.startswith("sqlite") else None
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return optuna.storages.get_storage(RDBStorage(url, engine_kwargs=options))
        except Exception as error:
            made_meanwhile = "already exists" in str(error) or "unique constraint" in str(error).lower()
            if not (is_storage_error(error) and made_meanwhile) or attempt == _ATTEMPTS:
                raise
            time.sleep(0.2 * attempt)
    raise AssertionError("unreachable")


def _open_existing(source: str) -> BaseStorage:
    """Opens a storage for reading: a file must be there, and must be a storage already."""
    if "://" in source and not source.startswith(_SQLITE):
        return _open_for_reading(source, source)
    path = Path(source.removeprefix(_SQLITE))
    if not path.is_file():
        raise StorageError(
            f"There is no storage at {str(path)!r}. Give the file of a search, or a URL such as {_SQLITE}search.db."
        )
    if source.startswith(_SQLITE) or path.suffix in {".db", ".sqlite", ".sqlite3"}:
        _check_tables(path, source)
        return _open_for_reading(f"{_SQLITE}{path}", source)
    backend = JournalFileBackend(str(path))
    try:
        return JournalStorage(backend)
    except (ValueError, KeyError) as error:
        raise StorageError(f"{source!r} is neither an SQLite file nor an Optuna journal: {error}") from error


def _open_for_reading(url: str, source: str) -> BaseStorage:
    try:
        return open_storage(url)
    except Exception as error:  # whatever the database driver raises, with its cause
        raise StorageError(f"{source!r} cannot be opened as an Optuna storage: {error}") from error


def _check_integrity(path: Path) -> None:
    """Refuses a truncated or foreign file before a library describes the error in pages of SQL."""
    with open(path, "rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise StorageError(f"{path} is not an SQLite file. Move it away, or pass another storage=.")
    with closing(sqlite3.connect(path, timeout=_PATIENCE)) as connection:
        answer = connection.execute("PRAGMA quick_check").fetchone()
    if answer != ("ok",):
        reason = answer[0] if answer else "no answer"
        raise StorageError(f"{path} is damaged ({reason}). Move it away to begin a new search, or put a copy back.")


def _check_tables(path: Path, source: str) -> None:
    """Refuses a file without Optuna's tables: opening it as a storage would write them into it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone()
    except sqlite3.OperationalError:  # locked, or only readable: opening the storage gives the better message
        return
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{source!r} cannot be opened as an Optuna storage: {error}.") from error
    if found is None:
        raise StorageError(_no_study(source))
