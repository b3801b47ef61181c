"""Docstrings and messages fill their lines: none ends long before column 120 where the next words would have fitted."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
WIDTH = 120
# So many columns may stay empty before a break, because people break lines where a thought ends.
MARGIN = 40
# A piece of a message with fewer characters must not stand alone on a line.
FRAGMENT = 25

_HEADING = re.compile(r"^[A-Z]\w*:$")
_ENTRY = re.compile(r"^[*\w`'\"., /\[\]()]{1,60}: ")
_LIST_OR_TABLE = re.compile(r"^([-*+|=>#]|\d+[.)]\s)|\S {2,}\S")
_PIECE = re.compile(r"""^\s*(?P<prefix>[fF]?)(?P<quote>["'])(?P<text>.*)(?P=quote)[,)\]}]*(\s+from \w+)?$""")
_WORD = re.compile(r"^ ?((?:\{[^{}]*\}|[^\s{])+)")


def docstrings(tree: ast.AST) -> Iterator[ast.Expr]:
    """All statements of a module that are nothing but text."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            yield node


def broken_paragraphs(source: str) -> Iterator[int]:
    """Lines of docstrings after which the next words would have fitted by a wide margin, counted from 1."""
    lines = source.splitlines()
    for node in docstrings(ast.parse(source)):
        code_indent = None
        for number in range(node.lineno, node.end_lineno or node.lineno):
            line, following = lines[number - 1].rstrip(), lines[number].rstrip()
            text, indent = line.strip().strip('"'), len(line) - len(line.lstrip())
            if code_indent is not None and text and indent <= code_indent:
                code_indent = None
            if text.endswith("::"):
                code_indent = indent
            if code_indent is None and has_room(line, following):
                yield number


def has_room(line: str, following: str) -> bool:
    """Whether the next words of the same paragraph would have fitted into a line by a wide margin."""
    text, then = line.strip().strip('"'), following.strip().strip('"')
    if not text or not then or text.endswith(":"):
        return False
    if _HEADING.match(text) or _LIST_OR_TABLE.search(then) or _ENTRY.match(then):
        return False
    is_item = text.startswith(("- ", "* "))
    if _LIST_OR_TABLE.search(text) and not is_item:
        return False
    # An entry continues further in; deeper lines are anything else, such as code.
    deeper = (len(following) - len(following.lstrip())) - (len(line) - len(line.lstrip()))
    if deeper and not (_ENTRY.match(text) and deeper == 4) and not (text.startswith("- ") and deeper == 2):
        return False
    return len(line) + 1 + len(then.split()[0]) <= WIDTH - MARGIN


def broken_messages(source: str) -> Iterator[int]:
    """Lines of messages in several pieces that hold a fragment, or end although the next words would have fitted."""
    lines = source.splitlines()
    tree = ast.parse(source)
    inside = {id(value) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for value in node.values}
    for node in ast.walk(tree):
        is_text = isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str))
        if not is_text or id(node) in inside or (node.end_lineno or 0) <= node.lineno:  # type: ignore[attr-defined]
            continue
        rows = range(node.lineno, node.end_lineno + 1)  # type: ignore[attr-defined]
        pieces = {number: _PIECE.match(lines[number - 1]) for number in rows}
        for number in rows[:-1]:
            piece, following = pieces[number], pieces[number + 1]
            if piece is None or following is None or piece["text"].endswith("\\n"):
                continue
            word, length = _WORD.match(following["text"]), len(lines[number - 1])
            filled = length + len(word.group() if word else "")
            is_last = number + 1 == rows[-1]
            if is_last and len(following["text"]) < FRAGMENT and length + len(following["text"]) <= WIDTH - 4:
                yield number + 1
            elif filled <= WIDTH - MARGIN or (filled <= WIDTH and len(piece["text"]) < FRAGMENT):
                yield number


MODULES = sorted((ROOT / "hf_rlsearch").rglob("*.py"))


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT / "hf_rlsearch")))
def test_lines_are_filled(path: Path) -> None:
    name = path.relative_to(ROOT / "hf_rlsearch").as_posix()
    source = path.read_text()
    broken = sorted({*broken_paragraphs(source), *broken_messages(source)})
    assert broken == [], f"{name}: fill up lines {broken} to column {WIDTH}"


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ('"""One\n\nThis line ends\nhere, although it need not.\n"""', [3]),
        ('"""One\n\n' + "x" * 100 + '\nyes, this is a new line.\n"""', []),
        ('"""One\n\nArgs:\n    a: b.\n    c: d,\n        e.\n"""', [5]),
        ('"""One\n\n- a\n- b\n\n1  2\n3  4\n\nSo::\n\n    a\n    b\n"""', []),
    ],
)
def test_broken_paragraphs_are_found(source: str, expected: list[int]) -> None:
    assert list(broken_paragraphs(source)) == expected


LONG = "x" * 90


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (f'f(\n    "{LONG} "\n    f"{{word}}, "\n    "and {LONG}"\n)', [3]),
        (f'f(\n    "{LONG} "\n    "short end."\n)', [3]),
        (f'f(\n    "{LONG} and more of it "\n    "a long end of a message that stands on a line of its own."\n)', []),
        ('f(\n    "first line\\n"\n    "second line"\n)', []),
        ('f("""\na\nb\n""")', []),
    ],
)
def test_broken_messages_are_found(source: str, expected: list[int]) -> None:
    assert list(broken_messages(source)) == expected
