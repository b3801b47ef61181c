"""``train.*`` and the searched arguments do in a trial what they say."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, Trainer
from transformers.optimization import Adafactor

from hf_rlsearch import SearchSpaceError
from hf_rlsearch.space import infer_role
from hf_rlsearch.trainer.hyperparameters.reparameterized import ReparameterizedUpdate
from hf_rlsearch.trainer.hyperparameters.scope import scoped_roles
from hf_rlsearch.trainer.hyperparameters.training import rate_factor
from tests.trainer.conftest import Scripted, run

MakeTrainer = Callable[..., Trainer]


def two_layers() -> BertForSequenceClassification:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=2, num_attention_heads=2, intermediate_size=16)
    return BertForSequenceClassification(config)


class Notes(Trainer):
    """Notes what is there at the first step of each training."""

    def train(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("notes", []).append({"rates": []})
        return super().train(*args, **kwargs)

    def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        note = self.__dict__["notes"][-1]
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        note["optimizer"] = optimizer
        note["groups"] = [dict(group) for group in optimizer.param_groups]
        note["rates"].append(max(group["lr"] for group in optimizer.param_groups))
        note["schedule"] = type(getattr(self.lr_scheduler, "scheduler", self.lr_scheduler)).__name__
        note["trained"] = [name for name, value in self.model.named_parameters() if value.requires_grad]
        note["args"] = self.args
        note["smoother"] = self.label_smoother
        note["n_steps"] = self.state.max_steps
        return super().training_step(*args, **kwargs)


def first_steps(make_trainer: MakeTrainer, *values: dict[str, Any], **args: Any) -> list[dict[str, Any]]:
    """Trains one trial for each set of values; the notes of each."""
    trainer = make_trainer(cls=Notes, model_init=lambda: two_layers(), **args)
    trainer.__dict__["notes"] = []
    search_one(trainer, *values)
    return list(trainer.__dict__["notes"])


def search_one(trainer: Trainer, *values: dict[str, Any]) -> Any:
    def space(trial: Any) -> dict[str, Any]:
        return values[trial.suggest_int("which", 0, len(values) - 1)] if len(values) > 1 else one(trial)

    def one(trial: Any) -> dict[str, Any]:
        trial.suggest_int("which", 0, 1)
        return values[0]

    n = len(values)
    result = run(trainer, "rl", space, n_trials=n, sampler=Scripted(which=list(range(n)))).run_summary
    assert [trial.user_attrs.get("rl:failure") for trial in result.trials] == [None] * n
    return result


def test_layers_have_rates_of_their_own_and_some_are_frozen(make_trainer: MakeTrainer) -> None:
    decayed, frozen, plain = first_steps(
        make_trainer,
        {"learning_rate": 1e-3, "train.layer_decay": 0.5, "lr_scheduler_type": "constant"},
        {"learning_rate": 1e-3, "train.frozen_layers": 1, "train.reinit_layers": 1},
        {"learning_rate": 1e-3},
    )
    assert sorted({group["lr"] for group in decayed["groups"]}) == pytest.approx([1.25e-4, 2.5e-4, 5e-4, 1e-3])
    assert len(plain["groups"]) == 2
    assert not any(name.startswith(("bert.embeddings", "bert.encoder.layer.0")) for name in frozen["trained"])
    assert any(name.startswith("bert.encoder.layer.1") for name in frozen["trained"])
    assert len(plain["trained"]) > len(frozen["trained"])


def test_schedules_that_transformers_lacks(make_trainer: MakeTrainer) -> None:
    args = {"num_train_epochs": 3, "learning_rate": 1.0, "per_device_train_batch_size": 16}  # 12 steps
    exponential, step, cosine = first_steps(
        make_trainer,
        {"train.lr_schedule": "exponential", "train.lr_end": 0.1, "optim": "sgd"},
        {"train.lr_schedule": "step", "warmup_steps": 3, "optim": "sgd"},
        {"train.lr_schedule": "cosine", "optim": "sgd"},
        **args,
    )
    assert exponential["rates"] == pytest.approx([0.1 ** (i / 12) for i in range(12)])
    assert step["rates"] == pytest.approx([0, 1 / 3, 2 / 3, 1, 1, 1, 0.1, 0.1, 0.1, 0.01, 0.01, 0.01])
    assert cosine["args"].lr_scheduler_type == "cosine"
    assert cosine["rates"][6] == pytest.approx(0.5)


@pytest.mark.parametrize("name", ["exponential", "step"])
def test_the_rate_ends_at_lr_end(name: str) -> None:
    rates = [rate_factor(i, name=name, n_warmup=10, n_steps=100, end=0.05) for i in range(101)]
    assert rates[0] == 0.0
    assert rates[10] == 1.0
    assert rates[100] == pytest.approx(0.05)
    assert rates[10:] == sorted(rates[10:], reverse=True)


@pytest.mark.parametrize(
    ("values", "seen"),
    [
        ({"optim": "adamw_torch", "weight_decay": 0.3}, lambda n: n["groups"][0]["weight_decay"] == 0.3),
        ({"optim": "sgd", "train.momentum": 0.9}, lambda n: [g["momentum"] for g in n["groups"]] == [0.9, 0.9]),
        ({"optim": "adafactor"}, lambda n: isinstance(n["optimizer"], Adafactor)),
        ({"optim": "adamw_torch", "train.momentum": 0.9}, lambda n: isinstance(n["optimizer"], torch.optim.AdamW)),
        (
            {"optim": "sgd", "train.gradient_scale": 0.25},
            lambda n: isinstance(n["optimizer"], ReparameterizedUpdate) and n["optimizer"].gradient_scale == 0.25,
        ),
        ({"optim": "sgd", "train.gradient_scale": "0.25"}, lambda n: n["optimizer"].gradient_scale == 0.25),
        ({"train.frozen_layers": 1.0, "train.reinit_layers": 1.0}, lambda n: len(n["groups"]) == 2),
        ({"label_smoothing_factor": 0.1}, lambda n: n["smoother"].epsilon == 0.1),
        ({"max_grad_norm": 0.5}, lambda n: n["args"].max_grad_norm == 0.5),
        ({"warmup_steps": 0.5, "learning_rate": 1.0, "optim": "sgd"}, lambda n: n["rates"][:2] == [0.0, 0.5]),
        ({"train.lr_schedule": "reduce_lr_on_plateau"}, lambda n: n["schedule"] == "ReduceLROnPlateau"),
        ({"lr_scheduler_type": "polynomial"}, lambda n: n["rates"][0] > n["rates"][-1]),
        ({"lr_scheduler_type": "constant"}, lambda n: n["rates"][0] == n["rates"][-1]),
        ({"per_device_train_batch_size": 8, "gradient_accumulation_steps": 4}, lambda n: n["n_steps"] == 2),
        ({"num_train_epochs": 2}, lambda n: n["n_steps"] == 8),
        ({"bf16": True}, lambda n: n["args"].bf16),
    ],
    ids=lambda value: "-".join(map(str, value)) if isinstance(value, dict) else "",
)
def test_searched_values_reach_the_training(make_trainer: MakeTrainer, values: Any, seen: Any) -> None:
    (note,) = first_steps(make_trainer, values)
    assert seen(note)


def test_scoped_values_are_stored_in_the_types_in_which_they_are_applied(make_trainer: MakeTrainer) -> None:
    values = {"optim": "sgd", "train.gradient_scale": "0.25", "train.frozen_layers": 1.0, "train.lr_schedule": "step"}
    trainer = make_trainer(model_init=lambda: two_layers())
    (trial,) = search_one(trainer, values).trials
    stored = trial.user_attrs["rl:values"]
    assert stored == {**values, "train.gradient_scale": 0.25, "train.frozen_layers": 1}
    assert type(stored["train.frozen_layers"]) is int


def test_a_value_that_no_example_showed_fails_its_trial_before_the_training(make_trainer: MakeTrainer) -> None:
    def rare(trial: Any) -> dict[str, Any]:
        rate = trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True)
        return {"learning_rate": rate, "train.momentum": 5.0 if rate == 2.5e-3 else 0.5}

    trainer = make_trainer(model_init=lambda: two_layers())
    result = run(trainer, "rl", rare, n_trials=2, sampler=Scripted(learning_rate=[1e-3, 2.5e-3])).run_summary
    assert "train.momentum=5.0, which the search refuses" in result.trials[1].user_attrs["rl:failure"]["reason"]


def test_replay_and_plain_training_repeat_a_trial(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(model_init=lambda: two_layers())
    values = {"learning_rate": 1e-2, "train.layer_decay": 0.7, "train.reinit_layers": 1, "train.lr_schedule": "step"}
    result = search_one(trainer, values)
    again = make_trainer(model_init=lambda: two_layers())
    assert result.replay(again, 0) == result.trials[0].value
    for other in (again, trainer):
        result.apply(other)
        result.apply(other).train()  # twice is once
        assert other.evaluate()["eval_loss"] == result.trials[0].values[0]
    assert len(trainer.optimizer.param_groups) == 8


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("train.layer_decay", 1.5, r"train.layer_decay=1.5, which the search refuses: expected a number in \(0, 1\]"),
        ("train.frozen_layers", 3, "expected 0 to 2, the number of layers"),
        ("train.reinit_layers", -1, "expected 0 to 2"),
        ("train.lr_schedule", "expo", "'expo' is not a valid|expo is not a valid"),
        (
            "train.lr_schedule",
            "cosine_with_min_lr",
            "transformers cannot make this schedule without lr_scheduler_kwargs",
        ),
        ("train.momentum", 1.0, r"expected a number in \[0, 1\)"),
        ("train.gradient_scale", 0.0, "expected a number in"),
    ],
)
def test_wrong_values_stop_before_any_training(make_trainer: MakeTrainer, name: str, value: Any, match: str) -> None:
    class NeverTrains(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("The search began to train.")

    trainer = make_trainer(cls=NeverTrains, model_init=lambda: two_layers())
    with pytest.raises(SearchSpaceError, match=match):
        run(trainer, "rl", lambda trial: {name: trial.suggest_categorical(name, [value])})


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("model.hidden_dropout_prob", "dropout"),
        ("model.initializer_range", "generic_numeric"),
        ("model.hidden_size", "width"),
        ("peft.r", "lora_rank"),
        ("train.lr_schedule", "scheduler"),
        ("train.layer_decay", "layer_decay"),
        ("train.frozen_layers", "generic_numeric"),
        ("train.lr_end", "generic_numeric"),
        ("model.layer_norm_eps", "generic_numeric"),
        *((f"gen.{name}", "generic_numeric") for name in ("num_beams", "length_penalty", "max_length", "top_k")),
    ],
)
def test_scoped_names_have_a_role(name: str, role: str) -> None:
    from optuna.distributions import IntDistribution

    distribution = IntDistribution(1, 4)
    assert scoped_roles({name: distribution}).get(name, infer_role(name, distribution)) == role
