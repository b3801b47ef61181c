"""How the ranks of one search agree: rank 0 decides, plain JSON goes out, a status comes back.

Nothing is pickled. Messages travel as byte tensors in a process group of their own (gloo, in main memory), so they can
never be mistaken for gradients.
"""

import json
from collections.abc import Callable
from typing import Any, TypeVar

from hf_rlsearch import errors
from hf_rlsearch._typing import Params
from hf_rlsearch.backend.failures import Failure, kind_of
from hf_rlsearch.backend.rendezvous import Rendezvous, time_limit
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

    def together(self, act: Callable[[], T], *, let_go: Callable[[], None] | None = None) -> T:
        """Runs something on every rank, and raises on all of them if it raised on any.

        Args:
            act: What to run.
            let_go: Given where ``act`` has collectives, in which ranks would wait for one that failed alone; drops
                every reference to the process group (see ``settle``).

        Raises:
            Exception: This rank's own, or for another rank's an exception of the same kind.
        """
        if self.size == 1:
            return act()
        error: Exception | None = None
        result: T | None = None
        try:
            result = act()
        except Exception as caught:
            error = caught
        report = {} if error is None else describe(error)
        assert self._rendezvous is not None
        if let_go is None or not self._rendezvous.frees:
            reports = self.gather(report)
        else:
            if error is not None:
                Failure.from_error(error)  # its frames hold the process group
            reports = self.settle(report, failed=error is not None, let_go=let_go)
        failed = {rank: each for rank, each in enumerate(reports) if each}
        # Who only lost the others says what happened to them.
        first = next((rank for rank, each in failed.items() if each["kind"] != "lost"), min(failed, default=None))
        if first is None:
            return result  # type: ignore[return-value]
        if error is not None and (report["kind"] != "lost" or first == self.rank):
            raise error
        raise rebuild(failed[first], first)

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

        self._group = dist.new_group(backend="gloo", timeout=time_limit())


def describe(error: BaseException) -> Params:
    """An exception as plain data."""
    return {"type": type(error).__name__, "text": str(error), "kind": kind_of(error)}


def rebuild(report: Params, rank: int) -> Exception:
    """The exception to raise for another rank's: the same class where it is one of ours, else ``SearchFailed``."""
    cls = getattr(errors, report["type"], None)
    if isinstance(cls, type) and issubclass(cls, HfRlSearchError):
        return cls(report["text"])
    return SearchFailed(f"Rank {rank} ended the search with {report['type']}: {report['text']}")


def _encode(message: Params | None) -> Any:
    import torch

    return torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)


def _decode(payload: Any) -> Params:
    return dict(json.loads(bytes(payload.numpy().tobytes()).decode()))
