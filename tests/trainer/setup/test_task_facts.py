"""What a Trainer tells the agent about its task."""

import math
import warnings
from collections.abc import Callable, Iterator
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    AutoModelForImageClassification,
    BertConfig,
    BertForMaskedLM,
    GPT2Config,
    GPT2LMHeadModel,
    ResNetConfig,
    T5Config,
    T5ForConditionalGeneration,
    Trainer,
)

from hf_rlsearch.observation.observation import FACTS
from hf_rlsearch.trainer.setup.objective import MINIMIZE, Objective
from hf_rlsearch.trainer.setup.task_facts import task_facts
from tests.trainer.conftest import Rows, tiny_model

MakeTrainer = Callable[..., Trainer]

LOSS = Objective(("eval_loss",), (MINIMIZE,), multi=False, function=None, why="", follows=("eval_loss", False))
COMPUTED = replace(LOSS, names=("error",), follows=None)


class Stream(torch.utils.data.IterableDataset):  # type: ignore[type-arg]
    """Rows without a length."""

    def __iter__(self) -> Iterator[dict[str, torch.Tensor]]:
        rows = Rows(64, 0)
        return (rows[i] for i in range(len(rows)))


def following(metric: str) -> Objective:
    return replace(LOSS, names=(metric,), follows=(metric, False))


def facts_of(trainer: Any, objective: Objective = LOSS, roles: tuple[str, ...] = (), world_size: int = 1) -> Any:
    return task_facts(trainer, roles, objective, world_size)


def of_model(model: Any, metric: str = "eval_loss") -> Any:
    """The facts about a model alone."""
    trainer = SimpleNamespace(model=model, train_dataset=None, args=SimpleNamespace(max_steps=-1))
    return facts_of(trainer, following(metric))


def test_the_facts_of_a_full_fine_tuning(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    facts = facts_of(trainer)
    assert set(facts) <= set(FACTS)
    n_parameters = sum(p.numel() for p in trainer.model.parameters())
    assert facts == pytest.approx(
        {
            "n_parameters": math.log10(n_parameters),
            "trainable": 0.0,
            "n_classes": math.log10(2),
            "n_examples": math.log10(64),
            "n_steps": math.log10(4),
            "n_evaluated": math.log10(32),
            "lora": 0.0,
            "from_scratch": 1.0,
        }
    )


@pytest.mark.parametrize(
    "args",
    [
        {"num_train_epochs": 3},
        {"num_train_epochs": 2.5, "per_device_train_batch_size": 24},
        {"num_train_epochs": 2, "per_device_train_batch_size": 24, "dataloader_drop_last": True},
        {"num_train_epochs": 2, "gradient_accumulation_steps": 3},
        {"num_train_epochs": 0.3, "gradient_accumulation_steps": 3},
        {"per_device_train_batch_size": 100, "dataloader_drop_last": False},
        {"max_steps": 3, "num_train_epochs": 9},
    ],
)
def test_the_planned_steps_are_those_that_the_trainer_makes(make_trainer: MakeTrainer, args: Any) -> None:
    trainer = make_trainer(eval_strategy="no", **args)
    planned = facts_of(trainer)["n_steps"]
    trainer.train()
    assert planned == pytest.approx(math.log10(trainer.state.global_step))


def test_several_processes_share_the_steps(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(per_device_train_batch_size=8)
    assert facts_of(trainer, world_size=3)["n_steps"] == pytest.approx(math.log10(3))  # batches of 24 of 64 rows


def test_data_without_a_length_are_not_counted(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(max_steps=5)
    trainer.train_dataset, trainer.eval_dataset = Stream(), Stream()
    facts = facts_of(trainer)
    assert facts["n_steps"] == pytest.approx(math.log10(5))
    assert not {"n_examples", "n_evaluated"} & set(facts)
    trainer.args.max_steps = -1
    assert "n_steps" not in facts_of(trainer)


def test_rows_of_the_data_set_that_the_objective_reads(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    parts = {"a": Rows(10, 0), "a_b": Rows(20, 0), "c": Rows(30, 0)}
    for data, metric, n in [
        (parts, "eval_a_loss", 10),
        (parts, "eval_a_b_loss", 20),
        (parts, "eval_loss", 60),
        ({**parts, "c": Stream()}, "eval_a_b_loss", 20),
        ({**parts, "c": Stream()}, "eval_c_loss", None),
        ({**parts, "c": Stream()}, "eval_loss", None),
    ]:
        trainer.eval_dataset = data
        expected = None if n is None else pytest.approx(math.log10(n))
        assert facts_of(trainer, following(metric)).get("n_evaluated") == expected
    trainer.eval_dataset = parts
    assert facts_of(trainer, COMPUTED)["n_evaluated"] == pytest.approx(math.log10(60))


def test_an_adapter_is_a_small_share_of_its_model() -> None:
    peft = pytest.importorskip("peft")
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(peft|torch|transformers)(\.|$)")
        config = peft.LoraConfig(task_type="SEQ_CLS", r=2, target_modules=["query", "value"])
        model = peft.get_peft_model(tiny_model(num_labels=5), config)
    n_trained, n_all = model.get_nb_trainable_parameters()
    facts = of_model(model)
    assert facts["lora"] == 1.0
    assert facts["n_parameters"] == pytest.approx(math.log10(n_all))
    assert facts["trainable"] == pytest.approx(math.log10(n_trained / n_all))
    assert facts["n_classes"] == pytest.approx(math.log10(5))


def test_frozen_parameters_are_not_trainable() -> None:
    model = tiny_model()
    for parameter in model.bert.parameters():
        parameter.requires_grad_(False)
    n_head = sum(p.numel() for p in model.classifier.parameters())
    assert of_model(model)["trainable"] == pytest.approx(math.log10(n_head / model.num_parameters()))
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    assert "trainable" not in of_model(model)


def test_packed_and_sharded_parameters_count_in_full() -> None:
    class Params4bit(nn.Parameter):
        """As bitsandbytes holds them: two in each byte."""

    packed = Params4bit(torch.zeros(500, dtype=torch.uint8), requires_grad=False)
    sharded = nn.Parameter(torch.zeros(0))
    sharded.ds_numel = 9000  # type: ignore[attr-defined]
    facts = of_model(nn.ParameterList([packed, sharded]))
    assert facts["n_parameters"] == pytest.approx(math.log10(10000))
    assert facts["trainable"] == pytest.approx(math.log10(0.9))


def test_classes_of_classifications_alone() -> None:
    assert of_model(tiny_model(num_labels=7))["n_classes"] == pytest.approx(math.log10(7))
    assert "n_classes" not in of_model(tiny_model(num_labels=1))
    assert "n_classes" not in of_model(tiny_model(num_labels=3, problem_type="regression"))
    assert "n_classes" not in of_model(nn.Linear(2, 2))
    image: Any = ResNetConfig(embedding_size=4, hidden_sizes=[4], depths=[1], num_labels=4)
    assert of_model(AutoModelForImageClassification.from_config(image))["n_classes"] == pytest.approx(math.log10(4))


def test_a_vocabulary_counts_where_tokens_are_scored() -> None:
    language = language_model()
    assert "n_classes" not in of_model(language)
    assert "n_classes" not in of_model(language, "eval_exact_match")
    assert of_model(language, "eval_mean_token_accuracy")["n_classes"] == pytest.approx(math.log10(20))


def language_model() -> Any:
    config: dict[str, Any] = {"vocab_size": 20, "n_embd": 4, "n_layer": 1, "n_head": 1}
    return GPT2LMHeadModel(GPT2Config(bos_token_id=None, eos_token_id=None, **config))


def model_with_rms_norms() -> Any:
    sizes: dict[str, Any] = {"d_model": 8, "d_kv": 4, "d_ff": 8, "num_layers": 1, "num_heads": 2}
    return T5ForConditionalGeneration(T5Config(vocab_size=20, decoder_start_token_id=0, **sizes))


def model_with_a_norm_in_its_head() -> Any:
    sizes = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 8}
    return BertForMaskedLM(BertConfig(vocab_size=20, **sizes))


@pytest.mark.parametrize("make", [language_model, model_with_rms_norms, model_with_a_norm_in_its_head])
def test_a_step_of_training_shows_in_the_norms(make: Callable[[], Any]) -> None:
    model = make()
    assert of_model(model)["from_scratch"] == 1.0
    fresh_head = [p.clone() for p in model.cls.parameters()] if hasattr(model, "cls") else []
    ids = torch.arange(12).reshape(2, 6)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    with torch.no_grad():
        for parameter, fresh in zip(model.cls.parameters() if fresh_head else (), fresh_head, strict=True):
            parameter.copy_(fresh)
    assert of_model(model)["from_scratch"] == 0.0


def test_without_a_norm_nobody_knows_what_was_trained() -> None:
    assert "from_scratch" not in of_model(nn.Sequential(nn.Linear(2, 2), nn.LayerNorm(2, elementwise_affine=False)))
    with torch.device("meta"):
        assert "from_scratch" not in of_model(nn.LayerNorm(2))


def test_of_a_searched_model_nothing_is_told(make_trainer: MakeTrainer) -> None:
    facts = facts_of(make_trainer(), roles=("learning_rate", "model"))
    assert set(facts) == {"n_examples", "n_steps", "n_evaluated"}
