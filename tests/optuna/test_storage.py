"""Opening storages and studies: what is refused, and that nothing is made where nothing was."""

import sqlite3
from contextlib import closing
from pathlib import Path

import optuna
import pytest
from optuna.storages.journal import JournalFileBackend

from hf_rlsearch.errors import StorageError
from hf_rlsearch.optuna.storage import open_sqlite, open_storage, open_study


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


def test_several_studies_must_be_named(database: Path) -> None:
    make_study(f"sqlite:///{database}", "second")
    with pytest.raises(StorageError, match="2 studies \\('first', 'second'\\): name one"):
        open_study(database)
    assert open_study(database, study_name="second").study_name == "second"
    with pytest.raises(StorageError, match="Did you mean 'second'"):
        open_study(database, study_name="secnd")


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
