"""Which metric is optimised and which way, from what evaluation gives and the user says."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from hf_rlsearch import ObjectiveError
from hf_rlsearch.backend.choose_objective import resolve
from hf_rlsearch.backend.directions import direction_of

METRICS = {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_error_f1": 0.25, "eval_runtime": 1.0}


def settled(args: Mapping[str, Any] | None = None, **given: Any) -> Any:
    return resolve(METRICS, args=SimpleNamespace(**(args or {})), **given)


@pytest.mark.parametrize(
    ("name", "direction"),
    [
        ("eval_loss", "minimize"),
        ("eval_macro_f1", "maximize"),
        ("error_detection_f1", "maximize"),
        ("hamming_accuracy", "maximize"),
        ("distance_correlation", "maximize"),
        ("hamming_loss", "minimize"),
        ("accuracy_error", "minimize"),
        ("zog", None),
    ],
)
def test_the_last_known_word_counts(name: str, direction: str | None) -> None:
    assert direction_of(name) == direction


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_name_with_words_of_both_kinds_obeys_the_user(direction: str) -> None:
    assert settled(metric="error_f1", direction=direction).directions == (direction,)
    computed = settled(compute_objective=lambda m: -m["eval_error_f1"], direction=direction)
    assert computed.directions == (direction,)
    assert computed.follows == ("eval_error_f1", direction == "minimize")


def test_the_off_switch_of_a_contradiction() -> None:
    with pytest.raises(ObjectiveError, match="metric_for_best_model='eval_accuracy', greater_is_better=False"):
        settled(metric="accuracy", direction="minimize")
    both = {"metric_for_best_model": "accuracy", "greater_is_better": False}
    assert settled(both, metric="accuracy", direction="minimize").directions == ("minimize",)
    assert settled(both, compute_objective=lambda m: m["eval_accuracy"], direction="minimize").directions == (
        "minimize",
    )
    with pytest.raises(ObjectiveError, match="pass direction='minimize' too"):
        settled(both, metric="accuracy")
    with pytest.raises(ObjectiveError, match="contradicts greater_is_better=False"):
        settled(both, metric="accuracy", direction="maximize")


def test_an_objective_that_is_measured_elsewhere_is_no_constant() -> None:
    latency, calls = [0.5], []

    def measure(metrics: Any) -> float:
        calls.append(metrics)
        return latency[0]

    objective = settled(compute_objective=measure, direction="minimize")
    assert (objective.directions, objective.follows) == (("minimize",), None)
    assert "reads no metric" in objective.why
    assert len(calls) == 1


@pytest.mark.parametrize("function", [lambda m: 0.5, lambda m: m["eval_runtime"], lambda m: m["eval_loss"] * 0])
def test_a_constant_is_refused(function: Any) -> None:
    with pytest.raises(ObjectiveError, match="constant"):
        settled(compute_objective=function)


def test_only_metrics_that_are_read_are_changed() -> None:
    calls: list[dict[str, Any]] = []

    def accuracy(metrics: dict[str, Any]) -> Any:
        calls.append(metrics)
        return metrics["eval_accuracy"]

    assert settled(compute_objective=accuracy).directions == ("maximize",)
    assert len(calls) == 8
    assert {metrics["eval_error_f1"] for metrics in calls} == {0.25}


@pytest.mark.parametrize(
    "function",
    [
        lambda m: sum(value for name, value in m.items() if name == "eval_loss"),
        lambda m: {**m}["eval_loss"],
        lambda m: m.get("eval_loss"),
        lambda m: m.pop("eval_loss"),
        lambda m: m.copy()["eval_loss"],
        lambda m: next(m[name] for name in m if name == "eval_loss"),
    ],
)
def test_every_way_of_reading_is_seen(function: Any) -> None:
    assert settled(compute_objective=function).follows == ("eval_loss", False)
