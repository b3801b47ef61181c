"""Describes why a trial failed (out of memory, diverged, ...), and stores the reason for the next start of the job."""

import errno
import json
import math
import re
import traceback
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from hf_rlsearch._validation import is_number
from hf_rlsearch.errors import SearchFailed, describe
from hf_rlsearch.optuna.storage import is_storage_error
from hf_rlsearch.trainer.session.seeds_and_memory import is_out_of_memory

OOM, NAN, OTHER, LOST, LEFT, STORAGE, DEVICE = "oom", "nan", "error", "lost", "left", "storage", "device"
# A rank with a failure of these kinds follows another rank, whose failure is the reason.
CAUSED_BY_ANOTHER_RANK = (LOST, LEFT)
# All vendors' libraries of collectives are named after NCCL: rccl, xccl, oneccl, hccl, mccl.
_CONNECTION_LOST = re.compile(
    r"connection (closed|reset|refused)|gloo|[a-z]ccl|process ?group|timed out waiting", re.IGNORECASE
)
_DEVICE_WORDS = re.compile(
    r"\b(CUDA|HIP|XPU|NPU|MUSA)( driver)? error\b|Triton Error|device-side assert|illegal memory access", re.IGNORECASE
)
# A disk that is full, over its quota or read-only; safetensors and torch.save raise errors without an errno.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_DISK_WORDS = re.compile(
    r"no space left on device|disk quota exceeded|read-only file system|file too large|\(os error (28|122|30|27)\)"
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed",
    re.IGNORECASE,
)
# Enough for the frames that matter, small enough for a column of a database.
_MAX_TRACEBACK = 8000
_REPORT = "failed_on_rank_{}.json"


class RankLost(SearchFailed):
    """Another rank is gone or does not answer; the process groups of the training cannot be used any more."""


class DeviceLost(RankLost):
    """The device answers this process with errors only; a new process can use the device."""

    def __init__(self, what: str) -> None:
        super().__init__(
            f"{what.rstrip('.')}. The device answers this process with nothing but errors from now on, so the search "
            "ends here. Finished trials are in the storage: start the same command again to continue with the next "
            "trial, or let torchrun do it with --max-restarts. With CUDA_LAUNCH_BLOCKING=1 the traceback shows the "
            "operation that failed."
        )


class RankLeftError(RuntimeError):
    """Another rank left the common work with an exception, so this rank leaves it as well."""


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        kind: "oom" (out of memory), "nan" (the training diverged, or its objective is no finite number), "error" (any
            other exception), "lost" (the connection to another rank broke), "left" (another rank failed and this rank
            followed), "storage" (the disk or the storage cannot be written to), "device" (the device cannot be used by
            this process any more).
        reason: One line: exception type, and what it says.
        traceback: Its traceback as text; empty where there was none.
        rank: The process that failed.
        step: Training step of the failure, None if unknown.
    """

    kind: str
    reason: str
    traceback: str = ""
    rank: int = 0
    step: int | None = None

    @classmethod
    def from_error(cls, error: BaseException, *, rank: int = 0, step: int | None = None) -> "Failure":
        """Describes an exception, and releases the frames that it holds with the models in them."""
        text, reason = "".join(traceback.format_exception(error)), describe(error)
        kind = failure_kind(error)
        _clear_frames(error)
        error.add_note(f"Its traceback was:\n{text}")
        return cls(kind=kind, reason=reason[:500], traceback=text[-_MAX_TRACEBACK:], rank=rank, step=step)


def failure_kind(error: BaseException) -> str:
    """The kind of failure that an exception stands for, one of those of ``Failure.kind``."""
    return next((kind for kind, matches in _KINDS if matches(error)), OTHER)


def is_disk_error(error: BaseException) -> bool:
    """Whether an exception says that a disk cannot be written to."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK
    return bool(_DISK_WORDS.search(str(error)))


def _is_device_lost(error: BaseException) -> bool:
    """Whether an exception comes from a device that answers this process with errors from now on.

    After a failed assertion or an illegal access on the device every call fails alike. Other errors, such as arguments
    that a kernel refuses, concern one call: the device still answers. A device that cannot be asked counts as lost.
    """
    import torch

    if not isinstance(error, RuntimeError) or isinstance(error, SearchFailed):  # which quotes other errors
        return False
    accelerator_error = getattr(torch, "AcceleratorError", ())  # since torch 2.8
    if not (isinstance(error, accelerator_error) or _DEVICE_WORDS.search(str(error))):
        return False
    if not torch.cuda.is_available():
        return True
    try:
        # Unlike `synchronize` this does not wait for a collective that another rank may never join.
        torch.cuda.current_stream().query()
    except RuntimeError:
        return True
    return False


def _is_connection_lost(error: BaseException) -> bool:
    import torch.distributed as dist

    if dist.is_available() and isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and bool(_CONNECTION_LOST.search(str(error)))


# In this order: the first that matches is the kind.
_KINDS: tuple[tuple[str, Callable[[BaseException], bool]], ...] = (
    (LEFT, lambda error: isinstance(error, RankLeftError)),
    (DEVICE, lambda error: isinstance(error, DeviceLost)),
    (LOST, lambda error: isinstance(error, RankLost)),
    (STORAGE, lambda error: is_storage_error(error) or is_disk_error(error)),
    (OOM, is_out_of_memory),
    (DEVICE, _is_device_lost),
    (LOST, _is_connection_lost),
)


@contextmanager
def ignore_lost_device() -> Iterator[None]:
    """Ignores errors of a lost device in code that frees or moves memory: they would hide the first error.

    Works as a decorator as well.
    """
    try:
        yield
    except RuntimeError as error:
        if failure_kind(error) != DEVICE:
            raise


def divergence(trainer: Any, metrics: Mapping[str, Any], undefined: Collection[str], step: int) -> Failure | None:
    """The failure if an evaluation shows a diverged training: a loss of the Trainer's own that is no finite number.

    Other metrics may have no value for a while, such as a correlation as long as the model predicts one class.

    Args:
        trainer: With the evaluation data, of which each of several sets has a loss of its own.
        metrics: Of the evaluation.
        undefined: Metrics that are no finite numbers for the untrained model either.
        step: Training step.
    """
    data = getattr(trainer, "eval_dataset", None)
    parts = data if isinstance(data, Mapping) else ()
    for name in ("loss", "eval_loss", *(f"eval_{part}_loss" for part in parts)):
        value = metrics.get(name)
        if name not in undefined and is_number(value) and not math.isfinite(value):
            return Failure(kind=NAN, reason=f"Diverged: {name} is {value}", step=step)
    return None


def no_objective(values: Sequence[float], step: int) -> Failure | None:
    """The failure if an objective that a training ended with is no finite number."""
    bad = [value for value in values if not math.isfinite(value)]
    return Failure(kind=NAN, reason=f"the objective is {bad[0]} at the end", step=step) if bad else None


def write_report(folder: str, number: int, failure: Failure) -> None:
    """Writes the failure of this rank into the trial's folder, from which the next start records it.

    To be called before this rank waits for the others: if they never answer, the launcher ends the job before rank 0
    records the reason. A failure that says nothing about the configuration is not written. The report has the trial's
    number, since a later trial may continue in the same folder.
    """
    if failure.kind in (*CAUSED_BY_ANOTHER_RANK, STORAGE):
        return
    path = Path(folder, _REPORT.format(failure.rank))
    with suppress(OSError):  # without a report the trial is repeated after the restart
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"trial": number, **asdict(failure)}))


def read_report(folder: str, number: int) -> Failure | None:
    """Returns the failure that the lowest rank wrote into a trial's folder; None if there is none."""
    for path in sorted(Path(folder).glob(_REPORT.format("*"))):
        with suppress(OSError, ValueError, TypeError):  # the process may have been killed while it wrote
            report = json.loads(path.read_text())
            if report.pop("trial") == number:
                return Failure(**report)
    return None


def discard_reports(folder: str) -> None:
    """Deletes the failures in a trial's folder, once the trial is recorded."""
    for path in Path(folder).glob(_REPORT.format("*")):
        path.unlink(missing_ok=True)


def _clear_frames(error: BaseException) -> None:
    """Clears the local variables of the frames that an exception and its causes passed through."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        current.__traceback__ = None
        current = current.__cause__ or current.__context__
