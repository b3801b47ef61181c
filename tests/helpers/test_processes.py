"""A command that takes too long leaves nothing behind."""

import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.helpers.processes import run_limited

# Starts a child in a session of its own, as torchrun does, and waits for it.
_PARENT = """
import subprocess, sys
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
open(sys.argv[1], "w").write(str(child.pid))
child.wait()
"""


def test_children_in_sessions_of_their_own_end_too(tmp_path: Path) -> None:
    with pytest.raises(subprocess.TimeoutExpired):
        run_limited([sys.executable, "-c", _PARENT, str(tmp_path / "pid")], limit=5)
    pid = int((tmp_path / "pid").read_text())
    ends = time.monotonic() + 20
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < ends
        time.sleep(0.05)


def test_output_and_exit_code_are_returned() -> None:
    done = run_limited([sys.executable, "-c", "import sys; print(1); sys.exit('two')"], limit=60)
    assert (done.returncode, done.stdout, done.stderr) == (1, "1\n", "two\n")
