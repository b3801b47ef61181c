"""The user's own optimizer and schedule are used or refused, and names without effect beside them are said."""

import functools
import logging
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import Trainer, TrainerCallback

import hf_rlsearch
from hf_rlsearch import ArgumentsError
from hf_rlsearch.observation.trial_attributes import HYPERPARAMETERS
from hf_rlsearch.trainer.session.compat import check_optimizers, without_effect
from tests.trainer.conftest import Rows, Scripted, rates, run, tiny_arguments, tiny_model

MakeTrainer = Callable[..., Trainer]


class Watched(TrainerCallback):
    """Keeps the class and the rate of each trial's optimizer."""

    seen: list[tuple[str, float, float]]

    def on_step_end(self, args: Any, state: Any, control: Any, optimizer: Any = None, **kwargs: Any) -> None:
        if state.global_step == 1:
            inner = getattr(optimizer, "optimizer", optimizer)
            type(self).seen.append((type(inner).__name__, inner.param_groups[0]["initial_lr"], args.learning_rate))


def make_sgd(args: Any, model: Any) -> Any:
    return torch.optim.SGD(model.parameters(), lr=args.learning_rate)


class FixedOptimizer(Trainer):
    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        return self.optimizer


class Helped(Trainer):
    def create_optimizer(self, model: Any = None) -> Any:
        self.optimizer = make_sgd(self.args, self.model)
        return self.optimizer


class Extended(Trainer):
    def create_optimizer(self, *args: Any, **kwargs: Any) -> Any:
        return super().create_optimizer(*args, **kwargs)


class FixedSchedule(Trainer):
    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        self.lr_scheduler = torch.optim.lr_scheduler.ConstantLR(self.optimizer or optimizer, factor=1.0)
        return self.lr_scheduler


class Both(Trainer):
    def create_optimizer_and_scheduler(self, num_training_steps: int) -> None:
        self.optimizer = torch.optim.SGD(self.model.parameters(), lr=0.1)
        self.create_scheduler(num_training_steps)


class FixedLoss(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        return torch.nn.functional.cross_entropy(model(**inputs).logits, inputs["labels"])


class SmoothedLoss(Trainer):
    def compute_loss(self, model: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
        loss = super().compute_loss if self.label_smoother is None else self.label_smoother
        return loss(model(**inputs), inputs["labels"])


class FixedBatches(Trainer):
    def get_train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=8)


class OwnBatches(Trainer):
    def get_train_dataloader(self) -> Any:
        return torch.utils.data.DataLoader(self.train_dataset, batch_size=self.args.train_batch_size)


NAMES = ("learning_rate", "weight_decay", "adam_beta1", "warmup_steps", "num_train_epochs")
NAMES += ("label_smoothing_factor", "per_device_train_batch_size")


@pytest.mark.parametrize(
    ("cls", "changes", "silent"),
    [
        (Trainer, {}, set()),
        (Extended, {}, set()),
        (FixedOptimizer, {}, {"learning_rate", "weight_decay", "adam_beta1"}),
        (Both, {}, {"learning_rate", "weight_decay", "adam_beta1"}),
        (Helped, {}, {"weight_decay", "adam_beta1"}),
        (FixedSchedule, {}, {"warmup_steps"}),
        (FixedLoss, {}, {"label_smoothing_factor"}),
        (SmoothedLoss, {}, set()),
        (FixedBatches, {}, {"per_device_train_batch_size"}),
        (OwnBatches, {}, set()),
        (Trainer, {"max_steps": 5}, {"num_train_epochs"}),
        (Trainer, {"lr_scheduler_type": "constant"}, {"warmup_steps"}),
    ],
)
def test_names_that_nothing_reads_are_known(
    make_trainer: MakeTrainer, cls: type[Trainer], changes: dict[str, Any], silent: set[str]
) -> None:
    trainer = make_trainer(cls=cls, **changes)
    assert {name for name, _ in without_effect(trainer, trainer.args, NAMES)} == silent
    assert not list(without_effect(trainer, trainer.args, ["max_grad_norm"]))


def test_a_loss_function_smooths_no_labels(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.compute_loss_func = lambda outputs, labels, **kwargs: outputs["logits"].sum()
    found = list(without_effect(trainer, trainer.args, NAMES))
    assert found == [("label_smoothing_factor", "compute_loss_func of your Trainer does not read that argument")]


def test_nothing_is_said_where_what_is_read_is_not_known(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    trainer.create_optimizer = functools.partial(make_sgd, trainer.args)
    assert not list(without_effect(trainer, trainer.args, NAMES))


def test_a_name_without_effect_is_said_once(make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    run(make_trainer(cls=FixedOptimizer), "rl", n_trials=2, metric="loss")
    assert caplog.text.count("hp_space sets 'learning_rate', which has no effect") == 1
    assert "create_optimizer of your FixedOptimizer" in caplog.text


def test_a_searched_rate_replaces_the_fixed_one_of_the_users_class(
    make_trainer: MakeTrainer, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    Watched.seen = []
    trainer = make_trainer(callbacks=[Watched()])
    trainer.optimizer_cls_and_kwargs = (torch.optim.SGD, {"lr": 0.5, "momentum": 0.9})
    sampler = Scripted(learning_rate=[0.01, 0.02])
    options = {"metric": "loss", "n_trials": 3, "confirm": 0, "sampler": sampler, "pruner": None}
    result = hf_rlsearch.search(trainer, rates, **options)
    recorded = [trial.user_attrs[HYPERPARAMETERS]["learning_rate"] for trial in result.trials]
    assert recorded == [0.5, 0.01, 0.02]
    assert Watched.seen == [("SGD", rate, rate) for rate in (0.5, 0.01, 0.02)]
    assert "no effect" not in caplog.text
    best = result.hyperparameters()["learning_rate"]
    assert trainer.optimizer_cls_and_kwargs[1]["lr"] == trainer.args.learning_rate == best


def test_an_optimizer_of_one_model_is_refused_by_name(tmp_path: Any) -> None:
    model = tiny_model()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
    given = (optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer))
    trainer = Trainer(model, tiny_arguments(tmp_path, eval_strategy="no"), train_dataset=Rows(16, 0), optimizers=given)
    with pytest.raises(ArgumentsError, match=r"SGD, ConstantLR already .*optimizer_cls_and_kwargs=\(cls, kwargs\)"):
        hf_rlsearch.search(trainer, rates, metric="loss")
    assert trainer.optimizer is optimizer


def test_the_optimizer_of_an_earlier_training_is_none_of_the_users(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(cls=FixedSchedule, eval_strategy="no")
    trainer.train()
    assert trainer.optimizer is not None
    check_optimizers(trainer)
