"""Two gloo processes: a pruned training is resumed from the checkpoint of both ranks."""

from pathlib import Path

import pytest

from tests.distributed.launch import launch, seen

pytestmark = [pytest.mark.timeout(600), pytest.mark.slow]


def test_a_resumed_training_equals_an_uninterrupted_one(tmp_path: Path) -> None:
    """Dropout makes the random state of each rank matter; weights are compared by a digest of all their bits."""
    run = launch(tmp_path, "pause", "no_pause")
    assert run.returncode == 0, run.stdout[-6000:]
    broken, again = seen(tmp_path, "pause")
    whole, _ = seen(tmp_path, "no_pause")
    assert broken == again
    assert broken["states"] == ["COMPLETE", "PRUNED", "COMPLETE"]
    assert broken["continues"] == [None, None, 1]
    assert broken["began"] == [0, 0, 4]
    assert broken["values"][2] == whole["values"][1]
    assert broken["weights"]["run-1"] == whole["weights"]["run-1"]
    assert broken["weights"]["run-1"] != broken["weights"]["run-0"]
