"""From what a user has at hand, a study object, a storage URL or a file, to an Optuna study."""

from __future__ import annotations

import difflib
import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
from optuna.storages.journal import JournalFileBackend

from hf_rlsearch.errors import StorageError

_SQLITE = "sqlite:///"


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
    storage = _open_storage(str(source))
    return optuna.load_study(study_name=_pick(storage, study_name, str(source)), storage=storage)


def _open_storage(source: str) -> optuna.storages.BaseStorage:
    if "://" in source and not source.startswith(_SQLITE):
        return _load(source, source)
    path = Path(source.removeprefix(_SQLITE))
    if not path.is_file():
        raise StorageError(
            f"There is no storage at {str(path)!r}. Give the file of a search, or a URL such as {_SQLITE}search.db."
        )
    if source.startswith(_SQLITE) or path.suffix in {".db", ".sqlite", ".sqlite3"}:
        _check_sqlite(path, source)
        return _load(f"{_SQLITE}{path}", source)
    backend = JournalFileBackend(str(path))
    try:
        return optuna.storages.JournalStorage(backend)
    except (ValueError, KeyError) as error:
        raise StorageError(f"{source!r} is neither an SQLite file nor an Optuna journal: {error}") from error


def _check_sqlite(path: Path, source: str) -> None:
    """Refuses a file without Optuna's tables: opening it as a storage would write them into it."""
    try:
        with closing(sqlite3.connect(f"{path.resolve().as_uri()}?mode=ro", uri=True)) as connection:
            found = connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'studies'").fetchone()
    except sqlite3.OperationalError:  # locked, or only readable: the storage tells it better
        return
    except sqlite3.DatabaseError as error:
        raise StorageError(f"{source!r} cannot be opened as an Optuna storage: {error}.") from error
    if found is None:
        raise StorageError(_no_study(source))


def _no_study(source: str) -> str:
    return f"{source!r} holds no study: no search has begun in it, or it is no Optuna storage."


def _load(url: str, source: str) -> optuna.storages.BaseStorage:
    try:
        return optuna.storages.get_storage(url)
    except Exception as error:  # whatever the database driver raises; it is told on, with its cause
        raise StorageError(f"{source!r} cannot be opened as an Optuna storage: {error}") from error


def _pick(storage: optuna.storages.BaseStorage, study_name: str | None, source: str) -> str:
    names = sorted(summary.study_name for summary in optuna.get_all_study_summaries(storage))
    if study_name is None and len(names) == 1:
        return names[0]
    if not names:
        raise StorageError(_no_study(source))
    listed = ", ".join(map(repr, names))
    if study_name is None:
        raise StorageError(f"{source!r} holds {len(names)} studies ({listed}): name one, study_name=... or --study.")
    if study_name not in names:
        near = difflib.get_close_matches(study_name, names, n=1)
        hint = f" Did you mean {near[0]!r}?" if near else ""
        raise StorageError(f"{source!r} has no study {study_name!r}; it has {listed}.{hint}")
    return study_name
