"""``model.*`` is in the trial's model, in the result, in the Trainer afterwards; unknown names stop before any work."""

from collections.abc import Callable
from dataclasses import is_dataclass
from typing import Any

import pytest
import torch
from transformers import BertConfig, BertForSequenceClassification, GPT2Config, GPT2LMHeadModel, Trainer

from hf_rlsearch import SearchSpaceError, search
from hf_rlsearch.trainer.hyperparameters.model import model_group, rebuild_model
from tests.trainer.conftest import Rows, Scripted, run, tiny_model

MakeTrainer = Callable[..., Trainer]


def space(trial: Any) -> dict[str, Any]:
    return {
        "learning_rate": trial.suggest_float("learning_rate", 1e-4, 1e-2, log=True),
        "model.hidden_dropout_prob": trial.suggest_float("model.hidden_dropout_prob", 0.0, 0.5),
    }


def sampler() -> Scripted:
    return Scripted(**{"learning_rate": [1e-3, 1e-3], "model.hidden_dropout_prob": [0.0, 0.4]})


def dropout_of(model: Any) -> tuple[float, float]:
    return model.config.hidden_dropout_prob, model.bert.encoder.layer[0].output.dropout.p


def seen_dropouts(trainer: Trainer) -> list[tuple[float, float]]:
    """Fills itself while the Trainer trains."""
    seen: list[tuple[float, float]] = []
    inner = trainer.evaluate

    def evaluate(*args: Any, **kwargs: Any) -> Any:
        if trainer.is_in_train:
            seen.append(dropout_of(trainer.model))
        return inner(*args, **kwargs)

    trainer.evaluate = evaluate  # type: ignore[method-assign]
    return seen


@pytest.mark.parametrize("takes_trial", [False, True])
def test_a_trial_has_its_dropout_and_the_user_keeps_his(make_trainer: MakeTrainer, takes_trial: bool) -> None:
    trainer = make_trainer(model_init=(lambda trial: tiny_model()) if takes_trial else (lambda: tiny_model()))
    seen = seen_dropouts(trainer)
    best = run(trainer, "rl", space, n_trials=3, sampler=sampler(), baseline=True)
    assert seen == [(0.1, 0.1), (0.0, 0.0), (0.4, 0.4)]
    own = best.run_summary.baseline
    assert own.user_attrs["rl:hyperparameters"]["model.hidden_dropout_prob"] == 0.1


def test_the_result_names_it_and_the_trainer_has_it(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer(score=lambda args, state: dropout_of(trainer.model)[1])
    best = run(trainer, "rl", space, n_trials=2, sampler=sampler(), metric="accuracy")
    assert best.hyperparameters == {"learning_rate": 1e-3, "model.hidden_dropout_prob": 0.4}
    assert dropout_of(trainer.model) == (0.4, 0.4)
    trainer.train()
    assert dropout_of(trainer.model) == (0.4, 0.4)


def test_replay_and_apply_repeat_the_trial_to_the_last_bit(make_trainer: MakeTrainer) -> None:
    trainer = make_trainer()
    best = run(trainer, "rl", space, n_trials=2, sampler=sampler())
    result = best.run_summary
    again = make_trainer()
    for trial in result.trials:
        assert result.replay(again, trial.number) == trial.value
    for other in (again, trainer):  # the Trainer that was searched has the values already
        result.apply(other).train()
        assert other.evaluate()["eval_loss"] == best.objective


def test_a_name_may_be_conditional(make_trainer: MakeTrainer) -> None:
    def conditional(trial: Any) -> dict[str, Any]:
        with_it = trial.suggest_categorical("regularised", [True, False])
        rest = {"model.hidden_dropout_prob": trial.suggest_float("p", 0.0, 0.5)} if with_it else {}
        return {"learning_rate": 1e-3, **rest}

    trainer = make_trainer()
    seen = seen_dropouts(trainer)
    run(trainer, "rl", conditional, n_trials=3, sampler=Scripted(regularised=[True, False, True], p=[0.3, 0.5]))
    assert seen == [(0.3, 0.3), (0.1, 0.1), (0.5, 0.5)]


def test_a_trainer_with_a_model_begins_each_trial_with_a_copy_of_it(make_trainer: MakeTrainer) -> None:
    given = tiny_model()
    before = {name: value.clone() for name, value in given.state_dict().items()}
    trainer = Trainer(model=given, args=make_trainer().args, train_dataset=Rows(64, 0), eval_dataset=Rows(32, 1))
    begun = []
    inner = trainer.get_train_dataloader

    def look(*args: Any) -> Any:
        begun.append(float(trainer.model.bert.embeddings.word_embeddings.weight.detach().sum()))
        return inner(*args)

    trainer.get_train_dataloader = look  # type: ignore[method-assign]
    result = search(trainer, space, n_trials=2, sampler=sampler(), baseline=False)
    assert begun == [float(before["bert.embeddings.word_embeddings.weight"].sum())] * 2
    assert all(torch.equal(value, before[name]) for name, value in given.state_dict().items())
    assert dropout_of(trainer.model)[0] == result.hyperparameters()["model.hidden_dropout_prob"]
    assert trainer.evaluate()["eval_loss"] == result.best_value


@pytest.mark.parametrize(
    ("name", "value", "match"),
    [
        ("model.hiden_dropout_prob", 0.1, "BertConfig has no field.*Did you mean 'model.hidden_dropout_prob'"),
        ("hidden_dropout_prob", 0.1, "Did you mean 'model.hidden_dropout_prob'"),
        ("modle.hidden_dropout_prob", 0.1, "Did you mean 'model.hidden_dropout_prob'"),
        ("model.hidden_dropout_prob", "much", "model.hidden_dropout_prob='much', which BertConfig refuses"),
        pytest.param(
            *("model.num_hidden_layers", 1.5, "model.num_hidden_layers=1.5, which BertConfig refuses"),
            marks=pytest.mark.skipif(not is_dataclass(BertConfig), reason="transformers 5.0 takes values of any type"),
        ),
        ("model.vocab_size", 60, "BertConfig has no field 'vocab_size'"),
        ("peft.r", 4, "BertForSequenceClassification without an adapter.*get_peft_model"),
        ("gen.num_beams", 4, "predict_with_generate=True"),
        ("train.layer_dekay", 0.9, "Did you mean 'train.layer_decay'"),
    ],
)
def test_wrong_names_and_values_stop_before_any_training(
    make_trainer: MakeTrainer, name: str, value: Any, match: str
) -> None:
    class NeverTrains(Trainer):
        def train(self, *args: Any, **kwargs: Any) -> Any:
            raise AssertionError("The search began to train.")

    with pytest.raises(SearchSpaceError, match=match):
        run(make_trainer(cls=NeverTrains), "rl", lambda trial: {name: trial.suggest_categorical(name, [value])})


def test_only_weights_that_fit_are_taken_over() -> None:
    config = BertConfig(vocab_size=50, hidden_size=16, num_hidden_layers=3, num_attention_heads=2, intermediate_size=32)
    model = BertForSequenceClassification(config)
    shallow = rebuild_model(model, {"num_hidden_layers": 2})
    second = [m.bert.encoder.layer[1].output.dense.weight for m in (shallow, model)]
    assert torch.equal(*second)
    wide = rebuild_model(model, {"intermediate_size": 64})
    assert wide.bert.encoder.layer[0].intermediate.dense.weight.shape == (64, 16)
    assert torch.equal(wide.classifier.weight, model.classifier.weight)
    assert rebuild_model(model, {"hidden_dropout_prob": 0.1}) is model
    assert model.config.num_hidden_layers == 3


def test_frozen_weights_and_the_way_of_generating_stay() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    model.transformer.wte.weight.requires_grad_(False)
    model.generation_config.max_length = 7
    changed = rebuild_model(model, {"hidden_size": 16, "resid_pdrop": 0.3})
    assert not changed.transformer.wte.weight.requires_grad
    assert changed.lm_head.weight is changed.transformer.wte.weight
    assert changed.generation_config.max_length == 7
    assert changed.config.resid_pdrop == 0.3


def test_names_of_the_attribute_map_are_known() -> None:
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_positions=16, n_embd=16, n_layer=1, n_head=2))
    assert model_group(model).defaults["num_hidden_layers"] == model_group(model).defaults["n_layer"] == 1


def test_a_model_that_was_changed_after_it_was_built_is_refused() -> None:
    model = tiny_model()
    model.classifier = torch.nn.Sequential(torch.nn.Linear(16, 16), torch.nn.Linear(16, 2))
    with pytest.raises(SearchSpaceError, match=r"has built it \(classifier\.0.*Suggest such values in model_init"):
        model_group(model)
    with pytest.raises(SearchSpaceError, match="returns a Linear, expected a transformers model"):
        model_group(torch.nn.Linear(2, 2))
