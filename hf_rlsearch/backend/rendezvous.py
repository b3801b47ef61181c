"""How ranks meet again after one of them failed in the middle of a collective, and what time limit they share."""

import json
import os
import sys
from datetime import timedelta
from types import FunctionType
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch.errors import SearchFailed


class Rendezvous:
    """Brings the ranks together again after one of them failed, through the key-value store of ``torch.distributed``.

    Works with gloo, whose connections close with the group. NCCL cannot be left by one rank alone: there the group's
    own time limit ends the job, and the launcher's restart continues the search.

    Args:
        rank: This process.
        size: Number of processes.
    """

    def __init__(self, rank: int, size: int) -> None:
        import torch.distributed as dist
        from torch.distributed import distributed_c10d

        self._rank, self._size, self._n_met = rank, size, 0
        self._store = distributed_c10d._get_default_store()
        self._backend = dist.get_backend()
        self._timeout = time_limit() or timedelta(minutes=30)

    @property
    def frees(self) -> bool:
        """Whether a rank that leaves the process group frees the others from what they wait for in it."""
        return "nccl" not in self._backend

    def meet(self, report: Params) -> list[Params]:
        """Leaves the process group, waits for all ranks, exchanges their reports and joins a new group.

        Raises:
            SearchFailed: A rank did not come within twice the group's time limit.
        """
        import torch.distributed as dist
        from torch.distributed import distributed_c10d

        self._n_met += 1
        # torchrun keeps the store from one start of the ranks to the next: reports of dead ranks must not be read.
        attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
        store = distributed_c10d.PrefixStore(f"hf_rlsearch/{attempt}/{self._n_met}", self._store)
        store.set(f"report/{self._rank}", json.dumps(report))
        if not self.frees:
            raise SearchFailed(self._lost(report))
        _forget_world()
        dist.destroy_process_group()
        try:
            store.wait([f"report/{rank}" for rank in range(self._size)], self._timeout * 2)
        except RuntimeError as error:
            raise SearchFailed(self._lost(report)) from error
        reports = [json.loads(store.get(f"report/{rank}").decode()) for rank in range(self._size)]
        dist.init_process_group(
            self._backend,
            store=distributed_c10d.PrefixStore("group", store),
            rank=self._rank,
            world_size=self._size,
            timeout=self._timeout,
        )
        return reports

    def _lost(self, report: Params) -> str:
        failure = (report.get("failure") or {}).get("reason", "connection lost")
        return (
            f"Rank {self._rank} ended a trial with: {failure}, and not all of the {self._size} ranks could be "
            f"brought back "
            "together. Finished trials are in the storage: start the same command again to continue, or let "
            "torchrun do it "
            "with --max-restarts."
        )


def _forget_world() -> None:
    """Takes the process group out of default arguments: it closes its connections when nothing refers to it.

    The functions of this module are defined with ``group=group.WORLD``; None means the same and pins nothing.
    """
    import torch.distributed as dist

    functional = sys.modules.get("torch.distributed.nn.functional")
    for function in vars(functional).values() if functional is not None else ():
        defaults = getattr(function, "__defaults__", None)
        if isinstance(function, FunctionType) and defaults:
            function.__defaults__ = tuple(None if value is dist.group.WORLD else value for value in defaults)


def time_limit() -> Any:
    """The time limit of the training's own process group, so that ours waits as long and no longer."""
    import torch.distributed as dist

    group = dist.group.WORLD
    try:
        return group._get_backend(_backend_device(group)).options._timeout  # type: ignore[union-attr]
    except (AttributeError, RuntimeError):
        return None


def _backend_device(group: Any) -> Any:
    import torch

    return torch.device("cuda" if "nccl" in str(group.name()).lower() else "cpu")
