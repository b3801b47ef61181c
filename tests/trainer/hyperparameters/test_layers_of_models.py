"""Where parameters are in real architectures, and what freezing, decay and re-initialisation do there."""

from typing import Any

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BertConfig,
    BertForSequenceClassification,
    DebertaV2Config,
    DebertaV2ForSequenceClassification,
    GPT2Config,
    GPT2LMHeadModel,
    T5Config,
    T5ForConditionalGeneration,
    ViTConfig,
    ViTForImageClassification,
)

from hf_rlsearch import embedded
from hf_rlsearch.trainer.hyperparameters import trial_model_init
from hf_rlsearch.trainer.hyperparameters.layers import decay_rates, freeze, n_layers, places, reinitialize, stacks
from tests.helpers.seq2seq import copier

SIZES = {"hidden_size": 8, "num_hidden_layers": 3, "num_attention_heads": 2, "intermediate_size": 8}


def bert() -> Any:
    return BertForSequenceClassification(BertConfig(vocab_size=20, **SIZES))


def deberta() -> Any:
    config = DebertaV2Config(vocab_size=20, relative_attention=True, pos_att_type=["c2p"], **SIZES)
    return DebertaV2ForSequenceClassification(config)


def gpt2() -> Any:
    return GPT2LMHeadModel(GPT2Config(vocab_size=20, n_positions=8, n_embd=8, n_layer=3, n_head=2))


def t5() -> Any:
    return T5ForConditionalGeneration(
        T5Config(vocab_size=20, d_model=8, d_kv=4, d_ff=8, num_layers=3, num_decoder_layers=2, num_heads=2)
    )


def vit() -> Any:
    return ViTForImageClassification(ViTConfig(image_size=8, patch_size=4, **SIZES))


@pytest.mark.parametrize(
    ("make", "n_stacks", "below", "top", "above"),
    [
        (bert, 1, "bert.embeddings.word_embeddings", "bert.encoder.layer.2.output.dense", "classifier"),
        (deberta, 1, "deberta.encoder.rel_embeddings", "deberta.encoder.layer.2.output.dense", "pooler.dense"),
        (gpt2, 1, "transformer.wpe", "transformer.h.2.mlp.c_fc", "transformer.ln_f"),
        (t5, 2, "shared", "decoder.block.1.layer.2.DenseReluDense.wo", "decoder.final_layer_norm"),
        (vit, 1, "vit.embeddings.patch_embeddings.projection", None, "classifier"),
        (copier, 2, "model.shared", "model.decoder.layers.0.fc1", None),
    ],
)
def test_every_parameter_has_its_place(
    make: Any, n_stacks: int, below: str, top: str | None, above: str | None
) -> None:
    model = make()
    where = places(model)
    assert len(stacks(model)) == n_stacks
    highest = n_layers(model)
    assert where[f"{below}.weight"] == (0, highest + 1)
    if top is not None:
        assert where[f"{top}.weight"].from_above == 1
    if above is not None:
        assert where[f"{above}.weight"].from_above == 0
    assert {place.from_above for place in where.values()} >= set(range(1, highest + 2))


def test_frozen_layers_are_the_lowest_with_the_embeddings() -> None:
    model = bert()
    freeze(model, 2)
    trained = {
        name.removeprefix("bert.").split(".weight")[0] for name, p in model.named_parameters() if p.requires_grad
    }
    assert all(name.startswith(("encoder.layer.2", "pooler", "classifier")) for name in trained)
    assert any(name.startswith("encoder.layer.2") for name in trained)
    other = bert()
    freeze(other, 0)
    assert all(parameter.requires_grad for parameter in other.parameters())


def test_layers_that_were_drawn_anew_are_not_frozen() -> None:
    values = {"train.frozen_layers": 3, "train.reinit_layers": 1}
    model = trial_model_init(bert, values)()
    trained = {name.split(".")[3] for name, p in model.bert.encoder.named_parameters("bert.encoder") if p.requires_grad}
    assert trained == {"2"}
    assert not any(parameter.requires_grad for parameter in model.bert.embeddings.parameters())


def test_top_layers_and_pooler_are_drawn_anew_even_from_a_checkpoint() -> None:
    path = embedded.path("bert-tiny")
    model, same = (AutoModelForSequenceClassification.from_pretrained(path, num_labels=2) for _ in range(2))
    reinitialize(model, 1)
    n = n_layers(model)
    changed = set()
    for (name, value), (_, before) in zip(model.named_parameters(), same.named_parameters(), strict=True):
        if name.startswith("bert.") and not torch.equal(value, before):
            changed.add(name.removeprefix("bert.").rsplit(".", 1)[0])
    assert changed
    assert all(name.startswith((f"encoder.layer.{n - 1}.", "pooler")) for name in changed)
    weight = model.bert.encoder.layer[n - 1].intermediate.dense.weight
    assert float(weight.detach().std()) == pytest.approx(model.config.initializer_range, rel=0.2)
    assert float(model.bert.encoder.layer[n - 1].intermediate.dense.bias.detach().abs().max()) == 0.0


def test_rates_fall_from_layer_to_layer() -> None:
    model = bert()
    decayed = [p for name, p in model.named_parameters() if "bias" not in name]
    rest = [p for name, p in model.named_parameters() if "bias" in name]
    groups = [{"params": decayed, "weight_decay": 0.1}, {"params": rest, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=1e-2)
    decay_rates(optimizer, model, 0.5)
    rates = {id(p): (group["lr"], group["weight_decay"]) for group in optimizer.param_groups for p in group["params"]}
    assert len(rates) == len(list(model.parameters()))
    assert rates[id(model.classifier.weight)] == (1e-2, 0.1)
    assert rates[id(model.bert.encoder.layer[2].output.dense.bias)] == (5e-3, 0.0)
    assert rates[id(model.bert.encoder.layer[0].output.dense.weight)] == (1.25e-3, 0.1)
    assert rates[id(model.bert.embeddings.word_embeddings.weight)] == (6.25e-4, 0.1)
