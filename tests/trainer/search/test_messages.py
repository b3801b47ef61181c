"""Lines that a search prints about its trials."""

import logging
from collections.abc import Callable
from pathlib import Path

import pytest
from transformers import Trainer

from tests.trainer.storage.test_paused import search

MakeTrainer = Callable[..., Trainer]


def test_a_trial_that_resumes_another_one_names_it(
    make_trainer: MakeTrainer, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    search(make_trainer, tmp_path / "search")
    assert "Trial 3 resumes trial 1 at 33 %." in caplog.text
