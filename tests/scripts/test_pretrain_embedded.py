"""The docstrings that ship with the package: what is taken from a standard library, and that it is written the same."""

import gzip
import importlib
import json
from pathlib import Path
from types import ModuleType

import pytest


@pytest.fixture
def script(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ModuleType:
    """The script, on a Python whose standard library is four files."""
    library = tmp_path / "lib"
    (library / "asyncio").mkdir(parents=True)
    (library / "tests").mkdir()
    (library / "asyncio" / "queues.py").write_text('"""A queue for use with coroutines."""')
    (library / "broken.py").write_text("def f(:")
    (library / "csv.py").write_text(
        f'def f():\n    """Reads rows of a file, one after the other."""\ndef g():\n    """{"long " * 100}"""'
    )
    (library / "tests" / "lib.py").write_text('"""A test is not taken, whatever it says in its docstring."""')
    module = importlib.import_module("pretrain_embedded")
    monkeypatch.setattr(module.sysconfig, "get_path", lambda _: str(library))
    return module


def test_docstrings_by_topic(script: ModuleType, tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        script.write_docstrings(tmp_path / name)
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()
    lines = gzip.decompress((tmp_path / "a.gz").read_bytes()).splitlines()
    assert [json.loads(line) for line in lines] == [
        {"topic": "concurrency", "docstrings": ["A queue for use with coroutines."]},
        {"topic": None, "docstrings": ["Reads rows of a file, one after the other."]},
    ]


def test_every_topic_has_modules(script: ModuleType) -> None:
    from hf_rlsearch.embedded import TOPICS

    assert tuple(script.MODULES) == TOPICS
