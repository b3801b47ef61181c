"""What a failed trial is, and what is kept of it."""

import errno
import math
import re
import traceback
from dataclasses import asdict, dataclass
from typing import Any

from hf_rlsearch._typing import Params
from hf_rlsearch._validation import is_number
from hf_rlsearch.storage import is_storage_error

_PEER_LOST = re.compile(
    r"connection (closed|reset|refused)|broken pipe|gloo|nccl|process ?group|socket|peer|timed out waiting",
    re.IGNORECASE,
)
# A disk that is full, over its quota or read-only; safetensors and torch.save tell it in words alone.
_DISK = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EFBIG})
_DISK_WORDS = re.compile(
    r"no space left on device|disk quota exceeded|read-only file system|file too large|\(os error (28|122|30|27)\)"
    r"|unexpected pos \d+ vs \d+|PytorchStreamWriter failed",
    re.IGNORECASE,
)
# Enough for the frames that matter, small enough for a column of a database.
_MAX_TRACEBACK = 8000


@dataclass(frozen=True)
class Failure:
    """Why a trial failed.

    Attributes:
        kind: "oom" (out of memory), "nan" (the training diverged), "error" (any other exception), "lost" (another rank
            went away), "storage" (nothing more can be written, to the disk or to the storage).
        reason: One line: exception type and text.
        traceback: Its traceback as text; empty where there was none.
        rank: The process it happened on.
        step: Training step at which it happened, None if unknown.
    """

    kind: str
    reason: str
    traceback: str = ""
    rank: int = 0
    step: int | None = None

    def to_json(self) -> Params:
        """As plain data, for messages and for the trial's attribute "failure"."""
        return asdict(self)

    @classmethod
    def from_error(cls, error: BaseException, *, rank: int = 0, step: int | None = None) -> "Failure":
        """Describes an exception and lets go of the frames it holds, with the models in them."""
        text = "".join(traceback.format_exception(error))
        kind = kind_of(error)
        forget_frames(error)
        error.add_note(f"Its traceback was:\n{text}")
        line = f"{type(error).__name__}: {error}".strip().splitlines()[0]
        return cls(kind=kind, reason=line[:500], traceback=text[-_MAX_TRACEBACK:], rank=rank, step=step)


def kind_of(error: BaseException) -> str:
    """The kind of failure that an exception stands for."""
    import torch

    text = str(error)
    if is_storage_error(error) or cannot_write(error):
        return "storage"
    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in text.lower():
        return "oom"
    # DefaultCPUAllocator raises a plain RuntimeError.
    if isinstance(error, RuntimeError) and "can't allocate memory" in text:
        return "oom"
    if isinstance(error, RuntimeError) and _PEER_LOST.search(text):
        return "lost"
    return "error"


def cannot_write(error: BaseException) -> bool:
    """Whether an exception tells of a disk that takes nothing more."""
    if isinstance(error, OSError) and error.errno is not None:
        return error.errno in _DISK
    return bool(_DISK_WORDS.search(str(error)))


def forget_frames(error: BaseException) -> None:
    """Clears the local variables of the frames that an exception and its causes passed through."""
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        traceback.clear_frames(current.__traceback__)
        current.__traceback__ = None
        current = current.__cause__ or current.__context__


def diverged(values: tuple[float, ...], metrics: Any) -> str | None:
    """The reason if an evaluation shows a diverged training: an objective or a loss that is not a finite number."""
    for value in values:
        if not math.isfinite(value):
            return f"the objective is {value}"
    for name, value in metrics.items():
        if name.endswith("loss") and is_number(value) and not math.isfinite(value):
            return f"{name} is {value}"
    return None
