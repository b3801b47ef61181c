"""Which metric is optimised and which way, from what evaluation gives and the user says."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import pytest

from hf_rlsearch import ObjectiveError
from hf_rlsearch.trainer.setup.objective import choose_objective, metric_direction

METRICS = {"eval_loss": 0.7, "eval_accuracy": 0.5, "eval_error_f1": 0.25, "eval_runtime": 1.0}


def settled(args: Mapping[str, Any] | None = None, **given: Any) -> Any:
    return choose_objective(METRICS, args=SimpleNamespace(**(args or {})), **given)


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
        ("zog", "maximize"),
    ],
)
def test_the_last_known_word_counts(name: str, direction: str) -> None:
    args: Any = SimpleNamespace()
    assert metric_direction(name, args, None) == direction


@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_a_name_with_words_of_both_kinds_obeys_the_user(direction: str) -> None:
    assert settled(metric="error_f1", direction=direction).directions == (direction,)
    computed = settled(compute_objective=lambda m: m["eval_error_f1"], direction=direction)
    assert computed.directions == (direction,)
    assert computed.follows == ("eval_error_f1", direction == "maximize")


def accuracy(metrics: dict[str, Any]) -> Any:
    return metrics["eval_accuracy"]


def test_the_off_switch_of_a_contradiction() -> None:
    for given in ({"metric": "accuracy"}, {"compute_objective": accuracy}):
        with pytest.raises(ObjectiveError, match="metric_for_best_model='eval_accuracy', greater_is_better=False"):
            settled(direction="minimize", **given)
        both = {"metric_for_best_model": "accuracy", "greater_is_better": False}
        assert settled(both, direction="minimize", **given).directions == ("minimize",)
        with pytest.raises(ObjectiveError, match="contradicts greater_is_better=False"):
            settled(both, direction="maximize", **given)
    with pytest.raises(ObjectiveError, match="pass direction='minimize' too"):
        settled(both, metric="accuracy")


def test_a_computed_objective_needs_a_direction() -> None:
    with pytest.raises(ObjectiveError, match="Pass direction='maximize' if larger values of it are better, or"):
        settled(compute_objective=accuracy)


@pytest.mark.parametrize(
    ("function", "follows"),
    [
        (accuracy, ("eval_accuracy", True)),
        (lambda m: {**m}["eval_accuracy"], None),
        (lambda m: m.get("eval_accuracy", 0.0), ("eval_accuracy", True)),
        (lambda m: -m["eval_loss"], None),
        (lambda m: m["eval_accuracy"] ** 2, None),
        (lambda m: m["eval_accuracy"] + m["eval_error_f1"], None),
        (lambda m: 1 / (m["eval_accuracy"] - 0.375), None),
    ],
)
def test_a_computed_objective_follows_the_metric_that_it_returns(function: Any, follows: Any) -> None:
    assert settled(compute_objective=function, direction="maximize").follows == follows


def test_an_objective_that_is_measured_elsewhere_is_no_constant() -> None:
    latency, calls = [0.5], []

    def measure(metrics: Any) -> float:
        calls.append(metrics)
        return latency[0]

    objective = settled(compute_objective=measure, direction="minimize")
    assert (objective.directions, objective.follows) == (("minimize",), None)
    assert "reads no metric" in objective.why
    assert len(calls) == 1


@pytest.mark.parametrize(
    "function",
    [
        lambda m: 0.5,
        lambda m: m["eval_runtime"],
        lambda m: m.get("f1", 0.0),
        lambda m: m["eval_loss"] * 0,
        lambda m: sum(m.values()) * 0,
    ],
)
def test_a_constant_is_refused(function: Any) -> None:
    with pytest.raises(ObjectiveError, match="constant"):
        settled(compute_objective=function, direction="minimize")


def test_one_constant_of_several_values_is_refused() -> None:
    with pytest.raises(ObjectiveError, match="constant"):
        settled(compute_objective=lambda m: (m["eval_loss"], 0.5), direction=["minimize", "maximize"])


@pytest.mark.parametrize(
    "function",
    [lambda m: {0.7: 1.0}[m["eval_loss"]], lambda m: round(m["eval_accuracy"]), lambda m: 1 / m["eval_loss"]],
)
def test_an_objective_with_steps_or_gaps_is_no_constant(function: Any) -> None:
    assert settled(compute_objective=function, direction="minimize").why == "compute_objective"
