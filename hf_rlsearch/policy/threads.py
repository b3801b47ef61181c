"""One thread for the agent's small network."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager

import torch

_deciding = threading.Lock()


@contextmanager
def one_torch_thread() -> Iterator[None]:
    """Runs torch's operators on one thread, and restores the number of threads after.

    The network is too small to gain from more, and where other processes use the cores, waiting for a second OpenMP
    thread makes a decision more than ten times slower. Threads of the same process (``n_jobs``) take turns, since the
    number is theirs together: the last one to leave must not keep the training that follows on one thread.
    """
    with _deciding:
        before = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            yield
        finally:
            torch.set_num_threads(before)
