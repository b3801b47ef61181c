"""Fingerprints change with everything that a search depends on, and with nothing else."""

import functools
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from transformers import BertConfig, BertForSequenceClassification

from hf_rlsearch.trainer.setup.identity import data_fingerprint, diff, function_fingerprint, model_fingerprint

Metric = Callable[[dict[str, float]], float]


def scaled(factor: float) -> Metric:
    return lambda metrics: factor * metrics["eval_accuracy"]


def weighted(*weights: float) -> Metric:
    tensor = torch.tensor(weights)
    return lambda metrics: float(tensor.sum()) * metrics["eval_f1"]


class Weighted:
    def __init__(self, weight: float) -> None:
        self.weight = weight

    def __call__(self, metrics: dict[str, float]) -> float:
        return self.weight * metrics["eval_f1"]


def power(metrics: dict[str, float], exponent: int) -> float:
    return metrics["eval_f1"] ** exponent


def test_differences_are_named_by_their_path_and_shortened() -> None:
    old = {"model": "A", "space": {"x": 1, "y": [2]}, "same": 0}
    assert diff(old, {"model": "A", "space": {"x": 3, "y": [2]}, "same": 0}) == ["space.x: 1 -> 3"]
    (line,) = diff(old, {**old, "model": "B" * 100})
    assert line.startswith('model: "A" -> "BBB')
    assert line.endswith("...")
    assert diff({}, {"new": None, "newer": 1}) == ["newer: null -> 1"]


@pytest.mark.parametrize(
    ("function", "same", "other"),
    [
        (scaled(2.0), scaled(2.0), scaled(3.0)),
        (Weighted(0.5), Weighted(0.5), Weighted(0.25)),
        (
            functools.partial(power, exponent=2),
            functools.partial(power, exponent=2),
            functools.partial(power, exponent=3),
        ),
        (lambda m: m["a"], lambda m: m["a"], lambda m: m["b"]),
        (lambda m: Tensor(m), lambda m: Tensor(m), lambda m: Weighted(m)),
        (weighted(0.5, 1.0), weighted(0.5, 1.0), weighted(0.5, 2.0)),
        (lambda m: m["a"] in {1, 2, 3}, lambda m: m["a"] in {3, 2, 1}, lambda m: m["a"] in {1, 2, 4}),
    ],
)
def test_functions_differ_by_code_and_values(function: Any, same: Any, other: Any) -> None:
    assert function_fingerprint(function) == function_fingerprint(same) != function_fingerprint(other)


def test_data_differ_by_kind_length_and_rows() -> None:
    rows = [{"x": i, "label": torch.tensor(i % 2)} for i in range(100)]
    assert data_fingerprint(rows) == data_fingerprint([dict(row) for row in rows])
    assert data_fingerprint(rows) != data_fingerprint(rows[::-1])
    assert data_fingerprint(rows) != data_fingerprint(rows[:99])
    assert data_fingerprint({"a": rows, "b": None}) == f"a=({data_fingerprint(rows)}) b=(none)"


def test_data_that_change_with_each_reading_have_no_hash() -> None:
    class Augmented:
        def __len__(self) -> int:
            return 3

        def __getitem__(self, index: int) -> float:
            return random.SystemRandom().random()

    assert data_fingerprint(Augmented()) == "Augmented 3"
    assert data_fingerprint(row for row in ()) == "generator"


def test_models_differ_by_configuration_and_not_by_weights() -> None:
    def model(**options: Any) -> BertForSequenceClassification:
        size = {
            "hidden_size": 8,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 8,
            "vocab_size": 16,
        }
        return BertForSequenceClassification(BertConfig(**{**size, **options}))

    assert model_fingerprint(model()) == model_fingerprint(model())
    assert model_fingerprint(model()) != model_fingerprint(model(hidden_size=16))
    assert model_fingerprint(model()) != model_fingerprint(model(hidden_dropout_prob=0.5))
