"""What a Trainer tells the agent about its task."""

import math
from collections.abc import Callable
from typing import Any

import pytest
from torch import nn
from transformers import Trainer

from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.trainer.setup.defaults import task_features

MakeTrainer = Callable[..., Trainer]


def test_task_features_hold_the_sizes_of_model_and_data(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    facts = task_features(trainer, {"learning_rate"})
    assert set(facts) <= set(FACTS)
    assert facts["n_parameters"] == pytest.approx(math.log10(sum(p.numel() for p in trainer.model.parameters())))
    assert facts["n_examples"] == pytest.approx(math.log10(len(trainer.train_dataset)))
    assert facts["lora"] == 0.0


def test_a_searched_model_has_no_size() -> None:
    class Bare:
        model: Any = nn.Linear(2, 2)
        train_dataset = None

    assert task_features(Bare(), {"model"}) == {}
    assert "n_parameters" in task_features(Bare(), set())
