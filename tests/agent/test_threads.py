"""Decisions take one thread and leave the rest to the training."""

import threading

import torch

from hf_rlsearch.agent.agent import one_torch_thread


def test_the_number_of_threads_is_restored_whoever_leaves_last() -> None:
    before, during = torch.get_num_threads(), []

    def decide() -> None:
        for _ in range(50):
            with one_torch_thread():
                during.append(torch.get_num_threads())

    torch.set_num_threads(2)
    try:
        workers = [threading.Thread(target=decide) for _ in range(2)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert set(during) == {1}
        assert len(during) == 100
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_the_number_of_threads_is_restored_after_an_error() -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        try:
            with one_torch_thread():
                raise RuntimeError("the decision failed")
        except RuntimeError:
            pass
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)
