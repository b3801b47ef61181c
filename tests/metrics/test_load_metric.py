"""What the bundled metrics promise besides their values: no network, plain numbers, clear errors."""

import json
import math
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import evaluate
import numpy as np
import pytest

pytest.importorskip("sacrebleu")
pytest.importorskip("rouge_score")

from hf_rlsearch import embedded
from hf_rlsearch.errors import ArgumentsError
from hf_rlsearch.metrics import BUNDLED, load_metric

# A metric of the user's, as evaluate loads it.
SCRIPT = '''"""The share of equal pairs."""
import datasets
import evaluate


class Share(evaluate.Metric):
    def _info(self):
        number = datasets.Value("int32")
        features = datasets.Features({"predictions": number, "references": number})
        return evaluate.MetricInfo(description="", citation="", inputs_description="", features=features)

    def _compute(self, predictions, references):
        return {"share": sum(a == b for a, b in zip(predictions, references)) / len(predictions)}
'''
LABELS: dict[str, Any] = {"predictions": [0, 1, 1, 0], "references": [0, 1, 0, 0]}
TEXTS: dict[str, Any] = {"predictions": ["a b c d e", "f g"], "references": ["a b c d x", "f g"]}
INPUTS: dict[str, dict[str, Any]] = {
    **dict.fromkeys(("accuracy", "f1", "matthews_correlation", "pearsonr", "spearmanr", "glue"), LABELS),
    **dict.fromkeys(("bleu", "sacrebleu", "chrf", "rouge", "exact_match"), TEXTS),
    "perplexity": {"predictions": ["Return the name of the file."], "model_id": embedded.path("gpt2-tiny")},
}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise AssertionError("a bundled metric opened a connection")

    monkeypatch.setattr(socket.socket, "connect", refuse)


def config_of(name: str) -> str | None:
    return "sst2" if name == "glue" else None


@pytest.mark.parametrize("name", BUNDLED)
def test_is_an_evaluate_metric_with_plain_results(name: str) -> None:
    metric = load_metric(name, config_of(name))
    assert isinstance(metric, evaluate.Metric)
    assert metric.name == name
    assert len(metric.description) > 40
    json.dumps(metric.compute(**INPUTS[name]))


def test_batches_can_be_added() -> None:
    metric = load_metric("accuracy")
    metric.add_batch(predictions=[0, 1], references=[0, 0])
    metric.add_batch(predictions=[1], references=[1])
    assert metric.compute()["accuracy"] == pytest.approx(2 / 3)


# Nothing at all, and whatever each configuration does with it.
CONFIGURATIONS: list[tuple[str, str | None]] = [
    *((name, None) for name in BUNDLED if name != "glue"),
    *(("glue", task) for task in ("sst2", "cola", "mrpc", "stsb")),
    *((name, "multilabel") for name in ("accuracy", "f1", "matthews_correlation")),
]


@pytest.mark.parametrize(("name", "config"), CONFIGURATIONS)
def test_no_predictions_are_one_clear_error(name: str, config: str | None) -> None:
    metric = load_metric(name, config)
    inputs = {key: [] if key in ("predictions", "references") else value for key, value in INPUTS[name].items()}
    text = rf"metric '{name}' was given predictions=\[\]( and references=\[\])? .* Check that the evaluation data"
    with pytest.raises(ArgumentsError, match=text):
        metric.compute(**inputs)
    with pytest.raises(ArgumentsError, match=f"metric '{name}' was given no predictions"):
        metric.compute(**{key: value for key, value in inputs.items() if value != []})
    if config is None:
        assert metric.compute(**INPUTS[name]) == load_metric(name).compute(**INPUTS[name])


def test_an_empty_batch_adds_nothing() -> None:
    metric = load_metric("chrf")
    metric.add_batch(predictions=[], references=[])
    with pytest.raises(ArgumentsError, match="was given no predictions"):
        metric.compute()
    metric.add_batch(**TEXTS)
    assert metric.compute(predictions=[], references=[]) == load_metric("chrf").compute(**TEXTS)


def test_predictions_without_references_are_counted() -> None:
    with pytest.raises(ArgumentsError, match="'rouge' was given 2 predictions and 0 references, expected the same"):
        load_metric("rouge").compute(predictions=["a", "b"], references=[])


def test_bleu_counts_like_its_definition() -> None:
    scores = load_metric("bleu").compute(predictions=["the the cat"], references=[["the cat sat down"]], max_order=2)
    assert scores["precisions"] == pytest.approx([2 / 3, 1 / 2])
    assert scores["brevity_penalty"] == pytest.approx(math.exp(1 - 4 / 3))
    assert scores["bleu"] == pytest.approx(math.exp(-1 / 3) * math.sqrt(1 / 3))


def test_bleu_takes_a_tokenizer_and_smoothing() -> None:
    inputs = {"predictions": ["ab"], "references": [["abc"]], "tokenizer": list, "max_order": 2}
    assert load_metric("bleu").compute(**inputs)["translation_length"] == 2
    assert load_metric("bleu").compute(**inputs, smooth=True)["precisions"] == [1.0, 1.0]


def test_empty_translations_score_zero() -> None:
    assert load_metric("bleu").compute(predictions=["", ""], references=[["a b"], ["c"]])["bleu"] == 0.0
    assert load_metric("sacrebleu").compute(predictions=["", ""], references=[["a b"], ["c"]])["score"] == 0.0


def test_texts_that_vanish_match_only_themselves() -> None:
    texts = {"predictions": ["...", "...", "a."], "references": ["!!!", "...", "a!"]}
    scores = load_metric("exact_match").compute(**texts, ignore_punctuation=True)
    assert scores["exact_match"] == pytest.approx(2 / 3)


def test_rouge_is_reproducible_and_leaves_the_generator_alone() -> None:
    texts = {"predictions": [f"a b {n}" for n in range(9)], "references": [f"a {n % 2}" for n in range(9)]}
    np.random.seed(1)
    before = np.random.get_state()[1].tolist()
    first = load_metric("rouge").compute(**texts)
    assert np.random.get_state()[1].tolist() == before
    np.random.seed(2)
    assert load_metric("rouge").compute(**texts) == first


def test_multilabel_configuration() -> None:
    labels = {"predictions": [[0, 1], [1, 0], [1, 1]], "references": [[0, 1], [1, 1], [0, 1]]}
    assert load_metric("accuracy", "multilabel").compute(**labels)["accuracy"] == pytest.approx(1 / 3)
    scores = load_metric("matthews_correlation", "multilabel").compute(**labels)["matthews_correlation"]
    assert scores == pytest.approx([0.5, 0.0])


def test_perplexity_agrees_with_the_loss_of_the_model() -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    folder = embedded.path("gpt2-tiny")
    model, tokenizer = AutoModelForCausalLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    text = "Return the name of the file."
    tokens = torch.tensor([[tokenizer.bos_token_id, *tokenizer(text, add_special_tokens=False)["input_ids"]]])
    with torch.no_grad():
        log_likelihood = torch.log_softmax(model(tokens).logits, -1)[:, :-1].gather(2, tokens[:, 1:, None]).mean()
    scores = load_metric("perplexity").compute(predictions=[text, text], model_id=folder)
    assert scores["perplexities"] == pytest.approx([math.exp(-log_likelihood)] * 2, rel=1e-4)
    assert scores["mean_perplexity"] == pytest.approx(scores["perplexities"][0])


@pytest.mark.parametrize("task", ["sst3", None])
def test_unknown_glue_task(task: str | None) -> None:
    with pytest.raises(ArgumentsError, match="is no task of GLUE: expected one of"):
        load_metric("glue", task)


def test_unknown_name_without_network(monkeypatch: pytest.MonkeyPatch) -> None:
    def offline(name: str, config: str | None) -> None:
        raise FileNotFoundError(f"Couldn't find a module script at {name}. It doesn't exist on the Hub either.")

    monkeypatch.setattr(evaluate, "load", offline)
    with pytest.raises(ArgumentsError, match=r"'acuracy' is not bundled .* Did you mean 'accuracy'\?") as caught:
        load_metric("acuracy")
    assert isinstance(caught.value.__cause__, FileNotFoundError)


def test_other_names_go_to_evaluate(tmp_path: Path) -> None:
    script = tmp_path / "share.py"
    script.write_text(SCRIPT)
    assert load_metric(str(script)).compute(**LABELS) == {"share": 0.75}


def test_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "rouge_score", None)
    with pytest.raises(ArgumentsError, match=r"'rouge' needs a library .*hf_rlsearch\[recipes\]"):
        load_metric("rouge")
    load_metric("bleu")


def test_import_is_lazy() -> None:
    probe = (
        "import sys, hf_rlsearch.metrics; print([m for m in ('evaluate', 'datasets', 'sklearn') if m in sys.modules])"
    )
    run = subprocess.run([sys.executable, "-c", probe], capture_output=True, text=True, check=True, timeout=60)
    assert run.stdout.strip() == "[]"
