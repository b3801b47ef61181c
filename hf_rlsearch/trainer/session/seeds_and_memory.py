"""Sets the seed of a training, preserves random states, and measures and releases memory."""

import ctypes
import random
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, Self

import numpy as np
import psutil

if TYPE_CHECKING:
    from transformers import TrainingArguments

# Seconds between two samples of the resident memory: short against any training, and a sample takes microseconds.
_SAMPLING_INTERVAL = 0.05
_NOT_ALLOCATED = re.compile("can't allocate memory|_ALLOC_FAILED|allocation failed", re.IGNORECASE)


def set_training_seed(args: "TrainingArguments") -> None:
    """Seeds all global random generators as ``Trainer.train()`` does before it builds a model."""
    from transformers.trainer_utils import enable_full_determinism, set_seed

    # The arguments of another trainer than transformers' may lack this field.
    (enable_full_determinism if getattr(args, "full_determinism", False) else set_seed)(args.seed)


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Restores the states of the global random generators on exit."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


def restorer(generator: Any) -> Callable[[], object] | None:
    """Returns what puts a random generator back into the state that it has now; None for any other object."""
    import torch

    if isinstance(generator, torch.Generator):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, np.random.Generator):
        bits = generator.bit_generator
        return partial(setattr, bits, "state", bits.state)
    if isinstance(generator, np.random.RandomState):
        return partial(generator.set_state, generator.get_state())
    if isinstance(generator, random.Random) and not isinstance(generator, random.SystemRandom):
        return partial(generator.setstate, generator.getstate())
    return None


class PeakMemory:
    """Context manager that measures the peak memory of the code inside.

    On a CUDA device torch counts the allocated bytes. Elsewhere a thread samples the resident memory of the process:
    the peak that the operating system keeps is that of the process's whole life, so that a small trial after a large
    one would be charged with the memory of the large one.

    Attributes:
        peak: Bytes; of the device, or of the process where there is no CUDA device. Valid once the context is left,
            before that see ``so_far``.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> Self:
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self.peak = resident_memory()
            self._sampler = threading.Thread(target=self._sample, name="peak memory", daemon=True)
            self._sampler.start()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._sampler is not None:
            self._ended.set()
            self._sampler.join()
        self.peak = self.so_far()

    def so_far(self) -> int:
        """Bytes, the peak until now."""
        if self._sampler is None:
            import torch

            return int(torch.cuda.max_memory_allocated())
        return max(self.peak, resident_memory())

    def _sample(self) -> None:
        while not self._ended.wait(_SAMPLING_INTERVAL):
            self.peak = max(self.peak, resident_memory())


def resident_memory() -> int:
    """Bytes of main memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def release_memory() -> None:
    """Collects garbage, and returns free memory to the device or to the operating system.

    glibc keeps what a large model has left free, and the next trials would be charged with it.
    """
    from accelerate.utils.memory import clear_device_cache

    clear_device_cache(garbage_collection=True)
    if sys.platform == "linux" and hasattr(libc := ctypes.CDLL(None), "malloc_trim"):
        libc.malloc_trim(0)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an exception says that the device or the machine has no memory left."""
    import torch

    if isinstance(error, (torch.OutOfMemoryError, MemoryError)) or "out of memory" in str(error).lower():
        return True
    # What torch's allocator for the CPU and libraries such as cuBLAS raise is a plain RuntimeError.
    return isinstance(error, RuntimeError) and bool(_NOT_ALLOCATED.search(str(error)))
