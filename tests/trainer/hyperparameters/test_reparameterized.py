"""The re-parameterized update does what its formula says, with any optimizer and inside a Trainer."""

import copy
import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.optim import SGD, Adam
from transformers import PretrainedConfig, PreTrainedModel, Trainer, TrainingArguments

from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.trainer.hyperparameters import attach_optimizer
from hf_rlsearch.trainer.hyperparameters.reparameterized import ReparameterizedUpdate


def parameter(*values: float) -> torch.nn.Parameter:
    return torch.nn.Parameter(torch.tensor(values, dtype=torch.float64))


def take_steps(weights: torch.nn.Parameter, optimizer: torch.optim.Optimizer, n_steps: int) -> list[float]:
    for _ in range(n_steps):
        optimizer.zero_grad()
        weights.square().sum().backward()
        optimizer.step()
    return weights.tolist()


def test_one_step_has_the_right_sign_and_size() -> None:
    weights = parameter(3.0, -1.0)
    update = ReparameterizedUpdate(SGD([weights], lr=0.1), gradient_scale=0.25)
    assert take_steps(weights, update, 1) == pytest.approx([3.0 - 0.1 * 0.25 * 6.0, -1.0 + 0.1 * 0.25 * 2.0])


def test_scale_follows_from_the_number_of_steps() -> None:
    assert ReparameterizedUpdate(SGD([parameter(1.0)], lr=1.0), n_steps=16).gradient_scale == 0.25


def test_gradient_descent_with_eta_and_lambda_is_one_with_their_product() -> None:
    weights, plain = parameter(3.0, -1.0), parameter(3.0, -1.0)
    update = ReparameterizedUpdate(SGD([weights], lr=0.4), n_steps=100)
    assert take_steps(weights, update, 20) == pytest.approx(take_steps(plain, SGD([plain], lr=0.04), 20))


def test_adam_does_not_notice_the_scale() -> None:
    weights, plain = parameter(3.0, -1.0), parameter(3.0, -1.0)
    update = ReparameterizedUpdate(Adam([weights], lr=0.1, eps=1e-15), gradient_scale=1e-3)
    assert take_steps(weights, update, 5) == pytest.approx(take_steps(plain, Adam([plain], lr=0.1, eps=1e-15), 5))


def test_weight_decay_is_not_scaled() -> None:
    weights = parameter(2.0)
    update = ReparameterizedUpdate(SGD([weights], lr=0.1, weight_decay=0.5), gradient_scale=0.25)
    assert take_steps(weights, update, 1) == pytest.approx([2.0 - 0.1 * (0.25 * 4.0 + 0.5 * 2.0)])


def test_schedule_reaches_the_wrapped_optimizer() -> None:
    weights = parameter(1.0)
    inner = SGD([weights], lr=1.0)
    update = ReparameterizedUpdate(inner, gradient_scale=0.5)
    schedule = torch.optim.lr_scheduler.StepLR(update, step_size=1, gamma=0.1)
    take_steps(weights, update, 1)
    schedule.step()
    assert inner.param_groups[0]["lr"] == update.param_groups[0]["lr"] == pytest.approx(0.1)


def test_parameters_can_be_added_and_frozen_ones_are_left_alone() -> None:
    first, second, frozen = parameter(1.0), parameter(1.0), parameter(1.0)
    update = ReparameterizedUpdate(SGD([first, frozen], lr=0.1), gradient_scale=0.5)
    update.add_param_group({"params": [second]})
    (first.square() + second.square()).sum().backward()
    update.step()
    assert [first.item(), second.item(), frozen.item()] == pytest.approx([0.9, 0.9, 1.0])


def test_closure_is_scaled_after_it_computed_the_gradients() -> None:
    weights = parameter(1.0)
    update = ReparameterizedUpdate(SGD([weights], lr=0.1), gradient_scale=0.5)

    def closure() -> float:
        update.zero_grad()
        loss = weights.square().sum()
        loss.backward()
        return loss.item()

    assert update.step(closure) == 1.0
    assert weights.item() == pytest.approx(1.0 - 0.1 * 0.5 * 2.0)


def test_state_is_that_of_the_wrapped_optimizer() -> None:
    weights, again = parameter(3.0, -1.0), parameter(3.0, -1.0)
    update = ReparameterizedUpdate(Adam([weights], lr=0.1), gradient_scale=0.5)
    take_steps(weights, update, 3)
    saved = copy.deepcopy(update.state_dict())
    with torch.no_grad():
        again.copy_(weights)
    loaded = ReparameterizedUpdate(Adam([again], lr=0.9), gradient_scale=0.5)
    loaded.load_state_dict(saved)
    assert loaded.param_groups[0]["lr"] == 0.1
    assert take_steps(again, loaded, 3) == take_steps(weights, update, 3)
    Adam([parameter(0.0, 0.0)], lr=0.1).load_state_dict(saved)


def test_a_copy_is_independent() -> None:
    weights = parameter(1.0)
    update = copy.deepcopy(ReparameterizedUpdate(SGD([weights], lr=0.1), gradient_scale=0.5))
    (copied,) = update.param_groups[0]["params"]
    assert take_steps(copied, update, 1) == pytest.approx([1.0 - 0.1 * 0.5 * 2.0])
    assert weights.item() == 1.0


def test_an_optimizer_with_modes_is_switched() -> None:
    class Averaging(SGD):
        mode = ""

        def train(self) -> None:
            self.mode = "train"

        def eval(self) -> None:
            self.mode = "eval"

    inner = Averaging([parameter(1.0)], lr=0.1)
    update = ReparameterizedUpdate(inner, gradient_scale=0.5)
    update.train()
    assert inner.mode == "train"
    update.eval()
    assert inner.mode == "eval"
    ReparameterizedUpdate(SGD([parameter(1.0)], lr=0.1), gradient_scale=0.5).train()


@pytest.mark.parametrize(
    ("given", "text"),
    [
        ({}, "give one of them"),
        ({"gradient_scale": 0.5, "n_steps": 4}, "give one of them"),
        ({"gradient_scale": 0.0}, "greater than 0"),
        ({"gradient_scale": math.inf}, "finite"),
        ({"n_steps": 0}, "at least 1"),
    ],
)
def test_wrong_scales_are_errors(given: dict[str, Any], text: str) -> None:
    with pytest.raises(ArgumentsError, match=text):
        ReparameterizedUpdate(SGD([parameter(1.0)], lr=1.0), **given)


class LineConfig(PretrainedConfig):
    model_type = "line"


class Line(PreTrainedModel):
    """y = w x, trained on the squared error."""

    config_class = LineConfig

    def __init__(self, config: LineConfig) -> None:
        super().__init__(config)
        self.weight = torch.nn.Parameter(torch.tensor([2.0]))
        self.post_init()

    def _init_weights(self, module: torch.nn.Module) -> None:
        pass

    def forward(self, x: torch.Tensor, labels: torch.Tensor) -> dict[str, torch.Tensor]:
        guess = self.weight * x
        return {"loss": (guess - labels).square().mean(), "logits": guess}


def trained_weight(tmp_path: Path, learning_rate: float, n_trainings: int = 1, gradient_scale: float = 1.0) -> float:
    args = TrainingArguments(
        output_dir=str(tmp_path),
        optim="sgd",
        learning_rate=learning_rate,
        lr_scheduler_type="constant",
        max_grad_norm=0.0,
        num_train_epochs=2,
        per_device_train_batch_size=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
    )
    rows = [{"x": float(n), "labels": 0.5 * n} for n in range(8)]
    trainer = Trainer(model=Line(LineConfig()), args=args, train_dataset=rows)
    attach_optimizer(trainer, {"train.gradient_scale": gradient_scale})
    for _ in range(n_trainings):
        trainer.train()
    return float(trainer.model.weight.detach())


def test_a_trainer_scales_its_gradients(tmp_path: Path) -> None:
    plain = trained_weight(tmp_path, 0.004)
    assert plain != pytest.approx(2.0, abs=0.01)
    assert trained_weight(tmp_path, 0.04, gradient_scale=0.1) == pytest.approx(plain)


def test_a_second_training_with_the_same_optimizer_scales_once(tmp_path: Path) -> None:
    plain = trained_weight(tmp_path, 0.001, n_trainings=2)
    assert trained_weight(tmp_path, 0.002, n_trainings=2, gradient_scale=0.5) == pytest.approx(plain)
