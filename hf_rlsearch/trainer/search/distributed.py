"""Exchanges JSON between the ranks of a search: rank 0 decides, all ranks report how a piece of work ended.

Messages travel as byte tensors through a gloo group in main memory, so they cannot be mistaken for gradients. The
process groups of the training are only read: a collective that one rank left unfinished cannot be repaired from within
the process.
"""

import json
from collections.abc import Callable, Iterable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

from hf_rlsearch import errors
from hf_rlsearch._typing import Params
from hf_rlsearch.errors import HfRlSearchError, SearchFailed, describe
from hf_rlsearch.trainer.session.failures import (
    CAUSED_BY_ANOTHER_RANK,
    DEVICE,
    LOST,
    DeviceLost,
    Failure,
    RankLeftError,
    RankLost,
    failure_kind,
)

T = TypeVar("T")

# Seconds that a failed rank waits for the others. Ranks that fail alike differ by moments. Any other rank waits in a
# collective until the process of the failed rank ends, so more patience would only keep the devices idle for longer.
PATIENCE_AFTER_FAILURE = 60.0
_WHAT_TO_DO = (
    "Finished trials are in the storage: start the same command again to continue, or let torchrun do it with "
    "--max-restarts."
)


class ProcessGroup:
    """Sends messages between the processes of a search; without ``torch.distributed`` there is a single process.

    Every message is the same collective on all ranks. So the message of a rank that left a piece of work by an
    exception meets the message of a rank that is still in that work, which then leaves the work as well.
    """

    def __init__(self) -> None:
        import torch.distributed as dist

        joined = dist.is_available() and dist.is_initialized()
        self.rank = dist.get_rank() if joined else 0
        self.size = dist.get_world_size() if joined else 1
        self._group: Any = None
        if self.size > 1:
            # Rank 0 may take as long for a decision as the training's collectives may take.
            self._patience = _time_limit()
            self._group = dist.new_group(backend="gloo", timeout=self._patience)
            self._counts = self._count_collectives()

    @property
    def is_main(self) -> bool:
        """True on rank 0, which owns storage, sampler and pruner."""
        return self.rank == 0

    def broadcast(self, message: Params | None = None) -> Params:
        """Returns rank 0's message on every rank.

        Raises:
            RankLeftError: Another rank has left the work that this rank is in, by an exception.
            RankLost: A rank is gone, or sent no message in time.
        """
        if self.size == 1:
            return message or {}
        received = self._exchange({"message": message if self.is_main else None}, self._patience)
        left = [rank for rank, each in enumerate(received) if "report" in each]
        if left:
            raise RankLeftError(f"Rank {left[0]} has left the work that rank {self.rank} was in.")
        return dict(received[0]["message"])

    def gather(self, report: Params, *, kind: str | None = None) -> list[Params]:
        """Returns the reports of all ranks at the end of a piece of work, in order of the ranks, on every rank.

        Args:
            report: This rank's report, as plain data.
            kind: Kind of failure if this rank's work ended by an exception.

        Raises:
            RankLost: Not all ranks left the work, or they left it at different collectives of the training, whose
                process groups cannot be used any more.
        """
        if self.size == 1:
            return [report]
        counts = self._count_collectives()
        started = {name: count and count - (self._counts.get(name) or 0) for name, count in counts.items()}
        message = {"report": report, "kind": kind, "collectives": started}
        patience = self._patience if kind is None else min(self._patience, timedelta(seconds=PATIENCE_AFTER_FAILURE))
        received = self._exchange(message, patience)
        while not all("report" in each for each in received):
            # The other ranks learn from this report that the work is over, and report in the next exchange.
            received = self._exchange(message, patience)
        if any(each["kind"] for each in received):
            _check_in_step(received)
        self._counts = counts
        return [each["report"] for each in received]

    def run_on_all(self, act: Callable[[], T]) -> T:
        """Runs a function on every rank; an exception on any rank is raised on all ranks.

        Raises:
            Exception: This rank's own exception, or one of the same kind as another rank's.
            RankLost: A rank failed alone, and the other ranks wait for that rank in a collective; or the device of a
                rank is lost.
        """
        result, error = _attempt(act, self.rank)
        try:
            report, kind = ({}, None) if error is None else (serialize_error(error), failure_kind(error))
            reports = self.gather(report, kind=kind)
        except RankLost as lost:
            if error is None or isinstance(error, RankLost):
                raise
            raise RankLost(f"Rank {self.rank} failed with {describe(error)}. {lost}") from error
        failed = {rank: each for rank, each in enumerate(reports) if each}
        if not failed:
            return result  # type: ignore[return-value]
        first = next((rank for rank, each in failed.items() if each["kind"] not in CAUSED_BY_ANOTHER_RANK), min(failed))
        if error is not None and (self.rank == first or failed[self.rank]["kind"] not in CAUSED_BY_ANOTHER_RANK):
            raise error
        raise deserialize_error(failed[first], first)

    def run_on_main(self, act: Callable[[], Params]) -> Params:
        """Runs a function on rank 0 and returns its result on all ranks.

        Raises:
            Exception: Rank 0 raises its own exception, the other ranks one of the same kind.
        """
        return self.broadcast(self.run_on_all(lambda: act() if self.is_main else {}))

    def send_tensors(self, tensors: Iterable[Any], source: int) -> None:
        """Copies tensors of one rank into those of the other ranks, in the same order; every rank calls this method.

        Raises:
            RankLeftError: Another rank has left the work that this rank is in, by an exception.
        """
        import torch
        import torch.distributed as dist

        self.broadcast({})  # a rank that could not prepare its tensors meets the others here
        for tensor in tensors:
            received = tensor.detach().to("cpu", copy=True).contiguous()
            dist.broadcast(received.reshape(-1).view(torch.uint8), src=source, group=self._group)
            with torch.no_grad():
                tensor.copy_(received)

    def _exchange(self, message: Params, patience: timedelta) -> list[Params]:
        """Sends a message to all ranks and returns the messages of all ranks, in order of the ranks."""
        import torch

        payload = torch.frombuffer(bytearray(json.dumps(message).encode()), dtype=torch.uint8)
        try:
            lengths = self._all_gather(torch.tensor([payload.numel()], dtype=torch.int64), patience)
            padded = torch.zeros(max(int(n.item()) for n in lengths), dtype=torch.uint8)
            padded[: payload.numel()] = payload
            received = self._all_gather(padded, patience)
        except RuntimeError as error:
            raise RankLost(
                f"Not all of the {self.size} ranks answered within {patience.total_seconds():g} s: a rank is gone, or "
                f"waits for another rank in a collective of the training. {_WHAT_TO_DO}"
            ) from error
        return [
            dict(json.loads(bytes(data[: int(n.item())].numpy().tobytes())))
            for data, n in zip(received, lengths, strict=True)
        ]

    def _all_gather(self, tensor: Any, patience: timedelta) -> list[Any]:
        """Does what ``torch.distributed.all_gather`` does, within a time limit."""
        import torch
        from torch.distributed.distributed_c10d import AllgatherOptions  # type: ignore[attr-defined]

        options = AllgatherOptions()
        options.timeout = patience
        received = [torch.zeros_like(tensor) for _ in range(self.size)]
        self._group.allgather([received], [tensor], options).wait()
        return received

    def _count_collectives(self) -> dict[str, int | None]:
        """Returns how many collectives this rank has started in each process group of the training, by group name.

        None stands for a group that does not count its collectives.
        """
        from torch.distributed import distributed_c10d  # torch lists its process groups only here

        counts: dict[str, int | None] = {}
        group: Any
        for group, name in distributed_c10d._world.pg_names.items():
            if group is not self._group:
                counts[name] = None
                with suppress(AttributeError, RuntimeError):
                    # The backends are asked: the group itself knows the count only of a backend that torch ships.
                    backends = [group._get_backend(device) for device in group._device_types]
                    if backends:
                        counts[name] = sum(int(backend._get_sequence_number_for_group()) for backend in backends)
        return counts


def _attempt(act: Callable[[], T], rank: int) -> tuple[T | None, Exception | None]:
    """Returns what a function returned or raised; a lost device is always a ``DeviceLost``."""
    try:
        return act(), None
    except Exception as error:
        if failure_kind(error) != DEVICE or isinstance(error, DeviceLost):
            return None, error
        lost = DeviceLost(f"Rank {rank} failed with {Failure.from_error(error).reason}")
        lost.__cause__ = error
        return None, lost


def _check_in_step(received: list[Params]) -> None:
    """Checks that all ranks left the process groups of the training after the same collective.

    Otherwise the next trial's first collective would meet one that another rank has not finished, and compute with the
    data of that one.

    Raises:
        RankLost: The ranks left at different collectives, or a connection of the training broke, or no rank knows its
            collective because the backend does not count collectives.
    """
    counts: dict[str, set[int | None]] = {}
    for each in received:
        for name, count in each["collectives"].items():
            counts.setdefault(name, set()).add(count)
    if any(each["kind"] == LOST for each in received) or any(len(different) > 1 for different in counts.values()):
        raise RankLost(
            f"The {len(received)} ranks left the training at different collectives, so its process group is out of "
            f"step. {_WHAT_TO_DO}"
        )
    if {None} in counts.values():
        raise RankLost(
            f"The {len(received)} ranks may have left the training at different collectives: its backend does not "
            f"count them. {_WHAT_TO_DO}"
        )


def _time_limit() -> timedelta:
    """Returns the time limit of the training's collectives: ``ddp_timeout``, or that of the script's own group."""
    import torch.distributed as dist

    group: Any = dist.group.WORLD
    try:
        limits: list[timedelta] = [group._get_backend(device).options._timeout for device in group._device_types]
        return min(limits)
    except (AttributeError, RuntimeError, ValueError):
        return timedelta(minutes=30)  # the default of torch.distributed


def serialize_error(error: BaseException) -> Params:
    """Returns an exception as plain data, for ``deserialize_error`` on another rank."""
    return {"type": type(error).__name__, "text": str(error), "kind": failure_kind(error)}


def deserialize_error(report: Params, rank: int) -> Exception:
    """Returns the exception to raise for another rank's: of the same class if the class is ours, else SearchFailed."""
    if report["kind"] == DEVICE:
        return RankLost(report["text"])
    cls = getattr(errors, report["type"], None)
    if isinstance(cls, type) and issubclass(cls, HfRlSearchError):
        return cls(report["text"])
    return SearchFailed(f"Rank {rank} ended the search with {report['type']}: {report['text']}")
