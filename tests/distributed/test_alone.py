"""Two gloo processes, and one of them fails alone: both continue, or the job ends and the next start continues."""

import time
from pathlib import Path
from typing import Any

import pytest

from tests.distributed.alone import search
from tests.distributed.forked import outcomes

pytestmark = pytest.mark.timeout(400)


def both(scenario: str, folder: Path, **options: Any) -> dict[str, Any]:
    """What both ranks got, the same; well before a collective's time limit."""
    first, second = outcomes(search, scenario, folder, group_seconds=60, **options)
    assert "imed out" not in str([first, second])
    assert first == second
    return dict(first)


def assert_continued(found: dict[str, Any]) -> None:
    """Trial 1 has failed with the reason of the rank that raised, and was not trained again."""
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["failures"] == [None, "ValueError: boom", None]
    assert found["evaluated"] == found["best"][1]


@pytest.mark.slow
@pytest.mark.parametrize(
    "scenario",
    [
        "callback_raises_on_rank_0",
        "callback_raises_on_rank_1",
        "save_raises_on_rank_0",
        "save_raises_on_rank_1",
        "objective_raises_on_rank_1",
    ],
)
def test_an_exception_on_one_rank_after_the_training_fails_the_trial(scenario: str, tmp_path: Path) -> None:
    assert_continued(both(scenario, tmp_path))


@pytest.mark.parametrize(
    "scenario",
    [
        "step_raises_on_rank_0",
        "step_raises_on_rank_1",
        pytest.param("model_raises_on_rank_0", marks=pytest.mark.slow),
        pytest.param("model_raises_on_rank_1", marks=pytest.mark.slow),
        pytest.param("evaluation_raises_on_rank_0", marks=pytest.mark.slow),
        pytest.param("evaluation_raises_on_rank_1", marks=pytest.mark.slow),
    ],
)
def test_a_rank_that_fails_alone_ends_the_job_and_the_next_start_continues(scenario: str, tmp_path: Path) -> None:
    started = time.monotonic()
    for found in outcomes(search, scenario, tmp_path, group_seconds=100):
        assert (found["error"], found["changed"]) == ("RankLost", [])
        assert f"Trial 1 failed on rank {scenario[-1]} with ValueError: boom" in found["text"]
        assert "start the same command again" in found["text"]
    assert time.monotonic() - started < 90  # not the time limit of the collective that the other rank was in
    assert_continued(both(scenario, tmp_path))
    assert not list(tmp_path.glob("**/failed_on_rank_*"))


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_reason_is_known_though_the_other_rank_is_stuck_until_it_is_killed(rank: int, tmp_path: Path) -> None:
    """With rank 0 stuck nobody can record the trial before the launcher ends the job."""
    scenario = f"stuck_on_rank_{rank}"
    found = outcomes(search, scenario, tmp_path, group_seconds=100, grace=2)
    assert found[1 - rank] == {"killed": True}
    assert "ValueError: boom" in found[rank]["text"]
    assert_continued(both(scenario, tmp_path))


@pytest.mark.parametrize(
    "scenario", [pytest.param("stuck_oom_on_rank_1", marks=pytest.mark.slow), "own_disks_on_rank_1"]
)
def test_out_of_memory_on_one_rank_costs_one_start(scenario: str, tmp_path: Path) -> None:
    """Also if rank 0 waits in a collective until it is killed, and if rank 0 does not see the disk of rank 1."""
    outcomes(search, scenario, tmp_path, group_seconds=100, grace=5)
    found = both(scenario, tmp_path)
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert (found["kinds"][1], found["ranks"][1]) == ("oom", 1)
    assert not list(tmp_path.glob("**/failed_on_rank_*"))


@pytest.mark.parametrize("backend", ["gloo", pytest.param("mccl", marks=pytest.mark.slow)])
def test_out_of_memory_on_all_ranks_ends_no_job_whatever_backend_trains(backend: str, tmp_path: Path) -> None:
    found = both("oom_on_rank_all", tmp_path, backend=backend)
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["kinds"][1] == "oom"


@pytest.mark.parametrize("where", ["1", pytest.param("all", marks=pytest.mark.slow)])
def test_a_lost_device_ends_the_job_and_the_next_start_continues(where: str, tmp_path: Path) -> None:
    for found in outcomes(search, f"device_on_rank_{where}", tmp_path, group_seconds=100):
        assert (found["error"], found["changed"]) == ("DeviceLost" if where == "all" else "RankLost", [])
        assert "device-side assert triggered" in found["text"]
        assert "start the same command again" in found["text"]
    found = both(f"device_on_rank_{where}", tmp_path)
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["kinds"][1] == "device"


@pytest.mark.parametrize("rank", [0, 1])
def test_an_objective_that_is_no_number_on_one_rank(rank: int, tmp_path: Path) -> None:
    found = both(f"nan_on_rank_{rank}", tmp_path)
    assert found["states"] == ["COMPLETE", "FAIL", "COMPLETE"]
    assert found["kinds"][1] == "nan"


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_the_first_evaluation_may_need_all_rows_on_one_rank(rank: int, tmp_path: Path) -> None:
    assert both(f"first_metrics_raise_on_rank_{rank}", tmp_path)["states"] == ["COMPLETE"] * 3


@pytest.mark.slow
@pytest.mark.parametrize(
    ("scenario", "error", "text"),
    [
        ("first_space_raises_on_rank_1", "SearchSpaceError", "boom"),
        ("storage_report", "StorageError", "Trial 1 cannot continue"),
        ("storage_tell", "StorageError", "cannot be used"),
        ("storage_result", "StorageError", "cannot be used"),
    ],
)
def test_an_error_on_one_rank_is_raised_on_both(scenario: str, error: str, text: str, tmp_path: Path) -> None:
    for found in outcomes(search, scenario, tmp_path, group_seconds=60):
        assert (found["error"], found["changed"]) == (error, [])
        assert text in found["text"]
        assert "imed out" not in found["text"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_first_evaluation_that_one_rank_cannot_make_ends_the_job(rank: int, tmp_path: Path) -> None:
    found = outcomes(search, f"first_evaluation_raises_on_rank_{rank}", tmp_path, group_seconds=100)
    assert [each["error"] for each in found] == ["RankLost"] * 2
    assert [each["changed"] for each in found] == [[], []]
    assert "ValueError: boom" in found[rank]["text"]


@pytest.mark.slow
@pytest.mark.parametrize("rank", [0, 1])
def test_a_best_model_that_one_rank_cannot_build(rank: int, tmp_path: Path) -> None:
    found = outcomes(search, f"finish_raises_on_rank_{rank}", tmp_path, group_seconds=60)
    assert [each["changed"] for each in found] == [[], []]
    assert found[rank]["error"] == "ValueError"
    assert found[1 - rank]["error"] == "SearchFailed"
    assert "boom" in found[1 - rank]["text"]


@pytest.mark.slow
def test_the_rank_of_an_adapter_is_the_same_on_both(tmp_path: Path) -> None:
    pytest.importorskip("peft", reason="needs peft: pip install 'hf-rlsearch[recipes]'")
    found = both("adapter", tmp_path)
    assert found["states"] == ["COMPLETE"] * 3
    assert found["adapter"] == {"0": 4, "1": 8, "2": 2}[found["best"][0]]
    assert found["evaluated"] == found["best"][1]


@pytest.mark.slow
def test_a_search_goes_on_with_another_number_of_processes(tmp_path: Path) -> None:
    """The trial that was interrupted is repeated, since its checkpoint has the random states of two processes."""
    assert {"killed": True} in outcomes(search, "dies_on_rank_0", tmp_path, group_seconds=60, grace=5)
    found = search(1, "dies_on_rank_0", tmp_path)
    assert found["states"] == ["COMPLETE"] * 3
    assert found["world_sizes"] == [2, 1, 1]
    assert found["curves"] == [[5000, 10000]] * 3


@pytest.mark.parametrize("rank", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_rank_that_does_not_see_the_best_model_gets_it_from_the_other(rank: int, tmp_path: Path) -> None:
    found = both(f"model_missing_on_rank_{rank}", tmp_path)
    assert found["states"] == ["COMPLETE"] * 3
    assert found["evaluated"] == found["best"][1]
