"""The embedded checkpoints and data sets: small, deterministic, learnable, never validated on what they saw."""

import zlib
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM, AutoModelForSequenceClassification, AutoTokenizer

from hf_rlsearch import embedded
from hf_rlsearch.errors import ArgumentsError

CHECKSUM = 1315861900
AUTO = {"bert-tiny": AutoModelForMaskedLM, "gpt2-tiny": AutoModelForCausalLM}


@pytest.mark.parametrize("name", embedded.CHECKPOINTS)
def test_checkpoint_is_about_a_megabyte_of_half_precision(name: str) -> None:
    folder = Path(embedded.path(name))
    assert {"README.md", "config.json", "model.safetensors", "tokenizer.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert 0.8e6 < (folder / "model.safetensors").stat().st_size < 1.5e6
    assert {tensor.dtype for tensor in load_file(folder / "model.safetensors").values()} == {torch.float16}


@pytest.mark.parametrize("name", embedded.CHECKPOINTS)
def test_checkpoint_loads_in_single_precision(name: str) -> None:
    model, loading = AUTO[name].from_pretrained(embedded.path(name), output_loading_info=True)
    assert {parameter.dtype for parameter in model.parameters()} == {torch.float32}
    assert not loading["missing_keys"]
    tokenizer = AutoTokenizer.from_pretrained(embedded.path(name))
    assert len(tokenizer) == model.config.vocab_size
    assert tokenizer.decode(tokenizer("return the name")["input_ids"], skip_special_tokens=True) == "return the name"


def test_masked_model_has_learned_its_text() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.path("bert-tiny"))
    model = AutoModelForMaskedLM.from_pretrained(embedded.path("bert-tiny")).eval()
    inputs = tokenizer("Return true if the [MASK] is empty.", return_tensors="pt")
    with torch.no_grad():
        logits = model(**inputs).logits[0, inputs["input_ids"][0].tolist().index(tokenizer.mask_token_id)]
    likely = tokenizer.convert_ids_to_tokens(logits.topk(50).indices.tolist())
    assert {"file", "object", "string", "queue", "value", "list", "name"} & set(likely)


def test_causal_model_knows_documentation_better_than_a_shuffle_of_it() -> None:
    tokenizer = AutoTokenizer.from_pretrained(embedded.path("gpt2-tiny"))
    model = AutoModelForCausalLM.from_pretrained(embedded.path("gpt2-tiny")).eval()
    losses = []
    for sentence in ("Return the name of the file as a string.", "file string of Return a as the name the."):
        tokens = tokenizer(sentence, return_tensors="pt")["input_ids"]
        with torch.no_grad():
            losses.append(float(model(tokens, labels=tokens).loss))
    assert losses[0] + 1 < losses[1]


def test_unknown_checkpoint_is_an_error_with_a_hint() -> None:
    with pytest.raises(ArgumentsError, match=r"'bert_tiny'.*Did you mean 'bert-tiny'\?"):
        embedded.path("bert_tiny")


def test_classification_rows() -> None:
    rows = embedded.classification_dataset(seed=3, n_train=600, n_validation=200)
    assert {split: len(part) for split, part in rows.items()} == {"train": 600, "validation": 200}
    assert rows["train"].features["label"].names == list(embedded.TOPICS)
    for part in rows.values():
        shares = [part["label"].count(label) / len(part) for label in range(len(embedded.TOPICS))]
        assert min(shares) > 0.05
        assert max(shares) < 0.4


def test_splits_share_nothing() -> None:
    rows = embedded.classification_dataset(n_train=3000, n_validation=740)
    assert len(set(rows["train"]["text"])) == 3000
    assert not set(rows["train"]["text"]) & set(rows["validation"]["text"])
    texts = embedded.language_modeling_dataset(n_train=2000, n_validation=500)
    assert {embedded.held_out(row) for row in texts["train"]["text"]} == {False}
    assert {embedded.held_out(row) for row in texts["validation"]["text"]} == {True}


def test_seed_decides_the_rows() -> None:
    first, again, other = (embedded.classification_dataset(seed, 50, 20)["train"]["text"] for seed in (0, 0, 1))
    assert list(first) == list(again)
    assert list(first) != list(other)


def test_every_process_and_every_python_makes_the_same_rows() -> None:
    """The checksum is stored here: neither hash randomisation nor the version of Python decides the rows."""
    rows = embedded.classification_dataset(0, 500, 100)
    texts = [text for part in rows.values() for text in part["text"]]
    assert zlib.crc32(repr(texts).encode()) == CHECKSUM


@pytest.mark.parametrize("n_train", [0, 10**6])
def test_too_many_rows_is_an_error(n_train: int) -> None:
    with pytest.raises(ArgumentsError, match=f"n_train={n_train} given, expected 1 to"):
        embedded.classification_dataset(n_train=n_train)


def test_sentences_leave_out_code_and_fragments() -> None:
    docstring = (
        "Return the sum of all the elements. It is\nan integer of arbitrary size.\n\n>>> f(1)\nAn example.\n\nx -- y"
    )
    assert embedded.sentences(docstring) == [
        "Return the sum of all the elements.",
        "It is an integer of arbitrary size.",
    ]


@pytest.mark.slow
def test_task_is_learnable_and_not_trivial() -> None:
    """A linear model on word counts reaches 55 to 75 %: far above the largest class, far below everything."""
    pytest.importorskip("sklearn")
    from sklearn.feature_extraction.text import TfidfVectorizer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline

    rows = embedded.classification_dataset(n_train=1500, n_validation=500)
    model = make_pipeline(TfidfVectorizer(sublinear_tf=True), LogisticRegression(C=10))
    model.fit(rows["train"]["text"][:], rows["train"]["label"][:])
    assert 0.55 < model.score(rows["validation"]["text"][:], rows["validation"]["label"][:]) < 0.75


def test_classifier_starts_from_the_checkpoint() -> None:
    model = AutoModelForSequenceClassification.from_pretrained(embedded.path("bert-tiny"), num_labels=6)
    pretrained = AutoModelForMaskedLM.from_pretrained(embedded.path("bert-tiny"))
    weight = "bert.embeddings.word_embeddings.weight"
    assert torch.equal(model.state_dict()[weight], pretrained.state_dict()[weight])
