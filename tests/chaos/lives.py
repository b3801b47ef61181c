"""Starts the script of `worker.py` and kills it, from within at a given moment or from outside after a given time."""

import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from tests.chaos import worker

ROOT = Path(__file__).resolve().parents[2]
# Seconds that one life may take.
LIMIT = 600


class Running(Protocol):
    """A script that runs."""

    def poll(self) -> int | None:
        """Its exit code, None while it runs."""

    def kill(self) -> None:
        """SIGKILL for all its processes."""

    def send(self, number: signal.Signals) -> None:
        """Another signal to all its processes."""


class Command:
    """The script as a user starts it: python, or torchrun for several ranks, in a session of its own."""

    def __init__(self, folder: Path, n_ranks: int, *arguments: str) -> None:
        launcher = [sys.executable]
        if n_ranks > 1:
            launcher += ["-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
            launcher += [f"--nproc-per-node={n_ranks}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
        with open(folder / "log", "a") as log:
            self._process = subprocess.Popen(
                [*launcher, "-m", "tests.chaos.worker", str(folder), *arguments],
                cwd=ROOT,
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def poll(self) -> int | None:
        """As in ``Running``."""
        return self._process.poll()

    def kill(self) -> None:
        """As in ``Running``; ranks whose launcher is gone end when their connections close."""
        self.send(signal.SIGKILL)
        self._process.wait()

    def send(self, number: signal.Signals) -> None:
        """As in ``Running``."""
        os.killpg(self._process.pid, number)


class Fork:
    """The same script in processes forked from one that has imported everything: a life takes a second, not ten."""

    _context = multiprocessing.get_context("forkserver")
    _context.set_forkserver_preload(["tests.chaos.worker", "hf_rlsearch.trainer.search.loop"])

    def __init__(self, folder: Path, n_ranks: int, *arguments: str) -> None:
        given = (n_ranks, free_port(), str(folder), *arguments)
        self._ranks = [
            self._context.Process(target=worker.forked, args=(rank, *given), daemon=True) for rank in range(n_ranks)
        ]
        for rank in self._ranks:
            rank.start()

    def poll(self) -> int | None:
        """As in ``Running``; the first code that is not 0."""
        codes = [rank.exitcode for rank in self._ranks]
        return None if None in codes else next((code for code in codes if code), 0)

    def kill(self) -> None:
        """As in ``Running``."""
        for rank in self._ranks:
            rank.kill()
        for rank in self._ranks:
            rank.join()

    def send(self, number: signal.Signals) -> None:
        """As in ``Running``."""
        for rank in self._ranks:
            if rank.pid is not None and rank.is_alive():
                os.kill(rank.pid, number)


def free_port() -> int:
    """A TCP port that nobody listens on."""
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


@dataclass(frozen=True)
class Death:
    """How a life ends before its time.

    Attributes:
        moment: At which the script kills itself; None for a kill from outside.
        count: How often that moment comes before.
        seconds: After which it is killed from outside, counted from its first sign of life.
        rank: The process that kills itself.
        launcher: The launcher, not a kill from outside, ends the ranks that are left; for a script that has one.
    """

    moment: str | None = None
    count: int = 0
    seconds: float = 0.0
    rank: int = 0
    launcher: bool = False


@dataclass
class Script:
    """One search that is killed.

    Attributes:
        folder: What it leaves.
        n_trials: Of the search.
        n_ranks: Processes.
        fork: Fork instead of starting Python, or torchrun, anew.
    """

    folder: Path
    n_trials: int
    n_ranks: int = 1
    fork: bool = False

    def start(self, *arguments: str) -> Running:
        """A new life."""
        self.folder.mkdir(exist_ok=True)
        for sign in ("phase", "killed"):
            (self.folder / sign).unlink(missing_ok=True)
        given = (str(self.n_trials), *arguments)
        kind = Fork if self.fork else Command
        return kind(self.folder, self.n_ranks, *given)

    def live(self, death: Death) -> str | None:
        """One life; the moment at which it was killed, None if it came to its end."""
        arguments = () if death.moment is None else (death.moment, str(death.count), str(death.rank))
        running, started, limit = self.start(*arguments), None, time.monotonic() + LIMIT
        while (code := running.poll()) is None:
            if (self.folder / "killed").exists() and not death.launcher:
                break
            if started is None and (self.folder / "phase").exists():
                started = time.monotonic()
            if death.moment is None and started is not None and time.monotonic() - started > death.seconds:
                break
            if time.monotonic() > limit:
                running.kill()
                raise AssertionError(f"The script hangs. Its log:\n{self.log()}")
            time.sleep(0.02)
        where = self._where()
        if code is None:
            running.kill()
        elif not (self.folder / "killed").exists():
            assert code == 0, self.log()
            return None
        return where

    def asked_to_end(self, number: signal.Signals, *, at: str) -> float:
        """Sends a signal at a moment of a life, and returns the seconds until the script has ended."""
        running, limit = self.start(), time.monotonic() + LIMIT
        while self._phase() != at and running.poll() is None and time.monotonic() < limit:
            time.sleep(0.02)
        signalled = time.monotonic()
        running.send(number)
        while running.poll() is None:
            if time.monotonic() > limit:
                running.kill()
                raise AssertionError(f"The script does not end. Its log:\n{self.log()}")
            time.sleep(0.02)
        assert running.poll() != 0
        return time.monotonic() - signalled

    def finish(self) -> dict[str, Any]:
        """A life that ends by itself, if none did yet; what the script found."""
        if (self.folder / "done.json").exists():
            return self.found()
        running, limit = self.start(), time.monotonic() + LIMIT
        while running.poll() is None:
            if time.monotonic() > limit:
                running.kill()
                raise AssertionError(f"The script hangs. Its log:\n{self.log()}")
            time.sleep(0.05)
        assert running.poll() == 0, self.log()
        return self.found()

    def found(self) -> dict[str, Any]:
        """What the script wrote at its end."""
        return dict(json.loads((self.folder / "done.json").read_text()))

    def log(self) -> str:
        """The end of what it printed."""
        return (self.folder / "log").read_text()[-6000:]

    def _where(self) -> str:
        sign = self.folder / "killed"
        return sign.read_text() if sign.exists() else self._phase()

    def _phase(self) -> str:
        path = self.folder / "phase"
        return path.read_text() if path.exists() else ""
