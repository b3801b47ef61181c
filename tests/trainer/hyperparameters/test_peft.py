"""``peft.*`` is in the trial's adapter; the user's own adapter is trial 0."""

import warnings
from collections.abc import Callable, Iterator
from typing import Any

import pytest
import torch
from transformers import Trainer

from hf_rlsearch import SearchSpaceError
from hf_rlsearch.trainer.hyperparameters.peft import peft_group
from tests.trainer.conftest import Scripted, run, tiny_model

peft = pytest.importorskip("peft")
MakeTrainer = Callable[..., Trainer]
RANK, DROPOUT = "peft.r", "model.hidden_dropout_prob"


@pytest.fixture(autouse=True)
def _third_party_warnings() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module=r"(peft|torch|transformers)(\.|$)")
        yield


def adapted_model() -> Any:
    config = peft.LoraConfig(task_type="SEQ_CLS", r=2, lora_alpha=4, target_modules=["query", "value"])
    return peft.get_peft_model(tiny_model(), config)


def space(trial: Any) -> dict[str, Any]:
    target = trial.suggest_categorical("target", ["query", "all"])
    return {
        "learning_rate": 1e-2,
        RANK: trial.suggest_categorical(RANK, [1, 2, 4]),
        DROPOUT: trial.suggest_categorical(DROPOUT, [0.1, 0.3]),
        "peft.target_modules": ["query"] if target == "query" else ["query", "key", "value"],
    }


def facts(model: Any) -> tuple[int, int, float]:
    """Rank, number of adapted modules, dropout of the model below."""
    adapters = {name: value for name, value in model.named_parameters() if "lora_A" in name}
    layer = model.base_model.model.bert.encoder.layer[0]
    return next(iter(adapters.values())).shape[0], len(adapters), layer.output.dropout.p


def test_a_trial_has_its_adapter(make_trainer: MakeTrainer) -> None:
    seen: list[tuple[int, int, float]] = []

    def score(args: Any, state: Any) -> float:
        if trainer.is_in_train:
            seen.append(facts(trainer.model))
        return float(facts(trainer.model)[0])

    trainer = make_trainer(model_init=lambda: adapted_model(), score=score)
    sampler = Scripted(**{RANK: [4, 1], DROPOUT: [0.3, 0.1], "target": ["query", "all"]})
    best = run(trainer, "rl", space, n_trials=3, sampler=sampler, baseline=True, metric="accuracy")
    assert seen == [(2, 2, 0.1), (4, 1, 0.3), (1, 3, 0.1)]
    result = best.run_summary
    assert result.baseline.user_attrs["rl:hyperparameters"][RANK] == 2
    constants = {"learning_rate": 0.01, "peft.target_modules": ["query"]}
    assert best.hyperparameters == {RANK: 4, DROPOUT: 0.3, "target": "query", **constants}
    assert facts(trainer.model) == (4, 1, 0.3)
    trainable = {name for name, value in trainer.model.named_parameters() if value.requires_grad}
    assert all("lora_" in name or "classifier" in name for name in trainable)
    again = make_trainer(model_init=lambda: adapted_model(), score=score)
    assert result.replay(again, 1) == 4.0
    for other in (again, trainer):
        result.apply(other).train()
        losses = [entry["eval_loss"] for entry in other.state.log_history if "eval_loss" in entry]
        assert losses == [result.trials[1].user_attrs["rl:metrics"]["eval_loss"]]


def test_the_model_below_keeps_its_weights() -> None:
    from hf_rlsearch.trainer.hyperparameters.peft import base_of, with_adapter

    torch.manual_seed(0)
    model = adapted_model()
    before = model.base_model.model.classifier.modules_to_save["default"].weight.detach().clone()
    again = with_adapter(base_of(model), model.peft_config["default"], {"r": 3})
    assert torch.equal(again.base_model.model.classifier.modules_to_save["default"].weight, before)
    assert facts(again)[:2] == (3, 2)


@pytest.mark.parametrize(
    ("given", "cast"),
    [({"r": 3.0}, {"r": 3}), ({"lora_dropout": "0.5"}, {"lora_dropout": 0.5})]
    + [({"init_lora_weights": value}, {"init_lora_weights": value}) for value in ("gaussian", "pissa_niter_4", False)],
)
def test_values_have_their_type(given: dict[str, Any], cast: dict[str, Any]) -> None:
    fitting = peft_group(adapted_model()).validate(given)
    assert fitting == cast
    assert [type(value) for value in fitting.values()] == [type(value) for value in cast.values()]


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("peft.rank", 4, "LoraConfig has no field 'rank'"),
        ("peft.lora_alfa", 4, "Did you mean 'peft.lora_alpha'"),
        ("lora_alpha", 4, "Did you mean 'peft.lora_alpha'"),
        (RANK, 0, "peft.r=0, which LoraConfig refuses: expected a rank of at least 1"),
        (RANK, 1.5, "peft.r=1.5, which LoraConfig refuses"),
        ("train.reinit_layers", 1, "train.reinit_layers=1, which the search refuses: layers below an adapter"),
    ],
)
def test_wrong_names_and_values_stop_before_any_training(
    make_trainer: MakeTrainer, name: str, value: Any, match: str
) -> None:
    trainer = make_trainer(model_init=lambda: adapted_model())
    with pytest.raises(SearchSpaceError, match=match):
        run(trainer, "rl", lambda trial: {name: trial.suggest_categorical(name, [value])})


def test_several_adapters_are_refused() -> None:
    model = adapted_model()
    model.add_adapter("other", peft.LoraConfig(task_type="SEQ_CLS", target_modules=["key"]))
    with pytest.raises(SearchSpaceError, match=r"the adapters \['default', 'other'\], expected one"):
        peft_group(model)
