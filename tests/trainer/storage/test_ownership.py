"""Whether the process that owns a search is still alive."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import pytest

from hf_rlsearch.trainer.storage.resume import _owner_is_gone, process_start_time, this_process


@pytest.fixture
def other() -> Iterator[tuple[subprocess.Popen[bytes], dict[str, Any]]]:
    """A living process, and what it would have written as owner."""
    with subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"]) as process:
        yield process, {**this_process(), "pid": process.pid, "begun": process_start_time(process.pid)}
        process.kill()


def test_a_living_process_is_not_gone(other: Any) -> None:
    assert not _owner_is_gone(other[1])


def test_a_process_whose_id_was_given_to_another_is_gone(other: Any) -> None:
    assert _owner_is_gone({**other[1], "begun": other[1]["begun"] - 60})


def test_a_killed_process_that_nobody_has_waited_for_is_gone(other: Any) -> None:
    process, who = other
    process.kill()
    deadline = time.monotonic() + 20
    while not _owner_is_gone(who) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert _owner_is_gone(who)
    assert process.returncode is None


def test_a_process_of_another_machine_is_left_alone(other: Any) -> None:
    other[0].kill()
    assert not _owner_is_gone({**other[1], "host": "elsewhere"})


def test_this_process_is_the_same_each_time() -> None:
    first = this_process()
    assert first["pid"] == os.getpid()
    assert first == this_process()
    assert _owner_is_gone(first)  # it has no other search running
