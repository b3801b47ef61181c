"""SIGKILL at random moments: the same command, started again, finishes the search as if nothing had happened.

The moments are drawn from a seed; where they fall (training, evaluation, writing a checkpoint, between trials) differs
with the speed of the machine.
"""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).resolve().parents[2]
# Seconds after training has begun within which it is killed; a whole search takes about twice as long.
WINDOW = 5.0
# One kill in this many falls while the search is prepared: the storage opened, the space found.
EARLY = 5
pytestmark = [pytest.mark.timeout(3600), pytest.mark.slow]  # minutes each; `make chaos`


def start(folder: Path, n_ranks: int) -> subprocess.Popen[str]:
    """Starts the script in a session of its own, so that launcher and ranks die together."""
    launcher = [sys.executable]
    if n_ranks > 1:
        launcher += ["-m", "torch.distributed.run", "--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0"]
        launcher += [f"--nproc-per-node={n_ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE", "PYTHONPATH": str(ROOT)}
    with open(folder / "log", "a") as log:
        return subprocess.Popen(
            [*launcher, "-m", "tests.chaos.worker", str(folder)],
            cwd=ROOT,
            env=environment,
            stdout=log,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )


def kill_once(folder: Path, n_ranks: int, wait: float, *, early: bool) -> bool:
    """Starts the script and kills it ``wait`` seconds after it began to train; False if it ended before."""
    sign = folder / ("started" if early else "begun")
    sign.unlink(missing_ok=True)
    process = start(folder, n_ranks)
    deadline = time.monotonic() + 120
    while not sign.exists() and process.poll() is None and time.monotonic() < deadline:
        time.sleep(0.05)
    try:
        process.wait(timeout=wait)
        return False
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        return True


def finish(folder: Path, n_ranks: int) -> dict[str, Any]:
    """Lets the script end by itself."""
    if not (folder / "done.json").exists():
        process = start(folder, n_ranks)
        try:
            assert process.wait(timeout=300) == 0, (folder / "log").read_text()[-6000:]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            raise
    return dict(json.loads((folder / "done.json").read_text()))


def killed_and_whole(
    tmp_path: Path, n_ranks: int, n_kills: int, seed: int
) -> tuple[dict[str, Any], dict[str, Any], int]:
    """The search with kills, the search without, and how many kills there were before the former was done."""
    rng = random.Random(seed)
    broken, whole = tmp_path / "broken", tmp_path / "whole"
    broken.mkdir()
    whole.mkdir()
    n_done = 0
    for i in range(n_kills):
        early = i % EARLY == EARLY - 1
        if not kill_once(broken, n_ranks, rng.uniform(0, 1 if early else WINDOW), early=early):
            break
        n_done += 1
    return finish(broken, n_ranks), finish(whole, n_ranks), n_done


def assert_equal(broken: dict[str, Any], whole: dict[str, Any]) -> None:
    assert broken["numbers"] == list(range(6))
    assert set(broken["states"]) <= {"COMPLETE", "PRUNED"}
    assert broken["studies"] == "search-1"
    for part in ("states", "params", "values", "curves", "best", "evaluated"):
        assert broken[part] == whole[part], part


@pytest.mark.parametrize(("n_ranks", "seed"), [(1, 0)])
def test_three_kills(tmp_path: Path, n_ranks: int, seed: int) -> None:
    broken, whole, _ = killed_and_whole(tmp_path, n_ranks, 3, seed)
    assert_equal(broken, whole)


@pytest.mark.slow
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_twenty_five_kills(tmp_path: Path, n_ranks: int) -> None:
    """As many searches as it takes: each is killed until it is done, and must equal the one that never was."""
    n_kills, seed = 0, 0
    while n_kills < 25:
        folder = tmp_path / str(seed)
        folder.mkdir()
        broken, whole, n_done = killed_and_whole(folder, n_ranks, 25 - n_kills, seed)
        assert_equal(broken, whole)
        n_kills, seed = n_kills + max(n_done, 1), seed + 1
