"""Trials start from the same state of what they share, and callbacks share what they share in ``train()``."""

import random
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from transformers import Trainer, TrainerCallback
from transformers.data import default_data_collator

from hf_rlsearch.trainer.session.seeds_and_memory import restorer
from tests.trainer.conftest import Rows, run

MakeTrainer = Callable[..., Trainer]


class Anneals(TrainerCallback):
    """Writes the number of the step into an object, in a way that a test chooses."""

    def __init__(self, shared: Any, write: Callable[[Any, int], object]) -> None:
        self.shared, self.write = shared, write

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.write(self.shared, state.global_step + 1)


class Collator:
    """Records the value of a schedule in each training batch."""

    def __init__(self, schedule: Any, seen: list[Any]) -> None:
        self.schedule, self.seen = schedule, seen

    def __call__(self, rows: list[Any]) -> Any:
        self.seen.append(self.schedule.p)
        return default_data_collator(rows)


class Epochs(Rows):
    """Knows its epoch."""

    epoch = 0

    def __init__(self, seen: list[Any]) -> None:
        super().__init__(64, 0)
        self.seen = seen

    def set_epoch(self, epoch: int) -> None:
        self.epoch = epoch

    def __getitem__(self, index: int) -> Any:
        self.seen.append(self.epoch)
        return super().__getitem__(index)


def of_the_collator(trainer: Any, seen: list[Any]) -> None:
    schedule = SimpleNamespace(p=0)
    trainer.data_collator = Collator(schedule, seen)
    trainer.add_callback(Anneals(schedule, lambda shared, step: setattr(shared, "p", step)))


def of_the_loss(trainer: Any, seen: list[Any]) -> None:
    weights = {"w": 0}

    def loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: Any = None) -> torch.Tensor:
        seen.append(weights["w"])
        return torch.nn.functional.cross_entropy(outputs["logits"], labels)

    trainer.compute_loss_func = loss
    trainer.add_callback(Anneals(weights, lambda shared, step: shared.update(w=step)))


def of_the_data(trainer: Any, seen: list[Any]) -> None:
    inner = Epochs(seen)
    trainer.train_dataset = torch.utils.data.Subset(inner, range(48))
    trainer.add_callback(Anneals(inner, lambda shared, step: shared.set_epoch(step)))


@pytest.mark.parametrize("share", [of_the_collator, of_the_loss, of_the_data])
def test_what_a_callback_changes_reaches_the_training(make_trainer: MakeTrainer, share: Any) -> None:
    def trained_with(n_trials: int) -> list[Any]:
        seen: list[Any] = []
        trainer = make_trainer(score=lambda args, state: 0.5)
        share(trainer, seen)
        if n_trials:
            run(trainer, "rl", n_trials=n_trials, direction="maximize")
        else:
            trainer.train()
        return seen

    plain, searched = trained_with(0), trained_with(2)
    assert searched[-len(plain) :] == searched[-2 * len(plain) : -len(plain)] == plain
    assert len(set(plain)) > 1


class Scores(TrainerCallback):
    """Remembers what its ``compute_metrics`` returned last."""

    def __init__(self) -> None:
        self.last: float | None = None
        self.seen: list[Any] = []

    def compute(self, prediction: Any) -> dict[str, float]:
        before, self.last = self.last, float((prediction.predictions.argmax(-1) == prediction.label_ids).mean())
        self.seen.append(before)
        return {"accuracy": self.last}

    def on_evaluate(self, args: Any, state: Any, control: Any, metrics: Any = None, **kwargs: Any) -> None:
        assert metrics["eval_accuracy"] == self.last


def test_a_callback_that_computes_the_metrics_is_one_object(make_trainer: MakeTrainer) -> None:
    scores = Scores()
    run(make_trainer(metrics=scores.compute, callbacks=[scores], num_train_epochs=2), "rl", n_trials=2)
    first, second = scores.seen[-4:-2], scores.seen[-2:]
    assert first[0] is second[0] is scores.last is None
    assert None not in (first[1], second[1])


class Draws(Rows):
    """Draws a number for each row."""

    def __init__(self, draw: Callable[[], float], generator: Any) -> None:
        super().__init__(64, 0)
        self.generator, self.draw = generator, draw

    def __getitem__(self, index: int) -> Any:
        return {**super().__getitem__(index), "drawn": torch.tensor(self.draw())}


class Drawn:
    """Collects the numbers that were drawn, and draws more from a generator that its first call makes."""

    def __init__(self) -> None:
        self.generator: Any = None
        self.seen: list[float] = []

    def __call__(self, rows: list[Any]) -> Any:
        if self.generator is None:
            self.generator = np.random.default_rng(1)
        self.seen += [*(float(row.pop("drawn", 0.0)) for row in rows), self.generator.random()]
        return default_data_collator(rows)


GENERATORS = [
    lambda: (generator := np.random.default_rng(0), generator.random),
    lambda: (generator := np.random.RandomState(0), generator.random),
    lambda: (generator := random.Random(0), generator.random),
    lambda: (generator := torch.Generator(), lambda: torch.rand(1, generator=generator).item()),
]


@pytest.mark.parametrize("make", GENERATORS)
def test_generators_of_data_and_collator_start_each_trial_alike(make_trainer: MakeTrainer, make: Any) -> None:
    trainer = make_trainer(score=lambda args, state: 0.5, remove_unused_columns=False)
    generator, draw = make()
    trainer.train_dataset, trainer.data_collator = Draws(draw, generator), Drawn()
    seen = trainer.data_collator.seen
    trainer.train()
    n, plain = len(seen), seen[:]
    generator, draw = make()
    trainer.train_dataset, trainer.data_collator.generator = Draws(draw, generator), None
    run(trainer, "rl", n_trials=2, direction="maximize")
    assert seen[-n:] == seen[-2 * n : -n] == plain


def test_other_objects_are_no_generators() -> None:
    assert [restorer(each) for each in (None, 1, np.random, random.SystemRandom())] == [None] * 4


class Centers(Trainer):
    """Has a loss with parameters, statistics in a dict, and a record of the values that a training started with."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.centers = torch.nn.Linear(2, 2)
        self.statistics: dict[str, Any] = {"weights": [1.0, 1.0]}
        self.starts: list[Any] = []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 0:
            self.starts.append((self.centers.weight.sum().item(), self.centers.weight.grad, str(self.statistics)))
        self.statistics["n"] = self.statistics.get("n", 0) + 1
        self.statistics["weights"][0] += 1.0
        loss = self.centers(torch.ones(2)).sum()
        loss.backward()
        with torch.no_grad():
            self.centers.weight -= self.centers.weight.grad
        return super().training_step(*args, **kwargs)


def test_what_a_subclass_holds_starts_each_trial_alike(make_trainer: MakeTrainer) -> None:
    trainer: Any = make_trainer(cls=Centers, score=lambda args, state: 0.5)
    run(trainer, "rl", n_trials=3, direction="maximize")
    assert len(trainer.starts) == 3
    assert len(set(trainer.starts)) == 1
    assert trainer.statistics == {"weights": [1.0, 1.0]}
