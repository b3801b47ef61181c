"""A seed repeats a training; peak memory is that of one trial, not that of the process that ran larger ones before."""

import random
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from hf_rlsearch.trainer.session.seeds_and_memory import (
    PeakMemory,
    preserve_random_state,
    set_training_seed,
)
from tests.trainer.conftest import Scripted, run

without_cuda = pytest.mark.skipif(
    torch.cuda.is_available(), reason="the memory of the process is measured without CUDA only"
)
LARGE = 400_000_000


def draws() -> tuple[float, float, float]:
    return random.random(), float(np.random.random()), float(torch.rand(1))


def test_the_training_seed_sets_all_generators(make_trainer: Callable[..., Trainer]) -> None:
    args = make_trainer(seed=3).args
    set_training_seed(args)
    first = draws()
    assert draws() != first
    set_training_seed(args)
    assert draws() == first


def test_random_states_are_restored() -> None:
    with preserve_random_state():
        first = draws()
    assert draws() == first


@without_cuda
def test_a_small_training_after_a_large_one_has_its_own_peak() -> None:
    with PeakMemory() as large:
        block = np.ones(LARGE, dtype=np.uint8)
        del block
    with PeakMemory() as small:
        block = np.ones(1_000_000, dtype=np.uint8)
        del block
    assert large.peak - small.peak > LARGE / 2


@without_cuda
def test_the_sampling_ends_with_an_error() -> None:
    memory = PeakMemory()
    with pytest.raises(KeyboardInterrupt), memory:
        raise KeyboardInterrupt
    assert memory.peak > 0
    assert memory._sampler is not None
    assert not memory._sampler.is_alive()


@without_cuda
def test_trials_have_peaks_of_their_own(make_trainer: Callable[..., Trainer]) -> None:
    def score(args: Any, state: Any) -> float:
        np.ones(LARGE if args.learning_rate > 1e-3 else 1, dtype=np.uint8).sum()
        return float(args.learning_rate)

    trainer = make_trainer(score=score)
    result = run(trainer, "rl", n_trials=2, sampler=Scripted(learning_rate=[1e-2, 1e-4])).run_summary
    first, second = (trial.user_attrs["rl:peak_memory"] for trial in result.trials)
    assert first - second > LARGE / 2
