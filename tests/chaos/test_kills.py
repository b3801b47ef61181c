"""SIGKILL anywhere: the same command, started again, finishes the search as if nothing had happened.

Half of the kills come from outside, at random times; the others at moments that time alone rarely hits: with half a
checkpoint on disk, before and after a trial's end is written, after the result was returned. All are drawn from a seed.
"""

import itertools
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.chaos.lives import Death, Script
from tests.chaos.worker import BETWEEN, CHECKPOINT, EVALUATION, MOMENTS, RETURNED, TRAINING

N_TRIALS = 4
# With this many, every moment has come.
ENOUGH = 25
# How often a moment comes in a search, about; a life ends somewhere in its first fifth.
COUNTS = {TRAINING: 16, EVALUATION: 8, CHECKPOINT: 24, BETWEEN: 8, RETURNED: 1}
# A kill from outside comes within this share of the time that a whole search takes.
WINDOW = 0.5


def deaths(seed: int, n_ranks: int, seconds: float) -> Iterator[Death]:
    """Kills without end: every other one at a random time, the others at all moments in turn, on a random rank.

    Args:
        seed: Of all that is drawn.
        n_ranks: Processes.
        seconds: That a search takes.
    """
    rng = random.Random(seed)
    for moment in itertools.cycle([TRAINING, CHECKPOINT, EVALUATION, BETWEEN, RETURNED]):
        yield Death(seconds=rng.uniform(0, WINDOW * seconds))
        yield Death(moment, rng.randint(1, COUNTS[moment]), rank=rng.randrange(n_ranks))


def assert_equal(broken: dict[str, Any], whole: dict[str, Any], n_trials: int) -> None:
    """The search that was killed is the search that was not."""
    assert broken["numbers"] == list(range(n_trials))
    assert set(broken["states"]) <= {"COMPLETE", "PRUNED"}
    assert broken["studies"] == "search-1"
    for part in ("states", "params", "values", "curves", "spent", "best", "evaluated"):
        assert broken[part] == whole[part], part


@pytest.mark.timeout(600)
def test_three_kills(tmp_path: Path) -> None:
    """The version for every day: forked, so that three lives and two whole searches take seconds."""
    broken, whole = (Script(tmp_path / name, n_trials=3, fork=True) for name in ("broken", "whole"))
    moments = [broken.live(Death(moment, count)) for moment, count in ((CHECKPOINT, 8), (BETWEEN, 5), (RETURNED, 1))]
    assert moments == [CHECKPOINT, BETWEEN, RETURNED]
    assert_equal(broken.finish(), whole.finish(), 3)


@pytest.mark.slow
@pytest.mark.timeout(7200)
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_many_kills(tmp_path: Path, n_ranks: int, pytestconfig: pytest.Config) -> None:
    """As many searches as it takes: each is killed until it is done, and must equal the one that never was."""
    n_kills = pytestconfig.getoption("--kills")
    whole = Script(tmp_path / "whole", n_trials=N_TRIALS, n_ranks=n_ranks, fork=True)
    started = time.monotonic()
    expected = whole.finish()
    kills, moments = deaths(n_ranks, n_ranks, time.monotonic() - started), list[str]()
    for search in itertools.count():
        broken = Script(tmp_path / str(search), n_trials=N_TRIALS, n_ranks=n_ranks, fork=True)
        while len(moments) < n_kills and (moment := broken.live(next(kills))) is not None:
            moments.append(moment)
            print(f"{n_ranks} ranks, search {search}, kill {len(moments)} of {n_kills}: {moment}", flush=True)
        assert_equal(broken.finish(), expected, N_TRIALS)
        if len(moments) == n_kills:
            break
    assert n_kills < ENOUGH or set(MOMENTS[1:]) <= set(moments)


@pytest.mark.slow
@pytest.mark.timeout(1800)
@pytest.mark.parametrize("n_ranks", [1, 2])
def test_the_command_itself(tmp_path: Path, n_ranks: int) -> None:
    """Python and torchrun started anew for each life; of two ranks one dies, and the launcher ends the other."""
    whole = Script(tmp_path / "whole", n_trials=3, n_ranks=n_ranks)
    broken = Script(tmp_path / "broken", n_trials=3, n_ranks=n_ranks)
    assert broken.live(Death(CHECKPOINT, 8, launcher=True)) == CHECKPOINT
    assert broken.live(Death(TRAINING, 20, rank=n_ranks - 1, launcher=True)) == TRAINING
    assert broken.live(Death(BETWEEN, 3)) == BETWEEN
    assert broken.live(Death(RETURNED, 1, launcher=True)) == RETURNED
    assert_equal(broken.finish(), whole.finish(), 3)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    ("number", "at"), [(signal.SIGTERM, TRAINING), (signal.SIGINT, TRAINING), (signal.SIGTERM, EVALUATION)]
)
def test_a_signal_to_all_ranks(tmp_path: Path, number: signal.Signals, at: str) -> None:
    """As Ctrl-C in a terminal, or a scheduler that takes the machine back: all ranks end soon, and nothing is lost."""
    whole = Script(tmp_path / "whole", n_trials=2, n_ranks=2, fork=True)
    broken = Script(tmp_path / "broken", n_trials=2, n_ranks=2, fork=True)
    assert broken.asked_to_end(number, at=at) < 60
    assert_equal(broken.finish(), whole.finish(), 2)
