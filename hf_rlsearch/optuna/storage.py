"""Opens Optuna storages and studies, for a search or for reading, and says in one line why one cannot be used."""

import sqlite3
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from urllib.parse import unquote, urlsplit

import optuna
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import StorageError, describe

_SQLITE = "sqlite:///"
# Seconds that SQLite waits for another process that writes.
_TIMEOUT = 30
# Tries to make the tables of a new database, which another process may be making at the same time.
_ATTEMPTS = 5


def open_sqlite(path: Path) -> BaseStorage:
    """Opens an Optuna storage in an SQLite file, which is created if it does not exist.

    Raises:
        StorageError: The file is no database, or a damaged one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.exists():
        _check_integrity(path)
    return open_storage(_sqlite_url(path))


def open_storage(storage: str | BaseStorage) -> BaseStorage:
    """Opens the user's storage: an Optuna storage or the URL of a database, as ``optuna.create_study`` takes it.

    A URL may hold braces, which Optuna alone would take for the names of a template.
    """
    if not isinstance(storage, str) or storage.startswith("redis"):
        return optuna.storages.get_storage(storage)
    storage = storage.replace("{", "{{").replace("}", "}}").replace("{{SCHEMA_VERSION}}", "{SCHEMA_VERSION}")
    options = {"connect_args": {"timeout": _TIMEOUT}} if storage.startswith("sqlite") else None
    for attempt in range(1, _ATTEMPTS):
        try:
            return optuna.storages.get_storage(RDBStorage(storage, engine_kwargs=options))
        except Exception as error:
            made_meanwhile = "already exists" in str(error) or "unique constraint" in str(error).lower()
            if not (is_storage_error(error) and made_meanwhile):
                raise
            time.sleep(0.2 * attempt)
    return optuna.storages.get_storage(RDBStorage(storage, engine_kwargs=options))


def open_study(source: optuna.Study | str | Path, *, study_name: str | None = None) -> optuna.Study:
    """Opens a study for reading; creates neither a file nor a study.

    Args:
        source: A study (returned as it is), a storage URL such as ``sqlite:///search.db``, the path of an SQLite file
            (``.db``, ``.sqlite``, ``.sqlite3``), or the path of an Optuna journal file (any other name).
        study_name: Which study of the storage; may be left out when there is one.

    Raises:
        StorageError: There is no such file or study, or the storage has several studies and none was named.
    """
    if isinstance(source, optuna.Study):
        return source
    storage = _open_existing(str(source))
    names = sorted(summary.study_name for summary in optuna.get_all_study_summaries(storage))
    listed = ", ".join(map(repr, names))
    if not names:
        raise _no_study(str(source))
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
def storage_errors(where: object, *, opening: bool = False) -> Iterator[None]:
    """Turns the error of a storage that stops working into one line, which names the storage as ``where``.

    While ``opening``, also errors of a storage of an unknown kind, or in a place that is not writable.

    Raises:
        StorageError: From the error.
    """
    try:
        yield
    except (StorageError, optuna.exceptions.DuplicatedStudyError):
        raise
    except Exception as error:
        if is_storage_error(error) or (opening and isinstance(error, (OSError, RuntimeError))):
            raise StorageError(
                f"The storage {where} cannot be used: {describe(error)}. Finished "
                "trials are kept. Check that the folder can be written to and that no other program holds the file, or "
                "pass storage=."
            ) from error
        raise


def is_storage_error(error: BaseException) -> bool:
    """True if an exception comes from the database or from Optuna's storage."""
    own = (sqlite3.Error, optuna.exceptions.StorageInternalError)
    return isinstance(error, own) or type(error).__module__.startswith("sqlalchemy")


def cannot_continue(number: int, reason: str, where: object) -> StorageError:
    """Makes the error that ends a search when a trial cannot write; the trial is resumed as after a kill."""
    return StorageError(
        f"Trial {number} cannot continue, because {where} or the storage cannot be written to: {reason}. Nothing is "
        "lost: make room or wait for the disk, then start the same command again, and it continues with this trial."
    )


def _open_existing(source: str) -> BaseStorage:
    """Opens a storage for reading: a file must exist, and must be a storage already."""
    path = _sqlite_path(source) if source.startswith(_SQLITE) else Path(source)
    url = source
    if "://" not in source or source.startswith(_SQLITE):
        if not path.is_file():
            raise StorageError(
                f"There is no storage at {str(path)!r}. Give the file of a search, or a URL such as {_SQLITE}search.db."
            )
        if not source.startswith(_SQLITE) and path.suffix not in {".db", ".sqlite", ".sqlite3"}:
            try:
                return JournalStorage(JournalFileBackend(str(path)))
            except (ValueError, KeyError) as error:
                raise StorageError(f"{source!r} is neither an SQLite file nor an Optuna journal: {error}") from error
        _check_tables(path, source)
        url = _sqlite_url(path)
    try:
        return open_storage(url)
    except Exception as error:  # whatever the database driver raises
        raise StorageError(f"{source!r} cannot be opened as an Optuna storage: {error}") from error


def _sqlite_url(path: Path) -> str:
    """The URL of an SQLite file in a folder of whatever name, which ``_sqlite_path`` turns back."""
    # As a URI of SQLite the path has no "?", "%" or "{" that SQLAlchemy or Optuna would read as part of the URL.
    url = URL.create("sqlite", database=path.resolve().as_uri(), query={"uri": "true"})
    return url.render_as_string()


def _sqlite_path(url: str) -> Path:
    """The file that a URL of SQLite names."""
    parts = make_url(url)
    database = parts.database or ""
    return Path(unquote(urlsplit(database).path) if "uri" in parts.query else database)


def _check_integrity(path: Path) -> None:
    """Refuses a truncated or foreign file before a library describes the error in pages of SQL."""
    with path.open("rb") as file:
        head = file.read(16)
    if head and head != b"SQLite format 3\0":
        raise StorageError(f"{path} is not an SQLite file. Move it away, or pass another storage=.")
    with closing(sqlite3.connect(path, timeout=_TIMEOUT)) as connection:
        answer = connection.execute("PRAGMA quick_check").fetchone()
    if answer != ("ok",):
        reason = answer[0] if answer else "no answer"
        raise StorageError(f"{path} is damaged ({reason}). Move it away to start a new search, or put a copy back.")


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
        raise _no_study(source)


def _no_study(source: str) -> StorageError:
    return StorageError(f"{source!r} holds no study: no search has started in it, or it is no Optuna storage.")
