"""Ranks forked from one process that has imported everything: a search on two of them takes seconds."""

import json
import multiprocessing
import os
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

from tests.chaos.lives import free_port

_context = multiprocessing.get_context("forkserver")
_context.set_forkserver_preload(["tests.distributed.optuna_ranks", "hf_rlsearch.trainer.search.loop"])

Search = Callable[[int, str, Path], dict[str, Any]]


def outcomes(
    search: Search,
    scenario: str,
    folder: Path,
    *,
    group_seconds: float = 30,
    limit: float = 300,
    grace: float = 60,
    backend: str = "gloo",
) -> list[Any]:
    """What two ranks that run ``search(rank, scenario, folder)`` come to: what it returned, or how it raised.

    Args:
        search: A function of a module.
        scenario: Given to it.
        folder: Given to it.
        group_seconds: Time limit of a collective.
        limit: Seconds for all.
        grace: Seconds that a rank has, as launchers give, when the other has ended with an error.
        backend: What trains: "gloo", "mccl", which is gloo under another name as those of other vendors come to torch,
            or "uncounted", which trains nothing and does not count its collectives.

    Returns:
        For each rank what it returned, "error" and "text" of what it raised, or "killed".

    Raises:
        TimeoutError: A rank did not end; both are gone then.
    """
    folder.mkdir(exist_ok=True)
    port, deadline = free_port(), time.monotonic() + limit
    given = (port, group_seconds, backend)
    ranks = [_context.Process(target=_one, args=(search, scenario, folder, rank, *given)) for rank in range(2)]
    for rank in ranks:
        rank.start()
    failed_at: float | None = None
    while any(rank.is_alive() for rank in ranks) and time.monotonic() < deadline:
        if failed_at is None and any(rank.exitcode for rank in ranks):
            failed_at = time.monotonic()
            deadline = min(deadline, failed_at + grace)
        time.sleep(0.1)
    hung = failed_at is None and any(rank.is_alive() for rank in ranks)
    for rank in ranks:
        rank.kill()
        rank.join()
    if hung:
        raise TimeoutError(f"{scenario} did not end in {limit} s: {(folder / 'log').read_text()[-3000:]}")
    files = [folder / f"{scenario}-{rank}.json" for rank in range(2)]
    return [json.loads(file.read_text()) if file.exists() else {"killed": True} for file in files]


def _one(search: Search, scenario: str, folder: Path, rank: int, port: int, group_seconds: float, backend: str) -> None:
    import torch
    import torch.distributed as dist

    log = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    os.dup2(log, 1)
    os.dup2(log, 2)
    names = {"RANK": rank, "LOCAL_RANK": rank, "WORLD_SIZE": 2, "LOCAL_WORLD_SIZE": 2, "MASTER_PORT": port}
    os.environ.update({"MASTER_ADDR": "127.0.0.1", **{name: str(value) for name, value in names.items()}})
    torch.set_num_threads(1)
    file = folder / f"{scenario}-{rank}.json"
    file.unlink(missing_ok=True)
    dist.Backend.register_backend("mccl", lambda *given: dist.ProcessGroupGloo(*given), devices=["cpu"])
    dist.Backend.register_backend("uncounted", lambda _, *given: dist.ProcessGroup(*given[:2]), devices=["cpu"])
    dist.init_process_group(backend, timeout=timedelta(seconds=group_seconds))
    try:
        seen = search(rank, scenario, folder)
    except BaseException as error:
        file.write_text(json.dumps({"error": type(error).__name__, "text": str(error)}))
        # As a script does that nobody waits for: its connections close with it.
        os._exit(1)
    file.write_text(json.dumps(seen))
    os._exit(1 if isinstance(seen, dict) and "error" in seen else 0)
