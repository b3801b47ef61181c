"""What names say: kinds, sizes, and the common axis of each role."""

import math
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from hf_rlsearch.observation.value_features import KINDS, absolute, kind, log10_parameters, size_hint
from hf_rlsearch.space import ROLES


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("adamw_torch", "adaptive"),
        ("adamw_bnb_8bit", "adaptive"),
        ("adafactor", "adafactor"),
        ("sgd", "sgd"),
        ("lion_32bit", "sign"),
        ("linear", "linear"),
        ("cosine_with_restarts", "cosine"),
        ("constant_with_warmup", "constant"),
        ("inverse_sqrt", "other_schedule"),
        ("google/t5-v1_1-base", "encoder_decoder"),
        ("facebook/opt-350m", "decoder"),
        ("meta-llama/Llama-3.2-1B", "decoder"),
        ("FacebookAI/roberta-large", "encoder"),
        (True, "on"),
        (False, "off"),
        (None, "off"),
        ("something else", "unknown"),
        (16, "unknown"),
        (0.5, "unknown"),
    ],
)
def test_kinds_are_read_from_names(value: Any, expected: str) -> None:
    assert KINDS[kind(value)] == expected


def test_the_order_of_kinds_is_the_one_that_the_weights_store() -> None:
    assert KINDS[:14] == (
        "unknown", "adaptive", "sgd", "adafactor", "sign", "linear", "cosine", "constant", "other_schedule", "encoder",
        "decoder", "encoder_decoder", "on", "off",
    )  # fmt: skip


@pytest.mark.parametrize(
    ("name", "millions"),
    [
        ("facebook/opt-350m", 350),
        ("google/t5-3b", 3000),
        ("Qwen/Qwen2.5-0.5B", 500),
        ("meta-llama/Llama-3.2-1B-Instruct", 1000),
        ("bert-base-uncased", 110),
        ("roberta-large", 340),
        ("distilbert-base-uncased", 66),
        ("gpt2", 124),
        ("gpt2-xl", 1558),
        ("t5-small", 60),
        ("google/electra-small-discriminator", 14),
    ],
)
def test_sizes_are_read_from_names(name: str, millions: float) -> None:
    assert log10_parameters(name) == pytest.approx(6 + math.log10(millions))


@pytest.mark.parametrize("value", ["adamw_torch", "cosine", "plain", "", 350, None, True, "version-2m3"])
def test_a_name_without_a_size_has_none(value: Any) -> None:
    assert math.isnan(log10_parameters(value))


def test_larger_checkpoints_of_a_family_are_larger() -> None:
    names = ["facebook/opt-125m", "facebook/opt-350m", "facebook/opt-1.3b", "facebook/opt-66b"]
    sizes, kinds = size_hint(names)
    assert (np.diff(sizes) > 0).all()
    assert set(kinds.tolist()) == {KINDS.index("decoder")}


@example("warmup", [1.797693134862316e307])
@given(st.sampled_from(ROLES), st.lists(st.floats(allow_nan=True, allow_infinity=False), max_size=5))
def test_axes_are_finite_and_bounded(role: str, values: list[float]) -> None:
    axis = absolute(role, np.array(values, dtype=float))
    assert axis.shape == (len(values),)
    assert np.isfinite(axis).all()
    assert (np.abs(axis) <= 4).all()


@given(
    st.sampled_from(["learning_rate", "batch_size", "epochs", "weight_decay", "momentum", "dropout"]),
    st.lists(st.floats(1e-7, 0.999), min_size=2, max_size=6, unique=True),
)
def test_axes_keep_the_order(role: str, values: list[float]) -> None:
    axis = absolute(role, np.array(sorted(values)))
    assert (np.diff(axis) >= 0).all()


def test_usual_values_are_near_the_centre() -> None:
    usual = {"learning_rate": 1e-4, "batch_size": 32, "epochs": 4, "weight_decay": 0.01, "warmup": 0.1, "momentum": 0.9}
    for role, value in usual.items():
        assert absolute(role, np.array([value])) == pytest.approx([0.0], abs=1e-9), role


@pytest.mark.parametrize("role", ["generic_numeric", "generic_categorical", "model", "scheduler", "seed"])
def test_roles_without_an_axis_are_zero(role: str) -> None:
    assert absolute(role, np.array([1e-3, 5.0, np.nan])).tolist() == [0, 0, 0]
