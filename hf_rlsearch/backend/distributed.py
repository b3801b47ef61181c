"""How the ranks of one search agree: rank 0 decides, plain JSON goes out, a status comes back.

Nothing is pickled. Messages travel as byte tensors in a process group of their own (gloo, in main memory), so they can
never be mistaken for gradients.
"""

import json
import sys
from collections.abc import Callable
from datetime import timedelta
from types import FunctionType
from typing import Any, TypeVar

from hf_rlsearch import errors
from hf_rlsearch._typing import Params
from hf_rlsearch.errors import HfRlSearchError, SearchFailed

T = TypeVar("T")

RUN, STOP, ERROR = "RUN", "STOP", "ERROR"


class Ranks:
    """The processes of this search; a single one without ``torch.distributed``.

    Attributes:
        rank: This process, from 0.
        size: Number of processes.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1
        self._group: Any = None
        self._rendezvous: Rendezvous | None = None
        if self.size > 1:
            self._rendezvous = Rendezvous(self.rank, self.size)
            self._open()

    @property
    def decides(self) -> bool:
        """True on rank 0, which owns storage, sampler and pruner."""
        return self.rank == 0

    def broadcast(self, message: Params | None = None) -> Params:
        """Rank 0's message, on every rank.

        Args:
            message: Plain data on rank 0, anything elsewhere.
        """
        if self.size == 1:
            return message or {}
        import torch
        import torch.distributed as dist

        payload = _encode(message) if self.decides else torch.empty(0, dtype=torch.uint8)
        length = torch.tensor([payload.numel()], dtype=torch.int64)
        dist.broadcast(length, src=0, group=self._group)
        if not self.decides:
            payload = torch.empty(int(length.item()), dtype=torch.uint8)
        dist.broadcast(payload, src=0, group=self._group)
        return _decode(payload)

    def gather(self, message: Params) -> list[Params]:
        """The messages of all ranks, in order, on every rank."""
        if self.size == 1:
            return [message]
        import torch
        import torch.distributed as dist

        payload = _encode(message)
        length = torch.tensor([payload.numel()], dtype=torch.int64)
        lengths = [torch.zeros_like(length) for _ in range(self.size)]
        dist.all_gather(lengths, length, group=self._group)
        longest = max(int(n.item()) for n in lengths)
        padded = torch.zeros(longest, dtype=torch.uint8)
        padded[: payload.numel()] = payload
        received = [torch.zeros_like(padded) for _ in range(self.size)]
        dist.all_gather(received, padded, group=self._group)
        return [_decode(data[: int(n.item())]) for data, n in zip(received, lengths, strict=True)]

    def together(self, act: Callable[[], T]) -> T:
        """Runs something on every rank, and raises on all of them if it raised on any.

        Raises:
            Exception: This rank's own, or for another rank's an exception of the same kind.
        """
        error: Exception | None = None
        result: T | None = None
        try:
            result = act()
        except Exception as caught:
            error = caught
        if self.size == 1:
            if error is not None:
                raise error
            return result  # type: ignore[return-value]
        reports = self.gather({} if error is None else describe(error))
        if error is not None:
            raise error
        for rank, report in enumerate(reports):
            if report:
                raise rebuild(report, rank)
        return result  # type: ignore[return-value]

    def decide(self, act: Callable[[], Params]) -> Params:
        """Runs something on rank 0 and gives its result to all ranks; an exception there is raised on all.

        Raises:
            Exception: Rank 0's own there, one of the same kind elsewhere.
        """
        if self.size == 1:
            return act()
        if not self.decides:
            message = self.broadcast()
            if message["kind"] == ERROR:
                raise rebuild(message["error"], 0)
            return dict(message["result"])
        try:
            result = act()
        except Exception as error:
            self.broadcast({"kind": ERROR, "error": describe(error)})
            raise
        self.broadcast({"kind": RUN, "result": result})
        return result

    def settle(self, report: Params, *, failed: bool, let_go: Callable[[], None]) -> list[Params]:
        """The end of a trial: what every rank has to say about it, on every rank.

        A rank that failed alone leaves the others in the middle of a collective. It closes its connections, which ends
        theirs; then all meet through the store and build the process group anew.

        Args:
            report: This rank's; plain data.
            failed: This rank's training ended by an exception, so that the others may be waiting for it.
            let_go: Drops every reference to the trained model, and with it to the process group.

        Raises:
            SearchFailed: A rank did not come; the process group cannot be mended.
        """
        if self.size == 1:
            return [report]
        if not failed:
            try:
                return self.gather(report)
            except RuntimeError:
                failed = True
        let_go()
        assert self._rendezvous is not None
        self._group = None
        reports = self._rendezvous.meet(report)
        self._open()
        return reports

    def _open(self) -> None:
        import torch.distributed as dist

        self._group = dist.new_group(backend="gloo", timeout=_timeout())


class Rendezvous:
    """Brings the ranks together again after one of them failed, through the key-value store of ``torch.distributed``.

    Works with gloo, whose connections close with the group. NCCL cannot be left by one rank alone: there the group's
    own
    time limit ends the job, and the launcher's restart continues the search.

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
        self._timeout = _timeout() or timedelta(minutes=30)

    def meet(self, report: Params) -> list[Params]:
        """Leaves the process group, waits for all ranks, exchanges their reports and joins a new group.

        Raises:
            SearchFailed: A rank did not come within twice the group's time limit.
        """
        import torch.distributed as dist
        from torch.distributed import distributed_c10d

        self._n_met += 1
        store = distributed_c10d.PrefixStore(f"hf_rlsearch/{self._n_met}", self._store)
        store.set(f"report/{self._rank}", json.dumps(report))
        if "nccl" in self._backend:
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


def describe(error: BaseException) -> Params:
    """An exception as plain data."""
    return {"type": type(error).__name__, "text": str(error)}


def rebuild(report: Params, rank: int) -> Exception:
    """The exception to raise for another rank's: the same class where it is one of ours, else ``SearchFailed``."""
    cls = getattr(errors, report["type"], None)
    if isinstance(cls, type) and issubclass(cls, HfRlSearchError):
        return cls(report["text"])
    return SearchFailed(f"Rank {rank} ended the search with {report['type']}: {report['text']}")


def _timeout() -> Any:
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


def _encode(message: Params | None) -> Any:
    import torch

    return torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)


def _decode(payload: Any) -> Params:
    return dict(json.loads(bytes(payload.numpy().tobytes()).decode()))
