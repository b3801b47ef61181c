"""Peak memory belongs to one trial, not to the process that has run larger ones before."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer

from hf_rlsearch.trainer.session.seeds_and_memory import PeakMemory
from tests.trainer.conftest import Scripted, run

pytestmark = pytest.mark.skipif(
    torch.cuda.is_available(), reason="measures the process, which is done without CUDA only"
)
LARGE = 400_000_000


def test_a_small_training_after_a_large_one_has_its_own_peak() -> None:
    with PeakMemory() as large:
        block = np.ones(LARGE, dtype=np.uint8)
        del block
    with PeakMemory() as small:
        block = np.ones(1_000_000, dtype=np.uint8)
        del block
    assert large.peak - small.peak > LARGE / 2


def test_the_sampling_ends_with_an_error() -> None:
    memory = PeakMemory()
    with pytest.raises(KeyboardInterrupt), memory:
        raise KeyboardInterrupt
    assert memory.peak > 0
    assert memory._sampler is not None
    assert not memory._sampler.is_alive()


def test_trials_have_peaks_of_their_own(make_trainer: Callable[..., Trainer]) -> None:
    def score(args: Any, state: Any) -> float:
        np.ones(LARGE if args.learning_rate > 1e-3 else 1, dtype=np.uint8).sum()
        return float(args.learning_rate)

    trainer = make_trainer(score=score)
    result = run(trainer, "rl", n_trials=2, sampler=Scripted(learning_rate=[1e-2, 1e-4])).run_summary
    first, second = (trial.user_attrs["rl:peak_memory"] for trial in result.trials)
    assert first - second > LARGE / 2
