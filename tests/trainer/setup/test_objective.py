"""Which metric is optimised and which way, from what evaluation gives and the user says."""

from collections.abc import Mapping
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from transformers import TrainingArguments

from hf_rlsearch import ObjectiveError
from hf_rlsearch.trainer.session.arguments import FrozenArguments
from hf_rlsearch.trainer.setup.objective import choose_objective, metric_direction

METRICS = {
    "eval_loss": 0.7,
    "eval_accuracy": 0.5,
    "eval_error_f1": 0.25,
    "eval_runtime": 1.0,
    "eval_report": {"macro avg": {"f1-score": 0.3}, "support": 32},
    "eval_precisions": [0.5, 0.25],
    "eval_confusion": np.ones((2, 2)),
    "eval_note": "7",
}
best: list[float] = []


def settled(args: Mapping[str, Any] | None = None, **given: Any) -> Any:
    return choose_objective(METRICS, args=SimpleNamespace(**(args or {})), **given)


def test_an_unknown_name_is_asked_for() -> None:
    args: Any = SimpleNamespace()
    with pytest.raises(ObjectiveError, match=r"'eval_zog' does not tell .* Pass direction='maximize'"):
        metric_direction("eval_zog", args, None)
    assert metric_direction("eval_zog", args, "minimize") == "minimize"
    args = SimpleNamespace(metric_for_best_model="zog", greater_is_better=False)
    assert metric_direction("eval_zog", args, None) == "minimize"


def test_a_loss_that_the_user_named_is_the_objective(tmp_path: Any) -> None:
    probe = {"eval_loss": 0.7, "eval_accuracy": 0.5}
    common: Any = {"load_best_model_at_end": True, "eval_strategy": "epoch", "save_strategy": "epoch", "use_cpu": True}
    filled_in = TrainingArguments(str(tmp_path), **common)
    assert filled_in.metric_for_best_model == "loss"
    assert choose_objective(probe, args=filled_in).names == ("eval_accuracy",)
    for name in ("loss", "eval_loss"):
        args = TrainingArguments(str(tmp_path), **common, metric_for_best_model=name)
        for given in (args, FrozenArguments(args).with_values({"learning_rate": 0.1})):
            assert choose_objective(probe, args=given).names == ("eval_loss",)
            assert choose_objective(probe, args=given, direction="minimize").names == ("eval_loss",)
            assert choose_objective(probe, args=given, direction="maximize").names == ("eval_accuracy",)


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


@pytest.mark.parametrize(
    ("function", "direction"),
    [
        (accuracy, "maximize"),
        (lambda m: -m["eval_loss"], "maximize"),
        (lambda m: 1 - m["eval_accuracy"], "minimize"),
        (lambda m: m["eval_accuracy"] / m["eval_runtime"], "maximize"),
        (lambda m: m["eval_loss"] + m["eval_runtime"], "minimize"),
        (lambda m: m["eval_report"]["macro avg"]["f1-score"], "maximize"),
        (lambda m: min(m["eval_precisions"]), "maximize"),
        (lambda m: float(m["eval_accuracy"] > 0.5), "maximize"),
    ],
)
def test_known_metrics_imply_the_direction_of_a_computed_objective(function: Any, direction: str) -> None:
    assert settled(compute_objective=function).directions == (direction,)


@pytest.mark.parametrize(
    "function",
    [
        lambda m: m["eval_loss"] + m["eval_accuracy"],
        lambda m: abs(m["eval_accuracy"] - 0.5),
        lambda m: m["eval_report"]["support"],
        lambda m: m["eval_accuracy"] - 0.01 * m["eval_report"]["support"],
        lambda m: float(str(m["eval_note"])),
    ],
)
def test_a_computed_objective_of_unknown_direction_is_asked_for(function: Any) -> None:
    with pytest.raises(ObjectiveError, match="Pass direction='maximize' if larger values of it are better, or"):
        settled(compute_objective=function)


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
        lambda m: m["eval_report"].get("f1", 0.0),
        lambda m: m.get("f1", 0.0),
        lambda m: m["eval_loss"] * 0,
        lambda m: len(m["eval_precisions"]),
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
    [
        lambda m: {0.7: 1.0}[m["eval_loss"]],
        lambda m: round(m["eval_accuracy"]),
        lambda m: 1 / m["eval_loss"],
        lambda m: min(m["eval_accuracy"], 0),
        lambda m: float(m["eval_accuracy"] > 0.9),
        lambda m: m["eval_runtime"],
        lambda m: m["eval_report"]["macro avg"]["f1-score"],
        lambda m: m["eval_precisions"][1],
        lambda m: float(m["eval_confusion"][0, 1]),
        lambda m: float(m["eval_note"]),
        lambda m: best.append(m["eval_loss"]) or min(best),
    ],
)
def test_what_may_change_is_no_constant(function: Any) -> None:
    assert settled(compute_objective=function, direction="minimize").why == "compute_objective"
