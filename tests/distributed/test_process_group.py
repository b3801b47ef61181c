"""Two gloo processes talk through a ProcessGroup: messages, errors, and a rank that leaves or does not come."""

import time
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from hf_rlsearch.trainer.search import distributed
from hf_rlsearch.trainer.search.distributed import ProcessGroup
from hf_rlsearch.trainer.session.failures import RankLeftError, RankLost
from tests.distributed.forked import outcomes

pytestmark = pytest.mark.timeout(200)


def messages(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    group = ProcessGroup()
    return {
        "broadcast": group.broadcast({"from": rank}),
        "gather": group.gather({"text": "x" * (1 + 100 * rank)}),
        "main": group.run_on_main(lambda: {"from": rank}),
        "all": group.run_on_all(lambda: rank),
    }


def raise_on(rank: int, where: int | None) -> None:
    if where in (rank, None):
        raise ValueError(f"boom on {rank}")


def errors(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    group, texts = ProcessGroup(), []
    for run, where in ((group.run_on_main, 0), (group.run_on_all, 0), (group.run_on_all, 1), (group.run_on_all, None)):
        act: Any = partial(raise_on, rank, where)
        with pytest.raises((ValueError, RuntimeError)) as caught:
            run(act)
        texts.append(f"{caught.type.__name__}: {caught.value}")
    return {"texts": texts, "after": group.broadcast({"from": rank})}


def one_leaves(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    """Rank 1 fails while rank 0 is in the middle of the same piece of work."""
    group, kind = ProcessGroup(), "error"
    if rank == 0:
        with pytest.raises(RankLeftError, match="Rank 1 has left the work that rank 0 was in"):
            group.broadcast({"from": rank})
        kind = "left"
    return {"kinds": group.gather({"kind": kind}, kind=kind), "after": group.broadcast({"from": rank})}


def lost(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    """What makes the training's process group unusable; how long the ranks waited, and what they raised."""
    distributed.PATIENCE_AFTER_FAILURE = 3
    group, started, kind = ProcessGroup(), time.monotonic(), "error"
    if scenario == f"away_{rank}":
        time.sleep(8)
        return {"text": ""}
    if scenario == f"ahead_{rank}":
        dist.all_reduce(torch.ones(1), async_op=True)  # started, as collectives of NCCL are, and never ended
    if scenario == f"broken_{rank}":
        kind = "lost"
    with pytest.raises(RankLost) as caught:
        group.gather({}, kind=kind)
    return {"text": str(caught.value), "seconds": time.monotonic() - started}


def uncounted(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    group = ProcessGroup()
    reports = group.gather({"rank": rank})
    with pytest.raises(RankLost) as caught:
        group.gather({}, kind="oom")
    return {"reports": reports, "text": str(caught.value)}


def test_messages(tmp_path: Path) -> None:
    for rank, found in enumerate(outcomes(messages, "messages", tmp_path)):
        assert found["broadcast"] == found["main"] == {"from": 0}
        assert [len(each["text"]) for each in found["gather"]] == [1, 101]
        assert found["all"] == rank


def test_an_error_on_any_rank_is_raised_on_all(tmp_path: Path) -> None:
    of = "SearchFailed: Rank {0} ended the search with ValueError: boom on {0}".format
    first, second = outcomes(errors, "errors", tmp_path)
    assert first["texts"] == ["ValueError: boom on 0", "ValueError: boom on 0", of(1), "ValueError: boom on 0"]
    assert second["texts"] == [of(0), of(0), "ValueError: boom on 1", "ValueError: boom on 1"]
    assert first["after"] == second["after"] == {"from": 0}


def test_a_rank_that_waits_for_a_message_leaves_when_another_rank_failed(tmp_path: Path) -> None:
    first, second = outcomes(one_leaves, "leaves", tmp_path)
    assert first == second == {"kinds": [{"kind": "left"}, {"kind": "error"}], "after": {"from": 0}}


@pytest.mark.parametrize("away", [0, 1])
def test_a_failed_rank_waits_for_a_limited_time(away: int, tmp_path: Path) -> None:
    found = outcomes(lost, f"away_{away}", tmp_path)[1 - away]
    assert "Not all of the 2 ranks answered within 3 s" in found["text"]
    assert 2.5 < found["seconds"] < 7


@pytest.mark.parametrize("backend", ["gloo", "mccl"])
@pytest.mark.parametrize("scenario", ["ahead_0", "ahead_1", "broken_0", "broken_1"])
def test_ranks_that_left_the_training_in_different_places_do_not_continue(
    scenario: str, backend: str, tmp_path: Path
) -> None:
    for found in outcomes(lost, scenario, tmp_path, backend=backend):
        assert "left the training at different collectives" in found["text"]


def test_where_ranks_left_a_training_that_does_not_count_is_not_known(tmp_path: Path) -> None:
    """Without a failure that does not matter; with one the ranks do not continue."""
    for found in outcomes(uncounted, "uncounted", tmp_path, backend="uncounted"):
        assert found["reports"] == [{"rank": 0}, {"rank": 1}]
        assert "its backend does not count them" in found["text"]


def tensors(rank: int, scenario: str, folder: Path) -> dict[str, Any]:
    group = ProcessGroup()
    given = [torch.full((2, 2), float(rank)), torch.tensor(rank), torch.ones(3, dtype=torch.bfloat16) * rank]
    group.send_tensors(given, source=1)
    return {"values": [tensor.tolist() for tensor in given]}


def test_tensors_of_one_rank_are_copied_to_the_others(tmp_path: Path) -> None:
    sent = {"values": [[[1.0, 1.0], [1.0, 1.0]], 1, [1.0, 1.0, 1.0]]}
    assert outcomes(tensors, "tensors", tmp_path) == [sent, sent]
