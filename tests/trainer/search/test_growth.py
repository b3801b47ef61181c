"""Tensors, open files, threads and memory do not grow from trial to trial."""

import gc
import os
import threading
from collections.abc import Callable
from typing import Any

import optuna
import pytest
import torch
from transformers import Trainer

from tests.trainer.conftest import run

MakeTrainer = Callable[..., Trainer]


def n_tensors() -> int:
    gc.collect()
    return sum(1 for thing in gc.get_objects() if issubclass(type(thing), torch.Tensor))


def n_files() -> int:
    return len(os.listdir("/proc/self/fd"))


def resident() -> int:
    """Bytes of this process in main memory."""
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


class ResourceCounter(optuna.samplers.RandomSampler):
    """Counts whenever a trial starts, that is between two trainings."""

    def __init__(self) -> None:
        super().__init__(seed=0)
        self.seen: list[tuple[int, int, int, int]] = []

    def before_trial(self, study: Any, trial: Any) -> None:
        self.seen.append((n_tensors(), n_files(), threading.active_count(), resident()))


@pytest.mark.skipif(not os.path.isdir("/proc/self/fd"), reason="counts open files in /proc")
@pytest.mark.parametrize("n_trials", [6, pytest.param(50, marks=pytest.mark.slow)])
def test_resources_do_not_grow_from_trial_to_trial(make_trainer: MakeTrainer, n_trials: int) -> None:
    counter = ResourceCounter()
    trainer = make_trainer(score=lambda args, state: 1 - args.learning_rate, max_steps=2)
    run(trainer, "rl", n_trials=n_trials, sampler=counter)
    settled, last = counter.seen[2], counter.seen[-1]
    assert last[:3] == settled[:3]
    # Allocators keep a little; a leaked model or optimizer of a real search would be far more than this in 50 trials.
    assert last[3] - settled[3] < 30e6
