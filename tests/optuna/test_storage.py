"""Opening storages and studies: what is refused, and that nothing is made where nothing was."""

import logging
import sqlite3
import threading
import time
from contextlib import closing
from importlib.util import find_spec
from pathlib import Path

import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import TrialState

from hf_rlsearch.errors import MissingExtraError, StorageError
from hf_rlsearch.optuna.storage import cannot_continue, open_sqlite, open_storage, open_study, storage_errors
from hf_rlsearch.trainer.session.failures import STORAGE, Failure
from tests.helpers import postgres


def make_study(storage: str | optuna.storages.BaseStorage, name: str) -> None:
    study = optuna.create_study(storage=storage, study_name=name)
    study.optimize(lambda trial: trial.suggest_float("x", 0, 1), n_trials=1)


@pytest.fixture
def database(tmp_path: Path) -> Path:
    path = tmp_path / "search.db"
    make_study(f"sqlite:///{path}", "first")
    return path


def test_study_path_and_url_open_the_same(database: Path) -> None:
    study = open_study(database)
    assert open_study(study) is study
    assert open_study(str(database)).study_name == open_study(f"sqlite:///{database}").study_name == "first"


def test_journal_files_open(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    make_study(optuna.storages.JournalStorage(JournalFileBackend(str(path))), "j")
    assert open_study(path).study_name == "j"


ODD_NAMES = [
    "my run 1",
    "größe_模型",
    "lr%20test%s",
    "exp#3",
    "what?x=1&y=2",
    'it\'s "x"',
    "[a]{b}$HOME*",
    "C:\\runs",
    "a@b:c",
]


@pytest.mark.parametrize("name", ODD_NAMES)
def test_a_folder_of_any_name_holds_its_database(tmp_path: Path, name: str) -> None:
    path = tmp_path / name / "search.db"
    storage = open_sqlite(path)
    make_study(storage, "first")
    assert [file.relative_to(tmp_path) for file in tmp_path.rglob("*.db")] == [path.relative_to(tmp_path)]
    assert storage._backend.engine.dialect.name == "sqlite"
    for source in (path, storage._backend.url):
        assert len(open_study(source).trials) == 1


def test_a_url_with_braces_is_no_template(tmp_path: Path) -> None:
    make_study(open_storage(f"sqlite:///{tmp_path}/{{b}} {{SCHEMA_VERSION}}.db"), "first")
    (path,) = tmp_path.iterdir()
    assert path.name.startswith("{b} ")
    assert path.name.removesuffix(".db").split(" ")[1].isdecimal()


def test_a_missing_file_is_not_made(tmp_path: Path) -> None:
    path = tmp_path / "no.db"
    with pytest.raises(StorageError, match=r"There is no storage at .*no\.db"):
        open_study(f"sqlite:///{path}")
    assert not path.exists()


def test_the_newest_study_is_opened_unless_one_is_named(database: Path) -> None:
    make_study(f"sqlite:///{database}", "a second")  # the newest, not the last of the alphabet
    for source in (database, f"sqlite:///{database}", optuna.storages.RDBStorage(f"sqlite:///{database}")):
        assert open_study(source).study_name == "a second"
        assert open_study(source, study_name="first").study_name == "first"
        with pytest.raises(
            StorageError, match=r"no study 'secnd'; it has 'first', 'a second'. Did you mean 'a second'\?"
        ):
            open_study(source, study_name="secnd")


def journal(path: Path) -> JournalStorage:
    return JournalStorage(JournalFileBackend(str(path)))


@pytest.mark.parametrize("name", ["hf_rlsearch.db", "mine.db", "journal.log", "searches"])
def test_a_folder_is_opened_by_the_storage_in_it(tmp_path: Path, name: str) -> None:
    """By the default one beside any other, else by the only one: other files, and databases of others, do not count."""
    make_study(open_sqlite(tmp_path / name) if name.endswith("db") else journal(tmp_path / name), "first")
    (tmp_path / "trainer.log").write_text('{"step": 1}\n[1]\n')
    (tmp_path / "notes").write_bytes(b"\xff\xfe")
    (tmp_path / "count").write_text("1\n")
    with closing(sqlite3.connect(tmp_path / "mlflow.db")) as connection:
        connection.execute("CREATE TABLE runs (id)")
        connection.commit()
    for source in (tmp_path, str(tmp_path)):
        assert len(open_study(source).trials) == 1
    make_study(journal(tmp_path / "other.log"), "second")
    if name == "hf_rlsearch.db":
        assert open_study(tmp_path).study_name == "first"
    else:
        with pytest.raises(StorageError, match=rf"several storages \(.*{name}.*\): give one of these files"):
            open_study(tmp_path)


def test_a_folder_without_a_search_says_where_one_is(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match=r"There is no search in .*has no hf_rlsearch\.db .* Give the output_dir"):
        open_study(tmp_path)
    make_study(open_sqlite(tmp_path / "bert" / "hf_rlsearch.db"), "first")
    with pytest.raises(StorageError, match=r"Did you mean '.*/bert'\?"):
        open_study(tmp_path)
    open_sqlite(tmp_path / "hf_rlsearch.db")
    with pytest.raises(StorageError, match="holds no study"):
        open_study(tmp_path)


def test_a_foreign_file_is_no_storage(tmp_path: Path) -> None:
    path = tmp_path / "notes.db"
    path.write_text("hello " * 400)
    with pytest.raises(StorageError, match="cannot be opened as an Optuna storage"):
        open_study(path)
    other = tmp_path / "notes.txt"
    other.write_text("hello\n")
    with pytest.raises(StorageError, match="holds no study"):
        open_study(other)


@pytest.mark.parametrize("text", ["CREATE TABLE accounts (id)", ""])
def test_a_database_of_another_program_stays_as_it_is(tmp_path: Path, text: str) -> None:
    path = tmp_path / "accounts.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(text)
        connection.commit()
    path.touch()
    before = path.read_bytes()
    with pytest.raises(StorageError, match="holds no study"):
        open_study(path)
    assert path.read_bytes() == before


# ----------------------------------------------------------------------------------------------------------- what broke
@pytest.mark.parametrize("table", ["trials", "studies"])
def test_a_table_of_another_program_is_named(tmp_path: Path, table: str) -> None:
    path = tmp_path / "clinic.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(f"CREATE TABLE {table} (patient TEXT, dose REAL)")
        connection.commit()
    before = path.read_bytes()
    text = f"clinic.db has a table '{table}' of another program, with the columns patient, dose"
    for opening in (lambda: open_sqlite(path), lambda: open_storage(f"sqlite:///{path}"), lambda: open_study(path)):
        with pytest.raises(StorageError, match=text) as told:
            opening()
        assert "\n" not in str(told.value)
    assert path.read_bytes() == before


def execute(path: Path, command: str) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute(command)
        connection.commit()


@pytest.mark.parametrize(
    "command",
    [
        "UPDATE trial_user_attributes SET value_json = '{broken'",
        "UPDATE study_user_attributes SET value_json = '{broken'",
        f"UPDATE study_user_attributes SET value_json = '{'9' * 5000}'",
        f"UPDATE trial_user_attributes SET value_json = '{'9' * 5000}'",
        f"UPDATE study_user_attributes SET value_json = '{'[' * 100_000}'",
        'UPDATE trial_params SET distribution_json = \'{"name": "Uniform", "attributes": {}}\'',
        "UPDATE trial_params SET distribution_json = 'broken'",
    ],
    ids=lambda command: command[7:60],
)
def test_a_value_that_cannot_be_read_ends_in_one_line(database: Path, command: str) -> None:
    study = open_study(database)
    study.set_user_attr("mine", 1)
    study._storage.set_trial_user_attr(study.ask()._trial_id, "mine", 1)
    execute(database, command)
    text = "holds a value that cannot be read .*: the storage is damaged, or another program wrote the value"
    with pytest.raises(StorageError, match=text) as told:
        open_study(database)
    assert "\n" not in str(told.value)


def test_a_journal_with_a_broken_line_ends_in_one_line(tmp_path: Path) -> None:
    path = tmp_path / "journal.log"
    make_study(optuna.storages.JournalStorage(JournalFileBackend(str(path))), "j")
    lines = path.read_text().splitlines()
    path.write_text("\n".join([*lines[:2], "{broken", *lines[2:], ""]))
    with pytest.raises(StorageError, match="journal"):
        open_study(path)


def test_an_error_of_the_users_own_json_stays_what_it_is() -> None:
    import json

    with pytest.raises(json.JSONDecodeError), storage_errors("here"):
        json.loads("{broken")


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_truncated_database_is_damaged_and_nothing_else_is_said(database: Path, share: float) -> None:
    whole = database.read_bytes()
    database.write_bytes(whole[: int(len(whole) * share)])
    for opening in (lambda: open_sqlite(database), lambda: open_storage(f"sqlite:///{database}")):
        with pytest.raises(StorageError, match=r"is damaged .*put a copy back") as told:
            opening()
        assert "kept" not in str(told.value)
        assert "\n" not in str(told.value)


def test_a_redis_server_needs_a_journal() -> None:
    with pytest.raises(StorageError, match=r"expected one of sqlite, .*, mssql\. .*JournalRedisBackend\(url\)"):
        open_storage("redis://localhost:6379")


def test_an_empty_text_is_not_the_current_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_study(open_sqlite(tmp_path / "hf_rlsearch.db"), "first")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(StorageError, match="An empty text names no storage"):
        open_study("")


def test_a_misspelt_database_is_named() -> None:
    with pytest.raises(StorageError, match=r"names a database 'postgresq', expected .*Did you mean 'postgresql'\?"):
        open_storage("postgresq://me@host/db")


@pytest.mark.parametrize(
    ("url", "module", "text"),
    [
        ("postgresql+psycopg2://host/db", "psycopg2", r"pip install 'hf-rlsearch\[postgres\]'"),
        ("mysql://me:secret@host/db", "MySQLdb", r"name it in the URL .* such as mysql\+pymysql://"),
    ],
)
def test_a_missing_driver_is_named(url: str, module: str, text: str) -> None:
    if find_spec(module):
        pytest.skip(f"{module} is installed")
    for opening in (open_storage, open_study):
        with pytest.raises(MissingExtraError, match=f"needs a .*{module}.*{text}") as told, storage_errors(url):
            opening(url)
        assert "secret" not in str(told.value)


# ---------------------------------------------------------------------------------------------- a server that goes away
def test_a_server_that_goes_away_for_a_while_is_waited_for(
    server: postgres.Server, server_storage: optuna.storages.BaseStorage, caplog: pytest.LogCaptureFixture
) -> None:
    study = optuna.create_study(storage=server_storage, study_name="restart")
    trial = study.ask()
    trial.suggest_float("x", 0, 1)
    server.stop()
    restart = threading.Thread(target=lambda: (time.sleep(3), server.start()))
    restart.start()
    with caplog.at_level(logging.WARNING, logger="hf_rlsearch"):
        trial.report(0.5, 1)
        trial.set_user_attr("mine", 1)
        study.tell(trial, 0.5)
    restart.join()
    again = open_study(server.url, study_name="restart")
    (end,) = again.trials
    again._storage._backend.engine.dispose()
    assert (end.state, end.value, end.user_attrs, end.intermediate_values) == (
        TrialState.COMPLETE,
        0.5,
        {"mine": 1},
        {1: 0.5},
    )
    assert server_storage.back_since > time.monotonic() - 60  # type: ignore[attr-defined]
    assert caplog.text.count("does not answer") == caplog.text.count("answers again, after") == 1
    assert "secret" not in caplog.text


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (("/postgres", "/no_such_database"), 'database "no_such_database" does not exist'),
        (("me:secret", "nobody:secret"), 'role "nobody" does not exist'),
        (("127.0.0.1", "no-such-host.invalid"), "no-such-host.invalid"),
        (("127.0.0.1:{port}", "127.0.0.1:1"), "refused"),
    ],
)
def test_a_server_that_refuses_is_one_line_without_the_password(
    server: postgres.Server, wrong: tuple[str, str], reason: str
) -> None:
    old, new = (part.format(port=server.port) for part in wrong)
    url = server.url.replace(old, new)
    for opening in (open_storage, open_study):
        with pytest.raises(StorageError, match=reason) as told, storage_errors(url, opening=True):
            opening(url)
        text = str(told.value)
        assert "\n" not in text
        assert "secret" not in text
        assert "Check the URL with its user, password and database, and that the server runs." in text


def test_a_server_that_stays_away_ends_in_one_true_line(
    server: postgres.Server, server_storage: optuna.storages.BaseStorage, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("hf_rlsearch.optuna.storage._RECONNECT", 1.0)
    study = optuna.create_study(storage=server_storage, study_name="gone")
    trial = study.ask()
    server.stop()
    text = r"The database server of postgresql\S* has not answered for 1 s .*What it has confirmed is kept\. Start the"
    with pytest.raises(StorageError, match=text) as told, storage_errors(server.url):
        study.tell(trial, 0.5)
    assert "\n" not in str(told.value)
    assert "commit" not in str(told.value)
    failure = Failure.from_error(told.value.__cause__)
    assert failure.kind == STORAGE
    assert str(cannot_continue(3, failure.reason, "runs/run-3")).startswith("Trial 3 cannot continue. The database")
    with (
        pytest.raises(StorageError, match=r"cannot be used: .*Check the URL with its user"),
        storage_errors("x", opening=True),
    ):
        open_storage(server.url)  # at the start nothing is waited for
    server.start()
