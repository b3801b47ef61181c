"""`import hf_rlsearch` is cheap, and every public name can be imported."""

import importlib
import json
import statistics
import subprocess
import sys

import pytest

HEAVY = ("torch", "stable_baselines3", "transformers.trainer", "gymnasium", "altair", "datasets", "evaluate")
SECONDS = 0.3

PROBE = """
import json, sys, time
begun = time.process_time()
import hf_rlsearch
{more}
print(json.dumps([time.process_time() - begun, sorted(sys.modules)]))
"""


def probe(more: str = "") -> tuple[float, list[str]]:
    """Seconds of the processor that the import took in a fresh interpreter, and the modules that it left loaded."""
    command = [sys.executable, "-c", PROBE.format(more=more)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    seconds, modules = json.loads(run.stdout)
    return seconds, modules


def heavy(modules: list[str]) -> list[str]:
    return [name for name in HEAVY if name in modules]


def test_import_is_fast_and_loads_nothing_heavy() -> None:
    runs = [probe() for _ in range(3)]
    assert [heavy(modules) for _, modules in runs] == [[], [], []]
    assert statistics.median(seconds for seconds, _ in runs) < SECONDS


def test_the_check_can_fail() -> None:
    _, modules = probe("import altair")
    assert heavy(modules) == ["altair"]
    seconds, _ = probe(f"while time.process_time() < begun + {SECONDS}: pass")
    assert seconds > SECONDS


def test_public_names_exist() -> None:
    package = importlib.import_module("hf_rlsearch")
    assert [name for name in package.__all__ if not hasattr(package, name)] == []
    assert dir(package) == sorted(package.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    package = importlib.import_module("hf_rlsearch")
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = package.no_such_name
