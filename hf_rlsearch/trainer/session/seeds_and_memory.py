"""Measures how much memory a training takes, and releases it afterwards."""

import gc
import random
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType

import numpy as np
import psutil


@contextmanager
def preserve_random_state() -> Iterator[None]:
    """Leaves the global random generators as they were."""
    import torch

    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    try:
        yield
    finally:
        random.setstate(states[0])
        np.random.set_state(states[1])
        torch.set_rng_state(states[2])


_INTERVAL = 0.05
"""Seconds between two samples: short against any training, and a sample takes some microseconds."""


class PeakMemory:
    """Context manager that measures the peak memory of what runs inside of it.

    On a CUDA device torch counts the allocated bytes itself. Elsewhere a thread samples the resident memory of the
    process: the maximum that the system keeps is that of the whole life of the process, so a small trial after a large
    one would be charged with the large one's memory.

    Attributes:
        peak: Bytes; of the device, or of the process where there is no CUDA device. Valid once the context is left.
    """

    def __init__(self) -> None:
        self.peak = 0
        self._ended = threading.Event()
        self._sampler: threading.Thread | None = None

    def __enter__(self) -> "PeakMemory":
        import torch

        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()
        else:
            self.peak = resident_memory()
            self._sampler = threading.Thread(target=self._sample, name="peak memory", daemon=True)
            self._sampler.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._sampler is None:
            import torch

            self.peak = int(torch.cuda.max_memory_allocated())
            return
        self._ended.set()
        self._sampler.join()
        self.peak = max(self.peak, resident_memory())

    def _sample(self) -> None:
        while not self._ended.wait(_INTERVAL):
            self.peak = max(self.peak, resident_memory())


def resident_memory() -> int:
    """Bytes of main memory that this process holds now."""
    return int(psutil.Process().memory_info().rss)


def release_memory() -> None:
    """Collects garbage and hands cached device memory back."""
    import torch

    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
