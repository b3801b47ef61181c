"""Trials start from the same state of what they share, and callbacks share what they share in ``train()``."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

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

    seen: ClassVar[list[Any]] = []

    def __init__(self) -> None:
        self.last: float | None = None

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
        self.statistics: dict[str, Any] = {"n": 0, "weights": [1.0, 1.0]}
        self.by_run: dict[str, Any] = {}
        self.lazy = torch.nn.LazyLinear(2)
        self.starts: list[Any] = []

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        if self.state.global_step == 0:
            self.starts.append((self.centers.weight.sum().item(), self.centers.weight.grad, str(self.statistics)))
        self.statistics["n"] += 1
        self.by_run[Path(self.args.output_dir).name] = self.state.global_step
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
    assert trainer.statistics == {"n": 0, "weights": [1.0, 1.0]}
    assert len(trainer.by_run) == 3  # a record of the user's


class Settings:
    """Answers for every name from a table, and fails for one that is missing."""

    table: ClassVar[dict[str, float]] = {"threshold": 0.5}

    def __getattr__(self, name: str) -> Any:
        return self.table[name]


class Stopper(TrainerCallback):
    """Stops at the second score, and forgets a mask of the collator at the first."""

    def __init__(self, collator: Any) -> None:
        self.scores: list[float] = []
        self.collator, self.masks = collator, [collator.mask]

    def on_evaluate(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.masks.append(self.collator.mask)
        self.scores.append(0.5)
        self.collator.mask = None
        control.should_training_stop = len(self.scores) > 1


def test_a_callback_that_metrics_name_starts_each_trial_alike(make_trainer: MakeTrainer) -> None:
    """Metrics may also name objects that answer for any attribute; what is set to None is set back."""
    settings, steps = Settings(), []

    class Collator:
        mask: Any = "all"

        def __call__(self, rows: Any) -> Any:
            return default_data_collator(rows)

    collator = Collator()
    collator.mask = "all"
    stopper = Stopper(collator)

    def metrics(prediction: Any) -> dict[str, float]:
        return {"accuracy": settings.threshold + len(stopper.scores)}

    class Counts(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            output = super().train(*args, **kwargs)
            steps.append((self.state.global_step, stopper.masks[-2:]))
            return output

    trainer = make_trainer(cls=Counts, metrics=metrics, callbacks=[stopper], num_train_epochs=4)
    trainer.data_collator = collator
    run(trainer, "rl", n_trials=3, direction="maximize")
    assert steps == [(8, ["all", None])] * 3
