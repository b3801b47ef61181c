"""Commands that start further processes, under a time limit: none of them is left behind."""

import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil


def run_limited(command: list[str], *, limit: float, **options: Any) -> subprocess.CompletedProcess[str]:
    """As ``subprocess.run`` with its output as text, but what the command has started ends with it.

    Killing a process group is not enough: torchrun starts each rank in a session of its own.

    Args:
        command: Words.
        limit: Seconds.
        **options: Of ``subprocess.Popen``.

    Raises:
        subprocess.TimeoutExpired: It took longer than the limit.
    """
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options}
    process = subprocess.Popen(command, text=True, **pipes)
    try:
        output, errors = process.communicate(timeout=limit)
    except BaseException:  # Ctrl-C and the time limit of pytest as well
        _kill_family(process.pid)
        process.communicate()
        raise
    return subprocess.CompletedProcess(command, process.returncode, output, errors)


def run_code(code: str, folder: Path, *, with_errors: bool = False, **environment: str) -> str:
    """Runs `code` as a file in `folder`, in a process of its own with one thread, and returns what it printed.

    Args:
        code: Of Python.
        folder: Exists.
        with_errors: What it wrote on standard error is returned too, as a terminal shows both.
        **environment: More variables of the environment.
    """
    (folder / "example.py").write_text(code, encoding="utf-8")
    own = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    pipes = {"stderr": subprocess.STDOUT} if with_errors else {}
    done = run_limited([sys.executable, "example.py"], limit=1100, cwd=folder, env=own, **pipes)
    assert done.returncode == 0, (done.stderr or done.stdout)[-3000:]
    return done.stdout


def _kill_family(pid: int) -> None:
    with suppress(psutil.NoSuchProcess):
        parent = psutil.Process(pid)
        for each in [parent, *parent.children(recursive=True)]:
            with suppress(psutil.NoSuchProcess):
                each.kill()
