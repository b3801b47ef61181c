"""Every row of docs/background/faults.md names tests, and they exist."""

import ast
import re
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
PAGE = TESTS.parent / "docs" / "background" / "faults.md"
SECURITY = PAGE.with_name("security.md")


def rows(text: str) -> list[list[str]]:
    """The cells of all table rows, headings left out."""
    lines = [line for line in text.splitlines() if line.startswith("|") and not set(line) <= set("|- ")]
    cells = [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in lines]
    return [row for row in cells if row[0] not in ("fault", "what it could try")]


def named(cell: str) -> list[tuple[str, str]]:
    """File and function of each test in a cell; the file is that of the test before where none is written."""
    found, file = [], ""
    for name in re.findall(r"`([^`]+)`", cell):
        path, _, function = name.partition("::")
        file = path or file
        found.append((file, function))
    return found


def functions(path: Path) -> set[str]:
    """The names of the functions in a file."""
    return {node.name for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.FunctionDef)}


def missing(cell: str) -> list[str]:
    """The tests of a cell that do not exist."""
    gone = []
    for file, function in named(cell):
        path = TESTS / file
        known = (
            {node.name for node in ast.walk(ast.parse(path.read_text())) if hasattr(node, "name")}
            if path.is_file()
            else None
        )
        if known is None or (function and function not in known):
            gone.append(f"{file}::{function}")
    return gone


def test_the_page_has_its_rows() -> None:
    assert len(rows(PAGE.read_text())) > 40
    assert all(len(row) == 4 for row in rows(PAGE.read_text()))


@pytest.mark.parametrize("row", rows(PAGE.read_text()), ids=lambda row: row[0])
def test_a_fault_has_tests_that_exist(row: list[str]) -> None:
    assert named(row[3]) != []
    assert missing(row[3]) == []


@pytest.mark.parametrize("row", rows(PAGE.read_text()), ids=lambda row: row[0])
def test_what_the_optuna_backend_does_is_reproduced(row: list[str]) -> None:
    assert row[1] == "-" or any(Path(file).name.startswith("test_defects") for file, _ in named(row[3]))


@pytest.mark.parametrize("row", rows(SECURITY.read_text()), ids=lambda row: row[0])
def test_a_line_on_security_has_tests_that_exist(row: list[str]) -> None:
    assert len(row) == 3
    assert named(row[2]) != []
    assert missing(row[2]) == []


@pytest.mark.parametrize("cell", ["`backend/test_gone.py`", "`test_faults_page.py::test_gone`"])
def test_the_check_can_fail(cell: str) -> None:
    assert missing(cell) != []
