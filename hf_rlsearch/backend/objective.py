"""Defines the objective of a search: one named metric with a direction, or what ``compute_objective`` returns.

The Trainer's default objective is the sum of all metrics with direction "minimize". That keeps the worst trial of an
accuracy search, adds accuracy to F1, and becomes a timing once ``evaluate()`` was called. Here the objective is one
metric by name, its direction follows from the name, and whatever is ambiguous is an error before the first training.
"""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from hf_rlsearch._validation import closest, is_number
from hf_rlsearch.backend.directions import MAXIMIZE, MINIMIZE
from hf_rlsearch.errors import ObjectiveError

Metrics = Mapping[str, Any]
ComputeObjective = Callable[[dict[str, Any]], Any]

# Keys that the Trainer adds to every evaluation and that say nothing about the model.
_BOOKKEEPING = re.compile(
    r"(_runtime|_per_second|_preparation_time|_compilation_time|_num_input_tokens_seen|_mem_\w+|_flos|_samples|_steps)$|^epoch$|^step$"
)


class UnsetDirection(str):
    """The Trainer's default direction, as opposed to the same word written by the user."""


UNSET_DIRECTION = UnsetDirection(MINIMIZE)


@dataclass(frozen=True)
class Objective:
    """Scores the evaluations of a trial.

    Attributes:
        names: The metric(s) by their full key, or the name of ``compute_objective``.
        directions: "minimize" or "maximize" for each.
        multi: A list of directions was given, so the result is a list of runs.
        function: ``compute_objective``, or None where metrics are taken by name.
        why: One line for people: where metric and direction come from.
        follows: The one metric that the objective is, and whether larger is better; None where it is computed from
            metrics. With ``load_best_model_at_end`` a trial keeps its best checkpoint by this metric.
    """

    names: tuple[str, ...]
    directions: tuple[str, ...]
    multi: bool
    function: ComputeObjective | None
    why: str
    follows: tuple[str, bool] | None = None

    def __call__(self, metrics: Metrics) -> tuple[float, ...]:
        """Returns the objective value(s) of one evaluation.

        Args:
            metrics: As ``evaluate()`` returned them.

        Returns:
            One float for each direction; may be nan or inf.

        Raises:
            ObjectiveError: A metric is missing or not a number, or the number of values is wrong.
        """
        if self.function is None:
            return tuple(metric_value(name, metrics) for name in self.names)
        return self.checked(self.function(dict(metrics)))

    def checked(self, found: Any) -> tuple[float, ...]:
        """Returns what ``compute_objective`` returned as one float for each direction; raises as above."""
        values = tuple(found) if isinstance(found, (list, tuple)) else (found,)
        if len(values) != len(self.directions):
            directions = list(self.directions) if self.multi else self.directions[0]
            raise ObjectiveError(
                f"compute_objective returned {len(values)} value(s) ({found!r}), expected {len(self.directions)}: "
                f"direction is {directions!r}."
            )
        return tuple(as_float("compute_objective", value) for value in values)

    def better(self, value: float, other: float) -> bool:
        """Returns whether the first value of a single objective beats the second."""
        return value > other if self.directions[0] == MAXIMIZE else value < other

    def to_json(self) -> dict[str, Any]:
        """Returns the objective as plain data, ``compute_objective`` left out."""
        return {
            "names": list(self.names),
            "directions": list(self.directions),
            "multi": self.multi,
            "computed": self.function is not None,
            "follows": None if self.follows is None else list(self.follows),
        }

    @classmethod
    def from_json(cls, data: Mapping[str, Any], compute_objective: ComputeObjective | None = None) -> "Objective":
        """The inverse of ``to_json``.

        Raises:
            ObjectiveError: The objective was computed, and ``compute_objective`` is not given.
        """
        if data["computed"] and compute_objective is None:
            raise ObjectiveError(
                f"The objective was computed by {data['names'][0]!r}: pass that function as compute_objective."
            )
        return cls(
            names=tuple(data["names"]),
            directions=tuple(data["directions"]),
            multi=data["multi"],
            function=compute_objective if data["computed"] else None,
            why="the study",
            follows=None if data["follows"] is None else (data["follows"][0], data["follows"][1]),
        )


def scored_names(metrics: Metrics) -> list[str]:
    """Returns the keys that say something about the model, numbers only."""
    return [name for name, value in metrics.items() if not _BOOKKEEPING.search(name) and _is_scalar(value)]


def metric_value(name: str, metrics: Metrics, argument: str | None = None) -> float:
    """Returns a metric by its full key as a float.

    Args:
        name: The key.
        metrics: Of an evaluation.
        argument: The option that names the metric, for the error.

    Raises:
        ObjectiveError: It is missing, with the nearest name, or not one number.
    """
    if name in metrics:
        return as_float(name, metrics[name])
    known = scored_names(metrics)
    close = closest(name, known, cutoff=0.5) or closest(f"eval_{name}", known, cutoff=0.5)
    hint = f" Did you mean {close!r}?" if close else ""
    given = f"{argument}={name!r}" if argument else f"{name!r}"
    raise ObjectiveError(f"{given} is not among the metrics of evaluation: {', '.join(known) or 'none'}.{hint}")


def as_float(name: str, value: Any) -> float:
    """Returns one number, of whatever library, as a float.

    Raises:
        ObjectiveError: It is not one number.
    """
    if not _is_scalar(value):
        raise ObjectiveError(
            f"{name} is {value!r}, a {type(value).__name__}; expected one number. Pass metric= with another name."
        )
    return float(value)


def _is_scalar(value: Any) -> bool:
    """Returns whether a value is a number or an array of one number without dimensions."""
    return is_number(value) or (hasattr(value, "item") and getattr(value, "ndim", 0) == 0 and is_number(value.item()))
