"""English text that every Python installation carries: the docstrings of its standard library.

The sources are parsed, never imported, so reading them runs no code and needs no optional system library.
"""

import ast
import functools
import os
import re
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from hf_rlsearch.errors import HfRlSearchError

# Left out: tests, things that Linux distributions often package apart, and modules that newer versions removed.
_LEFT_OUT = {"site-packages", "dist-packages", "test", "tests", "idlelib", "tkinter", "turtledemo", "ensurepip"} | {
    "distutils",
    "lib2to3",
    "pydoc_data",
    "__pycache__",
}
_SENTENCE_END = re.compile(r"(?<=[.!?])\s+(?=[A-Z])")
_PLAIN_WORD = re.compile(r"[A-Za-z][a-z'-]*[,;:.!?]?$")


@dataclass(frozen=True)
class Docstring:
    """A docstring and where it stands.

    Attributes:
        module: top-level name of the module or package, such as ``"asyncio"``.
        text: the docstring with its indentation removed.
    """

    module: str
    text: str


@functools.lru_cache(maxsize=2)
def docstrings(modules: frozenset[str] | None = None) -> tuple[Docstring, ...]:
    """Reads the docstrings of the running Python's standard library (up to three seconds, once per process).

    Args:
        modules: top-level names to read, all if left out.

    Returns:
        The docstrings of modules, classes and functions in the order of file names and of the source, so that the
        result is the same in every process of one Python version.

    Raises:
        HfRlSearchError: this Python came without the sources of its standard library.
    """
    root = Path(sysconfig.get_path("stdlib"))
    files = [path for path in _source_files(root) if modules is None or _module(path, root) in modules]
    found = tuple(docstring for path in files for docstring in _read(path, root))
    if not found:
        raise HfRlSearchError(
            f"no docstrings found below {str(root)!r}: this Python has no sources of its standard library (a frozen or "
            "zipped build, or one made with -OO). Use a Python that has them, or pass a data set of your own."
        )
    return found


def sentences(text: str) -> list[str]:
    """Splits a docstring into the sentences that read as English prose.

    Args:
        text: a docstring without indentation.

    Returns:
        Sentences of 6 to 40 words on one line each; examples, signatures, tables and lists of options are left out.
    """
    paragraphs = (" ".join(paragraph.split()) for paragraph in re.split(r"\n\s*\n", text) if ">>>" not in paragraph)
    return [sentence for paragraph in paragraphs for sentence in _SENTENCE_END.split(paragraph) if _is_prose(sentence)]


def _source_files(root: Path) -> list[Path]:
    found = []
    for folder, below, names in os.walk(root):
        below[:] = [name for name in below if name not in _LEFT_OUT]  # not even looked into: they can be huge
        found += [Path(folder) / name for name in names if name.endswith(".py")]
    return sorted(found)


def _module(path: Path, root: Path) -> str:
    return path.relative_to(root).parts[0].removesuffix(".py")


def _read(path: Path, root: Path) -> Iterator[Docstring]:
    try:
        tree = ast.parse(path.read_bytes())
    except (SyntaxError, ValueError, OSError):
        return  # a broken or unreadable file costs its own docstrings only
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text:
                yield Docstring(module=_module(path, root), text=text)


def _is_prose(sentence: str) -> bool:
    words = sentence.split()
    plain = sum(bool(_PLAIN_WORD.match(word)) for word in words)
    return 6 <= len(words) <= 40 and sentence[0].isalpha() and sentence[-1] in ".!?" and plain >= 0.7 * len(words)
