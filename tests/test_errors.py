"""Our exceptions: what code that knows nothing of us catches, and that no password is in any text."""

import pickle
from pathlib import Path

import pytest

from hf_rlsearch import ArgumentsError, HfRlSearchError, SearchFailed, StorageError, search
from hf_rlsearch.cli import main
from hf_rlsearch.errors import describe
from hf_rlsearch.optuna.storage import cannot_continue, open_storage, storage_errors
from hf_rlsearch.report import open_study

URL = "nosuchdb://me:secret@host/searches"
HIDDEN = "nosuchdb://me:***@host/searches"


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        (URL, HIDDEN),
        (f"'{URL}' cannot be opened: {URL}", f"'{HIDDEN}' cannot be opened: {HIDDEN}"),
        ("redis://:secret@host:6379", "redis://:***@host:6379"),
        ("postgresql://me:se@cr/et@host/db", "postgresql://me:***@host/db"),
        ("postgresql:/me:secret@host/db", "postgresql:/me:***@host/db"),  # as pathlib writes it
        (
            "postgresql://host/db?user=me&password=secret&sslmode=off",
            "postgresql://host/db?user=me&password=***&sslmode=off",
        ),
        ("postgresql://host:5432/db", "postgresql://host:5432/db"),
        ("mail me@host about sqlite:///a.db", "mail me@host about sqlite:///a.db"),
    ],
)
def test_passwords_are_hidden(given: str, shown: str) -> None:
    assert str(StorageError(given)) == shown


class Mute(Exception):
    def __str__(self) -> str:
        raise RuntimeError


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ValueError("boom"), "ValueError: boom"),
        (ValueError("boom\nand more"), "ValueError: boom"),
        (
            RuntimeError("\n\n  Some tensors share memory: ['a']\nmore"),
            "RuntimeError: Some tensors share memory: ['a']",
        ),
        (RuntimeError("=======\nthe job failed"), "RuntimeError: the job failed"),
        (ValueError("2 errors:\n  batch is 0\n  rate is 0"), "ValueError: 2 errors: batch is 0"),
        (ValueError("\n \n"), "ValueError"),
        (MemoryError(), "MemoryError"),
        (Mute(), "Mute"),
    ],
)
def test_the_first_line_that_says_something_describes_an_error(error: Exception, line: str) -> None:
    assert describe(error) == line


def test_an_error_without_text_is_described_by_its_place() -> None:
    n_rows = 0
    with pytest.raises(AssertionError) as caught:
        exec("assert n_rows", {"n_rows": n_rows})
    assert describe(caught.value) == "AssertionError in <module> (<string>, line 1)"
    with pytest.raises(KeyError) as of_code:
        raise KeyError
    assert describe(of_code.value).endswith("): raise KeyError")


def test_a_misspelt_database_is_named() -> None:
    with pytest.raises(StorageError, match=r"database 'sqllite', expected one of .* Did you mean 'sqlite'\?"):
        open_storage("sqllite:///search.db")


def test_an_exception_survives_a_pipe() -> None:
    error = pickle.loads(pickle.dumps(SearchFailed("rank 1 was lost")))
    assert isinstance(error, (HfRlSearchError, RuntimeError))
    assert str(error) == "rank 1 was lost"


@pytest.mark.parametrize("opening", [False, True])
def test_a_storage_that_breaks_hides_the_password(opening: bool) -> None:
    import sqlalchemy.exc

    with pytest.raises(StorageError) as told, storage_errors(URL, opening=opening):
        raise sqlalchemy.exc.ArgumentError(f"Could not parse {URL}")
    assert str(told.value).count(HIDDEN) == 2
    assert "secret" not in str(told.value) + str(cannot_continue(3, f"cannot connect to {URL}", URL))


@pytest.mark.parametrize("source", [URL, "nosuchdb:/me:secret@host/searches", f"sqlite:///{URL}"])
def test_a_report_hides_the_password(source: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(StorageError) as told:
        open_study(source)
    assert "secret" not in str(told.value)
    assert main(["explain", source]) != 0
    printed = "".join(capsys.readouterr())
    assert "host/searches" in printed
    assert "secret" not in printed


def test_a_url_in_the_wrong_place_hides_the_password() -> None:
    with pytest.raises(ArgumentsError, match=r"me:\*\*\*@host"):
        search(object(), storage=Path(URL))
