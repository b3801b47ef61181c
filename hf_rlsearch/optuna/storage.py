"""Opens Optuna storages and studies, for a search or for reading, and says in one line why one cannot be used."""

import functools
import json
import logging
import math
import sqlite3
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import optuna
from optuna.exceptions import StorageInternalError, UpdateFinishedTrialError
from optuna.storages import BaseStorage, JournalStorage, RDBStorage
from optuna.storages._cached_storage import _CachedStorage
from optuna.storages._heartbeat import BaseHeartbeat
from optuna.storages.journal import JournalFileBackend
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import DBAPIError, InterfaceError, NoSuchModuleError, OperationalError

from hf_rlsearch._validation import did_you_mean
from hf_rlsearch.errors import ArgumentsError, MissingExtraError, StorageError, describe

logger = logging.getLogger(__name__)

FILE = "hf_rlsearch.db"
"""Name of the storage in the ``output_dir`` of a search that is given no other."""

_SQLITE = "sqlite:///"
_SQLITE_HEAD = b"SQLite format 3\0"
_DIALECTS = ("sqlite", "postgresql", "mysql", "mariadb", "oracle", "mssql")
# Seconds that SQLite waits for another process that writes.
_TIMEOUT = 30
# Tries to make the tables of a new database, which another process may be making at the same time.
_ATTEMPTS = 5
# Seconds for which a database server that does not answer is asked again; between two attempts at first, and at most.
_RECONNECT, _FIRST_PAUSE, _LONGEST_PAUSE = 120.0, 0.5, 10.0


def open_sqlite(path: Path) -> BaseStorage:
    """Opens an Optuna storage in an SQLite file, which is created if it does not exist.

    Raises:
        StorageError: The file is no database, or a damaged one.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    return open_storage(_sqlite_url(path))


def open_storage(storage: str | BaseStorage) -> BaseStorage:
    """Opens the user's storage: an Optuna storage or the URL of a database, as ``optuna.create_study`` takes it.

    A URL may hold braces, which Optuna alone would take for the names of a template.
    """
    if not isinstance(storage, str):
        found = optuna.storages.get_storage(storage)
        return ReconnectingStorage(found._backend) if type(found) is _CachedStorage else found
    options = None
    if storage.startswith(_SQLITE):
        options = {"connect_args": {"timeout": _TIMEOUT}}
        if (path := _sqlite_path(storage)).is_file():
            _check_integrity(path)
    storage = storage.replace("{", "{{").replace("}", "}}").replace("{{SCHEMA_VERSION}}", "{SCHEMA_VERSION}")
    for attempt in range(1, _ATTEMPTS + 1):
        try:
            return ReconnectingStorage(RDBStorage(_with_driver(storage), engine_kwargs=options))
        except ImportError as error:
            raise _no_driver(storage, error) from error
        except NoSuchModuleError as error:
            dialect = storage.partition(":")[0].partition("+")[0]
            hint = did_you_mean(dialect, _DIALECTS)
            if dialect == "redis":
                hint = " Optuna reaches a Redis server by JournalStorage(JournalRedisBackend(url)): pass that object."
            raise StorageError(
                f"storage={storage!r} names a database {dialect!r}, expected one of {', '.join(_DIALECTS)}.{hint}"
            ) from error
        except Exception as error:
            made_meanwhile = "already exists" in str(error) or "unique constraint" in str(error).lower()
            if attempt == _ATTEMPTS or not (is_storage_error(error) and made_meanwhile):
                raise
            time.sleep(0.2 * attempt)
    raise AssertionError("the last attempt returns or raises")


class ServerLostError(StorageInternalError):
    """A database server has not answered for longer than it is waited for."""


class ReconnectingStorage(_CachedStorage):
    """Asks a database server again that does not answer, for two minutes; a server may restart meanwhile.

    A connection that breaks while a change is committed leaves open whether the change was made, so it is made again:
    values and attributes are the same the second time, and a trial that is found finished was finished by the first. A
    trial that was begun twice has no owner, and is queued again by the processes that share the study.

    Attributes:
        back_since: When the server answered again after it was lost, by ``time.monotonic()``.
    """

    back_since = -math.inf

    def remove_session(self) -> None:
        """Closes the connection of this thread."""
        with suppress(Exception):  # a broken connection cannot be closed well
            self._backend.remove_session()


def _asks_again(name: str) -> Callable[..., Any]:
    """A method of the storage that asks again while the server does not answer."""
    method = getattr(_CachedStorage, name)

    @functools.wraps(method)
    def call(self: ReconnectingStorage, *args: Any, **kwargs: Any) -> Any:
        begun, pause = None, _FIRST_PAUSE
        while True:
            try:
                answer = method(self, *args, **kwargs)
            except UpdateFinishedTrialError:
                if begun is None or name != "set_trial_state_values":
                    raise
                answer = True
            except Exception as error:
                if self._backend.engine.dialect.name == "sqlite" or not _is_unanswered(error):
                    raise
                begun = _wait_for_server(self, error, begun, pause)
                pause = min(2 * pause, _LONGEST_PAUSE)
                continue
            if begun is not None:
                self.back_since = time.monotonic()
                logger.warning("The database server answers again, after %.0f s.", time.monotonic() - begun)
            return answer

    return call


for _class in (BaseStorage, BaseHeartbeat):
    for _name in vars(_class):
        if callable(getattr(_class, _name)) and not _name.startswith("_") and _name != "remove_session":
            setattr(ReconnectingStorage, _name, _asks_again(_name))


def _wait_for_server(storage: ReconnectingStorage, error: Exception, begun: float | None, pause: float) -> float:
    """Waits before the next attempt, and returns when the first one was.

    Raises:
        ServerLostError: The server has not answered for too long.
    """
    url, reason = storage._backend.engine.url.render_as_string(), describe(_cause(error))
    if begun is None:
        logger.warning("The database server of %s does not answer (%s): asked for up to %g s.", url, reason, _RECONNECT)
    elif time.monotonic() - begun >= _RECONNECT:
        raise ServerLostError(
            f"The database server of {url} has not answered for {_RECONNECT:g} s ({reason}). What it has confirmed is "
            "kept. Start the same command again when the server runs."
        ) from error
    storage.remove_session()
    time.sleep(pause)
    return time.monotonic() if begun is None else begun


def _is_unanswered(error: BaseException | None) -> bool:
    """Whether a connection failed or broke; Optuna wraps such an error in one about invalid data."""
    while error is not None:
        is_lost = isinstance(error, DBAPIError) and error.connection_invalidated
        if is_lost or isinstance(error, (OperationalError, InterfaceError)):
            return True
        error = error.__cause__
    return False


def _with_driver(url: str) -> str:
    """The URL with the driver of PostgreSQL that is installed, where the URL names none."""
    old, new = find_spec("psycopg2"), find_spec("psycopg")
    is_open = url.startswith(("postgresql://", "postgres://"))
    return f"postgresql+psycopg://{url.partition('://')[2]}" if is_open and new and not old else url


def _no_driver(url: str, error: ImportError) -> MissingExtraError:
    reason = describe(_cause(error))
    if url.startswith("postgres"):
        return MissingExtraError(
            f"The storage {url} needs a driver for PostgreSQL ({reason}): pip install 'hf-rlsearch[postgres]'."
        )
    return MissingExtraError(
        f"The storage {url} needs a database driver that is not installed ({reason}). Install it, and name it in the "
        "URL if SQLAlchemy expects another one, such as mysql+pymysql://."
    )


def open_study(source: optuna.Study | BaseStorage | str | Path, *, study_name: str | None = None) -> optuna.Study:
    """Opens a study for reading; creates neither a file nor a study.

    Args:
        source: A study (returned as it is), the ``output_dir`` of a search, an Optuna storage, its URL such as
            ``sqlite:///search.db``, the path of an SQLite file, or the path of an Optuna journal.
        study_name: Which study of the storage; the newest one if left out.

    Raises:
        StorageError: There is no such folder, file or study.
    """
    if isinstance(source, optuna.Study):
        return source
    given = f"The {type(source).__name__}" if isinstance(source, BaseStorage) else repr(str(source))
    with storage_errors(given, opening=True):
        storage = source if isinstance(source, BaseStorage) else _open_existing(str(source))
        study = _open_by_name(storage, given, study_name)
        study.get_trials(deepcopy=False)  # what cannot be read is told now, and not in the middle of a report
        return study


def open_studies(source: str | Path) -> list[optuna.Study]:
    """Opens all studies of a storage for reading, see `open_study`.

    Raises:
        StorageError: There is no such folder or file, or no study in it.
    """
    given = repr(str(source))
    with storage_errors(given, opening=True):
        storage = _open_existing(str(source))
        names = optuna.get_all_study_names(storage)
        if not names:
            raise _no_study(given)
        return [optuna.load_study(study_name=name, storage=storage) for name in names]


def _open_by_name(storage: BaseStorage, given: str, study_name: str | None) -> optuna.Study:
    names = optuna.get_all_study_names(storage)  # in the order in which they were made
    if not names:
        raise _no_study(given)
    if study_name is not None and study_name not in names:
        listed = ", ".join(map(repr, names))
        raise StorageError(f"{given} has no study {study_name!r}; it has {listed}.{did_you_mean(study_name, names)}")
    return optuna.load_study(study_name=study_name or names[-1], storage=storage)


def _storage_in(folder: Path) -> Path:
    """The storage in the output folder of a search: the default one, else the only file there that is a storage."""
    if (folder / FILE).is_file():
        return folder / FILE
    found = [path for path in sorted(folder.iterdir()) if path.is_file() and _holds_studies(path)]
    if len(found) == 1:
        return found[0]
    if found:
        listed = ", ".join(path.name for path in found)
        raise StorageError(f"{str(folder)!r} holds several storages ({listed}): give one of these files.")
    below = sorted(str(path.parent) for path in folder.glob(f"*/{FILE}"))
    hint = f" Did you mean {' or '.join(map(repr, below[:3]))}?" if below else ""
    raise StorageError(
        f"There is no search in {str(folder)!r}: the folder has no {FILE} and no other Optuna storage. Give the "
        f"output_dir of a search.{hint}"
    )


def prepare_output(path: Path) -> None:
    """Makes the folder of a file that is going to be written; refuses a file that would take the place of a storage.

    Raises:
        ArgumentsError: The path is a folder, or a storage.
    """
    if path.is_dir():
        raise ArgumentsError(f"{str(path)!r} is a folder; expected a file such as {str(path / 'report.html')!r}.")
    if path.is_file() and (_is_sqlite(path) or _holds_studies(path)):
        raise ArgumentsError(f"{str(path)!r} is a storage, and is not written over: give another file to write.")
    path.parent.mkdir(parents=True, exist_ok=True)


def _is_sqlite(path: Path) -> bool:
    with path.open("rb") as file:
        return file.read(len(_SQLITE_HEAD)) == _SQLITE_HEAD


def _holds_studies(path: Path) -> bool:
    """Whether a file of any kind is an SQLite file with Optuna's tables, or an Optuna journal."""
    with suppress(StorageError, ValueError, TypeError):
        if _is_sqlite(path):
            _check_tables(path, repr(str(path)))
            return True
        with path.open("rb") as file:
            return "op_code" in dict(json.loads(file.readline(1 << 16)))
    return False


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
    except ServerLostError as error:
        raise StorageError(str(error)) from error
    except Exception as error:
        reason = describe(_cause(error))
        if _is_unreadable(error):
            raise StorageError(
                f"The storage {where} holds a value that cannot be read ({reason}): the storage is damaged, or another "
                "program wrote the value. Put a copy back, or use another storage."
            ) from error
        if is_storage_error(error) or (opening and isinstance(error, (OSError, RuntimeError))):
            raise StorageError(f"The storage {where} cannot be used: {reason}.{_advice(_cause(error))}") from error
        raise


def _advice(error: BaseException) -> str:
    """What to do about the error of a driver or of the system; a sentence after a space, or empty."""
    if isinstance(error, sqlite3.DatabaseError) and not isinstance(error, sqlite3.OperationalError):
        return " The file is damaged: put a copy back, or move the file away to start a new search."
    if isinstance(error, (sqlite3.Error, OSError)):
        return (
            " Finished trials are kept. Check that the folder can be written to and that no other program holds the "
            "file, or pass storage=."
        )
    is_server = type(error).__name__ in ("OperationalError", "InterfaceError")
    return " Check the URL with its user, password and database, and that the server runs." if is_server else ""


def _cause(error: BaseException) -> BaseException:
    """The error of the driver or of the system, which libraries wrap in more general ones."""
    while True:
        inner = getattr(error, "orig", None) or error.__cause__
        if inner is None:
            return error
        error = inner


def _is_unreadable(error: Exception) -> bool:
    """Whether a storage returned text that is not what Optuna writes: a broken JSON, an unknown distribution."""
    if not isinstance(error, (ValueError, KeyError, TypeError, RecursionError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    files = [Path(frame.filename).as_posix() for frame in frames]
    if files[-1:] and files[-1].endswith("json/decoder.py"):  # also thousands of digits, or of brackets
        return any("optuna/storages" in file for file in files)
    return any(frame.name.startswith(("_build_frozen", "json_to_distribution")) for frame in frames)


def is_storage_error(error: BaseException) -> bool:
    """True if an exception comes from the database or from Optuna's storage."""
    own = (sqlite3.Error, optuna.exceptions.StorageInternalError)
    return isinstance(error, own) or type(error).__module__.startswith("sqlalchemy")


def cannot_continue(number: int, reason: str, where: object) -> StorageError:
    """Makes the error that ends a search when a trial cannot write; the trial is resumed as after a kill."""
    _, is_lost, text = reason.partition(f"{ServerLostError.__name__}: ")
    if is_lost:
        return StorageError(f"Trial {number} cannot continue. {text}")
    return StorageError(
        f"Trial {number} cannot continue, because {where} or the storage cannot be written to: {reason}. Nothing is "
        "lost: make room or wait for the disk, then start the same command again, and it continues with this trial."
    )


def _open_existing(source: str) -> BaseStorage:
    """Opens a storage for reading: a file must exist, and must be a storage already."""
    if not source:
        raise StorageError(
            "An empty text names no storage. Give the output_dir of a search, its file, or a URL such as "
            f"{_SQLITE}search.db."
        )
    path = _sqlite_path(source) if source.startswith(_SQLITE) else Path(source)
    url = source
    if "://" not in source or source.startswith(_SQLITE):
        if path.is_dir():
            path = _storage_in(path)
        if not path.is_file():
            raise StorageError(
                f"There is no storage at {str(path)!r}. Give the output_dir of a search, its file, or a URL such as "
                f"{_SQLITE}search.db."
            )
        is_named = source.startswith(_SQLITE) or path.suffix in {".db", ".sqlite", ".sqlite3"}
        if not is_named and not _is_sqlite(path):
            try:
                return JournalStorage(JournalFileBackend(str(path)))
            except (ValueError, KeyError) as error:
                raise StorageError(f"{source!r} is neither an SQLite file nor an Optuna journal: {error}") from error
        _check_tables(path, repr(source))
        url = _sqlite_url(path)
    try:
        return open_storage(url)
    except (StorageError, MissingExtraError):
        raise
    except Exception as error:  # whatever the database driver raises
        cause = _cause(error)
        raise StorageError(
            f"{source!r} cannot be opened as an Optuna storage: {describe(cause)}.{_advice(cause)}"
        ) from error


def _sqlite_path(url: str) -> Path:
    """The file that a URL of SQLite names."""
    parts = make_url(url)
    database = parts.database or ""
    return Path(unquote(urlsplit(database).path) if "uri" in parts.query else database)


def _sqlite_url(path: Path) -> str:
    """The URL of an SQLite file in a folder of whatever name, which ``_sqlite_path`` turns back."""
    # As a URI of SQLite the path has no "?", "%" or "{" that SQLAlchemy or Optuna would read as part of the URL.
    url = URL.create("sqlite", database=path.resolve().as_uri(), query={"uri": "true"})
    return url.render_as_string()


def _check_integrity(path: Path) -> None:
    """Refuses a truncated or foreign file before a library describes the error in pages of SQL."""
    if path.stat().st_size and not _is_sqlite(path):
        raise StorageError(f"{path} is not an SQLite file. Move it away, or pass another storage=.")
    try:
        with closing(sqlite3.connect(path, timeout=_TIMEOUT)) as connection:
            answer = connection.execute("PRAGMA quick_check").fetchone()
            _check_columns(connection, path)
    except sqlite3.OperationalError:
        raise  # locked, or only readable
    except sqlite3.DatabaseError as error:
        answer = (str(error),)
    if answer != ("ok",):
        reason = answer[0].splitlines()[0] if answer else "no answer"
        raise StorageError(f"{path} is damaged ({reason}). Move it away to start a new search, or put a copy back.")


def _check_tables(path: Path, given: str) -> None:
    """Refuses a file without Optuna's tables: opening it as a storage would write them into it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone()
            _check_columns(connection, path)
    except sqlite3.OperationalError:  # locked, or only readable: opening the storage gives the better message
        return
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{given} cannot be opened as an Optuna storage: {error}.") from error
    if found is None:
        raise _no_study(given)


def _check_columns(connection: sqlite3.Connection, path: Path) -> None:
    """Refuses a database in which another program has tables of the names that Optuna uses."""
    for table, column in (("studies", "study_id"), ("trials", "trial_id")):
        columns = [row[1] for row in connection.execute(f"PRAGMA table_info({table})")]
        if columns and column not in columns:
            raise StorageError(
                f"{path} has a table {table!r} of another program, with the columns {', '.join(columns)[:200]}. "
                "Nothing was written to it: give another storage."
            )


def _no_study(given: str) -> StorageError:
    return StorageError(f"{given} holds no study: no search has started in it, or it is no Optuna storage.")
